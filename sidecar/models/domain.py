"""What a metric can be at all: applied to forecasts when they are published, outside the models."""

import numpy as np
from numpy.typing import NDArray

from sidecar.models.contract import Intervals
from sidecar.series import FloatArray


def never_negative(y: FloatArray) -> NDArray[np.bool_]:
    """(N,) whether no value of a series (N, T) is below 0; NaN is none."""
    return np.asarray(~(y < 0).any(axis=1))


def clipped(
    intervals: Intervals, low: float | FloatArray = -np.inf, high: float | FloatArray = np.inf
) -> Intervals:
    """Forecast and bounds held inside [low, high]; numbers, or arrays (N,) of one for each series.

    The order lower <= mean <= upper stays, and NaN stays NaN.
    """
    floor, ceiling = (np.asarray(one, np.float64).reshape(-1, 1) for one in (low, high))
    return Intervals(
        mean=np.clip(intervals.mean, floor, ceiling),
        lower=np.clip(intervals.lower, floor, ceiling),
        upper=np.clip(intervals.upper, floor, ceiling),
    )
