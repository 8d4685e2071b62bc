"""From which step on a query needs the forecasts, and whether it can be evaluated with them.

A selector needs them where it is evaluated at or after the first instant that is served from here.
Before that the upstream's own answer is right, byte for byte.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sidecar.series import TimeArray
from sidecar.serve.promql.aggregate import AGGREGATIONS
from sidecar.serve.promql.binary import OPERATORS
from sidecar.serve.promql.functions import FUNCTIONS
from sidecar.serve.promql.syntax import (
    Aggregate,
    Binary,
    Call,
    Expr,
    RangeSelector,
    Subquery,
    VectorSelector,
    children,
    metric_of,
    selectors,
)
from sidecar.serve.promql.windows import WINDOW_FUNCTIONS

# The first instant that is served for a selector; None where it touches no forecast.
FirstServed = Callable[[VectorSelector], int | None]


@dataclass(frozen=True)
class Steps:
    """``size`` instants from ``start_ms`` on, ``step_ms`` apart: exactly as the client asked."""

    start_ms: int
    step_ms: int
    size: int

    @classmethod
    def between(cls, start_ms: int, end_ms: int, step_ms: int) -> "Steps":
        return cls(start_ms, step_ms, (end_ms - start_ms) // step_ms + 1)

    @cached_property
    def instants_ms(self) -> TimeArray:
        """(T,) int64."""
        return self.start_ms + self.step_ms * np.arange(self.size, dtype=np.int64)

    @property
    def end_ms(self) -> int:
        return self.start_ms + self.step_ms * (self.size - 1)

    def since(self, step: int) -> "Steps":
        return Steps(self.start_ms + step * self.step_ms, self.step_ms, self.size - step)

    def before(self, step: int) -> "Steps":
        return Steps(self.start_ms, self.step_ms, step)


def touches(expr: Expr, first_served: FirstServed) -> bool:
    return any(first_served(selector) is not None for selector in selectors(expr))


def first_own_step(expr: Expr, steps: Steps, first_served: FirstServed) -> int | None:
    """The first step that needs the forecasts; None where none does.

    ``expr`` must have its ``@ start()`` and ``@ end()`` pinned.
    """
    needed_ms = min(_thresholds(expr, first_served, 0, None), default=math.inf)
    if needed_ms > steps.end_ms:
        return None
    if needed_ms <= steps.start_ms:
        return 0
    return -((steps.start_ms - int(needed_ms)) // steps.step_ms)


def _thresholds(
    expr: Expr, first_served: FirstServed, shift_ms: int, anchor_ms: int | None
) -> Iterator[float]:
    """For each selector the query time from which on it is needed: -inf = always, inf = never.

    Args:
        shift_ms: how far subqueries around it look back.
        anchor_ms: the instant a subquery around it is pinned to, whatever the query time.
    """
    match expr:
        case VectorSelector(offset_ms=offset_ms, at=at):
            first_ms = first_served(expr)
            if first_ms is None:
                yield math.inf
                return
            fixed = at if at is not None else anchor_ms
            if fixed is None:
                yield first_ms + offset_ms + shift_ms
                return
            assert isinstance(fixed, int), "edges are pinned before"
            late = 0 if at is not None else shift_ms
            yield -math.inf if fixed - late - offset_ms >= first_ms else math.inf
        case Subquery(expr=inner, offset_ms=offset_ms, at=at):
            if at is not None:
                assert isinstance(at, int), "edges are pinned before"
                yield from _thresholds(inner, first_served, offset_ms, at)
            else:
                yield from _thresholds(inner, first_served, shift_ms + offset_ms, anchor_ms)
        case _:
            for child in children(expr):
                yield from _thresholds(child, first_served, shift_ms, anchor_ms)


def unsupported(expr: Expr, first_served: FirstServed) -> str | None:
    """What cannot be evaluated over forecasts, in words for the user; None where all can."""
    if not touches(expr, first_served):
        return None
    match expr:
        case Subquery():
            return "a subquery"
        case Aggregate(op=op) if op not in AGGREGATIONS:
            return f"{op}()"
        case Binary(op=op) if op not in OPERATORS:
            return f"the operator {op}"
        case Call():
            if (problem := _unsupported_call(expr)) is not None:
                return problem
    found = (unsupported(child, first_served) for child in children(expr))
    return next((one for one in found if one is not None), None)


def _unsupported_call(call: Call) -> str | None:
    if call.function in WINDOW_FUNCTIONS:
        # The window of anything but a selector is a subquery's.
        return None if isinstance(call.args[-1], RangeSelector) else "a subquery"
    if call.function not in FUNCTIONS:
        return f"{call.function}()"
    if call.function == "timestamp" and isinstance(call.args[0], VectorSelector):
        # Without names, timestamps of several metrics could not be told apart.
        return None if metric_of(call.args[0]) else "timestamp() of several metrics"
    return None
