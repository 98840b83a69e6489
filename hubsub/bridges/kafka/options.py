"""Where a Kafka cluster is, and what its clients are told: a URL or options, sorted by who understands them."""

from __future__ import annotations

import inspect
import logging
import re
import ssl
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

# What the adapter decides: who retries, who commits, and what a position out of range means.
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
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}\Z")


def _parameters(kind: Any) -> Mapping[str, Any]:
    """The options of a client of aiokafka, with their defaults."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_POSITIONAL
    }


_CONSUMER = _parameters(AIOKafkaConsumer)
_PRODUCER = _parameters(AIOKafkaProducer)

# Where it logs every request, it logs the one with the password too.
logging.getLogger("aiokafka.conn").addFilter(lambda line: "sasl_auth_bytes=" not in line.getMessage())


class Options:
    """The options of both clients.

    Args:
        servers: `kafka://user:password@host:port,host:port/topic?option=value`, or bootstrap servers as a list or with
            commas between.
        topic: In place of that in the URL.
        options: Of `AIOKafkaProducer` and `AIOKafkaConsumer`, each given to those that know it; `ssl_cafile` is the
            file of the authorities to trust, where there is no `ssl_context`.

    Raises:
        TypeError: An option that nobody knows, or that the adapter decides.
        ValueError: A URL or a topic makes no sense.
    """

    def __init__(self, servers: str | Sequence[str], topic: str | None, options: Mapping[str, Any]) -> None:
        settings: dict[str, Any] = {}
        if isinstance(servers, str) and "://" in servers:
            servers, in_url, settings = _read(servers)
            topic = topic or in_url
        settings |= options
        self.servers = servers.split(",") if isinstance(servers, str) else list(servers)
        self.topic = topic and checked(topic)
        cafile = settings.pop("ssl_cafile", None)
        for name in settings:
            if name in _DECIDED:
                raise TypeError(f"KafkaAdapter decides by itself about {name}")
            if name not in _CONSUMER and name not in _PRODUCER:
                raise TypeError(f"neither the producer nor the consumer of aiokafka has an option {name}")
        if "SSL" in settings.get("security_protocol", "") and settings.get("ssl_context") is None:
            settings["ssl_context"] = ssl.create_default_context(cafile=cafile)
        elif cafile is not None:
            raise TypeError("ssl_cafile needs security_protocol SSL or SASL_SSL, and no ssl_context")
        common = {"bootstrap_servers": self.servers, "retry_backoff_ms": 50, "metadata_max_age_ms": 10_000}
        self.producer: dict[str, Any] = {
            **common,
            "request_timeout_ms": 5_000,
            # A batch is sent when the one before it is answered: a large one costs no more.
            "max_batch_size": 262_144,
            **{name: value for name, value in settings.items() if name in _PRODUCER},
            "enable_idempotence": True,
        }
        self.consumer: dict[str, Any] = {
            **common,
            "session_timeout_ms": 10_000,
            "heartbeat_interval_ms": 1_000,
            # A reader that waits for slow listeners stays a member for as long as they take.
            "max_poll_interval_ms": 2**31 - 1,
            "fetch_max_wait_ms": 200,
            **{name: value for name, value in settings.items() if name in _CONSUMER},
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
        }
        # An answer may take as long as the others of a group are waited for.
        longest = self.consumer.get("rebalance_timeout_ms") or self.consumer["session_timeout_ms"]
        self.consumer.setdefault("request_timeout_ms", longest + 5_000)
        self.max_request_size: int = self.producer.get("max_request_size", _PRODUCER["max_request_size"])


def checked(topic: str) -> str:
    """`topic`, if a topic can have that name.

    Raises:
        ValueError: It cannot.
    """
    if not _TOPIC.match(topic) or topic in (".", ".."):
        raise ValueError(f"{topic!r} cannot be a topic of Kafka: 1 to 249 of the characters A-Z a-z 0-9 . _ -")
    return topic


def _read(url: str) -> tuple[str, str, dict[str, Any]]:
    """Servers, topic and options of a URL."""
    parts = urlsplit(url)
    login, _, servers = parts.netloc.rpartition("@")
    if parts.scheme != "kafka" or not servers:
        raise ValueError("a URL of Kafka is like kafka://host:9092,host:9092/topic?option=value")
    options = {name: _value(name, text) for name, text in parse_qsl(parts.query, keep_blank_values=True)}
    if login:
        user, _, password = login.partition(":")
        options.setdefault("security_protocol", "SASL_PLAINTEXT")
        options |= {"sasl_plain_username": unquote(user), "sasl_plain_password": unquote(password)}
    return servers, unquote(parts.path.strip("/")), options


def _value(name: str, text: str) -> Any:
    """The value of an option that is written in a URL, of the type of its default."""
    default = _CONSUMER.get(name, _PRODUCER.get(name))
    if isinstance(default, bool):
        return text.lower() in ("1", "true", "yes", "on")
    if isinstance(default, int) or name in ("max_poll_records", "rebalance_timeout_ms"):
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"{name} is a whole number, not {text!r}") from None
    return text
