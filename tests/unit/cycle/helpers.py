"""A watch without its surroundings: rules, series made of functions, cycles in a loop."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from sidecar.cycle import Advance, CycleRules, advance, align, read_start_ms
from sidecar.ingest.history import HistoryBuilder
from sidecar.known import Fitted, Known, adopt, begin
from sidecar.learning.drift import DriftSettings
from sidecar.learning.gate import GateSettings
from sidecar.learning.training import train
from sidecar.models.anomaly import AnomalyRules
from sidecar.models.contract import ForecastModel, State
from sidecar.models.domain import never_negative
from sidecar.models.naive import NaiveModel
from sidecar.models.registry import ModelContext, build
from sidecar.series import Grid, LabelSet, RawSeries, Selector, SeriesBatch

G = 60_000
T0 = 1_700_000_040_000 // G * G
Value = Callable[[np.ndarray], np.ndarray]


def rules(**changes: object) -> CycleRules:
    plain: dict[str, object] = {
        "watch": "w",
        "selector": Selector.of("x"),
        "granularity_ms": G,
        "horizon_steps": 5,
        "transform": "none",
        "staleness_ms": G,
        "overlap_ms": 3 * G,
        "patience_ms": 5 * G,
        "forget_ms": 60 * G,
        "max_series": 100,
        "lowest": -np.inf,
        "highest": np.inf,
        "keep_sign": False,
        "anomaly": AnomalyRules(),
        "drift": DriftSettings(),
        "gate": GateSettings(),
    }
    return CycleRules(**{**plain, **changes})  # type: ignore[arg-type]


def labels(name: str = "a", metric: str = "x") -> LabelSet:
    return LabelSet.of({"__name__": metric, "instance": name})


def sampled(
    value: Callable[[np.ndarray], np.ndarray],
    start_ms: int,
    end_ms: int,
    every_ms: int = 15_000,
    name: str = "a",
) -> RawSeries:
    """One series scraped every 15 s, value = f(seconds)."""
    t = np.arange(start_ms, end_ms + 1, every_ms, dtype=np.int64)
    return RawSeries(labels(name), t, np.asarray(value(t / 1000), dtype=np.float64) + 0.0 * t)


def history(
    cycle_rules: CycleRules, raw: Sequence[RawSeries], end_ms: int = T0, size: int = 288
) -> SeriesBatch:
    builder = HistoryBuilder(Grid(end_ms, G, size), partial(align, cycle_rules), 3 * G)
    builder.add([one for one in raw if one.timestamps_ms.size])
    return builder.finish()


def model(name: str = "linear", **params: object) -> ForecastModel[State]:
    return build(name, params, ModelContext(G, 5, 30))


def begun(
    cycle_rules: CycleRules, which: ForecastModel[State], past: SeriesBatch, version: int = 1
) -> Known:
    """A watch right after its first fit."""
    known = begin(which, past, 60, cycle_rules.horizon_steps)
    return adopt(which, known, fitted(which, past, version))


def fitted(which: ForecastModel[State], past: SeriesBatch, version: int = 1) -> Fitted:
    n = len(past.labels)
    outcome = train(which, past.grid.instants_ms, past.values, horizon_steps=5)
    return Fitted(
        labels=past.labels,
        end_ms=past.grid.end_ms,
        state=outcome.state,
        naive=NaiveModel().fit(past.grid.instants_ms, past.values),
        promoted=outcome.fitted,
        serves_naive=np.zeros(n, dtype=np.bool_),
        versions=np.full(n, version, dtype=np.int64),
        why_unfitted=(None,) * n,
        mae=outcome.mae,
        centre=outcome.centre,
        scale=outcome.scale,
        n_samples=outcome.n_samples,
        never_negative=never_negative(past.values),
    )


def cycles(
    cycle_rules: CycleRules,
    which: ForecastModel[State],
    known: Known,
    raw: Sequence[RawSeries],
    count: int,
) -> tuple[Known, list[Advance]]:
    """``count`` cycles, each given what a read up to its instant would return."""
    found = []
    for _ in range(count):
        instant = known.origin_ms + G
        known, result = advance(cycle_rules, which, known, seen(raw, instant), instant)
        found.append(result)
    return known, found


def seen(raw: Sequence[RawSeries], until_ms: int) -> list[RawSeries]:
    return [
        RawSeries(one.labels, one.timestamps_ms[:end], one.values[:end])
        for one in raw
        if (end := int(np.searchsorted(one.timestamps_ms, until_ms, side="right")))
    ]


def read_for(cycle_rules: CycleRules, known: Known, raw: Sequence[RawSeries]) -> list[RawSeries]:
    """What the read of the next cycle returns: no more of the past than it asks for."""
    start_ms = read_start_ms(cycle_rules, known.origin_ms)
    return [
        RawSeries(one.labels, one.timestamps_ms[later], one.values[later])
        for one in seen(raw, known.origin_ms + G)
        if (later := one.timestamps_ms >= start_ms).any()
    ]
