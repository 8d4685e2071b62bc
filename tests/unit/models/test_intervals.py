from dataclasses import fields

import numpy as np
import pytest

from sidecar.models import intervals
from sidecar.models.contract import Intervals
from sidecar.models.intervals import Calibration
from sidecar.series import FloatArray

LEADS = (1, 2, 4, 8, 12)


def plain(n: int, width: float | FloatArray = 1.0) -> Intervals:
    """Forecasts of 0 with the analytic half width sqrt(lead) * width."""
    half = np.sqrt(np.arange(1, 13)) * np.broadcast_to(np.asarray(width), (n,))[:, None]
    return Intervals(np.zeros((n, 12)), -half, half)


def live(residuals: FloatArray, forecast: Intervals) -> tuple[Calibration, FloatArray, Intervals]:
    """A live run over residuals (N, K, leads): the calibration, the share inside in the second
    half of it (N,), and the last widened forecast."""
    n, size, _ = residuals.shape
    calibration = intervals.start(n, LEADS[-1])
    issued: list[Intervals] = []
    inside = []
    for k in range(size):
        if issued:
            residual, width = np.full((n, len(LEADS)), np.nan), np.full((n, len(LEADS)), np.nan)
            for at, lead in enumerate(LEADS):
                if lead <= len(issued):
                    made = issued[-lead]
                    residual[:, at] = residuals[:, k, at]
                    width[:, at] = (made.upper - made.lower)[:, lead - 1] / 2
                    if lead == 1 and k > size // 2:
                        held = made.lower[:, 0] <= residual[:, 0]
                        inside.append(held & (residual[:, 0] <= made.upper[:, 0]))
            calibration = intervals.observe(calibration, LEADS, residual, width)
        issued.append(intervals.widen(forecast, calibration))
    return calibration, np.stack(inside).mean(axis=0), issued[-1]


def growing(n: int = 40, size: int = 1500, seed: int = 0) -> FloatArray:
    """Normal residuals whose deviation grows with the root of the lead, half the width's unit."""
    noise = np.random.default_rng(seed).normal(size=(n, size, len(LEADS)))
    return noise * np.sqrt(LEADS) / 1.96


@pytest.mark.parametrize("width", [0.25, 1.0, 4.0])
def test_intervals_come_to_hold_what_they_promise_however_wide_they_were(width: float) -> None:
    _, inside, _ = live(growing(), plain(40, width))
    assert inside.mean() == pytest.approx(0.95, abs=0.01)
    assert ((inside > 0.92) & (inside < 0.98)).mean() > 0.85


def test_bounds_that_are_right_are_left_about_as_they_are() -> None:
    calibration, _, _ = live(growing(), plain(40))
    assert np.abs(np.log(calibration.factor)).mean() < 0.1


def test_heavy_tails_are_held_too() -> None:
    rng = np.random.default_rng(1)
    residuals = rng.standard_t(3, size=(40, 1500, len(LEADS))) * np.sqrt(LEADS)
    _, inside, _ = live(residuals, plain(40))
    assert inside.mean() == pytest.approx(0.95, abs=0.012)


def test_a_change_of_noise_is_followed() -> None:
    residuals = growing(20, 1600)
    residuals[:, 650:] *= 5  # what is measured begins 150 instants later
    _, inside, last = live(residuals, plain(20))
    assert inside.mean() == pytest.approx(0.95, abs=0.02)
    assert last.upper[:, 0].mean() == pytest.approx(5, rel=0.4)


def test_skewed_residuals_get_a_skewed_interval() -> None:
    rng = np.random.default_rng(2)
    residuals = (rng.exponential(size=(20, 3000, len(LEADS))) - 1) * np.sqrt(LEADS)
    calibration, inside, last = live(residuals, plain(20))
    assert (calibration.side > 0.1).all()
    assert (last.upper[:, 0] > -1.2 * last.lower[:, 0]).all()
    assert inside.mean() == pytest.approx(0.95, abs=0.015)


def test_a_model_whose_widths_grow_too_fast_is_corrected_along_the_leads() -> None:
    rng = np.random.default_rng(3)
    level = rng.normal(size=(20, 3000, len(LEADS))) / 1.96  # errors that do not grow at all
    calibration, inside, last = live(level, plain(20))
    assert (calibration.shape[:, 0] > calibration.shape[:, -1]).all()
    assert inside.mean() == pytest.approx(0.95, abs=0.02)
    grown = (last.upper[:, -1] / last.upper[:, 0]).mean()
    assert grown < 0.7 * np.sqrt(12)


def test_widths_never_shrink_with_the_lead() -> None:
    calibration, _, _ = live(growing(5, 200), plain(5))
    steep = Calibration(**{**vars(calibration), "shape": np.tile([0.0, -1, 1, -1, 0.5], (5, 1))})
    got = intervals.widen(plain(5), steep)
    assert (np.diff(got.upper, axis=1) >= 0).all()
    assert (np.diff(got.lower, axis=1) <= 0).all()


def test_anomalous_instants_do_not_widen() -> None:
    calibration, _, _ = live(growing(2, 300), plain(2))
    burst = np.full((2, len(LEADS)), 1e3)
    widths = np.ones((2, len(LEADS)))
    steer = np.array([False, True])
    for _ in range(20):
        calibration = intervals.observe(calibration, LEADS, burst, widths, steer)
    assert calibration.factor[0].max() < 1.3
    assert calibration.factor[1].min() > 5


def test_missing_actuals_teach_nothing() -> None:
    calibration, _, _ = live(growing(2, 300), plain(2))
    nothing = np.full((2, len(LEADS)), np.nan)
    later = intervals.observe(calibration, LEADS, nothing, np.ones((2, len(LEADS))))
    for f in fields(Calibration):
        if f.name not in ("issued",):
            np.testing.assert_array_equal(getattr(later, f.name), getattr(calibration, f.name))


def test_until_there_are_enough_scores_widths_stay_as_the_model_says() -> None:
    calibration = intervals.start(3, 12)
    np.testing.assert_array_equal(intervals.widen(plain(3), calibration).upper, plain(3).upper)
    few = intervals.observe(calibration, LEADS, np.full((3, 5), 9.0), np.ones((3, 5)))
    assert (few.factor == 1).all()


def test_exact_forecasts_of_a_constant_are_no_trouble() -> None:
    calibration = intervals.start(1, 12)
    zero = np.zeros((1, len(LEADS)))
    for _ in range(300):
        calibration = intervals.observe(calibration, LEADS, zero, zero)
    assert np.isfinite(calibration.factor).all()
    assert intervals.coverage(calibration)[0] == pytest.approx(1)
    # And when it moves at last, the widths are finite too.
    calibration = intervals.observe(calibration, LEADS, zero + 1, zero)
    assert np.isfinite(calibration.factor).all()


def test_series_do_not_influence_each_other() -> None:
    residuals = growing(3, 300)
    together, _, _ = live(residuals, plain(3))
    alone, _, _ = live(residuals[1:2], plain(1))
    for f in fields(Calibration):
        np.testing.assert_array_equal(getattr(together, f.name)[1:2], getattr(alone, f.name))


def test_series_join_and_leave() -> None:
    calibration, _, _ = live(growing(3, 300), plain(3))
    more = intervals.extend(calibration, 2)
    assert more.shape.shape == (5, calibration.shape.shape[1])
    np.testing.assert_array_equal(more.factor[3:], 1)
    back = intervals.take(more, np.array([0, 1, 2]))
    for f in fields(Calibration):
        np.testing.assert_array_equal(getattr(back, f.name), getattr(calibration, f.name))
    assert intervals.extend(intervals.start(0, 12), 2).scores.shape[0] == 2


def test_coverage_is_told_for_each_series() -> None:
    calibration, _, _ = live(growing(5, 1000), plain(5))
    assert np.isnan(intervals.coverage(intervals.start(1))).all()
    np.testing.assert_allclose(intervals.coverage(calibration), 0.95, atol=0.02)


@pytest.mark.parametrize("longest", [1, 5, 12, 60, 288])
def test_a_series_takes_at_most_a_kilobyte_and_a_half(longest: int) -> None:
    calibration = intervals.start(1, longest)
    assert sum(getattr(calibration, f.name).nbytes for f in fields(Calibration)) <= 1536


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_is_a_share(level: float) -> None:
    with pytest.raises(ValueError, match=r"^level: .* write \.95 for 95 %$"):
        intervals.start(1, 1, level)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.99])
def test_any_level_is_held(level: float) -> None:
    calibration = intervals.start(40, 1, level)
    residuals = np.random.default_rng(4).normal(size=(40, 1200))
    inside = []
    for k in range(1200):
        half = calibration.factor.mean(axis=1)
        inside.append(np.abs(residuals[:, k]) <= half)
        calibration = intervals.observe(calibration, (1,), residuals[:, k : k + 1], half[:, None])
    assert np.stack(inside)[400:].mean() == pytest.approx(level, abs=0.015)


@pytest.mark.parametrize(
    ("half", "typical", "count", "widened"),
    [
        (0.0, 6.0, 5, True),  # no band at all: a few residuals are enough
        (0.0, 6.0, 4, False),
        (1.0, 6.0, 39, False),  # a band: no short burst widens it
        (1.0, 6.0, 40, True),
        (20.0, 6.0, 60, False),
        (0.0, 0.0, 60, False),
        (0.0, np.nan, 0, False),
    ],
)
def test_a_band_is_no_narrower_than_live_residuals_allow(
    half: float, typical: float, count: int, widened: bool
) -> None:
    mean = np.full((1, 3), 30.0)
    band = Intervals(mean=mean, lower=mean - half, upper=mean + half)
    found = intervals.at_least(band, np.array([typical]), np.array([count]))
    expected = intervals.TYPICAL * typical if widened else half
    np.testing.assert_array_equal(found.upper - mean, expected)
    np.testing.assert_array_equal(mean - found.lower, expected)
