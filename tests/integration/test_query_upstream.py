"""What the query API says when the upstream does not answer as it should."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
import yarl
from aiohttp import web
from aiohttp.test_utils import TestServer

from sidecar.publish.paths import ForecastPaths
from sidecar.serve.promql.engine import QueryLimits
from sidecar.serve.query_api import PASSED_ON
from tests.integration.query_world import LOAD, NOW_MS, ask, forecasts, sidecar
from tests.prometheus import free_port

pytestmark = pytest.mark.integration

EXPECTED = LOAD + "_sentinel_expected"
NOW = NOW_MS / 1000
AHEAD = {"query": EXPECTED, "start": f"{NOW - 600}", "end": f"{NOW + 600}", "step": "60"}


@asynccontextmanager
async def upstream(handler: object) -> AsyncIterator[str]:
    """A server that answers everything in the same way."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)  # type: ignore[arg-type]
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as it:
        yield it


async def test_forecasts_are_shown_alone_with_a_warning_while_the_upstream_is_down(
    session: aiohttp.ClientSession,
) -> None:
    async with sidecar(f"http://127.0.0.1:{free_port()}", forecasts()) as url:
        status, body = await ask(session, url, "query_range", AHEAD)
        assert status == 200
        assert "only forecasts are shown" in body["warnings"][0]
        ends = {one["metric"]["instance"]: one["values"] for one in body["data"]["result"]}
        assert [t - NOW for t, _ in ends["a"]] == [60.0 * k for k in range(1, 11)]
        worst = {"query": f"max(max_over_time({EXPECTED}[1h] offset -1h))", "time": f"{NOW}"}
        status, body = await ask(session, url, "query", worst)
        assert (status, len(body["data"]["result"])) == (200, 1)


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("query", {"query": LOAD, "time": f"{NOW}"}),
        ("query", {"query": "1+1", "time": "4"}),
        ("query_range", AHEAD | {"query": f"{LOAD} - {EXPECTED}"}),
        ("query_range", AHEAD | {"query": f"rate({EXPECTED}[5m])"}),
        ("query", {"query": "not promql ("}),
        ("series", {"match[]": "demo_info"}),
    ],
)
async def test_what_needs_the_upstream_is_unavailable_in_json(
    session: aiohttp.ClientSession, path: str, params: dict[str, str]
) -> None:
    async with sidecar(f"http://127.0.0.1:{free_port()}", forecasts()) as url:
        status, body = await ask(session, url, path, params)
        assert status == 503
        assert (body["status"], body["errorType"]) == ("error", "unavailable")
        assert "127.0.0.1" in body["error"]


async def test_names_and_series_of_ours_are_listed_while_the_upstream_is_down(
    session: aiohttp.ClientSession,
) -> None:
    async with sidecar(f"http://127.0.0.1:{free_port()}", forecasts()) as url:
        for path in ("labels", "label/__name__/values", "metadata", f"series?match[]={EXPECTED}"):
            async with session.get(f"{url}/api/v1/{path}") as answer:
                body = await answer.json()
            assert answer.status == 200
            assert body["data"]
            assert "only forecasts are shown" in body["warnings"][0]


@pytest.mark.parametrize(
    ("status", "content_type", "body", "expected"),
    [
        (200, "text/html", "<h1>Welcome</h1>", 503),
        (502, "text/html", "<h1>Bad gateway</h1>", 503),
        (302, "text/html", "", 503),
        (401, "text/plain", "who are you?", 401),
        (404, "text/plain", "404 page not found", 404),
        (200, "application/json", '{"status":"success","data":5}', 503),
        (200, "application/json", "{", 503),
        (503, "application/json", '{"status":"error","errorType":"x","error":"replay"}', 503),
    ],
)
async def test_an_answer_that_is_none_is_told_in_json(
    session: aiohttp.ClientSession, status: int, content_type: str, body: str, expected: int
) -> None:
    async def handler(_: web.Request) -> web.Response:
        headers = {"Location": "http://127.0.0.1:1/"} if status == 302 else {}
        return web.Response(status=status, content_type=content_type, text=body, headers=headers)

    async with upstream(handler) as theirs, sidecar(theirs, forecasts()) as url:
        both = AHEAD | {"query": f"{EXPECTED} + {LOAD}"}
        got, answer = await ask(session, url, "query_range", both)
        assert (got, answer["status"]) == (expected, "error")
        if content_type != "application/json":
            got, answer = await ask(session, url, "query", {"query": LOAD})
            assert (got, answer["status"]) == (expected, "error")
            async with session.get(f"{url}/api/v1/labels") as listing:
                assert (await listing.json())["status"]


async def test_a_query_that_takes_too_long_is_a_timeout(session: aiohttp.ClientSession) -> None:
    async def handler(request: web.Request) -> web.Response:
        if "query" in request.path:
            await asyncio.sleep(5)
        return web.json_response({"status": "success", "data": {"version": "3.5.0"}})

    limits = QueryLimits(deadline_s=0.5)
    async with upstream(handler) as theirs, sidecar(theirs, forecasts(), limits=limits) as url:
        with_other = AHEAD | {"query": f"{LOAD} + {EXPECTED}"}
        status, body = await ask(session, url, "query_range", with_other)
        assert (status, body["errorType"]) == (503, "timeout")
        status, body = await ask(session, url, "query_range", AHEAD)
        assert status == 200, "the forecasts are here"
        assert "only forecasts are shown" in body["warnings"][0]
        status, body = await ask(session, url, "query", {"query": LOAD})
        assert (status, body["errorType"]) == (503, "unavailable")


async def test_answers_beyond_the_bounds_are_refused_as_prometheus_refuses(
    session: aiohttp.ClientSession,
) -> None:
    async def handler(request: web.Request) -> web.Response:
        if "status" in request.path:
            return web.json_response({"status": "success", "data": {"version": "3.5.0"}})
        filler = "x" * 100_000
        return web.json_response(
            {"status": "success", "data": {"resultType": "matrix", "result": []}, "f": filler}
        )

    async with upstream(handler) as theirs:
        limits = QueryLimits(max_reply_bytes=50_000)
        async with sidecar(theirs, forecasts(), limits=limits) as url:
            status, body = await ask(session, url, "query_range", AHEAD)
            assert (status, body["errorType"]) == (422, "execution")
        async with sidecar(theirs, forecasts(), limits=QueryLimits(max_cells=10)) as url:
            status, body = await ask(session, url, "query_range", AHEAD)
            assert (status, body["errorType"]) == (422, "execution")
            assert "too many samples" in body["error"]
        async with sidecar(theirs, forecasts(), limits=QueryLimits(max_fetches=1)) as url:
            status, body = await ask(
                session, url, "query_range", AHEAD | {"query": f"{LOAD}+{EXPECTED}"}
            )
            assert (status, body["errorType"]) == (422, "execution")


async def test_only_so_many_queries_wait(session: aiohttp.ClientSession) -> None:
    release = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        if "query" in request.path:
            await release.wait()
        empty = {"version": "3.5.0", "resultType": "matrix", "result": []}
        return web.json_response({"status": "success", "data": empty})

    limits = QueryLimits(concurrent=1, waiting=1)
    async with upstream(handler) as theirs, sidecar(theirs, forecasts(), limits=limits) as url:
        asked = [asyncio.create_task(ask(session, url, "query_range", AHEAD)) for _ in range(2)]
        await asyncio.sleep(0.2)
        status, body = await ask(session, url, "query_range", AHEAD)
        assert (status, body["errorType"]) == (503, "unavailable")
        release.set()
        assert [status for status, _ in await asyncio.gather(*asked)] == [200, 200]


async def test_the_upstream_is_reached_below_its_prefix_and_with_its_credentials(
    session: aiohttp.ClientSession,
) -> None:
    seen: list[tuple[str, str, str | None, bytes]] = []

    async def handler(request: web.Request) -> web.Response:
        body = await request.read()
        seen.append((request.method, request.raw_path, request.headers.get("Authorization"), body))
        return web.json_response({"status": "success", "data": []})

    async with upstream(handler) as theirs:
        with_user = theirs.replace("http://", "http://user:pass@") + "/prometheus/"
        async with sidecar(with_user, forecasts()) as url:
            target = f"{url}/api/v1/series?match%5B%5D=demo_info&x=%zz%2B+a"
            sent = {"Authorization": "Bearer of-the-client", "Cookie": "a=b"}
            async with session.get(yarl.URL(target, encoded=True), headers=sent) as answer:
                assert answer.status == 200
            async with session.post(f"{url}/api/v1/query", data=b"query=up&time=%34") as answer:
                assert answer.status == 200
    basic = "Basic dXNlcjpwYXNz"
    path = "/prometheus/api/v1/"
    assert seen == [
        ("GET", path + "series?match%5B%5D=demo_info&x=%zz%2B+a", basic, b""),
        ("POST", path + "query", basic, b"query=up&time=%34"),
    ]


async def test_a_long_answer_is_passed_on_in_pieces_and_a_broken_one_breaks_off(
    session: aiohttp.ClientSession,
) -> None:
    whole = json.dumps({"status": "success", "data": ["x" * 1000] * 2000}).encode()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = len(whole)
        await response.prepare(request)
        if "alerts" in request.path:
            await response.write(whole[: len(whole) // 2])
            assert request.transport is not None
            request.transport.abort()
            return response
        await response.write(whole)
        return response

    async with upstream(handler) as theirs, sidecar(theirs, forecasts()) as url:
        async with session.get(f"{url}/api/v1/rules") as answer:
            assert await answer.read() == whole
        with pytest.raises(aiohttp.ClientError):
            async with session.get(f"{url}/api/v1/alerts") as answer:
                await answer.read()


# Whatever Prometheus serves under its port, 2.42 to 3.5, that is none of the API's harmless reads.
FORBIDDEN = [
    *(f"/api/v1/admin/tsdb/{one}" for one in ("delete_series", "snapshot", "clean_tombstones")),
    *(f"/api/v1/{one}" for one in ("write", "otlp/v1/metrics", "status/config", "notifications")),
    *("/-/reload", "/-/quit", "/federate", "/graph", "/config", "/flags", "/consoles/index.html"),
    *("/debug/pprof/heap", "/debug/pprof/cmdline", "/version", "/static/x", "/user/x", "/"),
    "/api/v1/label/..%2f..%2fadmin%2ftsdb%2fsnapshot/values",
    "/api/v1/label/%2e%2e/values",
    "/api/v1/query/../admin/tsdb/snapshot",
    "/api/v1/query/..%2fadmin%2ftsdb%2fsnapshot",
    "/api/v1/query%2f..%2f..%2fadmin",
    "/api/v1/status/../admin/tsdb/snapshot",
    "//api/v1/admin/tsdb/snapshot",
    "/api/v1//admin/tsdb/snapshot",
    "/api/v1/query?x=/../../admin",
    "/API/V1/ADMIN/tsdb/snapshot",
    "/api/v1/labels;/../admin",
    "http://example.org/api/v1/admin/tsdb/snapshot",
]
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE"]
READS = {
    *("/api/v1/query", "/api/v1/query_range", "/api/v1/labels", "/api/v1/series"),
    *("/api/v1/metadata", "/api/v1/label/job/values", *(path for path, _ in PASSED_ON)),
}


async def test_nothing_but_harmless_reads_reaches_the_upstream() -> None:
    seen: set[tuple[str, str]] = set()

    async def handler(request: web.Request) -> web.Response:
        seen.add((request.method, request.raw_path.partition("?")[0]))
        return web.json_response({"status": "success", "data": {}})

    async with upstream(handler) as theirs, sidecar(theirs, ForecastPaths()) as url:
        host, port = url.removeprefix("http://").split(":")
        for path in [*FORBIDDEN, *sorted(READS)]:
            for method in METHODS:
                reader, writer = await asyncio.open_connection(host, int(port))
                head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                writer.write(f"{head}Content-Length: 0\r\n\r\n".encode())
                await writer.drain()
                await asyncio.wait_for(reader.read(), 10)
                writer.close()
                await writer.wait_closed()
    assert {path for _, path in seen} == READS
    assert not READS.intersection(FORBIDDEN)
    assert {method for method, _ in seen} == {"GET", "POST"}
