"""Label matchers as an operator writes them: ``job=~"api.*"``.

The grammar is PromQL's, one matcher a text: a label's name, an operator, a quoted string. What
Prometheus would refuse is refused here, with what to write instead, because remote read answers a
bad regular expression with a bare status 500.
"""

import re
import warnings
from typing import Final

from sidecar.names import METRIC_NAME
from sidecar.series import Matcher, MatchOp, quote

LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
PLAIN_METRIC: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
# A quoted string with its escapes, as PromQL has them; backquotes take no escapes.
_STRING: Final = r'"(?:[^"\\\n]|\\.)*"' + r"|'(?:[^'\\\n]|\\.)*'" + "|`[^`]*`"
_MATCHER: Final = re.compile(
    rf"\s*(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)\s*(?P<op>=~|!~|!=|=)\s*(?P<value>{_STRING})\s*"
)
_ONE: Final = rf"\s*{LABEL_NAME.pattern}\s*(?:=~|!~|!=|=)\s*(?:{_STRING})\s*"
_SELECTOR: Final = re.compile(
    rf"\s*(?P<name>{PLAIN_METRIC.pattern})?\s*"
    rf"(?:\{{(?P<inner>(?:{_ONE}(?:,{_ONE})*,?)?)\s*\}})?\s*"
)
_EXAMPLE: Final = ": write its name and matchers, such as 'up{job=\"api\"}'"
# What was probably meant where the value lacks its quotes.
_UNQUOTED: Final = re.compile(
    r"\s*(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)\s*(?P<op>==|=~|!~|!=|=)\s*(?P<value>[^\s\"'`,{}][^\"'`,{}]*|)"
)
_ESCAPE: Final = re.compile(
    r"\\(?:(?P<plain>[abfnrtv\\'\"])|x(?P<x>[0-9a-fA-F]{2})|u(?P<u>[0-9a-fA-F]{4})"
    r"|U(?P<U>[0-9a-fA-F]{8})|(?P<oct>[0-3][0-7]{2})|(?P<bad>.))"
)
_PLAIN: Final = dict(zip("abfnrtv\\'\"", "\a\b\f\n\r\t\v\\'\"", strict=True))
# Escapes and character classes come first, so that what stands in them is not taken for syntax.
# Python's engine knows ``what`` and RE2, which Prometheus runs, does not.
_NOT_RE2: Final = re.compile(
    r"(?P<what>\\[1-9]|\(\?(?:=|!|<=|<!|>|\(|P=)|[*+?}]\+)"
    r"|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]",
    re.DOTALL,
)


def parse_matcher(text: str) -> Matcher:
    """One matcher.

    >>> print(parse_matcher("job =~ 'api.*'"))
    job=~"api.*"

    Raises:
        ValueError: not a matcher, or a regular expression that Prometheus would refuse.
    """
    found = _MATCHER.fullmatch(text)
    if found is None:
        raise ValueError(_why_not(text))
    matcher = _matcher(found, text)
    if matcher.name == METRIC_NAME:
        raise ValueError(f"{text!r} selects by name: write one watch for each 'metric'")
    return matcher


def parse_selector(text: str) -> tuple[str, tuple[Matcher, ...]]:
    """The metric's name and the matchers of a selector as it stands in PromQL.

    >>> name, matchers = parse_selector('up{job="api", env!~"dev|test"}')
    >>> name, [str(one) for one in matchers]
    ('up', ['job="api"', 'env!~"dev|test"'])

    Raises:
        ValueError: not a selector of one metric.
    """
    found = _SELECTOR.fullmatch(text)
    if found is None:
        pieces = text.partition("{")[2].rpartition("}")[0].split(",")
        wrong = [one.strip() for one in pieces if one.strip() and not _MATCHER.fullmatch(one)]
        why = _why_not(wrong[0]) if wrong else f"{text!r} does not select one metric{_EXAMPLE}"
        raise ValueError(why)
    matchers = [_matcher(one, one[0].strip()) for one in _MATCHER.finditer(found["inner"] or "")]
    by_name = [one for one in matchers if one.name == METRIC_NAME]
    names = [one.value for one in by_name if one.op is MatchOp.EQUAL]
    if found["name"]:
        names.append(found["name"])
    if len(names) != 1 or len(by_name) + bool(found["name"]) > 1:
        raise ValueError(f"{text!r} does not select one metric{_EXAMPLE}")
    return names[0], tuple(one for one in matchers if one.name != METRIC_NAME)


def _matcher(found: re.Match[str], text: str) -> Matcher:
    value = _unquote(found["value"], text)
    op = MatchOp(found["op"])
    if op in (MatchOp.REGEX, MatchOp.NOT_REGEX):
        check_regex(value)
    return Matcher(found["name"], op, value)


def _why_not(text: str) -> str:
    """What is wrong with a text that is no matcher."""
    near = _UNQUOTED.match(text)
    if near is None:
        return (
            f"{text!r} is not a matcher: write a label's name, one of = != =~ !~, and a quoted "
            "value, such as 'job=~\"api.*\"'"
        )
    op, value = near["op"].replace("==", "="), near["value"].strip()
    if near["op"] == "==":
        return f"{text!r} has '==', a matcher has one equals sign: write {text.replace('==', '=')}"
    if near.end() == len(text):
        return f"{text!r} lacks quotes around the value: write {near['name']}{op}{quote(value)}"
    return f"{text!r} is not one quoted value after {near['name']}{op}: close each quote once"


def check_regex(pattern: str) -> None:
    """Whether both engines can run a pattern: RE2 at the server, Python's here.

    Raises:
        ValueError: one of them cannot.
    """
    beyond = next((one["what"] for one in _NOT_RE2.finditer(pattern) if one["what"]), None)
    if beyond is not None:
        raise ValueError(
            f"{pattern!r} uses {beyond!r}, which RE2, the engine of Prometheus, does not "
            "have: write it without look-around, back-references and possessive repeats"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            re.compile(pattern, re.DOTALL)
        except Warning as error:
            raise ValueError(
                f"{pattern!r} means different things to RE2 and to Python ({error}): write its "
                "character classes out, such as [a-zA-Z]"
            ) from None
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None


def _unquote(value: str, text: str) -> str:
    """The string that a PromQL literal stands for."""
    inner = value[1:-1]
    if value.startswith("`"):
        return inner
    for escape in _ESCAPE.finditer(inner):
        if escape["bad"] is not None:
            raise ValueError(
                f"{text!r} has the escape '\\{escape['bad']}', which PromQL does not know: "
                "double the backslash, or put the value in backquotes"
            )
    return _ESCAPE.sub(_unescape, inner)


def _unescape(escape: re.Match[str]) -> str:
    if escape["plain"] is not None:
        return _PLAIN[escape["plain"]]
    code = escape["x"] or escape["u"] or escape["U"]
    return chr(int(code, 16) if code else int(escape["oct"], 8))
