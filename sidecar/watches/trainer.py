"""Fits for all watches: takes what waits, trains it in the workers, gates it, hands it back.

A fit never delays a cycle: the watch goes on being served from the state it has, and puts what is
delivered into service between two of its cycles.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sidecar.errors import SidecarError, StoreError
from sidecar.known import Fitted, Known, blank_state
from sidecar.learning import gate, residuals
from sidecar.learning.gate import Gate, GateSettings
from sidecar.learning.schedule import FitBatch, FitQueue, Mode, Trigger
from sidecar.learning.training import FINETUNE, FULL, TrainingOutcome
from sidecar.learning.warm import warm_states
from sidecar.learning.worker import ModelSpec
from sidecar.learning.workers import FitJob, FitResult, FitsStopped
from sidecar.models.contract import ForecastModel, State, put
from sidecar.models.domain import never_negative
from sidecar.models.naive import NaiveModel
from sidecar.names import Reason
from sidecar.publish.publisher import InThread
from sidecar.series import LabelSet, SeriesBatch, index_by_labels
from sidecar.watches.book import Training, VersionBook

log = logging.getLogger(__name__)

LARGEST_BATCH: Final = 1_000
# How many requests are queued before the event loop gets its turn again.
QUEUED_AT_ONCE: Final = 1_000


class Trainee(Protocol):
    """A watch, as the trainer sees it."""

    @property
    def watch_id(self) -> str: ...

    @property
    def title(self) -> str:
        """What the log calls it."""

    @property
    def model(self) -> ForecastModel[State]: ...

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def recipe(self) -> Mapping[str, Any]:
        """What a stored version must have been made by to be learned on from; plain JSON."""

    @property
    def horizon_steps(self) -> int: ...

    @property
    def gate(self) -> GateSettings: ...

    @property
    def learned(self) -> Known: ...

    @property
    def pinned(self) -> Collection[str]:
        """Keys of the series that only an operator has fitted."""

    async def history(self, series: Sequence[str]) -> SeriesBatch:
        """The training window of the series with these keys, up to the origin."""

    def deliver(self, fitted: Fitted) -> None:
        """Take what was fitted."""

    def failed(self, batch: FitBatch, error: Exception) -> None:
        """Take note that nothing was fitted for these, and why."""


class Fitter(Protocol):
    """Trains batches elsewhere, so many at once."""

    @property
    def processes(self) -> int: ...

    async def submit(self, job: FitJob) -> FitResult:
        """Train a batch.

        Raises:
            SidecarError: it could not be tried at all.
        """


@dataclass(frozen=True, slots=True)
class TrainingNote:
    """What there is to count about one batch; ``results``: series by gate code or reason."""

    watch: str
    model: str
    trigger: str
    results: Mapping[str, int]
    seconds: float


class _Wish(NamedTuple):
    """Fits of some series that were asked for: the arguments of ``FitQueue.push``."""

    watch: str
    series: Sequence[str]
    trigger: Trigger
    mode: Mode
    at_ms: int
    drift: Sequence[float]

    def cut(self, count: int) -> tuple["_Wish", "_Wish"]:
        """The first ``count`` series, and the rest."""
        first, rest = slice(count), slice(count, None)
        return (
            self._replace(series=self.series[first], drift=self.drift[first]),
            self._replace(series=self.series[rest], drift=self.drift[rest]),
        )

    def without(self, unwanted: Collection[tuple[str, str]]) -> "_Wish":
        """All but the unwanted (watch, series)."""
        keep = [at for at, key in enumerate(self.series) if (self.watch, key) not in unwanted]
        if len(keep) == len(self.series):
            return self
        return self._replace(
            series=[self.series[at] for at in keep],
            drift=[self.drift[at] for at in keep] if len(self.drift) else (),
        )


class Trainer:
    """Takes batches from the queue as long as the pool has places.

    Args:
        now_ms: the clock, for the queue's budget.
        note: told of every batch, for metrics.

    Attributes:
        switching: held by whoever changes which version serves, from the record to the hand-over,
            so that the store and what is served cannot come to differ.
    """

    def __init__(
        self,
        pool: Fitter,
        queue: FitQueue,
        book: VersionBook,
        in_thread: InThread,
        now_ms: Callable[[], int],
        note: Callable[[TrainingNote], None],
    ) -> None:
        self._pool = pool
        self._queue = queue
        self._book = book
        self._in_thread = in_thread
        self._now_ms = now_ms
        self._note = note
        self.switching = asyncio.Lock()
        self._trainees: dict[str, Trainee] = {}
        self._asked, self._one_finished = asyncio.Event(), asyncio.Event()
        self._inbox: deque[_Wish] = deque()
        self._running: set[asyncio.Task[None]] = set()

    def enrol(self, trainee: Trainee) -> None:
        self._trainees[trainee.watch_id] = trainee

    def forget(self, watch_id: str, series: Sequence[str]) -> None:
        """Take some series of a watch out of the queue; what is under way goes on."""
        unwanted = {(watch_id, key) for key in series}
        self._inbox = deque(wish.without(unwanted) for wish in self._inbox)
        self._queue.drop(watch_id, series)

    def dismiss(self, watch_id: str) -> None:
        self._trainees.pop(watch_id, None)
        self._inbox = deque(wish for wish in self._inbox if wish.watch != watch_id)
        self._queue.drop(watch_id)
        self._one_finished.set()

    @property
    def waiting(self) -> int:
        """Series in the queue and batches under way."""
        asked = sum(len(wish.series) for wish in self._inbox)
        return asked + len(self._queue) + len(self._running)

    async def idle(self) -> None:
        """Return when nothing waits and nothing is under way."""
        while self.waiting:
            self._one_finished.clear()
            await self._one_finished.wait()

    def ask(
        self,
        watch_id: str,
        series: Sequence[str],
        trigger: Trigger,
        mode: Mode,
        drift: Sequence[float] = (),
    ) -> None:
        """Queue fits of some series of a watch; what was fitted comes by ``deliver``."""
        self._inbox.append(_Wish(watch_id, series, trigger, mode, self._now_ms(), drift))
        self._asked.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Train what waits until stopped."""
        while not stopping.is_set():
            self._asked.clear()
            await self._queue_wishes()
            while len(self._running) <= self._pool.processes:
                batch = self._queue.pop(self._now_ms(), LARGEST_BATCH)
                if batch is None:
                    break
                task = asyncio.create_task(self._train(batch))
                self._running.add(task)
                task.add_done_callback(self._finished)
            try:  # a budget that refills wakes nobody, so look again from time to time
                await asyncio.wait_for(self._asked.wait(), 1.0)
            except TimeoutError:
                continue

    async def _queue_wishes(self) -> None:
        """Put what was asked for into the queue, piece by piece."""
        while self._inbox:
            wish = self._inbox.popleft()
            piece, rest = wish.cut(QUEUED_AT_ONCE)
            if rest.series:
                self._inbox.appendleft(rest)
            self._queue.push(*piece)
            await asyncio.sleep(0)

    async def stop(self) -> None:
        """End what is under way; the workers are ended by the pool's own ``stop``."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._asked.set()
        self._one_finished.set()

    async def _train(self, batch: FitBatch) -> None:
        trainee = self._trainees.get(batch.watch)
        if trainee is None:
            return
        self._forget_gone(trainee)
        try:
            await self._trained(trainee, batch)
        except FitsStopped:
            return
        except SidecarError as error:
            log.warning("watch %s: %d fits put off: %s", trainee.title, len(batch.series), error)
            trainee.failed(batch, error)
        except Exception as error:  # one batch must not end the trainer
            log.exception("watch %s: a batch of fits failed", trainee.title)
            trainee.failed(batch, error)

    def _forget_gone(self, trainee: Trainee) -> None:
        """Forget the fits of series that went: there are some where more wait than are known."""
        labels, waiting = trainee.learned.labels, self._queue.waiting(trainee.watch_id)
        if len(waiting) > len(labels):
            alive = {one.key for one in labels}
            gone = [one.series for one in waiting if one.series not in alive]
            self._queue.drop(trainee.watch_id, gone)

    async def _trained(self, trainee: Trainee, batch: FitBatch) -> None:
        history = await trainee.history(batch.series)
        if not history.labels:
            return
        warm = await self._in_thread(self._warm, trainee, batch, history.labels)
        result = await self._pool.submit(_job(trainee, batch, history, warm))
        async with self.switching:
            if self._trainees.get(batch.watch) is not trainee:
                log.info("watch %s: fits end with it, as it was", trainee.title)
                return  # its settings changed: on record it would be newer than what they gave
            fitted, note = await self._in_thread(self._judged, trainee, batch, history, result)
            trainee.deliver(fitted)
        self._note(note)
        log.info(
            "watch %s: %d series fitted with %s (%s, %s) in %.1f s: %s",
            trainee.title,
            len(history.labels),
            note.model,
            note.trigger,
            batch.mode.name.lower(),
            note.seconds,
            ", ".join(f"{count} {result}" for result, count in sorted(note.results.items())),
        )

    def _warm(self, trainee: Trainee, batch: FitBatch, labels: Sequence[LabelSet]) -> State | None:
        """What a finetune learns on from: the versions as they were stored, since the states that
        serve have seen the instants that it is to be judged on."""
        if batch.mode is not Mode.FINETUNE:
            return None
        try:
            restored = self._book.stored(batch.watch, labels)
        except StoreError as error:
            log.warning("watch %s: finetunes become full fits: %s", trainee.title, error)
            return None
        return warm_states(restored, trainee.model, trainee.recipe, labels)

    def _judged(
        self, trainee: Trainee, batch: FitBatch, history: SeriesBatch, result: FitResult
    ) -> tuple[Fitted, TrainingNote]:
        """Gate, number and save what came back; the rows that did not get a reason."""
        n = len(history.labels)
        naive = NaiveModel().fit(history.grid.instants_ms, history.values)
        empty = np.full(n, np.nan)
        fitted = Fitted(
            labels=history.labels,
            end_ms=history.grid.end_ms,
            state=blank_state(trainee.model, n),
            naive=naive,
            promoted=np.zeros(n, dtype=np.bool_),
            serves_naive=np.zeros(n, dtype=np.bool_),
            versions=np.zeros(n, dtype=np.int64),
            why_unfitted=tuple(
                result.failures[row].reason if row in result.failures else None for row in range(n)
            ),
            mae=empty,
            centre=empty,
            scale=empty,
            n_samples=np.isfinite(history.values).sum(axis=1),
            never_negative=never_negative(history.values),
        )
        codes: list[str] = [failure.reason for failure in result.failures.values()]
        if result.outcome is not None:
            training = self._gated(trainee, batch, history, result.rows, result.outcome)
            versions = self._book.record(training)
            fitted = _merged(fitted, result.rows, training, versions)
            codes += training.verdicts.code
        return fitted, TrainingNote(
            watch=batch.watch,
            model=trainee.model.name,
            trigger=batch.trigger.name.lower(),
            results=Counter(codes),
            seconds=result.seconds,
        )

    def _gated(
        self,
        trainee: Trainee,
        batch: FitBatch,
        history: SeriesBatch,
        rows: NDArray[np.int64],
        outcome: TrainingOutcome,
    ) -> Training:
        """What the gate says, holding each candidate against the recorded live residuals."""
        known = trainee.learned
        labels = tuple(history.labels[row] for row in rows)
        at = index_by_labels(known.labels)
        places = np.array([at.get(one, -1) for one in labels], dtype=np.int64)
        live = np.full(outcome.residuals.shape, np.nan)
        met = np.flatnonzero(places >= 0)
        recorded = residuals.live_residuals(known.tracker, outcome.instants_ms)
        live[met] = recorded[places[met]]
        serving = np.zeros(len(labels), dtype=np.int64)
        serving[met] = known.versions[places[met]]
        held = batch.trigger is not Trigger.OPERATOR
        pinned = np.array([held and one.key in trainee.pinned for one in labels], dtype=np.bool_)
        unvalidated = self._unvalidated(batch.watch, labels, serving, outcome)
        verdicts = gate.decide(
            outcome,
            live,
            serving > 0,
            trainee.gate,
            pinned,
            unvalidated,
            outcome.n_samples < gate.YOUNG,
        )
        return Training(
            batch=batch,
            model=trainee.model,
            recipe=trainee.recipe,
            labels=labels,
            end_ms=history.grid.end_ms,
            outcome=outcome,
            verdicts=verdicts,
            serving=serving,
        )

    def _unvalidated(
        self,
        watch: str,
        labels: Sequence[LabelSet],
        serving: NDArray[np.int64],
        outcome: TrainingOutcome,
    ) -> NDArray[np.bool_]:
        """(n,) whether what serves was never validated; looked up only where it matters."""
        found = np.zeros(len(labels), dtype=np.bool_)
        asked = np.flatnonzero((serving > 0) & (outcome.holdout == 0))
        if not asked.size:
            return found
        try:
            restored = self._book.stored(watch, [labels[row] for row in asked.tolist()])
        except StoreError as error:
            log.warning("watch %s: what serves cannot be compared: %s", watch, error)
            return found
        own = {
            one: (version, bool(np.isnan(mae)))
            for group in restored.groups
            for one, version, mae in zip(
                group.labels, group.versions.tolist(), group.mae.tolist(), strict=True
            )
        }
        for row in asked.tolist():
            found[row] = own.get(labels[row]) == (int(serving[row]), True)
        return found


def _job(trainee: Trainee, batch: FitBatch, history: SeriesBatch, warm: State | None) -> FitJob:
    return FitJob(
        spec=trainee.spec,
        state_type=trainee.model.state_type,
        t_ms=history.grid.instants_ms,
        y=history.values,
        horizon_steps=trainee.horizon_steps,
        mode=FINETUNE if batch.mode is Mode.FINETUNE else FULL,
        warm=warm,
    )


def _merged(
    fitted: Fitted, rows: NDArray[np.int64], training: Training, versions: NDArray[np.int64]
) -> Fitted:
    """The blank result of a batch with the rows that came through put in."""
    outcome, verdicts = training.outcome, training.verdicts
    why = list(fitted.why_unfitted)
    for row, reason in zip(rows.tolist(), outcome.reasons, strict=True):
        why[row] = Reason(reason) if reason else None
    serves_naive = verdicts.where(Gate.PROMOTED_NAIVE)
    promoted = verdicts.promoted | (serves_naive & outcome.fitted)

    def placed(column: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.full(len(fitted.labels), np.nan)
        out[rows] = column
        return out

    def flags(column: NDArray[np.bool_]) -> NDArray[np.bool_]:
        out = np.zeros(len(fitted.labels), dtype=np.bool_)
        out[rows] = column
        return out

    numbers = np.zeros(len(fitted.labels), dtype=np.int64)
    numbers[rows] = versions
    return replace(
        fitted,
        state=put(fitted.state, rows, outcome.state),
        promoted=flags(promoted),
        serves_naive=flags(serves_naive),
        versions=numbers,
        why_unfitted=tuple(why),
        mae=placed(outcome.mae),
        centre=placed(outcome.centre),
        scale=placed(outcome.scale),
    )
