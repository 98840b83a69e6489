"""The adapter that the documentation shows is complete, short, and right."""

import re
from pathlib import Path
from typing import Any

import pytest

from hubsub.testing import conformance

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bridges" / "adapters.md"
SOURCE = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[0]


def sqlite_adapter(path: Path) -> Any:
    names: dict[str, Any] = {}
    exec(SOURCE, names)
    return names["SQLiteAdapter"](path)


def test_the_adapter_of_the_page_is_short() -> None:
    code = SOURCE[SOURCE.index("class ") :]
    assert len([line for line in code.splitlines() if line.strip()]) <= 60


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
async def test_the_adapter_of_the_page_conforms(check: conformance.Check, tmp_path: Path) -> None:
    await check(lambda: sqlite_adapter(tmp_path / "messages.db"))
