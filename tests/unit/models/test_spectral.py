"""Sums over frequencies against the recursion over time that they stand for."""

from dataclasses import replace

import numpy as np
import pytest

from sidecar.models import arma, fitting, spectral, together
from sidecar.models.arma import Family, Problem
from sidecar.models.holt import ExponentialSmoothingModel
from sidecar.models.holt_family import Form, holt_family
from sidecar.series import FloatArray

N = 6
DAMPED = holt_family(Form(damped=True, textbook=True))
STRAIGHT = holt_family(Form(damped=False, textbook=True))
families = pytest.mark.parametrize("family", [DAMPED, STRAIGHT], ids=["damped", "straight"])
# Of even and odd length, and more series than are summed at once.
sizes = pytest.mark.parametrize(("series", "size"), [(N, 60), (N, 61), (spectral.CHUNK + 3, 30)])


def walks(series: int = N, size: int = 60, seed: int = 1) -> FloatArray:
    random = np.random.default_rng(seed)
    return np.cumsum(random.normal(size=(series, size)), axis=1) + random.normal(
        size=(series, size)
    )


def problem_of(family: Family, y: FloatArray) -> Problem:
    return arma.make_problem(family, arma.prepare(y))


def params_of(family: Family, series: int) -> FloatArray:
    """Some in the box, the first and the second in two of its corners."""
    lower, upper = family.lower[:, None], family.upper[:, None]
    share = np.random.default_rng(2).uniform(size=(len(lower), series))
    share[:, 0], share[:, 1] = 0.0, 1.0
    return np.asarray(lower + share * (upper - lower))


@families
@sizes
def test_the_local_model_is_that_of_the_recursion(family: Family, series: int, size: int) -> None:
    problem, params = problem_of(family, walks(series, size)), params_of(family, series)
    spectra = spectral.transformed(family, problem.x)
    found = spectral.local_model(family, spectra, params, np.arange(series))
    wanted = together.local_model(family, problem, params)
    np.testing.assert_allclose(found.cost, wanted.cost, rtol=1e-9)
    for name in ("gradient", "hessian"):
        one, other = getattr(found, name), getattr(wanted, name)
        np.testing.assert_array_less(np.abs(one - other), 1e-5 * (np.abs(other) + wanted.cost))


@families
def test_rows_are_those_that_were_asked_for(family: Family) -> None:
    problem, params = problem_of(family, walks()), params_of(family, N)
    spectra = spectral.transformed(family, problem.x)
    rows = np.array([4, 1, 1])
    every = spectral.local_model(family, spectra, params, np.arange(N))
    some = spectral.local_model(family, spectra, params[:, rows], rows)
    np.testing.assert_allclose(some.cost, every.cost[rows])
    np.testing.assert_allclose(some.hessian, every.hessian[:, :, rows])


@families
def test_the_grid_costs_what_the_recursion_says(family: Family) -> None:
    problem = problem_of(family, walks())
    costs = spectral.grid_costs(family, spectral.transformed(family, problem.x))
    assert costs.shape == (N, *family.grid.shape[1:])
    points = family.grid.reshape(len(family.grid), -1).T
    for point, found in zip(points, costs.reshape(N, -1).T, strict=True):
        wanted = together.judge(family, problem, np.repeat(point[:, None], N, axis=1)).cost
        np.testing.assert_allclose(found, wanted, rtol=1e-7)


@families
def test_no_search_by_the_recursion_from_any_point_ends_lower(family: Family) -> None:
    problem = problem_of(family, walks(size=40))
    params = spectral.search(family, problem, None, 0)
    found = together.judge(family, problem, params).cost
    points = family.grid.reshape(len(family.grid), -1)[:, ::5]
    for point in points.T:
        start = np.repeat(point[:, None], N, axis=1)
        other = together.search(family, problem, start, 40)
        assert (found <= 1.01 * other.cost).all()


@families
def test_a_warm_start_is_followed_and_what_has_none_starts_from_the_grid(family: Family) -> None:
    problem = problem_of(family, walks())
    cold = spectral.search(family, problem, None, 0)
    warm = cold.copy()
    warm[0, 2], warm[:, 4] = np.nan, np.nan
    again = spectral.search(family, problem, warm, 0)
    np.testing.assert_allclose(again, cold, rtol=1e-6)
    centre = (family.lower + family.upper) / 2
    elsewhere = np.repeat(centre[:, None], N, axis=1)
    kept = spectral.search(family, problem, elsewhere, 0)
    np.testing.assert_array_equal(kept, elsewhere)
    moved = spectral.search(family, problem, elsewhere, 30)
    costs = [together.judge(family, problem, params).cost for params in (moved, elsewhere)]
    assert (costs[0] < costs[1]).all()


def test_only_a_free_past_of_a_known_order_is_searched_so() -> None:
    assert spectral.applies(DAMPED)
    assert not spectral.applies(holt_family(Form(damped=True)))
    assert not spectral.applies(holt_family(Form(damped=True, season=4, textbook=True)))
    assert not spectral.applies(replace(DAMPED, projected=1))


def test_series_that_begin_late_or_have_gaps_are_fitted_beside_whole_ones() -> None:
    y = walks(12, 80)
    y[3, :30] = np.nan
    y[5, 40:50] = np.nan
    fit = fitting.fit(STRAIGHT, arma.prepare(y), robust=False, solver=together)
    whole = np.delete(np.arange(12), [3, 5])
    apart = fitting.fit(STRAIGHT, arma.prepare(y[whole]), robust=False, solver=together)
    np.testing.assert_allclose(fit.cost[whole], apart.cost, rtol=1e-9)
    np.testing.assert_allclose(fit.e[whole], apart.e, atol=1e-9)
    late = fitting.fit(STRAIGHT, arma.prepare(y[3:4, 30:]), robust=False, solver=together)
    scale = arma.prepare(y).scale[3] / arma.prepare(y[3:4, 30:]).scale[0]
    np.testing.assert_allclose(fit.cost[3] * scale**2, late.cost[0], rtol=2e-3)


def test_a_series_that_begins_late_on_a_slope_is_searched_to_its_end() -> None:
    y = walks(8, 80) + 20.0 * np.arange(80)
    y[:, :30] = np.nan
    y[0] = walks(1, 80)[0]
    prepared = arma.prepare(y)
    fit = fitting.fit(STRAIGHT, prepared, robust=False, solver=together)
    alone = arma.prepare(y[1:, 30:])
    apart = fitting.fit(STRAIGHT, alone, robust=False, solver=together)
    ratio = fit.cost[1:] / apart.cost * (prepared.scale[1:] / alone.scale) ** 2
    assert (ratio <= 1.05).all()


@pytest.mark.parametrize("damped", [True, False])
def test_constants_and_lines_are_fitted_without_complaint(damped: bool) -> None:
    t_ms = 60_000 * np.arange(1, 41, dtype=np.int64)
    y = np.array([np.full(40, 7.0), 100.0 + 0.5 * np.arange(40), np.zeros(40)] * 3)
    model = ExponentialSmoothingModel(damped=damped, initial="fitted", robust=False)
    got = model.forecast(model.fit(t_ms, y), t_ms[-1] + t_ms[:3])
    np.testing.assert_allclose(got.mean[0], 7.0, atol=1e-9)
    np.testing.assert_allclose(got.mean[2], 0.0, atol=1e-9)
    assert np.isfinite(got.mean).all()
    if not damped:
        np.testing.assert_allclose(got.mean[1], 100.0 + 0.5 * np.arange(40, 43), atol=1e-6)
