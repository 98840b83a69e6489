"""A script without `async`: worker threads report to a hub in the background, and the script reads as messages come."""

import time
from concurrent.futures import ThreadPoolExecutor

import hubsub


def convert(thread: hubsub.HubThread, name: str) -> None:
    for percent in (50, 100):
        time.sleep(0.01)
        thread.hub.publish_threadsafe(("progress", name), percent)


def main() -> None:
    hub = hubsub.Hub()
    done: list[str] = []

    with hubsub.HubThread(hub) as thread, thread.read(("progress", "+")) as progress, ThreadPoolExecutor() as pool:
        for name in ("a.mov", "b.mov", "c.mov"):
            pool.submit(convert, thread, name)
        for key, percent in progress:
            if percent == 100:
                done.append(key[1])
            if len(done) == 3:
                break
    print("converted:", sorted(done))


if __name__ == "__main__":
    main()

# Output:
# converted: ['a.mov', 'b.mov', 'c.mov']
