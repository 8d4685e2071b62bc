import pickle
from dataclasses import fields

import numpy as np
import pytest

from sidecar.models.composite import composite, flat, part
from sidecar.models.contract import State, concat, from_arrays, take, to_arrays
from sidecar.models.naive import NaiveState


def naive(n: int) -> NaiveState:
    return NaiveState(np.arange(n), np.ones(n), np.linspace(0, 1, n), np.zeros(n, np.int64))


def nested(n: int) -> State:
    inner = composite(State, left=NaiveState, right=NaiveState)
    outer = composite(NaiveState, inner=inner)
    one = naive(n)
    within = inner(one.last_ms, one.sigma, **flat("left", one), **flat("right", one))
    return outer(**{f.name: getattr(one, f.name) for f in fields(one)}, **flat("inner", within))


def test_equal_parts_make_one_type() -> None:
    assert composite(State, a=NaiveState) is composite(State, a=NaiveState)
    assert composite(State, a=NaiveState) is not composite(State, b=NaiveState)


def test_a_part_comes_out_as_it_went_in_without_a_copy() -> None:
    one = naive(3)
    whole = composite(State, only=NaiveState)(one.last_ms, one.sigma, **flat("only", one))
    got = part(whole, "only", NaiveState)
    assert got.value is one.value


def test_everything_that_handles_a_state_handles_a_nested_one() -> None:
    state = nested(4)
    assert "inner_left_value" in to_arrays(state)
    again = from_arrays(type(state), to_arrays(state))
    joined = concat([take(again, np.array([0, 1])), take(again, np.array([2, 3]))])
    for name, array in to_arrays(state).items():
        np.testing.assert_array_equal(to_arrays(joined)[name], array)


def test_a_stored_state_that_lacks_a_part_is_refused() -> None:
    arrays = to_arrays(nested(2))
    del arrays["inner_right_sigma"]
    with pytest.raises(KeyError, match="inner_right_sigma"):
        from_arrays(type(nested(2)), arrays)


def test_a_state_finds_its_type_again_in_another_process() -> None:
    state = nested(2)
    copy = pickle.loads(pickle.dumps(state))
    assert type(copy) is type(state)
    np.testing.assert_array_equal(copy.inner_left_value, state.inner_left_value)  # type: ignore[attr-defined]
