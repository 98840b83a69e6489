"""Dead letters: they can be listed, whatever is in them, and sent back to the reader that gave them up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from unittest import SkipTest

from ... import DecodeError, Key, NoSuchLetter, Unsupported
from ...bridges import Bridge, Record, StoredLetter
from .bare import Bare, bare
from .sites import TIMEOUT, Site, sites, until
from .table import ALL, Make, check, each_way, features_of, need


def _failing(site: Site, times: int) -> list[Any]:
    """Add a listener that fails with a message `times` times; return the list of what it is called with."""
    calls: list[Any] = []

    async def work(key: Key[Any], message: Any) -> None:
        calls.append(message)
        if message == {"number": 1} and calls.count(message) <= times:
            raise ValueError("not today")

    site.hub.add_listener(("k", "+"), work)
    return calls


async def _buried(site: Site, number: int = 1) -> None:
    """Wait until a site has written `number` dead letters."""
    await site.until(
        lambda: site.bridge.health().dead_letters == number and not site.bridge.health().in_flight,
        f"{number} dead letters to be written",
    )


@check
@each_way("dead_letters")
async def a_dead_letter_is_listed_and_sent_back(make: Make, **options: Any) -> None:
    """With all its metadata. The reader that gave it up handles it, nobody else gets it, and then it is gone."""
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        others = [await those.add(ALL, incoming=ALL)]
        if features_of(make, group="others").groups:
            others.append(await those.add(ALL, incoming=ALL, group="others"))
        two = await those.add(incoming=ALL, retry_pause=0.02, attempts=3, **options)
        calls = _failing(two, 3)
        await two.bridge.ready(TIMEOUT)
        assert await one.bridge.dead_letters(10) == []
        one.hub.publish_with_headers(("k", "a/b"), {"number": 1}, {"trace": "x", "reason": "mine"})
        await _buried(two)
        # A bridge that only sends can list them, too.
        (letter,) = await one.bridge.dead_letters(10)
        _is_ours(letter, options)
        assert await one.bridge.dead_letters(10) == [letter]
        assert letter.meta == (await two.bridge.dead_letters(1))[0].meta
        for other in others:
            await other.wait_for(1)
        await one.bridge.redeliver(letter.position)
        await until(lambda: len(calls) == 4, lambda: f"it to be handled: {calls}")
        assert await one.bridge.dead_letters(10) == []
        await _is_gone(one, letter.position)
        await one.hub.publish_confirmed(("k", "a/b"), 2, timeout=TIMEOUT)
        for other in others:
            await other.see(2)
            assert other.messages == [{"number": 1}, 2], "somebody who had handled it got it again"
        await until(lambda: calls[-1] == 2, "the message behind it")
        assert calls == [*[{"number": 1}] * 4, 2]
        await two.until(lambda: not two.bridge.health().in_flight, "everything to be finished")
        assert two.bridge.health().dead_letters == 1
        page = await two.bridge.history(("k", "+"), 10) if need(make, **options).history else []
        assert [event.message for event in page] in ([], [{"number": 1}, 2]), "history has it twice"


def _is_ours(letter: StoredLetter, options: dict[str, Any]) -> None:
    assert letter.key == ("k", "a/b")
    assert letter.message == {"number": 1}
    assert letter.error is None
    assert "not today" in letter.reason
    assert letter.attempts == 3
    assert (letter.group, letter.name) == (options.get("group"), options.get("name"))
    assert letter.time is not None
    assert abs(letter.time - time.time()) < 600
    assert letter.meta.id
    assert dict(letter.meta.headers) == {"trace": "x", "reason": "mine"}


async def _is_gone(site: Site, position: str) -> None:
    reported: object = None
    try:
        await site.bridge.redeliver(position)
    except NoSuchLetter as error:
        reported = error.position
    assert reported == position, f"no letter is at {position!r}, and it was sent back"


@check
async def dead_letters_are_listed_page_by_page_whatever_is_in_them(make: Make) -> None:
    """Even if they cannot be decoded, or have an invalid key; sending one back does not affect the others."""
    need(make, "dead_letters")
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        two = await those.add(ALL, incoming=ALL)
        async with bare(make, those.namespace, reads=False) as writer:
            await _write(writer, two, [(("k", str(number)), b"{%d" % number) for number in range(4)])
            await _write(writer, two, [(("a", "*"), b"1")])
        await _buried(two, 5)
        pages: list[StoredLetter] = []
        while page := await one.bridge.dead_letters(2, before=pages[0].position if pages else None):
            assert len(page) <= 2
            pages = page + pages
        assert [letter.key for letter in pages] == [("k", "0"), ("k", "1"), ("k", "2"), ("k", "3"), ("a", "*")]
        for number, letter in enumerate(pages[:4]):
            assert letter.message == b"{%d" % number
            assert isinstance(letter.error, DecodeError)
            assert letter.reason
            assert letter.attempts == 0
        assert pages[4].message == 1
        assert _positions(await one.bridge.dead_letters(100)) == _positions(pages)
        sent, left = pages[1], [pages[0], *pages[2:]]
        await one.bridge.redeliver(sent.position)
        await _buried(two, 6)
        *before, again = await one.bridge.dead_letters(100)
        assert _positions(before) == _positions(left)
        assert (again.key, again.message) == (sent.key, sent.message)
        assert again.position != sent.position
        # Its position can still be used for paging.
        assert _positions(await one.bridge.dead_letters(100, before=sent.position)) == [pages[0].position]
        await _is_gone(one, sent.position)
        await _is_gone(one, "nowhere")
        assert _positions(await one.bridge.dead_letters(1)) == [again.position]


def _positions(letters: Sequence[StoredLetter]) -> list[str]:
    return [letter.position for letter in letters]


async def _write(writer: Bare, reader: Site, messages: Sequence[tuple[tuple[str, ...], bytes]]) -> None:
    """Write messages that cannot be read, each after the one before it has become a dead letter."""
    for parts, payload in messages:
        number = reader.bridge.health().dead_letters
        await writer.send(Record(Key.create_from(parts), payload))
        await _buried(reader, number + 1)


@check
@each_way("dead_letters", of="name group")
async def a_dead_letter_waits_for_a_reader_that_is_away(make: Make, **options: Any) -> None:
    """It is sent back while no reader of the group or name is there, and handled when one is."""
    async with sites(make) as those:
        one = await those.add(outgoing=ALL)
        two = await those.add(incoming=ALL, retry_pause=0.02, attempts=2, **options)
        calls = _failing(two, 2)
        await two.bridge.ready(TIMEOUT)
        await one.hub.publish_confirmed(("k", "a"), {"number": 1}, timeout=TIMEOUT)
        await _buried(two)
        await two.close()
        (letter,) = await one.bridge.dead_letters(10)
        assert letter.attempts == len(calls) == 2
        await one.bridge.redeliver(letter.position)
        again = await those.add(ALL, incoming=ALL, **options)
        await again.see({"number": 1})
        assert again.messages == [{"number": 1}]


@check
async def whoever_has_no_dead_letters_says_so(make: Make) -> None:
    """By its features, and by an error that names the feature."""
    if features_of(make).dead_letters:
        raise SkipTest("this broker has dead letters")
    async with sites(make) as those:
        one = await those.add(ALL)
        await _refuses(one.bridge)


async def _refuses(bridge: Bridge) -> None:
    for call in (bridge.dead_letters(10), bridge.redeliver("1")):
        named = ""
        try:
            await call
        except Unsupported as error:
            named = error.feature
        assert named == "dead letters", "it has no dead letters, and lists or sends back some"
