"""A PromQL expression as a tree of frozen values, equal and hashable by what it says.

Parentheses are not kept: the tree has its own order, and ``printing`` writes those it needs.
Durations and instants are integer milliseconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import Final, TypeAlias

from sidecar.names import METRIC_NAME
from sidecar.serve.promql.matchers import LabelMatcher


class Kind(StrEnum):
    """What an expression gives."""

    SCALAR = "scalar"
    VECTOR = "vector"
    MATRIX = "matrix"
    STRING = "string"


class Edge(StrEnum):
    """``@ start()`` and ``@ end()``: the ends of the query, known only when it is asked."""

    START = "start"
    END = "end"


At: TypeAlias = int | Edge | None


@dataclass(frozen=True, slots=True)
class Number:
    value: float


@dataclass(frozen=True, slots=True)
class Text:
    value: str


@dataclass(frozen=True, slots=True)
class VectorSelector:
    """``matchers`` includes the one on the metric's name."""

    matchers: tuple[LabelMatcher, ...]
    offset_ms: int = 0
    at: At = None


@dataclass(frozen=True, slots=True)
class RangeSelector:
    selector: VectorSelector
    range_ms: int


@dataclass(frozen=True, slots=True)
class Subquery:
    """``step_ms`` is None where it is left to the server's default."""

    expr: "Expr"
    range_ms: int
    step_ms: int | None
    offset_ms: int = 0
    at: At = None


@dataclass(frozen=True, slots=True)
class Call:
    function: str
    args: "tuple[Expr, ...]"


@dataclass(frozen=True, slots=True)
class Aggregate:
    """``op [by|without (grouping)] ([param,] expr)``; neither clause is ``by ()``."""

    op: str
    expr: "Expr"
    param: "Expr | None"
    without: bool
    grouping: tuple[str, ...]


class Cardinality(Enum):
    ONE_TO_ONE = "one-to-one"
    MANY_TO_ONE = "group_left"
    ONE_TO_MANY = "group_right"
    MANY_TO_MANY = "set operator"


@dataclass(frozen=True, slots=True)
class Matching:
    """How the vectors of a binary operation meet.

    Attributes:
        on: only ``labels`` count; else all but ``labels`` (and the name).
        include: labels that ``group_left`` or ``group_right`` copies from the one side.
    """

    on: bool = False
    labels: tuple[str, ...] = ()
    cardinality: Cardinality = Cardinality.ONE_TO_ONE
    include: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Binary:
    op: str
    left: "Expr"
    right: "Expr"
    matching: Matching
    return_bool: bool = False


@dataclass(frozen=True, slots=True)
class Negate:
    expr: "Expr"


Expr: TypeAlias = (
    Number | Text | VectorSelector | RangeSelector | Subquery | Call | Aggregate | Binary | Negate
)

SET_OPERATORS: Final = frozenset({"and", "or", "unless"})
COMPARISONS: Final = frozenset({"==", "!=", ">", "<", ">=", "<="})
# Functions that give a scalar; every other function gives a vector.
SCALAR_FUNCTIONS: Final = frozenset({"scalar", "time", "pi", "start", "end", "step", "range"})


def kind_of(expr: Expr) -> Kind:
    match expr:
        case Number():
            return Kind.SCALAR
        case Text():
            return Kind.STRING
        case RangeSelector() | Subquery():
            return Kind.MATRIX
        case Call(function=function) if function in SCALAR_FUNCTIONS:
            return Kind.SCALAR
        case Negate(expr=inner):
            return kind_of(inner)
        case Binary(left=left, right=right):
            both = {kind_of(left), kind_of(right)}
            return Kind.SCALAR if both == {Kind.SCALAR} else Kind.VECTOR
        case _:
            return Kind.VECTOR


def children(expr: Expr) -> "tuple[Expr, ...]":
    match expr:
        case RangeSelector(selector=inner):
            return (inner,)
        case Subquery(expr=inner) | Negate(expr=inner):
            return (inner,)
        case Call(args=args):
            return args
        case Aggregate(expr=inner, param=param):
            return (inner,) if param is None else (param, inner)
        case Binary(left=left, right=right):
            return (left, right)
        case _:
            return ()


def walk(expr: Expr) -> "Iterator[Expr]":
    """The expression and everything in it, parents first."""
    yield expr
    for child in children(expr):
        yield from walk(child)


def selectors(expr: Expr) -> Iterator[VectorSelector]:
    return (node for node in walk(expr) if isinstance(node, VectorSelector))


def metric_of(selector: VectorSelector) -> str | None:
    """The one metric that a selector can match; None where it is not an equality."""
    for matcher in selector.matchers:
        if matcher.name == METRIC_NAME and matcher.exact is not None:
            return matcher.exact
    return None


def pinned(expr: Expr, start_ms: int, end_ms: int) -> Expr:
    """With ``@ start()`` and ``@ end()`` as the instants they mean for a query of these ends."""

    def pin(at: At) -> At:
        return {Edge.START: start_ms, Edge.END: end_ms}[at] if isinstance(at, Edge) else at

    match expr:
        case VectorSelector(at=at):
            return replace(expr, at=pin(at))
        case RangeSelector(selector=selector):
            return replace(expr, selector=replace(selector, at=pin(selector.at)))
        case Subquery(expr=inner, at=at):
            return replace(expr, expr=pinned(inner, start_ms, end_ms), at=pin(at))
        case Call(args=args):
            return replace(expr, args=tuple(pinned(one, start_ms, end_ms) for one in args))
        case Aggregate(expr=inner, param=param):
            param = None if param is None else pinned(param, start_ms, end_ms)
            return replace(expr, expr=pinned(inner, start_ms, end_ms), param=param)
        case Binary(left=left, right=right):
            ends = (start_ms, end_ms)
            return replace(expr, left=pinned(left, *ends), right=pinned(right, *ends))
        case Negate(expr=inner):
            return Negate(pinned(inner, start_ms, end_ms))
        case _:
            return expr
