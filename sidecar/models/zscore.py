"""``zscore``: the moving average, with a band of so many standard deviations around it.

The simplest detector. Take it for series without trend or season, and for comparison: many alerts
in use are this rule. It hardly forecasts: every step is the mean of the newest ``window`` values.

    mean +- threshold * deviation    over the newest ``window`` values

Settings: ``window`` (60 instants), ``threshold`` (2.5).

Measured on the public set, a day of five-minute instants, an hour ahead: MASE 3.81 (naive 2.32).
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from sidecar.models.contract import ForecastModel, Intervals, State
from sidecar.models.features import padded, spikes
from sidecar.models.numeric import absorb_new
from sidecar.models.settings import POSITIVE, at_least, check
from sidecar.series import FloatArray, TimeArray


@dataclass(frozen=True, slots=True)
class ZScoreSettings:
    """See the module."""

    window: int = 60
    threshold: float = 2.5

    def __post_init__(self) -> None:
        check(self, {"window": at_least(3), "threshold": POSITIVE})


@dataclass(frozen=True, eq=False)
class ZScoreState(State):
    """
    Attributes:
        buffer: (N, window) the newest values, newest last; NaN where there are fewer.
    """

    buffer: FloatArray


class ZScoreModel(ForecastModel[ZScoreState]):
    """Moving average and deviation; see the module."""

    name: ClassVar[str] = "zscore"
    settings_type: ClassVar[type[Any]] = ZScoreSettings
    state_type = ZScoreState

    def __init__(self, **settings: Any) -> None:
        self.settings: ZScoreSettings = ZScoreSettings(**settings)

    @property
    def min_instants(self) -> int:
        return 3

    def fit(self, t_ms: TimeArray, y: FloatArray) -> ZScoreState:
        known = np.where(np.isfinite(y) & ~spikes(y), y, np.nan)
        fitted = np.isfinite(known).sum(axis=1) >= self.min_instants
        # A stable sort by "is there" moves the values to the end in their order.
        order = np.argsort(np.isfinite(known), axis=1, kind="stable")
        buffer = padded(np.take_along_axis(known, order, axis=1), self.settings.window)
        buffer = buffer[:, -self.settings.window :].copy()
        return ZScoreState(
            last_ms=np.where(fitted, t_ms[-1], 0),
            sigma=np.where(fitted, _deviation(buffer), np.nan),
            buffer=buffer,
        )

    def update(self, state: ZScoreState, t_ms: TimeArray, y: FloatArray) -> ZScoreState:
        return absorb_new(self._absorb, state, t_ms, y)

    def _absorb(self, state: ZScoreState, t_ms: TimeArray, y: FloatArray) -> ZScoreState:
        fitted = np.isfinite(state.sigma)
        buffer = state.buffer
        for column in y.T:
            seen = np.isfinite(column) & fitted
            moved = np.concatenate([buffer[:, 1:], column[:, None]], axis=1)
            buffer = np.where(seen[:, None], moved, buffer)
        return replace(
            state,
            last_ms=np.where(fitted, t_ms[-1], state.last_ms),
            sigma=np.where(fitted, _deviation(buffer), np.nan),
            buffer=buffer,
        )

    def forecast(self, state: ZScoreState, t_ms: TimeArray) -> Intervals:
        mean, _ = _moments(state.buffer)
        mean = np.where(np.isfinite(state.sigma), mean, np.nan)
        level = np.repeat(mean[:, None], len(t_ms), axis=1)
        width = self.settings.threshold * state.sigma[:, None]
        return Intervals(mean=level, lower=level - width, upper=level + width)


def _moments(buffer: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(N,) each: mean and standard deviation of the values there are; 0 where there is none."""
    known = np.isfinite(buffer)
    count = np.maximum(known.sum(axis=1), 1)
    newest = np.where(known[:, -1], buffer[:, -1], 0.0)
    off = np.where(known, buffer - newest[:, None], 0.0)
    mean = off.sum(axis=1) / count
    spread = np.where(known, off - mean[:, None], 0.0)
    return newest + mean, np.sqrt(np.einsum("nw,nw->n", spread, spread) / count)


def _deviation(buffer: FloatArray) -> FloatArray:
    return _moments(buffer)[1]
