"""Keys as addresses, the first of many copies, and what is subscribed at a broker, each against a naive oracle."""

import string
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hubsub import Key
from hubsub.bridges import Addresses, Copies
from hubsub.bridges.relay.plan import uncovered as _uncovered

SCHEMES = [
    Addresses(":"),
    Addresses("/", forbidden="+#", empty="%"),
    Addresses(".", allowed=string.ascii_letters, empty="_"),
    Addresses(".", forbidden="*>", prefix="hubsub."),
]
EXACT = st.lists(st.one_of(st.text(), st.sampled_from(["", "%", "%2F", "_", "a.b", ":", "\ud800"])), min_size=1)
SMALL = st.lists(st.sampled_from("ab*+"), min_size=1, max_size=3).map(lambda parts: Key(*parts))
KEYS = st.lists(st.sampled_from("abx"), min_size=1, max_size=4).map(lambda parts: Key(*parts))


@given(EXACT.map(lambda parts: Key(*parts)), st.sampled_from(SCHEMES))
def test_a_key_is_read_from_its_address_as_it_was(key: Key[Any], scheme: Addresses) -> None:
    assert scheme.key(scheme.address(key)) == key


@given(EXACT.map(lambda parts: Key(*parts)))
def test_an_address_has_only_the_characters_that_are_allowed(key: Key[Any]) -> None:
    assert set(SCHEMES[2].address(key)) <= set(string.ascii_letters + string.digits + "%._")
    assert not set("+#") & set(SCHEMES[1].address(key))


@given(st.text())
def test_any_address_is_read_as_some_key(address: str) -> None:
    key = SCHEMES[0].key(address)
    assert key is not None
    assert SCHEMES[0].key(SCHEMES[0].address(key)) == key


def test_an_address_of_another_prefix_is_none_of_ours() -> None:
    assert SCHEMES[3].key("other.a") is None


@given(st.lists(SMALL))
def test_what_is_subscribed_matches_what_is_wanted_and_nothing_covers_another(patterns: list[Key[Any]]) -> None:
    kept = _uncovered(patterns)
    assert set(kept) <= set(patterns)
    assert all(any(pattern.is_subset_of(each) for each in kept) for pattern in patterns)
    assert not any(one.is_subset_of(other) for one in kept for other in kept if one != other)


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
