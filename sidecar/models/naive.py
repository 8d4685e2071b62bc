"""``naive`` and ``seasonal_naive``: tomorrow is like now, or like yesterday at this time.

Take them as the yardstick: a model that does not beat them on a series should not serve it. Take
``naive`` for step-like series (limits, versions, replica counts) and ``seasonal_naive`` where days
repeat and nothing else is known.

naive: y[t+h] = y[t], variance h sigma^2, sigma^2 the mean squared difference of neighbours; of
fewer than 30 differences sigma is widened as Student's t is wider than the normal distribution.
seasonal_naive: y[t+h] = y[t+h-m k], with the smallest k that makes this an observed instant, by the
local clock; variance k sigma^2, sigma^2 the mean squared difference of instants a period apart.
(Hyndman and Athanasopoulos, Forecasting: Principles and Practice, 5.2 and 5.5.)

Settings: ``level`` (the share of actuals that the interval is to hold, .95); for seasonal_naive
``period`` ("1d") and ``timezone`` (the watch's).

Measured on the public set, an hour ahead: naive MASE 2.32 from a day of five-minute instants, 2.13
from a week; seasonal_naive 1.78 from a week, and a day ahead 2.16 (naive 4.07).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from scipy.special import stdtrit

from sidecar.duration import parse_duration_ms
from sidecar.models.contract import ForecastModel, Intervals, State, as_float
from sidecar.models.features import fill_gaps, local_time_ms, padded
from sidecar.models.intervals import around, half_width
from sidecar.models.numeric import BoolArray, IntArray, absorb_new
from sidecar.models.settings import SHARE, TIMEZONE, at_least, check
from sidecar.series import FloatArray, TimeArray

# A finer grid shares the slots of the period; a state stays at most this wide.
MOST_SLOTS: Final = 1440
# Of so many differences a deviation is known well enough.
ENOUGH: Final = 30


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
        count = observed.sum(axis=1)
        fitted = count >= self.min_instants
        sigma = rms_difference(filled, observed, 1) * _doubt(count - 1, self.settings.level)
        return NaiveState(
            last_ms=np.where(fitted, t_ms[-1], 0),
            sigma=np.where(fitted, sigma, np.nan),
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


@dataclass(frozen=True, slots=True)
class SeasonalNaiveSettings:
    """See the module."""

    period: str = "1d"
    timezone: str = "UTC"
    granularity_ms: int = 60_000
    level: float = 0.95

    def __post_init__(self) -> None:
        check(
            self,
            {
                "period": (_is_period, "a duration of at least a minute, such as '1d'"),
                "timezone": TIMEZONE,
                "granularity_ms": at_least(1),
                "level": SHARE,
            },
        )


def _is_period(value: object) -> bool:
    try:
        return parse_duration_ms(str(value)) >= 60_000
    except ValueError:
        return False


@dataclass(frozen=True, eq=False)
class SeasonalNaiveState(NaiveState):
    """
    Attributes:
        season: (N, M) the newest value at each time of the period; NaN where none was seen.
        seasonal_sigma: (N,) deviation of instants a period apart; NaN until there are enough, and
            the series is forecast as by naive.
    """

    season: FloatArray
    seasonal_sigma: FloatArray


class SeasonalNaiveModel(ForecastModel[SeasonalNaiveState]):
    """The value of a period ago, by the local clock; the newest value until a period is there."""

    name: ClassVar[str] = "seasonal_naive"
    settings_type: ClassVar[type[Any]] = SeasonalNaiveSettings
    state_type = SeasonalNaiveState

    def __init__(self, **settings: Any) -> None:
        self.settings: SeasonalNaiveSettings = SeasonalNaiveSettings(**settings)
        self._period_ms = parse_duration_ms(self.settings.period)
        self._slots = max(1, min(self._period_ms // self.settings.granularity_ms, MOST_SLOTS))
        self._naive = NaiveModel(level=self.settings.level)

    @property
    def min_instants(self) -> int:
        return self._naive.min_instants

    @property
    def longest_fit(self) -> int:
        # Two periods: with only one there are no pairs of instants a period apart.
        return max(super().longest_fit, 2 * self._period_ms // self.settings.granularity_ms)

    def _slot(self, t_ms: TimeArray) -> IntArray:
        """(T,) which time of the period it is."""
        clock = local_time_ms(t_ms, self.settings.timezone) % self._period_ms
        return np.asarray(clock * self._slots // self._period_ms, np.int64)

    def fit(self, t_ms: TimeArray, y: FloatArray) -> SeasonalNaiveState:
        plain = self._naive.fit(t_ms, y)
        season = _overwritten(np.full((len(y), self._slots), np.nan), self._slot(t_ms), y)
        return self._state(plain, season, self._deviation(y, plain.sigma))

    def _deviation(self, y: FloatArray, sigma: FloatArray) -> FloatArray:
        """(N,) of instants a period apart, where there is at least half a period of pairs."""
        distance = self._period_ms // self.settings.granularity_ms
        if y.shape[1] <= distance:
            return np.full(len(y), np.nan)
        observed = np.isfinite(y)
        pairs = (observed[:, distance:] & observed[:, :-distance]).sum(axis=1)
        filled, _ = fill_gaps(y)
        deviation = rms_difference(filled, observed, distance)
        return np.where(np.isfinite(sigma) & (pairs >= distance / 2), deviation, np.nan)

    def _state(
        self, plain: NaiveState, season: FloatArray, seasonal_sigma: FloatArray
    ) -> SeasonalNaiveState:
        return SeasonalNaiveState(
            last_ms=plain.last_ms,
            sigma=np.where(np.isfinite(seasonal_sigma), seasonal_sigma, plain.sigma),
            value=plain.value,
            missed=plain.missed,
            season=season,
            seasonal_sigma=seasonal_sigma,
        )

    def update(
        self, state: SeasonalNaiveState, t_ms: TimeArray, y: FloatArray
    ) -> SeasonalNaiveState:
        return absorb_new(self._absorb, state, t_ms, y)

    def _absorb(
        self, state: SeasonalNaiveState, t_ms: TimeArray, y: FloatArray
    ) -> SeasonalNaiveState:
        plain = self._naive.update(state, t_ms, y)
        season = _overwritten(state.season.copy(), self._slot(t_ms), y)
        return self._state(plain, season, state.seasonal_sigma)

    def forecast(self, state: SeasonalNaiveState, t_ms: TimeArray) -> Intervals:
        plain = self._naive.forecast(state, t_ms)
        value = state.season[:, self._slot(t_ms)]
        leads = np.arange(1, len(t_ms) + 1) + state.missed[:, None]
        periods = np.ceil(leads * self.settings.granularity_ms / self._period_ms)
        deviation = state.seasonal_sigma[:, None] * np.sqrt(periods)
        seasonal = np.isfinite(value) & np.isfinite(deviation)
        mean = np.where(seasonal, value, plain.mean)
        unit = plain.upper - plain.mean  # level times the naive deviation
        width = np.where(seasonal, deviation * self._width, unit)
        width = np.maximum.accumulate(width, axis=1)
        return Intervals(mean=mean, lower=mean - width, upper=mean + width)

    @property
    def _width(self) -> float:
        return half_width(self.settings.level)


def _overwritten(season: FloatArray, slots: IntArray, y: FloatArray) -> FloatArray:
    """``season`` with the values of ``y`` (N, T) written into their slots in order, in place."""
    for slot, column in zip(slots.tolist(), y.T, strict=True):
        np.copyto(season[:, slot], column, where=np.isfinite(column))
    return season


def _doubt(differences: IntArray, level: float) -> FloatArray:
    """(N,) how much wider an interval is whose deviation is known from so few differences."""
    few = np.clip(differences, 1, ENOUGH)
    wider = stdtrit(few, (1.0 + level) / 2.0) / half_width(level)
    return np.where(few < ENOUGH, wider, 1.0)


def rms_difference(filled: FloatArray, observed: BoolArray, distance: int) -> FloatArray:
    """(N,) root mean square of y[t] - y[t - distance] over the observed pairs.

    Where no two are that far apart, over the lines drawn between them too; 0 for a single value.
    """
    both = observed[:, distance:] & observed[:, :-distance]
    both |= ~both.any(axis=1, keepdims=True)
    difference = np.where(both, filled[:, distance:] - filled[:, :-distance], 0.0)
    mean = np.einsum("nt,nt->n", difference, difference) / np.maximum(both.sum(axis=1), 1)
    return as_float(np.sqrt(mean))
