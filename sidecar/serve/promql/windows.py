"""From raw samples to steps: the lookback of instant selectors, and the ``*_over_time`` family.

A window ends at ``at_ms``, inclusive, and begins ``range_ms`` before: inclusive up to Prometheus 2,
exclusive ("left-open") from 3 on.

Layout: samples are (N, S), a window is a slice of columns; the loop runs over steps, the arithmetic
over series.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from sidecar.names import METRIC_NAME
from sidecar.series import FloatArray, TimeArray
from sidecar.serve.promql.frames import Budget, Frame, Mask, Samples, merged

# values (N, W) and mask (N, W) of one window to (N,); a row without any sample may give anything.
Reducer = Callable[[FloatArray, Mask], FloatArray]


def bounds(
    instants_ms: TimeArray, at_ms: TimeArray, range_ms: int, left_open: bool
) -> tuple[TimeArray, TimeArray]:
    """First and last-plus-one column (T,) of the windows that end at ``at_ms`` (T,)."""
    first = np.searchsorted(instants_ms, at_ms - range_ms, "right" if left_open else "left")
    end = np.searchsorted(instants_ms, at_ms, "right")
    return first.astype(np.int64), end.astype(np.int64)


def newest(
    samples: Samples, at_ms: TimeArray, lookback_ms: int, left_open: bool
) -> tuple[Frame, TimeArray]:
    """The newest sample in each window, and its timestamp (N, T); what instant selectors take."""
    first, end = bounds(samples.instants_ms, at_ms, lookback_ms, left_open)
    columns = np.where(samples.present, np.arange(len(samples.instants_ms)), -1)
    newest_column = np.maximum.accumulate(columns, axis=1)
    has_any = np.broadcast_to(end > first, (len(samples.labels), len(at_ms)))
    if not len(samples.instants_ms):
        nothing = np.zeros(has_any.shape)
        return Frame(samples.labels, nothing, nothing > 0), nothing.astype(np.int64)
    column = newest_column[:, np.maximum(end - 1, 0)]
    present = has_any & (column >= first)
    column = np.maximum(column, 0)
    values = np.take_along_axis(samples.values, column, axis=1)
    return Frame(samples.labels, values, present), samples.instants_ms[column]


def over_time(
    function: str,
    samples: Samples,
    at_ms: TimeArray,
    range_ms: int,
    left_open: bool,
    budget: Budget,
    quantiles: FloatArray | None = None,
) -> Frame:
    """One of the ``*_over_time`` functions at each step.

    Args:
        quantiles: (T,) the first argument of ``quantile_over_time``.
    """
    first, end = bounds(samples.instants_ms, at_ms, range_ms, left_open)
    n, steps = len(samples.labels), len(at_ms)
    budget.check(n, steps)
    values, present = np.full((n, steps), np.nan), np.zeros((n, steps), dtype=np.bool_)
    before: tuple[int, int, float] | None = None
    for step, (a, b) in enumerate(zip(first.tolist(), end.tolist(), strict=True)):
        if b <= a:
            continue
        phi = float(quantiles[step]) if quantiles is not None else 0.0
        if before == (a, b, phi):  # a selector with @ has one window for all steps
            values[:, step], present[:, step] = values[:, step - 1], present[:, step - 1]
            continue
        window, mask = samples.values[:, a:b], samples.present[:, a:b]
        present[:, step] = mask.any(axis=1)
        if quantiles is not None:
            values[:, step] = quantile(window, mask, phi)
        else:
            values[:, step] = _REDUCERS[function](window, mask)
        before = (a, b, phi)
        budget.check(0, 0)
    keeps_name = function == "last_over_time"
    labels = samples.labels if keeps_name else [one.without(METRIC_NAME) for one in samples.labels]
    return merged(labels, values, present)


def any_in(samples: Samples, at_ms: TimeArray, range_ms: int, left_open: bool) -> Mask:
    """(1, T) whether any series has a sample in the window of a step."""
    instants_ms = samples.instants_ms[samples.present.any(axis=0)]
    first, end = bounds(instants_ms, at_ms, range_ms, left_open)
    return (end > first)[None, :]


def _sum(values: FloatArray, mask: Mask) -> FloatArray:
    total: FloatArray = np.where(mask, values, 0.0).sum(axis=1)
    return total


def _count(_values: FloatArray, mask: Mask) -> FloatArray:
    count: FloatArray = mask.sum(axis=1).astype(np.float64)
    return count


def mean(values: FloatArray, mask: Mask) -> FloatArray:
    """(N,) mean over the second axis; where the sum overflows, of the parts."""
    count = np.maximum(mask.sum(axis=1), 1)
    total = _sum(values, mask)
    result: FloatArray = total / count
    overflown = np.isinf(total) & ~np.any(mask & np.isinf(values), axis=1)
    if overflown.any():
        parts = _sum(values / count[:, None], mask)
        result = np.where(overflown, parts, result)
    return result


def _minimum(values: FloatArray, mask: Mask) -> FloatArray:
    least: FloatArray = np.fmin.reduce(np.where(mask, values, np.nan), axis=1)
    return least


def _maximum(values: FloatArray, mask: Mask) -> FloatArray:
    greatest: FloatArray = np.fmax.reduce(np.where(mask, values, np.nan), axis=1)
    return greatest


def variance(values: FloatArray, mask: Mask) -> FloatArray:
    """(N,) population variance over the second axis, two passes."""
    distance = values - mean(values, mask)[:, None]
    return mean(distance * distance, mask)


def _deviation(values: FloatArray, mask: Mask) -> FloatArray:
    deviation: FloatArray = np.sqrt(variance(values, mask))
    return deviation


def _last(values: FloatArray, mask: Mask) -> FloatArray:
    column = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
    newest: FloatArray = values[np.arange(len(values)), column]
    return newest


def _one(values: FloatArray, _mask: Mask) -> FloatArray:
    return np.ones(len(values))


_REDUCERS: Final[dict[str, Reducer]] = {
    "sum_over_time": _sum,
    "count_over_time": _count,
    "avg_over_time": mean,
    "min_over_time": _minimum,
    "max_over_time": _maximum,
    "stddev_over_time": _deviation,
    "stdvar_over_time": variance,
    "last_over_time": _last,
    "present_over_time": _one,
}
WINDOW_FUNCTIONS: Final = frozenset({*_REDUCERS, "quantile_over_time", "absent_over_time"})


def quantile(values: FloatArray, mask: Mask, phi: float) -> FloatArray:
    """(N,) the phi-quantile over the second axis, interpolated; NaN values rank lowest."""
    n = mask.sum(axis=1)
    if np.isnan(phi):
        return np.full(len(values), np.nan)
    if phi < 0 or phi > 1:
        return np.full(len(values), np.copysign(np.inf, phi))
    ordered = np.sort(np.where(mask, values, np.nan), axis=1)  # NaNs go to the end
    nans = (mask & np.isnan(values)).sum(axis=1)
    rank = phi * (np.maximum(n, 1) - 1)
    low = np.floor(rank).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(n, 1) - 1)
    weight = rank - low

    def ranked(index: TimeArray) -> FloatArray:
        column = index - nans
        found = ordered[np.arange(len(ordered)), np.maximum(column, 0)]
        return np.where(column < 0, np.nan, found)

    result: FloatArray = ranked(low) * (1 - weight) + ranked(high) * weight
    return result
