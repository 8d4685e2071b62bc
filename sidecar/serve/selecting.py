"""Which series a request is about, and which part of them: parameters that several pages share."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from aiohttp import web

from sidecar.series import LabelSet
from sidecar.serve.promql.frames import QueryError
from sidecar.serve.promql.params import Params, first
from sidecar.serve.promql.parse import Unparsable, parse_selector

Accepts = Callable[[LabelSet], bool]

_MOST_SELECTORS: Final = 64


def parameters(request: web.Request) -> Params:
    """What stands in the URL, every value of each name."""
    return {name: request.query.getall(name) for name in request.query}


def selected(texts: Sequence[str]) -> Accepts:
    """Whether one of several selectors, in PromQL's notation, selects a series.

    Raises:
        ValueError: what is not a selector, or too many of them.
    """
    if len(texts) > _MOST_SELECTORS:
        raise ValueError(f"match[]: more than {_MOST_SELECTORS} selectors")
    try:
        found = [parse_selector(text).matchers for text in texts]
    except (Unparsable, QueryError) as error:
        raise ValueError(f"match[]: {error}") from None
    return lambda labels: any(all(one.accepts(labels) for one in each) for each in found)


def having(wanted: Mapping[str, str]) -> Accepts:
    """Whether a series has all these labels."""
    pairs = tuple(wanted.items())
    return lambda labels: all(labels.get(name) == value for name, value in pairs)


def number(query: Params, name: str, usual: int, most: int) -> int:
    """A whole number from 0 to ``most``.

    Raises:
        ValueError: it is something else.
    """
    text = first(query, name) or str(usual)
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ValueError(f"{name} is {text!r}, but must be a whole number")
    if int(text) > most:
        raise ValueError(f"{name} is {text}, but at most {most}: for more ask page by page")
    return int(text)
