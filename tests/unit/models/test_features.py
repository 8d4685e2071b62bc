from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.models.features import (
    DAY_MS,
    append,
    cyclic,
    fill_gaps,
    local_time_ms,
    padded,
    rows_before,
    spikes,
    windows,
)
from sidecar.series import FloatArray

nan, inf = np.nan, np.inf


def test_gaps_are_filled_with_straight_lines_and_the_ends_are_held() -> None:
    y = np.array([[nan, 1, nan, nan, 4, inf], [nan] * 6, [1.0, 2, 3, 4, 5, 6]])
    filled, observed = fill_gaps(y)
    assert filled.tolist() == [[1, 1, 2, 3, 4, 4], [0] * 6, [1, 2, 3, 4, 5, 6]]
    assert observed[0].tolist() == [False, True, False, False, True, False]


def test_a_batch_without_gaps_is_not_copied() -> None:
    y = np.ones((2, 3))
    assert fill_gaps(y)[0] is y


def test_a_short_history_is_padded_with_missing_instants_at_its_start() -> None:
    got = padded(np.array([[1.0, 2.0]]), 4)
    assert np.isnan(got[0, :2]).all()
    assert got[0, 2:].tolist() == [1, 2]
    assert padded(got, 3) is got


@pytest.mark.parametrize(
    ("zone", "at"),
    [
        ("Europe/Berlin", "2026-03-29T00:45:00+00:00"),
        ("Europe/Berlin", "2026-03-29T01:15:00+00:00"),
        ("Asia/Kathmandu", "2026-01-01T12:00:00+00:00"),
        ("America/New_York", "1969-07-20T20:17:40+00:00"),
        ("UTC", "2026-01-01T00:00:00+00:00"),
    ],
)
def test_local_time_is_what_a_clock_on_the_wall_shows(zone: str, at: str) -> None:
    instant = datetime.fromisoformat(at)
    wall = instant.astimezone(ZoneInfo(zone)).replace(tzinfo=ZoneInfo("UTC"))
    got = local_time_ms(np.array([int(instant.timestamp() * 1000)]), zone)
    assert got.tolist() == [int(wall.timestamp() * 1000)]


def test_clock_columns_are_those_of_the_instant_and_repeat_after_a_week() -> None:
    monday = 4 * DAY_MS  # 1970-01-05
    got = cyclic(np.array([monday, monday + 6 * 3_600_000, monday + 7 * DAY_MS]))
    np.testing.assert_allclose(got[0], [0, 1, 0, 1], atol=1e-12)
    np.testing.assert_allclose(got[1, :2], [1, 0], atol=1e-12)
    np.testing.assert_allclose(got[2], got[0], atol=1e-9)


def test_a_row_holds_lags_their_statistics_and_the_clock() -> None:
    lags = np.array([1.0, 2.0, 6.0])
    row = rows_before(lags, np.array([0.1, 0.2, 0.3, 0.4]))
    np.testing.assert_allclose(row, [1, 2, 6, 3, lags.std(), 0.1, 0.2, 0.3, 0.4])


def test_no_row_holds_the_value_it_is_to_forecast() -> None:
    y = np.arange(10.0)
    rows = rows_before(windows(y, 3)[:7], np.zeros((7, 4)))
    for t, row in enumerate(rows, start=3):
        assert row[:3].tolist() == [t - 3, t - 2, t - 1]


def test_one_towering_value_is_a_spike_and_repeated_bursts_are_not() -> None:
    rng = np.random.default_rng(3)
    y = rng.normal(size=(4, 288))
    y[0, 100] = 1e4
    y[1, 50:280:20] = 1e4
    y[2] = 0.0
    y[2, [40, 150, 230]] = 1.0
    y[3] = np.repeat([1.0, 1e4], 144)
    found = spikes(y)
    assert np.argwhere(found).tolist() == [[0, 100]]


def test_a_spike_beside_a_gap_is_found_and_too_few_values_have_none() -> None:
    y = np.random.default_rng(4).normal(size=(1, 100))
    y[0, 40:50] = nan
    y[0, 60] = 1e5
    assert np.argwhere(spikes(y)).tolist() == [[0, 60]]
    assert not spikes(np.array([[1.0, 2, 1e9]])).any()


@pytest.mark.parametrize("count", [7, 8, 11, 20, 60, 300])
def test_nothing_of_a_series_that_has_just_begun_is_a_spike(count: int) -> None:
    values = np.random.default_rng(5).normal(10.0, 1.0, (20, count))
    for window in (count, 11_520, 46_080):
        y = np.full((20, window), nan)
        y[:, window - count :] = values
        assert not spikes(y).any()


def test_a_spike_is_one_whatever_the_window_before_the_series_and_the_gaps_in_it() -> None:
    values = np.random.default_rng(6).normal(10.0, 1.0, 300)
    values[200] = 1e5
    for y in (values, np.concatenate([np.full(11_220, nan), values])):
        assert np.argwhere(spikes(y[None])).tolist() == [[0, len(y) - 100]]
    sparse = np.full((1, 3_000), nan)
    sparse[0, ::10] = values
    assert np.argwhere(spikes(sparse)).tolist() == [[0, 2_000]]


@given(st.integers(0, 6), st.integers(2, 5), st.floats(-100, 100))
def test_appending_after_a_gap_draws_the_line_over_it(gap: int, size: int, value: float) -> None:
    buffer = np.arange(float(size))[None]
    for guess in range(gap):
        buffer = append(buffer, np.array([1000.0 + guess]), np.zeros(1, np.int64))
    before = size - 1.0 if gap < size else None
    got = append(buffer, np.array([value]), np.array([gap]))[0]
    assert got.shape == (size,)
    assert got[-1] == pytest.approx(value)
    if before is not None:
        line = [before + (value - before) * (k + 1) / (gap + 1) for k in range(gap + 1)]
        np.testing.assert_allclose(got[-min(gap + 1, size) :], line[-size:], atol=1e-9)


def test_rows_without_a_gap_only_move_on() -> None:
    buffer: FloatArray = np.array([[1.0, 2, 3], [4, 5, 6]])
    got = append(buffer, np.array([7.0, 8.0]), np.array([0, 0]))
    assert got.tolist() == [[2, 3, 7], [5, 6, 8]]
    assert buffer.tolist() == [[1, 2, 3], [4, 5, 6]]
