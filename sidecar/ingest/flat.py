"""Ragged series as one flat run of samples: what the kernels of this package work on.

N series of a few samples each, or a few series of many: per-series NumPy calls lose to their own
overhead in the first case, so all samples of a block of series lie in one array, beside them the
row each belongs to. A block has about 262,144 samples: what a kernel touches then fits into the
cache, and its temporaries stay at a few MB however much history there is.

An instant ``t`` of a grid of step ``g`` stands for the samples in ``(t - g, t]``: an instant
without a sample newer than the previous instant's has none of its own. So every sample belongs to
exactly one instant (its *slot*), and the samples of one series and slot are neighbours: a *run*.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from sidecar.errors import DataError
from sidecar.names import Reason
from sidecar.series import FloatArray, Grid, LabelSet, RawSeries, TimeArray

_BLOCK_SAMPLES: Final = 1 << 18


@dataclass(frozen=True, eq=False, slots=True)
class Block:
    """Consecutive series of a sorted batch, their S samples end to end.

    Attributes:
        rows: (S,) the row of each sample in the whole batch, ascending.
        timestamps_ms, values: (S,), strictly increasing times within a row.
    """

    rows: TimeArray
    timestamps_ms: TimeArray
    values: FloatArray


@dataclass(frozen=True, eq=False, slots=True)
class Runs:
    """The R runs of a block whose slot lies on the grid.

    Attributes:
        rows, slots: (R,) series and instant of each run.
        first, last: (R,) positions in the block of the run's oldest and newest sample.
    """

    rows: TimeArray
    slots: TimeArray
    first: TimeArray
    last: TimeArray


def in_order(raw: Sequence[RawSeries]) -> list[RawSeries]:
    """Sorted by labels.

    Raises:
        DataError: two entries carry the same label set.
    """
    labels = [one.labels.pairs for one in raw]
    if all(a < b for a, b in pairwise(labels)):  # as a reader hands them over
        return list(raw)
    ordered = sorted(raw, key=lambda one: one.labels.pairs)
    for one, other in pairwise(ordered):
        if one.labels == other.labels:
            raise DataError(
                Reason.SOURCE_ERROR, f"the server answered two series with the labels {one.labels}"
            )
    return ordered


def labels_of(ordered: Sequence[RawSeries]) -> tuple[LabelSet, ...]:
    return tuple(one.labels for one in ordered)


def blocks(ordered: Sequence[RawSeries]) -> Iterator[Block]:
    """All samples, a bounded number of series at a time; at least one series a block."""
    start = 0
    while start < len(ordered):
        end, total = start + 1, len(ordered[start].values)
        while end < len(ordered) and total + len(ordered[end].values) <= _BLOCK_SAMPLES:
            total += len(ordered[end].values)
            end += 1
        part = ordered[start:end]
        rows = np.arange(start, end, dtype=np.int64)
        yield Block(
            rows=np.repeat(rows, [len(one.values) for one in part]),
            timestamps_ms=np.concatenate([one.timestamps_ms for one in part]),
            values=np.concatenate([one.values for one in part]),
        )
        start = end


def runs_of(block: Block, grid: Grid) -> Runs:
    """The runs of a block on a grid; samples of instants outside it form none."""
    before_start = block.timestamps_ms - (grid.start_ms - grid.step_ms)
    slots = -(-before_start // grid.step_ms) - 1
    is_first = np.empty(slots.size, dtype=np.bool_)
    if slots.size:
        is_first[0] = True
        np.not_equal(slots[1:], slots[:-1], out=is_first[1:])
        is_first[1:] |= block.rows[1:] != block.rows[:-1]
    first = np.flatnonzero(is_first)
    last = np.append(first[1:], slots.size) - 1 if first.size else first
    on_grid = (slots[first] >= 0) & (slots[first] < grid.size)
    first, last = first[on_grid], last[on_grid]
    return Runs(rows=block.rows[first], slots=slots[first], first=first, last=last)
