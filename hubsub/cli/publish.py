"""`hubsub publish URL KEY MESSAGE`, or messages from the standard input, one a line."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any

from hubsub import Bridge, Hub, HubsubError, ListenerFailure, Unsupported

from . import running
from .arguments import add_broker, as_message, header, key, seconds

# Messages on their way at the same time; then those before them are waited for.
BATCH = 500
# Bytes read from the standard input at once.
CHUNK = 65536
# Seconds between two lines of progress.
PAUSE = 0.2


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "publish",
        help="publish messages over a broker",
        description="Publish a message, or one for each line of the standard input, and end when all have been sent.",
    )
    add_broker(parser)
    parser.add_argument("key", metavar="KEY", type=key, help="such as orders/new")
    parser.add_argument("message", metavar="MESSAGE", nargs="?", help="JSON, such as '{\"tea\": 2}'")
    parser.add_argument("--stdin", action="store_true", help="publish each line of the standard input")
    parser.add_argument(
        "--confirm", action="store_true", help="wait until the broker has confirmed each message, as far as it does"
    )
    parser.add_argument(
        "--header", type=header, action="append", default=[], metavar="NAME=VALUE", help="sent along; may be repeated"
    )
    parser.add_argument(
        "--delay", type=seconds, metavar="N", help="deliver it in N seconds, over brokers that delay messages"
    )
    parser.set_defaults(run=running.runs("publish", _publish))


async def _publish(arguments: argparse.Namespace) -> None:
    if arguments.stdin == (arguments.message is not None):
        raise running.WrongArguments("give a MESSAGE, or --stdin to publish each line of the standard input")
    adapter = running.broker_of(arguments.url)
    if arguments.delay is not None and not adapter.features.delays:
        raise Unsupported(type(adapter).__name__, "delayed messages")  # before connecting
    first = None if arguments.stdin else running.message_of(arguments)
    hub = Hub()
    bridge = running.bridge_of(hub, adapter, arguments, outgoing=arguments.key)
    async with hub, bridge:
        await bridge.ready(arguments.timeout)
        if arguments.stdin:
            await _publish_lines(hub, bridge, arguments)
        elif failures := await _send(hub, bridge, arguments, [first]):
            raise running.Failed(running.one_line(failures[0]))


async def _publish_lines(hub: Hub, bridge: Bridge, arguments: argparse.Namespace) -> None:
    sent = refused = line = 0
    began = shown = time.monotonic()
    progress = running.Progress()
    async for texts in _lines():
        messages = []
        for text in texts:
            line += 1
            try:
                messages.append(as_message(text, arguments.codec))
            except ValueError as error:
                refused += 1
                progress.clear()
                running.note(f"publish: line {line}: {running.one_line(error)}")
        failures = await _send(hub, bridge, arguments, messages)
        for failure in failures:
            progress.clear()
            running.note(f"publish: {running.one_line(failure)}")
        refused += len(failures)
        sent += len(messages) - len(failures)
        if (now := time.monotonic()) - shown >= PAUSE:
            shown = now
            progress.show(f"{sent} messages sent, {sent / (now - began):.0f} a second")
    progress.clear()
    if sys.stderr.isatty():
        spent = max(time.monotonic() - began, 1e-9)
        running.note(f"{sent} messages sent in {spent:.1f} s, {sent / spent:.0f} a second")
    if refused:
        raise running.Failed(f"{refused} of {line} messages were not sent")


async def _send(hub: Hub, bridge: Bridge, arguments: argparse.Namespace, messages: list[Any]) -> list[BaseException]:
    """Publish messages and wait until they were sent; return why some were not."""
    headers = dict(arguments.header)
    due = None if arguments.delay is None else time.time() + arguments.delay
    if arguments.confirm or due is not None:
        calls = (
            hub.publish_confirmed(arguments.key, message, arguments.timeout, headers=headers, due=due)
            for message in messages
        )
        results = await asyncio.gather(*calls, return_exceptions=True)
        return [_reason(each) for each in results if isinstance(each, BaseException)]
    refused: list[BaseException] = []

    def note(failure: ListenerFailure) -> None:
        refused.append(failure.error)

    hub.on_error = note
    for message in messages:
        hub.publish_with_headers(arguments.key, message, headers)
    await bridge.flush(arguments.timeout)
    return refused


def _reason(error: BaseException) -> BaseException:
    """Return what a group of errors is about: there is one bridge, so one error."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error.__cause__ if isinstance(error, HubsubError) and error.__cause__ is not None else error


async def _lines() -> AsyncIterator[list[str]]:
    """The lines of the standard input, as many at a time as are there, up to a batch."""
    rest = b""
    async for data in _chunks():
        *lines, rest = (rest + data).split(b"\n")
        for batch in (lines[start : start + BATCH] for start in range(0, len(lines), BATCH)):
            yield [_text(line) for line in batch]
    if rest:
        yield [_text(rest)]


async def _chunks() -> AsyncIterator[bytes]:
    """What the standard input has, as it comes; read in a thread, since it may be anything."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue(1)

    def read() -> None:
        # Not through the buffer of `sys.stdin`: Python could not end while a thread waits in there.
        data = b"-"
        with suppress(RuntimeError, CancelledError):  # the loop is closed
            while data:
                data = os.read(sys.stdin.fileno(), CHUNK)
                asyncio.run_coroutine_threadsafe(chunks.put(data), loop).result()

    threading.Thread(target=read, name="hubsub-stdin", daemon=True).start()
    while data := await chunks.get():
        yield data


def _text(line: bytes) -> str:
    return line.rstrip(b"\r").decode("utf-8", "surrogateescape")
