"""Oddities are counted and mended; the staleness rule."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.ingest.checks import Oddities, scrape_interval_ms, staleness_ms, tidy
from sidecar.series import STALE_NAN, LabelSet, RawSeries


def series(samples: list[tuple[int, float]], **labels: str) -> RawSeries:
    times = np.array([t for t, _ in samples], dtype=np.int64)
    values = np.array([v for _, v in samples], dtype=np.float64)
    return RawSeries(LabelSet.of({"__name__": "x", **labels}), times, values)


def test_series_in_order_are_passed_on_as_they_are() -> None:
    one = series([(1, 1.0), (2, 2.0)])
    tidied, odd = tidy([one])
    assert tidied[0] is one
    assert odd == Oddities()


def test_disorder_is_sorted_and_of_one_time_twice_the_last_one_stays() -> None:
    tidied, odd = tidy([series([(3, 1.0), (1, 2.0), (3, 3.0), (3, 4.0)]), series([], a="b")])
    assert tidied[0].timestamps_ms.tolist() == [1, 3]
    assert tidied[0].values.tolist() == [2.0, 4.0]
    assert odd == Oddities(duplicates=2, disordered=1)


def test_missing_values_and_ends_of_series_are_counted_apart_and_kept() -> None:
    tidied, odd = tidy([series([(1, math.nan), (2, math.inf), (3, STALE_NAN), (4, 1.0)])])
    assert odd == Oddities(not_finite=2, stale_markers=1)
    assert tidied[0].values.view(np.uint64)[2] == np.float64(STALE_NAN).view(np.uint64)


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(allow_nan=False)), max_size=30))
def test_tidied_times_strictly_increase_and_hold_the_last_value(
    samples: list[tuple[int, float]],
) -> None:
    (one,), odd = tidy([series(samples)])
    assert dict(zip(one.timestamps_ms.tolist(), one.values.tolist(), strict=True)) == dict(samples)
    assert (np.diff(one.timestamps_ms) > 0).all()
    assert odd.duplicates == len(samples) - len(one.values)


def test_the_scrape_interval_is_the_usual_distance() -> None:
    steady = series([(n * 15_000, 1.0) for n in range(10)], a="1")
    jittered = series([(0, 1.0), (15_002, 1.0), (29_998, 1.0), (90_000, 1.0)], a="2")
    assert scrape_interval_ms([steady, jittered, series([(5, 1.0)], a="3")]) == 15_001
    assert scrape_interval_ms([series([(5, 1.0)])]) is None


@pytest.mark.parametrize(
    ("step_ms", "interval_ms", "lookback_ms", "expected_ms"),
    [
        (60_000, 15_000, 300_000, 60_000),
        (15_000, 15_000, 300_000, 30_000),
        (15_000, 240_000, 300_000, 300_000),
        (15_000, None, 300_000, 15_000),
        (600_000, 15_000, 300_000, 300_000),
        (60_000, 15_000, 20_000, 20_000),
    ],
)
def test_staleness(step_ms: int, interval_ms: int, lookback_ms: int, expected_ms: int) -> None:
    assert staleness_ms(step_ms, interval_ms, lookback_ms) == expected_ms
