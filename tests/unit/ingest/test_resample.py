"""The gauge kernel against an obviously right twin, and the boundaries by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import DataError
from sidecar.ingest import flat
from sidecar.ingest.resample import resample
from sidecar.names import Reason
from sidecar.series import STALE_NAN, Grid, LabelSet, RawSeries, is_stale

STALE = STALE_NAN


def series(samples: list[tuple[int, float]], **labels: str) -> RawSeries:
    """A series of (time in ms, value); its name is ``x`` unless the labels say otherwise."""
    times = np.array([t for t, _ in samples], dtype=np.int64)
    values = np.array([v for _, v in samples], dtype=np.float64)
    return RawSeries(LabelSet.of({"__name__": "x", **labels}), times, values)


def naive_resample(one: RawSeries, grid: Grid, staleness_ms: int) -> list[float]:
    """The docstring of ``resample``, word by word."""
    row = []
    for instant in grid.instants_ms.tolist():
        before = [i for i, t in enumerate(one.timestamps_ms.tolist()) if t <= instant]
        earlier = [
            i for i, t in enumerate(one.timestamps_ms.tolist()) if t <= instant - grid.step_ms
        ]
        newest = before[-1] if before else None
        if (
            newest is None
            or before == earlier
            or is_stale(one.values[newest : newest + 1])[0]
            or instant - int(one.timestamps_ms[newest]) > staleness_ms
            or not math.isfinite(one.values[newest])
        ):
            row.append(math.nan)
        else:
            row.append(float(one.values[newest]))
    return row


def row(samples: list[tuple[int, float]], grid: Grid, staleness_ms: int = 300_000) -> list[float]:
    values: list[float] = resample([series(samples)], grid, staleness_ms).values[0].tolist()
    return values


GRID = Grid(end_ms=40_000, step_ms=10_000, size=3)  # 20 s, 30 s, 40 s
NAN = math.nan


@pytest.mark.parametrize(
    ("why", "samples", "expected"),
    [
        ("a sample exactly at the instant counts", [(20_000, 1.0)], [1.0, NAN, NAN]),
        ("a sample just after it does not", [(20_001, 1.0)], [NAN, 1.0, NAN]),
        ("the newest of several", [(11_000, 1.0), (19_999, 2.0)], [2.0, NAN, NAN]),
        ("the previous instant's own sample is not new", [(10_000, 1.0)], [NAN, NAN, NAN]),
        ("one millisecond newer is", [(10_001, 1.0)], [1.0, NAN, NAN]),
        ("nothing before the first sample", [(35_000, 1.0)], [NAN, NAN, 1.0]),
        ("nothing from after the grid", [(40_001, 1.0)], [NAN, NAN, NAN]),
        ("no samples", [], [NAN, NAN, NAN]),
        ("a marker at the instant is a gap", [(19_000, 1.0), (20_000, STALE)], [NAN] * 3),
        ("a marker is not bridged", [(19_000, 1.0), (21_000, STALE)], [1.0, NAN, NAN]),
        ("a sample after a marker", [(19_000, STALE), (20_000, 1.0)], [1.0, NAN, NAN]),
        ("NaN is a missing value", [(19_000, 1.0), (20_000, NAN)], [NAN] * 3),
        ("infinity is a missing value", [(20_000, math.inf), (30_000, -math.inf)], [NAN] * 3),
        ("the sign of zero", [(20_000, -0.0)], [-0.0, NAN, NAN]),
        ("of one time twice the last", [(20_000, 1.0), (20_000, 2.0)], [2.0, NAN, NAN]),
    ],
)
def test_boundary(why: str, samples: list[tuple[int, float]], expected: list[float]) -> None:
    np.testing.assert_array_equal(row(samples, GRID), expected, err_msg=why)


def test_exactly_as_old_as_allowed_counts_and_one_millisecond_older_does_not() -> None:
    assert row([(15_000, 1.0)], GRID, staleness_ms=5_000)[0] == 1.0
    assert math.isnan(row([(14_999, 1.0)], GRID, staleness_ms=5_000)[0])


def test_series_come_out_sorted_by_labels_with_their_own_values() -> None:
    one, other = series([(20_000, 1.0)], a="2"), series([(20_000, 2.0)], a="10")
    batch = resample([one, other], GRID, 300_000)
    assert [label.get("a") for label in batch.labels] == ["10", "2"]
    assert batch.values[:, 0].tolist() == [2.0, 1.0]


def test_no_series_give_an_empty_batch() -> None:
    assert resample([], GRID, 300_000).values.shape == (0, 3)


def test_two_series_with_one_label_set_are_the_servers_fault() -> None:
    with pytest.raises(DataError, match=r'x\{a="1"\}') as caught:
        resample([series([], a="1"), series([], a="0"), series([], a="1")], GRID, 300_000)
    assert caught.value.reason is Reason.SOURCE_ERROR


def test_instants_before_the_epoch_are_on_the_grid_too() -> None:
    grid = Grid(end_ms=0, step_ms=10_000, size=2)
    assert row([(-10_000, 1.0), (-5_000, 2.0)], grid) == [1.0, 2.0]


VALUES = st.one_of(
    st.floats(-1e6, 1e6), st.sampled_from([NAN, math.inf, -math.inf, STALE, 0.0, -0.0, 1e308])
)


@st.composite
def many_series(draw: st.DrawFn) -> list[RawSeries]:
    """Up to five series with times from 0 to 100 s, some of them on the grid exactly."""
    raw = []
    for number in range(draw(st.integers(0, 5))):
        times = draw(
            st.lists(
                st.one_of(st.integers(0, 100_000), st.integers(0, 20).map(lambda n: n * 5_000)),
                unique=True,
                max_size=25,
            )
        )
        samples = [(t, draw(VALUES)) for t in sorted(times)]
        raw.append(series(samples, n=str(number)))
    return raw


GRIDS = st.builds(
    lambda end, step, size: Grid(end * step, step, size),
    end=st.integers(0, 12),
    step=st.sampled_from([5_000, 10_000, 7_000]),
    size=st.integers(1, 12),
)


@given(raw=many_series(), grid=GRIDS, staleness_ms=st.integers(0, 30_000))
def test_the_kernel_equals_its_twin(raw: list[RawSeries], grid: Grid, staleness_ms: int) -> None:
    batch = resample(raw, grid, staleness_ms)
    expected = [naive_resample(one, grid, staleness_ms) for one in raw]
    np.testing.assert_array_equal(batch.values, np.reshape(expected, (len(raw), grid.size)))
    np.testing.assert_array_equal(
        np.signbit(batch.values), np.signbit(np.reshape(expected, batch.values.shape))
    )


@given(raw=many_series(), grid=GRIDS)
def test_the_order_of_the_answer_does_not_matter(raw: list[RawSeries], grid: Grid) -> None:
    one, other = resample(raw, grid, 30_000), resample(raw[::-1], grid, 30_000)
    assert one.labels == other.labels
    np.testing.assert_array_equal(one.values, other.values)


@given(raw=many_series(), grid=GRIDS, block=st.integers(1, 30))
def test_the_size_of_a_block_does_not_matter(raw: list[RawSeries], grid: Grid, block: int) -> None:
    whole = resample(raw, grid, 30_000).values
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat, "_BLOCK_SAMPLES", block)
        np.testing.assert_array_equal(resample(raw, grid, 30_000).values, whole)
