"""The watched server as it changes while the sidecar runs."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate

import aiohttp
import pytest
import yaml
from aiohttp import web

from sidecar.config import SentinelConfig, WatchConfig
from sidecar.remote.http import HttpClient
from sidecar.source import Source

pytestmark = pytest.mark.integration


class Server:
    """Answers what it is; ``config`` is the body of its configuration's answer."""

    def __init__(self) -> None:
        self.config = ""
        self.status = 200
        self.url = ""
        self.behind_s = 0.0

    def says(self, external_labels: dict[str, str]) -> None:
        text = yaml.safe_dump({"global": {"external_labels": external_labels}})
        self.config = json.dumps({"status": "success", "data": {"yaml": text}})

    async def answer(self, request: web.Request) -> web.Response:
        reply = self.reply(request)
        reply.headers["Date"] = formatdate(time.time() - self.behind_s, usegmt=True)
        return reply

    def reply(self, request: web.Request) -> web.Response:
        if request.path == "/api/v1/status/config":
            return web.Response(text=self.config, status=self.status)
        if request.path == "/api/v1/status/buildinfo":
            return web.json_response({"status": "success", "data": {"version": "2.42.0"}})
        return web.Response(status=404)


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def asked(server: Server, chosen: dict[str, str] | None = None) -> AsyncIterator[Source]:
    async with running(server), aiohttp.ClientSession() as session:
        config = SentinelConfig(
            prometheus_url=server.url, watches=[WatchConfig("x")], external_labels=chosen
        )
        source = Source(config, session)
        await source.ask(HttpClient(source.settings, session))
        yield source
        await source.close()


async def test_external_labels_that_change_are_taken_off_from_then_on() -> None:
    server = Server()
    server.says({"region": "eu"})
    async with asked(server) as source:
        assert source.reader.external_labels == {"region": "eu"}
        server.says({"region": "eu", "cluster": "a"})
        await source.look()
        assert source.reader.external_labels == {"region": "eu", "cluster": "a"}


@pytest.mark.parametrize("odd", ["", "<html>", '{"data": {"yaml": "global: [unclosed"}}'])
@pytest.mark.parametrize("status", [200, 503])
async def test_an_odd_answer_changes_no_external_labels(odd: str, status: int) -> None:
    server = Server()
    server.says({"region": "eu"})
    async with asked(server) as source:
        server.config, server.status = odd, status
        async with asyncio.timeout(30):
            await source.look()
        assert source.reader.external_labels == {"region": "eu"}


async def test_external_labels_that_the_operator_chose_stay() -> None:
    server = Server()
    server.says({"region": "eu"})
    async with asked(server, {"region": "chosen"}) as source:
        await source.look()
        assert source.reader.external_labels == {"region": "chosen"}


@pytest.mark.parametrize("behind_s", [-30.0, 0.0, 30.0])
async def test_it_is_never_later_than_at_the_server(behind_s: float) -> None:
    server = Server()
    server.says({})
    server.behind_s = behind_s
    async with asked(server) as source:
        behind_by_s = time.time() - source.now_ms() / 1000
    assert max(0.0, behind_s) - 1.5 < behind_by_s < max(0.0, behind_s) + 0.5
