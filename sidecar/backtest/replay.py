"""One model over a past range, instant by instant, as if each had just come.

Pure, but for a stopwatch. The cycle is the live one (``cycle.advance``) with another clock: it is
handed the instants in turns of a few, forecasts each from the data before it, and what it had
forecast is taken from its tracker before that forgets. Fits are those of the workers
(``training.train``) and pass the same gate, at the start of the range and then at a fixed cadence.
Not replayed are fits that drift would have asked for, and that naive serves where it is better: the
figures are the model's own.

The history is put on the grid once, before; the samples handed to the cycle lie on its instants.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sidecar.backtest.tally import Judged, Tally, add, judged_at, start_tally
from sidecar.cycle import CycleRules, advance
from sidecar.known import Fitted, Known, adopt, begin
from sidecar.learning import gate, residuals
from sidecar.learning.gate import Gate
from sidecar.learning.trackers import LATE_INSTANTS, leads_of
from sidecar.learning.training import TrainingOutcome, train
from sidecar.models.contract import ForecastModel, State, put
from sidecar.models.domain import never_negative
from sidecar.models.naive import NaiveModel
from sidecar.names import Reason
from sidecar.series import FloatArray, LabelSet, RawSeries, SeriesBatch, TimeArray, index_by_labels

Model = ForecastModel[State]
Float32Array = NDArray[np.float32]

# What a watch keeps at hand between two cycles, in instants.
AT_HAND: Final = 60


@dataclass(frozen=True, eq=False)
class Plan:
    """What is tested, and how.

    Attributes:
        rules: of the watch's cycles, as live.
        batch: N series on the whole grid: what fits learn from, then the tested range.
        tested: T, how many of the newest instants are tested.
        window: how many instants before it a fit may look at.
        refit: instants from one fit to the next; 0 = only the one at the start.
    """

    rules: CycleRules
    batch: SeriesBatch
    tested: int
    window: int
    refit: int

    @property
    def instants_ms(self) -> TimeArray:
        """(T,) the tested instants."""
        return self.batch.grid.instants_ms[-self.tested :]

    @property
    def actual(self) -> FloatArray:
        """(N, T) what came."""
        return self.batch.values[:, -self.tested :]

    @property
    def first(self) -> int:
        """The column of the first tested instant."""
        return self.batch.grid.size - self.tested


@dataclass(frozen=True, eq=False)
class Replayed:
    """How one model went over the range; N series, T instants.

    Attributes:
        tally: sums of errors, per series and lead.
        expected: (3, N, T) float32, mean, lower and upper as forecast one instant before; NaN where
            there was none. Empty (3, N, 0) where it was not to be kept.
        naive_better: (N,) bool, where live the gate would let naive serve, by the newest fit.
        reasons: N, why a series was not fitted last; None where it was.
        explained: N, what the model says of its last fit of each series.
        fits: how many fits there were; ``fit_s`` and ``replay_s``, the seconds they and the cycles
            took.
    """

    model: str
    tally: Tally
    expected: Float32Array
    naive_better: NDArray[np.bool_]
    reasons: tuple[Reason | None, ...]
    explained: tuple[str, ...]
    fits: int
    fit_s: float
    replay_s: float


def replay(
    model: Model,
    name: str,
    plan: Plan,
    *,
    keep: bool = False,
    note: Callable[[int], None] = lambda _: None,
) -> Replayed:
    """Serve the tested range with ``model``.

    Args:
        keep: whether the forecasts themselves are kept, for plots.
        note: told how many instants were done, now and then.
    """
    return _Replay(model, name, plan, keep).run(note)


class _Replay:
    """The state of one replay: what is known, and what has been counted."""

    def __init__(self, model: Model, name: str, plan: Plan, keep: bool) -> None:
        self.model, self.name, self.plan = model, name, plan
        n, step_ms = len(plan.batch.labels), plan.batch.grid.step_ms
        # The batch is aligned and transformed already: a sample speaks for its own instant only.
        self.rules = replace(plan.rules, transform="none", staleness_ms=0, overlap_ms=0)
        self.row_of = index_by_labels(plan.batch.labels)
        self.step_ms = step_ms
        self.tally = start_tally(plan.batch, plan.tested, leads_of(plan.rules.horizon_steps))
        self.expected = np.full((3, n, plan.tested if keep else 0), np.nan, dtype=np.float32)
        self.naive_better = np.zeros(n, dtype=np.bool_)
        self.fits, self.fit_s = 0, 0.0

    def run(self, note: Callable[[int], None]) -> Replayed:
        plan, size = self.plan, self.plan.batch.grid.size
        began = perf_counter()
        column = plan.first
        known = self._begun(column)
        while column < size:
            if column == plan.first or (plan.refit and (column - plan.first) % plan.refit == 0):
                known = self._refitted(known, column)
            end = min(column + LATE_INSTANTS, size)
            if plan.refit:
                end = min(end, column + plan.refit - (column - plan.first) % plan.refit)
            known = self._served(known, column, end)
            note(end - column)
            column = end
        return self._result(known, perf_counter() - began)

    def _begun(self, column: int) -> Known:
        """The watch before its first fit, with the series that have a value by then."""
        past = _columns(self.plan.batch, max(0, column - self._span), column)
        present = np.flatnonzero(np.isfinite(past.values).any(axis=1))
        labels = tuple(past.labels[row] for row in present)
        history = SeriesBatch(labels, past.grid, past.values[present])
        return begin(self.model, history, AT_HAND, self.rules.horizon_steps)

    @property
    def _span(self) -> int:
        return max(2, min(self.plan.window, self.model.longest_fit))

    def _served(self, known: Known, start: int, end: int) -> Known:
        """Cycles over the instants of the columns ``start`` to ``end``, a few at most."""
        batch = self.plan.batch
        t_ms = batch.grid.instants_ms[start:end]
        raw = [
            RawSeries(one, t_ms[there], values[there])
            for one, values, there in _with_values(batch, start, end)
        ]
        known, _ = advance(self.rules, self.model, known, raw, int(t_ms[-1]))
        rows = np.array([self.row_of[one] for one in known.labels], dtype=np.int64)
        for column, instant_ms in zip(range(start, end), t_ms.tolist(), strict=True):
            found = judged_at(known.tracker, instant_ms)
            add(self.tally, rows, column - self.plan.first, found)
            if self.expected.shape[2]:
                self.expected[:, rows, column - self.plan.first] = found.one_step.T
        return known

    def _refitted(self, known: Known, column: int) -> Known:
        """The watch served by a fit on what came before ``column``, where the gate lets it."""
        began = perf_counter()
        rows = np.array([self.row_of[one] for one in known.labels], dtype=np.int64)
        past = _columns(self.plan.batch, max(0, column - self._span), column)
        history = SeriesBatch(known.labels, past.grid, past.values[rows])
        outcome = train(
            self.model,
            history.grid.instants_ms,
            history.values,
            horizon_steps=self.rules.horizon_steps,
        )
        fitted, naive_better = gated(known, history, outcome, self.rules, self.fits + 1)
        self.naive_better[rows] = naive_better
        self.fits += 1
        served = adopt(self.model, known, fitted)
        self.fit_s += perf_counter() - began
        return served

    def _result(self, known: Known, seconds: float) -> Replayed:
        n = len(self.plan.batch.labels)
        reasons: list[Reason | None] = [Reason.INSUFFICIENT_HISTORY] * n
        explained = [""] * n
        lines = self.model.explain(known.state)
        for at, one in enumerate(known.labels):
            row = self.row_of[one]
            fitted = known.versions[at] > 0
            reasons[row] = None if fitted else known.why_unfitted[at] or reasons[row]
            explained[row] = lines[at] if fitted else ""
        return Replayed(
            model=self.name,
            tally=self.tally,
            expected=self.expected,
            naive_better=self.naive_better,
            reasons=tuple(reasons),
            explained=tuple(explained),
            fits=self.fits,
            fit_s=self.fit_s,
            replay_s=seconds - self.fit_s,
        )


def yardstick(name: str, plan: Plan) -> Replayed:
    """The two forecasts that need no model and no cycle: as at the origin, or as a day before.

    They have no band. Where nothing is known of a day before, ``seasonal_naive`` is as ``naive``.
    """
    began = perf_counter()
    n, leads = len(plan.batch.labels), leads_of(plan.rules.horizon_steps)
    tally = start_tally(plan.batch, plan.tested, leads)
    rows, nothing = np.arange(n), np.full((n, len(leads)), np.nan)
    for column in range(plan.tested):
        back = np.maximum(plan.first + column - np.array(leads), 0)
        mean = tally.naive[:, back]
        if name != NaiveModel.name:
            day = tally.yesterday[:, column][:, None]
            mean = np.where(np.isfinite(day), day, mean)
        one_step = np.stack([mean[:, 0], nothing[:, 0], nothing[:, 0]], axis=1)
        add(tally, rows, column, Judged(one_step, mean, nothing))
    return Replayed(
        model=name,
        tally=tally,
        expected=np.empty((3, n, 0), dtype=np.float32),
        naive_better=np.zeros(n, dtype=np.bool_),
        reasons=(None,) * n,
        explained=("",) * n,
        fits=0,
        fit_s=0.0,
        replay_s=perf_counter() - began,
    )


def gated(
    known: Known, history: SeriesBatch, outcome: TrainingOutcome, rules: CycleRules, version: int
) -> tuple[Fitted, NDArray[np.bool_]]:
    """What a fit of all known series puts into service, and (N,) where naive would serve instead.

    A fit that the live gate would hand to naive serves all the same.
    """
    n = len(history.labels)
    live = residuals.live_residuals(known.tracker, outcome.instants_ms)
    verdicts = gate.decide(
        outcome, live, known.versions > 0, replace(rules.gate, auto_promote=True)
    )
    naive_better = verdicts.where(Gate.PROMOTED_NAIVE)
    promoted = (verdicts.promoted | naive_better) & outcome.fitted
    fitted = Fitted(
        labels=history.labels,
        end_ms=history.grid.end_ms,
        state=put(known.state, np.arange(n), outcome.state),
        naive=NaiveModel().fit(history.grid.instants_ms, history.values),
        promoted=promoted,
        serves_naive=np.zeros(n, dtype=np.bool_),
        versions=np.full(n, version, dtype=np.int64),
        why_unfitted=tuple(Reason(why) if why else None for why in outcome.reasons),
        mae=outcome.mae,
        centre=outcome.centre,
        scale=outcome.scale,
        n_samples=outcome.n_samples,
        never_negative=never_negative(history.values),
    )
    return fitted, naive_better


def _columns(batch: SeriesBatch, start: int, end: int) -> SeriesBatch:
    grid = batch.grid
    end_ms = grid.start_ms + (end - 1) * grid.step_ms
    part = replace(grid, end_ms=end_ms, size=end - start)
    return SeriesBatch(batch.labels, part, batch.values[:, start:end])


def _with_values(
    batch: SeriesBatch, start: int, end: int
) -> Sequence[tuple[LabelSet, FloatArray, NDArray[np.bool_]]]:
    values = batch.values[:, start:end]
    there = np.isfinite(values)
    return [
        (batch.labels[row], values[row], there[row])
        for row in np.flatnonzero(there.any(axis=1)).tolist()
    ]
