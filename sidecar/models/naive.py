"""``naive`` and ``seasonal_naive``: tomorrow is like now, or like yesterday at this time.

Take them as the yardstick: a model that does not beat them on a series should not serve it. Take
``naive`` for step-like series (limits, versions, replica counts) and ``seasonal_naive`` where days
repeat and nothing else is known.

naive: y[t+h] = y[t], variance h sigma^2, sigma^2 the mean squared difference of neighbours.
seasonal_naive: y[t+h] = y[t+h-m k], with the smallest k that makes this an observed instant, by the
local clock; variance k sigma^2, sigma^2 the mean squared difference of instants a period apart.
(Hyndman and Athanasopoulos, Forecasting: Principles and Practice, 5.2 and 5.5.)

Settings: ``level`` (the share of actuals that the interval is to hold, .95); for seasonal_naive
``period`` ("1d") and ``timezone`` (the watch's).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sidecar.models.contract import ForecastModel, Intervals, State, as_float
from sidecar.models.features import fill_gaps, padded
from sidecar.models.intervals import around
from sidecar.models.numeric import BoolArray, IntArray, absorb_new
from sidecar.models.settings import SHARE, check
from sidecar.series import FloatArray, TimeArray


@dataclass(frozen=True, slots=True)
class NaiveSettings:
    """See the module; one line for each problem."""

    level: float = 0.95

    def __post_init__(self) -> None:
        check(self, {"level": SHARE})


@dataclass(frozen=True, eq=False)
class NaiveState(State):
    """
    Attributes:
        value: (N,) the newest observed value.
        missed: (N,) int64, instants since then.
    """

    value: FloatArray
    missed: IntArray


class NaiveModel(ForecastModel[NaiveState]):
    """The newest value, for ever."""

    name: ClassVar[str] = "naive"
    settings_type: ClassVar[type[Any]] = NaiveSettings
    state_type = NaiveState

    def __init__(self, **settings: Any) -> None:
        self.settings = NaiveSettings(**settings)

    @property
    def min_instants(self) -> int:
        return 2

    def fit(self, t_ms: TimeArray, y: FloatArray) -> NaiveState:
        filled, observed = fill_gaps(padded(y, self.min_instants))
        fitted = observed.sum(axis=1) >= self.min_instants
        return NaiveState(
            last_ms=np.where(fitted, t_ms[-1], 0),
            sigma=np.where(fitted, rms_difference(filled, observed, 1), np.nan),
            value=filled[:, -1],
            missed=np.argmax(observed[:, ::-1], axis=1),
        )

    def update(self, state: NaiveState, t_ms: TimeArray, y: FloatArray) -> NaiveState:
        return absorb_new(self._absorb, state, t_ms, y)

    def _absorb(self, state: NaiveState, t_ms: TimeArray, y: FloatArray) -> NaiveState:
        filled, observed = fill_gaps(y)
        fitted = np.isfinite(state.sigma)
        seen = observed.any(axis=1)
        missed = np.where(seen, np.argmax(observed[:, ::-1], axis=1), state.missed + len(t_ms))
        return NaiveState(
            last_ms=np.where(fitted, t_ms[-1], state.last_ms),
            sigma=state.sigma,
            value=np.where(seen & fitted, filled[:, -1], state.value),
            missed=np.where(fitted, missed, state.missed),
        )

    def forecast(self, state: NaiveState, t_ms: TimeArray) -> Intervals:
        leads = np.arange(1, len(t_ms) + 1) + state.missed[:, None]
        value = np.where(np.isfinite(state.sigma), state.value, np.nan)
        mean = np.repeat(value[:, None], len(t_ms), axis=1)
        return around(mean, state.sigma[:, None] * np.sqrt(leads), self.settings.level)


def rms_difference(filled: FloatArray, observed: BoolArray, distance: int) -> FloatArray:
    """(N,) root mean square of y[t] - y[t - distance] over the observed pairs.

    Where no two are that far apart, over the lines drawn between them too; 0 for a single value.
    """
    both = observed[:, distance:] & observed[:, :-distance]
    both |= ~both.any(axis=1, keepdims=True)
    difference = np.where(both, filled[:, distance:] - filled[:, :-distance], 0.0)
    mean = np.einsum("nt,nt->n", difference, difference) / np.maximum(both.sum(axis=1), 1)
    return as_float(np.sqrt(mean))
