"""Keys and patterns, held against a naive matcher."""

import copy
import itertools
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubsub import EmptyKey, InvalidKey, InvalidPart, Key
from hubsub.key import as_patterns, escaped, meet, overlaps

PARTS = st.sampled_from(["a", "b", "c", "", "\\*", "a*", "/"])
KEYS = st.lists(PARTS, min_size=1, max_size=5).map(tuple)
PATTERNS = st.lists(st.one_of(PARTS, st.sampled_from("*+")), min_size=1, max_size=5).map(tuple)


def naive(pattern: tuple[str, ...], key: tuple[str, ...]) -> bool:
    """What matching means, in the plainest words: wildcards as regular expressions over parts in hexadecimal."""
    one = "[0-9a-f]*/"
    parts = [one if part in ("*", "+") else _in_hexadecimal(part) for part in pattern]
    if pattern[-1] == "*":
        parts[-1] = f"({one})+"
    return re.fullmatch("".join(parts), "".join(map(_in_hexadecimal, key))) is not None


def _in_hexadecimal(part: str) -> str:
    return part.encode("utf-8", "surrogatepass").hex() + "/"


# Enough to show any difference between two patterns of up to three parts over these letters.
ALL_KEYS = [key for length in range(1, 6) for key in itertools.product("abx", repeat=length)]
SMALL = st.lists(st.sampled_from("ab*+"), min_size=1, max_size=3).map(tuple)


@given(PATTERNS, KEYS)
def test_a_key_is_a_subset_of_exactly_the_patterns_that_match_it(
    pattern: tuple[str, ...], key: tuple[str, ...]
) -> None:
    assert Key(*key).is_subset_of(pattern) == naive(pattern, key)


@given(SMALL, SMALL)
def test_subset_means_that_every_key_of_the_one_is_matched_by_the_other(
    one: tuple[str, ...], other: tuple[str, ...]
) -> None:
    expected = all(naive(other, key) for key in ALL_KEYS if naive(one, key))
    assert Key(*one).is_subset_of(other) == expected


@given(SMALL, SMALL)
def test_overlap_means_that_some_key_is_matched_by_both(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert overlaps(one, other) == any(naive(one, key) and naive(other, key) for key in ALL_KEYS)


@given(SMALL, SMALL)
def test_the_meet_of_two_patterns_matches_exactly_what_both_match(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    met = meet(one, other)
    both = [key for key in ALL_KEYS if naive(one, key) and naive(other, key)]
    assert [key for key in ALL_KEYS if met is not None and naive(met, key)] == both


@given(st.lists(st.text(), min_size=1).map(tuple))
def test_the_text_form_is_lossless(parts: tuple[str, ...]) -> None:
    assert Key.parse(Key(*parts).text) == parts


@given(st.text())
def test_every_text_that_can_be_read_is_the_text_form_of_what_was_read(text: str) -> None:
    try:
        key = Key.parse(text)
    except InvalidKey:
        assert re.search(r"(?<!\\)(?:\\\\)*\\(?![\\/])", text)
    else:
        assert key.text == text


def test_the_text_form_escapes_slash_and_backslash() -> None:
    assert Key("a/b", "c\\d", "*").text == r"a\/b/c\\d/*"
    assert Key.parse("") == ("",)


def test_an_unknown_escape_is_refused() -> None:
    with pytest.raises(InvalidKey, match="backslash"):
        Key.parse(r"a\*b")


def test_the_empty_key_has_no_text_form() -> None:
    with pytest.raises(EmptyKey):
        Key().text  # noqa: B018


@given(KEYS)
def test_a_key_equals_hashes_and_prints_as_the_plain_tuple(parts: tuple[str, ...]) -> None:
    key = Key(*parts)
    assert key == parts
    assert hash(key) == hash(parts)
    assert repr(key) == repr(parts)
    assert str(key) == str(parts)


@given(PATTERNS)
def test_a_key_survives_pickle_and_copy(parts: tuple[str, ...]) -> None:
    key = Key(*parts)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(key, protocol))
        assert type(again) is Key
        assert again == key
    assert type(copy.copy(key)) is Key
    assert copy.deepcopy(key) == key


def test_a_key_has_no_dict() -> None:
    assert not hasattr(Key("a"), "__dict__")
    assert not hasattr(Key[int]("a"), "__dict__")


def test_create_from_never_splits_a_string() -> None:
    assert Key.create_from("orders") == ("orders",)
    assert Key.create_from(["orders", "new"]) == ("orders", "new")
    assert Key.create_from(part for part in ("a", "b")) == ("a", "b")


def test_adding_appends_parts_and_stays_a_key() -> None:
    tail = ("b", "c")
    assert Key("a") + tail == ("a", "b", "c")
    assert Key("a") + "bc" == ("a", "bc")
    assert type(Key("a") + list(tail)) is Key


def test_only_whole_stars_and_pluses_are_wildcards() -> None:
    assert Key("a", "*").is_wildcard
    assert Key("+").is_wildcard
    assert not Key("a*", "**", r"\*", "").is_wildcard


def test_one_argument_takes_one_pattern_or_several() -> None:
    assert as_patterns("a") == [("a",)]
    assert as_patterns(("a", "b")) == [("a", "b")]
    assert as_patterns([("a", "b"), "c", ("a", "b")]) == [("a", "b"), ("c",)]
    assert sorted(as_patterns({("a",), "b"})) == [("a",), ("b",)]
    assert as_patterns(frozenset({"a"})) == [("a",)]


@pytest.mark.parametrize("nonsense", [[], set(), 7, None, {"a": 1}, [7], [("a",), None], b"a"])
def test_what_is_no_pattern_is_refused(nonsense: object) -> None:
    with pytest.raises(InvalidKey):
        as_patterns(nonsense)  # type: ignore[arg-type]


def test_a_part_that_is_no_string_is_named() -> None:
    with pytest.raises(InvalidPart, match="7 is of type int") as caught:
        as_patterns(("a", 7))  # type: ignore[arg-type]
    assert caught.value.part == 7


def test_escaping_makes_wildcards_literal() -> None:
    assert escaped(("a", "*", "+", "b*")) == ("a", r"\*", r"\+", "b*")
