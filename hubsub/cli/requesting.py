"""`hubsub request URL KEY MESSAGE`, and `hubsub respond URL PATTERN -- COMMAND`."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
from collections.abc import Sequence
from typing import Any

from hubsub import Hub, Key

from . import running
from .arguments import add_broker, as_message, header, key, number, pattern, text_of


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands."""
    request = commands.add_parser(
        "request",
        help="send a request over a broker, and print the reply",
        description="Send a request, and print its reply. It ends with 1 if nobody answers, or the responder fails.",
    )
    add_broker(request)
    request.add_argument("key", metavar="KEY", type=key, help="such as price/tea")
    request.add_argument("message", metavar="MESSAGE", nargs="?", default="null", help="JSON (default: null)")
    request.add_argument(
        "--header", type=header, action="append", default=[], metavar="NAME=VALUE", help="sent along; may be repeated"
    )
    request.set_defaults(run=running.runs("request", _request))
    respond = commands.add_parser(
        "respond",
        help="answer requests over a broker by a command",
        description="Run a command for each request: it gets the message on its standard input and the key in "
        "HUBSUB_KEY, and its standard output is the reply. Where it fails, so does the request. Ctrl-C ends it.",
    )
    add_broker(respond)
    respond.add_argument("pattern", metavar="PATTERN", type=pattern, help="such as 'price/*'")
    respond.add_argument("--concurrency", type=number, default=1, metavar="N", help="commands at a time (default: 1)")
    respond.add_argument("command", metavar="COMMAND", nargs="+", help="behind --, with its arguments")
    respond.set_defaults(run=running.runs("respond", _respond, endless=True))


async def _request(arguments: argparse.Namespace) -> None:
    message = running.message_of(arguments)
    adapter = running.broker_of(arguments.url)
    hub = Hub()
    bridge = running.bridge_of(hub, adapter, arguments, outgoing=arguments.key)
    async with hub, bridge:
        await bridge.ready(arguments.timeout)
        headers = dict(arguments.header)
        reply = await hub.request(arguments.key, message, arguments.timeout, local=False, headers=headers)
    print(running.printable(text_of(reply)), flush=True)


async def _respond(arguments: argparse.Namespace) -> None:
    if shutil.which(arguments.command[0]) is None:
        raise running.WrongArguments(f"{arguments.command[0]!r} is no program that can be run from here")
    adapter = running.broker_of(arguments.url)
    free = asyncio.Semaphore(arguments.concurrency)

    async def one(key: Key[Any], message: Any) -> Any:
        async with free:
            return await _answer(arguments.command, arguments.codec, key, message)

    def answer(key: Key[Any], message: Any) -> Any:
        return one(key, message)

    hub = Hub()
    bridge = running.bridge_of(hub, adapter, arguments, incoming=arguments.pattern)
    # A plain function: what it returns for several requests is awaited at the same time.
    hub.respond(arguments.pattern, answer)
    async with hub, bridge:
        await bridge.ready(arguments.timeout)
        running.note_hints("respond", [arguments.pattern])
        running.note(f"respond: ready at {arguments.pattern.text}")
        await asyncio.Event().wait()


async def _answer(command: Sequence[str], codec: str, key: Key[Any], message: Any) -> Any:
    """Run a command for a request, and return its reply."""
    given = message if isinstance(message, bytes) else message.encode() if codec == "str" else text_of(message).encode()
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"HUBSUB_KEY": key.text},
    )
    try:
        output, errors = await process.communicate(given)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        lines = errors.decode(errors="replace").strip().splitlines()
        raise running.Failed(f"{command[0]} ended with {process.returncode}" + (f": {lines[-1]}" if lines else ""))
    if codec == "bytes":
        return output
    text = output.decode(errors="replace").rstrip("\n")
    try:
        return as_message(text, codec)
    except ValueError:
        return text
