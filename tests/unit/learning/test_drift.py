"""Thresholds, severities, the sequential test and the cooldown, one rule at a time."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.learning import drift
from sidecar.learning.drift import DriftSettings, DriftState, Severity, Threshold, Unit
from sidecar.series import FloatArray
from tests.unit.learning.toys import MINUTE_MS

G = MINUTE_MS
HOUR = 60 * G
T0 = 1_000_000 * HOUR
ONE = np.ones(1)
NAN = np.full(1, np.nan)


def known(mae: float = 1.0, scale: float = 1.25, n: int = 1) -> DriftState:
    """N series that a version serves which has been in service for long."""
    rows = np.arange(n)
    state = drift.promoted(drift.start(n), rows, np.full(n, mae), np.zeros(n), np.full(n, scale))
    return replace(state, seen=np.full(n, drift.BURN_IN))


def severity_of(state: DriftState, mae: float, chosen: DriftSettings) -> int:
    _, found = drift.assess(state, chosen, T0, NAN, mae * ONE, 100 * ONE)
    return int(found.severity[0])


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("1.5x", 1.5, Unit.MULTIPLE),
        ("3 x", 3.0, Unit.MULTIPLE),
        ("2X", 2.0, Unit.MULTIPLE),
        (".5x", 0.5, Unit.MULTIPLE),
        ("10%", 0.1, Unit.PERCENT),
        ("0.1", 0.1, Unit.ABSOLUTE),
        ("1e6", 1e6, Unit.ABSOLUTE),
        (0.3, 0.3, Unit.ABSOLUTE),
        (2, 2.0, Unit.ABSOLUTE),
    ],
)
def test_a_threshold_is_a_multiple_a_share_or_a_number(
    text: str | float, value: float, unit: Unit
) -> None:
    threshold = Threshold.parse(text)
    assert threshold.value == pytest.approx(value)
    assert threshold.unit is unit
    assert Threshold.parse(str(threshold)) == threshold
    assert Threshold.parse(threshold) is threshold


@pytest.mark.parametrize(
    "text", ["", "x", "%", "1.5xx", "-1x", "-5%", 0, -1.0, "0x", "nan", "inf", True, "1,5x", "x2"]
)
def test_what_is_no_threshold_is_refused_with_the_three_ways_to_write_one(
    text: str | float,
) -> None:
    with pytest.raises(ValueError, match=r"'1\.5x'.*'10%'.*absolute"):
        Threshold.parse(text)


@given(st.floats(1e-6, 1e6), st.sampled_from(["x", "%", ""]))
def test_a_threshold_as_text_means_itself(value: float, unit: str) -> None:
    threshold = Threshold.parse(f"{value:g}{unit}")
    again = Threshold.parse(str(threshold))
    assert again.unit is threshold.unit
    assert again.value == pytest.approx(threshold.value, rel=1e-4)


def test_a_multiple_is_of_the_versions_own_error() -> None:
    chosen = DriftSettings()
    assert severity_of(known(mae=2.0), 2.9, chosen) == Severity.NONE
    assert severity_of(known(mae=2.0), 3.0, chosen) == Severity.FINETUNE
    assert severity_of(known(mae=2.0), 5.9, chosen) == Severity.FINETUNE
    assert severity_of(known(mae=2.0), 6.0, chosen) == Severity.RETRAIN


def test_a_percentage_is_of_the_series_mean_level() -> None:
    chosen = DriftSettings(Threshold.parse("10%"), Threshold.parse("20%"))
    assert severity_of(known(), 9.9, chosen) == Severity.NONE
    assert severity_of(known(), 10.0, chosen) == Severity.FINETUNE
    assert severity_of(known(), 20.0, chosen) == Severity.RETRAIN


def test_a_number_is_the_error_itself_and_needs_no_reference() -> None:
    chosen = DriftSettings(Threshold.parse(0.1), Threshold.parse(0.3))
    assert severity_of(drift.start(1), 0.09, chosen) == Severity.NONE
    assert severity_of(drift.start(1), 0.1, chosen) == Severity.FINETUNE
    assert severity_of(drift.start(1), 0.3, chosen) == Severity.RETRAIN


def test_without_a_reference_a_multiple_says_nothing() -> None:
    assert severity_of(drift.start(1), 1e9, DriftSettings()) == Severity.NONE


def test_a_severity_is_left_only_clearly_below_the_threshold_it_was_entered_at() -> None:
    state, seen = known(), []
    for mae in (1.4, 1.6, 1.4, 1.3, 1.1, 1.6, 3.1, 2.6, 2.3, 1.1):
        state, found = drift.assess(state, DriftSettings(), T0, NAN, mae * ONE, 100 * ONE)
        seen.append(int(found.severity[0]))
    assert seen == [0, 1, 1, 1, 0, 1, 2, 2, 1, 0]


def test_an_error_that_is_not_known_leaves_the_severity_as_it_is() -> None:
    state, _ = drift.assess(known(), DriftSettings(), T0, NAN, 5 * ONE, 100 * ONE)
    state, found = drift.assess(state, DriftSettings(), T0 + G, NAN, NAN, NAN)
    assert found.severity.tolist() == [Severity.RETRAIN]


def test_a_constant_series_forecast_exactly_never_drifts() -> None:
    state = known(mae=0.0, scale=0.0)
    for k in range(500):
        state, found = drift.assess(
            state, DriftSettings(), T0 + k * G, np.zeros(1), np.zeros(1), 42 * ONE
        )
        assert found.severity.tolist() == [0]
    assert found.times.tolist() == [0.0]


def test_rounding_noise_on_a_constant_series_is_no_drift() -> None:
    state, level = known(mae=0.0, scale=0.0), 1e9 * ONE
    for k in range(100):
        noise = 1e-7 * ONE * (-1) ** k
        state, found = drift.assess(state, DriftSettings(), T0 + k * G, noise, np.abs(noise), level)
    assert found.severity.tolist() == [0]


def test_a_constant_series_that_begins_to_move_drifts() -> None:
    state = known(mae=0.0, scale=0.0)
    _, found = drift.assess(state, DriftSettings(), T0, ONE, ONE, 42 * ONE)
    assert found.severity.tolist() == [Severity.RETRAIN]


def feed(
    state: DriftState, residuals: FloatArray, mae: FloatArray = ONE
) -> tuple[DriftState, list[bool]]:
    alarms = []
    for k, residual in enumerate(residuals):
        state, found = drift.assess(
            state, DriftSettings(), T0 + k * G, residual * ONE, mae, 100 * ONE
        )
        alarms.append(bool(found.alarm[0]))
    return state, alarms


def page(z: FloatArray) -> list[bool]:
    """The two sums as the book has them, for one series."""
    up = down = 0.0
    alarms, standing = [], False
    for one in z:
        clipped = min(max(one, -3.0), 3.0)
        up = min(max(0.0, up + clipped - 1.0), 24.0)
        down = min(max(0.0, down - clipped - 1.0), 24.0)
        standing = max(up, down) >= (6.0 if standing else 12.0)
        alarms.append(standing)
    return alarms


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-4, 4))
def test_the_sequential_test_is_pages_two_sided_sum(seed: int, shift: float) -> None:
    residuals = np.random.default_rng(seed).standard_t(3, 60)
    residuals[30:] += shift
    _, alarms = feed(known(scale=2.0), residuals)
    assert alarms == page(residuals / 2.0)


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_a_level_shift_alarms_in_either_direction_and_asks_for_a_full_fit(direction: float) -> None:
    state, alarms = feed(known(), np.full(12, 3.0 * 1.25 * direction))
    assert alarms.index(True) == 5  # 3 - 1 a step, 12 after six
    _, found = drift.assess(state, DriftSettings(), T0, NAN, ONE, 100 * ONE)
    assert found.severity.tolist() == [Severity.RETRAIN]


def test_one_huge_outlier_raises_no_alarm() -> None:
    _, alarms = feed(known(), np.array([0.0, 1e12, 0.0, 0.0]))
    assert not any(alarms)


def test_a_nan_residual_leaves_the_sums_as_they_are() -> None:
    residuals = np.tile([3.75, np.nan], 6)
    state, alarms = feed(known(), residuals)
    assert alarms.index(True) == 10
    assert state.up[0] == pytest.approx(12.0)


def test_the_sequential_test_can_be_switched_off() -> None:
    state, _ = feed(known(), np.full(20, 3.75))
    chosen = DriftSettings(cusum=False)
    _, found = drift.assess(state, chosen, T0, NAN, ONE, 100 * ONE)
    assert found.severity.tolist() == [Severity.NONE]


def test_an_alarm_ends_when_the_residuals_are_back_for_a_while() -> None:
    _, alarms = feed(known(), np.concatenate([np.full(15, 3.75), np.zeros(30)]))
    assert alarms[15] is True
    assert alarms[-1] is False


def test_a_drift_is_cleared_by_a_promotion_and_by_nothing_else() -> None:
    state, _ = feed(known(n=1), np.full(20, 3.75))
    rows = np.array([0])
    state = drift.queued(state, DriftSettings(), T0, rows, np.array([Severity.RETRAIN]))
    assert severity_of(state, 5.0, DriftSettings()) == Severity.RETRAIN
    assert state.alarm.tolist() == [True]
    state = drift.promoted(state, rows, 5 * ONE, np.zeros(1), 6 * ONE)
    assert severity_of(state, 5.0, DriftSettings()) == Severity.NONE
    assert state.alarm.tolist() == [False]
    assert state.up.tolist() == [0.0]


def due_at(state: DriftState, t_ms: int, mae: float) -> int:
    _, found = drift.assess(state, DriftSettings(), t_ms, NAN, mae * ONE, 100 * ONE)
    return int(found.due[0])


def queued(state: DriftState, t_ms: int, severity: Severity) -> DriftState:
    return drift.queued(state, DriftSettings(), t_ms, np.array([0]), np.array([severity]))


def test_a_fit_is_due_once_a_cooldown() -> None:
    state = queued(known(), T0, Severity.RETRAIN)
    assert due_at(state, T0 + G, 5.0) == Severity.NONE
    assert due_at(state, T0 + HOUR - 1, 5.0) == Severity.NONE
    assert due_at(state, T0 + HOUR, 5.0) == Severity.RETRAIN


def test_a_finetune_does_not_hold_back_the_full_fit_that_is_needed_after_it() -> None:
    state = queued(known(), T0, Severity.FINETUNE)
    assert due_at(state, T0 + G, 2.0) == Severity.NONE
    assert due_at(state, T0 + G, 5.0) == Severity.RETRAIN


def test_a_full_fit_holds_back_the_finetune_after_it() -> None:
    state = queued(known(), T0, Severity.RETRAIN)
    assert due_at(state, T0 + G, 2.0) == Severity.NONE


def test_the_cooldown_doubles_with_each_further_fit_within_a_day() -> None:
    state, t_ms, pauses = known(), T0, []
    for _ in range(7):
        state = queued(state, t_ms, Severity.RETRAIN)
        pauses.append((int(state.retrain_after_ms[0]) - t_ms) // HOUR)
        t_ms = int(state.retrain_after_ms[0])
    assert pauses == [1, 2, 4, 8, 16, 16, 16]


def test_after_a_quiet_day_the_cooldown_is_short_again() -> None:
    state = queued(queued(known(), T0, Severity.RETRAIN), T0 + 2 * HOUR, Severity.RETRAIN)
    state = queued(state, T0 + 27 * HOUR, Severity.RETRAIN)
    assert int(state.retrain_after_ms[0]) == T0 + 28 * HOUR


def test_a_cooldown_goes_on_over_a_promotion() -> None:
    state = queued(known(), T0, Severity.RETRAIN)
    state = drift.promoted(state, np.array([0]), ONE, np.zeros(1), ONE)
    assert due_at(state, T0 + G, 5.0) == Severity.NONE


def test_a_clock_that_goes_back_by_a_year_does_not_leave_a_cooldown_of_a_year() -> None:
    state = queued(known(), T0 + 365 * 24 * HOUR, Severity.RETRAIN)
    assert due_at(state, T0, 5.0) == Severity.RETRAIN


def test_rows_are_assessed_alone() -> None:
    state = known(n=3)
    mae = np.array([1.0, 2.0, 4.0])
    state, found = drift.assess(
        state, DriftSettings(), T0, np.array([0.0, np.nan, 3.0]), mae, np.full(3, 100.0)
    )
    assert found.severity.tolist() == [0, 1, 2]
    moved = drift.realign(state, np.array([2, -1, 0]))
    assert moved.severity.tolist() == [2, 0, 0]
    assert np.isnan(moved.reference[1])
    assert drift.realign(state, np.empty(0, dtype=np.int64)).severity.size == 0


def test_what_is_stored_and_read_again_is_the_same() -> None:
    state, _ = feed(known(), np.array([1.0, 2.0]))
    again = drift.from_arrays(drift.to_arrays(state))
    for name, array in drift.to_arrays(again).items():
        np.testing.assert_array_equal(array, getattr(state, name))


def test_assessing_leaves_the_state_it_was_given_as_it_was() -> None:
    state = known()
    before = {name: array.copy() for name, array in drift.to_arrays(state).items()}
    feed(state, np.full(20, 3.75))
    queued(state, T0, Severity.RETRAIN)
    for name, array in drift.to_arrays(state).items():
        np.testing.assert_array_equal(array, before[name])


def test_centre_and_scale_are_median_and_mad_without_the_missing() -> None:
    random = np.random.default_rng(7)
    residuals = random.normal(3.0, 2.0, (4, 5001))
    residuals[1, :4000] = np.nan
    residuals[2, ::10] = 1e9
    residuals[3] = np.nan
    centre, scale = drift.robust_centre_and_scale(residuals)
    np.testing.assert_allclose(centre[:3], 3.0, atol=0.5)
    np.testing.assert_allclose(scale[:3], 2.0, rtol=0.2)
    assert np.isnan(centre[3])
    assert np.isnan(scale[3])


def test_a_median_that_may_be_sampling_error_counts_as_no_bias() -> None:
    few, many = np.full((1, 9), 0.5), np.full((1, 9001), 0.5)
    few[0, ::2], many[0, ::2] = 1.5, 1.5
    few[0, ::3], many[0, ::3] = -1.5, -1.5
    assert drift.robust_centre_and_scale(few)[0][0] == 0.0
    assert drift.robust_centre_and_scale(many)[0][0] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.2])
def test_a_series_of_spikes_as_it_always_was_raises_no_alarm(share: float) -> None:
    random = np.random.default_rng(9)
    spikes = np.where(random.random(1_030) < share, random.uniform(3, 6, 1_030), 0.0)
    centre, scale = drift.robust_centre_and_scale(spikes[None, :30])
    state = drift.promoted(drift.start(1), np.array([0]), ONE, centre, scale)
    _, alarms = feed(state, spikes[30:])
    assert not any(alarms)


def test_the_scale_of_a_series_that_spikes_often_is_that_of_its_spikes() -> None:
    residuals = np.where(np.arange(100) % 3 == 0, 5.0, 0.0)[None]
    _, scale = drift.robust_centre_and_scale(residuals)
    assert scale.tolist() == [2.5]


def test_a_constant_series_off_by_rounding_raises_no_alarm() -> None:
    state = known(mae=0.0, scale=0.0)
    for k in range(100):
        state, found = drift.assess(
            state, DriftSettings(), T0 + k * G, 1e-7 * ONE, 1e-7 * ONE, 1e9 * ONE
        )
    assert not found.alarm.any()


def test_a_version_that_was_never_validated_gets_its_reference_from_its_first_residuals() -> None:
    state = drift.promoted(drift.start(1), np.array([0]), NAN, NAN, NAN)
    residuals = np.random.default_rng(8).normal(0, 2.0, drift.BURN_IN)
    state, alarms = feed(state, residuals, NAN)
    assert not any(alarms)
    assert state.reference[0] == pytest.approx(np.abs(residuals).mean(), rel=0.1)
    assert state.scale[0] == pytest.approx(2.0, rel=0.25)


def test_the_reference_learns_no_more_once_the_version_is_old_or_drifting() -> None:
    old = known()
    after, _ = feed(old, np.full(3, 2.0))
    assert after.reference.tolist() == [1.0]
    young = replace(known(), seen=np.zeros(1, dtype=np.int64))
    after, _ = feed(young, np.full(3, 2.0))
    assert after.reference[0] > 1.0
    drifting = replace(young, severity=np.array([1]))
    after, found = drift.assess(drifting, DriftSettings(), T0, 2 * ONE, 2 * ONE, 100 * ONE)
    assert after.reference.tolist() == [1.0]
    assert found.times.tolist() == [2.0]


def test_the_reference_learns_nothing_from_what_may_be_the_beginning_of_a_shift() -> None:
    calm = replace(known(), seen=np.zeros(1, dtype=np.int64), up=np.full(1, 2.0))
    unsure = replace(calm, up=np.full(1, 1.9))
    for state, learns in ((calm, False), (unsure, True)):
        after, _ = drift.assess(state, DriftSettings(), T0, 2 * ONE, ONE, 100 * ONE)
        assert (after.reference[0] != 1.0) == learns
        assert (after.scale[0] != state.scale[0]) == learns
