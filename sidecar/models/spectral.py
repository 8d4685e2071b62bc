"""Holt's method with a free level and trend to begin with: its fit, exactly, without a recursion.

The residuals of ``sidecar.models.arma`` come from a recursion over time, Theta(L) e = Phi(L) x,
which cannot be vectorised. On a circle of T instants the same equation is a division of Fourier
transforms, and differs from the recursion only in what the first two instants are told of the past.
Where just that is free to be fitted (the c of ``arma``), nothing is lost: with X the transform of
x, Theta = 1 + m L + n L^2, Y = Phi X - c_0 - c_1 (1 - L), and sums over the T frequencies,

    e = Y / Theta,        d e / d ar_1 = -L X / Theta,        d e / d ma_j = -L^j Y / Theta^2
    <a, b> = sum Re(conj(a) b) / T                                               (Parseval)

and every inner product that the search needs is a sum over powers of

    1 / D,   D = |Theta|^2 = (1+m+n)^2 - s (m + 4 n + m n) + s^2 n,   s = 4 sin^2(w/2)

times what does not depend on the parameters (D in this form keeps its digits where it all but
vanishes at w = 0, which is where level and trend hardly move). The sums are matrix products with
tables that all series share.

A grid of parameters is judged for all series by three matrix products. The best point of each of
its bands is followed for a few steps if it is nearly as good as the best of all, and the best of
these to its end: an undamped trend has several valleys.

(Without c the sum is Whittle's: Estimation and information in stationary time series, 1953. For c:
Golub and Pereyra, Inverse Problems 19, 2003.)
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sidecar.models.arma import TOLERANCE, Coefficients, Family, Problem
from sidecar.models.levenberg import Local, minimise
from sidecar.models.numeric import IntArray, solve
from sidecar.series import FloatArray

CHUNK = 128  # series whose sums are taken at once: what they need stays in the cache
STEPS, SHORT = 12, 2  # of a search, and of the first look at each band
NEAR = 1.1  # how much worse than the best point the best of a band may be to be followed
LAGS = range(-1, 3)  # of the inner products of columns


def applies(family: Family) -> bool:
    """Whether the family has a free past, the orders worked out here, and a grid."""
    return family.projected == family.q == 2 and family.p <= 1 and family.grid.size > 0


def search(family: Family, problem: Problem, warm: FloatArray | None, steps: int) -> FloatArray:
    """The parameters (P, N) with the least sum of squares, as if every instant counted.

    Args:
        warm: (P, N) where to start; columns with NaN start from the grid, as all do without it.
        steps: evaluations after the first of those that have a start.
    """
    spectra = transformed(family, problem.x)
    if warm is None:
        return _from_grid(family, spectra)
    params, cold = warm.copy(), np.asarray(np.isnan(warm).any(axis=0))
    if cold.any():
        params[:, cold] = _from_grid(family, spectra.rows(np.flatnonzero(cold)))
    known = np.flatnonzero(~cold)
    params[:, known], _ = _descend(family, spectra, warm[:, known], steps, known)
    return params


def _from_grid(family: Family, spectra: "Spectra") -> FloatArray:
    """The search from the best points of the grid's bands, (P, N)."""
    costs = grid_costs(family, spectra)  # (N, B, G)
    best = costs.argmin(axis=2)
    least = np.take_along_axis(costs, best[:, :, None], axis=2)[:, :, 0]
    lowest = least.min(axis=1, keepdims=True)
    rows, bands = np.nonzero(least <= np.maximum(NEAR * lowest, lowest))  # rounded, 0 may be below
    starts = family.grid[:, bands, best[rows, bands]]
    params, reached = _descend(family, spectra, starts, SHORT, rows)
    order = np.lexsort((reached, rows))  # of each series' tries the one with the least cost first
    first = order[np.unique(rows[order], return_index=True)[1]]
    return _descend(family, spectra, params[:, first], STEPS, np.arange(len(costs)))[0]


def _descend(
    family: Family, spectra: "Spectra", start: FloatArray, steps: int, rows: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Where searches from ``start`` (P, K) end, and the cost there (K,), of the series ``rows``."""

    def evaluate(params: FloatArray, live: IntArray) -> Local:
        return local_model(family, spectra, params, rows[live])

    lower, upper = family.lower[:, None], family.upper[:, None]
    params, there = minimise(evaluate, start, lower, upper, steps, TOLERANCE)
    return params, there.cost


@dataclass(frozen=True, eq=False)
class Tables:
    """What all series of T instants share; F = T // 2 + 1 frequencies w, complex ones as 2 F reals.

    Attributes:
        powers: (3, F) of s, from 0.
        weight: (F,) how much a frequency counts in a sum: twice where it stands for -w too.
        delay: (F,) L, complex.
        base: (2, 2 F) 1 and 1 - L, what c multiplies.
        on_powers: (F, 3) and on_base: (2 F, 2): an array times these is its inner products.
        lagged: (2 F, 2 LAGS) with L^-lag base; alone: (2 F, LAGS) with L^-lag.
    """

    powers: FloatArray
    weight: FloatArray
    delay: NDArray[np.complex128]
    base: FloatArray
    on_powers: FloatArray
    on_base: FloatArray
    lagged: FloatArray
    alone: FloatArray


@lru_cache(maxsize=64)
def tables(size: int) -> Tables:
    """The tables of series of ``size`` instants."""
    frequencies = np.arange(size // 2 + 1) * (2.0 * np.pi / size)
    weight = np.full(len(frequencies), 2.0 / size)
    weight[0] = 1.0 / size
    if size % 2 == 0:
        weight[-1] = 1.0 / size
    s = 4.0 * np.sin(frequencies / 2.0) ** 2
    powers = np.stack([np.ones_like(s), s, s**2])
    delay = np.exp(-1j * frequencies)
    base = np.stack([np.ones_like(delay), 1.0 - delay])
    twice = np.tile(weight, 2)
    return Tables(
        powers=powers,
        weight=weight,
        delay=delay,
        base=_reals(base),
        on_powers=np.ascontiguousarray((powers * weight).T),
        on_base=np.ascontiguousarray((_reals(base) * twice).T),
        lagged=np.concatenate([(_reals(base * delay**-k) * twice).T for k in LAGS], axis=1),
        alone=np.stack([_reals(delay**-k) * twice for k in LAGS], axis=1),
    )


def _reals(values: NDArray[np.complex128]) -> FloatArray:
    """(..., F) complex as (..., 2 F): the real parts, then the imaginary."""
    return np.concatenate([values.real, values.imag], axis=-1)


@dataclass(frozen=True, eq=False)
class Spectra:
    """Transforms of N series of T instants, (N, 2 F) as ``_reals`` has them.

    Attributes:
        size: T.
        x: of x. late: of L x, power: (N, F) |X|^2; both are empty where p is 0.
    """

    size: int
    x: FloatArray
    late: FloatArray
    power: FloatArray

    def rows(self, rows: IntArray) -> "Spectra":
        return Spectra(self.size, self.x[rows], self.late[rows], self.power[rows])


def transformed(family: Family, x: FloatArray) -> Spectra:
    """The transforms of the columns of ``x`` (T, N)."""
    X = np.fft.rfft(np.ascontiguousarray(x.T), axis=1)
    if family.p == 0:
        none = np.empty((len(X), 0))
        return Spectra(len(x), _reals(X), none, none)
    power = X.real**2 + X.imag**2
    return Spectra(len(x), _reals(X), _reals(X * tables(len(x)).delay), power)


def _theta_power(coefficients: Coefficients) -> FloatArray:
    """(3, K) what the powers of s are multiplied by in D."""
    m, n = coefficients.ma
    return np.stack([(1.0 + m + n) ** 2, -(m + 4.0 * n + m * n), n])


def grid_costs(family: Family, spectra: Spectra) -> FloatArray:
    """Sums of squares at the points of the family's grid, (N, B, G)."""
    _, bands, size = family.grid.shape
    power, first, second = _grid_tables(family, spectra.size)
    half = spectra.x.shape[1] // 2
    squares = spectra.x**2
    costs = (squares[:, :half] + squares[:, half:]) @ power
    costs -= (spectra.x @ first) ** 2
    costs -= (spectra.x @ second) ** 2
    return costs.reshape(-1, bands, size)


@lru_cache(maxsize=64)
def _grid_tables(family: Family, size: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(F, B G) for |X|^2, and two (2 F, B G) for X: its parts along 1 / Theta and what is left of
    (1 - L) / Theta, of length one."""
    shared = tables(size)
    one = family.coefficients(family.grid.reshape(len(family.lower), -1))
    inverse = 1.0 / (_theta_power(one).T @ shared.powers)  # (B G, F)
    phi = np.ones((1, 1), dtype=np.complex128)
    for ar in one.ar:
        phi = phi - ar[:, None] * shared.delay
    level, slope = (inverse @ shared.on_powers[:, :2]).T
    weighted = phi.conj() * inverse * shared.weight
    along = _reals(weighted)
    across = _reals(weighted * (1.0 - shared.delay)) - along * (slope / 2.0 / level)[:, None]
    left = slope - slope**2 / 4.0 / level
    return (
        np.ascontiguousarray((np.abs(phi) ** 2 * inverse * shared.weight).T),
        np.ascontiguousarray((along / np.sqrt(level)[:, None]).T),
        np.ascontiguousarray((across / np.sqrt(left)[:, None]).T),
    )


def local_model(family: Family, spectra: Spectra, params: FloatArray, rows: IntArray) -> Local:
    """Sum of squares of the series ``rows`` at ``params`` (P, K), gradient and Gauss-Newton matrix.

    With Kaufman's approximation, as ``together.local_model``, which is its oracle.
    """
    p, one = family.p, family.coefficients(params)
    m, n = one.ma
    sums = _sums(spectra, one, rows)
    # Moments of |Y|^2 / D^2 with cos k w, from those with powers of s.
    flat, once, twice = sums.power
    cosine = flat, flat - once / 2.0, flat - 2.0 * once + twice / 2.0
    size, K = p + 2, len(rows)
    gram, across, gradient = np.empty((size, size, K)), np.empty((2, size, K)), np.empty((size, K))
    for j in (1, 2):  # conj(Theta) = 1 + m L^-1 + n L^-2 turns 1 / D^2 into the missing 1 / Theta
        at = p + j - 1
        across[:, at] = sums.base[j + 1] + m * sums.base[j] + n * sums.base[j - 1]
        gradient[at] = cosine[j] + m * cosine[j - 1] + n * cosine[2 - j]
        gram[at, at] = cosine[0]
        if p:
            mixed = sums.lag[j + 1] + m * sums.lag[j] + n * sums.lag[j - 1]
            gram[0, at] = gram[at, 0] = mixed
    gram[p, p + 1] = gram[p + 1, p] = cosine[1]
    if p:
        gradient[0], gram[0, 0], across[:, 0] = sums.ar_residual, sums.ar, sums.ar_base
    gram -= np.einsum("kin,kjn->ijn", across, solve(sums.past, across))
    chain = family.derivative(params)
    bent = np.einsum("ijn,jqn->iqn", gram, chain)
    return Local(
        cost=np.einsum("kn,kn->n", sums.power, _theta_power(one)),
        gradient=-np.einsum("kn,kpn->pn", gradient, chain),
        hessian=np.einsum("ipn,iqn->pqn", chain, bent),
        extra=np.empty((0, K)),
    )


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over frequencies for K series.

    Attributes:
        past: (2, 2, K) inner products of base / Theta.
        power: (3, K) |Y|^2 / D^2 times powers of s.
        base: (LAGS, 2, K) Re(conj(base) L^lag Y) / D^2.
        lag: (LAGS, K) Re(conj(L X) L^lag Y) / D^2. ar, ar_residual: (K,) |X|^2 / D and
            Re(conj(L X) Y) / D. ar_base: (2, K) Re(conj(base) L X) / D. Unset where p is 0.
    """

    past: FloatArray
    power: FloatArray
    base: FloatArray
    lag: FloatArray
    ar: FloatArray
    ar_residual: FloatArray
    ar_base: FloatArray

    @classmethod
    def unset(cls, size: int) -> "_Sums":
        shapes = (2, 2), (3,), (len(LAGS), 2), (len(LAGS),), (), (), (2,)
        return cls(*(np.empty((*shape, size)) for shape in shapes))

    def columns(self, part: slice) -> "_Sums":
        """Views of some series' sums."""
        return _Sums(*(array[..., part] for array in vars(self).values()))


def _sums(spectra: Spectra, one: Coefficients, rows: IntArray) -> _Sums:
    found, weights = _Sums.unset(len(rows)), _theta_power(one)
    for first in range(0, len(rows), CHUNK):
        part = slice(first, first + CHUNK)
        _fill(found.columns(part), spectra, rows[part], weights[:, part].T, one.ar[:, part])
    return found


def _fill(
    into: _Sums, spectra: Spectra, rows: IntArray, weights: FloatArray, ar: FloatArray
) -> None:
    """The sums of the series ``rows``, (K, 3) ``weights`` being those of s in D."""
    shared, K = tables(spectra.size), len(rows)
    inverse = np.reciprocal(weights @ shared.powers)
    level, slope = (inverse @ shared.on_powers[:, :2]).T
    into.past[:] = [[level, slope / 2.0], [slope / 2.0, slope]]
    y = spectra.x[rows]
    if len(ar):
        late = spectra.late[rows]
        y -= ar[0][:, None] * late
    scaled, parts, twice = np.empty_like(y), (K, 2, -1), inverse[:, None]
    np.multiply(y.reshape(parts), twice, out=scaled.reshape(parts))
    y -= solve(into.past, (scaled @ shared.on_base).T[:, None])[:, 0].T @ shared.base
    np.multiply(y.reshape(parts), twice, out=scaled.reshape(parts))
    real, imaginary = scaled.reshape(parts).swapaxes(0, 1)
    into.power[:] = ((real**2 + imaginary**2) @ shared.on_powers).T
    scaled.reshape(parts)[:] *= twice
    into.base[:] = (scaled @ shared.lagged).T.reshape(len(LAGS), 2, K)
    if len(ar):
        power, across = spectra.power[rows], scaled
        _cross(late.reshape(parts), y.reshape(parts), across.reshape(parts))
        across.reshape(parts)[:] *= twice
        into.ar_residual[:] = across[:, : len(shared.weight)] @ shared.weight
        across.reshape(parts)[:] *= twice
        into.lag[:] = (across @ shared.alone).T
        into.ar[:] = (power * inverse) @ shared.weight
        late.reshape(parts)[:] *= twice
        into.ar_base[:] = (late @ shared.on_base).T


def _cross(a: FloatArray, b: FloatArray, into: FloatArray) -> None:
    """conj(a) b of arrays (K, 2, F), real parts first."""
    np.multiply(a[:, 0], b[:, 0], out=into[:, 0])
    into[:, 0] += a[:, 1] * b[:, 1]
    np.multiply(a[:, 0], b[:, 1], out=into[:, 1])
    into[:, 1] -= a[:, 1] * b[:, 0]
