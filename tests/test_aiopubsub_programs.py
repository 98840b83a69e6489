"""Programs that make the calls of aiopubsub's package pages run here, with nothing but the import changed."""

import subprocess
import sys
from pathlib import Path

import pytest

# What the page of aiopubsub 2 shows: a queue, and then a listener of either kind in its place.
QUEUE = """
import asyncio
import aiopubsub
import logwood

async def main():
    logwood.basic_config()
    hub = aiopubsub.Hub()
    station = aiopubsub.Publisher(hub, prefix = aiopubsub.Key('station'))
    watcher = aiopubsub.Subscriber(hub, 'watcher')

    wanted = aiopubsub.Key('station', 'roof', '*')
    watcher.subscribe(wanted)

    station.publish(aiopubsub.Key('roof', 'wind'), 'a gale')
    await asyncio.sleep(0.001)

    key, message = await watcher.consume()
    assert key == aiopubsub.Key('station', 'roof', 'wind')
    assert message == 'a gale'
    print(key, message)

    watcher.remove_all_listeners()

asyncio.get_event_loop().run_until_complete(main())
"""

SYNC_LISTENER = """
import asyncio
import aiopubsub
import logwood

def note(key, message):
    print(key, message)

async def main():
    logwood.basic_config()
    hub = aiopubsub.Hub()
    station = aiopubsub.Publisher(hub, prefix = aiopubsub.Key('station'))
    watcher = aiopubsub.Subscriber(hub, 'watcher')
    watcher.add_sync_listener(aiopubsub.Key('station', 'roof', '*'), note)
    station.publish(aiopubsub.Key('roof', 'wind'), 'a gale')
    await asyncio.sleep(0.001)
    watcher.remove_all_listeners()
    station.publish(aiopubsub.Key('roof', 'wind'), 'nobody hears it')

asyncio.get_event_loop().run_until_complete(main())
"""

ASYNC_LISTENER = """
import asyncio
import aiopubsub
import logwood

async def note(key, message):
    await asyncio.sleep(0.001)
    print(key, message)

async def main():
    logwood.basic_config()
    hub = aiopubsub.Hub()
    station = aiopubsub.Publisher(hub, prefix = aiopubsub.Key('station'))
    watcher = aiopubsub.Subscriber(hub, 'watcher')
    watcher.add_async_listener(aiopubsub.Key('station', 'roof', '*'), note)
    station.publish(aiopubsub.Key('roof', 'wind'), 'a gale')
    await asyncio.sleep(0.2)
    watcher.remove_all_listeners()
    station.publish(aiopubsub.Key('roof', 'wind'), 'nobody hears it')

asyncio.get_event_loop().run_until_complete(main())
"""

GALE = "('station', 'roof', 'wind') a gale\n"

# What the page of aiopubsub 3 shows: two async listeners, the second more particular, and a publisher for each.
TWO_LISTENERS = """
import asyncio
import dataclasses
import decimal

import aiopubsub

@dataclasses.dataclass
class Reading:
    at: float
    depth: int
    level: decimal.Decimal

async def on_reading(key: aiopubsub.Key, reading: Reading) -> None:
    print(f'{reading} of {key}')

async def on_sea_reading(key: aiopubsub.Key, reading: Reading) -> None:
    print(f'{reading} of {key}, at sea')

async def main():
    hub = aiopubsub.Hub()
    first = Reading(at = 0.5, depth = 3, level = decimal.Decimal('1.25'))

    subscriber = aiopubsub.Subscriber(hub, 'readings')
    subscriber.add_async_listener(aiopubsub.Key('*', 'level', '*'), on_reading)

    lake = aiopubsub.Publisher(hub, prefix = aiopubsub.Key('lake'))
    lake.publish(aiopubsub.Key('level', 'north'), first)
    await asyncio.sleep(0.1)

    second = Reading(at = 1.5, depth = 4, level = decimal.Decimal('1.75'))
    subscriber.add_async_listener(aiopubsub.Key('sea', 'level', '*'), on_sea_reading)

    sea = aiopubsub.Publisher(hub, prefix = aiopubsub.Key('sea'))
    sea.publish(aiopubsub.Key('level', 'north'), second)
    await asyncio.sleep(0.1)

    await subscriber.remove_all_listeners()

if __name__ == '__main__':
    asyncio.run(main())
"""

READINGS = """\
Reading(at=0.5, depth=3, level=Decimal('1.25')) of ('lake', 'level', 'north')
Reading(at=1.5, depth=4, level=Decimal('1.75')) of ('sea', 'level', 'north')
Reading(at=1.5, depth=4, level=Decimal('1.75')) of ('sea', 'level', 'north'), at sea
"""

# The messages about subscribers that both pages describe.
ANNOUNCEMENTS = """
import asyncio
import aiopubsub

def note(key, message):
    print(tuple(key), tuple(message['key']), message['currentSubscriberCount'])

async def main():
    hub = aiopubsub.Hub()
    watcher = aiopubsub.Subscriber(hub, 'watcher')
    watcher.add_sync_listener({aiopubsub.Key('Hub', 'addedSubscriber', 'of', '*'),
        aiopubsub.Key('Hub', 'removedSubscriber', 'of', '*')}, note)
    one = aiopubsub.Subscriber(hub, 'one')
    two = aiopubsub.Subscriber(hub, 'two')
    one.subscribe(aiopubsub.Key('of', 'interest'))
    two.subscribe(aiopubsub.Key('of', 'interest'))
    two.unsubscribe(aiopubsub.Key('of', 'interest'))
    await watcher.remove_all_listeners()

asyncio.run(main())
"""

ANNOUNCED = """\
('Hub', 'addedSubscriber', 'of', 'interest') ('of', 'interest') 1
('Hub', 'addedSubscriber', 'of', 'interest') ('of', 'interest') 2
('Hub', 'removedSubscriber', 'of', 'interest') ('of', 'interest') 1
"""


def awaiting(program: str) -> str:
    """The program as one writes it for aiopubsub 3, where removing listeners is async."""
    return program.replace("    watcher.remove_all_listeners()", "    await watcher.remove_all_listeners()")


def not_awaiting(program: str) -> str:
    return program.replace("    await subscriber.remove_all_listeners()", "    subscriber.remove_all_listeners()")


@pytest.mark.parametrize(
    ("program", "output"),
    [
        pytest.param(QUEUE, GALE, id="queue"),
        pytest.param(SYNC_LISTENER, GALE, id="sync_listener"),
        pytest.param(ASYNC_LISTENER, GALE, id="async_listener"),
        pytest.param(awaiting(QUEUE), GALE, id="queue_awaiting"),
        pytest.param(awaiting(SYNC_LISTENER), GALE, id="sync_listener_awaiting"),
        pytest.param(awaiting(ASYNC_LISTENER), GALE, id="async_listener_awaiting"),
        pytest.param(TWO_LISTENERS, READINGS, id="two_listeners"),
        pytest.param(not_awaiting(TWO_LISTENERS), READINGS, id="two_listeners_not_awaiting"),
        pytest.param(ANNOUNCEMENTS, ANNOUNCED, id="announcements"),
    ],
)
def test_a_program_written_for_aiopubsub_runs_with_its_import_changed(
    program: str, output: str, tmp_path: Path
) -> None:
    changed = program.replace("import aiopubsub\n", "import hubsub as aiopubsub\n")
    assert changed.count("hubsub as aiopubsub") == 1
    if "get_event_loop()" in changed and sys.version_info >= (3, 12):
        # Older Pythons made a loop where there was none; newer ones warn, and then refuse.
        changed = "import asyncio\nasyncio.set_event_loop(asyncio.new_event_loop())\n" + changed
    path = tmp_path / "program.py"
    path.write_text(changed, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-W", "error", path], cwd=tmp_path, capture_output=True, text=True, timeout=50
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, output, "")
