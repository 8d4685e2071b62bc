"""Speed and size of the regressions, the seasonal profile, auto and the calibration of intervals.

Series are made up (a walk with an oscillation, a day and noise); what the models do to them costs
the same as with recorded ones. Rates are per core and second of CPU time. Where a library would be
the reference, the same formula by NumPy, one series after the other, stands in for it; the physical
limit of an update is a copy of the state, which is what it has to read and write at least.
"""

from argparse import Namespace
from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tests.bench import Figure, Rounds, cpu_rate, cpu_seconds, figures, row

STEP_MS: Final = 300_000
DAY: Final = 288
WEEK: Final = 7 * DAY
H: Final = 12
FEW: Final = 64  # series of a reference that goes through them one by one
MANY: Final = 10_000

Array = NDArray[Any]


@cache
def series(n: int, size: int) -> Array:
    rng = np.random.default_rng(7)
    t = np.arange(size)
    y = rng.normal(size=(n, size))
    for at in range(2, size):
        y[:, at] += 1.1 * y[:, at - 1] - 0.4 * y[:, at - 2]
    y += 5 * np.sin(2 * np.pi * t / DAY) + 0.1 * rng.normal(size=(n, size)).cumsum(axis=1)
    return np.ascontiguousarray(y + 100)


def instants(first: int, count: int) -> NDArray[np.int64]:
    return STEP_MS * (5_666_688 + first + np.arange(count, dtype=np.int64))


def context(horizon: int = H) -> Any:
    from sidecar.models.registry import ModelContext

    return ModelContext(granularity_ms=STEP_MS, horizon_steps=horizon, n_lags=30)


def fits(model: Any, n: int, size: int = DAY) -> Any:
    """Series fitted per second."""
    t_ms, y = instants(0, size), series(n, size)
    return cpu_rate(n, lambda: model.fit(t_ms, y))


def one_by_one(work: Any, size: int = DAY) -> Any:
    """Series per second of a function of one."""
    y = series(FEW, size)
    return cpu_rate(FEW, lambda: [work(one) for one in y])


@row("fit_linear", unit="series/s", reference="polyfit, one by one")
def fit_linear(options: Namespace) -> Rounds:
    from sidecar.models.linear import LinearTrendModel

    t = np.arange(DAY)
    plain = one_by_one(lambda y: np.polyfit(t, y, 1))
    return Rounds(fits(LinearTrendModel(trend="global"), 8192), plain)


@row("fit_linear_local", unit="series/s")
def fit_linear_local(options: Namespace) -> Rounds:
    from sidecar.models.linear import LinearTrendModel

    return Rounds(fits(LinearTrendModel(horizon_steps=H), 2048))


@row("fit_lags_ridge", unit="series/s", reference="normal equations, one by one")
def fit_lags_ridge(options: Namespace) -> Rounds:
    from sidecar.models.lags import LagsModel

    def ridge(y: Array) -> Array:
        x = np.diff(y)
        x = x / np.sqrt((x * x).mean())
        X = np.lib.stride_tricks.sliding_window_view(x, 12)[:-1]
        return np.linalg.solve(X.T @ X + 3 * np.eye(12), X.T @ x[12:])

    return Rounds(fits(LagsModel(means=()), 4096), one_by_one(ridge))


@row("retrain_10000_ridge", unit="s cpu")
def retrain_10000_ridge(options: Namespace) -> Rounds:
    from sidecar.models.lags import LagsModel

    model, t_ms, y = LagsModel(means=()), instants(0, DAY), series(MANY, DAY)
    return Rounds(cpu_seconds(lambda: model.fit(t_ms, y)))


@row("fit_lags", unit="series/s")
def fit_lags(options: Namespace) -> Rounds:
    from sidecar.models.lags import LagsModel

    return Rounds(fits(LagsModel(), 4096))


@row("fit_sgd", unit="series/s")
def fit_sgd(options: Namespace) -> Rounds:
    from sidecar.models.sgd import SGDRegressorModel

    return Rounds(fits(SGDRegressorModel(), 512))


@row("fit_auto", unit="ms/series")
def fit_auto(options: Namespace) -> Rounds:
    """Back-test, choice, fit of every member and forecast; as a watch runs it."""
    from sidecar.models.registry import build

    n = 2048
    model, t_ms, y = build("auto", {}, context()), instants(0, DAY), series(n, DAY)
    seconds = cpu_seconds(lambda: model.forecast(model.fit(t_ms, y), instants(DAY, H)))
    return Rounds(lambda: 1e3 * seconds() / n)


@row("fit_season", unit="ms/series")
def fit_season(options: Namespace) -> Rounds:
    """A week of five-minute instants: profile, weight, naive on the rest, forecast."""
    from sidecar.models.naive import NaiveModel
    from sidecar.models.seasonal import SeasonalModel

    n = 512
    model = SeasonalModel(NaiveModel(), granularity_ms=STEP_MS)
    t_ms, y = instants(0, WEEK), series(n, WEEK)
    seconds = cpu_seconds(lambda: model.forecast(model.fit(t_ms, y), instants(WEEK, H)))
    return Rounds(lambda: 1e3 * seconds() / n)


@row("fit_season_lags", unit="ms/series")
def fit_season_lags(options: Namespace) -> Rounds:
    """The same with ``lags`` on the rest."""
    from sidecar.models.registry import build

    n = 512
    model, t_ms, y = build("lags", {}, context()), instants(0, WEEK), series(n, WEEK)
    seconds = cpu_seconds(lambda: model.forecast(model.fit(t_ms, y), instants(WEEK, H)))
    return Rounds(lambda: 1e3 * seconds() / n)


def live(name: str, horizon: int) -> Rounds:
    """ms of one update and one forecast of 10,000 series, beside a copy of their state."""
    from sidecar.models.registry import build

    model = build(name, {}, context(horizon))
    y = series(1000, DAY + 1)
    state = model.fit(instants(0, DAY), y[:, :DAY])
    repeated = {f.name: np.repeat(getattr(state, f.name), 10, axis=0) for f in fields(state)}
    state = type(state)(**repeated)
    newest, ahead = np.repeat(y[:, DAY:], 10, axis=0), instants(DAY + 1, horizon)
    cycle = cpu_seconds(
        lambda: model.forecast(model.update(state, instants(DAY, 1), newest), ahead)
    )
    copy = cpu_seconds(lambda: [array.copy() for array in repeated.values()])
    return Rounds(lambda: 1e3 * cycle(), lambda: 1e3 * copy())


@row("live_10000_auto_h5", unit="ms", reference="copy of the state")
def live_auto_short(options: Namespace) -> Rounds:
    return live("auto", 5)


@row("live_10000_auto_h60", unit="ms", reference="copy of the state")
def live_auto_long(options: Namespace) -> Rounds:
    return live("auto", 60)


@row("live_10000_lags_h5", unit="ms", reference="copy of the state")
def live_lags_short(options: Namespace) -> Rounds:
    return live("lags", 5)


@row("live_10000_lags_h60", unit="ms", reference="copy of the state")
def live_lags_long(options: Namespace) -> Rounds:
    return live("lags", 60)


@row("calibrate_10000", unit="ms", reference="copy of the calibration")
def calibrate(options: Namespace) -> Rounds:
    """One instant of intervals: judge four leads, widen the next forecast."""
    from sidecar.models import intervals
    from sidecar.models.contract import Intervals

    rng = np.random.default_rng(0)
    leads, state = (1, 2, 4, 5), intervals.start(MANY, 5)
    residuals, widths = rng.normal(size=(MANY, 4)), np.ones((MANY, 4))
    for _ in range(intervals.RING // 4):
        state = intervals.observe(state, leads, rng.normal(size=(MANY, 4)), widths)
    zero = np.zeros((MANY, 5))
    forecast = Intervals(zero, zero - 1, zero + 1)
    cycle = cpu_seconds(
        lambda: intervals.widen(forecast, intervals.observe(state, leads, residuals, widths))
    )
    copy = cpu_seconds(lambda: [getattr(state, f.name).copy() for f in fields(state)])
    return Rounds(lambda: 1e3 * cycle(), lambda: 1e3 * copy())


@figures("state_bytes")
def state_bytes(options: Namespace) -> Iterable[Figure]:
    """Memory that a series takes, for each model and for the calibration of its intervals."""
    from sidecar.models import intervals
    from sidecar.models.registry import MODEL_NAMES, build

    for name in MODEL_NAMES:
        state = build(name, {}, context()).fit(instants(0, DAY), series(FEW, DAY))
        total = sum(getattr(state, f.name).nbytes for f in fields(state))
        yield Figure(f"state_bytes_{name}", total / FEW, "bytes/series")
    calibration = intervals.start(1, 5)
    total = sum(getattr(calibration, f.name).nbytes for f in fields(calibration))
    yield Figure("state_bytes_calibration", total, "bytes/series")
