"""Which candidate may serve, and which version goes back."""

from dataclasses import replace

import numpy as np
import pytest

from sidecar.learning import gate
from sidecar.learning.gate import Gate, GateSettings
from sidecar.learning.training import TrainingOutcome, train
from sidecar.names import Reason
from sidecar.series import FloatArray
from tests.unit.learning.toys import MeanModel, instants

V = 60
RULES = GateSettings()


def outcome(residuals: FloatArray, naive_mae: float = 1e9, *reasons: str) -> TrainingOutcome:
    """A fit whose candidate had these residuals (N, K)."""
    n, count = residuals.shape
    fitted = train(MeanModel(), instants(70), np.zeros((n, 70)), horizon_steps=1)
    judged = np.isfinite(residuals)
    mean = np.where(judged, np.abs(residuals), 0.0).sum(axis=1) / np.maximum(judged.sum(axis=1), 1)
    return replace(
        fitted,
        residuals=residuals,
        instants_ms=instants(count),
        holdout=judged.sum(axis=1),
        mae=np.where(judged.any(axis=1), mean, np.nan),
        naive_mae=np.full(n, naive_mae),
        reasons=reasons or ("",) * n,
    )


def decided(
    candidate: float,
    live: float,
    *,
    serving: bool = True,
    naive: float = 1e9,
    common: int = V,
    rules: GateSettings = RULES,
    count: int = V,
    reason: str = "",
) -> Gate:
    current = np.full((1, count), np.nan)
    current[:, count - common :] = live
    found = gate.decide(
        outcome(np.full((1, count), candidate), naive, reason),
        current,
        np.array([serving]),
        rules,
    )
    return found.code[0]


def test_a_series_without_a_version_takes_what_is_finite() -> None:
    assert decided(5.0, np.nan, serving=False) is Gate.PROMOTED_FIRST
    assert decided(np.nan, np.nan, serving=False) is Gate.PROMOTED_UNVALIDATED


@pytest.mark.parametrize("serving", [True, False])
def test_what_is_not_finite_never_serves(serving: bool) -> None:
    assert decided(0.1, 9.0, serving=serving, reason=Reason.NON_FINITE) is Gate.REJECTED_NON_FINITE
    assert decided(0.1, 9.0, serving=serving, reason=Reason.FIT_FAILED) is Gate.REJECTED_UNFITTED


def test_a_candidate_may_be_a_little_worse_than_what_serves_but_not_more() -> None:
    assert decided(0.9, 1.0) is Gate.PROMOTED
    assert decided(1.05, 1.0) is Gate.PROMOTED
    assert decided(1.06, 1.0) is Gate.REJECTED_WORSE
    assert decided(1.06, 1.0, rules=GateSettings(tolerance=0.1)) is Gate.PROMOTED


def test_both_are_compared_over_the_same_instants() -> None:
    residuals = np.concatenate([np.full((1, 30), 100.0), np.full((1, 30), 1.0)], axis=1)
    live = np.concatenate([np.full((1, 30), np.nan), np.full((1, 30), 2.0)], axis=1)
    found = gate.decide(outcome(residuals), live, np.array([True]), RULES)
    assert found.code == (Gate.PROMOTED,)
    assert found.candidate_mae.tolist() == [1.0]
    assert found.serving_mae.tolist() == [2.0]
    assert found.common.tolist() == [30]


def test_too_few_common_instants_compare_nothing() -> None:
    assert decided(9.0, 1.0, common=7) is Gate.PROMOTED
    assert decided(9.0, 1.0, common=8) is Gate.REJECTED_WORSE


def test_a_candidate_that_was_not_validated_does_not_replace_what_serves() -> None:
    assert decided(np.nan, 1.0) is Gate.REJECTED_UNVALIDATED


def test_naive_takes_over_only_where_it_is_clearly_better_on_sixty_instants() -> None:
    assert decided(1.06, np.nan, serving=False, naive=1.0) is Gate.PROMOTED_NAIVE
    assert decided(1.04, np.nan, serving=False, naive=1.0) is Gate.PROMOTED_FIRST
    assert decided(9.0, np.nan, serving=False, naive=1.0, count=59) is Gate.PROMOTED_FIRST
    assert decided(1.06, 1.06, naive=1.0) is Gate.PROMOTED_NAIVE


def test_naive_does_not_replace_a_version_that_beats_it() -> None:
    assert decided(1.2, 0.9, naive=1.0) is Gate.REJECTED_WORSE


def test_without_auto_promote_a_candidate_that_passes_waits_but_a_first_one_serves() -> None:
    rules = GateSettings(auto_promote=False)
    assert decided(0.9, 1.0, rules=rules) is Gate.WAITING
    assert decided(1.06, 1.06, naive=1.0, rules=rules) is Gate.WAITING
    assert decided(2.0, 1.0, rules=rules) is Gate.REJECTED_WORSE
    assert decided(5.0, np.nan, serving=False, rules=rules) is Gate.PROMOTED_FIRST


def test_each_series_is_decided_on_its_own() -> None:
    residuals = np.array([[1.0], [3.0], [1.0], [1.0]]) * np.ones((1, V))
    live = np.array([[2.0], [2.0], [np.nan], [2.0]]) * np.ones((1, V))
    reasons = ("", "", "", Reason.NON_FINITE)
    serving = np.array([True, True, False, True])
    found = gate.decide(outcome(residuals, 1e9, *reasons), live, serving, RULES)
    assert found.code == (
        Gate.PROMOTED,
        Gate.REJECTED_WORSE,
        Gate.PROMOTED_FIRST,
        Gate.REJECTED_NON_FINITE,
    )
    assert found.promoted.tolist() == [True, False, True, False]
    assert found.where(Gate.REJECTED_WORSE).tolist() == [False, True, False, False]


# The first window of a version


def shadowed(new: FloatArray, old: FloatArray, rules: GateSettings = RULES) -> Gate:
    return gate.shadow(new[None], old[None], rules).code[0]


def test_a_version_that_does_clearly_worse_than_its_predecessor_goes_back() -> None:
    random = np.random.default_rng(0)
    old = random.normal(size=60)
    assert shadowed(3 * old, old) is Gate.SHADOW_ROLLED_BACK
    assert shadowed(old + 2.0, old) is Gate.SHADOW_ROLLED_BACK


def test_a_version_is_watched_for_its_window_and_then_kept() -> None:
    old = np.random.default_rng(1).normal(size=60)
    new = 0.9 * old
    new[40:] = np.nan
    assert shadowed(new, old) is Gate.SHADOW_WATCHING
    assert shadowed(0.9 * old, old) is Gate.SHADOW_KEPT


def test_thirty_instants_are_the_least_to_go_back_on() -> None:
    old = np.random.default_rng(2).normal(size=60)
    new = 5 * old
    new[29:] = np.nan
    assert shadowed(new, old) is Gate.SHADOW_WATCHING
    new[29] = 5 * old[29]
    assert shadowed(new, old) is Gate.SHADOW_ROLLED_BACK


def test_one_bad_instant_is_no_reason_to_go_back() -> None:
    old = np.random.default_rng(3).normal(size=60)
    new = old.copy()
    new[7] = 100.0
    assert shadowed(new, old) is Gate.SHADOW_KEPT


def test_an_equally_good_version_goes_back_hardly_ever() -> None:
    random = np.random.default_rng(4)
    shared, first, second = (random.normal(size=(2_000, 60)) for _ in range(3))
    found = gate.shadow(shared + 0.5 * first, shared + 0.5 * second, RULES)
    assert found.where(Gate.SHADOW_ROLLED_BACK).mean() < 0.05


def test_a_version_that_is_exact_is_kept_beside_one_that_was_exact_too() -> None:
    assert shadowed(np.zeros(60), np.zeros(60)) is Gate.SHADOW_KEPT


@pytest.mark.parametrize("unvalidated", [True, False])
def test_a_candidate_that_cannot_be_validated_replaces_only_what_was_not_either(
    unvalidated: bool,
) -> None:
    candidate = replace(outcome(np.full((1, V), 1.0), 1.0, ""), holdout=np.zeros(1, dtype=np.int64))
    nothing, one = np.full((1, V), np.nan), np.array([True])
    found = gate.decide(candidate, nothing, one, RULES, None, np.array([unvalidated]))
    expected = Gate.PROMOTED_UNVALIDATED if unvalidated else Gate.REJECTED_UNVALIDATED
    assert found.code == (expected,)
