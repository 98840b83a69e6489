"""A hub in a thread of its own, used by sync code."""

import asyncio
import contextvars
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hubsub import Bridge, DeliveryError, Hub, HubThread, WrongContext

pytestmark = pytest.mark.once  # it brings a loop of its own


@pytest.fixture
def thread() -> Iterator[HubThread]:
    before = threads()  # a bridge over SQLite has one, which other tests may have left
    with HubThread(Hub()) as thread:
        yield thread
    assert threads() <= before


def threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith("hubsub ")}


def test_a_plain_and_an_async_function_run_in_the_thread_and_return_to_the_caller(thread: HubThread) -> None:
    async def where(sign: str) -> tuple[str, str]:
        await asyncio.sleep(0)
        return threading.current_thread().name, sign

    assert thread.call(where, sign="x") == ("hubsub hub", "x")
    assert thread.call(threading.current_thread).name == "hubsub hub"


def test_what_a_function_raises_is_raised_to_the_caller(thread: HubThread) -> None:
    async def fail() -> None:
        raise LookupError("no tea")

    with pytest.raises(LookupError, match="no tea"):
        thread.call(fail)


def test_a_call_sees_the_context_of_its_caller(thread: HubThread) -> None:
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request")
    request.set("7")
    assert thread.call(request.get) == "7"


def test_async_listeners_run_and_a_confirmed_publish_waits_for_them(thread: HubThread) -> None:
    done = []

    async def pack(key: object, item: str) -> None:
        await asyncio.sleep(0)
        done.append(item)

    thread.call(thread.hub.add_listener, ("order", "*"), pack)
    assert thread.call(thread.hub.publish_confirmed, ("order", "new"), "tea") == 1
    assert done == ["tea"]


def test_messages_are_read_as_they_come_until_the_hub_is_closed() -> None:
    thread = HubThread(Hub())
    messages = thread.read("a")
    for number in range(3):
        thread.hub.publish_threadsafe("a", number)
    assert [next(messages) for _ in range(2)] == [(("a",), 0), (("a",), 1)]
    thread.close()
    assert [message for _, message in messages] == []


def test_a_reader_that_waits_when_the_hub_is_closed_ends() -> None:
    thread = HubThread(Hub())
    messages = thread.read("a")
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.extend(messages))
    reader.start()
    thread.call(thread.hub.publish, "a", 1)
    thread.close()
    reader.join(10)
    assert not reader.is_alive()
    assert got in ([], [(("a",), 1)])


def test_asking_for_the_next_message_and_closing_finish_one_and_an_exception_fails_it(thread: HubThread) -> None:
    def fail() -> None:
        with thread.read("a") as messages:
            publishing.append(threading.Thread(target=publish))
            publishing[0].start()
            assert next(messages)[1] == 1
            raise LookupError("no tea")

    def publish() -> None:
        try:
            finished.append(thread.call(thread.hub.publish_confirmed, "a", 1))
        except DeliveryError as error:
            [undelivered] = error.exceptions
            finished.append(type(undelivered.__cause__))

    finished: list[Any] = []
    publishing: list[threading.Thread] = []
    with pytest.raises(LookupError):
        fail()
    publishing.pop().join()
    with thread.read("a") as messages:
        for _ in range(2):
            publishing.append(threading.Thread(target=publish))
            publishing[-1].start()
            assert next(messages)[1] == 1
    for each in publishing:
        each.join()
    assert finished == [LookupError, 1, 1]


def test_a_reader_that_is_dropped_leaves_no_subscription(thread: HubThread) -> None:
    read = thread.read("a")
    unread = thread.read("b")
    thread.hub.publish_threadsafe("a", 1)
    assert next(read) == (("a",), 1)
    assert len(thread.call(thread.hub.patterns)) == 2
    del read, unread
    assert not thread.call(thread.hub.patterns)


def test_parts_are_entered_after_the_hub_and_left_before_it() -> None:
    hub = Hub()
    seen = []

    @asynccontextmanager
    async def part(name: str) -> AsyncIterator[None]:
        seen.append(f"{name} in {hub.is_open}")
        yield
        seen.append(f"{name} out {hub.is_open}")

    with HubThread(hub, part("a"), part("b")):
        pass
    assert seen == ["a in True", "b in True", "b out True", "a out True"]


def test_what_a_part_raises_is_raised_by_the_start_and_the_next_start_works() -> None:
    fails = [OSError("no such broker")]

    class Part:
        async def __aenter__(self) -> None:
            if fails:
                raise fails.pop()

        async def __aexit__(self, *_: object) -> None: ...

    thread = HubThread(Hub(), Part())
    with pytest.raises(OSError, match="no such broker"):
        thread.start()
    with thread:
        assert thread.call(lambda: thread.hub.is_open)


def test_it_starts_again_after_a_close_with_its_listeners() -> None:
    hub = Hub()
    seen = []
    hub.add_listener("a", lambda key, message: seen.append(message))
    thread = HubThread(hub)
    for number in range(2):
        assert thread.call(hub.publish, "a", number) == 1
        thread.close()
        thread.close()
    assert seen == [0, 1]


def test_many_threads_that_call_at_once_start_it_once() -> None:
    thread = HubThread(Hub())
    seen = set()
    callers = [
        threading.Thread(target=lambda: seen.add(thread.call(threading.current_thread).ident)) for _ in range(20)
    ]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    thread.close()
    assert len(seen) == 1


def test_a_call_in_progress_is_cancelled_by_the_close(thread: HubThread) -> None:
    begun = threading.Event()
    ended: list[type[BaseException]] = []

    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    def caller() -> None:
        try:
            thread.call(hang)
        except BaseException as error:
            ended.append(type(error))

    waiting = threading.Thread(target=caller)
    waiting.start()
    assert begun.wait(10)
    thread.close()
    waiting.join(10)
    assert ended == [CancelledError]


def test_a_call_from_its_own_thread_is_an_error_and_does_not_hang(thread: HubThread) -> None:
    for function in (lambda: thread.call(thread.hub.publish, "a", 1), thread.close, thread.start):
        with pytest.raises(WrongContext, match="would wait for itself"):
            thread.call(function)


def test_the_end_of_the_program_closes_the_hub_and_its_bridges(tmp_path: Path) -> None:
    program = f"""
import asyncio
from hubsub import Bridge, DeliveryError, Hub, HubThread

hub = Hub()
thread = HubThread(hub, Bridge(hub, "sqlite://{tmp_path}/jobs.db", outgoing=["job"]))

@hub.on("job")
async def note(key, number):
    await asyncio.sleep(0.05)
    print("noted", number)

for number in range(2):
    thread.call(hub.publish, "job", number)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "noted 0\nnoted 1\n", "")
    hub = Hub()
    bridge = Bridge(hub, f"sqlite://{tmp_path}/jobs.db", incoming=["job"], name="reader", start="earliest")
    thread = HubThread(hub)
    jobs = thread.read("job")
    thread.call(bridge.start)
    assert [next(jobs)[1] for _ in range(2)] == [0, 1]
    jobs.close()  # or the second job would still be in hand
    thread.close()


def child(thread: HubThread, answers: Any) -> None:
    answers.put(thread.call(thread.hub.publish, "a", 1))
    thread.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_starts_a_thread_of_its_own(thread: HubThread) -> None:
    thread.call(thread.hub.add_listener, "a", lambda key, message: None)
    forked = multiprocessing.get_context("fork")
    answers = forked.Queue()
    process = forked.Process(target=child, args=(thread, answers))
    process.start()
    assert answers.get(timeout=20) == 1
    process.join(20)
    assert process.exitcode == 0
