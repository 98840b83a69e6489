"""What came and was not received: in order, and to the end."""

from __future__ import annotations

import asyncio

import pytest

from hubsub import Key
from hubsub.bridges import Received
from hubsub.bridges.inbox import Inbox

ONE, TWO = Received(Key("k"), b"1"), Received(Key("k"), b"2")


async def test_whoever_waits_gets_all_that_has_come() -> None:
    inbox = Inbox()
    waiting = asyncio.ensure_future(inbox.receive())
    await asyncio.sleep(0)
    inbox.put([ONE])
    inbox.put([TWO])
    assert await waiting == [ONE, TWO]
    assert not len(inbox)


async def test_what_came_before_the_end_can_be_taken_and_nothing_after_it() -> None:
    inbox = Inbox()
    inbox.put([ONE])
    inbox.fail(ConnectionError("lost"))
    inbox.fail(ConnectionError("closed"))
    inbox.put([TWO])
    assert await inbox.receive() == [ONE]
    for _ in range(2):
        with pytest.raises(ConnectionError, match="lost"):
            await inbox.receive()


async def test_a_wait_ends_by_a_bell_by_the_end_and_by_time() -> None:
    inbox = Inbox()
    await inbox.wait(0.001)
    waiting = asyncio.ensure_future(inbox.wait())
    await asyncio.sleep(0)
    inbox.ring()
    await waiting
    assert inbox.take() == []
    waiting = asyncio.ensure_future(inbox.wait())
    await asyncio.sleep(0)
    inbox.fail(ConnectionError("lost"))
    await waiting
