"""Dead letters, as the relay sees them: what they say, and what comes back."""

import asyncio
import contextlib
import pickle
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from hubsub import BridgeNotReady, Hub, Key, NoSuchLetter, Unsupported
from hubsub.bridges import Bridge, Buried, Received, SentBack

from .scripted import Scripted
from .sites import ALL, Quick, record, until


class Keeping(Scripted):
    """Lists what was buried, and brings it back when it is to be sent back."""

    def __init__(self, **features: Any) -> None:
        super().__init__(dead_letters=True, **features)
        self.letters: list[Buried] = []

    async def bury(self, received: Received, why: str) -> Exception | None:
        refusal = await super().bury(received, why)
        if refusal is None:
            self.letters.append(Buried(received, why, str(len(self.letters)), 1.0, self.links[-1].reader))
        return refusal

    async def dead_letters(self, limit: int, before: str | None = None) -> Sequence[Buried]:
        return self.letters[: None if before is None else int(before)][-limit:]

    def send_back(self, reader: str, received: Received, token: object) -> None:
        self.inbox.append(SentBack.to(reader, received._replace(token=token, attempts=0)))
        self._news.set()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def bridged(stack: AsyncExitStack, adapter: Scripted, **options: Any) -> Bridge:
    hub = await stack.enter_async_context(Hub())
    bridge: Bridge = Quick(hub, adapter, **{"incoming": ALL, "retry_pause": 0.01} | options)
    return await stack.enter_async_context(bridge)


def named(id: str) -> dict[str, str]:
    return {"ce_specversion": "1.0", "ce_id": id, "ce_source": "shop", "ce_type": "hubsub.message"}


@pytest.mark.parametrize("before", [0, 1, 7])
async def test_attempts_are_calls_of_listeners_and_not_what_the_broker_counts(
    stack: AsyncExitStack, before: int
) -> None:
    adapter = Keeping()
    bridge = await bridged(stack, adapter, group="g", attempts=10)
    calls: list[Any] = []

    def work(key: Key[Any], message: Any) -> None:
        calls.append(message)
        raise ValueError("never")

    bridge.hub.add_listener("k", work)
    adapter.put("k", b"1", attempts=before)
    await until(lambda: adapter.letters)
    (letter,) = await bridge.dead_letters(10)
    assert letter.attempts == len(calls) == 10 - before


@pytest.mark.parametrize("payload", [b"{", b"1"])
async def test_what_no_listener_was_called_with_has_no_attempts(stack: AsyncExitStack, payload: bytes) -> None:
    adapter = Keeping()
    bridge = await bridged(stack, adapter, group="g", unclaimed="dead-letter", lazy=False)
    adapter.put("k", payload, attempts=3)
    await until(lambda: adapter.letters)
    (letter,) = await bridge.dead_letters(10)
    assert letter.attempts == 0


@pytest.mark.parametrize("options", [{}, {"group": "g"}, {"name": "n"}])
async def test_only_the_reader_that_a_letter_is_sent_back_to_handles_it(
    stack: AsyncExitStack, options: dict[str, str]
) -> None:
    adapter = Keeping()
    bridge = await bridged(stack, adapter, **options)
    messages = record(bridge.hub)
    readers = ["", "group:g", "name:n", "group:n", "name:g", "group:"]
    for number, reader in enumerate(readers):
        adapter.send_back(reader, Received(Key("k", str(number)), b"%d" % number), number + 1)
    adapter.send_back(readers[0], Received(Key("Hub", "x"), b"1"), 98)
    adapter.send_back("group:other", Received(Key("a", "*"), b"{"), 99)
    await until(lambda: len(adapter.acked) == len(readers) + 2)
    kind, name = next(iter(options.items()), ("", ""))
    assert messages == [readers.index(f"{kind}:{name}" if kind else "")]
    assert bridge.health().undecodable == 0


async def test_a_letter_that_is_back_before_it_is_known_to_be_written_is_handled(stack: AsyncExitStack) -> None:
    """Somebody has sent it back while the answer of the broker was on its way."""
    adapter = Keeping()
    answered = asyncio.Event()
    written = adapter.bury

    async def bury(received: Received, why: str) -> Exception | None:
        refusal = await written(received, why)
        await answered.wait()
        return refusal

    adapter.bury = bury  # type: ignore[method-assign]
    bridge = await bridged(stack, adapter, group="g", attempts=1)
    calls: list[Any] = []

    def work(key: Key[Any], message: Any) -> None:
        calls.append(message)
        if len(calls) == 1:
            raise ValueError("not yet")

    bridge.hub.add_listener("k", work)
    adapter.put("k", b"1", named("7"))
    await until(lambda: adapter.letters)
    adapter.send_back("group:g", adapter.letters[0].received, 2)
    await until(lambda: bridge.health().in_flight == 2)
    answered.set()
    await until(lambda: sorted(adapter.acked) == [1, 2])
    assert calls == [1, 1]
    # Handled it is, and comes again by mistake.
    adapter.put("k", b"1", named("7"))
    await until(lambda: len(adapter.acked) == 3)
    assert calls == [1, 1]


async def test_a_letter_that_is_not_written_yet_and_comes_again_by_itself_is_the_same(stack: AsyncExitStack) -> None:
    adapter = Keeping()
    adapter.on_bury = away
    bridge = await bridged(stack, adapter, group="g", attempts=1)
    calls: list[Any] = []

    def work(key: Key[Any], message: Any) -> None:
        calls.append(message)
        raise ValueError("never")

    bridge.hub.add_listener("k", work)
    adapter.put("k", b"1", named("7"))
    await until(lambda: calls)
    adapter.put("k", b"1", named("7"))
    await until(lambda: bridge.health().duplicates)
    adapter.on_bury = lambda received, why: None
    await until(lambda: len(adapter.acked) == 2)
    assert (calls, len(adapter.letters)) == ([1], 1)


def away(received: Received, why: str) -> Exception | None:
    raise ConnectionError("away")


async def test_letters_have_the_keys_of_this_side(stack: AsyncExitStack) -> None:
    adapter = Keeping()
    bridge = await bridged(
        stack, adapter, incoming=("far", "*"), prefix=("far",), unclaimed="dead-letter", lazy=False, group="g"
    )
    adapter.put("k", b"1", named("7"))
    await until(lambda: adapter.letters)
    (letter,) = await bridge.dead_letters(10)
    assert letter[:3] == (("far", "k"), 1, "nobody is subscribed to it")
    assert (letter.meta.id, letter.group, letter.name, letter.time) == ("7", "g", None, 1.0)


async def test_what_is_no_number_of_letters_is_refused(stack: AsyncExitStack) -> None:
    bridge = await bridged(stack, Keeping())
    for limit in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            await bridge.dead_letters(limit)


async def test_a_connection_that_is_lost_meanwhile_is_an_error_that_says_so(stack: AsyncExitStack) -> None:
    class Silent(Keeping):
        async def redeliver(self, position: str) -> None:
            self.cut()
            await asyncio.Event().wait()

    bridge = await bridged(stack, Silent())
    with pytest.raises(BridgeNotReady, match="connection"):
        await bridge.redeliver("1")


async def test_a_broker_without_dead_letters_says_so(stack: AsyncExitStack) -> None:
    bridge = await bridged(stack, Scripted())
    with pytest.raises(Unsupported, match="Scripted has no dead letters") as told:
        await bridge.dead_letters(10)
    assert (told.value.adapter, told.value.feature) == ("Scripted", "dead letters")
    with pytest.raises(ValueError, match="no dead letters"):
        await bridge.redeliver("1")


def test_a_letter_that_is_gone_is_an_error_that_survives_pickle() -> None:
    again = pickle.loads(pickle.dumps(NoSuchLetter("orders:dead:7-0")))
    assert again.position == "orders:dead:7-0"
    assert isinstance(again, LookupError)
    assert str(again).startswith("no dead letter is at 'orders:dead:7-0'")
    with contextlib.suppress(LookupError):
        raise again
