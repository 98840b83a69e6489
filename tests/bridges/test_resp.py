"""Replies of Redis, whole and in pieces, against what was written."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from brokers.hiredis_wheel import hiredis
from hubsub.bridges.redis.resp import HiredisParser, Parser, Replies, pack, parser


class Error(Exception):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Error) and self.args == other.args

    __hash__ = Exception.__hash__


# What looks like the protocol, what ends like a line, and numbers at the edge of what is known beforehand.
TRICKY = [b"", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"a\r\n", b"$1\r\na\r\n", b"*1\r\n", b"$-1", b"-ERR", b"x" * 5000]
STRINGS = st.binary(max_size=20) | st.sampled_from(TRICKY)
LINES = st.text("ab $*:-+é", max_size=8)
REPLIES = st.recursive(
    STRINGS
    | st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(-2, 1001)
    | LINES.map(Error)
    | st.just(b"\r\n" * 3000),
    lambda inner: st.lists(inner, max_size=6) | st.lists(STRINGS, max_size=12),
)


def written(reply: Any) -> bytes:
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, Error):
        return b"-%b\r\n" % reply.args[0].encode()
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    return b"*%d\r\n" % len(reply) + b"".join(map(written, reply))


def by_hiredis(error: Callable[[str], Exception]) -> Replies:
    if hiredis() is None:
        pytest.skip("needs hiredis: make test")
    return HiredisParser(hiredis(), error)


by_each = pytest.mark.parametrize("make", [Parser, by_hiredis])


@by_each
@given(replies=st.lists(REPLIES, max_size=5))
@example(replies=[None])
@example(replies=[b"a", None])
@example(replies=[[b"a", None], None])
@example(replies=[[], b"", [[]], [b""] * 11, 1000, Error("")])
def test_replies_are_read_as_they_were_written(make: Callable[..., Replies], replies: list[Any]) -> None:
    assert make(Error).feed(b"".join(map(written, replies))) == replies


@by_each
@given(replies=st.lists(REPLIES, max_size=4), is_flow=st.booleans(), data=st.data())
@example(replies=[b"x" * 500, None], is_flow=True, data=None)
@example(replies=[[b"x" * 500, [b"\r\n" * 30, None]], 1], is_flow=True, data=None)
@example(replies=[[b"x" * 500, [b"\r\n" * 30, None]], 1, None], is_flow=False, data=None)
@settings(deadline=None)
def test_replies_are_read_from_pieces_of_any_size(
    make: Callable[..., Replies], replies: list[Any], is_flow: bool, data: st.DataObject | None
) -> None:
    whole = b"".join(map(written, replies))
    cuts = range(len(whole)) if data is None else data.draw(st.lists(st.integers(0, len(whole))))
    parser = make(Error)
    found: list[Any] = []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(whole)], strict=True):
        if start < end:
            found += parser.feed(whole[start:end], is_flow=is_flow)
    assert found == replies


@by_each
@given(replies=st.lists(REPLIES, max_size=3), last=REPLIES, data=st.data())
def test_what_is_cut_short_is_never_taken_for_whole_and_keeps_nothing_back(
    make: Callable[..., Replies], replies: list[Any], last: Any, data: st.DataObject
) -> None:
    whole = written(last)
    cut = data.draw(st.integers(0, len(whole) - 1))
    parser = make(Error)
    assert parser.feed(b"".join(map(written, replies)) + whole[:cut]) == replies
    assert parser.feed(whole[cut:]) == [last]


def test_a_long_reply_is_not_looked_at_with_every_piece_of_it() -> None:
    parser = Parser(Error)
    looked: list[int] = []
    whole = written([b"x" * 101] * 20_000)
    found: list[Any] = []
    for start in range(0, len(whole), 1000):
        found += parser.feed(whole[start : start + 1000])
        looked += [len(parser._pieces)] if len(parser._pieces) == 1 else []
    assert found == [[b"x" * 101] * 20_000]
    # When it has doubled; and when a piece happens to end with a line, as if it were over.
    assert len(looked) < 60


@by_each
def test_simple_strings_and_the_other_null_are_replies(make: Callable[..., Replies]) -> None:
    assert make(Error).feed(b"*2\r\n+OK\r\n*-1\r\n*-1\r\n+\r\n") == [[b"OK", None], None, b""]


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad Request\r\n", b"\r\n", b"%1\r\n+a\r\n+b\r\n", b"*x\r\n"])
def test_what_is_no_reply_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"reply of Redis|invalid literal"):
        Parser(Error).feed(data)


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad Request\r\n", b"\r\n", b"*x\r\n"])
def test_what_is_no_reply_is_an_error_of_hiredis(data: bytes) -> None:
    with pytest.raises(Exception, match=r"Protocol error|length"):
        by_hiredis(Error).feed(data)


def test_hiredis_parses_where_it_is_installed(resp_parser: str) -> None:
    assert isinstance(parser(Error), HiredisParser if resp_parser == "hiredis" else Parser)


@given(st.lists(st.lists(STRINGS, min_size=1, max_size=12), max_size=4))
def test_commands_are_written_as_arrays_of_strings(commands: list[list[bytes]]) -> None:
    assert pack(*map(tuple, commands)) == b"".join(map(written, commands))


def test_what_is_no_bytes_is_written_as_text() -> None:
    assert pack(("SET", "kéy\ud800", 1, 0.5)) == written([b"SET", b"k\xc3\xa9y\xed\xa0\x80", b"1", b"0.5"])
