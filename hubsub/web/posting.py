"""Publishing by an ordinary HTTP request."""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping
from math import ceil
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from ..codec import codec_of
from ..errors import ConfirmationTimeout, DecodeError, DeliveryError, HubClosed, InvalidKey
from ..hub import Hub
from ..key import NAMESPACE, PLUS, STAR, Key, Patterns
from .access import Access, Authorize, Connection, Identify, Refused, covered
from .application import confirmed, dispatched, is_request
from .commands import MOST_SECONDS
from .limits import Bucket, Limits
from .protocol import encode, is_deeper, may_be_infinite
from .stream import Receive, Send
from .streams import answer

# Addresses and identities whose rate is remembered.
MOST_BUCKETS = 10_000

_JSON = frozenset(("application/json", "text/json", ""))
_EVENT = "application/cloudevents+json"
_BATCH = "application/cloudevents-batch+json"
# Some of Python's codecs take time that grows with the square of the length, or raise what they like.
_CHARSETS = frozenset(("utf-8", "us-ascii", "iso-8859-1", "iso-8859-15", "windows-1252", "utf-16", "latin-1"))
# Attributes of a CloudEvent that do not become headers of the message.
_ATTRIBUTES = frozenset(("data", "data_base64", "datacontenttype", "specversion"))
# Headers of the request that become headers of the message: the trace that the request belongs to.
_TRACE = ("traceparent", "tracestate")


class Publishing:
    """What `publishing` returns: an ASGI application that publishes what is posted to it."""

    def __init__(
        self,
        hub: Hub,
        incoming: Patterns,
        authorize: Authorize | None,
        identify: Identify | None,
        origins: str | Collection[str],
        limits: Limits,
    ) -> None:
        self.hub = hub
        self.limits = limits
        self.access = Access([], incoming, authorize, identify, origins)
        self._codec = codec_of("json")
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request, as ASGI says."""
        if not await is_request(scope, receive, send, "this address takes POST"):
            return
        connection = Connection(secrets.token_hex(8), scope)
        try:
            count = await self._publish(scope, connection, receive)
        except Refused as refused:
            headers = []
            if refused.status == 405:
                headers.append((b"allow", b"POST"))
            if isinstance(refused, _TooFast):
                headers.append((b"retry-after", str(ceil(refused.seconds)).encode()))
            await answer(send, refused.status, refused.reason, headers)
        else:
            await answer(send, 202, encode({"count": count}).decode(), kind=b"application/json")

    async def _publish(self, scope: Mapping[str, Any], connection: Connection, receive: Receive) -> int:
        if scope["method"] != "POST":
            raise Refused(405, "POST only")
        if self.access.is_foreign(connection):
            raise Refused(403, "this page may not publish")
        key = self._key(scope)
        await self.access.identify(connection)
        incoming = self.access.of(self.access.incoming, connection.identity)
        if not covered(key, incoming) or not await self.access.allows(connection, "publish", key):
            raise Refused(403, "this key may not be published to")
        self._check_rate(connection)
        confirm = self._confirm(connection)
        message, headers = self._message(key, connection, await self._body(connection, receive))
        try:
            if confirm is not None:
                task, more = await confirmed(self.hub, key, message, headers, confirm)
                try:
                    return await task + more
                finally:
                    task.cancel()
            if headers:
                reached = self.hub.publish_with_headers(key, message, headers)
            else:
                reached = self.hub.publish(key, message)
            return reached + dispatched(self.hub, message)
        except InvalidKey as error:
            raise Refused(400, str(error)) from None
        except ConfirmationTimeout:
            raise Refused(504, "not every recipient has finished in time") from None
        except DeliveryError as error:
            raise Refused(502, f"{len(error.exceptions)} recipients failed") from None
        except HubClosed:
            raise Refused(503, "the hub is closed") from None

    def _key(self, scope: Mapping[str, Any]) -> Key[Any]:
        """Return the key: the path below the mount, each part unquoted by itself."""
        raw = scope.get("raw_path")
        path = raw.decode("latin-1") if raw else quote(scope["path"])
        path = path.partition("?")[0]
        root = quote(scope.get("root_path", ""))
        if root and path.startswith(root):
            path = path[len(root) :]
        try:
            parts = [unquote(part, errors="strict") for part in path.strip("/").split("/")]
        except UnicodeDecodeError:
            raise Refused(400, "the path is not UTF-8") from None
        if "" in parts:
            raise Refused(400, "the path must be a key without empty parts")
        if (fault := self.limits.fault_of_key(parts)) is not None:
            raise Refused(400, fault)
        if STAR in parts or PLUS in parts:
            raise Refused(400, "the key must not have wildcards")
        if parts[0] == NAMESPACE:
            raise Refused(403, "this key may not be published to")
        return Key.create_from(parts)

    def _check_rate(self, connection: Connection) -> None:
        who = connection.identity or connection.address
        bucket = self._buckets.get(who)
        if bucket is None:
            bucket = self._buckets[who] = Bucket(self.limits.publishes_per_second, self.limits.publish_burst)
            if len(self._buckets) > MOST_BUCKETS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(who)
        wait = bucket.wait()
        if wait:
            raise _TooFast(wait)

    @staticmethod
    def _confirm(connection: Connection) -> float | None:
        text = connection.query.get("confirm")
        if text is None:
            return None
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= MOST_SECONDS:
            raise Refused(400, f"confirm must be a number of seconds, more than 0 and at most {MOST_SECONDS:g}")
        return seconds

    async def _body(self, connection: Connection, receive: Receive) -> bytes:
        most = self.limits.frame_bytes
        length = connection.headers.get("content-length", "")
        if length.isdigit() and (len(length) > 18 or int(length) > most):
            raise Refused(413, f"a message has at most {most} bytes")
        chunks = []
        size = 0
        deadline = time.monotonic() + self.limits.silent_seconds
        while True:
            message = await receive()
            if message["type"] == "http.disconnect" or time.monotonic() > deadline:
                raise Refused(400, "the request ended early")
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > most:
                raise Refused(413, f"a message has at most {most} bytes")
            chunks.append(chunk)
            if not message.get("more_body"):
                return b"".join(chunks)

    def _message(self, key: Key[Any], connection: Connection, body: bytes) -> tuple[Any, dict[str, str] | None]:
        """Return the posted message and its headers: JSON, text, bytes, or a CloudEvent in either form."""
        kind, parameters = _media_type(connection.headers.get("content-type", ""))
        if kind == _BATCH:
            raise Refused(415, "a request must hold one event, not a batch")
        trace = {name: connection.headers[name] for name in _TRACE if name in connection.headers}
        if kind == _EVENT:
            return self._event(key, body, trace)
        headers = trace | {
            name[3:]: unquote(value)
            for name, value in connection.headers.items()
            if name.startswith("ce-") and name[3:] not in _ATTRIBUTES
        }
        self._check_headers(headers)
        return self._data(key, kind, parameters, body), headers or None

    def _data(self, key: Key[Any], kind: str, parameters: Mapping[str, str], body: bytes) -> Any:
        if kind in _JSON or kind.endswith("+json"):
            return self._json(key, body)
        if kind == "text/plain":
            charset = parameters.get("charset", "utf-8").lower()
            if charset not in _CHARSETS:
                raise Refused(400, f"the charset must be one of {', '.join(sorted(_CHARSETS))}")
            try:
                return body.decode(charset)
            except UnicodeDecodeError:
                raise Refused(400, "the text is not what its charset says") from None
        if kind == "application/octet-stream":
            return body
        raise Refused(415, "the content must be JSON, text/plain, application/octet-stream or a CloudEvent")

    def _json(self, key: Key[Any], body: bytes) -> Any:
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise Refused(400, "JSON must be UTF-8") from None
        if is_deeper(text, self.limits.depth):
            raise Refused(400, f"JSON may be nested {self.limits.depth} deep")
        try:
            msgspec.json.decode(body, type=msgspec.Raw)  # stricter: no NaN, for one
            message = self._codec.decode(body, self.hub.border.type_of(key))
            if may_be_infinite(body):
                self._codec.encode(message)  # else it could be sent to nobody
            return message
        except (ValueError, TypeError, RecursionError, DecodeError) as error:
            if self._is_json(body):
                raise Refused(422, str(error)) from None
            raise Refused(400, "this is not JSON") from None

    def _is_json(self, body: bytes) -> bool:
        try:
            msgspec.json.decode(body, type=msgspec.Raw)
            self._codec.decode(body, None)
        except (ValueError, RecursionError, DecodeError):
            return False
        return True

    def _event(self, key: Key[Any], body: bytes, trace: dict[str, str]) -> tuple[Any, dict[str, str] | None]:
        """A CloudEvent 1.0 in its structured form."""
        try:
            event = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            version = msgspec.json.decode(event.get("specversion", b'""'), type=str)
        except msgspec.MsgspecError:
            raise Refused(400, "the body is not a CloudEvent") from None
        if version != "1.0":
            raise Refused(400, "the CloudEvent must be of version 1.0")
        headers = trace
        for name, raw in event.items():
            if name not in _ATTRIBUTES:
                value = msgspec.json.decode(raw)
                headers[name] = value if isinstance(value, str) else bytes(raw).decode()
        self._check_headers(headers)
        data = bytes(event.get("data", b"null"))
        kind, parameters = _media_type(_string(event, "datacontenttype"))
        if "data_base64" in event:
            try:
                data = base64.b64decode(_string(event, "data_base64"), validate=True)
            except (binascii.Error, ValueError):
                raise Refused(400, "data_base64 must be base64") from None
            return self._data(key, kind or "application/octet-stream", parameters, data), headers or None
        if kind in _JSON or kind.endswith("+json"):
            return self._json(key, data), headers or None
        text = msgspec.json.decode(data)
        if not isinstance(text, str):
            raise Refused(400, "data must be a string if its content type is not JSON")
        return self._data(key, kind, {}, text.encode("utf-8", "surrogatepass")), headers or None

    def _check_headers(self, headers: Mapping[str, str]) -> None:
        if (fault := self.limits.fault_of_headers(headers)) is not None:
            raise Refused(413, fault)


class _TooFast(Refused):
    def __init__(self, seconds: float) -> None:
        super().__init__(429, "too fast")
        self.seconds = seconds


def _string(event: Mapping[str, msgspec.Raw], name: str) -> str:
    if name not in event:
        return ""
    try:
        return msgspec.json.decode(event[name], type=str)
    except msgspec.MsgspecError:
        raise Refused(400, f"{name} must be a string") from None


def _media_type(text: str) -> tuple[str, dict[str, str]]:
    kind, *rest = text.split(";")
    parameters = {}
    for each in rest:
        name, _, value = each.partition("=")
        parameters[name.strip().lower()] = value.strip().strip('"')
    return kind.strip().lower(), parameters


def publishing(
    hub: Hub,
    incoming: Patterns,
    *,
    authorize: Authorize | None = None,
    identify: Identify | None = None,
    origins: str | Collection[str] = "same",
    limits: Limits = Limits(),  # noqa: B008 - immutable
) -> Publishing:
    """Make an ASGI application that publishes what is posted to it: `POST /room/1` publishes to `("room", "1")`.

    It accepts JSON, text, bytes and CloudEvents 1.0 (binary and structured); JSON is decoded as the type declared for
    the key. The answer is 202 with `{"count": n}`; with `?confirm=5` it comes when every recipient has finished, within
    5 seconds.
    Otherwise 400 (malformed), 401 (who are you), 403, 405, 413 (too large), 415 (another type), 422 (JSON, but not what
    is declared), 429 with `Retry-After`, 502 and 504 (not confirmed), 503 (closed).

    Args:
        hub: The hub.
        incoming: Patterns of what may be published; `{identity}` as in `endpoint`.
        authorize: As in `endpoint`, for "publish".
        identify: As in `endpoint`.
        origins: As in `endpoint`.
        limits: As in `endpoint`; the rate is that of an identity, or of an address.

    Raises:
        ValueError: An option has an invalid value.
        InvalidKey: A pattern is invalid.
    """
    return Publishing(hub, incoming, authorize, identify, origins, limits)
