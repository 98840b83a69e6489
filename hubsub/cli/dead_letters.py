"""`python -m hubsub dead-letters URL`: lists what listeners gave up, and sends it back."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from hubsub import Bridge, BridgeNotReady, Hub, Unsupported
from hubsub.bridges import StoredLetter

from . import running
from .arguments import add_broker, number

# Characters of a message, and of a reason, that are shown.
MOST = 500


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "dead-letters",
        help="list the messages that listeners gave up, and send them back",
        description="List the last dead letters of a namespace, oldest first, or send some back to who gave them up.",
    )
    add_broker(parser, codec=False)
    parser.add_argument("--limit", type=number, default=100, metavar="N", help="letters (default: %(default)s)")
    parser.add_argument("--before", metavar="POSITION", help="only letters older than this one")
    parser.add_argument(
        "--redeliver",
        action="append",
        default=[],
        metavar="POSITION",
        help="send this letter back to the group or name that gave it up; may be repeated",
    )
    parser.set_defaults(run=running.runs("dead-letters", _dead_letters))


async def _dead_letters(arguments: argparse.Namespace) -> None:
    adapter = running.adapter_of(arguments.url)
    async with Hub() as hub, Bridge(hub, adapter, outgoing="*", namespace=arguments.namespace) as bridge:
        if not adapter.features.dead_letters:
            # Before connecting: the broker need not answer.
            raise Unsupported(type(adapter).__name__, "dead letters")
        try:
            await bridge.ready(arguments.timeout)
        except BridgeNotReady as error:
            raise running.Failed(str(error)) from error
        async with asyncio.timeout(arguments.timeout):
            for position in arguments.redeliver:
                await bridge.redeliver(position)
                _print([f"sent back: {position}"])
            if not arguments.redeliver:
                await _list(bridge, arguments)


async def _list(bridge: Bridge, arguments: argparse.Namespace) -> None:
    limit, before = arguments.limit, arguments.before
    letters = await bridge.dead_letters(limit, before)
    _print(line for letter in letters for line in _lines(letter))
    if len(letters) == limit:
        _print([f"these are the last {limit}; for older ones, add --before {letters[0].position}"])
    elif not letters:
        where = f"namespace {arguments.namespace!r}" + ("" if before is None else f" before {before}")
        _print([f"no dead letters in {where}"])


def _lines(letter: StoredLetter) -> Iterator[str]:
    """Yield the lines that show a letter; only the line with its position begins without a space."""
    when = "" if letter.time is None else datetime.fromtimestamp(letter.time, UTC).isoformat(" ", "seconds")[:19] + "Z"
    reader = f"group {letter.group}" if letter.group else f"name {letter.name}" if letter.name else ""
    calls = "1 attempt" if letter.attempts == 1 else f"{letter.attempts} attempts"
    yield "  ".join(filter(None, (letter.position, when, letter.key.text, calls, reader)))
    yield f"    message: {letter.message!r}"
    yield f"    reason: {letter.reason}"


def _print(lines: Iterable[str]) -> None:
    # A message may contain control characters for the terminal.
    for line in lines:
        cut = line if len(line) <= MOST or not line.startswith(" ") else f"{line[:MOST]}…"
        print(running.printable(cut), flush=True)
