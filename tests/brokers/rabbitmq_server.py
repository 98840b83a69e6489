"""RabbitMQ, one node."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote

from .broker import Broker
from .certificates import certificates
from .reaper import reaper

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
CONTROL = SERVER.with_name("rabbitmqctl")
MISSING = "rabbitmq-server is not installed: sudo apt-get install rabbitmq-server"


class RabbitMQ(Broker):
    """A RabbitMQ with a name server of its own, so that it meets no other node of this machine.

    Args:
        tls: Speak TLS only, with the certificate of `certificates()`.
        settings: More settings of rabbitmq.conf; "__" stands for ".".
    """

    name = "rabbitmq"

    def __init__(self, *, tls: bool = False, **settings: object) -> None:
        super().__init__()
        self.tls = tls
        self._settings = settings
        self._names = self.reserve()
        self._inner = self.reserve()
        self._name_server: subprocess.Popen[bytes] | None = None

    @classmethod
    def missing(cls) -> str | None:
        return None if SERVER.exists() else MISSING

    @property
    def url(self) -> str:
        return f"amqp{'s' * self.tls}://127.0.0.1:{self.port}"

    def url_for(self, user: str, password: str, vhost: str = "/") -> str:
        """Where a bridge finds it, as somebody."""
        return self.url.replace("://", f"://{user}:{quote(password, safe='')}@") + f"/{quote(vhost, safe='')}"

    def prepare(self) -> None:
        for each in ("mnesia", "log", "home"):
            (self.folder / each).mkdir()
        lines = ["loopback_users = none", "log.console = true", "log.file = false"]
        if self.tls:
            files = certificates()
            lines += [
                "listeners.tcp = none",
                f"listeners.ssl.1 = 127.0.0.1:{self.port}",
                f"ssl_options.cacertfile = {files.authority}",
                f"ssl_options.certfile = {files.key_and_chain}",
                f"ssl_options.keyfile = {files.key_and_chain}",
                "ssl_options.verify = verify_none",
            ]
        else:
            lines.append(f"listeners.tcp.1 = 127.0.0.1:{self.port}")
        lines += [f"{name.replace('__', '.')} = {value}" for name, value in self._settings.items()]
        (self.folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.folder / "enabled_plugins").write_text("[].")
        self._name_server = subprocess.Popen(
            ["epmd", "-port", str(self._names), "-address", "127.0.0.1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        reaper().watch(self._name_server.pid)

    @property
    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self.folder / "home"),
            "ERL_EPMD_PORT": str(self._names),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # Else the process that is started is not the one to kill, where it is started by root.
            "RUNNING_UNDER_SYSTEMD": "true",
            "RABBITMQ_NODENAME": f"r{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._inner),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            # One thread that does the work is enough, and they need not wait busily for it.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}",
        }

    def command(self) -> list[str | Path]:
        return ["env", "-i", *(f"{name}={value}" for name, value in self._environment.items()), SERVER]

    def is_ready(self) -> bool:
        if self.tls:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
            return False
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as line:
            line.sendall(b"AMQP\0\0\x09\x01")
            return line.recv(3) == b"\x01\0\0"
        return False

    # On a busy machine it takes half a minute.
    def start(self, timeout: float = 150) -> Self:
        return super().start(timeout)

    async def start_wait(self, timeout: float = 150) -> Self:
        return await super().start_wait(timeout)

    def control(self, *words: object) -> str:
        """Run rabbitmqctl, which takes a second or two; return what it says."""
        done = subprocess.run(
            [CONTROL, "-q", *map(str, words)], env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def kill(self) -> None:
        # Half a second passes before RabbitMQ has noted which quorum queues there are. One that it has not noted by the
        # time when it is killed never works again.
        deadline = time.monotonic() + 5
        while self.is_running and not self._has_noted() and time.monotonic() < deadline:
            time.sleep(0.01)
        super().kill()

    def _has_noted(self) -> bool:
        """True if what says so was closed properly: a word in the head of the file."""
        files = (self.folder / "mnesia").glob("*/*/*/names.dets")
        return all(file.read_bytes()[8:12] == b"\0\0\0\x01" for file in files)

    def close(self) -> None:
        super().close()
        if self._name_server is not None:
            self._name_server.kill()
            self._name_server.wait()
            reaper().forget(self._name_server.pid)
