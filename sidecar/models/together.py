"""ARMA fits of many series at once: the equations of ``sidecar.models.arma``, time-major.

One pass over time (``deconvolve``) gives the residuals of all series and their whole
Jacobian, whose sums over time are inner products of columns and their shifts; ``levenberg``
searches for all series together. Work goes in chunks of series whose rows stay in cache.
"""

from dataclasses import dataclass

import numpy as np

from sidecar.models.arma import (
    KEPT,
    TOLERANCE,
    Coefficients,
    Family,
    Found,
    Problem,
    Replayed,
    largest_residual,
)
from sidecar.models.levenberg import Local, minimise
from sidecar.models.numeric import IntArray, runs, solve
from sidecar.models.recursion import deconvolve, follow
from sidecar.series import FloatArray

LONG = 2048  # series replayed at once, which touches only the newest few rows


def search(
    family: Family, problem: Problem, start: FloatArray, steps: int, tolerance: float = TOLERANCE
) -> Found:
    """Least squares within ``steps`` evaluations of ``start`` (P, N).

    It ends where the next step promises a fall in the cost of a smaller share than ``tolerance``.
    """

    def evaluate(params: FloatArray, rows: IntArray) -> Local:
        live = problem if len(rows) == problem.x.shape[1] else problem.rows(rows)
        return Local.joined(
            [local_model(family, live.rows(part), params[:, part]) for part in runs(len(rows))]
        )

    lower, upper = family.lower[:, None], family.upper[:, None]
    params, there = minimise(evaluate, start, lower, upper, steps, tolerance)
    return Found(params, there.cost, there.extra)


def judge(family: Family, problem: Problem, params: FloatArray) -> Found:
    """What ``params`` (P, N) come to."""
    costs, newest = [], []
    for rows in runs(problem.x.shape[1]):
        part, coefficients = problem.rows(rows), family.coefficients(params[:, rows])
        e = residuals(family, part, coefficients, slopes=False).e
        judged = _weighted([e], part.weight)[0]
        costs.append(_inner(judged, e))
        newest.append(judged[-KEPT:].copy())
    return Found(params, np.concatenate(costs), np.concatenate(newest, axis=1))


def replay(
    family: Family, problem: Problem, z: FloatArray, params: FloatArray, *, robust: bool
) -> Replayed:
    """The series as the model with ``params`` takes it, one instant after the other.

    Args:
        z: (T, N), anything where the weight of ``problem`` is zero.
        robust: pull residuals back that are out of all proportion.
    """
    parts = []
    for rows in runs(z.shape[1], LONG):
        part = problem.rows(rows)
        coefficients = family.coefficients(params[:, rows])
        before = residuals(family, part, coefficients, slopes=False)
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
    if len(parts) == 1:
        return Replayed(*parts[0])
    return Replayed(*(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)))


@dataclass(frozen=True, eq=False)
class Residuals:
    """One-step residuals at some parameters, and what their derivatives are made of.

    Attributes:
        e: (T, N) the residuals.
        u, v: (pad + T, N) x / Theta and L e / Theta (v only where slopes are asked for).
        psi: the response to the start and its shifts, each (T, N).
        c: (projected, N) the weights of psi in e. gram: the inner products of psi.
    """

    e: FloatArray
    u: FloatArray
    v: FloatArray
    psi: list[FloatArray]
    c: FloatArray
    gram: FloatArray


def residuals(
    family: Family, problem: Problem, coefficients: Coefficients, *, slopes: bool = True
) -> Residuals:
    """What one pass over time gives, by the equations of the module's text.

    It is cheaper without ``slopes``, and v is then not to be used.
    """
    T, N = problem.x.shape
    pad, passes, parts = family.pad, 1 + slopes, 2 if family.projected else 1
    u = np.empty((pad + T, passes, parts, N))  # of x, and of the start: [:, 0] u, [:, 1] w
    u[:pad] = 0.0
    x = problem.x
    if family.projected:
        x = np.concatenate([x, np.zeros_like(x)], axis=1)
        x[problem.begin, N + np.arange(N)] = 1.0
    ma = np.tile(coefficients.ma, parts)
    deconvolve(ma, x, u.reshape(pad + T, passes, parts * N))
    e = u[:, :, 0]  # becomes [:, 0] e, [:, 1] v
    if family.p or family.projected:
        e = e.copy()
    _subtract(e[pad:], coefficients.ar, _lags(u[:, :, 0], T, range(1, family.p + 1)))
    psi: list[FloatArray] = []
    c, gram = np.empty((0, N)), np.empty((0, 0, N))
    if family.projected:
        shifts = _lags(u[:, :, 1], T, range(family.projected))
        psi = [shift[:, 0] for shift in shifts]
        judged = _weighted(psi, problem.weight)
        gram = _gram_symmetric(judged, psi)
        c = solve(gram, _gram(judged, [e[pad:, 0]]))[:, 0]
        _subtract(e[pad:], c, shifts)
    return Residuals(e=e[pad:, 0], u=u[:, 0, 0], v=e[:, -1], psi=psi, c=c, gram=gram)


def local_model(family: Family, problem: Problem, params: FloatArray) -> Local:
    """Sum of squared residuals at ``params`` (P, N) with gradient and Gauss-Newton matrix."""
    T = len(problem.x)
    r = residuals(family, problem, family.coefficients(params))
    by_ar, by_ma = _lags(r.u, T, range(1, family.p + 1)), _lags(r.v, T, range(family.q))
    columns = by_ar + by_ma
    judged = _weighted([*columns, r.e], problem.weight)
    if problem.weight is None:
        gram = np.empty((len(columns), len(columns), params.shape[1]))
        own, rest = slice(len(by_ar)), slice(len(by_ar), None)
        gram[own, own], gram[rest, rest] = _gram_of_lags(by_ar, by_ar), _gram_of_lags(by_ma, by_ma)
        gram[own, rest] = _gram_of_lags(by_ar, by_ma)
        gram[rest, own] = gram[own, rest].swapaxes(0, 1)
    else:
        gram = _gram_symmetric(judged, columns)
    if family.projected:
        across = _gram(_weighted(r.psi, problem.weight), columns)
        gram -= np.einsum("kin,kjn->ijn", across, solve(r.gram, across))
    chain = family.derivative(params)
    bent = np.einsum("ijn,jqn->iqn", gram, chain)
    return Local(
        extra=judged[-1][-KEPT:],
        cost=_inner(judged[-1], r.e),
        gradient=-np.einsum("kn,kpn->pn", _gram(columns, judged[-1:])[:, 0], chain),
        hessian=np.einsum("ipn,iqn->pqn", chain, bent),
    )


def _inner(first: FloatArray, second: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("tn,tn->n", first, second))


def _gram(first: list[FloatArray], second: list[FloatArray]) -> FloatArray:
    """All inner products over time, (first, second, N)."""
    gram = np.empty((len(first), len(second), second[0].shape[1]))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            gram[i, j] = _inner(a, b)
    return gram


def _gram_symmetric(first: list[FloatArray], second: list[FloatArray]) -> FloatArray:
    """``_gram`` of as many as there are in ``second``, where it is known to be symmetric."""
    size = len(second)
    gram = np.empty((size, size, first[0].shape[1]))
    for i in range(size):
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = _inner(first[i], second[j])
    return gram


def _gram_of_lags(first: list[FloatArray], second: list[FloatArray]) -> FloatArray:
    """``_gram`` where each array but the first of a list is the one before it an instant later,
    with zeros to begin with: then most products follow from others."""
    if not first or not second:
        return np.empty((len(first), len(second), 1))
    gram = np.empty((len(first), len(second), first[0].shape[1]))
    for i, j in np.ndindex(gram.shape[:2]):
        if i and j:
            gram[i, j] = gram[i - 1, j - 1] - first[i - 1][-1] * second[j - 1][-1]
        elif first is second and i:
            gram[i, j] = gram[j, i]
        else:
            gram[i, j] = _inner(first[i], second[j])
    return gram


def _lags(padded: FloatArray, size: int, lags: range) -> list[FloatArray]:
    """Views of ``padded`` (pad + T, ...) delayed by each of ``lags``, each (T, ...)."""
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
