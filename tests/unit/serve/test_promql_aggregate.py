"""Aggregations against a twin that takes each step on its own."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.series import FloatArray, LabelSet
from sidecar.serve.promql.aggregate import aggregate, plain_number
from sidecar.serve.promql.frames import UNBOUNDED, QueryError
from tests.unit.serve.promql_twin import (
    NUMBERS,
    Vector,
    close,
    fold,
    frame_of,
    grouped,
    same,
    steps_of,
)

SERIES = [
    LabelSet.of({"__name__": name, "i": i, "z": z})
    for name in ("x", "y")
    for i in ("a", "b")
    for z in ("", "n")
]
STEPS = st.lists(
    st.dictionaries(st.sampled_from(SERIES), NUMBERS, max_size=8), min_size=1, max_size=4
)
GROUPINGS = st.sampled_from([(), ("i",), ("z",), ("i", "z"), ("__name__",), ("nowhere",)])


@settings(deadline=None)
@given(
    STEPS,
    st.sampled_from(["sum", "avg", "min", "max", "count", "group", "stddev", "stdvar"]),
    st.booleans(),
    GROUPINGS,
)
def test_each_group_is_folded_at_each_step(
    steps: list[Vector], op: str, without: bool, grouping: tuple[str, ...]
) -> None:
    with np.errstate(all="ignore"):
        ours = aggregate(op, frame_of(steps, SERIES), without, grouping, UNBOUNDED)
    theirs = [
        {
            group: fold(op, [step[one] for one in members])
            for group, members in grouped(step, without, grouping).items()
        }
        for step in steps
    ]
    assert same(steps_of(ours), theirs)


@settings(deadline=None)
@given(STEPS, st.sampled_from([-1.0, 0.0, 0.25, 0.9, 1.0, 2.0, math.nan]), GROUPINGS)
def test_quantiles_interpolate_between_ranks(
    steps: list[Vector], phi: float, grouping: tuple[str, ...]
) -> None:
    param = np.full(len(steps), phi)
    with np.errstate(all="ignore"):
        ours = aggregate("quantile", frame_of(steps, SERIES), False, grouping, UNBOUNDED, param)
    theirs = [
        {
            group: fold("quantile", [step[one] for one in members], phi)
            for group, members in grouped(step, False, grouping).items()
        }
        for step in steps
    ]
    assert same(steps_of(ours), theirs)


def test_a_quantile_may_be_another_one_at_each_step() -> None:
    steps: list[Vector] = [{SERIES[0]: 1.0, SERIES[1]: 2.0}] * 3
    param = np.array([0.0, 0.0, 1.0])
    ours = aggregate("quantile", frame_of(steps), False, (), UNBOUNDED, param)
    assert ours.values.tolist() == [[1.0, 1.0, 2.0]]


@settings(deadline=None)
@given(STEPS, st.integers(0, 5), st.booleans(), GROUPINGS)
def test_the_k_extreme_members_of_each_group_are_kept(
    steps: list[Vector], k: int, largest: bool, grouping: tuple[str, ...]
) -> None:
    op = "topk" if largest else "bottomk"
    param = np.full(len(steps), float(k))
    frame = frame_of(steps, SERIES)
    ours = steps_of(aggregate(op, frame, False, grouping, UNBOUNDED, param))
    for kept, step in zip(ours, steps, strict=True):
        assert kept.items() <= _comparable(step).items() or same([kept], [_taken(step, kept)])
        for members in grouped(step, False, grouping).values():
            chosen = sorted(_rank(step[one], largest) for one in members if one in kept)
            best = sorted(_rank(step[one], largest) for one in members)[:k]
            assert chosen == best


def _comparable(step: Vector) -> Vector:
    return {one: value for one, value in step.items() if not math.isnan(value)}


def _taken(step: Vector, kept: Vector) -> Vector:
    return {one: step[one] for one in kept}


def _rank(value: float, largest: bool) -> tuple[bool, float]:
    """NaN last, whichever end is asked for."""
    if math.isnan(value):
        return True, 0.0
    return False, (-value if largest else value) + 0.0


def test_an_instant_query_sees_the_extremes_ranked_group_by_group() -> None:
    step = {SERIES[0]: 1.0, SERIES[1]: 3.0, SERIES[2]: 2.0, SERIES[4]: 9.0}
    found = aggregate("topk", frame_of([step]), False, ("__name__",), UNBOUNDED, np.array([2.0]))
    assert found.values[:, 0].tolist() == [3.0, 2.0, 9.0]


@pytest.mark.parametrize("k", [math.nan, math.inf, -math.inf, 1e300])
def test_a_k_that_is_no_int64_is_an_error(k: float) -> None:
    frame = frame_of([{SERIES[0]: 1.0}])
    with pytest.raises(QueryError, match="overflows int64"):
        aggregate("topk", frame, False, (), UNBOUNDED, np.array([k]))


def test_a_k_that_is_no_number_matters_only_where_there_is_something_to_choose_from() -> None:
    frame, k = frame_of([{SERIES[0]: 1.0}, {}]), np.array([1.0, math.nan])
    found = aggregate("topk", frame, False, (), UNBOUNDED, k)
    assert steps_of(found) == [{SERIES[0]: 1.0}, {}]
    with pytest.raises(QueryError, match="overflows int64"):
        aggregate("topk", frame, False, (), UNBOUNDED, k, since_3=False)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_alone_and_not_finite_deviated_by_nothing_before_prometheus_3(value: float) -> None:
    alone, both = frame_of([{SERIES[0]: value}]), frame_of([{SERIES[0]: value, SERIES[1]: 1.0}])
    with np.errstate(all="ignore"):
        for frame, since_3, expected in (
            (alone, False, 0.0),
            (alone, True, math.nan),
            (both, False, math.nan),
        ):
            found = aggregate("stddev", frame, False, (), UNBOUNDED, since_3=since_3)
            assert close(found.values[0, 0], expected), (since_3, expected)


@settings(deadline=None)
@given(STEPS, st.booleans(), GROUPINGS)
def test_values_are_counted_by_how_they_are_written(
    steps: list[Vector], without: bool, grouping: tuple[str, ...]
) -> None:
    ours = aggregate("count_values", frame_of(steps, SERIES), without, grouping, UNBOUNDED, "v")
    theirs = []
    for step in steps:
        counted: Vector = {}
        for one, value in step.items():
            kept = {
                n: v
                for n, v in one.pairs
                if (n not in grouping and n != "__name__" if without else n in grouping)
            }
            group = LabelSet.of({**kept, "v": plain_number(value)})
            counted[group] = counted.get(group, 0) + 1
        theirs.append(counted)
    assert same(steps_of(ours), theirs)


def test_a_label_that_cannot_be_one_is_an_error() -> None:
    with pytest.raises(QueryError, match="invalid label name"):
        aggregate("count_values", frame_of([{}]), False, (), UNBOUNDED, "1x")


@settings(deadline=None)
@given(st.floats())
def test_a_plain_number_reads_back_and_has_no_exponent(value: float) -> None:
    text = plain_number(value)
    assert close(float(text), value)
    assert "e" not in text
    if math.isfinite(value):
        assert Decimal(text) == Decimal(repr(value))


@pytest.mark.parametrize("op", ["sum", "quantile", "topk", "count_values"])
def test_nothing_aggregates_to_nothing(op: str) -> None:
    params: dict[str, FloatArray | str] = {
        "quantile": np.zeros(2),
        "topk": np.ones(2),
        "count_values": "v",
    }
    param = params.get(op)
    found = aggregate(op, frame_of([{}, {}]), False, (), UNBOUNDED, param)
    assert found.labels == ()
    assert found.values.shape == (0, 2)
