"""A process that forks while its hub runs: the hub begins anew in the child, and the parent goes on."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [pytest.mark.once, pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")]

# The parent has, when it forks: a call in progress with messages behind it, consumers and publishers that wait, and
# requests that are open.
PARENT = """
    import asyncio, json, os, sys, threading, time
    from hubsub import *

    hub = Hub(drain=60)
    seen = []
    go = asyncio.Event()


    @hub.on("sync")
    def note(key, message):
        seen.append(message)


    @hub.on("async")
    async def work(key, message):
        if os.getpid() == parent:
            await go.wait()
        seen.append(message)


    @hub.on("concurrent", concurrency=2)
    async def work_at_once(key, message):
        if os.getpid() == parent:
            await go.wait()
        seen.append(message)


    @hub.on("idle")
    async def idle(key, message):
        await asyncio.sleep(0)
        seen.append(message)


    @hub.responds("question")
    async def answer(key, message):
        if os.getpid() == parent:
            await go.wait()
        return message * 2


    hub.retain("kept")
    module_level = hub.subscribe("subscribed", maxsize=2)
    subscriber = Subscriber(hub, "s")
    parent = os.getpid()


    async def prepare():
        await hub.start()
        hub.publish("idle", "first")
        hub.publish("kept", "kept")
        for number in range(4):
            hub.publish("async", number)
            hub.publish("concurrent", number)
        consuming = asyncio.create_task(hub.subscribe("consumed").consume())
        hub.publish("subscribed", "of the parent")
        hub.publish("subscribed", "of the parent, too")
        waiting = asyncio.create_task(hub.publish_wait("subscribed", "waits"))
        asking = asyncio.ensure_future(hub.request("question", 21, timeout=60))
        coming = asyncio.ensure_future(hub.next("coming", timeout=60))
        confirming = asyncio.create_task(hub.publish_confirmed("async", 4, timeout=60))
        await asyncio.sleep(0.01)
        seen.clear()
        return consuming, waiting, asking, coming, confirming


    async def go_on(consuming, waiting, asking, coming, confirming):
        # Nothing of that was hurt.
        go.set()
        hub.publish("consumed", 1)
        hub.publish("coming", 2)
        first = [(await module_level.consume()).message, (await module_level.consume()).message]
        await waiting
        results = [(await consuming).message, await asking, (await coming).message, await confirming]
        await hub.close()
        print(json.dumps(["parent", sorted(map(str, seen)), first, results]), flush=True)


    def child():
        CHILD


    def fork():
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                child()
                sys.stdout.flush()
                status = 0
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status)


    async def main():
        tasks = await prepare()
        status = FORK
        await go_on(*tasks)
        sys.exit(status)


    asyncio.run(main())
"""


def run(child: str, fork: str = "fork()") -> Any:
    """Run the parent, and in the child some lines that print JSON; return what that is."""
    of_child, of_parent = execute(program_of(child).replace("FORK", fork))
    everything = sorted([str(number) for number in range(4)] * 2 + ["4"])
    assert of_parent == ["parent", everything, ["of the parent", "of the parent, too"], [1, 42, 2, 1]]
    return of_child


def program_of(child: str) -> str:
    return textwrap.dedent(PARENT).replace("    CHILD", textwrap.indent(textwrap.dedent(child).strip(), "    "))


def execute(program: str) -> list[Any]:
    """Run a program, which must not complain; return what it prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


FORK = pytest.mark.parametrize("fork", ["fork()", "await asyncio.to_thread(fork)"], ids=["in the loop", "in a thread"])


@FORK
def test_a_child_publishes_to_sync_listeners(fork: str) -> None:
    lines = """
        hub.publish("sync", 1)
        hub.publish("new key", 1)
        thread = threading.Thread(target=hub.publish, args=("sync", 2))
        thread.start()
        thread.join()
        print(json.dumps([seen, hub.is_open, [repr(each) for each in hub.busy()]]))
    """
    assert run(lines, fork) == [[1, 2], True, []]


@FORK
def test_a_child_has_the_listeners_but_not_the_work_of_its_parent(fork: str) -> None:
    lines = """
        async def again():
            for key in ("async", "concurrent", "idle"):
                hub.publish(key, f"of the child to {key}")
            await hub.close()

        asyncio.run(again())
        print(json.dumps(sorted(seen)))
    """
    assert run(lines, fork) == [f"of the child to {key}" for key in ("async", "concurrent", "idle")]


@FORK
@pytest.mark.parametrize("opening", ["async with hub:", "await hub.start()\n            if True:"])
def test_a_child_runs_its_hub_as_often_as_it_likes(fork: str, opening: str) -> None:
    lines = f"""
        async def again(message):
            {opening}
                hub.publish("async", message)
                hub.publish("idle", message)
                confirmed = await hub.publish_confirmed("concurrent", message)
                answer = await hub.request("question", message)
                waiting = asyncio.ensure_future(hub.next("coming"))
                hub.publish("coming", message)
                seen.append((await waiting).message + confirmed + answer)
            await hub.close()
            return message

        for message in (1, 2):
            asyncio.run(again(message))
        print(json.dumps(sorted(seen)))
    """
    assert run(lines, fork) == [1, 1, 1, 2, 2, 2, 1 + 1 + 2, 2 + 1 + 4]


@FORK
def test_a_child_closes_its_hub(fork: str) -> None:
    lines = """
        began = time.monotonic()
        asyncio.run(asyncio.wait_for(hub.close(), 20))
        try:
            hub.publish("sync", 1)
        except HubClosed:
            print(json.dumps([seen, hub.is_open]))
    """
    assert run(lines, fork) == [[], False]


def test_a_child_reads_what_is_published_there() -> None:
    lines = """
        async def again():
            reading = asyncio.create_task(module_level.get_batch(10))
            await asyncio.sleep(0)
            await hub.publish_wait("subscribed", 1)
            first = [event.message for event in await reading]
            new = hub.subscribe("subscribed")
            hub.publish("subscribed", 2)
            hub.publish("subscribed", 3)
            waiting = asyncio.create_task(hub.publish_wait("subscribed", 4))
            await asyncio.sleep(0)
            assert not waiting.done()
            second = [event.message for event in await module_level.get_batch(10)]
            await waiting
            return first, second, new.pending, hub.last("kept").message

        print(json.dumps(asyncio.run(again())))
    """
    assert run(lines) == [[1], [2, 3], 3, "kept"]


def test_the_figures_of_a_child_add_up() -> None:
    lines = """
        def add_up(each):
            assert each.accepted == each.delivered + each.pending + each.dropped + each.superseded, each

        for each in hub.subscriptions():
            add_up(each)
            assert each.pending == 0
        hub.publish("async", 1)
        assert hub.get_subscriber_queue_sizes("async") == (1,)
        asyncio.run(hub.close())
        for each in hub.subscriptions():
            add_up(each)
        print(json.dumps(seen))
    """
    assert run(lines) == [1]


def test_a_child_of_a_hub_that_was_closing_has_a_closed_one() -> None:
    program = program_of(
        """
        assert not hub.is_open
        asyncio.run(hub.close())
        asyncio.run(hub.start())
        assert hub.publish("sync", 1) == 1
        print(json.dumps([seen, module_level.closed]))
        """
    )
    main = """
        async def main():
            await hub.start()
            hub.publish("async", "slow")
            closing = asyncio.create_task(hub.close())
            await asyncio.sleep(0.01)
            status = fork()
            go.set()
            await closing
            print(json.dumps(seen))
            sys.exit(status)


        asyncio.run(main())
    """
    program = program[: program.index("async def main")] + textwrap.dedent(main)
    assert execute(program) == [[[1], True], ["slow"]]


def test_a_child_of_multiprocessing_works_with_the_hub_of_its_module() -> None:
    program = """
        import asyncio, json, multiprocessing
        from hubsub import Hub

        hub = Hub()
        results = multiprocessing.get_context("fork").SimpleQueue()


        @hub.on("job")
        async def work(key, message):
            results.put(message)


        async def work_here(number):
            async with hub:
                hub.publish("job", number)


        async def main():
            async with hub:
                hub.publish("job", "parent")
                await asyncio.sleep(0.01)
                context = multiprocessing.get_context("fork")
                children = [context.Process(target=lambda n=n: asyncio.run(work_here(n))) for n in range(3)]
                for child in children:
                    child.start()
                for child in children:
                    child.join()
                    assert child.exitcode == 0
                hub.publish("job", "parent again")


        asyncio.run(main())
        print(json.dumps(sorted(str(results.get()) for _ in range(5))))
        assert results.empty()
    """
    assert execute(textwrap.dedent(program)) == [["0", "1", "2", "parent", "parent again"]]
