"""Order-q recursions over time for N series at once: the inner loop of Holt and ARIMA.

Arrays here are *time-major*, (T, N): one instant of all series lies in adjacent memory, so that a
step of a recursion is a few NumPy calls on contiguous rows. A recursion cannot be vectorised over
time, so its cost is T times the overhead of those calls until N is several hundred, and memory
bandwidth above; ``sidecar.models.arma`` therefore works on chunks of series that stay in cache.
"""

import numpy as np

from sidecar.models.numeric import IntArray
from sidecar.series import FloatArray

GROWTH = 1.5  # by how much more the next residual may exceed the limit after one that did


def deconvolve(ma: FloatArray, x: FloatArray, u: FloatArray) -> None:
    """``x / Theta(L)``, and on demand ``L x / Theta(L)^2`` in the same pass over time.

    With ``Theta(L) = 1 + ma[0] L + ma[1] L^2 + ...`` the first is the recursion

        u[t] = x[t] - ma[0] u[t-1] - ma[1] u[t-2] - ...

    and the second the same one with u[t-1] in place of x[t]. It is what derivatives by the
    coefficients are made of: d u / d ma[j] = -L^j of it.

    Args:
        ma: (q, N) coefficients of each series. x: (T, N).
        u: (start + T, 1 or 2, N), start at least q and 1; u[:, 0] gets the first result, u[:, 1]
            (where there is one) the second. The first ``start`` rows are the past and stay.
    """
    start, passes, N = len(u) - len(x), u.shape[1], x.shape[1]
    rows, first, second = list(u.reshape(len(u), -1)), list(u[:, 0]), list(u[:, -1])
    if len(ma) == 0:
        u[start:, 0] = x
        if passes == 2:
            u[start:, 1] = u[start - 1 : -1, 0]
        return
    product = np.empty_like(rows[0])
    of_first, of_second = product[:N], product[-N:]
    multiply, subtract = np.multiply, np.subtract
    newest, *older = np.tile(ma, passes)
    lags = list(enumerate(older, start=2))
    for t, value in enumerate(x, start=start):
        row = rows[t]
        multiply(newest, rows[t - 1], product)
        subtract(value, of_first, first[t])
        if passes == 2:
            subtract(first[t - 1], of_second, second[t])
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
    taken, x, e = np.empty((3, pad + T, N))
    taken[:pad] = x[:pad] = e[:pad] = 0.0
    values, steps, errors = list(taken), list(x), list(e)
    undo = [(-c, values, lag) for lag, c in enumerate(difference) if lag > 0 and c != 0.0]
    past = [(coefficient, steps, lag) for lag, coefficient in enumerate(ar, start=1)]
    past += [(coefficient, errors, lag) for lag, coefficient in enumerate(ma, start=1)]
    base, expected, product = np.empty((3, N))
    cut = None if limit is None else _Cut(limit)
    add, subtract = np.add, np.subtract
    for now, value in enumerate(z, start=pad):
        _weigh(undo, now, base, product)
        _weigh(past, now, expected, product)
        if now - pad < settled:
            _begin(now - pad - begin, start, value, base, expected)
        error = errors[now]
        subtract(value, base, product)
        subtract(product, expected, error if cut is None else product)
        if weight is not None:
            found = error if cut is None else product
            np.multiply(found, weight[now - pad], found)
        if cut is not None:
            cut.to(product, error)
        add(expected, error, steps[now])
        add(base, steps[now], values[now])
    return taken[pad:], x[pad:], e[pad:]


def _weigh(
    terms: list[tuple[FloatArray | float, list[FloatArray], int]],
    now: int,
    total: FloatArray,
    product: FloatArray,
) -> None:
    """total = sum of coefficient x series[now - lag]."""
    multiply, add, target = np.multiply, np.add, total
    for coefficient, series, lag in terms:
        multiply(coefficient, series[now - lag], target)
        if target is product:
            add(total, product, total)
        target = product
    if target is total:
        total.fill(0.0)


def _begin(
    age: IntArray, start: FloatArray, values: FloatArray, base: FloatArray, expected: FloatArray
) -> None:
    """Add the start to what is expected; before it expect what is there. In place."""
    for k, addition in enumerate(start):
        np.add(expected, addition, out=expected, where=age == k)
    np.copyto(base, values, where=age < 0)
    np.copyto(expected, 0.0, where=age < 0)


class _Cut:
    """Cuts residuals to a limit that grows for as long as they are beyond it."""

    def __init__(self, limit: FloatArray) -> None:
        self._limit, self._high, self._low = limit, limit.copy(), -limit
        self._ordinary = np.empty(len(limit), dtype=bool)

    def to(self, found: FloatArray, error: FloatArray) -> None:
        """``found`` cut, into ``error``."""
        np.maximum(found, self._low, out=error)
        np.minimum(error, self._high, out=error)
        np.equal(found, error, self._ordinary)
        np.multiply(self._high, GROWTH, self._high)
        np.copyto(self._high, self._limit, where=self._ordinary)
        np.negative(self._high, self._low)


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
