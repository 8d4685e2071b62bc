"""ARMA fits of many series at once: the equations of ``sidecar.models.arma``, time-major.

One pass over time (``deconvolve_twice``) gives the residuals of all series and their whole
Jacobian, whose sums over time are inner products of columns and their shifts; ``levenberg``
searches for all series together. Work goes in chunks of series whose rows stay in cache.
"""

from dataclasses import dataclass

import numpy as np

from sidecar.models.arma import Coefficients, Family, Problem, Replayed, largest_residual
from sidecar.models.levenberg import Local, minimise
from sidecar.models.numeric import IntArray, chunks, solve
from sidecar.models.recursion import deconvolve_twice, follow
from sidecar.series import FloatArray

TOLERANCE = 1e-4  # a search ends when its next step promises a smaller fall in the cost


def search(family: Family, problem: Problem, start: FloatArray, steps: int) -> FloatArray:
    """The parameters with the least sum of squares within ``steps`` of ``start``; both (P, N)."""

    def evaluate(params: FloatArray, rows: IntArray) -> Local:
        return Local.joined(
            [
                local_model(family, problem.rows(rows[part]), params[:, part])
                for part in chunks(len(rows))
            ]
        )

    if start.size == 0:
        return start
    lower, upper = family.lower[:, None], family.upper[:, None]
    return minimise(evaluate, start, lower, upper, steps, TOLERANCE)


def errors(family: Family, problem: Problem, params: FloatArray) -> FloatArray:
    """The one-step residuals at ``params`` (P, N), (T, N)."""
    e = np.empty_like(problem.x)
    for part in chunks(e.shape[1]):
        coefficients = family.coefficients(params[:, part])
        e[:, part] = residuals(family, problem.rows(part), coefficients).e
    return e


def replay(
    family: Family, problem: Problem, z: FloatArray, params: FloatArray, *, robust: bool
) -> Replayed:
    """The series as the model with ``params`` takes it, one instant after the other.

    Args:
        z: (T, N), anything where the weight of ``problem`` is zero.
        robust: pull residuals back that are out of all proportion.
    """
    parts = []
    for rows in chunks(z.shape[1]):
        part = problem.rows(rows)
        coefficients = family.coefficients(params[:, rows])
        before = residuals(family, part, coefficients)
        parts.append(
            follow(
                coefficients.ar,
                coefficients.ma,
                family.difference,
                z[:, rows],
                part.begin,
                before.c,
                part.weight,
                largest_residual(part, before.e) if robust else None,
            )
        )
    return Replayed(*(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)))


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
