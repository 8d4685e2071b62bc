"""PromQL text to a tree, with the parser of PyPI's promql-parser behind a fence.

The parser (0.11) ends the whole process on deep nesting (its recursion overflows the C stack), is
quadratic in it, panics on absurd durations, and reads ``@ -1`` as ``@ 0``. So the text is looked
over first, token by token, and what could go wrong is not handed to it. ``Unparsable`` never means
that a query is wrong: the upstream decides that.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, NamedTuple

import promql_parser

from sidecar.names import METRIC_NAME
from sidecar.series import MatchOp, quote
from sidecar.serve.promql.frames import QueryError
from sidecar.serve.promql.matchers import LabelMatcher
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

MAX_TEXT: Final = 64 * 1024
MAX_DEPTH: Final = 50
MAX_OPERATORS: Final = 100
# Beyond these the upstream's parser is quadratic as well: 100,000 parentheses hold it for minutes.
REFUSED_TEXT: Final = 512 * 1024
REFUSED_DEPTH: Final = 500
REFUSED_OPERATORS: Final = 2_000
# Looking over a longer text takes more than a moment.
LONG_TEXT: Final = 4 * 1024
_MAX_NUMBER: Final = 15

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_TOKEN: Final = re.compile(
    r"""
    (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`[^`]*`)
    |(?P<comment>\#[^\n]*)
    |(?P<space>\s+)
    |(?P<word>[A-Za-z_:][A-Za-z0-9_:]*)
    |(?P<number>[0-9.][0-9A-Za-z_.]*)
    |(?P<open>[(\[{])
    |(?P<close>[)\]}])
    |(?P<operator>==|!=|<=|>=|=~|!~|[-+*/%^<>])
    |(?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_WORD_OPERATORS: Final = frozenset({"and", "or", "unless", "atan2", "offset", "by", "without"})
# Escapes of single bytes: Go makes bytes of them, other languages characters.
_BYTE_ESCAPE: Final = re.compile(r"\\[x0-7]")

# The parser's enums hash by nothing; they print as Class.Member.
_CARDINALITIES: Final = {
    "OneToOne": Cardinality.ONE_TO_ONE,
    "ManyToOne": Cardinality.MANY_TO_ONE,
    "OneToMany": Cardinality.ONE_TO_MANY,
    "ManyToMany": Cardinality.MANY_TO_MANY,
}
_MATCH_OPS: Final = {
    "Equal": MatchOp.EQUAL,
    "NotEqual": MatchOp.NOT_EQUAL,
    "Re": MatchOp.REGEX,
    "NotRe": MatchOp.NOT_REGEX,
}


class Unparsable(ValueError):
    """Not understood here. Whether it is PromQL at all, the upstream must say."""


class Token(NamedTuple):
    kind: str
    text: str
    start: int


def tokens(text: str) -> Iterator[Token]:
    """Words, numbers, strings and signs, without space and comments."""
    for found in _TOKEN.finditer(text):
        kind = found.lastgroup or "other"
        if kind not in ("space", "comment"):
            yield Token(kind, found.group(), found.start())


@lru_cache(maxsize=512)
def parse(text: str) -> Expr:
    """The tree of an expression.

    Raises:
        Unparsable: see the class.
        QueryError: so complex that nobody should be asked.
    """
    tree = _guarded(_prepared(text))
    try:
        return _convert(tree)
    except (ValueError, OverflowError, RecursionError) as error:
        raise Unparsable(str(error)) from None


def parse_selector(text: str) -> VectorSelector:
    """A ``match[]`` parameter: a plain selector, no offset, no ``@``.

    Raises:
        Unparsable
    """
    expr = parse(text)
    if not isinstance(expr, VectorSelector) or expr.offset_ms or expr.at is not None:
        raise Unparsable(f"{text!r} is not a series selector")
    return expr


def splice_edges(text: str, start_ms: int, end_ms: int) -> str:
    """``text`` with ``@ start()`` and ``@ end()`` written as instants; nothing else moves.

    >>> splice_edges('x{a="@ end()"} @ end() offset 5m', 0, 1_500)
    'x{a="@ end()"} @ 1.500 offset 5m'
    """
    edges = {"start": start_ms, "end": end_ms}
    found = list(tokens(text))
    pieces, done = [], 0
    for i in range(len(found) - 3):
        words = [token.text for token in found[i : i + 4]]
        if words[0] == "@" and words[1] in edges and words[2:] == ["(", ")"]:
            pieces += [text[done : found[i + 1].start], f"{edges[words[1]] / 1000:.3f}"]
            done = found[i + 3].start + 1
    return "".join([*pieces, text[done:]])


def _prepared(text: str) -> str:
    """The text as the parser may have it: bounded, raw strings quoted.

    Raises:
        Unparsable: too much for the parser here.
        QueryError: too much for any.
    """
    if len(text) > REFUSED_TEXT:
        raise _refused(f"longer than {REFUSED_TEXT} characters")
    pieces: list[str] = []
    depth = deepest = operators = done = 0
    before = ["", ""]
    odd = ""
    for token in tokens(text):
        depth += {"open": 1, "close": -1}.get(token.kind, 0)
        deepest = max(deepest, depth)
        operators += token.kind == "operator" or token.text in _WORD_OPERATORS
        if deepest > REFUSED_DEPTH or operators > REFUSED_OPERATORS:
            raise _refused(f"more than {REFUSED_DEPTH} levels or {REFUSED_OPERATORS} operators")
        odd = odd or _oddity(token, before)
        if token.kind == "string" and token.text[0] == "`":
            pieces += [text[done : token.start], quote(token.text[1:-1])]
            done = token.start + len(token.text)
        before = [before[1], token.text]
    if odd or len(text) > MAX_TEXT or deepest > MAX_DEPTH or operators > MAX_OPERATORS:
        raise Unparsable(odd or "too long or nested too deeply")
    return "".join([*pieces, text[done:]])


def _refused(why: str) -> QueryError:
    return QueryError("bad_data", f"the query is too complex: {why}")


def _oddity(token: Token, before: list[str]) -> str:
    """What the parser would misread or panic at; empty where nothing."""
    if token.kind == "string" and token.text[0] != "`" and _BYTE_ESCAPE.search(token.text):
        return "a string with byte escapes"
    if before[1] == "@" and token.text in ("-", "+"):
        return "a signed instant after @"
    after = before[0] if before[1] in ("-", "+") else before[1]
    if after in ("offset", "[", ":"):
        plain = token.kind != "number" or not re.search(r"[eExX.]", token.text)
        long = token.kind == "number" and len(token.text) > _MAX_NUMBER
        if long or not plain or token.text.lower() in ("inf", "nan"):
            return f"{token.text[:40]!r} as a duration"
    return ""


def _guarded(text: str) -> Any:
    try:
        return promql_parser.parse(text)
    except ValueError as error:  # UnicodeEncodeError is one
        raise Unparsable(str(error)) from None
    except BaseException as error:
        # A panic in Rust arrives as an exception outside of Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise Unparsable("the parser gave up") from None


def _convert(node: Any) -> Expr:
    match node:
        case promql_parser.NumberLiteral():
            return Number(node.val)
        case promql_parser.StringLiteral():
            return Text(node.val)
        case promql_parser.ParenExpr():
            return _convert(node.expr)
        case promql_parser.VectorSelector():
            return _selector(node)
        case promql_parser.MatrixSelector():
            return RangeSelector(_selector(node.vector_selector), _ms(node.range))
        case promql_parser.SubqueryExpr():
            return _subquery(node)
        case promql_parser.UnaryExpr():
            return Negate(_convert(node.expr))
        case promql_parser.Call():
            return Call(node.func.name, tuple(_convert(one) for one in node.args))
        case promql_parser.AggregateExpr():
            return _aggregate(node)
        case promql_parser.BinaryExpr():
            return _binary(node)
        case _:
            raise Unparsable(f"a {type(node).__name__} is not known here")


def _selector(node: Any) -> VectorSelector:
    if node.matchers.or_matchers:
        raise Unparsable("'or' between matchers is not Prometheus'")
    matchers = [
        LabelMatcher(m.name, _MATCH_OPS[_member(m.op)], m.value) for m in node.matchers.matchers
    ]
    if node.name is not None:
        matchers.insert(0, LabelMatcher(METRIC_NAME, MatchOp.EQUAL, node.name))
    offset = 0 if node.offset is None else _ms(node.offset)
    return VectorSelector(tuple(matchers), offset, _at(node.at))


def _subquery(node: Any) -> Subquery:
    step = None if node.step is None else _ms(node.step)
    offset = 0 if node.offset is None else _ms(node.offset)
    return Subquery(_convert(node.expr), _ms(node.range), step, offset, _at(node.at))


def _aggregate(node: Any) -> Aggregate:
    modifier = node.modifier
    return Aggregate(
        str(node.op),
        _convert(node.expr),
        None if node.param is None else _convert(node.param),
        modifier is not None and modifier.type == promql_parser.AggModifierType.Without,
        () if modifier is None else tuple(modifier.labels),
    )


def _binary(node: Any) -> Binary:
    modifier, matching = node.modifier, Matching()
    if modifier is not None:
        fill = modifier.fill_values
        if fill.lhs is not None or fill.rhs is not None:
            raise Unparsable("fill values")
        on = modifier.matching
        matching = Matching(
            on is not None and on.type == promql_parser.LabelModifierType.Include,
            () if on is None else tuple(on.labels),
            _CARDINALITIES[_member(modifier.card)],
            tuple(modifier.group_labels or ()),
        )
    bare = modifier is None or not modifier.return_bool
    return Binary(str(node.op), _convert(node.lhs), _convert(node.rhs), matching, not bare)


def _member(value: Any) -> str:
    return str(value).rpartition(".")[2]


def _ms(duration: timedelta) -> int:
    return duration // _MS


def _at(modifier: Any) -> At:
    if modifier is None:
        return None
    if modifier.type == promql_parser.AtModifierType.At:
        instant: datetime = modifier.at
        return round((instant - _EPOCH) / _MS)
    return Edge.START if modifier.type == promql_parser.AtModifierType.Start else Edge.END
