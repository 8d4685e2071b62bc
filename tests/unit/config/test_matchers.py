"""Matchers as an operator writes them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.matchers import check_regex, parse_matcher, parse_selector
from sidecar.series import Matcher, MatchOp, Selector

NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: name != "__name__"
)
VALUES = st.text(st.characters(codec="utf-8"), max_size=20)
EQUALITY = st.sampled_from([MatchOp.EQUAL, MatchOp.NOT_EQUAL])


@given(name=NAMES, op=EQUALITY, value=VALUES)
def test_what_is_printed_is_read_back(name: str, op: MatchOp, value: str) -> None:
    matcher = Matcher(name, op, value)
    assert parse_matcher(str(matcher)) == matcher


@given(matchers=st.lists(st.builds(Matcher, NAMES, EQUALITY, VALUES), max_size=4))
def test_a_printed_selector_is_read_back(matchers: list[Matcher]) -> None:
    assert parse_selector(str(Selector.of("up", *matchers))) == ("up", tuple(matchers))


@given(st.text(st.sampled_from("job=~!\"'`\\{}, ab\n"), max_size=15))
def test_any_text_is_a_matcher_or_an_error_in_words(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_matcher(text).name


@given(st.text(st.sampled_from("up{}job=~!\"'`\\, ab"), max_size=20))
def test_any_text_is_a_selector_or_an_error_in_words(text: str) -> None:
    with contextlib.suppress(ValueError):
        name, _ = parse_selector(text)
        assert name


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('a="b"', "b"),
        ("a='b'", "b"),
        ("a=`b`", "b"),
        (' a  =  "b" ', "b"),
        ('a=""', ""),
        (r'a="\"\\\n\t"', '"\\\n\t'),
        (r'a="\x41\u00e9\U0001F600\101"', "Aé😀A"),
        (r"a=`\d\n`", r"\d\n"),
        ("a='\"'", '"'),
        ('a="b=c,d}"', "b=c,d}"),
    ],
)
def test_quotes_and_escapes_are_those_of_promql(text: str, value: str) -> None:
    assert parse_matcher(text) == Matcher("a", MatchOp.EQUAL, value)


@pytest.mark.parametrize(
    "pattern",
    [
        "api.*",
        "a|b",
        "(?i)x",
        "(?P<n>a)",
        r"\d+\.\w",
        "[^a-c]{2,3}",
        r"a\\+",
        "x*?",
        "",
        r"\\1",
        r"\(?=",
        "[*+]+",
        r"[\]*+]",
        "[]*+]",
    ],
)
def test_a_pattern_of_both_engines_passes(pattern: str) -> None:
    check_regex(pattern)


@pytest.mark.parametrize(
    "pattern", ["(?=a)", "(?!a)", "(?<=a)", "(?<!a)", r"(a)\1", "(?>a)", "(?P<n>a)(?P=n)", "a++"]
)
def test_a_pattern_that_re2_lacks_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="RE2"):
        check_regex(pattern)


@pytest.mark.parametrize("pattern", ["(", "[a", "a{2,1}", "*", r"\p{Greek}", "[[:alpha:]]"])
def test_a_pattern_that_cannot_run_here_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"regular expression|different things"):
        check_regex(pattern)
