"""Binary operators between scalars and vectors, with Prometheus' matching.

Series meet by signature: the labels under ``on``, or all but those under ``ignoring`` and the name.
Whether a match is unique is decided at each step by the series that are present there; so pairs of
rows are formed once, and the rules are checked on their masks.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sidecar.names import METRIC_NAME
from sidecar.series import FloatArray, LabelSet
from sidecar.serve.promql.frames import Budget, Frame, Mask, QueryError, Scalar, Value, merged
from sidecar.serve.promql.syntax import COMPARISONS, SET_OPERATORS, Cardinality, Matching

_ARITHMETIC: Final[dict[str, Callable[[FloatArray, FloatArray], FloatArray]]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "%": np.fmod,
    "^": np.power,
    "atan2": np.arctan2,
}
_COMPARE: Final[dict[str, Callable[[FloatArray, FloatArray], Mask]]] = {
    "==": np.equal,
    "!=": np.not_equal,
    ">": np.greater,
    "<": np.less,
    ">=": np.greater_equal,
    "<=": np.less_equal,
}
OPERATORS: Final = frozenset({*_ARITHMETIC, *_COMPARE, *SET_OPERATORS})


def binary(
    op: str, left: Value, right: Value, matching: Matching, return_bool: bool, budget: Budget
) -> Value:
    """``left op right`` at every step.

    Raises:
        QueryError: the match is not unique where it must be.
    """
    if isinstance(left, Scalar):
        if isinstance(right, Scalar):
            if op in COMPARISONS:
                return Scalar(_COMPARE[op](left.values, right.values).astype(np.float64))
            return Scalar(_ARITHMETIC[op](left.values, right.values))
        return _with_scalar(op, right, left.values, return_bool, swapped=True)
    if isinstance(right, Scalar):
        return _with_scalar(op, left, right.values, return_bool, swapped=False)
    if op in SET_OPERATORS:
        return _set_operation(op, left, right, matching)
    return _joined(op, left, right, matching, return_bool, budget)


def _with_scalar(
    op: str, frame: Frame, scalar: FloatArray, return_bool: bool, *, swapped: bool
) -> Frame:
    """A vector and a number; a comparison that filters keeps the vector's own values."""
    one, other = (scalar, frame.values) if swapped else (frame.values, scalar)
    if op not in COMPARISONS:
        return Frame(frame.labels, _ARITHMETIC[op](one, other), frame.present).without_name()
    holds = _COMPARE[op](one, other)
    if return_bool:
        return Frame(frame.labels, holds.astype(np.float64), frame.present).without_name()
    return Frame(frame.labels, frame.values, frame.present & holds)


def signature(labels: LabelSet, matching: Matching) -> LabelSet:
    """The part of a label set that must be equal for two series to meet."""
    if matching.on:
        return LabelSet(tuple(pair for pair in labels.pairs if pair[0] in matching.labels))
    return labels.without(METRIC_NAME, *matching.labels)


def _set_operation(op: str, left: Frame, right: Frame, matching: Matching) -> Frame:
    left_keys = [signature(one, matching) for one in left.labels]
    right_keys = [signature(one, matching) for one in right.labels]
    if op == "or":
        found = _present_by_key(right_keys, left_keys, left)
        return merged(
            (*left.labels, *right.labels),
            np.concatenate([left.values, right.values]),
            np.concatenate([left.present, right.present & ~found]),
        )
    found = _present_by_key(left_keys, right_keys, right)
    return Frame(left.labels, left.values, left.present & (found if op == "and" else ~found))


def _present_by_key(asked: Sequence[LabelSet], keys: Sequence[LabelSet], frame: Frame) -> Mask:
    """(len(asked), T): where any row of ``frame`` with the asked key is present."""
    group_of: dict[LabelSet, int] = {}
    for key in keys:
        group_of.setdefault(key, len(group_of))
    steps = frame.present.shape[1]
    present = np.zeros((len(group_of) + 1, steps), dtype=np.bool_)  # the last row: no such key
    np.logical_or.at(
        present, np.array([group_of[key] for key in keys], dtype=np.intp), frame.present
    )
    rows = np.array([group_of.get(key, len(group_of)) for key in asked], dtype=np.intp)
    return present[rows]


def _joined(
    op: str, left: Frame, right: Frame, matching: Matching, return_bool: bool, budget: Budget
) -> Frame:
    """Arithmetic or comparison; below, ``many`` is the side that may have several of a kind."""
    swapped = matching.cardinality is Cardinality.ONE_TO_MANY
    many, one = (right, left) if swapped else (left, right)
    many_rows, one_rows, keys = _pairs(many, one, matching, "left" if swapped else "right")
    budget.check(len(keys), many.values.shape[1])
    many_values, one_values = many.values[many_rows], one.values[one_rows]
    a, b = (one_values, many_values) if swapped else (many_values, one_values)
    present = many.present[many_rows] & one.present[one_rows]
    if op in COMPARISONS:
        holds = _COMPARE[op](a, b)
        kept = present if return_bool else present & holds
        values = holds.astype(np.float64) if return_bool else a
    else:
        values, kept = _ARITHMETIC[op](a, b), present
    drops_name = return_bool or op not in COMPARISONS
    labels = [
        _result_labels(many.labels[m], one.labels[o], matching, drops_name)
        for m, o in zip(many_rows.tolist(), one_rows.tolist(), strict=True)
    ]
    _check_unique(keys, labels, kept, matching)
    return merged(labels, values, kept)


def _pairs(
    many: Frame, one: Frame, matching: Matching, one_side: str
) -> tuple[NDArray[np.intp], NDArray[np.intp], list[LabelSet]]:
    """Rows that meet, and their signatures.

    Raises:
        QueryError: two series of the "one" side with one signature are present at once.
    """
    rows_of: dict[LabelSet, list[int]] = {}
    for row, labels in enumerate(one.labels):
        rows_of.setdefault(signature(labels, matching), []).append(row)
    # Prometheus looks at the "one" side only at steps where both sides have any series.
    relevant = many.present.any(axis=0)
    for key, rows in rows_of.items():
        if len(rows) > 1 and np.any(one.present[rows][:, relevant].sum(axis=0) > 1):
            _raise_duplicate(key, [one.labels[row] for row in rows], one_side)
    found = [
        (row, other, key)
        for row, key in enumerate(signature(labels, matching) for labels in many.labels)
        for other in rows_of.get(key, ())
    ]
    many_rows = np.array([row for row, _, _ in found], dtype=np.intp)
    one_rows = np.array([other for _, other, _ in found], dtype=np.intp)
    return many_rows, one_rows, [key for _, _, key in found]


def _raise_duplicate(key: LabelSet, duplicates: Sequence[LabelSet], side: str) -> None:
    raise QueryError(
        "execution",
        f"found duplicate series for the match group {key} on the {side} hand-side of the "
        f"operation: [{duplicates[1]}, {duplicates[0]}];many-to-many matching not allowed: "
        "matching labels must be unique on one side",
    )


def _result_labels(many: LabelSet, one: LabelSet, matching: Matching, drops_name: bool) -> LabelSet:
    labels = many.without(METRIC_NAME) if drops_name else many
    if matching.cardinality is Cardinality.ONE_TO_ONE:
        if matching.on:
            labels = LabelSet(tuple(p for p in labels.pairs if p[0] in matching.labels))
        else:
            labels = labels.without(*matching.labels)
    if matching.include:
        labels = labels.replaced({name: one.get(name) for name in matching.include})
    return labels


def _check_unique(
    keys: Sequence[LabelSet], labels: Sequence[LabelSet], kept: Mask, matching: Matching
) -> None:
    """One-to-one: one result for each signature and step; else one for each set of labels."""
    one_to_one = matching.cardinality is Cardinality.ONE_TO_ONE
    rows_of: dict[object, list[int]] = {}
    for row, key in enumerate(keys):
        rows_of.setdefault(key if one_to_one else (key, labels[row]), []).append(row)
    for rows in rows_of.values():
        if len(rows) > 1 and np.any(kept[rows].sum(axis=0) > 1):
            raise QueryError(
                "execution",
                "multiple matches for labels: many-to-one matching must be explicit "
                "(group_left/group_right)"
                if one_to_one
                else "multiple matches for labels: grouping labels must ensure unique matches",
            )
