"""One Prometheus, exporters with signals that are functions of time, and three sidecars at once.

The waiting is done once for each Prometheus: the world lives through three minutes (history,
cycles at 1 s, 5 s, 15 s and 1 m, a kill -9) and then answers questions about all that was stored.

    steady    many watches at 1 s, one at 5 s with slow scrapes, one at 15 s
    crashing  one watch at 1 s; killed outright and started again
    default   two watches with nothing but a metric's name

The history's blocks reach up to the start of Prometheus, and nothing older than their end can be
written. So each sidecar is started when the newest instant of its watches lies behind that end, as
it does on any Prometheus that has been running for a while.
"""

import asyncio
import json
import math
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from sidecar.names import EXPECTED, OWN_OUTPUT_REGEX, PREDICTED
from sidecar.series import LabelSet, RawSeries
from tests.exporter import FunctionExporter, ValueAt
from tests.prometheus import Backfill, PrometheusBinary, RealPrometheus
from tests.sidecar import SelfMetrics, Sidecar

MODELS: Final = ("linear", "exponential_smoothing", "arima", "sgd")
NASTY: Final = 'q" b\\ n\n s/ d.. ünï {a="b"} ☃'
FLEET: Final = 16
STEPS: Final = 5
RATE: Final = 10.0
_SECOND: Final = {"granularity": "1s", "horizon": "5s", "lookback": "30s", "training_window": "15m"}
_SHORT_HISTORY_S: Final = 900
_LONG_HISTORY_S: Final = 3 * 3600
_LIVES_S: Final = 150.0
_BEGINS_AFTER_S: Final = 20.0
# An instant is closed 10 s after it (`query_offset`), and up to a quarter of a step more is spread.
_MINUTE_CLOSES_S: Final = 26.0
_COARSE_S: Final = 15
_COARSE_CLOSES_S: Final = 15.0
_CRASH_AFTER_S: Final = 20.0
_DOWN_S: Final = 4.0


@dataclass(frozen=True)
class Signal:
    """A series: its labels without job and instance, and its values over time."""

    labels: dict[str, str]
    value_at: ValueAt
    kind: str = "gauge"


def exact_signals(epoch_s: float) -> list[Signal]:
    """Scraped with their own timestamps, at whole seconds: what is forecast of them is exact."""

    def line(t: float) -> float:
        return 100 + 0.5 * (t - epoch_s)

    def gappy(t: float) -> float | None:
        second = int(t)
        if second % 7 in (3, 4):
            return None
        return math.nan if second % 11 == 5 else 50 + math.sin(t / 20)

    def ship(i: int) -> ValueAt:
        return lambda t: 10 * i + math.sin(t / 30 + i)

    return [
        *(Signal({"__name__": "const", "m": m}, lambda _: 42.0) for m in MODELS),
        *(Signal({"__name__": "line", "m": m}, line) for m in MODELS),
        *(Signal({"__name__": "fleet", "i": f"{i:02d}"}, ship(i)) for i in range(FLEET)),
        *(Signal({"__name__": "pair", "side": s}, math.cos) for s in ("left", "right")),
        Signal({"__name__": "nasty", "path": NASTY}, line),
        Signal({"__name__": "gappy"}, gappy),
        Signal({"__name__": "walk"}, lambda t: 5 + math.sin(t * t) + math.sin(t / 9)),
        Signal({"__name__": "phoenix"}, line),
        Signal({"__name__": "steady_total"}, lambda t: RATE * (t - epoch_s), "counter"),
        Signal({"__name__": "resetting_total"}, lambda t: RATE * ((t - epoch_s) % 47), "counter"),
    ]


def live_signals(epoch_s: float) -> list[Signal]:
    """Scraped as most things are: stamped by Prometheus, whenever it comes by."""

    def wave(t: float) -> float:
        return 100 + 10 * math.sin(2 * math.pi * t / 600)

    return [
        Signal({"__name__": "x"}, wave),
        Signal({"__name__": "plain_gauge"}, wave),
        Signal({"__name__": "plain_total"}, lambda t: RATE * (t - epoch_s), "counter"),
    ]


def watch(metric: str, *, labels: dict[str, str] | None = None, **settings: Any) -> dict[str, Any]:
    return {"metric": metric, "labels": labels or {}, **_SECOND, **settings}


def steady_watches() -> list[dict[str, Any]]:
    own_model = [
        watch(metric, labels={"m": model}, model=model)
        for metric in ("const", "line")
        for model in MODELS
    ]
    plain = ("fleet", "nasty", "gappy", "walk", "steady_total", "resetting_total")
    slow: dict[str, Any] = {
        "granularity": "5s",
        "horizon": "25s",
        "lookback": "2m",
        "training_window": "15m",
    }
    coarse: dict[str, Any] = {
        "granularity": f"{_COARSE_S}s",
        "horizon": "1m",
        "lookback": "5m",
        "training_window": "3h",
    }
    return [
        *own_model,
        *(watch("pair", labels={"side": side}) for side in ("left", "right")),
        *(watch(metric) for metric in plain),
        watch("late", model="linear", **slow, publish={"actual": True}),
        watch("x", **coarse),
    ]


@dataclass
class Facts:
    """What only the time while it happened could tell."""

    default_first_s: float = math.nan
    crashed_ms: int = 0
    back_ms: int = 0
    terminated: tuple[int, float] = (-1, math.inf)
    head_ahead_s: list[float] = field(default_factory=list)
    steady: SelfMetrics = field(default_factory=lambda: SelfMetrics(""))
    crashing: SelfMetrics = field(default_factory=lambda: SelfMetrics(""))
    page: str = ""


class World:
    """Lived through at ``async with``; Prometheus still answers afterwards."""

    def __init__(self, binary: PrometheusBinary) -> None:
        self.begin_s = float(math.floor(time.time()))
        self.epoch_s = self.begin_s - _LONG_HISTORY_S
        self.facts = Facts()
        self.end_ms = 0
        self.stored: dict[LabelSet, RawSeries] = {}
        self._binary = binary
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
            await self._live()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        exact = self._stack.enter_context(FunctionExporter(grid_s=1.0, stamp=True))
        live = self._stack.enter_context(FunctionExporter())
        slow = self._stack.enter_context(FunctionExporter(delay_s=3.0))
        late = [Signal({"__name__": "late"}, lambda t: 100 + 0.5 * (t - self.epoch_s))]
        history = Backfill()
        jobs = [
            self._job("exact", exact, exact_signals(self.epoch_s), history),
            self._job("live", live, live_signals(self.epoch_s), history, past_s=_LONG_HISTORY_S),
            self._job("slow", slow, late, history, every_s=5),
        ]
        self.prometheus = await self._stack.enter_async_context(
            RealPrometheus(self._binary, history=history, config={"scrape_configs": jobs})
        )
        url = self.prometheus.url
        crashing = [watch("phoenix", model="linear")]
        default = [{"metric": "plain_gauge"}, {"metric": "plain_total"}]
        self.steady = Sidecar(url, steady_watches(), emit_confidence_bounds=True)
        self.crashing = Sidecar(url, crashing)
        self.default = Sidecar(url, default)
        first_coarse_s = _COARSE_S - self.begin_s % _COARSE_S
        await self._until(max(_BEGINS_AFTER_S, first_coarse_s + _COARSE_CLOSES_S))
        for sidecar in (self.steady, self.crashing):
            await self._stack.enter_async_context(sidecar)

    def _job(
        self,
        name: str,
        exporter: FunctionExporter,
        signals: list[Signal],
        history: Backfill,
        *,
        every_s: int = 1,
        past_s: int = _SHORT_HISTORY_S,
    ) -> dict[str, Any]:
        """The scrape job of an exporter that shows the signals, their past put into ``history``."""
        target = {"job": name, "instance": "here"}
        for signal in signals:
            exporter.expose(signal.kind, signal.labels, signal.value_at)
            times = np.arange(self.begin_s - past_s, self.begin_s, every_s)
            values = [signal.value_at(t) for t in times.tolist()]
            there = [i for i, value in enumerate(values) if value is not None]
            history.add(
                {**signal.labels, **target},
                (times[there] * 1000).astype(np.int64),
                np.array([values[i] for i in there], dtype=np.float64),
            )
        return {
            "job_name": name,
            "scrape_interval": f"{every_s}s",
            "scrape_timeout": f"{every_s}s",
            "static_configs": [{"targets": [exporter.address], "labels": {"instance": "here"}}],
        }

    async def _until(self, after_s: float) -> None:
        await asyncio.sleep(max(0.0, self.begin_s + after_s - time.time()))

    async def _live(self) -> None:
        """Let time pass; what is asked here is what later nobody could tell."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._time_the_first_forecast())
            tasks.create_task(self._crash_and_return())
            tasks.create_task(self._watch_the_head())
        # At the defaults the second instant is the first of which something was expected.
        for metric in ("plain_gauge", "plain_total"):
            await self.prometheus.until(f"{metric}{EXPECTED}", timeout_s=150)
        facts = self.facts
        facts.steady = await self.steady.self_metrics()
        facts.crashing = await self.crashing.self_metrics()
        _, facts.page = await self.steady.get("/metrics")
        facts.terminated = await self.steady.terminate()
        self.end_ms = int(time.time() * 1000)
        own = f"{{__name__=~{json.dumps(OWN_OUTPUT_REGEX)}}}"
        found = await self.prometheus.samples(own, int(self.begin_s * 1000), self.end_ms)
        self.stored = {one.labels: one for one in found}

    async def _time_the_first_forecast(self) -> None:
        await self._until(60 - self.begin_s % 60 + _MINUTE_CLOSES_S)
        await self._stack.enter_async_context(self.default)
        await self.prometheus.until(f"plain_gauge{PREDICTED}", timeout_s=150)
        self.facts.default_first_s = time.time() - self.default.started_s

    async def _crash_and_return(self) -> None:
        await self.prometheus.until(f"phoenix{EXPECTED}", timeout_s=90)
        await asyncio.sleep(_CRASH_AFTER_S)
        self.facts.crashed_ms = int(time.time() * 1000)
        await self.crashing.kill()
        await asyncio.sleep(_DOWN_S)
        self.crashing.start()
        since = f"phoenix{EXPECTED} and timestamp(phoenix{EXPECTED}) > {time.time():.0f}"
        await self.prometheus.until(since, timeout_s=60)
        self.facts.back_ms = int(time.time() * 1000)

    async def _watch_the_head(self) -> None:
        """How far the newest sample of the whole server is ahead of the clock, again and again."""
        while time.time() < self.begin_s + _LIVES_S:
            newest_ms = await self.prometheus.self_metric("prometheus_tsdb_head_max_time")
            self.facts.head_ahead_s.append(newest_ms / 1000 - time.time())
            self.steady.check()
            await asyncio.sleep(0.5)

    def of(self, metric: str, **labels: str) -> dict[LabelSet, RawSeries]:
        """The stored output series of this name with at least these labels."""
        return {
            one: series
            for one, series in self.stored.items()
            if one.metric == metric and all(one.get(n) == v for n, v in labels.items())
        }

    def only(self, metric: str, **labels: str) -> RawSeries:
        found = list(self.of(metric, **labels).values())
        assert len(found) == 1, f"{metric} {labels}: {[str(one.labels) for one in found]}"
        return found[0]
