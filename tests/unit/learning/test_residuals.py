"""Residual tracking, against a twin that remembers everything."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.learning import residuals, scores, trackers
from sidecar.learning.residuals import Judgement
from sidecar.learning.trackers import Tracker
from sidecar.series import FloatArray, Forecast
from tests.unit.learning.toys import MINUTE_MS, instants

G = MINUTE_MS
START = 1_000 * G


def forecast(origin_ms: int, mean: FloatArray, width: float = 1.0) -> Forecast:
    return Forecast((), origin_ms, G, mean, mean - width, mean + width)


def flat(origin_ms: int, n: int, horizon: int, value: float = 0.0) -> Forecast:
    return forecast(origin_ms, np.full((n, horizon), value))


def run(
    tracker: Tracker, actuals: FloatArray, means: FloatArray
) -> tuple[Tracker, list[Judgement]]:
    """Judge column k at instant k, then issue column k of ``means`` (N, K, H) from there."""
    found = []
    for k in range(actuals.shape[1]):
        tracker, judged = residuals.judge(tracker, START + k * G, actuals[:, k])
        tracker = residuals.record(tracker, forecast(START + k * G, means[:, k]))
        found.append(judged)
    return tracker, found


@dataclass
class Twin:
    """Every forecast ever made, in plain dictionaries."""

    n: int
    forecasts: dict[tuple[int, int], FloatArray] = field(default_factory=dict)
    judged: dict[tuple[int, int], float] = field(default_factory=dict)
    actual: dict[tuple[int, int], float] = field(default_factory=dict)

    def record(self, made: Forecast) -> None:
        for step in range(made.mean.shape[1]):
            self.forecasts[made.origin_ms, step + 1] = made.mean[:, step]

    def residual(self, t_ms: int, lead: int, row: int, actual: float) -> float:
        made = self.forecasts.get((t_ms - lead * G, lead))
        return float("nan") if made is None else actual - float(made[row])


def test_the_leads_are_powers_of_two_below_the_horizon_and_the_horizon() -> None:
    assert trackers.leads_of(1) == (1,)
    assert trackers.leads_of(2) == (1, 2)
    assert trackers.leads_of(5) == (1, 2, 4, 5)
    assert trackers.leads_of(288) == (1, 2, 4, 8, 16, 32, 64, 128, 256, 288)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_every_lead_is_judged_by_the_forecast_made_for_that_very_instant(
    horizon: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    n, count = 3, 30
    tracker, twin = trackers.start(n, G, horizon), Twin(n)
    for k in range(count):
        t_ms = START + k * G
        actual = np.where(random.random(n) < 0.2, np.nan, random.normal(1e6, 1, n))
        tracker, judged = residuals.judge(tracker, t_ms, actual)
        for at, lead in enumerate(judged.leads):
            expected = [twin.residual(t_ms, lead, row, actual[row]) for row in range(n)]
            tolerance = 0 if lead == 1 else 1e-5
            np.testing.assert_allclose(
                judged.lead_residuals[:, at], expected, rtol=0, atol=tolerance
            )
        if random.random() < 0.9:  # now and then a cycle that issued nothing
            made = forecast(t_ms, random.normal(1e6, 1, (n, horizon)))
            tracker = residuals.record(tracker, made)
            twin.record(made)


def test_the_expected_value_is_the_one_step_forecast_bit_for_bit() -> None:
    mean = np.array([[1 / 3, 2.0], [1e12 + 0.123, 3.0]])
    tracker = residuals.record(trackers.start(2, G, 2), forecast(START, mean, 0.7))
    _, judged = residuals.judge(tracker, START + G, np.array([1.0, np.nan]))
    assert judged.expected.tolist() == mean[:, 0].tolist()
    assert judged.lower.tolist() == (mean[:, 0] - 0.7).tolist()
    assert judged.upper.tolist() == (mean[:, 0] + 0.7).tolist()
    assert np.isnan(judged.residual[1])


def test_without_a_forecast_for_an_instant_nothing_is_expected_of_it() -> None:
    _, judged = residuals.judge(trackers.start(2, G, 5), START, np.zeros(2))
    assert np.isnan(judged.expected).all()
    assert np.isnan(judged.lead_residuals).all()
    assert judged.fresh.all()


@pytest.mark.parametrize("late", [1, 2, 7])
def test_an_actual_that_comes_late_is_judged_with_its_own_forecast(late: int) -> None:
    tracker, _ = run(trackers.start(1, G, 2), np.full((1, 3), np.nan), np.ones((1, 3, 2)))
    at = START + 3 * G
    for k in range(3, 3 + late):
        tracker, _ = residuals.judge(tracker, START + k * G, np.array([np.nan]))
        tracker = residuals.record(tracker, flat(START + k * G, 1, 2, float(k)))
    tracker, judged = residuals.judge(tracker, at, np.array([5.0]))
    assert judged.residual.tolist() == [4.0]  # 5 against the 1 that was forecast from START + 2 g
    assert tracker.residuals[at].tolist() == [4.0]


def test_an_actual_that_comes_too_late_changes_nothing() -> None:
    tracker, _ = run(trackers.start(1, G, 2), np.full((1, 30), np.nan), np.ones((1, 30, 2)))
    after, judged = residuals.judge(tracker, START + 3 * G, np.array([5.0]))
    assert after is tracker
    assert np.isnan(judged.residual).all()


def test_an_instant_is_judged_once_even_if_its_actual_is_told_twice() -> None:
    tracker, _ = run(trackers.start(2, G, 2), np.zeros((2, 5)), np.ones((2, 5, 2)))
    at = START + 5 * G
    tracker, first = residuals.judge(tracker, at, np.array([3.0, np.nan]))
    tracker, second = residuals.judge(tracker, at, np.array([99.0, 4.0]))
    assert first.fresh.tolist() == [True, False]
    assert second.fresh.tolist() == [False, True]
    assert np.isnan(second.residual[0])
    assert tracker.residuals[at].tolist() == [2.0, 3.0]
    weight = tracker.lead_weight[:, 0]
    assert weight[0] == weight[1]


def test_a_gap_judges_nothing_and_spoils_no_other_series() -> None:
    actuals = np.zeros((2, 40))
    actuals[0, 10:20] = np.nan
    means = np.random.default_rng(1).normal(size=(2, 40, 3))
    means[1] = means[0]
    with_gap, _ = run(trackers.start(2, G, 3), actuals, means)
    found = scores.scores(with_gap)
    assert found.count.tolist() == [29, 39]
    alone, _ = run(trackers.start(1, G, 3), actuals[1:], means[1:])
    np.testing.assert_array_equal(found.mae[1:], scores.scores(alone).mae)


def test_a_far_level_does_not_swallow_a_small_residual_of_a_long_lead() -> None:
    level = 1e12
    tracker = trackers.start(1, G, 8)
    tracker = residuals.record(tracker, flat(START, 1, 8, level))
    for k in range(1, 9):
        tracker, judged = residuals.judge(tracker, START + k * G, np.array([level + 1.0]))
        tracker = residuals.record(tracker, flat(START + k * G, 1, 8, level))
    assert judged.lead_residuals[0].tolist() == [1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("size", [1e39, 1e300, 1.7e308])
def test_huge_values_are_kept_as_huge_and_not_as_infinite(size: float) -> None:
    actuals = np.tile([size, -size], 20)[None]
    tracker, _ = run(trackers.start(1, G, 2), actuals, np.full((1, 40, 2), size))
    assert np.isfinite(scores.scores(tracker).mae).all()
    assert np.isfinite(scores.scores(tracker).lead_mae).all()


def test_memory_does_not_grow_with_the_number_of_instants() -> None:
    def size(count: int) -> int:
        tracker, _ = run(trackers.start(1, G, 12), np.zeros((1, count)), np.zeros((1, count, 12)))
        return sum(array.nbytes for array in trackers.to_arrays(tracker).values())

    assert size(90) == size(300)


def test_recording_and_judging_leave_the_tracker_they_were_given_as_it_was() -> None:
    tracker, _ = run(trackers.start(2, G, 4), np.zeros((2, 20)), np.ones((2, 20, 4)))
    before = {name: array.copy() for name, array in trackers.to_arrays(tracker).items()}
    run(tracker, np.full((2, 20), 7.0), np.ones((2, 20, 4)))
    trackers.forget(tracker, np.array([0]))
    trackers.realign(tracker, np.array([1, -1, 0]))
    for name, array in trackers.to_arrays(tracker).items():
        np.testing.assert_array_equal(array, before[name])


def test_rows_that_are_added_dropped_and_reordered_keep_their_own_past() -> None:
    random = np.random.default_rng(2)
    actuals, means = random.normal(size=(3, 25)), random.normal(size=(3, 25, 4))
    whole, _ = run(trackers.start(3, G, 4), actuals, means)
    moved = trackers.realign(whole, np.array([2, -1, 0]))
    assert moved.size == 3
    at, actual = START + 25 * G, np.array([1.0, 2.0, 3.0])
    _, before = residuals.judge(whole, at, actual[::-1])
    _, after = residuals.judge(moved, at, actual)
    np.testing.assert_array_equal(after.lead_residuals[0], before.lead_residuals[2])
    np.testing.assert_array_equal(after.lead_residuals[2], before.lead_residuals[0])
    assert np.isnan(after.lead_residuals[1]).all()
    np.testing.assert_array_equal(
        scores.scores(moved).mae[[0, 2]], scores.scores(whole).mae[[2, 0]]
    )
    assert np.isnan(scores.scores(moved).mae[1])


def test_a_tracker_can_lose_all_its_series_and_gain_new_ones() -> None:
    whole, _ = run(trackers.start(2, G, 4), np.zeros((2, 9)), np.ones((2, 9, 4)))
    none = trackers.realign(whole, np.empty(0, dtype=np.int64))
    none, _ = run(replace(none, newest_ms=0), np.zeros((0, 3)), np.ones((0, 3, 4)))
    again = trackers.realign(none, np.array([-1, -1]))
    again, found = run(again, np.zeros((2, 3)), np.ones((2, 3, 4)))
    assert found[-1].residual.tolist() == [-1.0, -1.0]


def test_after_a_promotion_the_window_is_empty_but_published_forecasts_are_still_judged() -> None:
    tracker, _ = run(trackers.start(2, G, 2), np.zeros((2, 30)), np.ones((2, 30, 2)))
    tracker = trackers.forget(tracker, np.array([1]))
    found = scores.scores(tracker)
    assert found.count.tolist() == [29, 0]
    assert np.isnan(found.mae[1])
    assert np.isnan(found.lead_mae[1]).all()
    _, judged = residuals.judge(tracker, START + 30 * G, np.zeros(2))
    assert judged.residual.tolist() == [-1.0, -1.0]


def test_a_version_that_ran_beside_brings_its_own_residuals_and_no_judgement_of_its_band() -> None:
    tracker, _ = run(trackers.start(2, G, 2), np.zeros((2, 30)), np.ones((2, 30, 2)))
    row, own = np.array([1]), np.full((1, 60), np.nan)
    own[0, -25:] = 3.0
    found = scores.scores(trackers.ran_along(trackers.forget(tracker, row), row, own))
    assert found.count.tolist() == [29, 25]
    assert found.mae.tolist() == [1.0, 3.0]
    assert np.isfinite(found.coverage[0])
    assert np.isnan(found.coverage[1])
    middle, count = scores.typical(trackers.forget(tracker, row))
    assert np.isnan(middle[1])
    assert count.tolist() == [29, 0]


def test_what_is_stored_and_read_again_judges_and_scores_as_before() -> None:
    random = np.random.default_rng(3)
    tracker, _ = run(
        trackers.start(3, G, 12), random.normal(size=(3, 70)), random.normal(size=(3, 70, 12))
    )
    again = trackers.from_arrays(trackers.to_arrays(tracker))
    actual = np.array([1.0, np.nan, 2.0])
    one, first = residuals.judge(tracker, START + 70 * G, actual)
    other, second = residuals.judge(again, START + 70 * G, actual)
    np.testing.assert_array_equal(first.lead_residuals, second.lead_residuals)
    np.testing.assert_array_equal(scores.scores(one).mase, scores.scores(other).mase)
    assert trackers.suits(again, G, 12)
    assert not trackers.suits(again, G, 11)
    assert not trackers.suits(again, 2 * G, 12)


def test_an_empty_tracker_is_stored_too() -> None:
    again = trackers.from_arrays(trackers.to_arrays(trackers.start(0, G, 3)))
    assert again.size == 0


@pytest.mark.parametrize("change", ["anchor", "residuals"])
def test_stored_arrays_that_do_not_fit_each_other_are_refused(change: str) -> None:
    tracker, _ = run(trackers.start(3, G, 2), np.zeros((3, 9)), np.ones((3, 9, 2)))
    arrays = trackers.to_arrays(tracker)
    arrays[change] = arrays[change][:-1]
    with pytest.raises(ValueError, match="stored tracker"):
        trackers.from_arrays(arrays)


def test_a_clock_that_went_back_by_an_hour_does_not_stop_the_judging() -> None:
    tracker, _ = run(trackers.start(1, G, 3), np.zeros((1, 30)), np.ones((1, 30, 3)))
    earlier = START - 60 * G
    for k in range(30):
        tracker, judged = residuals.judge(tracker, earlier + k * G, np.zeros(1))
        tracker = residuals.record(tracker, flat(earlier + k * G, 1, 3, 2.0))
    assert judged.residual.tolist() == [-2.0]
    assert scores.scores(tracker).mae.tolist() == [2.0]


def test_a_forecast_or_actuals_of_other_shape_are_refused() -> None:
    tracker = trackers.start(2, G, 4)
    with pytest.raises(ValueError, match="3 series, 4 steps"):
        residuals.record(tracker, flat(START, 3, 4))
    with pytest.raises(ValueError, match="2 series, 3 steps"):
        residuals.record(tracker, flat(START, 2, 3))
    with pytest.raises(ValueError, match="multiples of"):
        residuals.judge(tracker, START + 1, np.zeros(2))
    with pytest.raises(ValueError, match="2 series"):
        residuals.judge(tracker, START, np.zeros(3))


def test_the_recorded_residuals_of_some_instants_are_given_for_the_gate() -> None:
    tracker, _ = run(trackers.start(2, G, 2), np.zeros((2, 10)), np.ones((2, 10, 2)))
    wanted = START + instants(12, -2 * G)
    live = residuals.live_residuals(tracker, wanted)
    assert live.shape == (2, 12)
    assert np.isnan(live[:, :2]).all()  # before the first, and the first, which had no forecast
    assert (live[:, 2:11] == -1.0).all()
    assert np.isnan(live[:, 11]).all()


@pytest.mark.parametrize("horizon", [1, 5, 40])
def test_as_many_residuals_are_kept_as_the_promotion_gate_asks_for(horizon: int) -> None:
    count = 2 * horizon + 80
    tracker, _ = run(
        trackers.start(1, G, horizon), np.zeros((1, count)), np.ones((1, count, horizon))
    )
    newest = START + (count - 1) * G
    wanted = newest - G * np.arange(max(30, 2 * horizon), dtype=np.int64)
    assert np.isfinite(residuals.live_residuals(tracker, wanted)).all()
