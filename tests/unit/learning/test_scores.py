"""Rolling scores, against the definitions written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.learning import residuals, scores, trackers
from sidecar.learning.trackers import Tracker
from sidecar.series import FloatArray, Forecast
from tests.unit.learning.toys import MINUTE_MS

G = MINUTE_MS
DAY = 86_400_000
START = 100 * DAY


def judged(
    actuals: FloatArray, means: FloatArray, *, window: int = 60, g: int = G, width: float = 1.0
) -> Tracker:
    """A tracker that has seen ``actuals`` (N, K), each forecast by ``means`` one column before."""
    tracker = trackers.start(len(actuals), g, 1, window=window)
    for k in range(actuals.shape[1]):
        tracker, _ = residuals.judge(tracker, START + k * g, actuals[:, k])
        mean = means[:, k : k + 1]
        made = Forecast((), START + k * g, g, mean, mean - width, mean + width)
        tracker = residuals.record(tracker, made)
    return tracker


@settings(max_examples=30, deadline=None)
@given(st.integers(25, 90), st.floats(0, 0.4), st.integers(0, 2**32 - 1))
def test_scores_are_what_their_definitions_say(count: int, missing: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    y = random.normal(10, 3, count)
    y[random.random(count) < missing] = np.nan
    means = random.normal(10, 3, count)
    found = scores.scores(judged(y[None], means[None], window=60))
    level, errors, naive, smape, inside = np.nan, [], [], [], []
    for k in range(count):
        if k >= max(1, count - 60) and np.isfinite(y[k]):
            error = abs(y[k] - means[k - 1])
            errors.append(error)
            naive.append(abs(y[k] - level))
            smape.append(2 * error / (abs(y[k]) + abs(means[k - 1])))
            inside.append(error <= 1)
        level = y[k] if np.isfinite(y[k]) else level
    assert found.count.tolist() == [len(errors)]
    if len(errors) < trackers.DEFAULT_MINIMUM:
        assert np.isnan(found.mae[0])
        return
    comparable = np.isfinite(naive)
    assert found.mae[0] == pytest.approx(np.mean(errors), rel=1e-5)
    assert found.smape[0] == pytest.approx(np.mean(smape), rel=1e-4)
    assert found.coverage[0] == pytest.approx(np.mean(inside))
    assert found.level[0] == pytest.approx(
        np.mean([abs(v) for v in y[max(1, count - 60) :] if np.isfinite(v)]), rel=1e-5
    )
    if comparable.sum() >= trackers.DEFAULT_MINIMUM:
        best = np.array(errors)[comparable].mean() / np.array(naive)[comparable].mean()
        assert found.mase[0] == pytest.approx(best, rel=1e-4)


def test_a_score_is_nan_until_enough_instants_were_judged() -> None:
    for count, known in ((20, False), (21, True)):  # the first instant had no forecast
        found = scores.scores(judged(np.zeros((1, count)), np.ones((1, count))))
        assert np.isfinite(found.mae[0]) == known
        newest = scores.rolling(judged(np.zeros((1, count)), np.ones((1, count))))
        for figure in (newest.mae, newest.steady, newest.level):
            assert np.isfinite(figure[0]) == known
        assert newest.magnitude.tolist() == [0.0]


def test_only_the_window_counts() -> None:
    means = np.zeros((1, 200))
    actuals = np.where(np.arange(200) < 140, 1000.0, 1.0)[None]
    assert scores.scores(judged(actuals, means)).mae.tolist() == [1.0]


def test_an_instant_without_one_before_it_is_left_out_of_the_comparison_with_naive() -> None:
    actuals = np.concatenate([np.full((1, 5), np.nan), np.tile([2.0, 4.0], 20)[None]], axis=1)
    found = scores.scores(judged(actuals, np.full((1, 45), 3.0)))
    assert found.count.tolist() == [40]
    assert found.naive_mae.tolist() == [2.0]
    assert found.mase.tolist() == [0.5]


def test_residuals_kept_for_the_gate_do_not_count_beyond_the_window() -> None:
    tracker = trackers.start(1, G, 100)  # keeps 200
    path = np.zeros((1, 100))
    for k in range(200):
        actual = np.array([1000.0 if k < 140 else 1.0])
        tracker, _ = residuals.judge(tracker, START + k * G, actual)
        tracker = residuals.record(tracker, Forecast((), START + k * G, G, path, path, path))
    assert scores.scores(tracker).mae.tolist() == [1.0]
    assert scores.rolling(tracker).mae.tolist() == [1.0]


def test_the_rolling_figures_are_those_of_the_full_scores() -> None:
    random = np.random.default_rng(4)
    tracker = judged(random.normal(size=(5, 100)), random.normal(size=(5, 100)))
    newest, found = scores.rolling(tracker), scores.scores(tracker)
    np.testing.assert_array_equal(newest.mae, found.mae)
    np.testing.assert_array_equal(newest.count, found.count)
    np.testing.assert_array_equal(newest.level, found.level)


def test_a_few_outliers_do_not_raise_the_steady_error_and_what_lasts_does() -> None:
    actuals = np.ones((3, 100))
    actuals[0, 70:74] = 1_000.0  # 4 of 60
    actuals[1, 70:75] = 1_000.0
    actuals[2, 70:] = 1_000.0
    newest = scores.rolling(judged(actuals, np.zeros((3, 100))))
    assert newest.steady.tolist() == [1.0, (55 + 5 * 1_000) / 60, (30 + 30 * 1_000) / 60]
    assert newest.mae[0] == (56 + 4 * 1_000) / 60


def test_the_steady_error_of_a_series_with_gaps_is_that_of_what_was_judged() -> None:
    actuals = np.ones((2, 100))
    actuals[0, 40:75] = np.nan
    newest = scores.rolling(judged(actuals, np.zeros((2, 100))))
    assert newest.count.tolist() == [25, 60]
    assert newest.steady.tolist() == [1.0, 1.0]


def test_one_nan_residual_does_not_disable_the_rolling_error() -> None:
    actuals = np.ones((1, 80))
    actuals[0, 60] = np.nan
    newest = scores.rolling(judged(actuals, np.zeros((1, 80))))
    assert newest.mae.tolist() == newest.steady.tolist() == [1.0]
    assert newest.count.tolist() == [59]


@pytest.mark.parametrize("g", [300_000, 3_600_000])
def test_seasonal_naive_is_the_value_of_the_same_time_yesterday(g: int) -> None:
    per_day = DAY // g
    day = np.random.default_rng(5).normal(size=per_day)
    actuals = np.tile(day, 5)[None]
    actuals = np.concatenate([actuals, actuals[:, :1] + 3.0], axis=1)
    found = scores.scores(judged(actuals, np.zeros_like(actuals), g=g, window=61))
    count = found.count[0]
    assert found.seasonal_mae[0] == pytest.approx(3.0 / count, rel=1e-4)


def test_below_five_minutes_seasonal_naive_is_yesterdays_mean_of_the_five_minutes() -> None:
    per_day = DAY // G
    day = np.repeat(np.random.default_rng(6).normal(size=per_day // 5), 5)
    actuals = np.tile(day, 2)[None, : per_day + 200]
    found = scores.scores(judged(actuals, np.zeros_like(actuals)))
    assert found.seasonal_mae[0] == pytest.approx(0.0, abs=1e-6)
    assert found.seasonal_mase[0] == scores.LARGEST_RATIO


def test_before_a_day_has_passed_there_is_no_seasonal_naive() -> None:
    found = scores.scores(judged(np.ones((1, 80)), np.zeros((1, 80))))
    assert np.isnan(found.seasonal_mase[0])


@pytest.mark.parametrize(
    ("mae", "reference", "expected"),
    [(0.0, 0.0, 1.0), (1.0, 0.0, 100.0), (1.0, 2.0, 0.5), (np.nan, 1.0, np.nan), (1e9, 1.0, 100.0)],
)
def test_a_ratio_is_one_where_both_are_exact_and_never_infinite(
    mae: float, reference: float, expected: float
) -> None:
    np.testing.assert_array_equal(scores.ratio(np.array([mae]), np.array([reference])), [expected])


def test_relative_errors_stay_finite_on_zeros() -> None:
    actuals = np.tile([0.0, 1.0], 40)[None]
    found = scores.scores(judged(actuals, np.zeros((1, 80))))
    assert found.smape[0] == pytest.approx(1.0, abs=0.05)
    found = scores.scores(judged(np.zeros((1, 80)), np.zeros((1, 80))))
    assert found.smape.tolist() == [0.0]
    assert found.mase.tolist() == [1.0]


def test_the_error_of_each_lead_is_known() -> None:
    tracker = trackers.start(1, G, 4)
    path = np.array([[1.0, 2.0, 3.0, 4.0]])
    for k in range(300):
        tracker, _ = residuals.judge(tracker, START + k * G, np.zeros(1))
        tracker = residuals.record(tracker, Forecast((), START + k * G, G, path, path, path))
    np.testing.assert_allclose(scores.scores(tracker).lead_mae, [[1.0, 2.0, 4.0]], rtol=1e-5)
