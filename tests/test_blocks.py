"""Every block of the pages is run or checked by a test: Python by `test_docs`, the web beside, everything else here."""

import asyncio
import configparser
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from brokers import Redis
from brokers.postgres_server import Postgres
from hubsub import Bridge, Hub
from hubsub.bridges.postgres import PostgresLogAdapter
from hubsub.testing.conformance import until

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)

HERE = "test_blocks.py"
WEB = "web/test_blocks_of_the_web.py"
# Installing and making is checked on every page, whatever is there.
EVERYWHERE = re.compile(r"((\$ )?(pip install|make) .*\n)+")
# What is not Python, by page and language: the tests that run it, or hold it to what it describes.
TESTS = {
    ("README.md", "console"): [("test_readme.py", "test_the_program_of_the_readme_is_seen_in_a_second_terminal")],
    ("README.md", "sh"): [(HERE, "test_the_demo_is_seen_by_the_tap_of_the_readme")],
    ("docs/aiopubsub.md", "diff"): [(HERE, "test_the_change_of_the_import_is_the_one_that_is_tested")],
    ("docs/bridges/adapters.md", "ini"): [(HERE, "test_the_entry_point_of_the_page_is_of_the_group_that_is_read")],
    ("docs/bridges/dead-letters.md", "console"): [(HERE, "test_dead_letters_are_listed_as_the_page_says")],
    ("docs/bridges/index.md", "console"): [("test_examples.py", "test_one_word_moves_a_program_to_another_broker")],
    ("docs/bridges/outbox.md", "sql"): [(HERE, "test_the_sql_of_the_outbox_publishes_what_is_committed")],
    ("docs/bridges/postgres-log.md", "console"): [(HERE, "test_the_sql_of_the_outbox_publishes_what_is_committed")],
    ("docs/bridges/wire.md", "json"): [(HERE, "test_a_signature_looks_as_the_page_says")],
    ("docs/command-line.md", "console"): [
        (HERE, "test_tap_prints_what_the_page_says"),
        (HERE, "test_publish_works_as_the_page_says"),
        (HERE, "test_a_request_is_answered_by_a_command_as_the_page_says"),
        (HERE, "test_relay_and_bench_work_as_the_page_says"),
    ],
    ("docs/design.md", "console"): [(HERE, "test_a_drawing_names_what_is_there")],
    ("docs/errors.md", "console"): [("test_errors.py", "test_the_documentation_draws_the_same_tree")],
    ("docs/prometheus.md", "console"): [(HERE, "test_the_alerts_ask_for_figures_that_exist")],
    ("docs/web/browser.md", "js"): [("web/test_browser.py", "test_the_examples_of_the_page_do_what_they_say")],
    ("docs/web/browser.md", "json"): [(WEB, "test_the_types_are_found_where_the_page_says")],
    ("docs/web/events.md", "html"): [(WEB, "test_scripts_of_the_pages_get_what_is_published")],
    ("docs/web/events.md", "yaml"): [(WEB, "test_a_stream_looks_as_the_page_says")],
    ("docs/web/index.md", "html"): [(WEB, "test_scripts_of_the_pages_get_what_is_published")],
    ("docs/web/post.md", "console"): [(WEB, "test_curl_posts_as_the_page_says")],
    ("docs/web/protocol.md", "console"): [(WEB, "test_the_conversation_of_the_page_takes_place")],
    ("docs/web/servers.md", "console"): [(WEB, "test_the_commands_of_servers_are_those_that_are_tested")],
}

pytestmark = pytest.mark.once


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [found[3] for found in BLOCK.finditer(text) if found[2] == language]


def test_every_block_is_run_or_checked_by_a_test() -> None:
    there = {
        (str(page.relative_to(ROOT)), found[2])
        for page in PAGES
        for found in BLOCK.finditer(page.read_text(encoding="utf-8"))
        if found[2] not in ("python", "text") and not EVERYWHERE.fullmatch(found[3])
    }
    assert there == set(TESTS)
    for file, name in {test for tests in TESTS.values() for test in tests}:
        assert re.search(rf"def {name}\(", (ROOT / "tests" / file).read_text(encoding="utf-8")), f"{file} has no {name}"


# Installing, and make


def test_every_extra_and_package_that_a_page_installs_exists() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    extras = set(settings["options.extras_require"])
    lines = [line for extra in settings["options.extras_require"].values() for line in extra.split("\n")]
    required = {found[0].lower() for line in lines if (found := re.match(r"\w[\w-]*", line))}
    found = 0
    for page in PAGES:
        # Also within a sentence, where a line may end in the middle of it.
        text = page.read_text(encoding="utf-8").replace("\n  ", " ")
        for line in re.findall(r"pip install ((?:'[^'\n]+'|[\w.-]+)(?: (?:'[^'\n]+'|[\w.-]+))*)", text):
            for requirement in shlex.split(line):
                name, _, wanted = requirement.partition("[")
                found += 1
                if name == "hubsub":
                    assert {each.strip() for each in wanted.rstrip("]").split(",") if each} <= extras, (page, line)
                elif re.fullmatch(r"[\w-]+", name) and name not in ("and", "installs"):
                    assert name.lower() in required | {"hubsub", "jupyterlab"}, (page, line)
    assert found > 20


def test_every_target_of_make_on_a_page_exists() -> None:
    found = 0
    for page in PAGES:
        for _, _, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in re.findall(r"^(?:\$ )?(make .*?)(?:  #.*)?$", text, re.MULTILINE):
                found += 1
                command = shlex.split(line, comments=True)
                subprocess.run([*command, "--dry-run"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
                given = [each.partition("=")[2].split()[0] for each in command if each.startswith("ARGS=--")]
                options = (ROOT / "benchmarks" / "__main__.py").read_text(encoding="utf-8")
                if command[1] == "bench":
                    assert all(f'"{option}"' in options for option in given), line
    assert found >= 4


# Texts that describe something


def test_the_change_of_the_import_is_the_one_that_is_tested() -> None:
    [change] = blocks("docs/aiopubsub.md", "diff")
    old, new = (line[2:] for line in change.splitlines())
    source = (ROOT / "tests" / "test_aiopubsub_programs.py").read_text(encoding="utf-8")
    assert f'"{old}\\n", "{new}\\n"' in source


def test_the_entry_point_of_the_page_is_of_the_group_that_is_read() -> None:
    [text] = blocks("docs/bridges/adapters.md", "ini")
    page, ours = configparser.ConfigParser(), configparser.ConfigParser()
    page.read_string(text)
    ours.read(ROOT / "setup.cfg")
    [(group, line)] = page["options.entry_points"].items()
    assert group in ours["options.entry_points"]
    assert re.fullmatch(r"\s*\w+ = [\w.]+:[\w.]+", line)


def test_a_signature_looks_as_the_page_says() -> None:
    [text] = blocks("docs/bridges/wire.md", "json")
    signed = json.loads(text.replace(" …\n", '"and":"so on"}'))
    assert re.fullmatch(r"[0-9a-f]{16}-\d{10}-\d{12}-[0-9a-f]{32}", signed["signature"])


def test_the_alerts_ask_for_figures_that_exist() -> None:
    from hubsub.prometheus import BRIDGE, HUB, SUBSCRIBER

    known = {f"hubsub_{each.metric}" for each in (*HUB, *BRIDGE, *SUBSCRIBER)} | {"hubsub_up", "hubsub_bridge_state"}
    [alerts] = blocks("docs/prometheus.md", "console")
    for line in alerts.splitlines():
        names = re.findall(r"hubsub_\w+", line)
        assert names
        assert {name.removesuffix("_total") for name in names} <= known, line


def test_a_drawing_names_what_is_there() -> None:
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "hubsub").rglob("*.py")}
    classes = {name for text in sources.values() for name in re.findall(r"^class (\w+)", text, re.MULTILINE)}
    for drawing in blocks("docs/design.md", "console"):
        for name in re.findall(r"\b[A-Z][a-z]\w+", drawing):
            assert name in classes, name
        for path in re.findall(r"[\w/]+\.py", drawing):
            assert ROOT / "hubsub" / path in sources, path


# Commands


class Terminal:
    """Runs the commands of a page as they stand there, with `hubsub` and `python` being those that are tested."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        for name, rest in (("hubsub", "-m hubsub"), ("python", "")):
            script = folder / "bin" / name
            script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {rest} "$@"\n')
            script.chmod(0o755)
        path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

    def run(self, command: str) -> str:
        """Run a command to its end, and return what it prints."""
        done = self._finished(command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextlib.contextmanager
    def running(self, command: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command as long as the block lasts, then end it by a signal."""
        with subprocess.Popen(
            f"exec {command}", shell=True, cwd=self.folder, env=self.environment, text=True
        ) as process:
            try:
                yield process
            finally:
                process.terminate()
        assert process.returncode == 0

    def until(self, command: str, *wanted: str) -> str:
        """Run a command again and again until it prints all of this; others have to get ready first."""
        while True:
            done = self._finished(command)
            if all(each in done.stdout for each in wanted):
                return done.stdout

    def _finished(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; if it does not end, neither does what it has started live on."""
        with subprocess.Popen(
            command,
            shell=True,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                output, errors = process.communicate(timeout=100)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(command, process.returncode, output, errors)


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path)


def commands(text: str) -> dict[str, list[str]]:
    """The commands of a block, each with the lines that it prints."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("$ "):
            found[line[2:]] = []
        else:
            found[[*found][-1]].append(line)
    return found


COMMAND_LINE = "docs/command-line.md"


def block_of(word: str) -> dict[str, list[str]]:
    [text] = [each for each in blocks(COMMAND_LINE, "console") if each.startswith(f"$ hubsub {word}")]
    return commands(text)


def test_tap_prints_what_the_page_says(terminal: Terminal) -> None:
    [(command, lines)] = block_of("tap").items()
    terminal.run("""hubsub publish sqlite://orders.db order/new '{"tea": 2}' --confirm""")
    terminal.run("""hubsub publish sqlite://orders.db order/new '{"honey": 1}' --header by=ann --confirm""")
    printed = terminal.run(f"{command} --count 2").splitlines()
    # The times are others; how a gap is shown is tested with the command itself.
    assert [line.split(maxsplit=1)[1] for line in printed] == [line.split(maxsplit=1)[1] for line in lines[:2]]
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{3}  ", line) for line in [*printed, *lines])


def test_publish_works_as_the_page_says(terminal: Terminal) -> None:
    for command in block_of("publish"):
        terminal.run(command)
    stored = terminal.run("hubsub tap sqlite://orders.db '*' --history 2000 --count 1001 --json").splitlines()
    assert len(stored) == 1001


def test_a_request_is_answered_by_a_command_as_the_page_says(terminal: Terminal, redis: Redis) -> None:
    respond, request = (command.replace("redis://localhost", redis.url) for command in block_of("respond"))
    (terminal.folder / "price.sh").write_text('#!/bin/sh\nread number\necho "{\\"$HUBSUB_KEY\\": $number}"\n')
    (terminal.folder / "price.sh").chmod(0o755)
    with terminal.running(respond):
        assert json.loads(terminal.until(request, "price")) == {"price/tea": 3}


def test_relay_and_bench_work_as_the_page_says(terminal: Terminal, redis: Redis) -> None:
    source = database(redis, 9)
    [relay] = (command.replace("redis-stream://localhost", source) for command in block_of("relay"))
    with terminal.running(relay):
        published = f"hubsub publish {source} order/new '1' --confirm; hubsub publish {source} sensor/a '2' --confirm"
        look = "timeout 20 hubsub tap sqlite://archive.db '*' --history 10 --count 2"
        terminal.until(f"{published}; {look}", "order/new", "sensor/a")

    [(bench, lines)] = block_of("bench").items()
    figures = terminal.run(f"{bench.replace('redis://localhost', redis.url)} --messages 100").splitlines()
    assert [shape(line) for line in figures[:2]] == [shape(line) for line in lines[:2]]
    assert shape(lines[2]) == shape(figures[2])


def database(redis: Redis, number: int) -> str:
    """The URL of Redis Streams in a database that nobody else here uses."""
    return f"{redis.url.replace('redis:', 'redis-stream:').removesuffix('/0')}/{number}"


def shape(line: str) -> str:
    """A line without its figures."""
    return re.sub(r"[█▉▊▋▌▍▎▏ ]+", " ", re.sub(r"[\d,.]+", "0", line)).replace("ms", "µs")


def test_the_demo_is_seen_by_the_tap_of_the_readme(terminal: Terminal) -> None:
    [text] = [each for each in blocks("README.md", "sh") if "hubsub demo" in each]
    _, demo, tap = text.splitlines()
    # Without a terminal the demo ends after ten seconds; a slow machine may need another one.
    terminal.until(f"{demo} > demo.txt & timeout 30 {tap} --count 1; wait", "demo/")


def test_dead_letters_are_listed_as_the_page_says(terminal: Terminal, redis: Redis) -> None:
    there = database(redis, 8)

    async def give_up() -> None:
        async with Hub() as hub, Bridge(hub, there, both="*", group="workers", attempts=1) as bridge:
            hub.add_listener(("orders", "new"), fail)
            await hub.publish_confirmed(("orders", "new"), {"tea": 2})
            await until(lambda: bridge.health().received >= 1 and not bridge.health().in_flight)

    def fail(key: object, message: object) -> None:
        raise ValueError("out of tea")

    asyncio.run(give_up())
    [text] = blocks("docs/bridges/dead-letters.md", "console")
    (listing, listed), (sending, sent) = commands(text.replace("redis-stream://localhost:6379", there)).items()
    printed = terminal.run(listing).splitlines()
    # Position, time and attempts are others.
    assert [re.sub(r"\d+ attempts?|\d", "", line) for line in printed] == [
        re.sub(r"\d+ attempts?|\d", "", line) for line in listed
    ]
    position, shown = printed[0].split()[0], listed[0].split()[0]
    assert terminal.run(sending.replace(shown, position)).splitlines() == [
        line.replace(shown, position) for line in sent
    ]


async def test_the_sql_of_the_outbox_publishes_what_is_committed(terminal: Terminal, postgres: Postgres) -> None:
    import asyncpg

    name = f"db{uuid.uuid4().hex[:12]}"
    await postgres.execute(f"create database {name} owner hubsub")
    url = postgres.url.removesuffix("hubsub") + name
    try:
        for role in ("app", "web"):
            await postgres.execute(f"do $$ begin create role {role}; exception when duplicate_object then null; end $$")
        [schema] = [each for each in blocks("docs/bridges/postgres-log.md", "console") if "psql" in each]
        [command] = commands(schema)
        await asyncio.to_thread(terminal.run, command.replace("psql shop", f"psql -q -v ON_ERROR_STOP=1 '{url}'"))

        [sql] = blocks("docs/bridges/outbox.md", "sql")
        [python] = blocks("docs/bridges/outbox.md", "python")
        names: dict[str, Any] = {}
        exec(python, names)
        adapter = PostgresLogAdapter(url.replace("postgres://", "postgres-log://", 1))
        connection = await asyncpg.connect(url)
        try:
            await connection.execute("create table orders (id int, what text)")
            await connection.execute(sql)
            await names["order"](connection, adapter)
        finally:
            await connection.close()
        async with Hub() as hub:
            with hub.subscribe(("orders", "*")) as orders:
                async with Bridge(hub, adapter, incoming=("orders", "*"), name="reader", start="earliest"):
                    got = [await asyncio.wait_for(orders.consume(), 30) for _ in range(2)]
        # By the trigger, and by the program; the reminder is due in an hour.
        order = {"id": 7, "what": "tea"}
        assert got == [(("orders", "7"), order), (("orders", "new"), order)]
    finally:
        await postgres.execute(f"drop database {name} with (force)")
