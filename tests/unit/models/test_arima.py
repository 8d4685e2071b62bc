"""ARIMA against the recursion as the book writes it, and its promises."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.models.arima import (
    ORDERS as ORDERS_TO_CHOOSE,
)
from sidecar.models.arima import (
    ARIMAModel,
    ArimaSettings,
    ArimaState,
    levinson,
    partial_of,
)
from sidecar.models.contract import Intervals, take
from sidecar.series import FloatArray, TimeArray

MINUTE_MS = 60_000
T = 160
ORDERS = [(3, 1, 1), (2, 1, 2), (1, 1, 1), (1, 0, 0), (0, 1, 1), (2, 2, 1), (0, 1, 0), (2, 0, 2)]


def instants(count: int, after_ms: int = 0) -> TimeArray:
    return after_ms + MINUTE_MS * np.arange(1, count + 1, dtype=np.int64)


def correlated(seed: int, rows: int = 5, size: int = T) -> FloatArray:
    """Integrated ARMA(1, 1) series of various correlation."""
    random = np.random.default_rng(seed)
    ar, ma = np.linspace(-0.6, 0.8, rows), np.linspace(0.5, -0.5, rows)
    x, shock, out = np.zeros(rows), np.zeros(rows), []
    for _ in range(size):
        news = random.normal(size=rows)
        x, shock = ar * x + news + ma * shock, news
        out.append(x)
    return np.cumsum(np.array(out), axis=0).T.copy()


def gaps(y: FloatArray) -> FloatArray:
    holed = y.copy()
    holed[0, :30] = np.nan
    holed[1, 40:55] = np.nan
    holed[2, ::7] = np.nan
    holed[3, -4:] = np.nan
    return holed


def textbook(
    y: FloatArray, ar: FloatArray, ma: FloatArray, d: int, drift: float
) -> tuple[FloatArray, FloatArray]:
    """One series: residuals of its differences (zero where missing), and the series filled in."""
    filled: list[float] = []
    x: list[float] = []
    e: list[float] = []
    for t, value in enumerate(y):
        base = {0: [], 1: [1.0], 2: [2.0, -1.0]}[d]
        if t < d:
            filled.append(float(value))
            continue
        level = drift + sum(c * filled[-i - 1] for i, c in enumerate(base))
        past = sum(c * x[-i - 1] for i, c in enumerate(ar) if i < len(x))
        past += sum(c * e[-i - 1] for i, c in enumerate(ma) if i < len(e))
        seen = level + past if np.isnan(value) else float(value)
        filled.append(seen)
        x.append(seen - level)
        e.append(seen - level - past)
    return np.array(e), np.array(filled)


def run(model: ARIMAModel, y: FloatArray, horizon: int = 5) -> Intervals:
    t_ms = instants(y.shape[1])
    return model.forecast(model.fit(t_ms, y), instants(horizon, int(t_ms[-1])))


@pytest.mark.parametrize("order", ORDERS)
def test_sigma_and_forecast_are_the_textbook_recursion_s(order: tuple[int, int, int]) -> None:
    p, d, q = order
    y = correlated(1) + 100.0
    model = ARIMAModel(p=p, d=d, q=q, robust=False)
    state = model.fit(instants(T), y)
    result = model.forecast(state, instants(6, int(instants(T)[-1])))
    for row in range(len(y)):
        coefficients = (state.ar[row], state.ma[row], d, float(state.drift[row]))
        e, _ = textbook(y[row], *coefficients)
        freedom = T - (p + q)
        np.testing.assert_allclose(state.sigma[row], np.sqrt(e @ e / freedom), rtol=1e-6)
        _, ahead = textbook(np.append(y[row], np.full(6, np.nan)), *coefficients)
        np.testing.assert_allclose(result.mean[row], ahead[-6:], rtol=1e-6)


@pytest.mark.parametrize("order", ORDERS)
def test_missing_instants_have_no_residual_and_the_state_moves_on(
    order: tuple[int, int, int],
) -> None:
    p, d, q = order
    y = gaps(correlated(2) + 100.0)
    model = ARIMAModel(p=p, d=d, q=q, robust=False)
    state = model.fit(instants(T), y)
    result = model.forecast(state, instants(6, int(instants(T)[-1])))
    assert state.missed.tolist() == [0, 0, 0, 4, 0]
    for row in range(len(y)):
        values = y[row, np.flatnonzero(~np.isnan(y[row]))[0] :]
        coefficients = (state.ar[row], state.ma[row], d, float(state.drift[row]))
        _, ahead = textbook(np.append(values, np.full(6, np.nan)), *coefficients)
        deviation = float(state.sigma[row])
        np.testing.assert_allclose(result.mean[row], ahead[-6:], rtol=0, atol=0.1 * deviation)


def test_coefficients_of_a_long_series_are_found_again() -> None:
    y = correlated(3, rows=4, size=4000)
    state = ARIMAModel(p=1, d=1, q=1).fit(instants(4000), y)
    np.testing.assert_allclose(
        state.ar[[0, 3], 0] + state.ma[[0, 3], 0], [-0.1, 0.3], rtol=0, atol=0.05
    )
    np.testing.assert_allclose(state.sigma, 1.0, rtol=0.05)


@pytest.mark.parametrize("order", ORDERS)
def test_a_fit_is_stationary_and_invertible(order: tuple[int, int, int]) -> None:
    p, d, q = order
    random = np.random.default_rng(4)
    y = np.concatenate([correlated(4), random.normal(size=(3, T)), np.exp(correlated(5, 2) / 9)])
    state = ARIMAModel(p=p, d=d, q=q).fit(instants(T), y)
    for row in range(len(y)):
        for polynomial in (np.r_[1.0, -state.ar[row]], np.r_[1.0, state.ma[row]]):
            assert (np.abs(np.roots(polynomial)) < 1.0).all()


def test_partial_autocorrelations_and_coefficients_are_one_to_one() -> None:
    partial = np.random.default_rng(6).uniform(-0.95, 0.95, (4, 50))
    ar, slope = levinson(partial)
    np.testing.assert_allclose(partial_of(ar), partial, atol=1e-9)
    for k in range(4):
        nudge = np.zeros((4, 1))
        nudge[k] = 1e-6
        change = (levinson(partial + nudge)[0] - levinson(partial - nudge)[0]) / 2e-6
        np.testing.assert_allclose(slope[:, k], change, atol=1e-6)


def test_update_is_the_textbook_recursion() -> None:
    y, model = correlated(7), ARIMAModel(p=2, d=1, q=2, robust=False)
    state = model.fit(instants(T - 10), y[:, : T - 10])
    y[2, -6:-3] = np.nan
    moved = model.update(state, instants(10, (T - 10) * MINUTE_MS), y[:, -10:])
    result = model.forecast(moved, instants(4, T * MINUTE_MS))
    for row in range(len(y)):
        coefficients = (state.ar[row], state.ma[row], 1, float(state.drift[row]))
        _, ahead = textbook(np.append(y[row], np.full(4, np.nan)), *coefficients)
        np.testing.assert_allclose(result.mean[row], ahead[-4:], rtol=1e-6, atol=1e-6)


def test_two_short_updates_equal_one_long_and_seen_instants_are_left_out() -> None:
    model, y = ARIMAModel(), correlated(8)
    state = model.fit(instants(100), y[:, :100])
    once = model.update(state, instants(20, 100 * MINUTE_MS), y[:, 100:120])
    half = model.update(state, instants(8, 100 * MINUTE_MS), y[:, 100:108])
    twice = model.update(half, instants(20, 100 * MINUTE_MS), y[:, 100:120])
    for name in ("x", "e", "y", "last_ms", "missed"):
        np.testing.assert_array_equal(getattr(once, name), getattr(twice, name))


@pytest.mark.parametrize("order", ORDERS)
def test_a_constant_is_forecast_exactly(order: tuple[int, int, int]) -> None:
    p, d, q = order
    result = run(ARIMAModel(p=p, d=d, q=q), np.full((2, 60), 42.0))
    np.testing.assert_array_equal(result.mean, 42.0)
    np.testing.assert_array_equal(result.upper, 42.0)


@pytest.mark.parametrize("order", [order for order in ORDERS if order[1] > 0])
def test_a_straight_line_goes_on_straight(order: tuple[int, int, int]) -> None:
    p, d, q = order
    line = np.array([100.0 + 0.5 * np.arange(60), 5.0 - 3.0 * np.arange(60)])
    line[1, 20:25] = np.nan
    result = run(ARIMAModel(p=p, d=d, q=q), line, horizon=10)
    np.testing.assert_allclose(result.mean[0], 100.0 + 0.5 * np.arange(60, 70), atol=1e-6)
    np.testing.assert_allclose(result.mean[1], 5.0 - 3.0 * np.arange(60, 70), atol=1e-6)


def test_a_drift_that_noise_could_have_made_is_not_extrapolated() -> None:
    random = np.random.default_rng(9)
    state = ARIMAModel(p=1, d=1, q=1).fit(instants(T), np.cumsum(random.normal(size=(50, T)), 1))
    assert (state.drift == 0.0).mean() > 0.9


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e12])
def test_another_unit_gives_the_same_forecast_in_that_unit(scale: float) -> None:
    plain = run(ARIMAModel(), correlated(10))
    other = run(ARIMAModel(), scale * (correlated(10) + 7.0))
    for name in ("mean", "lower", "upper"):
        expected = scale * (getattr(plain, name) + 7.0)
        np.testing.assert_allclose(getattr(other, name), expected, rtol=1e-4)


def test_series_do_not_influence_each_other() -> None:
    y, model = gaps(correlated(11)), ARIMAModel()
    together = run(model, y)
    for row in range(len(y)):
        others = correlated(21)
        others[row] = y[row]
        np.testing.assert_allclose(run(model, others).mean[row], together.mean[row], rtol=1e-9)
        alone = run(model, y[row : row + 1])
        width = together.upper[row] - together.lower[row]
        assert (np.abs(alone.mean[0] - together.mean[row]) < 0.1 * width).all()


def test_too_short_a_history_gives_no_forecast_and_spoils_no_other() -> None:
    y, model = correlated(12), ARIMAModel()
    alone = run(model, y[1:])
    y[0, model.min_instants - 1 :] = np.nan
    state = model.fit(instants(T), y)
    result = model.forecast(state, instants(5, T * MINUTE_MS))
    assert np.isnan(state.sigma[0])
    assert state.last_ms[0] == 0
    assert np.isnan(result.mean[0]).all()
    np.testing.assert_allclose(result.mean[1:], alone.mean, rtol=1e-6, atol=1e-6)


def test_the_interval_contains_the_mean_never_shrinks_and_widens_over_a_gap() -> None:
    model, y = ARIMAModel(), correlated(13)
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
    y, model = correlated(21), ARIMAModel()
    state = model.fit(instants(T), y)
    plain = model.forecast(state, instants(4, T * MINUTE_MS))
    silent = replace(state, missed=np.where(np.arange(len(y)) == 1, 100_000, 0))
    result = model.forecast(silent, instants(4, T * MINUTE_MS))
    others = np.arange(len(y)) != 1
    np.testing.assert_array_equal(result.upper[others], plain.upper[others])
    assert np.isfinite(result.upper[1]).all()
    assert (result.upper[1] > plain.upper[1]).all()


def test_a_warm_start_ends_where_a_cold_one_does() -> None:
    y, model = correlated(14), ARIMAModel(p=1, d=1, q=1)
    cold = model.fit(instants(T), y)
    warm = model.fit(instants(T), y, warm=take(cold, np.arange(len(y))))
    np.testing.assert_allclose(warm.sigma, cold.sigma, rtol=1e-3)


def test_a_spike_leaves_the_forecast_as_it_was() -> None:
    y = correlated(16)
    spiked = y.copy()
    spiked[:, 60] += 1000.0 * y.std(axis=1)
    spiked[:, -1] -= 1000.0 * y.std(axis=1)
    plain, after = run(ARIMAModel(), y), run(ARIMAModel(), spiked)
    sigma = ARIMAModel().fit(instants(T), y).sigma
    assert (np.abs(after.mean[:, 0] - plain.mean[:, 0]) < 8.0 * sigma).all()


def test_a_new_level_is_followed_by_a_robust_fit() -> None:
    y = np.random.default_rng(17).normal(size=(4, T))
    y[:, -20:] += 50.0
    for robust in (True, False):
        result = run(ARIMAModel(p=1, d=1, q=1, robust=robust), y)
        np.testing.assert_allclose(result.mean[:, 0], 50.0, atol=5.0)


def test_order_auto_finds_the_order_and_is_the_fit_of_that_order() -> None:
    shock = np.random.default_rng(18).normal(size=(8, 800))
    x = shock.copy()
    for t in range(5, 800):
        x[:4, t] += 0.6 * x[:4, t - 5]
    y = np.cumsum(x, axis=1)
    model, ahead = ARIMAModel(order="auto"), instants(5, 800 * MINUTE_MS)
    state = model.fit(instants(800), y)
    chosen = model.explain(state)
    assert chosen[:4] == ["order (5, 1, 1)"] * 4
    assert chosen.count("order (1, 1, 1)") >= 2
    mean = model.forecast(state, ahead).mean
    for p, q in ORDERS_TO_CHOOSE:
        fixed = ARIMAModel(p=p, q=q)
        rows = [row for row, line in enumerate(chosen) if line == f"order ({p}, 1, {q})"]
        alone = fixed.forecast(fixed.fit(instants(800), y), ahead)
        np.testing.assert_allclose(mean[rows], alone.mean[rows], rtol=1e-9)


def test_a_warm_fit_keeps_the_order_it_chose() -> None:
    y, model = correlated(19), ARIMAModel(order="auto")
    state = model.fit(instants(T), y)
    warm = model.fit(instants(T), y, warm=state)
    assert model.explain(warm) == model.explain(state)
    np.testing.assert_allclose(warm.sigma, state.sigma, rtol=0.01)


def test_a_finetune_starts_from_what_is_known_and_keeps_what_it_cannot_better() -> None:
    y, model = correlated(20), ARIMAModel()
    state = model.fit(instants(T), y)
    recent = y[:, -60:].copy()
    recent[1] = np.nan
    tuned = model.finetune(state, instants(60, (T - 60) * MINUTE_MS), recent)
    np.testing.assert_array_equal(tuned.ar[1], state.ar[1])
    assert (tuned.ar[0] != state.ar[0]).any()


def test_no_series_at_all_is_fine() -> None:
    model = ARIMAModel()
    state = model.fit(instants(T), np.empty((0, T)))
    assert model.update(state, instants(1, T * MINUTE_MS), np.empty((0, 1))).sigma.shape == (0,)
    assert model.forecast(state, instants(5, T * MINUTE_MS)).mean.shape == (0, 5)


@given(st.integers(0, 10_000), st.floats(-1e6, 1e6), st.sampled_from([1e-9, 1e-3, 1.0, 1e6, 1e12]))
@settings(max_examples=25, deadline=None)
def test_forecasts_are_finite(seed: int, shift: float, scale: float) -> None:
    random = np.random.default_rng(seed)
    y = scale * (shift + random.standard_cauchy((3, 50)) * random.integers(0, 2, (3, 50)))
    result = run(ARIMAModel(), y)
    assert np.isfinite(result.mean).all()
    assert np.isfinite(result.upper).all()


def test_the_state_keeps_its_promise_of_series_first() -> None:
    state = ARIMAModel().fit(instants(T), correlated(15))
    assert isinstance(state, ArimaState)
    assert {array.shape[0] for array in vars(state).values()} == {5}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"p": -1}, "p is -1, but must be a whole number 0 to 6"),
        ({"q": 1.5}, "q is 1.5, but must be a whole number 0 to 6"),
        ({"d": 3}, "d is 3, but must be a whole number 0 to 2"),
        ({"p": True}, "p is True, but must be a whole number"),
        ({"order": "best"}, "order is 'best', but must be fixed or auto"),
        ({"level": 0.0}, "level is 0.0, but must lie between 0 and 1"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArimaSettings(**wrong)
