"""The streams of a namespace: which there are, what state they are in, and what is read in the middle of one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

from ...errors import BridgeError
from ...key import Key
from ..log import LogState
from .bucket import Bucket, seconds_of
from .jetapi import NANO, PATIENCE, JetApi, Refused, stream_name
from .pulls import Pull, Stored
from .subjects import Subjects

DUPLICATES = 120.0
"""Seconds for which a stream remembers the ids of messages, at most `max_age`."""
IDLE = 30.0
"""Seconds after which a consumer without a name that nobody asks is removed."""
EVERYTHING: Key[Any] = Key("*")
OTHERWISE, OVERLAPS = 10058, 10065
"""JetStream's codes: the stream exists with another configuration; another stream has its subjects."""


@dataclass(frozen=True, slots=True)
class Setup:
    """The options of an adapter that concern streams."""

    stream: str | None
    maxlen: int | None
    max_age: float | None
    replicas: int
    lease: float
    max_payload: int
    route: Callable[[Key[Any]], str] | None = None
    sources: tuple[str, ...] | None = None


class Route(NamedTuple):
    """A stream, and the subjects that it stores."""

    stream: str
    subjects: Subjects


class Streams:
    """The streams of a namespace, as one connection sees them.

    Args:
        api: The connections.
        space: The namespace.
        setup: The options.
    """

    def __init__(self, api: JetApi, space: str, setup: Setup) -> None:
        self.api = api
        self.space = space
        self.setup = setup
        self.name = stream_name(space if setup.stream is None else setup.stream)
        """The stream that is read."""
        self.control = Subjects(f"{space}:control")
        self.dead = Subjects(f"{space}:dead")
        self.dead_name = f"{self.name}_dead"
        self.bucket = Bucket(api, f"{self.name}_readers")
        self.state = LogState("", 1, 0)
        """The state of the stream that is read, when it was looked at last."""
        self.has_replicas = False
        """Whether it had replicas then."""
        self.may_be_full: set[str] = set()
        """Streams that refuse messages when they are full, as far as that is known."""
        self.whole: set[str] = set()
        """Streams with replicas that store a batch as a whole or not at all."""
        self._routes: dict[str, Route] = {}
        self._by_token: dict[bytes, Subjects] = {}  # by the first token of a subject
        self._own = Subjects(space) if setup.route is None and setup.sources is None else None

    async def open(self, *, reads: bool, remembers: bool) -> None:
        """Create what is missing; of streams that exist nothing is changed.

        Args:
            reads: Messages will be read.
            remembers: So will the bucket.
        """
        setup = self.setup
        if setup.route is None:
            await self.route("")
        if setup.sources is not None:
            origins = sorted([await self.route(name) for name in setup.sources])
            if len(origins) != 1 and reads:
                # One log with numbers of its own, which JetStream fills from the others.
                digest = sha256("\n".join(origins).encode()).hexdigest()[:12]
                self.name = f"{self.name}_of_{digest}"
                await self._make(self.name, None, sources=[{"name": each} for each in origins])
            elif origins:
                self.name = origins[0]
            self.bucket = Bucket(self.api, f"{self.name}_readers")
        if remembers:
            only_last = {"max_msgs_per_subject": 1, "deny_delete": True, "allow_rollup_hdrs": True, "discard": "new"}
            await self._make(self.bucket.stream, f"{self.bucket.subject}.>", max_age=0, max_msgs=-1, **only_last)
        if reads:
            await self.look_at()

    async def _make(self, name: str, subject: str | None, **more: Any) -> None:
        """Have a stream there."""
        if (found := await self.api.find(f"STREAM.INFO.{name}")) is not None:
            self._note(name, found["config"])
            return
        if subject is None and "sources" not in more:
            raise BridgeError(f"there is no stream {name!r}; create it, or give a namespace")
        setup = self.setup
        config: dict[str, Any] = {
            "name": name,
            "subjects": [] if subject is None else [subject],
            "storage": "file",
            "retention": "limits",
            "discard": "old",
            "num_replicas": setup.replicas,
            "max_msgs": setup.maxlen or -1,
            "max_age": int((setup.max_age or 0) * NANO),
            **more,
        }
        config["duplicate_window"] = int(min(DUPLICATES, config["max_age"] / NANO or DUPLICATES) * NANO)
        try:
            found = await self.api.ask(f"STREAM.CREATE.{name}", config)
        except Refused as error:
            if error.code == OVERLAPS:
                raise BridgeError(f"another stream has subjects of {subject!r}: name it with stream=") from error
            if error.code != OTHERWISE:
                raise
            found = await self.api.ask(f"STREAM.INFO.{name}")  # another bridge has just made it
        self._note(name, found["config"])

    def _note(self, name: str, config: Mapping[str, Any]) -> None:
        if config["discard"] == "new":
            self.may_be_full.add(name)
        # Without replicas the server would keep a whole batch in files of its own first, which is far slower.
        if config.get("allow_atomic") and config["num_replicas"] > 1:
            self.whole.add(name)

    async def route(self, name: str) -> str:
        """Return the stream of a route, which exists then."""
        if not isinstance(name, str):
            raise TypeError(f"route= returned {name!r}, which is not a name of a stream")
        if (found := self._routes.get(name)) is None:
            space = "/".join(filter(None, (self.space, name)))
            subjects = Subjects(space)
            stream = stream_name(space) if name or self.setup.stream is None else stream_name(self.setup.stream)
            subject = subjects.pattern(EVERYTHING)
            # Servers before 2.12 do not know it, and ignore it.
            whole = {"allow_atomic": True} if self.setup.replicas > 1 else {}
            await self._make(stream, subject.decode() if space else None, **whole)
            found = self._routes[name] = Route(stream, subjects)
            self._by_token[subject.partition(b".")[0]] = subjects
        return found.stream

    async def place(self, key: Key[Any]) -> tuple[str, bytes]:
        """Return the stream of a key, which exists then, and the subject to which it is published."""
        name = "" if self.setup.route is None else self.setup.route(key)
        if name not in self._routes:
            await self.route(name)
        stream, subjects = self._routes[name]
        return stream, subjects.subject(key)

    def key(self, subject: bytes) -> Key[Any]:
        """Return the key of a subject of the stream; one of another program is read part by part."""
        subjects = self._own if self._own is not None else self._by_token.get(subject.partition(b".")[0])
        found = None if subjects is None else subjects.key(subject)
        return found or Key(*subject.decode(errors="replace").split("."))

    async def make_dead(self) -> None:
        """Have a stream for dead letters there."""
        await self._make(self.dead_name, self.dead.pattern(EVERYTHING).decode(), max_age=0)

    # Looking

    async def look_at(self, name: str | None = None) -> LogState | None:
        """Return the state of the stream that is read, or of another one; None if there is no other one.

        Raises:
            ConnectionResetError: The stream that is read is gone.
        """
        found = await self.api.find(f"STREAM.INFO.{name or self.name}")
        if found is None:
            if name is None:
                raise ConnectionResetError(f"the stream {self.name!r} was deleted")
            return None
        state = LogState(found["created"], found["state"]["first_seq"] or 1, found["state"]["last_seq"])
        if name is None:
            self.state, self.has_replicas = state, found["config"]["num_replicas"] > 1
        return state

    async def has_after(self, number: int) -> bool:
        """True if there is a message behind a number in the stream that is read, by the word of its leader.

        Any replica may deliver what consumers get, one that lags behind, or one that is ahead of what the leader says.
        """
        next_one = {"seq": number + 1, "next_by_subj": ">"}
        return await self.api.find(f"STREAM.MSG.GET.{self.name}", next_one) is not None

    async def subjects(self, stream: str) -> list[bytes]:
        """Return the subjects that a stream stores, which may have wildcards.

        Raises:
            ConnectionResetError: The stream is gone.
        """
        found = await self.api.find(f"STREAM.INFO.{stream}")
        if found is None:
            raise ConnectionResetError(f"the stream {stream!r} was deleted")
        return [subject.encode() for subject in found["config"].get("subjects", ())]

    async def consumer(
        self, stream: str, came: Callable[[Stored | None], None], **begin: Any
    ) -> tuple[Pull, dict[str, Any]]:
        """Return what comes from a new consumer of a stream, which is removed when nobody asks it; and what it is.

        Raises:
            ConnectionResetError: The stream is gone.
        """
        config = {"ack_policy": "none", "inactive_threshold": int(IDLE * NANO), "mem_storage": True, **begin}
        made = await self.api.find(
            f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": {**config, "num_replicas": 1}}
        )
        if made is None:
            raise ConnectionResetError(f"the stream {stream!r} was deleted")
        return Pull(self.api, stream, made["name"], came, self.setup.max_payload), made

    async def read(self, stream: str, limit: int, **begin: Any) -> list[Stored]:
        """Return at most `limit` messages of a stream from somewhere, without waiting for any."""
        news = asyncio.Event()
        pull, made = await self.consumer(stream, lambda row: news.set(), **begin)
        number = min(limit, made["num_pending"])
        try:
            if number:
                await pull.ask(number)
            while pull.left:
                news.clear()
                waiting = asyncio.ensure_future(news.wait())
                await self.api.wait(waiting)
                if not waiting.done():
                    waiting.cancel()
                    raise ConnectionResetError(f"JetStream has not sent {pull.left} messages within {PATIENCE:g} s")
        finally:
            await pull.end()
            await self.api.find(f"CONSUMER.DELETE.{stream}.{pull.consumer}")
        return pull.pop(number)

    async def clock(self) -> float:
        """Return the time by the server's clock, in seconds since the epoch."""
        pull, made = await self.consumer(self.bucket.stream, lambda row: None, deliver_policy="new")
        await self.api.find(f"CONSUMER.DELETE.{self.bucket.stream}.{pull.consumer}")
        return seconds_of(made["created"])


def from_number(number: int) -> dict[str, Any]:
    """Return how a consumer is configured that begins with a number."""
    return {"deliver_policy": "by_start_sequence", "opt_start_seq": number}


def from_time(moment: float) -> dict[str, Any]:
    """Return how a consumer is configured that begins with a time, in seconds since the epoch."""
    whole, nanoseconds = divmod(max(0, int(moment * NANO)), NANO)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return {"deliver_policy": "by_start_time", "opt_start_time": f"{text}.{nanoseconds:09d}Z"}
