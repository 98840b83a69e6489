"""Run the core tests on every event loop, and on every supported Python that this machine has.

All but asyncio on the Python of `.venv`: that is what `make test` runs. Arguments go to pytest. Tests marked `once` are
left out.
"""

import os
import subprocess
import sys
import time

import setup_env

OPTIONS = ["-q", "-n", "4", "--dist", "loadgroup", "-m", "not once and not long"]


def plan():
    """Yield (folder of the environment, interpreter, event loop) for each run."""
    here = setup_env.choose_python()
    for loop in ("debug", "uvloop"):
        yield ".venv", here, loop
    for python in setup_env.find_pythons():
        if python.minor == here.minor:
            continue
        if not python.ensurepip:
            print(f"Left out, because it lacks ensurepip: {python}", flush=True)
            continue
        yield f".venv-{python.minor}", python, "asyncio"


def main():
    results = []
    for folder, python, loop in plan():
        name = f"Python {python.minor}, {loop}"
        print(f"\n-- {name}", flush=True)
        venv = setup_env.ROOT / folder
        setup_env.ensure(venv, python, ["test"])
        began = time.monotonic()
        status = subprocess.call(
            [venv / "bin" / "python", "-m", "pytest", *OPTIONS, *sys.argv[1:]],
            cwd=setup_env.ROOT,
            env=dict(os.environ, HUBSUB_TEST_LOOP=loop),
        )
        results.append((name, status, time.monotonic() - began))

    print("\n-- Matrix")
    for name, status, seconds in results:
        print(f"{name:24} {'passed' if status == 0 else 'FAILED'} in {seconds:.0f} s")
    sys.exit(any(status for _, status, _ in results))


if __name__ == "__main__":
    main()
