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
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Final, TypeVar

from aiohttp import web

from sidecar import oneshot
from sidecar.config import SentinelConfig
from sidecar.endpoints import Endpoints
from sidecar.errors import ConfigError, SidecarError
from sidecar.learning.schedule import FitQueue
from sidecar.learning.store import VersionStore
from sidecar.learning.workers import FitPool
from sidecar.publish.acknowledgements import Acknowledgements
from sidecar.publish.exposition import Page
from sidecar.publish.paths import ForecastPaths
from sidecar.remote.audit import Audit
from sidecar.remote.http import open_session
from sidecar.series import LabelSet
from sidecar.serve import admin, query_api, receive, remote_read, status_api
from sidecar.serve.app import build_app, http_log
from sidecar.serve.guard import Connection, Guard, GuardedSite
from sidecar.serve.metrics import Reading, SelfMetrics
from sidecar.serve.query_api import QueryApi
from sidecar.serve.readings import of_audit, of_push, of_readers, of_watches, of_writers
from sidecar.serve.receive import Receiver
from sidecar.serve.remote_read import RemoteReadServer
from sidecar.serve.status import (
    StatusPage,
    Wanted,
    count_states,
    not_begun,
    series_facts,
    status_page,
)
from sidecar.serve.upstream import Upstream
from sidecar.serve.web_config import Doorkeeper, WebConfig, load_web_config
from sidecar.source import Source
from sidecar.watches.book import StoredVersions
from sidecar.watches.fleet import Fleet
from sidecar.watches.operating import Operator
from sidecar.watches.ports import CycleNote, Ports
from sidecar.watches.trainer import Trainer, TrainingNote
from sidecar.watches.watching import Watch

log = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS: Final = 4
_LOOKUP_THREADS: Final = 8
SHUTDOWN_S: Final = 3.0
_AUDIT_EVERY_S: Final = 20.0
_ACKNOWLEDGE_EVERY_S: Final = 0.25
_LAG_EVERY_S: Final = 0.1
_TIDY_EVERY_S: Final = 3600.0
_LAG_WINDOW_S: Final = 10.0
_FIT_PROCESSES: Final = 1
# What a reload can change; the rest needs a restart.
_RELOADABLE: Final = frozenset({"watches", "publish", "emit_confidence_bounds", "timezone"})


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
    """Everything that lives while the sidecar runs, as an async context manager.

    Args:
        load: reads the configuration again; None where it did not come from a file.
    """

    def __init__(
        self,
        config: SentinelConfig,
        on_progress: Callable[[Progress], None] | None,
        load: Callable[[], SentinelConfig] | None,
    ) -> None:
        self.config = config
        self.loop = asyncio.get_running_loop()
        self.stopping = asyncio.Event()
        self._fleet: Fleet | None = None
        self._load = load
        self._on_progress = on_progress
        self._ends_outputs = False  # a run of `once` is followed by the next
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="work")
        # Names are looked up here too: one that hangs takes no thread from the forecasts.
        self._lookups = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="lookup")
        self._tasks: set[asyncio.Task[None]] = set()
        self._errands: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()
        self._lag_s = 0.0
        self._guard = Guard(self.loop.time)

    async def __aenter__(self) -> "Running":
        self.loop.set_default_executor(self._lookups)
        self._session = open_session()
        try:
            self._store = await self.in_thread(_open_store, self.config)
            self._metrics = SelfMetrics(self._readings)
            self._paths = ForecastPaths()
            self._acknowledgements = Acknowledgements(self._paths)
            self._connect()
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
            self._fleet = self._gather_fleet()
            self.operator = Operator(
                lambda: self.watches, self._store, self._trainer, self.in_thread, _now_ms
            )
            self._site = await self._listen()  # every page may be asked for from now on
            await self._endpoints.start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stopping.set()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._fleet is not None:
            await self._fleet.close()
        if self._ends_outputs:
            await asyncio.gather(
                *(watch.leave(for_good=True) for watch in self.watches), return_exceptions=True
            )
        await self._close()

    async def run(self) -> None:
        """Watch until stopped."""
        self._ends_outputs = self.config.withdraw_on_shutdown
        self._start(self._watch_lag(), self._acknowledge(), self._trainer.run(self.stopping))
        self._start(self._guard.run(self._connections), self._endpoints.run(), self._source.run())
        self._start(self._tidy())
        if self._endpoints.first.end.is_source:
            self._start(self._look_back())
        await self._source.learn(self.stopping, self._endpoints.first.client)
        assert self._fleet is not None, "built on entry"
        self._fleet.start()
        await self.stopping.wait()

    async def once(self) -> bool:
        """Every watch brought up to now, its samples delivered; whether nothing went wrong.

        Series without a forecast are named in the log. That one has ended, or has too little
        history as yet, is nothing that went wrong.

        Raises:
            SidecarError: the server does not answer; what the last run left waits for the next.
        """
        self._start(self._trainer.run(self.stopping))
        learning = self._source.learn(self.stopping, self._endpoints.first.client)
        await oneshot.answered(learning, self._source, self.config.scrape_timeout_s)
        went_well = await asyncio.gather(*(watch.once() for watch in self.watches))
        delivered = await self._endpoints.drained(SHUTDOWN_S)
        if not delivered:
            log.warning("not everything is delivered: what is left waits in artifact_store")
        failed = oneshot.failures_told(self.watches, self.rejected())
        return delivered and all(went_well) and not failed

    async def in_thread(self, function: Callable[..., T], /, *arguments: object) -> T:
        return await self.loop.run_in_executor(self._executor, partial(function, *arguments))

    @property
    def watches(self) -> Sequence[Watch]:
        """Those that run now, in file order."""
        return () if self._fleet is None else self._fleet.watches

    async def reload(self) -> str:
        """Read the configuration again and run its watches; what changed.

        Raises:
            ConfigError: it is wrong; everything stays as it is.
            SidecarError: there is no file to read it from.
        """
        if self._load is None:
            raise SidecarError("the configuration did not come from a file: restart with a new one")
        async with self._reloading:  # two at once would leave watches that nobody runs
            return await self._reloaded(await self.in_thread(self._load))

    async def _reloaded(self, config: SentinelConfig) -> str:
        fixed = [
            field.name
            for field in fields(config)
            if field.name not in _RELOADABLE
            and getattr(config, field.name) != getattr(self.config, field.name)
        ]
        assert self._fleet is not None, "built on entry"
        await self.in_thread(self._source.follow, config.watches)
        message = await self._fleet.exchange(
            replace(config, **{name: getattr(self.config, name) for name in fixed})
        )
        if fixed:
            message += f"; after a restart only: {', '.join(fixed)}"
        log.info("reloaded: %s", message)
        return message

    def later(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something once, beside everything else."""
        task = asyncio.create_task(coroutine)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    def _connections(self) -> Iterable[Connection]:
        server = self._site.server
        return () if server is None else server.connections

    # What the web application shows

    def pages(self) -> Iterable[Page]:
        now_ms = _now_ms()  # a turn that hangs on a dead server must not keep old numbers up
        return [watch.publisher.page for watch in self.watches if watch.fresh(now_ms)]

    def not_ready(self) -> str:
        if self._source.facts is None:
            return self._source.trouble
        now_ms = _now_ms()
        if any(watch.fresh(now_ms) for watch in self.watches):
            return ""
        troubles = [f"{one.title}: {one.trouble}" for one in self.watches if one.trouble]
        return "; ".join(troubles) or "no model serves yet"

    def remarks(self) -> Iterable[str]:
        for one in not_begun(self.watches):
            yield f"watch {one['selector']} has not begun: {one['error']}"
        yield from self._endpoints.troubles()

    def status(self) -> Mapping[str, Any]:
        return series_facts(self.watches, self.rejected())

    async def _status_page(self, wanted: Wanted) -> StatusPage:
        page = await self.in_thread(status_page, self.watches, self.rejected(), wanted)
        return replace(page, not_delivered=self._endpoints.troubles())

    def rejected(self) -> frozenset[LabelSet]:
        """Output series that a receiver refuses at present."""
        return self._endpoints.quarantined()

    # Building

    def _connect(self) -> None:
        """Clients for reading, writing and asking; nothing is sent yet."""
        config = self.config
        self._source = Source(config, self._session)
        self._upstream = Upstream(self._source.settings)  # dashboards do not queue with cycles
        self._receiver = Receiver(self._source.buffer, _now_ms, self._source.not_receiving)
        folder = self._store.folder / "spool"
        folder.mkdir(parents=True, exist_ok=True)
        self._endpoints = Endpoints(config.write_ends(), folder)
        self._audit = Audit(self._endpoints.first.writer, self._source.reader, now_ms=_now_ms)

    async def _listen(self) -> web.AppRunner:
        config = self.config
        protection = WebConfig()
        if config.web_config_file:
            protection = await self.in_thread(load_web_config, config.web_config_file)
        self._door = Doorkeeper(protection)
        self._query_api = api = QueryApi(self._upstream, self._paths, now_ms=_now_ms)
        app = build_app(
            self,
            self._metrics,
            exposition_max_series=config.publish.exposition_max_series,
            routes=[
                *(receive.routes(self._receiver) if config.receive_remote_write else ()),
                status_api.route(self._status_page, self.in_thread),
                *admin.routes(lambda: self.operator, self.reload, enabled=config.enable_admin_api),
                *query_api.routes(api),
                *remote_read.routes(RemoteReadServer(self._paths)),
            ],
            middlewares=[self._guard.middleware, self._door.middleware],
        )
        app.on_response_prepare.append(self._door.set_headers)
        runner = web.AppRunner(app, access_log=None, logger=http_log(), shutdown_timeout=1.0)
        await runner.setup()
        try:
            where = (config.emitter_host, config.emitter_port)
            await GuardedSite(runner, self._guard, *where, ssl_context=protection.context).start()
        except OSError as error:
            await runner.cleanup()
            raise SidecarError(
                f"cannot listen on {config.emitter_host}:{config.emitter_port} ({error.strerror}): "
                "another program has the port; set emitter_port, or end that program"
            ) from None
        log.info(
            "listening on %s:%d; %d %s",
            config.emitter_host,
            runner.addresses[0][1],
            len(config.watches),
            "watch" if len(config.watches) == 1 else "watches",
        )
        return runner

    @property
    def port(self) -> int:
        """The port that is listened on; of interest where 0 was configured."""
        return int(self._site.addresses[0][1])

    def _gather_fleet(self) -> Fleet:
        ports = Ports(
            reader_for=self._source.reader_for,
            trainer=self._trainer,
            memory=self._store,
            in_thread=self.in_thread,
            now_ms=_now_ms,
            source_now_ms=self._source.now_ms,
            lookback_delta_ms=self._source.lookback_delta_ms,
            kind_of=self._source.kind_of,
            external_labels=lambda: self._source.reader.external_labels,
            written_until_ms=self._written_until_ms,
            note=self._note_cycle,
        )
        sinks = self._endpoints.writers
        return Fleet(self.config, ports, sinks, self._paths, self.stopping, self._spawn)

    # What the watches ask and tell

    async def _written_until_ms(self, labels: Sequence[LabelSet]) -> int | None:
        """The newest instant that the first endpoint has accepted some of these series for."""

        def newest() -> int | None:
            marks = (self._endpoints.first.writer.high_water_ms(one) for one in labels)
            return max((mark for mark in marks if mark is not None), default=None)

        return await self.in_thread(newest)

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
            self._spawn(coroutine)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        task.add_done_callback(self._task_ended)
        self._tasks.add(task)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """None of them ends by itself: if one does, say so and stop, so that we are restarted."""
        self._tasks.discard(task)
        if task.cancelled() or self.stopping.is_set():
            return
        log.critical("a task ended unexpectedly; stopping", exc_info=task.exception())
        self.stopping.set()

    async def _acknowledge(self) -> None:
        """Let the query API know how far the first receiver has what was pushed."""
        while True:
            await asyncio.sleep(_ACKNOWLEDGE_EVERY_S)
            self._acknowledgements.look(
                [self._endpoints.first.writer.stats()],
                [
                    (watch.watch_id, watch.known.origin_ms)
                    for watch in self.watches
                    if watch.known is not None and watch.latest is not None
                ],
            )

    async def _tidy(self) -> None:
        """Let go of the snapshots of watches that are gone; their versions stay."""
        while True:
            await asyncio.sleep(_TIDY_EVERY_S)
            await self.in_thread(self._store.drop_runtime, [one.watch_id for one in self.watches])

    async def _look_back(self) -> None:
        """Read some of what was acknowledged again: an answer of 2xx is not yet stored."""
        while True:
            await asyncio.sleep(_AUDIT_EVERY_S)
            try:
                await self._audit.run()
            except SidecarError as error:
                log.debug("nothing read back this time: %s", error)

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
            try:
                await self.in_thread(self._door.refresh)
            except (OSError, ConfigError) as error:  # ssl.SSLError is an OSError
                log.warning("the new web_config_file is not used, the old one stays: %s", error)

    async def _close(self) -> None:
        """Reverse of the building; each step is taken even where one before it fails."""
        steps: list[Callable[[], Awaitable[object]]] = []
        if hasattr(self, "_trainer"):
            steps.append(self._trainer.stop)
        if hasattr(self, "_pool"):
            steps.append(self._pool.stop)
        if hasattr(self, "_endpoints"):
            steps.append(partial(self._endpoints.stop, SHUTDOWN_S))
        if hasattr(self, "_site"):
            steps.append(self._site.cleanup)
        if hasattr(self, "_source"):
            steps += [self._source.close, self._upstream.close]
        if hasattr(self, "_store"):
            steps.append(partial(self.in_thread, self._store.close))
        steps.append(self._session.close)
        for step in steps:
            try:
                await step()
            except Exception:
                log.exception("while stopping")
        if hasattr(self, "_query_api"):
            self._query_api.close()
        for executor in (self._executor, self._lookups):
            executor.shutdown(wait=False, cancel_futures=True)

    # What is read when /metrics is scraped

    def _readings(self) -> Iterable[Reading]:
        yield Reading("sentinel_ready", {(): float(not self.not_ready())})
        yield from of_watches(self.watches, self.rejected())
        yield Reading("sentinel_training_queue_length", {(): self._trainer.waiting})
        yield Reading("sentinel_worker_restarts_total", {(): self._pool.stats.restarts})
        yield Reading("sentinel_event_loop_lag_seconds", {(): self._lag_s})
        gauges = sum(page.series for page in self.pages())
        limit = self.config.publish.exposition_max_series
        yield Reading("sentinel_exposition_series", {(): gauges})
        yield Reading("sentinel_exposition_limited", {(): float(gauges > limit)})
        yield from of_readers(self._source.stats())
        yield from of_writers(self._endpoints.by_name())
        yield from of_audit(self._audit.stats)
        yield from of_push(
            self._source.buffer.stats(), self._receiver.answers, self._source.push_stats
        )


def _open_store(config: SentinelConfig) -> VersionStore:
    store = VersionStore.open(config.artifact_store, max_versions=config.max_versions_per_metric)
    for note in store.notes:
        log.warning("%s", note)
    if store.degraded:
        log.warning("versions are kept in memory only: %s", store.degraded)
    return store


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
