"""Binary operators against the algorithm as Prometheus runs it, step by step and pair by pair."""

import math
import operator
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.series import LabelSet
from sidecar.serve.promql.binary import binary
from sidecar.serve.promql.frames import UNBOUNDED, Frame, QueryError, Scalar
from sidecar.serve.promql.syntax import COMPARISONS, Cardinality, Matching
from tests.unit.serve.promql_twin import NUMBERS, Vector, frame_of, same, steps_of

LEFT = [LabelSet.of({"__name__": "l", "i": i, "z": z}) for i in "ab" for z in ("", "n", "s")]
RIGHT = [LabelSet.of({"__name__": "r", "i": i, "z": z}) for i in "abc" for z in ("", "n")]
LEFTS = st.lists(
    st.dictionaries(st.sampled_from(LEFT), NUMBERS, max_size=4), min_size=3, max_size=3
)
RIGHTS = st.lists(
    st.dictionaries(st.sampled_from(RIGHT), NUMBERS, max_size=3), min_size=3, max_size=3
)
ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}
COMPARE: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}
MATCHINGS = st.builds(
    Matching,
    st.booleans(),
    st.sampled_from([(), ("i",), ("z",), ("i", "z")]),
    st.sampled_from([Cardinality.ONE_TO_ONE, Cardinality.MANY_TO_ONE, Cardinality.ONE_TO_MANY]),
    st.sampled_from([(), ("z",), ("new",)]),
).filter(lambda m: not m.include or m.cardinality is not Cardinality.ONE_TO_ONE)
SETS = st.builds(
    Matching,
    st.booleans(),
    st.sampled_from([(), ("i",), ("z",)]),
    st.just(Cardinality.MANY_TO_MANY),
)


class _Error(Exception):
    pass


def _key(one: LabelSet, matching: Matching) -> LabelSet:
    if matching.on:
        return LabelSet.of([pair for pair in one.pairs if pair[0] in matching.labels])
    return one.without("__name__", *matching.labels)


def _step(op: str, left: Vector, right: Vector, matching: Matching, return_bool: bool) -> Vector:
    """One step: the one side by key, then each of the many side."""
    if not left or not right:
        return {}
    swapped = matching.cardinality is Cardinality.ONE_TO_MANY
    many, one = (right, left) if swapped else (left, right)
    by_key: dict[LabelSet, LabelSet] = {}
    for other in one:
        if _key(other, matching) in by_key:
            raise _Error
        by_key[_key(other, matching)] = other
    result: Vector = {}
    matched: set[object] = set()
    for each, value in many.items():
        key = _key(each, matching)
        if key not in by_key:
            continue
        a, b = value, one[by_key[key]]
        a, b = (b, a) if swapped else (a, b)
        number, keep = (a, COMPARE[op](a, b)) if op in COMPARE else (ARITHMETIC[op](a, b), True)
        if return_bool:
            number = float(keep)
        elif not keep:
            continue
        labels = _metric(each, by_key[key], matching, return_bool or op in ARITHMETIC)
        one_to_one = matching.cardinality is Cardinality.ONE_TO_ONE
        seen: object = key if one_to_one else (key, labels)
        if seen in matched or labels in result:
            raise _Error
        matched.add(seen)
        result[labels] = number
    return result


def _metric(many: LabelSet, one: LabelSet, matching: Matching, drops_name: bool) -> LabelSet:
    kept = dict(many.pairs)
    if drops_name:
        kept.pop("__name__", None)
    if matching.cardinality is Cardinality.ONE_TO_ONE:
        kept = {n: v for n, v in kept.items() if (n in matching.labels) == matching.on}
    for name in matching.include:
        kept[name] = one.get(name)
    return LabelSet.of(kept)


@settings(deadline=None)
@given(LEFTS, RIGHTS, MATCHINGS, st.sampled_from([*ARITHMETIC, *COMPARE]), st.booleans())
def test_vectors_meet_as_prometheus_lets_them(
    left: list[Vector], right: list[Vector], matching: Matching, op: str, asks_bool: bool
) -> None:
    return_bool = asks_bool and op in COMPARISONS

    def ours() -> list[Vector]:
        with np.errstate(all="ignore"):
            found = binary(
                op, frame_of(left, LEFT), frame_of(right, RIGHT), matching, return_bool, UNBOUNDED
            )
        assert isinstance(found, Frame)
        return steps_of(found)

    try:
        theirs = [_step(op, a, b, matching, return_bool) for a, b in zip(left, right, strict=True)]
    except _Error:
        with pytest.raises(QueryError) as raised:
            ours()
        assert raised.value.error_type == "execution"
    else:
        assert same(ours(), theirs)


@settings(deadline=None)
@given(LEFTS, RIGHTS, SETS, st.sampled_from(["and", "or", "unless"]))
def test_set_operators_look_at_each_step_on_its_own(
    left: list[Vector], right: list[Vector], matching: Matching, op: str
) -> None:
    found = binary(op, frame_of(left, LEFT), frame_of(right, RIGHT), matching, False, UNBOUNDED)
    assert isinstance(found, Frame)
    theirs = []
    for a, b in zip(left, right, strict=True):
        keys_a, keys_b = ({_key(one, matching) for one in side} for side in (a, b))
        match op:
            case "and":
                theirs.append({o: v for o, v in a.items() if _key(o, matching) in keys_b})
            case "unless":
                theirs.append({o: v for o, v in a.items() if _key(o, matching) not in keys_b})
            case _:
                more = {o: v for o, v in b.items() if _key(o, matching) not in keys_a}
                theirs.append({**a, **more})
    assert same(steps_of(found), theirs)


def test_a_series_that_moves_from_one_side_to_the_other_is_one_series() -> None:
    one = LabelSet.of({"i": "a"})
    left, right = frame_of([{one: 1.0}, {}]), frame_of([{}, {one: 2.0}])
    many = Matching(cardinality=Cardinality.MANY_TO_MANY)
    found = binary("or", left, right, many, False, UNBOUNDED)
    assert isinstance(found, Frame)
    assert found.labels == (one,)
    assert found.values.tolist() == [[1.0, 2.0]]


@settings(deadline=None)
@given(LEFTS, NUMBERS, st.sampled_from([*ARITHMETIC, *COMPARE]), st.booleans(), st.booleans())
def test_a_vector_and_a_number(
    steps: list[Vector], number: float, op: str, asks_bool: bool, number_first: bool
) -> None:
    return_bool = asks_bool and op in COMPARISONS
    frame, scalar = frame_of(steps, LEFT), Scalar(np.full(len(steps), number))
    left, right = (scalar, frame) if number_first else (frame, scalar)
    with np.errstate(all="ignore"):
        found = binary(op, left, right, Matching(), return_bool, UNBOUNDED)
    assert isinstance(found, Frame)
    theirs = []
    for step in steps:
        result: Vector = {}
        for one, value in step.items():
            a, b = (number, value) if number_first else (value, number)
            if op in ARITHMETIC:
                result[one.without("__name__")] = ARITHMETIC[op](a, b)
            elif return_bool:
                result[one.without("__name__")] = float(COMPARE[op](a, b))
            elif COMPARE[op](a, b):
                result[one] = value
        theirs.append(result)
    assert same(steps_of(found), theirs)


@pytest.mark.parametrize(
    ("op", "a", "b", "expected"),
    [
        ("%", -7.0, 3.0, -1.0),
        ("%", 5.0, 0.0, math.nan),
        ("/", 1.0, 0.0, math.inf),
        ("/", 0.0, 0.0, math.nan),
        ("^", 2.0, 10.0, 1024.0),
        ("^", -8.0, 1 / 3, math.nan),
        ("atan2", 1.0, 1.0, math.pi / 4),
        ("==", 1.0, 1.0, 1.0),
        (">", 1.0, 2.0, 0.0),
        ("!=", math.nan, math.nan, 1.0),
    ],
)
def test_numbers_meet_as_in_go(op: str, a: float, b: float, expected: float) -> None:
    with np.errstate(all="ignore"):
        found = binary(
            op, Scalar(np.array([a])), Scalar(np.array([b])), Matching(), True, UNBOUNDED
        )
    assert isinstance(found, Scalar)
    np.testing.assert_equal(found.values, [expected])
