"""Holt-Winters (additive season) against the recursion as the book writes it, and its promises."""

import numpy as np
import pytest

from sidecar.models.contract import Intervals, take
from sidecar.models.holt import ExponentialSmoothingModel, HoltSettings, HoltState
from sidecar.series import FloatArray, TimeArray

HOUR_MS = 3_600_000
M = 6
T = 120


def instants(count: int, after: int = 0) -> TimeArray:
    return HOUR_MS * np.arange(after + 1, after + count + 1, dtype=np.int64)


def cycles(seed: int, rows: int = 5, size: int = T) -> FloatArray:
    """A season that changes slowly, on a level that wanders."""
    random = np.random.default_rng(seed)
    season = list(random.normal(size=(M, rows)) * 5.0)
    level, out = np.zeros(rows), []
    for _ in range(size):
        level = level + 0.2 * random.normal(size=rows)
        now = season.pop(0) + 0.1 * random.normal(size=rows)
        season.append(now)
        out.append(level + now + 0.5 * random.normal(size=rows))
    return np.array(out).T.copy()


def textbook(y: FloatArray, state: HoltState) -> tuple[FloatArray, float, float, list[float]]:
    """ETS(A,Ad,A) of Hyndman et al. 2008, table 2.1, over ``y`` (K,) from a state of one series."""
    alpha, beta, phi, gamma = (
        float(a[0]) for a in (state.alpha, state.beta, state.phi, state.gamma)
    )
    level, trend, season = float(state.level[0]), float(state.trend[0]), list(state.season[0])
    residuals = []
    for value in y:
        expected = level + phi * trend + season[0]
        residual = 0.0 if np.isnan(value) else float(value) - expected
        residuals.append(residual)
        level, trend = level + phi * trend + alpha * residual, phi * trend + beta * residual
        season = [*season[1:], season[0] + gamma * residual]
    return np.array(residuals), level, trend, season


def started(state: HoltState, cycle: FloatArray) -> HoltState:
    """The smoothing of ``state`` at its start: one cycle taken as the season, no trend."""
    mean = cycle.mean()
    return HoltState(
        state.last_ms,
        state.sigma,
        np.array([mean]),
        np.array([0.0]),
        (cycle - mean)[None],
        state.alpha,
        state.beta,
        state.phi,
        state.gamma,
        state.missed,
    )


def run(model: ExponentialSmoothingModel, y: FloatArray, horizon: int = 8) -> Intervals:
    return model.forecast(model.fit(instants(y.shape[1]), y), instants(horizon, y.shape[1]))


@pytest.mark.parametrize("damped", [True, False])
def test_the_state_is_what_the_textbook_recursion_reaches(damped: bool) -> None:
    y = cycles(1) + 100.0
    y[1, 50:53] = np.nan
    y[2, :10] = np.nan
    model = ExponentialSmoothingModel(damped=damped, seasonal_steps=M, robust=False)
    state = model.fit(instants(T), y)
    for row in range(len(y)):
        one = take(state, np.array([row]))
        first = 10 if row == 2 else 0
        start = started(one, y[row, first : first + M])
        residuals, level, trend, season = textbook(y[row, first + M :], start)
        np.testing.assert_allclose([one.level[0], one.trend[0]], [level, trend], atol=1e-6)
        np.testing.assert_allclose(one.season[0], season, atol=1e-6)
        freedom = np.isfinite(y[row]).sum() - (4 if damped else 3)
        sigma = np.sqrt((residuals**2).sum() / freedom)
        np.testing.assert_allclose(one.sigma[0], sigma, rtol=1e-6)


def test_no_smoothing_nearby_explains_the_series_better() -> None:
    y = cycles(2)
    state = ExponentialSmoothingModel(damped=True, seasonal_steps=M, robust=False).fit(
        instants(T), y
    )
    for row in range(len(y)):
        one = take(state, np.array([row]))
        found = (textbook(y[row, M:], started(one, y[row, :M]))[0] ** 2).sum()
        for alpha, gamma in ((0.03, 0.0), (-0.03, 0.0), (0.0, 0.03), (0.0, -0.03)):
            other = started(one, y[row, :M])
            other.alpha[:] = np.clip(one.alpha + alpha, 1e-4, 0.9999)
            other.gamma[:] = np.clip(one.gamma + gamma, 1e-4, 1.0 - other.alpha)
            assert (textbook(y[row, M:], other)[0] ** 2).sum() >= found * (1.0 - 2e-3)


def test_update_and_forecast_are_the_textbook_recursion() -> None:
    y, model = cycles(3), ExponentialSmoothingModel(seasonal_steps=M)
    state = model.fit(instants(100), y[:, :100])
    news = y[:, 100:].copy()
    news[0, 4:7] = np.nan
    moved = model.update(state, instants(20, 100), news)
    result = model.forecast(moved, instants(8, T))
    for row in range(len(y)):
        one = take(state, np.array([row]))
        _, level, trend, season = textbook(news[row], one)
        reach = np.cumsum(float(one.phi[0]) ** np.arange(1, 9))
        wanted = level + trend * reach + np.array([season[k % M] for k in range(8)])
        np.testing.assert_allclose(result.mean[row], wanted, atol=1e-9)


def test_a_pure_season_is_forecast_exactly() -> None:
    cycle = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0])
    result = run(ExponentialSmoothingModel(seasonal_steps=M), np.tile(cycle, (2, 12)), 14)
    np.testing.assert_allclose(result.mean, np.tile(cycle, (2, 3))[:, :14], atol=1e-9)


def test_uncertainty_grows_with_each_cycle() -> None:
    result = run(ExponentialSmoothingModel(seasonal_steps=M), cycles(4), 4 * M)
    width = result.upper - result.lower
    assert (np.diff(width, axis=1) >= 0.0).all()
    assert (width[:, M] > width[:, M - 1]).all()


def test_the_width_is_what_shocks_do_to_later_instants() -> None:
    model, y = ExponentialSmoothingModel(seasonal_steps=M), cycles(8)
    state, horizon = model.fit(instants(T), y), 3 * M
    expected = model.forecast(state, instants(horizon + 1, T))
    now = expected.mean[:, :1]
    calm, shocked = (
        model.forecast(model.update(state, instants(1, T), news), instants(horizon, T + 1)).mean
        for news in (now, now + 1.0)
    )
    variance = np.cumsum((shocked - calm) ** 2, axis=1)
    growth = (expected.upper - expected.mean) / (expected.upper - expected.mean)[:, :1]
    np.testing.assert_allclose(growth[:, 1:], np.sqrt(1.0 + variance), rtol=1e-9)


def test_a_season_beats_its_absence_where_there_is_one() -> None:
    y = cycles(5, rows=20, size=T + M)
    errors = []
    for steps in (0, M):
        result = run(ExponentialSmoothingModel(seasonal_steps=steps), y[:, :T], M)
        errors.append(np.abs(result.mean - y[:, T:]).mean())
    assert errors[1] < 0.5 * errors[0]


def test_two_short_updates_equal_one_long() -> None:
    model, y = ExponentialSmoothingModel(seasonal_steps=M), cycles(6)
    state = model.fit(instants(100), y[:, :100])
    once = model.update(state, instants(20, 100), y[:, 100:])
    half = model.update(state, instants(7, 100), y[:, 100:107])
    twice = model.update(half, instants(20, 100), y[:, 100:])
    for name in ("level", "trend", "season", "last_ms"):
        np.testing.assert_array_equal(getattr(once, name), getattr(twice, name))


def test_too_short_a_history_gives_no_forecast() -> None:
    model = ExponentialSmoothingModel(seasonal_steps=M)
    y = cycles(7)
    y[0, model.min_instants - 1 :] = np.nan
    result = run(model, y)
    assert np.isnan(result.mean[0]).all()
    assert np.isfinite(result.mean[1:]).all()


@pytest.mark.parametrize("steps", [1, -6, 61, 6.0, True])
def test_a_wrong_season_is_named(steps: int) -> None:
    with pytest.raises(ValueError, match=f"seasonal_steps is {steps}, but must be 0 for none"):
        HoltSettings(seasonal_steps=steps)
