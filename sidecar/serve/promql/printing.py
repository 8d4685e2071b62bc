"""An expression as PromQL text that every Prometheus since 2.33 reads as the same expression.

Not for showing: operands are always in parentheses, durations in milliseconds.
"""

import math

from sidecar.series import quote
from sidecar.serve.promql.matchers import label_name
from sidecar.serve.promql.syntax import (
    Aggregate,
    At,
    Binary,
    Call,
    Cardinality,
    Edge,
    Expr,
    Matching,
    Negate,
    Number,
    RangeSelector,
    Subquery,
    Text,
    VectorSelector,
)


def to_text(expr: Expr) -> str:
    match expr:
        case Number(value=value):
            return _number(value)
        case Text(value=value):
            return quote(value)
        case VectorSelector():
            return _selector(expr) + _modifiers(expr.at, expr.offset_ms)
        case RangeSelector(selector=inner, range_ms=range_ms):
            return f"{_selector(inner)}[{range_ms}ms]" + _modifiers(inner.at, inner.offset_ms)
        case Subquery(step_ms=step_ms):
            step = "" if step_ms is None else f"{step_ms}ms"
            window = f"[{expr.range_ms}ms:{step}]"
            return f"({to_text(expr.expr)}){window}" + _modifiers(expr.at, expr.offset_ms)
        case Call(function=function, args=args):
            return f"{function}({', '.join(to_text(one) for one in args)})"
        case Aggregate():
            return _aggregate(expr)
        case Binary():
            return _binary(expr)
        case Negate(expr=inner):
            return f"-({to_text(inner)})"


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    return repr(value)


def _selector(selector: VectorSelector) -> str:
    return "{" + ",".join(str(matcher) for matcher in selector.matchers) + "}"


def _modifiers(at: At, offset_ms: int) -> str:
    text = ""
    if isinstance(at, Edge):
        text = f" @ {at.value}()"
    elif at is not None:
        text = f" @ {at / 1000:.3f}"
    if offset_ms:
        text += f" offset {'-' if offset_ms < 0 else ''}{abs(offset_ms)}ms"
    return text


def _aggregate(expr: Aggregate) -> str:
    clause = ""
    if expr.without or expr.grouping:
        names = ", ".join(label_name(one) for one in expr.grouping)
        clause = f" {'without' if expr.without else 'by'} ({names}) "
    param = "" if expr.param is None else to_text(expr.param) + ", "
    return f"{expr.op}{clause}({param}{to_text(expr.expr)})"


def _binary(expr: Binary) -> str:
    words = [expr.op]
    if expr.return_bool:
        words.append("bool")
    words += _matching(expr.matching)
    return f"({to_text(expr.left)}) {' '.join(words)} ({to_text(expr.right)})"


def _matching(matching: Matching) -> list[str]:
    words = []
    if matching.on or matching.labels:
        names = ", ".join(label_name(one) for one in matching.labels)
        words.append(f"{'on' if matching.on else 'ignoring'} ({names})")
    if matching.cardinality in (Cardinality.MANY_TO_ONE, Cardinality.ONE_TO_MANY):
        names = ", ".join(label_name(one) for one in matching.include)
        words.append(f"{matching.cardinality.value} ({names})")
    return words
