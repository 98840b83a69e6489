"""The address of a Kafka cluster and the options of its clients, from a URL or keyword arguments."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from copy import copy
from hashlib import sha256
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from ..tls import Tls
from . import quiet

# What the adapter decides: retries, commits, and what a position out of range means.
_DECIDED = {
    "auto_commit_interval_ms",
    "auto_offset_reset",
    "enable_auto_commit",
    "enable_idempotence",
    "group_id",
    "group_instance_id",
    "key_deserializer",
    "key_serializer",
    "loop",
    "transaction_timeout_ms",
    "transactional_id",
    "value_deserializer",
    "value_serializer",
}
_TOPIC = re.compile(r"[A-Za-z0-9._-]+\Z")
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s/@:\[\]]+)(:[0-9]{1,5})?\Z")

# Which one is not shown: it may be part of a password.
NO_SERVER = "a server of Kafka is a host, or host:port; a login belongs into a URL, or options"

# The driver's milliseconds for a request; `client` gives up silent connections long before.
_FAR_OFF = 600_000


def _parameters(kind: Any) -> Mapping[str, Any]:
    """The options of a client of aiokafka, with their defaults."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_POSITIONAL
    }


_CONSUMER = _parameters(AIOKafkaConsumer)
_PRODUCER = _parameters(AIOKafkaProducer)

quiet.install()


class Options:
    """The options of both clients.

    Args:
        servers: `kafka://user:password@host:port,host:port/topic?option=value`, or bootstrap servers as a list or
            separated by commas.
        topic: Replaces the topic in the URL.
        options: Of `AIOKafkaProducer` and `AIOKafkaConsumer`; each goes to those that know it. `ssl_cafile` is the file
            of trusted authorities, if there is no `ssl_context`.

    Raises:
        TypeError: An unknown option, or one that the adapter decides.
        ValueError: The URL or a topic is invalid.
    """

    def __init__(self, servers: str | Sequence[str], topic: str | None, options: Mapping[str, Any]) -> None:
        settings: dict[str, Any] = {}
        if isinstance(servers, str) and "://" in servers:
            servers, in_url, settings = _read(servers)
            topic = topic or in_url
        settings |= options
        self.servers = servers.split(",") if isinstance(servers, str) else list(servers)
        for server in self.servers:
            if not _SERVER.match(server):
                raise ValueError(NO_SERVER)
        self.topic = topic and checked(topic)
        cafile = settings.pop("ssl_cafile", None)
        for name in settings:
            if name in _DECIDED:
                raise TypeError(f"KafkaAdapter decides by itself about {name}")
            if name not in _CONSUMER and name not in _PRODUCER:
                raise TypeError(f"neither the producer nor the consumer of aiokafka has an option {name}")
        self.tls: Tls | None = None
        """What makes a context for each connection; None without TLS."""
        context = settings.get("ssl_context")
        if "SSL" in settings.get("security_protocol", "") and (cafile is None or context is None):
            self.tls = Tls.of_files(cafile) if context is None else Tls(lambda: context)
            settings["ssl_context"] = self.tls.context()
        elif cafile is not None:
            raise TypeError("ssl_cafile needs security_protocol SSL or SASL_SSL, and no ssl_context")
        common = {
            "bootstrap_servers": self.servers,
            "retry_backoff_ms": 50,
            "metadata_max_age_ms": 10_000,
            "request_timeout_ms": _FAR_OFF,
        }
        self.producer: dict[str, Any] = {
            **common,
            # A batch is sent when the one before it is answered: a large one costs no more.
            "max_batch_size": 262_144,
            **{name: value for name, value in settings.items() if name in _PRODUCER},
            "enable_idempotence": True,
        }
        self.consumer: dict[str, Any] = {
            **common,
            "session_timeout_ms": 10_000,
            "heartbeat_interval_ms": 1_000,
            # A reader that waits for slow listeners stays a member all the while.
            "max_poll_interval_ms": 2**31 - 1,
            "fetch_max_wait_ms": 200,
            **{name: value for name, value in settings.items() if name in _CONSUMER},
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
        }
        session_ms = self.consumer["session_timeout_ms"]
        self.session: float = session_ms / 1000
        """Seconds without a heartbeat after which a member of a group counts as dead."""
        self.rebalance: float = (self.consumer.get("rebalance_timeout_ms") or session_ms) / 1000
        """Seconds that a rebalance waits for the members of a group."""
        self.fetch_wait: float = self.consumer["fetch_max_wait_ms"] / 1000
        """Seconds that a broker waits for messages."""
        self.fetch_max_bytes: int = self.consumer.get("fetch_max_bytes", _CONSUMER["fetch_max_bytes"])
        self.max_partition_fetch_bytes: int = self.consumer.get(
            "max_partition_fetch_bytes", _CONSUMER["max_partition_fetch_bytes"]
        )
        self.max_request_size: int = self.producer.get("max_request_size", _PRODUCER["max_request_size"])

    def with_fetch_wait(self, milliseconds: int) -> Options:
        """Return these options with a broker that waits for messages at least that long."""
        same = copy(self)
        same.consumer = self.consumer | {"fetch_max_wait_ms": max(milliseconds, self.consumer["fetch_max_wait_ms"])}
        same.fetch_wait = same.consumer["fetch_max_wait_ms"] / 1000
        return same


def checked(topic: str, what: object = None) -> str:
    """Return `topic` if it is a valid name.

    Args:
        topic: The name.
        what: Shown in errors instead of the name.

    Raises:
        ValueError: It is not.
    """
    if not _TOPIC.match(topic) or topic in (".", ".."):
        raise ValueError(f"{what or repr(topic)} cannot be a topic of Kafka: only A-Z a-z 0-9 . _ - are allowed")
    if len(topic) > LONGEST_TOPIC:
        raise ValueError(f"a topic of Kafka that has {len(topic)} characters: {LONGEST_TOPIC} are possible")
    return topic


LONGEST_TOPIC = 249
"""Characters."""


def beside(topic: str, suffix: str) -> str:
    """Return the topic that belongs to another one: its name with a suffix."""
    if len(topic) + len(suffix) > LONGEST_TOPIC:
        # Every process gets the same name.
        mark = sha256(topic.encode()).hexdigest()[:16]
        topic = f"{topic[: LONGEST_TOPIC - len(suffix) - len(mark) - 1]}-{mark}"
    return topic + suffix


def _read(url: str) -> tuple[str, str, dict[str, Any]]:
    """Return servers, topic and options of a URL. No error shows what may be part of a password."""
    parts = _split(url)
    login, _, servers = parts.netloc.rpartition("@")
    if parts.scheme != "kafka" or not servers:
        raise ValueError("a URL of Kafka is like kafka://host:9092,host:9092/topic?option=value")
    if parts.fragment or "@" in parts.path or "@" in parts.query:
        raise ValueError(
            "a URL of Kafka has @ and # only where they mean something: in a user or password, / ? # @ and : are "
            "written %2F %3F %23 %40 and %3A, and likewise elsewhere"
        )
    if not all(_SERVER.match(server) for server in servers.split(",")):
        raise ValueError(NO_SERVER)
    topic = unquote(parts.path.strip("/"))
    if topic:
        checked(topic, "what stands in the URL behind the servers")
    options = {name: _value(name, text) for name, text in parse_qsl(parts.query, keep_blank_values=True)}
    if login:
        user, _, password = login.partition(":")
        options.setdefault("security_protocol", "SASL_PLAINTEXT")
        options |= {"sasl_plain_username": unquote(user), "sasl_plain_password": unquote(password)}
    return servers, topic, options


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        pass  # what it says shows a password, also as the context of another error
    raise ValueError("a URL of Kafka that makes no sense: in a user or password, escape what is special")


def _value(name: str, text: str) -> Any:
    """Return the value of an option in a URL, in the type of its default."""
    default = _CONSUMER.get(name, _PRODUCER.get(name))
    if isinstance(default, bool):
        return text.lower() in ("1", "true", "yes", "on")
    if isinstance(default, int) or name in ("max_poll_records", "rebalance_timeout_ms"):
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"{name} is a whole number, not {text!r}") from None
    return text
