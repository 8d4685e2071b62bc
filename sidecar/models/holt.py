"""Holt's exponential smoothing with an additive trend, damped where the data say so.

When to take it: a level that wanders and a slope that comes and goes, as most gauges have. The
damped form is the safest single model over an hour ahead.

Recursion (Hyndman, Koehler, Ord, Snyder, Forecasting with Exponential Smoothing, 2008, table 2.1,
ETS(A,A,N) with phi = 1 and ETS(A,Ad,N)):

    e_t = y_t - (l_{t-1} + phi b_{t-1})
    l_t = l_{t-1} + phi b_{t-1} + alpha e_t
    b_t = phi b_{t-1} + beta e_t
    forecast h instants ahead: l_t + (phi + phi^2 + ... + phi^h) b_t
    variance: sigma^2 (1 + sum_{j<h} c_j^2), c_j = alpha + beta (phi + ... + phi^j)

The fit minimises the sum of squared e over alpha, q = beta / alpha, phi and the initial l and b, in
the equivalent form (1 - L)(1 - phi L) y = (1 + theta_1 L + theta_2 L^2) e with theta_1 = alpha +
phi beta - 1 - phi and theta_2 = phi (1 - alpha), by ``sidecar.models.arma``.

Settings: see ``HoltSettings``.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from sidecar.models import fitting
from sidecar.models.arma import Coefficients, Family, Prepared, certain_drift, prepare
from sidecar.models.contract import ForecastModel, Intervals, State, put, take
from sidecar.models.numeric import (
    IntArray,
    absorb_new,
    gaussian_intervals,
    lead_deviation,
    without_towers,
)
from sidecar.series import FloatArray, TimeArray

Damped = Literal["auto"] | bool
Initial = Literal["first", "fitted"]
MIN_INSTANTS: Final = 10
CLEARLY: Final = 0.97  # an undamped trend is taken below this share of the damped fit's cost


@dataclass(frozen=True)
class HoltSettings:
    """Settings of ``ExponentialSmoothingModel``.

    Attributes:
        damped: whether the trend fades out with the lead; ``auto`` fits it damped, and undamped
            where that explains the series clearly better.
        initial: where the recursion starts: ``first`` at the first sample, without a trend unless
            the whole history has one beyond doubt; ``fitted`` at the level and trend with the least
            sum of squares, as the textbook has it.
        robust: pull back residuals that are out of all proportion before the fit, so that a spike
            leaves little behind; ``false`` is plain least squares.
        level: share of outcomes the prediction interval is to cover.

    Raises:
        ValueError: a setting is out of its range.
    """

    damped: Damped = "auto"
    initial: Initial = "first"
    robust: bool = True
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.damped not in ("auto", True, False):
            raise ValueError(f"damped is {self.damped!r}, but must be auto, true or false")
        if self.initial not in ("first", "fitted"):
            raise ValueError(f"initial is {self.initial!r}, but must be first or fitted")
        if not 0.0 < self.level < 1.0:
            raise ValueError(f"level is {self.level!r}, but must lie between 0 and 1, such as 0.95")


@dataclass(frozen=True, eq=False)
class HoltState(State):
    """Level and trend after the newest instant, and the smoothing that leads there; all (N,).

    Attributes:
        level, trend: in the series' unit (per instant).
        alpha, beta, phi: phi is 1 where the trend is not damped.
        missed: int64, how many instants in a row were missing up to the newest.
    """

    level: FloatArray
    trend: FloatArray
    alpha: FloatArray
    beta: FloatArray
    phi: FloatArray
    missed: IntArray


class ExponentialSmoothingModel(ForecastModel[HoltState]):
    """Holt's method; see the module's text."""

    name = "exponential_smoothing"
    state_type = HoltState

    def __init__(
        self,
        *,
        damped: Damped = "auto",
        initial: Initial = "first",
        robust: bool = True,
        level: float = 0.95,
    ) -> None:
        self.settings = HoltSettings(damped, initial, robust, level)

    @property
    def min_instants(self) -> int:
        return MIN_INSTANTS

    def fit(self, t_ms: TimeArray, y: FloatArray, warm: HoltState | None = None) -> HoltState:
        """As the contract says; ``warm`` is an earlier state of the same series to start from."""
        y = without_towers(y) if self.settings.robust else y
        state = _unfitted(len(y))
        enough = np.flatnonzero(np.isfinite(y).sum(axis=1) >= self.min_instants)
        if len(enough) == 0:
            return state
        start = None if warm is None else _params(take(warm, enough))
        fitted = self._fit_prepared(prepare(y[enough]), start)
        return put(state, enough, replace(fitted, last_ms=np.full(len(enough), t_ms[-1])))

    def _fit_prepared(self, prepared: Prepared, warm: FloatArray | None) -> HoltState:
        if self.settings.damped is False:
            straight, _ = self._fit_straight(prepared, None if warm is None else warm[:PHI])
            return straight
        family = FAMILIES[True, self.settings.initial]
        fitted = fitting.fit(family, prepared, robust=self.settings.robust, warm=warm)
        state = _state(fitted, prepared, fitted.params[PHI], np.zeros(len(fitted.cost)))
        edge = np.flatnonzero(fitted.params[PHI] > family.upper[PHI] - 1e-3)
        if self.settings.damped is True or len(edge) == 0:
            return state
        straight, cost = self._fit_straight(prepared.rows(edge), fitted.params[:PHI, edge])
        better = np.flatnonzero(cost <= CLEARLY * fitted.cost[edge])
        return put(state, edge[better], take(straight, better))

    def _fit_straight(
        self, prepared: Prepared, warm: FloatArray | None
    ) -> tuple[HoltState, FloatArray]:
        """The undamped fit and its sum of squares, in the unit of the prepared series."""
        drift = np.zeros(prepared.z.shape[1])
        if self.settings.initial == "first":
            drift = certain_drift(prepared)
        family = FAMILIES[False, self.settings.initial]
        detrended = prepared.without_trend(drift, 1)
        fitted = fitting.fit(family, detrended, robust=self.settings.robust, warm=warm)
        return _state(fitted, prepared, np.ones(len(drift)), drift), fitted.cost

    def update(self, state: HoltState, t_ms: TimeArray, y: FloatArray) -> HoltState:
        return absorb_new(_absorb, state, t_ms, y)

    def forecast(self, state: HoltState, t_ms: TimeArray) -> Intervals:
        horizon, furthest = len(t_ms), int(state.missed.max(initial=0))
        reach = np.cumsum(_powers(state.phi, horizon + furthest), axis=0)
        mean = (state.level + state.trend * reach[:horizon]).T
        weights = np.ones_like(reach)
        weights[1:] = state.alpha + state.beta * reach[:-1]
        deviation = lead_deviation(weights, state.sigma, state.missed)
        return gaussian_intervals(np.ascontiguousarray(mean), deviation, self.settings.level)


def _powers(phi: FloatArray, count: int) -> FloatArray:
    """phi^1 .. phi^count, (count, N)."""
    powers = np.cumprod(np.broadcast_to(phi, (count, len(phi))), axis=0)
    return np.asarray(powers, dtype=np.float64)


def _absorb(state: HoltState, t_ms: TimeArray, y: FloatArray) -> HoltState:
    """The recursion of the module's text over the columns of ``y`` (N, K)."""
    level, trend, missed = state.level, state.trend, state.missed
    for values in np.ascontiguousarray(y.T):
        present = np.isfinite(values)
        slope = state.phi * trend
        expected = level + slope
        error = np.where(present, values, expected) - expected
        level = expected + state.alpha * error
        trend = slope + state.beta * error
        missed = np.where(present, 0, missed + 1)
    last_ms = np.where(np.isfinite(state.sigma), t_ms[-1], state.last_ms)
    return replace(state, last_ms=last_ms, level=level, trend=trend, missed=missed)


def _unfitted(size: int) -> HoltState:
    nan = np.full(size, np.nan)
    none = np.zeros(size, dtype=np.int64)
    return HoltState(none, nan, nan, nan, nan, nan, nan, none)


def _state(
    fitted: fitting.Fit, prepared: Prepared, phi: FloatArray, drift: FloatArray
) -> HoltState:
    """Level and trend from the last two residuals: l = y - (1 - alpha) e, and b from both l.

    ``drift`` is what was taken off the series' steps before the fit.
    """
    alpha = np.exp(fitted.params[LOG_ALPHA])
    beta = alpha * fitted.params[RATIO]
    before, level = (fitted.z[:, -2:] - (1.0 - alpha)[:, None] * fitted.e[:, -2:]).T
    trend = level - before + (beta - alpha) * fitted.e[:, -1]
    return HoltState(
        last_ms=np.zeros(len(level), dtype=np.int64),
        sigma=fitted.sigma * prepared.scale,
        level=prepared.offset + prepared.scale * (level + drift * (len(prepared.z) - 1)),
        trend=prepared.scale * (trend + drift),
        alpha=alpha,
        beta=beta,
        phi=phi,
        missed=prepared.missed,
    )


# --- The family of models searched, by log alpha, q = beta / alpha and phi

LOG_ALPHA, RATIO, PHI = range(3)
_SMALLEST: Final = 1e-4


def _params(state: HoltState) -> FloatArray:
    """Where the search for an earlier state ended, (3, N); NaN where there was no fit."""
    return np.array([np.log(state.alpha), state.beta / state.alpha, state.phi])


def _damped(params: FloatArray) -> Coefficients:
    alpha, ratio, phi = np.exp(params[LOG_ALPHA]), params[RATIO], params[PHI]
    ma = np.array([alpha + phi * alpha * ratio - 1.0 - phi, phi * (1.0 - alpha)])
    return Coefficients(ar=params[PHI:], ma=ma)


def _damped_derivative(params: FloatArray) -> FloatArray:
    alpha, ratio, phi = np.exp(params[LOG_ALPHA]), params[RATIO], params[PHI]
    zero, one = np.zeros_like(alpha), np.ones_like(alpha)
    return np.array(
        [
            [zero, zero, one],
            [alpha * (one + phi * ratio), phi * alpha, alpha * ratio - 1.0],
            [-alpha * phi, zero, 1.0 - alpha],
        ]
    )


def _straight(params: FloatArray) -> Coefficients:
    """As ``_damped`` with phi = 1, whose (1 - phi L) is counted as another difference."""
    alpha, ratio = np.exp(params[LOG_ALPHA]), params[RATIO]
    ma = np.array([alpha + alpha * ratio - 2.0, 1.0 - alpha])
    return Coefficients(ar=np.empty((0, len(alpha))), ma=ma)


def _straight_derivative(params: FloatArray) -> FloatArray:
    alpha, ratio = np.exp(params[LOG_ALPHA]), params[RATIO]
    zero = np.zeros_like(alpha)
    return np.array([[alpha * (1.0 + ratio), alpha], [-alpha, zero]])


def _fading_start(params: FloatArray) -> FloatArray:
    """The same level smoothing under an initial trend that is never corrected and fades slowly.

    Whittle's likelihood knows no start and so never finds this optimum by itself.
    """
    other = params.copy()
    other[RATIO] = _SMALLEST
    other[PHI:] = 0.97
    return other


def _grid(*axes: FloatArray) -> FloatArray:
    """Every combination, (P, G)."""
    return np.array([axis.ravel() for axis in np.meshgrid(*axes)])


def _families() -> dict[tuple[bool, Initial], Family]:
    """By whether the trend is damped, and where the recursion starts."""
    alphas = np.log([0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 0.97])
    ratios = np.array([0.003, 0.02, 0.06, 0.15, 0.4, 0.9])
    phis = np.array([0.8, 0.88, 0.94, 0.98])
    damped = Family(
        p=1,
        q=2,
        differences=1,
        skipped=0,
        projected=0,
        lower=np.array([np.log(_SMALLEST), _SMALLEST, 0.8]),
        upper=np.array([np.log(1.0 - _SMALLEST), 1.0, 0.98]),
        points=_grid(alphas, ratios, phis),
        coefficients=_damped,
        derivative=_damped_derivative,
    )
    straight = replace(
        damped,
        p=0,
        differences=2,
        lower=damped.lower[:PHI],
        upper=damped.upper[:PHI],
        points=_grid(alphas, ratios),
        coefficients=_straight,
        derivative=_straight_derivative,
    )
    return {
        (True, "first"): damped,
        (False, "first"): straight,
        (True, "fitted"): replace(damped, projected=2, second_start=_fading_start),
        (False, "fitted"): replace(straight, projected=2, second_start=_fading_start),
    }


FAMILIES: Final = _families()
