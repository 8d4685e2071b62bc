"""Worker processes that fit, and what models may do to them. Real processes, no Prometheus."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from sidecar.learning.training import train
from sidecar.learning.worker import ModelSpec
from sidecar.learning.workers import FitJob, FitPool, FitResult, FitsStopped, WorkerError
from sidecar.models.registry import ModelContext, build
from sidecar.names import Reason
from tests.unit.learning.toys import (
    POISON,
    BrokenModel,
    HarmfulModel,
    MeanModel,
    MeanState,
    instants,
)

pytestmark = pytest.mark.integration

CONTEXT = ModelContext(granularity_ms=60_000, horizon_steps=3, n_lags=4)
T = 60
MIB = 1 << 20
Make = Callable[..., FitPool]


@pytest_asyncio.fixture
async def made() -> AsyncIterator[Make]:
    """Makes pools that are stopped whatever happens."""
    pools: list[FitPool] = []

    def make(processes: int = 1, timeout_s: float = 60.0, **more: Any) -> FitPool:
        pools.append(FitPool(processes, timeout_s, **more))
        return pools[-1]

    yield make
    for pool in pools:
        await pool.stop()


@pytest.fixture
def pool(made: Make) -> FitPool:
    return made(memory_limit_bytes=512 * MIB)


def job(
    n: int, *poisoned: int, harm: str = "", note: Path | None = None, model: type = MeanModel
) -> FitJob:
    y = np.random.default_rng(n).normal(size=(n, T))
    y[list(poisoned), 0] = POISON
    if harm:
        params = {"harm": harm, "note": str(note or "")}
        spec = ModelSpec.of(HarmfulModel, params, CONTEXT)
    else:
        spec = ModelSpec.of(model, {}, CONTEXT)
    return FitJob(spec, MeanState, instants(T), y, horizon_steps=3)


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def children() -> set[int]:
    """Our child processes, zombies included."""
    return {
        int(pid)
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
    }


def threads_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(condition: Callable[[], bool], what: str) -> None:
    for _ in range(400):
        if condition():
            return
        await asyncio.sleep(0.025)
    pytest.fail(f"never happened within 10 s: {what}")


def same_as_here(result: FitResult, of: FitJob) -> bool:
    here = train(MeanModel(), of.t_ms, of.y[result.rows], horizon_steps=3)
    return result.outcome is not None and np.array_equal(
        result.outcome.residuals, here.residuals, equal_nan=True
    )


async def test_a_batch_comes_back_as_if_it_had_been_trained_here(pool: FitPool) -> None:
    asked = job(7)
    result = await pool.submit(asked)
    assert result.rows.tolist() == list(range(7))
    assert same_as_here(result, asked)
    assert result.failures == {}
    assert result.attempts == 1


async def test_a_model_of_the_registry_is_fitted_in_the_worker(pool: FitPool) -> None:
    model = build("exponential_smoothing", {}, CONTEXT)
    y = np.random.default_rng(0).normal(size=(5, 200)).cumsum(axis=1)
    spec = ModelSpec.of("exponential_smoothing", {}, CONTEXT)
    result = await pool.submit(FitJob(spec, model.state_type, instants(200), y, horizon_steps=3))
    assert result.outcome is not None
    here = train(model, instants(200), y, horizon_steps=3)
    np.testing.assert_allclose(result.outcome.mae, here.mae)


async def test_a_finetune_gets_the_state_it_starts_from(pool: FitPool) -> None:
    asked = job(3)
    warm = MeanModel().fit(asked.t_ms[:20], 100 + asked.y[:, :20])
    tuned = FitJob(asked.spec, MeanState, asked.t_ms, asked.y, 3, mode="finetune", warm=warm)
    result = await pool.submit(tuned)
    assert result.outcome is not None
    assert isinstance(result.outcome.state, MeanState)
    assert (result.outcome.state.mean > 40).all()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("raise", "ZeroDivisionError: the poisoned series"),
        ("exit", "ended with status 3"),
        ("segfault", "SIGSEGV"),
        ("allocate", "out of memory"),
        ("wrong_shape", "field 'mean'"),
    ],
)
async def test_only_the_series_that_does_harm_is_quarantined(
    pool: FitPool, harm: str, said: str
) -> None:
    asked = job(5, 3, harm=harm)
    result = await pool.submit(asked)
    assert list(result.failures) == [3]
    assert result.failures[3].reason is Reason.QUARANTINED
    assert said in result.failures[3].message
    assert result.rows.tolist() == [0, 1, 2, 4]
    assert same_as_here(result, asked)
    assert (await pool.submit(job(2))).failures == {}


@pytest.mark.parametrize("harm", ["hang", "spin"])
async def test_a_fit_that_never_ends_is_killed_at_its_deadline(harm: str, made: Make) -> None:
    pool = made(timeout_s=5.0)
    result = await pool.submit(job(2, 1, harm=harm))
    assert list(result.failures) == [1]
    assert "longer than 5 s" in result.failures[1].message
    assert pool.stats.timeouts == 2


async def test_several_culprits_are_all_found(pool: FitPool) -> None:
    result = await pool.submit(job(12, 0, 6, 11, harm="raise"))
    assert sorted(result.failures) == [0, 6, 11]
    assert result.rows.size == 9


async def test_a_model_that_fails_on_everything_is_given_up_before_every_series_was_tried(
    pool: FitPool,
) -> None:
    n = 500
    result = await pool.submit(job(n, *range(n), harm="raise"))
    assert result.outcome is None
    assert sorted(result.failures) == list(range(n))
    reasons = {failure.reason for failure in result.failures.values()}
    assert reasons == {Reason.QUARANTINED, Reason.FIT_FAILED}
    assert result.attempts < 100


async def test_a_series_whose_forecast_is_not_finite_needs_no_second_try(pool: FitPool) -> None:
    result = await pool.submit(job(4, 0, 1, 2, 3, harm="nan"))
    assert result.attempts == 1
    assert result.outcome is not None
    assert result.outcome.reasons == (Reason.NON_FINITE,) * 4


async def test_another_batch_is_not_touched_by_one_that_kills_its_worker(made: Make) -> None:
    pool = made(processes=2)
    bad = asyncio.create_task(pool.submit(job(16, 3, harm="exit")))
    good = [await pool.submit(job(3)) for _ in range(5)]
    assert all(result.attempts == 1 and not result.failures for result in good)
    assert list((await bad).failures) == [3]


async def test_a_model_that_cannot_be_built_fails_the_batch_at_once(pool: FitPool) -> None:
    with pytest.raises(WorkerError, match="do not go together"):
        await pool.submit(job(8, model=BrokenModel))
    assert (await pool.submit(job(2))).failures == {}
    assert pool.stats.restarts == 0


async def test_there_are_never_more_processes_than_asked_for(tmp_path: Path, made: Make) -> None:
    pool = made(processes=2)
    pool.start()
    note = tmp_path / "pids"
    note.touch()
    await asyncio.gather(*(pool.submit(job(2, harm="behave", note=note)) for _ in range(12)))
    assert len({line.split()[0] for line in note.read_text().splitlines()}) <= 2
    assert len(pool.pids) == 2
    await pool.stop()


async def test_workers_start_in_the_background_and_end_when_idle(made: Make) -> None:
    pool = made(processes=2, idle_s=0.2)
    pool.start()
    assert pool.pids == []
    await until(lambda: len(pool.pids) == 2, "two workers")
    pids = pool.pids
    await until(lambda: not pool.pids, "idle workers ended")
    await until(lambda: not any(map(alive, pids)), "their processes are gone")
    assert (await pool.submit(job(2))).failures == {}
    assert pool.stats.restarts == 0
    await pool.stop()


async def test_stopping_ends_a_fit_that_hangs_and_leaves_no_process(made: Make) -> None:
    pool = made(processes=2)
    hanging = asyncio.create_task(pool.submit(job(2, 0, harm="hang")))
    waiting = [asyncio.create_task(pool.submit(job(2, 0, harm="hang"))) for _ in range(3)]
    await until(lambda: len(pool.pids) == 2, "two workers")
    await asyncio.sleep(0.3)
    pids = pool.pids
    await pool.stop()
    assert not any(map(alive, pids))
    assert not children() & set(pids)
    for task in (hanging, *waiting):
        with pytest.raises(FitsStopped):
            await task
    with pytest.raises(FitsStopped):
        await pool.submit(job(1))
    await pool.stop()


async def test_a_batch_that_is_cancelled_frees_its_place(pool: FitPool) -> None:
    task = asyncio.create_task(pool.submit(job(2, 0, harm="hang")))
    await until(lambda: len(pool.pids) == 1, "a worker")
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await pool.submit(job(2))).failures == {}


async def test_ctrl_c_does_not_end_a_worker(pool: FitPool) -> None:
    await pool.submit(job(1))
    (pid,) = pool.pids
    os.kill(pid, signal.SIGINT)
    await pool.submit(job(1))
    assert pool.pids == [pid]


async def test_an_idle_worker_that_was_killed_is_replaced_without_a_word(pool: FitPool) -> None:
    await pool.submit(job(1))
    (pid,) = pool.pids
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not alive(pid), "its end")
    result = await pool.submit(job(3))
    assert result.attempts == 1
    assert pool.pids != [pid]


async def test_a_worker_has_one_thread_and_we_start_none(
    pool: FitPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    y = np.random.default_rng(0).normal(size=(200, 300))
    model = build("linear", {}, CONTEXT)
    spec = ModelSpec.of("linear", {}, CONTEXT)
    started: list[str] = []
    start = threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        # An exporter of another test's world serves each scrape in a thread of its own meanwhile:
        # only what is started from here is the pool's.
        if threading.current_thread() is threading.main_thread():
            started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", noted)
    await pool.submit(FitJob(spec, model.state_type, instants(300), y, horizon_steps=3))
    (pid,) = pool.pids
    assert threads_of(pid) == 1
    assert started == []
    await asyncio.to_thread(int)
    assert len(started) == 1, "a thread of ours would have been seen"


async def test_descriptors_do_not_pile_up(pool: FitPool) -> None:
    await pool.submit(job(2))
    before = open_descriptors()
    for _ in range(2):
        await pool.submit(job(2, 1, harm="exit"))
    await until(lambda: open_descriptors() <= before + 1, "descriptors are closed")


async def test_what_a_model_prints_does_not_reach_our_output(
    pool: FitPool, capfd: pytest.CaptureFixture[str]
) -> None:
    await pool.submit(job(2, 0, harm="print"))
    await pool.stop()
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "printed by a model" in printed.err


async def test_no_worker_at_all_is_said_as_such(
    monkeypatch: pytest.MonkeyPatch, made: Make
) -> None:
    pool = made()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(WorkerError, match=r"did not start: .* status 1"):
        await pool.submit(job(1))
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(WorkerError, match="no worker process can be started"):
        await pool.submit(job(1))
    monkeypatch.undo()
    assert (await pool.submit(job(1))).failures == {}
    await pool.stop()


LOOSE = """
    import asyncio, sys
    from tests.integration.test_workers import FitPool, job

    async def main():
        pool = FitPool(processes=1)
        task = asyncio.create_task(pool.submit(job(2, 0, harm="spin")))
        while not pool.pids:
            await asyncio.sleep(0.01)
        print(*pool.pids, flush=True)
        await task

    asyncio.run(main())
"""


async def test_a_worker_in_the_middle_of_a_fit_ends_when_we_are_killed(tmp_path: Path) -> None:
    script = tmp_path / "loose.py"
    script.write_text(textwrap.dedent(LOOSE))
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    pids = [int(pid) for pid in (await process.stdout.readline()).split()]
    await asyncio.sleep(1.5)  # well into the fit
    assert all(map(alive, pids))
    process.kill()
    await process.wait()
    await until(lambda: not any(map(alive, pids)), "the worker ended")


OWN = """
    import asyncio
    import numpy as np
    from sidecar.learning.worker import ModelSpec
    from sidecar.learning.workers import FitJob, FitPool
    from sidecar.models.registry import ModelContext, build
    from tests.unit.learning.toys import OwnModel, instants

    class Mine(OwnModel):
        pass

    async def main():
        context = ModelContext(60_000, 3, 4)
        model = build(Mine, {{}}, context)
        spec = ModelSpec.of(Mine, {{}}, context)
        pool = FitPool(processes=1)
        y = np.full((2, 60), 7.0)
        result = await pool.submit(FitJob(spec, model.state_type, instants(60), y, 3))
        print(result.rows.tolist(), result.failures)
        await pool.stop()

    {guard}asyncio.run(main())
"""


def run_script(path: Path, guard: str) -> subprocess.CompletedProcess[str]:
    path.write_text(textwrap.dedent(OWN.format(guard=guard)))
    return subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_users_model_defined_in_the_script_that_is_run_is_fitted(tmp_path: Path) -> None:
    done = run_script(tmp_path / "mine.py", 'if __name__ == "__main__":\n        ')
    assert done.stdout == "[0, 1] {}\n", done.stderr


def test_a_script_without_a_guard_gets_told_to_write_one(tmp_path: Path) -> None:
    done = run_script(tmp_path / "mine.py", "")
    assert done.returncode != 0
    assert 'put the start under `if __name__ == "__main__":`' in done.stderr
