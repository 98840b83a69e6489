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
from hubsub.bridges.relay.wire import BEAT, GAP, MESSAGE, Notice, Unpacked, Wire, seconds_of, time_text

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
SPECIAL = ["type", "subject", "hops", "headers", "data", "datacontenttype", "specversion", "id", "Foo"]
NAMES = st.text(min_size=1) | st.sampled_from(
    ["ce_", "ce-id", "ce-specversion", "content-type", "Content-Type", "id", *(f"ce_{name}" for name in SPECIAL)]
)
VALUES = st.text() | st.sampled_from([MESSAGE, GAP, BEAT, "1.0", "{}", "application/json"])
METAS = st.builds(
    Meta,
    id=st.text(min_size=1),
    source=st.text(min_size=1),
    time=st.none()
    | st.datetimes(datetime(1970, 1, 2), datetime(9999, 1, 1)).map(lambda it: it.replace(tzinfo=UTC).timestamp()),
    headers=st.dictionaries(NAMES, VALUES, max_size=4),
    hops=st.integers(0, 2**31 - 1),
    reply_to=st.none()
    | st.lists(st.text().filter(lambda part: part not in ("*", "+")), min_size=1).map(lambda parts: Key(*parts)),
    correlation=st.none() | st.text(),
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
    assert str(error) == "('order', 'new'): 2000 bytes, encoded, and the broker takes at most 1000"
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
