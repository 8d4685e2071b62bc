"""Counters to rates against an obviously right twin, and the boundaries by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.ingest import flat
from sidecar.ingest.counters import deltas, looks_like_counter, rates
from sidecar.series import STALE_NAN, Grid, LabelSet, RawSeries, is_stale

NAN, STALE = math.nan, STALE_NAN
GRID = Grid(end_ms=40_000, step_ms=10_000, size=3)  # 20 s, 30 s, 40 s


def series(samples: list[tuple[int, float]], **labels: str) -> RawSeries:
    times = np.array([t for t, _ in samples], dtype=np.int64)
    values = np.array([v for _, v in samples], dtype=np.float64)
    return RawSeries(LabelSet.of({"__name__": "x_total", **labels}), times, values)


def naive_change(one: RawSeries, grid: Grid, staleness_ms: int, resets: bool) -> list[float]:
    """The docstring of ``counters``, word by word: the change per second at each instant."""
    stale = is_stale(one.values)
    samples = [
        (int(t), float(v), bool(s))
        for t, v, s in zip(one.timestamps_ms, one.values, stale, strict=True)
        if s or math.isfinite(v)
    ]
    row = []
    for instant in grid.instants_ms.tolist():
        now = [s for s in samples if s[0] <= instant]
        then = [s for s in samples if s[0] <= instant - grid.step_ms]
        between = now[len(then) - 1 :] if then else []
        fresh = (
            len(now) > len(then) > 0
            and instant - now[-1][0] <= staleness_ms
            and instant - grid.step_ms - then[-1][0] <= staleness_ms
            and not any(is_end for _, _, is_end in between)
        )
        if not fresh:
            row.append(NAN)
            continue
        fell = any(b[1] < a[1] for a, b in pairwise(between))
        if resets and fell:
            grown = sum(b[1] - a[1] if b[1] >= a[1] else b[1] for a, b in pairwise(between))
        else:
            grown = now[-1][1] - then[-1][1]
        row.append(grown / ((now[-1][0] - then[-1][0]) / 1000))
    return row


def row(samples: list[tuple[int, float]], staleness_ms: int = 20_000) -> list[float]:
    values: list[float] = rates([series(samples)], GRID, staleness_ms).values[0].tolist()
    return values


@pytest.mark.parametrize(
    ("why", "samples", "expected"),
    [
        ("samples at the instants", [(10_000, 5.0), (20_000, 25.0)], [2.0, NAN, NAN]),
        ("the true distance, not the step", [(8_000, 0.0), (20_000, 24.0)], [2.0, NAN, NAN]),
        ("a missed instant is bridged", [(10_000, 0.0), (30_000, 40.0)], [NAN, 2.0, NAN]),
        ("a first sample has no rate", [(20_000, 7.0)], [NAN, NAN, NAN]),
        ("no growth is zero", [(10_000, 5.0), (20_000, 5.0)], [0.0, NAN, NAN]),
        (
            "a reset between instants counts from zero",
            [(10_000, 100.0), (13_000, 120.0), (16_000, 3.0), (20_000, 10.0)],
            [3.0, NAN, NAN],
        ),
        ("a reset at the instant", [(10_000, 100.0), (20_000, 10.0)], [1.0, NAN, NAN]),
        ("a reset to zero", [(10_000, 100.0), (20_000, 0.0)], [0.0, NAN, NAN]),
        (
            "the reset before is not counted again",
            [(10_000, 100.0), (20_000, 10.0), (30_000, 30.0)],
            [1.0, 2.0, NAN],
        ),
        (
            "growth between two instants' samples is not lost",
            [(9_000, 0.0), (11_000, 10.0), (19_000, 20.0)],
            [2.0, NAN, NAN],
        ),
        (
            "a marker between the two ends is never bridged",
            [(10_000, 0.0), (15_000, STALE), (20_000, 50.0), (30_000, 60.0)],
            [NAN, 1.0, NAN],
        ),
        (
            "a marker exactly at the earlier instant",
            [(9_000, 0.0), (10_000, STALE), (20_000, 50.0)],
            [NAN, NAN, NAN],
        ),
        (
            "a marker exactly at the instant",
            [(10_000, 0.0), (19_000, 5.0), (20_000, STALE), (30_000, 9.0)],
            [NAN, NAN, NAN],
        ),
        ("NaN counts as not there", [(10_000, 0.0), (19_000, 9.0), (20_000, NAN)], [1.0, NAN, NAN]),
        ("infinity too", [(10_000, 0.0), (15_000, math.inf), (20_000, 10.0)], [1.0, NAN, NAN]),
        ("no samples", [], [NAN, NAN, NAN]),
    ],
)
def test_boundary(why: str, samples: list[tuple[int, float]], expected: list[float]) -> None:
    np.testing.assert_allclose(row(samples), expected, rtol=1e-12, err_msg=why)


def test_the_earlier_end_may_be_exactly_as_old_as_allowed() -> None:
    assert row([(5_000, 0.0), (20_000, 30.0)], staleness_ms=5_000)[0] == 2.0
    assert math.isnan(row([(4_999, 0.0), (20_000, 30.0)], staleness_ms=5_000)[0])


def test_the_later_end_may_be_exactly_as_old_as_allowed() -> None:
    assert row([(10_000, 0.0), (15_000, 10.0)], staleness_ms=5_000)[0] == 2.0
    assert math.isnan(row([(10_000, 0.0), (14_999, 10.0)], staleness_ms=5_000)[0])


def test_a_large_counter_does_not_drown_a_small_one_with_resets() -> None:
    large = series([(10_000, 0.0), (20_000, 1e16)], n="1")
    small = series([(10_000, 3e-6), (15_000, 1e-6), (20_000, 2e-6)], n="2")
    batch = rates([large, small], GRID, 20_000)
    assert batch.values[1, 0] == pytest.approx(2e-7, rel=1e-9)


def test_the_difference_of_a_counter_without_reset_is_exact() -> None:
    samples = [(1_000 * n, 0.1 * n) for n in range(41)]
    expected = [(0.1 * n - 0.1 * (n - 10)) / 10 for n in (20, 30, 40)]
    assert row(samples) == expected


def test_a_change_of_a_gauge_may_be_negative_and_is_per_step() -> None:
    batch = deltas([series([(9_000, 5.0), (20_000, 16.0), (30_000, 6.0)])], GRID, 20_000)
    np.testing.assert_allclose(batch.values[0], [10.0, -10.0, NAN])


def test_a_difference_beyond_the_largest_number_is_missing() -> None:
    batch = deltas([series([(10_000, 1.7e308), (20_000, -1.7e308)])], GRID, 20_000)
    assert np.isnan(batch.values).all()


VALUES = st.one_of(
    st.integers(0, 50).map(float),
    st.floats(0, 1e9),
    st.sampled_from([NAN, math.inf, STALE, STALE, 0.0, 1e15]),
)


@st.composite
def counters(draw: st.DrawFn) -> list[RawSeries]:
    raw = []
    for number in range(draw(st.integers(0, 4))):
        times = draw(
            st.lists(
                st.one_of(st.integers(0, 100_000), st.integers(0, 20).map(lambda n: n * 5_000)),
                unique=True,
                max_size=30,
            )
        )
        raw.append(series([(t, draw(VALUES)) for t in sorted(times)], n=str(number)))
    return raw


GRIDS = st.builds(
    lambda end, step, size: Grid(end * step, step, size),
    end=st.integers(0, 12),
    step=st.sampled_from([5_000, 10_000, 7_000]),
    size=st.integers(1, 12),
)


@given(raw=counters(), grid=GRIDS, staleness_ms=st.integers(0, 30_000))
def test_the_kernel_equals_its_twin(raw: list[RawSeries], grid: Grid, staleness_ms: int) -> None:
    shape = (len(raw), grid.size)
    expected = [naive_change(one, grid, staleness_ms, resets=True) for one in raw]
    got = rates(raw, grid, staleness_ms).values
    np.testing.assert_allclose(got, np.reshape(expected, shape), rtol=1e-9, atol=1e-12)
    expected = [naive_change(one, grid, staleness_ms, resets=False) for one in raw]
    got = deltas(raw, grid, staleness_ms).values / (grid.step_ms / 1000)
    np.testing.assert_allclose(got, np.reshape(expected, shape), rtol=1e-9, atol=1e-12)


@given(raw=counters(), grid=GRIDS)
def test_a_rate_is_never_negative(raw: list[RawSeries], grid: Grid) -> None:
    values = rates(raw, grid, 30_000).values
    assert (values[~np.isnan(values)] >= 0).all()
    assert not np.isinf(values).any()


@given(raw=counters(), grid=GRIDS, block=st.integers(1, 30))
def test_the_size_of_a_block_does_not_matter(raw: list[RawSeries], grid: Grid, block: int) -> None:
    whole = rates(raw, grid, 30_000).values
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat, "_BLOCK_SAMPLES", block)
        np.testing.assert_allclose(rates(raw, grid, 30_000).values, whole, rtol=1e-12)


def history(*values: float) -> list[RawSeries]:
    return [series([(1_000 * n, value) for n, value in enumerate(values)])]


@pytest.mark.parametrize(
    ("why", "metric", "raw", "kind", "expected"),
    [
        ("metadata decides, whatever the name", "requests", history(5, 1), "counter", True),
        ("a gauge with a counter's name", "workers_total", history(1, 2), "gauge", False),
        ("the count of a histogram", "latency_count", history(1, 2), "histogram", True),
        ("a bucket of a histogram", "latency_bucket", history(1, 2), "histogram", True),
        ("a quantile of a summary", "latency", history(1, 2), "summary", False),
        ("a sum that falls", "delta_sum", history(9, 8, 9, 8, 7, 6), "histogram", False),
        ("a gauge histogram", "queue_count", history(1, 2), "gaugehistogram", False),
        ("a suffix and growth", "requests_total", history(1, 2, 2, 5), None, True),
        ("unknown metadata is none", "requests_total", history(1, 2), "unknown", True),
        ("growth without a suffix", "node_boot_time", history(1, 2), None, False),
        ("a suffix and falls", "memory_total", history(9, 8, 9, 8, 9, 8), None, False),
        ("a suffix and small falls", "memory_total", history(100, 99, 101), None, False),
        ("a suffix and a reset", "requests_total", history(90, 95, 2, 6), None, True),
        ("a suffix and a negative value", "temperature_sum", history(-1, 2), None, False),
        ("a suffix alone", "requests_total", [], None, True),
        ("only a marker", "requests_total", history(STALE), None, True),
        ("a constant", "errors_total", history(0, 0, 0), None, True),
    ],
)
def test_what_is_a_counter(
    why: str, metric: str, raw: list[RawSeries], kind: str | None, expected: bool
) -> None:
    assert looks_like_counter(metric, raw, kind) is expected, why
