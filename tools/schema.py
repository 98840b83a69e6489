"""Write docs/web/protocol.schema.json from the types that read what clients send; with `--check` only compare."""

from __future__ import annotations

import json
import pathlib
import sys

import msgspec

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hubsub.web.protocol import ClientFrame  # noqa: E402

PATH = ROOT / "docs" / "web" / "protocol.schema.json"


def main() -> None:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "hubsub.v1, what a client sends"}
    text = json.dumps(schema | msgspec.json.schema(ClientFrame), indent=2) + "\n"
    if "--check" not in sys.argv[1:]:
        PATH.write_text(text, encoding="utf-8")
    elif PATH.read_text(encoding="utf-8") != text:
        sys.exit(f"out of date, run `python tools/schema.py`: {PATH.name}")


if __name__ == "__main__":
    main()
