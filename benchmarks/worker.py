"""Run a peer in the environment that it needs: says what it can do, then times whatever task it is told."""

import sys

from .throughput import TASKS, local


def main() -> None:
    peer = sys.argv[1]
    print(*[task for task in TASKS if local(peer, task) is not None], flush=True)
    for line in sys.stdin:
        task, messages, *arguments = line.split()
        function = local(peer, task)
        assert function is not None
        print(function(int(messages), *arguments), flush=True)


if __name__ == "__main__":
    main()
