"""The learning loop: judging, drift, the version store, the worker processes.

Ten thousand series at a horizon of five steps unless the name says otherwise.
"""

import asyncio
import time
from argparse import Namespace
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING

from tests.bench import Figure, Rounds, cpu_seconds, figures, row, wall_seconds

if TYPE_CHECKING:
    from sidecar.learning.store import VersionStore
    from sidecar.learning.trackers import Tracker

N = 10_000
G = 60_000


def _tracked(n: int, horizon: int, instants: int = 80) -> "Tracker":
    """A tracker whose window is full."""
    import numpy as np

    from sidecar.learning import residuals, trackers
    from sidecar.series import Forecast

    random = np.random.default_rng(0)
    tracker = trackers.start(n, G, horizon)
    mean = np.repeat(random.normal(size=(n, 1)), horizon, axis=1)
    for k in range(1, instants + 1):
        tracker, _ = residuals.judge(tracker, k * G, random.normal(size=n))
        tracker = residuals.record(tracker, Forecast((), k * G, G, mean, mean - 2, mean + 2))
    return tracker


def _judging(horizon: int) -> Rounds:
    import numpy as np

    from sidecar.learning import drift, residuals, scores
    from sidecar.series import Forecast

    random = np.random.default_rng(1)
    tracker = _tracked(N, horizon, max(80, 2 * horizon + 10))
    rows = np.arange(N)
    state = drift.promoted(drift.start(N), rows, np.ones(N), np.zeros(N), np.ones(N))
    actual, mean = random.normal(size=N), np.zeros((N, horizon))
    t_ms = tracker.newest_ms + G

    def one_instant() -> object:
        judged, found = residuals.judge(tracker, t_ms, actual)
        newest = scores.rolling(judged)
        drift.assess(
            state,
            drift.DriftSettings(),
            t_ms,
            found.residual,
            newest.mae,
            newest.level,
            newest.steady,
        )
        return residuals.record(judged, Forecast((), t_ms, G, mean, mean - 2, mean + 2))

    seconds = cpu_seconds(one_instant)
    return Rounds(lambda: 1_000 * seconds())


@row("judge_10000", unit="ms")
def judge_10000(options: Namespace) -> Rounds:
    """One instant: judge every lead, rolling MAE, both drift tests, keep the new forecast."""
    return _judging(5)


@row("judge_10000_h288", unit="ms")
def judge_10000_h288(options: Namespace) -> Rounds:
    return _judging(288)


@figures("tracker_memory")
def tracker_memory(options: Namespace) -> Iterable[Figure]:
    from sidecar.learning import trackers

    for horizon in (5, 288):
        arrays = trackers.to_arrays(_tracked(100, horizon, 2 * horizon + 80))
        size = sum(array.nbytes for array in arrays.values()) / 100
        yield Figure(f"tracker_memory_h{horizon}", size, "bytes/series")


def _store(folder: str, versions: int) -> "VersionStore":
    from tests.unit.learning.stored import batch, labels, opened

    store = opened(Path(folder))
    for k in range(versions):
        store.save(batch(labels(N), float(k), width=40))
    return store


@row("store_write_10000", unit="s")
def store_write_10000(options: Namespace) -> Rounds:
    """One transaction of 10,000 versions of 42 numbers each, where five of each are kept."""
    from tests.unit.learning.stored import batch, labels

    folder = TemporaryDirectory()
    store, series, turn = _store(folder.name, 5), labels(N), count()

    def save() -> object:
        return folder, store.save(batch(series, float(next(turn)), width=40))

    return Rounds(wall_seconds(save))


@row("restart_load_10000", unit="s")
def restart_load_10000(options: Namespace) -> Rounds:
    """Open a store of five versions of each series, check and load the states that serve."""
    from tests.unit.learning.stored import WATCH, opened

    folder = TemporaryDirectory()
    _store(folder.name, 5).close()

    def load() -> object:
        store = opened(Path(folder.name))
        restored = store.load(WATCH)
        assert sum(len(group.labels) for group in restored.groups) == N
        store.close()
        return folder

    return Rounds(wall_seconds(load))


@row("runtime_write_10000", unit="s")
def runtime_write_10000(options: Namespace) -> Rounds:
    """Keep the tracker of 10,000 series over a restart."""
    from sidecar.learning import trackers

    folder = TemporaryDirectory()
    store, tracker = _store(folder.name, 0), _tracked(N, 5)

    def put() -> object:
        store.put_runtime("w", trackers.to_arrays(tracker), {})
        return folder

    return Rounds(wall_seconds(put))


@row("runtime_load_10000", unit="s")
def runtime_load_10000(options: Namespace) -> Rounds:
    from sidecar.learning import trackers

    store = _store(mkdtemp(), 0)
    store.put_runtime("w", trackers.to_arrays(_tracked(N, 5)), {})

    def load() -> object:
        found = store.get_runtime("w")
        assert found is not None
        return trackers.from_arrays(found[0])

    return Rounds(wall_seconds(load))


@figures("workers")
def workers(options: Namespace) -> Iterable[Figure]:
    """A worker's start, what crossing to it costs, and how long the event loop is kept by it."""
    yield from asyncio.run(_workers())


async def _workers() -> list[Figure]:
    import numpy as np

    from sidecar.learning.training import train
    from sidecar.learning.worker import ModelSpec
    from sidecar.learning.workers import FitJob, FitPool
    from sidecar.models.registry import ModelContext
    from tests.unit.learning.toys import MeanModel, MeanState, instants

    context = ModelContext(G, 5, 30)
    spec = ModelSpec.of(MeanModel, {}, context)
    y = np.random.default_rng(0).normal(size=(1_000, 1_440))
    job = FitJob(spec, MeanState, instants(1_440), y, 5)
    pool = FitPool(1)
    began = time.perf_counter()
    await pool.submit(FitJob(spec, MeanState, instants(60), y[:1, :60], 5))
    start = time.perf_counter() - began
    longest, crossing = 0.0, []
    for _ in range(3):
        watch = asyncio.create_task(_longest_step())
        began = time.perf_counter()
        await pool.submit(job)
        took = time.perf_counter() - began
        watch.cancel()
        longest = max(longest, await watch)
        began = time.perf_counter()
        train(MeanModel(), job.t_ms, job.y, horizon_steps=5)
        crossing.append(took - (time.perf_counter() - began))
    await pool.stop()
    return [
        Figure("worker_start", start, "s"),
        Figure("worker_crossing_1000x1440", sorted(crossing)[1], "s"),
        Figure("worker_loop_held", 1_000 * longest, "ms"),
    ]


async def _longest_step() -> float:
    """The most CPU time that this thread spent between two turns of the loop."""
    longest, before = 0.0, time.thread_time()
    try:
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, before = max(longest, now - before), now
    except asyncio.CancelledError:
        return longest
