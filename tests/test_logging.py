"""Logging goes through logwood where it is installed and configured, else through the standard module."""

import ast
import logging
import re
import subprocess
import sys
import textwrap
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from source import parsed

from hubsub import Hub, Key
from hubsub.describe import MOST, describe, describe_error
from hubsub.log import Episode, Logger

PROGRAM = """
    import asyncio, sys
    {before}
    import hubsub
    hub = hubsub.Hub()

    @hub.on("a")
    def broken(key, message):
        raise ValueError("{{100 %}}")

    {between}
    hub.publish("a", 1)
    {after}
    hub.publish("a", 2)
"""

CONFIGURE = (
    "import logwood; from logwood.handlers.stderr import StderrHandler; "
    'logwood.basic_config([StderrHandler()], format="LOGWOOD %(name)s %(level)s %(message)s")'
)


def run(before: str = "", between: str = "", after: str = "") -> str:
    program = textwrap.dedent(PROGRAM).format(before=before, between=between, after=after)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""
    return done.stderr


def test_the_real_logwood_is_used_when_it_was_configured_before_the_import() -> None:
    output = run(before=CONFIGURE)
    assert output.count("LOGWOOD hubsub.listener ERROR listener <function broken") == 2
    assert "ValueError: {100 %}" in output


def test_the_real_logwood_is_used_when_it_is_configured_after_the_import() -> None:
    assert run(between=CONFIGURE).count("LOGWOOD hubsub.listener") == 2


def test_logwood_configured_after_the_first_line_takes_over() -> None:
    output = run(after=CONFIGURE)
    assert output.count("LOGWOOD hubsub.listener") == 1
    assert output.count("ValueError: {100 %}") == 2


def test_a_logwood_that_is_imported_but_not_configured_is_left_alone() -> None:
    output = run(before="import logwood")
    assert "LOGWOOD" not in output
    assert output.count("ValueError: {100 %}") == 2


def test_without_logwood_the_standard_module_is_used() -> None:
    configure = 'import logging; logging.basicConfig(format="STANDARD %(name)s %(levelname)s %(message)s")'
    output = run(before=f"sys.modules['logwood'] = None; {configure}")
    assert output.count("STANDARD hubsub.listener ERROR listener <function broken") == 2


def test_importing_hubsub_imports_no_logwood() -> None:
    program = "import hubsub, sys; assert 'logwood' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# Records, as users of the standard module expect them


class Unprintable(Exception):
    """Neither `str` nor `repr` of it works."""

    def __str__(self) -> str:
        raise KeyError("no text")

    __repr__ = __str__


# Everything that a traceback cannot be made of, or not without care.
UNFORMATTABLE = [
    SyntaxError("x", ("f", "line", 1, 5)),
    SyntaxError("x", ("f", 1, "a", "line", None, "b")),  # type: ignore[arg-type]
    Unprintable(),
    ExceptionGroup("several", [SyntaxError("x", ("f", "line", 1, 5))]),
    ValueError([[1] * 300_000]),
]


def fail(error: BaseException) -> Any:
    """A listener that raises this."""

    def broken(key: Key[Any], message: Any) -> None:
        raise error

    return broken


def test_the_record_of_a_failure_has_the_error_itself(caplog: pytest.LogCaptureFixture) -> None:
    hub, error = Hub(), ValueError("no text of mine in the message")
    hub.add_listener("a", fail(error))
    hub.publish("a")
    [record] = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[:2] == (ValueError, error)
    assert "no text of mine" not in record.getMessage()


def test_the_record_of_a_failure_names_the_line_that_published(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub()
    hub.add_listener("a", fail(ValueError()))
    hub.publish("a")
    [record] = caplog.records
    assert (record.pathname, record.funcName) == (
        __file__,
        "test_the_record_of_a_failure_names_the_line_that_published",
    )


async def test_the_record_of_an_async_failure_names_a_line_of_the_package(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(key: Key[Any], message: Any) -> None:
        raise ValueError

    async with Hub() as hub:
        hub.add_listener("a", broken)
        hub.publish("a")
    [record] = caplog.records
    assert Path(record.pathname).is_relative_to(Path(sys.modules["hubsub"].__file__ or "").parent)
    assert record.filename != "log.py"


@pytest.mark.parametrize("error", UNFORMATTABLE, ids=lambda error: type(error).__name__)
def test_an_error_that_cannot_be_formatted_hurts_nobody_and_is_logged(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    hub, got = Hub(), list[Any]()
    listener = hub.add_listener("a", fail(error))
    hub.add_listener("a", lambda key, message: got.append(message))
    assert [hub.publish("a", 1), hub.publish("a", 2)] == [2, 2]
    assert got == [1, 2]
    assert (listener.failed, listener.closed) == (2, False)
    for record in caplog.records:
        assert "Traceback" in logging.Formatter().format(record)


@pytest.mark.parametrize("error", UNFORMATTABLE, ids=lambda error: type(error).__name__)
async def test_an_async_listener_survives_an_error_that_cannot_be_formatted(error: Exception) -> None:
    async def broken(key: Key[Any], message: Any) -> None:
        raise error

    async with Hub() as hub:
        listener = hub.add_listener("a", broken)
        hub.publish_many([("a", 1), ("a", 2)])
    assert listener.failed == 2


def test_a_handler_that_raises_hurts_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    hub, handler = Hub(), Broken()
    hub.add_listener("a", fail(ValueError()))
    logging.getLogger("hubsub").addHandler(handler)
    try:
        assert hub.publish("a") == 1
    finally:
        logging.getLogger("hubsub").removeHandler(handler)
    assert "disk full" in capfd.readouterr().err


def test_lines_below_the_level_are_not_made(caplog: pytest.LogCaptureFixture) -> None:
    shown: list[int] = []

    class Watched:
        def __repr__(self) -> str:
            shown.append(1)
            return "watched"

    logger = Logger("hubsub.hub")
    with caplog.at_level(logging.INFO, "hubsub"):
        logger.debug("%r", Watched())
        assert shown == []
        logger.info("%r", Watched())
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("INFO", "watched")]


# Descriptions


class Recursive:
    """Its repr never ends."""

    def __repr__(self) -> str:
        return repr([self])


@pytest.mark.parametrize(
    "thing",
    [
        [1] * 300_000,
        [[1] * 300_000] * 300_000,
        deque(range(300_000)),
        dict.fromkeys(range(300_000)),
        frozenset(range(300_000)),
        Key(*"ab" * 5_000),
        "x" * 300_000,
        10**300_000,
        partial(print, [1] * 300_000),
        partial(partial(print, 1), [1] * 300_000).__call__,
        ["x" * 300_000].append,
        [Unprintable()],
        Unprintable(),
        Recursive(),
        type("Loud", (), {"__repr__": lambda self: "x" * 300_000})(),
        type("Wrong", (), {"__repr__": lambda self: 5})(),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_a_description_is_bounded_and_never_fails(thing: Any) -> None:
    assert 0 < len(describe(thing)) <= MOST + 1


def test_a_description_of_what_is_small_is_its_repr() -> None:
    for thing in (
        ("a",),
        (),
        [1, "b"],
        {"a": {1, 2}},
        set(),
        frozenset(),
        deque([1]),
        "it's",
        b"x",
        None,
        1.5,
        Key("a"),
    ):
        assert describe(thing) == repr(thing)


def test_an_error_is_described_by_its_type_and_text() -> None:
    assert describe_error(KeyError("x")) == "KeyError: 'x'"
    assert describe_error(TimeoutError()) == "TimeoutError"
    assert describe_error(Unprintable()) == "Unprintable, whose text cannot be formatted"


# Episodes


def test_an_episode_logs_the_first_of_a_kind_and_how_often_it_came_again(caplog: pytest.LogCaptureFixture) -> None:
    outage = Episode(Logger("hubsub.bridge.x"))
    for attempt in range(3):
        assert outage.warning("not connected: attempt %d", attempt) is (attempt == 0)
    assert outage.error("not connected: attempt %d", 9, error=OSError("refused"))
    assert outage.is_on
    assert outage.end() == 4
    assert not outage.is_on
    assert outage.end() == 0
    assert [record.getMessage() for record in caplog.records] == [
        "not connected: attempt 0",
        "not connected: attempt 9",
        "not connected: attempt 2 (2 more like it)",
    ]


def test_an_episode_that_goes_on_is_logged_again_after_its_time(caplog: pytest.LogCaptureFixture) -> None:
    episode = Episode(Logger("hubsub.hub"), every=0)
    assert episode.warning("full")
    episode.every = 1e6
    assert not episode.warning("full")
    assert not episode.warning("full")
    episode.every = 0
    assert episode.warning("full")
    assert episode.end() == 4
    assert [record.getMessage() for record in caplog.records] == ["full", "full (2 more like it)"]


def test_an_episode_tells_a_bounded_number_of_kinds_apart(caplog: pytest.LogCaptureFixture) -> None:
    episode = Episode(Logger("hubsub.hub"))
    for number in range(1000):
        episode.warning(f"kind {number}")
    assert episode.end() == 1000
    assert len(caplog.records) <= Episode.MOST_KINDS + 1


# The table in the documentation

PACKAGE = Path(sys.modules["hubsub"].__file__ or "").parent


def logged() -> Iterator[tuple[str, str]]:
    """Yield the level and the text of every line that the package logs."""
    for path in PACKAGE.rglob("*.py"):
        if path.name == "log.py" or "cli" in path.relative_to(PACKAGE).parts:
            continue
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
                text = node.args[0]
                assert isinstance(text, ast.Constant), f"{path}:{node.lineno}: the text is to stand where it is logged"
                yield node.func.attr, re.sub(r"%(\.\d)?[rsdfg]", "…", str(text.value))


LEVELS = ("debug", "info", "warning", "error")


def test_every_line_of_the_log_is_in_the_documentation() -> None:
    page = (PACKAGE.parent / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `hubsub\.\S+` \| (\w+) \| `([^`]+)` \| \S", page, re.MULTILINE)
    assert sorted(set(logged())) == sorted(rows)
