"""The evaluator: a tree, what the upstream said, and the forecasts, to one value on every step.

Pure and synchronous, for a thread: it reads arrays that nobody writes to.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from sidecar.names import METRIC_NAME
from sidecar.publish.paths import PathBlock
from sidecar.series import FloatArray, LabelSet, TimeArray
from sidecar.serve.promql import functions
from sidecar.serve.promql.aggregate import aggregate
from sidecar.serve.promql.binary import binary
from sidecar.serve.promql.frames import (
    Budget,
    Frame,
    Samples,
    Scalar,
    Value,
    empty,
    in_label_order,
    label_order,
    merged,
    overlaid,
    samples_of,
)
from sidecar.serve.promql.split import Steps
from sidecar.serve.promql.syntax import (
    Aggregate,
    Binary,
    Call,
    Expr,
    Negate,
    Number,
    RangeSelector,
    Text,
    VectorSelector,
)
from sidecar.serve.promql.windows import WINDOW_FUNCTIONS, any_in, bounds, newest, over_time

Ragged: TypeAlias = tuple[LabelSet, TimeArray, FloatArray]


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a query is evaluated from.

    Attributes:
        known: what the upstream said of a node on the steps: the value of a delegated node, the
            upstream's part of a forecast selector.
        raw: the upstream's samples of a forecast's window.
        own: the forecasts of each selector that has any; a selector that is not here has none.
        since_3: as Prometheus 3 has it: windows exclude their beginning, and more such.
    """

    steps: Steps
    known: Mapping[Expr, Value]
    raw: Mapping[RangeSelector, Sequence[Ragged]]
    own: Mapping[VectorSelector, Sequence[PathBlock]]
    lookback_ms: int
    since_3: bool
    budget: Budget


def evaluate(expr: Expr, inputs: Inputs) -> Value | Samples:
    """The value of ``expr``; ``Samples`` only for a bare range selector.

    Raises:
        QueryError
    """
    with np.errstate(all="ignore"):
        if isinstance(expr, RangeSelector):
            return _clipped(_window(expr, inputs), expr, inputs)
        return _Evaluator(inputs).value(expr)


class _Evaluator:
    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._steps = inputs.steps
        self._budget = inputs.budget

    def value(self, expr: Expr) -> Value:
        known = self._inputs.known.get(expr)
        match expr:
            case VectorSelector():
                return self._instant(expr, known)
            case Call(function="timestamp", args=(VectorSelector() as selector,)):
                return self._timestamps(selector, known)
        if known is not None:
            return known
        match expr:
            case Number(value=value):
                return Scalar(np.full(self._steps.size, value))
            case Negate(expr=inner):
                return self._negated(inner)
            case Binary():
                left, right = self.value(expr.left), self.value(expr.right)
                return binary(expr.op, left, right, expr.matching, expr.return_bool, self._budget)
            case Aggregate():
                return self._aggregate(expr)
            case Call():
                return self._call(expr)
        raise AssertionError(f"the split lets no {type(expr).__name__} through")

    def _vector(self, expr: Expr) -> Frame:
        value = self.value(expr)
        assert isinstance(value, Frame), "the parser checks types"
        return value

    def _scalar(self, expr: Expr) -> FloatArray:
        value = self.value(expr)
        assert isinstance(value, Scalar), "the parser checks types"
        return value.values

    def _negated(self, expr: Expr) -> Value:
        value = self.value(expr)
        if isinstance(value, Scalar):
            return Scalar(-value.values)
        return Frame(value.labels, -value.values, value.present).without_name()

    # Selectors

    def _instant(self, selector: VectorSelector, known: Value | None) -> Frame:
        below = known if isinstance(known, Frame) else empty(self._steps.size)
        own, _ = self._newest(selector)
        self._budget.check(len(below.labels) + len(own.labels), self._steps.size)
        return in_label_order(overlaid(below, own))

    def _timestamps(self, selector: VectorSelector, known: Value | None) -> Frame:
        below = known if isinstance(known, Frame) else empty(self._steps.size)
        own, instants_ms = self._newest(selector)
        labels = [one.without(METRIC_NAME) for one in own.labels]
        above = merged(labels, functions.seconds(instants_ms), own.present)
        return in_label_order(overlaid(below, above))

    def _newest(self, selector: VectorSelector) -> tuple[Frame, TimeArray]:
        samples = samples_of(_ragged(self._inputs.own.get(selector, ())), self._budget)
        self._budget.check(len(samples.labels), self._steps.size)
        at_ms = _evaluation_times(selector, self._steps)
        return newest(samples, at_ms, self._inputs.lookback_ms, self._inputs.since_3)

    # Operators and functions

    def _aggregate(self, expr: Aggregate) -> Frame:
        frame = self._vector(expr.expr)
        param: FloatArray | str | None = None
        if isinstance(expr.param, Text):
            param = expr.param.value
        elif expr.param is not None:
            param = self._scalar(expr.param)
        by = (expr.without, expr.grouping)
        since_3 = self._inputs.since_3
        return aggregate(expr.op, frame, *by, self._budget, param, since_3=since_3)

    def _call(self, call: Call) -> Value:
        name, args = call.function, call.args
        if name in WINDOW_FUNCTIONS:
            return self._over_time(call)
        if name in functions.CLAMPS:
            return self._clamp(call)
        if name in functions.ELEMENTWISE or name in functions.CALENDAR:
            return functions.elementwise(name, self._vector(args[0]))
        match name:
            case "time":
                return Scalar(functions.seconds(self._steps.instants_ms))
            case "vector":
                values = self._scalar(args[0])[None, :]
                return Frame((LabelSet(()),), values, np.ones(values.shape, dtype=np.bool_))
            case "scalar":
                return functions.single(self._vector(args[0]))
            case "round":
                nearest = self._scalar(args[1]) if len(args) > 1 else np.ones(self._steps.size)
                return functions.rounded(self._vector(args[0]), nearest)
            case "absent":
                return functions.absence(self._vector(args[0]).present, _absent_labels(args[0]))
            case "timestamp":  # of what is no selector: when it was evaluated
                frame = self._vector(args[0])
                at_s = np.broadcast_to(
                    functions.seconds(self._steps.instants_ms), frame.values.shape
                )
                return Frame(frame.labels, at_s, frame.present).without_name()
            case "sort" | "sort_desc":
                frame = self._vector(args[0])
                return functions.sorted_by_value(frame, descending=name == "sort_desc")
        raise AssertionError(f"the split lets no {name}() through")

    def _clamp(self, call: Call) -> Frame:
        frame = self._vector(call.args[0])
        limits = [self._scalar(one) for one in call.args[1:]]
        if call.function == "clamp":
            return functions.clamped(frame, limits[0], limits[1])
        if call.function == "clamp_min":
            return functions.clamped(frame, limits[0], None)
        return functions.clamped(frame, None, limits[0])

    def _over_time(self, call: Call) -> Frame:
        selected = call.args[-1]
        assert isinstance(selected, RangeSelector), "the split lets no subquery through"
        samples = _window(selected, self._inputs)
        at_ms = _evaluation_times(selected.selector, self._steps)
        window = (samples, at_ms, selected.range_ms, self._inputs.since_3)
        if call.function == "absent_over_time":
            return functions.absence(any_in(*window), _absent_labels(selected))
        quantiles = self._scalar(call.args[0]) if len(call.args) > 1 else None
        return over_time(call.function, *window, self._budget, quantiles)


def _window(selected: RangeSelector, inputs: Inputs) -> Samples:
    """Forecasts, and over them whatever the upstream holds."""
    own = _ragged(inputs.own.get(selected.selector, ()))
    samples = samples_of([*own, *inputs.raw.get(selected, ())], inputs.budget)
    order = label_order(samples.labels)
    labels = tuple(samples.labels[row] for row in order)
    return Samples(labels, samples.instants_ms, samples.values[order], samples.present[order])


def _clipped(samples: Samples, selected: RangeSelector, inputs: Inputs) -> Samples:
    """What of the samples lies in the one window of an instant query."""
    at_ms = _evaluation_times(selected.selector, inputs.steps)[-1:]
    first, end = bounds(samples.instants_ms, at_ms, selected.range_ms, inputs.since_3)
    inside = slice(int(first[0]), int(end[0]))
    return Samples(
        samples.labels,
        samples.instants_ms[inside],
        samples.values[:, inside],
        samples.present[:, inside],
    )


def _ragged(blocks: Iterable[PathBlock]) -> list[Ragged]:
    return [
        (labels, block.instants_ms[here], row[here])
        for block in blocks
        for labels, row, here in zip(
            block.labels, block.values, np.logical_not(np.isnan(block.values)), strict=True
        )
    ]


def _evaluation_times(selector: VectorSelector, steps: Steps) -> TimeArray:
    """(T,) when a selector is evaluated, for each step."""
    if selector.at is None:
        return steps.instants_ms - selector.offset_ms
    assert isinstance(selector.at, int), "edges are pinned before"
    return np.full(steps.size, selector.at - selector.offset_ms, dtype=np.int64)


def _absent_labels(expr: Expr) -> LabelSet:
    selector = expr.selector if isinstance(expr, RangeSelector) else expr
    if isinstance(selector, VectorSelector):
        return functions.absent_labels(selector.matchers)
    return LabelSet(())
