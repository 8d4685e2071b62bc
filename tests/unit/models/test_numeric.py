"""Small numeric helpers: missing values, outliers, tiny solves, interval widths."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.models.numeric import (
    first_present,
    gaussian_intervals,
    interpolate,
    lead_deviation,
    missing_at_end,
    solve,
    without_towers,
)

NAN = np.nan


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]),
        ([1.0, NAN, NAN, 4.0], [1.0, 2.0, 3.0, 4.0]),
        ([NAN, NAN, 5.0, 6.0], [5.0, 5.0, 5.0, 6.0]),
        ([5.0, 7.0, NAN, NAN], [5.0, 7.0, 7.0, 7.0]),
        ([NAN, NAN], [0.0, 0.0]),
        ([np.inf, 1.0, -np.inf, 3.0], [1.0, 1.0, 2.0, 3.0]),
    ],
)
def test_missing_values_lie_between_their_neighbours(row: list[float], wanted: list[float]) -> None:
    y = np.array([row, row])
    np.testing.assert_array_equal(interpolate(y, np.isfinite(y)), [wanted, wanted])


def test_where_values_begin_and_end() -> None:
    present = np.array([[0, 0, 1, 0], [1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], dtype=bool)
    assert first_present(present).tolist() == [2, 0, 1, 0]
    assert missing_at_end(present)[:3].tolist() == [1, 0, 0]


@given(st.integers(1, 6), st.integers(0, 1000))
def test_many_small_systems_are_solved_as_one_by_one(size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    roots = random.normal(size=(4, size, size + 2))
    matrices = roots @ roots.transpose(0, 2, 1)
    right = random.normal(size=(4, size, 2))
    together = solve(matrices.transpose(1, 2, 0).copy(), right.transpose(1, 2, 0).copy())
    np.testing.assert_allclose(
        together.transpose(2, 0, 1), np.linalg.solve(matrices, right), rtol=1e-4, atol=1e-6
    )


def test_dependent_columns_leave_an_unknown_at_zero() -> None:
    matrix = np.array([[1.0, 1.0], [1.0, 1.0]])[:, :, None]
    solution = solve(matrix, np.array([[[3.0]], [[3.0]]]))
    np.testing.assert_allclose(solution[:, 0, 0], [3.0, 0.0])


def test_a_value_that_towers_over_all_others_is_replaced_and_no_busy_minute_is() -> None:
    random = np.random.default_rng(1)
    y = random.normal(size=(4, 200))
    y[0, 17] = 1000.0
    y[1, [3, 199]] = -500.0, 900.0
    y[2, 50:60] = 1000.0
    y[3, 9] = 20.0
    calm = without_towers(y)
    assert np.argwhere(calm != y).tolist() == [[0, 17], [1, 3], [1, 199]]
    assert calm[0, 17] == pytest.approx((y[0, 16] + y[0, 18]) / 2.0)
    assert calm[1, 199] == y[1, 198]


def test_a_row_without_towers_is_returned_as_it_is() -> None:
    y = np.random.default_rng(2).normal(size=(3, 60))
    assert without_towers(y) is y


def test_a_short_history_has_no_towers() -> None:
    y = np.array([[1.0, 1.0, 1.0, 1e9]])
    assert without_towers(y) is y


def test_values_that_are_not_finite_hide_no_tower_and_stay() -> None:
    y = np.random.default_rng(3).normal(size=(2, 60))
    y[0, [4, 9]], y[0, 17] = [np.inf, NAN], 1000.0
    y[1, :] = -np.inf
    calm = without_towers(y)
    assert abs(calm[0, 17]) < 10.0
    assert np.isfinite(calm).tolist() == np.isfinite(y).tolist()


def test_intervals_cover_their_level_and_never_shrink() -> None:
    mean, deviation = np.zeros((1, 3)), np.array([[1.0, 0.5, 2.0]])
    result = gaussian_intervals(mean, deviation, 0.95)
    np.testing.assert_allclose(result.upper[0], 1.959964 * np.array([1.0, 1.0, 2.0]), rtol=1e-6)
    np.testing.assert_array_equal(result.lower, -result.upper)


def test_uncertainty_after_a_gap_is_that_of_the_later_lead() -> None:
    weights = np.ones((7, 2))
    deviation = lead_deviation(weights, np.array([1.0, 2.0]), np.array([0, 3]))
    np.testing.assert_allclose(deviation[0], np.sqrt([1, 2, 3, 4]))
    np.testing.assert_allclose(deviation[1], 2.0 * np.sqrt([4, 5, 6, 7]))


@pytest.mark.parametrize("where", [(0,), (8, 16), (5, 287)])
def test_towers_are_seen_wherever_they_stand(where: tuple[int, ...]) -> None:
    y = np.random.default_rng(11).normal(size=(3, 288))
    towered = y.copy()
    towered[1, list(where)] += 1e4
    calm = without_towers(towered)
    assert np.abs(calm[1]).max() < 10.0
    np.testing.assert_array_equal(calm[[0, 2]], y[[0, 2]])
