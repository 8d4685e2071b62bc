"""The engine under Holt and ARIMA: derivatives, starts, outliers."""

from dataclasses import replace

import numpy as np
import pytest

from sidecar.models import arma
from sidecar.models.arima import family
from sidecar.models.arma import Family
from sidecar.models.holt import FAMILIES
from sidecar.series import FloatArray

N, T = 8, 80
CASES: dict[str, Family] = {
    **{f"holt-{key}": value for key, value in FAMILIES.items()},
    "arima-212": family(2, 1, 2),
    "arima-301": family(3, 0, 1),
    "arima-012": family(0, 1, 2),
    "arima-110": family(1, 1, 0),
    "arima-projected": replace(family(2, 1, 1), projected=3),
}


@pytest.fixture(params=list(CASES.values()), ids=list(CASES))
def some_family(request: pytest.FixtureRequest) -> Family:
    chosen: Family = request.param
    return chosen


def walks(seed: int = 1) -> FloatArray:
    random = np.random.default_rng(seed)
    y = np.cumsum(random.normal(size=(N, T)), axis=1) + random.normal(size=(N, T))
    y[1, :20] = np.nan
    y[2, 30:40] = np.nan
    y[3, ::9] = np.nan
    return y


def problem_of(one: Family, y: FloatArray) -> tuple[arma.Problem, FloatArray]:
    prepared = arma.prepare(y)
    z = np.ascontiguousarray(prepared.z.T)
    return arma.make_problem(one, z, prepared.present), z


def inner_params(one: Family) -> FloatArray:
    share = np.random.default_rng(2).uniform(0.2, 0.8, (len(one.lower), N))
    return one.lower[:, None] + share * (one.upper - one.lower)[:, None]


def test_the_gradient_is_the_slope_of_the_cost(some_family: Family) -> None:
    problem, _ = problem_of(some_family, walks())
    params = inner_params(some_family)
    local = arma.local_model(some_family, problem, params)
    for k in range(len(params)):
        nudge = np.zeros((len(params), 1))
        nudge[k] = 1e-5
        above, below = (
            arma.local_model(some_family, problem, params + sign * nudge).cost for sign in (1, -1)
        )
        slope = (above - below) / 2e-5
        scale = 1e-5 * np.abs(local.gradient).max() + 1e-9 * local.cost
        assert (np.abs(2.0 * local.gradient[k] - slope) < scale + 1e-4 * np.abs(slope)).all()


def test_the_gauss_newton_matrix_is_that_of_the_residuals(some_family: Family) -> None:
    problem, _ = problem_of(some_family, walks()[4:])
    params = inner_params(some_family)[:, 4:]
    local = arma.local_model(some_family, problem, params)

    def e(at: FloatArray) -> FloatArray:
        return arma.residuals(some_family, problem, some_family.coefficients(at)).e

    slopes = []
    for k in range(len(params)):
        nudge = np.zeros((len(params), 1))
        nudge[k] = 1e-5
        slopes.append((e(params + nudge) - e(params - nudge)) / 2e-5)
    wanted = np.einsum("itn,jtn->ijn", np.array(slopes), np.array(slopes))
    if some_family.projected:  # Kaufman's approximation leaves a small part of it out
        diagonal = np.arange(len(params))
        assert (local.hessian[diagonal, diagonal] <= 1.001 * wanted[diagonal, diagonal]).all()
    else:
        np.testing.assert_allclose(local.hessian, wanted, rtol=1e-4, atol=1e-4)


def test_replayed_residuals_of_a_whole_series_are_those_of_the_batch(some_family: Family) -> None:
    problem, z = problem_of(some_family, walks()[[0, 1, 4, 5]])
    params = inner_params(some_family)[:, [0, 1, 4, 5]]
    batch = arma.residuals(some_family, problem, some_family.coefficients(params)).e
    same, e = arma.replay(some_family, problem, z, params)
    np.testing.assert_allclose(same, z, atol=1e-8)
    np.testing.assert_allclose(e, batch, atol=1e-7)


def test_a_missing_instant_has_no_residual_and_the_expected_value(some_family: Family) -> None:
    problem, z = problem_of(some_family, walks())
    params = inner_params(some_family)
    filled, e = arma.replay(some_family, problem, z, params)
    assert problem.weight is not None
    assert (e[problem.weight == 0.0] == 0.0).all()
    present = problem.weight > 0.0
    np.testing.assert_allclose(filled[present], z[present], atol=1e-8)
    assert (filled[30:40, 2] != z[30:40, 2]).any()


def test_whittle_starts_near_the_best_of_its_points() -> None:
    one = family(1, 1, 1)
    problem, _ = problem_of(one, walks()[4:])
    start = arma.whittle_start(one, problem)
    costs = np.array(
        [
            arma.local_model(one, problem, np.repeat(point[:, None], 4, axis=1)).cost
            for point in one.points.T
        ]
    )
    found = arma.local_model(one, problem, start).cost
    assert (found <= 1.05 * costs.min(axis=0)).all()


def test_the_spectrum_is_that_of_the_transfer_function() -> None:
    coefficients = family(2, 1, 1).coefficients(np.array([[0.5], [-0.3], [0.4]]))
    frequencies = np.array([0.1, 1.0, 3.0])
    turn = np.exp(-1j * frequencies)
    ar, ma = coefficients.ar[:, 0], coefficients.ma[:, 0]
    wanted = np.abs(1 - ar[0] * turn - ar[1] * turn**2) ** 2 / np.abs(1 + ma[0] * turn) ** 2
    np.testing.assert_allclose(arma.spectrum(coefficients, frequencies)[:, 0], wanted)


def test_a_drift_is_believed_only_beyond_doubt() -> None:
    random = np.random.default_rng(3)
    line = 0.5 * np.arange(200.0)
    noisy_line = line + random.normal(size=(20, 200))
    walk = np.cumsum(random.normal(size=(200, 200)), axis=1)
    prepared = arma.prepare(np.concatenate([noisy_line, walk]))
    drift = arma.certain_drift(prepared) * prepared.scale
    np.testing.assert_allclose(drift[:20], 0.5, atol=0.05)
    assert (drift[20:] == 0.0).mean() > 0.97


def test_more_series_than_a_chunk_are_fitted_as_fewer() -> None:
    random = np.random.default_rng(4)
    y = np.cumsum(random.normal(size=(arma.CHUNK + 3, 30)), axis=1)
    y[-1, 4:9] = np.nan
    one = family(1, 1, 1)
    together = arma.fit(one, arma.prepare(y), robust=True)
    alone = arma.fit(one, arma.prepare(y[-3:]), robust=True)
    np.testing.assert_allclose(together.params[:, -3:], alone.params, atol=1e-6)
    np.testing.assert_allclose(together.e[-3:], alone.e, atol=1e-6)
