"""A past read in slices is the past read at once."""

from functools import partial
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.ingest.counters import rates
from sidecar.ingest.history import HistoryBuilder
from sidecar.ingest.resample import resample
from sidecar.series import Grid, LabelSet, RawSeries

G = 60_000
GRID = Grid(100 * G, G, 60)
STALENESS = 2 * G
NAMES = ("a", "b", "c")


def series(name: str, times: list[int]) -> RawSeries:
    t = np.array(sorted(set(times)), dtype=np.int64)
    return RawSeries(LabelSet.of({"__name__": "x", "i": name}), t, np.sqrt(t.astype(np.float64)))


times = st.lists(st.integers(35 * G, 100 * G), min_size=1, max_size=80)


@given(
    samples=st.lists(times, min_size=1, max_size=3),
    cuts=st.lists(st.integers(36 * G, 100 * G), max_size=5),
    counter=st.booleans(),
)
@settings(max_examples=200)
def test_slices_give_what_one_reading_gives(
    samples: list[list[int]], cuts: list[int], counter: bool
) -> None:
    raw = [series(name, one) for name, one in zip(NAMES, samples, strict=False)]
    align = partial(rates if counter else resample, staleness_ms=STALENESS)
    builder = HistoryBuilder(GRID, align, 2 * G + STALENESS)
    edges = [0, *sorted(cuts), 200 * G]
    for low, high in pairwise(edges):
        slice_ = []
        for one in raw:
            inside = (one.timestamps_ms >= low) & (one.timestamps_ms < high)
            if inside.any():
                slice_.append(RawSeries(one.labels, one.timestamps_ms[inside], one.values[inside]))
        builder.add(slice_)
    found = builder.finish()
    whole = align(raw, GRID)
    assert found.labels == whole.labels
    np.testing.assert_array_equal(found.values, whole.values)


def test_a_series_that_appears_in_a_later_slice_has_a_row_with_nan_before() -> None:
    builder = HistoryBuilder(GRID, partial(resample, staleness_ms=STALENESS), 4 * G)
    builder.add([series("a", list(range(40 * G, 70 * G, G)))])
    builder.add([series("b", list(range(90 * G, 100 * G + 1, G)))])
    found = builder.finish()
    assert [one.get("i") for one in found.labels] == ["a", "b"]
    assert np.isnan(found.values[1, :49]).all()
    assert np.isfinite(found.values[1, 49:]).all()


def test_a_past_without_a_sample_has_no_series() -> None:
    builder = HistoryBuilder(GRID, partial(resample, staleness_ms=STALENESS), 4 * G)
    builder.add([])
    found = builder.finish()
    assert found.labels == ()
    assert found.values.shape == (0, 60)
