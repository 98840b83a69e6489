"""Every example in the README and in the docs runs and prints what the page says; every link to a test leads to one."""

import io
import re
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

import pytest
from sybil import Document, Example
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

from hubsub.web import Limits
from tools.programs import PROGRAM

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
REPOSITORY = "https://github.com/hubsub/hubsub/blob/main/"

every_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


class Reader:
    """Runs the python blocks of a page, each going on from the one before.

    A text block right after one is what it printed; one that prints something has such a block. Programs that are
    copied from files run as those files, see `test_examples`.
    """

    def __init__(self, page: Path) -> None:
        self.copied = [found.span() for found in PROGRAM.finditer(page.read_text(encoding="utf-8"))]
        parsers = [CodeBlockParser("python", self.run), CodeBlockParser("text", self.compare)]
        self.document = Document.parse(str(page), *parsers)
        self.document.namespace["__name__"] = "__main__"
        self.python = PythonEvaluator()
        self.printed = ""
        self.last = 0

    def read(self) -> None:
        for example in self.document:
            if not any(start <= example.start < end for start, end in self.copied):
                example.evaluate()
        self.check_nothing_unsaid()

    def run(self, example: Example) -> None:
        self.check_nothing_unsaid()
        with redirect_stdout(io.StringIO()) as output:
            self.python(example)
        self.printed = output.getvalue()
        self.last = example.line

    def compare(self, example: Example) -> None:
        assert str(example.parsed).split("\n") == self.printed.split("\n"), (
            f"printed by the example in line {self.last}"
        )
        self.printed = ""

    def check_nothing_unsaid(self) -> None:
        assert not self.printed, f"the page does not show what the example in line {self.last} prints"


@every_page
def test_every_example_runs_and_prints_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An example may leave a file where it runs.
    monkeypatch.chdir(tmp_path)
    Reader(page).read()


@every_page
def test_no_python_is_marked_as_something_that_is_not_run(page: Path) -> None:
    assert not re.search(r"^```(?!python\n)(py|Python|pycon)", page.read_text(encoding="utf-8"), re.MULTILINE)


@every_page
def test_every_link_into_the_repository_leads_to_something(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    # [text](address "title"): what links to a test has the test's name for a title.
    links = re.findall(re.escape(REPOSITORY) + r'([^)\s#]+)(?:#\S+)?(?: "(.*?)")?\)', text)
    for path, title in links:
        assert (ROOT / path).exists(), path
        if title:
            assert re.search(rf"def {title}\(", (ROOT / path).read_text(encoding="utf-8")), f"{path} has no {title}"


@pytest.mark.once
def test_every_picture_is_what_the_script_draws() -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "pictures.py", "--check"], check=True)


@pytest.mark.once
def test_every_program_on_a_page_is_the_file_that_is_run() -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "programs.py", "--check"], check=True)


@pytest.mark.once
def test_the_schema_of_the_protocol_is_that_of_the_code() -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "schema.py", "--check"], check=True)


@pytest.mark.once
def test_the_table_of_brokers_is_what_their_adapters_say() -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "features.py", "--check"], check=True)


def test_the_table_of_limits_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", (ROOT / "docs/web/limits.md").read_text(encoding="utf-8"), re.M)
    assert {name: float(default) for name, default in rows} == asdict(Limits())
