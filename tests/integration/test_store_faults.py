"""The version store on a disk that fails, and in processes that die. Faults are real where this
machine allows: a small tmpfs needs root, system calls are failed and killed at with strace."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sidecar.errors import StoreError
from sidecar.learning.store import StoreLocked, VersionStore
from tests.unit.learning.stored import T0, WATCH, batch, labels, opened, served

pytestmark = pytest.mark.integration

SERIES = labels(3)
OLD = {one: (1, 1.0 + k / 1000) for k, one in enumerate(SERIES)}
NEW = {one: (2, 2.0 + k / 1000) for k, one in enumerate(SERIES)}

# What is done to a store that holds version 1 of each series and runtime number 1.
SAVE = """
import sys
from pathlib import Path
import numpy as np
from tests.unit.learning.stored import SAVERS
SAVERS[sys.argv[2]](Path(sys.argv[1]))
"""
# The calls by which a store changes what is on disk.
CALLS = "openat,pwrite64,write,fsync,fdatasync,ftruncate,rename,unlink,mmap,mkdir,fcntl,flock"


def base(folder: Path) -> Path:
    store = opened(folder)
    store.save(batch(SERIES, 1.0))
    store.put_runtime("w", {"n": np.array([1])}, {"n": 1})
    store.close()
    return folder


def ran(folder: Path, what: str, *prefix: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-c", SAVE, str(folder), what],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def old_or_new(folder: Path, what: str) -> str:
    """Which of the two is there; both the versions and the runtime must be whole."""
    store = opened(folder)
    assert store.degraded == ""
    found = served(store.load(WATCH))
    runtime = store.get_runtime("w")
    assert runtime is not None
    arrays, meta = runtime
    assert arrays["n"].tolist() == [meta["n"]]
    match what:
        case "save":
            assert found in (OLD, NEW)
            state = "new" if found == NEW else "old"
        case "rollback":
            first = SERIES[0]
            assert found in (NEW, {**NEW, first: OLD[first]})
            state = "new" if found != NEW else "old"
        case _:
            state = "new" if meta["n"] == 2 else "old"
    given = store.save(batch(SERIES, 9.0))
    kept = max(version for version, _ in found.values())
    assert (given > kept).all()
    store.close()
    return state


# Death


@pytest.fixture(scope="module")
def strace() -> str:
    found = shutil.which("strace")
    if found is None:
        pytest.skip("strace is not installed: apt-get install strace")
    probe = subprocess.run([found, "-qq", "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("strace may not trace here (ptrace is forbidden)")
    return found


def calls_of(strace: str, folder: Path, what: str) -> list[tuple[str, int]]:
    """The system calls of one change, each with its number among its kind, after the imports."""
    trace = folder.with_suffix(".trace")
    done = ran(folder, what, strace, "-f", "-qq", "-o", str(trace), "-e", f"trace={CALLS}")
    assert done.returncode == 0, done.stderr
    counts: dict[str, int] = {}
    found = []
    for line in trace.read_text(errors="replace").splitlines():
        name = line.split(maxsplit=1)[1].partition("(")[0]
        counts[name] = counts.get(name, 0) + 1
        if str(folder) in line or name in ("pwrite64", "fsync", "fdatasync", "ftruncate"):
            found.append((name, counts[name]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("what", ["save", "rollback", "runtime"])
def test_a_kill_at_any_system_call_leaves_the_old_or_the_new(
    what: str, tmp_path: Path, strace: str
) -> None:
    origin = base(tmp_path / "origin")
    if what == "rollback":
        store = opened(origin)
        store.save(batch(SERIES, 2.0))
        store.close()
    rehearsal = tmp_path / "rehearsal"
    shutil.copytree(origin, rehearsal)
    points = calls_of(strace, rehearsal, what)
    assert len(points) > 10
    chosen = points if len(points) <= 24 else [points[k] for k in spaced(len(points), 24)]
    seen = set()
    for name, number in chosen:
        folder = tmp_path / f"{name}-{number}"
        shutil.copytree(origin, folder)
        inject = f"inject={name}:signal=SIGKILL:when={number}"
        done = ran(folder, what, strace, "-f", "-qq", "-o", "/dev/null", "-e", inject)
        assert done.returncode != 0, f"was not killed at {name} {number}"
        seen.add(old_or_new(folder, what))
        shutil.rmtree(folder)
    assert "old" in seen


def spaced(length: int, count: int) -> list[int]:
    return sorted({round(k) for k in np.linspace(0, length - 1, count).tolist()})


@pytest.mark.slow
def test_kills_at_random_moments_never_leave_a_mixture(tmp_path: Path) -> None:
    """A process that saves one version after the other is killed again and again."""
    dice = random.Random(1)
    folder, highest = base(tmp_path / "store"), 1
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVE, str(folder), "many"], stdout=subprocess.PIPE, text=True
        )
        with process:
            assert process.stdout is not None
            process.stdout.readline()  # it has begun
            time.sleep(dice.uniform(0.0, 0.4))
            process.kill()
            said = [int(line) for line in process.stdout.read().split()]
        store = opened(folder)
        found = served(store.load(WATCH))
        store.close()
        versions = {version for version, _ in found.values()}
        assert len(found) == len(SERIES)
        assert len(versions) == 1, "a batch was saved in part"
        assert versions.pop() >= max([highest, *said]), "a version that was accepted is gone"
        highest = max([highest, *said])


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    folder = base(tmp_path / "store")
    process = subprocess.Popen(
        [sys.executable, "-c", SAVE, str(folder), "hold"], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(StoreLocked, match=rf"\(process {process.pid}\)"):
            opened(folder)
        process.send_signal(signal.SIGKILL)
    opened(folder).close()


# A disk that fails


def failing(strace: str, folder: Path, what: str, call: str, error: str) -> str:
    """Run a change with every such call on the store's files failing; what it printed."""
    inject = f"inject={call}:error={error}"
    done = ran(folder, what, strace, "-f", "-qq", "-o", "/dev/null", "-e", inject)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_write_that_fails_is_said_and_the_old_version_is_kept(
    tmp_path: Path, strace: str, call: str, error: str
) -> None:
    folder = base(tmp_path / "store")
    said = failing(strace, folder, "try_save", call, error)
    assert said.startswith(("StoreError:", "in memory only:"))
    assert str(folder) in said
    assert old_or_new(folder, "save") == "old"


def test_a_rename_that_fails_keeps_the_runtime_there_was(tmp_path: Path, strace: str) -> None:
    folder = base(tmp_path / "store")
    said = failing(strace, folder, "try_runtime", "rename", "EIO")
    assert said.startswith("StoreError:")
    assert old_or_new(folder, "runtime") == "old"
    assert [path for path in (folder / "runtime").iterdir() if path.suffix == ".new"] == []


def test_after_a_failed_write_the_next_one_that_can_succeeds(tmp_path: Path, strace: str) -> None:
    folder = base(tmp_path / "store")
    inject = "inject=fdatasync:error=EIO:when=1"
    done = ran(folder, "try_twice", strace, "-f", "-qq", "-o", "/dev/null", "-e", inject)
    first, second = done.stdout.splitlines()
    assert first.startswith("StoreError:")
    assert second == "[2, 2, 2]"
    assert old_or_new(folder, "save") == "new"


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB and 32 inodes."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=32", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the space that is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65_536, 4_096, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue
    return filler


def test_a_disk_that_fills_up_keeps_what_is_there_and_takes_more_when_there_is_room(
    tiny: Path,
) -> None:
    folder = base(tiny / "store")
    store = opened(folder)
    assert served(store.load(WATCH)) == OLD
    filler = fill(tiny)
    for _ in range(3):
        with pytest.raises(StoreError, match=r"full|I/O"):
            store.save(batch(SERIES, 2.0))
        with pytest.raises(StoreError, match="No space left"):
            store.put_runtime("w", {"n": np.zeros(10_000)}, {"n": 2})
        assert served(store.load(WATCH)) == OLD
    filler.unlink()
    store.save(batch(SERIES, 2.0))
    store.put_runtime("w", {"n": np.array([2])}, {"n": 2})
    store.close()
    assert old_or_new(folder, "save") == "new"


def test_a_start_on_a_full_disk_serves_what_was_saved(tiny: Path) -> None:
    folder = base(tiny / "store")
    fill(tiny)
    store = opened(folder)
    assert served(store.load(WATCH)) == OLD
    if store.degraded:
        assert "memory only" in store.degraded
        assert store.save(batch(SERIES, 2.0)).tolist() == [2, 2, 2]
    store.close()


def test_a_first_start_on_a_full_disk_works_in_memory(tiny: Path) -> None:
    (tiny / "store").mkdir()
    fill(tiny)
    store = opened(tiny / "store")
    assert "memory only" in store.degraded
    store.save(batch(SERIES, 1.0))
    assert served(store.load(WATCH)) == OLD
    store.close()


def test_a_disk_without_inodes_is_a_full_disk(tiny: Path) -> None:
    try:
        for k in range(100):
            (tiny / f"file-{k}").touch()
    except OSError:
        pass
    store = opened(tiny / "store")
    assert "memory only" in store.degraded
    store.save(batch(SERIES, 1.0))
    store.close()


def test_a_read_only_disk_serves_what_was_saved_and_says_that_nothing_will_be(tiny: Path) -> None:
    folder = base(tiny / "store")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny)], check=True)
    store = opened(folder)
    assert "memory only" in store.degraded
    assert "stored versions are served" in store.degraded
    assert served(store.load(WATCH)) == OLD
    assert store.save(batch(SERIES, 2.0)).tolist() == [2, 2, 2]
    store.close()


def test_a_folder_that_cannot_be_made_is_no_reason_not_to_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = opened(tmp_path / "file" / "store")
    assert "memory only" in store.degraded
    store.save(batch(SERIES, 1.0))
    assert served(store.load(WATCH)) == OLD
    store.close()


def test_a_folder_deleted_under_us_is_made_anew_and_no_number_is_given_again(
    tmp_path: Path,
) -> None:
    folder = base(tmp_path / "store")
    store = opened(folder)
    shutil.rmtree(folder)
    given = store.save(batch(SERIES, 2.0))
    assert (given > 1).all()
    assert "was deleted or replaced" in store.notes[-1]
    store.put_runtime("w", {"n": np.array([2])}, {"n": 2})
    with pytest.raises(StoreLocked):
        opened(folder)
    store.close()
    again = opened(folder)
    assert {value for _, value in served(again.load(WATCH)).values()} == {2.0, 2.001, 2.002}
    assert again.get_runtime("w") is not None
    again.close()


def test_a_clock_in_1970_or_far_ahead_is_only_a_number(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for k, at_ms in enumerate((0, T0, 1, 2**53)):
        store.save(batch(SERIES, float(k), at_ms=at_ms))
    store.rollback(WATCH, SERIES[0], at_ms=0)
    assert served(store.load(WATCH))[SERIES[0]][0] == 3
    store.close()


def test_a_store_can_be_opened_again_and_again(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for k in range(20):
        store = VersionStore.open(tmp_path)
        store.save(batch(SERIES, float(k)))
        store.close()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
