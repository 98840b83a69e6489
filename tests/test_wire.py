"""The wire: any message with any metadata there and back, and CloudEvents as everybody writes them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings import http, kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from hubsub import DecodeError, EncodeError, Gap, HubsubError, Key, Meta, PayloadTooLarge
from hubsub._core.declarations import Declarations
from hubsub.bridges.relay.attributes import cached_seconds_of
from hubsub.bridges.relay.wire import (
    BEAT,
    GAP,
    LONGEST_KEY,
    LONGEST_NAME,
    LONGEST_TIME,
    MESSAGE,
    MOST_HOPS,
    MOST_IN_HEADERS,
    Notice,
    Unpacked,
    Wire,
    seconds_of,
    time_text,
)

KEY: Key[Any] = Key("order", "new")
TIME = "2024-02-29T12:30:00.25Z"
SECONDS = datetime(2024, 2, 29, 12, 30, 0, 250000, UTC).timestamp()

MESSAGES: dict[str, st.SearchStrategy[Any]] = {
    "json": st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ),
    "msgpack": st.none() | st.integers(0, 99) | st.text() | st.binary() | st.dictionaries(st.text(), st.binary()),
    "bytes": st.binary(),
    "str": st.text(),
    "pickle": st.none() | st.complex_numbers(allow_nan=False),
}
CODECS = list(MESSAGES)

# Names that mean something on the wire, and any other.
SPECIAL = [
    "type",
    "subject",
    "hops",
    "hubsubdue",
    "due",
    "headers",
    "data",
    "datacontenttype",
    "specversion",
    "id",
    "Foo",
]
NAMES = st.text(min_size=1) | st.sampled_from(
    ["ce_", "ce-id", "ce-specversion", "content-type", "Content-Type", "id", *(f"ce_{name}" for name in SPECIAL)]
)
VALUES = st.text() | st.sampled_from([MESSAGE, GAP, BEAT, "1.0", "{}", "application/json"])
TIMES = st.none() | st.datetimes(datetime(1970, 1, 2), datetime(9999, 1, 1)).map(
    lambda it: it.replace(tzinfo=UTC).timestamp()
)
METAS = st.builds(
    Meta,
    id=st.text(min_size=1),
    source=st.text(min_size=1),
    time=TIMES,
    headers=st.dictionaries(NAMES, VALUES, max_size=4),
    hops=st.integers(0, 2**31 - 1),
    reply_to=st.none()
    | st.lists(st.text().filter(lambda part: part not in ("*", "+")), min_size=1).map(lambda parts: Key(*parts)),
    correlation=st.none() | st.text(),
    due=TIMES,
    # What the broker says does not travel.
    position=st.none(),
    redelivered=st.just(False),
    replayed=st.just(False),
)

both_ways = pytest.mark.parametrize("headers", [False, True], ids=["envelope", "headers"])


# There and back


@pytest.mark.parametrize("codec", CODECS)
@both_ways
@given(st.data())
def test_any_message_comes_back_with_any_metadata(codec: str, headers: bool, data: st.DataObject) -> None:
    wire = Wire(codec, "here", headers=headers)
    message, meta = data.draw(MESSAGES[codec]), data.draw(METAS)
    payload, beside = wire.pack(MESSAGE, KEY, message, meta)
    assert wire.unpack(KEY, payload, beside) == (MESSAGE, message, meta)
    assert bool(beside) is headers
    assert wire.is_own(payload, beside) is (meta.source == "here")


@pytest.mark.parametrize("codec", CODECS)
@both_ways
@given(st.data(), st.text(min_size=1))
def test_any_message_comes_back_without_metadata_of_its_own(
    codec: str, headers: bool, data: st.DataObject, source: str
) -> None:
    wire = Wire(codec, source, headers=headers)
    message = data.draw(MESSAGES[codec])
    payload, beside = wire.pack_plain(KEY, message, "a-1", TIME)
    assert wire.unpack(KEY, payload, beside) == (MESSAGE, message, Meta("a-1", source, SECONDS, hops=1))
    assert wire.is_own(payload, beside)
    assert not Wire(codec, source + "2", headers=headers).is_own(payload, beside)


@both_ways
def test_the_fast_way_writes_what_the_slow_one_would(headers: bool) -> None:
    for codec in CODECS:
        wire = Wire(codec, "here", headers=headers)
        message = {"json": [1], "msgpack": [1], "bytes": b"1", "str": "1", "pickle": 1j}[codec]
        fast, beside = wire.pack_plain(KEY, message, "1", time_text(SECONDS))
        slow, others = wire.pack(MESSAGE, KEY, message, Meta("1", "here", SECONDS, hops=1))
        assert fast == slow
        assert beside == others


@both_ways
@given(MESSAGES["json"])
def test_plain_payloads_go_and_come_as_they_are(headers: bool, message: Any) -> None:
    wire = Wire("json", "here", envelope=False, headers=headers)
    meta = Meta("1", "there", SECONDS, {"trace": "7"}, 3)
    for payload, beside in (wire.pack_plain(KEY, message, "1", TIME), wire.pack(MESSAGE, KEY, message, meta)):
        assert json.loads(payload) == message
        assert not wire.is_own(payload, beside)
        kept = Meta(headers={"trace": "7"}, hops=1) if "trace" in beside else None
        assert wire.unpack(KEY, payload, beside) == (MESSAGE, message, kept)


def test_a_source_can_be_set_anew() -> None:
    wire = Wire("json", "parent")
    before = wire.pack_plain(KEY, 1, "1", TIME)
    wire.source = "child"
    assert not wire.is_own(*before)
    assert wire.is_own(*wire.pack_plain(KEY, 1, "1", TIME))
    assert wire.is_own(*wire.pack(MESSAGE, KEY, 1, Meta("1")))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("envelope", [True, False])
@both_ways
def test_notices_and_beats_are_told_from_messages(codec: str, envelope: bool, headers: bool) -> None:
    wire = Wire(codec, "here", envelope=envelope, headers=headers)
    gap = Gap("outbox full", 3, 1.25, 2.5, (Key("a", "b/c"), Key("")))
    meta = Meta("1", "here", SECONDS, hops=1)
    for kind, message in (
        (GAP, Notice(gap, (Key("a", "*"),))),
        (GAP, Notice(gap._replace(keys=None, count=None), ())),
        (BEAT, None),
        (BEAT, "7"),
    ):
        payload, beside = wire.pack(kind, KEY, message, meta)
        assert wire.unpack(KEY, payload, beside) == (kind, message, meta)
        assert wire.is_own(payload, beside)


# What looks like something else

LOOKALIKES: list[Any] = [
    {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": 7},
    {"specversion": "1.0", "source": "s", "type": MESSAGE, "datacontenttype": "application/json", "id": "1"},
    '","data":1}',
    ['","time":"","data":'],
    {"data": {"data": 1}},
    "specversion",
]


@pytest.mark.parametrize("message", LOOKALIKES, ids=repr)
@both_ways
def test_a_message_that_looks_like_an_envelope_stays_a_message(message: Any, headers: bool) -> None:
    wire = Wire("json", "here", headers=headers)
    assert wire.unpack(KEY, *wire.pack_plain(KEY, message, "1", TIME)).message == message
    assert wire.unpack(KEY, *wire.pack(MESSAGE, KEY, message, Meta("1"))).message == message


@pytest.mark.parametrize(
    "message",
    [
        {"specversion": "1.0", "id": "1", "source": "s"},
        {"specversion": "1.0", "id": "", "source": "s", "type": "t"},
        {"specversion": "1.0", "id": 1, "source": "s", "type": "t"},
        {"specversion": "0.3", "id": "1", "source": "s", "type": "t"},
        ["specversion"],
        {"a": {"specversion": "1.0"}},
    ],
    ids=repr,
)
def test_what_is_not_quite_an_envelope_is_a_plain_payload(message: Any) -> None:
    assert Wire("json", "here").unpack(KEY, json.dumps(message).encode(), {}) == (MESSAGE, message, None)


def test_an_envelope_with_something_behind_the_data_is_read_whole() -> None:
    wire = Wire("json", "here")
    payload, _ = wire.pack_plain(KEY, {"a": 1}, "1", TIME)
    longer = payload[:-1] + b',"hops":4,"subject":"tea"}'
    assert wire.unpack(KEY, longer, {}) == (
        MESSAGE,
        {"a": 1},
        Meta("1", "here", SECONDS, headers={"ce_subject": "tea"}, hops=4),
    )
    assert wire.unpack(KEY, payload + b"\n", {}).message == {"a": 1}


@given(st.data())
def test_a_truncated_payload_is_never_read_as_another_message(data: st.DataObject) -> None:
    wire = Wire("json", "here")
    payload, _ = wire.pack_plain(KEY, data.draw(st.integers() | MESSAGES["json"]), "1", TIME)
    with pytest.raises(DecodeError):
        wire.unpack(KEY, payload[: data.draw(st.integers(0, len(payload) - 1))], {})


# Of others


def test_a_foreign_plain_message_is_a_plain_payload() -> None:
    wire = Wire("json", "here")
    assert wire.unpack(KEY, b'{"a": 1}', {}) == (MESSAGE, {"a": 1}, None)
    assert wire.unpack(KEY, b"7", {"trace": "x"}) == (MESSAGE, 7, Meta(headers={"trace": "x"}, hops=1))
    assert wire.unpack(KEY, b"text", {"content-type": "text/plain"}) == (MESSAGE, "text", None)
    assert wire.unpack(KEY, None, {}) == (MESSAGE, None, None)
    assert Wire("str", "here").unpack(KEY, b'{"a": 1}', {}).message == '{"a": 1}'
    assert Wire("bytes", "here").unpack(KEY, b'{"a": 1}', {}).message == b'{"a": 1}'


@pytest.mark.parametrize("codec", ["json", "str", "bytes", "msgpack"])
@pytest.mark.parametrize(
    ("content_type", "payload", "message"),
    [
        ("application/json; charset=utf-8", b"[1]", [1]),
        ("application/vnd.shop+json", b"[1]", [1]),
        ("text/csv", b"a,b", "a,b"),
        ("application/x-msgpack", b"\x91\x01", [1]),
        ("application/octet-stream", b"\xff", b"\xff"),
        ("application/x-python-pickle", b"\x80\x04K\x01.", b"\x80\x04K\x01."),  # nobody chose to trust it
    ],
)
def test_what_says_of_which_type_it_is_is_read_as_that(
    codec: str, content_type: str, payload: bytes, message: Any
) -> None:
    wire = Wire(codec, "here")
    assert wire.unpack(KEY, payload, {"content-type": content_type}).message == message
    event = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "s", "ce_type": "t", "content-type": content_type}
    assert wire.unpack(KEY, payload, event).message == message


EVENT = {
    "id": "a1",
    "source": "/shop",
    "type": "shop.order.placed",
    "time": datetime(2024, 2, 29, 12, 30, 0, 250000, UTC),
    "subject": 'tea ünd 100% "honey"',
    "datacontenttype": "application/json",
    "traceparent": "00-1",
}
META = Meta(
    "a1",
    "/shop",
    SECONDS,
    {"ce_type": "shop.order.placed", "ce_subject": 'tea ünd 100% "honey"', "ce_traceparent": "00-1"},
    1,
)


def event_of(data: Any = None, **attributes: Any) -> CloudEvent:
    return CloudEvent({**EVENT, **attributes}, data)


def as_text(headers: Mapping[str, str | bytes]) -> dict[str, str]:
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in headers.items()}


def sent_by_the_official_package(event: CloudEvent) -> dict[str, tuple[bytes, dict[str, str]]]:
    binary, structured = kafka.to_binary_event(event), kafka.to_structured_event(event)
    web = http.to_binary_event(event)
    return {
        "kafka binary": (binary.value, as_text(binary.headers)),
        "kafka structured": (structured.value, as_text(structured.headers)),
        "http binary": (web.body, dict(web.headers)),
        "http binary, as servers spell it": (web.body, {name.title(): value for name, value in web.headers.items()}),
        "structured without headers": (structured.value, {}),
    }


@pytest.mark.parametrize("form", sent_by_the_official_package(event_of()))
def test_events_of_the_official_package_are_understood(form: str) -> None:
    wire = Wire("json", "here")
    payload, headers = sent_by_the_official_package(event_of({"item": "tea"}))[form]
    assert wire.unpack(KEY, payload, headers) == (MESSAGE, {"item": "tea"}, META)
    payload, headers = sent_by_the_official_package(event_of())[form]
    assert wire.unpack(KEY, payload, headers) == (MESSAGE, None, META)
    payload, headers = sent_by_the_official_package(event_of("text", datacontenttype="text/plain"))[form]
    assert wire.unpack(KEY, payload, headers) == (MESSAGE, "text", META)
    blob = event_of(b"\xff\x00", datacontenttype="application/octet-stream")
    payload, headers = sent_by_the_official_package(blob)[form]
    assert wire.unpack(KEY, payload, headers) == (MESSAGE, b"\xff\x00", META)


def read_by_the_official_package(payload: bytes, headers: dict[str, str]) -> list[Any]:
    if not headers:
        return [JSONFormat().read(None, payload)]
    binary = {name: value.encode() for name, value in headers.items()}
    return [kafka.from_kafka_event(kafka.KafkaMessage(binary, None, payload))]


@pytest.mark.parametrize(
    ("codec", "message", "content_type"),
    [
        ("json", {"item": "tea"}, "application/json"),
        ("str", "text", "text/plain; charset=utf-8"),
        ("bytes", b"\xff\x00", "application/octet-stream"),
    ],
)
@both_ways
def test_the_official_package_understands_ours(codec: str, message: Any, content_type: str, headers: bool) -> None:
    wire = Wire(codec, "here", headers=headers)
    given = {"ce_type": "shop.order.placed", "ce_subject": "tea", "x-trace": "ü", "ce_id": "7"}
    meta = Meta("a1", "/shop", SECONDS, given, 2, reply_to=Key("re", "ply"), correlation="c")
    (event,) = read_by_the_official_package(*wire.pack(MESSAGE, KEY, message, meta))
    assert event.get_data() == message
    assert (event.get_id(), event.get_source(), event.get_type()) == ("a1", "/shop", "shop.order.placed")
    assert event.get_time() == EVENT["time"]
    assert event.get_subject() == "tea"
    assert event.get_datacontenttype() == content_type
    assert event.get_extension("replyto") == "re/ply"
    assert int(event.get_extension("hops")) == 2
    (event,) = read_by_the_official_package(*wire.pack_plain(KEY, message, "a1", TIME))
    assert event.get_data() == message
    assert (event.get_id(), event.get_source(), event.get_type()) == ("a1", "here", MESSAGE)
    assert event.get_time() == EVENT["time"]


@both_ways
def test_a_foreign_event_is_passed_on_as_it_was(headers: bool) -> None:
    wire = Wire("json", "here", headers=headers)
    payload, beside = sent_by_the_official_package(event_of({"item": "tea"}))["structured without headers"]
    received = wire.unpack(KEY, payload, beside)
    assert received.meta is not None
    (event,) = read_by_the_official_package(*wire.pack(MESSAGE, KEY, received.message, received.meta))
    assert event.get_attributes() == {**EVENT, "specversion": "1.0"}


def test_attributes_that_only_bear_our_names_are_headers() -> None:
    event = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "time": "yesterday", "data": 1}
    event |= {"hops": "many", "replyto": "a\\b", "headers": "none", "correlation": 7, "flag": True}
    received = Wire("json", "here").unpack(KEY, json.dumps(event).encode(), {})
    headers = {"ce_type": "t", "ce_hops": "many", "ce_replyto": "a\\b", "ce_headers": "none", "ce_flag": "true"}
    assert received == (MESSAGE, 1, Meta("1", "s", None, headers, 1, correlation="7"))


# Types and errors


@dataclass
class Order:
    item: str


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@both_ways
def test_messages_are_decoded_to_what_their_key_is_declared(codec: str, headers: bool) -> None:
    declarations = Declarations()
    declarations.declare(("order", "*"), Order)
    wire = Wire(codec, "here", headers=headers, type_of=declarations.type_of)
    for packed in (
        wire.pack_plain(KEY, Order("tea"), "1", TIME),
        wire.pack(MESSAGE, KEY, Order("tea"), Meta("1", headers={"a": "b"})),
        (wire.codec.encode(Order("tea")), {}),
    ):
        assert wire.unpack(KEY, *packed).message == Order("tea")
        assert wire.unpack(Key("price"), *packed).message == {"item": "tea"}
    with pytest.raises(DecodeError, match=r"\('order', 'new'\): cannot be decoded: .*item") as caught:
        wire.unpack(KEY, *wire.pack_plain(KEY, {"item": 1}, "1", TIME))
    assert caught.value.key == KEY
    assert caught.value.payload is not None
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("payload", "headers"),
    [
        (b"", {}),
        (b"{", {}),
        (b"\xff", {}),
        (b"[" * 100_000, {}),
        (b'{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"?"}', {}),
        (b'{"specversion":"1.0","id":"1","source":"s","type":"hubsub.gap","data":{}}', {}),
        (b'{"specversion":"1.0","id":"1","source":"s","type":"hubsub.gap"}', {}),
        (b"\xff", {"content-type": "text/plain"}),
        (b"{", {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "s", "ce_type": "t"}),
    ],
    ids=range(9),
)
def test_what_cannot_be_decoded_is_one_error(payload: bytes, headers: dict[str, str]) -> None:
    with pytest.raises(DecodeError, match=r"\('order', 'new'\): cannot be decoded: "):
        Wire("json", "here").unpack(KEY, payload, headers)


@given(st.binary(max_size=40), st.dictionaries(NAMES, VALUES, max_size=3))
def test_nothing_that_comes_raises_anything_else(payload: bytes, headers: dict[str, str]) -> None:
    for codec in ("json", "str", "bytes", "msgpack"):
        try:
            assert isinstance(Wire(codec, "here").unpack(KEY, payload, headers), Unpacked)
        except DecodeError:
            pass


@both_ways
def test_what_cannot_be_encoded_is_named_with_key_and_place(headers: bool) -> None:
    wire = Wire("json", "here", headers=headers)
    message = {"lines": [{"price": 1j}]}
    says = r"^\('order', 'new'\): message\['lines'\]\[0\]\['price'\] cannot be encoded: "
    with pytest.raises(EncodeError, match=says) as caught:
        wire.pack_plain(KEY, message, "1", TIME)
    assert caught.value.key == KEY
    with pytest.raises(EncodeError, match=says):
        wire.pack(MESSAGE, KEY, message, Meta("1"))
    for meta in (Meta(), Meta(""), Meta("1", time=1e300), Meta("1", reply_to=Key())):
        with pytest.raises(EncodeError, match="its metadata cannot be encoded"):
            wire.pack(MESSAGE, KEY, 1, meta)


def test_headers_that_have_no_utf8_are_refused_before_a_driver_fails_on_them() -> None:
    meta = Meta("1", headers={"a": "\ud800"})
    with pytest.raises(EncodeError, match="metadata"):
        Wire("json", "here", headers=True).pack(MESSAGE, KEY, 1, meta)
    wire = Wire("json", "here")
    assert wire.unpack(KEY, *wire.pack(MESSAGE, KEY, "\ud800", meta))[1:] == (
        "\ud800",
        meta._replace(source="here", hops=0),
    )


def test_the_errors_are_of_the_one_tree() -> None:
    error = PayloadTooLarge(KEY, 2000, 1000)
    assert str(error) == "('order', 'new'): the encoded message has 2000 bytes, and the broker accepts at most 1000"
    assert (error.key, error.size, error.limit) == (KEY, 2000, 1000)
    for each in (EncodeError, DecodeError, PayloadTooLarge):
        assert issubclass(each, HubsubError)
        assert issubclass(each, ValueError)


# Times


@given(st.datetimes(datetime(1900, 1, 1), datetime(9999, 1, 1)))
def test_times_are_exact_to_the_microsecond(time: datetime) -> None:
    seconds = time.replace(tzinfo=UTC).timestamp()
    assert seconds_of(time_text(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:01Z", 1.0),
        ("1970-01-01t00:00:01.5z", 1.5),
        ("1970-01-01T01:00:01+01:00", 1.0),
        ("1970-01-01T00:00:01.123456789Z", 1.123456),
        ("1970-01-01T00:00:01", 1.0),  # says no zone, which is a mistake
        ("yesterday", None),
        ("", None),
    ],
)
def test_times_of_others_are_read(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == seconds


# Hostile

MB = "x" * 1_000_000
EVENT_OF_ANYBODY: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}


def enveloped(**members: Any) -> bytes:
    return json.dumps({**EVENT_OF_ANYBODY, "data": 1, **members}).encode()


def beside(**attributes: Any) -> dict[str, Any]:
    return {f"ce_{name}": value for name, value in {**EVENT_OF_ANYBODY, **attributes}.items()}


def plain(**members: str) -> bytes:
    """As `pack_plain` writes it, with something else for some members."""
    said = {"source": "s", "type": MESSAGE, "datacontenttype": "application/json", "id": "1", "time": TIME, **members}
    return json.dumps({"specversion": "1.0", **said, "data": 1}, separators=(",", ":")).encode()


GAP_DATA: dict[str, Any] = {"reason": "r", "count": 1, "since": 1, "until": 2, "keys": ["a"], "patterns": ["*"]}


def notice(**members: Any) -> bytes:
    return enveloped(type=GAP, data={**GAP_DATA, **members})


HOSTILE: dict[str, tuple[bytes | None, dict[str, Any]]] = {
    "nothing": (None, {}),
    "empty": (b"", {}),
    "half of JSON": (b'{"a": [1', {}),
    "two of JSON": (b"1 2", {}),
    "deep array": (b"[" * 100_000 + b"]" * 100_000, {}),
    "deep object": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, {}),
    "deep in an envelope": (b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":' + b"[" * 100_000, {}),
    "deep beside attributes": (b"[" * 100_000, beside()),
    "deep headers": (enveloped(headers="[" * 100_000), {}),
    "not a number": (b"NaN", {}),
    "more than a float": (b"1e999", {}),
    "huge number": (b"9" * 100_000, {}),
    "huge number in an envelope": (enveloped()[:-1] + b',"n":' + b"9" * 100_000 + b"}", {}),
    "half of a pair": (b'"\\ud800"', {}),
    "half of a pair for id": (enveloped(id="\ud800"), {}),
    "half of a pair in headers": (b"1", beside(id="\udcff", x="\ud800")),
    "doubled keys": (b'{"a":1,"a":2}', {}),
    "doubled attributes": (enveloped()[:-1] + b',"id":"2"}', {}),
    "data twice": (enveloped(data_base64="MQ=="), {}),
    "data that is no base64": (b'{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":7}', {}),
    "not UTF-8": (b"\xff\xfe\x00", {}),
    "not UTF-8 in an envelope": (plain().replace(b'"s"', b'"\xff"'), {}),
    "control characters": (plain().replace(b'"s"', b'"\n\x00"'), {}),
    "UTF-16": ('{"a": "b"}'.encode("utf-16"), {}),
    "binary said to be text": (b"\xff", {"content-type": "text/plain"}),
    "binary said to be JSON": (b"\x00\xff", beside(datacontenttype="x") | {"content-type": "application/json"}),
    "content type of 1 MB": (b"1", {"content-type": MB}),
    "content type that is a list": (enveloped(datacontenttype=["a"]), {}),
    "types for every attribute": (enveloped(time=1, hops=[], replyto={}, correlation=[1], headers=3, subject={}), {}),
    "numbers for what names it": (enveloped(id=1, source=2, type=3), {}),
    "specversion of 1 MB": (enveloped(specversion="1." + MB), {}),
    "id of 1 MB": (enveloped(id=MB), {}),
    "source of 1 MB": (enveloped(source=MB), {}),
    "type of 1 MB": (enveloped(type=MB), {}),
    "time of 1 MB": (enveloped(time=MB), {}),
    "hops of 1 MB": (enveloped(hops="1" * 1_000_000), {}),
    "reply address of 1 MB": (enveloped(replyto=MB), {}),
    "reply address of a million parts": (enveloped(replyto="/" * 1_000_000), {}),
    "correlation of 1 MB": (enveloped(correlation=MB), {}),
    "attribute of 1 MB": (enveloped(subject=MB), {}),
    "name of an attribute of 1 MB": (enveloped(**{MB: "1"}), {}),
    "headers of 1 MB": (enveloped(headers=json.dumps({"a": MB})), {}),
    "headers that are no strings": (enveloped(headers='{"a": {"b": [1]}, "c": null}'), {}),
    "plain id of 1 MB": (plain(id=MB), {}),
    "plain source of 1 MB": (plain(source=MB), {}),
    "plain time of 1 MB": (plain(time=MB), {}),
    "ce_id of 1 MB": (b"1", beside(id=MB)),
    "ce_source of 1 MB": (b"1", beside(source=MB)),
    "ce_time of 1 MB": (b"1", beside(time=MB)),
    "ce_hops of 1 MB": (b"1", beside(hops=MB)),
    "ce_replyto of 1 MB": (b"1", beside(replyto=MB)),
    "plain ce_id of 1 MB": (b"1", beside(type=MESSAGE, time=TIME, id=MB) | {"content-type": "application/json"}),
    "plain ce_time of 1 MB": (b"1", beside(type=MESSAGE, time=MB) | {"content-type": "application/json"}),
    "header of 1 MB": (b"1", {"a": MB}),
    "name of a header of 1 MB": (b"1", {MB: "a"}),
    "a hundred thousand headers": (b"1", {f"h{number}": "" for number in range(100_000)}),
    "headers of other types": (b"1", {"a": 1, "b": None, "c": [b"d"]}),
    "names of other types": (b"1", {1: "a"}),  # type: ignore[dict-item]
    "event of another version": (b"1", beside(specversion="9")),
    "event of HTTP twice": (b"1", {"ce-specversion": "1.0", "CE-SpecVersion": "1.0", "Ce-Id": "%zz%ff", "ce-id": "2"}),
    "nothing in the headers": (b"1", {"": "", "ce_": "", "ce_specversion": ""}),
    "year of nought": (enveloped(time="0000-00-00T00:00:00Z"), {}),
    "end of time": (enveloped(time="9999-12-31T23:59:59.999999-23:59"), {}),
    "notice of nothing": (enveloped(type=GAP, data=None), {}),
    "notice of text": (enveloped(type=GAP, data="gap"), {}),
    "notice that counts backwards": (notice(count=-1), {}),
    "notice that does not count": (notice(count="1"), {}),
    "notice of no time": (notice(since="NaN", until="inf"), {}),
    "notice of no key": (notice(keys=[1]), {}),
    "notice of a pattern for a key": (notice(keys=["*"]), {}),
    "notice of a key of 1 MB": (notice(keys=[MB]), {}),
    "notice of many keys": (notice(keys=["a"] * 100_000), {}),
    "notice of many patterns": (notice(patterns=["a"] * 100_000), {}),
    "notice of 1 MB": (notice(reason=MB), {}),
    "beat of anything": (enveloped(type=BEAT, data=[[[]]]), {}),
    "pickle": (b"\x80\x04\x95", {"content-type": "application/x-python-pickle"}),
    "MessagePack that is deep": (b"\x91" * 100_000, {"content-type": "application/msgpack"}),
    "MessagePack that lies about its length": (b"\xdf\xff\xff\xff\xff", {"content-type": "application/msgpack"}),
}


def assert_within_bounds(meta: Meta | None) -> None:
    """What stays of a message in tables and queues is not large."""
    if meta is not None:
        for name in (meta.id, meta.source, meta.correlation):
            assert name is None or 0 <= len(name) <= LONGEST_NAME
        assert sum(len(name) + len(value) for name, value in meta.headers.items()) <= MOST_IN_HEADERS
        assert 0 <= meta.hops <= MOST_HOPS
        assert meta.time is None or abs(meta.time) < 1e12
        if meta.reply_to is not None:
            assert not meta.reply_to.is_wildcard
            assert len(meta.reply_to.text) <= LONGEST_KEY


def outcome(wire: Wire, payload: bytes | None, headers: Mapping[str, str]) -> Unpacked | DecodeError:
    try:
        return wire.unpack(KEY, payload, headers)
    except DecodeError as error:
        return error


@pytest.mark.parametrize("shape", HOSTILE)
@pytest.mark.parametrize("declared", [None, Order, dict[str, int]], ids=["any", "order", "dict"])
@pytest.mark.parametrize("secret", [None, "s3cret"])
def test_whatever_comes_is_a_message_within_bounds_or_one_error(shape: str, declared: Any, secret: str | None) -> None:
    payload, headers = HOSTILE[shape]
    for codec in ("json", "str", "bytes", "msgpack"):
        wire = Wire(codec, "here", type_of=lambda key: declared, secret=secret)
        wire.is_own(payload, headers)
        received = outcome(wire, payload, headers)
        assert_within_bounds(received.meta)
        if isinstance(received, DecodeError):
            assert received.payload is payload
            assert len(str(received)) < 2000
        else:
            assert secret is None, "it is not signed"


# What of these cannot be understood as anything.
REFUSED = [name for name in HOSTILE if "1 MB" in name or "deep" in name or name.startswith("notice")] + [
    "data twice",
    "huge number",
    "a hundred thousand headers",
    "headers of other types",
    "content type that is a list",
    "reply address of a million parts",
]
# These attributes may be anybody's, and mean something else.
REFUSED = [name for name in REFUSED if name not in ("deep headers", "specversion of 1 MB")]


@pytest.mark.parametrize("shape", REFUSED)
def test_what_is_too_long_too_deep_or_cannot_be_is_refused(shape: str) -> None:
    payload, headers = HOSTILE[shape]
    with pytest.raises(DecodeError):
        Wire("json", "here").unpack(KEY, payload, headers)


def test_what_is_refused_for_its_size_is_remembered_nowhere() -> None:
    wire = Wire("json", "here", headers=True)
    cached_seconds_of.cache_clear()
    for number in range(20):
        for payload, headers in (
            (plain(time=f"{number}{MB}"), {}),
            (enveloped(time=f"{number}{MB}"), {}),
            (b"1", beside(type=MESSAGE, time=f"{number}{MB}") | {"content-type": "application/json"}),
        ):
            with pytest.raises(DecodeError, match=r"time has|headers have"):
                wire.unpack(KEY, payload, headers)
        with pytest.raises(DecodeError, match=r"the key has 100000\d+ characters; at most 1024 cross a bridge"):
            wire.unpack(Key(f"{number}{MB}"), b"1", {})
        with pytest.raises(EncodeError, match="the key has"):
            wire.pack_plain(Key(f"{number}{MB}"), 1, "1", TIME)
    assert cached_seconds_of.cache_info().currsize <= 1  # nought, or that there is no time
    assert len(wire._short) <= 1


def test_keys_are_measured_with_their_parts() -> None:
    wire = Wire("json", "here")
    longest = Key("x" * (LONGEST_KEY - 1))
    assert wire.unpack(longest, *wire.pack_plain(longest, 1, "1", TIME)).message == 1
    for key in (Key("x" * LONGEST_KEY), Key(*[""] * (LONGEST_KEY + 1))):
        with pytest.raises(EncodeError):
            wire.pack(MESSAGE, key, 1, Meta("1"))
        with pytest.raises(DecodeError):
            wire.unpack(key, b"1", {})


def test_of_keys_that_were_asked_for_only_so_many_are_remembered() -> None:
    wire = Wire("json", "here")
    wire._short.MOST = 10
    wire._short.MOST_CHARACTERS = 2000
    for number in range(1000):
        wire.unpack(Key(str(number) * 100), b"1", {})
        assert len(wire._short) <= 10
        assert sum(len(part) + 1 for key in wire._short for part in key) <= 2000


TOO_LONG = [
    Meta("x" * (LONGEST_NAME + 1)),
    Meta("1", "x" * (LONGEST_NAME + 1)),
    Meta("1", correlation="x" * (LONGEST_NAME + 1)),
    Meta("1", headers={"a": "x" * MOST_IN_HEADERS}),
    Meta("1", headers={"x" * MOST_IN_HEADERS: "a"}),
    Meta("1", reply_to=Key("x" * (LONGEST_KEY + 1))),
]
OF_OTHER_TYPES = [
    Meta(7),  # type: ignore[arg-type]
    Meta(b"7"),  # type: ignore[arg-type]
    Meta("1", 7),  # type: ignore[arg-type]
    Meta("1", correlation=7),  # type: ignore[arg-type]
    Meta("1", time="now"),  # type: ignore[arg-type]
    Meta("1", time=float("nan")),
    Meta("1", hops=-1),
    Meta("1", hops=2**31),
    Meta("1", hops="2"),  # type: ignore[arg-type]
    Meta("1", reply_to="a"),  # type: ignore[arg-type]
    Meta("1", reply_to=Key("a", "*")),
]
OTHER_HEADERS: list[Any] = [{"n": 1}, {"n": None}, {"n": b"1"}, {"a": "b", "n": 1.5}, {1: "a"}, {None: "a"}, ["a"]]


@pytest.mark.parametrize("meta", TOO_LONG + OF_OTHER_TYPES, ids=lambda meta: repr(meta)[:60])
@both_ways
def test_what_would_not_be_understood_there_is_refused_here(meta: Meta, headers: bool) -> None:
    with pytest.raises(EncodeError, match=r"^\('order', 'new'\): its metadata cannot be encoded: "):
        Wire("json", "here", headers=headers).pack(MESSAGE, KEY, 1, meta)


@pytest.mark.parametrize("given", OTHER_HEADERS, ids=repr)
@pytest.mark.parametrize(("envelope", "secret"), [(True, None), (True, "s3cret"), (False, None)])
@both_ways
def test_headers_that_are_no_strings_are_an_encode_error_in_every_form(
    given: Any, envelope: bool, secret: str | None, headers: bool
) -> None:
    wire = Wire("json", "here", envelope=envelope, headers=headers, secret=secret)
    with pytest.raises(EncodeError, match="its metadata cannot be encoded") as caught:
        wire.pack(MESSAGE, KEY, 1, Meta("1", headers=given))
    if given == {"n": 1}:
        assert "its header 'n' is 1, and headers are strings" in str(caught.value)


@pytest.mark.parametrize("text", ["Hub/reply/*", "*", "a/+", "a\\b", "", "x" * 200, 7, None, ["a"], "Hub/reply/1"])
def test_a_reply_address_is_an_exact_key_or_somebody_elses_attribute(text: Any) -> None:
    wire = Wire("json", "here")
    for packed in ((enveloped(replyto=text), {}), (b"1", beside(replyto=text)))[: 2 if isinstance(text, str) else 1]:
        meta = wire.unpack(KEY, *packed).meta
        assert meta is not None
        if text in ("", "x" * 200, "Hub/reply/1"):
            assert meta.reply_to == Key.parse(text)
            assert "ce_replyto" not in meta.headers
        else:
            assert meta.reply_to is None
            assert meta.headers["ce_replyto"] == (text if isinstance(text, str) else json.dumps(text))


@pytest.mark.parametrize("value", [-1, "-1", 2**31, "9" * 20, "1_0", "٣", 1.5, True, None, "many", [1], "", " 1"])
def test_hops_that_cannot_be_are_somebody_elses_attribute(value: Any) -> None:
    meta = Wire("json", "here").unpack(KEY, enveloped(hops=value), {}).meta
    assert meta is not None
    assert meta.hops == 1
    assert meta.headers["ce_hops"] == (value if isinstance(value, str) else json.dumps(value))


@pytest.mark.parametrize("type", [Order, int, str, list[int], bytes])
def test_an_event_without_data_is_no_message_of_a_type_that_has_some(type: Any) -> None:
    for codec in ("json", "str", "bytes", "msgpack"):
        wire = Wire(codec, "here", type_of=lambda key: type)
        for payload, headers in (
            (b'{"specversion":"1.0","id":"1","source":"s","type":"t"}', {}),
            (None, beside()),
            (b"", beside() | {"content-type": "application/json"}),
            (None, {}),
            (None, {"trace": "7"}),
        ):
            with pytest.raises(DecodeError, match="it has no data, and is declared as"):
                wire.unpack(KEY, payload, headers)


@pytest.mark.parametrize("type", [None, Any, Order | None, type(None), object])
def test_an_event_without_data_is_none_where_that_may_be(type: Any) -> None:
    wire = Wire("json", "here", type_of=lambda key: type)
    assert wire.unpack(KEY, b'{"specversion":"1.0","id":"1","source":"s","type":"t"}', {}).message is None
    assert wire.unpack(KEY, None, {}).message is None


REQUEST = Meta("a-1", "/shop", SECONDS, {"trace": "7"}, 2, reply_to=Key("Hub", "reply", "x"), correlation="c")


@pytest.mark.parametrize("secret", [None, "s3cret"])
@pytest.mark.parametrize("codec", ["json", "msgpack"])
@both_ways
def test_an_error_has_what_could_be_read_of_the_metadata(headers: bool, codec: str, secret: str | None) -> None:
    wire = Wire(codec, "here", headers=headers, type_of=lambda key: Order, secret=secret)
    for packed, meta in (
        (wire.pack(MESSAGE, KEY, {"item": 1}, REQUEST), REQUEST),
        (wire.pack_plain(KEY, {"item": 1}, "1", TIME), Meta("1", "here", SECONDS, hops=1)),
    ):
        with pytest.raises(DecodeError) as caught:
            wire.unpack(KEY, *packed)
        assert caught.value.meta == meta
        assert caught.value.payload == packed[0]


@pytest.mark.parametrize(
    ("payload", "headers", "id"),
    [
        (b"{", beside(), "1"),
        (b'{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"?"}', {}, "1"),
        (plain()[:-2] + b"{}", {}, "1"),
        (enveloped(id="x" * (LONGEST_NAME + 1)), {}, None),
        (b"{", {}, None),
        (b"{", {"trace": "7"}, None),
        (plain(time="x" * (LONGEST_TIME + 1)), {}, None),
    ],
)
def test_an_error_of_foreign_messages_has_it_too(payload: bytes, headers: dict[str, str], id: str | None) -> None:
    with pytest.raises(DecodeError) as caught:
        Wire("json", "here").unpack(KEY, payload, headers)
    meta = caught.value.meta
    assert (meta and meta.id) == id


class Unspeakable(Exception):
    """An error that cannot even be told."""

    def __str__(self) -> str:
        raise RuntimeError


class Broken:
    """A codec that does what codecs should not."""

    name = "broken"
    content_type = "application/json"

    def __init__(self, does: Any) -> None:
        self.does = does

    def encode(self, message: Any) -> Any:
        return self.does()

    def decode(self, payload: bytes, type: Any) -> Any:
        return self.does()


def raising(error: Exception) -> Any:
    def does() -> Any:
        raise error

    return does


@pytest.mark.parametrize(
    "error", [KeyError(1), RecursionError(), MemoryError(), StopIteration(), Unspeakable(), ValueError(MB)]
)
@both_ways
def test_whatever_a_codec_raises_is_an_error_with_the_key(error: Exception, headers: bool) -> None:
    wire = Wire(Broken(raising(error)), "here", headers=headers)
    for pack in (lambda: wire.pack_plain(KEY, 1, "1", TIME), lambda: wire.pack(MESSAGE, KEY, 1, Meta("1"))):
        with pytest.raises(EncodeError) as caught:
            pack()
        assert caught.value.__cause__ is error
        assert len(str(caught.value)) < 2000
    packed = Wire("json", "here", headers=headers).pack_plain(KEY, 1, "1", TIME)
    for payload, beside in (packed, (b"1", {})):
        with pytest.raises(DecodeError) as failed:
            wire.unpack(KEY, payload, beside)
        assert len(str(failed.value)) < 2000
    assert failed.value.__cause__ is error


@pytest.mark.parametrize("result", ["1", None, 1, ["1"]])
@both_ways
def test_a_codec_that_returns_no_bytes_is_an_encode_error(result: Any, headers: bool) -> None:
    wire = Wire(Broken(lambda: result), "here", headers=headers)
    for pack in (lambda: wire.pack_plain(KEY, 1, "1", TIME), lambda: wire.pack(MESSAGE, KEY, 1, Meta("1"))):
        with pytest.raises(EncodeError, match="the codec 'broken' returned"):
            pack()
    wire = Wire(Broken(lambda: bytearray(b"1")), "here", headers=headers)
    assert Wire("json", "there").unpack(KEY, *wire.pack_plain(KEY, 1, "1", TIME)).message == 1


def test_text_of_a_codec_that_is_no_utf8_is_an_encode_error() -> None:
    codec = Broken(lambda: b"\xff")
    codec.content_type = "text/plain"
    wire = Wire(codec, "here")
    with pytest.raises(EncodeError, match="UTF-8"):
        wire.pack_plain(KEY, 1, "1", TIME)
    with pytest.raises(EncodeError, match="UTF-8"):
        wire.pack(MESSAGE, KEY, 1, Meta("1"))


@pytest.mark.parametrize("source", ["here", "hïer"])
@pytest.mark.parametrize("secret", [None, "s3cret"])
@both_ways
@given(METAS, MESSAGES["json"], st.text("0123456789abcdef-", min_size=1))
def test_the_size_counts_payload_and_headers(
    headers: bool, secret: str | None, source: str, meta: Meta, message: Any, id: str
) -> None:
    wire = Wire("json", source, headers=headers, secret=secret)
    for payload, beside in (
        wire.pack_plain(KEY, message, id, TIME),
        wire.pack(MESSAGE, KEY, message, meta),
        wire.pack(MESSAGE, KEY, message, meta._replace(source=source, headers={})),
        (b"1", {"ü": "ß"}),
    ):
        naive = len(payload) + sum(len(name.encode()) + len(value.encode()) for name, value in beside.items())
        assert wire.size(payload, beside) == naive


@both_ways
def test_two_keys_of_a_dict_that_json_writes_alike_are_an_encode_error(headers: bool) -> None:
    wire = Wire("json", "here", headers=headers)
    says = r"\('order', 'new'\): message\['lines'\]\[0\] cannot be encoded: JSON writes 1 and '1' of its keys alike"
    for pack in (wire.pack_plain, lambda key, message, id, time: wire.pack(MESSAGE, key, message, Meta(id))):
        with pytest.raises(EncodeError, match=says):
            pack(KEY, {"lines": [{1: "a", "1": "b"}]}, "1", TIME)
