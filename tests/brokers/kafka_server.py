"""Apache Kafka in KRaft mode, broker and controller in one process."""

from __future__ import annotations

import base64
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any, Self

from .broker import Broker, listens
from .certificates import certificates
from .proxy import Proxy

# `make test` brings them, see tools/setup_env.py.
JARS = Path(__file__).resolve().parents[2] / ".cache" / "kafka-broker"

# Warnings only, for the log of a broker that does not start.
LOGGING = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
"""


class Kafka(Broker):
    """A Kafka whose every listener has a port of its own.

    `port` is the plain one. `ports` has, by name, all that a client may use: PLAINTEXT; PROXIED, which sends clients
    back to the `proxy()` that they came by, where the others would send them past it; SSL, with the certificate of
    `certificates()`; SASL_PLAINTEXT and SASL_SSL, which demand `username` and `password` by the mechanism PLAIN.

    Args:
        secure: Which of the last three it has.
        settings: More settings of server.properties, such as `num_partitions=3`; "_" stands for ".".
    """

    name = "kafka"
    username = "alice"
    password = "wonderland"

    def __init__(self, *, secure: tuple[str, ...] = (), **settings: object) -> None:
        super().__init__()
        self.ports = {"PLAINTEXT": self.port, **{name: self.reserve() for name in ("PROXIED", *secure)}}
        self._controller = self.reserve()
        self._proxied = self.reserve()
        self._settings = settings
        # It may begin with a "-", and then would be taken for an option if it stood alone.
        self._cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")

    @classmethod
    def of_cluster(cls, number: int = 3, **settings: Any) -> list[Self]:
        """The brokers of a cluster, each with a copy of everything; a message is stored when two have it."""
        nodes = [cls(**settings) for _ in range(number)]
        voters = ",".join(f"{id}@127.0.0.1:{node._controller}" for id, node in enumerate(nodes, 1))
        copies = ("default", "offsets_topic", "transaction_state_log")
        for id, node in enumerate(nodes, 1):
            node._cluster = nodes[0]._cluster
            node._settings = {
                "node_id": id,
                "controller_quorum_voters": voters,
                "min_insync_replicas": 2,
                "transaction_state_log_min_isr": 2,
                **{f"{name}_replication_factor": number for name in copies},
                **settings,
            }
        return nodes

    @classmethod
    def missing(cls) -> str | None:
        if not shutil.which("java"):
            return "Java is not installed: sudo apt-get install default-jre-headless maven, then make test"
        if not any(JARS.glob("kafka_*.jar")):
            return f"Kafka is not in {'/'.join(JARS.parts[-2:])}: make test brings it, with Java 17 and mvn"
        return None

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}"

    def address(self, listener: str = "PLAINTEXT") -> str:
        """What aiokafka calls a bootstrap server."""
        return f"127.0.0.1:{self.ports[listener]}"

    def proxy(self) -> Proxy:
        return Proxy(self.ports["PROXIED"], url=f"kafka://{self.address('PROXIED')}", port=self._proxied)

    def prepare(self) -> None:
        advertised = self.ports | {"PROXIED": self._proxied}
        protocols = {name: name for name in self.ports} | {"PROXIED": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
        files = certificates()
        login = (
            f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{self.username}="{self.password}";'
        )
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": _joined("{}://127.0.0.1:{}", self.ports | {"CONTROLLER": self._controller}),
            "advertised.listeners": _joined("{}://127.0.0.1:{}", advertised),
            "listener.security.protocol.map": _joined("{}:{}", protocols),
            "inter.broker.listener.name": "PLAINTEXT",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": files.key_and_chain,
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": login,
            "listener.name.sasl_ssl.plain.sasl.jaas.config": login,
            "log.dirs": self.folder / "data",
            # One of each: a single broker has no more to share among.
            "num.partitions": 1,
            "offsets.topic.num.partitions": 1,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "num.io.threads": 2,
            "num.network.threads": 2,
            "log.cleaner.enable": "false",
            "group.initial.rebalance.delay.ms": 0,
            # Else the controller waits, after a kill, for the broker that it has known before to be gone.
            "broker.session.timeout.ms": 1000,
            "broker.heartbeat.interval.ms": 200,
            "controller.quorum.election.timeout.ms": 200,
            "controller.quorum.election.backoff.max.ms": 100,
            "controller.quorum.fetch.timeout.ms": 500,
        }
        settings |= {name.replace("_", "."): value for name, value in self._settings.items()}
        self._conf.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        (self.folder / "logging.properties").write_text(LOGGING)
        form = self._java("kafka.tools.StorageTool", "format", f"--cluster-id={self._cluster}", "-c", self._conf)
        done = subprocess.run(form, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            raise RuntimeError(f"{self!r} could not be prepared:\n{done.stdout.decode(errors='replace')[-4000:]}")

    def command(self) -> list[str | Path]:
        return self._java("kafka.Kafka", self._conf)

    @property
    def _conf(self) -> Path:
        return self.folder / "server.properties"

    def _java(self, program: str, *arguments: str | Path) -> list[str | Path]:
        return [
            "java",
            "-cp",
            f"{JARS}/*",
            "-Xms128m",
            "-Xmx256m",
            # Starts in half the time, for a life of seconds.
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            f"-Dlog4j2.configurationFile=file:{self.folder}/logging.properties",
            program,
            *arguments,
        ]

    def is_ready(self) -> bool:
        # It opens them one after the other.
        return all(listens(port) for port in self.ports.values())


def _joined(form: str, each: dict[str, object] | dict[str, int] | dict[str, str]) -> str:
    return ",".join(form.format(*item) for item in each.items())
