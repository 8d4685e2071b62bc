import numpy as np

from sidecar.models.contract import Intervals
from sidecar.models.domain import clipped, never_negative


def test_a_series_without_a_value_below_zero_is_never_negative() -> None:
    nan = np.nan
    y = np.array([[0.0, 1, nan], [1, -1e-12, 2], [nan, nan, nan], [0, 0, 0], [-np.inf, 1, 1]])
    assert never_negative(y).tolist() == [True, False, True, True, False]


def test_clipping_keeps_the_order_and_missing_forecasts() -> None:
    mean = np.array([[-1.0, 5], [np.nan, np.nan]])
    got = clipped(Intervals(mean, mean - 3, mean + 3), low=0.0)
    assert got.mean[0].tolist() == [0, 5]
    assert got.lower[0].tolist() == [0, 2]
    assert got.upper[0].tolist() == [2, 8]
    assert np.isnan(got.mean[1]).all()


def test_each_series_can_have_a_range_of_its_own() -> None:
    mean = np.array([[-1.0, 5], [-1, 5]])
    got = clipped(Intervals(mean, mean, mean), np.array([0.0, -np.inf]), np.array([np.inf, 3.0]))
    assert got.mean.tolist() == [[0, 5], [-1, 3]]
