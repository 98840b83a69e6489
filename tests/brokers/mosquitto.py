"""Eclipse Mosquitto, an MQTT broker."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from .broker import Broker, listens
from .certificates import certificates

PROGRAM = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")


class Mosquitto(Broker):
    """A Mosquitto that drops nothing that waits for a client.

    What it keeps it writes down when it ends, and by `save`; else it would be lost when it is killed.

    Args:
        tls: Speak TLS only, with the certificate of `certificates()`.
        logins: Users and their passwords; then nobody else may connect.
        settings: More settings of mosquitto.conf, such as `max_inflight_messages=20`.
    """

    name = "mosquitto"

    def __init__(self, *, tls: bool = False, logins: dict[str, str] | None = None, **settings: object) -> None:
        super().__init__()
        self.tls = tls
        self.logins = logins or {}
        self._settings = {"autosave_interval": 0, "max_queued_messages": 0, "max_inflight_messages": 0} | settings

    @classmethod
    def missing(cls) -> str | None:
        return None if PROGRAM else "mosquitto is not installed: sudo apt-get install mosquitto"

    @property
    def url(self) -> str:
        login = "".join(f"{quote(user)}:{quote(word, safe='')}@" for user, word in list(self.logins.items())[:1])
        return f"mqtt{'s' * self.tls}://{login}127.0.0.1:{self.port}"

    def prepare(self) -> None:
        lines = [
            f"listener {self.port} 127.0.0.1",
            f"allow_anonymous {'false' if self.logins else 'true'}",
            # As root it would become another user, who has no right to the folder.
            "user root",
            "persistence true",
            f"persistence_location {self.folder}/",
            "set_tcp_nodelay true",
            f"acl_file {self._acl}",
            "log_type error",
            "log_type warning",
            "log_type notice",
            "log_type information",  # that it has read its file again
        ]
        if self.logins:
            words = self.folder / "passwords"
            words.touch()
            for user, word in self.logins.items():
                subprocess.run(["mosquitto_passwd", "-b", words, user, word], check=True)
            lines.append(f"password_file {words}")
        if self.tls:
            files = certificates()
            lines += [f"certfile {files.key_and_chain}", f"keyfile {files.key_and_chain}"]
        lines += [f"{name} {value}" for name, value in self._settings.items()]
        self._conf.write_text("\n".join(lines) + "\n")
        self._write_acl([])

    def command(self) -> list[str | Path]:
        return [PROGRAM or "mosquitto", "-c", self._conf]

    def is_ready(self) -> bool:
        return listens(self.port)

    @property
    def _conf(self) -> Path:
        return self.folder / "mosquitto.conf"

    @property
    def _acl(self) -> Path:
        return self.folder / "acl"

    def _write_acl(self, rules: Iterable[str]) -> None:
        everything = ["topic readwrite #", "topic read $SYS/#", "pattern readwrite #"]
        self._acl.write_text("\n".join([*everything, *rules]) + "\n")

    def deny(self, *filters: str) -> None:
        """From now on let nobody read or write what these filters match; without any, let everybody do everything."""
        self._write_acl(f"topic deny {filter}" for filter in filters)
        if self.is_running:
            # It reads the file in its loop, some time after the signal has come; its log says when it has.
            before = self.log.read_text().count("Reloading config")
            (process := self._process)
            assert process is not None
            process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 10
            while self.log.read_text().count("Reloading config") == before and time.monotonic() < deadline:
                time.sleep(0.005)

    def save(self) -> None:
        """Return when it has written down all that it has confirmed by now."""
        process, file = self._process, self.folder / "mosquitto.db"
        if process is None or process.poll() is not None:
            return
        before = file.stat().st_mtime_ns if file.exists() else 0
        process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + 5
        while (not file.exists() or file.stat().st_mtime_ns == before) and time.monotonic() < deadline:
            time.sleep(0.002)
