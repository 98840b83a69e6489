"""`python -m benchmarks`: compare, print, and write docs/benchmarks.md and docs/benchmarks.svg.

With `--only`, it writes the rows of those benchmarks, and leaves the rest of the page as it is.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import time
from importlib import import_module
from pathlib import Path

from . import chart, harness, report, throughput
from .harness import BENCHMARKS, Missing, run

ROOT = Path(__file__).resolve().parent.parent
# Importing them registers their benchmarks, in the order of the table.
GROUPS = (
    "publishing",
    "interpreters",
    "queueing",
    "matching",
    "subscribing",
    "pausing",
    "overflowing",
    "confirming",
    "bridging",
    "crossing",
    "recovering",
    "memory",
    "importing",
    "web.comparing",
)
BROADCASTER = ROOT / ".venv-broadcaster" / "bin" / "python"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Compare hubsub with its peers.")
    parser.add_argument("--quick", action="store_true", help="a fifth of the rounds")
    parser.add_argument("--only", metavar="NAME", nargs="+", default=[""], help="those with one of these in their name")
    parser.add_argument("--no-write", action="store_true", help="print only")
    parser.add_argument("--list", action="store_true", help="list the benchmarks and end")
    parser.add_argument("--broadcaster", metavar="PYTHON", type=Path, default=BROADCASTER, help="where that one is")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    for group in GROUPS:
        import_module(f"{__package__}.{group}")
    if options.list:
        for benchmark in BENCHMARKS:
            print(f"{benchmark.name}\n    {benchmark.sentence} Target: {benchmark.target}.")
        return
    if options.quick:
        harness.shorter = 10
    # Processes that are started here import the package from here.
    os.chdir(ROOT)
    logging.disable(logging.WARNING)
    began = time.monotonic()
    wanted: list[str] = options.only

    versions = []
    if options.broadcaster.exists():
        throughput.ELSEWHERE["broadcaster"] = throughput.Elsewhere(options.broadcaster, "broadcaster")
        versions.append(version_in(options.broadcaster, "broadcaster"))
    else:
        print("Without broadcaster: its environment is missing, `make bench` makes it.")
    if (web := ROOT / ".venv-web" / "bin" / "python").exists():
        versions += [version_in(web, each) for each in ("fastapi_websocket_pubsub", "starlette", "uvicorn")]
    where, what = report.machine(), report.versions(versions)
    print(f"{where}\n{what}\n")

    results = []
    left_out = []
    for benchmark in BENCHMARKS:
        if any(each in benchmark.name for each in wanted):
            try:
                results.append(run(benchmark, options.quick))
            except Missing as missing:
                left_out.append(f"{benchmark.name}: left out, {missing}")
                print(left_out[-1], flush=True)
            else:
                print(report.line(results[-1]), flush=True)

    found = {}
    rounds = 3 if options.quick else 15
    for task in throughput.TASKS:
        if any(each in f"throughput_{task}" for each in wanted):
            found[task] = throughput.run(task, rounds)
            print("\n" + "\n".join(report.throughput_lines(task, found[task])), flush=True)
    for peer in throughput.ELSEWHERE.values():
        peer.close()
    print("\n".join(["", *left_out, f"{time.monotonic() - began:.0f} s"]))

    page = ROOT / "docs" / "benchmarks.md"
    if options.no_write:
        return
    if wanted != [""]:
        report.replace_rows(page, results, [each.name for each in BENCHMARKS])
    else:
        how = "A quick run, a fifth of the rounds." if options.quick else ""
        how = " ".join([how, *(f"{each}." for each in left_out)])
        report.replace_between_markers(page, report.tables(results, found, where, what, how))
        bars = {throughput.TASKS[task]: [(each.name, each.median) for each in peers] for task, peers in found.items()}
        note = f"Messages in the time that hubsub takes for one. {where}."
        drawing = chart.draw("Throughput relative to hubsub", note, bars)
        (ROOT / "docs/benchmarks.svg").write_text(drawing, encoding="utf-8")


def version_in(python: Path, distribution: str) -> str:
    code = f"from importlib.metadata import version; print(version({distribution!r}))"
    output = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout
    return f"{distribution} {output.strip()}"


if __name__ == "__main__":
    main()
