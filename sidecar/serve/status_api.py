"""``GET /api/v1/status``: facts of every series, page by page, filtered and sorted.

A page is made in a thread, and encoded there series by series: with 100,000 series no single call
holds the interpreter for long.
"""

import json
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from aiohttp import web

from sidecar.names import Reason
from sidecar.serve.promql.params import Params, first
from sidecar.serve.selecting import number, parameters, selected
from sidecar.serve.status import SORTS, STATES, StatusPage, Wanted

MOST: Final = 10_000
USUAL: Final = 1_000
_PARAMETERS: Final = ("match[]", "state", "reason", "sort", "limit", "offset")
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

Pages = Callable[[Wanted], Awaitable[StatusPage]]


def route(pages: Pages, in_thread: Callable[..., Awaitable[bytes]]) -> web.RouteDef:
    """The route.

    Args:
        pages: makes a page, off the loop.
        in_thread: runs a function in a thread.
    """

    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            wanted = wanted_of(parameters(request))
        except ValueError as error:
            return web.json_response({"status": "error", "error": str(error)}, status=400)
        body = await in_thread(encoded, await pages(wanted), wanted)
        return web.Response(body=body, content_type="application/json", charset="utf-8")

    return web.get("/api/v1/status", handler)


def wanted_of(query: Params) -> Wanted:
    """The parameters of a request.

    Raises:
        ValueError: which one is wrong, and what it may be.
    """
    unknown = sorted(set(query) - set(_PARAMETERS))
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not known; there are {', '.join(_PARAMETERS)}")
    sort = first(query, "sort")
    if sort not in ("", *SORTS):
        raise ValueError(f"sort is {sort!r}, but must be one of {', '.join(SORTS)}")
    limit = number(query, "limit", USUAL, MOST)
    if not limit:
        raise ValueError("limit is at least 1")
    texts = query.get("match[]", ())
    return Wanted(
        accepts=selected(texts) if texts else None,
        states=_words(query, "state", STATES),
        reasons=_words(query, "reason", [reason.value for reason in Reason]),
        sort=sort,
        offset=number(query, "offset", 0, 999_999_999),
        limit=limit,
    )


def _words(query: Params, name: str, known: Collection[str]) -> frozenset[str]:
    given = [word for text in query.get(name, ()) for word in text.split(",") if word]
    wrong = [word for word in given if word not in known]
    if wrong:
        raise ValueError(f"{name} is {wrong[0]!r}, but must be one of {', '.join(known)}")
    return frozenset(given)


def encoded(page: StatusPage, wanted: Wanted) -> bytes:
    """The answer: facts under ``data``, and under ``page`` how many there are besides."""
    series = ",".join(f"{_encode(key)}:{_encode(facts)}" for key, facts in page.series.items())
    end = wanted.offset + len(page.series)
    about = {
        "total": page.total,
        "matched": page.matched,
        "offset": wanted.offset,
        "limit": wanted.limit,
        "next_offset": end if page.series and end < page.matched else None,
        "states": page.states,
        "reasons": page.reasons,
        "not_begun": page.not_begun,
        "not_delivered": page.not_delivered,
    }
    text = f'{{"status":"success","data":{{{series}}},"page":{_encode(about)}}}'
    return text.encode(errors="backslashreplace")
