"""What every model promises, once for every model there is.

A model named here inherits the whole suite. ``MODELS`` holds the configurations that are tried; one
that differs in a setting that changes the arithmetic is another entry.
"""

import pickle
from dataclasses import fields
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sidecar.models.contract import (
    ForecastModel,
    Intervals,
    State,
    concat,
    from_arrays,
    put,
    take,
    to_arrays,
)
from sidecar.models.registry import MODEL_NAMES, ModelContext, build
from sidecar.series import FloatArray, TimeArray

G_MS: Final = 300_000
T: Final = 288
H: Final = 12
CONTEXT: Final = ModelContext(granularity_ms=G_MS, horizon_steps=H, n_lags=30)
MODELS: Final[list[tuple[str, dict[str, object]]]] = [
    *[(name, {}) for name in MODEL_NAMES],
    ("linear", {"season": "none"}),
    ("lags", {"season": ["1d", "12h"], "timezone": "Europe/Berlin"}),
    ("linear", {"trend": "global"}),
    ("linear", {"window": 12}),
    ("sgd", {"learning_rate": 0.0}),
    ("lags", {"on": "levels", "order": 24}),
    ("lags", {"online": True}),
    ("lags", {"means": []}),
    ("exponential_smoothing", {"damped": True}),
    ("exponential_smoothing", {"damped": False}),
    ("exponential_smoothing", {"initial": "fitted", "robust": False}),
    ("exponential_smoothing", {"seasonal_steps": 12}),
    ("arima", {"order": "auto"}),
    ("arima", {"p": 2, "d": 1, "q": 2, "robust": False}),
]
# Models that continue a straight line, and how exactly, relative to its slope.
LINES: Final[list[tuple[str, dict[str, object], float]]] = [
    ("linear", {}, 1e-6),
    ("linear", {"trend": "global"}, 1e-6),
    ("exponential_smoothing", {"damped": False}, 1e-6),
    ("arima", {}, 1e-6),
    ("lags", {}, 1e-6),
    ("sgd", {}, 0.01),
]
AnyModel = ForecastModel[Any]


@pytest.fixture(params=MODELS, ids=lambda one: "-".join([one[0], *map(str, one[1].values())]))
def model(request: pytest.FixtureRequest) -> AnyModel:
    name, params = request.param
    return build(name, params, CONTEXT)


def instants(first: int, count: int) -> TimeArray:
    return (1_700_000_100_000 // G_MS + first + np.arange(count)) * G_MS


def samples(n: int = 6, size: int = T, seed: int = 1) -> FloatArray:
    """Series unlike each other: noise, a walk, a day, counts, bursts, a slow wave with noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(size)
    kinds = [
        50 + rng.normal(size=size),
        np.cumsum(rng.normal(size=size)),
        20 + 5 * np.sin(2 * np.pi * t / 288) + rng.normal(scale=0.3, size=size),
        rng.poisson(0.4, size=size).astype(np.float64),
        np.exp(rng.normal(size=size)),
        100 + 10 * np.sin(2 * np.pi * t / 40) + rng.normal(scale=0.5, size=size),
    ]
    return np.stack([kinds[i % len(kinds)] for i in range(n)])


def ahead(model: AnyModel, state: State, origin: int = T, steps: int = H) -> Intervals:
    return model.forecast(state, instants(origin, steps))


def run(model: AnyModel, y: FloatArray) -> Intervals:
    size = y.shape[1]
    return ahead(model, model.fit(instants(0, size), y), size)


def assert_same(got: Intervals, wanted: Intervals, rtol: float = 1e-6, scale: float = 1.0) -> None:
    for part in ("mean", "lower", "upper"):
        a, b = getattr(got, part), getattr(wanted, part)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale, err_msg=part)


def test_every_series_gets_exactly_as_many_steps_as_asked(model: AnyModel) -> None:
    state = model.fit(instants(0, T), samples())
    for steps in (1, 5, 60):
        got = ahead(model, state, steps=steps)
        assert got.mean.shape == got.lower.shape == got.upper.shape == (6, steps)
        assert np.isfinite(got.mean).all()


def test_a_state_is_a_frozen_set_of_arrays_with_the_series_first(model: AnyModel) -> None:
    state = model.fit(instants(0, T), samples())
    assert type(state) is model.state_type
    for f in fields(state):
        value = getattr(state, f.name)
        assert isinstance(value, np.ndarray), f.name
        assert value.shape[0] == 6, f.name
        assert value.dtype != object, f.name


def test_a_state_survives_storing_and_splitting(model: AnyModel) -> None:
    state = model.fit(instants(0, T), samples())
    wanted = ahead(model, state)
    rebuilt = from_arrays(model.state_type, to_arrays(state))
    parts = [take(rebuilt, np.array([0, 1])), take(rebuilt, np.arange(6) > 1)]
    assert_same(ahead(model, concat(parts)), wanted, 1e-12)
    assert_same(ahead(model, pickle.loads(pickle.dumps(state))), wanted, 1e-12)
    swapped = put(state, np.array([4, 2]), take(state, np.array([2, 4])))
    assert_same(ahead(model, take(swapped, np.array([0, 1, 4, 3, 2, 5]))), wanted, 1e-12)
    assert_same(ahead(model, state), wanted, 1e-12)


def test_a_blank_series_can_join_a_state_whatever_the_spacing_it_was_made_with(
    model: AnyModel,
) -> None:
    state = model.fit(instants(0, T), samples())
    blank = model.fit(
        np.arange(1, model.min_instants + 1), np.full((2, model.min_instants), np.nan)
    )
    got = ahead(model, concat([state, blank]))
    assert np.isfinite(got.mean[:6]).all()
    assert np.isnan(got.mean[6:]).all()
    assert np.isnan(got.lower[6:]).all()


def test_the_interval_holds_the_mean_and_never_shrinks_with_the_lead(model: AnyModel) -> None:
    got = run(model, samples())
    assert (got.lower <= got.mean).all()
    assert (got.mean <= got.upper).all()
    width = got.upper - got.lower
    assert (np.diff(width, axis=1) >= -1e-9 * width[:, 1:]).all()


@pytest.mark.parametrize("level", [42.0, 0.0, -1e-9, 1e12])
def test_a_constant_series_is_forecast_exactly(model: AnyModel, level: float) -> None:
    got = run(model, np.full((2, T), level))
    assert (got.mean == level).all()


@pytest.mark.parametrize(("name", "params", "tolerance"), LINES, ids=str)
def test_a_straight_line_goes_on(name: str, params: dict[str, object], tolerance: float) -> None:
    y = 100 + np.arange(T + H, dtype=np.float64) / 2
    got = run(build(name, params, CONTEXT), y[None, :T])
    np.testing.assert_allclose(got.mean[0], y[T:], rtol=0, atol=0.5 * tolerance)


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e6, 1e12])
def test_forecasts_are_finite_and_sane_at_any_scale(model: AnyModel, scale: float) -> None:
    y = scale * samples()
    got = run(model, y)
    for part in (got.mean, got.lower, got.upper):
        assert np.isfinite(part).all()
    spread = np.ptp(y, axis=1, keepdims=True)
    assert (got.mean >= y.min(axis=1, keepdims=True) - 3 * spread).all()
    assert (got.mean <= y.max(axis=1, keepdims=True) + 3 * spread).all()


def test_another_unit_gives_the_same_forecast_in_that_unit(model: AnyModel) -> None:
    y = samples()
    plain, scaled = run(model, y), run(model, 1000 * y + 7)
    wanted = Intervals(*(1000 * part + 7 for part in (plain.mean, plain.lower, plain.upper)))
    assert_same(scaled, wanted, 1e-4, 1000)


# Found in one step of algebra, these are the same to rounding; a search that stops where a step is
# no longer worth while (Holt, ARIMA and with them auto) ends nearby.
LAWFUL: Final[list[tuple[str, float]]] = [
    *[(name, 1e-4) for name in ("linear", "lags", "naive", "seasonal_naive", "zscore", "sgd")],
    *[(name, 1e-2) for name in ("exponential_smoothing", "arima", "auto")],
]


@pytest.mark.parametrize(("name", "near"), LAWFUL)
@given(st.integers(0, 2**32), st.integers(-3, 6), st.floats(-1e3, 1e3), st.permutations(range(6)))
@settings(max_examples=15, deadline=None)
def test_unit_origin_and_order_of_the_series_do_not_matter(
    name: str, near: float, seed: int, power: int, shift: float, order: list[int]
) -> None:
    y = samples(size=120, seed=seed)
    plain = run(build(name, {}, CONTEXT), y)
    got = run(build(name, {}, CONTEXT), (10.0**power * y + shift)[order])
    for part in ("mean", "lower", "upper"):
        wanted = 10.0**power * getattr(plain, part)[order] + shift
        np.testing.assert_allclose(
            getattr(got, part), wanted, rtol=near / 10, atol=near * 10.0**power, err_msg=part
        )


def test_series_do_not_influence_each_other(model: AnyModel) -> None:
    y = samples()
    together = run(model, y)
    shuffled = run(model, y[::-1])
    np.testing.assert_allclose(shuffled.mean[::-1], together.mean, rtol=1e-4, atol=1e-4)
    others = y.copy()
    others[1:] = 1e6 * y[:0:-1]
    np.testing.assert_allclose(run(model, others).mean[0], together.mean[0], rtol=1e-6)


def test_a_series_alone_is_forecast_as_among_others(model: AnyModel) -> None:
    # Small batches may be fitted by another solver, which stops at another point nearby.
    y = samples()
    state = model.fit(instants(0, T), y)
    together = ahead(model, state)
    settings = vars(getattr(model, "base", model)).get("settings")
    for row in range(len(y)):
        by_itself = model.fit(instants(0, T), y[row : row + 1])
        if getattr(settings, "order", 0) == "auto" or getattr(settings, "robust", True) is False:
            # Their sums of squares have several valleys of like depth: both are good fits.
            np.testing.assert_allclose(by_itself.sigma[0], state.sigma[row], rtol=0.1)
            continue
        alone = ahead(model, by_itself)
        near = 0.06 if getattr(settings, "damped", True) is False else 0.05
        np.testing.assert_allclose(alone.mean[0], together.mean[row], atol=near * y[row].std())


def test_what_comes_after_an_origin_changes_no_forecast_from_it(model: AnyModel) -> None:
    y = samples(size=T + 20)
    other = y.copy()
    other[:, T:] *= -3
    forecasts = []
    for one in (y, other):
        state = model.fit(instants(0, T), one[:, :T])
        forecasts.append(ahead(model, state))
        model.update(state, instants(T, 20), one[:, T:])
        forecasts.append(ahead(model, state))
    for forecast in forecasts[1:]:
        assert_same(forecast, forecasts[0], 0.0)


def test_new_samples_change_the_forecast_without_a_fit(model: AnyModel) -> None:
    y = samples(size=T + 4)
    state = model.fit(instants(0, T), y[:, :T])
    later = model.update(state, instants(T, 4), y[:, T:])
    before = ahead(model, state, T, H).mean[:, 4:]
    after = ahead(model, later, T + 4, H - 4).mean
    assert (np.abs(before - after).max(axis=1) > 0)[[1, 4]].all()


def test_two_short_updates_equal_one_long(model: AnyModel) -> None:
    y = samples(size=T + 20)
    y[1, T + 3 : T + 9] = np.nan
    y[2, T + 15 :] = np.nan
    state = model.fit(instants(0, T), y[:, :T])
    at_once = model.update(state, instants(T, 20), y[:, T:])
    stepwise = state
    for first, last in ((T, T + 5), (T + 5, T + 6), (T + 6, T + 20)):
        stepwise = model.update(stepwise, instants(first, last - first), y[:, first:last])
    assert_same(ahead(model, stepwise, T + 20), ahead(model, at_once, T + 20), 1e-9)
    np.testing.assert_array_equal(at_once.last_ms, instants(T + 19, 1)[0])


def test_an_instant_is_absorbed_once(model: AnyModel) -> None:
    y = samples(size=T + 6)
    state = model.fit(instants(0, T), y[:, :T])
    once = model.update(state, instants(T, 6), y[:, T:])
    again = model.update(once, instants(T + 2, 4), y[:, T + 2 :])
    assert_same(ahead(model, again, T + 6), ahead(model, once, T + 6), 0.0)


def test_a_gap_moves_time_on_and_lets_uncertainty_grow(model: AnyModel) -> None:
    y = samples()
    state = model.fit(instants(0, T), y)
    plain = ahead(model, state, T, H)
    silent = model.update(state, instants(T, 4), np.full((6, 4), np.nan))
    got = ahead(model, silent, T + 4, H - 4)
    np.testing.assert_allclose(got.mean, plain.mean[:, 4:], rtol=1e-9, atol=1e-9)
    width, before = got.upper - got.lower, (plain.upper - plain.lower)[:, : H - 4]
    assert (width >= before * (1 - 1e-9)).all()


def test_a_gap_of_any_length_is_survived(model: AnyModel) -> None:
    y = samples(size=T + 700)
    y[:, T : T + 600] = np.nan
    state = model.update(model.fit(instants(0, T), y[:, :T]), instants(T, 700), y[:, T:])
    got = ahead(model, state, T + 700)
    assert np.isfinite(got.mean).all()
    assert np.isfinite(got.upper).all()


def test_missing_samples_spoil_no_fit(model: AnyModel) -> None:
    y = samples()
    holes = y.copy()
    rng = np.random.default_rng(5)
    holes[0, rng.choice(T, 30, replace=False)] = np.nan
    holes[1, 100:160] = np.nan
    holes[2, :50] = np.nan
    holes[4, -3:] = np.inf
    got, whole = run(model, holes), run(model, y)
    assert np.isfinite(got.mean).all()
    np.testing.assert_allclose(got.mean[[3, 5]], whole.mean[[3, 5]], rtol=1e-4, atol=1e-4)
    assert (np.abs(got.mean - whole.mean) < 4 * y.std(axis=1, keepdims=True) + 1e-9).all()


def test_a_series_without_enough_samples_has_no_forecast_and_spoils_no_other(
    model: AnyModel,
) -> None:
    y = samples()
    empty = np.concatenate([y, np.full((1, T), np.nan), np.full((1, T), np.nan)])
    empty[7, 5 : 5 + model.min_instants - 1] = 1.0
    state = model.fit(instants(0, T), empty)
    assert np.isnan(state.sigma[6:]).all()
    assert (state.last_ms[6:] == 0).all()
    got = ahead(model, state)
    for part in (got.mean, got.lower, got.upper):
        assert np.isnan(part[6:]).all()
    np.testing.assert_allclose(got.mean[:6], run(model, y).mean, rtol=1e-4, atol=1e-4)
    moved = model.update(state, instants(T, 2), np.ones((8, 2)))
    assert (moved.last_ms[6:] == 0).all()
    assert np.isnan(ahead(model, moved, T + 2).mean[6:]).all()


def test_as_few_samples_as_promised_suffice(model: AnyModel) -> None:
    few = samples(size=model.min_instants)
    got = run(model, few)
    assert np.isfinite(got.mean).all()
    spread = np.ptp(few, axis=1, keepdims=True)
    assert (np.abs(got.mean - few[:, -1:]) <= 3 * H * spread + 1e-9).all()


def test_a_history_shorter_than_any_model_needs_is_no_trouble(model: AnyModel) -> None:
    state = model.fit(instants(0, 1), np.ones((2, 1)))
    got = ahead(model, state, 1)
    assert got.mean.shape == (2, H)


def test_one_value_that_towers_over_all_others_does_not_spoil_the_forecast(
    model: AnyModel,
) -> None:
    y = samples()[[0, 2]]
    spiked = y.copy()
    spiked[:, T - 60] *= 1000
    got, plain = run(model, spiked), run(model, y)
    assert (np.abs(got.mean - plain.mean) < 3 * y.std(axis=1, keepdims=True)).all()


def test_fitting_and_updating_leave_their_arguments_as_they_were(model: AnyModel) -> None:
    y = samples(size=T + 3)
    y[0, 10] = np.nan
    kept = y.copy()
    state = model.fit(instants(0, T), y[:, :T])
    arrays = {name: array.copy() for name, array in to_arrays(state).items()}
    model.update(state, instants(T, 3), y[:, T:])
    ahead(model, state)
    model.finetune(state, instants(100, T - 100), y[:, 100:T])
    np.testing.assert_array_equal(y, kept)
    for name, array in to_arrays(state).items():
        np.testing.assert_array_equal(array, arrays[name], err_msg=name)


def test_no_series_at_all_is_no_trouble(model: AnyModel) -> None:
    state = model.fit(instants(0, T), np.empty((0, T)))
    state = model.update(state, instants(T, 2), np.empty((0, 2)))
    assert ahead(model, state, T + 2).mean.shape == (0, H)


def test_a_finetune_recovers_from_a_shift_of_level(model: AnyModel) -> None:
    y = samples(size=T + 40)[[0, 2]]
    y[:, T:] += 40
    state = model.fit(instants(0, T), y[:, :T])
    state = model.update(state, instants(T, 40), y[:, T:])
    state = model.finetune(state, instants(T, 40), y[:, T:])
    got = ahead(model, state, T + 40)
    usual: NDArray[np.float64] = y[:, T:].mean(axis=1, keepdims=True)
    assert (np.abs(got.mean - usual) < 10).all()


def test_there_is_one_explanation_for_each_series(model: AnyModel) -> None:
    state = model.fit(instants(0, T), samples())
    lines = model.explain(state)
    assert len(lines) == 6
    assert all(isinstance(line, str) and "\n" not in line for line in lines)
