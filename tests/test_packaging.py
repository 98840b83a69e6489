"""What is built is what is promised: one pure wheel without requirements, whose README example runs as it stands."""

import email
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import hubsub

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [
    pytest.mark.once,
    # Building takes seconds, more beside other tests.
    pytest.mark.timeout(300),
    # One worker, so that it is built once.
    pytest.mark.xdist_group("packaging"),
]


def run(*command: object, cwd: Path) -> str:
    """Return what the command prints; fail with all it had to say if it fails."""
    # Bytes decoded here: what is printed may not depend on the locale of the machine.
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True)
    output, complaint = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 0, f"{command} exited with {done.returncode}:\n{output}\n{complaint}"
    return output


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel and source distribution, the wheel built out of the source distribution."""
    folder = tmp_path_factory.mktemp("packaging")
    # A copy: building writes into the tree, and the copy holds nothing that an earlier build left behind.
    left_behind = shutil.ignore_patterns(".*", "build", "dist", "site", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "tree", ignore=left_behind)
    # Without isolation: setuptools is here already, and no network is needed.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", cwd=folder / "tree")
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_wheel_holds_the_package_whole_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"hubsub-{hubsub.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hubsub").rglob("*.py")}
    files = {"hubsub/py.typed", "hubsub/cli/demo.html", "hubsub/web/hubsub.js", "hubsub/web/hubsub.d.ts"}
    assert names == modules | files


def test_source_distribution_comes_with_its_tests(built: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = set(archive.getnames())
    for name in ("LICENSE", "README.md", "hubsub/py.typed", "tests/test_packaging.py", "tools/setup_env.py"):
        assert f"hubsub-{hubsub.__version__}/{name}" in names


def test_metadata_says_what_it_is(metadata: Message) -> None:
    assert metadata["Name"] == "hubsub"
    assert metadata["Version"] == hubsub.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    assert metadata.get_payload(), "the README is the long description"


def test_nothing_is_required_and_the_extras_are_there(metadata: Message) -> None:
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert required == []
    extras = set(metadata.get_all("Provides-Extra", []))
    assert {
        "logwood",
        "demo",
        "redis",
        "redis-fast",
        "kafka",
        "postgres",
        "msgpack",
        "prometheus",
        "pydantic",
        "all",
        "test",
        "lint",
        "docs",
        "bench",
    } <= extras


def test_readme_starts_with_an_example_that_runs_on_the_bare_wheel(wheel: Path, tmp_path: Path) -> None:
    readme = ROOT / "README.md"
    assert readme.is_file(), "README.md is missing"
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", readme.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    python = [at for at, (language, _) in enumerate(blocks) if language == "python"]
    assert python, "README.md has no ```python block"
    (tmp_path / "example.py").write_text(blocks[python[0]][1], encoding="utf-8")

    venv.create(tmp_path / "empty", with_pip=False)
    interpreter = tmp_path / "empty" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", interpreter, "--disable-pip-version-check"]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    # -I: neither the checkout nor the environment of the tests may help.
    output = run(interpreter, "-I", "-X", "utf8", "example.py", cwd=tmp_path)
    assert (tmp_path / "empty" / "bin" / "hubsub").is_file(), "the console script is missing"

    # What it prints stands in the block right after it, if that one is marked as text or not at all.
    following = blocks[python[0] + 1 : python[0] + 2]
    for language, expected in following:
        if language in {"", "text", "output"}:
            assert output.strip() == expected.strip()
