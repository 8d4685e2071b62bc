"""Small numeric helpers that models share: missing values, tiny solves, interval widths."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from sidecar.models.contract import Intervals, S, put, take
from sidecar.series import FloatArray, TimeArray

CHUNK = 640  # series worked on at once: rows of so many numbers stay in the nearest caches
LONGEST_GAP = 2000  # missing instants from which on uncertainty grows no further
TOWER, MIN_HISTORY, SAMPLED = 10.0, 10, 36  # see ``without_towers``

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


def runs(size: int, length: int = CHUNK) -> list[slice]:
    """``size`` series in runs of at most ``length``, none much shorter than the others."""
    count = max(1, -(-size // length)) if size else 0
    edges = np.linspace(0, size, count + 1).astype(int).tolist()
    return [slice(begin, end) for begin, end in pairwise(edges)]


def interpolate(y: FloatArray, present: BoolArray) -> FloatArray:
    """Missing values of each row on the line between their neighbours; at the ends the nearest.

    Args:
        y: (N, T). present: (N, T), where y counts. A row without any value comes back as zeros.
    """
    gappy = np.flatnonzero(~present.all(axis=1))
    if len(gappy) == 0:
        return y
    filled = y.copy()
    filled[gappy] = _interpolated(np.where(present[gappy], y[gappy], 0.0), present[gappy])
    return filled


def _interpolated(y: FloatArray, present: BoolArray) -> FloatArray:
    """``interpolate`` of rows that are finite everywhere."""
    columns, size = np.arange(y.shape[1]), y.shape[1]
    before = np.maximum.accumulate(np.where(present, columns, -1), axis=1)
    after = np.minimum.accumulate(np.where(present, columns, size)[:, ::-1], axis=1)[:, ::-1]
    none_before, none_after = before < 0, after == size
    after = np.where(none_after, np.maximum(before, 0), after)
    before = np.where(none_before, after, before)
    low, high = np.take_along_axis(y, before, axis=1), np.take_along_axis(y, after, axis=1)
    share = (columns - before) / np.maximum(after - before, 1)
    return np.where(present.any(axis=1, keepdims=True), low + share * (high - low), 0.0)


def without_towers(y: FloatArray) -> FloatArray:
    """``y`` (N, T) with values that tower over all others of their row made ordinary.

    Those are up to one in a hundred values (at least one) that lie more than ``TOWER`` times the
    range of the others outside it: something was read wrongly, which is not a busy minute. In their
    place comes what lies between their neighbours. Missing values stay missing. A history of fewer
    than ``MIN_HISTORY`` instants is returned as it is.
    """
    if y.shape[1] < MIN_HISTORY:
        return y
    calm, few = y, max(1, y.shape[1] // 100)
    for rows in runs(len(y), 128):
        suspects = rows.start + np.flatnonzero(_lopsided(y[rows], few))
        values = y[suspects]
        present = np.isfinite(values)
        ordered = np.sort(interpolate(values, present), axis=1)
        low, high = ordered[:, few], ordered[:, -1 - few]
        room = TOWER * (high - low)
        some = np.flatnonzero((ordered[:, 0] < low - room) | (ordered[:, -1] > high + room))
        if len(some) == 0:
            continue
        low, high = (low - room)[some, None], (high + room)[some, None]
        suspects, values, present = suspects[some], values[some], present[some]
        towers = present & ((values < low) | (values > high))
        calm = y.copy() if calm is y else calm
        calm[suspects] = np.where(towers, interpolate(values, present & ~towers), values)
    return calm


def _lopsided(y: FloatArray, few: int) -> BoolArray:
    """(N,) rows that may have towers: quick to see, and true of all that have.

    Compared are the whole range and that of every so many values but the ``few`` at its ends, which
    is at most that of the others. A row with values that are not finite is one of them.
    """
    stride = max(1, y.shape[1] // max(SAMPLED, 4 * few))
    some = np.sort(y[:, ::stride], axis=1)
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf
        inner = some[:, -1 - few] - some[:, few]
        return np.asarray(~(y.max(axis=1) - y.min(axis=1) <= TOWER * inner))


def first_present(present: BoolArray) -> IntArray:
    """(N,) column of the first value of each row of ``present`` (N, T); 0 where there is none."""
    return np.asarray(present.argmax(axis=1), dtype=np.int64)


def missing_at_end(present: BoolArray) -> IntArray:
    """(N,) how many instants in a row are missing up to the last, of ``present`` (N, T)."""
    return np.asarray(present[:, ::-1].argmax(axis=1), dtype=np.int64)


def solve(matrix: FloatArray, right: FloatArray) -> FloatArray:
    """N small symmetric positive systems at once, by Cholesky; N is the last axis.

    Vectorised over N: for systems of up to about six unknowns this is many times faster than
    ``numpy.linalg.solve``, which calls LAPACK once for each. A pivot that is not positive (columns
    that are dependent) counts as huge, which leaves that unknown at zero.

    Args:
        matrix: (k, k, N). right: (k, m, N).

    Returns:
        (k, m, N).
    """
    size = len(matrix)
    factor = np.zeros_like(matrix)
    solution = right.copy()
    for i in range(size):
        for j in range(i):
            done = matrix[i, j] - np.einsum("kn,kn->n", factor[i, :j], factor[j, :j])
            factor[i, j] = done / factor[j, j]
        pivot = matrix[i, i] - np.einsum("kn,kn->n", factor[i, :i], factor[i, :i])
        dependent = pivot <= 1e-13 * matrix[i, i]
        factor[i, i] = np.where(dependent, 1e150, np.sqrt(np.where(dependent, 1.0, pivot)))
        for j in range(i):
            solution[i] -= factor[i, j] * solution[j]
        solution[i] /= factor[i, i]
    for i in reversed(range(size)):
        for j in range(i + 1, size):
            solution[i] -= factor[j, i] * solution[j]
        solution[i] /= factor[i, i]
    return solution


def gaussian_intervals(mean: FloatArray, deviation: FloatArray, level: float) -> Intervals:
    """``mean`` with the central normal interval that covers ``level``; both (N, H).

    ``deviation`` is the standard deviation of the forecast's error at each lead; where it falls
    with the lead the widest so far is kept, since a later instant is never better known.
    """
    width = ndtri((1.0 + level) / 2.0) * np.maximum.accumulate(deviation, axis=1)
    return Intervals(mean=mean, lower=mean - width, upper=mean + width)


def lead_deviation(weights: FloatArray, sigma: FloatArray, missed: IntArray) -> FloatArray:
    """Standard deviation of the forecast's error at leads 1..H, by how shocks travel.

    var(h) = sigma^2 (1 + w_1^2 + ... + w_{h-1}^2) with w_j the effect of a shock j instants later;
    after ``missed`` instants without a sample, lead h is as uncertain as lead h + missed was.

    Args:
        weights: (H + M, N), the first row ones, M at least the largest of ``missed``.
        sigma: (N,). missed: (N,).

    Returns:
        (N, H).
    """
    horizon = len(weights) - int(missed.max(initial=0))
    growth = np.sqrt(np.cumsum(weights**2, axis=0))
    leads = np.arange(horizon)[:, None] + missed
    return np.ascontiguousarray((sigma * np.take_along_axis(growth, leads, axis=0)).T)


def gaps_apart(
    forecast: Callable[[S, TimeArray], Intervals], state: S, missed: IntArray, t_ms: TimeArray
) -> Intervals:
    """``forecast(state, t_ms)``, where series with ``missed`` instants go by themselves.

    What a forecast computes reaches as far as its horizon and the longest gap together; so one
    series that is silent for days does not cost all others memory.
    """
    behind = np.flatnonzero(missed > 0)
    if len(behind) in (0, len(missed)):
        return forecast(state, t_ms)
    whole = np.flatnonzero(missed == 0)
    parts = [(rows, forecast(take(state, rows), t_ms)) for rows in (whole, behind)]
    mean, lower, upper = np.empty((3, len(missed), len(t_ms)))
    for rows, part in parts:
        mean[rows], lower[rows], upper[rows] = part.mean, part.lower, part.upper
    return Intervals(mean, lower, upper)


def absorb_new(
    absorb: Callable[[S, TimeArray, FloatArray], S], state: S, t_ms: TimeArray, y: FloatArray
) -> S:
    """``absorb(state, t_ms, y)`` with each series given only the instants it has not seen."""
    if len(t_ms) and state.last_ms.max(initial=0) < t_ms[0]:
        return absorb(state, t_ms, y)
    seen = np.searchsorted(t_ms, state.last_ms, side="right")
    skips = np.unique(seen)
    if len(skips) == 1:
        skip = int(skips[0])
        return absorb(state, t_ms[skip:], y[:, skip:]) if skip < len(t_ms) else state
    for skip in skips[skips < len(t_ms)]:
        rows = np.flatnonzero(seen == skip)
        state = put(state, rows, absorb(take(state, rows), t_ms[skip:], y[rows, skip:]))
    return state
