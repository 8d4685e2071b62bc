"""The web application on a real socket: pages, refusals, and connections that ask for nothing."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from aiohttp import web

from sidecar.publish.exposition import Page
from sidecar.serve.app import build_app
from sidecar.serve.guard import Guard, GuardedSite, GuardLimits
from sidecar.serve.metrics import SelfMetrics

pytestmark = pytest.mark.integration


class Board:
    def __init__(self, pages: Iterable[Page] = (), why_not: str = "") -> None:
        self._pages, self.why_not, self.wrong = list(pages), why_not, list[str]()

    def pages(self) -> Iterable[Page]:
        return self._pages

    def not_ready(self) -> str:
        return self.why_not

    def remarks(self) -> Iterable[str]:
        return self.wrong


PAGE = Page({"x_sentinel_predicted": ("Forecast of x.", 'x_sentinel_predicted{a="b"} 1.0\n')}, 1)


@asynccontextmanager
async def served(
    board: Board, limits: GuardLimits | None = None, most_gauges: int = 10
) -> AsyncIterator[str]:
    guard = Guard(asyncio.get_running_loop().time, limits)
    app = build_app(
        board,
        SelfMetrics(list),
        exposition_max_series=most_gauges,
        middlewares=[guard.middleware],
        routes=[web.post("/slow", slow)],
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await GuardedSite(runner, guard, "127.0.0.1", 0).start()
    server = runner.server
    assert server is not None
    sweeping = asyncio.create_task(guard.run(lambda: server.connections))
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        sweeping.cancel()
        with suppress(asyncio.CancelledError):
            await sweeping
        await runner.cleanup()


async def slow(request: web.Request) -> web.Response:
    """Answers when all has been sent."""
    return web.Response(body=await request.read())


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as reply:
        return reply.status, await reply.text()


async def test_metrics_show_the_predictions_unless_only_self_is_asked_for() -> None:
    async with served(Board([PAGE])) as url:
        assert 'x_sentinel_predicted{a="b"} 1.0' in (await get(f"{url}/metrics"))[1]
        own = (await get(f"{url}/metrics?collect[]=self"))[1]
        assert "x_sentinel_predicted" not in own
        assert "sentinel_build_info" in own


async def test_too_many_predictions_are_left_out() -> None:
    async with served(Board([PAGE, PAGE]), most_gauges=1) as url:
        assert "x_sentinel_predicted" not in (await get(f"{url}/metrics"))[1]


async def test_readiness_says_why_not_and_health_does_not_depend_on_it() -> None:
    board = Board(why_not="Prometheus has not answered yet")
    async with served(board) as url:
        assert await get(f"{url}/-/ready") == (
            503,
            "Sentinel is not ready: Prometheus has not answered yet\n",
        )
        assert (await get(f"{url}/-/healthy"))[0] == 200
        board.why_not = ""
        assert (await get(f"{url}/-/ready"))[0] == 200
        board.wrong = ["watch x has not begun: no"]
        told = await get(f"{url}/-/ready")
        assert told == (200, "Sentinel is ready.\nwatch x has not begun: no\n")


async def test_the_root_lists_addresses_that_are_there() -> None:
    async with served(Board([PAGE])) as url:
        status, text = await get(f"{url}/")
        assert status == 200
        for path in ("/metrics", "/-/healthy", "/-/ready", "/api/v1/status", "/api/v1/query"):
            assert path in text


async def test_an_unknown_page_is_a_404_that_names_the_known_ones() -> None:
    async with served(Board()) as url:
        status, text = await get(f"{url}/nothing/here")
        assert status == 404
        assert "/metrics" in text


async def test_half_open_requests_are_closed_and_metrics_answer_meanwhile() -> None:
    limits = GuardLimits(most=150, first_s=1.0, idle_s=2.0, request_s=1.5)
    async with served(Board([PAGE]), limits) as url:
        port = int(url.rpartition(":")[2])
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
        for place, (_, writer) in enumerate(opened):
            half = b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: "
            body = b"POST /-/ready HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf"
            writer.write(half if place % 2 else body)
        waits: list[float] = []
        deadline = time.monotonic() + 20
        readers = [asyncio.create_task(reader.read()) for reader, _ in opened]
        while time.monotonic() < deadline and not all(task.done() for task in readers):
            began = time.monotonic()
            assert (await get(f"{url}/metrics?collect[]=self"))[0] == 200
            waits.append(time.monotonic() - began)
            await asyncio.sleep(0.05)
        still_open = [task for task in readers if not task.done()]
        for task in still_open:
            task.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        for _, writer in opened:
            writer.close()
        assert not still_open
        # The median: single waits are this machine's too.
        assert sorted(waits)[len(waits) // 2] < 0.25


@pytest.mark.parametrize(
    "half",
    [
        b"GET /metrics HTTP/1.1\r\nX-Slow: ",
        b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf",
        b"",
    ],
)
async def test_a_flood_of_connections_is_held_off_and_metrics_answer_throughout(
    half: bytes,
) -> None:
    """Without waiting for a deadline: whoever comes gets room at the cost of who asks nothing."""
    limits = GuardLimits(most=60, first_s=100, body_s=100)
    flood: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    waits: list[float] = []
    alive: list[int] = []
    async with served(Board([PAGE]), limits) as url:
        port = int(url.rpartition(":")[2])
        for number in range(600):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(half)
            flood.append((reader, writer))
            if number % 20 == 19:
                began = time.monotonic()
                assert (await get(f"{url}/metrics?collect[]=self"))[0] == 200
                waits.append(time.monotonic() - began)
                alive.append(sum(not (a.at_eof() or b.transport.is_closing()) for a, b in flood))
        for _, writer in flood:
            writer.transport.abort()
        await asyncio.sleep(0)
    assert 0 < max(alive) <= limits.most + 20, "at any time, not only after a sweep"
    assert sorted(waits)[len(waits) // 2] < 0.25


async def test_a_body_has_its_own_deadline() -> None:
    limits = GuardLimits(first_s=100, body_s=0.5, request_s=100)
    async with served(Board(), limits) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_connection_that_is_used_stays_open_between_requests() -> None:
    limits = GuardLimits(first_s=0.5, idle_s=30.0)
    async with served(Board(), limits) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/-/healthy") as reply:
            assert reply.status == 200
            first = reply.connection
        await asyncio.sleep(1.5)
        async with session.get(f"{url}/-/healthy") as reply:
            assert reply.status == 200
        assert first is None or not first.closed
