"""Fits on record: what is promoted becomes a version, what is refused goes into the audit log."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sidecar.errors import StoreError
from sidecar.learning.gate import Gate, Verdicts
from sidecar.learning.records import AuditEntry, NewVersions, Restored, number
from sidecar.learning.schedule import FitBatch
from sidecar.learning.store import VersionStore
from sidecar.learning.training import FINETUNE, FULL, TrainingOutcome
from sidecar.models.contract import ForecastModel, State, take, to_arrays
from sidecar.series import LabelSet

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Training:
    """One trained batch with its verdicts: n series, every array n first.

    Attributes:
        batch: what asked for it, and how.
        labels: n.
        end_ms: the newest instant learned from.
        recipe: what the versions are stored with as their settings.
        outcome: the figures and the state.
        verdicts: what the gate said of each.
        serving: (n,) int64, the versions that serve; 0 = none.
    """

    batch: FitBatch
    model: ForecastModel[State]
    recipe: Mapping[str, Any]
    labels: tuple[LabelSet, ...]
    end_ms: int
    outcome: TrainingOutcome
    verdicts: Verdicts
    serving: NDArray[np.int64]

    def figures(self, row: int) -> dict[str, Any]:
        """What the verdict on a series rests on, for the audit log; without what is not known."""
        verdicts = self.verdicts
        known = {
            "cause": self.batch.trigger.name.lower(),
            "candidate_mae": number(verdicts.candidate_mae[row]),
            "serving_mae": number(verdicts.serving_mae[row]),
            "common": int(verdicts.common[row]),
            "mae": number(self.outcome.mae[row]),
            "naive_mae": number(self.outcome.naive_mae[row]),
            "reason": self.outcome.reasons[row] or None,
        }
        return {name: value for name, value in known.items() if value is not None}


class VersionBook(Protocol):
    """Keeps what was learned; called in a thread."""

    def record(self, training: Training) -> NDArray[np.int64]:
        """Save the promoted rows; (n,) their version numbers, 0 for rows that were refused."""

    def stored(self, watch: str, labels: Sequence[LabelSet]) -> Restored:
        """The versions of some series that serve, as they were when they had been fitted.

        Raises:
            StoreError: they cannot be read.
        """


class StoredVersions:
    """A ``VersionBook`` on the version store.

    Where the disk refuses, what was learned serves all the same, under numbers kept in memory: a
    full disk must not stop forecasts.
    """

    def __init__(self, store: VersionStore, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms
        self._unsaved: dict[tuple[str, LabelSet], int] = {}

    def record(self, training: Training) -> NDArray[np.int64]:
        verdicts, outcome = training.verdicts, training.outcome
        serves = (verdicts.promoted | verdicts.where(Gate.PROMOTED_NAIVE)) & outcome.fitted
        kept = np.flatnonzero(serves | verdicts.where(Gate.WAITING))
        numbers = np.zeros(len(training.labels), dtype=np.int64)
        try:
            numbers[kept] = self._store.save(self._entry(training, kept, serves))
            self._store.note(self._refusals(training, kept))
        except StoreError as error:
            log.warning(
                "watch %s: %d versions serve but are not saved: %s",
                training.batch.watch,
                kept.size,
                error,
            )
            for row in kept.tolist():
                key = training.batch.watch, training.labels[row]
                before = max(self._unsaved.get(key, 0), int(training.serving[row]))
                numbers[row] = self._unsaved[key] = before + 1
        return numbers

    def stored(self, watch: str, labels: Sequence[LabelSet]) -> Restored:
        return self._store.load(watch, labels)

    def _entry(
        self, training: Training, kept: NDArray[np.int64], serves: NDArray[np.bool_]
    ) -> NewVersions:
        batch, outcome = training.batch, training.outcome
        drift = {request.series: request.drift for request in batch.requests}
        return NewVersions(
            watch=batch.watch,
            model=training.model.name,
            settings=training.recipe,
            policy=tuple(np.where(outcome.tuned[kept], FINETUNE, FULL).tolist()),
            trained_at_ms=self._now_ms(),
            labels=tuple(training.labels[row] for row in kept),
            arrays=to_arrays(take(outcome.state, kept)),
            cause=(batch.trigger.name.lower(),) * kept.size,
            gate=tuple(training.verdicts.code[row].value for row in kept),
            active=serves[kept],
            drift=np.array([drift.get(training.labels[row].key, np.nan) for row in kept]),
            mae=outcome.mae[kept],
            mape=outcome.mape[kept],
            smape=outcome.smape[kept],
            mase=outcome.mase[kept],
            n_samples=outcome.n_samples[kept],
        )

    def _refusals(self, training: Training, kept: NDArray[np.int64]) -> list[AuditEntry]:
        saved = set(kept.tolist())
        return [
            AuditEntry(
                self._now_ms(),
                "gate",
                code.value,
                training.labels[row],
                training.batch.watch,
                int(training.serving[row]) or None,
                detail=training.figures(row),
            )
            for row, code in enumerate(training.verdicts.code)
            if row not in saved
        ]
