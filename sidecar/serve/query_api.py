"""The Prometheus HTTP API of the sidecar: the upstream's, with the forecasts in it.

What does not concern forecasts passes through byte for byte, both ways. Only the endpoints listed
here exist: no admin endpoint, no reload and no write of the upstream can be reached.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol, Self, TypeVar
from urllib.parse import parse_qsl, quote

import aiohttp
from aiohttp import web

from sidecar.errors import Unavailable
from sidecar.publish.paths import ForecastPaths
from sidecar.remote.http import printable
from sidecar.serve.outbox import Outbox
from sidecar.serve.promql.answering import Query
from sidecar.serve.promql.cursor import Garbage
from sidecar.serve.promql.engine import (
    QUERY_PATH,
    RANGE_PATH,
    Engine,
    Outcome,
    PassOn,
    QueryLimits,
    not_read,
)
from sidecar.serve.promql.frames import QueryError
from sidecar.serve.promql.listings import with_metadata, with_series, with_strings, with_warning
from sidecar.serve.promql.matchers import LabelMatcher
from sidecar.serve.promql.params import (
    FAR_MS,
    BadParam,
    Params,
    first,
    limit_param,
    lookback_param,
    steps_param,
    time_param,
    timeout_param,
)
from sidecar.serve.promql.parse import Unparsable, parse_selector
from sidecar.serve.promql.split import Steps
from sidecar.serve.promql.writing import Pieces, failure, success
from sidecar.serve.upstream import Forward, Room, TooLarge, Upstream, UpstreamRefused, whole

_log = logging.getLogger(__name__)

# Read-only endpoints that the upstream answers alone: path and whether a POST form is taken.
PASSED_ON: Final = (
    ("/api/v1/query_exemplars", True),
    ("/api/v1/format_query", True),
    ("/api/v1/parse_query", True),
    ("/api/v1/rules", False),
    ("/api/v1/alerts", False),
    ("/api/v1/alertmanagers", False),
    ("/api/v1/targets", False),
    ("/api/v1/targets/metadata", False),
    ("/api/v1/scrape_pools", False),
    ("/api/v1/status/buildinfo", False),
    ("/api/v1/status/runtimeinfo", False),
    ("/api/v1/status/flags", False),
    ("/api/v1/status/tsdb", False),
    ("/api/v1/status/walreplay", False),
)
MAX_FORM_BYTES: Final = 1024 * 1024
_MAX_FIELDS: Final = 10_000
_MAX_SELECTORS: Final = 200
_STATUS: Final = {"bad_data": 400, "execution": 422, "timeout": 503, "unavailable": 503}
_JSON: Final = "application/json"
_FORM: Final = "application/x-www-form-urlencoded"
_WHOLE_BYTES: Final = 256 * 1024
_LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Sortable(Protocol):
    def __hash__(self) -> int: ...

    def __lt__(self, other: Self, /) -> bool: ...


_T = TypeVar("_T", bound=_Sortable)


class QueryApi:
    """Handlers of the query API; ``routes`` mounts them.

    Args:
        now_ms: the wall clock: an instant query without a time is asked now.
        outbox: bounds what waits for slow readers.
    """

    def __init__(
        self,
        upstream: Upstream,
        paths: ForecastPaths,
        *,
        now_ms: Callable[[], int],
        limits: QueryLimits | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        self._upstream, self._paths, self._now_ms = upstream, paths, now_ms
        self._limits = limits or QueryLimits()
        self._engine = Engine(upstream, paths, limits=self._limits, now_ms=now_ms)
        self._outbox = outbox or Outbox()

    def close(self) -> None:
        """End the threads; the upstream is its owner's to close."""
        self._engine.close()

    async def query(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(await _Asked.read(request, QUERY_PATH), self._instant)

    async def query_range(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(await _Asked.read(request, RANGE_PATH), self._range)

    def _instant(self, params: Params) -> Query:
        time_ms = time_param(params, "time", self._now_ms())
        return self._query(params, Steps(time_ms, 1000, 1), time_ms, instant=True)

    def _range(self, params: Params) -> Query:
        return self._query(params, *steps_param(params), instant=False)

    def _query(self, params: Params, steps: Steps, end_ms: int, *, instant: bool) -> Query:
        limit, lookback_ms = limit_param(params), lookback_param(params)
        text, timeout_s = first(params, "query"), timeout_param(params)
        return Query(text, steps, end_ms, instant, limit, lookback_ms, timeout_s)

    async def _answer(self, asked: "_Asked", read: Callable[[Params], Query]) -> web.StreamResponse:
        outcome: Outcome
        try:
            outcome = await self._engine.answer(read(asked.params), self._outbox.check_room)
        except BadParam as error:
            outcome = not_read(first(asked.params, "query"), str(error))
        except UpstreamRefused as refused:
            return _refusal(refused)
        if not isinstance(outcome, PassOn):
            return await self._json(asked, outcome.body)
        if not outcome.warning:
            return await self._pass_on(asked)
        status, body = await self._whole(asked)
        if status != 200:
            return await self._json(asked, [body], status)
        return await self._json(asked, await asyncio.to_thread(with_warning, body, outcome.warning))

    async def labels(self, request: web.Request) -> web.StreamResponse:
        asked = await _Asked.read(request, "/api/v1/labels")
        return await self._or_upstream(asked, self._labels(asked))

    async def _labels(self, asked: "_Asked") -> web.StreamResponse:
        start_ms, end_ms = _times(asked.params)
        own = await self._own(asked, lambda tests: self._paths.label_names(tests, start_ms, end_ms))
        return await self._strings(asked, own)

    async def label_values(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        path = f"/api/v1/label/{_label_segment(name)}/values"
        asked = await _Asked.read(request, path)
        return await self._or_upstream(asked, self._label_values(asked, _unescaped(name)))

    async def _label_values(self, asked: "_Asked", name: str) -> web.StreamResponse:
        start_ms, end_ms = _times(asked.params)
        own = await self._own(
            asked, lambda tests: self._paths.label_values(name, tests, start_ms, end_ms)
        )
        return await self._strings(asked, own)

    async def series(self, request: web.Request) -> web.StreamResponse:
        asked = await _Asked.read(request, "/api/v1/series")
        return await self._or_upstream(asked, self._series(asked))

    async def _series(self, asked: "_Asked") -> web.StreamResponse:
        start_ms, end_ms = _times(asked.params)
        if not asked.params.get("match[]"):
            raise BadParam("no match[] parameter provided")
        limit = limit_param(asked.params)
        own = await self._own(asked, lambda tests: self._paths.labels(tests, start_ms, end_ms))
        if not own:
            return await self._pass_on(asked)
        return await self._merged(asked, lambda body, said: with_series(body, own, limit, said))

    async def metadata(self, request: web.Request) -> web.StreamResponse:
        asked = await _Asked.read(request, "/api/v1/metadata")
        return await self._or_upstream(asked, self._metadata(asked))

    async def _metadata(self, asked: "_Asked") -> web.StreamResponse:
        text, metric = first(asked.params, "limit"), first(asked.params, "metric")
        if text and not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            raise BadParam("limit must be a number")
        limit = int(text) if text and int(text) >= 0 else None
        own = [name for name in self._paths.names() if metric in ("", name)]
        if not own:
            return await self._pass_on(asked)
        return await self._merged(asked, lambda body, said: with_metadata(body, own, limit, said))

    def passed_on(self, path: str) -> Handler:
        """A handler of an endpoint that the upstream answers alone."""

        async def handler(request: web.Request) -> web.StreamResponse:
            return await self._pass_on(await _Asked.read(request, path))

        return handler

    async def _or_upstream(
        self, asked: "_Asked", answer: Awaitable[web.StreamResponse]
    ) -> web.StreamResponse:
        """``answer``; where a parameter cannot be read here, whatever the upstream says to it."""
        try:
            return await answer
        except BadParam as error:
            _log.debug("not read here: %s", error)
            return await self._pass_on(asked)

    async def _strings(self, asked: "_Asked", own: Sequence[str]) -> web.StreamResponse:
        limit = limit_param(asked.params)
        if not own:
            return await self._pass_on(asked)
        return await self._merged(asked, lambda body, said: with_strings(body, own, limit, said))

    async def _own(
        self, asked: "_Asked", find: Callable[[tuple[LabelMatcher, ...]], Iterable[_T]]
    ) -> list[_T]:
        """What the store has for any of the selectors, each once and sorted."""
        selected = self._selected(asked.params)

        def found() -> list[_T]:
            return sorted({one for tests in selected for one in find(tests)})

        return await asyncio.to_thread(found)

    async def _merged(
        self, asked: "_Asked", merge: Callable[[bytes | None, str], Pieces]
    ) -> web.StreamResponse:
        """The upstream's listing and ours; ours alone, with a warning, where it is away."""
        self._outbox.check_room()
        body, said = None, ""
        try:
            status, body = await self._whole(asked)
            if status != 200:
                return await self._json(asked, [body], status)
        except Unavailable as error:
            said = f"only forecasts are shown: {error}"
        return await self._json(asked, await asyncio.to_thread(merge, body, said))

    def _selected(self, params: Params) -> list[tuple[LabelMatcher, ...]]:
        """The matchers of each ``match[]``; one without any where there is none.

        What cannot be read selects nothing of ours: the upstream says what is wrong with it.
        """
        texts = params.get("match[]", ())
        if len(texts) > _MAX_SELECTORS:
            raise QueryError("bad_data", f"more than {_MAX_SELECTORS} selectors in match[]")
        found: list[tuple[LabelMatcher, ...]] = []
        for text in texts:
            try:
                found.append(parse_selector(text).matchers)
            except Unparsable as error:
                _log.debug("match[] not read here: %s", error)
                return []
        return found or [()]

    async def _pass_on(self, asked: "_Asked") -> web.StreamResponse:
        """The upstream's answer as it comes."""
        async with self._upstream.send(asked.forward, self._limits.deadline_s) as theirs:
            if theirs.status == 204:  # Prometheus 2 on exemplars of what has no selector
                return await self._json(asked, success(["[]"]))
            if theirs.content_type != _JSON:
                body = await theirs.content.read(64 * 1024)
                return _not_json(theirs.status, body)
            headers = {"Content-Type": theirs.headers.get("Content-Type", _JSON)}
            for name in ("Content-Encoding", "Retry-After"):
                if name in theirs.headers:
                    headers[name] = theirs.headers[name]
            start = await _start_of(theirs)
            if theirs.content.at_eof():
                return web.Response(status=theirs.status, headers=headers, body=start)
            return await _streamed(asked.request, theirs, headers, start)

    async def _whole(self, asked: "_Asked") -> tuple[int, bytes]:
        """The upstream's answer, plain and whole."""
        forward = replace(asked.forward, accept_encoding="identity")
        async with self._upstream.send(forward, self._limits.deadline_s) as theirs:
            try:
                body = await whole(theirs, Room(self._limits.max_reply_bytes))
            except TooLarge as error:
                raise QueryError("execution", str(error)) from None
            if theirs.content_type != _JSON:
                answer = _not_json(theirs.status, body)
                assert isinstance(answer.body, bytes)
                return answer.status, answer.body
            return theirs.status, body

    async def _json(self, asked: "_Asked", pieces: Pieces, status: int = 200) -> web.StreamResponse:
        gzip = asked.forward.accept_encoding == "gzip"
        headers = {"Content-Type": _JSON}
        return await self._outbox.send(asked.request, pieces, headers, status=status, gzip=gzip)


class _Asked:
    """A request taken apart: parameters for us, the same bytes for the upstream."""

    def __init__(self, request: web.Request, forward: Forward, params: Params) -> None:
        self.request, self.forward, self.params = request, forward, params

    @classmethod
    async def read(cls, request: web.Request, path: str) -> "_Asked":
        """
        Raises:
            QueryError: bad_data.
        """
        body = await _bounded(request) if request.method == "POST" else None
        query = request.raw_path.partition("#")[0].partition("?")[2]
        is_form = request.content_type == _FORM
        form = body.decode("utf-8", "surrogateescape") if body and is_form else ""
        forward = Forward(
            "POST" if request.method == "POST" else "GET",
            path,
            query,
            body,
            request.headers.get("Content-Type", _FORM) if body is not None else "",
            "gzip" if _takes_gzip(request) else "identity",
        )
        return cls(request, forward, _params(form, query))


def _params(form: str, query: str) -> Params:
    """Form fields go before those of the URL, as Go has it."""
    found: dict[str, list[str]] = {}
    try:
        for text in (form, query):
            for name, value in parse_qsl(
                text, keep_blank_values=True, errors="surrogateescape", max_num_fields=_MAX_FIELDS
            ):
                found.setdefault(name, []).append(value)
    except ValueError as error:
        raise QueryError("bad_data", f"error parsing form values: {error}") from None
    return found


async def _bounded(request: web.Request) -> bytes:
    pieces, size = [], 0
    async for piece in request.content.iter_any():
        size += len(piece)
        if size > MAX_FORM_BYTES:
            raise QueryError("bad_data", f"the form is longer than {MAX_FORM_BYTES} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _times(params: Params) -> tuple[int, int]:
    start_ms = time_param(params, "start", -FAR_MS)
    end_ms = time_param(params, "end", FAR_MS)
    return start_ms, end_ms


def _label_segment(name: str) -> str:
    """A label name as a path segment that stays one.

    Raises:
        QueryError: it could be read as another path.
    """
    if not name or "/" in name or "\\" in name or set(name) == {"."}:
        raise QueryError("bad_data", f'invalid label name: "{name}"')
    return name if _LABEL_NAME.fullmatch(name) else quote(name, safe="")


def _unescaped(name: str) -> str:
    """A label name out of Prometheus 3's escaping: ``U__`` and ``_hex_`` for odd characters.

    >>> _unescaped("U__a_2e_b__c"), _unescaped("job")
    ('a.b_c', 'job')
    """
    if not name.startswith("U__"):
        return name

    def plain(found: re.Match[str]) -> str:
        code = int(found[1], 16) if found[1] else ord("_")
        return chr(code) if code <= 0x10FFFF else found[0]

    return re.sub(r"_([0-9a-fA-F]{1,6})_|__", plain, name[3:])


def _takes_gzip(request: web.Request) -> bool:
    """Whether the client takes gzip: named, and not with a weight of 0."""
    for part in request.headers.get("Accept-Encoding", "").split(","):
        name, _, weight = part.partition(";")
        if name.strip().lower() == "gzip":
            return re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", weight) is None
    return False


def _refusal(refused: UpstreamRefused) -> web.Response:
    if refused.content_type == _JSON:
        return web.Response(
            status=refused.status, headers={"Content-Type": _JSON}, body=refused.body
        )
    return _not_json(refused.status, refused.body)


def _not_json(status: int, body: bytes) -> web.Response:
    """An answer that is none of Prometheus' API: a proxy's page, an endpoint it does not have."""
    said = printable(body[:600].decode("utf-8", "replace"))
    kind = "not_found" if status == 404 else "bad_data"
    if not 400 <= status < 500:
        status, kind = 503, "unavailable"
    answer = failure(kind, f"the upstream did not answer with JSON: {said}")
    return web.Response(status=status, headers={"Content-Type": _JSON}, body=answer)


async def _start_of(theirs: aiohttp.ClientResponse) -> bytes:
    """The first bytes; all of them where they are few."""
    pieces, size = [], 0
    while size < _WHOLE_BYTES:
        piece = await theirs.content.readany()
        if not piece:
            break
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


async def _streamed(
    request: web.Request, theirs: aiohttp.ClientResponse, headers: Mapping[str, str], start: bytes
) -> web.StreamResponse:
    response = web.StreamResponse(status=theirs.status, headers=headers)
    await response.prepare(request)
    try:
        await response.write(start)
        async for piece in theirs.content.iter_any():
            await response.write(piece)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        # The status is sent; a cut connection is the only way to say that this is not the whole.
        _log.warning("passing on %s broke off: %s", request.path, error)
        if request.transport is not None:
            request.transport.abort()
        return response
    await response.write_eof()
    return response


def _guarded(handler: Handler) -> Handler:
    """Every failure as Prometheus' error JSON."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except QueryError as error:
            status, body = _STATUS[error.error_type], failure(error.error_type, str(error))
        except (Unavailable, Garbage) as error:
            status, body = 503, failure("unavailable", str(error))
        return web.Response(status=status, headers={"Content-Type": _JSON}, body=body)

    return guarded


def routes(api: QueryApi) -> list[web.RouteDef]:
    """Every route of the query API."""
    found: list[web.RouteDef] = []

    def add(path: str, handler: Handler, *, post: bool) -> None:
        guarded = _guarded(handler)
        found.append(web.get(path, guarded, allow_head=False))
        if post:
            found.append(web.post(path, guarded))

    add(QUERY_PATH, api.query, post=True)
    add(RANGE_PATH, api.query_range, post=True)
    add("/api/v1/labels", api.labels, post=True)
    add("/api/v1/label/{name}/values", api.label_values, post=False)
    add("/api/v1/series", api.series, post=True)
    add("/api/v1/metadata", api.metadata, post=False)
    for path, post in PASSED_ON:
        add(path, api.passed_on(path), post=post)
    return found
