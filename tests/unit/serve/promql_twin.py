"""PromQL as its documentation tells it: one step at a time, one sample at a time, dicts of floats.

The oracle of the array kernels. Slow and obvious.
"""

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from hypothesis import strategies as st

from sidecar.series import LabelSet
from sidecar.serve.promql.frames import Frame

Vector = dict[LabelSet, float]

NUMBERS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 1.0, 2.0, -3.5, math.nan, math.inf, -math.inf]),
    st.floats(-1e6, 1e6, allow_nan=False),
)


def frame_of(steps: Sequence[Vector], known: Sequence[LabelSet] | None = None) -> Frame:
    """A frame from one vector for each step."""
    labels = tuple(known or sorted({one for step in steps for one in step}))
    values = np.full((len(labels), len(steps)), np.nan)
    present = np.zeros(values.shape, dtype=np.bool_)
    for t, step in enumerate(steps):
        for one, value in step.items():
            values[labels.index(one), t] = value
            present[labels.index(one), t] = True
    return Frame(labels, values, present)


def steps_of(frame: Frame) -> list[Vector]:
    """One vector for each step; a series that comes twice at a step is an error."""
    steps: list[Vector] = [{} for _ in range(frame.values.shape[1])]
    for row, one in enumerate(frame.labels):
        for t, step in enumerate(steps):
            if frame.present[row, t]:
                assert one not in step, f"{one} twice at step {t}"
                step[one] = float(frame.values[row, t])
    return steps


def same(ours: Sequence[Vector], theirs: Sequence[Vector]) -> bool:
    return len(ours) == len(theirs) and all(
        a.keys() == b.keys() and all(close(a[one], b[one]) for one in a)
        for a, b in zip(ours, theirs, strict=True)
    )


def close(a: float, b: float) -> bool:
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)


def fold(op: str, values: Sequence[float], phi: float = 0.0) -> float:
    """One aggregation (or ``*_over_time`` without the suffix) of a non-empty list."""
    numbers = [one for one in values if not math.isnan(one)]
    match op:
        case "sum":
            return math.nan if _mixed(values) else sum(values)
        case "count":
            return len(values)
        case "avg":
            return math.nan if _mixed(values) else sum(values) / len(values)
        case "min":
            return min(numbers, default=math.nan)
        case "max":
            return max(numbers, default=math.nan)
        case "group" | "present":
            return 1.0
        case "last":
            return values[-1]
        case "stdvar" | "stddev":
            if any(not math.isfinite(one) for one in values):
                return math.nan
            variance = statistics.pvariance(values)
            return variance if op == "stdvar" else math.sqrt(variance)
        case "quantile":
            return quantile(values, phi)
    raise AssertionError(op)


def _mixed(values: Sequence[float]) -> bool:
    return any(math.isnan(one) for one in values) or {math.inf, -math.inf} <= set(values)


def quantile(values: Sequence[float], phi: float) -> float:
    if math.isnan(phi):
        return math.nan
    if phi < 0 or phi > 1:
        return math.copysign(math.inf, phi)
    ordered = sorted(values, key=lambda one: (not math.isnan(one), one))
    rank = phi * (len(ordered) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] * (1 - (rank - low)) + ordered[high] * (rank - low)


def grouped(
    vector: Mapping[LabelSet, float], without: bool, grouping: Sequence[str]
) -> dict[LabelSet, list[LabelSet]]:
    groups: dict[LabelSet, list[LabelSet]] = {}
    for one in vector:
        kept = {
            n: v
            for n, v in one.pairs
            if (n not in grouping and n != "__name__" if without else n in grouping)
        }
        groups.setdefault(LabelSet.of(kept), []).append(one)
    return groups
