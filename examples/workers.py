"""Workers on one file: jobs are stored, each is done by one of several processes, and none is lost with a worker."""

import asyncio
import os
import signal
import sys
import tempfile

import hubsub

JOB = hubsub.Key("job", "+")
DONE = hubsub.Key("done", "+")


async def work(folder: str) -> None:
    """What a worker process runs: the group shares the jobs, each goes to one of its members."""
    url, accident = f"sqlite://{folder}/jobs.db?lease=2", "accident"
    async with hubsub.Hub() as hub, hubsub.Bridge(hub, url, incoming=JOB, outgoing=DONE, group="workers"):

        @hub.on(JOB)
        async def pack(key: hubsub.Key, number: int) -> None:
            if number == 3 and accident in os.listdir(folder):
                os.remove(f"{folder}/{accident}")
                os.kill(os.getpid(), signal.SIGKILL)  # in the middle of a job: the other worker gets it
            # The job counts as done when this returns; by then the result is stored.
            await hub.publish_confirmed(("done", key[1]), number)

        await asyncio.Event().wait()


async def main(folder: str) -> None:
    url = f"sqlite://{folder}/jobs.db"
    async with (
        hubsub.Hub() as hub,
        hubsub.Bridge(hub, url, outgoing=JOB),
        hubsub.Bridge(hub, url, incoming=DONE, name="results"),
    ):
        done: set[int] = set()
        all_done = asyncio.Event()

        @hub.on(DONE)
        def note(key: hubsub.Key, number: int) -> None:
            done.add(number)
            if len(done) == 6:
                all_done.set()

        await hub.bridges[1].ready()
        for number in range(6):
            # Stored in the file, though there is no worker yet.
            await hub.publish_confirmed(("job", "tea"), number)
        print("stored 6 jobs")

        workers = [await asyncio.create_subprocess_exec(sys.executable, __file__, folder) for _ in range(2)]
        await all_done.wait()
        print("done", sorted(done))

        statuses = []
        for worker in workers:
            if worker.returncode is None:
                worker.terminate()
            statuses.append(await worker.wait())
        print("killed in the middle of a job:", statuses.count(-signal.SIGKILL))


if len(sys.argv) > 1:
    asyncio.run(work(sys.argv[1]))
else:
    with tempfile.TemporaryDirectory() as temporary:
        with open(f"{temporary}/accident", "x"):
            pass
        asyncio.run(main(temporary))

# Output:
# stored 6 jobs
# done [0, 1, 2, 3, 4, 5]
# killed in the middle of a job: 1
