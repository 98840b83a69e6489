"""`hubsub check`: what is installed, what is missing, and the command that brings it."""

from __future__ import annotations

import argparse
import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, entry_points, requires, version

from hubsub import MissingDriver, __version__

# What the extras for the development of hubsub begin with; users do not need them.
NOT_FOR_USERS = ("all", "test", "lint", "docs", "bench", "peers")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "check",
        help="show which drivers are installed",
        description="Show which brokers can be reached from here, which extras are installed, and the commands that "
        "bring what is missing.",
    )
    parser.set_defaults(run=main)


def main(arguments: argparse.Namespace) -> int:
    """Show what is installed; return the exit code."""
    print(f"hubsub {__version__}, Python {platform.python_version()}")
    print("\nbrokers")
    _table(_brokers())
    print("\nextras")
    _table(_extras())
    return 0


def _table(rows: Iterator[tuple[str, str]]) -> None:
    found = list(rows)
    width = max((len(name) for name, _ in found), default=0)
    for name, state in found:
        print(f"  {name:<{width}}  {state}")


def _brokers() -> Iterator[tuple[str, str]]:
    """Each scheme, and whether its driver is here."""
    for point in sorted(entry_points(group="hubsub.adapters"), key=lambda each: each.name):
        state = "ready"
        try:
            point.load()(f"{point.name}://localhost/x")
        except MissingDriver as error:
            state = f"missing: {error}"
        except Exception as error:
            # The URL says too little for some; their driver is here all the same.
            state = "ready" if isinstance(error, TypeError | ValueError) else f"{type(error).__name__}: {error}"
        yield f"{point.name}://", state


def _extras() -> Iterator[tuple[str, str]]:
    """Each extra, and which of its packages are here."""
    packages: dict[str, list[str]] = {}
    for line in requires("hubsub") or ():
        name = re.match(r"[A-Za-z0-9_.-]+", line)
        extra = re.search(r"extra == ['\"]([^'\"]+)['\"]", line)
        if name and extra and name[0] != "hubsub":
            packages.setdefault(extra[1], []).append(name[0])
    for extra_name, names in sorted(packages.items()):
        if extra_name.startswith(NOT_FOR_USERS):
            continue
        missing = [name for name in names if _version(name) is None]
        here = ", ".join(f"{name} {found}" for name in names if (found := _version(name)) is not None)
        absent = f"missing {', '.join(missing)}: pip install 'hubsub[{extra_name}]'" if missing else ""
        yield extra_name, "; ".join(filter(None, (here, absent)))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
