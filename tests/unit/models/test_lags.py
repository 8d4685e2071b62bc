from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.models.lags import (
    LagsModel,
    LagsState,
    distances,
    drift_of,
    lagged_rows,
    moments_by_shift,
    moments_of_rows,
)
from sidecar.series import FloatArray, TimeArray

STEP = 60_000


def instants(first: int, count: int) -> TimeArray:
    return STEP * (1_000 + first + np.arange(count, dtype=np.int64))


def oscillating(n: int = 3, size: int = 288, seed: int = 0) -> FloatArray:
    """A damped oscillation driven by noise: differences that depend on the two before."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, size))
    for t in range(2, size):
        x[:, t] += 1.2 * x[:, t - 1] - 0.6 * x[:, t - 2]
    return x + 100


@given(st.integers(1, 8), st.lists(st.integers(2, 20), max_size=3), st.integers(0, 2**32))
def test_moments_by_shifting_are_those_of_the_rows(order: int, means: list[int], seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(3, 30))
    extras = [one[:, order:] for one in distances(x, means)]
    fast = moments_by_shift(x, extras, order)
    rows = lagged_rows(x, extras, order)
    slow = moments_of_rows(rows, x[:, order:], np.ones((3, 30 - order)))
    np.testing.assert_allclose(fast.columns, slow.columns, atol=1e-9)
    np.testing.assert_allclose(fast.target, slow.target, atol=1e-9)
    np.testing.assert_allclose(fast.square, slow.square, atol=1e-9)
    assert (fast.count == slow.count).all()


def test_a_row_holds_lags_nearest_first_and_distances_to_running_means() -> None:
    x = np.random.default_rng(1).normal(size=(1, 12))
    level = np.concatenate([[0.0], np.cumsum(x[0])])
    extras = [one[:, 3:] for one in distances(x, [4])]
    row = lagged_rows(x, extras, 3)[0, 5]  # the target is x[8]
    newest = level[5:9]  # the four levels up to the one before the target
    expected = [x[0, 7], x[0, 6], x[0, 5], (newest.mean() - newest[-1]) / 2]
    np.testing.assert_allclose(row, expected)


def ridge(y: FloatArray, order: int, means: tuple[int, ...], penalty: float) -> FloatArray:
    """The weights by plain linear algebra on one series, written as the formula reads."""
    d = np.diff(y)
    z = np.clip(d / np.sqrt((d**2).mean()), -3, 3)
    level = np.concatenate([[0.0], np.cumsum(z)])
    rows = []
    for t in range(order, len(z)):
        mean = [np.concatenate([np.zeros(k), level[: t + 1]])[-k:].mean() for k in means]
        pulls = [(m - level[t]) / np.sqrt(k) for m, k in zip(mean, means, strict=True)]
        rows.append([*z[t - order : t][::-1], *pulls])
    X = np.array(rows)
    D = np.diag([*range(1, order + 1), *[1] * len(means)])
    return np.asarray(np.linalg.solve(X.T @ X + penalty * D, X.T @ z[order:]), np.float64)


def test_the_weights_solve_the_ridge_equations() -> None:
    y = oscillating()
    state = LagsModel(order=4, means=(10, 50), ridge=2.0).fit(instants(0, 288), y)
    for row in range(3):
        np.testing.assert_allclose(state.weights[row], ridge(y[row], 4, (10, 50), 2.0), rtol=1e-8)


def test_a_missing_sample_leaves_out_the_rows_that_would_be_judged_by_it() -> None:
    y = oscillating(1)
    holes = y.copy()
    holes[0, 100] = np.nan
    model = LagsModel(order=2, means=())
    got = model.fit(instants(0, 288), holes).weights
    whole = model.fit(instants(0, 288), y).weights
    assert 0 < np.abs(got - whole).max() < 0.05


def forecast_slowly(
    state: LagsState, order: int, means: tuple[int, ...], steps: int
) -> list[float]:
    """The recursion of one series as the formula reads."""
    values = [float(value) for value in state.buffer[0]]
    unit, drift = float(state.unit[0]), float(state.centre[0])
    for _ in range(steps):
        lags = [(values[-i] - values[-i - 1] - drift) / unit for i in range(1, order + 1)]
        pulls = []
        for k in means:
            newest = np.array(values[-k:]) - drift * np.arange(1 - k, 1)
            pulls.append((newest.mean() - values[-1]) / unit / np.sqrt(k))
        step = float(state.weights[0] @ np.array([*lags, *pulls])) * unit + drift
        values.append(values[-1] + float(np.clip(step, -state.bound[0], state.bound[0])))
    return values[-steps:]


@pytest.mark.parametrize("trend", [0.0, 3.0])
def test_a_forecast_repeats_the_one_step_forecast_on_its_own_output(trend: float) -> None:
    y = oscillating(1) + trend * np.arange(288)
    model = LagsModel(order=4, means=(10, 50))
    state = model.fit(instants(0, 288), y)
    assert (state.centre[0] != 0) == (trend != 0)
    got = model.forecast(state, instants(288, 20)).mean[0]
    np.testing.assert_allclose(got, forecast_slowly(state, 4, (10, 50), 20), rtol=1e-9)


def test_an_oscillation_is_seen() -> None:
    t = np.arange(300)
    y = (10 * np.sin(2 * np.pi * t / 12) + 50)[None]
    model = LagsModel()
    got = model.forecast(model.fit(instants(0, 288), y[:, :288]), instants(288, 12)).mean
    np.testing.assert_allclose(got, y[:, 288:], atol=0.5)


def test_levels_come_back_to_their_mean() -> None:
    y = oscillating(2)
    model = LagsModel(on="levels", order=6)
    state = model.fit(instants(0, 288), y)
    got = model.forecast(state, instants(288, 200))
    np.testing.assert_allclose(got.mean[:, -1], y.mean(axis=1), atol=0.2)
    spread = (got.upper - got.lower)[:, -1] / 2 / 1.96
    np.testing.assert_allclose(spread, y.std(axis=1), rtol=0.3)


def test_a_drift_counts_only_where_it_stands_out() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(2, 240))
    x[1] += 2.0
    got = drift_of(x)
    assert got[0] == 0
    assert 1.5 < got[1] < 2.2
    assert drift_of(np.full((1, 50), 0.5))[0] == pytest.approx(0.5)
    assert drift_of(np.ones((1, 1)))[0] == 0


def test_widths_follow_how_a_shock_moves_the_forecast() -> None:
    model = LagsModel(order=4, means=(10,))
    state = model.fit(instants(0, 288), oscillating(1))
    got = model.forecast(state, instants(288, 6))
    buffer = state.buffer.copy()
    buffer[:, -1] += 0.01
    free = replace(state, bound=np.full(1, np.inf))
    moved = model.forecast(replace(free, buffer=buffer), instants(288, 5)).mean
    answer = (moved - model.forecast(free, instants(288, 5)).mean)[0] / 0.01
    half = (got.upper - got.mean)[0]
    expected = np.sqrt(1 + np.cumsum(np.concatenate([[0.0], answer**2])))
    np.testing.assert_allclose(half / half[0], expected, rtol=1e-6)


def test_an_explosive_recursion_stays_sane() -> None:
    model = LagsModel(order=1, means=())
    state = model.fit(instants(0, 288), oscillating(1))
    wild = replace(state, weights=np.full((1, 1), 3.0))
    got = model.forecast(wild, instants(288, 288))
    assert np.isfinite(got.upper).all()
    steps = np.abs(np.diff(got.mean[0]))
    assert (steps <= state.bound[0] * (1 + 1e-9)).all()


def test_recursive_least_squares_ends_where_a_ridge_of_everything_does() -> None:
    y = oscillating(2, 400)
    model = LagsModel(order=3, means=(8,), clip=50.0, online=True, forgetting=1.0)
    start = model.fit(instants(0, 300), y[:, :300])
    got = model.update(start, instants(300, 100), y[:, 300:])
    x = np.diff(y, axis=1) / start.unit[:, None] - (start.centre / start.unit)[:, None]
    extras = [one[:, 3:] for one in distances(x, (8,))]
    moments = moments_by_shift(x, extras, 3)
    wanted, _, _ = moments.solved(np.array([1.0, 2, 3, 1]), False)
    np.testing.assert_allclose(got.weights, wanted, rtol=1e-6)
    offline = LagsModel(order=3, means=(8,), clip=50.0)
    kept = offline.update(offline.fit(instants(0, 300), y[:, :300]), instants(300, 100), y[:, 300:])
    np.testing.assert_array_equal(kept.weights, offline.fit(instants(0, 300), y[:, :300]).weights)


def test_learning_online_follows_a_change_of_behaviour() -> None:
    rng = np.random.default_rng(9)
    before = oscillating(1, 300)
    after = 100 + np.repeat(rng.normal(size=(1, 300)), 2, axis=1)  # pairs of equal values
    errors = []
    for online in (False, True):
        model = LagsModel(order=4, means=(), online=online, forgetting=0.98)
        state = model.update(
            model.fit(instants(0, 300), before), instants(300, 400), after[:, :400]
        )
        error = 0.0
        for t in range(400, 600):
            ahead = model.forecast(state, instants(300 + t, 1)).mean[0, 0]
            error += abs(ahead - after[0, t])
            state = model.update(state, instants(300 + t, 1), after[:, t : t + 1])
        errors.append(error)
    assert errors[1] < 0.9 * errors[0]


def test_a_state_without_online_learning_carries_no_matrices() -> None:
    state = LagsModel().fit(instants(0, 288), oscillating(2))
    assert state.inverse.shape == (2, 0, 0)
    bytes_each = sum(array[0].nbytes for array in vars(state).values())
    assert bytes_each < 2600


@pytest.mark.parametrize(
    "params", [{"order": 0}, {"means": [1]}, {"on": "rates"}, {"ridge": 0}, {"forgetting": 2}]
)
def test_wrong_settings_are_refused_by_name(params: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(params))}: "):
        LagsModel(**params)
