"""The client at the other end of a connection, and what may cross it."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, TypeAlias
from urllib.parse import parse_qs, urlsplit

from ..describe import describe
from ..key import NAMESPACE, PLUS, STAR, Key, Patterns, as_patterns, is_subset
from ..log import Episode, Logger

Action: TypeAlias = Literal["subscribe", "receive", "publish", "request", "respond"]
Authorize: TypeAlias = "Callable[[Connection, Action, Key[Any]], bool | Awaitable[bool]]"
Identify: TypeAlias = "Callable[[Connection], str | Awaitable[str | None] | None]"
Hook: TypeAlias = "Callable[[Connection], object]"

IDENTITY = "{identity}"

# Answers of `authorize` that are remembered for a connection, and for how many seconds.
MOST_ANSWERS = 1024
ANSWER_SECONDS = 60.0

logger = Logger("hubsub.web")


class Refused(Exception):
    """Raise it in `identify` or `on_connect` to refuse a client.

    Args:
        status: The HTTP status where the server can still send one: 401 by default. Where the socket is open already,
            401 is close code 4401, and every other one 4403.
        reason: What the client reads, at most 100 characters.
    """

    def __init__(self, status: int = 401, reason: str = "") -> None:
        super().__init__(f"{status} {reason}".strip())
        self.status = status
        self.reason = reason[:100]


class Connection:
    """One client of an endpoint, as `identify`, `authorize` and the hooks see it."""

    def __init__(self, id: str, scope: Mapping[str, Any]) -> None:
        self.id = id
        """Random, for this connection."""
        self.identity: str | None = None
        """What `identify` returned."""
        client = scope.get("client")
        self.address: str = client[0] if client else ""
        """Where the client is: the forwarded address where the server trusts its proxy."""
        self._scope = scope
        self.path_params: dict[str, Any] = dict(scope.get("path_params") or {})
        """What the framework's route found in the path."""
        self.state: dict[str, Any] = {}
        """Yours."""
        self.expires: float | None = None
        """When the connection ends, seconds since the epoch: `identify` may set it, from its token perhaps."""
        self.asked_for_token = False
        self._token = self.query.get("token") if scope.get("query_string") else None
        self._close: Callable[[int, str], Awaitable[None]] | None = None

    # Made when they are asked for: a thousand connections that are idle need none.

    @cached_property
    def headers(self) -> dict[str, str]:
        """Headers of the request, names in lower case."""
        return {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self._scope.get("headers", ())
        }

    @cached_property
    def query(self) -> dict[str, str]:
        """Parameters of the query, of each the last."""
        query = self._scope.get("query_string", b"").decode("latin-1")
        return {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}

    @property
    def token(self) -> str | None:
        """The token of the query or of `hello`; None if none came yet.

        An `identify` that looks at it and refuses is called again when the client has said `hello`.
        """
        if self._token is None:
            self.asked_for_token = True
        return self._token

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Say `bye` and disconnect the client. Closing twice is safe."""
        if self._close is not None:
            await self._close(code, reason)

    def __repr__(self) -> str:
        return f"<Connection {self.id} {describe(self.identity)} {self.address}>"


def _header(connection: Connection, name: bytes) -> str | None:
    """One header, by its name in lower case, without making the others."""
    for each, value in connection._scope.get("headers", ()):
        if each.lower() == name:
            return str(value.decode("latin-1"))
    return None


class Access:
    """What may cross the connections of an endpoint: the named patterns, narrowed by `authorize`.

    Args:
        outgoing: Patterns of what clients may receive; a part `{identity}` stands for the client's own.
        incoming: Patterns of what clients may publish and request.
        authorize: See `endpoint`.
        origins: "same", "*", or the origins of pages that may connect.
    """

    def __init__(
        self,
        outgoing: Patterns,
        incoming: Patterns,
        authorize: Authorize | None,
        identify: Identify | None,
        origins: str | Collection[str],
    ) -> None:
        self.outgoing = _named(outgoing, "outgoing")
        self.incoming = _named(incoming, "incoming")
        self._authorize = authorize
        self._identify = identify
        self._trouble = Episode(logger)
        for name, function in (("authorize", authorize), ("identify", identify)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function, not {describe(function)}")
        if isinstance(origins, str):
            if origins not in ("same", "*"):
                raise ValueError(f"origins must be 'same', '*', or a list of origins, not {origins!r}")
            self._origins: Collection[str] = () if origins == "same" else ("*",)
        else:
            self._origins = frozenset(origins)

    @property
    def everything(self) -> list[Key[Any]]:
        """The patterns of everything that may leave, for any identity."""
        return [Key.create_from(PLUS if part == IDENTITY else part for part in pattern) for pattern in self.outgoing]

    def of(self, patterns: Sequence[Key[Any]], identity: str | None) -> list[Key[Any]]:
        """Return the patterns of one identity; without an identity, those with `{identity}` are left out."""
        found = []
        for pattern in patterns:
            if IDENTITY in pattern:
                # No key has a part that is a wildcard.
                if not identity or identity in (STAR, PLUS):
                    continue
                pattern = Key.create_from(identity if part == IDENTITY else part for part in pattern)
            found.append(pattern)
        return found

    def is_foreign(self, connection: Connection) -> bool:
        """True if the connecting page has another origin, and `origins` does not allow it."""
        origin = _header(connection, b"origin")
        if origin is None or "*" in self._origins or origin in self._origins:
            return False
        if self._origins:
            return True
        page = urlsplit(origin)
        return page.netloc.lower() != (_header(connection, b"host") or "").lower()

    async def identify(self, connection: Connection) -> None:
        """Set the identity of a client.

        Raises:
            Refused: `identify` refuses the client, or failed.
        """
        if self._identify is None:
            return
        try:
            identity = self._identify(connection)
            if isinstance(identity, Awaitable):
                identity = await identity
        except Refused:
            raise
        except Exception as error:
            self._log("identify", error)
            raise Refused(403, "identify failed") from error
        if identity is not None and not isinstance(identity, str):
            self._log("identify", TypeError(f"identify returns a str or None, not {describe(identity)}"))
            raise Refused(403, "identify failed")
        connection.identity = identity

    def _log(self, name: str, error: BaseException) -> None:
        self._trouble.error("%s of a web endpoint failed, so the client was refused", name, error=error)

    @property
    def narrows(self) -> bool:
        """True if there is an `authorize`."""
        return self._authorize is not None

    async def allows(self, connection: Connection, action: Action, key: Key[Any]) -> bool:
        """True if `authorize` allows it, or there is none."""
        answer = self.answer(connection, action, key)
        return answer if isinstance(answer, bool) else await self.judged(answer)

    async def judged(self, answer: Awaitable[bool]) -> bool:
        """Await an answer of `authorize`. Nothing is raised; a failure refuses."""
        try:
            return (await answer) is True
        except Exception as error:
            self._log("authorize", error)
            return False

    def answer(self, connection: Connection, action: Action, key: Key[Any]) -> bool | Awaitable[bool]:
        """Return the answer of `authorize`, or an awaitable of it. Nothing is raised; a failure refuses."""
        if self._authorize is None:
            return True
        try:
            answer = self._authorize(connection, action, key)
        except Exception as error:
            self._log("authorize", error)
            return False
        if answer is True or answer is False:
            return answer
        if isinstance(answer, Awaitable):
            return answer
        self._log("authorize", TypeError(f"authorize returns True or False, not {describe(answer)}"))
        return False


class Answers:
    """Whether a connection may receive a key, remembered for a while."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: OrderedDict[Key[Any], tuple[bool, float]] = OrderedDict()

    def get(self, key: Key[Any]) -> bool | None:
        """The answer that is remembered, or None."""
        known = self._known.get(key)
        if known is None or known[1] < time.monotonic():
            return None
        return known[0]

    def note(self, key: Key[Any], answer: bool) -> None:
        """Remember an answer."""
        self._known[key] = answer, time.monotonic() + ANSWER_SECONDS
        self._known.move_to_end(key)
        if len(self._known) > MOST_ANSWERS:
            self._known.popitem(last=False)

    def forget(self) -> None:
        """Ask again for each key."""
        self._known.clear()


def covered(pattern: Sequence[str], by: Iterable[Sequence[str]]) -> bool:
    """True if one of the patterns covers all keys of this one."""
    return any(is_subset(tuple(pattern), tuple(other)) for other in by)


def _named(patterns: Patterns, name: str) -> list[Key[Any]]:
    if isinstance(patterns, (list, set, frozenset, tuple)) and not patterns:
        return []
    named = [Key.create_from(pattern) for pattern in as_patterns(patterns)]
    for pattern in named:
        if pattern[0] == NAMESPACE:
            raise ValueError(f"{name} must not name the hub's own namespace, as {pattern!r} does")
    return named


async def called(hook: Hook | None, name: str, connection: Connection) -> None:
    """Call a hook, and await what it returns.

    Raises:
        Refused: The hook raised it. Anything else that it raises is logged.
    """
    if hook is None:
        return
    try:
        result = hook(connection)
        if isinstance(result, Awaitable):
            await result
    except Refused:
        raise
    except (Exception, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError) and (task := asyncio.current_task()) and task.cancelling():
            raise
        logger.error("%s of a web endpoint failed", name, error=error)
