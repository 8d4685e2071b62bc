import numpy as np
import pytest

from sidecar.models.naive import NaiveModel, SeasonalNaiveModel
from sidecar.series import FloatArray, TimeArray

HOUR = 3_600_000
DAY = 24 * HOUR


def instants(first: int, count: int) -> TimeArray:
    return HOUR * (24 * 20_000 + first + np.arange(count, dtype=np.int64))


def days(count: int, seed: int = 0) -> FloatArray:
    """One series of hourly values whose days resemble each other."""
    shape = np.sin(2 * np.pi * np.arange(24) / 24) * 10 + 50
    noise = np.random.default_rng(seed).normal(scale=0.5, size=24 * count)
    return (np.tile(shape, count) + noise)[None]


def seasonal(**settings: object) -> SeasonalNaiveModel:
    return SeasonalNaiveModel(granularity_ms=HOUR, **settings)


def test_naive_repeats_the_newest_value_and_its_band_grows_with_the_root_of_the_lead() -> None:
    y = np.array([[1.0, 3, 2, 4, 4, np.nan]])
    model = NaiveModel()
    state = model.fit(instants(0, 6), y)
    wider = 2.776445 / 1.959964  # Student's t with 4 degrees of freedom, and the normal's
    assert state.sigma[0] == pytest.approx(np.sqrt((4 + 1 + 4 + 0) / 4) * wider)
    got = model.forecast(state, instants(6, 3))
    assert got.mean.tolist() == [[4, 4, 4]]
    half = (got.upper - got.mean)[0] / (1.959964 * state.sigma[0])
    np.testing.assert_allclose(half, np.sqrt([2, 3, 4]), rtol=1e-6)


def test_values_that_are_never_neighbours_have_a_deviation_all_the_same() -> None:
    y = np.array([[1.0, np.nan, 3, np.nan, 2, np.nan, 5]])
    state = NaiveModel().fit(instants(0, 7), y)
    assert np.isfinite(state.sigma).all()


def test_seasonal_naive_repeats_the_value_of_a_period_ago() -> None:
    y = days(3)
    model = seasonal()
    state = model.fit(instants(0, 72), y)
    got = model.forecast(state, instants(72, 30)).mean[0]
    np.testing.assert_array_equal(got, np.concatenate([y[0, 48:], y[0, 48:54]]))


def test_its_band_grows_with_each_period() -> None:
    model = seasonal()
    got = model.forecast(model.fit(instants(0, 72), days(3)), instants(72, 30))
    half = (got.upper - got.mean)[0]
    np.testing.assert_allclose(half[:24], half[0])
    np.testing.assert_allclose(half[24:], np.sqrt(2) * half[0])


def test_until_a_period_and_a_half_is_there_it_is_naive() -> None:
    y = days(2)
    model = seasonal()
    got = model.forecast(model.fit(instants(0, 30), y[:, :30]), instants(30, 3))
    np.testing.assert_array_equal(got.mean[0], y[0, [29, 29, 29]])


def test_a_missing_time_of_the_period_takes_the_newest_there_was() -> None:
    y = days(3)
    y[0, 50] = np.nan
    model = seasonal()
    state = model.fit(instants(0, 72), y)
    got = model.forecast(state, instants(72, 24)).mean[0]
    assert got[2] == y[0, 26]


def test_updates_overwrite_a_period() -> None:
    y = days(4)
    model = seasonal()
    state = model.update(model.fit(instants(0, 72), y[:, :72]), instants(72, 24), y[:, 72:])
    got = model.forecast(state, instants(96, 24)).mean[0]
    np.testing.assert_array_equal(got, y[0, 72:])


def test_a_day_follows_the_local_clock_when_clocks_are_changed() -> None:
    midnight = 1_774_652_400_000 // HOUR  # 2026-03-28 00:00 in Berlin; the 29th has 23 hours
    local = np.array([*range(24), *(h for h in range(24) if h != 2), *range(24)], np.float64)
    t_ms = HOUR * (midnight - 24 + np.arange(24 + len(local), dtype=np.int64))
    y = np.concatenate([np.arange(24.0), local])[None]
    model = seasonal(timezone="Europe/Berlin")
    known = 24 + 24 + 23
    got = model.forecast(model.fit(t_ms[:known], y[:, :known]), t_ms[known:]).mean[0]
    np.testing.assert_array_equal(got, np.arange(24.0))


def test_a_fine_grid_does_not_make_a_state_of_any_width() -> None:
    model = SeasonalNaiveModel(granularity_ms=1_000)
    state = model.fit(1_000 * np.arange(1, 100, dtype=np.int64), np.ones((2, 99)))
    assert state.season.shape == (2, 1440)


@pytest.mark.parametrize(
    "params", [{"period": "1 day"}, {"period": "5s"}, {"timezone": "Mars"}, {"level": 1}]
)
def test_wrong_settings_are_refused_by_name(params: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(params))}: "):
        SeasonalNaiveModel(**params)


def test_a_seasonal_fit_is_given_two_periods_so_that_it_has_pairs_a_period_apart() -> None:
    fine = SeasonalNaiveModel(granularity_ms=60_000)
    assert fine.longest_fit == 2 * 1440
    t_ms = 60_000 * np.arange(fine.longest_fit, dtype=np.int64)
    y = np.sin(2 * np.pi * np.arange(t_ms.size) / 1440)[None]
    state = fine.fit(t_ms, y)
    ahead = t_ms[-1] + 60_000 * np.arange(1, 301, dtype=np.int64)
    np.testing.assert_allclose(fine.forecast(state, ahead).mean[0], y[0, 1440:1740], atol=1e-12)
