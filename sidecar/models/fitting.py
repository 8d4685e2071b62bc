"""Fits of N series by the equations of ``sidecar.models.arma``: prepared, searched, gaps filled.

Few series are fitted one after the other by SciPy (``alone``), more of them at once (``together``):
of 288 instants one costs 2 to 4 ms alone, and anything from 1 to 30 series 7 to 15 ms together.
Where the past is free the search goes over frequencies (``spectral``) however many there are, and
these two judge where it ends.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from sidecar.models import alone, spectral, together
from sidecar.models.arma import (
    KEPT,
    TOLERANCE,
    Family,
    Found,
    Prepared,
    Problem,
    Replayed,
    make_problem,
    whittle_start,
)
from sidecar.series import FloatArray

FEW = 4  # up to so many series are fitted one after the other; measured by tests.bench
# Steps of a search at most, and its tolerance: what was found a few instants ago is nearly right.
COLD, WARM = (16, TOLERANCE), (2, 10 * TOLERANCE)
IMPUTATIONS = 2  # how often gaps are filled anew by the model and the model fitted again


class Solver(Protocol):
    """What ``alone`` and ``together`` both do; see there."""

    def search(
        self, family: Family, problem: Problem, start: FloatArray, steps: int, tolerance: float
    ) -> Found: ...

    def judge(self, family: Family, problem: Problem, params: FloatArray) -> Found: ...

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
        if spectral.applies(family):
            params = spectral.search(family, problem, params, WARM[0])
    known = warm is not None and not np.isnan(warm).any()
    found = _found(family, problem, params, WARM if known else COLD, solver)
    for _ in range(0 if problem.weight is None else IMPUTATIONS):
        filled = solver.replay(family, problem, z, found.params, robust=False)
        problem, z = replace(problem, x=filled.x), filled.z
        found = solver.search(family, problem, found.params, *COLD)
    if problem.weight is not None:
        filled = solver.replay(family, problem, z, found.params, robust=False)
        z, cost = filled.z, np.einsum("tn,tn->n", filled.e, filled.e)
        found = Found(found.params, cost, filled.e[-KEPT:])
    freedom = prepared.count - len(family.lower) - family.projected
    sigma = np.sqrt(found.cost / np.maximum(freedom, 1))
    kept = len(z) if family.season else KEPT
    return Fit(found.params, z[-kept:].T.copy(), found.e.T.copy(), found.cost, sigma)


def _start(family: Family, problem: Problem, warm: FloatArray | None) -> FloatArray:
    """Where the search starts: at ``warm`` where that is known, else by Whittle, (P, N).

    A free past takes it to the end, except that it is blind to what is missing.
    """
    if spectral.applies(family):
        return spectral.search(family, problem, warm, WARM[0])
    if warm is None:
        return whittle_start(family, problem)
    start, cold = warm.copy(), np.flatnonzero(np.isnan(warm).any(axis=0))
    start[:, cold] = whittle_start(family, problem.rows(cold))
    return start


def _found(
    family: Family, problem: Problem, start: FloatArray, effort: tuple[int, float], solver: Solver
) -> Found:
    """The search from ``start``; where that is its end already, only what it comes to."""
    ended = spectral.applies(family) and problem.weight is None
    early = problem.begin == 0 if ended else np.zeros(len(problem.begin), dtype=bool)
    if not early.any():
        return solver.search(family, problem, start, *effort)
    found = solver.judge(family, problem, start)
    late = np.flatnonzero(~early)
    if len(late):
        more = solver.search(family, problem.rows(late), start[:, late], *effort)
        for array, news in zip(vars(found).values(), vars(more).values(), strict=True):
            array[..., late] = news
    return found
