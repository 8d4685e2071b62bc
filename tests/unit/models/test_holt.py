"""Holt's exponential smoothing against the recursion as the book writes it, and its promises."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.models.contract import Intervals, take
from sidecar.models.holt import ExponentialSmoothingModel, HoltSettings, HoltState
from sidecar.series import FloatArray, TimeArray

MINUTE_MS = 60_000
T = 120


def instants(count: int, after_ms: int = 0) -> TimeArray:
    return after_ms + MINUTE_MS * np.arange(1, count + 1, dtype=np.int64)


def wander(seed: int, rows: int = 6, size: int = T) -> FloatArray:
    """Levels that drift with slopes that come and go, of various smoothness."""
    random = np.random.default_rng(seed)
    slope = np.zeros(rows)
    level, out = random.normal(size=rows), []
    for _ in range(size):
        slope = 0.9 * slope + 0.1 * random.normal(size=rows)
        level = level + slope + 0.3 * random.normal(size=rows)
        out.append(level + 0.5 * np.arange(rows) * random.normal(size=rows))
    return np.array(out).T.copy()


def textbook(
    y: FloatArray, alpha: float, beta: float, phi: float, level: float, trend: float
) -> tuple[FloatArray, float, float]:
    """Hyndman et al. 2008, table 2.1, one series, one instant after the other."""
    residuals = []
    for value in y:
        if np.isnan(value):
            level, trend = level + phi * trend, phi * trend
            continue
        residual = value - (level + phi * trend)
        residuals.append(residual)
        level = level + phi * trend + alpha * residual
        trend = phi * trend + beta * residual
    return np.array(residuals), level, trend


def best_start(y: FloatArray, alpha: float, beta: float, phi: float) -> FloatArray:
    """The initial level and trend with the least sum of squares: residuals are linear in them."""
    plain, _, _ = textbook(y, alpha, beta, phi, 0.0, 0.0)
    zero = np.where(np.isnan(y), np.nan, 0.0)
    columns = [textbook(zero, alpha, beta, phi, *unit)[0] for unit in ((1.0, 0.0), (0.0, 1.0))]
    solution, *_ = np.linalg.lstsq(np.array(columns).T, -plain, rcond=None)
    return np.asarray(solution)


def gaps(y: FloatArray) -> FloatArray:
    holed = y.copy()
    holed[0, :30] = np.nan
    holed[1, 40:55] = np.nan
    holed[2, ::7] = np.nan
    holed[3, -4:] = np.nan
    return holed


def run(model: ExponentialSmoothingModel, y: FloatArray, horizon: int = 5) -> Intervals:
    t_ms = instants(y.shape[1])
    return model.forecast(model.fit(t_ms, y), instants(horizon, int(t_ms[-1])))


def start_of(y: FloatArray, initial: str, alpha: float, beta: float, phi: float) -> FloatArray:
    return best_start(y, alpha, beta, phi) if initial == "fitted" else np.array([y[0], 0.0])


@pytest.mark.parametrize("damped", [True, False, "auto"])
@pytest.mark.parametrize("initial", ["first", "fitted"])
@pytest.mark.parametrize("holes", [lambda y: y, gaps], ids=["whole", "gaps"])
def test_the_state_is_what_the_textbook_recursion_reaches(
    damped: Any, initial: Any, holes: Callable[[FloatArray], FloatArray]
) -> None:
    y = holes(wander(1) + 100.0)
    model = ExponentialSmoothingModel(damped=damped, initial=initial, robust=False)
    state = model.fit(instants(T), y)
    for row in range(len(y)):
        values = y[row, np.flatnonzero(~np.isnan(y[row]))[0] :]
        smoothing = (float(state.alpha[row]), float(state.beta[row]), float(state.phi[row]))
        start = start_of(values, initial, *smoothing)
        residuals, level, trend = textbook(values, *smoothing, *start)
        near = 5e-2 if holes is gaps and initial == "fitted" else 1e-6
        np.testing.assert_allclose(state.level[row], level, rtol=0, atol=near)
        np.testing.assert_allclose(state.trend[row], trend, rtol=0, atol=near)
        spent = (2 if state.phi[row] == 1.0 else 3) + (2 if initial == "fitted" else 0)
        sigma = np.sqrt((residuals**2).sum() / (len(residuals) - spent))
        np.testing.assert_allclose(state.sigma[row], sigma, rtol=max(near, 1e-5))


@pytest.mark.parametrize("damped", [True, False, "auto"])
@pytest.mark.parametrize("initial", ["first", "fitted"])
def test_no_smoothing_nearby_explains_the_series_better(damped: Any, initial: Any) -> None:
    y = wander(2)
    model = ExponentialSmoothingModel(damped=damped, initial=initial, robust=False)
    state = model.fit(instants(T), y)

    def cost(row: int, alpha: float, ratio: float, phi: float) -> float:
        smoothing = (alpha, alpha * ratio, phi)
        residuals, _, _ = textbook(y[row], *smoothing, *start_of(y[row], initial, *smoothing))
        return float((residuals**2).sum())

    for row in range(len(y)):
        alpha, phi = float(state.alpha[row]), float(state.phi[row])
        ratio = float(state.beta[row]) / alpha
        found = cost(row, alpha, ratio, phi)
        for step in (-0.02, 0.02):
            others = [
                cost(row, float(np.clip(alpha + step, 1e-4, 0.9999)), ratio, phi),
                cost(row, alpha, float(np.clip(ratio + step, 1e-4, 1.0)), phi),
            ]
            if phi < 1.0:
                others.append(cost(row, alpha, ratio, float(np.clip(phi + step, 0.8, 0.98))))
            assert min(others) >= found * (1 - 1e-3)


def test_missing_instants_take_no_part_in_the_fit() -> None:
    y = wander(14)
    y[:, 30:70] = np.nan
    y[:, ::5] = np.nan
    y[:, 1] = 0.0
    state = ExponentialSmoothingModel(damped=True, robust=False).fit(instants(T), y)
    for row in range(len(y)):
        values = y[row, 1:]

        def cost(alpha: float, ratio: float, phi: float, values: FloatArray = values) -> float:
            residuals, _, _ = textbook(values, alpha, alpha * ratio, phi, values[0], 0.0)
            return float((residuals**2).sum())

        found = (float(state.alpha[row]), float(state.beta[row] / state.alpha[row]))
        phi = float(state.phi[row])
        for alpha in np.clip(found[0] + np.array([-0.05, 0.05]), 1e-4, 0.9999):
            assert cost(float(alpha), found[1], phi) >= 0.99 * cost(*found, phi)


def test_update_is_the_textbook_recursion() -> None:
    y, model = wander(3), ExponentialSmoothingModel()
    state = model.fit(instants(T), y)
    news = wander(4, size=9)
    news[2, 3:6] = np.nan
    moved = model.update(state, instants(9, int(instants(T)[-1])), news)
    for row in range(len(y)):
        one = take(state, np.array([row]))
        smoothing = (float(one.alpha[0]), float(one.beta[0]), float(one.phi[0]))
        _, level, trend = textbook(news[row], *smoothing, float(one.level[0]), float(one.trend[0]))
        np.testing.assert_allclose([moved.level[row], moved.trend[row]], [level, trend])
    assert moved.last_ms.tolist() == [instants(T + 9)[-1]] * len(y)


def test_two_short_updates_equal_one_long_and_seen_instants_are_left_out() -> None:
    model, y = ExponentialSmoothingModel(), wander(5)
    state = model.fit(instants(100), y[:, :100])
    once = model.update(state, instants(20, 100 * MINUTE_MS), y[:, 100:])
    half = model.update(state, instants(8, 100 * MINUTE_MS), y[:, 100:108])
    twice = model.update(half, instants(20, 100 * MINUTE_MS), y[:, 100:])
    for name in ("level", "trend", "last_ms", "missed"):
        np.testing.assert_array_equal(getattr(once, name), getattr(twice, name))


@pytest.mark.parametrize("damped", [True, False, "auto"])
def test_a_constant_is_forecast_exactly(damped: Any) -> None:
    result = run(ExponentialSmoothingModel(damped=damped), np.full((2, 60), 42.0))
    np.testing.assert_array_equal(result.mean, 42.0)
    np.testing.assert_array_equal(result.lower, 42.0)


@pytest.mark.parametrize("damped", [False, "auto"])
def test_a_straight_line_goes_on_straight(damped: Any) -> None:
    line = 100.0 + 0.5 * np.arange(60.0)
    result = run(ExponentialSmoothingModel(damped=damped), np.stack([line]), horizon=10)
    np.testing.assert_allclose(result.mean[0], 100.0 + 0.5 * np.arange(60, 70), atol=1e-6)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e12])
def test_another_unit_gives_the_same_forecast_in_that_unit(scale: float) -> None:
    plain = run(ExponentialSmoothingModel(), wander(6))
    other = run(ExponentialSmoothingModel(), scale * (wander(6) + 7.0))
    for name in ("mean", "lower", "upper"):
        expected = scale * (getattr(plain, name) + 7.0)
        np.testing.assert_allclose(getattr(other, name), expected, rtol=1e-4)


def test_series_do_not_influence_each_other() -> None:
    y, model = gaps(wander(7)), ExponentialSmoothingModel()
    together = run(model, y)
    for row in range(len(y)):
        others = wander(22)
        others[row] = y[row]
        np.testing.assert_allclose(run(model, others).mean[row], together.mean[row], rtol=1e-9)
        alone = run(model, y[row : row + 1])
        width = together.upper[row] - together.lower[row]
        assert (np.abs(alone.mean[0] - together.mean[row]) < 0.1 * width).all()


def test_too_short_a_history_gives_no_forecast_and_spoils_no_other() -> None:
    y, model = wander(8), ExponentialSmoothingModel()
    alone = run(model, y[1:])
    y[0, model.min_instants - 1 :] = np.nan
    state = model.fit(instants(T), y)
    result = model.forecast(state, instants(5, int(instants(T)[-1])))
    assert np.isnan(state.sigma[0])
    assert state.last_ms[0] == 0
    assert np.isnan(result.mean[0]).all()
    np.testing.assert_allclose(result.mean[1:], alone.mean, rtol=1e-6, atol=1e-6)


def test_the_interval_contains_the_mean_never_shrinks_and_widens_over_a_gap() -> None:
    model, y = ExponentialSmoothingModel(), wander(9)
    result = run(model, y, horizon=30)
    width = result.upper - result.lower
    assert (result.lower <= result.mean).all()
    assert (result.mean <= result.upper).all()
    assert (np.diff(width, axis=1) >= 0.0).all()
    state = model.fit(instants(T), y)
    blind = model.update(state, instants(4, T * MINUTE_MS), np.full((len(y), 4), np.nan))
    later = model.forecast(blind, instants(26, (T + 4) * MINUTE_MS))
    np.testing.assert_allclose(later.mean, result.mean[:, 4:])
    np.testing.assert_allclose(later.upper - later.lower, width[:, 4:])


def test_a_series_silent_for_days_keeps_a_finite_forecast_and_the_others_theirs() -> None:
    y, model = wander(21), ExponentialSmoothingModel()
    state = model.fit(instants(T), y)
    plain = model.forecast(state, instants(4, T * MINUTE_MS))
    silent = replace(state, missed=np.where(np.arange(len(y)) == 1, 100_000, 0))
    result = model.forecast(silent, instants(4, T * MINUTE_MS))
    others = np.arange(len(y)) != 1
    np.testing.assert_array_equal(result.upper[others], plain.upper[others])
    assert np.isfinite(result.upper[1]).all()
    assert (result.upper[1] > plain.upper[1]).all()


def test_a_warm_start_ends_where_a_cold_one_does() -> None:
    y, model = wander(10), ExponentialSmoothingModel(damped=True)
    cold = model.fit(instants(T), y)
    warm = model.fit(instants(T), y, warm=cold)
    np.testing.assert_allclose(warm.sigma, cold.sigma, rtol=1e-3)


def test_a_spike_leaves_the_forecast_as_it_was() -> None:
    y = wander(12)
    spiked = y.copy()
    spiked[:, 60] += 1000.0 * y.std(axis=1)
    spiked[:, -1] -= 1000.0 * y.std(axis=1)
    model = ExponentialSmoothingModel()
    plain, after = run(model, y), run(model, spiked)
    sigma = model.fit(instants(T), y).sigma
    assert (np.abs(after.mean[:, 0] - plain.mean[:, 0]) < 8.0 * sigma).all()


@pytest.mark.parametrize("robust", [True, False])
def test_a_new_level_is_followed(robust: bool) -> None:
    y = np.random.default_rng(13).normal(size=(4, T))
    y[:, -20:] += 50.0
    result = run(ExponentialSmoothingModel(robust=robust), y)
    np.testing.assert_allclose(result.mean[:, 0], 50.0, atol=5.0)


def test_no_series_at_all_is_fine() -> None:
    model = ExponentialSmoothingModel()
    state = model.fit(instants(T), np.empty((0, T)))
    assert model.update(state, instants(1, T * MINUTE_MS), np.empty((0, 1))).sigma.shape == (0,)
    assert model.forecast(state, instants(5, T * MINUTE_MS)).mean.shape == (0, 5)


@given(st.integers(0, 10_000), st.floats(-1e6, 1e6), st.sampled_from([1e-9, 1e-3, 1.0, 1e6, 1e12]))
@settings(max_examples=25, deadline=None)
def test_forecasts_are_finite(seed: int, shift: float, scale: float) -> None:
    random = np.random.default_rng(seed)
    y = scale * (shift + random.standard_cauchy((3, 50)) * random.integers(0, 2, (3, 50)))
    result = run(ExponentialSmoothingModel(), y)
    assert np.isfinite(result.mean).all()
    assert np.isfinite(result.upper).all()


def test_the_state_keeps_its_promise_of_series_first() -> None:
    state = ExponentialSmoothingModel().fit(instants(T), wander(11))
    assert isinstance(state, HoltState)
    assert {array.shape[0] for array in vars(state).values()} == {6}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"damped": "yes"}, "damped is 'yes', but must be auto, true or false"),
        ({"level": 1.0}, "level is 1.0, but must lie between 0 and 1"),
        ({"level": 95.0}, "level is 95.0, but must lie between 0 and 1"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HoltSettings(**wrong)
