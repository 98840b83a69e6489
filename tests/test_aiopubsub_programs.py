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


# What the modules beside the package offer: a loop, a throttled publisher, and what a hub is told directly.
TICKER = """
import asyncio
import aiopubsub
import aiopubsub.loop

class Ticker:
    def __init__(self, hub):
        self.ticks = 0
        self.publisher = aiopubsub.Publisher(hub, 'ticker')
        self.loop = aiopubsub.loop.Loop(self.tick, delay = 0.001)

    async def tick(self):
        self.ticks += 1
        self.publisher.publish(aiopubsub.Key('tick'), self.ticks)

async def main():
    hub = aiopubsub.Hub()
    subscriber = aiopubsub.Subscriber(hub, 'watch')
    subscriber.async_subscribe(aiopubsub.Key('ticker', '*'), 'ticks')
    ticker = Ticker(hub)
    ticker.loop.start()
    ticker.loop.start()
    print([(await subscriber.consume('ticks'))[1] for _ in range(3)], ticker.loop.is_running)
    await ticker.loop.stop_wait()
    seen = ticker.ticks
    await asyncio.sleep(0.01)
    print(ticker.ticks == seen, ticker.loop.is_running)
    ticker.loop.start()
    while ticker.ticks == seen:
        await asyncio.sleep(0.001)
    ticker.loop.stop()
    print('again', ticker.loop.is_running)

asyncio.run(main())
"""

TICKED = """\
[1, 2, 3] True
True False
again False
"""

THROTTLED = """
import asyncio
import itertools
import aiopubsub
import aiopubsub.utils

async def main():
    hub = aiopubsub.Hub()
    subscriber = aiopubsub.Subscriber(hub, 'slow')
    subscriber.subscribe(aiopubsub.Key('fast', '*'))
    publisher = aiopubsub.Publisher(hub, aiopubsub.Key('fast'))
    throttled = aiopubsub.utils.ThrottledPublisher(hub, publisher, 2, lambda: itertools.repeat(0.001))

    async def produce():
        for number in range(10):
            await throttled.publish(aiopubsub.Key('a'), number)

    producer = asyncio.create_task(produce())
    await asyncio.sleep(0.01)
    print(hub.get_subscriber_queue_sizes(aiopubsub.Key('fast', 'a')), producer.done())
    got = [(await subscriber.consume())[1] for _ in range(10)]
    await producer
    print(got)

asyncio.run(main())
"""

THROTTLED_OUTPUT = """\
(3,) False
[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
"""

DIRECT = """
import collections
import aiopubsub

hub = aiopubsub.Hub()
taken = collections.deque()

def take(key, message):
    taken.append((key, message))

key = aiopubsub.Key('a', 'b')
hub.add_subscriber(aiopubsub.Key('a', '*'), take, taken.__len__)
print(hub.has_subscribers(key), hub.get_subscriber_queue_sizes(key))
hub.publish(key, 'message')
print(taken[0] == (key, 'message'), hub.get_subscriber_queue_sizes(key), hub.get_all_subscriber_queue_sizes())
hub.remove_subscriber(aiopubsub.Key('a', '*'), take, taken.__len__)
hub.publish(key, 'nobody hears it')
print(len(taken), hub.has_subscribers(key))

subscriber = aiopubsub.Subscriber(hub, 's')
heard = []
subscriber.sync_subscribe(key, lambda key, message: heard.append(message), 'mine')
hub.publish(key, 1)
try:
    subscriber.consume('mine').send(None)
except aiopubsub.ConsumeQueueNotFoundError:
    print('no queue')
subscriber.unsubscribe(key, 'mine')
hub.publish(key, 2)
print(heard)
"""

DIRECT_OUTPUT = """\
True (0,)
True (1,) {('a', '*'): (1,)}
1 False
no queue
[1]
"""

# A test as one writes it for aiopubsub, with its hub that delivers nothing.
MOCKED = """
import asyncio
import aiopubsub
import aiopubsub.testing.mocks
from aiopubsub.logging_compat import get_logger

logger = get_logger('shop')

class Shop:
    def __init__(self, hub: aiopubsub.Hub, on_sale: aiopubsub.ListenerCallback) -> None:
        self.publisher = aiopubsub.Publisher(hub, aiopubsub.Key('shop'))
        self.subscriber = aiopubsub.Subscriber(hub, 'shop')
        self.subscriber.add_async_listener(aiopubsub.Key('sale'), on_sale)

    def sell(self, what: str) -> None:
        self.publisher.publish(aiopubsub.Key('sold', what), 1)

async def main():
    hub = aiopubsub.testing.mocks.MockHub()
    sales = []

    async def on_sale(key, message):
        sales.append(message)

    shop = Shop(hub, on_sale)
    shop.sell('tea')
    assert hub.published == [(aiopubsub.Key('shop', 'sold', 'tea'), 1)]
    assert hub.published_by_key[aiopubsub.Key('shop', 'sold', 'tea')] == [1]
    assert hub.has_subscribers(aiopubsub.Key('sale'))
    [deliver] = hub.subscribers[aiopubsub.Key('sale')]
    deliver(aiopubsub.Key('sale'), 'honey')
    await asyncio.sleep(0.001)
    assert sales == ['honey']
    await shop.subscriber.remove_all_listeners()
    assert hub.subscribers[aiopubsub.Key('sale')] == []
    hub.subscribers[aiopubsub.Key('shop', 'sold')].append(True)
    assert shop.publisher.has_subscribers(aiopubsub.Key('sold'))
    assert not shop.publisher.has_subscribers(aiopubsub.Key('bought'))
    print('mocked')

asyncio.run(main())
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
        pytest.param(TICKER, TICKED, id="loop"),
        pytest.param(THROTTLED, THROTTLED_OUTPUT, id="throttled_publisher"),
        pytest.param(DIRECT, DIRECT_OUTPUT, id="direct_subscribers"),
        pytest.param(MOCKED, "mocked\n", id="mock_hub"),
    ],
)
def test_a_program_written_for_aiopubsub_runs_with_its_import_changed(
    program: str, output: str, tmp_path: Path
) -> None:
    changed = program.replace("import aiopubsub\n", "import hubsub as aiopubsub\n")
    assert changed.count("hubsub as aiopubsub") == 1
    changed = changed.replace("import aiopubsub.", "import hubsub.").replace("from aiopubsub.", "from hubsub.")
    if "get_event_loop()" in changed and sys.version_info >= (3, 12):
        # Older Pythons made a loop where there was none; newer ones warn, and then refuse.
        changed = "import asyncio\nasyncio.set_event_loop(asyncio.new_event_loop())\n" + changed
    path = tmp_path / "program.py"
    path.write_text(changed, encoding="utf-8")
    command = [sys.executable, "-W", "error", str(path)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert (run.returncode, run.stdout, run.stderr) == (0, output, "")


@pytest.mark.parametrize(
    "name",
    [
        "loop.Loop",
        "utils.ThrottledPublisher",
        "testing.mocks.MockHub",
        "logging_compat.get_logger",
        "PossibleKey",
        "UnreadCallback",
    ],
)
def test_what_aiopubsub_has_beside_its_package_is_found_without_another_import(name: str) -> None:
    program = f"import hubsub as aiopubsub; assert aiopubsub.{name}"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=50)
