"""A program of another library and the same one here print the same: what the pages in docs/coming-from show."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_examples import promised

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples" / "migration"
PEERS = sorted(path.name.removesuffix("_there.py") for path in FOLDER.glob("*_there.py"))
# Where what a peer requires agrees with no other one.
ENVIRONMENTS = {"starlette_web": ".venv-starlette-web"}

pytestmark = pytest.mark.once


def printed(python: Path | str, name: str, *options: str) -> list[str]:
    command = [str(python), *options, str(FOLDER / name)]
    # A peer that found our packages would not run with its own.
    environment = os.environ if python == sys.executable else {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("peer", PEERS)
def test_the_program_of_a_peer_prints_what_its_page_says(peer: str) -> None:
    python = ROOT / ENVIRONMENTS.get(peer, ".venv-peers") / "bin" / "python"
    if not python.exists():
        (pytest.fail if os.environ.get("HUBSUB_REQUIRE_ALL") else pytest.skip)(f"no {python}: `make test` sets it up")
    name = f"{peer}_there.py"
    # What a peer warns of is not ours to judge.
    assert printed(python, name, "-W", "ignore") == promised((FOLDER / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("peer", PEERS)
def test_the_same_program_here_prints_the_same(peer: str) -> None:
    output = promised((FOLDER / f"{peer}_there.py").read_text(encoding="utf-8"))
    assert output
    assert promised((FOLDER / f"{peer}_here.py").read_text(encoding="utf-8")) == output
    assert printed(sys.executable, f"{peer}_here.py", "-W", "error") == output


@pytest.mark.parametrize("peer", PEERS)
def test_every_pair_stands_on_a_page(peer: str) -> None:
    text = (ROOT / "docs" / "coming-from" / f"{peer.replace('_', '-')}.md").read_text(encoding="utf-8")
    for side in ("there", "here"):
        assert f"<!-- program: examples/migration/{peer}_{side}.py -->" in text
