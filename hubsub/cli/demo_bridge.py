"""The demo's bridge to other processes: a broker carries the figures of each to all others.

share    publishes this machine's figures as demo/HOST/PID/host/cpu/percent and so on, which a bridge carries to others,
follow   publishes the figures of the others as peer/HOST/PID/host/cpu/percent, None when they are gone, and gaps
         as bridge/gap,
watch    publishes the state of the bridge as bridge/state.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from hubsub import Bridge, BridgeNotReady, Gap, Hub, Key, Overflow
from hubsub.bridges import Adapter, adapter_for

# The figures that are shared.
SHARED = [("host", "cpu", "percent"), ("host", "memory", "percent"), ("rate", "*"), ("alert", "*")]
ALL = Key("demo", "*")
NAMESPACE = "hubsub-demo"

# Seconds.
SHARE_EVERY = 1.0
GONE_AFTER = 10.0
LEAVE_WITHIN = 1.0


def adapter_of(url: str) -> Adapter:
    """Return the adapter for the URL of a broker that joins processes.

    Raises:
        ValueError: The broker does not join processes, or the URL is invalid.
        TypeError: The URL has an option that does not exist.
        UnknownScheme: No adapter is known for its scheme.
        MissingDriver: The package that the adapter needs is not installed.
    """
    if url.startswith("memory:"):
        raise ValueError("memory:// joins hubs of one process, and two demos are two: use redis://localhost:6379")
    return adapter_for(url)


class Figures(NamedTuple):
    """The figures of a bridge, for the summary."""

    sent: int
    received: int
    peers: int
    gaps: int

    def __str__(self) -> str:
        return f"{self.sent} messages sent, {self.received} received, {self.peers} other demos met, {self.gaps} gaps"


class Demos:
    """This demo and the others, joined by a broker.

    Args:
        hub: The hub.
        url: Where the broker is.
        adapter: The adapter for it.
    """

    def __init__(self, hub: Hub, url: str, adapter: Adapter) -> None:
        self.hub = hub
        self.name = (printable(socket.gethostname()), str(os.getpid()))
        self.bridge = Bridge(
            hub, adapter, outgoing=Key("demo", *self.name, "*"), incoming=ALL, namespace=NAMESPACE, unclaimed="ack"
        )
        self._waiting = waiting_for(url)
        self._shared: dict[Key[Any], None] = {}
        self._heard: dict[tuple[str, ...], float] = {}  # when each peer was last heard of
        self._known: dict[tuple[str, ...], dict[Key[Any], None]] = {}  # the keys of each peer
        self._met: set[tuple[str, ...]] = set()

    async def share(self) -> None:
        """Publish the latest values of what has changed here, for the others, every second."""
        with self.hub.subscribe(SHARED, overflow=Overflow.LATEST) as figures:
            while True:
                for key, figure in await figures.get_batch(1000):
                    ours = Key("demo", *self.name, *key)
                    self.hub.publish(ours, figure)
                    if figure is None:
                        self._shared.pop(ours, None)
                    else:
                        self._shared[ours] = None
                await asyncio.sleep(SHARE_EVERY)

    async def follow(self) -> None:
        """Publish what the others have shared."""
        with self.hub.subscribe(ALL, gaps=True) as theirs:
            async for event in theirs:
                if isinstance(event, Gap):
                    self.hub.publish(("bridge", "gap"), event)
                    continue
                key, figure = event
                peer = key[1:3]
                # Anybody may publish anything at the broker.
                if len(key) < 4 or peer == self.name or not isinstance(figure, float | int | str | None):
                    continue
                key = Key("peer", *map(printable, key[1:]))
                known = self._known.setdefault(peer, {})
                if figure is None:
                    known.pop(key, None)
                else:
                    known[key] = None
                    self._met.add(peer)
                self._heard[peer] = time.time()
                self.hub.publish(key, printable(figure) if isinstance(figure, str) else figure)

    def forget_silent(self, since: float) -> None:
        """Publish None for peers that have been silent for a while during which the bridge was up."""
        for peer, heard in list(self._heard.items()):
            if not self._known[peer] or time.time() - max(heard, since) > GONE_AFTER:
                del self._heard[peer]
                for key in self._known.pop(peer):
                    self.hub.publish(key, None)

    async def watch(self) -> None:
        """Publish the state of the bridge when it changes."""
        shown = ""
        # A broker that is up answers before that: then the only state to publish is that it is up.
        with suppress(BridgeNotReady):
            await self.bridge.ready(1)
        while True:
            health = self.bridge.health()
            if health.state == "up":
                self.forget_silent(health.since)
                text = "up"
            elif health.state == "connecting":
                text = self._waiting
            else:
                text = f"down, {self._waiting}"
            if text != shown:
                self.hub.publish(("bridge", "state"), text)
                shown = text
            await asyncio.sleep(0.25)

    async def leave(self) -> Figures:
        """Publish to the others, if the broker is up, that this demo is gone; return the figures of the bridge."""
        for key in self._shared:
            self.hub.publish(key, None)
        await self.bridge.close(LEAVE_WITHIN)
        health = self.bridge.health()
        return Figures(health.sent, health.received, len(self._met), health.gaps)


def waiting_for(url: str) -> str:
    """Return a line about a broker that does not answer."""
    if url.startswith("sqlite:"):
        return f"waiting for the file of {url.partition('?')[0]}"
    parts = urlsplit(url)
    # Without the part before the @, which may be a password.
    line = f"waiting for a broker at {parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    match parts.scheme:
        case "redis" | "redis-stream":
            return f"{line}; redis-server --port {parts.port or 6379} starts one"
        case "kafka":
            return f"{line}; docker run -p 9092:9092 apache/kafka starts one"
        case _:
            return line


def printable(text: str) -> str:
    """Return a text without control characters for the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
