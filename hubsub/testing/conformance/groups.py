"""Groups, whose members share the messages."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import SkipTest

from ... import Key
from .sites import TIMEOUT, sites, until
from .table import ALL, Make, check, each_way, features_of, need


@check
@each_way(of="group")
async def a_group_shares_its_messages(make: Make, **options: Any) -> None:
    """Each goes to one member, and none is left over."""
    async with sites(make) as those:
        workers = [await those.add(ALL, incoming=ALL, **options) for _ in range(2)]
        one = await those.add(outgoing=ALL)
        for number in range(200):
            one.hub.publish(("job", str(number)), number)
        await until(lambda: sum(len(worker.events) for worker in workers) >= 200, "200 jobs")
        # One more of each key: any duplicate has come before it.
        for number in range(200):
            one.hub.publish(("job", str(number)), 200 + number)
        await until(lambda: sum(len(worker.events) for worker in workers) >= 400, "400 jobs")
        assert sorted(workers[0].messages + workers[1].messages) == list(range(400))


@check
@each_way("durable", of="group")
async def a_group_goes_on_where_it_was(make: Make, **options: Any) -> None:
    """Acknowledged messages do not come again; those published while no member was there come."""
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        numbers: list[int] = []
        for life in range(3):
            two = await those.add(ALL, incoming=ALL, **options)
            for number in range(10):
                await one.hub.publish_confirmed("k", 20 * life + number, timeout=TIMEOUT)
            await two.see(20 * life + 9)
            numbers += two.messages
            await two.close()
            for number in range(10, 20):
                await one.hub.publish_confirmed("k", 20 * life + number, timeout=TIMEOUT)
        assert numbers == list(range(50))


@check
@each_way("durable", "replay", of="group")
async def a_group_that_has_never_been_there_begins_with_what_is_kept(make: Make, **options: Any) -> None:
    """Jobs that were confirmed before the first worker came are handled, unless `start="new"` says otherwise."""
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        for number in range(10):
            await one.hub.publish_confirmed("job", number, timeout=TIMEOUT)
        worker = await those.add(ALL, incoming=ALL, **options)
        late = await those.add(ALL, incoming=ALL, group="latecomers", start="new")
        await one.hub.publish_confirmed("job", 10, timeout=TIMEOUT)
        await worker.see(10)
        await late.see(10)
        assert worker.messages == list(range(11))
        assert late.messages == [10]


@check
@each_way(of="group")
async def each_of_two_groups_gets_everything(make: Make, **options: Any) -> None:
    """And so does a bridge without a group."""
    async with sites(make) as those:
        sites_ = [
            await those.add(ALL, incoming=ALL, **options),
            await those.add(ALL, incoming=ALL, group="others"),
            await those.add(ALL, incoming=ALL),
        ]
        one = await those.add(outgoing=ALL)
        for number in range(50):
            await one.hub.publish_confirmed(("k", str(number % 5)), number, timeout=TIMEOUT)
        for site in sites_:
            await site.wait_for(50)
            assert sorted(site.messages) == list(range(50))


@check
@each_way("durable", "acks", of="group")
async def a_busy_member_keeps_nothing_from_the_others(make: Make, **options: Any) -> None:
    """The others get the messages that it has no room for."""
    if need(make, "groups", **options).acks != "each":
        raise SkipTest("not promised: members share lanes, and not single messages")
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        hanging: list[int] = []
        may_end = asyncio.Event()

        async def hang(key: Key[Any], message: Any) -> None:
            hanging.append(message)
            await may_end.wait()

        busy = await those.add(incoming=ALL, window=1, **options)
        busy.hub.add_listener(("job", "+"), hang)
        await busy.bridge.ready(TIMEOUT)
        await one.hub.publish_confirmed(("job", "0"), 0, timeout=TIMEOUT)
        await until(lambda: hanging, "the first job")
        quick = await those.add(("job", "+"), incoming=ALL, window=1, **options)
        for number in range(1, 64):
            await one.hub.publish_confirmed(("job", str(number)), number, timeout=TIMEOUT)
        await quick.wait_for(63)
        assert sorted(quick.messages) == list(range(1, 64))
        assert hanging == [0]
        may_end.set()


@check
@each_way("durable", "acks", of="group")
async def a_member_that_closes_hands_back_what_it_has_not_finished(make: Make, **options: Any) -> None:
    """The others get them at once, in order, and not only when a lease has expired."""
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        hanging: list[int] = []
        may_end = asyncio.Event()

        async def hang(key: Key[Any], message: Any) -> None:
            hanging.append(message)
            await may_end.wait()

        leaving = await those.add(incoming=ALL, **options)
        leaving.hub.add_listener(("job", "+"), hang, concurrency=10)
        await leaving.bridge.ready(TIMEOUT)
        for number in range(40):
            await one.hub.publish_confirmed(("job", str(number % 2)), number, timeout=TIMEOUT)
        # What it has not got yet, the other one would get before what is handed back.
        await leaving.until(lambda: leaving.bridge.health().in_flight == 40, "all jobs to be in hand")
        assert hanging
        staying = await those.add(("job", "+"), incoming=ALL, **options)
        left = await leaving.close(0.2)
        assert left.unfinished, "it said that it had finished everything"
        lease = features_of(make, **options).lease
        await staying.wait_for(40, seconds=TIMEOUT if lease is None else lease / 2)
        assert sorted(staying.messages) == list(range(40))
        for lane in range(2):
            assert [number for number in staying.messages if number % 2 == lane] == list(range(lane, 40, 2))
        may_end.set()


@check
@each_way(of="group")
async def a_group_of_a_broker_that_keeps_nothing_shares_what_is_there(make: Make, **options: Any) -> None:
    """Members that join get their share from then on; the share of a member that left goes to the others."""
    if features_of(make, **options).durable:
        raise SkipTest("this broker stores everything")
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        workers = [await those.add(ALL, incoming=ALL, **options) for _ in range(3)]
        for round_ in range(3):
            for number in range(60):
                await one.hub.publish_confirmed(("job", str(number)), 60 * round_ + number, timeout=TIMEOUT)
            came = 60 * (round_ + 1)
            await until(lambda: sum(len(each.events) for each in workers) >= came, f"{came} jobs")  # noqa: B023
            await workers[round_].close()
        assert sorted(message for each in workers for message in each.messages) == list(range(180))
