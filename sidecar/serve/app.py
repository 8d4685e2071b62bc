"""The aiohttp application: what answers on ``emitter_port``.

The routes of the query API and the remote-read server are made in their own modules and mounted
here. Handlers only read what the cycles left for them; what takes longer is done in a thread.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Middleware

from sidecar.publish.exposition import CONTENT_TYPE, Page, join
from sidecar.serve.metrics import SelfMetrics

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Board(Protocol):
    """What the application shows of the running sidecar."""

    def pages(self) -> Iterable[Page]:
        """The prediction gauges of each watch."""

    def not_ready(self) -> str:
        """Why the sidecar is not ready yet; empty once it is."""

    def remarks(self) -> Iterable[str]:
        """What does not work though it is ready, a line each."""


def build_app(
    board: Board,
    metrics: SelfMetrics,
    *,
    exposition_max_series: int,
    routes: Sequence[web.RouteDef] = (),
    middlewares: Sequence[Middleware] = (),
) -> web.Application:
    """The application with its own routes and those of the other modules."""
    app = web.Application(
        middlewares=[*middlewares, _plain_errors], client_max_size=32 * 1024 * 1024
    )
    found = [
        web.get("/", _addresses),
        web.get("/metrics", _metrics(board, metrics, exposition_max_series)),
        web.get("/-/healthy", _healthy),
        web.get("/-/ready", _ready(board)),
        *routes,
    ]
    more = {"expect_handler": _expect}
    app.add_routes(
        web.RouteDef(one.method, one.path, one.handler, {**one.kwargs, **more}) for one in found
    )
    return app


def http_log() -> logging.Logger:
    """What the server below the application logs to: what is no HTTP is not worth a traceback."""
    logger = logging.getLogger("sidecar.serve.http")
    if not any(isinstance(one, _Malformed) for one in logger.filters):
        logger.addFilter(_Malformed())
    return logger


class _Malformed(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            return True
        record.exc_info, record.levelno, record.levelname = None, logging.DEBUG, "DEBUG"
        return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


def _metrics(board: Board, metrics: SelfMetrics, max_series: int) -> _Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        body = metrics.render()
        if request.query.getall("collect[]", []) != ["self"]:
            pages = list(board.pages())
            if sum(page.series for page in pages) <= max_series:
                body += join(pages).encode()
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    return handler


_ADDRESSES: Final = """Sentinel, a forecasting sidecar for Prometheus.

/metrics                   its own metrics and the newest predictions (its own: ?collect[]=self)
/-/healthy, /-/ready       whether it lives, and whether it forecasts
/api/v1/status             every series: state, reason, accuracy
/api/v1/models/versions    what is kept of series (?match[]=SELECTOR)
/api/v1/models/audit       who changed what of them, and why
/api/v1/query, query_range the query API of Prometheus, past now: a data source for Grafana
/api/v1/read               remote read of the same
"""


async def _addresses(_: web.Request) -> web.StreamResponse:
    return web.Response(text=_ADDRESSES)


async def _healthy(_: web.Request) -> web.StreamResponse:
    return web.Response(text="Sentinel is healthy.\n")


def _ready(board: Board) -> _Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        why_not = board.not_ready()
        if why_not:
            return web.Response(status=503, text=f"Sentinel is not ready: {why_not}\n")
        return web.Response(text="\n".join(["Sentinel is ready.", *board.remarks()]) + "\n")

    return handler


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """``Expect: 100-continue`` is granted; what else is expected is not repeated to the client.

    aiohttp's own answer quotes the header, and fails on bytes that are no text.
    """
    if request.headers.get("Expect", "").lower() != "100-continue":
        return web.Response(status=417, text="417: only 100-continue can be expected\n")
    if request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun
    return None


@web.middleware
async def _plain_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPNotFound:
        text = "404: no such page. Try /metrics, /-/ready, /api/v1/status or /api/v1/query\n"
        return web.Response(status=404, text=text)
