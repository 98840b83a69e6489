"""Connections that are lost, and bridges that are closed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from time import time as now
from typing import Any

from ... import BridgeClosed, Hub, Key
from ...bridges import Bridge
from .bare import Gated, Watched
from .sites import SOON, TIMEOUT, sites, until
from .table import ALL, Make, check, each_way, features_of, need_control


@check
@each_way()
async def an_interruption_is_survived_and_reported(make: Make, **options: Any) -> None:
    """If the broker stores what was sent, nothing is lost; else there is exactly one gap."""
    features = features_of(make, **options)
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        gate = Gated(make())
        two = await those.add(ALL, adapter=gate, incoming=ALL, **options)
        await one.hub.publish_confirmed("k", 1, timeout=TIMEOUT)
        await two.see(1)
        began = now()
        await gate.shut()
        await two.until(lambda: two.bridge.health().state == "down", "noticing it")
        await one.hub.publish_confirmed("k", 2, timeout=TIMEOUT)
        gate.is_shut = False
        await two.bridge.ready(TIMEOUT)
        await one.hub.publish_confirmed("k", 3, timeout=TIMEOUT)
        await two.see(3)
        if features.durable or features.resumes:
            assert two.messages == [1, 2, 3]
            assert not two.gaps
        else:
            (gap,) = two.gaps
            assert two.messages == [1, 3]
            assert gap.count is None
            assert gap.since <= began + 1
            assert gap.until >= began
        assert two.bridge.health().reconnects == 1
        assert one.bridge.health().gaps == 0


@check
async def bytes_that_move_are_counted(make: Make) -> None:
    """Where it counts what it sends or receives, it counts what moves over all its connections, too."""
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        two = await those.add(ALL)
        signs = [(one.bridge.adapter, "sending"), (two.bridge.adapter, "receiving")]
        # Without a connection there is nothing to count; some systems count nothing at all.
        counted = [(adapter, name) for adapter, name in signs if getattr(adapter, name)]
        before = [(getattr(adapter, name), adapter.activity) for adapter, name in counted]
        await one.hub.publish_confirmed("k", 1, timeout=TIMEOUT)
        await two.see(1)
        for (adapter, name), (sign, activity) in zip(counted, before, strict=True):
            await until(lambda: getattr(adapter, name) != sign, f"{name} to change")  # noqa: B023 - called at once
            assert adapter.activity != activity, f"activity stays {activity} while {name} changes"


@check
async def closing_sends_what_is_queued(make: Make) -> None:
    """Within its deadline; it returns how much could not be sent: nothing."""
    async with sites(make) as those:
        two = await those.add(ALL)
        one = await those.add(outgoing=ALL)
        for number in range(1000):
            one.hub.publish("k", number)
        assert tuple(await one.bridge.close(TIMEOUT)) == (0, 0)
        await two.wait_for(1000)
        assert sorted(two.messages) == list(range(1000))


@check
@each_way()
async def closing_takes_no_time_when_nothing_is_left_to_do(make: Make, **options: Any) -> None:
    """Whatever it carried before, and whatever other bridges are there."""
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        two = await those.add(ALL, incoming=ALL, **options)
        for number in range(10):
            await one.hub.publish_confirmed("k", number, timeout=TIMEOUT)
        await two.see(9)
        await two.until(lambda: two.bridge.health().in_flight == 0, "having handled it")
        assert tuple(await two.close(TIMEOUT, within=SOON)) == (0, 0)
        assert tuple(await one.close(TIMEOUT, within=SOON)) == (0, 0)


@check
async def closing_twice_and_from_several_tasks_is_one_closing(make: Make) -> None:
    """All calls return the same; closing the hub at the same time does no harm."""
    async with sites(make) as those:
        one, two = await those.add(outgoing=ALL), await those.add(ALL)
        for number in range(200):
            one.hub.publish("k", number)
        left = await asyncio.gather(*(one.bridge.close(TIMEOUT) for _ in range(5)), one.hub.close())
        assert left == [(0, 0)] * 5 + [None]
        assert await one.bridge.close() == (0, 0)
        await two.wait_for(200)


@check
async def a_bridge_that_never_connected_can_be_closed(make: Make) -> None:
    """Whatever it was doing, and within its deadline."""
    hub = Hub()
    async with hub:
        gate = Gated(make())
        gate.is_shut = True
        bridge = Bridge(hub, gate, both=ALL, namespace="never")
        await bridge.start()
        await until(lambda: bridge.health().last_error is not None, "the first attempt")
        hub.publish("k", 1)
        left = await asyncio.wait_for(bridge.close(0.5), SOON)
        assert left.unsent == 1


@check
@each_way("durable", "acks", of="name group")
async def closing_while_reading_strands_nothing(make: Make, **options: Any) -> None:
    """Messages read and not handled go to the next bridge of the name or the group; handled ones do not."""
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        handled: list[int] = []
        reading = await those.add(incoming=ALL, **options)
        reading.hub.add_listener(("k", "+"), lambda key, message: handled.append(message))
        for number in range(2000):
            await one.hub.publish_wait(("k", str(number % 5)), number)
            if number % 20 == 0:
                # Each bridge is short-lived, and ends while messages are on their way to it.
                await asyncio.sleep(0)
            if number % 500 == 499:
                await until(lambda: handled, "the first message")
                await reading.bridge.close(TIMEOUT)
                reading = await those.add(incoming=ALL, **options)
                reading.hub.add_listener(("k", "+"), lambda key, message: handled.append(message))
        await until(lambda: len(set(handled)) == 2000, lambda: f"2000 messages, of which {len(set(handled))} came")
        assert len(handled) == 2000, "something that was handled came again"
        if features_of(make, **options).order != "none":
            for lane in range(5):
                assert [number for number in handled if number % 5 == lane] == list(range(lane, 2000, 5))


@check
async def a_cancelled_call_costs_no_other(make: Make) -> None:
    """Whatever was in progress, later calls work, over this connection or a new one."""
    features = features_of(make)
    async with sites(make) as those:
        one, two = await those.add(), await those.add(ALL)
        await one.hub.publish_confirmed("k", -1, timeout=TIMEOUT)
        for number in range(30):
            patience = 0.0002 * number
            with suppress(TimeoutError):
                await asyncio.wait_for(one.hub.publish_confirmed("k", number), patience)
            if features.history:
                with suppress(TimeoutError):
                    await asyncio.wait_for(one.bridge.history("k", 5), patience)
                assert (await one.bridge.history("k", 1000))[0].message == -1
        await one.hub.publish_confirmed("k", "last", timeout=TIMEOUT)
        await two.see("last")
        numbers = two.messages[:-1]
        assert numbers == sorted(set(numbers))


@check
async def a_closed_bridge_says_so(make: Make) -> None:
    """Whatever is called on it."""
    async with sites(make) as those:
        one = await those.add()
        await one.close()
        for call in (one.bridge.ready, one.bridge.flush):
            error: BaseException | None = None
            try:
                await call(TIMEOUT)
            except BridgeClosed as raised:
                error = raised
            assert error is not None, f"{call} succeeded"
        assert one.bridge.health().state == "closed"


@check
async def what_comes_while_it_connects_again_is_not_taken_for_silence(make: Make) -> None:
    """Listeners come and go while connections are lost: each one that stays gets what is sent afterwards."""
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        gate = Gated(make())
        two = await those.add(adapter=gate, incoming=ALL)
        for life in range(4):
            listeners = [two.hub.add_listener(Key("noise", str(number)), print) for number in range(life * 10)]
            one_key = Key("k", str(life))
            two.listen(one_key)
            await gate.shut()
            gate.is_shut = False
            for listener in listeners[::2]:
                listener.remove()
            await two.until(lambda: two.bridge.health().reconnects > life, "connecting again")  # noqa: B023
            await two.bridge.ready(TIMEOUT)
            await one.hub.publish_confirmed(one_key, life, timeout=TIMEOUT)
            await two.see(life)
            for listener in listeners[1::2]:
                listener.remove()


class _Stumbling(Watched):
    """Whose first connections are lost while the bridge subscribes, when something may have been read already."""

    falls = 2

    async def listen(self, keys: Sequence[Key[Any]]) -> None:
        await super().listen(keys)
        if self.falls:
            self.falls -= 1
            await asyncio.sleep(0.3)
            raise ConnectionError("lost by the check")


@check
@each_way("durable", "replay")
async def what_is_read_while_subscribing_is_not_lost_with_the_connection(make: Make, **options: Any) -> None:
    """Whoever begins at the earliest gets all of it, however often the connection is lost before it is up."""
    need_control(make, **options)
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        for number in range(30):
            await one.hub.publish_confirmed("k", number, timeout=TIMEOUT)
        two = await those.add(ALL, adapter=_Stumbling(make()), incoming=ALL, start="earliest", **options)
        await two.see(29)
        assert two.messages == list(range(30))
