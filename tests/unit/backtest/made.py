"""Plans without a server: series made of numbers, on one grid."""

import numpy as np

from sidecar.backtest.replay import Plan, Replayed, replay, yardstick
from sidecar.backtest.summary import WatchResult, result_of
from sidecar.models.contract import as_float
from sidecar.series import FloatArray, Grid, LabelSet, SeriesBatch
from tests.unit.cycle.helpers import T0, G, labels, model, rules

HISTORY = 200


def signal(n: int, size: int, seed: int = 0) -> FloatArray:
    """(n, size) a slow wave under noise, each series at its own level."""
    dice = np.random.default_rng(seed)
    wave = 10 * np.sin(np.arange(size) / 40)
    return as_float(50.0 * (1 + np.arange(n))[:, None] + wave + dice.normal(size=(n, size)))


def plan_of(
    values: FloatArray, tested: int, *, refit: int = 0, names: list[LabelSet] | None = None
) -> Plan:
    grid = Grid(T0, G, values.shape[1])
    known = names or [labels(f"i{row:02}") for row in range(len(values))]
    batch = SeriesBatch(tuple(known), grid, values)
    return Plan(rules(), batch, tested, HISTORY, refit)


def replayed(plan: Plan, name: str = "linear", *, keep: bool = True) -> Replayed:
    return replay(model(name), name, plan, keep=keep)


def result(plan: Plan, *names: str) -> WatchResult:
    return WatchResult(
        selector="x",
        granularity="1m",
        horizon="5m",
        configured=names[0],
        plan=plan,
        rows=(
            *(result_of(replayed(plan, name, keep=at == 0)) for at, name in enumerate(names)),
            *(result_of(yardstick(name, plan)) for name in ("naive", "seasonal_naive")),
        ),
        left_out=0,
    )
