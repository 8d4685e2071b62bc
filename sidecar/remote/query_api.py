"""Answers of the HTTP query API: matrices of samples, taken apart series by series."""

import json
import re
from typing import Any, Final

import numpy as np

from sidecar.errors import WireError
from sidecar.series import LabelSet, RawSeries

_MATRIX = re.compile(
    rb'\s*\{\s*"status"\s*:\s*"success"\s*,(?P<head>[^\[\]]*?)'
    rb'"resultType"\s*:\s*"matrix"\s*,\s*"result"\s*:\s*\[\s*'
)
_PARTIAL: Final = re.compile(rb'"isPartial"\s*:\s*true')


def decode_matrix(body: bytes) -> list[RawSeries]:
    """The series of a matrix, in the order of the answer; timestamps strictly increasing.

    Each series is decoded by itself, so the interpreter is free between two of them.

    Raises:
        WireError: not a matrix, or one that the server says is not whole.
    """
    found = _MATRIX.match(body)
    if found is None:
        raise WireError(f"not a matrix of the query API: {body[:200]!r}")
    if _PARTIAL.search(found["head"]):
        raise WireError("the answer is partial: some storage did not answer")
    try:
        text = body[found.end() :].decode()
    except UnicodeDecodeError as error:
        raise WireError(f"an answer that is not UTF-8: {error}") from None
    decoder = json.JSONDecoder()
    series, at = [], 0
    while text[at : at + 1] == "{":
        try:
            one, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise WireError(f"an answer that is cut off or no JSON: {error}") from None
        series.append(_series(one))
        at = _skip(text, at, ",")
    _check_rest(body[: found.end()].decode() + text[at:], len(series))
    return [one for one in series if len(one.timestamps_ms)]


def _check_rest(emptied: str, count: int) -> None:
    """What stands around the series has to be whole too."""
    try:
        json.loads(emptied)
    except (ValueError, RecursionError):
        raise WireError(f"an answer that is cut off after {count} series") from None


def _series(one: Any) -> RawSeries:
    try:
        labels = LabelSet.of({str(name): str(value) for name, value in one["metric"].items()})
        samples = one.get("values", [])
        times = np.array([round(float(t) * 1000) for t, _ in samples], dtype=np.int64)
        values = np.array([float(v) for _, v in samples], dtype=np.float64)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WireError(f"a series that is none: {error!r}") from None
    if (times[1:] <= times[:-1]).any():
        times, first = np.unique(times[::-1], return_index=True)
        values = values[::-1][first]  # of equal timestamps the last one wins
    return RawSeries(labels, times, values)


def _skip(text: str, at: int, separator: str) -> int:
    while text[at : at + 1].isspace():
        at += 1
    if text[at : at + 1] == separator:
        at += 1
        while text[at : at + 1].isspace():
            at += 1
    return at
