"""Fit a batch of series and say honestly how good the fit is. Pure; runs in the worker processes.

The candidate that is judged never saw what it is judged on: it is fitted without the newest V
instants, then rolled over them one instant at a time, as it would have served. What is handed back
to serve is a second fit, on everything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Generic

import numpy as np
from numpy.typing import NDArray

from sidecar.learning.drift import robust_centre_and_scale
from sidecar.learning.scores import ratio
from sidecar.learning.trackers import leads_of
from sidecar.models.contract import (
    ForecastModel,
    S,
    State,
    concat,
    from_arrays,
    take,
    to_arrays,
)
from sidecar.names import Reason
from sidecar.series import FloatArray, TimeArray

FULL: Final = "full_retrain"
FINETUNE: Final = "finetune"

# A validation on fewer instants than this says nothing; the series is then fitted unvalidated.
LEAST_VALIDATION: Final = 8
# What a finetune learns from: so many of the newest instants, or so many times what a fit needs.
RECENT: Final = 288
RECENT_FITS: Final = 4
# How many origins the longer leads are judged from: each costs a forecast of H steps.
LEAD_ORIGINS: Final = 30
# MAPE counts only actuals above this share of the mean level, and needs most of them there.
MAPE_FLOOR: Final = 0.01


@dataclass(frozen=True, eq=False)
class TrainingOutcome:
    """What a fit of N series gave; every array has N first.

    Attributes:
        state: fitted on everything, after ``t_ms[-1]``; rows with a reason are unusable.
        reasons: N, a ``Reason`` or "" where the fit is good.
        holdout: (N,) int64, on how many newest instants the candidate was judged; 0 = not at all.
        instants_ms: (V,) int64, the instants of ``residuals``.
        residuals: (N, V) float64, one-step residuals of the candidate; NaN where not judged.
        mae, naive_mae, mase, smape, mape: (N,) over those; NaN where not judged, and for ``mape``
            where the level is too often close to 0 for a percentage to mean anything.
        centre, scale: (N,) median and 1.4826 MAD of the residuals, for the drift test.
        leads: the leads of ``lead_mae``.
        lead_mae: (N, L).
        n_samples: (N,) int64, instants with a value that the served fit learned from.
        tuned: (N,) bool, learned on from its warm state; the others were fitted anew.
    """

    state: State
    reasons: tuple[str, ...]
    holdout: NDArray[np.int64]
    instants_ms: TimeArray
    residuals: FloatArray
    mae: FloatArray
    naive_mae: FloatArray
    mase: FloatArray
    smape: FloatArray
    mape: FloatArray
    centre: FloatArray
    scale: FloatArray
    leads: tuple[int, ...]
    lead_mae: FloatArray
    n_samples: NDArray[np.int64]
    tuned: NDArray[np.bool_]

    @property
    def fitted(self) -> NDArray[np.bool_]:
        """(N,) where there is a state that can serve."""
        return np.array([not reason for reason in self.reasons], dtype=np.bool_)


def validation_length(horizon_steps: int) -> int:
    """V: how many newest instants a candidate is judged on, history permitting."""
    return max(30, 2 * horizon_steps)


def train(
    model: ForecastModel[S],
    t_ms: TimeArray,
    y: FloatArray,
    warm: S | None = None,
    *,
    horizon_steps: int,
    validation: int = 0,
    mode: str = FULL,
) -> TrainingOutcome:
    """Fit N series, validated on what the validated fit did not see.

    A series with less history than V more than the model needs is judged on fewer instants (V/2,
    V/4, ... at least 8), else on none.

    Under ``finetune`` a series learns on from its row of ``warm``, on the newest 288 instants;
    first that row is rolled forward to where the held-out instants begin. So ``warm`` should be
    older than those: the state as the version was stored (``warm.warm_states``), not as it serves
    now. A row that is too new to be judged on 8 instants, too old to be rolled over ``t_ms``
    without a hole, or unfitted, is fitted anew.

    Args:
        t_ms: (T,) int64 evenly spaced, oldest first.
        y: (N, T) float64, NaN = no sample.
        warm: N rows as ``y``; not changed.
        validation: V; 0 for ``validation_length``.
        mode: ``full_retrain`` or ``finetune``.
    """
    n, steps = y.shape
    values = np.isfinite(y)
    y = np.where(values, y, np.nan)
    newer = np.full(n, -1)
    if mode == FINETUNE and warm is not None and steps > 1:
        newer = _instants_after(warm, t_ms)
    tuned = newer >= LEAST_VALIDATION
    holdout = _holdout(
        model,
        values,
        validation or validation_length(horizon_steps),
        np.where(tuned, newer, steps),
    )
    fitting = _Fitting(model, t_ms, y, warm, tuned)
    leads = leads_of(horizon_steps)
    span = int(holdout.max(initial=0))
    residuals = np.full((n, span), np.nan)
    lead_mae = np.full((n, len(leads)), np.nan)
    for length in sorted(set(holdout.tolist()) - {0}):
        rows = np.flatnonzero(holdout == length)
        start = fitting.until(steps - length, rows)
        residuals[rows, span - length :], lead_mae[rows] = _rolled(
            model, start, t_ms, y[rows], length, leads
        )
    state = fitting.until(steps, np.arange(n))
    scored = _scored(residuals, y[:, steps - span - 1 :] if span else y[:, -1:], span)
    centre, scale = robust_centre_and_scale(residuals)
    return TrainingOutcome(
        state=state,
        reasons=_reasons(model, state, t_ms, values, horizon_steps),
        holdout=holdout,
        instants_ms=t_ms[steps - span :],
        residuals=residuals,
        **scored,
        centre=centre,
        scale=scale,
        leads=leads,
        lead_mae=lead_mae,
        n_samples=values.sum(axis=1),
        tuned=tuned,
    )


def _instants_after(warm: State, t_ms: TimeArray) -> NDArray[np.int64]:
    """Per row how many of the instants its warm state has not absorbed; -1 where it is no start."""
    step = t_ms[1] - t_ms[0]
    newer = (t_ms[-1] - warm.last_ms) // step
    usable = (warm.last_ms >= t_ms[0] - step) & (newer >= 0) & np.isfinite(warm.sigma)
    return np.where(usable, newer, -1)


def _holdout(
    model: ForecastModel[Any],
    values: NDArray[np.bool_],
    longest: int,
    most: NDArray[np.int64],
) -> NDArray[np.int64]:
    """How many newest instants each series can spare and still be fitted; at most ``most`` (N,)."""
    total = values.sum(axis=1)
    before = np.concatenate((np.zeros((len(values), 1), dtype=np.int64), values.cumsum(axis=1)), 1)
    holdout = np.zeros(len(values), dtype=np.int64)
    length = longest
    while length >= LEAST_VALIDATION:
        if length < values.shape[1]:
            left = before[:, -1 - length]
            fits = (holdout == 0) & (left >= model.min_instants) & (total > left)
            holdout[fits & (length <= most)] = length
        length //= 2
    return holdout


@dataclass(frozen=True, eq=False)
class _Fitting(Generic[S]):
    """Fits over a prefix of the instants, for some rows: anew, or on from the warm state."""

    model: ForecastModel[S]
    t_ms: TimeArray
    y: FloatArray
    warm: S | None
    tuned: NDArray[np.bool_]

    def until(self, end: int, rows: NDArray[np.int64]) -> S:
        """The state of ``rows`` after the first ``end`` instants.

        Raises:
            ValueError: a field of it has the wrong shape: then no row can be told from another, and
                the whole batch is at fault.
        """
        t_ms, y = self.t_ms[:end], self.y[:, :end]
        on = self.tuned[rows]
        if self.warm is None or not on.any():
            return self._anew(t_ms, y[rows])
        old = rows[on]
        rolled = self.model.update(take(self.warm, old), t_ms, y[old])
        recent = slice(max(0, end - max(RECENT, RECENT_FITS * self.model.min_instants)), end)
        tuned = self.model.finetune(rolled, t_ms[recent], y[old, recent])
        state = _whole(self.model, tuned, len(old))
        if on.all():
            return state
        anew = self._anew(t_ms, y[rows[~on]])
        return _joined([state, anew], [np.flatnonzero(on), np.flatnonzero(~on)])

    def _anew(self, t_ms: TimeArray, y: FloatArray) -> S:
        """Fitted from scratch, each series on the instants since it began.

        A window that is empty but for its end looks to a model like a long and still history, of
        which the few values are outliers: its band would be far too narrow.
        """
        lengths = _since_begun(y, self.model.min_instants)
        parts, places = [], []
        for length in sorted(set(lengths.tolist())):
            rows = np.flatnonzero(lengths == length)
            state = self.model.fit(t_ms[-length:], y[rows, -length:])
            parts.append(_whole(self.model, state, len(rows)))
            places.append(rows)
        return parts[0] if len(parts) == 1 else _joined(parts, places)


def _joined(parts: list[S], places: list[NDArray[np.int64]]) -> S:
    """States of some rows each, at ``places`` of the whole, as one state in the whole's order."""
    return take(concat(parts), np.argsort(np.concatenate(places)))


def _since_begun(y: FloatArray, least: int) -> NDArray[np.int64]:
    """(N,) how many of the newest instants begin with a series' first value, or a little before.

    Rounded up by a sixteenth at most, so that many series of different age make few batches.
    """
    size = y.shape[1]
    observed = np.isfinite(y)
    age = np.where(observed.any(axis=1), size - np.argmax(observed, axis=1), 0)
    age = np.maximum(age, max(least, 2))
    unit = np.exp2(np.maximum(np.floor(np.log2(age)) - 4, 0)).astype(np.int64)
    length: NDArray[np.int64] = np.minimum(-(-age // unit) * unit, size)
    return length


def _whole(model: ForecastModel[S], state: S, n: int) -> S:
    for field in fields(state):
        array = getattr(state, field.name)
        if not isinstance(array, np.ndarray) or array.shape[:1] != (n,):
            raise ValueError(
                f"{model.name}: field {field.name!r} of its state is no array of {n} rows"
            )
    return state


def _rolled(
    model: ForecastModel[S],
    state: S,
    t_ms: TimeArray,
    y: FloatArray,
    length: int,
    leads: Sequence[int],
) -> tuple[FloatArray, FloatArray]:
    """Serve the newest ``length`` instants as they would have come: residuals, MAE per lead."""
    steps = t_ms.size
    stride = max(1, length // LEAD_ORIGINS)
    residuals = np.empty((len(y), length))
    total = np.zeros((len(y), len(leads)))
    count = np.zeros((len(y), len(leads)))
    for k in range(length):
        at = steps - length + k
        far = k % stride == 0
        ahead = t_ms[at : at + (leads[-1] if far else 1)]
        mean = model.forecast(state, ahead).mean
        residuals[:, k] = y[:, at] - mean[:, 0]
        for column, lead in enumerate(leads if far else ()):
            if at + lead <= steps:
                error = np.abs(y[:, at + lead - 1] - mean[:, lead - 1])
                judged = np.isfinite(error)
                total[judged, column] += error[judged]
                count[:, column] += judged
        state = model.update(state, t_ms[at : at + 1], y[:, at : at + 1])
    lead_mae = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return residuals, lead_mae


def _scored(residuals: FloatArray, recent: FloatArray, span: int) -> dict[str, FloatArray]:
    """The error measures over the held-out instants; ``recent`` (N, span + 1) starts one before."""
    n = len(residuals)
    actual = recent[:, 1:] if span else np.empty((n, 0))
    judged = np.isfinite(residuals)
    errors = np.abs(residuals)
    naive = np.abs(actual - _carried(recent)[:, :-1]) if span else np.empty((n, 0))
    both = judged & np.isfinite(naive)
    forecast = actual - residuals
    size = np.abs(actual) + np.abs(forecast)
    relative = np.divide(2 * errors, size, out=np.zeros_like(errors), where=judged & (size > 0))
    level = _mean(np.abs(actual), judged)
    high = judged & (np.abs(actual) > MAPE_FLOOR * level[:, None])
    percent = np.divide(errors, np.abs(actual), out=np.zeros_like(errors), where=high)
    meaningful = high.sum(axis=1) * 2 > judged.sum(axis=1)
    naive_mae = _mean(naive, both)
    return {
        "mae": _mean(errors, judged),
        "naive_mae": naive_mae,
        "mase": ratio(_mean(errors, both), naive_mae),
        "smape": _mean(relative, judged),
        "mape": np.where(meaningful, _mean(percent, high), np.nan),
    }


def _carried(y: FloatArray) -> FloatArray:
    """Each NaN replaced by the newest value before it in its row, where there is one."""
    at = np.where(np.isfinite(y), np.arange(y.shape[1]), 0)
    return np.take_along_axis(y, np.maximum.accumulate(at, axis=1), axis=1)


def _mean(values: FloatArray, counted: NDArray[np.bool_]) -> FloatArray:
    total = np.where(counted, values, 0.0).sum(axis=1)
    count = counted.sum(axis=1)
    out: FloatArray = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return out


def _reasons(
    model: ForecastModel[S],
    state: S,
    t_ms: TimeArray,
    values: NDArray[np.bool_],
    horizon_steps: int,
) -> tuple[str, ...]:
    """Per series why its fit cannot serve, "" where it can.

    Raises:
        ValueError: the forecasts have the wrong shape.
    """
    n = len(values)
    step = int(t_ms[-1] - t_ms[-2]) if t_ms.size > 1 else 1
    ahead = t_ms[-1] + step * np.arange(1, horizon_steps + 1, dtype=np.int64)
    forecast = model.forecast(state, ahead)
    paths = (forecast.mean, forecast.lower, forecast.upper)
    if any(path.shape != (n, horizon_steps) for path in paths):
        raise ValueError(
            f"{model.name}: forecasts have shapes {[p.shape for p in paths]}, "
            f"expected {(n, horizon_steps)}"
        )
    finite = np.all([np.isfinite(path).all(axis=1) for path in paths], axis=0)
    enough = values.sum(axis=1) >= model.min_instants
    unfitted = np.isnan(state.sigma)
    return tuple(
        Reason.INSUFFICIENT_HISTORY
        if not enough[row]
        else Reason.FIT_FAILED
        if unfitted[row]
        else ""
        if finite[row]
        else Reason.NON_FINITE
        for row in range(n)
    )


# Rows, and as arrays: outcomes cross from the workers so

_PER_SERIES = (
    "holdout",
    "residuals",
    "mae",
    "naive_mae",
    "mase",
    "smape",
    "mape",
    "centre",
    "scale",
    "lead_mae",
    "n_samples",
    "tuned",
)


def outcome_to_arrays(outcome: TrainingOutcome) -> dict[str, NDArray[Any]]:
    """Everything by name, the state's fields under ``state.``."""
    arrays: dict[str, NDArray[Any]] = {name: getattr(outcome, name) for name in _PER_SERIES}
    arrays["instants_ms"] = outcome.instants_ms
    arrays["leads"] = np.array(outcome.leads, dtype=np.int64)
    arrays["reasons"] = np.array(outcome.reasons, dtype=np.str_)
    return arrays | {f"state.{k}": v for k, v in to_arrays(outcome.state).items()}


def outcome_from_arrays(
    state_type: type[State], arrays: Mapping[str, NDArray[Any]]
) -> TrainingOutcome:
    """What ``outcome_to_arrays`` gave, as an outcome again.

    Raises:
        KeyError: a field is missing.
    """
    state = {k.removeprefix("state."): v for k, v in arrays.items() if k.startswith("state.")}
    plain: dict[str, Any] = {name: arrays[name] for name in _PER_SERIES}
    return TrainingOutcome(
        **plain,
        state=from_arrays(state_type, state),
        reasons=tuple(str(reason) for reason in arrays["reasons"]),
        instants_ms=arrays["instants_ms"],
        leads=tuple(int(lead) for lead in arrays["leads"]),
    )


def merge(parts: Sequence[TrainingOutcome]) -> TrainingOutcome:
    """One outcome of all the series of several, in order; they end at one instant."""
    if len(parts) == 1:
        return parts[0]
    longest = max(parts, key=lambda part: part.instants_ms.size)
    span = longest.instants_ms.size

    def padded(residuals: FloatArray) -> FloatArray:
        missing = span - residuals.shape[1]
        return np.pad(residuals, ((0, 0), (missing, 0)), constant_values=np.nan)

    plain: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in _PER_SERIES
        if name != "residuals"
    }
    return TrainingOutcome(
        **plain,
        state=concat([part.state for part in parts]),
        reasons=tuple(reason for part in parts for reason in part.reasons),
        instants_ms=longest.instants_ms,
        residuals=np.concatenate([padded(part.residuals) for part in parts]),
        leads=longest.leads,
    )
