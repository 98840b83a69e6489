"""Pure rules of the web's rooms, against naive ones."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubsub import Gap, Hub, Key, Overflow
from hubsub.web import Limits, endpoint
from hubsub.web.protocol import ProtocolError, frames_of, is_deeper, may_be_infinite
from hubsub.web.queues import queue_for

from .sockets import connected

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
WORDS = st.sampled_from(
    ["type", "id", "of", "patterns", "key", "data", "data_base64", "history", "hello", "subscribe", "publish", "resume",
     "at", "subscriptions", "respond", "reply", "request", "unsubscribe", "ping", "headers", "confirm", "token"]
)  # fmt: skip
LIKELY = st.dictionaries(
    WORDS, JSON | WORDS | st.lists(st.lists(st.sampled_from(["a", "*", "+", "", "Hub"]), max_size=3), max_size=3)
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(JSON, st.integers(0, 6))
def test_depth_is_counted_as_it_is_nested(value: Any, most: int) -> None:
    assert is_deeper(json.dumps(value), most) == (depth(value) > most)


NAMES = st.sampled_from(["a", "b", '"', '":', '":a', "\\", '\\":', "\n"])
OBJECTS = st.recursive(
    NAMES.map(json.dumps),
    lambda inner: (
        st.lists(st.tuples(NAMES.map(json.dumps), inner), max_size=3).map(
            lambda pairs: "{" + ",".join(f"{name} : {value}" for name, value in pairs) + "}"
        )
        | st.lists(inner, max_size=3).map(lambda values: f"[{','.join(values)}]")
    ),
    max_leaves=8,
)


@given(OBJECTS)
def test_an_object_that_has_a_name_twice_is_refused_and_no_other(data: str) -> None:
    has_doubles = False

    def look(pairs: list[tuple[str, Any]]) -> None:
        nonlocal has_doubles
        has_doubles |= len(dict(pairs)) < len(pairs)

    json.loads(data, object_pairs_hook=look)
    (frame,) = frames_of(f'{{"type": "publish", "id": 1, "key": ["a"], "data": {data}}}', 32)
    assert isinstance(frame, ProtocolError) == has_doubles


@pytest.mark.once
@pytest.mark.parametrize("character", ["x", '"', "\\", "1", "["])
def test_a_long_text_is_read_in_one_pass(character: str) -> None:
    # By a search that begins again within it, a million quotes take hours.
    text = json.dumps(character * 1_000_000)
    for one_more in ("", "[" * 40):
        (frame,) = frames_of(f'{{"type": "publish", "id": 1, "key": ["a"], "data": [{text}, "{one_more}"]}}', 32)
        assert not isinstance(frame, ProtocolError)
    assert may_be_infinite(text.encode()) == (character == "1")


@given(st.lists(st.sampled_from(["1", "23", "e4", "E+567", "e89", ".", "-", '"', "9" * 307, "8" * 308])).map("".join))
def test_numbers_that_may_be_infinite_are_found(text: str) -> None:
    naive = re.search(r"[0-9][eE]\+?[0-9]{3}|[0-9]{309}", text) is not None
    assert may_be_infinite(text.encode()) == naive


@given(st.text() | LIKELY.map(json.dumps) | st.lists(LIKELY, max_size=3).map(json.dumps))
def test_whatever_comes_is_a_frame_or_an_error(text: str) -> None:
    for frame in frames_of(text, 32):
        assert isinstance(frame, ProtocolError) or type(frame).__name__ in (
            "Hello", "Subscribe", "Unsubscribe", "Publish", "Request", "Respond", "Reply", "Ping", "Pong"
        )  # fmt: skip


@settings(max_examples=60)
@given(st.lists(LIKELY | st.text(max_size=20), max_size=8))
async def test_no_client_harms_an_endpoint_or_fills_the_log(frames: list[Any]) -> None:
    lines: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = lines.append  # type: ignore[method-assign]
    logging.getLogger("hubsub").addHandler(handler)
    hub = Hub()
    app = endpoint(hub, outgoing=["a"], incoming=["a"])
    try:
        async with connected(app) as enemy, connected(app) as friend:
            for frame in frames:
                enemy.say_text(frame if isinstance(frame, str) else json.dumps(frame))
            assert (await friend.ask("publish", key=["a"], data=1))["type"] == "ok"
        assert len(app.connections) == 0
        assert not app.feed.streams
        assert not hub.has_subscribers()
    finally:
        logging.getLogger("hubsub").removeHandler(handler)
    assert [line.getMessage() for line in lines if line.levelno >= logging.WARNING] == []


class Reader:
    """Whose queue it is."""

    def __init__(self) -> None:
        self.slow = False

    def has_something(self) -> None: ...

    def too_slow(self) -> None:
        self.slow = True


STEPS = st.lists(
    st.tuples(st.sampled_from("xyz"), st.integers(1, 4)) | st.just("answer") | st.just("take"), max_size=40
)


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.LATEST])
@given(STEPS)
def test_a_queue_drops_what_its_policy_says_and_a_gap_stands_for_it(overflow: Overflow, steps: list[Any]) -> None:
    most, most_bytes = 3, 8
    reader = Reader()
    queue = queue_for(overflow, Limits(queue_messages=most, queue_bytes=most_bytes), reader)
    naive: list[Any] = []  # pairs, answers as bytes, and the number that is missing in a place

    def drop(index: int) -> None:
        for beside in (index - 1, index + 1):
            if 0 <= beside < len(naive) and isinstance(naive[beside], int):
                naive[beside] += 1
                del naive[index]
                return
        naive[index] = 1

    def bytes_of() -> int:
        return sum(
            len(each[1]) if isinstance(each, tuple) else len(each) for each in naive if not isinstance(each, int)
        )

    def messages() -> list[int]:
        return [index for index, each in enumerate(naive) if isinstance(each, tuple)]

    def is_full(frame: bytes) -> bool:
        return len(messages()) >= most or (bytes_of() + len(frame) > most_bytes and bytes_of() > 0)

    for step in steps:
        if step == "answer":
            if len(queue.items) < most and queue.bytes + 1 <= most_bytes:
                queue.reply(b"!")
                naive.append(b"!")
        elif step == "take":
            taken = queue.take(100, 10**6)
            expected = [each[1] if isinstance(each, tuple) else each for each in naive]
            assert [each.count if isinstance(each, Gap) else each for each in taken] == expected
            naive.clear()
        else:
            key, frame = Key(step[0]), bytes(step[1])
            queue.put(key, frame)
            same = [index for index in messages() if naive[index][0] == key]
            if overflow is Overflow.LATEST and same:
                naive[same[0]] = (key, frame)
            elif overflow is Overflow.DROP_NEWEST and is_full(frame):
                if not naive or not isinstance(naive[-1], int):
                    naive.append(0)
                naive[-1] += 1
            else:
                while is_full(frame) and messages():
                    drop(messages()[0])
                naive.append((key, frame))
        assert queue.bytes == bytes_of()
    assert not reader.slow
