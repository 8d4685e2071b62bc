"""Functions value by value."""

import math
from calendar import monthrange
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.series import LabelSet
from sidecar.serve.promql.functions import (
    CALENDAR,
    ELEMENTWISE,
    absence,
    absent_labels,
    clamped,
    elementwise,
    rounded,
    single,
    sorted_by_value,
)
from sidecar.serve.promql.parse import parse_selector
from tests.unit.serve.promql_twin import Vector, close, frame_of, steps_of

A, B = LabelSet.of({"__name__": "x", "i": "a"}), LabelSet.of({"__name__": "x", "i": "b"})
BARE = A.without("__name__")


def applied(function: str, value: float) -> float:
    with np.errstate(all="ignore"):
        [step] = steps_of(elementwise(function, frame_of([{A: value}])))
    return step[BARE]


@settings(deadline=None)
@given(st.integers(0, 4_102_444_800))
def test_the_calendar_is_utc(second: int) -> None:
    when = datetime.fromtimestamp(second, UTC)
    expected = {
        "minute": when.minute,
        "hour": when.hour,
        "day_of_week": when.isoweekday() % 7,
        "day_of_month": when.day,
        "day_of_year": when.timetuple().tm_yday,
        "days_in_month": monthrange(when.year, when.month)[1],
        "month": when.month,
        "year": when.year,
    }
    assert expected.keys() == CALENDAR.keys()
    for function, number in expected.items():
        assert applied(function, second + 0.9) == number, function


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, -(2.0**63)])
def test_a_time_beyond_64_bits_is_the_last_that_go_knows(value: float) -> None:
    found = {function: applied(function, value) for function in CALENDAR}
    assert found == {
        "minute": 30,
        "hour": 15,
        "day_of_week": 0,
        "day_of_month": 4,
        "day_of_year": 339,
        "days_in_month": 31,
        "month": 12,
        "year": 292_277_026_596,
    }


@settings(deadline=None)
@given(st.sampled_from(sorted(ELEMENTWISE)), st.floats(-5, 5))
def test_mathematics_is_that_of_the_standard_library(function: str, value: float) -> None:
    names = {"abs": "fabs", "ln": "log", "deg": "degrees", "rad": "radians"}
    try:
        if function == "sgn":
            expected = float((value > 0) - (value < 0))
        else:
            expected = float(getattr(math, names.get(function, function))(value))
    except ValueError:  # out of its domain: Go gives NaN or an infinity
        assert not math.isfinite(applied(function, value))
        return
    assert close(applied(function, value), expected)


@pytest.mark.parametrize(
    ("value", "nearest", "expected"),
    [(2.5, 1.0, 3.0), (-2.5, 1.0, -2.0), (7.0, 5.0, 5.0), (0.34, 0.1, 0.3), (5.0, 0.0, math.nan)],
)
def test_halves_are_rounded_up(value: float, nearest: float, expected: float) -> None:
    with np.errstate(all="ignore"):
        [step] = steps_of(rounded(frame_of([{A: value}]), np.array([nearest])))
    assert close(step[BARE], expected)


def test_clamping_keeps_nan_and_gives_nothing_where_the_limits_cross() -> None:
    steps: list[Vector] = [{A: 5.0}, {A: math.nan}, {A: 1.0}]
    low, high = np.array([6.0, 0.0, 3.0]), np.array([9.0, 1.0, 2.0])
    found = steps_of(clamped(frame_of(steps), low, high))
    assert found[0] == {BARE: 6.0}
    assert math.isnan(found[1][BARE])
    assert found[2] == {}
    assert steps_of(clamped(frame_of(steps), low, None))[2] == {BARE: 3.0}
    assert steps_of(clamped(frame_of(steps), None, high))[0] == {BARE: 5.0}


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (5.0, math.nan, 9.0, math.nan),
        (5.0, 0.0, math.nan, math.nan),
        (5.0, math.inf, math.nan, math.inf),
        (math.nan, math.inf, math.inf, math.inf),
        (math.nan, math.nan, -math.inf, math.nan),
        (math.inf, 0.0, math.nan, math.nan),
    ],
)
def test_nan_wins_over_all_but_the_infinity_that_nothing_is_beyond(
    value: float, low: float, high: float, expected: float
) -> None:
    [step] = steps_of(clamped(frame_of([{A: value}]), np.array([low]), np.array([high])))
    assert close(step[BARE], expected)


def test_a_scalar_is_the_only_element() -> None:
    frame = frame_of([{A: 1.0}, {A: 1.0, B: 2.0}, {}, {B: math.nan}, {B: 4.0}])
    np.testing.assert_equal(single(frame).values, [1.0, math.nan, math.nan, math.nan, 4.0])


def test_absence_is_one_where_nothing_is() -> None:
    frame = frame_of([{A: 1.0}, {}, {B: 2.0}])
    assert steps_of(absence(frame.present, BARE)) == [{}, {BARE: 1.0}, {}]


@pytest.mark.parametrize(
    ("selector", "labels"),
    [
        ('x{i="a"}', {"i": "a"}),
        ('x{i="a",j=~"b"}', {"i": "a"}),
        ('x{i="a",i="b"}', {}),
        ('x{i="a",i!="b"}', {}),
        ('x{i=""}', {}),
    ],
)
def test_absent_says_what_the_matchers_pin_down(selector: str, labels: dict[str, str]) -> None:
    assert absent_labels(parse_selector(selector).matchers) == LabelSet.of(labels)


def test_sorting_puts_nan_last_both_ways() -> None:
    c = LabelSet.of({"i": "c"})
    frame = frame_of([{A: math.nan, B: 1.0, c: 2.0}])
    assert sorted_by_value(frame, descending=False).labels == (B, c, A)
    assert sorted_by_value(frame, descending=True).labels == (c, B, A)
    two = frame_of([{A: 2.0, B: 1.0}, {A: 2.0, B: 1.0}])
    assert sorted_by_value(two, descending=False) is two
