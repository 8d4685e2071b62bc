"""The batched search against SciPy's, one problem at a time."""

import numpy as np
from scipy.optimize import least_squares

from sidecar.models.levenberg import Local, bounded_step, minimise
from sidecar.models.numeric import IntArray
from sidecar.series import FloatArray

N, T = 40, 30
X = np.linspace(0.0, 3.0, T)
LOWER, UPPER = np.array([-1.0, 0.05]), np.array([2.0, 1.5])


def curve(params: FloatArray) -> FloatArray:
    """a exp(-b x), for one series."""
    return np.asarray(params[0] * np.exp(-params[1] * X))


def observed() -> FloatArray:
    """(N, T), of parameters inside and outside the box."""
    random = np.random.default_rng(1)
    true = np.array([random.uniform(-1.5, 2.5, N), random.uniform(0.0, 2.0, N)])
    return np.array([curve(params) for params in true.T]) + 0.05 * random.normal(size=(N, T))


def distance(params: FloatArray, values: FloatArray) -> FloatArray:
    return curve(params) - values


def evaluate(y: FloatArray, params: FloatArray, rows: IntArray) -> Local:
    fade = np.exp(-np.outer(X, params[1]))
    residual = params[0] * fade - y[rows].T
    slopes = np.array([fade, -X[:, None] * params[0] * fade])
    return Local(
        cost=np.einsum("tn,tn->n", residual, residual),
        gradient=np.einsum("ptn,tn->pn", slopes, residual),
        hessian=np.einsum("ptn,qtn->pqn", slopes, slopes),
        extra=residual[:2],
    )


def search(y: FloatArray, steps: int = 60) -> FloatArray:
    start = np.tile([[0.5], [0.5]], len(y))

    def of_y(params: FloatArray, rows: IntArray) -> Local:
        return evaluate(y, params, rows)

    params, there = minimise(of_y, start, LOWER[:, None], UPPER[:, None], steps, 1e-9)
    best = evaluate(y, params, np.arange(len(y)))
    np.testing.assert_allclose(there.cost, best.cost)
    np.testing.assert_allclose(there.extra, best.extra)
    return params


def test_every_problem_ends_where_scipy_does_bounds_included() -> None:
    y = observed()
    found = search(y)
    at_bound = 0
    for row in range(N):
        alone = least_squares(distance, [0.5, 0.5], bounds=(LOWER, UPPER), args=(y[row],))
        cost = ((curve(found[:, row]) - y[row]) ** 2).sum()
        np.testing.assert_allclose(cost, 2.0 * alone.cost, rtol=1e-4)
        at_bound += bool(
            (np.isclose(found[:, row], LOWER) | np.isclose(found[:, row], UPPER)).any()
        )
    assert at_bound > 5


def test_the_search_never_leaves_the_box_nor_climbs() -> None:
    y = observed()
    costs = []
    for steps in range(8):
        params = search(y, steps)
        assert (params >= LOWER[:, None]).all()
        assert (params <= UPPER[:, None]).all()
        costs.append(evaluate(y, params, np.arange(N)).cost)
    assert (np.diff(np.array(costs), axis=0) <= 0.0).all()


def test_problems_do_not_influence_each_other() -> None:
    y = observed()
    together = search(y)
    for row in (0, 7, 20):
        np.testing.assert_allclose(search(y[row : row + 1])[:, 0], together[:, row], rtol=1e-9)


def test_only_problems_that_still_move_are_evaluated_again() -> None:
    y, sizes = observed(), []

    def counted(params: FloatArray, rows: IntArray) -> Local:
        sizes.append(len(rows))
        return evaluate(y, params, rows)

    start = np.tile([[0.5], [0.5]], N)
    minimise(counted, start, LOWER[:, None], UPPER[:, None], 60, 1e-6)
    assert sizes[0] == N
    assert sizes[-1] < N
    assert sizes == sorted(sizes, reverse=True)


def test_a_step_that_would_leave_the_box_is_the_best_of_those_that_stay() -> None:
    hessian = np.array([[1.0, 0.9], [0.9, 1.0]])
    gradient = -hessian @ np.array([2.0, 1.0])  # the least cost lies at (2, 1), outside
    local = Local(
        cost=np.array([10.0]),
        gradient=gradient[:, None],
        hessian=hessian[:, :, None],
        extra=np.empty((0, 1)),
    )
    edge = np.array([[0.5], [9.0]])
    step, promised = bounded_step(local, np.zeros((2, 1)), -edge, edge, np.zeros(1))
    wanted = np.array([0.5, 1.0 + 0.9 * 1.5])  # the second moves on for what the first may not
    np.testing.assert_allclose(step[:, 0], wanted)
    np.testing.assert_allclose(promised, -2 * gradient @ wanted - wanted @ hessian @ wanted)
