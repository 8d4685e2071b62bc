"""What a watch carries from one cycle to the next, and how series come and go in it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sidecar import shadow
from sidecar.learning import drift, trackers
from sidecar.learning.drift import DriftState
from sidecar.learning.gate import GateSettings
from sidecar.learning.trackers import Tracker
from sidecar.models import intervals
from sidecar.models.contract import ForecastModel, S, State, concat, put, take
from sidecar.models.domain import never_negative
from sidecar.models.intervals import Calibration
from sidecar.models.naive import NaiveModel, NaiveState
from sidecar.names import Reason
from sidecar.series import FloatArray, LabelSet, SeriesBatch, TimeArray, index_by_labels
from sidecar.shadow import Shadow

Model = ForecastModel[State]

_WENT_WRONG: Final = (Reason.FIT_FAILED, Reason.QUARANTINED, Reason.NON_FINITE)


@dataclass(frozen=True, eq=False)
class Known:
    """Everything known of N series; every array has N first.

    Attributes:
        labels: N, in the order in which the series were met.
        origin_ms: the newest instant absorbed.
        recent: (N, L) values at the newest L instants up to the origin, NaN = no fresh sample.
        last_seen_ms: (N,) the newest instant with a value.
        ended: (N,) bool, the outputs have been ended by a stale marker.
        versions: (N,) int64, the version that serves; 0 = none yet.
        burst: (N,) int64, anomalous instants in a row up to the origin.
        never_negative: (N,) bool, no value below 0 was ever seen.
        why_unfitted: N, why no version serves; None where one does or none was tried.
        state: what the model learned.
        naive: the fall-back's state, always ready.
        serves_naive: (N,) bool, the fall-back serves.
        calibration, tracker, drift: how far the forecasts can be trusted.
        shadow: predecessors that run on beside versions promoted lately; not kept over a restart.
    """

    labels: tuple[LabelSet, ...]
    origin_ms: int
    recent: FloatArray
    last_seen_ms: TimeArray
    ended: NDArray[np.bool_]
    versions: NDArray[np.int64]
    burst: NDArray[np.int64]
    never_negative: NDArray[np.bool_]
    why_unfitted: tuple[Reason | None, ...]
    state: State
    naive: NaiveState
    serves_naive: NDArray[np.bool_]
    calibration: Calibration
    tracker: Tracker
    drift: DriftState
    shadow: Shadow | None = None


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a batch of fits gave, for n series, after the instant ``end_ms``; every array n first.

    Attributes:
        promoted: (n,) bool, the new version serves from now on.
        serves_naive: (n,) bool, of these the fall-back is to serve.
        versions: (n,) int64, the number of the new version; 0 where there is none.
        why_unfitted: n, why there is no new version.
        mae, centre, scale: (n,) of the validation residuals, for drift.
        n_samples: (n,) int64, instants with a value in the history.
        never_negative: (n,) bool, no value of that history is below 0.
        shadowed: whether what served until now runs on beside it and may come back by itself;
            not where an operator said what is to serve.
    """

    labels: tuple[LabelSet, ...]
    end_ms: int
    state: State
    naive: NaiveState
    promoted: NDArray[np.bool_]
    serves_naive: NDArray[np.bool_]
    versions: NDArray[np.int64]
    why_unfitted: tuple[Reason | None, ...]
    mae: FloatArray
    centre: FloatArray
    scale: FloatArray
    n_samples: NDArray[np.int64]
    never_negative: NDArray[np.bool_]
    shadowed: bool = True


def blank_state(model: ForecastModel[S], n: int) -> S:
    """The state of ``n`` series of which nothing is known: their forecasts are NaN."""
    instants = np.arange(1, max(2, model.min_instants) + 1, dtype=np.int64)
    return model.fit(instants, np.full((n, instants.size), np.nan))


def begin(model: Model, history: SeriesBatch, width: int, horizon_steps: int) -> Known:
    """A watch at the end of its history, before its first fit.

    Args:
        history: N >= 1 series.
        width: L, how many of the newest instants stay at hand.
    """
    n, step_ms = len(history.labels), history.grid.step_ms
    values = history.values
    seen = np.where(np.isfinite(values), history.grid.instants_ms, history.grid.start_ms)
    pad = np.full((n, max(0, width - values.shape[1])), np.nan)
    leads = trackers.leads_of(horizon_steps)
    return Known(
        labels=history.labels,
        origin_ms=history.grid.end_ms,
        recent=np.concatenate([pad, values[:, -width:]], axis=1),
        last_seen_ms=seen.max(axis=1),
        ended=np.zeros(n, dtype=np.bool_),
        versions=np.zeros(n, dtype=np.int64),
        burst=np.zeros(n, dtype=np.int64),
        never_negative=never_negative(values),
        why_unfitted=(None,) * n,
        state=blank_state(model, n),
        naive=blank_state(NaiveModel(), n),
        serves_naive=np.zeros(n, dtype=np.bool_),
        calibration=intervals.start(n, leads[-1], model.level),
        tracker=trackers.start(n, step_ms, horizon_steps),
        drift=drift.start(n),
    )


def admit(
    model: Model, known: Known, labels: Sequence[LabelSet], max_series: int
) -> tuple[Known, tuple[LabelSet, ...], int]:
    """Make room for series met for the first time, as far as ``max_series`` allows.

    Series that have ended give their places up, the longest silent first: where every pod is
    replaced at once, the new ones must not wait until the old ones are forgotten.

    Args:
        labels: the series that have a value now.

    Returns:
        what is known now, who is new, and how many were turned away.
    """
    met = set(known.labels)
    unknown = [one for one in labels if one not in met]
    if not unknown:
        return known, (), 0
    alive = set(labels)
    gone = np.array([one not in alive for one in known.labels], dtype=np.bool_) & known.ended
    left = int(np.count_nonzero(~gone))
    new = tuple(unknown[: max(0, max_series - left)])
    if not new:
        return known, (), len(unknown)
    surplus = max(0, len(known.labels) + len(new) - max_series)
    longest_silent = np.flatnonzero(gone)[np.argsort(known.last_seen_ms[gone], kind="stable")]
    stay = np.ones(len(known.labels) + len(new), dtype=np.bool_)
    stay[longest_silent[:surplus]] = False
    known = _with_newcomers(model, known, new)
    return _rows_of(known, np.flatnonzero(stay)), new, len(unknown) - len(new)


def _with_newcomers(model: Model, known: Known, new: tuple[LabelSet, ...]) -> Known:
    """With series of which nothing is known yet, after those that are."""
    n, width = len(new), known.recent.shape[1]
    rows = np.concatenate([np.arange(len(known.labels)), np.full(n, -1)])
    return Known(
        labels=known.labels + new,
        origin_ms=known.origin_ms,
        recent=np.concatenate([known.recent, np.full((n, width), np.nan)]),
        last_seen_ms=np.concatenate([known.last_seen_ms, np.full(n, known.origin_ms)]),
        ended=np.concatenate([known.ended, np.zeros(n, dtype=np.bool_)]),
        versions=np.concatenate([known.versions, np.zeros(n, dtype=np.int64)]),
        burst=np.concatenate([known.burst, np.zeros(n, dtype=np.int64)]),
        never_negative=np.concatenate([known.never_negative, np.ones(n, dtype=np.bool_)]),
        why_unfitted=known.why_unfitted + (None,) * n,
        state=concat([known.state, blank_state(model, n)]),
        naive=concat([known.naive, blank_state(NaiveModel(), n)]),
        serves_naive=np.concatenate([known.serves_naive, np.zeros(n, dtype=np.bool_)]),
        calibration=intervals.extend(known.calibration, n),
        tracker=trackers.realign(known.tracker, rows),
        drift=drift.realign(known.drift, rows),
        shadow=known.shadow,
    )


def forget(known: Known, after_ms: int) -> Known:
    """Without the series that have been silent for so long that they would be learned anew.

    The last ones stay, so that there is always a batch to work on.
    """
    rows = np.flatnonzero(known.origin_ms - known.last_seen_ms <= after_ms)
    return known if rows.size == 0 else _rows_of(known, rows)


def within(known: Known, max_series: int) -> Known:
    """No more series than that: the first ones, those that live before those that have ended."""
    order = np.argsort(known.ended, kind="stable")
    return _rows_of(known, np.sort(order[:max_series]))


def _rows_of(known: Known, rows: NDArray[np.int64]) -> Known:
    """Some of the series, in their order."""
    if rows.size == len(known.labels):
        return known
    return Known(
        labels=tuple(known.labels[row] for row in rows),
        origin_ms=known.origin_ms,
        recent=known.recent[rows],
        last_seen_ms=known.last_seen_ms[rows],
        ended=known.ended[rows],
        versions=known.versions[rows],
        burst=known.burst[rows],
        never_negative=known.never_negative[rows],
        why_unfitted=tuple(known.why_unfitted[row] for row in rows),
        state=take(known.state, rows),
        naive=take(known.naive, rows),
        serves_naive=known.serves_naive[rows],
        calibration=intervals.take(known.calibration, rows),
        tracker=trackers.realign(known.tracker, rows),
        drift=drift.realign(known.drift, rows),
        shadow=shadow.renumbered(known.shadow, {int(old): new for new, old in enumerate(rows)}),
    )


def adopt(model: Model, known: Known, fitted: Fitted) -> Known:
    """Put what was fitted into service; instants that came meanwhile are absorbed first.

    Series that have vanished since are left out; those that were not promoted keep what serves.

    Raises:
        ValueError: more instants have come since than are at hand.
    """
    step_ms = known.tracker.step_ms
    lag = (known.origin_ms - fitted.end_ms) // step_ms
    if not 0 <= lag <= known.recent.shape[1]:
        raise ValueError(f"the fit ends {lag} instants before the origin")
    at = index_by_labels(known.labels)
    source = np.array([i for i, one in enumerate(fitted.labels) if one in at], dtype=np.int64)
    if not source.size:
        return known
    rows = np.array([at[fitted.labels[i]] for i in source], dtype=np.int64)
    state, naive = take(fitted.state, source), take(fitted.naive, source)
    if lag:
        missed = fitted.end_ms + step_ms * np.arange(1, lag + 1, dtype=np.int64)
        state = model.update(state, missed, known.recent[rows, -lag:])
        naive = NaiveModel().update(naive, missed, known.recent[rows, -lag:])
    why = list(known.why_unfitted)
    for i, row in zip(source, rows, strict=True):
        why[row] = fitted.why_unfitted[i]
    # A newcomer's past is seen here for the first time, whatever becomes of the fit.
    keeps_sign = known.never_negative.copy()
    keeps_sign[rows] &= fitted.never_negative[source]
    known = replace(
        known,
        why_unfitted=tuple(why),
        naive=put(known.naive, rows, naive),
        never_negative=keeps_sign,
    )
    keep = fitted.promoted[source]
    by_model = (known.versions > 0) & ~known.serves_naive
    known = _serve_naive(known, rows, keep, fitted.serves_naive[source])
    if not keep.any():
        return known
    new, source = rows[keep], source[keep]
    known = replace(known, shadow=shadow.without(known.shadow, new))
    if fitted.shadowed:
        known = _shadowed(model, known, new[by_model[new]], step_ms)
    versions = known.versions.copy()
    versions[new] = fitted.versions[source]
    return replace(
        known,
        versions=versions,
        state=put(known.state, new, take(state, np.flatnonzero(keep))),
        tracker=trackers.forget(known.tracker, new),
        drift=drift.promoted(
            known.drift, new, fitted.mae[source], fitted.centre[source], fitted.scale[source]
        ),
    )


def _shadowed(model: Model, known: Known, rows: NDArray[np.int64], step_ms: int) -> Known:
    """Let the versions that serve ``rows`` until now run on beside what takes their place."""
    if not rows.size:
        return known
    before = shadow.begin(
        known.shadow,
        model,
        rows,
        known.versions[rows],
        take(known.state, rows),
        known.origin_ms + step_ms,
    )
    return replace(known, shadow=before)


def back_to_predecessors(
    known: Known, settings: GateSettings
) -> tuple[Known, tuple[tuple[LabelSet, int, int], ...]]:
    """Undo the promotions that turned out clearly worse than what they replaced.

    Returns:
        what is known now, and for each series (labels, version that served, version that serves).
    """
    beside = known.shadow
    if beside is None:
        return known, ()
    back, done = shadow.decide(beside, settings)
    rows = beside.rows[back]
    switched = tuple(
        (known.labels[row], int(known.versions[row]), int(beside.versions[place]))
        for row, place in zip(rows.tolist(), back.tolist(), strict=True)
    )
    left = shadow.kept(beside, ~done)
    if not rows.size:
        return replace(known, shadow=left), ()
    versions, serves_naive = known.versions.copy(), known.serves_naive.copy()
    versions[rows] = beside.versions[back]
    serves_naive[rows] = False  # it was the predecessor itself that did better
    mae = np.nanmean(np.abs(beside.old[back]), axis=1)
    nothing = np.full(rows.size, np.nan)
    known = replace(
        known,
        versions=versions,
        state=put(known.state, rows, take(beside.state, back)),
        serves_naive=serves_naive,
        tracker=trackers.ran_along(trackers.forget(known.tracker, rows), rows, beside.old[back]),
        drift=drift.promoted(known.drift, rows, mae, nothing, nothing),
        shadow=left,
    )
    return known, switched


def _serve_naive(
    known: Known,
    rows: NDArray[np.int64],
    promoted: NDArray[np.bool_],
    naive: NDArray[np.bool_],
) -> Known:
    """Who is served by the fall-back: as the gate said, and whoever has nothing better because
    its fit went wrong."""
    unfit = np.array([known.why_unfitted[row] in _WENT_WRONG for row in rows], dtype=np.bool_)
    serves = known.serves_naive.copy()
    serves[rows] = np.where(promoted, naive, serves[rows] | (unfit & (known.versions[rows] == 0)))
    return replace(known, serves_naive=serves)
