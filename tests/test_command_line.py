"""The commands over a broker, each as a process of its own, over a file: no server is needed."""

import asyncio
import contextlib
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hubsub
from brokers.fixtures import require_program
from hubsub.__main__ import main

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60

pytestmark = pytest.mark.once


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/messages.db"


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a command; what still runs in the end is killed."""
    with contextlib.ExitStack() as stack:

        def begin(*arguments: str, **options: Any) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "hubsub", *arguments],
                env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
                text=True,
                **({"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options),
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield begin


def run(*arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hubsub", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        input=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


async def store(url: str, messages: list[Any], **options: Any) -> None:
    async with hubsub.connect(url, keys="*", **options) as hub:
        for message in messages:
            await hub.publish_confirmed(("orders", "new"), message)


async def stored(url: str, limit: int = 10_000, **options: Any) -> list[Any]:
    async with hubsub.connect(url, keys="*", **options) as hub:
        await hub.bridges[0].ready()
        return [event.message for event in await hub.bridges[0].history("*", limit)]


# tap


def test_tap_shows_what_is_stored_and_what_comes(url: str, start: Start) -> None:
    asyncio.run(store(url, [{"tea": 2}, "x\x1b[31m\ny"]))
    tap = start("tap", url, "orders/*", "--history", "10", "--count", "3")
    assert tap.stdout is not None
    first, second = tap.stdout.readline(), tap.stdout.readline()
    assert re.fullmatch(r'\d\d:\d\d:\d\d\.\d{3}  orders/new  {"tea": 2}\n', first)
    assert second.endswith('orders/new  "x\\u001b[31m\\ny"\n')
    assert run("publish", url, "orders/new", "3", "--header", "by=ann").returncode == 0
    assert tap.stdout.readline().endswith("orders/new  3  by=ann\n")
    assert tap.wait(PATIENCE) == 0


def test_tap_prints_json_for_programs(url: str) -> None:
    asyncio.run(store(url, [{"tea": 2}]))
    done = run("tap", url, "orders/*", "*", "--history", "1", "--count", "1", "--json")
    shown = json.loads(done.stdout)
    assert (shown["key"], shown["message"], shown["replayed"]) == (["orders", "new"], {"tea": 2}, True)
    assert done.returncode == 0


def test_a_gap_is_shown_in_its_place(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    from hubsub.cli import tap

    gap = hubsub.Gap("expired", 3, 1.0, 2.0, None)
    tap._writer()(gap)
    tap._as_json(gap)
    text, line = capsys.readouterr().out.splitlines()
    assert text.endswith("-- 3 messages are missing: expired")
    assert json.loads(line) == {"gap": "expired", "count": 3, "since": 1.0, "keys": None}


def test_on_a_terminal_tap_has_colours_and_says_the_rate(url: str) -> None:
    asyncio.run(store(url, [1]))
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "hubsub", "tap", url, "*", "--history", "1", "--count", "1"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLORTERM": "truecolor"},
        stdin=child,
        stdout=child,
        stderr=child,
    )
    os.close(child)
    shown = b""
    while select.select([parent], [], [], PATIENCE)[0]:
        try:
            data = os.read(parent, 1024)
        except OSError:  # the terminal is closed
            break
        if not data:
            break
        shown += data
    os.close(parent)
    assert process.wait(PATIENCE) == 0
    assert b"\x1b[36morders/new" in shown
    assert re.search(rb"1 messages in [\d.]+ s, [\d.]+ a second", shown)


def test_in_a_terminal_of_tmux_tap_shows_each_message_on_a_line_until_ctrl_c(url: str, tmp_path: Path) -> None:
    require_program("tmux", "tmux")
    server = ["tmux", "-u", "-S", str(tmp_path / "tmux"), "-f", "/dev/null"]
    shell = ["env", f"PYTHONPATH={ROOT}", "TERM=screen-256color", "PS1=$ ", "bash", "--norc", "--noprofile"]

    def tmux(*command: str) -> str:
        return subprocess.run([*server, *command], check=True, capture_output=True, encoding="utf-8").stdout

    def screen(pattern: str) -> str:
        """Return what the terminal shows, with its colours, once that matches."""
        deadline = time.monotonic() + PATIENCE
        while not re.search(pattern, shown := tmux("capture-pane", "-e", "-p", "-t", "tap"), re.MULTILINE):
            assert time.monotonic() < deadline, shown
            time.sleep(0.05)
        return shown

    tmux("new-session", "-d", "-s", "tap", "-x", "60", "-y", "20", shlex.join(shell))
    try:
        command = [sys.executable, "-m", "hubsub", "tap", url, "*", "--history", "1"]
        asyncio.run(store(url, ["retained"]))
        tmux("send-keys", "-t", "tap", "-l", f"clear; {shlex.join(command)}; echo ended with $?")
        tmux("send-keys", "-t", "tap", "Enter")
        screen("retained")
        asyncio.run(store(url, ["live \x1b[31m", {"tea": "x" * 100}]))
        shown = screen("x{40}")
        assert re.search(r"\x1b\[[\d;]*36morders/new", shown)
        assert "\x1b[31m" not in shown  # what a message says is no command to the terminal
        tmux("send-keys", "-t", "tap", "C-c")
        assert re.search(r"^\S*3 messages in [\d.]+ s, [\d.]+ a second", screen(r"ended with \d+"), re.MULTILINE)
    finally:
        tmux("kill-server")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_tap_ends_orderly_when_it_is_interrupted(number: signal.Signals, url: str, start: Start) -> None:
    asyncio.run(store(url, [1]))
    tap = start("tap", url, "*", "--history", "1")
    assert tap.stdout is not None
    assert tap.stderr is not None
    tap.stdout.readline()
    tap.send_signal(number)
    assert tap.wait(PATIENCE) == 0
    assert tap.stderr.read() == ""


# publish


def test_what_publish_has_confirmed_is_stored(url: str) -> None:
    done = run("publish", url, "orders/new", '{"tea": 2}', "--confirm")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert asyncio.run(stored(url)) == [{"tea": 2}]


@pytest.mark.parametrize("options", [[], ["--confirm"]])
def test_each_line_of_the_standard_input_is_published_in_order(options: list[str], url: str) -> None:
    numbers = list(range(1_234))
    done = run("publish", url, "orders/new", "--stdin", *options, given="\n".join(map(str, numbers)))
    assert (done.returncode, done.stderr) == (0, "")
    assert asyncio.run(stored(url)) == numbers


def test_a_line_that_is_not_json_is_named_and_the_others_are_sent(url: str) -> None:
    done = run("publish", url, "orders/new", "--stdin", given="1\noops\n3\n")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "publish: line 2: 'oops' is not JSON; write text as '\"oops\"', or use --codec str",
        "publish: 1 of 3 messages were not sent",
    ]
    assert asyncio.run(stored(url)) == [1, 3]


def test_text_is_published_as_it_is(url: str) -> None:
    assert run("publish", url, "orders/new", "two teas", "--codec", "str").returncode == 0
    assert asyncio.run(stored(url, codec="str")) == ["two teas"]


def test_a_delayed_message_waits_for_its_time(url: str) -> None:
    assert run("publish", url, "orders/new", "1", "--delay", "3600").returncode == 0
    assert asyncio.run(stored(url)) == []


# request and respond


def test_requests_are_answered_by_a_command(url: str, start: Start) -> None:
    script = "import json, os, sys; print(json.dumps([os.environ['HUBSUB_KEY'], 60 / json.load(sys.stdin)]))"
    responder = start("respond", url, "price/*", "--", sys.executable, "-c", script)
    assert responder.stderr is not None
    assert responder.stderr.readline() == "respond: ready at price/*\n"
    done = run("request", url, "price/tea", "3")
    assert (done.returncode, json.loads(done.stdout)) == (0, ["price/tea", 20.0])
    done = run("request", url, "price/tea", "0")
    assert done.returncode == 1
    assert "ended with 1: ZeroDivisionError: division by zero" in done.stderr
    assert done.stderr.count("\n") == 1
    responder.send_signal(signal.SIGINT)
    assert responder.wait(PATIENCE) == 0


def test_a_request_that_nobody_answers_fails(url: str) -> None:
    done = run("request", url, "price/tea", "--timeout", "0.5")
    assert (done.returncode, done.stdout) == (1, "")
    assert "nobody answered within 0.5 seconds" in done.stderr


# relay


def test_a_relay_that_is_killed_loses_nothing(tmp_path: Path, url: str, start: Start) -> None:
    target = f"sqlite://{tmp_path}/target.db"

    def relay() -> subprocess.Popen[str]:
        process = start("relay", url, target, "--keys", "orders/*", "--timeout", "60")
        assert process.stderr is not None
        # The name of one that was killed is free when its lease is over.
        assert any(line == "relay: ready\n" for line in process.stderr)
        return process

    first = relay()
    done = run("publish", url, "orders/new", "--stdin", given="\n".join(map(str, range(500))))
    assert done.returncode == 0
    first.kill()
    first.wait(PATIENCE)
    assert run("publish", url, "orders/new", "--stdin", given="\n".join(map(str, range(500, 600)))).returncode == 0
    second = relay()

    async def all_of_them() -> list[int]:
        async with asyncio.timeout(PATIENCE):
            while set(found := await stored(target)) != set(range(600)):  # noqa: ASYNC110 - another process's
                await asyncio.sleep(0.1)
        return found

    found = asyncio.run(all_of_them())
    assert list(dict.fromkeys(found)) == list(range(600))
    second.send_signal(signal.SIGTERM)
    assert second.wait(PATIENCE) == 0
    assert second.stderr is not None
    *_, last = second.stderr.read().splitlines()
    assert re.fullmatch(r"relay: \d+ messages in [\d.]+ s, [\d.]+ a second", last)


# bench, check and completion


def test_bench_shows_rate_latency_and_a_chart(url: str) -> None:
    done = run("bench", url, "--messages", "500", "--size", "10")
    assert (done.returncode, done.stderr) == (0, "")
    rate, latency, *chart = done.stdout.splitlines()
    assert re.fullmatch(r"500 messages of 10 characters: [\d,]+ a second", rate)
    assert re.fullmatch(r"one at a time: .* median, .* p99", latency)
    assert sum(int(line.split()[-1]) for line in chart) == 200


def test_check_names_every_scheme_and_what_brings_a_driver(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    monkeypatch.setitem(sys.modules, "msgspec", None)
    for name in [
        name for name in sys.modules if name.startswith(("hubsub.bridges.postgres", "hubsub.bridges.websocket"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    states = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line.startswith("  ")}
    assert states["sqlite://"] == "ready"
    assert states["postgres-log://"].endswith("pip install 'hubsub[postgres]'")
    assert states["ws://"].endswith("pip install 'hubsub[ws]'")
    assert "peers" not in states
    assert states["redis"].startswith("redis ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for command in ("tap", "publish", "request", "respond", "relay", "dead-letters", "bench", "check"):
        assert command in script
    assert "history" in script


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    (tmp_path / "script").write_text(run("completion", "bash").stdout)
    ask = f"""
        source {tmp_path}/script
        COMP_WORDS=(hubsub t) COMP_CWORD=1; _hubsub; echo "${{COMPREPLY[@]}}"
        COMP_WORDS=(hubsub tap --hi) COMP_CWORD=2; _hubsub; echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["tap", "--history"]


# What is wrong


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["publish", "foo://x", "a", "1"], "no adapter for foo://"),
        (["publish", "memory://x", "a", "1"], "memory:// joins hubs of one process"),
        (["publish", "sqlite://x.db", "a"], "give a MESSAGE, or --stdin"),
        (["publish", "sqlite://x.db", "a", "oops"], "'oops' is not JSON"),
        (["publish", "sqlite://x.db", "a", "1", "--codec", "nope"], "no codec is called 'nope'"),
        (["tap", "redis://localhost", "a", "--history", "3"], "has no history"),
        (["publish", "redis://localhost", "a", "1", "--delay", "3"], "has no delayed messages"),
        (["respond", "sqlite://x.db", "a", "--", "no-such-program"], "'no-such-program' is no program"),
        (["relay", "sqlite://x.db", "foo://x", "--keys", "*"], "no adapter for foo://"),
        (["relay", "sqlite://x.db", "sqlite://y.db", "--keys", "*", "--name", "a", "--group", "b"], "group or name"),
    ],
)
def test_wrong_arguments_are_one_line_and_end_with_2(
    wrong: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(wrong) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"{wrong[0]}: ")
    assert captured.err.count("\n") == 1
    assert says in captured.err


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["publish", "sqlite://x.db", "a/*", "1"], "'a/*' has wildcards; give one key"),
        (["tap", "sqlite://x.db", "a\\b"], "a backslash must be followed by"),
        (["tap", "sqlite://x.db", "a", "--frob"], "unrecognized arguments: --frob"),
        (["publish", "sqlite://x.db", "a", "1", "--delay", "1s"], "'1s' is not a number of seconds above 0"),
    ],
)
def test_what_cannot_be_parsed_is_one_line_and_ends_with_2(
    wrong: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.startswith(f"{wrong[0]}: ")
    assert line.endswith(f"; see hubsub {wrong[0]} --help\n")
    assert says in line


def test_a_message_that_is_not_sent_says_why(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    # Bytes of the command line that are no UTF-8 come as lone surrogates.
    assert main(["publish", url, "a", "\udcff", "--codec", "str"]) == 1
    line = capsys.readouterr().err
    assert line.startswith("publish: ('a',): ")
    assert "surrogates not allowed" in line


def test_a_pattern_that_matches_only_itself_is_named(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(store(url, [1]))
    assert main(["tap", url, "orders/new", "orders.*", "orders/#", "--history", "1", "--count", "1"]) == 0
    assert capsys.readouterr().err == "".join(
        f"tap: {pattern!r} matches only itself; a wildcard is a part of its own, as in 'order/*'\n"
        for pattern in ("orders.*", "orders/#")
    )


@pytest.mark.parametrize("command", [["publish", "a", "1"], ["tap", "a"], ["bench"], ["request", "a"]])
def test_a_broker_that_does_not_answer_is_one_line_and_ends_with_1(command: list[str]) -> None:
    name, *others = command
    done = run(name, "redis://127.0.0.1:9", *others, "--timeout", "1")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"{name}: not connected: ")
    assert "Traceback" not in done.stderr
