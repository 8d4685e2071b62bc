"""Which fitted state may serve: the promotion gate, the naive fall-back, the shadow. Pure.

Each decision is per series and carries its own code and the figures it rests on, which go into the
audit log as they are.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sidecar.learning.training import TrainingOutcome
from sidecar.names import Reason
from sidecar.series import FloatArray

BoolArray: TypeAlias = NDArray[np.bool_]

# Naive serves instead of a model only where that is clear: the margin, and on how many instants.
NAIVE_MARGIN: Final = 1.05
NAIVE_INSTANTS: Final = 60
# A version fitted on fewer instants than YOUNG is given up sooner, but only by a wide margin.
YOUNG: Final = 240
CLEAR_MARGIN: Final = 1.5
FEW_INSTANTS: Final = 15
# Fewer common instants than this do not compare a candidate with what serves.
LEAST_COMMON: Final = 8
# A promoted version goes back when it is worse than its predecessor by more than twice the
# tolerance, and by more than this many standard errors of the paired difference.
SHADOW_ERRORS: Final = 2.0
SHADOW_INSTANTS: Final = 30


class Gate(StrEnum):
    """What was decided about a candidate, or about a version in its first window, and why."""

    PROMOTED_FIRST = "promoted_first"
    PROMOTED = "promoted"
    PROMOTED_UNVALIDATED = "promoted_unvalidated"
    PROMOTED_NAIVE = "promoted_naive"
    WAITING = "waiting_for_operator"
    REJECTED_UNFITTED = "rejected_unfitted"
    REJECTED_NON_FINITE = "rejected_non_finite"
    REJECTED_WORSE = "rejected_worse"
    REJECTED_UNVALIDATED = "rejected_unvalidated"
    REJECTED_PINNED = "rejected_pinned"
    SHADOW_WATCHING = "shadow_watching"
    SHADOW_KEPT = "shadow_kept"
    SHADOW_ROLLED_BACK = "shadow_rolled_back"


@dataclass(frozen=True, slots=True)
class GateSettings:
    """How strict the gate is.

    Attributes:
        tolerance: by which share a candidate may be worse than what serves.
        auto_promote: whether a candidate that passes serves at once.
    """

    tolerance: float = 0.05
    auto_promote: bool = True


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What was decided about N candidates; ``code`` N, the figures (N,) float64.

    Attributes:
        candidate_mae, serving_mae: over the instants where both are known, else NaN.
        common: (N,) int64, how many those are.
    """

    code: tuple[Gate, ...]
    candidate_mae: FloatArray
    serving_mae: FloatArray
    common: NDArray[np.int64]

    def where(self, *codes: Gate) -> BoolArray:
        """(N,) rows with one of these codes."""
        return np.array([code in codes for code in self.code], dtype=np.bool_)

    @property
    def promoted(self) -> BoolArray:
        """(N,) rows whose candidate serves from now on."""
        return self.where(Gate.PROMOTED, Gate.PROMOTED_FIRST, Gate.PROMOTED_UNVALIDATED)


def decide(
    outcome: TrainingOutcome,
    live: FloatArray,
    serving: BoolArray,
    settings: GateSettings,
    pinned: BoolArray | None = None,
    unvalidated: BoolArray | None = None,
    young: BoolArray | None = None,
) -> Verdicts:
    """Which candidates may serve.

    Where a candidate passes but naive was clearly better, the code is ``PROMOTED_NAIVE``: naive is
    to serve that series, unless what serves now beats naive itself.

    Args:
        live: (N, V) recorded one-step residuals of what serves at ``outcome.instants_ms``
            (``residuals.live_residuals``); NaN where none.
        serving: (N,) whether the series has a version now. One without takes any candidate that is
            finite; one with takes a candidate that could not be compared only if it was validated.
        pinned: (N,) whether an operator has pinned the series since the fit was asked for: then
            what serves stays, whatever the candidate is worth.
        unvalidated: (N,) whether what serves could not be validated either: then a candidate that
            cannot be serves in its place, since it has seen more.
        young: (N,) whether the history is so short that naive is to serve sooner, on fewer
            instants, where it is better by a wide margin.
    """
    both = np.isfinite(outcome.residuals) & np.isfinite(live)
    common = both.sum(axis=1)
    candidate, current = _mean(np.abs(outcome.residuals), both), _mean(np.abs(live), both)
    comparable = common >= LEAST_COMMON
    worse = comparable & (candidate > (1 + settings.tolerance) * current)
    judged = np.isfinite(outcome.residuals).sum(axis=1)
    naive = naive_wins(outcome.mae, outcome.naive_mae, judged)
    if young is not None:
        clearly = outcome.mae > CLEAR_MARGIN * outcome.naive_mae
        naive |= young & (judged >= FEW_INSTANTS) & clearly
    beaten = comparable & serving & (current <= NAIVE_MARGIN * outcome.naive_mae)
    codes = np.full(len(outcome.reasons), Gate.PROMOTED, dtype=object)
    codes[~serving] = Gate.PROMOTED_FIRST
    codes[~serving & (outcome.holdout == 0)] = Gate.PROMOTED_UNVALIDATED
    codes[serving & (outcome.holdout == 0)] = Gate.REJECTED_UNVALIDATED
    if unvalidated is not None:
        codes[serving & unvalidated & (outcome.holdout == 0)] = Gate.PROMOTED_UNVALIDATED
    codes[serving & worse] = Gate.REJECTED_WORSE
    codes[naive & ~beaten] = Gate.PROMOTED_NAIVE
    codes[naive & beaten] = Gate.REJECTED_WORSE
    if not settings.auto_promote:
        passed = np.isin(
            codes.astype(str),
            (Gate.PROMOTED, Gate.PROMOTED_NAIVE, Gate.PROMOTED_UNVALIDATED),
        )
        codes[serving & passed] = Gate.WAITING
    if pinned is not None:
        codes[serving & pinned] = Gate.REJECTED_PINNED
    for row, reason in enumerate(outcome.reasons):
        if reason:
            non_finite = reason == Reason.NON_FINITE
            codes[row] = Gate.REJECTED_NON_FINITE if non_finite else Gate.REJECTED_UNFITTED
    return Verdicts(tuple(Gate(code) for code in codes), candidate, current, common)


def naive_wins(mae: FloatArray, naive_mae: FloatArray, count: NDArray[np.int64]) -> BoolArray:
    """(N,) where "as the instant before" is clearly the better forecast.

    Args:
        mae, naive_mae: over the same instants, from a validation or from ``scores.scores``.
        count: how many those are.
    """
    return (count >= NAIVE_INSTANTS) & (mae > NAIVE_MARGIN * naive_mae)


def shadow(promoted: FloatArray, predecessor: FloatArray, settings: GateSettings) -> Verdicts:
    """Whether versions in their first window do clearly worse than their predecessors.

    Args:
        promoted: (N, K) live one-step residuals since the promotion, K the window; NaN where none.
        predecessor: (N, K) those its predecessor would have had, run beside it.

    Returns:
        ``SHADOW_ROLLED_BACK`` as soon as that is clear (on 30 common instants or more),
        ``SHADOW_KEPT`` once the window is full without it, else ``SHADOW_WATCHING``.
    """
    both = np.isfinite(promoted) & np.isfinite(predecessor)
    common = both.sum(axis=1)
    new, old = _mean(np.abs(promoted), both), _mean(np.abs(predecessor), both)
    excess = np.where(both, np.abs(promoted) - np.abs(predecessor), 0.0)
    spread = np.where(both, excess - (new - old)[:, None], 0.0)
    freedom = np.maximum(common * (common - 1), 1)
    uncertain = np.sqrt((spread**2).sum(axis=1) / freedom)
    clear = (
        (common >= SHADOW_INSTANTS)
        & (new > (1 + 2 * settings.tolerance) * old)
        & (new - old > SHADOW_ERRORS * uncertain)
    )
    full = common >= promoted.shape[1]
    codes = tuple(
        Gate.SHADOW_ROLLED_BACK if back else Gate.SHADOW_KEPT if done else Gate.SHADOW_WATCHING
        for back, done in zip(clear.tolist(), full.tolist(), strict=True)
    )
    return Verdicts(codes, new, old, common)


def _mean(values: FloatArray, counted: BoolArray) -> FloatArray:
    total, count = np.where(counted, values, 0.0).sum(axis=1), counted.sum(axis=1)
    out: FloatArray = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return out
