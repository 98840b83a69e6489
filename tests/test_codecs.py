"""Codecs: what becomes of which type, there and back; what cannot be encoded is named."""

import enum
import json
import logging
import math
import pickle
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubsub import EncodeError, Key
from hubsub.bridges.relay.wire import Wire
from hubsub.codec.builtin import Codec, JsonCodec, MsgpackCodec, _warn_of_pickle, codec_of
from hubsub.codec.decoders import _json_validator, json_decoder

TEXTS = st.text(st.characters(exclude_categories=()))  # halves of surrogate pairs included
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
ZONES = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1


class Level(enum.StrEnum):
    HIGH = "high"


class Point(NamedTuple):
    x: int
    y: int


class Row(TypedDict):
    item: str
    count: int


@dataclass
class Line:
    item: str
    price: Any


@dataclass
class Everything:
    when: datetime
    day: date
    hour: time
    took: timedelta
    id: uuid.UUID
    price: Decimal
    colour: Colour
    size: Size
    blob: bytes
    tags: set[str]
    codes: frozenset[int]
    pair: tuple[int, str]
    by_number: dict[int, str]
    lines: list[Line] = field(default_factory=list)


EVERYTHING = st.builds(
    Everything,
    when=st.datetimes(timezones=st.none() | ZONES),
    day=st.dates(),
    hour=st.times(),
    took=st.timedeltas(timedelta(days=-99999999), timedelta(days=99999999)),
    id=st.uuids(),
    price=st.decimals(allow_nan=False, allow_infinity=False),
    colour=st.sampled_from(Colour),
    size=st.sampled_from(Size),
    blob=st.binary(),
    tags=st.sets(st.text()),
    codes=st.frozensets(INTEGERS),
    pair=st.tuples(INTEGERS, st.text()),
    by_number=st.dictionaries(INTEGERS, st.text(), max_size=3),
    lines=st.lists(st.builds(Line, item=st.text(), price=INTEGERS), max_size=2),
)


class Struct(msgspec.Struct, tag="struct", rename="camel"):
    first_name: str
    born: date


class Model(pydantic.BaseModel):
    item: str = pydantic.Field(alias="theItem")
    count: pydantic.PositiveInt = 1
    when: datetime | None = None
    tags: set[str] = set()


@pydantic.dataclasses.dataclass
class Checked:
    count: pydantic.PositiveInt
    blob: bytes = b""


# JSON


@given(PLAIN)
def test_json_gives_back_what_json_can_hold(message: Any) -> None:
    codec = JsonCodec()
    payload = codec.encode(message)
    assert codec.decode(payload, None) == message
    assert json.loads(payload) == message


@given(
    st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=8),
    st.integers(0, 3),
)
def test_json_reads_the_same_with_and_without_msgspec(message: Any, indent: int) -> None:
    for ascii in (True, False):
        try:
            payload = json.dumps(message, indent=indent or None, ensure_ascii=ascii).encode()
        except UnicodeEncodeError:
            continue
        assert repr(codec_of("json").decode(payload, None)) == repr(json.loads(payload))


@given(st.binary(max_size=12) | st.text('0123456789.-+eE[]{},:" \\uNaInfty', max_size=12).map(str.encode))
def test_json_refuses_the_same_with_and_without_msgspec(payload: bytes) -> None:
    def outcome(decode: Callable[[bytes], Any]) -> str:
        try:
            return repr(decode(payload))
        except ValueError:
            return "refused"

    assert outcome(lambda payload: JsonCodec().decode(payload, None)) == outcome(lambda it: json.loads(it.decode()))


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"a": [1, "ü"]}, '{"a":[1,"ü"]}'),
        (Line("tea", 4), '{"item":"tea","price":4}'),
        (Model(theItem="tea", tags={"a"}), '{"theItem":"tea","count":1,"when":null,"tags":["a"]}'),
        (Checked(3, b"ab"), '{"count":3,"blob":"ab"}'),
        (Struct("Ada", date(1815, 12, 10)), '{"type":"struct","firstName":"Ada","born":"1815-12-10"}'),
        (datetime(2024, 2, 29, 12, 30), '"2024-02-29T12:30:00"'),
        (datetime(2024, 2, 29, 12, 30, tzinfo=UTC), '"2024-02-29T12:30:00Z"'),
        (datetime(2024, 2, 29, tzinfo=timezone(timedelta(hours=2))), '"2024-02-29T00:00:00+02:00"'),
        (date(2024, 2, 29), '"2024-02-29"'),
        (time(12, 30), '"12:30:00"'),
        (timedelta(days=1, seconds=2), '"P1DT2S"'),
        (timedelta(microseconds=-1), '"-P0DT0.000001S"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (Decimal("1.50"), '"1.50"'),
        (Colour.RED, '"red"'),
        (Size.SMALL, "1"),
        (Level.HIGH, '"high"'),
        ({7}, "[7]"),
        (frozenset({7}), "[7]"),
        ((1, (2,)), "[1,[2]]"),
        (Point(1, 2), "[1,2]"),
        (b"\xfb\xff", '"+/8="'),
        (bytearray(b"a"), '"YQ=="'),
        (memoryview(b"a"), '"YQ=="'),
        (
            {1: "a", 2.5: "b", False: "c", None: "d", Level.HIGH: "e"},
            '{"1":"a","2.5":"b","false":"c","null":"d","high":"e"}',
        ),
        ("\ud800", '"\\ud800"'),
    ],
)
def test_json_of(message: Any, text: str) -> None:
    assert JsonCodec().encode(message).decode() == text


@pytest.mark.parametrize("codec", [JsonCodec(), MsgpackCodec()], ids=lambda codec: codec.name)
@settings(max_examples=40)
@given(message=EVERYTHING)
def test_a_dataclass_comes_back_as_it_was(codec: Codec, message: Everything) -> None:
    assert codec.decode(codec.encode(message), Everything) == message


@settings(max_examples=40)
@given(message=EVERYTHING)
def test_pydantic_reads_a_dataclass_where_msgspec_is_missing(message: Everything) -> None:
    assert _json_validator(Everything)(JsonCodec().encode(message)) == message


TYPED = [
    (Line, Line("tea", 1)),
    (list[Line], [Line("tea", 1), Line("honey", 2)]),
    (Struct, Struct("Ada", date(1815, 12, 10))),
    (Model, Model(theItem="tea", when=datetime(2024, 2, 29, tzinfo=UTC), tags={"a", "b"})),
    (list[Model], [Model(theItem="tea")]),
    (Checked, Checked(1, b"text")),
    (Row, {"item": "tea", "count": 1}),
    (Point, Point(1, 2)),
    (Colour, Colour.BLUE),
    (Literal["a", "b"], "a"),
    (int | None, None),
    (dict[str, set[int]], {"a": {1, 2}}),
    (dict, {"a": 1}),
    (str, "text"),
    (float, 1.0),
    (type(None), None),
    (Any, [1]),
    (datetime, datetime(2024, 2, 29, tzinfo=UTC)),
    (Decimal | datetime, Decimal("1.5")),
]


@pytest.mark.parametrize("codec", [JsonCodec(), MsgpackCodec()], ids=lambda codec: codec.name)
@pytest.mark.parametrize(("type", "message"), TYPED)
def test_what_is_declared_comes_back_as_that(codec: Codec, type: Any, message: Any) -> None:
    again = codec.decode(codec.encode(message), type)
    assert again == message
    assert again.__class__ is message.__class__


@pytest.mark.parametrize("codec", [JsonCodec(), MsgpackCodec()], ids=lambda codec: codec.name)
@pytest.mark.parametrize(
    ("type", "message", "says"),
    [
        (Line, {"item": "tea"}, "price"),
        (list[Line], [{"item": 1, "price": 1}], r"\[0\]\.item"),
        (Model, {"theItem": "tea", "count": 0}, "count"),
        (list[Model], [{"theItem": "tea", "count": 0}], "count"),
        (Colour, "green", "green"),
        (int, "1", "int"),
        (dict, [1], "list|array"),
    ],
)
def test_what_is_not_of_the_declared_type_is_refused(codec: Codec, type: Any, message: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        codec.decode(codec.encode(message), type)


def test_json_reads_not_a_number_from_others_also_into_a_type() -> None:
    assert math.isnan(JsonCodec().decode(b"[NaN]", None)[0])
    assert JsonCodec().decode(b"[-Infinity]", list[float]) == [-math.inf]
    assert JsonCodec().decode(b'["\\ud800"]', list[str]) == ["\ud800"]


class Looped:
    pass


LOOP: list[Any] = [1]
LOOP.append({"again": LOOP})


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"lines": [Line("tea", 1), Line("honey", 1j)]}, r"message\['lines'\]\[1\]\.price cannot .* a complex"),
        (Line("tea", math.nan), r"message\.price is nan, which JSON cannot represent"),
        ([math.inf], r"message\[0\] is inf"),
        ({"a": {(1, 2): 3}}, r"message\['a'\] cannot be encoded: keys must be str, .* not tuple"),
        ({"a": {math.nan: 3}}, r"message\['a'\] cannot be encoded"),
        (Point(1, object()), r"message\.y cannot be encoded: .* object"),  # type: ignore[arg-type]
        (Looped(), r"message cannot be encoded: JSON has no form for a Looped"),
        ({1j}, r"message\{…\} cannot be encoded"),
        (Struct("Ada", 1j), r"message\.born cannot be encoded"),  # type: ignore[arg-type]
        (Line, r"message cannot be encoded: .* type"),
        (LOOP, "contains itself"),
    ],
    ids=["dataclass", "nan", "inf", "key", "nan key", "named tuple", "object", "set", "struct", "class", "loop"],
)
def test_what_json_cannot_hold_is_named_with_its_place(message: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        JsonCodec().encode(message)


class AnyKeys(pydantic.BaseModel, extra="allow"):
    by: dict[Any, Any]


class StructOfAnyKeys(msgspec.Struct):
    by: dict[Any, Any]


ALIKE: list[dict[Any, Any]] = [
    {1: 0, "1": 0},
    {"-7": 0, -7: 0},
    {True: 0, "true": 0},
    {"false": 0, False: 0},
    {None: 0, "null": 0},
    {1.0: 0, "1.0": 0},
    {1e16: 0, "1e+16": 0},
    {10**30: 0, str(10**30): 0},
    {Size.SMALL: 0, "1": 0},
]


@pytest.mark.parametrize("keys", ALIKE, ids=repr)
def test_two_keys_that_json_writes_alike_are_refused_with_their_place(keys: dict[Any, Any]) -> None:
    one, other = keys
    for message, place in (
        (keys, "message"),
        ([1, {"a": keys}], r"message\[1\]\['a'\]"),
        (Line("tea", keys), r"message\.price"),
        (Line("tea", [AnyKeys(by=keys)]), r"message\.price\[0\]\.by"),
        (AnyKeys(by={}, more={"a": keys}), r"message\.more\['a'\]"),
        ({"a": StructOfAnyKeys({"b": keys})}, r"message\['a'\]\.by\['b'\]"),
        (Point(1, keys), r"message\.y"),  # type: ignore[arg-type]
    ):
        says = rf"^{place} cannot be encoded: JSON writes {re.escape(f'{one!r} and {other!r}')} of its keys alike$"
        with pytest.raises(ValueError, match=says):
            JsonCodec().encode(message)


@pytest.mark.parametrize(
    "message",
    [
        {1: 0, 2: 0},
        {"1": 0, 2: 0, None: 0},
        [{1: 0}, {1: 0, "2": 0}, {"1": 0}],
        {"1": {1: {"1": 0}}},
        {"value": 0, "false": 0, "x1": 0, "e": 0},
        {"a": '{"1":0,"1":0}', '"1"': 0, '\\"1': {"1": 0}},
        [True, None, "1", 1, "null"],
        AnyKeys(by={1: 0, "2": 0}),
        StructOfAnyKeys({1: 0, "2": 0, None: 0}),
    ],
    ids=repr,
)
def test_keys_that_are_not_written_alike_are_let_be(message: Any) -> None:
    payload = JsonCodec().encode(message)
    assert payload.decode() == json.dumps(message, separators=(",", ":"), default=vars_of)


def vars_of(value: Any) -> Any:
    return {"by": value.by}


KEYS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 12)
    | st.sampled_from([1.0, 2.5, -0.5])
    | st.sampled_from(["1", "-1", "true", "null", "value", "2.5", "1.0", "e", "ee", '"1', "\\", "é1", ""])
)


@given(
    st.recursive(
        st.sampled_from([1, "1", '"1":', None, "true"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
        max_leaves=10,
    )
)
def test_no_two_keys_become_one_unnoticed(message: Any) -> None:
    def number_of_keys(value: Any) -> int:
        if isinstance(value, dict):
            return len(value) + sum(map(number_of_keys, value.values()))
        return sum(map(number_of_keys, value)) if isinstance(value, list) else 0

    if number_of_keys(json.loads(json.dumps(message))) == number_of_keys(message):
        assert number_of_keys(json.loads(JsonCodec().encode(message))) == number_of_keys(message)
    else:
        with pytest.raises(ValueError, match="alike"):
            JsonCodec().encode(message)


@given(PLAIN)
def test_json_is_written_as_the_standard_library_writes_it(message: Any) -> None:
    payload = JsonCodec().encode(message)
    assert json.loads(payload) == message
    with suppress(UnicodeEncodeError):
        assert plainly(payload) == plainly(json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode())


def plainly(payload: bytes) -> bytes:
    """A payload with each float as Python shows it: `1e16` and `0.00006` are written in other ways by others."""
    number = rb"-?[0-9]+(\.[0-9]+(e[+-]?[0-9]+)?|e[+-]?[0-9]+)"
    return re.sub(number, lambda found: repr(float(found[0])).encode(), payload)


class Words(str):
    def __str__(self) -> str:
        return "other words"


class Mine(dict[Any, Any]):
    def items(self) -> Any:
        return [("mine", 1)]


class Alike:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


ODD = (
    st.floats()
    | st.sampled_from([2**64, -(2**63) - 1, 10**400, 1e16, 1e-7, -0.0, Colour.RED, Size.SMALL, Level.HIGH])
    | st.sampled_from([Words("w"), Mine(a=1), Alike(), Point(1, 2), Decimal("NaN"), Line("tea", 0.5), Line, object()])
    | st.sampled_from([time(1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC), timedelta(1.5), uuid.UUID(int=1), b"b"])
    | st.sampled_from([Struct("Ann", date(2026, 1, 2)), memoryview(b"m"), bytearray(b"a"), {1, 2}, frozenset({"a"})])
)
ODD_KEYS = (
    st.text(max_size=2)
    | st.sampled_from([1, 1.0, 1e16, math.inf, True, None, 2**64, b"b", (1,), Level.HIGH, Size.SMALL, Words("w")])
    | st.sampled_from([date(2026, 1, 2), uuid.UUID(int=1), Decimal(1), "1", "true", "null", "\ud800"])
)


@given(
    st.recursive(
        SCALARS | ODD,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.text(max_size=3), inner, max_size=3)
            | st.dictionaries(ODD_KEYS, inner, max_size=2)
        ),
        max_leaves=6,
    )
)
@settings(deadline=None)
def test_json_writes_and_refuses_the_same_with_and_without_msgspec(message: Any) -> None:
    def outcome(codec: JsonCodec) -> Any:
        try:
            return plainly(codec.encode(message))
        except ValueError as error:
            return str(error)

    fast, slow = JsonCodec(), JsonCodec()
    slow._fast = None
    assert outcome(fast) == outcome(slow)


@pytest.mark.parametrize("depth", [10, 200, 100_000])
def test_json_that_is_nested_deeply_is_written_or_refused_with_and_without_msgspec(depth: int) -> None:
    message: Any = 1
    for _ in range(depth):
        message = [message, {"a": 1.5}]
    fast, slow = JsonCodec(), JsonCodec()
    slow._fast = None
    if depth < 1000:
        assert fast.encode(message) == slow.encode(message)
    else:
        for codec in (fast, slow):
            with pytest.raises(ValueError, match=r"cannot be encoded|recursion"):
                codec.encode(message)


def test_plain_messages_are_written_by_msgspec() -> None:
    codec = JsonCodec()
    assert codec._fast is not None
    for message in ({"a": [1, 2.5, None, "é"], "b": [{}, True]}, (1, []), "text", None, 2**63):
        assert codec._fast(message) == codec.encode(message)
    many = [1.5] * 100
    for message in (many, [*many, "text"], [*range(100)], dict.fromkeys(map(str, range(100)), 1.5)):
        assert codec._fast(message) == codec.encode(message)
        assert codec._fast([*message, math.inf]) is None
    for message in ([math.nan], {1: 2}, Point(1, 2), [Colour.RED], "\ud800"):
        assert codec._fast(message) is None


# MessagePack


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False)
        | st.text()
        | st.binary(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(0, 9), inner, max_size=4),
        max_leaves=12,
    )
)
def test_msgpack_gives_back_what_it_can_hold(message: Any) -> None:
    codec = codec_of("msgpack")
    assert codec.decode(codec.encode(message), None) == message


def test_what_msgpack_cannot_hold_is_named_with_its_place() -> None:
    with pytest.raises(ValueError, match=r"message\[1\]\.price cannot be encoded: MessagePack has no form .* complex"):
        codec_of("msgpack").encode([1, Line("tea", 1j)])
    with pytest.raises(ValueError, match=r"message\[0\] cannot be encoded"):
        codec_of("msgpack").encode([2**64])


# The others


@given(st.binary())
def test_bytes_are_left_alone(message: bytes) -> None:
    codec = codec_of("bytes")
    assert codec.encode(message) == codec.encode(bytearray(message)) == codec.encode(memoryview(message)) == message
    assert codec.decode(message, None) is message
    assert codec.decode(message, bytes) is message


@given(st.text())
def test_text_is_utf8(message: str) -> None:
    codec = codec_of("str")
    assert codec.encode(message) == message.encode()
    assert codec.decode(message.encode(), str) == message


@pytest.mark.parametrize(
    ("name", "message", "payload", "type", "says"),
    [
        ("bytes", "text", b"", int, "'bytes' sends bytes, not str"),
        ("str", b"bytes", b"1", int, "'str' sends str, not bytes"),
    ],
)
def test_they_take_and_give_one_type_only(name: str, message: Any, payload: bytes, type: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        codec_of(name).encode(message)
    with pytest.raises(ValueError, match=f"is a {name}, and declared as int"):
        codec_of(name).decode(payload, type)


def test_pickle_warns_once_and_takes_anything(caplog: pytest.LogCaptureFixture) -> None:
    _warn_of_pickle.cache_clear()
    codec = codec_of("pickle")
    codec_of("pickle")
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "can run any code" in warning.getMessage()
    line = Line("tea", 1j)
    assert codec.decode(codec.encode(line), Line) == pickle.loads(codec.encode(line)) == line
    with pytest.raises(ValueError, match="is a Line, and declared as int"):
        codec.decode(codec.encode(line), int)


# Choosing


def test_a_codec_of_ones_own_is_taken_as_it_is() -> None:
    class Reversed:
        name = "reversed"
        content_type = "application/reversed"

        def encode(self, message: Any) -> bytes:
            return bytes(reversed(message))

        def decode(self, payload: bytes, type: Any) -> Any:
            return bytes(reversed(payload))

    own = Reversed()
    assert codec_of(own) is own


def test_what_is_no_codec_is_told() -> None:
    with pytest.raises(ValueError, match="no codec is called 'yaml'; known codecs are json, msgpack, bytes, "):
        codec_of("yaml")
    with pytest.raises(ValueError, match="is not a codec: it needs name, content_type, encode and decode"):
        codec_of(json)  # type: ignore[arg-type]


class Hesitating:
    """A codec whose answers have to be awaited, openly or not."""

    name = "hesitating"
    content_type = "application/hesitating"

    def encode(self, message: Any) -> Any:
        return self._encode(message)

    async def _encode(self, message: Any) -> bytes:
        return b""

    def decode(self, payload: bytes, type: Any) -> Any:
        return payload


class Waiting(Hesitating):
    async def decode(self, payload: bytes, type: Any) -> Any:
        return payload


def test_a_codec_that_cannot_answer_at_once_is_refused() -> None:
    with pytest.raises(ValueError, match="its decode is async"):
        codec_of(Waiting())


def test_what_a_codec_returns_is_bytes_or_the_message_cannot_be_encoded() -> None:
    wire = Wire(Hesitating(), "here")
    with pytest.raises(EncodeError, match="the codec 'hesitating' returned <coroutine object"):
        wire.pack_plain(Key("a"), 1, "1", "2026-01-01T00:00:00Z")


ALONE = """
import sys
sys.modules["msgspec"] = sys.modules["pydantic"] = None  # as if they were not installed
from dataclasses import dataclass
from hubsub.codec.builtin import codec_of

@dataclass
class Order:
    item: str

json = codec_of("json")
assert json.decode(json.encode(Order("tea")), None) == {"item": "tea"}
assert json.decode(b"[1]", list) == [1]
for call in (lambda: json.decode(b"{}", Order), lambda: codec_of("msgpack")):
    try:
        call()
    except ImportError as error:
        print(error)
try:
    json.decode(b"[1]", dict)
except ValueError as error:
    print(error)
"""


@pytest.mark.once
def test_the_standard_library_is_enough_and_what_it_lacks_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "decoding to Order needs msgspec or pydantic: pip install 'hubsub[msgpack]' or 'hubsub[pydantic]'",
        "the codec 'msgpack' needs msgspec: pip install 'hubsub[msgpack]'",
        "the message is a list, and declared as dict",
    ]


def test_decoders_are_made_once() -> None:
    assert json_decoder(Line) is json_decoder(Line)
