"""Windows and the lookback, against a twin that looks at one sample after the other."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.series import LabelSet
from sidecar.serve.promql.frames import UNBOUNDED, Samples, samples_of
from sidecar.serve.promql.windows import WINDOW_FUNCTIONS, any_in, newest, over_time, quantile
from tests.unit.serve.promql_twin import NUMBERS, close, fold, same, steps_of

A, B = LabelSet.of({"__name__": "x", "i": "a"}), LabelSet.of({"__name__": "x", "i": "b"})
Raw = dict[LabelSet, dict[int, float]]

RAW = st.fixed_dictionaries(
    {one: st.dictionaries(st.integers(0, 60), NUMBERS, max_size=12) for one in (A, B)}
)


def samples(raw: Raw) -> Samples:
    ordered = {one: sorted(points) for one, points in raw.items()}
    return samples_of(
        [
            (one, np.array(times, dtype=np.int64), np.array([raw[one][t] for t in times]))
            for one, times in ordered.items()
        ],
        UNBOUNDED,
    )


def window(points: dict[int, float], at: int, size: int, left_open: bool) -> list[float]:
    return [
        points[t]
        for t in sorted(points)
        if t <= at and (t > at - size if left_open else t >= at - size)
    ]


@settings(deadline=None)
@given(
    RAW,
    st.sampled_from(sorted(WINDOW_FUNCTIONS - {"absent_over_time"})),
    st.integers(1, 30),
    st.booleans(),
    st.sampled_from([-0.1, 0.0, 0.3, 0.5, 1.0, 1.1, math.nan]),
)
def test_each_function_folds_what_lies_in_the_window(
    raw: Raw, function: str, size: int, left_open: bool, phi: float
) -> None:
    at = np.array([-5, 0, 7, 20, 20, 41, 60, 90], dtype=np.int64)
    with np.errstate(all="ignore"):
        phis = np.full(len(at), phi) if function == "quantile_over_time" else None
        ours = over_time(function, samples(raw), at, size, left_open, UNBOUNDED, phis)
    keeps = function == "last_over_time"
    theirs = [
        {
            (one if keeps else one.without("__name__")): fold(
                function.removesuffix("_over_time"), inside, phi
            )
            for one, points in raw.items()
            if (inside := window(points, t, size, left_open))
        }
        for t in at.tolist()
    ]
    assert same(steps_of(ours), theirs)
    any_there = any_in(samples(raw), at, size, left_open)
    assert any_there.tolist() == [[bool(step) for step in theirs]]


@settings(deadline=None)
@given(RAW, st.integers(1, 30), st.booleans())
def test_an_instant_selector_takes_the_newest_sample_within_the_lookback(
    raw: Raw, lookback: int, left_open: bool
) -> None:
    at = np.arange(-5, 95, 3, dtype=np.int64)
    frame, times = newest(samples(raw), at, lookback, left_open)
    for row, one in enumerate(frame.labels):
        for column, t in enumerate(at.tolist()):
            inside = window(raw[one], t, lookback, left_open)
            assert bool(frame.present[row, column]) == bool(inside)
            if inside:
                assert close(float(frame.values[row, column]), inside[-1])
                assert times[row, column] == max(s for s in raw[one] if s <= t)


def test_windows_are_closed_before_prometheus_3_and_left_open_since() -> None:
    held = samples({A: {0: 1.0, 60: 2.0}})
    at = np.array([60], dtype=np.int64)
    for left_open, expected in ((False, 2.0), (True, 1.0)):
        count = over_time("count_over_time", held, at, 60, left_open, UNBOUNDED)
        assert count.values[0, 0] == expected
    alone = samples({A: {0: 1.0}})
    assert newest(alone, at, 60, False)[0].present.all()
    assert not newest(alone, at, 60, True)[0].present.any()


def test_a_mean_whose_sum_overflows_is_a_number() -> None:
    held = samples({A: {0: 1.7e308, 1: 1.7e308, 2: 1.7e308}})
    with np.errstate(all="ignore"):
        mean = over_time("avg_over_time", held, np.array([2]), 10, True, UNBOUNDED)
    assert close(float(mean.values[0, 0]) / 1e308, 1.7)


def test_the_quantile_of_nothing_spoils_no_other_row() -> None:
    mask = np.array([[False, False], [True, True]])
    found = quantile(np.array([[1.0, 2.0], [3.0, 5.0]]), mask, 0.5)
    assert found[1] == 4.0


def test_where_two_sources_have_one_instant_the_later_one_wins() -> None:
    one = np.array([5], dtype=np.int64)
    held = samples_of([(A, one, np.array([1.0])), (A, one, np.array([2.0]))], UNBOUNDED)
    assert held.labels == (A,)
    assert held.values.tolist() == [[2.0]]


@pytest.mark.parametrize("function", sorted(WINDOW_FUNCTIONS - {"absent_over_time"}))
def test_no_series_give_no_series(function: str) -> None:
    at = np.array([1, 2], dtype=np.int64)
    phis = np.zeros(2) if function == "quantile_over_time" else None
    assert over_time(function, samples({}), at, 5, True, UNBOUNDED, phis).labels == ()
