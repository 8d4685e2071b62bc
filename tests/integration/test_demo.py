"""The demo's processes: it starts what it says, and stops that and nothing else."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.demo_stack import view
from deploy.demo_stack.generator import Generator
from deploy.demo_stack.processes import Child, ChildDied, choose_port, stop_all
from tests.prometheus import PrometheusBinary, RealPrometheus
from tests.sidecar import clean_environ

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True);"
    "time.sleep(600)",
]
WITH_A_CHILD = [
    sys.executable,
    "-c",
    "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c',"
    " 'import time; time.sleep(600)']); print(p.pid, flush=True); p.wait()",
]


def lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def until_it_says(log: Path, within_s: float = 20.0) -> str:
    deadline = time.monotonic() + within_s
    while not (text := log.read_text()).endswith("\n"):
        assert time.monotonic() < deadline, "it said nothing"
        time.sleep(0.02)
    return text


def test_stopping_ends_the_process_and_leaves_a_bystander_alone(tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP) as bystander:
        child = Child("sleeper", SLEEP, tmp_path / "log")
        assert child.stop() == -signal.SIGTERM
        assert bystander.poll() is None
        bystander.kill()


def test_what_ignores_sigterm_is_killed_after_its_time(tmp_path: Path) -> None:
    child = Child("stubborn", STUBBORN, tmp_path / "log")
    until_it_says(tmp_path / "log")
    assert child.stop(within_s=0.3) == -signal.SIGKILL


def test_the_children_of_a_child_are_stopped_too(tmp_path: Path) -> None:
    child = Child("parent", WITH_A_CHILD, tmp_path / "log")
    grandchild = int(until_it_says(tmp_path / "log"))
    assert lives(grandchild)
    child.stop()
    deadline = time.monotonic() + 5
    while lives(grandchild):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_that_ends_by_itself_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = Child("short", [sys.executable, "-c", "print('out of luck')"], tmp_path / "log")
    until_it_says(tmp_path / "log")
    deadline = time.monotonic() + 20
    with pytest.raises(ChildDied, match=r"(?s)short ended.*out of luck"):  # noqa: PT012
        while time.monotonic() < deadline:
            child.check()
            time.sleep(0.02)
    stop_all([child])


def test_a_port_in_use_is_left_to_its_owner() -> None:
    with socket.socket() as owner:
        owner.bind(("127.0.0.1", 0))
        owner.listen()
        taken = owner.getsockname()[1]
        assert choose_port(taken) != taken
    assert choose_port(taken) == taken


@pytest.fixture
def generator(tmp_path: Path) -> Iterator[str]:
    port = choose_port(0)
    command = [sys.executable, "-m", "deploy.demo_stack.generator"]
    child = Child("generator", [*command, f"--port={port}", "--epoch=0"], tmp_path / "log")
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 20
    while True:
        try:
            ask(f"{url}/metrics")
            break
        except OSError:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)
    yield url
    child.stop()


def ask(url: str, method: str = "GET") -> str:
    request = urllib.request.Request(url, method=method)
    with urllib.request.urlopen(request, timeout=5) as answer:
        return str(answer.read().decode())


def users(url: str) -> float:
    [line] = [one for one in ask(f"{url}/metrics").splitlines() if one.startswith("demo_active")]
    return float(line.split()[1])


def test_drift_is_switched_on_and_off_over_http(generator: str) -> None:
    usual = users(generator)
    assert "3 times" in ask(f"{generator}/drift?factor=3", "POST")
    assert users(generator) > 2 * usual
    ask(f"{generator}/drift", "DELETE")
    assert users(generator) < 1.5 * usual


@pytest.mark.parametrize("factor", ["nonsense", "nan", "-1", "1e9"])
def test_a_senseless_drift_is_refused(generator: str, factor: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(f"{generator}/drift?factor={factor}", "POST")
    with caught.value as answer:
        assert answer.status == 400


def test_the_generator_binds_loopback_only() -> None:
    with Generator(0, 0.0) as server:
        assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    with (tmp_path / "out").open("wb") as out:
        demo = subprocess.Popen(
            [sys.executable, "-u", "-m", "deploy.demo_stack"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=clean_environ(TMPDIR=str(tmp_path), PYTHONUNBUFFERED="1"),
            start_new_session=True,
        )
    deadline = time.monotonic() + 60
    while "Prometheus" not in (tmp_path / "out").read_text():
        assert demo.poll() is None, (tmp_path / "out").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started = [int(pid) for pid in children_of(demo.pid)]
    os.kill(demo.pid, number)
    assert demo.wait(30) == 0, (tmp_path / "out").read_text()
    assert len(started) >= 2
    assert [pid for pid in started if lives(pid)] == []
    assert list(tmp_path.glob("sentinel-demo-*")) == []


def test_asking_the_demo_for_help_installs_and_starts_nothing(tmp_path: Path) -> None:
    for name in ("demo", "setup.sh"):
        shutil.copy(ROOT / "deploy" / name, tmp_path / name)
    done = subprocess.run(
        ["bash", str(tmp_path / "demo"), "--help"], capture_output=True, text=True, check=True
    )
    assert "--once" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo", "setup.sh"]


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


async def test_prometheus_understands_every_expression_that_the_demo_links_to(
    prometheus_binary: PrometheusBinary,
) -> None:
    async with RealPrometheus(prometheus_binary) as prometheus:
        links = view.addresses(prometheus.url, "http://127.0.0.1:1", "http://127.0.0.1:2")
        fields = [urllib.parse.parse_qs(urllib.parse.urlsplit(url).query) for _, url in links]
        exprs = [one["g0.expr"][0] for one in fields if "g0.expr" in one]
        for expr in exprs:
            await prometheus.query(expr)
    assert len(exprs) == 4
