"""Query parameters as Prometheus reads them, errors included."""

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final

from sidecar.duration import parse_duration_ms
from sidecar.serve.promql.frames import QueryError
from sidecar.serve.promql.split import Steps

MAX_POINTS: Final = 11_000
# Beyond this Prometheus' own arithmetic leaves 64 bits; nothing can lie there.
FAR_MS: Final = 9_200_000_000_000_000
_FLOAT: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_RFC3339: Final = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII
)
# What client libraries send for "the beginning" and "the end of time".
_EDGES: Final = {
    "-292273086-05-16T16:47:06Z": -FAR_MS,
    "+292277025-08-18T07:12:54.999999999Z": FAR_MS,
    "292277025-08-18T07:12:54.999999999Z": FAR_MS,
}

Params = Mapping[str, Sequence[str]]


class BadParam(QueryError):
    """A parameter that cannot be read here. What is wrong with it, the upstream must say."""

    def __init__(self, message: str) -> None:
        super().__init__("bad_data", message)


def first(params: Params, name: str) -> str:
    """The first value of a parameter, empty where it is missing."""
    return next(iter(params.get(name, ())), "")


def parse_time_ms(text: str) -> int:
    """Unix seconds or RFC 3339, to milliseconds.

    >>> parse_time_ms("1.5"), parse_time_ms("1970-01-01T00:00:02.5Z")
    (1500, 2500)

    Raises:
        ValueError: neither, or beyond what a timestamp can hold.
    """
    if text in _EDGES:
        return _EDGES[text]
    with suppress(ValueError, OverflowError):  # a thirteenth month
        if _FLOAT.fullmatch(text) and abs(float(text)) * 1000 <= FAR_MS:
            return round(float(text) * 1000)
        if (found := _RFC3339.fullmatch(text)) is not None:
            whole = datetime.fromisoformat(found[1] + found[3].replace("Z", "+00:00"))
            return round(whole.timestamp()) * 1000 + int((found[2] or "0").ljust(3, "0")[:3])
    raise ValueError(f'cannot parse "{text}" to a valid timestamp')


def parse_duration_param_ms(text: str) -> float:
    """Seconds as a number, or a duration such as ``1h30m``, to milliseconds.

    Raises:
        ValueError
    """
    if _FLOAT.fullmatch(text):
        ms = float(text) * 1000
        if abs(ms) > FAR_MS:
            raise ValueError(f'cannot parse "{text}" to a valid duration. It overflows int64')
        return ms
    try:
        return parse_duration_ms(text)
    except ValueError:
        raise ValueError(f'cannot parse "{text}" to a valid duration') from None


def time_param(params: Params, name: str, default_ms: int) -> int:
    """
    Raises:
        BadParam
    """
    text = first(params, name)
    try:
        return parse_time_ms(text) if text else default_ms
    except ValueError as error:
        raise invalid(name, str(error)) from None


def required_time(params: Params, name: str) -> int:
    try:
        return parse_time_ms(first(params, name))
    except ValueError as error:
        raise invalid(name, str(error)) from None


def limit_param(params: Params) -> int:
    """``limit``, 0 = none.

    Raises:
        BadParam
    """
    text = first(params, "limit")
    if not text:
        return 0
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise invalid("limit", f'strconv.ParseInt: parsing "{text}": invalid syntax')
    if int(text) < 0:
        raise invalid("limit", "limit must be non-negative")
    return int(text)


def lookback_param(params: Params) -> int | None:
    text = first(params, "lookback_delta")
    if not text:
        return None
    try:
        ms = int(parse_duration_param_ms(text))
    except ValueError as error:
        raise BadParam(f"error parsing lookback delta duration: {error}") from None
    return ms if ms > 0 else None


def timeout_param(params: Params) -> float:
    """Seconds that the client would wait; without any, infinitely many.

    Raises:
        BadParam
    """
    text = first(params, "timeout")
    try:
        return parse_duration_param_ms(text) / 1000 if text else math.inf
    except ValueError as error:
        raise invalid("timeout", str(error)) from None


def steps_param(params: Params) -> tuple[Steps, int]:
    """The grid of a range query, and its end as asked, which need not be on the grid.

    Raises:
        BadParam: in Prometheus' words.
    """
    start_ms, end_ms = required_time(params, "start"), required_time(params, "end")
    if end_ms < start_ms:
        raise invalid("end", "end timestamp must not be before start time")
    try:
        step_ms = parse_duration_param_ms(first(params, "step"))
    except ValueError as error:
        raise invalid("step", str(error)) from None
    if step_ms <= 0:
        raise invalid(
            "step",
            "zero or negative query resolution step widths are not accepted. "
            "Try a positive integer",
        )
    if (end_ms - start_ms) // step_ms > MAX_POINTS:
        raise BadParam(
            "exceeded maximum resolution of 11,000 points per timeseries. "
            "Try decreasing the query resolution (?step=XX)",
        )
    return Steps.between(start_ms, end_ms, max(int(step_ms), 1)), end_ms


def invalid(name: str, why: str) -> BadParam:
    return BadParam(f'invalid parameter "{name}": {why}')
