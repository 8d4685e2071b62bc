"""What is remembered of forecasts until their instants have come, and of how they did.

Everything kept for one instant is one column: an array with N (series) first, in a mapping keyed by
the instant. A column is replaced, never written to, so a new tracker shares all but its newest
columns with the one before: an instant costs the same few columns whatever the window, and the
tracker being read stays as it is.

Memory per series (H = 5: 3 KB, H = 288: 9 KB, most of it the pending forecasts): the one-step
forecast with its bounds is float64, since it is published; the longer leads are float32 offsets
from a fixed ``anchor``, so that a level of 1e12 does not swallow a residual of 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from sidecar.series import FloatArray

Float32Array: TypeAlias = NDArray[np.float32]
Columns: TypeAlias = Mapping[int, NDArray[Any]]

DEFAULT_WINDOW: Final = 60
DEFAULT_MINIMUM: Final = 20
LATE_INSTANTS: Final = 8
DAY_MS: Final = 86_400_000
SEASON_BUCKET_MS: Final = 300_000
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


def ran_along(tracker: Tracker, rows: NDArray[np.int64], residuals: FloatArray) -> Tracker:
    """Put the residuals of a version that ran beside into the window that ``forget`` emptied.

    Without them the version would serve for some instants as if nothing were known of it, and one
    that was fitted on a history that stood still without any band.

    Args:
        residuals: (K, S) one-step residuals at the newest S instants, NaN = not judged.
    """
    columns, measures = dict(tracker.residuals), dict(tracker.measures)
    newest = tracker.newest_ms - (residuals.shape[1] - 1) * tracker.step_ms
    for place in range(residuals.shape[1]):
        t_ms = newest + place * tracker.step_ms
        if t_ms not in columns:
            continue
        columns[t_ms] = columns[t_ms].copy()
        columns[t_ms][rows] = residuals[:, place]
        if t_ms in measures:  # whether a band held the actual: it was another version's band
            measures[t_ms] = measures[t_ms].copy()
            measures[t_ms][rows, INSIDE] = np.nan
    return replace(tracker, residuals=columns, measures=measures)


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
