import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import WireError
from sidecar.series import LabelSet
from sidecar.wire.assemble import ALL_TIME, Assembler, Range
from tests.unit.wire.oracles import plain

A, B = LabelSet.of({"__name__": "a"}), LabelSet.of({"__name__": "b"})
Run = tuple[int, list[int]]


def assemble(runs: list[Run], *, limits: Range = ALL_TIME, blocks: int = 1) -> Assembler:
    """Runs of (series, timestamps); the values say in which order the samples came."""
    assembler = Assembler([limits])
    owners = {0: assembler.owner(0, A), 1: assembler.owner(0, B)}
    value = 0
    size = -(-len(runs) // blocks)
    for start in range(0, len(runs), max(size, 1)):
        some = runs[start : start + size]
        times = np.array([time for _, run in some for time in run], dtype=np.int64)
        values = np.arange(value, value + len(times), dtype=np.float64)
        value += len(times)
        lengths = np.array([len(run) for _, run in some], dtype=np.int64)
        starts = np.cumsum(lengths) - lengths
        assembler.add([owners[owner] for owner, _ in some], starts, times, values)
    return assembler


def series_of(assembler: Assembler) -> dict[str, list[tuple[int, float]]]:
    return {
        str(one.labels): list(zip(one.timestamps_ms.tolist(), one.values.tolist(), strict=True))
        for one in assembler.finish()[0]
    }


def naive(runs: list[Run], limits: Range) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, dict[int, float]] = {"a": {}, "b": {}}
    value = 0.0
    for owner, run in runs:
        for time in run:
            found["ab"[owner]][time] = value  # a later sample of an instant replaces the earlier
            value += 1
    inside = {
        name: sorted((t, v) for t, v in samples.items() if limits[0] <= t <= limits[1])
        for name, samples in found.items()
    }
    return {name: samples for name, samples in inside.items() if samples}


runs = st.lists(st.tuples(st.integers(0, 1), st.lists(st.integers(0, 20), max_size=6)), max_size=6)


@settings(deadline=None)
@given(runs, st.integers(-1, 21), st.integers(-1, 21), st.integers(1, 3))
def test_samples_come_out_sorted_once_an_instant_and_within_the_range(
    runs: list[Run], first: int, last: int, blocks: int
) -> None:
    assembler = assemble(runs, limits=(first, last), blocks=blocks)
    expected = naive(runs, (first, last))
    assert series_of(assembler) == expected
    total = sum(len(run) for _, run in runs)
    distinct = sum(len(samples) for samples in naive(runs, ALL_TIME).values())
    assert assembler.samples == sum(map(len, expected.values()))
    assert assembler.duplicates == total - distinct
    assert assembler.clipped == distinct - assembler.samples


def test_of_two_samples_of_one_instant_the_later_is_kept() -> None:
    assembler = assemble([(0, [1, 2, 2, 3])])
    assert series_of(assembler) == {"a": [(1, 0.0), (2, 2.0), (3, 3.0)]}
    assert assembler.duplicates == 1


def test_both_ends_of_a_range_belong_to_it() -> None:
    assert series_of(assemble([(0, [1, 2, 3, 4])], limits=(2, 3))) == {"a": [(2, 1.0), (3, 2.0)]}


def test_a_range_that_ends_before_it_begins_holds_nothing() -> None:
    assembler = assemble([(0, [1, 2, 3, 4])], limits=(3, 2))
    assert series_of(assembler) == {}
    assert assembler.clipped == 4


def test_an_earlier_run_that_comes_later_is_put_in_front() -> None:
    assert series_of(assemble([(0, [5, 6]), (1, [7]), (0, [1, 2])]))["a"] == [
        (1, 3.0),
        (2, 4.0),
        (5, 0.0),
        (6, 1.0),
    ]


def test_series_without_samples_are_left_out() -> None:
    assembler = assemble([(0, []), (1, [1])])
    assert assembler.series == 2
    assert list(plain(assembler.finish()[0])) == ["b"]


def test_the_same_labels_in_two_queries_are_two_series() -> None:
    assembler = Assembler([ALL_TIME, ALL_TIME])
    for query in (1, 0):
        owner = assembler.owner(query, A)
        start = np.zeros(1, dtype=np.int64)
        assembler.add([owner], start, np.array([query]), np.array([1.0]))
    assert [one[0].timestamps_ms.tolist() for one in assembler.finish()] == [[0], [1]]


@pytest.mark.parametrize("query", [-1, 2])
def test_a_series_of_a_query_that_was_not_asked_is_an_error(query: int) -> None:
    with pytest.raises(WireError, match=f"query {query}, 2 were asked"):
        Assembler([ALL_TIME, ALL_TIME]).owner(query, A)
