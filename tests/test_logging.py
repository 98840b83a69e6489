"""Logging goes through logwood where it is installed and configured, else through the standard module."""

import subprocess
import sys
import textwrap

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
