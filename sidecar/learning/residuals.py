"""What was forecast for an instant, against what came: residuals, rolling scores, coverage.

A ``Tracker`` keeps the forecasts whose instants have not come yet, for the leads 1, 2, 4, ... and
H, and the residuals of those that have. Everything kept for one instant is one column: an array
with N (series) first, in a mapping keyed by the instant. A column is replaced, never written to, so
a new tracker shares all but its newest columns with the one before: an instant costs the same few
columns whatever the window, and the tracker being read stays as it is.

Memory per series (H = 5: 3 KB, H = 288: 9 KB, most of it the pending forecasts): the one-step
forecast with its bounds is float64, since it is published; the longer leads are float32 offsets
from a fixed ``anchor``, so that a level of 1e12 does not swallow a residual of 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from sidecar.series import FloatArray, Forecast, TimeArray

Float32Array: TypeAlias = NDArray[np.float32]
BoolArray: TypeAlias = NDArray[np.bool_]
Columns: TypeAlias = Mapping[int, NDArray[Any]]

DEFAULT_WINDOW: Final = 60
DEFAULT_MINIMUM: Final = 20
LATE_INSTANTS: Final = 8
DAY_MS: Final = 86_400_000
SEASON_BUCKET_MS: Final = 300_000
# What float32 columns are clipped at: sums of a few of them still are no infinity.
_FLOAT32_MAX: Final = 5e37
# What the columns of ``measures`` hold.
NAIVE, SEASONAL, ACTUAL, INSIDE = range(4)


def leads_of(horizon_steps: int) -> tuple[int, ...]:
    """The leads that are judged: powers of two below the horizon, and the horizon.

    >>> leads_of(12), leads_of(1)
    ((1, 2, 4, 8, 12), (1,))
    """
    powers = (1 << k for k in range(horizon_steps.bit_length()))
    return (*(lead for lead in powers if lead < horizon_steps), horizon_steps)


@dataclass(frozen=True, eq=False)
class Tracker:
    """Pending forecasts and judged residuals of N series; made by ``start``.

    Attributes:
        step_ms: the granularity.
        leads: in instants, ascending, the first is 1.
        window: how many newest instants the scores look at.
        minimum: judged instants in the window below which a score is NaN.
        memory: how many newest instants keep their one-step residual (at least ``window``).
        late: how many instants after its own an actual may still be judged.
        size: N.
        newest_ms: the newest instant judged or issued at; 0 before the first.
        anchor: (N,) float64, what the float32 columns are offsets from; NaN before the first value.
        one_step: by target instant (N, 3) float64: mean, lower, upper.
        pending: for each lead after the first, by target instant (N, 2) float32: mean - anchor,
            half the width of the interval.
        residuals: by instant (N,) float32, one-step actual - mean; NaN = not judged.
        measures: by instant (N, 4) float32: naive's absolute residual, seasonal naive's, the
            actual, and whether the interval held it (1, 0).
        levels: by instant (N,) float64, the newest actual at or before it.
        lead_mae: (N, L) float32, per lead the exponentially weighted mean absolute residual.
        lead_weight: (N, L) float32 in [0, 1], how much of that mean has been filled.
        season: (N, M) float32, actual - anchor by time of day, one mean for each five minutes (or
            for each instant where the granularity is coarser).
        season_sum, season_count: (N,) float64, the bucket being filled.
        season_bucket: its number since the epoch.
    """

    step_ms: int
    leads: tuple[int, ...]
    window: int
    minimum: int
    memory: int
    late: int
    size: int
    newest_ms: int
    anchor: FloatArray
    one_step: Columns
    pending: tuple[Columns, ...]
    residuals: Columns
    measures: Columns
    levels: Columns
    lead_mae: Float32Array
    lead_weight: Float32Array
    season: Float32Array
    season_sum: FloatArray
    season_count: FloatArray
    season_bucket: int


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


def start(
    size: int,
    step_ms: int,
    horizon_steps: int,
    *,
    window: int = DEFAULT_WINDOW,
    minimum: int = DEFAULT_MINIMUM,
    memory: int = 0,
    late: int = LATE_INSTANTS,
) -> Tracker:
    """A tracker of ``size`` series that has seen nothing yet.

    Args:
        memory: how many instants keep their residual; 0 for what the promotion gate needs,
            max(30, 2H), and never less than ``window``.
    """
    leads = leads_of(horizon_steps)
    buckets = max(1, DAY_MS // max(step_ms, SEASON_BUCKET_MS))
    return Tracker(
        step_ms=step_ms,
        leads=leads,
        window=window,
        minimum=min(minimum, window),
        memory=max(window, memory or max(30, 2 * horizon_steps)),
        late=late,
        size=size,
        newest_ms=0,
        anchor=np.full(size, np.nan),
        one_step={},
        pending=tuple({} for _ in leads[1:]),
        residuals={},
        measures={},
        levels={},
        lead_mae=np.zeros((size, len(leads)), dtype=np.float32),
        lead_weight=np.zeros((size, len(leads)), dtype=np.float32),
        season=np.full((size, buckets), np.nan, dtype=np.float32),
        season_sum=np.zeros(size),
        season_count=np.zeros(size),
        season_bucket=-1,
    )


def suits(tracker: Tracker, step_ms: int, horizon_steps: int) -> bool:
    """Whether a restored tracker belongs to this granularity and horizon."""
    return tracker.step_ms == step_ms and tracker.leads == leads_of(horizon_steps)


# Recording and judging


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


# Rows come and go


def realign(tracker: Tracker, rows: NDArray[np.int64]) -> Tracker:
    """The tracker of other series: row i is old row ``rows[i]``, or a new series where that is -1.

    One operation adds, drops and reorders.
    """

    def moved(column: NDArray[Any], empty: float = np.nan) -> NDArray[Any]:
        out = np.full((rows.size, *column.shape[1:]), empty, dtype=column.dtype)
        known = rows >= 0
        out[known] = column[rows[known]]
        return out

    return _each_column(
        replace(
            tracker,
            size=rows.size,
            anchor=moved(tracker.anchor),
            lead_mae=moved(tracker.lead_mae, 0.0),
            lead_weight=moved(tracker.lead_weight, 0.0),
            season=moved(tracker.season),
            season_sum=moved(tracker.season_sum, 0.0),
            season_count=moved(tracker.season_count, 0.0),
        ),
        moved,
    )


def forget(tracker: Tracker, rows: NDArray[np.int64]) -> Tracker:
    """Empty the judged window of ``rows``, as after another version of them began to serve.

    Pending forecasts stay, since they were published, and so does the time of day.
    """

    def emptied(column: NDArray[Any]) -> NDArray[Any]:
        out = column.copy()
        out[rows] = np.nan
        return out

    weight = tracker.lead_weight.copy()
    weight[rows] = 0
    lead_mae = tracker.lead_mae.copy()
    lead_mae[rows] = 0
    return replace(
        tracker,
        residuals={t: emptied(column) for t, column in tracker.residuals.items()},
        lead_mae=lead_mae,
        lead_weight=weight,
    )


def _each_column(tracker: Tracker, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Tracker:
    def changed(columns: Columns) -> Columns:
        return {t: change(column) for t, column in columns.items()}

    return replace(
        tracker,
        one_step=changed(tracker.one_step),
        pending=tuple(changed(columns) for columns in tracker.pending),
        residuals=changed(tracker.residuals),
        measures=changed(tracker.measures),
        levels=changed(tracker.levels),
    )


# As arrays, for the store

_PLAIN = ("anchor", "lead_mae", "lead_weight", "season", "season_sum", "season_count")
_INTS = ("step_ms", "window", "minimum", "memory", "late", "size", "newest_ms", "season_bucket")
_COLUMNS = ("one_step", "residuals", "measures", "levels")


def to_arrays(tracker: Tracker) -> dict[str, NDArray[Any]]:
    """Everything by name, as it is stored: columns stacked to (N, K, ...) beside their instants."""
    arrays: dict[str, NDArray[Any]] = {name: getattr(tracker, name) for name in _PLAIN}
    arrays["settings"] = np.array([getattr(tracker, name) for name in _INTS], dtype=np.int64)
    arrays["leads"] = np.array(tracker.leads, dtype=np.int64)
    named: dict[str, Columns] = {name: getattr(tracker, name) for name in _COLUMNS}
    named |= {f"pending_{k}": columns for k, columns in enumerate(tracker.pending)}
    for name, columns in named.items():
        arrays[f"{name}_t"] = np.array(list(columns), dtype=np.int64)
        if columns:
            arrays[name] = np.stack(list(columns.values()), axis=1)
    return arrays


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Tracker:
    """What ``to_arrays`` gave, as a tracker again.

    Raises:
        KeyError, ValueError: not what this version of the program stored.
    """
    settings = dict(zip(_INTS, (int(v) for v in arrays["settings"]), strict=True))
    leads = tuple(int(lead) for lead in arrays["leads"])

    def columns(name: str) -> Columns:
        times = arrays[f"{name}_t"].tolist()
        if not times:
            return {}
        stacked = arrays[name]
        if stacked.shape[:2] != (settings["size"], len(times)):
            raise ValueError(f"{name} of a stored tracker has shape {stacked.shape}")
        return {t: np.ascontiguousarray(stacked[:, at]) for at, t in enumerate(times)}

    plain = {name: arrays[name] for name in _PLAIN}
    if any(array.shape[:1] != (settings["size"],) for array in plain.values()):
        raise ValueError("the arrays of a stored tracker have different lengths")
    return Tracker(
        **cast(Any, settings),
        **cast(Any, plain),
        **cast(Any, {name: columns(name) for name in _COLUMNS}),
        leads=leads,
        pending=tuple(columns(f"pending_{k}") for k in range(len(leads) - 1)),
    )


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
