"""What is counted of a replay: errors by series and lead, beside those of the two yardsticks.

The forecasts that are judged are the tracker's own, those that live judging would use. Sums only:
a year of instants takes no more room than a day.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidecar.learning.scores import ratio
from sidecar.learning.trackers import DAY_MS, Tracker
from sidecar.models.contract import as_float
from sidecar.series import FloatArray, SeriesBatch


@dataclass(frozen=True, eq=False)
class Tally:
    """Sums over the instants of the range; changed in place by ``add``.

    Attributes:
        actual: (N, T).
        naive: (N, first + T) the newest value at or before each instant of history and range.
        yesterday: (N, T) the value a day before each tested instant; NaN where there is none.
        leads: L, in instants.
        judged: (N, L) int64, how many instants had both a forecast and an actual.
        error, relative: (N, L) sums of |actual - forecast|, and of that twice over the sum of the
            sizes (0 to 2).
        banded, inside: (N, L) how many of those forecasts had a band, and held the actual in it.
        beside_naive, naive_error: (N, L) the errors of the forecast, and of "as at the origin",
            over the instants where both are known; beside_season and season_error likewise for "as
            a day before".
        with_naive, with_season: (N, L) int64, how many instants those are.
        covered, counted: (T,) over all series, one-step: how many were inside, and had a band.
    """

    actual: FloatArray
    naive: FloatArray
    yesterday: FloatArray
    leads: tuple[int, ...]
    judged: NDArray[np.int64]
    error: FloatArray
    relative: FloatArray
    banded: NDArray[np.int64]
    inside: FloatArray
    beside_naive: FloatArray
    naive_error: FloatArray
    beside_season: FloatArray
    season_error: FloatArray
    with_naive: NDArray[np.int64]
    with_season: NDArray[np.int64]
    covered: FloatArray
    counted: FloatArray


@dataclass(frozen=True, eq=False)
class Judged:
    """What was forecast for one instant: n series, L leads.

    Attributes:
        one_step: (n, 3) mean, lower, upper.
        mean, half: (n, L) for each lead the mean and half the width of its band.
    """

    one_step: FloatArray
    mean: FloatArray
    half: FloatArray


@dataclass(frozen=True, eq=False)
class Figures:
    """Errors by series and lead, each (N, L); NaN where nothing was judged.

    Attributes:
        judged: (N, L) int64.
        mae: in the series' unit.
        mase, seasonal_mase: against "as at the origin" and "as a day before"; at most 100.
        smape: 0 to 2.
        coverage: share of actuals inside the band, where there was one.
    """

    judged: NDArray[np.int64]
    mae: FloatArray
    mase: FloatArray
    seasonal_mase: FloatArray
    smape: FloatArray
    coverage: FloatArray


def start_tally(batch: SeriesBatch, tested: int, leads: tuple[int, ...]) -> Tally:
    """Nothing counted yet of the newest ``tested`` instants of a batch."""
    n = len(batch.labels)
    shape = (n, len(leads))
    sums = [np.zeros(shape) for _ in range(7)]
    counts = [np.zeros(shape, dtype=np.int64) for _ in range(4)]
    return Tally(
        actual=batch.values[:, -tested:],
        naive=carried(batch.values),
        yesterday=_a_day_before(batch, tested),
        leads=leads,
        judged=counts[0],
        error=sums[0],
        relative=sums[1],
        inside=sums[2],
        beside_naive=sums[3],
        naive_error=sums[4],
        beside_season=sums[5],
        season_error=sums[6],
        with_naive=counts[1],
        with_season=counts[2],
        banded=counts[3],
        covered=np.zeros(tested),
        counted=np.zeros(tested),
    )


def judged_at(tracker: Tracker, t_ms: int) -> Judged:
    """The forecasts for an instant that a tracker still has: one of the newest few."""
    shape = (tracker.size, len(tracker.leads))
    mean, half = np.full(shape, np.nan), np.full(shape, np.nan)
    one = tracker.one_step.get(t_ms)
    one_step = np.full((tracker.size, 3), np.nan) if one is None else one
    mean[:, 0], half[:, 0] = one_step[:, 0], (one_step[:, 2] - one_step[:, 1]) / 2
    for at, columns in enumerate(tracker.pending, start=1):
        column = columns.get(t_ms)
        if column is not None:
            mean[:, at], half[:, at] = tracker.anchor + column[:, 0], column[:, 1]
    return Judged(one_step, mean, half)


def add(tally: Tally, rows: NDArray[np.int64], column: int, found: Judged) -> None:
    """Count one instant, in place.

    Args:
        rows: (n,) the tally's row of each series of ``found``.
        column: which of the T instants.
    """
    actual = tally.actual[rows, column][:, None]
    residual = actual - found.mean
    judged = np.isfinite(residual)
    error = np.abs(residual)
    size = np.abs(actual) + np.abs(found.mean)
    relative = np.divide(2 * error, size, out=np.zeros_like(error), where=judged & (size > 0))
    low, high = found.mean - found.half, found.mean + found.half
    banded = judged & np.isfinite(found.half)
    inside = (actual >= low) & (actual <= high)
    inside[:, 0] = (actual[:, 0] >= found.one_step[:, 1]) & (actual[:, 0] <= found.one_step[:, 2])
    first = tally.naive.shape[1] - tally.actual.shape[1]
    back = first + column - np.array(tally.leads)
    origin = tally.naive[rows[:, None], np.maximum(back, 0)]
    naive = np.abs(actual - np.where(back >= 0, origin, np.nan))
    season = np.abs(actual - tally.yesterday[rows, column][:, None])
    tally.judged[rows] += judged
    tally.error[rows] += np.where(judged, error, 0.0)
    tally.relative[rows] += relative
    tally.banded[rows] += banded
    tally.inside[rows] += inside & judged
    for ours, theirs, count, other in (
        (tally.beside_naive, tally.naive_error, tally.with_naive, naive),
        (tally.beside_season, tally.season_error, tally.with_season, season),
    ):
        both = judged & np.isfinite(other)
        ours[rows] += np.where(both, error, 0.0)
        theirs[rows] += np.where(both, other, 0.0)
        count[rows] += both
    tally.covered[column] += np.count_nonzero(inside[:, 0] & judged[:, 0])
    tally.counted[column] += np.count_nonzero(banded[:, 0])


def figures(tally: Tally) -> Figures:
    """The errors of a replay, by series and lead."""

    def mean(total: FloatArray, count: NDArray[np.int64] = tally.judged) -> FloatArray:
        out = np.full(total.shape, np.nan)
        return as_float(np.divide(total, count, out=out, where=count > 0))

    def against(ours: FloatArray, theirs: FloatArray, count: NDArray[np.int64]) -> FloatArray:
        return np.where(count > 0, ratio(ours, theirs), np.nan)

    return Figures(
        judged=tally.judged,
        mae=mean(tally.error),
        mase=against(tally.beside_naive, tally.naive_error, tally.with_naive),
        seasonal_mase=against(tally.beside_season, tally.season_error, tally.with_season),
        smape=mean(tally.relative),
        coverage=mean(tally.inside, tally.banded),
    )


def carried(values: FloatArray) -> FloatArray:
    """(N, T) at each instant the newest value at or before it; NaN before the first."""
    at = np.where(np.isfinite(values), np.arange(values.shape[1]), 0)
    newest = np.maximum.accumulate(at, axis=1)
    return as_float(np.take_along_axis(values, newest, axis=1))


def _a_day_before(batch: SeriesBatch, tested: int) -> FloatArray:
    """(N, tested) NaN where the granularity does not divide a day, or the history is shorter."""
    n, size = batch.values.shape
    day, rest = divmod(DAY_MS, batch.grid.step_ms)
    out = np.full((n, tested), np.nan)
    missing = max(0, day - (size - tested))
    if not rest and missing < tested:
        out[:, missing:] = batch.values[:, size - tested + missing - day : size - day]
    return out
