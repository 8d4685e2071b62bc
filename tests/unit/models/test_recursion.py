"""The recursions against the same written for one series, one instant after the other."""

import numpy as np
import pytest

from sidecar.models.recursion import GROWTH, deconvolve, follow, impulse_response, polynomial
from sidecar.series import FloatArray


def divided(ma: FloatArray, x: FloatArray) -> FloatArray:
    """x / Theta(L) of one series."""
    u: list[float] = []
    for value in x:
        past = sum(c * u[-lag] for lag, c in enumerate(ma, start=1) if lag <= len(u))
        u.append(float(value) - past)
    return np.array(u)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_deconvolve_divides_once_and_on_demand_a_delayed_second_time(order: int) -> None:
    random = np.random.default_rng(order)
    ma, x = random.uniform(-0.3, 0.3, (order, 5)), random.normal(size=(30, 5))
    pad = max(order, 1)
    twice, once = np.zeros((pad + 30, 2, 5)), np.zeros((pad + 30, 1, 5))
    deconvolve(ma, x, twice)
    deconvolve(ma, x, once)
    for row in range(5):
        u = divided(ma[:, row], x[:, row])
        delayed = np.append(0.0, u[:-1])
        np.testing.assert_allclose(once[pad:, 0, row], u)
        np.testing.assert_allclose(twice[pad:, 0, row], u)
        np.testing.assert_allclose(twice[pad:, 1, row], divided(ma[:, row], delayed))


def followed(
    ar: FloatArray,
    ma: FloatArray,
    differences: int,
    values: FloatArray,
    begin: int,
    start: FloatArray,
    limit: float,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """``follow`` for one series; NaN where a value is missing."""
    z: list[float] = []
    x: list[float] = []
    e: list[float] = []
    bound = limit
    for t, value in enumerate(values):
        base = [0.0, *z][-1] if differences == 1 else 0.0
        if differences == 2:
            before = [0.0, 0.0, *z]
            base = 2.0 * before[-1] - before[-2]
        if t < begin:
            z.append(float(value))
            x.append(0.0)
            e.append(0.0)
            continue
        expected = sum(c * x[-lag] for lag, c in enumerate(ar, start=1) if lag <= len(x))
        expected += sum(c * e[-lag] for lag, c in enumerate(ma, start=1) if lag <= len(e))
        expected += start[t - begin] if t - begin < len(start) else 0.0
        error = 0.0 if np.isnan(value) else float(value) - base - expected
        cut = min(max(error, -bound), bound)
        bound = GROWTH * bound if cut != error else limit
        e.append(cut)
        x.append(expected + cut)
        z.append(base + expected + cut)
    return np.array(z), np.array(x), np.array(e)


@pytest.mark.parametrize("differences", [0, 1, 2])
@pytest.mark.parametrize("limit", [1.0, np.inf])
def test_follow_takes_each_series_as_alone(differences: int, limit: float) -> None:
    random = np.random.default_rng(7)
    T, N = 40, 6
    ar, ma = random.uniform(-0.4, 0.4, (2, N)), random.uniform(-0.4, 0.4, (1, N))
    z = random.normal(size=(T, N))
    z[20:23, 1] += 30.0
    begin = np.array([0, 0, 5, 5, 0, 2], dtype=np.int64)
    start = random.normal(size=(2, N))
    present = random.uniform(size=(T, N)) > 0.1
    present[:6] = True
    got = follow(
        ar,
        ma,
        polynomial(differences),
        np.where(present, z, 0.0),
        begin,
        start,
        present.astype(np.float64),
        None if limit == np.inf else np.full(N, limit),
    )
    for row in range(N):
        values = np.where(present[:, row], z[:, row], np.nan)
        wanted = followed(
            ar[:, row], ma[:, row], differences, values, int(begin[row]), start[:, row], limit
        )
        for array, series in zip(got, wanted, strict=True):
            np.testing.assert_allclose(array[:, row], series, atol=1e-9)


def test_an_impulse_travels_as_the_weights_say() -> None:
    random = np.random.default_rng(8)
    ar, ma = random.uniform(-0.4, 0.4, (2, 3)), random.uniform(-0.4, 0.4, (3, 3))
    weights = impulse_response(ar, ma, 12)
    impulse = np.append(1.0, np.zeros(11))
    for row in range(3):
        moved = np.convolve(impulse, np.append(1.0, ma[:, row]))[:12]
        np.testing.assert_allclose(weights[:, row], divided(-ar[:, row], moved))


def test_a_short_impulse_response_is_the_head_of_a_long_one() -> None:
    ar, ma = np.full((1, 2), 0.5), np.full((4, 2), 0.1)
    np.testing.assert_array_equal(impulse_response(ar, ma, 2), impulse_response(ar, ma, 9)[:2])
