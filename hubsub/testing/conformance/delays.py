"""Messages that are due later: nobody gets them before, and everybody then, whatever has become of the sender."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from unittest import SkipTest

from ... import DeliveryError, Event, Key, ListenerFailure, Meta, Unsupported
from .sites import TIMEOUT, Site, sites
from .table import ALL, Make, check, each_way, features_of, need

SOON, LATER = 0.4, 0.9
"""Seconds after which delayed messages of the checks are due."""
SLACK = 0.05
"""Seconds by which two clocks may differ."""


def _note_times(site: Site) -> dict[Any, float]:
    """Note when each message comes to a site."""
    times: dict[Any, float] = {}
    site.hub.add_listener("k", lambda key, message: times.setdefault(message, time.time()))
    return times


def _keeps_time() -> bool:
    """True if the loop waits as long as it says: one whose time is virtual does not."""
    return abs(asyncio.get_running_loop().time() - time.monotonic()) < 1


@check
@each_way("delays")
async def a_delayed_message_comes_when_it_is_due(make: Make, **options: Any) -> None:
    """To everybody who listens, here and elsewhere, and not before; what is due already comes at once."""
    async with sites(make) as those:
        one = await those.add(ALL)
        two = await those.add(ALL, incoming=ALL, **options)
        noted = [_note_times(one), _note_times(two)]
        now = time.time()
        await one.hub.publish_confirmed("k", "later", due=now + LATER, timeout=TIMEOUT)
        one.hub.publish_with_headers("k", "soon", {"trace": "x"}, due=now + SOON)
        one.hub.publish_event(Event(Key("k"), "late already", Meta(due=now - 1)))
        one.hub.publish("k", "now")
        for site in (one, two):
            await site.see("now")
            assert time.time() > now + SOON or not {"soon", "later"} & set(site.messages), "it came before it was due"
        for site in (one, two):
            await site.wait_for(4)
            assert sorted(site.messages) == ["late already", "later", "now", "soon"]
            (soon,) = [event for event in site.events if event.message == "soon"]
            assert soon.meta is not None
            assert dict(soon.meta.headers) == {"trace": "x"}
            assert soon.meta.due is None
        for times in noted if _keeps_time() else ():
            assert times["soon"] > now + SOON - SLACK, "it came before it was due"
            assert times["later"] > now + LATER - SLACK, "it came before it was due"
        assert not one.gaps + two.gaps


@check
@each_way("delays", of="name group")
async def a_delayed_message_is_passed_by_by_nobody(make: Make, **options: Any) -> None:
    """It survives its sender, and comes to a reader that has gone on meanwhile and was away when it was due."""
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        two = await those.add(ALL, incoming=ALL, **options)
        due = time.time() + SOON
        await one.hub.publish_confirmed("k", "delayed", due=due, timeout=TIMEOUT)
        await one.hub.publish_confirmed("k", "before", timeout=TIMEOUT)
        await one.close()
        await two.see("before")
        await two.close()
        await asyncio.sleep(LATER)
        again = await those.add(ALL, incoming=ALL, **options)
        if "delayed" not in two.messages:
            await again.see("delayed")
        three = await those.add(outgoing=ALL)
        await three.hub.publish_confirmed("k", "last", timeout=TIMEOUT)
        await again.see("last")
        assert sorted([*two.messages, *again.messages]) == ["before", "delayed", "last"]


@check
async def a_message_that_cannot_be_delayed_is_refused(make: Make) -> None:
    """Whoever publishes it learns so, and nobody gets it: not even here."""
    if features_of(make).delays:
        raise SkipTest("this one delays messages")
    need(make)
    told: list[ListenerFailure] = []
    async with sites(make) as those:
        one = await those.add(ALL, on_error=told.append)
        two = await those.add(ALL)
        refusal: object = None
        try:
            await one.hub.publish_confirmed("k", 1, due=time.time() + 3600, timeout=TIMEOUT)
        except DeliveryError as error:
            refusal = error.exceptions[0].__cause__
        assert isinstance(refusal, Unsupported), f"it was confirmed, or {refusal!r}"
        assert refusal.feature == "delays"
        one.hub.publish_with_headers("k", 2, {}, due=time.time() + 3600)
        one.hub.publish("k", 3)
        for site in (one, two):
            await site.see(3)
            assert site.messages == [3]
        await one.until(lambda: len(told) == 2, "both to be told to on_error")
        assert all(isinstance(each.error, Unsupported) for each in told)
