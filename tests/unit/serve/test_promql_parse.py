"""Parsing behind the fence, and printing that reads back as the same tree."""

import math

import promql_parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.series import LabelSet, MatchOp
from sidecar.serve.promql.frames import QueryError
from sidecar.serve.promql.matchers import LabelMatcher
from sidecar.serve.promql.parse import (
    MAX_DEPTH,
    MAX_OPERATORS,
    MAX_TEXT,
    REFUSED_TEXT,
    Unparsable,
    parse,
    parse_selector,
    splice_edges,
)
from sidecar.serve.promql.printing import to_text
from sidecar.serve.promql.syntax import (
    Aggregate,
    Binary,
    Call,
    Cardinality,
    Edge,
    Expr,
    Kind,
    Matching,
    Negate,
    Number,
    RangeSelector,
    Subquery,
    Text,
    VectorSelector,
    kind_of,
    pinned,
)


def selector(name: str = "a", **modifiers: int) -> VectorSelector:
    return VectorSelector((LabelMatcher("__name__", MatchOp.EQUAL, name),), **modifiers)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a", selector()),
        ("a offset 5m", selector(offset_ms=300_000)),
        ("a offset -1h", selector(offset_ms=-3_600_000)),
        ("a @ 1.5", selector(at=1500)),
        ("a[5m] offset 1m", RangeSelector(selector(offset_ms=60_000), 300_000)),
        ("a[1h:5m]", Subquery(selector(), 3_600_000, 300_000)),
        ("a[1h:]", Subquery(selector(), 3_600_000, None)),
        ("(a)", selector()),
        ("-a", Negate(selector())),
        ("1e3", Number(1000.0)),
        ("'it\"s'", Text('it"s')),
        ("abs(a)", Call("abs", (selector(),))),
        ("sum by (x) (a)", Aggregate("sum", selector(), None, False, ("x",))),
        ("topk without (x) (3, a)", Aggregate("topk", selector(), Number(3), True, ("x",))),
        ("a > bool 1", Binary(">", selector(), Number(1), Matching(), True)),
        (
            "a * on (x) group_left (y) b",
            Binary(
                "*",
                selector(),
                selector("b"),
                Matching(True, ("x",), Cardinality.MANY_TO_ONE, ("y",)),
            ),
        ),
        (
            "a unless b",
            Binary(
                "unless",
                selector(),
                selector("b"),
                Matching(cardinality=Cardinality.MANY_TO_MANY),
            ),
        ),
    ],
)
def test_text_is_read_as_the_tree_it_says(text: str, tree: Expr) -> None:
    assert parse(text) == tree
    assert parse(to_text(tree)) == tree


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a +",
        "(" * 500 + "a" + ")" * 500,
        "-" * 500 + "a",
        "+".join(["a"] * 500),
        "abs(" * 500 + "a" + ")" * 500,
        "a" * (MAX_TEXT + 1),
        "a offset 1e20",
        "a offset -99999999999999999999",
        "a[1e30]",
        "a offset inf",
        "a @ -1.5",
        "a @ 1e300",
        'a{x="\\xff"}',
        'a{x=~"("}',
        'a{x=~"(a{1000}){1000}"}',
        "a{x='\ud800'}",
        "sum(a",
        'a{b="c" or d="e"}',
        "\0",
    ],
)
def test_what_would_hurt_the_parser_is_not_handed_to_it(text: str) -> None:
    with pytest.raises(Unparsable):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000 + "a" + ")" * 5000,
        "-" * 5000 + "a",
        "+".join(["a"] * 5000),
        "{" * 5000,
        "a" * (REFUSED_TEXT + 1),
    ],
)
def test_what_would_hurt_any_parser_is_refused(text: str) -> None:
    with pytest.raises(QueryError, match="too complex"):
        parse(text)


def test_the_fence_stands_well_before_the_parser_falls() -> None:
    deepest = "(" * MAX_DEPTH + "a" + ")" * MAX_DEPTH
    assert parse(deepest) == selector()
    with pytest.raises(Unparsable):
        parse(f"({deepest})")
    longest = "+".join(["a"] * (MAX_OPERATORS + 1))
    assert isinstance(parse(longest), Binary)
    with pytest.raises(Unparsable):
        parse(longest + "+a")


def test_a_panic_of_the_parser_is_an_answer_not_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    def panics(_: str) -> None:
        raise PanicException

    monkeypatch.setattr(promql_parser, "parse", panics)
    with pytest.raises(Unparsable):
        parse("never_read_before")


@settings(deadline=None)
@given(st.text(st.sampled_from('ab{}()[]"=~!,+-@:5m0.1e offset by on\\`#\n'), max_size=40))
def test_no_text_does_more_than_be_unparsable(text: str) -> None:
    try:
        tree = parse(text)
    except Unparsable:
        return
    again = to_text(tree)
    assert to_text(parse(again)) == again


@pytest.mark.parametrize(
    ("text", "value"),
    [('a{x=`b\\d"`}', 'b\\d"'), ("a{x='\\n'}", "\n"), ('a{x="é"}', "é"), ("a{x=`\n`}", "\n")],
)
def test_strings_are_what_go_would_read(text: str, value: str) -> None:
    tree = parse(text)
    assert isinstance(tree, VectorSelector)
    assert tree.matchers[1].value == value
    assert parse(to_text(tree)) == tree


NAMES = st.sampled_from(["a", "job", "sum", "on", "by"])
LABELS = st.sampled_from(["x", "job", "le"])
DURATIONS = st.integers(1, 10**9)
MATCHERS = st.builds(
    LabelMatcher,
    LABELS,
    st.sampled_from(list(MatchOp)),
    st.text('ab.*"\\\né', max_size=4).filter(
        lambda text: not text.startswith("*") and "**" not in text and "\\" not in text
    ),
)
SELECTORS = st.builds(
    lambda name, more, offset, at: VectorSelector(
        (LabelMatcher("__name__", MatchOp.EQUAL, name), *more), offset, at
    ),
    NAMES,
    st.lists(MATCHERS, max_size=2),
    st.sampled_from([0, 60_000, -1, 3_600_001]),
    st.sampled_from([None, 0, 1_700_000_000_123, Edge.START, Edge.END]),
)
NUMBERS = st.builds(
    Number, st.floats(0, allow_nan=False) | st.sampled_from([1.0, math.inf])
).filter(lambda number: math.copysign(1, number.value) > 0)


def _larger(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    vectors = inner.filter(lambda one: kind_of(one) is Kind.VECTOR)
    found: list[st.SearchStrategy[Expr]] = [
        st.builds(lambda one: Call("abs", (one,)), vectors),
        st.builds(Negate, vectors),
        st.builds(Subquery, vectors, DURATIONS, st.none() | DURATIONS, st.just(-5)).map(
            lambda window: Call("rate", (window,))
        ),
        st.builds(
            lambda one, size: Call("max_over_time", (RangeSelector(one, size),)),
            SELECTORS,
            DURATIONS,
        ),
        st.builds(
            Aggregate,
            st.just("sum"),
            vectors,
            st.none(),
            st.booleans(),
            st.lists(LABELS, max_size=2).map(tuple),
        ),
        st.builds(Aggregate, st.just("quantile"), vectors, NUMBERS, st.just(True), st.just(("x",))),
        st.builds(
            Binary,
            st.sampled_from(["+", "^", "%", ">", "atan2"]),
            vectors,
            vectors,
            st.sampled_from(
                [
                    Matching(),
                    Matching(False, ("x",)),
                    Matching(True, ()),
                    Matching(True, ("x",), Cardinality.MANY_TO_ONE, ("le",)),
                    Matching(False, ("x",), Cardinality.ONE_TO_MANY),
                ]
            ),
        ),
        st.builds(Binary, st.just(">="), vectors, NUMBERS, st.just(Matching()), st.booleans()),
    ]
    return st.one_of(found)


@settings(deadline=None)
@given(st.recursive(SELECTORS, _larger, max_leaves=6))
def test_every_tree_is_read_back_from_what_is_printed(tree: Expr) -> None:
    assert parse(to_text(tree)) == tree


def test_edges_are_pinned_everywhere() -> None:
    text = "sum(a @ start()) + max_over_time(b[5m] @ end()) - (-c @ end() offset 5m)"
    bound = pinned(parse(text), 1_000, 2_500)
    assert to_text(bound) == to_text(parse(splice_edges(text, 1_000, 2_500)))
    assert splice_edges(text, 1_000, 2_500) == (
        "sum(a @ 1.000) + max_over_time(b[5m] @ 2.500) - (-c @ 2.500 offset 5m)"
    )
    subquery = "rate((topk(2, a @ end()))[5m:] @ start())"
    assert to_text(pinned(parse(subquery), 1_000, 2_500)) == to_text(
        parse("rate((topk(2, a @ 2.5))[5m:] @ 1)")
    )


@pytest.mark.parametrize(
    "text", ["a{x='@ end()'}", "a # @ end()\n", "endless @ 5", "end", "rate(a[5m:] offset 5m)"]
)
def test_nothing_else_is_spliced(text: str) -> None:
    assert splice_edges(text, 1, 2) == text


@pytest.mark.parametrize("text", ["a offset 5m", "a @ 1", "a[5m]", "sum(a)", "1", "a + b"])
def test_only_a_bare_selector_selects_series(text: str) -> None:
    with pytest.raises(Unparsable):
        parse_selector(text)
    assert parse_selector('{job="x"}').matchers[0].value == "x"


@pytest.mark.parametrize(
    ("pattern", "value", "accepted"),
    [
        ("a", "a", True),
        ("a", "ab", False),
        ("a|b", "b", True),
        ("a|b", "ab", False),
        (".*", "", True),
        (".+", "", False),
        (".*", "line\nline", True),
        ("(?i)ABC", "abc", True),
        (r"\d+", "123", True),
        (r"\pL+", "é", True),
        ("a$", "a\n", False),
        ("", "", True),
    ],
)
def test_regular_expressions_are_anchored_and_re2(pattern: str, value: str, accepted: bool) -> None:
    assert LabelMatcher("x", MatchOp.REGEX, pattern).accepts_value(value) is accepted
    labels = LabelSet.of({"x": value})
    assert LabelMatcher("x", MatchOp.NOT_REGEX, pattern).accepts(labels) is not accepted


@pytest.mark.parametrize("pattern", ["(", "a{1000}{1000}{1000}", r"(a)\1"])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="regexp"):
        LabelMatcher("x", MatchOp.REGEX, pattern)


def test_a_pattern_that_backtracks_elsewhere_is_answered_at_once() -> None:
    hostile = LabelMatcher("x", MatchOp.REGEX, "(a+)+(a|aa)+b")
    assert not hostile.accepts_value("a" * 50_000)
