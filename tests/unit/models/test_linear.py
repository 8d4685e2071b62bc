from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.models.linear import LinearTrendModel
from sidecar.series import FloatArray, TimeArray

STEP = 60_000


def instants(first: int, count: int) -> TimeArray:
    return STEP * (1_000 + first + np.arange(count, dtype=np.int64))


def weighted_line(y: FloatArray, discount: float) -> tuple[float, float]:
    """Level at the newest value and slope, by NumPy's own least squares, gaps left out."""
    newest = np.flatnonzero(np.isfinite(y))[-1]
    at = np.arange(len(y)) - newest
    known = np.isfinite(y)
    slope, level = np.polyfit(at[known], y[known], 1, w=np.sqrt(discount ** -at[known]))
    return float(level), float(slope)


def noisy(n: int = 3, size: int = 60, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(size=(n, size)).cumsum(axis=1) + 50


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize(("params", "discount"), [({"trend": "global"}, 1), ({"window": 10}, 0.9)])
def test_the_line_is_the_one_that_weighted_least_squares_draws(
    params: dict[str, object], discount: float, gaps: bool
) -> None:
    y = noisy()
    if gaps:
        y[0, 10:30] = np.nan
        y[1, -4:] = np.nan
        y[2, :7] = np.nan
    model = LinearTrendModel(**params)
    state = model.fit(instants(0, 60), y)
    got = model.forecast(state, instants(60, 5)).mean
    for row in range(3):
        level, slope = weighted_line(y[row], discount)
        leads = np.arange(1, 6) + int(state.missed[row])
        line = level + float(state.belief[row]) * slope * leads
        np.testing.assert_allclose(got[row], line, rtol=1e-9)


def test_updates_lead_to_the_sums_that_a_fit_of_everything_gives() -> None:
    y = noisy(size=100)
    y[1, 70:80] = np.nan
    model = LinearTrendModel(window=12)
    state = model.update(model.fit(instants(0, 60), y[:, :60]), instants(60, 40), y[:, 60:])
    whole = model.fit(instants(0, 100), y)
    offset = (whole.anchor - state.anchor) * state.sums[:, 0]
    np.testing.assert_allclose(state.sums[:, :3], whole.sums[:, :3], rtol=1e-9)
    np.testing.assert_allclose(state.sums[:, 3] - offset, whole.sums[:, 3], rtol=1e-7, atol=1e-7)


def test_the_window_is_chosen_by_what_would_have_forecast_best() -> None:
    rng = np.random.default_rng(1)
    t = np.arange(288)
    y = np.stack(
        [
            0.5 * t + rng.normal(scale=0.1, size=288),  # a ramp: much history, all of the slope
            rng.normal(size=288).cumsum(),  # a walk: no slope is to be believed
            np.where(t < 200, 0.0, (t - 200) * 2.0),  # a ramp that began lately
        ]
    )
    model = LinearTrendModel(horizon_steps=12)
    state = model.fit(instants(0, 288), y)
    assert state.belief[0] == 1
    assert state.discount[0] > 0.9
    assert state.belief[1] < 1
    got = model.forecast(state, instants(288, 12)).mean
    np.testing.assert_allclose(got[2], (np.arange(288, 300) - 200) * 2.0, rtol=1e-6)


def test_the_plain_line_looks_at_everything() -> None:
    t = np.arange(288)
    y = np.where(t < 200, 0.0, (t - 200) * 2.0)[None]
    got = LinearTrendModel(trend="global")
    ahead = got.forecast(got.fit(instants(0, 288), y), instants(288, 1)).mean[0, 0]
    level, slope = weighted_line(y[0], 1.0)
    assert ahead == pytest.approx(level + slope)


def test_widths_follow_how_a_shock_moves_the_line() -> None:
    """In the long run the line answers a shock as the recursion says: moved by it and compared."""
    model = LinearTrendModel(window=8)
    y = noisy(1, 400)
    state = model.fit(instants(0, 400), y)
    got = model.forecast(state, instants(400, 4))
    rho, kappa = float(state.discount[0]), float(state.belief[0])
    moved = y.copy()
    moved[0, -1] += 1.0
    shocked = model.fit(instants(0, 400), moved)
    shocked = type(state)(**{**vars(shocked), "belief": state.belief, "sigma": state.sigma})
    answer = (model.forecast(shocked, instants(400, 4)).mean - got.mean)[0]
    # The k-th value after the shock, with the level and the slope that one update adds.
    expected = [(1 - rho**2) + kappa * (1 - rho) ** 2 * lead for lead in range(1, 5)]
    np.testing.assert_allclose(answer, expected, rtol=1e-6)
    half = (got.upper - got.mean)[0]
    ratio = np.sqrt(1 + np.cumsum([0, *np.square(expected[:3])]))
    np.testing.assert_allclose(half / half[0], ratio, rtol=1e-6)


def test_a_level_of_a_trillion_costs_no_digits() -> None:
    y = np.linspace(1e12, 1e12 + 74.5, 150)[None]
    model = LinearTrendModel(trend="global")
    state = model.fit(instants(0, 100), y[:, :100])
    state = model.update(state, instants(100, 50), y[:, 100:])
    got = model.forecast(state, instants(150, 3)).mean[0]
    np.testing.assert_allclose(got - 1e12, [75, 75.5, 76], atol=1e-3)


def _exactly(y: FloatArray) -> tuple[float, float, float]:
    """Level, slope and the residuals' deviation of the line through ``y``, in rational numbers."""
    values = [Fraction(float(one)) for one in y]
    n = len(values)
    middle, mean = Fraction(n - 1, 2), sum(values, Fraction(0)) / n
    slope = sum(((at - middle) * one for at, one in enumerate(values)), Fraction(0)) / sum(
        ((at - middle) ** 2 for at in range(n)), Fraction(0)
    )
    left = [one - mean - slope * (at - middle) for at, one in enumerate(values)]
    # Scaled before it becomes a float: squares of 1e-300 are none.
    widest = max((abs(one) for one in left), default=Fraction(0)) or Fraction(1)
    square = float(sum(((one / widest) ** 2 for one in left), Fraction(0)))
    return (
        float(mean + slope * middle),
        float(slope),
        float(widest) * (square / max(n - 2, 1)) ** 0.5,
    )


@given(
    st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=40),
    st.sampled_from([-1e8, -100.0, 0.0, 1.0, 1e4, 1e12]),
    st.sampled_from([0.0, 1e-9, 1.0]),
    st.sampled_from([0.0, 0.5, -3.0]),
    st.integers(-140, 140),
    st.sampled_from(["plain", "columns", "stride", "backwards"]),
)
def test_the_plain_line_is_the_exact_one_at_every_scale_and_level(
    noise: list[float], level: float, share: float, slope: float, exponent: int, order: str
) -> None:
    """Constants and exact lines are among them, and how the values lie in memory is no matter."""
    size = len(noise)
    row = (level + share * np.array(noise) + slope * np.arange(size)) * 10.0**exponent
    y = np.stack([row, row[::-1], np.zeros(size)])
    laid = {
        "plain": y,
        "columns": np.asfortranarray(y),
        "stride": np.repeat(y, 2, axis=1)[:, ::2],
        "backwards": y[:, ::-1].copy()[:, ::-1],
    }[order]
    model = LinearTrendModel(trend="global")
    state = model.fit(instants(0, size), laid)
    ahead = model.forecast(state, instants(size, 2)).mean
    for at, one in enumerate(y):
        last, exact, deviation = _exactly(one)
        spread = float(np.ptp(one))
        digits = 1e-9 * spread + 1e-14 * float(np.abs(one).max())
        np.testing.assert_allclose(ahead[at], last + exact * np.arange(1, 3), rtol=0, atol=digits)
        assert state.sigma[at] == pytest.approx(deviation, rel=1e-6, abs=1e-5 * spread)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"trend": "cubic"}, "trend: 'cubic' is not one of local, global"),
        ({"window": 1}, "window: 1 is not from 2 to 1e+06"),
        ({"level": 95}, "level: 95 is not a share between 0 and 1, such as .95 for 95 %"),
    ],
)
def test_wrong_settings_are_refused(params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("+", r"\+") + "$"):
        LinearTrendModel(**params)
