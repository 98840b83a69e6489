"""The demo: this machine's live figures, published through a hub and shown by its subscribers.

    sensors   publish host/cpu/0/percent, host/net/eth0/bytes_sent, host/process/4242 and so on,
    rates     publish rate/net/eth0/bytes_sent for every counter,
    alerts    publish alert/host/cpu/percent when a figure leaps up,
    a screen, or plain lines, show all of that,
    a slow reader misses most of it, and publishes host/hub/missed, the gaps that it reads,
    other demos, if there is a bridge to them, publish peer/HOST/PID/host/cpu/percent and so on,
    browsers, if they are wanted, get all of it by a WebSocket: see `demo_web`.

None of them knows the others; they share the hub and its keys. The message None means that what the key names is gone.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import psutil
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text

from hubsub import Gap, Hub, Key, Overflow, Publisher, Subscription
from hubsub.bridges import Adapter
from hubsub.cli.demo_bridge import Demos, printable

if TYPE_CHECKING:
    from hubsub.cli.demo_web import Page

# Sensors: each yields keys, to which the publisher adds "host", and figures.

Reading = tuple[tuple[str, ...], Any]


class Process(NamedTuple):
    """A process of note."""

    name: str
    percent: float  # of one processor
    memory: int  # in bytes


PROCESS: Key[Process | None] = Key("host", "process", "+")


def read_cpu() -> Iterator[Reading]:
    """The load of all processors together, and of each."""
    yield ("cpu", "percent"), psutil.cpu_percent()
    for number, percent in enumerate(psutil.cpu_percent(percpu=True)):
        yield ("cpu", str(number), "percent"), percent


def read_memory() -> Iterator[Reading]:
    """How full the memory is."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    yield ("memory", "percent"), memory.percent
    yield ("memory", "used"), memory.used
    if swap.total:
        yield ("memory", "swap", "percent"), swap.percent


def read_net() -> Iterator[Reading]:
    """What each network interface has counted."""
    for name, counters in psutil.net_io_counters(pernic=True).items():
        if counters.bytes_recv or counters.bytes_sent:  # others were never used
            yield ("net", name, "bytes_recv"), counters.bytes_recv
            yield ("net", name, "bytes_sent"), counters.bytes_sent


def read_disks() -> Iterator[Reading]:
    """What each disk has counted."""
    disks = psutil.disk_io_counters(perdisk=True)
    for name, counters in disks.items():
        # What a partition counts, sda1 or nvme0n1p1, its disk counts too.
        whole = name.rstrip("0123456789").removesuffix("p")
        if (counters.read_bytes or counters.write_bytes) and (whole == name or whole not in disks):
            yield ("disk", name, "read_bytes"), counters.read_bytes
            yield ("disk", name, "write_bytes"), counters.write_bytes


def read_processes(most: int = 20) -> Iterator[Reading]:
    """The busiest processes; among equals, the largest."""

    def load(process: psutil.Process) -> tuple[float, int]:
        return process.info["cpu_percent"] or 0.0, process.info["memory_info"].rss

    # Not every system shows the memory of every process to every user.
    processes = [
        each for each in psutil.process_iter(["name", "cpu_percent", "memory_info"]) if each.info["memory_info"]
    ]
    for process in sorted(processes, key=load, reverse=True)[:most]:
        # A process may have any name, even one with control characters for the terminal.
        yield ("process", str(process.pid)), Process(printable(process.info["name"] or "?"), *load(process))


def read_hub(hub: Hub) -> Iterator[Reading]:
    """The hub's own figures."""
    stats = hub.stats()
    for name in ("published", "routed", "failed", "subscriptions"):
        yield ("hub", name), getattr(stats, name)
    for pattern, pending in hub.get_all_subscriber_queue_sizes().items():
        yield ("hub", "queued", "/".join(pattern)), sum(pending)


async def measure(sensor: Callable[[], Iterable[Reading]], publisher: Publisher, seconds: float) -> None:
    """Publish the readings of a sensor every `seconds` seconds; None for a key that it no longer reads."""
    known: dict[tuple[str, ...], Any] = {}
    try:
        # A load is measured since the reading before, so the very first one means nothing.
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
            # However much there is to read, this uses a twentieth of a processor at most.
            await asyncio.sleep(max(seconds, 20 * (time.perf_counter() - started)))
    except (NotImplementedError, OSError):
        pass  # not every system shows everything


# Listeners that publish in turn


def publish_rates(hub: Hub) -> None:
    """Publish for every counter how much it rises per second."""
    last: dict[Key, tuple[float, float]] = {}

    @hub.on([("host", "net", "*"), ("host", "disk", "*"), ("host", "hub", "published")])
    def derive(key: Key, count: float | None) -> None:
        now = time.perf_counter()
        then, before = last.pop(key, (now, 0))
        if count is not None:
            last[key] = now, count
        if count is None or then < now:
            hub.publish(("rate", *key[1:]), None if count is None else (count - before) / (now - then))


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
        if len(before) >= 5 and figure > 1.5 * highest + (10 if key[-1] == "percent" else 100_000):
            hub.publish(("alert", *key), f"{as_text(key, figure)}, up from {as_text(key, highest)}")
        before.append(figure)

    @hub.on(PROCESS)
    def notice(key: Key, process: Process | None) -> None:
        if process is None or process.percent < 25:
            busy.discard(key)
        elif process.percent > 50 and key not in busy:
            busy.add(key)
            hub.publish(("alert", *key), f"{process.name} uses {process.percent:.0f} % of a processor")


async def dawdle(hub: Hub) -> None:
    """Read more slowly than others publish: the oldest messages are dropped, and the gaps are published."""
    with hub.subscribe(("host", "*"), maxsize=10, overflow=Overflow.DROP_OLDEST, gaps=True) as everything:
        async for event in everything:
            if isinstance(event, Gap):
                hub.publish(("host", "hub", "missed"), event)
            await asyncio.sleep(0.25)


# Showing


def as_text(key: tuple[str, ...], message: Any) -> str:
    """Return a message in words; its unit follows from the key."""
    match key, message:
        case _, None:
            return "gone"
        case _, str():
            return message
        case _, Gap(reason, None, since, until):
            return f"unknown what is missing of {until - since:.1f} seconds: {reason}"
        case _, Gap(_, count):
            return f"{count} messages"
        case ("peer", _, _, *of_peer), _:
            return as_text(tuple(of_peer), message)
        case (*_, "percent"), _:
            return f"{message:.1f} %"
        case ("rate", "hub", *_), _:
            return f"{message:.0f} messages/s"
        case ("rate", *_), _:
            return f"{in_bytes(message)}/s"
        case ("host", "net" | "disk" | "memory", *_), _:
            return in_bytes(message)
        case _, Process(name, percent, memory):
            return f"{name} {percent:.1f} % {in_bytes(memory)}"
        case _:
            return str(message)


def in_bytes(count: float) -> str:
    """Return a number of bytes as text of at most three digits before the point."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


async def print_lines(queue: Subscription[Any], seconds: float) -> None:
    """Print what is new in a queue, every `seconds` seconds."""
    printed: dict[Key, str] = {}
    while True:
        await asyncio.sleep(seconds)
        for key, message in await queue.get_batch(1000):
            text = as_text(key, message)
            if text != printed.pop(key, None):
                print(f"{'/'.join(key):<32} {text}", flush=True)
            if message is not None:
                printed[key] = text


class Sparkline(NamedTuple):
    """The course of a figure, the newest on the right, as far back as there is room."""

    figures: Iterable[float]
    highest: float
    style: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        heights = (round(8 * figure / (self.highest or 1)) for figure in list(self.figures)[-options.max_width :])
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

    def __rich__(self) -> Panel:
        table = Table.grid(
            Column(no_wrap=True), Column(no_wrap=True, justify="right"), Column(ratio=1), padding=(0, 1), expand=True
        )
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


class Processes(Board):
    """The processes of note, the busiest first."""

    def __rich__(self) -> Panel:
        right = partial(Column, no_wrap=True, justify="right")
        table = Table.grid(right(), Column(no_wrap=True, ratio=1), right(), right(), padding=(0, 1), expand=True)
        latest = {key: recent[-1] for key, recent in self.recent.items()}
        for key, process in sorted(latest.items(), key=lambda item: item[1][1:], reverse=True):
            percent = Text(f"{process.percent:.1f} %", heat(process.percent))
            table.add_row(Text(key[-1], "bold"), Text(process.name), percent, in_bytes(process.memory))
        return panel(self.pattern, table)


class Peers(Board):
    """Other demos, and how the bridge to them fares."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub, "peer", "*")
        self.of_bridge: dict[Key, Any] = {}
        hub.add_listener(("bridge", "*"), self.of_bridge.__setitem__)

    def __rich__(self) -> Panel:
        table = Table.grid(*(Column(no_wrap=True) for _ in range(2)), Column(ratio=1), padding=(0, 2), expand=True)
        for key, message in self.of_bridge.items():
            table.add_row(Text("/".join(key), "bold"), Text(as_text(key, message)))
        peers: dict[tuple[str, ...], list[str]] = {}
        for key, recent in self.recent.items():
            if key[3:] in self.SHOWN:
                peers.setdefault(key[1:3], []).append(f"{self.SHOWN[key[3:]]} {as_text(key, recent[-1])}")
        for peer, figures in sorted(peers.items()):
            table.add_row(Text("/".join(peer), "bold"), Text("  ".join(sorted(figures))))
        return panel(self.pattern, table)

    SHOWN: ClassVar[dict[tuple[str, ...], str]] = {
        ("host", "cpu", "percent"): "cpu",
        ("host", "memory", "percent"): "memory",
        ("rate", "hub", "published"): "publishes",
    }


class Alerts:
    """The latest alerts. Its listener is async: if it has to wait, it holds nobody up."""

    PATTERN = ("alert", "*")

    def __init__(self, hub: Hub) -> None:
        self.latest: deque[Text] = deque(maxlen=50)
        self.listener = hub.add_listener(self.PATTERN, self.note)

    async def note(self, key: Key, text: str) -> None:
        at = time.strftime("%H:%M:%S ")
        self.latest.appendleft(Text.assemble((at, "dim"), ("/".join(key[1:]), "bold"), " ", (text, "yellow")))

    def __rich__(self) -> Panel:
        return panel(self.PATTERN, Group(*self.latest))


class Screen:
    """All of it on one screen."""

    def __init__(self, hub: Hub, alerts: Alerts, peers: Peers | None, remark: str) -> None:
        self.remark = remark
        self.left = [Board(hub, "host", "cpu", "*"), Board(hub, "rate", "net", "*")]
        self.right = [Board(hub, "host", "memory", "*"), Board(hub, "rate", "disk", "*")]
        self.lists: list[RenderableType] = [Processes(hub, *PROCESS), alerts]
        self.peers = peers
        self.of_hub: dict[Key, Any] = {}
        hub.add_listener([("rate", "hub", "*"), ("host", "hub", "*")], self.of_hub.__setitem__)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = max(sum(len(board.recent) + 2 for board in side) for side in (self.left, self.right))
        whole, figures, left, right, lists = (Layout() for _ in range(5))
        for column, boards in ((left, self.left), (right, self.right)):
            column.split_column(*(Layout(each, ratio=len(each.recent) + 2, minimum_size=4) for each in boards))
        figures.split_row(left, right)
        figures.size = min(height, console.height // 2)
        lists.split_row(*(Layout(each) for each in self.lists))
        peers = [] if self.peers is None else [Layout(self.peers, minimum_size=4)]
        whole.split_column(figures, lists, *peers, Layout(self.hub_panel(), size=4))
        yield whole

    def hub_panel(self) -> Panel:
        figures = [
            Text.assemble((as_text(key, figure), "bold"), " " + "/".join(key[2:]) if key[0] == "host" else "")
            for key, figure in self.of_hub.items()
        ]
        return panel(("host", "hub", "*"), Columns(figures, padding=(0, 3)), self.remark)


def panel(pattern: Iterable[str], content: RenderableType, remark: str | None = None) -> Panel:
    """Return a frame with the pattern that its content is subscribed to as its title."""
    title = Text("/".join(pattern), "bold")
    return Panel(
        content,
        title=title,
        title_align="left",
        subtitle=remark,
        subtitle_align="right",
        border_style="bright_black",
    )


def heat(percent: float) -> str:
    """Return the colour of a load."""
    return "red" if percent >= 80 else "yellow" if percent >= 50 else "green"


async def paint(screen: Screen, console: Console) -> None:
    """Show the screen as of now, four times a second, while the terminal is there."""
    with Live(screen, console=console, screen=True, auto_refresh=False) as live:
        while console.is_terminal:
            live.refresh()
            await asyncio.sleep(0.25)


# Running

HOW_TO_END = "Ctrl-C ends it"
# Seconds, where nobody is watching who could press Ctrl-C.
SECONDS_WITHOUT_TERMINAL = 10.0


@contextmanager
def set_by_signals(event: asyncio.Event) -> Iterator[None]:
    """Make Ctrl-C and SIGTERM set the event, instead of interrupting whatever runs."""
    request = partial(asyncio.get_running_loop().call_soon_threadsafe, event.set)
    before = {each: signal.signal(each, lambda *_: request()) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def run(seconds: float | None, plain: bool, bridge: tuple[str, Adapter] | None, page: Page | None = None) -> None:
    """Show the figures for `seconds` seconds, or until Ctrl-C or SIGTERM; then print a summary.

    Without a terminal, and if `seconds` is None, it ends after ten seconds.
    """
    started = time.monotonic()
    end = asyncio.Event()
    console = Console()
    on_terminal = sys.stdout.isatty()
    if seconds is None and not on_terminal:
        seconds = SECONDS_WITHOUT_TERMINAL
    as_lines = plain or not on_terminal or console.is_dumb_terminal

    with set_by_signals(end):
        if as_lines:
            if page is not None:
                print(f"in the browser: {page.address}")
            print(HOW_TO_END if seconds is None else f"{HOW_TO_END}, and {seconds:g} seconds", flush=True)
        async with Hub(name="demo") as hub, asyncio.TaskGroup() as group:
            demos = None if bridge is None else Demos(hub, *bridge)
            publish_rates(hub)
            publish_alerts(hub)
            alerts = Alerts(hub)
            if as_lines:
                # Alerts at once, but only the latest value of each figure.
                figures = hub.subscribe([("host", "*"), ("rate", "*"), ("peer", "*")], overflow=Overflow.LATEST)
                news = hub.subscribe([Alerts.PATTERN, ("bridge", "*")])
                showing = [print_lines(news, 0), print_lines(figures, 0.5)]
            else:
                remark = HOW_TO_END if page is None else f"in the browser: {page.address}  {HOW_TO_END}"
                showing = [paint(Screen(hub, alerts, Peers(hub) if demos else None, remark), console)]
            host = Publisher(hub, "host")
            often = [measure(sensor, host, 0.2) for sensor in (read_cpu, read_memory, read_net, read_disks)]
            seldom = [measure(sensor, host, 1) for sensor in (read_processes, partial(read_hub, hub))]
            between = [] if demos is None else [demos.share(), demos.follow(), demos.watch()]
            tasks = [group.create_task(each) for each in (*showing, *often, *seldom, *between, dawdle(hub))]

            async with nullcontext() if page is None else page.served(hub):
                with suppress(TimeoutError):
                    await asyncio.wait_for(end.wait(), seconds)
            stats = hub.stats()
            for task in tasks:
                task.cancel()
            carried = demos and await demos.leave()

        print(
            f"{time.monotonic() - started:.1f} seconds: {stats.published} messages published, {stats.routed} routed, "
            f"{alerts.listener.delivered} alerts, {stats.subscriptions} subscriptions, {stats.failed} failures",
            flush=True,
        )
        if carried is not None:
            print(f"bridge: {carried}", flush=True)


def main(
    seconds: float | None, plain: bool, bridge: tuple[str, Adapter] | None = None, page: Page | None = None
) -> None:
    """Run the demo; `bridge` is the URL of a broker and the adapter for it, `page` is where browsers find it."""
    # The screen shows already who is slow or not connected.
    for name in ("hubsub", "aiokafka"):
        logging.getLogger(name).setLevel(logging.CRITICAL if bridge else logging.ERROR)
    asyncio.run(run(seconds, plain, bridge, page))
