"""Counters to rates: how fast a series grew from one instant to the next.

At instant t, with g the step of the grid, *now* the newest sample at or before t and *then* the
newest at or before t - g::

    rate(t) = increase(then, now) / (time of now - time of then)

A counter that falls was reset: it began again at 0, so a fall to v is an increase by v. Both ends
must be fresh (no older than the staleness at t and at t - g), *now* must be newer than t - g, and
no staleness marker may lie between them: a series that ended and came back is not the same run of
a process. Unlike PromQL's ``rate(x[g])`` nothing is extrapolated, and the increase between the last
sample of one instant and the first of the next is not lost.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from sidecar.ingest.flat import Block, Runs, blocks, in_order, labels_of, runs_of
from sidecar.series import FloatArray, Grid, RawSeries, SeriesBatch, TimeArray, is_stale

COUNTER_SUFFIXES: Final = ("_total", "_count", "_sum", "_bucket")
# Of the steps of one series, how many may fall before it is no counter: a process that restarts
# every other scrape is not worth a rate.
_MOST_FALLS_RATIO: Final = 0.05
# A reset begins again near 0; a gauge that falls mostly does not fall that far.
_RESET_RATIO: Final = 0.5


def rates(raw: Sequence[RawSeries], grid: Grid, staleness_ms: int) -> SeriesBatch:
    """Counters as per-second rates, never negative; the module says how.

    Args:
        raw: one entry for each series; samples from two steps before the grid's first instant on
            are needed for its first rate.
        staleness_ms: the oldest age of either end.

    Returns:
        N series by T instants, sorted by labels; NaN where one of the two ends is missing. A sample
        that is not finite counts as not there.

    Raises:
        DataError: two entries carry the same label set.
    """
    return _changes(raw, grid, staleness_ms, handle_resets=True)


def deltas(raw: Sequence[RawSeries], grid: Grid, staleness_ms: int) -> SeriesBatch:
    """Gauges as their change per step of the grid, which may be negative; else as ``rates``.

    Where the two samples are not exactly one step apart, the change is scaled to one step.
    """
    batch = _changes(raw, grid, staleness_ms, handle_resets=False)
    return SeriesBatch(batch.labels, grid, batch.values * (grid.step_ms / 1000))


def _changes(
    raw: Sequence[RawSeries], grid: Grid, staleness_ms: int, *, handle_resets: bool
) -> SeriesBatch:
    ordered = in_order(raw)
    values = np.full((len(ordered), grid.size), np.nan)
    # Staleness markers are signalling NaNs, and 1e308 - -1e308 is no number: both end as NaN.
    with np.errstate(invalid="ignore", over="ignore"):
        for block in map(_usable, blocks(ordered)):
            runs, then = _with_predecessor(block, runs_of(block, grid), grid, staleness_ms)
            grown = block.values[runs.last] - block.values[then]
            if handle_resets:
                grown = _with_resets(block, then, runs.last, grown)
            elapsed_s = (block.timestamps_ms[runs.last] - block.timestamps_ms[then]) / 1000
            values[runs.rows, runs.slots] = grown / elapsed_s
    values[~np.isfinite(values)] = np.nan
    return SeriesBatch(labels_of(ordered), grid, values)


def _usable(block: Block) -> Block:
    """Without samples that are neither finite nor staleness markers."""
    kept = np.isfinite(block.values) | is_stale(block.values)
    if kept.all():
        return block
    return Block(block.rows[kept], block.timestamps_ms[kept], block.values[kept])


def _with_predecessor(
    block: Block, runs: Runs, grid: Grid, staleness_ms: int
) -> tuple[Runs, TimeArray]:
    """The runs that have both ends, and the position of *then* for each.

    The samples of a series lie one after the other, so *then* is the one before the run's first.
    """
    then = runs.first - 1
    instants = grid.start_ms + runs.slots * grid.step_ms
    stale = np.cumsum(is_stale(block.values))
    at = np.maximum(then, 0)
    both = (then >= 0) & (block.rows[at] == runs.rows)
    both &= instants - block.timestamps_ms[runs.last] <= staleness_ms
    both &= instants - grid.step_ms - block.timestamps_ms[at] <= staleness_ms
    both &= ~np.isnan(block.values[at]) & (stale[runs.last] == stale[at])
    return Runs(runs.rows[both], runs.slots[both], runs.first[both], runs.last[both]), then[both]


def _with_resets(block: Block, then: TimeArray, now: TimeArray, grown: FloatArray) -> FloatArray:
    """The increases, those of runs with a reset summed sample by sample.

    The others stay plain differences, exact. The sums run within each run only: a running total
    over the block would drown a small counter behind a large one.
    """
    falls = np.zeros(block.values.size, dtype=np.int64)
    np.less(block.values[1:], block.values[:-1], out=falls[1:], casting="unsafe")
    fallen = np.cumsum(falls)
    reset = np.flatnonzero(fallen[now] != fallen[then])
    if not reset.size:
        return grown
    steps = np.zeros(block.values.size + 1)  # one more, so that every run has an end within
    np.subtract(block.values[1:], block.values[:-1], out=steps[1:-1])
    steps[:-1][falls == 1] = block.values[falls == 1]
    ends = np.column_stack((then[reset] + 1, now[reset] + 1)).ravel()
    grown[reset] = np.add.reduceat(steps, ends)[::2]
    return grown


def looks_like_counter(metric: str, raw: Sequence[RawSeries] = (), kind: str | None = None) -> bool:
    """Whether series of this name only ever grow, so that their rate is what can be forecast.

    Args:
        kind: the type that the server's metadata gives for the name, or for the family it belongs
            to where the name is a part of a histogram or summary; None or ``unknown`` where the
            server has none.
        raw: history; without any the name alone decides.

    Returns:
        What the metadata says; without it, whether the name ends as a counter's does *and* the
        history never falls except to begin again near 0.
    """
    suffix = metric.endswith(COUNTER_SUFFIXES)
    if kind in ("histogram", "gaugehistogram", "summary"):
        return kind != "gaugehistogram" and suffix and all(_only_resets(one.values) for one in raw)
    if kind not in (None, "", "unknown", "untyped"):
        return kind == "counter"
    return suffix and all(_only_resets(one.values) for one in raw)


def _only_resets(values: FloatArray) -> bool:
    """Whether (S,) values never are negative and fall seldom, and then to near 0."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return True
    before, after = finite[:-1], finite[1:]
    falls = after < before
    if finite.min() < 0 or falls.sum() > 1 + _MOST_FALLS_RATIO * falls.size:
        return False
    return bool((after[falls] <= _RESET_RATIO * before[falls]).all())
