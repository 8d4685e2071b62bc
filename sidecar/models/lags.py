"""``lags``: the next difference from the newest differences and from where the series usually is.

Take it first: it is the most accurate single model that was measured, and by far the cheapest.
Monitoring series are oscillating, bursty and pulled back to where they were; twelve differences see
the oscillation, the distances to three running means see the pull.

With x[t] the difference y[t] - y[t-1] in units of its root mean square, cut at +-``clip``:

    x[t] = m + sum_i w_i (x[t-i] - m)  +  sum_k v_k (mean(y[t-k] .. y[t-1]) - y[t-1]) / sqrt(k)
    (w, v) = (G + ridge D)^-1 g        G, g the moments of the columns over the history
    D = diag(1, 2, .., p, 1, .., 1)    what lies further back is believed less

(an autoregression in the manner of Corsi's heterogeneous one, Journal of Financial Econometrics 7,
2009, on differences, with the lag-wise shrinkage of Litterman's prior, 1986). m, the drift, counts
only where it stands out by five standard errors, judged by the means of blocks. ``on: levels``
takes the levels themselves, around their mean, instead: for series that always come back. The
moments of lagged columns follow from those of the first by a shift, G[i+1,j+1] = G[i,j] +
x[p-1-i] x[p-1-j] - x[n-1-i] x[n-1-j], so a fit costs O(T p). A step of a forecast goes no further
than the largest difference of the history, which keeps an explosive recursion sane. With ``online``
the weights follow each new instant by recursive least squares with forgetting (Haykin, Adaptive
Filter Theory, ch. 10).

Settings: ``order`` (12), ``means`` ((24, 72, 288)), ``on`` ("differences" or "levels"), ``ridge``
(1), ``clip`` (3), ``online`` (false), ``forgetting`` (.999), ``level`` of the interval (.95).

Measured on the public set, a day of five-minute instants, an hour ahead: MASE 1.64, MAE .833 of
naive's (naive 2.32; AutoARIMA 1.88); six hours of history 1.71; a week 1.01, a day ahead 1.94. A
fit takes 14 us a series, without the running means 6 us.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Final

import numpy as np

from sidecar.models.contract import ForecastModel, Intervals, State, as_float, concat, take
from sidecar.models.features import append, fill_gaps, padded, windows
from sidecar.models.intervals import around
from sidecar.models.numeric import BoolArray, IntArray, absorb_new, lead_deviation
from sidecar.models.settings import FLAG, POSITIVE, SHARE, Rule, at_least, between, check, one_of
from sidecar.series import FloatArray, TimeArray

CHUNK: Final = 256  # series worked on at once: their values then stay in the cache
DRIFT_BLOCK: Final = 12
DRIFT_ERRORS: Final = 5.0
LONGEST_GAP: Final = 288
# What a shock of one may become in one step: explosive recursions still give finite widths.
LARGEST_RESPONSE: Final = 1.0

_MEANS: Final[Rule] = (
    lambda value: (
        isinstance(value, tuple | list) and all(isinstance(k, int) and k > 1 for k in value)
    ),
    "a list of whole numbers from 2 on",
)


@dataclass(frozen=True, slots=True)
class LagsSettings:
    """See the module."""

    order: int = 12
    means: tuple[int, ...] = (24, 72, 288)
    on: str = "differences"
    ridge: float = 1.0
    clip: float = 3.0
    online: bool = False
    forgetting: float = 0.999
    level: float = 0.95

    def __post_init__(self) -> None:
        check(
            self,
            {
                "order": at_least(1),
                "means": _MEANS,
                "on": one_of("differences", "levels"),
                "ridge": POSITIVE,
                "clip": POSITIVE,
                "online": FLAG,
                "forgetting": between(0.9, 1.0),
                "level": SHARE,
            },
        )


@dataclass(frozen=True, eq=False)
class LagsState(State):
    """
    Attributes:
        missed: (N,) int64, instants since the newest value.
        buffer: (N, L) the newest values, newest last; forecasts where none was seen.
        unit: (N,) what columns and target are measured in.
        centre: (N,) the drift per instant (differences) or the mean (levels), in the series' unit.
        bound: (N,) how far one step of a forecast may go.
        weights: (N, P) of the lags, nearest first, then of the distances to the running means.
        inverse: (N, P, P) inverse moments, or (N, 0, 0) unless the model learns online.
    """

    missed: IntArray
    buffer: FloatArray
    unit: FloatArray
    centre: FloatArray
    bound: FloatArray
    weights: FloatArray
    inverse: FloatArray


class LagsModel(ForecastModel[LagsState]):
    """Ridge regression on lags; see the module."""

    name: ClassVar[str] = "lags"
    settings_type: ClassVar[type[Any]] = LagsSettings
    state_type = LagsState

    def __init__(self, **settings: Any) -> None:
        self.settings: LagsSettings = LagsSettings(**settings)
        self._differences = self.settings.on == "differences"
        self._means = tuple(self.settings.means) if self._differences else ()
        self._length = max([self.settings.order + 1, *self._means])

    @property
    def min_instants(self) -> int:
        return self.settings.order + 3

    def fit(self, t_ms: TimeArray, y: FloatArray) -> LagsState:
        y = padded(y, self.min_instants)
        parts = [self._fitted(t_ms, y[at : at + CHUNK]) for at in range(0, max(len(y), 1), CHUNK)]
        return parts[0] if len(parts) == 1 else concat(parts)

    def _fitted(self, t_ms: TimeArray, y: FloatArray) -> LagsState:
        settings, order = self.settings, self.settings.order
        filled, observed = fill_gaps(y)
        fitted = observed.sum(axis=1) >= self.min_instants
        use = observed[:, 1:] & observed[:, :-1] if self._differences else observed
        raw = np.diff(filled, axis=1) if self._differences else filled - _mean(filled)
        unit = unit_of(raw, filled)
        x = raw * reciprocal(unit)[:, None]
        cut = np.clip(x, -settings.clip, settings.clip) if self._differences else x
        centre = drift_of(cut) if self._differences else np.zeros(len(y))
        beyond = _squares(x) - _squares(cut)
        cut -= centre[:, None]
        extras = [one[:, order:] for one in distances(cut, self._means)]
        moments = _moments(cut, extras, order, use[:, order:])
        weights, inverse, left = moments.solved(self._penalty(), settings.online)
        count = np.maximum(moments.count, 1.0)
        sigma = unit * np.sqrt(np.maximum(left, 0) / count + np.maximum(beyond, 0) / x.shape[1])
        return LagsState(
            last_ms=np.where(fitted, t_ms[-1], 0),
            sigma=np.where(fitted, sigma, np.nan),
            missed=np.argmax(observed[:, ::-1], axis=1),
            buffer=newest(filled, self._length),
            unit=unit,
            centre=centre * unit if self._differences else _mean(filled)[:, 0],
            bound=np.abs(np.diff(filled, axis=1)).max(axis=1),
            weights=weights,
            inverse=inverse,
        )

    def _penalty(self) -> FloatArray:
        """(P,) what is added to the squares of each column."""
        lags = np.arange(1, self.settings.order + 1)
        return as_float(self.settings.ridge * np.append(lags, np.ones(len(self._means))))

    def update(self, state: LagsState, t_ms: TimeArray, y: FloatArray) -> LagsState:
        return absorb_new(self._absorb, state, t_ms, y)

    def _absorb(self, state: LagsState, t_ms: TimeArray, y: FloatArray) -> LagsState:
        fitted = np.isfinite(state.sigma)
        for column in y.T:
            seen = np.isfinite(column) & fitted
            if self.settings.online:
                state = self._learned(state, column, seen & (state.missed == 0))
            value = np.where(seen, column, 0.0)
            rows = np.flatnonzero(~seen & fitted)
            if len(rows):
                silent = take(state, rows)
                value[rows] = self._path(silent, silent.buffer, 1)[:, 0]
            buffer = append(state.buffer, value, np.where(seen, state.missed, 0))
            missed = np.where(seen, 0, state.missed + 1)
            state = replace(state, buffer=buffer, missed=missed)
        return replace(state, last_ms=np.where(fitted, t_ms[-1], state.last_ms))

    def _learned(self, state: LagsState, y: FloatArray, use: BoolArray) -> LagsState:
        """The weights after one step of recursive least squares, in the rows to ``use``."""
        columns = self._columns(state)
        origin = state.buffer[:, -1] + state.centre if self._differences else state.centre
        target = (np.where(use, y, origin) - origin) * reciprocal(state.unit)
        if self._differences:
            target = np.clip(target, -self.settings.clip, self.settings.clip)
        error = target - np.einsum("np,np->n", state.weights, columns)
        spread = np.einsum("npq,nq->np", state.inverse, columns)
        forgetting = self.settings.forgetting
        gain = spread / (forgetting + np.einsum("np,np->n", spread, columns))[:, None]
        inverse = (state.inverse - gain[:, :, None] * spread[:, None, :]) / forgetting
        return replace(
            state,
            weights=np.where(use[:, None], state.weights + gain * error[:, None], state.weights),
            inverse=np.where(use[:, None, None], inverse, state.inverse),
        )

    def _columns(self, state: LagsState) -> FloatArray:
        """(N, P) what the weights are applied to, for the instant after the newest."""
        buffer, order = state.buffer, self.settings.order
        newest, per_unit = buffer[:, -order - 1 :], reciprocal(state.unit)[:, None]
        if not self._differences:
            return as_float((newest[:, :0:-1] - state.centre[:, None]) * per_unit)
        lags = np.diff(newest, axis=1)[:, ::-1] - state.centre[:, None]
        pulls = [
            (buffer[:, -k:].mean(axis=1) - newest[:, -1] + state.centre * ((k - 1) / 2))
            / np.sqrt(k)
            for k in self._means
        ]
        return np.concatenate([lags, *[pull[:, None] for pull in pulls]], axis=1) * per_unit

    def _path(self, state: LagsState, buffer: FloatArray, steps: int) -> FloatArray:
        """(N, steps) forecasts from ``buffer``, each built on those before it.

        Time-major inside, in units and measured from the newest value: a step is a few calls on
        contiguous rows, and sums of large levels lose no digits.
        """
        order = self.settings.order
        base, per_unit = buffer[:, -1:], reciprocal(state.unit)
        centre = (state.centre if self._differences else state.centre - base[:, 0]) * per_unit
        bound = state.bound * per_unit
        near = np.ascontiguousarray(state.weights[:, :order].T[::-1])  # oldest lag first
        recent = (buffer[:, -order - 1 :] - base).T * per_unit
        recent = np.diff(recent, axis=0) if self._differences else recent[1:]
        x = np.concatenate([recent - centre, np.empty((steps, len(base)))])
        pulls = [
            (
                k,
                state.weights[:, order + at] / np.sqrt(k),
                *self._window(buffer, k, steps, per_unit),
            )
            for at, k in enumerate(self._means)
        ]
        path = np.empty((steps, len(base)))
        last = np.zeros(len(base))
        for at in range(steps):
            step = np.einsum("pn,pn->n", near, x[at : at + order])
            for k, weight, total, _ in pulls:
                step += weight * (total / k - last + centre * ((k - 1) / 2))
            step += centre if self._differences else centre - last
            np.clip(step, -bound, bound, out=step)
            last = np.add(last, step, out=path[at])
            np.subtract(step if self._differences else last, centre, out=x[order + at])
            for k, _, total, leaving in pulls:
                total += last - (leaving[at] if at < k else path[at - k])
        return as_float(base + (path * state.unit).T)

    def _window(
        self, buffer: FloatArray, k: int, steps: int, per_unit: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """The sum of the ``k`` newest values (N,) and those that leave it first (steps, N), in
        units and measured from the newest."""
        newest = buffer[:, -k:] - buffer[:, -1:]
        return newest.sum(axis=1) * per_unit, newest[:, : min(k, steps)].T * per_unit

    def forecast(self, state: LagsState, t_ms: TimeArray) -> Intervals:
        fitted = np.isfinite(state.sigma)[:, None]
        mean = np.where(fitted, self._path(state, state.buffer, len(t_ms)), np.nan)
        missed = np.minimum(state.missed, LONGEST_GAP)
        shocks = self._shocks(state, len(t_ms) + int(missed.max(initial=0)))
        return around(mean, lead_deviation(shocks, state.sigma, missed), self.settings.level)

    def _shocks(self, state: LagsState, size: int) -> FloatArray:
        """(size, N) how far a shock of one moves the value 0, 1, .. instants later."""
        n = len(state.sigma)
        shocked = np.zeros_like(state.buffer)
        shocked[:, -1] = 1.0
        free = replace(
            state, unit=np.ones(n), centre=np.zeros(n), bound=np.full(n, LARGEST_RESPONSE)
        )
        return np.concatenate([np.ones((1, n)), self._path(free, shocked, size - 1).T])


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over the history, N series: columns with columns (N, P, P), columns with the target
    (N, P), the target with itself (N,), and how many targets there were (N,)."""

    columns: FloatArray
    target: FloatArray
    square: FloatArray
    count: FloatArray

    def solved(
        self, penalty: FloatArray, inverse: bool
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Weights (N, P), the inverse (N, P, P) if asked for, and the squares left over (N,)."""
        matrix = self.columns + np.diag(penalty)
        weights = as_float(np.linalg.solve(matrix, self.target[..., None])[..., 0])
        left = (
            self.square
            - 2 * np.einsum("np,np->n", weights, self.target)
            + np.einsum("np,npq,nq->n", weights, self.columns, weights)
        )
        kept = as_float(np.linalg.inv(matrix)) if inverse else np.empty((len(matrix), 0, 0))
        return weights, kept, left


def _moments(x: FloatArray, extras: list[FloatArray], order: int, use: BoolArray) -> Moments:
    """The moments of ``order`` lags of ``x`` (N, m) and of further columns.

    Args:
        extras: each (N, m - order), at the targets x[order], x[order + 1], ...
        use: (N, m - order) which targets count.
    """
    moments = moments_by_shift(x, extras, order)
    rows = np.flatnonzero(~use.all(axis=1))
    if len(rows):
        columns = lagged_rows(x[rows], [extra[rows] for extra in extras], order)
        slow = moments_of_rows(columns, x[rows, order:], use[rows].astype(np.float64))
        for f in fields(moments):
            getattr(moments, f.name)[rows] = getattr(slow, f.name)
    return moments


def moments_by_shift(x: FloatArray, extras: list[FloatArray], order: int) -> Moments:
    """The moments where every target counts, those of lags from the shift of the first."""
    n, size = len(x), order + len(extras)
    lagged = [x[:, order - i : x.shape[1] - i] for i in range(order + 1)]
    products = np.stack([np.einsum("nt,nt->n", lagged[0], other) for other in lagged], axis=1)
    columns, target = np.empty((n, size, size)), np.empty((n, size))
    head, tail = x[:, order - 1 :: -1], x[:, : -order - 1 : -1]
    for k in range(order):
        # G[i, i + k] for lags i = 1 .. order - k; products[k] stands for i = 0.
        edges = head[:, : order - k] * head[:, k:order] - tail[:, : order - k] * tail[:, k:order]
        diagonal = products[:, k, None] + np.cumsum(edges, axis=1)
        i = np.arange(order - k)
        columns[:, i, i + k] = columns[:, i + k, i] = diagonal
    target[:, :order] = products[:, 1:]
    for a, extra in enumerate(extras, start=order):
        cross = [np.einsum("nt,nt->n", extra, other) for other in lagged]
        target[:, a] = cross[0]
        columns[:, a, :order] = columns[:, :order, a] = np.stack(cross[1:], axis=1)
        for b, other in enumerate(extras[: a - order + 1], start=order):
            columns[:, a, b] = columns[:, b, a] = np.einsum("nt,nt->n", extra, other)
    return Moments(columns, target, products[:, 0], np.full(n, float(x.shape[1] - order)))


def lagged_rows(x: FloatArray, extras: list[FloatArray], order: int) -> FloatArray:
    """(N, m - order, P) the columns as they are, one row for each target."""
    lags = windows(x, order)[:, : x.shape[1] - order, ::-1]
    return np.concatenate([lags, *[extra[..., None] for extra in extras]], axis=2)


def moments_of_rows(rows: FloatArray, target: FloatArray, weight: FloatArray) -> Moments:
    """The same from the rows themselves: slower, but for any weights."""
    weighted = rows * weight[..., None]
    return Moments(
        columns=weighted.transpose(0, 2, 1) @ rows,
        target=np.einsum("ntp,nt->np", weighted, target),
        square=np.einsum("nt,nt,nt->n", weight, target, target),
        count=weight.sum(axis=1),
    )


def distances(x: FloatArray, means: Sequence[int]) -> list[FloatArray]:
    """For each k of ``means`` (N, m): at the target x[t], how far the mean of the k newest levels
    lies above the newest, over sqrt(k).

    Levels are the running sums of ``x``; before the first they are what it is.
    """
    if not means:
        return []
    level = np.zeros((len(x), x.shape[1]))
    np.cumsum(x[:, :-1], axis=1, out=level[:, 1:])
    total = np.cumsum(level, axis=1)
    found = []
    for k in means:
        sums = total / k
        sums[:, k:] -= total[:, :-k] / k
        sums -= level
        sums /= np.sqrt(k)
        found.append(sums)
    return found


def drift_of(x: FloatArray) -> FloatArray:
    """(N,) the mean of ``x`` (N, m), as far as it stands out from the means of its blocks."""
    size = x.shape[1]
    block = max(1, min(DRIFT_BLOCK, size // 4))
    count = size // block
    if count < 2:
        return np.zeros(len(x))
    means = x[:, size - count * block :].reshape(len(x), count, block).mean(axis=2)
    mean = x.mean(axis=1)
    error = means.var(axis=1, ddof=1) / count
    sure = mean**2 > DRIFT_ERRORS**2 * error
    return np.where(sure, mean * (1 - DRIFT_ERRORS**2 * error / np.where(sure, mean**2, 1.0)), 0.0)


def unit_of(x: FloatArray, values: FloatArray) -> FloatArray:
    """(N,) root mean square of ``x``; 0 where that is only what rounding leaves of ``values``."""
    unit = np.sqrt(_squares(x) / x.shape[1])
    return np.where(unit > 1e-14 * np.abs(values).max(axis=1), unit, 0.0)


def reciprocal(values: FloatArray) -> FloatArray:
    """1 / value, 0 where the value is 0."""
    return np.where(values > 0, 1.0 / np.where(values > 0, values, 1.0), 0.0)


def _mean(values: FloatArray) -> FloatArray:
    return as_float(values.mean(axis=1, keepdims=True))


def _squares(x: FloatArray) -> FloatArray:
    return as_float(np.einsum("nt,nt->n", x, x))


def newest(values: FloatArray, length: int) -> FloatArray:
    """(N, length) the newest values; the first repeated where there are fewer."""
    missing = length - values.shape[1]
    if missing > 0:
        values = np.concatenate([np.repeat(values[:, :1], missing, axis=1), values], axis=1)
    return values[:, -length:].copy()
