"""How the newest instants went: rolling errors, the same against naive, coverage.

Read from a tracker whenever somebody asks; only ``rolling`` is needed at every instant.
"""

from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from sidecar.learning.residuals import BoolArray
from sidecar.learning.trackers import (
    ACTUAL,
    INSIDE,
    NAIVE,
    SEASONAL,
    Columns,
    Float32Array,
    Tracker,
)
from sidecar.series import FloatArray

# Where naive was exact and the model was not, the ratio of the two says only "worse".
LARGEST_RATIO: Final = 100.0
# One residual in so many may be an outlier without being counted as drift.
SPIKES: Final = 15


@dataclass(frozen=True, eq=False)
class Scores:
    """How the newest ``window`` instants went; each (N,) float64, NaN below ``minimum`` instants.

    Attributes:
        count: (N,) int64, judged instants in the window.
        mae: mean absolute one-step residual.
        naive_mae, seasonal_mae: of "as the instant before" and "as the same time yesterday", over
            the same instants.
        mase, seasonal_mase: mae against each of the two; 1 where both are exact, at most 100.
        smape: 0 to 2.
        coverage: share of actuals inside their one-step interval.
        level: mean absolute actual, what thresholds in percent are taken of.
        lead_mae: (N, L).
    """

    count: NDArray[np.int64]
    mae: FloatArray
    naive_mae: FloatArray
    seasonal_mae: FloatArray
    mase: FloatArray
    seasonal_mase: FloatArray
    smape: FloatArray
    coverage: FloatArray
    level: FloatArray
    lead_mae: FloatArray


@dataclass(frozen=True, eq=False)
class Rolling:
    """What drift needs each instant, over the window; each (N,), NaN below ``minimum`` instants.

    Attributes:
        mae: mean absolute one-step residual.
        steady: the same with the largest residuals, one in ``SPIKES``, counted as the next one: a
            few outliers, which heavy-tailed noise always has, do not raise it, and what lasts
            raises it a few instants later than ``mae``.
        count: (N,) int64, judged instants.
        level: mean absolute actual.
        magnitude: the same of all actuals in the window, judged or not, from the first one on.
    """

    mae: FloatArray
    steady: FloatArray
    count: NDArray[np.int64]
    level: FloatArray
    magnitude: FloatArray


def rolling(tracker: Tracker) -> Rolling:
    """The few figures that are needed at every instant."""
    residuals = _stacked(tracker, tracker.residuals)
    actuals = _stacked(tracker, tracker.measures, ACTUAL)
    judged = ~np.isnan(residuals)
    errors, count = np.abs(residuals), judged.sum(axis=0)

    size, there = np.abs(actuals), ~np.isnan(actuals)

    def counted(values: Float32Array, where: BoolArray) -> FloatArray:
        return np.where(count >= tracker.minimum, _mean(values, where), np.nan)

    return Rolling(
        mae=counted(errors, judged),
        steady=counted(_levelled(errors, judged), judged),
        count=count,
        level=counted(size, judged & there),
        magnitude=_mean(size, there),
    )


def typical(tracker: Tracker) -> tuple[FloatArray, NDArray[np.int64]]:
    """The median absolute one-step residual in the window (N,), NaN without one; of how many.

    Unlike the scores it is known from the first residual on: what no band of 0 can explain.
    """
    errors = np.abs(_stacked(tracker, tracker.residuals))
    count = (~np.isnan(errors)).sum(axis=0)
    ordered = np.sort(errors, axis=0)  # NaN last
    if not len(ordered):
        return np.full(tracker.size, np.nan), count
    at = np.maximum(count - 1, 0) // 2
    middle = np.take_along_axis(ordered, at[None], axis=0)[0].astype(np.float64)
    return np.where(count > 0, middle, np.nan), count


def scores(tracker: Tracker) -> Scores:
    """How the newest ``window`` instants went, for every series."""
    residuals = _stacked(tracker, tracker.residuals)
    naive = _stacked(tracker, tracker.measures, NAIVE)
    seasonal = _stacked(tracker, tracker.measures, SEASONAL)
    actuals = _stacked(tracker, tracker.measures, ACTUAL)
    inside = _stacked(tracker, tracker.measures, INSIDE)
    errors, judged = np.abs(residuals), ~np.isnan(residuals)
    count = judged.sum(axis=0)
    enough = count >= tracker.minimum
    with_naive, with_season = judged & ~np.isnan(naive), judged & ~np.isnan(seasonal)
    scale = np.abs(actuals) + np.abs(actuals - residuals)
    relative = np.divide(2 * errors, scale, out=np.zeros_like(errors), where=judged & (scale > 0))
    naive_mae, seasonal_mae = _mean(naive, with_naive), _mean(seasonal, with_season)

    def counted(values: FloatArray, need: NDArray[np.int64] = count) -> FloatArray:
        return np.where(enough & (need >= tracker.minimum), values, np.nan)

    return Scores(
        count=count,
        mae=counted(_mean(errors, judged)),
        naive_mae=counted(naive_mae, with_naive.sum(axis=0)),
        seasonal_mae=counted(seasonal_mae, with_season.sum(axis=0)),
        mase=counted(ratio(_mean(errors, with_naive), naive_mae), with_naive.sum(axis=0)),
        seasonal_mase=counted(
            ratio(_mean(errors, with_season), seasonal_mae), with_season.sum(axis=0)
        ),
        smape=counted(_mean(relative, judged)),
        coverage=counted(_mean(inside, judged & ~np.isnan(inside))),
        level=counted(_mean(np.abs(actuals), judged)),
        lead_mae=np.divide(
            tracker.lead_mae,
            tracker.lead_weight,
            out=np.full(tracker.lead_mae.shape, np.nan),
            where=tracker.lead_weight > 0,
        ),
    )


def ratio(mae: FloatArray, reference: FloatArray) -> FloatArray:
    """``mae / reference``, 1 where both are 0, at most 100; NaN where either is."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        quotient = np.where((mae == 0) & (reference == 0), 1.0, mae / reference)
    return np.minimum(quotient, LARGEST_RATIO)


def _stacked(tracker: Tracker, columns: Columns, at: int | None = None) -> Float32Array:
    """(K, N): the columns inside the window, time first so that a sum over time is contiguous."""
    oldest = tracker.newest_ms - tracker.window * tracker.step_ms
    inside = [columns[t] for t in sorted(columns) if t > oldest]
    chosen = inside if at is None else [column[:, at] for column in inside]
    empty = np.empty((0, tracker.size), dtype=np.float32)
    return cast(Float32Array, np.stack(chosen)) if chosen else empty


def _levelled(errors: Float32Array, judged: BoolArray) -> Float32Array:
    """(K, N) errors, the largest K / ``SPIKES`` of each column cut to the one below them."""
    below = len(errors) - 1 - len(errors) // SPIKES
    if below in (-1, len(errors) - 1):
        return errors
    cap = np.partition(np.where(judged, errors, np.float32(-1)), below, axis=0)[below]
    return np.minimum(errors, np.where(cap < 0, np.float32(np.inf), cap))


def _mean(values: NDArray[Any], counted: BoolArray) -> FloatArray:
    """Mean over time (axis 0) of the counted entries, summed in float64; NaN where none are."""
    total = np.where(counted, values, np.float32(0)).sum(axis=0, dtype=np.float64)
    count = counted.sum(axis=0)
    return cast(
        FloatArray, np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    )
