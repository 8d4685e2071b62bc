"""What the upstream is asked for, so that the rest can be evaluated here.

Largest possible parts without forecasts are evaluated by the upstream itself, on the same steps. Of
a forecast selector the upstream knows the past: for an instant selector what it sees at each step
(staleness and lookback applied), for a window the raw samples.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from sidecar.serve.promql.printing import to_text
from sidecar.serve.promql.split import FirstServed, Steps, touches
from sidecar.serve.promql.syntax import (
    Binary,
    Call,
    Expr,
    Kind,
    Negate,
    Number,
    RangeSelector,
    Text,
    VectorSelector,
    children,
    kind_of,
)


@dataclass(frozen=True, slots=True)
class GridFetch:
    """Evaluate ``text`` on the query's own steps."""

    text: str


@dataclass(frozen=True, slots=True)
class RawFetch:
    """The raw samples that ``text``, a range selector, has at ``time_ms``."""

    text: str
    time_ms: int


Fetch: TypeAlias = GridFetch | RawFetch


def fetches(expr: Expr, steps: Steps, first_served: FirstServed) -> Mapping[Expr, Fetch]:
    """For each node whose value the upstream knows, or knows in part, what to ask."""
    return dict(_fetches(expr, steps, first_served))


def _fetches(expr: Expr, steps: Steps, first_served: FirstServed) -> Iterator[tuple[Expr, Fetch]]:
    if is_local(expr):
        return
    if not touches(expr, first_served) or isinstance(expr, VectorSelector):
        yield expr, GridFetch(to_text(expr))
        return
    if isinstance(expr, RangeSelector):
        yield expr, _raw(expr, steps)
        return
    if isinstance(expr, Call) and expr.function == "timestamp" and _selects(expr.args[0]):
        yield expr, GridFetch(to_text(expr))
        return
    for child in children(expr):
        yield from _fetches(child, steps, first_served)


def _selects(expr: Expr) -> bool:
    return isinstance(expr, VectorSelector)


def is_local(expr: Expr) -> bool:
    """Whether an expression needs no data at all."""
    match expr:
        case Number() | Text():
            return True
        case Negate(expr=inner):
            return is_local(inner)
        case Binary(left=left, right=right):
            return is_local(left) and is_local(right)
        case Call(function="time"):
            return True
        case Call(function="vector", args=(inner,)):
            return kind_of(inner) is Kind.SCALAR and is_local(inner)
        case _:
            return False


def evaluated_at(selector: VectorSelector, steps: Steps) -> tuple[int, int]:
    """The first and the last instant at which a selector is evaluated."""
    at = selector.at
    if at is None:
        return steps.start_ms - selector.offset_ms, steps.end_ms - selector.offset_ms
    assert isinstance(at, int), "edges are pinned before"
    return at - selector.offset_ms, at - selector.offset_ms


def _raw(expr: RangeSelector, steps: Steps) -> RawFetch:
    """All windows at once, without the modifiers: they only say when."""
    first_ms, last_ms = evaluated_at(expr.selector, steps)
    bare = replace(expr.selector, offset_ms=0, at=None)
    span_ms = last_ms - first_ms + expr.range_ms
    return RawFetch(to_text(RangeSelector(bare, span_ms)), last_ms)
