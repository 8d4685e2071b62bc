"""One cycle of one watch, top to bottom: read, align, judge, learn, forecast, publish.

``run_cycle`` is the shell: it reads, hands the numbers to ``advance`` in a thread, and writes what
came out. ``advance`` is pure: no clock, no log, no metric; what it found out is in its result.
Several instants may be due at once (after a pause, a restart, an outage): they are replayed in
order, each forecast from the data before it, so that ``expected`` has no hole.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from sidecar.ingest.counters import deltas, rates
from sidecar.ingest.resample import resample
from sidecar.known import Known, admit, back_to_predecessors, forget
from sidecar.learning import drift, residuals, scores, trackers
from sidecar.learning.drift import Drift, DriftSettings
from sidecar.learning.gate import GateSettings
from sidecar.models import anomaly, intervals
from sidecar.models.anomaly import AnomalyRules
from sidecar.models.contract import ForecastModel, Intervals, State
from sidecar.models.domain import clipped
from sidecar.models.naive import NaiveModel
from sidecar.names import Reason, is_own_output
from sidecar.publish.outputs import InstantOutcome
from sidecar.publish.publisher import InThread, Publication, WatchPublisher
from sidecar.series import (
    FloatArray,
    Forecast,
    Grid,
    LabelSet,
    RawSeries,
    Selector,
    SeriesBatch,
    index_by_labels,
    is_stale,
)
from sidecar.shadow import observe

Model = ForecastModel[State]


class SampleReader(Protocol):
    """Where samples come from; both ends of the range belong to it."""

    async def read(self, selector: Selector, start_ms: int, end_ms: int) -> list[RawSeries]: ...


@dataclass(frozen=True)
class CycleRules:
    """What stays the same from one cycle of a watch to the next.

    Attributes:
        watch: its identity, for reports.
        transform: ``none``, ``rate`` (per second) or ``delta`` (change per instant).
        staleness_ms: a sample older than this at an instant does not speak for it.
        overlap_ms: how far each read goes back behind the instants it is for (late scrapes).
        patience_ms: a series silent for longer is no longer forecast, and its outputs end.
        forget_ms: a series silent for longer is forgotten.
        max_series: how many series the watch may have; its output series are heeded as well.
        lowest, highest: what forecasts are clipped to when published; infinite where open.
        keep_sign: forecasts of a series that never was negative are clipped at zero too.
        anomaly: what counts as an anomaly, and what is learned from one.
    """

    watch: str
    selector: Selector
    granularity_ms: int
    horizon_steps: int
    transform: str
    staleness_ms: int
    overlap_ms: int
    patience_ms: int
    forget_ms: int
    max_series: int
    lowest: float
    highest: float
    keep_sign: bool
    anomaly: AnomalyRules
    drift: DriftSettings
    gate: GateSettings


@dataclass(frozen=True, eq=False)
class Advance:
    """What a cycle found out: everything that is published, logged, counted and shown. N series.

    Attributes:
        labels: N, as ``Known.labels`` afterwards.
        outcomes: one for each instant, oldest first; only the last carries a forecast.
        reasons: N, why a series has no fresh prediction; None where it has one.
        drift: what the newest instant called for.
        ended: the series whose outputs end now.
        newcomers: the series met for the first time.
        over_budget: how many were turned away by ``max_series``.
        rolled_back: (labels, from, to) of the promotions that were undone.
        read: samples that came in.
    """

    labels: tuple[LabelSet, ...]
    outcomes: tuple[InstantOutcome, ...]
    reasons: tuple[Reason | None, ...]
    drift: Drift
    ended: tuple[LabelSet, ...]
    newcomers: tuple[LabelSet, ...]
    over_budget: int
    rolled_back: tuple[tuple[LabelSet, int, int], ...]
    read: int

    @property
    def forecast(self) -> Forecast:
        """The newest forecast."""
        forecast = self.outcomes[-1].forecast
        assert forecast is not None, "the last outcome carries the forecast"
        return forecast


_TRANSFORMS: Final[Mapping[str, Callable[[Sequence[RawSeries], Grid, int], SeriesBatch]]] = (
    MappingProxyType({"none": resample, "rate": rates, "delta": deltas})
)


async def run_cycle(
    rules: CycleRules,
    model: Model,
    known: Known,
    instant_ms: int,
    reader: SampleReader,
    in_thread: InThread,
    publisher: WatchPublisher,
    *,
    newest: bool = True,
) -> tuple[Known, Advance]:
    """Bring a watch up to ``instant_ms``: afterwards what it forecast is accepted for delivery.

    Args:
        newest: False for a piece of what is caught up with, after which more follows.

    Raises:
        RemoteError: reading failed; nothing has changed and the same call may be made again.
    """
    start_ms = read_start_ms(rules, known.origin_ms)
    raw = await reader.read(rules.selector, start_ms, instant_ms)
    known, result = await in_thread(advance, rules, model, known, raw, instant_ms)
    publication = Publication(known.labels, known.versions, result.outcomes, result.ended, newest)
    await publisher.publish(publication, in_thread)
    return known, result


def due_instant_ms(now_ms: int, granularity_ms: int, offset_ms: int) -> int:
    """The newest instant that is closed: its late scrapes had ``offset_ms`` to arrive."""
    return (now_ms - offset_ms) // granularity_ms * granularity_ms


def read_start_ms(rules: CycleRules, origin_ms: int) -> int:
    """How far back a read must go so that the instant after ``origin_ms`` is what it would be
    with the whole history: its own value, and the sample before it."""
    return origin_ms - rules.granularity_ms - rules.staleness_ms - rules.overlap_ms


def align(rules: CycleRules, raw: Sequence[RawSeries], grid: Grid) -> SeriesBatch:
    """Raw samples as the numbers that the model sees, on the grid."""
    sources = [one for one in raw if not is_own_output(one.labels.metric)]
    return _TRANSFORMS[rules.transform](sources, grid, rules.staleness_ms)


def advance(
    rules: CycleRules, model: Model, known: Known, raw: Sequence[RawSeries], instant_ms: int
) -> tuple[Known, Advance]:
    """Absorb the instants after ``known.origin_ms`` up to ``instant_ms``, and forecast from there.

    Args:
        raw: everything read for these instants, from ``read_start_ms`` on.
    """
    before_ms = known.origin_ms
    grid = Grid.between(before_ms + 1, instant_ms, rules.granularity_ms)
    batch = align(rules, raw, grid)
    known = forget(known, rules.forget_ms)
    present = [batch.labels[row] for row in np.flatnonzero(np.isfinite(batch.values).any(axis=1))]
    known, newcomers, over_budget = admit(model, known, present, rules.max_series)
    known = _judge_late(rules, known, raw)
    values = scatter(batch, known.labels)
    outcomes, found = [], None
    for column, t_ms in enumerate(grid.instants_ms.tolist()):
        known, outcome, found = _step(
            rules, model, known, t_ms, values[:, column], issue=t_ms == instant_ms
        )
        outcomes.append(outcome)
    assert found is not None, "a grid has at least one instant"
    known, rolled_back = back_to_predecessors(known, rules.gate)
    known, ended = _end_silent(rules, known, raw, before_ms)
    return known, Advance(
        labels=known.labels,
        outcomes=tuple(_muted(outcome, known.ended) for outcome in outcomes),
        reasons=_reasons(known, outcomes[-1]),
        drift=found,
        ended=ended,
        newcomers=newcomers,
        over_budget=over_budget,
        rolled_back=rolled_back,
        read=sum(one.values.size for one in raw),
    )


def scatter(batch: SeriesBatch, labels: Sequence[LabelSet]) -> FloatArray:
    """(N, T) the batch's rows in the order of ``labels``; NaN for a series that is not in it."""
    values = np.full((len(labels), batch.grid.size), np.nan)
    rows = index_by_labels(labels)
    pairs = [(rows[one], row) for row, one in enumerate(batch.labels) if one in rows]
    if pairs:
        to, source = np.array(pairs).T
        values[to] = batch.values[source]
    return values


def _step(
    rules: CycleRules, model: Model, known: Known, t_ms: int, y: FloatArray, *, issue: bool
) -> tuple[Known, InstantOutcome, Drift]:
    """One instant: judge what was forecast for it, learn from it, forecast from it."""
    tracker, judged = residuals.judge(known.tracker, t_ms, y)
    newest = scores.rolling(tracker)
    moved, found = drift.assess(
        known.drift,
        rules.drift,
        t_ms,
        judged.residual,
        newest.mae,
        newest.level,
        newest.steady,
        newest.magnitude,
    )
    band = (judged.expected, judged.lower, judged.upper)
    learned, burst, withheld = anomaly.absorb(y, *band, known.burst, rules.anomaly)
    calibration = intervals.observe(
        known.calibration,
        judged.leads,
        judged.lead_residuals,
        judged.lead_widths,
        steer=~withheld,
    )
    instant = np.array([t_ms], dtype=np.int64)
    known = replace(
        known,
        origin_ms=t_ms,
        recent=np.concatenate([known.recent[:, 1:], y[:, None]], axis=1),
        last_seen_ms=np.where(np.isfinite(y), t_ms, known.last_seen_ms),
        burst=burst,
        never_negative=known.never_negative & ~(y < 0),
        state=model.update(known.state, instant, learned[:, None]),
        naive=NaiveModel().update(known.naive, instant, learned[:, None]),
        calibration=calibration,
        drift=moved,
        shadow=known.shadow
        and observe(known.shadow, model, t_ms, rules.granularity_ms, y, judged.residual),
    )
    forecast = _forecast(rules, model, known)
    outcome = InstantOutcome(
        instant_ms=t_ms,
        expected=judged.expected,
        lower=judged.lower,
        upper=judged.upper,
        actual=y,
        anomaly_score=anomaly.score(y, *band, rules.anomaly),
        forecast=forecast if issue else None,
    )
    return replace(known, tracker=residuals.record(tracker, forecast)), outcome, found


def _forecast(rules: CycleRules, model: Model, known: Known) -> Forecast:
    """From the origin: the model's path, naive's where naive serves, widened as was learned."""
    steps = np.arange(1, rules.horizon_steps + 1, dtype=np.int64)
    ahead = known.origin_ms + steps * rules.granularity_ms
    plain = model.forecast(known.state, ahead)
    if known.serves_naive.any():
        fallback = NaiveModel().forecast(known.naive, ahead)
        rows = known.serves_naive[:, None]
        plain = Intervals(
            mean=np.where(rows, fallback.mean, plain.mean),
            lower=np.where(rows, fallback.lower, plain.lower),
            upper=np.where(rows, fallback.upper, plain.upper),
        )
    plain = intervals.at_least(plain, *scores.typical(known.tracker))
    positive = known.never_negative & rules.keep_sign
    low = np.where(positive, max(rules.lowest, 0.0), rules.lowest)
    held = clipped(intervals.widen(plain, known.calibration), low, rules.highest)
    return Forecast(
        labels=known.labels,
        origin_ms=known.origin_ms,
        step_ms=rules.granularity_ms,
        mean=held.mean,
        lower=held.lower,
        upper=held.upper,
    )


def _judge_late(rules: CycleRules, known: Known, raw: Sequence[RawSeries]) -> Known:
    """Judge instants whose sample came only after their cycle; they are not learned from again."""
    back = min(
        trackers.LATE_INSTANTS, rules.overlap_ms // rules.granularity_ms, known.recent.shape[1]
    )
    if back < 1 or not len(known.labels):
        return known
    grid = Grid(known.origin_ms, rules.granularity_ms, back)
    values = scatter(align(rules, raw, grid), known.labels)
    values = np.where(np.isnan(known.recent[:, -back:]), values, np.nan)
    tracker = known.tracker
    for column, t_ms in enumerate(grid.instants_ms.tolist()):
        if np.isfinite(values[:, column]).any():
            tracker, _ = residuals.judge(tracker, t_ms, values[:, column])
    return replace(known, tracker=tracker)


def _end_silent(
    rules: CycleRules, known: Known, raw: Sequence[RawSeries], before_ms: int
) -> tuple[Known, tuple[LabelSet, ...]]:
    """Mark the series that have ended: by Prometheus' own marker, or silent for too long.

    What has ended stays so until a value comes: the marker leaves the range that is read before
    the series has been silent for too long.

    Args:
        before_ms: the origin before this cycle.
    """
    marked = {one.labels for one in raw if one.values.size and is_stale(one.values[-1:])[0]}
    by_marker = np.array([one in marked for one in known.labels], dtype=np.bool_)
    absent = by_marker & (known.last_seen_ms < known.origin_ms)
    still = known.ended & (known.last_seen_ms <= before_ms)
    ended = still | absent | (known.origin_ms - known.last_seen_ms > rules.patience_ms)
    newly = np.flatnonzero(ended & ~known.ended)
    return replace(known, ended=ended), tuple(known.labels[row] for row in newly)


def _muted(outcome: InstantOutcome, ended: NDArray[np.bool_]) -> InstantOutcome:
    """The outcome without a word about series that have ended."""
    if not ended.any():
        return outcome

    def mute(column: FloatArray) -> FloatArray:
        return np.where(ended, np.nan, column)

    forecast = outcome.forecast
    if forecast is not None:
        rows = ended[:, None]
        forecast = replace(
            forecast,
            mean=np.where(rows, np.nan, forecast.mean),
            lower=np.where(rows, np.nan, forecast.lower),
            upper=np.where(rows, np.nan, forecast.upper),
        )
    return InstantOutcome(
        instant_ms=outcome.instant_ms,
        expected=mute(outcome.expected),
        lower=mute(outcome.lower),
        upper=mute(outcome.upper),
        actual=mute(outcome.actual),
        anomaly_score=mute(outcome.anomaly_score),
        forecast=forecast,
    )


def _reasons(known: Known, newest: InstantOutcome) -> tuple[Reason | None, ...]:
    """Why each series has no fresh prediction; None where it has one."""
    assert newest.forecast is not None, "the newest outcome carries the forecast"
    finite: list[bool] = np.all(np.isfinite(newest.forecast.mean), axis=1).tolist()
    reasons: list[Reason | None] = []
    for row in range(len(known.labels)):
        if known.ended[row]:
            reasons.append(Reason.STALE_INPUT)
        elif finite[row]:
            reasons.append(None)
        elif known.versions[row] == 0:
            reasons.append(known.why_unfitted[row] or Reason.INSUFFICIENT_HISTORY)
        else:
            reasons.append(Reason.NON_FINITE)
    return tuple(reasons)
