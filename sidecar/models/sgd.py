"""``sgd``: a linear regression on lags, rolling statistics and the time of day that learns on.

Take it where behaviour changes slowly and the model should follow between fits: every new sample
corrects the weights a little. ``lags`` forecasts as well from fewer columns; take ``sgd`` for the
time columns and the online learning that users of the name expect.

The target is the next difference in units of the series' mean absolute difference; the columns,
standardised, are for a target instant t (all of them from before t, but for the clock at t):

    n_lags differences d[t-n] .. d[t-1]
    mean of the n_lags newest values, measured from the newest; their standard deviation
    sine and cosine of the hour of day and of the day of week at t

A fit solves the ridge normal equations, which is where stochastic gradient descent would end:
(X'X + l2 I) w = X'y. The hour of day is learned from two days of history on, the day of week from
two weeks. An update is one normalised step for each new instant, finite for any scale:
w += m e x / (1 + |x|^2), where m = 1 - (1 - learning_rate)^epochs and e is the one-step residual,
cut at four deviations. (Haykin, Adaptive Filter Theory, ch. 6: normalised LMS.) A forecast repeats
the one-step forecast on its own output: each feature row is built anew from the values.

Settings: ``n_lags`` (lookback / granularity), ``learning_rate`` (.002), ``epochs`` (1), ``l2`` (3),
``timezone`` (the watch's), ``level`` of the interval (.95).
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import numpy as np

from sidecar.models.contract import ForecastModel, Intervals, State, as_float
from sidecar.models.features import (
    DAY_MS,
    N_EXTRA,
    WEEK_MS,
    append,
    cyclic,
    fill_gaps,
    padded,
    windows,
)
from sidecar.models.intervals import around
from sidecar.models.numeric import BoolArray, IntArray, absorb_new, lead_deviation
from sidecar.models.settings import POSITIVE, SHARE, TIMEZONE, at_least, between, check
from sidecar.series import FloatArray, TimeArray

CHUNK: Final = 128
# Beyond this many missed instants a forecast grows no more uncertain.
LONGEST_GAP: Final = 288
OUTLIER: Final = 4.0


@dataclass(frozen=True, slots=True)
class SGDSettings:
    """See the module."""

    n_lags: int = 30
    learning_rate: float = 0.002
    epochs: int = 1
    l2: float = 3.0
    timezone: str = "UTC"
    level: float = 0.95

    def __post_init__(self) -> None:
        check(
            self,
            {
                "n_lags": at_least(1),
                "learning_rate": between(0, 0.999),
                "epochs": at_least(0),
                "l2": POSITIVE,
                "timezone": TIMEZONE,
                "level": SHARE,
            },
        )


@dataclass(frozen=True, eq=False)
class SGDState(State):
    """
    Attributes:
        missed: (N,) int64, instants since the newest value.
        buffer: (N, n_lags + 1) the newest values, newest last; forecasts where none was seen.
        unit: (N,) mean absolute difference, the unit of target and columns.
        bound: (N,) the largest difference a step may forecast, in units.
        weights: (N, P) of the standardised columns, P = n_lags + 6.
        intercept: (N,) mean difference, in units.
        centre, spread: (N, P) of the columns; a spread of 0 is a column never seen to vary.
    """

    missed: IntArray
    buffer: FloatArray
    unit: FloatArray
    bound: FloatArray
    weights: FloatArray
    intercept: FloatArray
    centre: FloatArray
    spread: FloatArray


class SGDRegressorModel(ForecastModel[SGDState]):
    """Ridge on lags, statistics and clock, kept current by normalised SGD; see the module."""

    name: ClassVar[str] = "sgd"
    settings_type: ClassVar[type[Any]] = SGDSettings
    state_type = SGDState

    def __init__(self, **settings: Any) -> None:
        self.settings: SGDSettings = SGDSettings(**settings)

    @property
    def min_instants(self) -> int:
        return 8

    def fit(self, t_ms: TimeArray, y: FloatArray) -> SGDState:
        filled, observed = fill_gaps(padded(y, self.min_instants))
        fitted = observed.sum(axis=1) >= self.min_instants
        unit = np.abs(np.diff(filled, axis=1)).mean(axis=1)
        unit = np.where(unit > 1e-13 * np.abs(filled).max(axis=1), unit, 0.0)
        times = cyclic(_earlier(t_ms, filled.shape[1]), self.settings.timezone)
        # Columns that have not been round twice say nothing yet.
        span = int(t_ms[-1] - t_ms[0])
        times[:, :2] *= span >= 2 * DAY_MS - (DAY_MS >> 4)
        times[:, 2:] *= span >= 2 * WEEK_MS - (WEEK_MS >> 4)
        n_lags = self.settings.n_lags
        early = np.concatenate([np.repeat(filled[:, :1], n_lags + 1, axis=1), filled], axis=1)
        parts = [
            self._solved(early[rows], observed[rows], times, unit[rows]) for rows in _chunks(len(y))
        ]
        weights, intercept, centre, spread, error = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        steps = np.abs(np.diff(filled, axis=1)).max(axis=1)
        last = early[:, -(n_lags + 1) :].copy()
        return SGDState(
            last_ms=np.where(fitted, t_ms[-1], 0),
            sigma=np.where(fitted, error * unit, np.nan),
            missed=np.argmax(observed[:, ::-1], axis=1),
            buffer=last,
            unit=unit,
            bound=steps / np.where(unit > 0, unit, 1.0),
            weights=weights,
            intercept=intercept,
            centre=centre,
            spread=spread,
        )

    def _solved(
        self, early: FloatArray, observed: BoolArray, times: FloatArray, unit: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        """weights, intercept, centre, spread and the one-step deviation in units."""
        n_lags, size = self.settings.n_lags, observed.shape[1]
        # Rows that reach back before the first value are used only where there are few others.
        first = n_lags + 1 if size - n_lags > 2 * (n_lags + N_EXTRA) else 1
        seen = windows(early, n_lags + 1)[:, first:size]
        X = _columns(seen, times[first:], unit[:, None])
        divisor = np.where(unit > 0, unit, 1.0)[:, None]
        target = np.diff(early[:, n_lags + first :], axis=1) / divisor
        use = (observed[:, first:] & observed[:, first - 1 : -1]).astype(np.float64)
        count = np.maximum(use.sum(axis=1), 1.0)
        centre = np.einsum("nt,ntp->np", use, X) / count[:, None]
        intercept = np.einsum("nt,nt->n", use, target) / count
        X -= centre[:, None, :]
        target -= intercept[:, None]
        X *= use[..., None]
        target *= use
        spread = np.sqrt(np.einsum("ntp,ntp->np", X, X) / count[:, None])
        spread[spread < 1e-9] = 0.0
        X *= _inverse(spread)[:, None, :]
        gram = X.transpose(0, 2, 1) @ X
        gram += self.settings.l2 * np.eye(gram.shape[1])
        moments = X.transpose(0, 2, 1) @ target[..., None]
        weights = as_float(np.linalg.solve(gram, moments)[..., 0])
        rest = target - (X @ weights[..., None])[..., 0]
        error = np.sqrt(np.einsum("nt,nt->n", rest, rest) / count)
        return weights, intercept, centre, spread, error

    def update(self, state: SGDState, t_ms: TimeArray, y: FloatArray) -> SGDState:
        return absorb_new(self._absorb, state, t_ms, y)

    def _absorb(self, state: SGDState, t_ms: TimeArray, y: FloatArray) -> SGDState:
        times = cyclic(t_ms, self.settings.timezone)
        gain = 1 - (1 - self.settings.learning_rate) ** self.settings.epochs
        for column, clock in zip(y.T, times, strict=True):
            state = _learned(state, column, clock, gain)
        fitted = np.isfinite(state.sigma)
        return replace(state, last_ms=np.where(fitted, t_ms[-1], state.last_ms))

    def forecast(self, state: SGDState, t_ms: TimeArray) -> Intervals:
        times = cyclic(t_ms, self.settings.timezone)
        mean = _path(state, state.buffer, times)
        mean[~np.isfinite(state.sigma)] = np.nan
        missed = np.minimum(state.missed, LONGEST_GAP)
        shocks = self._shocks(state, times, int(missed.max(initial=0)))
        return around(mean, lead_deviation(shocks, state.sigma, missed), self.settings.level)

    def _shocks(self, state: SGDState, times: FloatArray, extra: int) -> FloatArray:
        """(H + extra, N) how a residual of one deviation now moves the forecasts to come."""
        sigma = np.where(state.sigma > 0, state.sigma, 1.0)
        times = np.concatenate([times, np.repeat(times[-1:], extra, axis=0)])[: len(times) + extra]
        shocked = state.buffer.copy()
        shocked[:, -1] += sigma
        free = replace(state, bound=np.full_like(state.bound, np.inf))
        moved = _path(free, shocked, times) - _path(free, state.buffer, times)
        effect = np.where(np.isfinite(moved), moved, 0.0) / sigma[:, None]
        return np.concatenate([np.ones((1, len(sigma))), effect.T[:-1]])


def _chunks(n: int) -> list[slice]:
    """Slices over N small enough for the feature rows of one to stay in cache; at least one."""
    return [slice(at, at + CHUNK) for at in range(0, max(n, 1), CHUNK)]


def _inverse(values: FloatArray) -> FloatArray:
    """1 / value, 0 where the value is 0."""
    return np.where(values > 0, 1.0 / np.where(values > 0, values, 1.0), 0.0)


def _columns(buffer: FloatArray, times: FloatArray, unit: FloatArray) -> FloatArray:
    """(..., P) the columns, not yet standardised, from the n_lags + 1 values before the target."""
    offset = buffer[..., 1:] - buffer[..., -1:]
    values = np.concatenate(
        [
            np.diff(buffer, axis=-1),
            offset.mean(axis=-1, keepdims=True),
            offset.std(axis=-1, keepdims=True),
        ],
        axis=-1,
    )
    values *= _inverse(unit)[..., None]
    clock = np.broadcast_to(times, (*values.shape[:-1], times.shape[-1]))
    return np.concatenate([values, clock], axis=-1)


def _standardised(state: SGDState, buffer: FloatArray, clock: FloatArray) -> FloatArray:
    columns = _columns(buffer, clock, state.unit)
    return (columns - state.centre) * _inverse(state.spread)


def _step(state: SGDState, x: FloatArray) -> FloatArray:
    """(N,) the next difference, in units."""
    step: FloatArray = state.intercept + np.einsum("np,np->n", state.weights, x)
    return np.clip(step, -state.bound, state.bound)


def _path(state: SGDState, buffer: FloatArray, times: FloatArray) -> FloatArray:
    """(N, H) forecasts from ``buffer``, each step built on the one before."""
    path = np.empty((len(buffer), len(times)))
    for h, clock in enumerate(times):
        step = _step(state, _standardised(state, buffer, clock))
        path[:, h] = buffer[:, -1] + step * state.unit
        buffer = np.concatenate([buffer[:, 1:], path[:, h : h + 1]], axis=1)
    return path


def _learned(state: SGDState, y: FloatArray, clock: FloatArray, gain: float) -> SGDState:
    """The state one instant later, the weights moved a step against the residual."""
    x = _standardised(state, state.buffer, clock)
    step = _step(state, x)
    seen = np.isfinite(y) & np.isfinite(state.sigma)
    residual = (np.where(seen, y, 0.0) - state.buffer[:, -1]) * _inverse(state.unit) - step
    cut = OUTLIER * state.sigma * _inverse(state.unit)
    residual = np.where(seen & (state.missed == 0), np.clip(residual, -cut, cut), 0.0)
    move = gain * residual / (1 + np.einsum("np,np->n", x, x))
    value = np.where(seen, y, state.buffer[:, -1] + step * state.unit)
    return replace(
        state,
        missed=np.where(seen, 0, state.missed + 1),
        buffer=append(state.buffer, value, np.where(seen, state.missed, 0)),
        weights=state.weights + move[:, None] * x,
        intercept=state.intercept + move,
    )


def _earlier(t_ms: TimeArray, size: int) -> TimeArray:
    """``size`` instants up to the newest, as far apart as the given ones."""
    step = int(t_ms[1] - t_ms[0]) if len(t_ms) > 1 else 1
    return np.asarray(t_ms[-1] + step * np.arange(1 - size, 1), np.int64)
