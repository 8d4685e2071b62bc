"""Tokens by the client credentials grant, from an endpoint that keeps the standard's promises."""

import asyncio
import base64
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest
from aiohttp import web

from sidecar.errors import Rejected, Unavailable
from sidecar.remote.backoff import BackoffSettings
from sidecar.remote.http import HttpClient, HttpSettings, Secret
from sidecar.remote.settings import Authorization, OAuth2
from sidecar.remote.writer import WriterState
from sidecar.serve.upstream import Forward, Upstream
from tests.writing import block, series, until, writing

pytestmark = pytest.mark.integration

SECRET = "open sesame:+&"


class World:
    """A token endpoint and a server that wants its tokens.

    Attributes:
        style: where the endpoint wants client and secret: ``header`` or ``form``.
        answers: given before the ordinary ones.
        issued: tokens, in order; the newest is the only one that the server takes.
        asked: the forms that tokens were asked with.
    """

    def __init__(self) -> None:
        self.style = "header"
        self.secret, self.refusal = SECRET, 401
        self.more: dict[str, Any] = {"expires_in": 3600}
        self.answers: list[web.Response] = []
        self.issued: list[str] = []
        self.asked: list[dict[str, str]] = []
        self.attempts = 0
        self.seen: list[str] = []
        self.url = ""

    @property
    def settings(self) -> OAuth2:
        return OAuth2("an id", f"{self.url}/token", Secret(SECRET), scopes=("a", "b"))

    async def token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.attempts += 1
        if self.answers:
            return self.answers.pop(0)
        if self._client(request, form) != ("an id", self.secret):
            return web.json_response(
                {"error": "invalid_client", "said": SECRET}, status=self.refusal
            )
        self.asked.append(form)
        self.issued.append(f"token-{len(self.issued)}")
        await asyncio.sleep(0.02)
        answer = {"access_token": self.issued[-1], "token_type": "bearer", **self.more}
        return web.json_response(answer)

    def _client(self, request: web.Request, form: dict[str, str]) -> tuple[str, ...]:
        if self.style == "form":
            return form.get("client_id", ""), form.get("client_secret", "")
        kind, _, text = request.headers.get("Authorization", "").partition(" ")
        if kind != "Basic":
            return ()
        return tuple(unquote_plus(one) for one in base64.b64decode(text).decode().split(":"))

    async def anything(self, request: web.Request) -> web.Response:
        await request.read()
        self.seen.append(request.headers.get("Authorization", ""))
        if not self.issued or self.seen[-1] != f"Bearer {self.issued[-1]}":
            return web.Response(status=401, text="who are you?")
        return web.Response(text="come in")


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    made = World()
    app = web.Application()
    app.router.add_post("/token", made.token)
    app.router.add_route("*", "/{path:.*}", made.anything)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await runner.cleanup()


@asynccontextmanager
async def asking(found: World, **settings: Any) -> AsyncIterator[HttpClient]:
    client = HttpClient(HttpSettings(found.url, oauth2=found.settings, **settings))
    try:
        yield client
    finally:
        await client.close()


@pytest.mark.parametrize("style", ["header", "form"])
async def test_one_token_serves_many_requests_however_the_secret_is_sent(style: str) -> None:
    async with world() as found, asking(found, headers={"X-Scope-OrgID": "t"}) as client:
        found.style = style
        replies = await asyncio.gather(*(client.request("GET") for _ in range(10)))
        assert {reply.body for reply in replies} == {b"come in"}
        assert found.issued == ["token-0"]
        [form] = found.asked
        assert form["grant_type"] == "client_credentials"
        assert form["scope"] == "a b"
        assert (style == "form") == ("client_secret" in form)
        attempts = found.attempts
        client.note_status(401)
        await client.request("GET")
        assert found.attempts == attempts + 1, "the way that was taken is remembered"


async def test_a_token_is_renewed_before_it_expires_and_when_it_is_refused() -> None:
    clock = 1000.0
    async with world() as found:
        client = HttpClient(HttpSettings(found.url, oauth2=found.settings), monotonic=lambda: clock)
        await client.request("GET")
        clock += 3589.0
        await client.request("GET")
        assert len(found.issued) == 1
        clock += 1.5
        await client.request("GET")
        assert len(found.issued) == 2
        found.issued.append("of another time")  # as if the server had forgotten the last one
        with pytest.raises(Rejected) as caught:
            await client.request("GET")
        assert caught.value.status == 401
        assert (await client.request("GET")).body == b"come in"
        await client.close()


async def test_a_token_without_an_end_is_kept() -> None:
    clock = 0.0
    async with world() as found:
        found.more = {}
        client = HttpClient(HttpSettings(found.url, oauth2=found.settings), monotonic=lambda: clock)
        await client.request("GET")
        clock = 1e9
        await client.request("GET")
        assert len(found.issued) == 1
        await client.close()


@pytest.mark.parametrize(
    "answer",
    [
        web.Response(status=500, text="oops"),
        web.Response(text="no json"),
        web.json_response([]),
        web.json_response({"access_token": ""}),
        web.json_response({"access_token": 7}),
        web.json_response({"access_token": "a\r\nX: b"}),
        web.json_response({"access_token": "a", "expires_in": "soon"}),
        web.json_response({"access_token": "a", "token_type": None}),
    ],
)
async def test_an_endpoint_in_trouble_is_asked_again(answer: web.Response) -> None:
    async with world() as found, asking(found) as client:
        found.answers = [answer]
        with pytest.raises(Unavailable, match=r"oauth2: http://127\.0\.0\.1:\d+/token") as caught:
            await client.request("GET")
        assert caught.value.status is None
        assert found.seen == [], "nothing goes out without a token"
        assert (await client.request("GET")).body == b"come in"


@pytest.mark.parametrize("refusal", [400, 401])
async def test_a_refused_client_is_a_401_without_the_secret(
    caplog: pytest.LogCaptureFixture, refusal: int
) -> None:
    caplog.set_level(logging.DEBUG)
    async with world() as found, asking(found) as client:
        found.secret, found.refusal = "another", refusal
        with pytest.raises(Rejected, match=f"gives no token: {refusal} invalid_client") as caught:
            await client.request("GET")
        assert caught.value.status == 401
        assert (
            "sesame" not in f"{caught.value} {caught.value.body} {caplog.text} {found.settings!r}"
        )
        found.secret = SECRET
        assert (await client.request("GET")).body == b"come in"


async def test_a_secret_in_a_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    async with world() as found:
        settings = OAuth2("an id", f"{found.url}/token", client_secret_file=str(path))
        client = HttpClient(HttpSettings(found.url, oauth2=settings))
        with pytest.raises(Unavailable, match="client_secret_file"):
            await client.request("GET")
        path.write_text("wrong\n")
        with pytest.raises(Rejected):
            await client.request("GET")
        path.write_text(f"{SECRET}\n")
        assert (await client.request("GET")).body == b"come in"
        await client.close()


async def test_queries_that_are_passed_on_carry_a_token_too() -> None:
    async with world() as found:
        upstream = Upstream(HttpSettings(found.url, oauth2=found.settings))
        async with upstream.send(Forward("GET", "/api/v1/query"), 5.0) as response:
            assert response.status == 200
        found.issued.append("of another time")
        async with upstream.send(Forward("GET", "/api/v1/query"), 5.0) as response:
            assert response.status == 401
        async with upstream.send(Forward("GET", "/api/v1/query"), 5.0) as response:
            assert response.status == 200
        found.secret = "another"
        found.issued.append("of another time")
        async with upstream.send(Forward("GET", "/api/v1/query"), 5.0) as response:
            assert response.status == 401
        with pytest.raises(Unavailable, match="gives no token"):
            async with upstream.send(Forward("GET", "/api/v1/query"), 5.0):
                pass
        await upstream.close()


async def test_a_writer_without_a_token_holds_and_goes_on_when_it_gets_one() -> None:
    async with world() as found:
        found.secret, found.refusal = "another", 400
        settings = HttpSettings(found.url, oauth2=found.settings)
        async with writing(settings, backoff=BackoffSettings(0.02, 0.1)) as writer:
            await writer.append([block(series(3), int(time.time() * 1000))])
            await until(lambda: writer.state is WriterState.HELD)
            assert writer.stats().pending == 3
            assert found.seen == []
            found.secret = SECRET
            await until(lambda: writer.stats().pending == 0)
            assert writer.stats().sent == 3


def test_at_most_one_way_and_one_secret() -> None:
    one = OAuth2("id", "http://h/token", Secret("s"))
    with pytest.raises(ValueError, match="at most one"):
        HttpSettings("http://h", oauth2=one, authorization=Authorization(credentials=Secret("t")))
    with pytest.raises(ValueError, match="exactly one of client_secret"):
        OAuth2("id", "http://h/token", Secret("s"), "file")
    with pytest.raises(ValueError, match="exactly one of client_secret"):
        OAuth2("id", "http://h/token")
    with pytest.raises(ValueError, match="token_url"):
        OAuth2("id", "h/token", Secret("s"))
