"""Everything that lives while the sidecar runs, built from a configuration and taken down again.

The only place that wires. 1. The web application listens, so that health can be asked for; 2. the
spool delivers what the last run left; 3. the server is asked what it is, with patience, for its
external labels must be known before anything is read; 4. watches begin, each on its own; 5. on a
request to stop everything ends in the reverse order, the spool last and within a deadline.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

from aiohttp import web

from sidecar.config import SentinelConfig, WatchConfig
from sidecar.errors import RemoteError, SidecarError
from sidecar.ingest.checks import DEFAULT_LOOKBACK_DELTA_MS
from sidecar.learning.schedule import FitQueue
from sidecar.learning.store import VersionStore
from sidecar.learning.workers import FitPool
from sidecar.publish.acknowledgements import Acknowledgements
from sidecar.publish.exposition import GaugeRules, Page
from sidecar.publish.outputs import OutputRules
from sidecar.publish.ownership import Claim, Ownership
from sidecar.publish.paths import ForecastPaths
from sidecar.publish.publisher import WatchPublisher
from sidecar.remote.backoff import BackoffSettings, delay_s
from sidecar.remote.http import HttpClient, open_session
from sidecar.remote.probe import ServerFacts, metric_types, probe
from sidecar.remote.reader import RemoteReader
from sidecar.remote.writer import RemoteWriter, WriterSettings
from sidecar.series import LabelSet
from sidecar.serve import query_api, remote_read
from sidecar.serve.app import build_app
from sidecar.serve.metrics import Reading, SelfMetrics
from sidecar.serve.query_api import QueryApi
from sidecar.serve.readings import of_reader, of_writers
from sidecar.serve.remote_read import RemoteReadServer
from sidecar.serve.status import count_reasons, count_states, series_facts
from sidecar.serve.upstream import Upstream
from sidecar.trainer import StoredVersions, Trainer, TrainingNote
from sidecar.watching import CycleNote, Ports, Watch

log = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS: Final = 4
SHUTDOWN_S: Final = 3.0
_ACKNOWLEDGE_EVERY_S: Final = 0.25
_LAG_EVERY_S: Final = 0.1
_LAG_WINDOW_S: Final = 10.0
_ASK_AGAIN: Final = BackoffSettings(base_s=1.0, cap_s=15.0)
_FIT_PROCESSES: Final = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the start has come, for whoever shows it.

    Attributes:
        begun: watches whose series have been read and fitted.
        watches: how many there are.
        series: how many series have a version that serves.
    """

    begun: int
    watches: int
    series: int


class Running:
    """Everything that lives while the sidecar runs, as an async context manager."""

    def __init__(
        self, config: SentinelConfig, on_progress: Callable[[Progress], None] | None
    ) -> None:
        self.config = config
        self.loop = asyncio.get_running_loop()
        self.stopping = asyncio.Event()
        self.watches: list[Watch] = []
        self._on_progress = on_progress
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="work")
        self._facts: ServerFacts | None = None
        self._kinds: dict[str, str | None] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._lag_s = 0.0
        self._trouble = "Prometheus has not answered yet"

    async def __aenter__(self) -> "Running":
        self.loop.set_default_executor(self._executor)
        self._session = open_session()
        try:
            self._store = await self.in_thread(_open_store, self.config)
            self._metrics = SelfMetrics(self._readings)
            self._paths = ForecastPaths()
            self._acknowledgements = Acknowledgements(self._paths)
            self._connect()
            self._site = await self._listen()
            for writer in self._writers:
                await writer.start()
            self._pool = FitPool(processes=_FIT_PROCESSES, timeout_s=self.config.train_timeout_s)
            self._pool.start()
            self._trainer = Trainer(
                self._pool,
                FitQueue(),
                StoredVersions(self._store, _now_ms),
                self.in_thread,
                _now_ms,
                self._note_training,
            )
            self._build_watches()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stopping.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._close()

    async def run(self) -> None:
        """Watch until stopped."""
        self._start(self._watch_lag(), self._acknowledge(), self._trainer.run(self.stopping))
        await self._learn_facts()
        self._start(*(watch.run(self.stopping) for watch in self.watches))
        await self.stopping.wait()

    async def once(self) -> bool:
        """One turn of every watch, its samples delivered; whether every series got a forecast."""
        self._start(self._trainer.run(self.stopping))
        await self._learn_facts()
        await asyncio.gather(*(watch.turn() for watch in self.watches))
        delivered = [await writer.drained(SHUTDOWN_S) for writer in self._writers]
        results = [watch.latest for watch in self.watches]
        return all(delivered) and all(
            result is not None and not any(result.reasons) for result in results
        )

    async def in_thread(self, function: Callable[..., T], /, *arguments: object) -> T:
        return await self.loop.run_in_executor(self._executor, partial(function, *arguments))

    async def rollback(self, metric: str, labels: Mapping[str, str]) -> bool:
        """Put predecessors back into service; False where no series matches or none has one."""
        done = False
        for watch in self.watches:
            known = watch.known
            if known is None or watch.config.output_metric != metric:
                continue
            for one in known.labels:
                if all(one.get(name) == value for name, value in labels.items()):
                    done |= await self._roll_back(watch, one)
        return done

    async def _roll_back(self, watch: Watch, labels: LabelSet) -> bool:
        switch = partial(self._store.rollback, watch.watch_id, labels, at_ms=_now_ms())
        try:
            group = await self.in_thread(switch)
            await watch.put_back(group)
        except SidecarError as error:
            log.warning("rollback of %s: %s", labels, error)
            return False
        log.info("rollback of %s: v%d serves", labels, int(group.versions[0]))
        return True

    # What the web application shows

    def pages(self) -> Iterable[Page]:
        return (watch.publisher.page for watch in self.watches)

    def not_ready(self) -> str:
        if self._facts is None:
            return self._trouble
        now_ms = _now_ms()
        if any(watch.fresh(now_ms) for watch in self.watches):
            return ""
        troubles = [watch.trouble for watch in self.watches if watch.trouble]
        return troubles[0] if troubles else "no model serves yet"

    def status(self) -> Mapping[str, Any]:
        return series_facts(self.watches, self.rejected())

    def rejected(self) -> frozenset[LabelSet]:
        """Output series that a receiver refuses at present."""
        return frozenset(one for writer in self._writers for one in writer.quarantined())

    # Building

    def _connect(self) -> None:
        """Clients for reading, writing and asking; nothing is sent yet."""
        config = self.config
        base, timeout_s = config.prometheus_url.rstrip("/"), config.scrape_timeout_s
        read = config.remote_read.settings(base + "/api/v1/read", timeout_s)
        write = config.remote_write.settings(base + "/api/v1/write", timeout_s)
        self._api = HttpClient(replace(read, url=base), self._session)
        self._upstream = Upstream(replace(read, url=base), self._session)
        self._read_client = HttpClient(read, self._session)
        self._write_client = HttpClient(write, self._session)
        self._reader = RemoteReader(self._read_client, path="")
        folder = self._store.folder / "spool"
        folder.mkdir(parents=True, exist_ok=True)
        self._writers = [
            RemoteWriter(self._write_client, folder / "prometheus.sqlite", WriterSettings(path=""))
        ]

    async def _listen(self) -> web.AppRunner:
        config = self.config
        api = QueryApi(self._upstream, self._paths, now_ms=_now_ms)
        app = build_app(
            self,
            self._metrics,
            exposition_max_series=config.publish.exposition_max_series,
            routes=[*query_api.routes(api), *remote_read.routes(RemoteReadServer(self._paths))],
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, config.emitter_host, config.emitter_port).start()
        except OSError as error:
            await runner.cleanup()
            raise SidecarError(
                f"cannot listen on {config.emitter_host}:{config.emitter_port} ({error.strerror}): "
                "another program has the port; set emitter_port, or end that program"
            ) from error
        return runner

    @property
    def port(self) -> int:
        """The port that is listened on; of interest where 0 was configured."""
        return int(self._site.addresses[0][1])

    def _build_watches(self) -> None:
        ownership = Ownership(
            [
                Claim(watch.selector, watch.output_metric, watch.horizon_ms)
                for watch in self.config.watches
            ]
        )
        ports = Ports(
            reader=self._reader,
            trainer=self._trainer,
            memory=self._store,
            in_thread=self.in_thread,
            now_ms=_now_ms,
            lookback_delta_ms=self._lookback_delta_ms,
            kind_of=self._kind_of,
            written_until_ms=self._written_until_ms,
            note=self._note_cycle,
        )
        for index, config in enumerate(self.config.watches):
            publisher = WatchPublisher(
                config.id,
                self._output_rules(config),
                GaugeRules(
                    config.output_metric, config.horizon, self.config.emit_confidence_bounds
                ),
                config.horizon_steps,
                partial(ownership.of, index),
                self._writers,
                self._paths,
                self.config.publish.exposition_max_series,
            )
            self.watches.append(Watch(config, publisher, ports, self.config.timezone))

    def _output_rules(self, watch: WatchConfig) -> OutputRules:
        published = watch.published
        return OutputRules(
            metric=watch.output_metric,
            horizon=watch.horizon,
            steps=watch.steps,
            bounds=self.config.emit_confidence_bounds,
            expected=published.expected,
            actual=published.actual,
            anomaly_score=published.anomaly_score,
            model_info=published.model_info,
            version_label=published.version_label,
            model=watch.model_name,
        )

    # What the watches ask and tell

    def _lookback_delta_ms(self) -> int:
        known = None if self._facts is None else self._facts.lookback_ms
        return DEFAULT_LOOKBACK_DELTA_MS if known is None else known

    async def _kind_of(self, metric: str) -> str | None:
        if metric not in self._kinds:
            try:
                self._kinds[metric] = (await metric_types(self._api, [metric])).get(metric)
            except RemoteError as error:
                log.info("the type of %s is not known (%s); its values decide", metric, error)
                return None
        return self._kinds[metric]

    async def _written_until_ms(self, labels: Sequence[LabelSet]) -> int | None:
        """The newest instant that every endpoint has accepted some of these series for."""

        def newest(writer: RemoteWriter) -> int | None:
            marks = (writer.high_water_ms(one) for one in labels)
            return max((mark for mark in marks if mark is not None), default=None)

        found = [await self.in_thread(newest, writer) for writer in self._writers]
        known = [mark for mark in found if mark is not None]
        return min(known) if len(known) == len(found) and known else None

    def _note_cycle(self, note: CycleNote) -> None:
        metrics = self._metrics
        metrics.cycles.labels("error" if note.error else "ok").inc()
        if note.instants:
            metrics.cycle_duration.observe(note.seconds)
            metrics.cycle_success.set(_now_ms() / 1000)
            metrics.forecasts.inc(note.forecasts)
            metrics.replayed.inc(note.instants - 1)
        if self._on_progress is not None:
            begun = sum(watch.known is not None for watch in self.watches)
            serving = count_states(self.watches)["serving"]
            self._on_progress(Progress(begun, len(self.watches), serving))

    def _note_training(self, note: TrainingNote) -> None:
        counter = self._metrics.trainings
        for result, count in note.results.items():
            counter.labels(note.model, note.trigger, result).inc(count)
        self._metrics.training_duration.observe(note.seconds)

    # Tasks of its own

    def _start(self, *coroutines: Coroutine[Any, Any, None]) -> None:
        for coroutine in coroutines:
            task = asyncio.create_task(coroutine)
            task.add_done_callback(self._task_ended)
            self._tasks.append(task)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """None of them ends by itself: if one does, say so and stop, so that we are restarted."""
        if task.cancelled() or self.stopping.is_set():
            return
        log.critical("a task ended unexpectedly; stopping", exc_info=task.exception())
        self.stopping.set()

    async def _learn_facts(self) -> None:
        """Ask the server what it is until it answers: what is read depends on it."""
        failures = 0
        while self._facts is None and not self.stopping.is_set():
            try:
                facts = await probe(
                    self._api,
                    read_path="",
                    write_path="",
                    read_client=self._read_client,
                    write_client=self._write_client,
                )
            except RemoteError as error:
                failures += 1
                self._trouble = f"{self.config.prometheus_url} does not answer: {error}"
                if failures == 1:
                    log.warning("%s; waiting for it", self._trouble)
                await _pause(self.stopping, delay_s(failures, _ASK_AGAIN))
                continue
            chosen = self.config.external_labels
            self._reader.external_labels = facts.external_labels if chosen is None else chosen
            self._facts = facts
            log.info(
                "%s is %s %s; external labels %s",
                self.config.prometheus_url,
                facts.product or "a server",
                facts.version or "of unknown version",
                dict(self._reader.external_labels),
            )
            for problem in facts.problems:
                log.warning("%s: %s", self.config.prometheus_url, problem)

    async def _acknowledge(self) -> None:
        """Let the query API know how far the receiver has what was pushed."""
        while True:
            await asyncio.sleep(_ACKNOWLEDGE_EVERY_S)
            self._acknowledgements.look(
                [writer.stats() for writer in self._writers],
                [
                    (watch.watch_id, watch.known.origin_ms)
                    for watch in self.watches
                    if watch.known is not None and watch.latest is not None
                ],
            )

    async def _watch_lag(self) -> None:
        """How late timers fire: what a blocked event loop looks like from inside."""
        while True:
            worst, end = 0.0, self.loop.time() + _LAG_WINDOW_S
            while self.loop.time() < end:
                due = self.loop.time() + _LAG_EVERY_S
                await asyncio.sleep(_LAG_EVERY_S)
                worst = max(worst, self.loop.time() - due)
                self._lag_s = max(self._lag_s, worst)
            self._lag_s = worst

    async def _close(self) -> None:
        """Reverse of the building; each step is taken even where one before it fails."""
        steps: list[Callable[[], Awaitable[object]]] = []
        if hasattr(self, "_trainer"):
            steps.append(self._trainer.stop)
        if hasattr(self, "_pool"):
            steps.append(self._pool.stop)
        if hasattr(self, "_writers"):
            steps += [partial(writer.stop, SHUTDOWN_S) for writer in self._writers]
        if hasattr(self, "_site"):
            steps.append(self._site.cleanup)
        if hasattr(self, "_reader"):
            steps.append(self._reader.close)
        if hasattr(self, "_store"):
            steps.append(partial(self.in_thread, self._store.close))
        steps.append(self._session.close)
        for step in steps:
            try:
                await step()
            except Exception:
                log.exception("while stopping")
        self._executor.shutdown(wait=False, cancel_futures=True)

    # What is read when /metrics is scraped

    def _readings(self) -> Iterable[Reading]:
        yield Reading("sentinel_ready", {(): float(not self.not_ready())})
        yield Reading("sentinel_watches", {(): len(self.watches)})
        states = count_states(self.watches)
        yield Reading("sentinel_series", {(state,): n for state, n in states.items()})
        reasons = count_reasons(self.watches, self.rejected())
        yield Reading("sentinel_no_prediction", {(why,): n for why, n in reasons.items()})
        yield Reading("sentinel_training_queue_length", {(): self._trainer.waiting})
        yield Reading("sentinel_worker_restarts_total", {(): self._pool.stats.restarts})
        yield Reading("sentinel_event_loop_lag_seconds", {(): self._lag_s})
        gauges = sum(page.series for page in self.pages())
        limit = self.config.publish.exposition_max_series
        yield Reading("sentinel_exposition_series", {(): gauges})
        yield Reading("sentinel_exposition_limited", {(): float(gauges > limit)})
        yield from of_reader(self._reader)
        yield from of_writers(self._writers)


async def _pause(stopping: asyncio.Event, seconds: float) -> None:
    """Sleep, but not beyond a request to stop."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)


def _open_store(config: SentinelConfig) -> VersionStore:
    store = VersionStore.open(config.artifact_store, max_versions=config.max_versions_per_metric)
    for note in store.notes:
        log.warning("%s", note)
    if store.degraded:
        log.warning("versions are kept in memory only: %s", store.degraded)
    return store


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
