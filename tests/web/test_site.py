"""The site of the documentation, as it is built, in a real browser: found by a search, and read on a phone."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from .browsers import ROOT, chromium

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("site"), pytest.mark.timeout(300)]

PAGES = ["", "quickstart/", "bridges/", "errors/", "api/"]
# A word, and the page that has to be among the first three.
FOUND = {"retry": "listeners/", "debounce": "listeners/", "fastapi": "recipes/fastapi/"}


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the site was built."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
async def phone() -> AsyncIterator[Any]:
    """A tab as wide as a phone."""
    async with chromium() as browser:
        context = await browser.new_context(viewport={"width": 390, "height": 844})
        # Only for what hangs.
        context.set_default_timeout(120_000)
        yield await context.new_page()


async def test_pages_fit_on_a_phone_and_tables_break_no_name(phone: Any, address: str) -> None:
    widths, broken = {}, []
    for page in PAGES:
        await phone.goto(address + page, wait_until="domcontentloaded")
        widths[page] = await phone.evaluate("document.documentElement.scrollWidth")
        broken += await phone.evaluate(
            """[...document.querySelectorAll("td code")].filter(name => !/\\s/.test(name.textContent))
            .filter(name => name.getClientRects().length > 1).map(name => name.textContent)"""
        )
    assert widths == dict.fromkeys(PAGES, 390)
    assert broken == []


async def test_search_finds_what_users_look_for(phone: Any, address: str) -> None:
    await phone.goto(address)
    await phone.locator(".md-header__button[for=__search]").click()
    field = phone.locator("[data-md-component=search-query]")
    results = phone.locator(".md-search-result__link")
    for word, page in FOUND.items():
        await field.clear()
        await field.press_sequentially(word)
        await phone.locator(f".md-search-result__link[href*='h={word}']").first.wait_for(state="attached")
        links = await results.evaluate_all("links => links.map(link => new URL(link.href).pathname.slice(1))")
        assert page in list(dict.fromkeys(links))[:3], word


def test_signatures_are_broken_into_lines(site: Path) -> None:
    page = (site / "api" / "index.html").read_text(encoding="utf-8")
    blocks = re.findall(r'<div class="[^"]*doc-signature.*?<pre>(.*?)</pre>', page, re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"<[^>]+>|&\w+;", "", block).split("\n")]
    assert len(lines) > len(blocks) > 100
    # The formatter breaks at 60; a name may reach beyond.
    assert max(map(len, lines)) < 100


def test_programs_find_every_page_as_markdown(site: Path) -> None:
    listed = re.findall(r"^- \[.+\]\((\S+\.md)\): (.*)$", (site / "llms.txt").read_text(encoding="utf-8"), re.MULTILINE)
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert {name for name, _ in listed} == pages
    assert [name for name, description in listed if len(description) < 20] == []
    whole = (site / "llms-full.txt").read_text(encoding="utf-8")
    for name, _ in listed:
        text = (site / name).read_text(encoding="utf-8").strip()
        assert text in whole, name
    # The reference has signatures and docstrings, and not only names.
    reference = (site / "api.md").read_text(encoding="utf-8")
    assert "publish_confirmed(key: Key[T], message: T" in reference
    assert ":::" not in reference
