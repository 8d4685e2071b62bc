"""Order-q recursions over time for N series at once: the inner loop of Holt and ARIMA.

Arrays here are *time-major*, (T, N): one instant of all series lies in adjacent memory, so that a
step of a recursion is a few NumPy calls on contiguous rows. A recursion cannot be vectorised over
time, so its cost is T times the overhead of those calls until N is several hundred, and memory
bandwidth above; ``sidecar.models.arma`` therefore works on chunks of series that stay in cache.
"""

import numpy as np

from sidecar.series import FloatArray


def deconvolve(ma: FloatArray, x: FloatArray) -> None:
    """Replace ``x`` by ``x / Theta(L)``, ``Theta(L) = 1 + ma[0] L + ma[1] L^2 + ...``, in place.

    That is ``u[t] = x[t] - ma[0] u[t-1] - ma[1] u[t-2] - ...``.

    Args:
        ma: (q, M) coefficients of each column.
        x: (q + T, M) time-major; the first q rows are the values before the start and stay.
    """
    order = len(ma)
    rows = list(x)
    product = np.empty_like(rows[0])
    multiply, subtract = np.multiply, np.subtract
    lags = [(coefficient, lag) for lag, coefficient in enumerate(ma, start=1)]
    for t in range(order, len(rows)):
        row = rows[t]
        for coefficient, lag in lags:
            multiply(coefficient, rows[t - lag], product)
            subtract(row, product, row)


def deconvolve_twice(ma: FloatArray, x: FloatArray) -> None:
    """Both ``x / Theta(L)`` and ``L x / Theta(L)^2`` in one pass over time.

    The second is the derivative of the first by the coefficients: d u / d ma[j] = -L^(j-1) of it.

    Args:
        ma: (q, M) coefficients of each column.
        x: (q + T, 2 M) with q >= 1 rows before the start; the left half holds the input and gets
            the first result, the right half gets the second.
    """
    order, half = len(ma), x.shape[1] // 2
    coefficients = np.tile(ma, 2)
    rows, left, right = list(x), list(x[:, :half]), list(x[:, half:])
    product = np.empty_like(rows[0])
    multiply, subtract, copy = np.multiply, np.subtract, np.copyto
    lags = [(coefficient, lag) for lag, coefficient in enumerate(coefficients, start=1)]
    previous = left[order - 1]
    for t in range(order, len(rows)):
        row = rows[t]
        copy(right[t], previous)
        for coefficient, lag in lags:
            multiply(coefficient, rows[t - lag], product)
            subtract(row, product, row)
        previous = left[t]


def impulse_response(ar: FloatArray, ma: FloatArray, size: int) -> FloatArray:
    """``Theta(L) / Phi(L)``: how a shock reaches the following ``size`` - 1 instants.

    Args:
        ar: (p, N), ``Phi(L) = 1 - ar[0] L - ...``.
        ma: (q, N), ``Theta(L) = 1 + ma[0] L + ...``.

    Returns:
        (size, N), the first row ones. (Box and Jenkins, Time Series Analysis, 5.1: psi weights.)
    """
    weights = np.zeros((size, ar.shape[1] if len(ar) else ma.shape[1]))
    weights[0] = 1.0
    weights[1 : len(ma) + 1] = ma[: size - 1]
    for t in range(1, size):
        for lag in range(1, min(len(ar), t) + 1):
            weights[t] += ar[lag - 1] * weights[t - lag]
    return weights


def polynomial(roots_at_one: int) -> FloatArray:
    """Coefficients of (1 - L)^d, lag 0 first.

    >>> polynomial(2).tolist()
    [1.0, -2.0, 1.0]
    """
    coefficients = np.ones(1)
    for _ in range(roots_at_one):
        coefficients = np.convolve(coefficients, [1.0, -1.0])
    return coefficients
