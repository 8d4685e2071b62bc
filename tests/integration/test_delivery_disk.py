"""A disk that is full, read-only, without inodes, or fails at the worst moment.

The file systems here are small tmpfs mounts, which takes root; failing system calls are injected by
strace. Without either, these tests skip and say so.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.names import DropReason, Refusal
from sidecar.remote.spool import Spool
from tests.fakes import FakePrometheus, FastTime
from tests.writing import (
    assert_balanced,
    assert_well_behaved,
    block,
    series,
    until,
    until_delivered,
    value_of,
    writing,
)

pytestmark = pytest.mark.integration

MIB = 1024 * 1024


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int, inodes: int = 100) -> Iterator[Path]:
    folder.mkdir()
    options = f"size={size_bytes},nr_inodes={inodes}"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


async def test_a_disk_that_fills_up_drops_the_oldest_and_never_stops_the_writer(
    tmp_path: Path,
) -> None:
    time, labels = FastTime(100), series(400)
    with small_disk(tmp_path / "disk", 5 * MIB) as disk:
        async with FakePrometheus(now_s=time.true_s) as fake:
            async with writing(fake.url, time, spool=disk / "s", age_limit_ms=10**9) as writer:
                await fake.stop()
                stamps = []
                for _ in range(500):
                    stamps.append(time.now_ms())
                    found = await writer.append([block(labels, stamps[-1])])
                    assert found.accepted == 400
                    await time.sleep(0.2)
                full = writer.stats()
                assert full.dropped[DropReason.SPOOL_FULL] > 0
                assert_balanced(full)
                await fake.start()
                await until_delivered(writer, 60)
                stats = writer.stats()
                assert_balanced(stats)
                await writer.append([block(labels, time.now_ms())])
                await until_delivered(writer)
            stored = {at for samples in fake.stored.values() for at in samples}
            assert stats.sent == fake.count() - 400
            assert stamps[-1] in stored, "the newest are kept"
            assert set(stamps[:20]) - stored, "the oldest are given up"
            for one, samples in fake.stored.items():
                assert all(value == value_of(one, at) for at, value in samples.items())
            assert_well_behaved(fake)


async def test_a_disk_that_somebody_else_has_filled_is_survived_and_used_again_when_there_is_room(
    tmp_path: Path,
) -> None:
    time, labels = FastTime(100), series(2000)
    with small_disk(tmp_path / "disk", 4 * MIB) as disk:
        async with FakePrometheus(now_s=time.true_s) as fake:
            async with writing(fake.url, time, spool=disk / "s", age_limit_ms=10**9) as writer:
                await writer.append([block(labels, time.now_ms())])
                await until_delivered(writer)
                filler = disk / "filler"
                with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))
                refused = 0
                await fake.stop()
                for _ in range(200):
                    await time.sleep(0.5)
                    found = await writer.append([block(labels, time.now_ms())])
                    refused += found.refused.get(Refusal.SPOOL_UNUSABLE, 0)
                    assert found.accepted + refused >= 2000
                    assert_balanced(writer.stats())
                await fake.start()
                await until_delivered(writer, 60)
                filler.unlink()
                await time.sleep(1)
                found = await writer.append([block(labels, at := time.now_ms())])
                assert found.accepted == 2000
                await until_delivered(writer)
                assert_balanced(writer.stats())
            assert fake.stored[labels[0]][at] == value_of(labels[0], at)
            assert_well_behaved(fake)


async def test_a_disk_without_inodes_or_room_for_a_file_leaves_the_spool_in_memory(
    tmp_path: Path,
) -> None:
    time, labels = FastTime(), series(50)
    for name, size, inodes in (("no-inodes", MIB, 2), ("no-room", 4096, 100)):
        with small_disk(tmp_path / name, size, inodes) as disk:
            (disk / "taken").write_bytes(bytes(4096))
            async with (
                FakePrometheus(now_s=time.true_s) as fake,
                writing(fake.url, spool=disk / "s") as writer,
            ):
                assert writer.stats().durable is False
                assert (await writer.append([block(labels, time.now_ms())])).accepted == 50
                await until_delivered(writer)


# System calls that fail, or are the last one


def needs_strace() -> str:
    found = shutil.which("strace")
    if found is None:
        pytest.skip("injecting faults into system calls takes strace")
    tried = subprocess.run([found, "-e", "trace=none", "true"], capture_output=True)
    if tried.returncode:
        pytest.skip("this machine does not let strace trace")
    return found


async def run_child(
    url: str, spool: Path, inject: str, seconds: float, *more: str
) -> tuple[set[tuple[int, int]], str]:
    """What a writer's process said was accepted while faults were injected into it."""
    command = [
        needs_strace(),
        "-f",
        "-qq",
        "-o",
        os.devnull,
        "-e",
        "trace=fdatasync,fsync,pwrite64",
    ]
    command += ["-e", f"inject={inject}"] if inject else []
    command += [sys.executable, "-m", "tests.delivery_child", url, str(spool), "--series=20", *more]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    out, err = await process.communicate()
    accepted = set()
    for line in out.decode().splitlines(keepends=True):
        if line.startswith("accepted") and line.endswith("\n"):
            _, number, at = line.split()
            accepted.add((int(number), int(at)))
    return accepted, err.decode()


def assert_all_stored(fake: FakePrometheus, accepted: set[tuple[int, int]]) -> None:
    for number, at in accepted:
        for one in series(20, ("even", "odd")[number]):
            assert fake.stored[one][at] == value_of(one, at)
    for one, samples in fake.stored.items():
        assert all(value == value_of(one, at) for at, value in samples.items())
    assert_well_behaved(fake)


@pytest.mark.parametrize(
    "inject",
    [
        "fdatasync:error=EIO:when=12+7",
        "pwrite64:error=EIO:when=60+151",
        "pwrite64:error=EROFS:when=100..160",  # read-only for a while
    ],
)
async def test_a_disk_that_fails_now_and_then_loses_nothing_that_was_accepted(
    tmp_path: Path, inject: str
) -> None:
    Spool(tmp_path / "s", 2, 2**28).close()  # so that faults hit appends and not the making of it
    async with FakePrometheus() as fake:
        accepted, said = await run_child(fake.url, tmp_path / "s", inject, 6.0)
        drained, _ = await run_child(fake.url, tmp_path / "s", "", 60.0, "--drain")
    assert accepted
    assert drained == set()
    assert "opened anew" in said, said[-2000:]
    assert_all_stored(fake, accepted)


@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
async def test_dying_at_any_system_call_of_an_append_loses_nothing_that_was_accepted(
    tmp_path: Path, call: str
) -> None:
    """SENTINEL_TEST_CALLS=60 dies at each of the first 60 instead of five of them."""
    most = int(os.environ.get("SENTINEL_TEST_CALLS", "0"))
    accepted: set[tuple[int, int]] = set()
    Spool(tmp_path / "s", 2, 2**28).close()
    async with FakePrometheus() as fake:
        for when in range(1, most + 1) if most else (2, 9, 23, 41, 90):
            inject = f"{call}:signal=KILL:when={when}"
            found, _ = await run_child(fake.url, tmp_path / "s", inject, 10.0)
            accepted |= found
        await run_child(fake.url, tmp_path / "s", "", 60.0, "--drain")
        await until(lambda: True)
    assert accepted
    assert_all_stored(fake, accepted)
