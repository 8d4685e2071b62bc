"""The engine under Holt and ARIMA: N ARMA series fitted by least squares at once.

Both models say ``Phi(L) x_t = Theta(L) e_t`` of a differenced series x, with

    Phi(L) = 1 - ar_1 L - ... - ar_p L^p,   Theta(L) = 1 + ma_1 L + ... + ma_q L^q,

and differ in what their coefficients may be (a ``Family``). The residuals e are linear in x and
rational in the coefficients:

    u = x / Theta,              w = L u / Theta
    e = Phi(L) u,               v = L e / Theta = Phi(L) w
    d e / d ar_i = -L^i u,      d e / d ma_j = -L^(j-1) v

so one pass over time (``deconvolve_twice``) gives residuals and their whole Jacobian, and what
remains is a search over two to five parameters in a box (``levenberg.minimise``).

Before its first instant a series is taken to have rested, x = e = 0. A family may instead ask for
any past (``projected``): it adds to e a combination of psi = (1, 0, 0, ...) / Theta and its shifts,
whose weights c are eliminated by least squares at each evaluation (variable projection with
Kaufman's approximation of the Jacobian: Golub and Pereyra, Inverse Problems 19, 2003).

The search starts at the best of the family's points by Whittle's likelihood, the sum over
frequencies of periodogram x |Phi|^2 / |Theta|^2: one matrix product for all series and points
(Whittle, Arkiv for Matematik 2, 1953).

A missing sample has residual zero: its instant is left out of the sums, and x holds there what the
model itself expects, so the state moves on by its own forecast. A robust fit pulls residuals back
that are out of all proportion, before the search (both in ``replay``): a residual beyond ``REACH``
deviations counts as that much, the next one after it as ``GROWTH`` times that, and so on,
so a spike leaves little behind and a new level is followed within a few instants (after Gelper,
Fried and Croux, Robust forecasting with exponential and Holt-Winters smoothing, 2010).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sidecar.models.levenberg import Local, minimise
from sidecar.models.numeric import (
    BoolArray,
    IntArray,
    first_present,
    interpolate,
    missing_at_end,
    solve,
)
from sidecar.models.recursion import deconvolve_twice, follow, polynomial
from sidecar.series import FloatArray

CHUNK = 512  # series worked on at once: their rows then stay in the nearest caches
STEPS, WARM_STEPS = 16, 2  # of the search at most
TOLERANCE = 1e-4  # a search ends when its next step promises a smaller fall in the cost
BLOCKS, CERTAIN = 8, 10.0  # see ``certain_drift``
REACH = 4.0  # see above
NORMAL = float(np.sqrt(np.pi / 2.0))  # deviation over mean size of normal residuals
IMPUTATIONS = 2  # how often gaps are filled anew by the model and the model fitted again


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
        projected: how many terms of the unknown past (c above) are fitted; 0 for a past at rest.
        lower, upper: (P,) the box.
        points: (P, G) where the search may start.
        coefficients: params (P, N) to the coefficients.
        derivative: params (P, N) to d (ar, ma) / d params, (p + q, P, N).
        second_start: where else the search may start, given the best point of each series, (P, N).
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
    second_start: Callable[[FloatArray], FloatArray] | None = None

    @property
    def pad(self) -> int:
        """How many rows of zeros stand before the first instant, so that every lag exists."""
        return max(self.p, self.q, self.projected, 1)


# --- Preparing the series


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

    def rows(self, rows: IntArray) -> "Prepared":
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


def certain_drift(prepared: Prepared) -> FloatArray:
    """The mean step of z, (N,), where there is one beyond doubt, else 0.

    Compared are the mean steps over eighths of the history: theirs must be ``CERTAIN`` times its
    standard error. A drift estimated from noise would be extrapolated.
    """
    z, rows = prepared.z, np.arange(len(prepared.z))
    first = first_present(prepared.present)
    last = z.shape[1] - 1 - missing_at_end(prepared.present)
    edges = first[:, None] + np.outer(last - first, np.arange(BLOCKS + 1)) // BLOCKS
    slopes = np.diff(np.take_along_axis(z, edges, axis=1), axis=1) / np.diff(edges, axis=1)
    error = slopes.std(axis=1, ddof=1) / np.sqrt(BLOCKS)
    drift = (z[rows, last] - z[rows, first]) / (last - first)
    return np.asarray(np.where(np.abs(slopes.mean(axis=1)) > CERTAIN * error, drift, 0.0))


def _positive(scale: FloatArray) -> FloatArray:
    return np.where(scale > 0.0, scale, 1.0)


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

    def rows(self, rows: IntArray) -> "Problem":
        weight = None if self.weight is None else self.weight[:, rows]
        return Problem(self.x[:, rows], self.begin[rows], weight)


def make_problem(family: Family, z: FloatArray, present: BoolArray) -> Problem:
    """From the time-major series ``z`` (T, N); ``present`` is (N, T)."""
    first = first_present(present)
    begin = np.minimum(first + family.skipped, len(z) - 1)
    weight = (present | (np.arange(len(z)) < first[:, None])).T.astype(np.float64)
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


# --- Residuals and their derivatives


@dataclass(frozen=True, eq=False)
class Residuals:
    """One-step residuals at some parameters, and what their derivatives are made of.

    Attributes:
        e: (T, N) the residuals.
        u, v: (pad + T, N) x / Theta and L e / Theta.
        psi: the response to the start and its shifts, each (T, N).
        c: (projected, N) the weights of psi in e.
    """

    e: FloatArray
    u: FloatArray
    v: FloatArray
    psi: list[FloatArray]
    c: FloatArray


def residuals(family: Family, problem: Problem, coefficients: Coefficients) -> Residuals:
    """What one pass over time gives, by the equations of the module's text."""
    T, N = problem.x.shape
    pad = family.pad
    u = np.zeros((pad + T, 2 * N))
    u[pad:, :N] = problem.x
    deconvolve_twice(coefficients.ma, u, pad)  # u and w side by side
    e = u.copy()  # becomes e and v
    _subtract(e[pad:], np.tile(coefficients.ar, 2), _lags(u, T, range(1, family.p + 1)))
    psi: list[FloatArray] = []
    c = np.empty((0, N))
    if family.projected:
        response = _start_response(family, problem, coefficients.ma)
        shifts = _lags(response, T, range(family.projected))
        psi = [shift[:, :N] for shift in shifts]
        judged = _weighted(psi, problem.weight)
        c = solve(_gram(judged, psi), _gram(judged, [e[pad:, :N]]))[:, 0]
        _subtract(e[pad:], np.tile(c, 2), shifts)
    return Residuals(e=e[pad:, :N], u=u[:, :N], v=e[:, N:], psi=psi, c=c)


def _start_response(family: Family, problem: Problem, ma: FloatArray) -> FloatArray:
    """psi and L psi / Theta side by side, (pad + T, 2 N)."""
    T, N = problem.x.shape
    response = np.zeros((family.pad + T, 2 * N))
    response[family.pad + problem.begin, np.arange(N)] = 1.0
    deconvolve_twice(ma, response, family.pad)
    return response


def local_model(family: Family, problem: Problem, params: FloatArray) -> Local:
    """Sum of squared residuals at ``params`` (P, N) with gradient and Gauss-Newton matrix."""
    T = len(problem.x)
    r = residuals(family, problem, family.coefficients(params))
    columns = _lags(r.u, T, range(1, family.p + 1)) + _lags(r.v, T, range(family.q))
    judged = _weighted([*columns, r.e], problem.weight)
    gram = _gram_symmetric(judged[:-1], columns)
    if family.projected:
        judged_psi = _weighted(r.psi, problem.weight)
        across = _gram(judged_psi, columns)
        gram -= np.einsum("kin,kjn->ijn", across, solve(_gram(judged_psi, r.psi), across))
    chain = family.derivative(params)
    bent = np.einsum("ijn,jqn->iqn", gram, chain)
    return Local(
        cost=_inner(judged[-1], r.e),
        gradient=-np.einsum("kn,kpn->pn", _gram(columns, judged[-1:])[:, 0], chain),
        hessian=np.einsum("ipn,iqn->pqn", chain, bent),
    )


def _inner(first: FloatArray, second: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("tn,tn->n", first, second))


def _gram(first: list[FloatArray], second: list[FloatArray]) -> FloatArray:
    """All inner products over time, (first, second, N)."""
    return np.array([[_inner(a, b) for b in second] for a in first])


def _gram_symmetric(first: list[FloatArray], second: list[FloatArray]) -> FloatArray:
    """``_gram`` where it is known to be symmetric."""
    size = len(first)
    gram = np.empty((size, size, first[0].shape[1]))
    for i in range(size):
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = _inner(first[i], second[j])
    return gram


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


# --- The search


def whittle_start(family: Family, problem: Problem) -> FloatArray:
    """The best of the family's points for each series by Whittle's likelihood, (P, N)."""
    T = len(problem.x)
    power = np.abs(np.fft.rfft(problem.x, axis=0)[1:].T) ** 2
    frequencies = np.arange(1.0, T // 2 + 1) * (2.0 * np.pi / T)
    table = spectrum(family.coefficients(family.points), frequencies)
    return family.points[:, np.argmin(power @ table, axis=1)]


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


def first_params(family: Family, problem: Problem, warm: FloatArray | None) -> FloatArray:
    """Where the search starts: at ``warm`` where that is known, else at the best start, (P, N)."""
    start = np.empty((len(family.lower), problem.x.shape[1])) if warm is None else warm.copy()
    cold = np.arange(start.shape[1]) if warm is None else np.flatnonzero(np.isnan(warm).any(axis=0))
    for rows in chunks(cold):
        part = problem.rows(rows)
        start[:, rows] = best = whittle_start(family, part)
        if family.second_start is not None:
            other = family.second_start(best)
            costs = [_cost(family, part, params) for params in (best, other)]
            start[:, rows] = np.where(costs[1] < costs[0], other, best)
    return start


def _cost(family: Family, problem: Problem, params: FloatArray) -> FloatArray:
    e = residuals(family, problem, family.coefficients(params)).e
    return _inner(_weighted([e], problem.weight)[0], e)


def search(family: Family, problem: Problem, start: FloatArray, steps: int) -> FloatArray:
    """The parameters with the least sum of squares, from ``start``; both (P, N)."""

    def evaluate(params: FloatArray, rows: IntArray) -> Local:
        columns = np.arange(len(rows))
        return Local.joined(
            [local_model(family, problem.rows(rows[c]), params[:, c]) for c in chunks(columns)]
        )

    if len(start) == 0 or start.shape[1] == 0:
        return start
    lower, upper = family.lower[:, None], family.upper[:, None]
    return minimise(evaluate, start, lower, upper, steps, TOLERANCE)


def chunks(rows: IntArray) -> list[IntArray]:
    return [rows[first : first + CHUNK] for first in range(0, len(rows), CHUNK)]


# --- The fit


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

    def rows(self, rows: IntArray) -> "Fit":
        return Fit(
            self.params[:, rows], self.z[rows], self.e[rows], self.cost[rows], self.sigma[rows]
        )

    def with_rows(self, rows: IntArray, other: "Fit") -> "Fit":
        """This fit with ``rows`` replaced by another's."""
        mixed = Fit(*(a.copy() for a in (self.params, self.z, self.e, self.cost, self.sigma)))
        mixed.params[:, rows] = other.params
        mixed.z[rows], mixed.e[rows] = other.z, other.e
        mixed.cost[rows], mixed.sigma[rows] = other.cost, other.sigma
        return mixed


KEPT = 16  # newest values that a ``Fit`` keeps, enough for the past of every family


def fit(family: Family, prepared: Prepared, *, robust: bool, warm: FloatArray | None = None) -> Fit:
    """Fit every row by least squares.

    Args:
        robust: pull back what is out of all proportion, as the module's text says.
        warm: (P, N) parameters to start from; columns with NaN start afresh.
    """
    z = np.ascontiguousarray(prepared.z.T)
    problem = make_problem(family, z, prepared.present)
    params = first_params(family, problem, warm)
    if robust:
        for rows in chunks(np.arange(len(params.T))):
            z[:, rows], _ = replay(
                family, problem.rows(rows), z[:, rows], params[:, rows], robust=True
            )
        problem = replace(problem, x=differenced(z, family.differences, problem.begin))
    params = search(family, problem, params, STEPS if warm is None else WARM_STEPS)
    return finish(family, problem, z, params, prepared.present.sum(axis=1))


def finish(
    family: Family, problem: Problem, z: FloatArray, params: FloatArray, count: IntArray
) -> Fit:
    """The fit with ``params``; series with gaps are filled and fitted anew first."""
    e = np.empty((len(z), len(count)))
    for rows in chunks(np.arange(len(count))):
        coefficients = family.coefficients(params[:, rows])
        e[:, rows] = residuals(family, problem.rows(rows), coefficients).e
    if problem.weight is not None:
        gappy = np.flatnonzero((problem.weight == 0.0).any(axis=0))
        filled = fit_gaps(family, problem.rows(gappy), z[:, gappy], params[:, gappy])
        params[:, gappy], z[:, gappy], e[:, gappy] = filled
    cost = _inner(e, e)
    spent = len(family.lower) + family.projected
    deviation = np.sqrt(cost / np.maximum(count - spent, 1))
    return Fit(params, z[-KEPT:].T.copy(), e[-KEPT:].T.copy(), cost, deviation)


def fit_gaps(
    family: Family, problem: Problem, z: FloatArray, params: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Fill the gaps by what the model with ``params`` expects, fit again, and so on.

    Returns:
        params, z and e.
    """
    for _ in range(IMPUTATIONS):
        z, _ = replay(family, problem, z, params)
        problem = replace(problem, x=differenced(z, family.differences, problem.begin))
        params = search(family, problem, params, STEPS)
    return params, *replay(family, problem, z, params)


def replay(
    family: Family, problem: Problem, z: FloatArray, params: FloatArray, *, robust: bool = False
) -> tuple[FloatArray, FloatArray]:
    """The series as the model with ``params`` takes it, one instant after the other.

    Args:
        z: (T, N), anything where the weight of ``problem`` is zero.
        robust: pull residuals back that are out of all proportion.

    Returns:
        z with missing values as expected and outliers pulled back, and the residuals that are left,
        each (T, N).
    """
    coefficients = family.coefficients(params)
    judged = residuals(family, problem, coefficients)
    return follow(
        coefficients.ar,
        coefficients.ma,
        polynomial(family.differences),
        z,
        problem.begin,
        judged.c,
        problem.weight,
        REACH * _usual(judged.e, problem) if robust else None,
    )


def _usual(e: FloatArray, problem: Problem) -> FloatArray:
    """(N,) the deviation of normal residuals of the same mean size, the largest cut first."""
    size = np.abs(_weighted([e], problem.weight)[0])
    count = len(e) if problem.weight is None else problem.weight.sum(axis=0)
    usual = size.sum(axis=0) / count * NORMAL
    return np.asarray(np.minimum(size, REACH * usual).sum(axis=0) / count * NORMAL)
