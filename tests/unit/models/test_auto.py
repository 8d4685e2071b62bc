import numpy as np
import pytest

from sidecar.models.auto import MEDIAN, AutoModel, _caution, _middle
from sidecar.models.contract import State, take
from sidecar.series import FloatArray, TimeArray

STEP = 60_000
H = 12


def instants(first: int, count: int) -> TimeArray:
    return STEP * (1_000 + first + np.arange(count, dtype=np.int64))


def kinds(size: int = 288, seed: int = 0) -> FloatArray:
    """An oscillation with noise, steps that hold for long, and hardly ever anything but zero."""
    rng = np.random.default_rng(seed)
    t = np.arange(size)
    wave = 10 * np.sin(2 * np.pi * t / 20) + rng.normal(scale=0.5, size=size)
    steps = np.repeat(rng.integers(1, 50, size // 36 + 1), 36)[:size].astype(np.float64)
    rare = np.where(rng.random(size) < 0.05, rng.random(size) * 10, 0.0)
    return np.stack([wave, steps, rare])


@pytest.fixture(scope="module")
def model() -> AutoModel:
    return AutoModel(horizon_steps=H)


def choices(model: AutoModel, state: State) -> list[str]:
    return [line.partition(":")[0] for line in model.explain(state)]  # type: ignore[arg-type]


def test_series_that_hold_their_value_are_served_by_naive(model: AutoModel) -> None:
    state = model.fit(instants(0, 288), kinds())
    assert choices(model, state)[1] == "naive"
    got = model.forecast(state, instants(288, 3)).mean
    assert (got[1] == kinds()[1, -1]).all()


def test_what_no_member_serves_clearly_better_is_served_by_the_median(model: AutoModel) -> None:
    state = model.fit(instants(0, 288), kinds())
    assert state.choice[0] == MEDIAN
    parts = [
        member.forecast(member.fit(instants(0, 288), kinds()[:1]), instants(288, H)).mean
        for name, member in model.members.items()
        if name != "naive"
    ]
    got = model.forecast(take(state, np.array([0])), instants(288, H)).mean
    np.testing.assert_allclose(got, np.median(np.stack(parts), axis=0), rtol=1e-3)


def test_errors_are_those_of_members_fitted_once_and_rolled_to_four_origins(
    model: AutoModel,
) -> None:
    y = kinds()[:1]
    state = model.fit(instants(0, 288), y)
    naive, lags = [], []
    member = model.members["lags"]
    rolled = member.fit(instants(0, 240), y[:, :240])
    for origin in (240, 252, 264, 276):
        if origin > 240:
            rolled = member.update(rolled, instants(origin - 12, 12), y[:, origin - 12 : origin])
        actual = y[0, origin : origin + 12]
        naive.append(np.abs(actual - y[0, origin - 1]).mean())
        lags.append(np.abs(actual - member.forecast(rolled, instants(origin, 12)).mean[0]).mean())
    assert state.errors[0, model.names.index("naive")] == pytest.approx(np.mean(naive))
    assert state.errors[0, model.names.index("lags")] == pytest.approx(np.mean(lags))


def test_the_back_test_sees_nothing_of_what_it_is_judged_by(model: AutoModel) -> None:
    y = kinds()
    other = y.copy()
    other[:, 276:] *= -5
    first, second = (model.fit(instants(0, 288), one) for one in (y, other))
    # The last origin's actuals differ, and with them the errors; but members that were fitted
    # before the first origin forecast the same.
    rolled = [model._rolled(instants(0, 288), one, [240, 252, 264, 276], 12) for one in (y, other)]
    np.testing.assert_array_equal(rolled[0], rolled[1])
    assert not np.allclose(first.errors, second.errors)


def test_a_small_advantage_does_not_change_what_serves() -> None:
    model = AutoModel(horizon_steps=H, margin=0.2)
    errors = np.array([[0.85, 1, 1, 1, 1, 1], [0.75, 1, 1, 1, 1, 1], [np.nan] * 5 + [1]])
    assert model._choose(errors, np.zeros(3, np.bool_)).tolist() == [MEDIAN, 0, MEDIAN]


def test_a_series_that_holds_its_value_is_left_to_naive_unless_the_median_is_clearly_better() -> (
    None
):
    model = AutoModel(horizon_steps=H, margin=0.2)
    naive = model.names.index("naive")
    errors = np.array([[1, 1, 1, 1, 1.1, 1], [1, 1, 1, 1, 1.3, 1], [0.5, 1, 1, 1, 1, 1]])
    assert model._choose(errors, np.ones(3, np.bool_)).tolist() == [naive, MEDIAN, 0]


def test_the_shorter_the_history_the_simpler_what_serves(model: AutoModel) -> None:
    y = np.full((4, 288), np.nan)
    series = kinds()[0]
    for row, count in enumerate((1, 5, 40, 200)):
        y[row, -count:] = series[-count:]
    state = model.fit(instants(0, 288), y)
    lines = model.explain(state)
    assert lines[0] == "nothing: 1 values do not make a history"
    assert lines[1] == "naive: 5 values, 10 are needed for more"
    assert lines[2] == "median of what fits 40 values: too few for a back-test"
    assert "back-test: " in lines[3]
    got = model.forecast(state, instants(288, H)).mean
    assert np.isnan(got[0]).all()
    assert (got[1] == series[-1]).all()
    assert np.isfinite(got[2:]).all()


@pytest.mark.parametrize("count", [2, 3, 5, 10, 15, 20, 30, 40, 48, 60])
@pytest.mark.parametrize("walk", [False, True])
def test_the_band_of_a_series_that_has_just_begun_holds_what_comes(count: int, walk: bool) -> None:
    values = np.random.default_rng(7).normal(10.0, 1.0, (500, count + 1))
    series = values.cumsum(axis=1) if walk else values
    model = AutoModel(horizon_steps=5)
    state = model.fit(instants(0, count), series[:, :-1])
    got = model.forecast(state, instants(count, 1))
    inside = (got.lower[:, 0] <= series[:, -1]) & (series[:, -1] <= got.upper[:, 0])
    assert inside.mean() > 0.91


def test_bounds_are_scaled_by_what_the_back_test_saw(model: AutoModel) -> None:
    half = np.ones((2, 4, 12))
    actual = np.zeros((2, 4, 12))
    actual[0] = 3.0
    spread = model._spread(np.zeros_like(actual), half, actual)
    assert spread[0] == pytest.approx(3**0.3)
    assert spread[1] == 0.6
    actual[0] = np.nan
    assert model._spread(np.zeros_like(actual), half, actual)[0] == 1


def test_the_less_was_seen_the_wider_are_the_bounds(model: AutoModel) -> None:
    y = np.random.default_rng(1).normal(size=(1, 2000)).cumsum(axis=1)
    got = _caution(np.array([0, 72, 288, 1500, 10_000]))
    np.testing.assert_allclose(got, [1.2, 1.2, 1.12625, 1.0, 1.0])
    for size in (72, 288):
        t_ms = instants(0, size)
        state = model.fit(t_ms, y[:, -size:])
        _, _, spread = model._backtest(t_ms, y[:, -size:], np.array([size]))
        assert state.spread[0] == pytest.approx(spread[0] * _caution(np.array([size]))[0])


def test_levels_are_not_asked_for_a_far_future() -> None:
    assert "levels" in AutoModel(horizon_steps=96).names
    assert "levels" not in AutoModel(horizon_steps=97).names


def test_the_middle_leaves_out_what_is_missing() -> None:
    nan = np.nan
    stack = np.array([[1.0, nan, nan, 4], [3, 5, nan, 1], [nan, 9, nan, 2]])
    np.testing.assert_array_equal(_middle(stack), [2, 7, nan, 2])


@pytest.mark.parametrize(
    "params", [{"margin": 1}, {"origins": 3}, {"horizon_steps": 0}, {"level": 0}]
)
def test_wrong_settings_are_refused_by_name(params: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(params))}: "):
        AutoModel(**params)
