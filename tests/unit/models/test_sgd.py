from dataclasses import replace

import numpy as np
import pytest

from sidecar.models.features import DAY_MS, cyclic
from sidecar.models.sgd import SGDRegressorModel, SGDState
from sidecar.series import FloatArray, TimeArray

STEP = 300_000


def instants(first: int, count: int) -> TimeArray:
    return STEP * (5_666_688 + first + np.arange(count, dtype=np.int64))


def oscillating(n: int = 2, size: int = 288, seed: int = 0) -> FloatArray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, size))
    for t in range(2, size):
        x[:, t] += 1.2 * x[:, t - 1] - 0.6 * x[:, t - 2]
    return x + 100


def columns_slowly(values: list[float], clock: FloatArray, state: SGDState) -> list[float]:
    """The feature row of one series as the module's text reads, standardised."""
    unit, drift, size = float(state.unit[0]), float(state.drift[0]), len(values) - 1
    lags = [values[-i] - values[-i - 1] - drift for i in range(1, size + 1)]
    level = np.array(values[1:]) - drift * np.arange(1 - size, 1)
    raw = [*lags, (level - values[-1]).mean() / np.sqrt(size), level.std() / np.sqrt(size)]
    row = np.array([*(np.array(raw) / unit), *clock])
    spread = state.spread[0]
    return [
        float((row[i] - state.centre[0, i]) / spread[i]) if spread[i] else 0.0
        for i in range(len(row))
    ]


def forecast_slowly(state: SGDState, t_ms: TimeArray) -> list[float]:
    values = [float(value) for value in state.buffer[0]]
    size = len(values)
    for clock in cyclic(t_ms):
        row = columns_slowly(values[-size:], clock, state)
        step = float(state.weights[0] @ np.array(row)) * state.unit[0] + state.drift[0]
        values.append(values[-1] + float(np.clip(step, -state.bound[0], state.bound[0])))
    return values[size:]


def test_there_are_n_lags_and_six_columns() -> None:
    state = SGDRegressorModel(n_lags=7).fit(instants(0, 288), oscillating())
    assert state.weights.shape == (2, 13)


def test_a_recursive_step_builds_its_row_anew_with_every_column_in_its_place() -> None:
    y = oscillating(1, 3 * 288)
    y += 3 * np.sin(2 * np.pi * instants(0, 3 * 288) % DAY_MS / DAY_MS)
    model = SGDRegressorModel(n_lags=5)
    state = model.fit(instants(0, 3 * 288), y)
    # Weights for every column, so that one in a wrong place shows.
    weights = np.random.default_rng(2).normal(scale=0.2, size=state.weights.shape)
    state = replace(state, weights=weights, spread=np.maximum(state.spread, 0.5))
    got = model.forecast(state, instants(3 * 288, 30)).mean[0]
    np.testing.assert_allclose(got, forecast_slowly(state, instants(3 * 288, 30)), rtol=1e-9)


def test_the_lags_that_make_a_series_are_found() -> None:
    x = np.zeros(2000)
    noise = np.random.default_rng(3).normal(size=2000)
    for t in range(2, 2000):
        x[t] = 0.5 * x[t - 1] - 0.3 * x[t - 2] + noise[t]
    y = np.cumsum(x)[None]
    state = SGDRegressorModel(n_lags=4, l2=0.1).fit(instants(0, 2000), y)
    found = state.weights[0, :4] / state.spread[0, :4]
    np.testing.assert_allclose(found, [0.5, -0.3, 0, 0], atol=0.08)


def test_clock_columns_wait_until_their_period_was_seen_twice() -> None:
    model = SGDRegressorModel(n_lags=3)
    one_day = model.fit(instants(0, 288), oscillating(1, 288))
    assert (one_day.spread[0, -4:] == 0).all()
    three_days = model.fit(instants(0, 864), oscillating(1, 864))
    assert (three_days.spread[0, -4:-2] > 0).all()
    assert (three_days.spread[0, -2:] == 0).all()


def test_noise_gives_the_clock_and_the_spread_no_weight() -> None:
    y = np.random.default_rng(4).normal(size=(20, 864)).cumsum(axis=1)
    state = SGDRegressorModel(n_lags=3).fit(instants(0, 864), y)
    assert (state.weights[:, -5:] == 0).mean() > 0.97


def test_an_update_is_one_normalised_step_against_the_residual() -> None:
    y = oscillating(1, 300)
    model = SGDRegressorModel(n_lags=4, learning_rate=0.1, epochs=2)
    state = model.fit(instants(0, 288), y[:, :288])
    new = y[0, 288]
    got = model.update(state, instants(288, 1), y[:, 288:289])
    values = [float(value) for value in state.buffer[0]]
    row = np.array(columns_slowly(values, cyclic(instants(288, 1))[0], state))
    expected = forecast_slowly(state, instants(288, 1))[0]
    residual = np.clip(new - expected, -4 * state.sigma[0], 4 * state.sigma[0]) / state.unit[0]
    gain = 1 - (1 - 0.1) ** 2
    wanted = state.weights[0] + gain * residual * row / (1 + row @ row)
    np.testing.assert_allclose(got.weights[0], wanted, rtol=1e-9)


def test_the_first_value_after_a_gap_teaches_nothing() -> None:
    """What came over the gap is no residual of one step."""
    y = oscillating(1, 300)
    y[0, 288:291] = np.nan
    model = SGDRegressorModel(n_lags=4, learning_rate=0.1)
    state = model.fit(instants(0, 288), y[:, :288])
    after_gap = model.update(state, instants(288, 4), y[:, 288:292])
    np.testing.assert_array_equal(after_gap.weights, state.weights)
    later = model.update(after_gap, instants(292, 1), y[:, 292:293])
    assert (later.weights != state.weights).any()


def test_without_a_learning_rate_only_fits_learn() -> None:
    y = oscillating(1, 300)
    model = SGDRegressorModel(n_lags=4, learning_rate=0.0)
    state = model.fit(instants(0, 288), y[:, :288])
    got = model.update(state, instants(288, 12), y[:, 288:])
    np.testing.assert_array_equal(got.weights, state.weights)


def test_learning_on_follows_a_change_of_behaviour() -> None:
    rng = np.random.default_rng(9)
    after = 100 + np.repeat(rng.normal(size=(1, 300)), 2, axis=1)  # pairs of equal values
    errors = []
    for rate in (0.0, 0.05):
        model = SGDRegressorModel(n_lags=4, learning_rate=rate)
        state = model.fit(instants(0, 288), oscillating(1))
        state = model.update(state, instants(288, 400), after[:, :400])
        error = 0.0
        for t in range(400, 600):
            error += abs(model.forecast(state, instants(288 + t, 1)).mean[0, 0] - after[0, t])
            state = model.update(state, instants(288 + t, 1), after[:, t : t + 1])
        errors.append(error)
    assert errors[1] < 0.9 * errors[0]


def test_a_partial_fit_moves_existing_weights_towards_recent_behaviour() -> None:
    after = 100 + np.repeat(np.random.default_rng(9).normal(size=(1, 100)), 2, axis=1)
    model = SGDRegressorModel(n_lags=4, learning_rate=0.0)
    state = model.fit(instants(0, 288), oscillating(1))
    state = model.update(state, instants(288, 200), after)
    tuned = model.partial_fit(state, instants(288, 200), after)
    anew = model.fit(instants(288, 200), after)
    before, now = (np.abs(one.weights - anew.weights).sum() for one in (state, tuned))
    assert now < 0.5 * before
    # Little data moves it little, too little nothing, and a gap is no data.
    few = model.partial_fit(state, instants(480, 8), after[:, -8:])
    little, much = (np.abs(one.weights - state.weights).sum() for one in (few, tuned))
    assert 0 < little < much
    assert model.partial_fit(state, instants(485, 3), after[:, -3:]) is state
    silent = model.partial_fit(state, instants(388, 100), np.full((1, 100), np.nan))
    np.testing.assert_array_equal(silent.weights, state.weights)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e12])
def test_a_burst_of_outliers_leaves_finite_weights_at_any_scale(scale: float) -> None:
    y = scale * oscillating(1, 400)
    model = SGDRegressorModel(n_lags=6, learning_rate=0.5)
    state = model.fit(instants(0, 288), y[:, :288])
    y[0, 300:310] *= 1e6
    got = model.update(state, instants(288, 112), y[:, 288:])
    assert np.isfinite(got.weights).all()
    assert np.isfinite(model.forecast(got, instants(400, 60)).upper).all()


@pytest.mark.parametrize(
    "params",
    [{"n_lags": 0}, {"l2": 0}, {"learning_rate": 1}, {"epochs": -1}, {"timezone": "Berlin"}],
)
def test_wrong_settings_are_refused_by_name(params: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(params))}: "):
        SGDRegressorModel(**params)


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"n_lags: .*\n.*l2: ") as caught:
        SGDRegressorModel(n_lags="many", l2=-1)
    assert len(str(caught.value).splitlines()) == 2
