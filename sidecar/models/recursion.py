"""Order-q recursions over time for N series at once: the inner loop of Holt and ARIMA.

Arrays here are *time-major*, (T, N): one instant of all series lies in adjacent memory, so that a
step of a recursion is a few NumPy calls on contiguous rows. A recursion cannot be vectorised over
time, so its cost is T times the overhead of those calls until N is several hundred, and memory
bandwidth above; ``sidecar.models.arma`` therefore works on chunks of series that stay in cache.
"""

import numpy as np

from sidecar.models.numeric import BoolArray, IntArray
from sidecar.series import FloatArray

GROWTH = 1.5  # by how much more the next residual may exceed the limit after one that did


def deconvolve(ma: FloatArray, x: FloatArray, start: int) -> None:
    """``x / Theta(L)``, and on demand ``L x / Theta(L)^2`` in the same pass over time, in place.

    With ``Theta(L) = 1 + ma[0] L + ma[1] L^2 + ...`` the first is the recursion

        u[t] = x[t] - ma[0] u[t-1] - ma[1] u[t-2] - ...

    and the second the same one with u[t-1] in place of x[t]. It is what derivatives by the
    coefficients are made of: d u / d ma[j] = -L^j of it.

    Args:
        ma: (q, N) coefficients of each series.
        x: (start + T, 1 or 2, N); x[:, 0] holds the input and gets the first result, x[:, 1] (where
            there is one) gets the second. The first ``start`` rows are the past and stay.
        start: at least q and 1.
    """
    twice = x.shape[1] == 2
    rows, first, second = list(x.reshape(len(x), -1)), list(x[:, 0]), list(x[:, -1])
    product = np.empty_like(rows[0])
    multiply, subtract, copy = np.multiply, np.subtract, np.copyto
    lags = list(enumerate(np.tile(ma, x.shape[1]), start=1))
    for t in range(start, len(rows)):
        row = rows[t]
        if twice:
            copy(second[t], first[t - 1])
        for lag, coefficient in lags:
            multiply(coefficient, rows[t - lag], product)
            subtract(row, product, row)


def follow(
    ar: FloatArray,
    ma: FloatArray,
    difference: FloatArray,
    z: FloatArray,
    begin: IntArray,
    start: FloatArray,
    weight: FloatArray | None,
    limit: FloatArray | None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The series as an ARIMA model takes it, one instant after the other.

    A missing value becomes what the model expects, and a residual is pulled back to ``limit``; to
    ``GROWTH`` times the limit right after one that was, and so on.

    Args:
        ar, ma: (p, N), (q, N). difference: the lag polynomial that makes x of z, lag 0 first.
        z: (T, N) the series. weight: (T, N) zero where it is missing, or None where nowhere.
        begin: (N,) from where on there are residuals; before it z stays as it is.
        start: (k, N) what the unknown past adds to the first k expected values.
        limit: (N,) largest residual, or None for any.

    Returns:
        z as taken, x (z differenced), and the residuals, each (T, N).
    """
    T, N = z.shape
    pad, settled = max(len(ar), len(ma), len(difference)), int(begin.max(initial=0)) + len(start)
    z = np.concatenate([np.zeros((pad, N)), z])
    x, e = np.zeros((2, pad + T, N))
    undo = [(-c, z, lag) for lag, c in enumerate(difference) if lag > 0 and c != 0.0]
    past = [(coefficient, x, lag) for lag, coefficient in enumerate(ar, start=1)]
    past += [(coefficient, e, lag) for lag, coefficient in enumerate(ma, start=1)]
    base, expected, product = np.empty((3, N))
    ordinary = np.empty(N, dtype=bool)
    bound = None if limit is None else limit.copy()
    for now in range(pad, pad + T):
        _weigh(undo, now, base, product)
        _weigh(past, now, expected, product)
        if now - pad < settled:
            _begin(now - pad - begin, start, z[now], base, expected)
        error = e[now]
        np.subtract(z[now], base, out=error)
        np.subtract(error, expected, out=error)
        if weight is not None:
            np.multiply(error, weight[now - pad], out=error)
        if bound is not None and limit is not None:
            _pull_back(error, bound, limit, product, ordinary)
        np.add(expected, error, out=x[now])
        np.add(base, x[now], out=z[now])
    return z[pad:], x[pad:], e[pad:]


def _weigh(
    terms: list[tuple[FloatArray, FloatArray, int]],
    now: int,
    total: FloatArray,
    product: FloatArray,
) -> None:
    """total = sum of coefficient x series[now - lag]."""
    if not terms:
        total.fill(0.0)
    for i, (coefficient, series, lag) in enumerate(terms):
        np.multiply(coefficient, series[now - lag], out=product if i else total)
        if i:
            np.add(total, product, out=total)


def _begin(
    age: IntArray, start: FloatArray, values: FloatArray, base: FloatArray, expected: FloatArray
) -> None:
    """Add the start to what is expected; before it expect what is there. In place."""
    for k, addition in enumerate(start):
        np.add(expected, addition, out=expected, where=age == k)
    np.copyto(base, values, where=age < 0)
    np.copyto(expected, 0.0, where=age < 0)


def _pull_back(
    error: FloatArray, bound: FloatArray, limit: FloatArray, inside: FloatArray, ordinary: BoolArray
) -> None:
    """Cut ``error`` to +-bound, and set the bound for the next instant. In place."""
    np.negative(bound, out=inside)
    np.maximum(error, inside, out=inside)
    np.minimum(inside, bound, out=inside)
    np.equal(inside, error, out=ordinary)
    np.copyto(error, inside)
    np.multiply(bound, GROWTH, out=bound)
    np.copyto(bound, limit, where=ordinary)


def impulse_response(ar: FloatArray, ma: FloatArray, size: int) -> FloatArray:
    """``Theta(L) / Phi(L)``: how a shock reaches the following ``size`` - 1 instants.

    Args:
        ar: (p, N), ``Phi(L) = 1 - ar[0] L - ...``.
        ma: (q, N), ``Theta(L) = 1 + ma[0] L + ...``.

    Returns:
        (size, N), the first row ones. (Box and Jenkins, Time Series Analysis, 5.1: psi weights.)
    """
    weights = np.zeros((size, ar.shape[1]))
    weights[0] = 1.0
    weights[1 : len(ma) + 1] = ma[: size - 1]
    for t in range(1, size):
        for lag in range(1, min(len(ar), t) + 1):
            weights[t] += ar[lag - 1] * weights[t - lag]
    return weights


def polynomial(differences: int, season: int = 0) -> FloatArray:
    """Coefficients of (1 - L)^d, times (1 - L^m) where there is a ``season``; lag 0 first.

    >>> polynomial(2).tolist()
    [1.0, -2.0, 1.0]
    >>> polynomial(0, season=3).tolist()
    [1.0, 0.0, 0.0, -1.0]
    """
    coefficients = np.ones(1)
    for _ in range(differences):
        coefficients = np.convolve(coefficients, [1.0, -1.0])
    if season:
        coefficients = np.convolve(coefficients, [1.0, *[0.0] * (season - 1), -1.0])
    return coefficients
