"""PostgreSQL."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from glob import glob
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import psutil

from .broker import Broker
from .certificates import certificates
from .reaper import reaper, tree

MISSING = "no PostgreSQL is installed: sudo apt-get install postgresql"
PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")


class Postgres(Broker):
    """A PostgreSQL with a role and a database for bridges, both called `user`; and the superuser `postgres`.

    Args:
        tls: Speak TLS only, with the certificate of `certificates()`.
        password: Demanded of every client.
        user: The role, which is not a superuser, and its database.
        replica_of: The port of another one, which runs when this one is prepared: it follows that one, until `promote`.
        settings: More settings of postgresql.conf, such as `max_connections=5`.
    """

    name = "postgres"
    # It refuses to be root.
    run_as = "postgres" if os.geteuid() == 0 else None

    def __init__(
        self,
        *,
        tls: bool = False,
        password: str | None = None,
        user: str = "hubsub",
        replica_of: int | None = None,
        **settings: object,
    ) -> None:
        super().__init__()
        self.tls = tls
        self.password = password
        self.user = user
        self._replica_of = replica_of
        # A kill loses nothing that was written: only a power cut would, and without waiting for the disk it is faster.
        self._settings: dict[str, object] = {"fsync": "off", "shared_buffers": "32MB"} | settings

    @classmethod
    def missing(cls) -> str | None:
        return None if _programs() else MISSING

    @property
    def url(self) -> str:
        return self.url_of(self.user)

    def url_of(self, user: str) -> str:
        """Where a role finds the database of the bridges."""
        login = user if self.password is None else f"{user}:{quote(self.password, safe='')}"
        return f"postgres://{login}@127.0.0.1:{self.port}/{self.user}{'?sslmode=require' * self.tls}"

    async def client(self, user: str = "postgres") -> Any:
        """A connection past the bridges, by default the superuser's, to their database; close it."""
        context = certificates().context() if self.tls else None
        return await asyncpg.connect(self.url_of(user).partition("?")[0], ssl=context or False)

    async def execute(self, *statements: str, user: str = "postgres") -> None:
        """Run statements past the bridges, by default as the superuser."""
        client = await self.client(user)
        try:
            for statement in statements:
                await client.execute(statement)
        finally:
            await client.close()

    async def promote(self) -> None:
        """Make a replica the one that takes writes; return when it does."""
        await self.execute("select pg_promote(wait => true, wait_seconds => 30)")

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _program(self, name: str) -> Path:
        programs = _programs()
        assert programs is not None
        return programs / name

    def prepare(self) -> None:
        if self.run_as:
            # To get there, its user has to pass the folder of all brokers.
            reaper().folder.chmod(0o711)
            shutil.chown(self.folder, self.run_as, self.run_as)
        if self._replica_of is not None:
            source = ["-d", f"host=127.0.0.1 port={self._replica_of} user=postgres"]
            self._run(self._program("pg_basebackup"), *source, "-D", self._data, "-R", "-c", "fast", "--no-sync")
            return
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"]
        self._run(self._program("initdb"), "-D", self._data, *options)
        secret = "" if self.password is None else self.password.replace("'", "''")
        # No server is needed for that; each line is a statement.
        self._run(
            self._program("postgres"),
            *("--single", "-D", str(self._data), "-F", "postgres"),
            text=f"create role \"{self.user}\" login password '{secret}'\n"
            f"alter role postgres password '{secret}'\n"
            f'create database "{self.user}" owner "{self.user}"\n',
        )
        if self.tls:
            key = self.folder / "server.pem"
            shutil.copy(certificates().key_and_chain, key)
            key.chmod(0o600)
            if self.run_as:
                shutil.chown(key, self.run_as, self.run_as)
            self._settings |= {"ssl": "on", "ssl_cert_file": key, "ssl_key_file": key}
        method = "trust" if self.password is None else "scram-sha-256"
        kind = "hostssl" if self.tls else "host"
        lines = [f"{kind} {which} all 127.0.0.1/32 {method}" for which in ("all", "replication")]
        (self._data / "pg_hba.conf").write_text("\n".join([*lines, f"local all all {method}"]) + "\n")

    def _run(self, *words: str | Path, text: str = "") -> None:
        done = subprocess.run(
            words,
            input=text.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            check=False,
            user=self.run_as,
            group=self.run_as,
            extra_groups=None if self.run_as is None else [],
        )
        if done.returncode or b"ERROR" in done.stdout:
            raise RuntimeError(f"{self!r} cannot be prepared:\n{done.stdout.decode(errors='replace')[-4000:]}")

    def command(self) -> list[str | Path]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            **self._settings,
        }
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        return [self._program("postgres"), "-D", self._data, *options]

    def is_ready(self) -> bool:
        asked = [str(self._program("pg_isready")), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
        return subprocess.run(asked, check=False).returncode == 0

    def kill(self) -> None:
        # The next one does not start before all of this one are gone.
        processes = [] if self._process is None or self._process.returncode is not None else tree(self._process.pid)
        super().kill()
        deadline = time.monotonic() + 10
        while any(map(_lives, processes)) and time.monotonic() < deadline:
            time.sleep(0.002)


def _lives(process: psutil.Process) -> bool:
    """False also of one that is dead, and that nobody has asked about."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _programs() -> Path | None:
    """The folder of the newest PostgreSQL here."""
    found = [Path(folder) for place in PLACES for folder in glob(place) if (Path(folder) / "initdb").exists()]
    if found:
        return max(found, key=lambda folder: int("".join(filter(str.isdigit, folder.parent.name)) or 0))
    initdb = shutil.which("initdb")
    return None if initdb is None else Path(initdb).parent
