"""From values on a grid to what a regression sees: lags, rolling statistics, the time of day.

The one rule everything here keeps: a row that speaks of instant t is made from values before t and
from t itself as a time, never from the value at t.
"""

from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sidecar.series import FloatArray, TimeArray

DAY_MS: Final = 86_400_000
WEEK_MS: Final = 7 * DAY_MS
# 1970-01-01 was a Thursday; weeks are counted from a Monday.
_MONDAY_MS: Final = 3 * DAY_MS
# Every zone's offset from UTC changes, if it does, at a multiple of a quarter of an hour.
_OFFSET_STEP_MS: Final = 900_000

N_EXTRA: Final = 6
SPIKE: Final = 50.0
RARE: Final = 144


def fill_gaps(y: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Straight lines over gaps between two values; the nearest value before the first and after
    the last; zeros in a row without any.

    Args:
        y: (N, T); NaN and infinities count as missing.

    Returns:
        The filled values (``y`` itself where nothing was missing), and (N, T) where there was a
        value.
    """
    observed = np.isfinite(y)
    rows = np.flatnonzero(~observed.all(axis=1))
    if not len(rows):
        return y, observed
    filled = y.copy()
    positions = np.arange(y.shape[1])
    for row in rows:
        known = observed[row]
        filled[row] = np.interp(positions, positions[known], y[row, known]) if known.any() else 0.0
    return filled, observed


def padded(y: FloatArray, size: int) -> FloatArray:
    """``y`` (N, T) with missing instants before it, where T is less than ``size``."""
    lacking = size - y.shape[1]
    if lacking <= 0:
        return y
    return np.concatenate([np.full((len(y), lacking), np.nan), y], axis=1)


def spikes(y: FloatArray) -> NDArray[np.bool_]:
    """(N, T) values that tower over everything near them and happen hardly ever.

    A value counts as a spike where it lies further from the median of itself and its two
    neighbours on each side than ``SPIKE`` times the mean absolute difference of the series (without
    its largest four), and no more than one in ``RARE`` values (or two) does. Bursts that come again
    stay: only what is hundreds of times larger than anything else moves, and was there once, would
    decide a whole fit. Instants without a value count nowhere: a series that has just begun is a
    few values at the end of a long window. Of fewer than eight values none is a spike.
    """
    found = np.zeros(y.shape, np.bool_)
    observed = np.isfinite(y)
    whole = observed.all(axis=1)
    found[whole] = _towering(y[whole])
    for row in np.flatnonzero(~whole):
        known = observed[row]
        found[row, known] = _towering(y[row : row + 1, known])[0]
    return found


def _towering(y: FloatArray) -> NDArray[np.bool_]:
    """``spikes`` of rows (N, T) without gaps."""
    found = np.zeros(y.shape, np.bool_)
    size = y.shape[1]
    if size < 8 or not len(y):
        return found
    steps = np.abs(np.diff(y, axis=1))
    # A spike is two of the steps, and nearly all of their sum: most series are done here.
    rows = np.flatnonzero(steps.max(axis=1) > min(SPIKE / size, 0.2) * steps.sum(axis=1))
    if not len(rows):
        return found
    usual = np.sort(steps[rows], axis=1)[:, : size - 5].mean(axis=1)
    around = np.pad(y[rows], ((0, 0), (2, 2)), mode="edge")
    median = np.median(sliding_window_view(around, 5, axis=1), axis=2)
    far = np.abs(y[rows] - median) > SPIKE * usual[:, None]
    rare = (far.sum(axis=1) <= max(2, size // RARE)) & (usual > 0)
    found[rows] = far & rare[:, None]
    return found


def local_time_ms(t_ms: TimeArray, timezone: str) -> TimeArray:
    """What a clock on the wall in ``timezone`` shows at the instants, as ms since the epoch."""
    if timezone == "UTC":
        return t_ms
    zone = ZoneInfo(timezone)
    blocks, place = np.unique(t_ms // _OFFSET_STEP_MS, return_inverse=True)
    offsets = [_offset_ms(int(block) * _OFFSET_STEP_MS, zone) for block in blocks]
    return np.asarray(t_ms + np.array(offsets, np.int64)[place], np.int64)


def _offset_ms(t_ms: int, zone: ZoneInfo) -> int:
    from datetime import UTC, datetime, timedelta

    instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=t_ms)
    offset = instant.astimezone(zone).utcoffset()
    return 0 if offset is None else round(offset.total_seconds() * 1000)


def cyclic(t_ms: TimeArray, timezone: str = "UTC") -> FloatArray:
    """(T, 4): sine and cosine of the hour of day, then of the day of week, by the local clock."""
    local = local_time_ms(t_ms, timezone)
    day = 2 * np.pi * (local % DAY_MS) / DAY_MS
    week = 2 * np.pi * ((local + _MONDAY_MS) % WEEK_MS) / WEEK_MS
    return np.stack([np.sin(day), np.cos(day), np.sin(week), np.cos(week)], axis=1)


def windows(y: FloatArray, size: int) -> FloatArray:
    """(..., T - size + 1, size): every window of ``size`` values, oldest first; a view, no copy."""
    return sliding_window_view(y, size, axis=-1)


def rows_before(lags: FloatArray, times: FloatArray) -> FloatArray:
    """Feature rows: lags as given, their mean and standard deviation, then the time columns.

    Args:
        lags: (..., L), oldest first, ending before the target.
        times: (..., 4), ``cyclic`` at the target.

    Returns:
        (..., L + 6).
    """
    mean = lags.mean(axis=-1, keepdims=True)
    std = lags.std(axis=-1, keepdims=True)
    times = np.broadcast_to(times, (*lags.shape[:-1], times.shape[-1]))
    return np.concatenate([lags, mean, std, times], axis=-1)


def append(buffer: FloatArray, value: FloatArray, missed: NDArray[np.int64]) -> FloatArray:
    """The newest L values with one more at the end, the oldest gone.

    Where instants were missed just before, what a model had put in their places gives way to the
    straight line from the last value seen: the change over a gap is not a jump at its end.

    Args:
        buffer: (N, L), newest last. value: (N,), finite. missed: (N,) instants since the last.
    """
    moved = np.concatenate([buffer[:, 1:], value[:, None]], axis=1)
    rows = np.flatnonzero(missed > 0)
    if len(rows):
        size = buffer.shape[1]
        gap = missed[rows, None]
        before = np.take_along_axis(buffer[rows], np.maximum(size - 1 - gap, 0), axis=1)
        age = np.arange(size)[::-1]
        line = value[rows, None] + (before - value[rows, None]) * (age / (gap + 1))
        moved[rows] = np.where(age <= gap, line, moved[rows])
    return moved
