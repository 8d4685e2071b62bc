"""The HTTP client: what goes over the wire, what comes back as an error, what never leaks."""

import asyncio
import contextlib
import gzip
import logging
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from sidecar.errors import Rejected, RemoteError, Unavailable
from sidecar.remote.http import (
    Authorization,
    BasicAuth,
    HeaderValues,
    HttpClient,
    HttpSettings,
    Secret,
    TlsConfig,
)
from tests.fakes import Answer, Endless, FakePrometheus, Hang, ResetBefore, Truncate, silent_port
from tests.prometheus import free_port

pytestmark = pytest.mark.integration

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def echo(request: web.Request) -> web.Response:
    """The request's head, as JSON."""
    headers = [(name.lower(), value) for name, value in request.headers.items()]
    body = (await request.read()).decode()
    return web.json_response(
        {"headers": headers, "path": request.path_qs, "method": request.method, "body": body}
    )


async def ask(settings: HttpSettings, **more: object) -> str:
    client = HttpClient(settings)
    try:
        return (await client.request("GET", "/x", **more)).body.decode()  # type: ignore[arg-type]
    finally:
        await client.close()


async def failure(url: str, trouble: Answer | None = None, **settings: object) -> RemoteError:
    """The error that a request to it ends in."""
    client = HttpClient(HttpSettings(url, **settings))  # type: ignore[arg-type]
    try:
        with pytest.raises(RemoteError) as caught:
            await client.request("POST", "/x", body=b"x", max_bytes=100_000)
    finally:
        await client.close()
    return caught.value


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599, 408, 425, 429])
async def test_what_may_pass_is_unavailable(status: int) -> None:
    async with FakePrometheus() as fake:
        fake.give("/x", Answer(status, b"busy", {"Retry-After": "17"}))
        error = await failure(fake.url)
    assert isinstance(error, Unavailable)
    assert (error.status, error.retry_after_s) == (status, 17.0)
    assert str(status) in str(error)
    assert "busy" in str(error)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 407, 410, 413, 415, 422])
async def test_what_will_always_fail_is_rejected_with_the_servers_words(status: int) -> None:
    async with FakePrometheus() as fake:
        fake.give("/x", Answer(status, b"no \x1b[31m you", {"Content-Encoding": "snappy"}))
        error = await failure(fake.url)
    assert isinstance(error, Rejected)
    assert error.status == status
    assert error.body == "no \x1b[31m you"
    assert "\x1b" not in str(error)


async def test_a_500_about_a_regular_expression_is_rejected() -> None:
    async with FakePrometheus() as fake:
        fake.give("/x", Answer(500, b"error parsing regexp: missing argument"))
        assert isinstance(await failure(fake.url), Rejected)


@pytest.mark.parametrize("date", ["Thu, 01 Jan 1970 00:00:40 GMT"])
async def test_a_date_in_retry_after_counts_from_the_date_of_the_answer(date: str) -> None:
    async with FakePrometheus(now_s=lambda: 10.0) as fake:
        fake.give("/x", Answer(503, headers={"Retry-After": date}))
        error = await failure(fake.url)
    assert isinstance(error, Unavailable)
    assert error.retry_after_s == 30.0


async def test_no_answer_at_all_is_unavailable_and_says_why() -> None:
    async with FakePrometheus() as fake, silent_port() as silent:
        fake.give("/x", ResetBefore(), Hang())
        reset = await failure(fake.url)
        hang = await failure(fake.url, timeout_s=0.2)
        mute = await failure(f"http://127.0.0.1:{silent}", timeout_s=0.2)
    refused = await failure(f"http://127.0.0.1:{free_port()}")
    unknown = await failure("http://no-such-host.invalid:1")
    for error in (reset, hang, mute, refused, unknown):
        assert isinstance(error, Unavailable)
        assert error.status is None
    assert "no answer within 0.2 s" in str(hang)


async def test_a_reply_above_the_bound_closes_the_connection() -> None:
    async with FakePrometheus() as fake:
        fake.give("/x", Endless(), Answer(500, b"z" * 10_000_000))
        async with asyncio.timeout(5):
            endless = await failure(fake.url)
            long_error = await failure(fake.url)
    assert isinstance(endless, Rejected)
    assert "longer than 100000 bytes" in str(endless)
    assert isinstance(long_error, Unavailable)
    assert len(str(long_error)) < 500


async def test_a_bomb_is_counted_after_decompression() -> None:
    async def bomb(request: web.Request) -> web.Response:
        return web.Response(
            body=gzip.compress(bytes(50_000_000)), headers={"Content-Encoding": "gzip"}
        )

    async with serving(bomb) as url:
        error = await failure(url)
    assert "longer than 100000 bytes" in str(error)


async def test_a_proxy_that_gzips_replies_does_no_harm() -> None:
    async def gzipped(request: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(b"hello"), headers={"Content-Encoding": "gzip"})

    async with serving(gzipped) as url:
        assert await ask(HttpSettings(url)) == "hello"


async def test_a_body_that_ends_early_is_unavailable() -> None:
    async def short(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"only this")
        assert request.transport is not None
        request.transport.close()
        return response

    async with serving(short) as url:
        error = await failure(url)
    assert isinstance(error, Unavailable)
    assert "broke off" in str(error)
    assert Truncate(3).bytes_missing == 3


# Authentication


async def test_every_way_to_authenticate_reaches_the_server(tmp_path: Path) -> None:
    user, word = tmp_path / "user", tmp_path / "password"
    user.write_text("aladdin\n")
    word.write_text("open sesame\n")
    basic = "Basic YWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    async with serving(echo) as url:
        host = url.removeprefix("http://")
        for settings, expected in [
            (HttpSettings(url, basic_auth=BasicAuth("aladdin", Secret("open sesame"))), basic),
            (
                HttpSettings(
                    url, basic_auth=BasicAuth(username_file=str(user), password_file=str(word))
                ),
                basic,
            ),
            (HttpSettings(f"http://aladdin:open%20sesame@{host}"), basic),
            (HttpSettings(url, authorization=Authorization(credentials=Secret("t"))), "Bearer t"),
            (
                HttpSettings(url, authorization=Authorization("Token", credentials_file=str(user))),
                "Token aladdin",
            ),
        ]:
            assert f'["authorization", "{expected}"]' in await ask(settings)


async def test_files_are_read_again_on_each_use(tmp_path: Path) -> None:
    token, header = tmp_path / "token", tmp_path / "header"
    async with serving(echo) as url:
        client = HttpClient(
            HttpSettings(
                url,
                authorization=Authorization(credentials_file=str(token)),
                http_headers={"X-Key": HeaderValues(("a",), (Secret("b"),), (str(header),))},
            )
        )
        for value in ("one", "two"):
            token.write_text(value)
            header.write_text(f"h-{value}\n")
            said = (await client.request("GET")).body.decode()
            assert f'"Bearer {value}"' in said
            for each in ("a", "b", f"h-{value}"):
                assert f'["x-key", "{each}"]' in said
        token.unlink()
        with pytest.raises(Unavailable, match="token"):
            await client.request("GET")
        header.write_text("bad\nline")
        token.write_text("three")
        with pytest.raises(Unavailable, match="control characters"):
            await client.request("GET")
        await client.close()


async def test_no_secret_shows_in_an_error_or_a_log(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with FakePrometheus() as fake:
            fake.give_always("/x", Answer(401, b"who are you"))
            host = fake.url.removeprefix("http://")
            errors = [
                await failure(fake.url, basic_auth=BasicAuth("u", Secret("canary"))),
                await failure(f"http://user:canary@{host}"),
                await failure(fake.url, headers={"X-Key": "canary"}),
            ]
            fake.give("/x", Answer(302, headers={"Location": "http://u:canary@127.0.0.1:1/"}))
            errors.append(await failure(fake.url))
        errors.append(await failure(f"http://user:canary@127.0.0.1:{free_port()}"))
    ours = [one.getMessage() for one in caplog.records if one.name.startswith("sidecar")]
    assert "canary" not in " ".join([*map(str, errors), *map(repr, errors), *ours])


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_get_follows_redirects_on_its_own_host_only(status: int) -> None:
    seen: list[str] = []

    async def moved(request: web.Request) -> web.Response:
        if request.path == "/x":
            return web.Response(status=status, headers={"Location": "/y"})
        if request.path == "/y":
            return await echo(request)
        raise AssertionError(request.path)

    async def thief(request: web.Request) -> web.Response:
        seen.append(request.path)
        return web.Response()

    async def elsewhere(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": f"{other}/y"})

    auth = BasicAuth("u", Secret("p"))
    async with serving(moved) as url, serving(thief) as other, serving(elsewhere) as bad:
        assert "authorization" in await ask(HttpSettings(url, basic_auth=auth))
        with pytest.raises(Rejected, match="another host"):
            await ask(HttpSettings(bad, basic_auth=auth))
        with pytest.raises(Rejected, match="follow_redirects is false"):
            await ask(HttpSettings(url, follow_redirects=False))
    assert seen == []


async def test_redirects_in_a_circle_end() -> None:
    async def circle(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": request.path})

    async with serving(circle) as url:
        with pytest.raises(Rejected, match="more than 5 redirects"):
            await ask(HttpSettings(url))


# TLS and proxies


def certificate(folder: Path, name: str, days: int = 2) -> tuple[Path, Path]:
    """A self-signed certificate for ``name`` and its key."""
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    subject = f"IP:{name}" if name[0].isdigit() else f"DNS:{name}"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", str(days), "-subj", f"/CN={name}"]
    command += ["-addext", f"subjectAltName={subject}", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def serving_context(cert: Path, key: Path, client_ca: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return context


async def test_tls_trusts_what_it_is_told_to_and_nothing_else(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "127.0.0.1")
    wrong, wrong_key = certificate(tmp_path, "example.test")
    async with (
        serving(echo, serving_context(cert, key)) as url,
        serving(echo, serving_context(wrong, wrong_key)) as misnamed,
    ):
        assert await ask(HttpSettings(url, tls_config=TlsConfig(ca_file=str(cert))))
        assert await ask(HttpSettings(url, tls_config=TlsConfig(ca=cert.read_text())))
        assert await ask(HttpSettings(url, tls_config=TlsConfig(insecure_skip_verify=True)))
        named = TlsConfig(ca_file=str(wrong), server_name="example.test")
        assert await ask(HttpSettings(misnamed, tls_config=named))
        for bad_url, tls in [
            (url, None),
            (url, TlsConfig(ca_file=str(wrong))),
            (misnamed, TlsConfig(ca_file=str(wrong))),
            (url, TlsConfig(ca_file=str(cert), server_name="example.test")),
            (url, TlsConfig(ca_file=str(cert), max_version="TLS10")),
        ]:
            with pytest.raises(Unavailable):
                await ask(HttpSettings(bad_url, tls_config=tls))


async def test_client_certificates_are_shown_and_read_again_when_they_change(
    tmp_path: Path,
) -> None:
    cert, key = certificate(tmp_path, "127.0.0.1")
    mine, my_key = certificate(tmp_path, "client.test")
    others, others_key = certificate(tmp_path, "other.test")
    shown, shown_key = tmp_path / "shown.crt", tmp_path / "shown.key"
    shown.write_bytes(mine.read_bytes())
    shown_key.write_bytes(my_key.read_bytes())
    settings = TlsConfig(ca_file=str(cert), cert_file=str(shown), key_file=str(shown_key))
    async with serving(echo, serving_context(cert, key, client_ca=mine)) as url:
        client = HttpClient(HttpSettings(url, tls_config=settings))
        await client.request("GET")
        shown.write_bytes(others.read_bytes())
        shown_key.write_bytes(others_key.read_bytes())
        with pytest.raises(Unavailable):
            await client.request("GET")
        shown.write_bytes(b"no certificate")
        with pytest.raises(Unavailable, match="credentials"):
            await client.request("GET")
        shown.write_bytes(mine.read_bytes())
        shown_key.write_bytes(my_key.read_bytes())
        await client.request("GET")
        await client.close()
        inline = TlsConfig(
            ca=cert.read_text(), cert=mine.read_text(), key=Secret(my_key.read_text())
        )
        assert await ask(HttpSettings(url, tls_config=inline))


async def test_a_proxy_is_used_unless_the_host_is_excepted() -> None:
    async with serving(echo) as proxy, serving(echo) as url:
        through = await ask(HttpSettings("http://far.invalid:9", proxy_url=proxy))
        assert "far.invalid:9" in through
        assert "far.invalid" not in await ask(
            HttpSettings(url, proxy_url="http://127.0.0.1:1", no_proxy="127.0.0.1")
        )


async def test_a_proxy_of_the_environment_is_used_only_when_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(echo) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        with pytest.raises(Unavailable):
            await ask(HttpSettings("http://far.invalid:9"))
        said = await ask(HttpSettings("http://far.invalid:9", proxy_from_environment=True))
    assert "far.invalid" in said


async def test_parameters_go_into_the_url_of_a_get_and_the_body_of_a_post() -> None:
    async with serving(echo) as url:
        client = HttpClient(HttpSettings(f"{url}/base/?keep=1"))
        nasty = {"q": 'x{a="b&c=d"} + é'}
        got = (await client.request("GET", "/p", params=nasty)).body.decode()
        posted = (await client.request("POST", "/p", params=nasty)).body.decode()
        await client.close()
    assert '"/base/p?keep=1&q=x' in got
    assert '"path": "/base/p?keep=1"' in posted
    assert "%26" in posted
