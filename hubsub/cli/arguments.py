"""What the commands accept: options that several share, and the types of arguments."""

from __future__ import annotations

import argparse
import json
import math
from contextlib import suppress
from typing import Any, NoReturn

from hubsub import InvalidKey, Key


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line that begins with the command, as every error of a command does."""

    def error(self, message: str) -> NoReturn:
        """End with 2, and one line; the usage is long, and what is wrong would stand below it."""
        command = self.prog.rpartition(" ")[2]
        self.exit(2, f"{command}: {message}; see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:  # type: ignore[override]
        """Refuse what is not known here, where the command is known that it was given to."""
        found, others = super().parse_known_args(args, namespace)
        if others:
            self.error(f"unrecognized arguments: {' '.join(others)}")
        return found, others


def command_line(description: str) -> argparse.ArgumentParser:
    """Return the parser of the command line, whose commands are still to be added."""
    return _Parser(prog="hubsub", description=description)


def add_broker(parser: argparse.ArgumentParser, *, codec: bool = True) -> None:
    """Add the URL and the options that every command over a broker has."""
    parser.add_argument("url", metavar="URL", help="the broker, such as sqlite://file.db or redis://localhost:6379")
    add_bridge(parser, codec=codec)


def add_bridge(parser: argparse.ArgumentParser, *, codec: bool = True) -> None:
    """Add the options that every command over a broker has."""
    parser.add_argument("--namespace", default="hubsub", help="that of the bridges (default: %(default)s)")
    if codec:
        parser.add_argument(
            "--codec", default="json", help="how messages are encoded: json, msgpack, str or bytes (default: json)"
        )
    parser.add_argument(
        "--timeout", type=seconds, default=10.0, metavar="N", help="seconds to wait for the broker (default: 10)"
    )


def key(text: str) -> Key[Any]:
    """Read an exact key in its text form, such as `orders/new`."""
    found = pattern(text)
    if found.is_wildcard:
        raise argparse.ArgumentTypeError(f"{text!r} has wildcards; give one key")
    return found


def pattern(text: str) -> Key[Any]:
    """Read a key or pattern in its text form, such as `orders/*`."""
    try:
        return Key.parse(text)
    except InvalidKey as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def header(text: str) -> tuple[str, str]:
    """Read a header, as in `name=value`."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not name=value")
    return name, value


def as_message(text: str, codec: str) -> Any:
    """Return the message that a text stands for: JSON, unless the codec takes texts or bytes.

    Raises:
        ValueError: It is not JSON.
    """
    if codec == "bytes":
        return text.encode("utf-8", "surrogateescape")
    if codec == "str":
        return text
    try:
        return json.loads(text)
    except ValueError:
        quoted = json.dumps(text, ensure_ascii=False)
        raise ValueError(f"{text!r} is not JSON; write text as '{quoted}', or use --codec str") from None


def text_of(message: Any) -> str:
    """Return a message as one line of text: JSON where JSON has it, else as Python shows it."""
    try:
        return json.dumps(message, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return repr(message)


def seconds(text: str) -> float:
    """Read a number of seconds above 0."""
    with suppress(ValueError):
        number = float(text)
        if 0 < number < math.inf:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")


def number(text: str) -> int:
    """Read a whole number above 0."""
    with suppress(ValueError):
        found = int(text)
        if found > 0:
            return found
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")


def port(text: str) -> int:
    """Read a port; 0 is any free one."""
    with suppress(ValueError):
        found = int(text)
        if 0 <= found < 65536:
            return found
    raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
