"""ARMA fits of a few series, one by one: the equations of ``sidecar.models.arma`` in SciPy.

Recursions are ``scipy.signal.lfilter``, the search is ``scipy.optimize.least_squares``, and what
depends on the residual just seen (missing values, outliers) is a loop over plain floats. Functions
and their arguments are those of ``sidecar.models.together``; each module is the other's oracle.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sidecar.models.arma import KEPT, TOLERANCE, Family, Found, Problem, Replayed, largest_residual
from sidecar.models.recursion import GROWTH
from sidecar.series import FloatArray


@dataclass(frozen=True, eq=False)
class Series:
    """One column of a ``Problem``: x and weight (T,)."""

    x: FloatArray
    begin: int
    weight: FloatArray


def search(
    family: Family, problem: Problem, start: FloatArray, steps: int, tolerance: float = TOLERANCE
) -> Found:
    """Least squares within ``steps`` evaluations of ``start`` (P, N); see ``together.search``."""
    found = start.copy()
    for i, series in enumerate(each(problem)):
        if len(start):
            found[:, i] = _search(family, series, start[:, i], steps, tolerance)
    return judge(family, problem, found)


def judge(family: Family, problem: Problem, params: FloatArray) -> Found:
    """What ``params`` (P, N) come to."""
    numbered = enumerate(each(problem))
    judged = [Residuals(family, one, params[:, i]).e * one.weight for i, one in numbered]
    e = np.array(judged).T
    return Found(params, np.einsum("tn,tn->n", e, e), e[-KEPT:])


def replay(
    family: Family, problem: Problem, z: FloatArray, params: FloatArray, *, robust: bool
) -> Replayed:
    """The series as the model with ``params`` takes it; see ``together.replay``."""
    before = [Residuals(family, one, params[:, i]) for i, one in enumerate(each(problem))]
    limit = np.full(len(before), np.inf)
    if robust:
        limit = largest_residual(problem, np.array([one.e for one in before]).T)
    result = Replayed(np.empty_like(z), np.empty_like(z), np.empty_like(z))
    for i, series in enumerate(each(problem)):
        one = _follow(family, series, z[:, i], before[i], float(limit[i]))
        result.z[:, i], result.x[:, i], result.e[:, i] = one
    return result


def each(problem: Problem) -> Iterator[Series]:
    """The series of a problem, one after the other."""
    for i, begin in enumerate(problem.begin):
        weight = np.ones(len(problem.x)) if problem.weight is None else problem.weight[:, i]
        yield Series(np.ascontiguousarray(problem.x[:, i]), int(begin), weight)


class Residuals:
    """Residuals e (T,) of one series at some parameters, and what their derivatives need."""

    def __init__(self, family: Family, series: Series, params: FloatArray) -> None:
        coefficients = family.coefficients(params[:, None])
        self.ar, self.ma = coefficients.ar[:, 0], coefficients.ma[:, 0]
        self.theta = np.append(1.0, self.ma)
        self.u: FloatArray = _filtered([1.0], self.theta, series.x)
        self.e: FloatArray = _filtered(np.append(1.0, -self.ar), [1.0], self.u)
        self.psi: FloatArray = np.empty((len(self.e), 0))
        self.c: FloatArray = np.empty(0)
        if family.projected:
            impulse = np.zeros_like(self.e)
            impulse[series.begin] = 1.0
            response = _filtered([1.0], self.theta, impulse)
            self.psi = _delayed(response, range(family.projected))
            judged = self.psi * series.weight[:, None]
            c, *_ = np.linalg.lstsq(judged, self.e * series.weight, rcond=None)
            self.c = np.asarray(c, dtype=np.float64)
            self.e = np.asarray(self.e - self.psi @ self.c, dtype=np.float64)

    def slopes(self, family: Family, series: Series, params: FloatArray) -> FloatArray:
        """d (weight x e) / d params, (T, P), by Kaufman's approximation where c is fitted too."""
        v = _filtered([0.0, 1.0], self.theta, self.e)
        columns = [
            _delayed(self.u, range(1, family.p + 1)),
            _delayed(v, range(family.q)),
        ]
        chain = family.derivative(params[:, None])[:, :, 0]
        slopes = -series.weight[:, None] * (np.hstack(columns) @ chain)
        if family.projected:
            base, _ = np.linalg.qr(self.psi * series.weight[:, None])
            slopes = slopes - base @ (base.T @ slopes)
        return np.asarray(slopes, dtype=np.float64)


def _filtered(
    b: FloatArray | list[float], a: FloatArray | list[float], x: FloatArray
) -> FloatArray:
    # Not at the top: all that reads a configuration knows this model, and loading it takes seconds.
    from scipy.signal import lfilter

    return np.asarray(lfilter(b, a, x), dtype=np.float64)


def _delayed(values: FloatArray, lags: range) -> FloatArray:
    """``values`` (T,) delayed by each of ``lags``, (T, number of lags)."""
    delayed = np.zeros((len(values), len(lags)))
    for column, lag in enumerate(lags):
        delayed[lag:, column] = values[: len(values) - lag]
    return delayed


def _search(
    family: Family, series: Series, start: FloatArray, steps: int, tolerance: float
) -> FloatArray:
    def judged(params: FloatArray) -> FloatArray:
        return Residuals(family, series, params).e * series.weight

    def slopes(params: FloatArray) -> FloatArray:
        return Residuals(family, series, params).slopes(family, series, params)

    start = np.clip(start, family.lower, family.upper)
    if not judged(start).any():  # nothing to explain, and nothing to scale steps by
        return start
    from scipy.optimize import least_squares

    found = least_squares(
        judged,
        start,
        slopes,
        bounds=(family.lower, family.upper),
        ftol=tolerance,
        xtol=tolerance,
        gtol=None,
        max_nfev=steps + 1,
    )
    return np.asarray(found.x)


def _follow(
    family: Family, series: Series, values: FloatArray, before: Residuals, limit: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """``recursion.follow`` for one series."""
    difference = family.difference
    pad = family.pad + len(difference)
    undo = [(lag, -float(c)) for lag, c in enumerate(difference) if lag > 0 and c != 0.0]
    ar, ma = before.ar.tolist(), before.ma.tolist()
    start = dict(enumerate(before.c.tolist(), start=series.begin))
    z, x, e = [0.0] * pad, [0.0] * pad, [0.0] * pad
    bound = limit
    for t, (value, weight) in enumerate(zip(values.tolist(), series.weight.tolist(), strict=True)):
        if t < series.begin:
            z.append(value)
            x.append(0.0)
            e.append(0.0)
            continue
        base = sum(c * z[-lag] for lag, c in undo)
        expected = start.get(t, 0.0)
        expected += sum(c * x[-lag] for lag, c in enumerate(ar, start=1))
        expected += sum(c * e[-lag] for lag, c in enumerate(ma, start=1))
        error = weight * (value - base - expected)
        inside = min(max(error, -bound), bound)
        bound = limit if inside == error else GROWTH * bound
        e.append(inside)
        x.append(expected + inside)
        z.append(base + expected + inside)
    return np.array(z[pad:]), np.array(x[pad:]), np.array(e[pad:])
