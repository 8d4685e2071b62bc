"""Fits of N series by the equations of ``sidecar.models.arma``: prepared, searched, gaps filled.

Few series are fitted one after the other by SciPy (``alone``), more of them at once (``together``):
of 288 instants one costs about 2 ms alone, and anything from 1 to 30 series 7 to 15 ms together.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy.signal import lfilter

from sidecar.models import alone, together
from sidecar.models.arma import (
    KEPT,
    Family,
    Found,
    Prepared,
    Problem,
    Replayed,
    make_problem,
    whittle_start,
)
from sidecar.models.numeric import chunks
from sidecar.series import FloatArray

FEW = 4  # up to so many series are fitted one after the other; measured by tests.bench
STEPS, WARM_STEPS = 16, 2  # of a search at most
NEAR, SHORT = 1.1, 3  # see ``_search``
IMPUTATIONS = 2  # how often gaps are filled anew by the model and the model fitted again


class Solver(Protocol):
    """What ``alone`` and ``together`` both do; see there."""

    def search(self, family: Family, problem: Problem, start: FloatArray, steps: int) -> Found: ...

    def cost(self, family: Family, problem: Problem, params: FloatArray) -> FloatArray: ...

    def replay(
        self, family: Family, problem: Problem, z: FloatArray, params: FloatArray, *, robust: bool
    ) -> Replayed: ...


@dataclass(frozen=True, eq=False)
class Fit:
    """N fitted series, in the unit of ``Prepared.z``.

    Attributes:
        params: (P, N).
        z: (N, K) the newest values (all of them in a family with a season), newest last, as the
            model takes them: the missing ones as expected, outliers pulled back.
        e: (N, K) their one-step residuals, zero where the value was missing.
        cost: (N,) sum of squared residuals.
        sigma: (N,) their deviation, corrected for the number of parameters.
    """

    params: FloatArray
    z: FloatArray
    e: FloatArray
    cost: FloatArray
    sigma: FloatArray


def fit(
    family: Family,
    prepared: Prepared,
    *,
    robust: bool,
    warm: FloatArray | None = None,
    solver: Solver | None = None,
) -> Fit:
    """Fit every series by least squares.

    Args:
        robust: pull back what is out of all proportion, as ``sidecar.models.arma`` says.
        warm: (P, N) parameters to start from; columns with NaN start afresh.
        solver: by the number of series where not given.
    """
    solver = solver or (alone if prepared.z.shape[1] <= FEW else together)
    gappy = prepared.gappy
    if gappy.all() or not gappy.any():
        return _fit(family, prepared, robust, warm, solver)
    parts = [np.flatnonzero(~gappy), np.flatnonzero(gappy)]  # whole series need no weights
    fits = [
        _fit(family, prepared.rows(rows), robust, None if warm is None else warm[:, rows], solver)
        for rows in parts
    ]
    order = np.argsort(np.concatenate(parts))
    return Fit(
        params=np.concatenate([one.params for one in fits], axis=1)[:, order],
        z=np.concatenate([one.z for one in fits])[order],
        e=np.concatenate([one.e for one in fits])[order],
        cost=np.concatenate([one.cost for one in fits])[order],
        sigma=np.concatenate([one.sigma for one in fits])[order],
    )


def _fit(
    family: Family, prepared: Prepared, robust: bool, warm: FloatArray | None, solver: Solver
) -> Fit:
    problem, z = make_problem(family, prepared), prepared.z
    params = _start(family, problem, warm)
    if robust:
        calm = solver.replay(family, problem, z, params, robust=True)
        problem, z = replace(problem, x=calm.x), calm.z
    if warm is None:
        found = _search(family, problem, params, solver)
    else:
        found = solver.search(family, problem, params, WARM_STEPS)
    for _ in range(0 if problem.weight is None else IMPUTATIONS):
        filled = solver.replay(family, problem, z, found.params, robust=False)
        problem, z = replace(problem, x=filled.x), filled.z
        found = solver.search(family, problem, found.params, STEPS)
    if problem.weight is not None:
        filled = solver.replay(family, problem, z, found.params, robust=False)
        z, cost = filled.z, np.einsum("tn,tn->n", filled.e, filled.e)
        found = Found(found.params, cost, filled.e[-KEPT:])
    freedom = prepared.count - len(family.lower) - family.projected
    sigma = np.sqrt(found.cost / np.maximum(freedom, 1))
    kept = len(z) if family.season else KEPT
    return Fit(found.params, z[-kept:].T.copy(), found.e.T.copy(), found.cost, sigma)


def _start(family: Family, problem: Problem, warm: FloatArray | None) -> FloatArray:
    """Where the search starts: at ``warm`` where that is known, else by Whittle, (P, N)."""
    if warm is None:
        return whittle_start(family, problem)
    start, cold = warm.copy(), np.flatnonzero(np.isnan(warm).any(axis=0))
    start[:, cold] = whittle_start(family, problem.rows(cold))
    return start


def _search(family: Family, problem: Problem, start: FloatArray, solver: Solver) -> Found:
    """The search from ``start``; where the family asks for it, from the best of several starts.

    Each of the ``tries`` starts with the least cost is followed for a few steps if its cost is near
    the least, and the best of these to its end.
    """
    if family.tries == 1:
        return solver.search(family, problem, start, STEPS)
    N = start.shape[1]
    starts = np.stack([start, *(np.repeat(s[:, None], N, axis=1) for s in family.starts.T)])
    costs = np.stack(
        [solver.cost(family, problem, start), *costs_of_starts(family, problem, solver)]
    )
    order = np.argsort(costs, axis=0)[: family.tries]
    costs = np.take_along_axis(costs, order, axis=0)
    tries, rows = np.nonzero(costs <= NEAR * costs[0])
    chosen = starts[order[tries, rows], :, rows].T
    short = solver.search(family, problem.rows(rows), chosen, SHORT)
    reached = np.full((family.tries, N), np.inf)
    reached[tries, rows] = short.cost
    best = np.flatnonzero(reached.argmin(axis=0)[rows] == tries)
    ahead = np.empty_like(start)
    ahead[:, rows[best]] = short.params[:, best]
    return solver.search(family, problem, ahead, STEPS)


def costs_of_starts(family: Family, problem: Problem, solver: Solver) -> FloatArray:
    """Sums of squares at each of the family's starts, (S, N).

    Whole series share the filter and the response to the start, which SciPy runs many times faster.
    """
    T, N = problem.x.shape
    if problem.weight is not None or problem.begin.any():
        points = [np.repeat(start[:, None], N, axis=1) for start in family.starts.T]
        return np.array([solver.cost(family, problem, point) for point in points])
    costs, impulse = np.empty((family.starts.shape[1], N)), np.eye(1, T)[0]
    for rows in chunks(N):
        x = np.ascontiguousarray(problem.x[:, rows].T)
        for i, start in enumerate(family.starts.T):
            one = family.coefficients(start[:, None])
            phi, theta = np.append(1.0, -one.ar), np.append(1.0, one.ma)
            e, response = lfilter(phi, theta, x, axis=1), lfilter([1.0], theta, impulse)
            shifts = [np.append(np.zeros(k), response[: T - k]) for k in range(family.projected)]
            base, _ = np.linalg.qr(np.array(shifts).T)
            costs[i, rows] = np.einsum("nt,nt->n", e, e) - ((e @ base) ** 2).sum(axis=1)
    return costs
