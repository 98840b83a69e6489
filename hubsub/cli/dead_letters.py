"""`python -m hubsub dead-letters URL`: lists what listeners gave up, and sends it back."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from hubsub import Bridge, Hub, Unsupported
from hubsub.bridges import Adapter, StoredLetter, adapter_for

# Characters of a message, and of a reason, that are shown.
MOST = 500


def main(url: str, namespace: str, limit: int, before: str | None, redeliver: Sequence[str], timeout: float) -> int:
    """List the last `limit` dead letters, or send back those at `redeliver`; return the exit code.

    It is 0 on success; 1 if the broker does not answer or refuses, or a letter does not exist; and 2 if the URL is
    invalid or the broker has no dead letters. An error is one line.
    """
    try:
        adapter = adapter_for(url)
    except Exception as error:
        return _complain(error, 2)
    # The log would repeat the error that ends this.
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        asyncio.run(_run(adapter, namespace, limit, before, redeliver, timeout))
    except Unsupported as error:
        return _complain(error, 2)
    except BrokenPipeError:
        raise
    except Exception as error:
        return _complain(error, 1)
    finally:
        logging.disable(disabled)
    return 0


async def _run(
    adapter: Adapter, namespace: str, limit: int, before: str | None, redeliver: Sequence[str], timeout: float
) -> None:
    async with Hub() as hub, Bridge(hub, adapter, outgoing="*", namespace=namespace) as bridge:
        if not adapter.features.dead_letters:
            # Before connecting: the broker need not answer.
            raise Unsupported(type(adapter).__name__, "dead letters")
        await bridge.ready(timeout)
        async with asyncio.timeout(timeout):
            if redeliver:
                for position in redeliver:
                    await bridge.redeliver(position)
                    _print([f"sent back: {position}"])
                return
            letters = await bridge.dead_letters(limit, before)
    _print(line for letter in letters for line in _lines(letter))
    if len(letters) == limit:
        _print([f"these are the last {limit}; for older ones, add --before {letters[0].position}"])
    elif not letters:
        where = f"namespace {namespace!r}" + ("" if before is None else f" before {before}")
        _print([f"no dead letters in {where}"])


def _lines(letter: StoredLetter) -> Iterator[str]:
    """Yield the lines that show a letter; only the line with its position begins without a space."""
    when = "" if letter.time is None else datetime.fromtimestamp(letter.time, UTC).isoformat(" ", "seconds")[:19] + "Z"
    reader = f"group {letter.group}" if letter.group else f"name {letter.name}" if letter.name else ""
    calls = "1 attempt" if letter.attempts == 1 else f"{letter.attempts} attempts"
    yield "  ".join(filter(None, (letter.position, when, letter.key.text, calls, reader)))
    yield f"    message: {letter.message!r}"
    yield f"    reason: {letter.reason}"


def _print(lines: Iterable[str]) -> None:
    # A message may contain control characters for the terminal.
    for line in lines:
        cut = line if len(line) <= MOST or not line.startswith(" ") else f"{line[:MOST]}…"
        print("".join(letter if letter.isprintable() else "?" for letter in cut), flush=True)


def _complain(error: Exception, code: int) -> int:
    text = str(error) or type(error).__name__
    if isinstance(error, TimeoutError) and not str(error):
        text = "the broker did not answer in time"
    print(f"dead-letters: {' '.join(text.split())}", file=sys.stderr)
    return code
