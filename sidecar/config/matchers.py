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
_MATCHER: Final = re.compile(
    r"\s*(?P<name>[^\s=!~]*)\s*(?P<op>=~|!~|!=|==|=|)\s*(?P<value>.*?)\s*", re.S
)
_ESCAPE: Final = re.compile(
    r"\\(?:(?P<plain>[abfnrtv\\'\"])|x(?P<x>[0-9a-fA-F]{2})|u(?P<u>[0-9a-fA-F]{4})"
    r"|U(?P<U>[0-9a-fA-F]{8})|(?P<oct>[0-7]{3})|(?P<bad>.?))",
    re.S,
)
_PLAIN: Final = dict(zip("abfnrtv\\'\"", "\a\b\f\n\r\t\v\\'\"", strict=True))
# Python's engine knows these and RE2, which Prometheus runs, does not.
_NOT_RE2: Final = re.compile(r"(?<!\\)(?:\\\\)*(?P<what>\(\?(?:=|!|<=|<!|>|\()|\\[1-9]|\(\?P=)")


def parse_matcher(text: str) -> Matcher:
    """One matcher.

    >>> print(parse_matcher("job =~ 'api.*'"))
    job=~"api.*"

    Raises:
        ValueError: not a matcher, or a regular expression that Prometheus would refuse.
    """
    found = _MATCHER.fullmatch(text)
    name, op, value = found.group("name", "op", "value") if found else ("", "", "")
    if not LABEL_NAME.fullmatch(name) or not op:
        raise ValueError(
            f"{text!r} is not a matcher: write a label's name, one of = != =~ !~, and a quoted "
            "value, such as 'job=~\"api.*\"'"
        )
    if name == METRIC_NAME:
        raise ValueError(
            f"{text!r} selects by name: write the name under 'metric', one watch for each"
        )
    if op == "==":
        raise ValueError(f"{text!r} has '==': a matcher has one equals sign, {name}={value}")
    matcher_op = MatchOp(op)
    unquoted = _unquote(text, f"{name}{op}", value)
    if matcher_op in (MatchOp.REGEX, MatchOp.NOT_REGEX):
        check_regex(unquoted)
    return Matcher(name, matcher_op, unquoted)


def check_regex(pattern: str) -> None:
    """Whether both engines can run a pattern: RE2 at the server, Python's here.

    Raises:
        ValueError: one of them cannot.
    """
    beyond = _NOT_RE2.search(pattern)
    if beyond is not None:
        raise ValueError(
            f"{pattern!r} uses {beyond['what']!r}, which RE2, the engine of Prometheus, "
            "does not have: write it without look-around and back-references"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            re.compile(pattern, re.DOTALL)
        except (
            re.error,
            FutureWarning,
            DeprecationWarning,
            OverflowError,
            RecursionError,
        ) as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None


def _unquote(text: str, front: str, value: str) -> str:
    """The string that a PromQL literal stands for."""
    mark = value[:1]
    if mark not in ('"', "'", "`") or mark == "":
        raise ValueError(f"{text!r} lacks quotes around the value: write {front}{quote(value)}")
    if len(value) < 2 or not value.endswith(mark):
        raise ValueError(f"{text!r} does not end with the quote it opens, {mark}")
    inner = value[1:-1]
    if mark == "`":
        if "`" in inner:
            raise ValueError(f"{text!r} has text after the closing quote")
        return inner
    rest = _ESCAPE.sub("", inner)
    if mark in rest:
        raise ValueError(f"{text!r} has text after the closing quote, or a quote without a \\")
    for escape in _ESCAPE.finditer(inner):
        if escape["bad"] is not None:
            raise ValueError(
                f"{text!r} has the escape '\\{escape['bad']}', which PromQL does not know: "
                "double the backslash, or put the value in backquotes"
            )
    if inner.endswith("\\") and not _ends_escaped(inner):
        raise ValueError(f"{text!r} does not end with the quote it opens, {mark}")
    return _ESCAPE.sub(_unescape, inner)


def _ends_escaped(inner: str) -> bool:
    """Whether the backslashes at the end are pairs, so that none escapes the closing quote."""
    return (len(inner) - len(inner.rstrip("\\"))) % 2 == 0


def _unescape(escape: re.Match[str]) -> str:
    if escape["plain"] is not None:
        return _PLAIN[escape["plain"]]
    code = escape["x"] or escape["u"] or escape["U"]
    return chr(int(code, 16) if code else int(escape["oct"], 8))
