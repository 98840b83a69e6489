"""Every error that hubsub raises, in one tree.

HubsubError
├── InvalidKey (ValueError)           a key or pattern that cannot be used
│   ├── EmptyKey                      it has no parts
│   ├── WildcardPublished             a wildcard was published to
│   └── InvalidPart                   a part is not a string
├── InvalidListener (TypeError)       not callable, or of the wrong kind for the call
│   └── InvalidFunction (ValueError)  a function that was given as an option: where, on_error, snapshot, …
├── UnknownListener (LookupError)     removed, but never added
├── UnknownSubscription (LookupError) no subscription of that id or pattern
├── HistoryUnavailable (LookupError)  nothing retains what was asked for
├── ClosedError                       what was used is closed
│   ├── HubClosed
│   └── SubscriptionClosed
│       └── SubscriberTooSlow         the hub closed it: overflow was `CLOSE`
├── RequestError                      a request that got no reply
│   ├── NoResponders                  nobody responds to that key
│   ├── RequestTimeout (TimeoutError) nobody answered in time
│   └── RemoteError                   the responder failed; its error is the `__cause__`
├── DeliveryError (ExceptionGroup)    a confirmed publish was not finished by everybody
├── Undelivered                       one member of such a group: by whom, and why
├── ConfirmationTimeout (TimeoutError) somebody has not finished in time
├── BridgeError                       of a bridge, or of what it carries
│   ├── UnknownScheme (ValueError)    no adapter for such a URL
│   ├── MissingDriver (ImportError)   the package that an adapter needs is not installed
│   ├── NameTaken                     another live bridge has that name
│   ├── BridgeNotReady (TimeoutError) not connected in time; the `__cause__` says why
│   ├── BridgeClosed                  it was closed
│   ├── BrokerBusy                    the broker accepts nothing for now; raised by adapters
│   ├── AccessRefused                 the other side does not let us in, or not to this pattern or key
│   ├── Unsupported (ValueError)      what was asked for, this broker cannot do
│   ├── NoSuchLetter (LookupError)    no dead letter is at that position
│   ├── EncodeError (ValueError)      a message that cannot be encoded
│   ├── DecodeError (ValueError)      bytes that cannot be decoded
│   │   └── SignatureError            they are not signed as `secret=` requires
│   └── PayloadTooLarge (ValueError)  more bytes than the broker accepts
├── WaitingForItself                  a listener would wait for its own call
└── WrongContext (RuntimeError)       used from where it cannot work
    ├── WrongThread
    ├── WrongLoop
    └── NoRunningLoop
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from .describe import describe, describe_all, describe_error


class HubsubError(Exception):
    """Base class of every error that hubsub raises on purpose.

    Each survives `pickle` and `copy` with its fields and its cause. A copy shares live objects (a hub, a listener, a
    bridge) with the original; a pickled error keeps their `repr` instead.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # Not as exceptions do by default, which calls the class again with nothing but the message.
        return _made_again, (type(self), _portable(self.args), _portable(_fields(self)), _portable(self.__cause__))

    def __copy__(self) -> Any:
        return _made_again(type(self), self.args, _fields(self), self.__cause__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        import copy  # seldom needed

        def deep(value: Any) -> Any:
            if type(value) in (list, tuple):
                return type(value)(map(deep, value))
            return copy.deepcopy(value, memo) if _is_portable(value) else value

        fields = {name: deep(value) for name, value in _fields(self).items()}
        return _made_again(type(self), deep(self.args), fields, deep(self.__cause__))


def _fields(error: HubsubError) -> dict[str, Any]:
    fields = dict(vars(error))
    if isinstance(error, ImportError):  # which keeps these two elsewhere
        fields.update(name=error.name, path=error.path)
    return fields


def _made_again(
    kind: type[Any], arguments: tuple[Any, ...], fields: dict[str, Any], cause: BaseException | None
) -> Any:
    error = kind.__new__(kind, *arguments)
    error.args = arguments
    for name, value in fields.items():
        setattr(error, name, value)
    if cause is not None:
        error.__cause__ = cause
    return error


def _portable(value: Any) -> Any:
    """Return a value that another process can load: `value` itself if it can be pickled, else its description."""
    if type(value) in (list, tuple):
        return type(value)(map(_portable, value))
    if type(value) is dict:
        return {key: _portable(each) for key, each in value.items()}
    if _is_portable(value):
        return value
    return Exception(describe_error(value)) if isinstance(value, BaseException) else describe(value)


def _is_portable(value: Any) -> bool:
    kind = type(value)
    if value is None or kind in (str, int, float, bool, bytes):
        return True
    if kind.__module__.partition(".")[0] == _PACKAGE and not isinstance(value, tuple):
        return isinstance(value, HubsubError)  # a hub is alive, even if by chance it can be pickled
    import pickle  # seldom needed

    try:
        pickle.loads(pickle.dumps(value))  # some values can be pickled, but not unpickled
    except Exception:
        return False
    return True


_PACKAGE = __name__.partition(".")[0]


class InvalidKey(HubsubError, ValueError):
    """A key or pattern that cannot be used; `key` is what was given."""

    def __init__(self, key: object, why: str) -> None:
        super().__init__(f"{describe(key)}: {why}")
        self.key = key


class EmptyKey(InvalidKey):
    """A key needs at least one part."""

    def __init__(self, key: object) -> None:
        super().__init__(key, "a key needs at least one part, like ('orders', 'new')")


class WildcardPublished(InvalidKey):
    r"""Messages are published to exact keys; wildcards are for subscribing."""

    def __init__(self, key: object) -> None:
        super().__init__(
            key, r"'*' and '+' are wildcards, for subscribing only; a literal star is customarily spelled r'\*'"
        )


class InvalidPart(InvalidKey):
    """A part of a key is not a string; `part` is the offender."""

    def __init__(self, key: object, part: object) -> None:
        super().__init__(key, f"every part must be a str, and {describe(part)} is of type {type(part).__name__}")
        self.part = part


class InvalidListener(HubsubError, TypeError):
    """A listener cannot be called the way that was asked for; `listener` is what was given."""

    def __init__(self, listener: object, why: str) -> None:
        super().__init__(f"{describe(listener)}: {why}")
        self.listener = listener


class InvalidFunction(InvalidListener, ValueError):
    """A function given as an option (`where`, `on_error`, `snapshot`, ...) cannot be called the way that option is."""


class UnknownListener(HubsubError, LookupError):
    """The listener to remove was never added to that pattern, or to any (None), or has been removed already."""

    def __init__(self, listener: object, pattern: object, owner: object) -> None:
        what = f"{describe(owner)} has no listener {describe(listener)}"
        if pattern is None:
            what += "; was it removed before, or added to a Subscriber or another hub?"
        else:
            what += f" on {describe(pattern)}; was it added with another key?"
        super().__init__(what)
        self.listener = listener
        self.pattern = pattern

    # A LookupError of two arguments would print as a KeyError does, quoted.
    __str__ = Exception.__str__


class UnknownSubscription(HubsubError, LookupError):
    """No subscription has that id, or the one with that id is not on that pattern."""

    def __init__(self, subscription_id: Hashable, owner: object, pattern: object = None) -> None:
        held = "" if pattern is None else f" on {describe(pattern)}"
        super().__init__(f"{describe(owner)} has no subscription {describe(subscription_id)}{held}; subscribe first")
        self.subscription_id = subscription_id
        self.pattern = pattern

    __str__ = Exception.__str__


class HistoryUnavailable(HubsubError, LookupError):
    """History was asked for, and nothing retains messages of `pattern`."""

    def __init__(self, pattern: object) -> None:
        super().__init__(f"no messages of {describe(pattern)} are retained; hub.retain(pattern) keeps later ones")
        self.pattern = pattern

    __str__ = Exception.__str__


class ClosedError(HubsubError):
    """What was used is closed, by you or by a policy of yours; it was not lost."""


class HubClosed(ClosedError):
    """The hub is closed; `await hub.start()` or `async with hub` opens it again."""

    def __init__(self, hub: object, closing: bool = False) -> None:
        state = "closing and accepts no new subscriptions" if closing else "closed; await hub.start() opens it again"
        super().__init__(f"{describe(hub)} is {state}")
        self.hub = hub


class SubscriptionClosed(ClosedError):
    """The subscription is closed and everything in its queue has been read."""

    def __init__(self, subscription: object) -> None:
        super().__init__(f"{describe(subscription)} is closed and has nothing left to read")
        self.subscription = subscription


class SubscriberTooSlow(SubscriptionClosed):
    """The queue was full when another message came, under `Overflow.CLOSE`; what was queued has been read."""

    def __init__(self, subscription: object, maxsize: int) -> None:
        HubsubError.__init__(
            self,
            f"{describe(subscription)} was closed because its queue was full: {maxsize} messages were unread;"
            " read faster, or choose a larger maxsize or another overflow",
        )
        self.subscription = subscription
        self.maxsize = maxsize


class RequestError(HubsubError):
    """A request got no reply; `key` is the key of the request."""

    def __init__(self, key: object, why: str) -> None:
        super().__init__(f"{describe(key)}: {why}")
        self.key = key


class NoResponders(RequestError):
    """Nobody responds to that key, or all of the `reached` responders that got the request are gone.

    `leaves` is true if a bridge carries the key: there may be responders behind it, which `local=False` asks too.
    """

    def __init__(self, key: object, reached: int = 0, leaves: bool = False) -> None:
        if reached:
            why = "every responder that got the request was removed before it answered, or dropped the request"
        elif leaves:
            why = "nobody in this process responds to this key; local=False also asks the processes behind bridges"
        else:
            why = "nobody responds to this key; add a responder with hub.respond(pattern, function)"
        super().__init__(key, why)
        self.reached = reached
        self.leaves = leaves


class RequestTimeout(RequestError, TimeoutError):
    """Nobody answered within `timeout` seconds."""

    def __init__(self, key: object, timeout: float) -> None:
        super().__init__(key, f"nobody answered within {timeout} seconds")
        self.timeout = timeout


class RemoteError(RequestError):
    """The responder failed. Its error is the `__cause__`, unless it stayed in another process."""

    def __init__(self, key: object, error: str) -> None:
        super().__init__(key, f"the responder failed: {error}")
        self.error = error


class Undelivered(HubsubError):
    """One subscription or listener did not finish with a message; the cause is what it raised, if anything."""

    def __init__(self, registration: Any, why: str) -> None:
        super().__init__(f"{describe(registration)}: {why}")
        self.registration = registration
        self.why = why


class DeliveryError(HubsubError, ExceptionGroup[Undelivered]):
    """A confirmed publish was not finished by everybody; its exceptions are `Undelivered`.

    `finished` is how many did finish.
    """

    finished: int = 0

    def derive(self, excs: Sequence[Undelivered]) -> DeliveryError:  # type: ignore[override]
        """Part of the group, for `except*`."""
        part = DeliveryError(self.message, excs)
        part.finished = self.finished
        return part


class ConfirmationTimeout(HubsubError, TimeoutError):
    """Somebody has not finished with a confirmed message in time; the message stays delivered.

    `waiting_for` lists who has not finished, and `failures` has an `Undelivered` for each that has failed.
    """

    def __init__(
        self, key: object, timeout: float, waiting_for: list[Any], failures: Sequence[Undelivered] = ()
    ) -> None:
        names = describe_all(waiting_for)
        super().__init__(f"{describe(key)} was not finished within {timeout:g} seconds by {names}")
        self.key = key
        self.timeout = timeout
        self.waiting_for = waiting_for
        self.failures = failures


class BridgeError(HubsubError):
    """Base class of errors of a bridge, or of what it carries."""


class UnknownScheme(BridgeError, ValueError):
    """No adapter is installed for the scheme of a URL; `known` lists the schemes that have one."""

    def __init__(self, scheme: str, known: Sequence[str]) -> None:
        given = f"no adapter for {scheme}://" if scheme else "a bridge needs a URL with a scheme, or an adapter"
        if scheme == "unix":
            given += ": Redis at a socket is redis://?path=/run/redis.sock"
        super().__init__(f"{given}; known schemes are {', '.join(f'{each}://' for each in known)}")
        self.scheme = scheme
        self.known = known


class MissingDriver(BridgeError, ImportError):
    """An adapter needs a package that is not installed; `adapter` and `driver` are their names."""

    def __init__(self, adapter: str, driver: str, extra: str) -> None:
        super().__init__(f"{adapter} needs {driver}: pip install 'hubsub[{extra}]'", name=driver)
        self.adapter = adapter
        self.driver = driver


class NameTaken(BridgeError):
    """Another live bridge keeps its position under this name: give each a name of its own, or both a group."""

    def __init__(self, name: str) -> None:
        super().__init__(f"another bridge is named {name!r}; give each a name of its own, or let them share by group=")
        self.name = name


class BridgeNotReady(BridgeError, TimeoutError):
    """A bridge did not connect, or did not send everything, in time. The cause is its last error, if it had one."""

    def __init__(self, bridge: object, timeout: float, cause: BaseException | None = None) -> None:
        within = f" within {timeout:g} seconds" if timeout else ""
        why = "see bridge.health()" if cause is None else describe_error(cause)
        super().__init__(f"{describe(bridge)} was not ready{within}: {why}")
        self.bridge = bridge


class BridgeClosed(BridgeError):
    """The bridge was closed; `await bridge.start()`, or entering it, opens it again."""

    def __init__(self, bridge: object) -> None:
        super().__init__(f"{describe(bridge)} is closed; await bridge.start(), or entering it, opens it again")
        self.bridge = bridge


class BrokerBusy(BridgeError):
    """The broker accepts nothing for now, though the connection is sound; adapters raise it, and the bridge retries."""


class AccessRefused(BridgeError):
    """The other side does not let the bridge in, or not to a pattern or a key; trying again would not help.

    Raised by an adapter when it connects, it ends the bridge.
    """


class Unsupported(BridgeError, ValueError):
    """Something was asked for that the broker cannot do; `adapter` and `feature` are the names of both."""

    def __init__(self, adapter: str, feature: str, why: str = "") -> None:
        super().__init__(f"{adapter} has no {feature}{why and f': {why}'}")
        self.adapter = adapter
        self.feature = feature


class NoSuchLetter(BridgeError, LookupError):
    """No dead letter is at `position`: it was sent back, has been dropped there, or never was."""

    def __init__(self, position: object) -> None:
        super().__init__(f"no dead letter is at {describe(position)}: it was sent back, or dropped; list them anew")
        self.position = position

    __str__ = Exception.__str__


class EncodeError(BridgeError, ValueError):
    """A message cannot be encoded, and so cannot cross a bridge; `key` is what it was published to."""

    def __init__(self, key: object, why: str) -> None:
        super().__init__(f"{describe(key)}: {why}")
        self.key = key


class DecodeError(BridgeError, ValueError):
    """A message from a broker cannot be decoded; `key` is what it was published to, `payload` the bytes.

    `meta` is its `Meta`, if that could be read; else None.
    """

    def __init__(self, key: object, why: str, payload: bytes | None = None, meta: Any = None) -> None:
        super().__init__(f"{describe(key)}: {why}")
        self.key = key
        self.payload = payload
        self.meta = meta


class SignatureError(DecodeError):
    """A message from a broker has no signature, or a wrong one, and the bridge has a `secret=`.

    `is_replay` is true if the signature is right, but was seen before. Nothing in the message is trusted: `meta` is
    None.
    """

    def __init__(self, key: object, why: str, payload: bytes | None = None, is_replay: bool = False) -> None:
        super().__init__(key, why, payload)
        self.is_replay = is_replay


class PayloadTooLarge(BridgeError, ValueError):
    """An encoded message has `size` bytes, and the broker accepts `limit`; `key` is what it was published to."""

    def __init__(self, key: object, size: int, limit: int) -> None:
        why = f"the encoded message has {size} bytes, and the broker accepts at most {limit}"
        super().__init__(f"{describe(key)}: {why}")
        self.key = key
        self.size = size
        self.limit = limit


class WaitingForItself(HubsubError):
    """An async listener waits for the confirmation of a message that it would have to handle itself."""

    def __init__(self, listener: object, key: object) -> None:
        super().__init__(
            f"{describe(listener)} would wait for itself to handle {describe(key)}; publish it without waiting"
        )
        self.listener = listener
        self.key = key


class WrongContext(HubsubError, RuntimeError):
    """Used from a thread or a loop where it cannot work."""


class WrongThread(WrongContext):
    """The hub belongs to the thread of its loop; other threads use `publish_threadsafe`."""

    def __init__(self, hub: object) -> None:
        super().__init__(f"{describe(hub)} runs in another thread; from here use hub.publish_threadsafe(key, message)")
        self.hub = hub


class WrongLoop(WrongContext):
    """The hub is bound to another event loop that is still open."""

    def __init__(self, hub: object) -> None:
        super().__init__(
            f"{describe(hub)} is bound to another event loop that is still open; close it, or use a hub for each"
        )
        self.hub = hub


class NoRunningLoop(WrongContext):
    """This operation needs a running event loop."""

    def __init__(self, hub: object, what: str) -> None:
        super().__init__(
            f"{what} needs {describe(hub)} to be on a running event loop; await hub.start() binds it to one"
        )
        self.hub = hub
