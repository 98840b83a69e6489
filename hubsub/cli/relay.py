"""`hubsub relay FROM TO`: carries messages from one broker to another, and loses none that the first one keeps."""

from __future__ import annotations

import argparse
import asyncio
import time

from hubsub import Bridge, Hub

from . import running
from .arguments import add_bridge, number, pattern

# Seconds between two lines of progress.
PAUSE = 0.5


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "relay",
        help="carry messages from one broker to another",
        description="Carry the messages of some keys from one broker to another. A message is acknowledged at the "
        "first when the second has confirmed it, so that nothing is lost that the first one keeps. Ctrl-C ends it.",
    )
    parser.add_argument("source", metavar="FROM", help="the broker to read, such as mqtt://localhost?qos=1")
    parser.add_argument("target", metavar="TO", help="the broker to write to, such as sqlite://file.db")
    add_bridge(parser)
    parser.add_argument(
        "--keys", type=pattern, action="append", required=True, metavar="PATTERN", help="which; may be repeated"
    )
    parser.add_argument("--group", metavar="NAME", help="share the work with other relays of this group")
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="keep the position under this name, for one relay at a time (default where it can: hubsub-relay)",
    )
    parser.add_argument("--to-namespace", metavar="NAME", help="that at the second broker (default: as --namespace)")
    parser.add_argument("--count", type=number, metavar="N", help="end after N messages")
    parser.set_defaults(run=running.runs("relay", _relay, endless=True))


async def _relay(arguments: argparse.Namespace) -> None:
    source, target = running.broker_of(arguments.source), running.broker_of(arguments.target)
    name = arguments.name
    if name is None and arguments.group is None and source.features.names:
        # Else what is published while the relay is away would be lost.
        name = "hubsub-relay"
    hub = Hub()
    there_in = arguments.namespace if arguments.to_namespace is None else arguments.to_namespace
    there = running.bridge_of(hub, target, arguments, outgoing=arguments.keys, namespace=there_in)
    here = running.bridge_of(
        hub, source, arguments, incoming=arguments.keys, group=arguments.group, name=name, lazy=False
    )
    began = time.monotonic()
    async with hub:
        progress = running.Progress()
        is_ready = False
        try:
            # First where messages go: none is read before it can be sent. What was read is sent before the end.
            async with there:
                await there.ready(arguments.timeout)
                async with here:
                    await here.ready(arguments.timeout)
                    is_ready = True
                    running.note_hints("relay", arguments.keys)
                    running.note("relay: ready")
                    while arguments.count is None or there.health().sent < arguments.count:
                        states = {"source": here.health().state, "target": there.health().state}
                        trouble = [f"{name} {state}" for name, state in states.items() if state != "up"]
                        progress.show(", ".join([_figures(here, there, began), *trouble]))
                        await asyncio.sleep(PAUSE)
        finally:
            progress.clear()
            if is_ready:
                running.note(f"relay: {_figures(here, there, began)}")


def _figures(here: Bridge, there: Bridge, began: float) -> str:
    seconds = max(time.monotonic() - began, 1e-9)
    sent = there.health()
    counts = {"waiting": sent.outbox_messages, "refused": sent.refused, "gaps": here.health().gaps}
    others = "".join(f", {count} {what}" for what, count in counts.items() if count)
    return f"{sent.sent} messages in {seconds:.1f} s, {sent.sent / seconds:.1f} a second{others}"
