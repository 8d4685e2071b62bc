from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.models.anomaly import AnomalyRules, absorb, score

nan, inf = np.nan, np.inf


def one(actual: float, expected: float, lower: float, upper: float, **rules: Any) -> float:
    y, mean, low, high = (np.array([value]) for value in (actual, expected, lower, upper))
    return float(score(y, mean, low, high, AnomalyRules(**rules))[0])


@pytest.mark.parametrize(
    ("actual", "wanted"),
    [(10, 0), (12, 1), (11, 0.5), (14, 2), (9, 0.25), (6, 1), (2, 2), (inf, 100), (1e9, 100)],
)
def test_the_score_is_the_distance_in_half_widths_of_its_side(actual: float, wanted: float) -> None:
    assert one(actual, 10, 6, 12) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("rules", "above", "below"),
    [
        ({}, 2, 2),
        ({"detection_direction": "above_expected"}, 2, 0),
        ({"detection_direction": "below_expected"}, 0, 2),
        ({"min_dev_from_expected": (5.0, 3.0)}, 4 / 3, 0),
        ({"min_dev_from_expected": (0.0, 4.0)}, 1, 2),
        ({"min_rel_dev_from_expected": (0.0, 50.0)}, 0, 2),
        ({"min_rel_dev_from_expected": (50.0, 0.0)}, 2, 0),
        ({"scale": (0.5, 2.0)}, 1, 4),
    ],
)
def test_rules_of_a_metric_change_the_score(
    rules: Mapping[str, Any], above: float, below: float
) -> None:
    assert one(14, 10, 8, 12, **rules) == pytest.approx(above)
    assert one(6, 10, 8, 12, **rules) == pytest.approx(below)


def test_an_actual_outside_the_range_of_its_data_is_anomalous_whatever_was_expected() -> None:
    assert one(101, 100, 90, 110, data_range=(0.0, 100.0)) == pytest.approx(1.01)
    assert one(101, 100, 90, 110, data_range=(0.0, 100.0), score_outside_data_range=5) == 5
    assert one(150, 100, 90, 110, data_range=(0.0, 100.0)) == 5
    # And where what was expected lies outside, nothing can be said of an actual inside.
    assert one(90, 120, 110, 130, data_range=(0.0, 100.0)) == 0


def test_a_constant_series_has_no_band_of_no_width() -> None:
    assert one(42, 42, 42, 42) == 0
    assert one(42 + 1e-9, 42, 42, 42) < 1
    assert one(43, 42, 42, 42) == 100
    assert one(0, 0, 0, 0) == 0
    assert one(1e-6, 0, 0, 0) == 100


def test_what_is_missing_has_no_score() -> None:
    assert np.isnan(one(nan, 1, 0, 2))
    assert np.isnan(one(1, nan, nan, nan))
    assert np.isnan(one(nan, 1, 0, 2, data_range=(5.0, 6.0)))


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.floats(1e-3, 1e3))
def test_the_score_is_the_same_in_any_unit(
    actual: float, expected: float, width: float, unit: float
) -> None:
    plain = one(actual, expected, expected - width, expected + width)
    scaled = one(
        unit * actual, unit * expected, unit * (expected - width), unit * (expected + width)
    )
    assert 0 <= plain <= 100
    assert scaled == pytest.approx(plain, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("detection_direction", "up"),
        ("min_dev_from_expected", (-1, 0)),
        ("scale", (0, 1)),
        ("data_range", (2, 1)),
        ("anomaly_policy", "forget"),
        ("clamp_at", 0),
        ("patience", 0),
    ],
)
def test_wrong_rules_are_refused_by_name(setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{setting}: "):
        AnomalyRules(**{setting: value})  # type: ignore[arg-type]


def learned(burst: int, policy: str, patience: int = 30) -> list[float]:
    """The levels a naive model with a band of +-1 takes on when it reads 100 for a while."""
    rules = AnomalyRules(anomaly_policy=policy, patience=patience)
    level, levels, run = 0.0, [], np.zeros(1, np.int64)
    for _ in range(burst):
        expected = np.array([level])
        value, run, _ = absorb(np.array([100.0]), expected, expected - 1, expected + 1, run, rules)
        level = level if np.isnan(value[0]) else float(value[0])
        levels.append(level)
    return levels


def test_a_burst_does_not_become_normal_while_it_lasts() -> None:
    assert learned(1, "learn") == [100]
    assert learned(20, "skip") == [0] * 20
    clamped = learned(20, "clamp")
    assert clamped[0] == 1
    assert clamped[-1] < 4


def test_what_lasts_longer_than_the_patience_is_learned() -> None:
    for policy in ("clamp", "skip"):
        assert learned(12, policy, patience=10)[-1] == 100


def test_an_ordinary_instant_is_learned_as_it_is_and_ends_a_run() -> None:
    expected = np.zeros(2)
    value, run, withheld = absorb(
        np.array([2.9, nan]), expected, expected - 1, expected + 1, np.array([4, 4])
    )
    np.testing.assert_array_equal(value, [2.9, nan])
    assert run.tolist() == [0, 4]
    assert not withheld.any()


def test_without_a_forecast_the_actual_is_learned() -> None:
    nothing = np.array([nan])
    value, run, withheld = absorb(np.array([5.0]), nothing, nothing, nothing, np.zeros(1, np.int64))
    assert value.tolist() == [5]
    assert run.tolist() == [0]
    assert not withheld.any()
