"""Parameters as Prometheus reads them."""

import math

import pytest

from sidecar.serve.promql.frames import QueryError
from sidecar.serve.promql.params import (
    FAR_MS,
    limit_param,
    lookback_param,
    parse_duration_param_ms,
    parse_time_ms,
    steps_param,
    time_param,
    timeout_param,
)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("4", 4_000),
        ("1700000000.123", 1_700_000_000_123),
        ("-1.5", -1_500),
        ("1e3", 1_000_000),
        ("1970-01-01T00:00:01Z", 1_000),
        ("1970-01-01T01:00:01+01:00", 1_000),
        ("2023-11-14T22:13:20.123456789Z", 1_700_000_000_123),
        ("-292273086-05-16T16:47:06Z", -FAR_MS),
        ("292277025-08-18T07:12:54.999999999Z", FAR_MS),
    ],
)
def test_times_are_seconds_or_rfc_3339(text: str, ms: int) -> None:
    assert parse_time_ms(text) == ms


@pytest.mark.parametrize(
    "text",
    ["", "now", "NaN", "inf", "1_000", "١", "1e300", "2023-11-14", "2023-99-14T22:13:20Z", " 1"],
)
def test_what_is_no_time_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match="to a valid timestamp"):
        parse_time_ms(text)
    if text:
        with pytest.raises(QueryError, match='invalid parameter "time"'):
            time_param({"time": [text]}, "time", 0)


def test_a_missing_time_is_the_default_and_of_two_the_first_counts() -> None:
    assert time_param({}, "time", 7) == 7
    assert time_param({"time": ["1", "2"]}, "time", 7) == 1_000


@pytest.mark.parametrize(("text", "ms"), [("15", 15_000), ("0.5", 500), ("1h30m", 5_400_000)])
def test_durations_are_seconds_or_with_units(text: str, ms: float) -> None:
    assert parse_duration_param_ms(text) == ms


@pytest.mark.parametrize("text", ["", "x", "1e300", "NaN", "-5m", "1.5h"])
def test_what_is_no_duration_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration_param_ms(text)


def grid(start: str, end: str, step: str) -> list[int]:
    steps, _ = steps_param({"start": [start], "end": [end], "step": [step]})
    return [int(ms) for ms in steps.instants_ms]


def test_the_grid_begins_at_the_start_and_need_not_meet_the_end() -> None:
    assert grid("1.5", "4", "1") == [1_500, 2_500, 3_500]
    assert grid("1", "1", "1m") == [1_000]
    assert grid("1", "1.002", "0.0001") == [1_000, 1_001, 1_002]
    steps, end_ms = steps_param({"start": ["1.5"], "end": ["4"], "step": ["1"]})
    assert (steps.end_ms, end_ms) == (3_500, 4_000)


def test_eleven_thousand_points_are_the_most() -> None:
    assert len(grid("0", "11000", "1")) == 11_001  # as Prometheus counts
    assert len(grid("0", "11000.9", "1")) == 11_001
    with pytest.raises(QueryError, match="exceeded maximum resolution of 11,000 points"):
        grid("0", "11001", "1")


@pytest.mark.parametrize(
    ("start", "end", "step", "said"),
    [
        ("", "1", "1", 'invalid parameter "start": cannot parse "" to a valid timestamp'),
        ("1", "x", "1", 'invalid parameter "end": cannot parse "x" to a valid timestamp'),
        ("2", "1", "1", 'invalid parameter "end": end timestamp must not be before start time'),
        ("1", "2", "", 'invalid parameter "step": cannot parse "" to a valid duration'),
        ("1", "2", "0", "zero or negative query resolution step widths are not accepted"),
        ("1", "2", "-1", "zero or negative query resolution step widths are not accepted"),
    ],
)
def test_errors_are_prometheus_own(start: str, end: str, step: str, said: str) -> None:
    with pytest.raises(QueryError) as raised:
        grid(start, end, step)
    assert said in str(raised.value)
    assert raised.value.error_type == "bad_data"


def test_limits_and_lookbacks() -> None:
    assert limit_param({}) == 0
    assert limit_param({"limit": ["40000"]}) == 40_000
    assert lookback_param({}) is None
    assert lookback_param({"lookback_delta": ["2m"]}) == 120_000
    for name, text in (("limit", "-1"), ("limit", "x"), ("limit", "9" * 30)):
        with pytest.raises(QueryError):
            limit_param({name: [text]})
    with pytest.raises(QueryError):
        lookback_param({"lookback_delta": ["x"]})
    assert timeout_param({}) == math.inf
    assert timeout_param({"timeout": ["1m"]}) == 60
    with pytest.raises(QueryError, match='invalid parameter "timeout"'):
        timeout_param({"timeout": ["x"]})
