"""Run a peer in the environment that it needs: says what it can do, then times whatever task it is told."""

import sys

from .throughput import TASKS, local


def main() -> None:
    peer = sys.argv[1]
    functions = {task: function for task in TASKS if (function := local(peer, task)) is not None}
    print(*functions, flush=True)
    for line in sys.stdin:
        task, messages = line.split()
        print(functions[task](int(messages)), flush=True)


if __name__ == "__main__":
    main()
