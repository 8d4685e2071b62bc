"""Which series of a watch want a fit, and why: they have none yet, they drift, or cron says so.

    first   series without a version, as soon as they can have enough data; after a fit that went
            wrong, again after a pause
    drift   what the residuals call for; a finetune or a full fit, with a cooldown
    cron    all series that live, each slot once
    growth  young series, as their history doubles

Fits that could not be tried, because the source or the workers were away, are asked for again.
Pinned series are left alone, but for those that nothing serves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sidecar import shadow
from sidecar.config import WatchConfig
from sidecar.cycle import Advance
from sidecar.known import Fitted, Known
from sidecar.learning import drift
from sidecar.learning.drift import DriftSettings, Severity
from sidecar.learning.schedule import Cron, CronTrigger, FitBatch, Mode, Slot, Trigger, spread_ms
from sidecar.names import Reason
from sidecar.series import FloatArray, LabelSet, TimeArray
from sidecar.watches.growth import Growth, noted

# How long a fit that went wrong, rather than lacked data, waits for its next try.
RETRY_MS: Final = 600_000
PUT_OFF_MS: Final = 60_000


class Ask(Protocol):
    """Queues fits of some series of the watch."""

    def __call__(
        self, series: Sequence[str], trigger: Trigger, mode: Mode, drift: Sequence[float] = ()
    ) -> None: ...


class Clock(Protocol):
    def __call__(self) -> int: ...


class _PutOff(NamedTuple):
    """A fit that could not be tried, and when it is asked for again."""

    again_ms: int
    trigger: Trigger
    mode: Mode


class FitWishes:
    """Asks for fits after each cycle, and notes what came of them.

    Args:
        min_instants: how many values the model needs.

    Attributes:
        pinned: keys of the series that only an operator has fitted.
        last_fit_ms: by key, when the version that serves was fitted.
        fit_mae: by key, its recorded MAE; none where it could not be validated.
    """

    def __init__(
        self, config: WatchConfig, cron: Cron, min_instants: int, ask: Ask, now_ms: Clock
    ) -> None:
        self.pinned: set[str] = set()
        self.last_fit_ms: dict[str, int] = {}
        self.fit_mae: dict[str, float] = {}
        self._granularity_ms = config.granularity_ms
        self._min_instants = min_instants
        self._ask_for = ask
        self._now_ms = now_ms
        self._cron = CronTrigger(cron, offset_ms=spread_ms(config.id, RETRY_MS))
        self._retry_ms: dict[str, int] = {}
        self._put_off: dict[str, _PutOff] = {}
        self._growth = Growth(
            config.granularity_ms, config.training_window_ms // config.granularity_ms
        )

    def granted(self, fitted: Fitted) -> None:
        """Note when series that got no version are to be tried again."""
        now_ms = self._now_ms()
        noted(self._growth, fitted, now_ms)
        for row, one in enumerate(fitted.labels):
            self._put_off.pop(one.key, None)
            if not fitted.promoted[row]:
                self._retry_ms[one.key] = now_ms + self._pause_ms(fitted, row)
        rows = np.flatnonzero(fitted.promoted)
        labels = [fitted.labels[row] for row in rows]
        self.served(labels, np.full(rows.size, now_ms), fitted.mae[rows])

    def served(self, labels: Sequence[LabelSet], trained_at_ms: TimeArray, mae: FloatArray) -> None:
        """Note which versions serve some series from now on."""
        for one, at_ms, error in zip(labels, trained_at_ms.tolist(), mae.tolist(), strict=True):
            self._retry_ms.pop(one.key, None)
            self.last_fit_ms[one.key] = at_ms
            self.fit_mae.pop(one.key, None)
            if np.isfinite(error):
                self.fit_mae[one.key] = error

    def memo(self) -> dict[str, Any]:
        """What to remember over a restart, plain JSON; for ``recall``."""
        slot = self._cron.last
        return {
            "cron": None if slot is None else [slot.id, slot.due_ms],
            "last_fit_ms": self.last_fit_ms,
            "fit_mae": self.fit_mae,
            "growth": self._growth.memo(),
            "put_off": {key: [one.trigger, one.mode] for key, one in self._put_off.items()},
        }

    def recall(self, memo: Mapping[str, Any], last_fit_ms: Mapping[str, int]) -> None:
        """Go on from the memo of an earlier run: the slots missed since then run once.

        Args:
            memo: empty where there was none.
            last_fit_ms: by key, what is known of the fits otherwise.

        Raises:
            ValueError, TypeError: not what ``memo`` gave.
        """
        remembered = {str(key): int(at_ms) for key, at_ms in memo.get("last_fit_ms", {}).items()}
        self.last_fit_ms = {**last_fit_ms, **remembered}
        errors = memo.get("fit_mae", {}).items()
        self.fit_mae = {str(key): float(error) for key, error in errors}
        self._growth.recall(memo.get("growth", {}))
        self._put_off = {
            str(key): _PutOff(0, Trigger(trigger), Mode(mode))
            for key, (trigger, mode) in memo.get("put_off", {}).items()
        }
        if slot := memo.get("cron"):
            name, due_ms = slot
            self._cron.last = Slot(str(name), int(due_ms))

    def put_off(self, batch: FitBatch) -> None:
        """Nothing was fitted for these, through no fault of theirs."""
        again = _PutOff(self._now_ms() + PUT_OFF_MS, batch.trigger, batch.mode)
        self._retry_ms.update(dict.fromkeys(batch.series, again.again_ms))
        self._put_off.update(dict.fromkeys(batch.series, again))

    def outdone(self, known: Known) -> NDArray[np.int64]:
        """Rows that naive is to serve; for ``after_cycle``. Takes time: for a thread."""
        return self._growth.outdone(known, self.pinned)

    def after_cycle(
        self, known: Known, result: Advance, settings: DriftSettings, outdone: NDArray[np.int64]
    ) -> Known:
        """Ask for what is due; what is known, with the cooldowns that begin."""
        now_ms = self._now_ms()
        keys = [one.key for one in known.labels]
        self._retry_ms.update({one.key: now_ms for one in result.newcomers})
        self._forget(set(keys))
        unfitted = [
            keys[row]
            for row in np.flatnonzero((known.versions == 0) & ~known.ended)
            if self._retry_ms.get(keys[row], now_ms) <= now_ms
        ]
        for key in unfitted:  # asked for now; the next try is set by what comes of it
            self._retry_ms[key] = now_ms + RETRY_MS
        if unfitted:  # pinned or not: something must serve
            self._ask_for(unfitted, Trigger.FIRST, Mode.FULL)
        if self._cron.poll(now_ms) is not None:
            alive = [keys[row] for row in np.flatnonzero(~known.ended)]
            self._ask(alive, Trigger.CRON, Mode.FULL)
        self._ask_again(known, now_ms)
        known = self._after_growth(known, now_ms, outdone)
        return self._after_drift(known, result, settings)

    def _ask_again(self, known: Known, now_ms: int) -> None:
        """For what could not be tried, as it was asked for. Of series that have no version all is
        done by ``after_cycle`` itself."""
        due = {key for key, one in self._put_off.items() if one.again_ms <= now_ms}
        if not due:
            return
        again: dict[tuple[Trigger, Mode], list[str]] = {}
        for row, one in enumerate(known.labels):
            if one.key in due and known.versions[row] and not known.ended[row]:
                wish = self._put_off[one.key]
                again.setdefault((wish.trigger, wish.mode), []).append(one.key)
        for key in due:
            del self._put_off[key]
        for (trigger, mode), keys in again.items():
            self._ask(keys, trigger, mode)

    def _after_growth(self, known: Known, now_ms: int, outdone: NDArray[np.int64]) -> Known:
        """Fit young series anew; until then naive serves where it is clearly better."""
        keys = {known.labels[row].key for row in outdone} | {*self._growth.due(now_ms)}
        alive = [
            one.key
            for row, one in enumerate(known.labels if keys else ())
            if one.key in keys and known.versions[row] and not known.ended[row]
            if one.key not in self.pinned
        ]
        self._growth.asked(alive)
        self._ask(alive, Trigger.GROWTH, Mode.FULL)
        if not outdone.size:
            return known
        serves = known.serves_naive.copy()
        serves[outdone] = True
        # A predecessor has the version that it was compared with before it no longer.
        return replace(known, serves_naive=serves, shadow=shadow.without(known.shadow, outdone))

    def _after_drift(self, known: Known, result: Advance, settings: DriftSettings) -> Known:
        due = np.where((known.versions > 0) & ~known.ended, result.drift.due, 0)
        for severity, mode in ((Severity.FINETUNE, Mode.FINETUNE), (Severity.RETRAIN, Mode.FULL)):
            rows = np.flatnonzero(due == severity)
            times = result.drift.times[rows].tolist()
            self._ask([known.labels[row].key for row in rows], Trigger.DRIFT, mode, times)
        rows = np.flatnonzero(due)
        if not rows.size:
            return known
        moved = drift.queued(known.drift, settings, known.origin_ms, rows, due[rows])
        return replace(known, drift=moved)

    def _pause_ms(self, fitted: Fitted, row: int) -> int:
        if fitted.why_unfitted[row] is not Reason.INSUFFICIENT_HISTORY:
            return RETRY_MS
        lacking = self._min_instants - int(fitted.n_samples[row])
        return max(1, lacking) * self._granularity_ms

    def _ask(
        self, keys: Sequence[str], trigger: Trigger, mode: Mode, times: Sequence[float] = ()
    ) -> None:
        free = [place for place, key in enumerate(keys) if key not in self.pinned]
        if free:
            drifted = [times[place] for place in free] if times else ()
            self._ask_for([keys[place] for place in free], trigger, mode, drifted)

    def _forget(self, known: set[str]) -> None:
        """Drop notes about series that are gone, so that churn costs no memory."""
        every: tuple[dict[str, Any], ...] = (
            self._retry_ms,
            self._put_off,
            self.last_fit_ms,
            self.fit_mae,
        )
        for notes in every:
            if len(notes) > 2 * len(known) + 100:
                for key in notes.keys() - known:
                    del notes[key]
                self._growth.forget(known)
