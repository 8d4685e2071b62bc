"""The image's own commands, without a container engine: installed from the wheel, read-only, run by
somebody who may write to one folder only.

``container`` is a root file system of its own, read-only, in a mount namespace: the commands and
paths are those of the Dockerfile to the letter. ``folder`` needs no privilege: the same from a
folder that nobody may write to.
"""

import asyncio
import http.server
import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.exporter import FunctionExporter
from tests.prometheus import Backfill, PrometheusBinary, RealPrometheus, free_port
from tests.test_house import ROOT
from tests.unit.deploy.test_container import WRITABLE, image_environ, instructions

pytestmark = [pytest.mark.integration, pytest.mark.long]

HOME = "/opt/sentinel"
CONFIG = "/etc/sentinel"
USER = 54_321  # none that the system knows
FINAL = dict(instructions())
START = [*json.loads(FINAL["ENTRYPOINT"]), *json.loads(FINAL["CMD"])]
HEALTH = json.loads(FINAL["HEALTHCHECK"].split("CMD ", 1)[1])
# One directory of a root file system each, where it is there.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
WATCHES = """
watches:
  - metric: demo_load
    granularity: 1s
    horizon: 5s
    lookback: 30s
    training_window: 10m
"""


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def wheel() -> Iterator[Path]:
    """Built as the Dockerfile does, from nothing but what it copies."""
    with tempfile.TemporaryDirectory(prefix="sentinel-image-") as folder:
        source = Path(folder) / "src"
        for word, rest in instructions():
            *names, target = rest.split()
            if (
                word == "COPY"
                and not rest.startswith("--from")
                and target != f"{HOME}/healthcheck.py"
            ):
                for name in names:
                    _copy(ROOT / name, source / name)
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*pip, "--wheel-dir", folder, str(source)], capture_output=True, text=True, check=False
        )
        if done.returncode and "hatchling" in done.stderr:
            pytest.skip("the build backend, hatchling, cannot be fetched here")
        assert done.returncode == 0, done.stderr
        [found] = Path(folder).glob("*.whl")
        yield found


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


@dataclass(frozen=True)
class Place:
    """Where the image is installed, and how a command of the image is run in it."""

    home: Path
    config: Path
    store: Path
    prefix: tuple[str, ...]
    exact: bool

    def command(self, words: list[str]) -> list[str]:
        if self.exact:
            return [*self.prefix, *words]
        moved = [w.replace(HOME, str(self.home)).replace(CONFIG, str(self.config)) for w in words]
        return [*self.prefix, *moved]

    def environ(self, port: int, prometheus_url: str) -> dict[str, str]:
        store = WRITABLE if self.exact else str(self.store)
        own = {
            "SENTINEL_EMITTER_HOST": "127.0.0.1",
            "SENTINEL_EMITTER_PORT": str(port),
            "SENTINEL_PROMETHEUS_URL": prometheus_url,
            "SENTINEL_ARTIFACT_STORE": store,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PATH": f"{HOME}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }
        return image_environ() | own


@pytest.fixture(params=["container", "folder"])
def place(request: pytest.FixtureRequest, wheel: Path) -> Iterator[Place]:
    # Not below a folder of pytest's: those only their owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="sentinel-place-"))
    try:
        folder.chmod(0o755)
        for name in ("home", "config", "store", "clean"):
            (folder / name).mkdir()
        if request.param == "container":
            yield _container(folder, wheel)
        else:
            yield _folder(folder, wheel)
    finally:
        run(["chmod", "-R", "u+w", str(folder)])
        shutil.rmtree(folder)


def _container(folder: Path, wheel: Path) -> Place:
    """A root file system with the system's programs, ours, and one folder to write to."""
    if (
        os.getuid() != 0
        or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode
    ):
        pytest.skip("a mount namespace needs root and CAP_SYS_ADMIN; `folder` runs without")
    home, config, store = folder / "home", folder / "config", folder / "store"
    # In a namespace of its own it is installed where the image has it: paths are in its scripts.
    here = ["mount -t tmpfs none /opt", f"mkdir {HOME}", f"mount --bind {home} {HOME}"]
    steps = [*here, *_installed(HOME, sys.executable, wheel)]
    run(["unshare", "-m", "sh", "-ec", "\n".join(steps)])
    shutil.copy(ROOT / "deploy/healthcheck.py", home)
    root = folder / "root"
    root.mkdir()
    python, packages = Path(sys.base_prefix), Path(sysconfig.get_path("purelib"))
    shown = {HOME: home, CONFIG: config, **{path: Path(path) for path in SYSTEM}}
    shown |= {str(python): python, str(packages): packages, "/etc/ssl": Path("/etc/ssl")}
    script = [f"mount -t tmpfs -o mode=755 none {root}"]
    for target, source in shown.items():
        if source.is_symlink():
            script.append(f"ln -s {source.readlink()} {root}{target}")
        elif source.exists():
            script += [f"mkdir -p {root}{target}", f"mount --bind {source} {root}{target}"]
            script.append(f"mount -o remount,bind,ro {root}{target}")
    script += [f"mkdir -p {root}{WRITABLE} {root}/dev {root}/proc {root}/tmp"]
    script += [f"mount --bind {store} {root}{WRITABLE}", f"mount --rbind /proc {root}/proc"]
    script += [f"touch {root}/dev/{name}" for name in ("null", "urandom")]
    script += [f"mount --bind /dev/{name} {root}/dev/{name}" for name in ("null", "urandom")]
    script += [f"mount -o remount,ro {root}", f'cd /; exec chroot --userspec={USER}:0 {root} "$@"']
    store.chmod(0o770)  # as the Dockerfile makes it: of group 0
    prefix = ("unshare", "-m", "sh", "-ec", "\n".join(script), "sh")
    return Place(home, config, store, prefix, exact=True)


def _folder(folder: Path, wheel: Path) -> Place:
    home, config, store = folder / "home", folder / "config", folder / "store"
    python = sys.executable
    become: tuple[str, ...] = ()
    if os.getuid() == 0:
        become = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
        os.chown(store, USER, USER)
        python = _python_for_all()
    run(["sh", "-ec", "\n".join(_installed(str(home), python, wheel))])
    shutil.copy(ROOT / "deploy/healthcheck.py", home)
    run(["chmod", "-R", "a-w", str(home)])
    prefix = ("env", f"--chdir={folder / 'clean'}", *become)
    return Place(home, config, store, prefix, exact=False)


def _installed(home: str, python: str, wheel: Path) -> list[str]:
    """Shell commands: an environment with the wheel, and beside it what it depends on."""
    packages = sysconfig.get_path("purelib")
    site = f"{home}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    pip = f"{sys.executable} -m pip --python {home}/bin/python --disable-pip-version-check"
    return [
        f"{python} -m venv --without-pip {home}",
        f"{pip} install --quiet --no-index --no-deps {wheel}",
        f"echo {packages} > {site}/dependencies.pth",
    ]


def _python_for_all() -> str:
    """An interpreter of this version that other users can start too."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for found in (Path(sys.executable).resolve(), Path("/usr/bin") / version):
        if found.exists() and all(p.stat().st_mode & stat.S_IXOTH for p in (found, *found.parents)):
            return str(found)
    pytest.skip(f"other users can start no {version} here, and as root everything is writable")


@contextmanager
def started(place: Place, environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    log = place.home.parent / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            place.command(START),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environ,
        )
    try:
        yield process
    except BaseException as error:
        error.add_note(log.read_text(errors="replace")[-4000:])
        raise
    finally:
        process.kill()
        process.wait()


def health(place: Place, environ: dict[str, str]) -> int:
    done = subprocess.run(place.command(HEALTH), env=environ, capture_output=True, check=False)
    return done.returncode


def may_write(place: Place, environ: dict[str, str]) -> bool:
    """Whether the installation could be changed from inside."""
    code = f"open('{HOME}/healthcheck.py', 'a').close()"
    command = place.command([HEALTH[0], "-I", "-c", code])
    return subprocess.run(command, env=environ, capture_output=True, check=False).returncode == 0


def tree(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*")}


def history(now_s: int) -> Backfill:
    times = np.arange(now_s - 600, now_s)
    labels = {"__name__": "demo_load", "job": "test", "instance": "here"}
    return Backfill().add(labels, times * 1000, 50 + np.sin(times / 30))


async def test_the_image_reads_learns_and_writes_with_one_writable_folder(
    place: Place, newest_prometheus: PrometheusBinary
) -> None:
    (place.config / "sentinel.yml").write_text(WATCHES)
    with FunctionExporter() as exporter:
        exporter.gauge("demo_load", lambda t: 50 + np.sin(t / 30))
        prometheus = RealPrometheus(newest_prometheus, history=history(int(time.time())))
        target = {"targets": [exporter.address], "labels": {"instance": "here"}}
        prometheus.config["scrape_configs"] = [{"job_name": "test", "static_configs": [target]}]
        async with prometheus:
            environ = place.environ(free_port(), prometheus.url)
            before = tree(place.home)
            assert health(place, environ) == 1
            assert not may_write(place, environ)
            with started(place, environ) as process:
                await _until_healthy(place, environ, process)
                await prometheus.until("demo_load_sentinel_predicted", timeout_s=90)
                assert _owner(process.pid) == USER or os.getuid() != 0
                process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(process.wait, 10) == 0
            assert health(place, environ) == 1
    assert {path.name for path in place.store.iterdir()} >= {"versions.db", "spool"}
    assert tree(place.home) == before
    assert list((place.home.parent / "clean").iterdir()) == []


async def _until_healthy(
    place: Place, environ: dict[str, str], process: subprocess.Popen[bytes]
) -> None:
    deadline = time.monotonic() + 60
    while await asyncio.to_thread(health, place, environ) != 0:
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < deadline, "it does not get healthy"
        await asyncio.sleep(0.2)


def _owner(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def test_a_wrong_configuration_ends_the_container_with_every_problem_on_its_log(
    place: Place,
) -> None:
    (place.config / "sentinel.yml").write_text(
        "watches:\n  - metric: x\n    horizon: soon\n    n: 1\n"
    )
    environ = place.environ(free_port(), "http://127.0.0.1:9")
    done = subprocess.run(
        place.command(START), env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "watches[0].horizon" in done.stderr
    assert "watches[0].n" in done.stderr


# The health check by itself


class _Answers(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (401, 0), (404, 0), (500, 1), (503, 1)])
def test_health_is_any_answer_that_is_no_failure(status: int, expected: int) -> None:
    handler = type("Handler", (_Answers,), {"status": status})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            port = {"SENTINEL_EMITTER_PORT": str(server.server_port)}
            # A proxy that is set for the rest of the world is not asked.
            code = _healthcheck({**port, "http_proxy": "http://127.0.0.1:9"})
        finally:
            server.shutdown()
            thread.join()
    assert code == expected


def _healthcheck(environ: dict[str, str]) -> int:
    command = [sys.executable, "-I", str(ROOT / "deploy/healthcheck.py")]
    return subprocess.run(command, env=environ, capture_output=True, check=False).returncode


def test_health_is_bad_where_nobody_answers() -> None:
    assert _healthcheck({"SENTINEL_EMITTER_PORT": str(free_port())}) == 1


def test_health_asks_no_address_that_is_not_http() -> None:
    assert _healthcheck({"HEALTHCHECK_URL": "file:///etc/passwd"}) == 1
