"""The demo: this machine's live figures, published through a hub and shown by whoever subscribed to them.

    sensors   publish host/cpu/0/percent, host/net/eth0/bytes_sent, host/process/4242 and so on,
    rates     publish rate/net/eth0/bytes_sent for every counter,
    alerts    publish alert/host/cpu/percent when a figure leaps up,
    a screen, or plain lines, show all of that.

None of them knows the others; they share the hub and its keys. None as a message says that what the key names is gone.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import psutil
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from hubsub import Hub, Key, Publisher, Subscription

# Sensors: each yields keys, to which the publisher adds "host", and figures.

Reading = tuple[tuple[str, ...], Any]


class Process(NamedTuple):
    """A process of note."""

    name: str
    percent: float  # of one processor
    memory: int  # in bytes


PROCESS: Key[Process | None] = Key("host", "process", "+")


def read_cpu() -> Iterator[Reading]:
    yield ("cpu", "percent"), psutil.cpu_percent()
    for number, percent in enumerate(psutil.cpu_percent(percpu=True)):
        yield ("cpu", str(number), "percent"), percent


def read_memory() -> Iterator[Reading]:
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    yield ("memory", "percent"), memory.percent
    yield ("memory", "used"), memory.used
    if swap.total:
        yield ("memory", "swap", "percent"), swap.percent


def read_net() -> Iterator[Reading]:
    for name, counters in psutil.net_io_counters(pernic=True).items():
        if counters.bytes_recv or counters.bytes_sent:  # others were never used
            yield ("net", name, "bytes_recv"), counters.bytes_recv
            yield ("net", name, "bytes_sent"), counters.bytes_sent


def read_disks() -> Iterator[Reading]:
    disks = psutil.disk_io_counters(perdisk=True)
    for name, counters in disks.items():
        # What a partition counts, sda1 or nvme0n1p1, its disk counts too.
        whole = name.rstrip("0123456789").removesuffix("p")
        if (counters.read_bytes or counters.write_bytes) and (whole == name or whole not in disks):
            yield ("disk", name, "read_bytes"), counters.read_bytes
            yield ("disk", name, "write_bytes"), counters.write_bytes


def read_processes(most: int = 20) -> Iterator[Reading]:
    def load(process: psutil.Process) -> tuple[float, int]:
        return process.info["cpu_percent"] or 0.0, process.info["memory_info"].rss

    # Not every system tells everybody the memory of every process.
    processes = [each for each in psutil.process_iter(["name", "cpu_percent", "memory_info"]) if each.info["memory_info"]]
    for process in sorted(processes, key=load, reverse=True)[:most]:
        # A process may call itself anything, also what would make a terminal do strange things.
        name = "".join(letter if letter.isprintable() else "?" for letter in process.info["name"] or "?")
        yield ("process", str(process.pid)), Process(name, *load(process))


def read_hub(hub: Hub) -> Iterator[Reading]:
    stats = hub.stats()
    yield ("hub", "published"), stats.published
    yield ("hub", "routed"), stats.routed
    yield ("hub", "failed"), stats.failed
    yield ("hub", "subscriptions"), stats.subscriptions
    for pattern, pending in hub.get_all_subscriber_queue_sizes().items():
        yield ("hub", "queued", "/".join(pattern)), sum(pending)


async def measure(sensor: Callable[[], Iterable[Reading]], publisher: Publisher, seconds: float) -> None:
    """Publish what a sensor reads, every so many seconds."""
    known: dict[tuple[str, ...], Any] = {}
    try:
        # Loads are those since the reading before: the very first one has nothing to say.
        list(sensor())
        await asyncio.sleep(min(seconds, 0.2))
        while True:
            started = time.perf_counter()
            figures = dict(sensor())
            for key, figure in figures.items():
                publisher.publish(key, figure)
            for key in known.keys() - figures.keys():
                publisher.publish(key, None)
            known = figures
            # However much there is to read, it takes a twentieth of a processor at most.
            await asyncio.sleep(max(seconds, 20 * (time.perf_counter() - started)))
    except (NotImplementedError, OSError):
        pass  # not every system tells everything


# Listeners that publish onward


def publish_rates(hub: Hub) -> None:
    """Publish for every counter how much it rises in a second."""
    last: dict[Key, tuple[float, float]] = {}

    @hub.on([("host", "net", "*"), ("host", "disk", "*"), ("host", "hub", "published")])
    def derive(key: Key, count: float | None) -> None:
        now = time.perf_counter()
        then, before = last.pop(key, (now, 0))
        if count is None:
            hub.publish(("rate", *key[1:]), None)
            return
        last[key] = now, count
        if then < now:
            hub.publish(("rate", *key[1:]), (count - before) / (now - then))


def publish_alerts(hub: Hub) -> None:
    """Publish an alert when a figure leaps up, and when a process keeps a processor busy."""
    recent: dict[Key, deque[float]] = {}
    busy: set[Key] = set()

    @hub.on([("host", "cpu", "percent"), ("rate", "disk", "*"), ("rate", "net", "*")])
    def compare(key: Key, figure: float | None) -> None:
        if figure is None:
            recent.pop(key, None)
            return
        before = recent.setdefault(key, deque(maxlen=50))
        highest = max(before, default=figure)
        # Neither the first ones nor small ones are worth an alert.
        if len(before) >= 5 and figure > 1.5 * highest + (10 if key[-1] == "percent" else 50_000):
            hub.publish(("alert", *key), f"{as_text(key, figure)}, after {as_text(key, highest)} at most")
        before.append(figure)

    @hub.on(PROCESS)
    def notice(key: Key, process: Process | None) -> None:
        if process is None or process.percent < 25:
            busy.discard(key)
        elif process.percent > 50 and key not in busy:
            busy.add(key)
            hub.publish(("alert", *key), f"{process.name} takes {process.percent:.0f} % of a processor")


# Showing


def as_text(key: Key, message: Any) -> str:
    """Return a message in words; the key tells its unit."""
    match key, message:
        case _, None:
            return "gone"
        case (*_, "percent"), _:
            return f"{message:.1f} %"
        case ("rate", "hub", *_), _:
            return f"{message:.0f}/s"
        case ("rate", *_), _:
            return f"{in_bytes(message)}/s"
        case ("host", "net" | "disk" | "memory", *_), _:
            return in_bytes(message)
        case _, Process(name, percent, memory):
            return f"{name} {percent:.1f} % {in_bytes(memory)}"
        case _:
            return str(message)


def in_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


async def print_lines(everything: Subscription[Any]) -> None:
    """Print every alert, and once a second what is new of every other key."""
    printed: dict[Key, tuple[float, str]] = {}
    async for key, message in everything:
        text = as_text(key, message)
        now = time.monotonic()
        then, before = printed.get(key, (0.0, ""))
        if key[0] == "alert" or (now >= then + 1 and text != before):
            printed[key] = now, text
            print(f"{'/'.join(key):<32} {text}", flush=True)


class Sparkline:
    """The course of a figure, the newest on the right, as far back as there is room."""

    def __init__(self, figures: Iterable[float], highest: float, style: str) -> None:
        self.figures = list(figures)
        self.highest = highest
        self.style = style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        heights = (round(8 * figure / (self.highest or 1)) for figure in self.figures[-options.max_width :])
        yield Text("".join(" ▁▂▃▄▅▆▇█"[height] for height in heights), self.style, justify="right")


class Board:
    """The latest messages of the keys that match a pattern."""

    def __init__(self, hub: Hub, *pattern: str) -> None:
        self.pattern = pattern
        self.recent: dict[Key, deque[Any]] = {}
        hub.add_listener(pattern, self.note)

    def note(self, key: Key, message: Any) -> None:
        if message is None:
            self.recent.pop(key, None)
        else:
            self.recent.setdefault(key, deque(maxlen=100)).append(message)

    @property
    def height(self) -> int:
        return len(self.recent) + 2

    def __rich__(self) -> Panel:
        table = grid("left", "right", "course")
        for key, recent in self.recent.items():
            label = Text("/".join(key[len(self.pattern) - 1 :]), "bold")
            text = Text(as_text(key, recent[-1]))
            if key[-1] == "percent":
                text.stylize(heat(recent[-1]))
                table.add_row(label, text, Sparkline(recent, 100, heat(recent[-1])))
            elif key[0] == "rate":
                table.add_row(label, text, Sparkline(recent, max(recent), "cyan"))
            else:
                table.add_row(label, text)
        return panel(self.pattern, table)
