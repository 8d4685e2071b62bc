"""Aggregations: rows of a frame to groups, each step on its own.

Layout: rows are sorted by group, so that a ufunc's ``reduceat`` folds all groups at all steps at
once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sidecar.names import METRIC_NAME
from sidecar.series import FloatArray, LabelSet
from sidecar.serve.promql.frames import Budget, Frame, Mask, QueryError, empty, merged
from sidecar.serve.promql.matchers import is_plain_label
from sidecar.serve.promql.windows import quantile

_INT64: Final = 2.0**63


def group_labels(labels: LabelSet, without: bool, grouping: tuple[str, ...]) -> LabelSet:
    """The labels of the group that a series belongs to."""
    if without:
        return labels.without(METRIC_NAME, *grouping)
    return LabelSet(tuple(pair for pair in labels.pairs if pair[0] in grouping))


class _Groups:
    """Which rows belong together: ``labels`` and ``rows`` of each of G groups."""

    def __init__(
        self, labels: Sequence[LabelSet], without: bool, grouping: tuple[str, ...]
    ) -> None:
        rows_of: dict[LabelSet, list[int]] = {}
        for row, one in enumerate(labels):
            rows_of.setdefault(group_labels(one, without, grouping), []).append(row)
        self.labels = tuple(rows_of)
        self.rows = [np.array(rows, dtype=np.intp) for rows in rows_of.values()]

    def of(self, frame: Frame) -> "_Grouped":
        order = np.concatenate(self.rows)
        sizes = np.array([len(rows) for rows in self.rows], dtype=np.intp)
        starts = np.cumsum(sizes) - sizes
        return _Grouped(frame.values[order], frame.present[order], starts, sizes)


def aggregate(
    op: str,
    frame: Frame,
    without: bool,
    grouping: tuple[str, ...],
    budget: Budget,
    param: FloatArray | str | None = None,
    *,
    since_3: bool = True,
) -> Frame:
    """One aggregation operator over all steps.

    Args:
        param: (T,) numbers for topk, bottomk and quantile, a label name for count_values.
        since_3: as Prometheus 3 has it. Before, a k that is no whole number was an error even where
            there was nothing to choose from, and a lone NaN or infinity deviated by 0.

    Raises:
        QueryError
    """
    budget.check(len(frame.labels), frame.values.shape[1])
    if op == "count_values":
        assert isinstance(param, str)
        return _count_values(frame, without, grouping, param, budget)
    if not frame.labels:
        return empty(frame.values.shape[1])
    groups = _Groups(frame.labels, without, grouping)
    if op in ("topk", "bottomk"):
        assert isinstance(param, np.ndarray)
        relevant = frame.present.any(axis=0) | (not since_3)
        param = np.where(relevant, param, 0.0)
        return _extreme(frame, groups, param, largest=op == "topk", budget=budget)
    if op == "quantile":
        assert isinstance(param, np.ndarray)
        values = np.stack([_quantiles(frame, rows, param) for rows in groups.rows])
        present = np.stack([frame.present[rows].any(axis=0) for rows in groups.rows])
        return Frame(groups.labels, values, present)
    grouped = groups.of(frame)
    values = _FOLDS[op](grouped)
    if op in ("stddev", "stdvar") and not since_3:
        values = np.where(grouped.counts == 1, 0.0, values)
    return Frame(groups.labels, values, grouped.counts > 0)


@dataclass(frozen=True, eq=False)
class _Grouped:
    """Rows in the order of their groups.

    Attributes:
        values, present: (N, T).
        starts, sizes: (G,) the first row of each group, and how many it has.
    """

    values: FloatArray
    present: Mask
    starts: NDArray[np.intp]
    sizes: NDArray[np.intp]

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(G, T) members present."""
        found: NDArray[np.int64] = np.add.reduceat(
            self.present.astype(np.int64), self.starts, axis=0
        )
        return found

    def each(self, of_groups: NDArray[np.float64]) -> FloatArray:
        """(G, T) to (N, T): to each row what its group has."""
        return np.repeat(of_groups, self.sizes, axis=0)


def _sum(grouped: _Grouped) -> FloatArray:
    total: FloatArray = np.add.reduceat(
        np.where(grouped.present, grouped.values, 0.0), grouped.starts, axis=0
    )
    return total


def _mean(grouped: _Grouped) -> FloatArray:
    total, count = _sum(grouped), np.maximum(grouped.counts, 1).astype(np.float64)
    result: FloatArray = total / count
    infinite = np.logical_or.reduceat(
        grouped.present & np.isinf(grouped.values), grouped.starts, axis=0
    )
    overflown = np.isinf(total) & ~infinite
    if overflown.any():  # the sum is too large, the mean need not be
        parts = replace(grouped, values=grouped.values / grouped.each(count))
        result = np.where(overflown, _sum(parts), result)
    return result


def _variance(grouped: _Grouped) -> FloatArray:
    distance = grouped.values - grouped.each(_mean(grouped))
    return _mean(replace(grouped, values=distance * distance))


def _deviation(grouped: _Grouped) -> FloatArray:
    found: FloatArray = np.sqrt(_variance(grouped))
    return found


def _least(grouped: _Grouped) -> FloatArray:
    values = np.where(grouped.present, grouped.values, np.nan)
    found: FloatArray = np.fmin.reduceat(values, grouped.starts, axis=0)
    return found


def _greatest(grouped: _Grouped) -> FloatArray:
    values = np.where(grouped.present, grouped.values, np.nan)
    found: FloatArray = np.fmax.reduceat(values, grouped.starts, axis=0)
    return found


def _count(grouped: _Grouped) -> FloatArray:
    return grouped.counts.astype(np.float64)


def _one(grouped: _Grouped) -> FloatArray:
    return np.ones(grouped.counts.shape)


_FOLDS: Final[dict[str, Callable[[_Grouped], FloatArray]]] = {
    "sum": _sum,
    "avg": _mean,
    "min": _least,
    "max": _greatest,
    "count": _count,
    "group": _one,
    "stddev": _deviation,
    "stdvar": _variance,
}
AGGREGATIONS: Final = frozenset({*_FOLDS, "topk", "bottomk", "quantile", "count_values"})


def _quantiles(frame: Frame, rows: NDArray[np.intp], param: FloatArray) -> FloatArray:
    """(T,) of one group; a run of equal parameters, usually all of them, at once."""
    values, present = frame.values[rows].T, frame.present[rows].T
    bits = np.ascontiguousarray(param).view(np.int64)
    cuts = [0, *(np.flatnonzero(bits[1:] != bits[:-1]) + 1).tolist(), len(param)]
    pieces = [quantile(values[a:b], present[a:b], float(param[a])) for a, b in pairwise(cuts)]
    return np.concatenate(pieces)


def _extreme(
    frame: Frame, groups: _Groups, param: FloatArray, *, largest: bool, budget: Budget
) -> Frame:
    """topk or bottomk: the frame with all but the k extreme members of each group absent."""
    kept = np.zeros(frame.present.shape, dtype=np.bool_)
    limits = [_whole(one) for one in param.tolist()]
    for rows in groups.rows:
        keys = frame.values[rows] if largest else -frame.values[rows]
        kept[rows] = _kept(keys, frame.present[rows], limits, budget)
    found = np.flatnonzero(kept.any(axis=1)).tolist()
    if len(param) == 1:  # an instant query shows them ranked, group by group
        found = [row for rows in groups.rows for row in _ranked(frame, rows, kept, largest)]
    return Frame(frame.labels, frame.values, kept).take(found)


def _ranked(
    frame: Frame, rows: NDArray[np.intp], kept: NDArray[np.bool_], largest: bool
) -> list[int]:
    """The kept rows of one group, the most extreme first, NaN last."""

    def key(row: int) -> tuple[bool, float]:
        value = float(frame.values[row, 0])
        return math.isnan(value), -value if largest else value

    return sorted((row for row in rows.tolist() if kept[row, 0]), key=key)


def _whole(limit: float) -> int:
    if not -_INT64 <= limit < _INT64:  # NaN too
        shown = {math.inf: "+Inf", -math.inf: "-Inf"}.get(limit, str(limit).replace("nan", "NaN"))
        raise QueryError("execution", f"Scalar value {shown} overflows int64")
    return int(limit)


def _kept(keys: FloatArray, present: Mask, limits: list[int], budget: Budget) -> NDArray[np.bool_]:
    """(n, T) the ``limits`` largest keys of each step; NaN ranks lowest."""
    n = len(keys)
    ranks = np.where(present & ~np.isnan(keys), keys, -np.inf)
    order = np.argsort(-ranks, axis=0, kind="stable")
    kept = np.zeros(present.shape, dtype=np.bool_)
    for step, limit in enumerate(limits):
        budget.check(0, 0)
        there = present[:, step]
        if limit < 1:
            continue
        if int(there.sum()) <= limit:
            kept[:, step] = there
            continue
        column = order[:, step]
        inside, outside = column[limit - 1], column[min(limit, n - 1)]
        if ranks[inside, step] > ranks[outside, step]:
            kept[column[:limit], step] = True
        else:  # a tie, or a NaN, at the cut: as Prometheus' heap happens to settle it
            kept[_heap_choice(keys[:, step], there, limit), step] = True
    return kept


def _heap_choice(keys: FloatArray, there: NDArray[np.bool_], limit: int) -> list[int]:
    """Rows that remain in a heap of ``limit`` when all have been offered in order.

    The heap is the textbook's: smallest on top, sift up on push, sift down from the top.
    """
    heap: list[tuple[float, int]] = []

    def less(a: int, b: int) -> bool:
        return math.isnan(heap[a][0]) or heap[a][0] < heap[b][0]

    def up(at: int) -> None:
        while at and less(at, (at - 1) // 2):
            parent = (at - 1) // 2
            heap[at], heap[parent] = heap[parent], heap[at]
            at = parent

    def down() -> None:
        at = 0
        while (child := 2 * at + 1) < len(heap):
            if child + 1 < len(heap) and less(child + 1, child):
                child += 1
            if not less(child, at):
                return
            heap[at], heap[child] = heap[child], heap[at]
            at = child

    for row in np.flatnonzero(there).tolist():
        key = float(keys[row])
        if len(heap) < limit:
            heap.append((key, row))
            up(len(heap) - 1)
        elif heap[0][0] < key or (math.isnan(heap[0][0]) and not math.isnan(key)):
            heap[0] = (key, row)
            down()
    return [row for _, row in heap]


def _count_values(
    frame: Frame, without: bool, grouping: tuple[str, ...], label: str, budget: Budget
) -> Frame:
    if not is_plain_label(label):
        raise QueryError("execution", f'invalid label name "{label}"')
    by = grouping if without else (*grouping, label)
    steps = frame.values.shape[1]
    counts: dict[LabelSet, FloatArray] = {}
    for row, labels in enumerate(frame.labels):
        there = np.flatnonzero(frame.present[row])
        bits = np.ascontiguousarray(frame.values[row, there]).view(np.int64)
        for one in np.unique(bits).tolist():
            text = plain_number(float(np.int64(one).view(np.float64)))
            group = group_labels(labels.replaced({label: text}), without, by)
            budget.check(len(counts) + 1, steps)
            count = counts.setdefault(group, np.zeros(steps))
            count[there[bits == one]] += 1
    if not counts:
        return empty(steps)
    values = np.stack(list(counts.values()))
    return merged(counts, values, values > 0)


def plain_number(value: float) -> str:
    """A number without exponent, as short as it can be read back.

    >>> plain_number(2.0), plain_number(1e21), plain_number(-0.0), plain_number(1e-7)
    ('2', '1000000000000000000000', '-0', '0.0000001')
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    text = format(Decimal(repr(value)), "f")
    return text.removesuffix(".0")
