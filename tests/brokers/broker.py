"""What all brokers of the tests have in common: a process, a port that stays the same, a folder for their data."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import weakref
from pathlib import Path
from typing import Self

import psutil

from .proxy import Proxy
from .reaper import kill, reaper, tree


class Broker:
    """A private instance of a broker on a loopback port that stays the same for its whole life.

    Made, it is not started yet. What takes longer than a few milliseconds has a counterpart in `_wait`, which leaves
    the loop alone. Subclasses say how to prepare, start and ask it.
    """

    name = "broker"
    run_as: str | None = None
    """The user who runs it, if that is somebody else."""

    def __init__(self) -> None:
        self._reserved: list[socket.socket] = []
        self.port = self.reserve()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=reaper().folder))
        self.log = self.folder / "log.txt"
        self._process: subprocess.Popen[bytes] | None = None
        self._prepared = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on port {self.port}>"

    # What a subclass says

    @classmethod
    def missing(cls) -> str | None:
        """What keeps it from running on this machine, and the remedy; None if nothing does."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Where a bridge finds it."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Write into `folder` what it needs, once, before the first start."""

    def command(self) -> list[str | Path]:
        """What starts it, in the foreground."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        """True if it answers."""
        raise NotImplementedError

    # What a test does

    def start(self, timeout: float = 30) -> Self:
        """Start it and return when it answers.

        Raises:
            RuntimeError: It ended, or did not answer in `timeout` seconds; with the end of its log.
        """
        assert not self.is_running, f"{self!r} is running already"
        if not self._prepared:
            self.prepare()
            self._prepared = True
        environment = {"HOME": str(self.folder), "LANG": "C.UTF-8", "PATH": os.environ["PATH"]}
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=environment,
                # The Ctrl-C that ends the tests is not for it.
                start_new_session=True,
                user=self.run_as,
                group=self.run_as,
                extra_groups=None if self.run_as is None else [],
            )
        self._process = process
        reaper().watch(process.pid)
        deadline = time.monotonic() + timeout
        while not self.is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self!r} did not start:\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.005)
        return self

    async def start_wait(self, timeout: float = 30) -> Self:
        """`start`, while the loop runs on."""
        return await asyncio.to_thread(self.start, timeout)

    @property
    def is_running(self) -> bool:
        """True from start to kill, frozen or not, unless it ended by itself."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process, or what was its process last."""
        assert self._process is not None, f"{self!r} was never started"
        return self._process.pid

    def kill(self) -> None:
        """Kill it without warning, its children too, and return when it is dead; what it wrote stays."""
        if self._process is None:
            return
        if self._process.returncode is None:
            kill(tree(self._process.pid))
            self._process.wait()
        reaper().forget(self._process.pid)

    def restart(self) -> Self:
        """Kill it, and start it again on the same port with what it has stored."""
        self.kill()
        return self.start()

    async def restart_wait(self) -> Self:
        """`restart`, while the loop runs on."""
        self.kill()
        return await self.start_wait()

    def freeze(self) -> None:
        """Stop it in the middle of whatever it does: connections stay and connect, and nothing answers."""
        processes = tree(self.pid)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):  # a child that has just ended
                process.suspend()
        # On a busy machine a thread may go on for a while: the signal has to be taken by one of them first.
        deadline = time.monotonic() + 10
        while not all(map(_is_stopped, processes)) and time.monotonic() < deadline:
            time.sleep(0.001)

    def thaw(self) -> None:
        """Let it go on."""
        for process in tree(self.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def proxy(self) -> Proxy:
        """A line to this broker that can fail: `async with broker.proxy() as proxy`, then use `proxy.url`."""
        return Proxy(self.port, url=self.url)

    def close(self) -> None:
        """Kill it and remove its files. Closing twice is safe."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        for reserved in self._reserved:
            reserved.close()

    def reserve(self) -> int:
        """Return a free port that nobody else gets before this broker is closed.

        A socket that is bound and does not listen lets only another one in that also reuses the address, and refuses
        connections meanwhile. Without it, a client that looks for a killed broker may be given that very port as its
        own, and then connects to itself.
        """
        reserved = socket.socket()
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        self._reserved.append(reserved)
        # A test that is skipped may have made a broker which nobody closes.
        weakref.finalize(self, reserved.close)
        port: int = reserved.getsockname()[1]
        return port


def _is_stopped(process: psutil.Process) -> bool:
    """True if all threads of a process are stopped, or nobody can tell."""
    for thread in Path(f"/proc/{process.pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            if thread.read_text().rpartition(")")[2].split()[0] not in "TtZX":
                return False
    return True


def listens(port: int) -> bool:
    """True if somebody accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
