"""The equations under Holt and ARIMA: an ARMA model of a differenced series, by least squares.

Both models say ``Phi(L) x_t = Theta(L) e_t`` of a differenced series x, with

    Phi(L) = 1 - ar_1 L - ... - ar_p L^p,   Theta(L) = 1 + ma_1 L + ... + ma_q L^q,

and differ in what their coefficients may be (a ``Family``). The residuals e are linear in x and
rational in the coefficients:

    u = x / Theta,              w = L u / Theta
    e = Phi(L) u,               v = L e / Theta = Phi(L) w
    d e / d ar_i = -L^i u,      d e / d ma_j = -L^(j-1) v

so one pass over time gives residuals and their whole Jacobian, and what remains is a search over
two to five parameters in a box. Here are the equations; ``sidecar.models.together`` and
``sidecar.models.alone`` solve them for many and for few series, ``sidecar.models.fitting`` chooses.

Before its first instant a series is taken to have rested, x = e = 0. A family may instead ask for
any past (``projected``): it adds to e a combination of psi = (1, 0, 0, ...) / Theta and its shifts,
whose weights c are eliminated by least squares at each evaluation (variable projection with
Kaufman's approximation of the Jacobian: Golub and Pereyra, Inverse Problems 19, 2003).

A missing sample has residual zero: its instant is left out of the sums, and x holds there what the
model itself expects, so the state moves on by its own forecast. A robust fit pulls residuals back
that are out of all proportion, before the search: one beyond ``REACH`` deviations counts as that
much, the next one after it as ``GROWTH`` times that, and so on, so a spike leaves little behind and
a new level is followed within a few instants (after Gelper, Fried and Croux, Robust forecasting
with exponential and Holt-Winters smoothing, Journal of Forecasting 29, 2010).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from sidecar.models.numeric import (
    BoolArray,
    IntArray,
    first_present,
    interpolate,
    missing_at_end,
    runs,
)
from sidecar.models.recursion import polynomial
from sidecar.series import FloatArray

BLOCKS, CERTAIN = 8, 10.0  # see ``certain_drift``
REACH = 4.0  # see above
KEPT = 16  # newest values that are kept of a fit, enough for the past of any ARIMA
TOLERANCE = 1e-4  # a search ends where no step lowers the cost by a larger share
NORMAL = float(np.sqrt(np.pi / 2.0))  # deviation over mean size of normal residuals


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
        season: the period m of a seasonal difference z_t - z_{t-m} besides, or 0 for none.
        skipped: how many instants at the start are not judged, for want of predecessors.
        projected: how many terms of the unknown past (c above) are fitted; 0 for a past at rest.
        lower, upper: (P,) the box.
        points: (P, G) where the search may start.
        coefficients: params (P, N) to the coefficients.
        derivative: params (P, N) to d (ar, ma) / d params, (p + q, P, N).
        grid: (P, B, G) where a fit with a free past may start instead, in B bands; mostly empty.
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
    grid: FloatArray
    season: int = 0

    @property
    def pad(self) -> int:
        """How many rows of zeros stand before the first instant, so that every lag exists."""
        return max(self.p, self.q, self.projected, 1)

    @property
    def difference(self) -> FloatArray:
        """The lag polynomial that makes x of the series, lag 0 first."""
        return polynomial(self.differences, self.season)


# --- Preparing the series


@dataclass(frozen=True, eq=False)
class Prepared:
    """N series made ready for fitting, each shifted and scaled to its own steps.

    Attributes:
        z: (T, N) time-major (y - offset) / scale, with missing values interpolated.
        weight: (T, N) zero where a value is missing after the first, elsewhere one; or None where
            nothing is.
        first: (N,) the first instant with a value. missed: (N,) instants without one at the end.
        count: (N,) how many values there are.
        offset, scale: (N,).
    """

    z: FloatArray
    weight: FloatArray | None
    first: IntArray
    missed: IntArray
    count: IntArray
    offset: FloatArray
    scale: FloatArray

    @property
    def gappy(self) -> BoolArray:
        """(N,) which series have missing values after their first."""
        return np.asarray(self.count < len(self.z) - self.first)

    def rows(self, rows: IntArray) -> "Prepared":
        gaps = self.weight is not None and bool(self.gappy[rows].any())
        return Prepared(
            self.z[:, rows],
            self.weight[:, rows] if gaps and self.weight is not None else None,
            self.first[rows],
            self.missed[rows],
            self.count[rows],
            self.offset[rows],
            self.scale[rows],
        )

    def without_trend(self, mean: FloatArray, differences: int) -> "Prepared":
        """Less what makes ``mean`` (N,) the mean of z (d = 0) or of its differences (d = 1)."""
        trend = np.ones(len(self.z)) if differences == 0 else np.arange(len(self.z))
        return replace(self, z=self.z - np.outer(trend, mean)) if mean.any() else self


def prepare(y: FloatArray) -> Prepared:
    """Shift and scale each row of ``y`` (N, T): first value 0, steps of root mean square 1."""
    N, T = y.shape
    z, offset, scale = np.empty((T, N)), np.empty(N), np.empty(N)
    present = np.isfinite(y)
    whole = bool(present.all())
    for rows in runs(N, 256):
        filled = y[rows] if whole else interpolate(y[rows], present[rows])
        offset[rows] = filled[:, 0]
        part = filled - filled[:, :1]
        # First the size: squares of 1e300 would overflow.
        size = _positive(np.maximum(part.max(axis=1), -part.min(axis=1)))
        part /= size[:, None]
        steps = part[:, 1:] - part[:, :-1]
        spread = _positive(np.sqrt(np.einsum("nt,nt->n", steps, steps) / T))
        np.divide(part.T, spread, out=z[:, rows])
        scale[rows] = size * spread
    first, count = first_present(present), present.sum(axis=1)
    weight = None
    if (count < T - first).any():
        before = np.arange(T)[:, None] < first
        weight = np.where(before | present.T, 1.0, 0.0)
    return Prepared(z, weight, first, missing_at_end(present), count, offset, scale)


def certain_drift(prepared: Prepared) -> FloatArray:
    """The mean step of z, (N,), where there is one beyond doubt, else 0.

    Compared are the mean steps over eighths of the history: theirs must be ``CERTAIN`` times its
    standard error. A drift estimated from noise would be extrapolated.
    """
    length = len(prepared.z) - 1 - prepared.missed - prepared.first
    edges = prepared.first + np.outer(np.arange(BLOCKS + 1), length) // BLOCKS
    values = np.take_along_axis(prepared.z, edges, axis=0)
    slopes = np.diff(values, axis=0) / np.diff(edges, axis=0)
    error = slopes.std(axis=0, ddof=1) / np.sqrt(BLOCKS)
    certain = np.abs(slopes.mean(axis=0)) > CERTAIN * error
    return np.asarray(np.where(certain, (values[-1] - values[0]) / length, 0.0))


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

    def rows(self, rows: IntArray | slice) -> "Problem":
        """Some of the series; views of them where ``rows`` is a slice."""
        weight = None if self.weight is None else self.weight[:, rows]
        return Problem(self.x[:, rows], self.begin[rows], weight)


def make_problem(family: Family, prepared: Prepared) -> Problem:
    """Difference; zero before the first instant that has all its predecessors."""
    x = prepared.z
    for lag in [1] * family.differences + [family.season] * (family.season > 0):
        before, x = x, np.empty_like(x)
        x[:lag] = 0.0
        np.subtract(before[lag:], before[:-lag], out=x[lag:])
    begin = np.minimum(prepared.first + family.skipped, len(x) - 1)
    if begin.any():
        x = np.where(np.arange(len(x))[:, None] < begin, 0.0, x)
    return Problem(x, begin, prepared.weight)


@dataclass(frozen=True, eq=False)
class Found:
    """Where a search ended: params (P, N), cost (N,) and the ``KEPT`` newest residuals e (K, N)."""

    params: FloatArray
    cost: FloatArray
    e: FloatArray


@dataclass(frozen=True, eq=False)
class Replayed:
    """N series as a model takes them, each (T, N).

    Attributes:
        z: with missing values as expected and outliers pulled back.
        x: z differenced.
        e: the one-step residuals that are left.
    """

    z: FloatArray
    x: FloatArray
    e: FloatArray


# --- Where a search may start


def whittle_start(family: Family, problem: Problem) -> FloatArray:
    """The best of the family's points for each series by Whittle's likelihood, (P, N)."""
    T, N = problem.x.shape
    table, best = _spectra(family, T), np.empty(N, dtype=np.int64)
    for rows in runs(N):
        power = np.abs(np.fft.rfft(problem.x[:, rows].T, axis=1)[:, 1:]) ** 2
        best[rows] = np.argmin(power @ table, axis=1)
    return family.points[:, best]


@lru_cache(maxsize=64)
def _spectra(family: Family, size: int) -> FloatArray:
    """``spectrum`` of the family's points at the frequencies of a periodogram of ``size``."""
    frequencies = np.arange(1.0, size // 2 + 1) * (2.0 * np.pi / size)
    return spectrum(family.coefficients(family.points), frequencies)


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


def largest_residual(problem: Problem, e: FloatArray) -> FloatArray:
    """What a residual may be without being pulled back, (N,), from the residuals ``e`` (T, N).

    That is ``REACH`` deviations, these from the mean size of e, the largest cut in the same way.
    """
    size, count = np.abs(e), np.asarray(float(len(e)))
    if problem.weight is not None:
        size *= problem.weight
        count = problem.weight.sum(axis=0)
    limit = size.sum(axis=0) / count * NORMAL * REACH
    np.minimum(size, limit, out=size)
    return np.asarray(size.sum(axis=0) / count * NORMAL * REACH)
