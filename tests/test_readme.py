"""What the README promises: its program sends a message to a second terminal, and its figures are measured."""

import asyncio
import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BENCHMARKS = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.once


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


async def test_the_program_of_the_readme_is_seen_in_a_second_terminal(tmp_path: Path) -> None:
    first, with_bridge = blocks("python")
    # As the page says: its `main` replaces the one that is there.
    (tmp_path / "shop.py").write_text(first[: first.index("async def main")] + with_bridge, encoding="utf-8")
    (shown,) = (block for block in blocks("console") if block.startswith("$ hubsub tap sqlite://orders.db"))
    command, line = shown.rstrip().split("\n")

    arguments = [sys.executable, "-m", *shlex.split(command.removeprefix("$ "))]
    tap = await asyncio.create_subprocess_exec(*arguments, cwd=tmp_path, stdout=asyncio.subprocess.PIPE)
    assert tap.stdout is not None
    reading = asyncio.create_task(tap.stdout.readline())
    try:
        # Only what is published while the tap looks is seen, and nothing says when it begins.
        while not reading.done():
            shop = await asyncio.create_subprocess_exec(
                sys.executable, "shop.py", cwd=tmp_path, stdout=asyncio.subprocess.PIPE
            )
            output, _ = await shop.communicate()
            assert output.decode() == "shipping {'tea': 2}\n"
            await asyncio.wait([reading], timeout=0.5)
        # The time is another one each time.
        assert (await reading).decode().split()[1:] == line.split()[1:]
    finally:
        tap.terminate()
        await tap.communicate()


def test_the_four_figures_are_those_that_were_measured() -> None:
    table = README[README.index("<!-- figures -->") : README.index("<!-- /figures -->")]
    figures = re.findall(r"^\| \[`(\w+)`\].* \| \D*([\d.]+)", table, re.MULTILINE)
    assert len(figures) == 4
    for name, figure in figures:
        measured = re.search(rf"^\| `{name}` .*\*\*([\d.]+)", BENCHMARKS, re.MULTILINE)
        assert measured, f"docs/benchmarks.md does not have {name}"
        # As many digits as the README has; the page has one more.
        assert abs(float(figure) - float(measured[1])) <= 0.5 * 10 ** -len(figure.partition(".")[2]) + 1e-9, name


def test_the_recording_is_small_and_moves_for_those_who_want_it() -> None:
    recording = (ROOT / "docs" / "pictures" / "recording.svg").read_text(encoding="utf-8")
    assert len(recording.encode()) < 300_000
    assert "prefers-color-scheme: dark" in recording
    assert "prefers-reduced-motion: reduce" in recording
    # It shows the demo and the tap, and nothing of the machine that it was made on.
    assert "hubsub demo --bridge sqlite://demo.db" in recording
    assert "demo/laptop/" in recording
    assert "/home" not in recording
    assert "/tmp" not in recording
