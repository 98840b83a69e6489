"""What a run found, as text for the terminal and as tables for the documentation."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median

from .harness import Result, figure
from .throughput import TASKS, Throughput

BEGIN = "<!-- begin: written by make bench -->"
END = "<!-- end -->"

DISTRIBUTIONS = [
    "aiopubsub",
    "blinker",
    "bubus",
    "pyee",
    "pymitter",
    "PyPubSub",
    "redis",
    "hiredis",
    "msgspec",
    "aiokafka",
    "confluent-kafka",
    "aiormq",
]


def machine() -> str:
    """What it ran on: processor, cores, system; nothing that tells whose it is."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2] for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].strip() if names else model
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"


def versions(elsewhere: Iterable[str]) -> str:
    """The interpreter and the libraries."""
    import hubsub

    found = [f"{platform.python_implementation()} {platform.python_version()}", f"hubsub {hubsub.__version__}"]
    found += [f"{name} {metadata.version(name)}" for name in DISTRIBUTIONS]
    return ", ".join([*found, *elsewhere])


def line(result: Result) -> str:
    """One benchmark for the terminal."""
    benchmark = result.benchmark
    low, high = (figure(value, benchmark.unit) for value in (min(result.values), max(result.values)))
    reached = "" if result.is_reached else "  MISSED"
    name, middle = benchmark.name, figure(result.median, benchmark.unit)
    return f"{name:46} {middle:>10}   {low:>10} … {high:<10}  {benchmark.target}{reached}"


def throughput_lines(task: str, found: list[Throughput]) -> Iterable[str]:
    """One task for the terminal."""
    yield TASKS[task]
    for each in found:
        yield f"    {each.name:14} {figure(each.median, '×'):>8}   {median(each.seconds) * 1e6:9.2f} µs a message"


def tables(results: list[Result], throughput: dict[str, list[Throughput]], where: str, what: str, rounds: str) -> str:
    """Everything for the documentation."""
    parts = [f"Measured on: {where}. {what}. {rounds}", ""]
    parts += ["| Benchmark | What is compared | Target | Median | Least … most |", "| --- | --- | --- | --- | --- |"]
    parts += map(row, results)
    parts += ["", "![Messages in the time that hubsub takes for one, by library and task](benchmarks.svg)", ""]
    for task, found in throughput.items():
        parts += [f"| {TASKS[task]} | Relative to hubsub | Least … most | µs a message |", "| --- | --- | --- | --- |"]
        for each in found:
            low, middle, high = (figure(f(each.relative), "×") for f in (min, median, max))
            parts.append(f"| {each.name} | {middle} | {low} … {high} | {median(each.seconds) * 1e6:.2f} |")
        parts.append("")
    return "\n".join(parts).rstrip()


def row(result: Result) -> str:
    """One benchmark for the documentation."""
    benchmark = result.benchmark
    low, middle, high = (figure(f(result.values), benchmark.unit) for f in (min, median, max))
    verdict = f"**{middle}**" if result.is_reached else f"**{middle}** (missed)"
    return f"| `{benchmark.name}` | {benchmark.sentence} | {benchmark.target} | {verdict} | {low} … {high} |"


def replace_rows(page: Path, results: Iterable[Result], order: Sequence[str]) -> None:
    """Put some rows into the page, in the place of the last ones; new ones where they belong in this order of names."""
    before, tables, after = _parts(page)
    lines = tables.split("\n")
    for result in results:
        name = result.benchmark.name
        places = {text.split("`")[1]: place for place, text in enumerate(lines) if text.startswith("| `")}
        if name in places:
            lines[places[name]] = row(result)
        else:
            lines.insert(1 + max(places[each] for each in order[: order.index(name)] if each in places), row(result))
    page.write_text(before + "\n".join(lines) + after, encoding="utf-8")


def replace_between_markers(page: Path, text: str) -> None:
    """Put the tables into the page, in the place of the last ones."""
    before, _, after = _parts(page)
    page.write_text(f"{before}\n\n{text}\n\n{after}", encoding="utf-8")


def _parts(page: Path) -> tuple[str, str, str]:
    """Return a page in three parts: the tables, and what is before and after them."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    tables, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} lacks the markers {BEGIN} and {END}, between which the tables go")
    return before + begin, tables, end + after
