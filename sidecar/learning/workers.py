"""Supervised worker processes for fits.

Life of a batch:

1. it waits for one of ``processes`` places, first come first served;
2. a worker (started when first needed, kept for the next batch) gets it over a socket pair;
3. the outcome comes back; or the worker raises, ends, runs out of memory, or passes its deadline
   and is killed. Then it is replaced and the batch is halved, down to the single series that cannot
   be fitted: that one is quarantined, the others have their fit;
4. a batch whose model fails everywhere is given up after ``ATTEMPTS`` tries or four deadlines.

Nothing here runs in a thread, and nothing is waited for but sockets; one worker that dies takes no
other batch with it (a ``ProcessPoolExecutor`` would break as a whole).
"""

import asyncio
import logging
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sidecar.errors import SidecarError
from sidecar.learning import training
from sidecar.learning.payload import PREFIX, Message, decode, encode, sizes
from sidecar.learning.processes import how_it_ended, kill, spawn
from sidecar.learning.training import FULL, TrainingOutcome, outcome_from_arrays
from sidecar.learning.worker import ModelSpec, inside_worker
from sidecar.models.contract import State, to_arrays
from sidecar.names import Reason
from sidecar.series import FloatArray, TimeArray

log = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 60.0
IDLE_S: Final = 300.0
ATTEMPTS: Final = 64
LEAST_TIMEOUT_S: Final = 5.0


class WorkerError(SidecarError):
    """Fits cannot run at all: no worker starts, or the model cannot be built."""


class FitsStopped(SidecarError):
    """The pool was stopped before this batch was done."""


@dataclass(frozen=True, eq=False)
class FitJob:
    """One batch to train: the arguments of ``training.train`` and how to build the model.

    Attributes:
        warm: the state to start from, rows as ``y``; only for ``mode`` finetune.
        state_type: the class of the model's states.
    """

    spec: ModelSpec
    state_type: type[State]
    t_ms: TimeArray
    y: FloatArray
    horizon_steps: int
    validation: int = 0
    mode: str = FULL
    warm: State | None = None


@dataclass(frozen=True, slots=True)
class RowFailure:
    """Why a series came back without an outcome."""

    reason: Reason
    message: str


@dataclass(frozen=True, eq=False)
class FitResult:
    """What a batch gave.

    Attributes:
        rows: (K,) int64, the rows of the job that ``outcome`` speaks of, ascending.
        outcome: K series; None where no row came through.
        failures: the other rows: ``quarantined`` where it was the culprit, ``fit_failed`` where it
            was given up with the whole batch.
        seconds: from its first try to the last.
        attempts: how many tries that took.
    """

    rows: NDArray[np.int64]
    outcome: TrainingOutcome | None
    failures: Mapping[int, RowFailure]
    seconds: float
    attempts: int


@dataclass
class PoolStats:
    """Counters since the start."""

    batches: int = 0
    restarts: int = 0
    timeouts: int = 0
    crashes: int = 0
    out_of_memory: int = 0


class FitPool:
    """``processes`` workers that train batches.

    Args:
        timeout_s: how long one try may take; a half gets half of it, at least 5 s.
        memory_limit_bytes: how much a worker may allocate over what it has when idle (Linux); 0 for
            no limit.
        idle_s: a worker without work for so long is ended, to give its memory back.

    Raises:
        WorkerError: made inside a worker, which means that a script starts Sentinel when imported.
    """

    def __init__(
        self,
        processes: int = 2,
        timeout_s: float = 300.0,
        memory_limit_bytes: int = 1 << 30,
        idle_s: float = IDLE_S,
    ) -> None:
        if inside_worker():
            raise WorkerError(
                "a worker process imports the script that defines the model, and the script starts "
                'Sentinel again: put the start under `if __name__ == "__main__":`'
            )
        self.timeout_s = timeout_s
        self.memory_limit_bytes = memory_limit_bytes
        self.idle_s = idle_s
        self.stats = PoolStats()
        self.processes = processes
        self._places = asyncio.Semaphore(processes)
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._dying: set[_Worker] = set()
        self._warming: set[asyncio.Task[None]] = set()
        self._stopped = False

    def start(self) -> None:
        """Begin to start the workers in the background, so that the first batch need not wait."""
        for _ in range(self.processes):
            task = asyncio.get_running_loop().create_task(self._warm_one())
            self._warming.add(task)
            task.add_done_callback(self._warming.discard)

    @property
    def pids(self) -> list[int]:
        """The processes that live now."""
        return [worker.process.pid for worker in self._all]

    async def submit(self, job: FitJob) -> FitResult:
        """Train a batch, whatever its rows do to the workers.

        Raises:
            WorkerError: no worker can be started, or none can build the model.
            FitsStopped: ``stop`` was called.
        """
        if self._stopped:
            raise FitsStopped("the fits have been stopped")
        async with self._places:
            self.stats.batches += 1
            return await _Run(self, job).result()

    async def stop(self) -> None:
        """End every worker at once; batches under way raise ``FitsStopped``. Harmless twice."""
        self._stopped = True
        for task in list(self._warming):
            task.cancel()
        for worker in list(self._all):
            self._discard(worker)
        while self._dying:
            self._reap()
            await asyncio.sleep(0.005)
        self._reap()

    async def try_once(self, message: Message, timeout_s: float) -> Message:
        """One try on one worker.

        Raises:
            _TryFailed: it died or was killed; it is replaced when the next is needed.
        """
        worker = await self._take()
        try:
            async with asyncio.timeout(timeout_s):
                reply = await worker.call(message)
        except TimeoutError:
            self.stats.timeouts += 1
            self._discard(worker)
            raise _TryFailed(f"took longer than {timeout_s:g} s") from None
        except (OSError, EOFError, ValueError) as error:
            self._discard(worker)
            if self._stopped:
                raise FitsStopped("the fits have been stopped") from None
            self.stats.crashes += 1
            raise _TryFailed(await worker.how_it_ended() or str(error)) from None
        except asyncio.CancelledError:
            self._discard(worker)
            raise
        if reply.kind == "memory":
            self.stats.out_of_memory += 1
            self._discard(worker)
        else:
            self._give_back(worker)
        return reply

    async def _take(self) -> "_Worker":
        self._reap()
        while self._idle:
            worker = self._idle.pop()
            worker.forget_idle()
            if worker.process.poll() is None:
                return worker
            self._discard(worker)
        return await self._start_one()

    async def _start_one(self) -> "_Worker":
        if self._stopped:
            raise FitsStopped("the fits have been stopped")
        try:
            worker = _Worker(self.memory_limit_bytes)
        except OSError as error:
            raise WorkerError(f"no worker process can be started for fits: {error}") from error
        self._all.add(worker)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await worker.greeting()
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self._discard(worker)
            if self._stopped:
                raise FitsStopped("the fits have been stopped") from None
            ended = await worker.how_it_ended()
            raise WorkerError(
                f"a worker process for fits did not start: {ended or type(error).__name__}; "
                "what it wrote to stderr says why"
            ) from error
        except asyncio.CancelledError:
            self._discard(worker)
            raise
        return worker

    async def _warm_one(self) -> None:
        async with self._places:
            if len(self._all) >= self.processes:
                return  # a batch came first and started its own
            try:
                self._give_back(await self._start_one())
            except WorkerError as error:
                log.warning("%s", error)
            except FitsStopped:
                pass

    def _give_back(self, worker: "_Worker") -> None:
        if self._stopped:
            self._discard(worker)
            return
        self._idle.append(worker)
        worker.idle_timer = asyncio.get_running_loop().call_later(
            self.idle_s, self._end_idle, worker
        )

    def _end_idle(self, worker: "_Worker") -> None:
        if worker in self._idle:
            self._idle.remove(worker)
            self._discard(worker)
            self.stats.restarts -= 1  # ended on purpose, not replaced

    def _discard(self, worker: "_Worker") -> None:
        if worker in self._all:
            self._all.discard(worker)
            self._dying.add(worker)
            worker.kill()
            self.stats.restarts += not self._stopped

    def _reap(self) -> None:
        self._dying = {worker for worker in self._dying if worker.process.poll() is None}


class _TryFailed(Exception):
    """A worker ended under a batch; the text says how."""


@dataclass
class _Run:
    """One batch on its way through tries and halves."""

    pool: FitPool
    job: FitJob
    attempts: int = 0
    failures: dict[int, RowFailure] = field(default_factory=dict)
    parts: list[tuple[NDArray[np.int64], TrainingOutcome]] = field(default_factory=list)

    async def result(self) -> FitResult:
        begun = time.monotonic()
        give_up = begun + 4 * self.pool.timeout_s
        waiting = [(np.arange(len(self.job.y)), self.pool.timeout_s)]
        while waiting:
            rows, timeout_s = waiting.pop()
            if self.attempts >= ATTEMPTS or time.monotonic() > give_up:
                self._failed(rows, Reason.FIT_FAILED, "given up with its batch: too many failures")
                continue
            self.attempts += 1
            trouble = await self._tried(rows, timeout_s)
            if trouble is None:
                continue
            log.warning("a fit of %d series %s: %s", len(rows), self.job.spec.model, trouble)
            if len(rows) == 1:
                self._failed(rows, Reason.QUARANTINED, trouble)
                continue
            half = len(rows) // 2
            less = max(LEAST_TIMEOUT_S, timeout_s / 2)
            less = min(less, self.pool.timeout_s)
            waiting += [(rows[half:], less), (rows[:half], less)]
        rows, outcome = self._merged()
        return FitResult(rows, outcome, self.failures, time.monotonic() - begun, self.attempts)

    async def _tried(self, rows: NDArray[np.int64], timeout_s: float) -> str | None:
        """Train some rows; what went wrong, None where nothing did."""
        if not len(rows):
            return None
        try:
            reply = await self.pool.try_once(_request(self.job, rows), timeout_s)
        except _TryFailed as failure:
            return str(failure)
        if reply.kind == "unavailable":
            raise WorkerError(str(reply.meta["message"]))
        if reply.kind != "done":
            return str(reply.meta["message"])
        self.parts.append((rows, outcome_from_arrays(self.job.state_type, reply.arrays)))
        return None

    def _failed(self, rows: NDArray[np.int64], reason: Reason, message: str) -> None:
        for row in rows.tolist():
            self.failures[row] = RowFailure(reason, message)

    def _merged(self) -> tuple[NDArray[np.int64], TrainingOutcome | None]:
        if not self.parts:
            return np.empty(0, dtype=np.int64), None
        parts = sorted(self.parts, key=lambda part: int(part[0][0]))
        rows = np.concatenate([rows for rows, _ in parts])
        return rows, training.merge([outcome for _, outcome in parts])


class _Worker:
    """One worker process and our end of its socket pair."""

    def __init__(self, memory_limit_bytes: int) -> None:
        self.process, ours = spawn("sidecar.learning.worker", memory_limit_bytes)
        ours.setblocking(False)
        self._socket = ours
        self._busy = self._killed = False
        self.idle_timer: asyncio.TimerHandle | None = None

    async def call(self, message: Message) -> Message:
        """Send a request and wait for its answer.

        Raises:
            EOFError, OSError: the worker is gone.
            ValueError: what came is not an answer.
        """
        with self._talking():
            loop = asyncio.get_running_loop()
            for buffer in encode(message):
                await loop.sock_sendall(self._socket, buffer)
            return await self._received()

    async def greeting(self) -> Message:
        """What it says once it is ready; errors as for ``call``."""
        with self._talking():
            return await self._received()

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """A socket that is closed while the loop waits for it would never wake the waiter."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
            if self._killed:
                self._socket.close()

    async def _received(self) -> Message:
        prefix = await self._exactly(PREFIX.size)
        header_size, body_size = sizes(prefix)
        header = await self._exactly(header_size)
        return decode(header, await self._exactly(body_size))

    async def _exactly(self, size: int) -> bytearray:
        loop = asyncio.get_running_loop()
        buffer = bytearray(size)
        view, got = memoryview(buffer), 0
        while got < size:
            count = await loop.sock_recv_into(self._socket, view[got:])
            if count == 0:
                raise EOFError("the worker closed its socket")
            got += count
        return buffer

    def kill(self) -> None:
        """End the process and whatever it started; it is reaped later. Whoever waits is woken."""
        self._killed = True
        self.forget_idle()
        kill(self.process)
        if self._busy:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        else:
            self._socket.close()

    def forget_idle(self) -> None:
        if self.idle_timer is not None:
            self.idle_timer.cancel()
            self.idle_timer = None

    async def how_it_ended(self) -> str:
        """Its exit status in words; empty while it has none."""
        for _ in range(100):
            if (status := self.process.poll()) is not None:
                break
            await asyncio.sleep(0.005)
        else:
            return ""
        return f"its worker process {how_it_ended(status)}"


def _request(job: FitJob, rows: NDArray[np.int64]) -> Message:
    whole = len(rows) == len(job.y)
    arrays: dict[str, NDArray[Any]] = {"t_ms": job.t_ms, "y": job.y if whole else job.y[rows]}
    if job.warm is not None:
        arrays |= {f"warm.{name}": array[rows] for name, array in to_arrays(job.warm).items()}
    meta = {
        "spec": asdict(job.spec),
        "horizon_steps": job.horizon_steps,
        "validation": job.validation,
        "mode": job.mode,
    }
    return Message("train", meta, arrays)
