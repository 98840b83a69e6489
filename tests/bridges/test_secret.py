"""Bridges with a secret: what is not signed with it does not come in, and all that is does."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis as Client

from brokers.redis_server import Redis
from hubsub import DecodeError, Hub, Key, SignatureError
from hubsub.bridges import Bridge
from hubsub.bridges.memory import MemoryAdapter
from hubsub.bridges.relay import sender, signing

from .sites import ALL, Sites, until

SECRET = "s3cret"


@pytest.fixture
async def sites() -> AsyncIterator[Sites]:
    async with Sites() as sites:
        yield sites


def heard_by(bridge: Bridge) -> list[Any]:
    messages: list[Any] = []
    bridge.hub.add_listener(("*",), lambda key, message: messages.append(message) if key[0] != "Hub" else None)
    return messages


@pytest.mark.parametrize("headers", [True, False])
@pytest.mark.parametrize("prefix", [(), ("far",)])
async def test_messages_requests_and_replies_cross_signed(
    sites: Sites, monkeypatch: pytest.MonkeyPatch, headers: bool, prefix: tuple[str, ...]
) -> None:
    monkeypatch.setattr(MemoryAdapter, "features", MemoryAdapter.features.__class__(patterns=True, headers=headers))
    here = await sites.bridge(secret=SECRET)
    there = await sites.bridge(secret=["new", SECRET], prefix=prefix, both=Key(*prefix, "*"))
    messages = heard_by(there)
    there.hub.respond((*prefix, "double"), lambda key, number: 2 * number)
    await there.synced()
    here.hub.publish(("a", "b"), 1)
    await until(lambda: messages == [1])
    # The reply is signed with the new one.
    here = await sites.bridge(secret=["new"])
    assert await here.hub.request(("double",), 21, local=False) == 42


async def test_what_is_not_signed_is_refused_counted_and_told(sites: Sites) -> None:
    errors: list[Any] = []
    guarded = await sites.bridge(await sites.hub(on_error=errors.append), secret=SECRET)
    messages = heard_by(guarded)
    await guarded.synced()
    for options in ({}, {"secret": "another"}, {"envelope": False}):
        stranger = await sites.bridge(outgoing=ALL, **options)
        stranger.hub.publish(("a",), "forged")
        await stranger.flush()
    friend = await sites.bridge(outgoing=ALL, secret=SECRET)
    friend.hub.publish(("a",), "true")
    await until(lambda: messages == ["true"])
    assert guarded.health().undecodable == 3
    assert isinstance(errors[0].error, SignatureError)


async def test_a_request_that_is_not_signed_reaches_nobody(sites: Sites) -> None:
    guarded = await sites.bridge(secret=SECRET)
    asked: list[Any] = []
    guarded.hub.respond(("check",), lambda key, message: asked.append(message))
    await guarded.synced()
    stranger = await sites.bridge()
    with pytest.raises(TimeoutError):
        await stranger.hub.request(("check",), 1, timeout=0.2, local=False)
    await until(lambda: guarded.health().undecodable == 1)
    assert asked == []


class Unpickled:
    """It says so when it is."""

    seen = 0

    def __reduce__(self) -> Any:
        return _unpickled, ()


def _unpickled() -> None:
    Unpickled.seen += 1


async def test_what_is_not_signed_is_never_unpickled(sites: Sites) -> None:
    guarded = await sites.bridge(secret=SECRET, codec="pickle")
    messages = heard_by(guarded)
    await guarded.synced()
    for secret in (None, "another"):
        stranger = await sites.bridge(outgoing=ALL, codec="pickle", secret=secret)
        stranger.hub.publish(("a",), Unpickled())
    await until(lambda: guarded.health().undecodable == 2)
    assert Unpickled.seen == 0
    friend = await sites.bridge(outgoing=ALL, codec="pickle", secret=SECRET)
    friend.hub.publish(("a",), Unpickled())
    await until(lambda: messages == [None])
    assert Unpickled.seen == 1


async def test_what_is_sent_again_by_somebody_is_a_duplicate(sites: Sites) -> None:
    guarded = await sites.bridge(incoming=ALL, secret=SECRET)
    messages = heard_by(guarded)
    await guarded.synced()
    sites.broker.duplicate = lambda record: not record.is_control
    friend = await sites.bridge(outgoing=ALL, secret=SECRET)
    for number in range(3):
        friend.hub.publish(("a",), number)
    await until(lambda: guarded.health().duplicates == 3)
    assert messages == [0, 1, 2]
    assert guarded.health().undecodable == 0


async def test_what_waited_for_the_connection_longer_than_the_window_is_accepted(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1_700_000_000.0]
    monkeypatch.setattr(signing, "time", SimpleNamespace(time=lambda: clock[0]))
    monkeypatch.setattr(sender, "now", lambda: clock[0])
    friend = await sites.bridge(outgoing=ALL, secret=SECRET)
    guarded = await sites.bridge(incoming=ALL, secret=SECRET)
    messages = heard_by(guarded)
    await guarded.synced()
    sites.broker.is_down = True
    friend.adapter.break_off()  # type: ignore[attr-defined]
    await until(lambda: friend.health().state != "up")
    friend.hub.publish(("a",), 1)
    await until(lambda: friend.health().outbox_messages == 1)
    clock[0] += 10_000
    sites.broker.is_down = False
    await until(lambda: messages == [1])
    assert guarded.health().undecodable == 0


async def test_the_window_against_replays_can_be_chosen(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded = await sites.bridge(incoming=ALL, secret=SECRET, replay_window=10)
    messages = heard_by(guarded)
    await guarded.synced()
    clock = [signing.time.time()]
    monkeypatch.setattr(signing, "time", SimpleNamespace(time=lambda: clock[0]))
    friend = await sites.bridge(outgoing=ALL, secret=SECRET)
    kept: list[Any] = []

    def keep(record: Any) -> bool:
        if not record.is_control:
            kept.append(record)
        return not record.is_control

    sites.broker.drop = keep
    friend.hub.publish(("a",), "old")
    await friend.flush()
    clock[0] += 11
    guarded.adapter.deliver(kept[0])  # type: ignore[attr-defined]
    sites.broker.drop = lambda record: False
    friend.hub.publish(("a",), "new")
    await until(lambda: messages == ["new"])
    assert guarded.health().undecodable == 1


@pytest.mark.parametrize(
    "options", [{"replay_window": 10}, {"secret": SECRET, "replay_window": 0}, {"secret": SECRET, "replay_window": "1"}]
)
async def test_a_window_against_replays_that_makes_no_sense_is_refused(sites: Sites, options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match="replay_window"):
        Bridge(await sites.hub(), MemoryAdapter(sites.url), both=ALL, **options)


async def test_a_secret_without_envelopes_is_refused(sites: Sites) -> None:
    hub = await sites.hub()
    with pytest.raises(ValueError, match="envelope=False"):
        Bridge(hub, MemoryAdapter(sites.url), both=ALL, secret=SECRET, envelope=False)
    assert not hub.bridges


async def test_nothing_that_a_bridge_shows_has_the_secret(sites: Sites) -> None:
    bridge = await sites.bridge(secret="hunter2")
    shown = f"{bridge!r}{bridge.health()}{bridge._plan}{bridge._parts!r}{bridge.hub.explain(('a',))}"
    assert "hunter2" not in shown


async def test_a_log_may_be_as_old_as_it_likes_and_what_is_put_back_from_the_dead_letters_is_handled(
    redis: Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = redis.url.replace("redis://", "redis-stream://")
    clock = [1_700_000_000.0]
    monkeypatch.setattr(signing, "time", SimpleNamespace(time=lambda: clock[0]))
    options: dict[str, Any] = {"namespace": namespace, "secret": SECRET}
    async with Hub() as hub, Bridge(hub, url, outgoing=ALL, **options) as bridge:
        hub.publish(("job", "1"), "work")
        await bridge.flush()
    clock[0] += 1_000_000
    handled: list[Any] = []

    def listener(key: Key[Any], message: Any) -> None:
        handled.append(message)
        if len(handled) == 1:
            raise ValueError("not yet")

    async with Client(port=redis.port) as client:
        await client.xadd(namespace, {"key": "job:2", "payload": '"forged"'})
        async with Hub() as hub:
            hub.add_listener(("job", "*"), listener)
            async with Bridge(hub, url, incoming=ALL, group="workers", attempts=1, **options) as bridge:
                await until(lambda: bridge.health().dead_letters + bridge.health().undecodable >= 2)
                await until(lambda: bridge.health().in_flight == 0)
                dead = {entry[b"key"]: entry for _, entry in await client.xrange(f"{namespace}:dead")}
                assert set(dead) == {b"job:1", b"job:2"}
                await client.xadd(namespace, dead[b"job:1"])
                await until(lambda: handled == ["work", "work"])
        for name in await client.keys(f"{namespace}*"):
            await client.delete(name)


def test_a_signature_error_is_a_decode_error() -> None:
    assert issubclass(SignatureError, DecodeError)
