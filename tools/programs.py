"""Copy the programs that pages show into these pages, from the files that the tests run.

    python tools/programs.py [--check]

Between `<!-- program: PATH -->` and `<!-- end -->` a page has the program and what it prints, or the cells of a
notebook. With --check nothing is written, and a page that is not what this writes is an error.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = re.compile(r"<!-- program: (\S+) -->\n(.*?)<!-- end -->", re.DOTALL)


def shown(path: Path) -> str:
    """Return a program as a page shows it."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        return "\n".join(f"```python\n{cell}\n```\n" for cell in cells)
    program, _, output = text.partition("\n# Output:\n")
    blocks = f"```python\n{program.rstrip()}\n```\n"
    if output:
        lines = "".join(f"{line.removeprefix('# ')}\n" for line in output.splitlines())
        blocks += f"\nIt prints:\n\n```text\n{lines}```\n"
    return blocks


def written(page: Path) -> str:
    """Return what a page should be."""
    text = page.read_text(encoding="utf-8")
    return PROGRAM.sub(lambda found: f"<!-- program: {found[1]} -->\n\n{shown(ROOT / found[1])}\n<!-- end -->", text)


def main() -> None:
    wrong = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        text = written(page)
        if text != page.read_text(encoding="utf-8"):
            wrong.append(str(page.relative_to(ROOT)))
            if "--check" not in sys.argv[1:]:
                page.write_text(text, encoding="utf-8")
    if wrong and "--check" in sys.argv[1:]:
        sys.exit(f"not what the programs are, run tools/programs.py: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
