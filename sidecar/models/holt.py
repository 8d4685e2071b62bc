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

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sidecar.models import arma
from sidecar.models.arma import Coefficients, Family
from sidecar.models.contract import ForecastModel, Intervals, State, put
from sidecar.models.numeric import (
    IntArray,
    absorb_new,
    gaussian_intervals,
    lead_deviation,
    missing_at_end,
)
from sidecar.series import FloatArray, TimeArray

Damped = Literal["auto"] | bool
MIN_INSTANTS = 10

ALPHA, RATIO, PHI = range(3)
_LOWER = np.array([1e-4, 1e-4, 0.8])
_UPPER = np.array([0.9999, 1.0, 0.98])
_ALPHAS = [0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 0.97]
_RATIOS = [0.003, 0.02, 0.06, 0.15, 0.4, 0.9]
_PHIS = [0.8, 0.88, 0.94, 0.98]


@dataclass(frozen=True)
class HoltSettings:
    """Settings of ``ExponentialSmoothingModel``.

    Attributes:
        damped: whether the trend fades out with the lead; ``auto`` fits it damped, and undamped
            where that explains the series better.
        level: share of outcomes the prediction interval is to cover.

    Raises:
        ValueError: a setting is out of its range.
    """

    damped: Damped = "auto"
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.damped not in ("auto", True, False):
            raise ValueError(f"damped is {self.damped!r}, but must be auto, true or false")
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

    def __init__(self, *, damped: Damped = "auto", level: float = 0.95) -> None:
        self.settings = HoltSettings(damped=damped, level=level)

    @property
    def min_instants(self) -> int:
        return MIN_INSTANTS

    def fit(self, t_ms: TimeArray, y: FloatArray, warm: HoltState | None = None) -> HoltState:
        """As the contract says; ``warm`` is an earlier state of the same series to start from."""
        state = _unfitted(len(y))
        enough = np.flatnonzero(np.isfinite(y).sum(axis=1) >= self.min_instants)
        if len(enough) == 0:
            return state
        prepared = arma.prepare(y[enough])
        start = None if warm is None else _params(warm)[:, enough]
        fitted = self._fit_prepared(prepared, start)
        missed = missing_at_end(prepared.present)
        return put(state, enough, _state(fitted, prepared, missed, t_ms[-1]))

    def _fit_prepared(self, prepared: arma.Prepared, warm: FloatArray | None) -> arma.Fit:
        if self.settings.damped is False:
            return _lifted(arma.fit(STRAIGHT, prepared, None if warm is None else warm[:PHI]))
        fitted = arma.fit(DAMPED, prepared, warm)
        if self.settings.damped is True:
            return fitted
        edge = np.flatnonzero(fitted.params[PHI] >= _UPPER[PHI])
        if len(edge) == 0:
            return fitted
        straight = _lifted(arma.fit(STRAIGHT, prepared.rows(edge), fitted.params[:PHI, edge]))
        # Akaike's criterion: one parameter less is worth 2 / n in the logarithm of the cost.
        worth = np.exp(2.0 / prepared.present[edge].sum(axis=1))
        better = np.flatnonzero(straight.cost <= fitted.cost[edge] * worth)
        return fitted.replaced(edge[better], straight.rows(better))

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
    return np.asarray(np.cumprod(np.broadcast_to(phi, (count, len(phi))), axis=0), dtype=np.float64)


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
    fitted = np.isfinite(state.sigma)
    last_ms = np.where(fitted, t_ms[-1], state.last_ms)
    return HoltState(last_ms, state.sigma, level, trend, state.alpha, state.beta, state.phi, missed)


def _unfitted(size: int) -> HoltState:
    nan = np.full(size, np.nan)
    none = np.zeros(size, dtype=np.int64)
    return HoltState(none, nan, nan, nan, nan, nan, nan, none)


def _params(state: HoltState) -> FloatArray:
    """alpha, q, phi (3, N) of an earlier state, to start from; NaN where there was no fit."""
    return np.array([state.alpha, state.beta / state.alpha, state.phi])


def _state(
    fitted: arma.Fit, prepared: arma.Prepared, missed: IntArray, last_ms: np.int64
) -> HoltState:
    """Level and trend from the last two residuals: l = y - (1 - alpha) e, and so b."""
    alpha, ratio, phi = fitted.params
    beta = alpha * ratio
    before, level = (fitted.z[:, -2:] - (1.0 - alpha)[:, None] * fitted.e[:, -2:]).T
    trend = level - before + (beta - alpha) * fitted.e[:, -1]
    return HoltState(
        last_ms=np.full(len(level), last_ms),
        sigma=fitted.sigma * prepared.scale,
        level=prepared.offset + prepared.scale * level,
        trend=prepared.scale * trend,
        alpha=alpha,
        beta=beta,
        phi=phi,
        missed=missed,
    )


def _lifted(fitted: arma.Fit) -> arma.Fit:
    """An undamped fit with phi = 1 among its parameters."""
    params = np.concatenate([fitted.params, np.ones((1, fitted.params.shape[1]))])
    return arma.Fit(params, fitted.z, fitted.e, fitted.cost, fitted.sigma)


def _damped_coefficients(params: FloatArray) -> Coefficients:
    alpha, ratio, phi = params
    ma = np.array([alpha + phi * alpha * ratio - 1.0 - phi, phi * (1.0 - alpha)])
    return Coefficients(ar=params[PHI:], ma=ma)


def _damped_derivative(params: FloatArray) -> FloatArray:
    alpha, ratio, phi = params
    zero, one = np.zeros_like(alpha), np.ones_like(alpha)
    return np.array(
        [
            [zero, zero, one],
            [one + phi * ratio, phi * alpha, alpha * ratio - 1.0],
            [-phi, zero, 1.0 - alpha],
        ]
    )


def _straight_coefficients(params: FloatArray) -> Coefficients:
    alpha, ratio = params
    ma = np.array([alpha + alpha * ratio - 2.0, 1.0 - alpha])
    return Coefficients(ar=np.empty((0, len(alpha))), ma=ma)


def _straight_derivative(params: FloatArray) -> FloatArray:
    alpha, ratio = params
    zero, one = np.zeros_like(alpha), np.ones_like(alpha)
    return np.array([[one + ratio, alpha], [-one, zero]])


def _grid(*axes: list[float]) -> FloatArray:
    """Every combination, (P, G)."""
    return np.array([axis.ravel() for axis in np.meshgrid(*axes)])


DAMPED = Family(
    p=1,
    q=2,
    differences=1,
    skipped=0,
    projected=2,
    lower=_LOWER,
    upper=_UPPER,
    points=_grid(_ALPHAS, _RATIOS, _PHIS),
    coefficients=_damped_coefficients,
    derivative=_damped_derivative,
)
STRAIGHT = Family(
    p=0,
    q=2,
    differences=2,
    skipped=0,
    projected=2,
    lower=_LOWER[:PHI],
    upper=_UPPER[:PHI],
    points=_grid(_ALPHAS, _RATIOS),
    coefficients=_straight_coefficients,
    derivative=_straight_derivative,
)
