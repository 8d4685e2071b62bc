"""What the evaluator computes with: many series on one grid, and whether each is there.

NaN is a value in PromQL and absence is not, so beside the values there is a mask. What stands in
``values`` where nothing is present means nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sidecar.names import METRIC_NAME
from sidecar.series import FloatArray, LabelSet, TimeArray

Mask: TypeAlias = NDArray[np.bool_]


class QueryError(Exception):
    """A query that Prometheus answers with an error, in its words.

    Attributes:
        error_type: Prometheus' ``errorType``: bad_data, execution, timeout or unavailable.
    """

    def __init__(self, error_type: str, message: str) -> None:
        self.error_type = error_type
        super().__init__(message)


@dataclass(frozen=True, eq=False)
class Frame:
    """N series on T steps: an instant vector at each step.

    Attributes:
        labels: N; unique among the series that are present at one step.
        values: (N, T) float64.
        present: (N, T) bool.
    """

    labels: tuple[LabelSet, ...]
    values: FloatArray
    present: Mask

    def without_name(self) -> "Frame":
        """Metric names dropped, as whatever computes new values drops them."""
        return merged([one.without(METRIC_NAME) for one in self.labels], self.values, self.present)

    def take(self, rows: Sequence[int] | NDArray[np.intp]) -> "Frame":
        index = np.asarray(rows, dtype=np.intp)
        labels = tuple(self.labels[row] for row in index.tolist())
        return Frame(labels, self.values[index], self.present[index])


@dataclass(frozen=True, eq=False)
class Scalar:
    """One number at each step: (T,) float64."""

    values: FloatArray


@dataclass(frozen=True, eq=False)
class Samples:
    """Raw samples of N series on the union of their instants.

    Attributes:
        instants_ms: (S,) int64, strictly increasing.
        values, present: (N, S).
    """

    labels: tuple[LabelSet, ...]
    instants_ms: TimeArray
    values: FloatArray
    present: Mask


Value: TypeAlias = Frame | Scalar


@dataclass(frozen=True, slots=True)
class Budget:
    """What one query may take.

    Attributes:
        max_cells: of one array; several live at once, 9 bytes a cell.
        out_of_time: whether the deadline has passed; asked now and then.
    """

    max_cells: int
    out_of_time: Callable[[], bool]

    def check(self, rows: int, columns: int) -> None:
        """Before ``rows * columns`` cells are made.

        Raises:
            QueryError
        """
        if rows * columns > self.max_cells:
            raise QueryError(
                "execution",
                "query processing would load too many samples into memory in query execution: "
                f"{rows} series by {columns} instants, at most {self.max_cells} cells here",
            )
        if self.out_of_time():
            raise QueryError("timeout", "query timed out in expression evaluation")


UNBOUNDED: Final = Budget(2**62, lambda: False)


def empty(steps: int) -> Frame:
    return Frame((), np.empty((0, steps)), np.empty((0, steps), dtype=np.bool_))


def merged(labels: Iterable[LabelSet], values: FloatArray, present: Mask) -> Frame:
    """A frame of rows whose labels may repeat, as long as no two are present at one step.

    Raises:
        QueryError: they are.
    """
    labels = tuple(labels)
    if len(set(labels)) == len(labels):
        return Frame(labels, values, present)
    rows_of: dict[LabelSet, list[int]] = {}
    for row, one in enumerate(labels):
        rows_of.setdefault(one, []).append(row)
    first = np.array([rows[0] for rows in rows_of.values()], dtype=np.intp)
    out_values, out_present = values[first].copy(), present[first].copy()
    for target, rows in enumerate(rows_of.values()):
        for row in rows[1:]:
            if np.any(out_present[target] & present[row]):
                raise QueryError(
                    "execution", "vector cannot contain metrics with the same labelset"
                )
            out_values[target] = np.where(present[row], values[row], out_values[target])
            out_present[target] |= present[row]
    return Frame(tuple(rows_of), out_values, out_present)


def overlaid(below: Frame, above: Frame) -> Frame:
    """All series of both; where both have a value at a step, ``above`` wins."""
    if not above.labels:
        return below
    if not below.labels:
        return above
    row_of = {one: row for row, one in enumerate(below.labels)}
    new = [one for one in above.labels if one not in row_of]
    row_of.update((one, len(below.labels) + i) for i, one in enumerate(new))
    steps = below.values.shape[1]
    values = np.concatenate([below.values, np.full((len(new), steps), np.nan)])
    present = np.concatenate([below.present, np.zeros((len(new), steps), dtype=np.bool_)])
    rows = np.array([row_of[one] for one in above.labels], dtype=np.intp)
    values[rows] = np.where(above.present, above.values, values[rows])
    present[rows] |= above.present
    return Frame((*below.labels, *new), values, present)


def in_label_order(frame: Frame) -> Frame:
    order = label_order(frame.labels)
    return frame if order == list(range(len(order))) else frame.take(order)


def label_order(labels: Sequence[LabelSet]) -> list[int]:
    """Rows in the order of their labels."""
    pairs = [one.pairs for one in labels]  # tuples compare without a call
    return sorted(range(len(pairs)), key=pairs.__getitem__)


def samples_of(series: Iterable[tuple[LabelSet, TimeArray, FloatArray]], budget: Budget) -> Samples:
    """Ragged series on the union of their instants; later entries of one series win a tie."""
    entries = list(series)
    labels = tuple(dict.fromkeys(one for one, _, _ in entries))
    row_of = {one: row for row, one in enumerate(labels)}
    every = [instants for _, instants, _ in entries]
    # Most have the same instants: one look at each kind, not one long sort of all of them.
    kinds = {one.tobytes(): one for one in every}
    union = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *kinds.values()]))
    budget.check(len(labels), len(union))
    values = np.full((len(labels), len(union)), np.nan)
    present = np.zeros(values.shape, dtype=np.bool_)
    if entries:
        sizes = [len(instants) for instants in every]
        rows = np.repeat([row_of[one] for one, _, _ in entries], sizes)
        columns = np.searchsorted(union, np.concatenate(every))
        # Of several for one cell the last stays: assignment goes in order.
        values[rows, columns] = np.concatenate([row_values for _, _, row_values in entries])
        present[rows, columns] = True
    return Samples(labels, union, values, present)
