"""Control messages between bridges, and what is built on them: requests, and notices of dropped messages."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import SkipTest

from ... import EncodeError, Key, RemoteError
from ...bridges import Adapter, Record
from .bare import Bare, Gated, bare
from .sites import TIMEOUT, Site, Sites, sites, until
from .table import ALL, Make, check, each_way, features_of, need_control, ways

# As the keys of control messages are: in the hub's own namespace, exact, and with a random last part.
MINE: Key[Any] = Key("Hub", "reply", "f00d")


@check
async def control_messages_reach_whoever_listens_and_nobody_later(make: Make) -> None:
    """They are for whoever is there: none is stored for a listener that has gone, and none is in the log."""
    need_control(make)
    if features_of(make).responders:
        raise SkipTest("this broker passes on requests and replies as such")
    async with (
        sites(make) as those,
        bare(make, those.namespace) as writer,
        bare(make, those.namespace) as bystander,
    ):
        async with (
            bare(make, those.namespace, control=[MINE], sender="first") as first,
            bare(make, those.namespace, control=[MINE]) as second,
        ):
            await writer.control(MINE, b"1")
            for listener in (first, second):
                received = await listener.see(b"1")
                assert received.key == MINE
                assert received.is_control or type(listener.adapter).listen is Adapter.listen
        await writer.control(MINE, b"2")
        async with bare(make, those.namespace, control=[MINE], sender="first") as again:
            await writer.control(MINE, b"3")
            await again.see(b"3")
            assert again.payloads == [b"3"]
        for options in ways(make, "replay") if features_of(make).replay else []:
            async with bare(make, those.namespace, start="earliest", **options) as late:
                assert not {b"1", b"2", b"3"} & set(await _marked(writer, late))
        if features_of(make).durable:
            # Other brokers deliver them by a pattern that matches everything; its bridge ignores them.
            assert not {b"1", b"2", b"3"} & set(await _marked(writer, bystander))


async def _marked(writer: Bare, reader: Bare) -> list[bytes | None]:
    """Return what had come to a reader when it got a message that is sent now."""
    await writer.send(Record(Key("end"), b"end"))
    await reader.see(b"end")
    return reader.payloads


@check
@each_way(of="group")
async def control_messages_are_for_one_connection_also_in_a_group(make: Make, **options: Any) -> None:
    """Control messages for one member do not reach another one, and take no messages from it."""
    need_control(make, **options)
    async with sites(make) as those, bare(make, those.namespace) as writer:
        keys = [Key("Hub", "reply", name) for name in "abc"]
        async with (
            bare(make, those.namespace, control=keys[:1], **options) as one,
            bare(make, those.namespace, control=keys[1:2], **options) as two,
            bare(make, those.namespace, control=keys[2:], **options) as three,
        ):
            for number in range(20):
                for key in keys:
                    await writer.control(key, b"%d" % number)
            for key, member in zip(keys, (one, two, three), strict=True):
                await member.see(b"19")
                assert member.payloads == [b"%d" % number for number in range(20)]
                assert {each.key for each in member.received} == {key}


@check
@each_way(of="group")
async def a_notice_of_what_a_sender_dropped_reaches_every_member_of_a_group(make: Make, **options: Any) -> None:
    """Any member might have got those messages."""
    need_control(make, **options)
    async with sites(make) as those:
        gate = Gated(make())
        one = await those.add(adapter=gate, outgoing=ALL, outbox=10)
        members = [await those.add(ALL, incoming=ALL, **options) for _ in range(3)]
        await gate.shut()
        for number in range(50):
            one.hub.publish("k", number)
        await asyncio.sleep(0)
        gate.is_shut = False
        for member in members:
            await member.wait_for_gaps(1)
            assert [(gap.reason, gap.count) for gap in member.gaps] == [("outbox full", 40)], member.gaps


# Requests


def _double(site: Site) -> None:
    """Add a responder to a site."""

    @site.hub.responds(("double", "+"))
    def double(key: Key[Any], number: Any) -> Any:
        if number < 0:
            raise ValueError(f"{number} is negative")
        return object() if number == 0 else 2 * number


async def _worker(those: Sites, **options: Any) -> Site:
    site = await those.add(**options)
    _double(site)
    await site.bridge.ready(TIMEOUT)
    return site


@check
async def requests_are_answered_from_elsewhere(make: Make) -> None:
    """The reply reaches the site that asked."""
    need_control(make)
    async with sites(make) as those:
        one = await those.add()
        await _worker(those)
        assert await one.hub.request(("double", "a"), 21, timeout=TIMEOUT, local=False) == 42


@check
@each_way()
async def a_worker_that_only_receives_answers_requests(make: Make, **options: Any) -> None:
    """With `incoming=` only: the reply leaves by the bridge that brought the request."""
    need_control(make)
    async with sites(make) as those:
        one = await those.add(outgoing=Key("double", "+"))
        await _worker(those, incoming=Key("double", "+"), **options)
        assert await one.hub.request(("double", "a"), 21, timeout=TIMEOUT, local=False) == 42


@check
@each_way(of="group")
async def whoever_asks_from_within_a_group_gets_every_reply(make: Make, **options: Any) -> None:
    """Although every member could read it."""
    need_control(make, **options)
    async with sites(make) as those:
        members = [await those.add("job", incoming="job", outgoing=Key("double", "+"), **options) for _ in range(3)]
        await _worker(those, incoming=Key("double", "+"))
        asked = [
            member.hub.request(("double", str(number)), number, timeout=TIMEOUT, local=False)
            for number in range(1, 21)
            for member in members
        ]
        assert await asyncio.gather(*asked) == [2 * number for number in range(1, 21) for _ in members]


@check
async def whoever_asks_learns_at_once_why_there_is_no_reply(make: Make) -> None:
    """A responder has failed, or the reply or the request cannot be encoded."""
    need_control(make)
    async with sites(make) as those:
        one = await those.add()
        await _worker(those)
        for message, kind in ((-1, RemoteError), (0, RemoteError), (object(), EncodeError)):
            error: BaseException | None = None
            try:
                await one.hub.request(("double", "a"), message, timeout=TIMEOUT, local=False)
            except Exception as raised:
                error = raised
            assert isinstance(error, kind), f"asking with {message!r} ended with {error!r}"


@check
async def a_reply_for_one_does_not_go_to_another(make: Make) -> None:
    """However many sites ask at the same time."""
    need_control(make)
    async with sites(make) as those:
        asking = [await those.add(outgoing=Key("double", "+")) for _ in range(3)]
        await _worker(those, incoming=Key("double", "+"))
        asked = [
            site.hub.request(("double", "a"), number, timeout=TIMEOUT, local=False)
            for number, site in enumerate(asking * 10, 1)
        ]
        assert await asyncio.gather(*asked) == [2 * number for number in range(1, 31)]
        await until(lambda: all(site.bridge.health().in_flight == 0 for site in asking))
