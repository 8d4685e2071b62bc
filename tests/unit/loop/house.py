"""The learning loop without sockets, processes and waiting: real watches, trainer and store; the
series are functions of time, fits run in this process, and the clock is turned by hand."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from sidecar.config import SentinelConfig, WatchConfig
from sidecar.errors import StoreError, Unavailable
from sidecar.learning.schedule import FitQueue, Mode, Trigger
from sidecar.learning.store import VersionStore
from sidecar.learning.training import train
from sidecar.learning.worker import build_model
from sidecar.learning.workers import FitJob, FitResult
from sidecar.publish.paths import ForecastPaths
from sidecar.publish.publisher import InThread
from sidecar.series import LabelSet, RawSeries, Selector
from sidecar.watches.book import StoredVersions
from sidecar.watches.fleet import Fleet
from sidecar.watches.operating import Operator
from sidecar.watches.ports import CycleNote, Ports
from sidecar.watches.trainer import Trainer, TrainingNote
from sidecar.watches.watching import Watch

G = 60_000
T0 = 1_700_000_040_000 // G * G
SCRAPE_MS = 15_000
HOUR = 3_600_000
NOISE = np.random.default_rng(5).normal(size=100_003)
Value = Callable[[np.ndarray], np.ndarray]


class Reader:
    """Answers from functions of time (seconds), one for each value of the label ``instance``."""

    def __init__(self, metric: str, values: Mapping[str, Value]) -> None:
        self.metric = metric
        self.values = dict(values)
        self.down = self.hangs = False

    async def read(self, selector: Selector, start_ms: int, end_ms: int) -> list[RawSeries]:
        if self.down:
            raise Unavailable("connection refused")
        if self.hangs:
            await asyncio.Event().wait()
        t_ms = np.arange(-(-start_ms // SCRAPE_MS) * SCRAPE_MS, end_ms + 1, SCRAPE_MS)
        wanted = {m.value for m in selector.matchers if m.name == "instance"}
        return [
            RawSeries(labels(name, self.metric), t_ms, np.asarray(value(t_ms / 1000)) + 0.0 * t_ms)
            for name, value in self.values.items()
            if not wanted or name in wanted
        ]

    async def read_slices(
        self, selector: Selector, start_ms: int, end_ms: int
    ) -> AsyncIterator[list[RawSeries]]:
        yield await self.read(selector, start_ms, end_ms)


class Pool:
    """Fits at once, in this process; ``held`` keeps fits waiting until it is set again."""

    processes = 1

    def __init__(self) -> None:
        self.jobs: list[FitJob] = []
        self.held = asyncio.Event()
        self.held.set()

    async def submit(self, job: FitJob) -> FitResult:
        self.jobs.append(job)
        await self.held.wait()
        outcome = train(
            build_model(job.spec),
            job.t_ms,
            job.y,
            job.warm,
            horizon_steps=job.horizon_steps,
            validation=job.validation,
            mode=job.mode,
        )
        return FitResult(np.arange(len(job.y)), outcome, {}, 0.1, 1)


class House:
    """Everything between the configuration and the sockets; ``async with`` it.

    Attributes:
        now_ms: what every part takes for the time.
        in_thread: where what is not for the event loop runs; here it runs at once.
        make_pool: what fits are handed to.
    """

    def __init__(
        self, folder: Path, values: Mapping[str, Value], *watches: dict[str, Any], **top: Any
    ) -> None:
        self.in_thread: InThread = at_once
        self.make_pool: Callable[[], Any] = Pool
        self.folder = folder
        self.now_ms = T0 + 20_000
        self.notes: list[TrainingNote] = []
        self.reader = Reader("x", values)
        self.configure(*watches, **top)

    def configure(self, *watches: dict[str, Any], **top: Any) -> None:
        """What the next start (or ``reload``) finds in the file."""
        noon = "0 12 * * *"  # half a day away from ``T0``
        plain = {"metric": "x", "model": "linear", "training_window": "1d", "cron": noon}
        found = [WatchConfig(**{**plain, **one}) for one in (watches or ({},))]
        self.config = SentinelConfig(watches=found, **top)

    async def __aenter__(self) -> "House":
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        self.pool = self.make_pool()
        self.store = VersionStore.open(self.folder)
        self.trainer = Trainer(
            self.pool,
            FitQueue(),
            StoredVersions(self.store, self.clock),
            self.in_thread,
            self.clock,
            self.notes.append,
        )
        ports = Ports(
            reader_for=lambda _: self.reader,
            trainer=self.trainer,
            memory=self.store,
            in_thread=self.in_thread,
            now_ms=self.clock,
            source_now_ms=self.clock,
            lookback_delta_ms=lambda: 300_000,
            kind_of=gauge,
            external_labels=dict,
            written_until_ms=nothing_written,
            note=self._cycled,
        )
        self.stopping = asyncio.Event()
        self.errors: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.fleet = Fleet(self.config, ports, [], ForecastPaths(), self.stopping, self._spawn)
        self.operator = Operator(
            lambda: self.fleet.watches, self.store, self.trainer, self.in_thread, self.clock
        )
        self._training = asyncio.create_task(self.trainer.run(self.stopping))

    async def stop(self) -> None:
        """As a kill would: nothing is saved that had not been."""
        self.stopping.set()
        for task in [*self.tasks, self._training]:
            task.cancel()
        await asyncio.gather(*self.tasks, self._training, return_exceptions=True)
        await self.trainer.stop()
        self.store.close()

    async def restart(self, after_ms: int = 0) -> None:
        await self.stop()
        self.now_ms += after_ms
        await self.start()

    def clock(self) -> int:
        return self.now_ms

    async def turns(self, count: int, *, settle: bool = True) -> None:
        """So many cycles of every watch, each with all fits that were asked for in between."""
        for _ in range(count):
            self.now_ms += G
            for watch in self.fleet.watches:
                await watch.turn()
            if settle:
                await self.settled()

    async def settled(self) -> None:
        """Until no fit waits that may run."""
        for _ in range(1_000):
            await asyncio.sleep(0)
            if not self.trainer.waiting or not self.pool.held.is_set():
                return

    @property
    def watch(self) -> Watch:
        return self.fleet.watches[0]

    def version(self, name: str = "a") -> int:
        """The version that serves."""
        known = self.watch.learned
        return int(known.versions[known.labels.index(labels(name))])

    def active(self, name: str = "a") -> int | None:
        """The version that serves according to the store."""
        records = self.store.versions(self.watch.watch_id, labels(name))
        return next((one.version for one in records if one.status == "active"), None)

    def ahead(self, name: str = "a") -> np.ndarray:
        """The newest forecast path."""
        latest = self.watch.latest
        assert latest is not None
        path: np.ndarray = latest.forecast.mean[latest.labels.index(labels(name))]
        return path

    def audited(self, name: str = "a") -> list[tuple[str, str]]:
        """Who did what to a series, oldest first."""
        found = self.store.audit(self.watch.watch_id, labels(name))
        return [(entry.who, entry.what) for _, entry in reversed(found)]

    def _cycled(self, note: CycleNote) -> None:
        if note.error:
            self.errors.append(note.error)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self.tasks.append(task)
        return task


def labels(name: str = "a", metric: str = "x") -> LabelSet:
    return LabelSet.of({"__name__": metric, "instance": name})


async def at_once(function: Callable[..., Any], /, *arguments: Any) -> Any:
    return function(*arguments)


async def gauge(_: str) -> str | None:
    return "gauge"


async def nothing_written(_: Any) -> int | None:
    return None


def noisy(seconds: np.ndarray) -> np.ndarray:
    return np.asarray(50.0 + NOISE[(seconds // 60).astype(np.int64) % NOISE.size])


def rising(seconds: np.ndarray) -> np.ndarray:
    return np.asarray(5.0 + 0.01 * (seconds - T0 / 1000))


def ask(house: House, trigger: Trigger, mode: Mode, name: str = "a") -> None:
    key = labels(name).key
    house.trainer.ask(house.watch.watch_id, [key], trigger, mode)


async def fit(house: House, trigger: Trigger = Trigger.CRON, mode: Mode = Mode.FULL) -> None:
    ask(house, trigger, mode)
    await asyncio.sleep(0)
    await house.settled()


def records(house: House, name: str = "a") -> dict[int, tuple[str, str, str]]:
    found = house.store.versions(house.watch.watch_id, labels(name))
    return {one.version: (one.cause, one.policy, one.status) for one in found}


def unreadable(*_: object) -> object:
    raise StoreError("disk I/O error")
