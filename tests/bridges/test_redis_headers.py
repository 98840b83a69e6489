"""The headers of an entry of a Redis stream: those that are remembered are packed and read like all others."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubsub.bridges.redis.headers import MOST_SENDERS, Headers
from hubsub.bridges.redis.resp import arguments, encode

NAMES = st.sampled_from(["ce_specversion", "ce_source", "ce_type", "content-type", "ce_id", "ce_time", "é", "%s", ""])
VALUES = st.sampled_from(["1.0", "hub", "é", "\ud800", "%d", "", "x" * 2000]) | st.text(max_size=3)
HEADERS = st.dictionaries(NAMES, VALUES, max_size=9)


def fields_of(headers: dict[str, str]) -> list[bytes]:
    return [encode(text) for text in chain(*headers.items())]


@given(st.lists(HEADERS, max_size=4), st.lists(st.integers(0, 3), max_size=8))
def test_headers_of_several_senders_are_packed_and_read_in_any_order(
    some: list[dict[str, str]], turns: list[int]
) -> None:
    headers = Headers()
    for turn in turns:
        if turn < len(some):
            each = some[turn]
            assert headers.pack(each) == b"\r\n" + arguments(*chain(*each.items()))
            assert headers.read(fields_of(each)) == each


def test_what_was_read_belongs_to_its_reader() -> None:
    headers = Headers()
    fields = fields_of(dict.fromkeys(map(str, range(6)), "v"))
    headers.read(fields).clear()
    assert headers.read(fields) == dict.fromkeys(map(str, range(6)), "v")


def test_bytes_that_are_no_text_are_replaced_wherever_they_stand() -> None:
    headers = Headers()
    for _ in range(2):
        assert headers.read([b"a", b"\xff"] * 3 + [b"b", b"\xff", b"c", b"\xff"]) == dict.fromkeys("abc", "\ufffd")


def test_headers_are_texts() -> None:
    for wrong in ({"a": b"bytes"}, {**dict.fromkeys("abcd", "v"), "e": ["list"]}, {"a": 1}):
        with pytest.raises(TypeError):
            Headers().pack(wrong)  # type: ignore[arg-type]


def test_only_so_many_senders_are_remembered() -> None:
    headers = Headers()
    for number in range(3 * MOST_SENDERS):
        source = "x" * 2000 if number % 3 == 0 else f"{number}"
        headers.read(fields_of({"a": "", "ce_source": source, "c": "", "d": "", "e": ""}))
        assert len(headers._known) <= MOST_SENDERS
    assert all(len(source) < 2000 for source in headers._known)
