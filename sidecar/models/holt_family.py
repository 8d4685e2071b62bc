"""Holt's method, its seasonal and its undamped forms, as families of ARMA models.

With level l, trend b and, for a season of m instants, s (Hyndman, Koehler, Ord, Snyder, Forecasting
with Exponential Smoothing, 2008, table 2.1: ETS(A,Ad,N) and ETS(A,Ad,A); phi = 1 is undamped),

    y_t = l_{t-1} + phi b_{t-1} + s_{t-m} + e_t
    l_t = l_{t-1} + phi b_{t-1} + alpha e_t
    b_t = phi b_{t-1} + beta e_t
    s_t = s_{t-m} + gamma e_t

eliminating the states gives (ibid., chapter 11)

    (1 - phi L) (1 - L)   y_t = H(L) e_t                                            without a season
    (1 - phi L) (1 - L^m) y_t = (H(L) S(L) + gamma L^m (1 - phi L)) e_t             with one

with H(L) = 1 + (alpha + phi beta - 1 - phi) L + phi (1 - alpha) L^2 and S(L) = 1 + L + ... +
L^{m-1}. The search runs over log alpha, q = beta / alpha, phi (where damped) and share =
gamma / (1 - alpha) (with a season), so that the box holds just the usual parameters: beta below
alpha, gamma below 1 - alpha. In the textbook's form it runs over log beta in place of q, with beta
up to 1 whatever alpha is, as statsforecast has it.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from sidecar.models.arma import Coefficients, Family
from sidecar.series import FloatArray

_SMALLEST: Final = 1e-4
_LARGEST_PHI: Final = 0.98
_ALPHAS: Final = np.log([0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 0.97])
_RATIOS: Final = np.array([0.003, 0.02, 0.06, 0.15, 0.4, 0.9])
_PHIS: Final = np.array([0.8, 0.88, 0.94, 0.98])
# Where level and trend to begin with are fitted too (``sidecar.models.spectral``): in four bands of
# alpha, down to where level and trend do not move at all.
_FREE_ALPHAS: Final = np.log([1e-4, 1e-3, 5e-3, 0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 0.97])
_FREE_RATIOS: Final = np.log([1e-3, 0.01, 0.05, 0.2, 0.5, 1.0])
_BANDS: Final = {True: 2, False: 4}  # a damped trend has few valleys, an undamped one many
_SHARES: Final = np.array([0.01, 0.1, 0.3, 0.7])


@dataclass(frozen=True, eq=False)
class Smoothing:
    """The parameters as the book has them, each (N,); gamma is 0 where there is no season."""

    alpha: FloatArray
    beta: FloatArray
    phi: FloatArray
    gamma: FloatArray


@dataclass(frozen=True)
class Form:
    """Which of the models, and how parameters of the search become those of the book.

    Attributes:
        damped: whether phi is below 1.
        season: its period m, or 0 for none.
        textbook: whether the initial level and trend are fitted (with a season one cycle is taken
            as the start in any case), and beta is free of alpha.
    """

    damped: bool
    season: int = 0
    textbook: bool = False

    @property
    def p(self) -> int:
        """Whether (1 - phi L) stands as an AR factor; else, phi being 1, as another difference.

        With a season always: the difference would reach back into the cycle taken as the start.
        """
        return int(self.damped or self.season > 0)

    def smoothing(self, params: FloatArray) -> Smoothing:
        alpha = np.exp(params[0])
        return Smoothing(
            alpha=alpha,
            beta=np.exp(params[1]) if self.textbook else alpha * params[1],
            phi=params[2] if self.damped else np.ones_like(alpha),
            gamma=params[-1] * (1.0 - alpha) if self.season else np.zeros_like(alpha),
        )

    def params(self, smoothing: Smoothing) -> FloatArray:
        """``smoothing`` undone, (P, N); NaN where that is NaN."""
        alpha, beta = smoothing.alpha, smoothing.beta
        rows = [np.log(alpha), np.log(beta) if self.textbook else beta / alpha]
        rows += [np.minimum(smoothing.phi, _LARGEST_PHI)] if self.damped else []
        rows += [smoothing.gamma / (1.0 - alpha)] if self.season else []
        return np.array(rows)

    def coefficients(self, params: FloatArray) -> Coefficients:
        one = self.smoothing(params)
        h = [np.ones_like(one.phi), one.alpha + one.phi * one.beta - 1.0 - one.phi]
        ma = self._through_season(np.array([*h, one.phi * (1.0 - one.alpha)]))
        if self.season:
            ma[self.season - 1] += one.gamma
            ma[self.season] -= one.gamma * one.phi
        return Coefficients(ar=one.phi[None][: self.p], ma=ma)

    def derivative(self, params: FloatArray) -> FloatArray:
        """d (ar, ma) / d params, (p + q, P, N)."""
        one, m = self.smoothing(params), self.season
        h = np.zeros((3, *params.shape))
        h[1, 0] = one.alpha + (0.0 if self.textbook else one.phi * one.beta)
        h[2, 0] = -one.alpha * one.phi
        h[1, 1] = one.phi * (one.beta if self.textbook else one.alpha)
        if self.damped:
            h[1, 2] = one.beta - 1.0
            h[2, 2] = 1.0 - one.alpha
        ma = self._through_season(h)
        if m:
            by_alpha, by_share = -params[-1] * one.alpha, 1.0 - one.alpha  # of gamma
            ma[m - 1, 0] += by_alpha
            ma[m, 0] -= by_alpha * one.phi
            ma[m - 1, -1] += by_share
            ma[m, -1] -= by_share * one.phi
            ma[m, 2] -= one.gamma if self.damped else 0.0
        ar = np.zeros((self.p, *params.shape))
        if self.damped:
            ar[0, 2] = 1.0
        return np.concatenate([ar, ma])

    def _through_season(self, h: FloatArray) -> FloatArray:
        """``h`` (3, ...) times S(L), without lag 0; as it is where there is no season."""
        product = np.zeros((max(self.season, 1) + 2, *h.shape[1:]))
        for lag, coefficient in enumerate(h):
            product[lag : lag + max(self.season, 1)] += coefficient
        return product[1:]


@cache
def holt_family(form: Form) -> Family:
    """All models of one form, to search among."""
    damped, season = form.damped, form.season
    free = form.textbook and not season
    phis, shares = [_PHIS] if damped else [], [_SHARES] if season else []
    points = _grid(_ALPHAS, _RATIOS, *phis, *shares)
    grid = np.empty((len(points), 0, 0))
    smallest, largest = [np.log(_SMALLEST), _SMALLEST], [np.log(1.0 - _SMALLEST), 1.0]
    if form.textbook:
        points[1] = points[0] + np.log(points[1])
        smallest[1], largest[1] = smallest[0], largest[0]
    lower = np.array([*smallest, *[0.8] * damped, *[_SMALLEST] * (season > 0)])
    upper = np.array([*largest, *[_LARGEST_PHI] * damped, *[1.0] * (season > 0)])
    if free:
        grid = _grid(_FREE_ALPHAS, _FREE_RATIOS, *phis)
        grid[1] += grid[0]
        grid = np.clip(grid, lower[:, None], upper[:, None]).reshape(len(grid), _BANDS[damped], -1)
    return Family(
        p=form.p,
        q=season + 1 if season else 2,
        differences=(not season) + (not form.p),
        season=season,
        skipped=season,
        projected=2 if free else 0,
        lower=lower,
        upper=upper,
        points=np.clip(points, lower[:, None], upper[:, None]),
        coefficients=form.coefficients,
        derivative=form.derivative,
        grid=grid,
    )


def _grid(*axes: FloatArray) -> FloatArray:
    """Every combination, (P, G), the last axis fastest."""
    return np.array([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")])
