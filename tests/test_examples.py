"""Each example runs by itself and prints what its last comment says."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples"
EXAMPLES = sorted(path.name for path in FOLDER.glob("*.py"))


def promised(source: str) -> list[str]:
    """The lines below `# Output:`, without their comment signs."""
    _, _, block = source.partition("\n# Output:\n")
    return [line.removeprefix("# ") for line in block.splitlines()]


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_prints_what_it_says(name: str) -> None:
    expected = promised((FOLDER / name).read_text(encoding="utf-8"))
    assert expected, f"{name} does not end with its output"
    command = [sys.executable, "-X", "utf8", "-W", "error", str(FOLDER / name)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=50)
    assert done.stderr == ""
    assert done.stdout.splitlines() == expected
    assert done.returncode == 0


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_says_what_it_shows(name: str) -> None:
    assert ast.get_docstring(ast.parse((FOLDER / name).read_text(encoding="utf-8")))


def test_overview_names_every_example() -> None:
    overview = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [name for name in EXAMPLES if f"({name})" not in overview] == []
