"""Messages as attackers, other programs and accidents write them."""

from __future__ import annotations

import json
from typing import Any

from .broker import Raw

_GOOD = {
    "specversion": "1.0",
    "source": "them",
    "type": "hubsub.message",
    "id": "1",
    "datacontenttype": "application/json",
}
_CE = {f"ce_{name}": value.encode() for name, value in _GOOD.items() if name != "datacontenttype"}
_K = ("enemy", "k")


def _envelope(**changes: Any) -> Raw:
    """Return a CloudEvent in JSON with some attributes changed; None leaves an attribute out."""
    event = {name: value for name, value in (_GOOD | {"data": 1} | changes).items() if value is not None}
    return Raw(_K, json.dumps(event).encode())


def _beside(payload: bytes = b"1", **changes: bytes | None) -> Raw:
    """Return a CloudEvent in headers with some attributes changed."""
    headers = {
        **_CE,
        "content-type": b"application/json",
        **{name.replace("__", "-"): v for name, v in changes.items()},
    }
    return Raw(_K, payload, {name: value for name, value in headers.items() if value is not None})


SHAPES: list[Raw] = [
    # Invalid keys, or keys that are not this hub's
    Raw(("order", "*"), b"0"),
    Raw(("order", "+"), b"0"),
    Raw(("*",), b"0"),
    Raw(("+", "+"), b"0"),
    Raw(("",), b"0"),
    Raw(("", "", ""), b"0"),
    Raw(b"\xff\xfe\xfd", b"0"),
    Raw(b"%", b"0"),
    Raw(b"%zz%F0%2", b"0"),
    Raw(b"a\0b\r\nc", b"0"),
    Raw(("x" * 100_000,), b"0"),
    Raw(tuple("deep" for _ in range(2000)), b"0"),
    Raw(("Hub",), b"0"),
    Raw(("Hub", "reply"), b"0"),
    Raw(("Hub", "reply", "*"), b"0"),
    Raw(("Hub", "beat", "somebody"), b"\xff"),
    Raw(("Hub", "addedSubscriber", "x"), b'{"key": ["x"], "currentSubscriberCount": "many"}'),
    # Notices of dropped messages
    Raw(("Hub", "gap"), b"0"),
    Raw(("Hub", "gap"), json.dumps(_GOOD | {"type": "hubsub.gap", "data": {}}).encode()),
    Raw(
        ("Hub", "gap"),
        json.dumps(
            _GOOD
            | {
                "type": "hubsub.gap",
                "data": {"reason": 1, "count": "x", "since": "y", "until": None, "keys": 5, "patterns": "*"},
            }
        ).encode(),
    ),
    # Payloads
    Raw(_K, None),
    Raw(_K, b""),
    Raw(_K, b"\xff\xfe"),
    Raw(_K, b"{"),
    Raw(_K, b"[" * 100_000),
    Raw(_K, b"1" * 10_000),
    Raw(_K, b"1e999"),
    Raw(_K, b"NaN"),
    Raw(_K, b'"\\ud800"'),
    Raw(_K, b'{"a": 1, "a": 2}'),
    # CloudEvents in JSON
    _envelope(id=5),
    _envelope(id=""),
    _envelope(source=["them"]),
    _envelope(type=None),
    _envelope(specversion=2),
    _envelope(specversion="1.0", data=None),
    _envelope(data=None, data_base64="$$$"),
    _envelope(data=None, data_base64=5),
    _envelope(datacontenttype="text/plain; charset=utf-99"),
    _envelope(datacontenttype=7),
    _envelope(datacontenttype="application/msgpack"),
    _envelope(time="x" * 1_000_000),
    _envelope(time="9999-99-99T99:99:99Z"),
    _envelope(time=1e300),
    _envelope(id="i" * 1_000_000),
    _envelope(hops="many"),
    _envelope(hops=-1),
    _envelope(hops=1e300),
    _envelope(replyto="*"),
    _envelope(replyto=""),
    _envelope(replyto="admin/shutdown", correlation="c"),
    _envelope(replyto="Hub/reply/*", correlation="c"),
    _envelope(replyto=["Hub"], correlation={"a": 1}),
    _envelope(headers="no object"),
    _envelope(headers='{"a": {"b": []}}'),
    _envelope(hubsub={"deep": [[[[[]]]]]}),
    # CloudEvents in headers
    _beside(ce_id=None),
    _beside(ce_id=b"\xff"),
    _beside(ce_id=b"i" * 1_000_000),
    _beside(ce_source=b""),
    _beside(ce_time=b"yesterday"),
    _beside(ce_time=b"t" * 1_000_000),
    _beside(ce_hops=b"1e9"),
    _beside(ce_replyto=b"Hub/reply/*", ce_correlation=b"c"),
    _beside(ce_replyto=b"\xff"),
    _beside(ce_headers=b"["),
    _beside(ce_specversion=b"9.9"),
    _beside(content__type=b"application/msgpack", payload=b"\xc1"),
    _beside(content__type=b"text/plain", payload=b"\xff"),
    _beside(content__type=b"\xff/\xfe"),
    _beside(**{"": b"nameless", "x" * 300: b"y", "\0": b"\0", "UPPER": b"case"}),
    Raw(_K, b"1", {f"h{number}": b"v" for number in range(4100)}),
]
"""One after the other, and all at once, they affect nothing but themselves."""
