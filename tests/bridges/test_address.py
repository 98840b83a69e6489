"""Keys as addresses, the first of many copies, and what is subscribed at a broker, each against a naive oracle."""

import re
import string
from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from test_key import naive

from hubsub import Key
from hubsub.bridges import Addresses, Copies
from hubsub.bridges.address import LONGEST, cached
from hubsub.bridges.redis.entries import ALLOWED
from hubsub.bridges.redis.pubsub import _ALLOWED
from hubsub.bridges.relay.plan import uncovered as _uncovered

SCHEMES = [
    Addresses(":"),
    Addresses("/", forbidden="+#", empty="%"),
    Addresses(".", allowed=string.ascii_letters, empty="_"),
    Addresses(".", forbidden="*>", prefix="hubsub."),
]
# As the adapters of brokers have them whose names are any bytes.
BINARY = [
    Addresses("/", binary=True),
    Addresses(":", allowed=_ALLOWED, binary=True),
    Addresses(":", allowed=ALLOWED, prefix="hubsub:0:", binary=True),
    Addresses(":", allowed=_ALLOWED, binary=True, foreign=True),
]
FOREIGN = BINARY[3]
FORBIDDEN = dict(zip(BINARY, ("", "\r", "\r\n", "\r"), strict=True))
ODD = [
    "",
    "%",
    "%2F",
    "%2f",
    "%25",
    "%2525",
    "%41",
    "%zz",
    "100%",
    "_",
    "a.b",
    ":",
    "\r\n",
    "\ud800",
    "\udcff",
    "\udcc3\udca9",
]
PARTS = st.one_of(st.text(), st.lists(st.sampled_from([*ODD, *"%2F5fa:/"]), max_size=5).map("".join))
EXACT = st.lists(PARTS, min_size=1)
RAW = st.one_of(
    st.binary(),
    st.lists(
        st.sampled_from(
            [b"%", b"2F", b"3a", b"%41", b"%25", b":", b"/", b"\xff", b"\xc3", b"\xa9", b"\xed\xa0\x80", b"a"]
        )
    ).map(b"".join),
)
SMALL = st.lists(st.sampled_from("ab*+"), min_size=1, max_size=3).map(lambda parts: Key(*parts))
KEYS = st.lists(st.sampled_from("abx"), min_size=1, max_size=4).map(lambda parts: Key(*parts))


@given(EXACT.map(lambda parts: Key(*parts)), st.sampled_from(SCHEMES))
def test_a_key_is_read_from_its_address_as_it_was(key: Key[Any], scheme: Addresses) -> None:
    assert scheme.key(scheme.address(key)) == key


@given(EXACT.map(lambda parts: Key(*parts)))
def test_an_address_has_only_the_characters_that_are_allowed(key: Key[Any]) -> None:
    assert set(SCHEMES[2].address(key)) <= set(string.ascii_letters + string.digits + "%._")
    assert not set("+#") & set(SCHEMES[1].address(key))


@given(EXACT.map(lambda parts: Key(*parts)), st.sampled_from(BINARY))
def test_a_key_is_read_from_the_bytes_of_its_address_as_it_was(key: Key[Any], scheme: Addresses) -> None:
    raw = scheme.to_bytes(scheme.address(key))
    assert scheme.key(scheme.to_text(raw)) == key


def as_it_was_made(part: str, separator: str, forbidden: str = "", surrogates: bool = True) -> str:
    """A part as hubsub 0.1.0 wrote it."""
    return "".join(
        "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))
        if char in "%" + separator + forbidden or (not surrogates and "\ud800" <= char <= "\udfff")
        else char
        for char in part
    )


@given(EXACT.map(lambda parts: Key(*parts)))
def test_what_an_earlier_version_wrote_is_read(key: Key[Any]) -> None:
    slashes = "/".join(as_it_was_made(part, "/") for part in key)
    assert BINARY[0].key(slashes) == key
    assert BINARY[0].key(BINARY[0].to_text(slashes.encode("utf-8", "surrogatepass"))) == key
    colons = ":".join(as_it_was_made(part, ":", "\r", surrogates=False) for part in key)
    assert BINARY[1].key(BINARY[1].to_text(colons.encode())) == key
    colons = ":".join(as_it_was_made(part, ":", "\r\n", surrogates=False) for part in key)
    assert BINARY[2].key("hubsub:0:" + colons) == key


TEXTS = ["".join(chars) for length in range(6) for chars in product("%235A:", repeat=length)]


def test_every_short_name_is_read_and_written_as_a_table_of_all_of_them_says() -> None:
    made = {as_it_was_made(text, ":"): text for text in TEXTS}
    scheme = BINARY[1]
    for text in TEXTS:
        if ":" not in text:
            # What was made here is read as what it was made of, and all else is taken as it stands.
            assert scheme.key(text) == (made.get(text, text),)
            if text not in made:
                assert scheme.address(Key(text)) == text


def test_every_short_foreign_name_has_a_key_of_its_own() -> None:
    # The shortest first: what has to be escaped is what has a separator, or would be read as what was escaped.
    made: dict[str, str] = {}
    for text in TEXTS:
        if ":" in text or text in made:
            made[as_it_was_made(text, ":")] = text
    for text in TEXTS:
        if ":" not in text:
            assert FOREIGN.key(text) == (made.get(text, text),)
            assert FOREIGN.address(Key(made.get(text, text))) == text


@given(RAW, st.sampled_from(BINARY))
def test_what_comes_in_under_a_key_goes_out_under_the_same_name(raw: bytes, scheme: Addresses) -> None:
    # So hubsub 0.1.0 wrote to Kafka what now stands for bytes that are no UTF-8, which it did not receive.
    assume(scheme is not BINARY[0] or not re.search(rb"\xed[\xb2\xb3]", raw))
    address = scheme.to_text(raw)
    key = scheme.key(scheme.prefix + address)
    assert key is not None
    sep = scheme.separator.encode()
    again = scheme.to_bytes(scheme.address(key)).removeprefix(scheme.prefix.encode())
    assert scheme.key(scheme.prefix + scheme.to_text(again)) == key
    for one, other, part in zip(again.split(sep), raw.split(sep), key, strict=True):
        # But for what hubsub 0.1.0 would have written, which leads to the same key.
        earlier = as_it_was_made(part, scheme.separator, FORBIDDEN[scheme], scheme is BINARY[0])
        assert one == other or (scheme is not FOREIGN and scheme.to_text(other) == earlier)


@pytest.mark.parametrize(
    "name",
    [
        b"battery:100%",
        b"%",
        b"a:%zz",
        b"%2f",
        b"%3a",
        b"a%41",
        b"%FF",
        b"%C3",
        b"\xff",
        b"\xe2\x82",
        b"\xed\xb3\xbf",
        b"a\rb",
        b"%%3A",
    ],
)
def test_a_foreign_name_stays_what_it_is(name: bytes) -> None:
    for scheme in (FOREIGN, BINARY[1]):
        key = scheme.key(scheme.to_text(name))
        assert key is not None
        assert scheme.to_bytes(scheme.address(key)) == name or (b"%25" in name and scheme is not FOREIGN)
        assert ":".join(map(scheme.escape, key)) == scheme.address(key)


def test_a_foreign_name_reads_as_it_is_written() -> None:
    for scheme in (FOREIGN, BINARY[1]):
        assert scheme.key("battery:100%") == ("battery", "100%")
    assert FOREIGN.key("battery:100%25") == ("battery", "100%25")
    assert BINARY[1].key("battery:100%25") == ("battery", "100%")
    assert BINARY[1].key("a%2fb:c%2Fd") == ("a%2fb", "c%2Fd")  # to this scheme a slash is a character like any other


@given(st.text(), st.sampled_from(SCHEMES[:2]))
def test_any_address_is_read_as_some_key(address: str, scheme: Addresses) -> None:
    key = scheme.key(address)
    assert key is not None
    assert scheme.key(scheme.address(key)) == key


def test_an_address_of_another_prefix_is_none_of_ours() -> None:
    assert SCHEMES[3].key("other.a") is None


@given(st.lists(SMALL))
def test_what_is_subscribed_matches_what_is_wanted_and_nothing_covers_another(patterns: list[Key[Any]]) -> None:
    kept = _uncovered(patterns)
    assert set(kept) <= set(patterns)
    assert all(any(pattern.is_subset_of(each) for each in kept) for pattern in patterns)
    assert not any(one.is_subset_of(other) for one in kept for other in kept if one != other)


def test_what_is_remembered_is_bounded_in_number_length_and_sum() -> None:
    calls: list[Any] = []

    def function(argument: Any) -> int:
        calls.append(argument)
        return len(calls)

    known = cached(function, most=3, most_size=2 * LONGEST)
    assert [known("a"), known("a"), known(b"a"), known(Key("a")), known("a")] == [1, 1, 2, 3, 1]
    known("one more than the most")
    assert known("a") == 5  # all were forgotten at once
    calls.clear()
    for long in ("x" * (LONGEST + 1), b"x" * (LONGEST + 1), Key("x" * LONGEST, "y")):
        assert known(long) != known(long)
    calls.clear()
    texts = [name * LONGEST for name in "pqr"]
    for text in (*texts, *texts):
        known(text)
    assert len(calls) > len(texts)


# How brokers match: what stands for one part, what for any number of them at the end, and the least of that number.
WILDCARDS = [
    (Addresses(".", forbidden="*>", empty="%"), "*", ">", ">", 1),  # NATS
    (Addresses("/", forbidden="+#", prefix="hubsub/"), "+", "+/#", "#", 0),  # MQTT
    (Addresses(".", forbidden="*#", prefix="hubsub."), "*", "*.#", "#", 0),  # AMQP
]
TRICKY = st.sampled_from(["a", "b", "", "*", "+", "#", ">", "%2A", "a.b", "a/b", "*>"])


def broker_matches(words: list[str], address: list[str], one: str, many: str, least: int) -> bool:
    """What a broker does with the words of a pattern and of an address."""
    if not words or words[0] == many:
        return len(address) >= least if words else not address
    return bool(address) and words[0] in (one, address[0]) and broker_matches(words[1:], address[1:], one, many, least)


@given(
    st.lists(TRICKY, min_size=1, max_size=4).map(lambda parts: Key(*parts)),
    st.lists(TRICKY.filter(lambda part: part not in ("*", "+")), min_size=1, max_size=4).map(lambda parts: Key(*parts)),
    st.sampled_from(WILDCARDS),
)
def test_the_pattern_of_a_broker_matches_what_the_pattern_of_the_hub_does(
    pattern: Key[Any], key: Key[Any], wildcards: tuple[Addresses, str, str, str, int]
) -> None:
    addresses, one, rest, many, least = wildcards
    words, address = (
        text.split(addresses.separator) for text in (addresses.pattern(pattern, one, rest), addresses.address(key))
    )
    assert broker_matches(words, address, one, many, least) == naive(pattern, key)


@given(EXACT.filter(lambda parts: not {"*", "+"} & {*parts}).map(lambda parts: Key(*parts)), st.sampled_from(SCHEMES))
def test_the_pattern_of_an_exact_key_is_its_address(key: Key[Any], scheme: Addresses) -> None:
    assert scheme.pattern(key) == scheme.address(key)


class CopiesMachine(RuleBasedStateMachine):
    """Of the copies that a broker sends of a message, one for each pattern that matches, exactly one is the first."""

    def __init__(self) -> None:
        super().__init__()
        self.copies = Copies()
        self.patterns: list[Key[Any]] = []

    @rule(pattern=SMALL)
    def add(self, pattern: Key[Any]) -> None:
        if pattern not in self.patterns:
            self.patterns.append(pattern)
            self.copies.add(pattern)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.patterns:
            pattern = data.draw(st.sampled_from(self.patterns))
            self.patterns.remove(pattern)
            self.copies.remove(pattern)

    @rule(key=KEYS)
    def a_message(self, key: Key[Any]) -> None:
        matching = [pattern for pattern in self.patterns if key.is_subset_of(pattern)]
        firsts = [pattern for pattern in matching if self.copies.is_first(key, pattern)]
        assert len(firsts) == min(1, len(matching))

    @invariant()
    def a_pattern_that_was_let_go_of_brings_nothing(self) -> None:
        for pattern in (Key("a"), Key("+"), Key("*")):
            if pattern not in self.patterns:
                assert not self.copies.is_first(Key("a"), pattern)


TestCopies = CopiesMachine.TestCase
