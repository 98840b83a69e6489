"""How the commands run, show and end: one line for each error, and an exit code that says of what kind it was.

0  it did what it was asked to, or was ended by Ctrl-C where it has no other end
1  the broker does not answer or refuses, a message could not be sent, or there was no reply
2  wrong arguments, or the broker cannot do it
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

from hubsub import Bridge, BridgeNotReady, Hub, Key, Unsupported
from hubsub.bridges import Adapter, adapter_for

from .arguments import as_message

DONE, FAILED, WRONG = 0, 1, 2


class WrongArguments(Exception):
    """An argument turned out to be wrong, or the broker cannot do what was asked for."""


class Failed(Exception):
    """The command has not done what it was asked to; the text says why."""


def broker_of(url: str) -> Adapter:
    """Return the adapter for the URL of a broker that joins processes.

    Raises:
        WrongArguments: The broker does not join processes; or as `adapter_of`.
    """
    if url.startswith("memory:"):
        raise WrongArguments("memory:// joins hubs of one process; use sqlite://file.db or redis://localhost:6379")
    return adapter_of(url)


def adapter_of(url: str) -> Adapter:
    """Return the adapter for a URL.

    Raises:
        WrongArguments: There is none, it lacks its driver, or the URL is invalid.
    """
    try:
        return adapter_for(url)
    except Exception as error:
        raise WrongArguments(one_line(error)) from error


def message_of(arguments: argparse.Namespace) -> Any:
    """Return the message of a command.

    Raises:
        WrongArguments: It is not JSON, where the codec wants that.
    """
    try:
        return as_message(arguments.message, arguments.codec)
    except ValueError as error:
        raise WrongArguments(str(error)) from error


def bridge_of(hub: Hub, adapter: Adapter, arguments: argparse.Namespace, **options: Any) -> Bridge:
    """Return a bridge with the options that all commands have.

    Call it before the hub is started: a started hub would log that a bridge of no use was never started.

    Raises:
        WrongArguments: An option is wrong, or the broker cannot do it.
    """
    try:
        return Bridge(hub, adapter, **({"namespace": arguments.namespace, "codec": arguments.codec} | options))
    except (ImportError, ValueError) as error:
        raise WrongArguments(one_line(error)) from error


Work: TypeAlias = Callable[[argparse.Namespace], Coroutine[Any, Any, object]]
"""What a command does."""


def runs(command: str, work: Work, *, endless: bool = False) -> Callable[[argparse.Namespace], int]:
    """Return what runs a command until it is done or interrupted, and returns its exit code.

    Args:
        command: Its name, which begins each line of error.
        work: What it does, with its arguments.
        endless: It runs until it is interrupted, so that this is no failure; what its bridges log is shown.
    """
    return lambda arguments: _run(command, work(arguments), endless)


def _run(command: str, work: Coroutine[Any, Any, object], endless: bool) -> int:
    with _logged(command) if endless else _silenced():
        try:
            asyncio.run(_until_terminated(work))
        except BrokenPipeError:
            raise
        except KeyboardInterrupt:
            return DONE if endless else 130
        except (WrongArguments, Unsupported) as error:
            print(f"{command}: {one_line(error)}", file=sys.stderr)
            return WRONG
        except Exception as error:
            print(f"{command}: {one_line(error)}", file=sys.stderr)
            return FAILED
    return DONE


async def _until_terminated(work: Coroutine[Any, Any, object]) -> None:
    """End what `work` does in an orderly way on SIGTERM, as on Ctrl-C."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    terminated = False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        task.cancel()

    with suppress(NotImplementedError):  # on Windows
        loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        await task
    except asyncio.CancelledError:
        if terminated:
            raise KeyboardInterrupt from None
        raise
    finally:
        with suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGTERM)


def one_line(error: BaseException) -> str:
    """Return the text of an error as one line."""
    if isinstance(error, BridgeNotReady) and error.__cause__ is not None:
        return f"not connected: {one_line(error.__cause__)}"
    if isinstance(error, TimeoutError) and not str(error):
        return "the broker did not answer in time"
    return printable(" ".join((str(error) or type(error).__name__).split()))


def printable(text: str) -> str:
    """Return a text that does nothing to a terminal: its sender may have meant it to."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "?" for each in text)


def note_hints(command: str, patterns: Iterable[Key[Any]]) -> None:
    """Say of each pattern that looks as if it matched more than itself that it does not."""
    for pattern in patterns:
        if Hub().explain(pattern).hints:
            text = f"{pattern.text!r} matches only itself; a wildcard is a part of its own, as in 'order/*'"
            note(f"{command}: {text}")


def note(text: str) -> None:
    """Write a line for people, not for programs, to the standard error."""
    print(printable(text), file=sys.stderr, flush=True)


class Progress:
    """A line on a terminal that is written over; elsewhere, nothing."""

    def __init__(self) -> None:
        self._shown = 0
        self._is_terminal = sys.stderr.isatty()

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._is_terminal:
            print("\r" + text.ljust(self._shown), end="", file=sys.stderr, flush=True)
            self._shown = len(text)

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            print("\r" + " " * self._shown, end="\r", file=sys.stderr, flush=True)
            self._shown = 0


@contextmanager
def _silenced() -> Iterator[None]:
    # The error that ends the command says all that the log would.
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)


class _Lines(logging.Handler):
    """Writes records as lines of the command, without tracebacks."""

    def __init__(self, command: str) -> None:
        super().__init__(logging.INFO)
        self._command = command

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        note(f"{self._command}: {text}" + ("" if error is None else f": {one_line(error)}"))


@contextmanager
def _logged(command: str) -> Iterator[None]:
    logger = logging.getLogger("hubsub")
    before = logger.level, logger.propagate
    lines = _Lines(command)
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(lines)
        logger.level, logger.propagate = before
