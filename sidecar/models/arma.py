"""The engine under Holt and ARIMA: N ARMA series fitted by least squares at once.

Both models say ``Phi(L) x_t = Theta(L) e_t`` of a differenced series x, with

    Phi(L) = 1 - ar_1 L - ... - ar_p L^p,   Theta(L) = 1 + ma_1 L + ... + ma_q L^q,

and differ in what their coefficients may be (a ``Family``). The residuals are linear in x and in
the unknown past of the series, and rational in the coefficients:

    u = x / Theta,   w = L u / Theta,   psi = (1, 0, 0, ...) / Theta
    e = Phi(L) u - sum_k c_k L^k psi          the start: any past before the first instant adds
                                              a combination of the first shifts of psi
    d e / d ar_i = -L^i u,   d e / d ma_j = -L^(j-1) v,   v = L e / Theta = Phi(L) w - ...

So one pass over time (``deconvolve_twice``) gives residuals and their whole Jacobian. The c are
eliminated by least squares at each evaluation (variable projection with Kaufman's approximation:
Golub and Pereyra, Inverse Problems 19, 2003). What remains are two to five parameters in a box, for
``levenberg.minimise``. The search starts at the best point of a fixed set by Whittle's likelihood,
sum over frequencies of periodogram x |Phi|^2 / |Theta|^2, which is one matrix product for all
series and points (Whittle, 1953).

A missing sample has residual zero: its instant is left out of the sums, and x holds there what the
model itself expects (``impute``), so the state moves on by its own forecast.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sidecar.models.levenberg import Local, Minimum, minimise
from sidecar.models.numeric import BoolArray, IntArray, first_present, interpolate, solve
from sidecar.models.recursion import deconvolve, deconvolve_twice, polynomial
from sidecar.series import FloatArray

CHUNK = 512  # series worked on at once: a row of the recursion then stays in the nearest cache
STEPS = 40  # of Levenberg-Marquardt at most
IMPUTATIONS = 2


@dataclass(frozen=True, eq=False)
class Coefficients:
    """ARMA coefficients of N series: ar (p, N), ma (q, N)."""

    ar: FloatArray
    ma: FloatArray


@dataclass(frozen=True, eq=False)
class Family:
    """ARMA models whose p + q coefficients follow from P parameters in a box.

    Attributes:
        p, q: orders.
        differences: how often the series is differenced first.
        skipped: how many instants at the start are not judged, for want of predecessors.
        projected: how many values after those are fitted freely (c above).
        lower, upper: (P,) the box.
        points: (P, G) where the search may start.
        coefficients: params (P, N) to the coefficients.
        derivative: params (P, N) to (p + q, P, N), d (ar, ma) / d params.
    """

    p: int
    q: int
    differences: int
    skipped: int
    projected: int
    lower: FloatArray
    upper: FloatArray
    points: FloatArray
    coefficients: Callable[[FloatArray], Coefficients]
    derivative: Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, eq=False)
class Problem:
    """N series to fit, time-major.

    Attributes:
        x: (T, N) differenced, zero before ``begin``.
        begin: (N,) the first instant of x that exists.
        weight: (T, N) zero at missing instants and one elsewhere, or None where nothing is missing.
    """

    x: FloatArray
    begin: IntArray
    weight: FloatArray | None

    def rows(self, rows: NDArray[np.int64]) -> "Problem":
        if len(rows) == self.x.shape[1]:
            return self
        weight = None if self.weight is None else self.weight[:, rows]
        return Problem(self.x[:, rows], self.begin[rows], weight)


@dataclass(frozen=True, eq=False)
class Residuals:
    """One-step residuals e (T, N), their sum of squares (N,), and the start c (projected, N)."""

    e: FloatArray
    cost: FloatArray
    start: FloatArray


def _inner(first: FloatArray, second: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("tn,tn->n", first, second))


def _lags(padded: FloatArray, size: int, lags: range) -> list[FloatArray]:
    """Views of ``padded`` (pad + T, N) delayed by each of ``lags``, each (T, N)."""
    pad = len(padded) - size
    return [padded[pad - lag : pad - lag + size] for lag in lags]


def _subtract(target: FloatArray, coefficients: FloatArray, arrays: list[FloatArray]) -> None:
    """target -= sum of coefficient x array, in place."""
    product = np.empty_like(target)
    for coefficient, array in zip(coefficients, arrays, strict=True):
        np.multiply(coefficient, array, out=product)
        np.subtract(target, product, out=target)


def _weighted(arrays: list[FloatArray], weight: FloatArray | None) -> list[FloatArray]:
    return arrays if weight is None else [array * weight for array in arrays]


def _gram(first: list[FloatArray], second: list[FloatArray]) -> FloatArray:
    return np.array([[_inner(a, b) for b in second] for a in first])


def _gram_symmetric(arrays: list[FloatArray], weighted: list[FloatArray]) -> FloatArray:
    size = len(arrays)
    gram = np.empty((size, size, arrays[0].shape[1] if size else 0))
    for i in range(size):
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = _inner(weighted[i], arrays[j])
    return gram


def _project(
    e: FloatArray, psi: list[FloatArray], weight: FloatArray | None
) -> tuple[list[FloatArray], FloatArray, FloatArray]:
    """Free ``e`` (in place) of what the start explains; weighted psi, their Gram matrix and c."""
    weighted = _weighted(psi, weight)
    gram = _gram_symmetric(psi, weighted)
    if not psi:
        return weighted, gram, np.empty((0, e.shape[1]))
    start = solve(gram, np.array([[_inner(a, e)] for a in weighted]))[:, 0]
    _subtract(e, start, psi)
    return weighted, gram, start


def residuals(family: Family, problem: Problem, params: FloatArray) -> Residuals:
    """The residuals at ``params`` (P, N)."""
    T, N = problem.x.shape
    coefficients = family.coefficients(params)
    pad = max(family.p, family.q, family.projected)
    both = np.zeros((pad + T, 2 * N))
    both[pad:, :N] = problem.x
    both[pad + problem.begin, N + np.arange(N)] = 1.0
    deconvolve(np.tile(coefficients.ma, 2), both[pad - family.q :])
    u = _lags(both[:, :N], T, range(family.p + 1))
    e = u[0].copy()
    _subtract(e, coefficients.ar, u[1:])
    psi = _lags(both[:, N:], T, range(family.projected))
    _, _, start = _project(e, psi, problem.weight)
    weighted = e if problem.weight is None else e * problem.weight
    return Residuals(weighted, _inner(weighted, e), start)


def local_model(family: Family, problem: Problem, params: FloatArray) -> Local:
    """Sum of squared residuals at ``params`` (P, N) with gradient and Gauss-Newton matrix."""
    T, N = problem.x.shape
    coefficients = family.coefficients(params)
    pad = max(family.p, family.q, family.projected, 1)
    all4 = np.zeros((pad + T, 4 * N))
    all4[pad:, :N] = problem.x
    all4[pad + problem.begin, N + np.arange(N)] = 1.0
    deconvolve_twice(np.tile(coefficients.ma, 2), all4[pad - max(family.q, 1) :])
    u = _lags(all4[:, :N], T, range(family.p + 1))
    psi = _lags(all4[:, N : 2 * N], T, range(family.projected))
    e = u[0].copy()
    _subtract(e, coefficients.ar, u[1:])
    psi_weighted, psi_gram, start = _project(e, psi, problem.weight)

    v = np.zeros((pad + T, N))
    w = _lags(all4[:, 2 * N : 3 * N], T, range(family.p + 1))
    v[pad:] = w[0]
    _subtract(v[pad:], coefficients.ar, w[1:])
    _subtract(v[pad:], start, _lags(all4[:, 3 * N :], T, range(family.projected)))
    columns = u[1:] + _lags(v, T, range(family.q))

    weighted = _weighted(columns, problem.weight)
    across = _gram(psi_weighted, columns)
    gram = _gram_symmetric(columns, weighted)
    if family.projected:
        gram -= np.einsum("kin,kjn->ijn", across, solve(psi_gram, across))
    slope = np.array([_inner(column, e) for column in weighted])
    chain = family.derivative(params)
    e_weighted = e if problem.weight is None else e * problem.weight
    return Local(
        cost=_inner(e_weighted, e),
        gradient=-np.einsum("kn,kpn->pn", slope, chain),
        hessian=np.einsum("ipn,ijn,jqn->pqn", chain, gram, chain),
    )


@lru_cache(maxsize=32)
def _frequencies(size: int) -> FloatArray:
    return np.arange(1.0, size // 2 + 1) * (2.0 * np.pi / size)


def spectrum(coefficients: Coefficients, frequencies: FloatArray) -> FloatArray:
    """|Phi|^2 / |Theta|^2 at F frequencies for N models, (F, N)."""
    turn = np.exp(-1j * frequencies)
    phi = np.ones((len(turn), coefficients.ma.shape[1]), dtype=complex)
    theta = phi.copy()
    for lag, ar in enumerate(coefficients.ar, start=1):
        phi -= (turn**lag)[:, None] * ar
    for lag, ma in enumerate(coefficients.ma, start=1):
        theta += (turn**lag)[:, None] * ma
    return np.asarray((np.abs(phi) ** 2) / np.maximum(np.abs(theta) ** 2, 1e-12))


def whittle_start(family: Family, problem: Problem) -> FloatArray:
    """The best of the family's points for each series by Whittle's likelihood, (P, N)."""
    T = len(problem.x)
    power = np.abs(np.fft.rfft(problem.x.T, axis=1)[:, 1:]) ** 2
    table = spectrum(family.coefficients(family.points), _frequencies(T))
    return family.points[:, np.argmin(power @ table, axis=1)]


@dataclass(frozen=True, eq=False)
class Prepared:
    """N series made ready for fitting, (N, T), each shifted and scaled to its own steps.

    Attributes:
        z: (y - offset) / scale, with missing values interpolated.
        present: where there is a value.
        offset, scale: (N,).
    """

    z: FloatArray
    present: BoolArray
    offset: FloatArray
    scale: FloatArray

    def rows(self, rows: NDArray[np.int64]) -> "Prepared":
        return Prepared(self.z[rows], self.present[rows], self.offset[rows], self.scale[rows])

    def without_trend(self, mean: FloatArray, differences: int) -> "Prepared":
        """Less what makes ``mean`` (N,) the mean of z (d = 0) or of its differences (d = 1)."""
        trend = np.ones(self.z.shape[1]) if differences == 0 else np.arange(self.z.shape[1])
        return replace(self, z=self.z - np.outer(mean, trend)) if mean.any() else self


def prepare(y: FloatArray) -> Prepared:
    """Shift and scale each row of ``y`` (N, T): first value 0, steps of root mean square 1."""
    present = np.isfinite(y)
    filled = interpolate(y, present)
    offset = filled[:, 0].copy()
    z = filled - offset[:, None]
    scale = _positive(np.abs(z).max(axis=1))  # first this one: squares of 1e300 would overflow
    z /= scale[:, None]
    spread = _positive(np.sqrt(np.mean(np.diff(z, axis=1) ** 2, axis=1)))
    z /= spread[:, None]
    return Prepared(z, present, offset, scale * spread)


def _positive(scale: FloatArray) -> FloatArray:
    return np.where(scale > 0.0, scale, 1.0)


@dataclass(frozen=True, eq=False)
class Fit:
    """N fitted series, in the unit of ``Prepared.z``.

    Attributes:
        params: (P, N).
        z: (N, K) the newest values, newest last, the missing ones as the model expects them.
        e: (N, K) their one-step residuals, zero where the value was missing.
        cost: (N,) sum of squared residuals. sigma: (N,) their deviation, free of what was fitted.
    """

    params: FloatArray
    z: FloatArray
    e: FloatArray
    cost: FloatArray
    sigma: FloatArray

    def rows(self, rows: NDArray[np.int64]) -> "Fit":
        return Fit(
            self.params[:, rows], self.z[rows], self.e[rows], self.cost[rows], self.sigma[rows]
        )

    def replaced(self, rows: NDArray[np.int64], other: "Fit") -> "Fit":
        """This fit with ``rows`` from another, of which the newest values both keep are taken."""
        kept = min(self.z.shape[1], other.z.shape[1])
        mixed = Fit(
            self.params.copy(),
            self.z[:, -kept:].copy(),
            self.e[:, -kept:].copy(),
            self.cost.copy(),
            self.sigma.copy(),
        )
        mixed.params[:, rows] = other.params
        mixed.z[rows], mixed.e[rows] = other.z[:, -kept:], other.e[:, -kept:]
        mixed.cost[rows], mixed.sigma[rows] = other.cost, other.sigma
        return mixed


def fit(family: Family, prepared: Prepared, warm: FloatArray | None = None) -> Fit:
    """Fit every row by least squares, in chunks of rows.

    Args:
        warm: (P, N) parameters to start from in place of Whittle's; NaN columns start afresh.
    """
    every = np.arange(len(prepared.z))
    parts = [every[first : first + CHUNK] for first in range(0, len(every), CHUNK)]
    fits = [
        _fit_chunk(family, prepared.rows(rows), None if warm is None else warm[:, rows])
        for rows in parts
    ]
    return Fit(
        params=np.concatenate([one.params for one in fits], axis=1),
        z=np.concatenate([one.z for one in fits]),
        e=np.concatenate([one.e for one in fits]),
        cost=np.concatenate([one.cost for one in fits]),
        sigma=np.concatenate([one.sigma for one in fits]),
    )


def _fit_chunk(family: Family, prepared: Prepared, warm: FloatArray | None) -> Fit:
    problem = make_problem(family, prepared)
    start = whittle_start(family, problem)
    if warm is not None:
        start = np.where(np.isfinite(warm).all(axis=0), warm, start)
    params = search(family, problem, start).params
    outcome = residuals(family, problem, params)
    z = prepared.z.T
    if problem.weight is not None:
        for _ in range(IMPUTATIONS):
            z, _ = impute(family, problem, z, params, outcome.start)
            problem = replace(problem, x=differenced(z, family.differences, problem.begin))
            params = search(family, problem, params).params
            outcome = residuals(family, problem, params)
        z, e = impute(family, problem, z, params, outcome.start)
        outcome = replace(outcome, e=e, cost=_inner(e, e))
    spent = len(family.lower) + family.projected
    freedom = np.maximum(prepared.present.sum(axis=1) - spent, 1)
    kept = family.p + family.differences + family.q + 2
    return Fit(
        params, z[-kept:].T, outcome.e[-kept:].T, outcome.cost, np.sqrt(outcome.cost / freedom)
    )


def make_problem(family: Family, prepared: Prepared) -> Problem:
    """Difference, and turn time-major."""
    z = np.ascontiguousarray(prepared.z.T)
    first = first_present(prepared.present)
    weight = (prepared.present | (np.arange(len(z)) < first[:, None])).T.astype(np.float64)
    begin = np.minimum(first + family.skipped, len(z) - 1)
    return Problem(
        x=differenced(z, family.differences, begin),
        begin=begin,
        weight=None if weight.all() else np.ascontiguousarray(weight),
    )


def differenced(z: FloatArray, differences: int, begin: IntArray) -> FloatArray:
    """(1 - L)^d of the time-major ``z`` (T, N), zero before ``begin`` (N,)."""
    x = z
    for _ in range(differences):
        x = np.diff(x, axis=0, prepend=x[:1])
    return x if not begin.any() else np.where(np.arange(len(z))[:, None] < begin, 0.0, x)


def search(family: Family, problem: Problem, start: FloatArray) -> Minimum:
    """Least squares from ``start`` (P, N)."""
    if len(start) == 0:
        return Minimum(start, np.zeros(start.shape[1]), np.ones(start.shape[1], dtype=bool))

    def evaluate(params: FloatArray, rows: NDArray[np.int64]) -> Local:
        return local_model(family, problem.rows(rows), params)

    return minimise(evaluate, start, family.lower[:, None], family.upper[:, None], STEPS)


def impute(
    family: Family, problem: Problem, z: FloatArray, params: FloatArray, start: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """What the model with ``params`` expects at missing instants, and all one-step residuals.

    Args:
        z: (T, N), anything where the weight of ``problem`` is zero.
        start: (projected, N), the c of the module's text.

    Returns:
        z with missing values replaced, and e, each (T, N).
    """
    assert problem.weight is not None
    weight, begin = problem.weight, problem.begin
    c = family.coefficients(params)
    z, x, e = z.copy(), np.zeros_like(z), np.zeros_like(z)
    undo = -polynomial(family.differences)[1:]
    columns = np.arange(z.shape[1])
    for t in range(len(z)):
        expected = _lagged(c.ar, x, t) + _lagged(c.ma, e, t)
        started = t - begin
        young = (started >= 0) & (started < family.projected)
        expected[young] += start[started[young], columns[young]]
        base = _lagged(undo[:, None], z, t)
        live, present = started >= 0, weight[t] > 0.0
        z[t] = np.where(present, z[t], base + np.where(live, expected, 0.0))
        x[t] = np.where(live, z[t] - base, 0.0)
        e[t] = np.where(live & present, x[t] - expected, 0.0)
    return z, e


def _lagged(coefficients: FloatArray, series: FloatArray, t: int) -> FloatArray:
    """Sum of coefficient x series at t - 1, t - 2, ...; nothing before the start."""
    total = np.zeros(series.shape[1])
    for coefficient, values in zip(coefficients, series[:t][::-1], strict=False):
        total += coefficient * values
    return total
