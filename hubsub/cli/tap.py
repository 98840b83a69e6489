"""`hubsub tap URL PATTERN...`: shows what crosses a broker, a line for each message, with gaps in their places."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from hubsub import Event, Gap, Hub, Key, Overflow

from . import running
from .arguments import add_broker, number, pattern, text_of

# What a line consists of: the time, the key, the message and the headers.
STYLES = ("dim", "cyan", "", "dim")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "tap",
        help="show what crosses a broker",
        description="Show the messages of some keys as they come, a line each, with gaps where some are missing. "
        "Ctrl-C ends it.",
    )
    add_broker(parser)
    parser.add_argument("patterns", metavar="PATTERN", nargs="+", type=pattern, help="such as 'orders/*'")
    parser.add_argument(
        "--history", type=number, default=0, metavar="N", help="begin with the last N messages of each source"
    )
    parser.add_argument("--count", type=number, metavar="N", help="end after N messages")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line, for programs")
    parser.set_defaults(run=running.runs("tap", _tap, endless=True))


async def _tap(arguments: argparse.Namespace) -> None:
    adapter = running.broker_of(arguments.url)
    write = _as_json if arguments.json else _writer()
    seen = 0
    began = time.monotonic()
    # A terminal that is too slow costs messages, which shows as a gap, and no memory.
    options: dict[str, Any] = {"gaps": True, "overflow": Overflow.DROP_OLDEST}
    hub = Hub()
    bridge = running.bridge_of(hub, adapter, arguments, incoming=arguments.patterns, history=arguments.history)
    async with hub:
        # Before the bridge, so that nothing is missed; left before it, so that everything shown is finished.
        subscription = hub.subscribe(arguments.patterns, where=_is_foreign, **options)
        async with bridge, subscription:
            await bridge.ready(arguments.timeout)
            running.note_hints("tap", arguments.patterns)
            began = time.monotonic()
            try:
                async for item in subscription:
                    write(item)
                    seen += not isinstance(item, Gap)
                    if seen == arguments.count:
                        break
            finally:
                seconds = max(time.monotonic() - began, 1e-9)
                if sys.stderr.isatty():
                    running.note(f"{seen} messages in {seconds:.1f} s, {seen / seconds:.1f} a second")


def _is_foreign(key: Key[Any], message: Any) -> bool:
    return key[0] != "Hub"


def _as_json(item: Event[Any] | Gap) -> None:
    if isinstance(item, Gap):
        keys = None if item.keys is None else [list(key) for key in item.keys]
        shown: dict[str, Any] = {"gap": item.reason, "count": item.count, "since": item.since, "keys": keys}
    else:
        meta = item.meta
        shown = {"key": list(item.key), "message": item.message}
        if meta is not None:
            shown |= {"id": meta.id, "time": meta.time, "headers": dict(meta.headers), "replayed": meta.replayed}
    print(json.dumps(shown, ensure_ascii=False, default=repr), flush=True)


def _writer() -> Callable[[Event[Any] | Gap], None]:
    """Return what writes a line: in colours on a terminal, if rich is installed."""
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.text import Text
        except ModuleNotFoundError:
            pass
        else:
            console = Console(highlight=False, soft_wrap=True)

            def write(item: Event[Any] | Gap) -> None:
                styles = STYLES if isinstance(item, Event) else ("dim", "bold yellow")
                parts = zip(_parts(item), styles, strict=False)
                console.print(Text("  ").join(Text(part, style) for part, style in parts if part))

            return write
    return lambda item: print("  ".join(filter(None, _parts(item))), flush=True)


def _parts(item: Event[Any] | Gap) -> list[str]:
    if isinstance(item, Gap):
        count = "an unknown number of" if item.count is None else str(item.count)
        return [_clock(item.until), running.printable(f"-- {count} messages are missing: {item.reason}")]
    meta = item.meta
    when = time.time() if meta is None or meta.time is None else meta.time
    headers = "" if meta is None else " ".join(f"{name}={value}" for name, value in meta.headers.items())
    return [_clock(when), *map(running.printable, (item.key.text, text_of(item.message), headers))]


def _clock(when: float) -> str:
    return datetime.fromtimestamp(when).strftime("%H:%M:%S.%f")[:-3]
