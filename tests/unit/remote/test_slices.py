"""Slices of time cover the range once, and follow the budget."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.remote.slices import BLOCK_MS, HOUR_MS, SlicePlan


@settings(deadline=None)  # a busy machine is no mistake
@given(
    st.integers(0, 10**13),
    st.integers(0, 60 * 24 * HOUR_MS),
    st.floats(0, 1e3),
    st.one_of(st.none(), st.floats(0, 1e3)),
    st.data(),
)
def test_slices_cover_the_range_exactly_whatever_is_learned(
    start: int, length: int, seen: float, density: float | None, data: st.DataObject
) -> None:
    plan = SlicePlan(start, start + length, slice_samples=10**6, density=density)
    at = start
    for number, (first, last) in enumerate(plan):
        assert first == at
        assert first <= last <= start + length
        if number > 200:
            return
        if data.draw(st.booleans()):
            shorter = plan.shrink()
            if shorter is not None:
                assert shorter[0] == first
                assert shorter[1] < last
                last = shorter[1]
        plan.learn(seen, 10**6)
        at = last + 1
    assert at == start + length + 1


def test_an_unknown_selector_is_tried_with_an_hour() -> None:
    plan = SlicePlan(0, 100 * HOUR_MS, slice_samples=10**6, density=None)
    assert next(iter(plan)) == (0, HOUR_MS - 1)


def test_slices_grow_to_the_budget_and_end_at_block_borders() -> None:
    density = 1000 / HOUR_MS
    plan, ends = SlicePlan(0, 400 * HOUR_MS, slice_samples=20_000, density=None), []
    for _, last in plan:
        ends.append(last + 1)
        plan.learn(density, 20_000)
    lengths = [b - a for a, b in pairwise(ends)]
    assert max(lengths) == 20 * HOUR_MS
    assert all(end % BLOCK_MS == 0 for end in ends[1:-1])


def test_what_a_slice_may_hold_can_change() -> None:
    density = 1000 / HOUR_MS
    plan = SlicePlan(0, 100 * HOUR_MS, slice_samples=2_000, density=density)
    slices = iter(plan)
    assert next(slices) == (0, 2 * HOUR_MS - 1)
    plan.learn(density, 8_000)
    assert next(slices) == (2 * HOUR_MS, 10 * HOUR_MS - 1)
    plan.learn(density, 10**9)
    assert next(slices) == (10 * HOUR_MS, 74 * HOUR_MS - 1), "eight times as long"
    plan = SlicePlan(0, 100 * HOUR_MS, slice_samples=10**9, density=None)
    slices = iter(plan)
    assert next(slices) == (0, HOUR_MS - 1)
    plan.learn(density, 10**9, 24)
    assert next(slices) == (HOUR_MS, 24 * HOUR_MS - 1), "ends with a block"


def test_one_millisecond_is_not_cut_shorter() -> None:
    plan = SlicePlan(5, 5, slice_samples=1, density=1e9)
    assert next(iter(plan)) == (5, 5)
    assert plan.shrink() is None


def test_an_empty_range_has_no_slices() -> None:
    assert list(SlicePlan(10, 9, slice_samples=1, density=None)) == []
