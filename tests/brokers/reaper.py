"""Ends what a test process has started, when that process is gone.

A program of its own, because nothing in a process runs after a SIGKILL. The death signal that Linux can send to a child
comes when the *thread* ends that started it, and brokers are started in threads.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import psutil


def tree(pid: int) -> list[psutil.Process]:
    """The process and its descendants; empty if it is gone.

    Not its process group: some brokers give their children groups of their own.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def kill(processes: list[psutil.Process]) -> None:
    """Kill them, frozen ones too."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


class Reaper:
    """Knows the brokers of this process, and the folder of all their files."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hubsub-brokers-"))
        # A session of its own: the Ctrl-C that ends the tests must not end it before them.
        self._program = subprocess.Popen(
            [sys.executable, __file__, self.folder], stdin=subprocess.PIPE, bufsize=0, start_new_session=True
        )

    def watch(self, pid: int) -> None:
        """Kill the tree of this process when this one is gone."""
        self._tell(f"+{pid}\n")

    def forget(self, pid: int) -> None:
        """This process has ended: its id may get another meaning."""
        self._tell(f"-{pid}\n")

    def _tell(self, line: str) -> None:
        assert self._program.stdin is not None
        self._program.stdin.write(line.encode())


@cache
def reaper() -> Reaper:
    """The one of this process."""
    return Reaper()


def main() -> None:
    (folder,) = sys.argv[1:]
    pids = set()
    for line in sys.stdin:
        if line[0] == "+":
            pids.add(int(line[1:]))
        else:
            pids.discard(int(line[1:]))
    # The end of the input is the end of whoever had the other end.
    processes = [process for pid in pids for process in tree(pid)]
    kill(processes)
    psutil.wait_procs(processes, timeout=10)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
