"""The demo shows live figures, ends when it is told to, and leaves nothing behind but a summary."""

import asyncio
import fcntl
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import websockets

import hubsub
from brokers.fixtures import Private
from brokers.kafka_server import Kafka
from brokers.redis_server import Redis
from hubsub import Key
from hubsub.__main__ import main

ROOT = Path(__file__).resolve().parent.parent
PYTHON = [sys.executable, "-X", "utf8", "-W", "error"]
DEMO = [*PYTHON, "-m", "hubsub", "demo"]
SUMMARY = re.compile(
    r"(?P<seconds>[\d.]+) seconds: (?P<published>\d+) messages published, (?P<routed>\d+) routed, "
    r"(?P<alerts>\d+) alerts, (?P<subscriptions>\d+) subscriptions, (?P<failures>\d+) failures\s*$"
)
CARRIED = re.compile(
    r"^bridge: (\d+) messages sent, (\d+) received, (\d+) other demos met, (\d+) gaps\s*\Z", re.MULTILINE
)
# A session of its own with its standard input as the terminal: then the terminal turns ^C into a signal.
ON_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])
"""
# Beyond it something is wrong, however busy the machine is.
PATIENCE = 60.0

pytestmark = [pytest.mark.once, pytest.mark.timeout(300)]


class Running:
    """A command that runs, and what it has printed so far."""

    def __init__(self, command: list[str], complaints: Path, terminal: tuple[int, int] | None = None) -> None:
        ours = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
        environment = {name: value for name, value in os.environ.items() if name not in ours}
        environment["TERM"] = "xterm-256color"
        self.complaints = complaints
        if terminal is None:
            self.ours, theirs = os.pipe()
        else:
            self.ours, theirs = os.openpty()
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *terminal, 0, 0))
            command = [*PYTHON, "-c", ON_TERMINAL, *command]
        with complaints.open("wb") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=theirs if terminal else subprocess.DEVNULL,
                stdout=theirs,
                stderr=stderr,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )
        os.close(theirs)
        self.output = b""

    @property
    def text(self) -> str:
        """What it has printed, without colours and cursor movements."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.output.decode(errors="replace"))

    def read(self, deadline: float) -> bool:
        """Read some more; return whether there may be more."""
        ready, _, _ = select.select([self.ours], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"nothing more came in time:\n{self.text}"
        try:
            chunk = os.read(self.ours, 65536)
        except OSError:  # how Linux ends a pseudo terminal
            chunk = b""
        self.output += chunk
        return bool(chunk)

    def until(self, pattern: str) -> str:
        """Wait until something printed matches; return the match."""
        deadline = time.monotonic() + PATIENCE
        while (found := re.search(pattern, self.text)) is None:
            assert self.read(deadline), f"it ended without {pattern!r}:\n{self.text}\n{self.complaints.read_text()}"
        return found.group()

    def summary(self) -> dict[str, float]:
        """Wait for its end, which must be a clean one; return the figures of the summary."""
        deadline = time.monotonic() + PATIENCE
        while self.read(deadline):
            pass
        assert self.process.wait(PATIENCE) == 0
        assert self.complaints.read_text() == ""
        found = SUMMARY.search(re.sub(r"\s+", " ", self.text))
        assert found, f"no summary:\n{self.text}"
        return {name: float(figure) for name, figure in found.groupdict().items()}

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.ours)


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the demo with some arguments, on a terminal of (lines, columns) if one is given."""
    started: list[Running] = []

    def start(*arguments: str, terminal: tuple[int, int] | None = None) -> Running:
        if "--plain" in arguments and "--seconds" not in arguments and terminal is None:
            arguments += ("--seconds", "1000")  # by itself it would end after ten
        started.append(Running([*DEMO, *arguments], tmp_path / f"stderr{len(started)}", terminal))
        return started[-1]

    yield start
    for running in started:
        running.close()


# Plain lines


def test_plain_demo_ends_by_itself_with_a_summary(start: Start) -> None:
    running = start("--seconds", "1", "--plain")
    figures = running.summary()
    assert figures["seconds"] >= 1
    assert figures["routed"] > figures["published"] > 0
    assert figures["subscriptions"] >= 4
    assert figures["failures"] == 0
    for key in ("host/cpu/percent", "host/cpu/0/percent", "host/memory/used", "host/hub/queued/alert/*"):
        assert re.search(rf"^{re.escape(key)} +\d", running.text, re.MULTILINE), key
    assert "\x1b" not in running.output.decode()


def test_demo_prints_lines_where_there_is_no_terminal_and_ends_after_ten_seconds(start: Start) -> None:
    running = start()
    assert running.summary()["seconds"] >= 10
    assert running.text.startswith("Ctrl-C ends it, and 10 seconds\n")
    assert "host/cpu/percent" in running.text
    assert "\x1b" not in running.output.decode()


def test_demo_prints_lines_on_a_terminal_that_is_asked_to_be_plain(start: Start) -> None:
    running = start("--seconds", "1", "--plain", terminal=(24, 80))
    running.summary()
    assert "\x1b" not in running.output.decode()


@pytest.mark.parametrize("arguments", [(), ("--plain",)])
def test_demo_on_a_terminal_says_how_to_end_it(start: Start, arguments: tuple[str, ...]) -> None:
    running = start(*arguments, terminal=(24, 80))
    running.until("Ctrl-C ends it")
    os.write(running.ours, b"\x03")
    running.summary()


def test_demo_shows_a_busy_process(start: Start) -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            start("--plain").until(rf"host/process/{busy.pid} +\S.* [1-9][\d.]* % ")
        finally:
            busy.kill()


def test_demo_shows_the_messages_a_second(start: Start) -> None:
    start("--plain").until(r"rate/hub/published +[1-9]\d* messages/s")


def test_demo_shows_what_a_slow_reader_misses(start: Start) -> None:
    start("--plain").until(r"host/hub/missed +[1-9]\d* messages")
    start(terminal=(24, 80)).until(r"[1-9]\d* messages missed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_plain_demo_with_a_summary(start: Start, number: signal.Signals) -> None:
    running = start("--plain")
    running.until("host/memory/percent")
    running.process.send_signal(number)
    assert running.summary()["failures"] == 0


def test_demo_ends_quietly_when_nobody_reads_along_any_more(tmp_path: Path) -> None:
    with (
        (tmp_path / "stderr").open("wb") as stderr,
        subprocess.Popen(
            [*DEMO, "--plain", "--seconds", "1000"], stdout=subprocess.PIPE, stderr=stderr, cwd=ROOT
        ) as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        try:
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
    assert (tmp_path / "stderr").read_text() == ""


# On a terminal


@pytest.mark.parametrize("terminal", [(24, 80), (40, 120)])
def test_demo_on_a_terminal_draws_its_table_and_gives_the_screen_back(start: Start, terminal: tuple[int, int]) -> None:
    running = start("--seconds", "1.5", terminal=terminal)
    figures = running.summary()
    assert figures["failures"] == 0
    drawn, given_back, after = running.output.decode().rpartition("\x1b[?1049l")
    assert given_back
    assert SUMMARY.search(after)
    assert "\x1b[?1049h" in drawn
    for pattern in ("host/cpu/*", "host/memory/*", "host/process/+", "alert/*", "host/hub/*"):
        assert f"─ {pattern} ─" in running.text


def test_demo_puts_up_with_a_tiny_terminal(start: Start) -> None:
    assert start("--seconds", "1", terminal=(5, 20)).summary()["failures"] == 0


def test_demo_on_a_terminal_shows_figures_in_their_rows(start: Start) -> None:
    running = start(terminal=(40, 120))
    running.until(r"│ 0/percent +[\d.]+ % [ ▁▂▃▄▅▆▇█]+ │")
    running.until(rf"│ +{running.process.pid} \S+ +[\d.]+ % +[\d.]+ MB │")
    running.until(r"\d+ published +\d+ routed +0 failed +\d+ subscriptions")


def test_ctrl_c_ends_the_demo_on_a_terminal_with_a_summary(start: Start) -> None:
    running = start(terminal=(24, 80))
    running.until(r"│ 0/percent +\d")
    os.write(running.ours, b"\x03")
    assert running.summary()["failures"] == 0
    assert b"\x1b[?1049l" in running.output


def test_sigterm_ends_the_demo_on_a_terminal_with_a_summary(start: Start) -> None:
    running = start(terminal=(24, 80))
    running.until(r"│ 0/percent +\d")
    running.process.terminate()
    assert running.summary()["failures"] == 0
    assert b"\x1b[?1049l" in running.output


def test_demo_ends_quietly_when_its_terminal_is_gone(start: Start) -> None:
    running = start(terminal=(24, 80))
    running.until(r"│ 0/percent +\d")
    os.close(running.ours)
    running.ours = os.open(os.devnull, os.O_RDONLY)
    assert running.process.wait(PATIENCE) == 0
    assert running.complaints.read_text() == ""


# What is shown


async def test_lines_tell_alerts_and_the_latest_of_other_figures(
    hub: hubsub.Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    from hubsub.cli.demo import Process, print_lines

    alerts = hub.subscribe([("alert", "*"), ("host", "process", "*")])
    figures = hub.subscribe(("host", "cpu", "*"), overflow=hubsub.Overflow.LATEST)
    for percent in (10.0, 20.0):
        hub.publish(("host", "cpu", "percent"), percent)
    for text in ("60.0 %, up from 15.0 %", "90.0 %, up from 15.0 %"):
        hub.publish(("alert", "host", "cpu", "percent"), text)
    hub.publish(("host", "process", "42"), Process("worker", 90.0, 1000))
    hub.publish(("host", "process", "42"), None)
    for queue in (alerts, figures):
        queue.close()
        with pytest.raises(hubsub.SubscriptionClosed):
            await print_lines(queue, 0)
    assert [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()] == [
        "alert/host/cpu/percent 60.0 %, up from 15.0 %",
        "alert/host/cpu/percent 90.0 %, up from 15.0 %",
        "host/process/42 worker 90.0 % 1.0 kB",
        "host/process/42 gone",
        "host/cpu/percent 20.0 %",
    ]


@pytest.mark.parametrize(
    ("key", "message", "text"),
    [
        (Key("host", "cpu", "0", "percent"), 12.34, "12.3 %"),
        (Key("host", "memory", "used"), 999, "999 B"),
        (Key("host", "disk", "sda", "read_bytes"), 12_345_678, "12.3 MB"),
        (Key("rate", "net", "eth0", "bytes_sent"), 1500.0, "1.5 kB/s"),
        (Key("rate", "hub", "published"), 104.6, "105 messages/s"),
        (Key("host", "hub", "subscriptions"), 9, "9"),
        (Key("host", "memory", "used"), 5e15, "5000.0 TB"),
    ],
)
def test_figure_is_shown_in_the_unit_that_its_key_tells(key: Key, message: float, text: str) -> None:
    from hubsub.cli.demo import as_text

    assert as_text(key, message) == text


# What publishes onward


@pytest.fixture
def alerts(loopless: hubsub.Hub) -> list[tuple[Key, str]]:
    from hubsub.cli.demo import publish_alerts, publish_rates

    raised: list[tuple[Key, str]] = []
    publish_rates(loopless)
    publish_alerts(loopless)
    loopless.add_listener(("alert", "*"), lambda key, text: raised.append((key, text)))
    return raised


def test_figure_that_leaps_up_raises_one_alert(loopless: hubsub.Hub, alerts: list[tuple[Key, str]]) -> None:
    for percent in (10.0, 12.0, 9.0, 11.0, 10.0, 15.0, 60.0, 62.0, 61.0):
        loopless.publish(("host", "cpu", "percent"), percent)
    assert alerts == [(("alert", "host", "cpu", "percent"), "60.0 %, up from 15.0 %")]


def test_process_that_keeps_a_processor_busy_raises_one_alert_until_it_rests(
    loopless: hubsub.Hub, alerts: list[tuple[Key, str]]
) -> None:
    from hubsub.cli.demo import Process

    for percent in (90.0, 95.0, 40.0, 95.0, 10.0, 80.0):
        loopless.publish(("host", "process", "42"), Process("worker", percent, 1000))
    key = ("alert", "host", "process", "42")
    assert alerts == [(key, "worker uses 90 % of a processor"), (key, "worker uses 80 % of a processor")]


def test_what_is_gone_is_forgotten(loopless: hubsub.Hub, alerts: list[tuple[Key, str]]) -> None:
    from hubsub.cli.demo import Process

    rates: list[float | None] = []
    loopless.add_listener(("rate", "*"), lambda key, rate: rates.append(rate))
    for sent in (1000, 2000, None, 5000):
        loopless.publish(("host", "net", "eth0", "bytes_sent"), sent)
    # Neither the first figure nor the first after it was gone has one before it.
    assert [rate is None for rate in rates] == [False, True]
    loopless.publish(("host", "process", "42"), Process("worker", 90.0, 1000))
    loopless.publish(("host", "process", "42"), None)
    loopless.publish(("host", "process", "42"), Process("another", 90.0, 1000))
    assert [text for _, text in alerts] == ["worker uses 90 % of a processor", "another uses 90 % of a processor"]


# The command line


@pytest.mark.parametrize("missing", ["psutil", "rich"])
def test_demo_without_its_extra_says_what_to_install(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from hubsub.__main__ import main; sys.exit(main(['demo']))"
    done = subprocess.run([*PYTHON, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "demo: needs psutil and rich: pip install 'hubsub[demo]'\n"


def test_importing_hubsub_leaves_the_demo_and_the_command_line_alone() -> None:
    program = "import sys, hubsub; print(sorted({'psutil', 'rich', 'argparse', 'hubsub.cli.demo'} & set(sys.modules)))"
    done = subprocess.run([*PYTHON, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_seconds_have_to_be_a_number_above_nought(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", f"--seconds={seconds}"])
    assert ended.value.code == 2
    assert "is not a number of seconds above 0" in capsys.readouterr().err


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"hubsub {hubsub.__version__}\n"


def test_no_command_is_an_error_that_names_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("see hubsub --help\n")


# In the browser


def fetch(address: str, **headers: str) -> str:
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=PATIENCE) as response:
        return str(response.read().decode())


async def messages(client: websockets.ClientConnection) -> list[Any]:
    """The next messages that a client gets."""
    while not (found := [frame for frame in json.loads(await client.recv()) if "type" not in frame]):
        pass
    return found


async def test_demo_shows_its_figures_in_the_browser_and_says_goodbye(start: Start) -> None:
    running = start("--plain", "--web", "0")
    address = running.until(r"http://\S+/")
    assert '<script type="module">' in fetch(address)
    assert "export class Hub" in fetch(f"{address}hubsub.js")
    running.until("host/cpu/percent")
    async with (
        asyncio.timeout(PATIENCE),
        websockets.connect(f"{address.replace('http', 'ws')}ws", origin=address.rstrip("/")) as client,
    ):
        subscribe = {"type": "subscribe", "id": 1, "patterns": [["host", "cpu", "percent"]], "history": 300}
        await client.send(json.dumps(subscribe))
        first = await messages(client)
        assert (first[0]["key"], first[0]["replayed"]) == (["host", "cpu", "percent"], True)
        while all("replayed" in each for each in await messages(client)):
            pass
        running.process.terminate()
        with suppress(websockets.ConnectionClosed):
            while True:
                await client.recv()
        assert client.close_code == 1012
    assert running.summary()["failures"] == 0


def test_demo_on_a_terminal_shows_the_address_of_its_page(start: Start) -> None:
    running = start("--web", "0", terminal=(40, 120))
    address = running.until(r"http://127\.0\.0\.1:\d+/")
    assert "hubsub demo" in fetch(address)
    os.write(running.ours, b"\x03")
    assert running.summary()["failures"] == 0


def test_page_of_another_host_gets_nothing_of_the_demo(start: Start) -> None:
    address = start("--plain", "--web", "0").until(r"http://\S+/")
    for path in ("", "hubsub.js", "ws"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            fetch(f"{address}{path}", Host="rebound.example:80")
        with refused.value as answer:
            assert answer.code == 403


@pytest.mark.parametrize("missing", ["uvicorn", "websockets", "msgspec"])
def test_page_without_what_it_needs_says_what_to_install(missing: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None; from hubsub.__main__ import main; "
        "sys.exit(main(['demo', '--web', '0']))"
    )
    done = subprocess.run([*PYTHON, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "demo: --web needs uvicorn, websockets and msgspec: pip install 'hubsub[demo]'\n"


def test_page_at_a_port_that_is_taken_is_one_line_of_error(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", "--seconds", "1", "--web", str(port)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"demo: --web: port {port}: Address already in use; --web 0 takes a free one\n"


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_port_of_the_page_has_to_be_one(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", f"--web={port}"])
    assert ended.value.code == 2
    assert "is not a port, 0 to 65535" in capsys.readouterr().err


# Bridges


def carried(running: Running) -> list[int]:
    """Wait for its end; return what the bridge has sent and received, the demos met, and the gaps."""
    deadline = time.monotonic() + PATIENCE
    while running.read(deadline):
        pass
    assert running.process.wait(PATIENCE) == 0
    assert running.complaints.read_text() == ""
    found = re.search(
        r"^bridge: (\d+) messages sent, (\d+) received, (\d+) other demos met, (\d+) gaps\s*\Z",
        running.text,
        re.MULTILINE,
    )
    assert found, f"no summary:\n{running.text}"
    return [int(figure) for figure in found.groups()]


def interrupt(*demos: Running) -> None:
    for running in demos:
        running.process.send_signal(signal.SIGINT)


def of_other(running: Running) -> str:
    """What matches a line with a figure of another demo: any, for one that stays as it is, is not printed again."""
    return rf"peer/[^/\s]+/{running.process.pid}/\S+ +[\d.]+ \S"


def assert_two_see_each_other(start: Start, url: str) -> None:
    one, another = start("--plain", "--bridge", url), start("--plain", "--bridge", url)
    one.until(of_other(another))
    another.until(of_other(one))
    interrupt(another)
    sent, received, met, gaps = carried(another)
    assert (sent > 0, received > 0, met, gaps) == (True, True, 1, 0)
    # It has said that it goes.
    one.until(rf"peer/[^/\s]+/{another.process.pid}/\S+ +gone")
    interrupt(one)
    assert carried(one)[2:] == [1, 0]
    assert f"/{one.process.pid}/" not in one.text


def test_two_demos_see_each_other_over_a_file(start: Start, tmp_path: Path) -> None:
    assert_two_see_each_other(start, f"sqlite://{tmp_path / 'demo.db'}")


def test_two_demos_see_each_other_over_redis(start: Start, redis: Redis) -> None:
    assert_two_see_each_other(start, redis.url)


def test_two_demos_see_each_other_over_redis_streams(start: Start, redis: Redis) -> None:
    assert_two_see_each_other(start, redis.url.replace("redis:", "redis-stream:"))


def test_two_demos_see_each_other_over_kafka(start: Start, kafka: Kafka) -> None:
    assert_two_see_each_other(start, kafka.url)


def test_demos_outlive_their_broker_and_tell_the_gap(start: Start, private: Private) -> None:
    redis = private.keep(Redis())
    redis.start()
    one, another = start("--plain", "--bridge", redis.url), start("--plain", "--bridge", redis.url)
    one.until(of_other(another))
    another.until(of_other(one))
    redis.kill()
    for each in (one, another):
        each.until("bridge/state +down, waiting for a broker")
        each.output = b""
    redis.start()
    for each, other in ((one, another), (another, one)):
        each.until("bridge/state +up")
        each.until(r"bridge/gap +unknown what is missing of [\d.]+ seconds: disconnected")
        each.until(of_other(other))
    interrupt(one, another)
    assert carried(one)[2:] == carried(another)[2:] == [1, 1]


def test_demo_says_that_it_waits_for_a_broker_and_how_to_start_one(start: Start, private: Private) -> None:
    redis = private.keep(Redis())
    url = f"redis://alice:wonderland@127.0.0.1:{redis.port}"
    running = start("--plain", "--bridge", url)
    running.until(
        rf"bridge/state +waiting for a broker at redis://127\.0\.0\.1:{redis.port}; "
        rf"redis-server --port {redis.port} starts one\n"
    )
    interrupt(running)
    assert carried(running) == [0, 0, 0, 0]
    assert len(re.findall("bridge/state", running.text)) == 1
    assert "wonderland" not in running.text


def test_demo_on_a_terminal_shows_the_others(start: Start, redis: Redis) -> None:
    other = start("--plain", "--bridge", redis.url)
    running = start("--bridge", redis.url, terminal=(40, 120))
    running.until(r"─ peer/\* ─")
    running.until("bridge/state +up")
    running.until(rf"/{other.process.pid} +cpu [\d.]+ % +memory [\d.]+ %")
    os.write(running.ours, b"\x03")
    assert carried(running)[2:] == [1, 0]


async def test_silent_peer_is_forgotten_unless_it_is_the_broker_that_is_silent(
    hub: hubsub.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hubsub.bridges import adapter_for
    from hubsub.cli import demo_bridge

    demos = demo_bridge.Demos(hub, "", adapter_for("memory://silent"))
    gone: list[Key] = []
    hub.add_listener(("peer", "*"), lambda key, figure: gone.append(key) if figure is None else None)
    following = asyncio.create_task(demos.follow())
    await asyncio.sleep(0)
    hub.publish(("demo", "elsewhere", "42", "host", "cpu", "percent"), 12.5)
    await asyncio.sleep(0)
    heard = time.time()
    monkeypatch.setattr(demo_bridge.time, "time", lambda: heard + 2 * demo_bridge.GONE_AFTER)
    demos.forget_silent(since=heard + demo_bridge.GONE_AFTER + 1)
    assert gone == []
    demos.forget_silent(since=heard)
    assert gone == [("peer", "elsewhere", "42", "host", "cpu", "percent")]
    following.cancel()
    await asyncio.wait([following])


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("memory://demo", "memory:// joins hubs of one process, and two demos are two: use redis://localhost:6379"),
        ("pigeon://loft", "no adapter for pigeon://; known schemes are "),
        ("localhost:6379", "a bridge needs a URL with a scheme"),
        ("redis://localhost?speed=11", "speed"),
        ("redis-stream://localhost?speed=11", "speed"),
        ("kafka://localhost:9092?speed=11", "neither the producer nor the consumer of aiokafka has an option speed"),
    ],
)
def test_bridge_that_cannot_be_is_one_line_of_error(
    url: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--seconds", "1", "--bridge", url]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("demo: --bridge: ")
    assert complaint in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(("driver", "url"), [("redis", "redis://x"), ("aiokafka", "kafka://x")])
def test_bridge_without_its_driver_says_what_to_install(driver: str, url: str) -> None:
    program = (
        f"import sys; sys.modules[{driver!r}] = None; from hubsub.__main__ import main; "
        f"sys.exit(main(['demo', '--bridge', {url!r}]))"
    )
    done = subprocess.run([*PYTHON, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE)
    assert done.returncode == 2
    extra = url.partition(":")[0]
    assert re.fullmatch(rf"demo: --bridge: \w+ needs {driver}: pip install 'hubsub\[{extra}\]'\n", done.stderr)
