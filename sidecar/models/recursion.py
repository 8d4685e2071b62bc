"""Order-q recursions over time for N series at once: the inner loop of Holt and ARIMA.

Arrays here are *time-major*, (T, N): one instant of all series lies in adjacent memory, so that a
step of a recursion is a few NumPy calls on contiguous rows. A recursion cannot be vectorised over
time, so its cost is T times the overhead of those calls until N is several hundred, and memory
bandwidth above; ``sidecar.models.arma`` therefore works on chunks of series that stay in cache.
"""

import numpy as np

from sidecar.series import FloatArray


def deconvolve_twice(ma: FloatArray, x: FloatArray, start: int) -> None:
    """Both ``x / Theta(L)`` and ``L x / Theta(L)^2`` in one pass over time, in place.

    With ``Theta(L) = 1 + ma[0] L + ma[1] L^2 + ...`` the first is the recursion

        u[t] = x[t] - ma[0] u[t-1] - ma[1] u[t-2] - ...

    and the second the same one with u[t-1] in place of x[t]. It is what derivatives by the
    coefficients are made of: d u / d ma[j] = -L^j of it.

    Args:
        ma: (q, N) coefficients of each series.
        x: (start + T, 2 N); the left half holds the input and gets the first result, the right
            half gets the second. The first ``start`` rows are the past and stay as they are.
        start: at least q and 1.
    """
    half = x.shape[1] // 2
    rows, left, right = list(x), list(x[:, :half]), list(x[:, half:])
    product = np.empty_like(rows[0])
    multiply, subtract, copy = np.multiply, np.subtract, np.copyto
    lags = list(enumerate(np.tile(ma, 2), start=1))
    for t in range(start, len(rows)):
        row = rows[t]
        copy(right[t], left[t - 1])
        for lag, coefficient in lags:
            multiply(coefficient, rows[t - lag], product)
            subtract(row, product, row)


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


def polynomial(differences: int) -> FloatArray:
    """Coefficients of (1 - L)^d, lag 0 first.

    >>> polynomial(2).tolist()
    [1.0, -2.0, 1.0]
    """
    coefficients = np.ones(1)
    for _ in range(differences):
        coefficients = np.convolve(coefficients, [1.0, -1.0])
    return coefficients
