"""Hostile requests at every route of a running sidecar, with connections that ask for nothing.

Whatever comes, the answer is a refusal and not a failure, and ``/metrics`` goes on answering.
"""

import asyncio
import statistics
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from sidecar.serve import admin
from sidecar.serve.web_config import WebConfig
from tests.exporter import FunctionExporter
from tests.integration.test_query_hostile import FIELDS, KINDS, LAX, check, send
from tests.integration.test_web_config import routes_of, served
from tests.prometheus import PrometheusBinary, RealPrometheus
from tests.sidecar import Sidecar

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

OPEN = 300  # more than there may be
# What an answer may carry; whatever else stands there was smuggled in.
HEADERS = {
    *("content-type", "content-length", "content-encoding", "transfer-encoding", "connection"),
    *("date", "server", "allow", "retry-after"),
}
TOKENS = st.sampled_from(["", "%", "%00", "%0d%0aX-Injected:1", "%ff", "..%2f", "a" * 3000])
VALUES = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=30)
HEADER_LINES = st.dictionaries(
    st.sampled_from(
        [
            "Accept-Encoding",
            "Authorization",
            "Content-Encoding",
            "Content-Type",
            "Cookie",
            "Expect",
            "Range",
            "X-Forwarded-For",
            "X-Prometheus-Remote-Write-Version",
            admin.HEADER,
        ]
    ),
    VALUES | KINDS.map(lambda kind: kind.encode().decode("latin-1")),
    max_size=4,
)
BODIES = st.one_of(
    st.binary(max_size=100),
    st.sampled_from([b"{", b'{"metric": 1}', b'{"metric":"x","labels":{"a":[]}}', b"[" * 5000]),
)


@dataclass(frozen=True)
class World:
    url: str
    routes: list[tuple[str, str]]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(newest_prometheus: PrometheusBinary) -> AsyncIterator[World]:
    async with served(WebConfig()) as (_, app):
        routes = routes_of(app)
    with FunctionExporter() as exporter:
        exporter.gauge("demo", lambda _: 1.0)
        prometheus = RealPrometheus(newest_prometheus, targets=[exporter.address])
        async with prometheus:
            watch = {"metric": "demo", "granularity": "1s", "horizon": "10s"}
            more = {"enable_admin_api": True, "receive_remote_write": True}
            async with Sidecar(prometheus.url, [watch], **more) as sidecar:
                for _ in range(600):
                    if (await sidecar.get("/-/healthy"))[0] == 200:
                        break
                    sidecar.check()
                    await asyncio.sleep(0.1)
                yield World(sidecar.url, routes)
                sidecar.check()
                _, _, failed = sidecar.log.partition("Traceback")
                assert not failed, failed[:3000]


async def test_every_route_is_there(world: World) -> None:
    assert len(world.routes) > 30
    for method, path in world.routes:
        status, body, _ = await asyncio.to_thread(send, world.url, method, path)
        assert status not in (404, 405) or b"errorType" in body, (method, path)


async def test_whatever_is_sent_is_refused_and_metrics_answer_throughout(world: World) -> None:
    host, port = world.url.removeprefix("http://").split(":")
    idle = [await asyncio.open_connection(host, int(port)) for _ in range(OPEN)]
    for place, (_, writer) in enumerate(idle):
        half = [b"", b"GET /metrics HTTP/1.1\r\nX-Slow: ", b"POST /api/v1/query HTTP/1.1\r\n"]
        writer.write(half[place % 3])
    done, waits = threading.Event(), list[float]()

    def scrape() -> None:
        while not done.wait(0.05):
            began = time.monotonic()
            status, body, _ = send(world.url, "GET", "/metrics?collect[]=self")
            waits.append(time.monotonic() - began)
            assert status == 200
            assert b"sentinel_build_info" in body

    @LAX
    @given(st.sampled_from(world.routes), FIELDS | st.none(), TOKENS, BODIES, HEADER_LINES)
    def attack(
        route: tuple[str, str],
        fields: dict[str, str] | None,
        token: str,
        body: bytes,
        headers: dict[str, str],
    ) -> None:
        method, path = route
        query = "&".join(f"{name}={token}" for name in fields or ())
        sent = {name.replace("-", "_"): value for name, value in headers.items()}
        target = f"{path}?{query}".encode().decode("latin-1")
        answer = send(world.url, method, target, body, **sent)
        if path != "/-/ready":  # says 503 while nothing serves
            check(*answer)
        assert b"Traceback" not in answer[1]
        assert set(answer[2]) <= HEADERS, answer[2]

    scraping = asyncio.create_task(asyncio.to_thread(scrape))
    try:
        await asyncio.to_thread(attack)
    finally:
        done.set()
        await scraping
        for _, writer in idle:
            writer.transport.abort()
    assert len(waits) > 10
    # The median: single waits are this machine's too.
    assert statistics.median(waits) < 0.25


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND", "X"])
async def test_methods_that_nothing_takes_are_refused(world: World, method: str) -> None:
    for _, path in world.routes:
        status, body, headers = await asyncio.to_thread(send, world.url, method, path)
        assert status in (400, 404, 405), (method, path)
        assert b"Traceback" not in body
        assert set(headers) <= HEADERS


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe?\xc3\xa9 HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\xff: \xfe\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # someone speaks TLS
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/v1/query HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0",
        b"POST /api/v1/query HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"\0" * 10_000,
    ],
)
async def test_what_is_no_http_is_refused_or_cut(world: World, head: bytes) -> None:
    host, port = world.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head)

    try:
        answer = await asyncio.wait_for(reader.read(), 15)
    except ConnectionError:
        answer = b""
    writer.transport.abort()
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer[:200]
    assert b"Traceback" not in answer
