"""What was forecast for an instant, against what came: each residual, found when its actual comes.

A ``Tracker`` keeps the forecasts whose instants have not come yet, for the leads 1, 2, 4, ... and
H, and the residuals of those that have. Recording and judging give a new tracker and leave the one
that they were given as it is.
"""

from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sidecar.learning.trackers import (
    ACTUAL,
    SEASON_BUCKET_MS,
    Columns,
    Float32Array,
    Tracker,
)
from sidecar.series import FloatArray, Forecast, TimeArray

BoolArray: TypeAlias = NDArray[np.bool_]

# What float32 columns are clipped at: sums of a few of them still are no infinity.
_FLOAT32_MAX: Final = 5e37


@dataclass(frozen=True, eq=False)
class Judgement:
    """What one instant said about the forecasts made for it.

    Attributes:
        t_ms: the instant.
        expected, lower, upper: (N,) float64, the forecast made one instant before; NaN = none.
        residual: (N,) float64, actual - expected of the rows judged now; NaN for the others.
        fresh: (N,) bool, rows whose actual of this instant was seen for the first time.
        leads: as the tracker's.
        lead_residuals: (N, L) float64, per lead actual - mean, NaN where there was none.
        lead_widths: (N, L) float64, half the width of the interval each of those came with.
    """

    t_ms: int
    expected: FloatArray
    lower: FloatArray
    upper: FloatArray
    residual: FloatArray
    fresh: BoolArray
    leads: tuple[int, ...]
    lead_residuals: FloatArray
    lead_widths: FloatArray


@np.errstate(over="ignore", invalid="ignore")  # beyond 1e308 a residual is infinite, and clipped
def record(tracker: Tracker, forecast: Forecast) -> Tracker:
    """Keep what ``forecast`` says of its instants until they come.

    Args:
        forecast: rows as the tracker's; a NaN row is "no forecast" and is not judged.

    Raises:
        ValueError: another number of series, another granularity, or fewer steps than the leads.
    """
    n, horizon = forecast.mean.shape
    if n != tracker.size or forecast.step_ms != tracker.step_ms or horizon < tracker.leads[-1]:
        raise ValueError(
            f"a forecast of {n} series, {horizon} steps of {forecast.step_ms} ms does not fit a "
            f"tracker of {tracker.size} series, {tracker.leads[-1]} steps of {tracker.step_ms} ms"
        )
    origin, step = forecast.origin_ms, tracker.step_ms
    tracker = _rewound(tracker, origin)
    newest = max(tracker.newest_ms, origin)
    oldest = newest - tracker.late * step
    anchor = _anchored(tracker.anchor, forecast.mean[:, 0])
    first = np.column_stack((forecast.mean[:, 0], forecast.lower[:, 0], forecast.upper[:, 0]))
    pending = tuple(
        _kept(columns, oldest, origin + lead * step, _offset(forecast, lead, anchor))
        for lead, columns in zip(tracker.leads[1:], tracker.pending, strict=True)
    )
    return replace(
        tracker,
        newest_ms=newest,
        anchor=anchor,
        one_step=_kept(tracker.one_step, oldest, origin + step, first),
        pending=pending,
    )


@np.errstate(over="ignore", invalid="ignore")
def judge(tracker: Tracker, t_ms: int, actual: FloatArray) -> tuple[Tracker, Judgement]:
    """Hold the actuals of instant ``t_ms`` against every forecast made for it.

    May be called again for an instant, as late samples come: a row is judged once, with the first
    value it had. A NaN judges nothing. An instant more than ``late`` before the newest is past.

    Args:
        actual: (N,) float64; NaN = no sample (yet).

    Raises:
        ValueError: ``t_ms`` is not an instant of the grid, or another number of series.
    """
    if t_ms % tracker.step_ms or actual.shape != (tracker.size,):
        raise ValueError(
            f"{actual.shape} actuals at {t_ms} do not fit {tracker.size} series at multiples of "
            f"{tracker.step_ms} ms"
        )
    measured = tracker.measures.get(t_ms)
    fresh = np.isfinite(actual)
    if measured is not None:
        fresh &= np.isnan(measured[:, ACTUAL])
    one = _column(tracker.one_step, t_ms, (tracker.size, 3))
    residual = np.where(fresh, actual - one[:, 0], np.nan)
    lead_residuals, lead_widths = _lead_residuals(tracker, t_ms, actual, fresh, residual, one)
    judgement = Judgement(
        t_ms=t_ms,
        expected=one[:, 0],
        lower=one[:, 1],
        upper=one[:, 2],
        residual=residual,
        fresh=fresh,
        leads=tracker.leads,
        lead_residuals=lead_residuals,
        lead_widths=lead_widths,
    )
    newest = max(tracker.newest_ms, t_ms)
    if t_ms <= newest - tracker.late * tracker.step_ms:
        return tracker, judgement
    return _absorbed(tracker, newest, actual, judgement), judgement


def _absorbed(tracker: Tracker, newest: int, actual: FloatArray, found: Judgement) -> Tracker:
    """The tracker after one judged instant."""
    t, step, fresh = found.t_ms, tracker.step_ms, found.fresh
    anchor = _anchored(tracker.anchor, actual)
    before = _column(tracker.levels, t - step, (tracker.size,))
    measures = np.column_stack(
        (
            np.abs(actual - before),
            np.abs(actual - anchor - tracker.season[:, _season_slot(tracker, t)]),
            actual,
            _inside(actual, found),
        )
    )
    weight = np.float32(2.0 / (tracker.window + 1.0))
    judged = np.isfinite(found.lead_residuals)
    gain = np.where(judged, weight, np.float32(0.0))
    size_of = np.where(judged, np.abs(found.lead_residuals), 0.0)
    season, season_sum, season_count, bucket = _seasoned(tracker, t, actual, anchor, fresh)
    return replace(
        tracker,
        newest_ms=newest,
        anchor=anchor,
        residuals=_kept(
            tracker.residuals,
            newest - tracker.memory * step,
            t,
            _merged(tracker.residuals.get(t), _float32(found.residual), fresh),
        ),
        measures=_kept(
            tracker.measures,
            newest - tracker.window * step,
            t,
            _merged(tracker.measures.get(t), _float32(measures), fresh),
        ),
        levels=_kept(
            tracker.levels,
            newest - (tracker.late + 1) * step,
            t,
            np.where(np.isfinite(actual), actual, _level_at(tracker, t, before)),
        ),
        lead_mae=_float32((1 - gain) * tracker.lead_mae + gain * size_of),
        lead_weight=(1 - gain) * tracker.lead_weight + gain,
        season=season,
        season_sum=season_sum,
        season_count=season_count,
        season_bucket=bucket,
    )


def _lead_residuals(
    tracker: Tracker,
    t_ms: int,
    actual: FloatArray,
    fresh: BoolArray,
    residual: FloatArray,
    one: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Residuals and half widths (N, L) of every lead whose target was ``t_ms``."""
    shape = (tracker.size, len(tracker.leads))
    residuals, widths = np.full(shape, np.nan), np.full(shape, np.nan)
    residuals[:, 0] = residual
    widths[:, 0] = (one[:, 2] - one[:, 1]) / 2
    centred = np.where(fresh, actual - tracker.anchor, np.nan)
    for at, columns in enumerate(tracker.pending, start=1):
        column = columns.get(t_ms)
        if column is not None:
            residuals[:, at] = centred - column[:, 0]
            widths[:, at] = column[:, 1]
    return residuals, widths


def _inside(actual: FloatArray, found: Judgement) -> FloatArray:
    inside = (actual >= found.lower) & (actual <= found.upper)
    return np.where(np.isnan(found.lower) | np.isnan(actual), np.nan, inside)


def _level_at(tracker: Tracker, t_ms: int, before: FloatArray) -> FloatArray:
    """The newest value known at an instant without one: its own from an earlier call, or before."""
    own = tracker.levels.get(t_ms)
    return before if own is None else np.where(np.isnan(own), before, own)


def _season_bucket(tracker: Tracker, t_ms: int) -> int:
    return t_ms // max(tracker.step_ms, SEASON_BUCKET_MS)


def _season_slot(tracker: Tracker, t_ms: int) -> int:
    return _season_bucket(tracker, t_ms) % int(tracker.season.shape[1])


def _seasoned(
    tracker: Tracker, t_ms: int, actual: FloatArray, anchor: FloatArray, fresh: BoolArray
) -> tuple[Float32Array, FloatArray, FloatArray, int]:
    """The means by time of day with this instant in them; a late one does not reopen its bucket."""
    bucket = _season_bucket(tracker, t_ms)
    season, total, count = tracker.season, tracker.season_sum, tracker.season_count
    if bucket < tracker.season_bucket:
        return season, total, count, tracker.season_bucket
    if bucket > tracker.season_bucket:
        filled = count > 0
        if filled.any():
            season = season.copy()
            slot = tracker.season_bucket % season.shape[1]
            season[filled, slot] = _float32(total[filled] / count[filled])
        total, count = np.zeros(tracker.size), np.zeros(tracker.size)
    return season, total + np.where(fresh, actual - anchor, 0.0), count + fresh, bucket


def live_residuals(tracker: Tracker, instants_ms: TimeArray) -> FloatArray:
    """The recorded one-step residuals at some instants, (N, K) float64; NaN where not judged."""
    out = np.full((tracker.size, instants_ms.size), np.nan)
    for at, t_ms in enumerate(instants_ms.tolist()):
        column = tracker.residuals.get(t_ms)
        if column is not None:
            out[:, at] = column
    return out


# Small helpers


def _float32(values: FloatArray) -> Float32Array:
    return np.clip(values, -_FLOAT32_MAX, _FLOAT32_MAX).astype(np.float32)


def _anchored(anchor: FloatArray, values: FloatArray) -> FloatArray:
    """An anchor for the series that have none yet; the very same array where nothing changes."""
    unset = np.isnan(anchor)
    return np.where(unset, values, anchor) if unset.any() else anchor


def _offset(forecast: Forecast, lead: int, anchor: FloatArray) -> Float32Array:
    at = lead - 1
    half = (forecast.upper[:, at] - forecast.lower[:, at]) / 2
    return _float32(np.column_stack((forecast.mean[:, at] - anchor, half)))


def _column(columns: Columns, t_ms: int, shape: tuple[int, ...]) -> FloatArray:
    column = columns.get(t_ms)
    return np.full(shape, np.nan) if column is None else column


def _kept(columns: Columns, oldest_ms: int, t_ms: int, column: NDArray[Any]) -> Columns:
    """The columns after ``oldest_ms``, with one set."""
    kept = {t: old for t, old in columns.items() if t > oldest_ms}
    kept[t_ms] = column
    return kept


def _merged(old: NDArray[Any] | None, new: NDArray[Any], fresh: BoolArray) -> NDArray[Any]:
    rows = fresh if new.ndim == 1 else fresh[:, None]
    return np.where(rows, new, np.float32(np.nan) if old is None else old)


def _rewound(tracker: Tracker, origin_ms: int) -> Tracker:
    """After a clock that went back by more than ``late``, what lies ahead never comes: drop it."""
    if origin_ms >= tracker.newest_ms - tracker.late * tracker.step_ms:
        return tracker

    def past(columns: Columns) -> Columns:
        return {t: column for t, column in columns.items() if t <= origin_ms}

    return replace(
        tracker,
        newest_ms=origin_ms,
        one_step=past(tracker.one_step),
        pending=tuple(past(columns) for columns in tracker.pending),
        residuals=past(tracker.residuals),
        measures=past(tracker.measures),
        levels=past(tracker.levels),
        season_bucket=min(tracker.season_bucket, _season_bucket(tracker, origin_ms)),
    )
