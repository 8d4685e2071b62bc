"""TLS and passwords on the sidecar's own port, with the exporters' keys and semantics."""

import asyncio
import base64
import ssl
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path

import aiohttp
import bcrypt
import pytest
import yaml
from aiohttp import web

from sidecar.errors import ConfigError
from sidecar.ingest.buffer import PushBuffer
from sidecar.publish.paths import ForecastPaths
from sidecar.remote.http import HttpSettings
from sidecar.serve import admin, query_api, receive, remote_read, status_api
from sidecar.serve.app import build_app
from sidecar.serve.metrics import SelfMetrics
from sidecar.serve.query_api import QueryApi
from sidecar.serve.receive import Receiver
from sidecar.serve.remote_read import RemoteReadServer
from sidecar.serve.status import StatusPage, Wanted
from sidecar.serve.upstream import Upstream
from sidecar.serve.web_config import Doorkeeper, WebConfig, load_web_config
from tests.integration.test_app import Board

pytestmark = pytest.mark.integration

USERS = {"alice": bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()}


def basic(name: str, password: str) -> dict[str, str]:
    token = base64.b64encode(f"{name}:{password}".encode()).decode()
    return {"Authorization": f"Basic {token}"}


def written(folder: Path, **content: object) -> Path:
    path = folder / "web.yml"
    path.write_text(yaml.safe_dump(content))
    return path


def certificate(folder: Path, name: str = "localhost") -> tuple[str, str]:
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext"]
    command += ["subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        [*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True
    )
    return cert.name, key.name


@asynccontextmanager
async def served(
    config: WebConfig, *, admin_api: bool = True, door: Doorkeeper | None = None
) -> AsyncIterator[tuple[str, web.Application]]:
    door = door or Doorkeeper(config)
    upstream = Upstream(HttpSettings(url="http://127.0.0.1:1", timeout_s=1))
    paths = ForecastPaths()
    api = QueryApi(upstream, paths, now_ms=lambda: 0)

    async def reload() -> str:
        return "nothing"

    def nobody() -> object:
        raise AssertionError("no order gets this far in these tests")

    async def nothing(_: Wanted) -> StatusPage:
        return StatusPage({}, 0, 0, Counter(), Counter())

    app = build_app(
        Board(),
        SelfMetrics(list),
        exposition_max_series=1,
        routes=[
            *admin.routes(nobody, reload, enabled=admin_api),  # type: ignore[arg-type]
            *query_api.routes(api),
            *remote_read.routes(RemoteReadServer(paths)),
            *receive.routes(Receiver(PushBuffer(), lambda: 0, str)),
            status_api.route(nothing, asyncio.to_thread),
        ],
        middlewares=[door.middleware],
    )
    app.on_response_prepare.append(door.set_headers)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=config.context).start()
    scheme = "http" if config.context is None else "https"
    try:
        yield f"{scheme}://127.0.0.1:{runner.addresses[0][1]}", app
    finally:
        await runner.cleanup()
        api.close()
        await upstream.close()


def is_order(method: str, path: str) -> bool:
    return method == "POST" and (path.startswith("/api/v1/models/") or path == "/-/reload")


def routes_of(app: web.Application) -> list[tuple[str, str]]:
    return sorted(
        (route.method, route.resource.canonical.replace("{name}", "job"))
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    )


async def test_with_users_every_route_asks_for_one(tmp_path: Path) -> None:
    config = load_web_config(written(tmp_path, basic_auth_users=USERS))
    async with served(config) as (url, app), aiohttp.ClientSession() as session:
        routes = routes_of(app)
        assert len(routes) > 30
        nobody = [
            {},
            basic("alice", "wrong"),
            basic("bob", "secret"),
            {"Authorization": "Bearer x"},
        ]
        for (method, path), auth in product(routes, nobody):
            async with session.request(method, url + path, headers=auth) as reply:
                assert reply.status == 401, (method, path, auth)
                assert reply.headers["WWW-Authenticate"].startswith("Basic ")
                assert (await reply.text()) == "Unauthorized\n", "and nothing else"
        for method, path in routes:
            # Without an upstream, an operator or the admin header: each in its own way.
            refused = {401, 404, 405} if is_order(method, path) else {401, 403, 404, 405}
            headers = basic("alice", "secret")
            async with session.request(method, url + path, headers=headers) as reply:
                assert reply.status not in refused, (method, path)
                assert (reply.status == 403) == is_order(method, path), (method, path)


@pytest.mark.parametrize(
    "auth",
    [("alice", "wrong"), ("bob", "secret"), ("", ""), ("alice", "secret" + "x" * 80)],
)
async def test_a_wrong_name_or_password_is_refused_however_often(
    tmp_path: Path, auth: tuple[str, str]
) -> None:
    config = load_web_config(written(tmp_path, basic_auth_users=USERS))
    async with served(config) as (url, _), aiohttp.ClientSession() as session:
        for _ in range(3):
            async with session.get(f"{url}/metrics", headers=basic(*auth)) as reply:
                assert reply.status == 401


@pytest.mark.parametrize("header", ["Basic", "Basic !!!", "Bearer secret", "Basic YWxpY2U="])
async def test_a_broken_header_is_refused(tmp_path: Path, header: str) -> None:
    config = load_web_config(written(tmp_path, basic_auth_users=USERS))
    headers = {"Authorization": header}
    async with (
        served(config) as (url, _),
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{url}/-/healthy") as reply,
    ):
        assert reply.status == 401


async def test_orders_are_refused_while_the_admin_api_is_off_and_without_the_header() -> None:
    async with (
        served(WebConfig(), admin_api=False) as (url, app),
        aiohttp.ClientSession() as session,
    ):
        orders = [path for method, path in routes_of(app) if method == "POST" and "models" in path]
        assert len(orders) == len(admin.VERBS)
        for path in [*orders, "/-/reload"]:
            async with session.post(url + path, headers={admin.HEADER: "1"}, json={}) as reply:
                assert reply.status == 403, path
    async with served(WebConfig()) as (url, _), aiohttp.ClientSession() as session:
        for path in [*orders, "/-/reload"]:
            async with session.post(url + path, json={"metric": "x"}) as reply:
                assert reply.status == 403, path


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"metric": 1}', b'{"metric": "x", "labels": {"a": 1}}', b"[" * 9000,
     b'{"metric": "x", "nonsense": 1}', b'{"metric": "x", "to_version": true}'],
)  # fmt: skip
async def test_a_malformed_order_is_a_400_that_says_why(body: bytes) -> None:
    async with served(WebConfig()) as (url, _), aiohttp.ClientSession() as session:
        order = session.post(
            f"{url}/api/v1/models/rollback", data=body, headers={admin.HEADER: "1"}
        )
        async with order as reply:
            assert reply.status == 400
            assert (await reply.json())["status"] == "error"


async def test_tls_serves_the_certificate_and_takes_a_new_one_when_it_changes(
    tmp_path: Path,
) -> None:
    cert, key = certificate(tmp_path)
    path = written(tmp_path, tls_server_config={"cert_file": cert, "key_file": key})
    config = load_web_config(path)
    async with served(config) as (url, _):
        first = await shown_certificate(url)
        trust = ssl.create_default_context(cafile=str(tmp_path / cert))
        session = aiohttp.ClientSession()
        async with session, session.get(f"{url}/-/healthy", ssl=trust) as reply:
            assert reply.status == 200
        door = Doorkeeper(config)
        await asyncio.sleep(0.02)
        certificate(tmp_path)
        door.refresh()
        assert await shown_certificate(url) != first
        (tmp_path / cert).write_text("broken")
        with pytest.raises(ConfigError, match="cannot be used"):
            door.refresh()
        assert await shown_certificate(url)


async def test_users_and_headers_change_with_the_file_and_a_broken_one_changes_nothing(
    tmp_path: Path,
) -> None:
    headers = {"headers": {"X-Frame-Options": "deny", "Strict-Transport-Security": ""}}
    path = written(tmp_path, basic_auth_users=USERS, http_server_config={"http2": True, **headers})
    config = load_web_config(path)
    door = Doorkeeper(config)
    async with served(config, door=door) as (url, _), aiohttp.ClientSession() as session:

        async def status(name: str) -> int:
            async with session.get(f"{url}/-/healthy", headers=basic(name, "secret")) as reply:
                assert reply.headers["X-Frame-Options"] == "deny"
                assert "Strict-Transport-Security" not in reply.headers
                return reply.status

        assert (await status("alice"), await status("bob")) == (200, 401)
        await asyncio.sleep(0.02)
        written(tmp_path, basic_auth_users={"bob": USERS["alice"]}, http_server_config=headers)
        door.refresh()
        assert (await status("alice"), await status("bob")) == (401, 200)
        await asyncio.sleep(0.02)
        written(tmp_path, basic_auth_users={"alice": "plain"})
        with pytest.raises(ConfigError):
            door.refresh()
        await asyncio.sleep(0.02)
        cert, key = certificate(tmp_path)
        written(tmp_path, tls_server_config={"cert_file": cert, "key_file": key})
        with pytest.raises(ConfigError, match="restart"):
            door.refresh()
        assert (await status("alice"), await status("bob")) == (401, 200)


async def test_only_the_cipher_suites_and_versions_that_are_named_are_spoken(
    tmp_path: Path,
) -> None:
    cert, key = certificate(tmp_path)
    tls = {
        "cert_file": cert,
        "key_file": key,
        "max_version": "TLS12",
        "cipher_suites": ["TLS_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"],
        "prefer_server_cipher_suites": False,
    }
    config = load_web_config(written(tmp_path, tls_server_config=tls))
    async with served(config) as (url, _):
        port = int(url.rpartition(":")[2])
        for ciphers, spoken in (("ECDHE-ECDSA-AES256-GCM-SHA384", True), ("AES128", False)):
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(ciphers)
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            except (ssl.SSLError, ConnectionError):
                assert not spoken
                continue
            assert spoken
            assert writer.get_extra_info("cipher")[:2] == (ciphers, "TLSv1.2")
            writer.close()


async def shown_certificate(url: str) -> bytes:
    port = int(url.rpartition(":")[2])
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return shown


async def test_a_client_without_a_certificate_is_refused_where_one_is_required(
    tmp_path: Path,
) -> None:
    cert, key = certificate(tmp_path)
    tls = {
        "cert_file": cert,
        "key_file": key,
        "client_auth_type": "RequireAndVerifyClientCert",
        "client_ca_file": cert,
    }
    config = load_web_config(written(tmp_path, tls_server_config=tls))
    async with served(config) as (url, _), aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"{url}/-/healthy", ssl=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"basic_auth_users": {"a": "plain"}}, "basic_auth_users.a: is not a bcrypt hash"),
        ({"tls_server_config": {"cert_file": "x"}}, "needs both cert_file and key_file"),
        ({"nonsense": 1}, "nonsense: is not known"),
        ({"http_server_config": {"http3": True}}, "http_server_config.http3: is not known"),
        ({"http_server_config": {"http2": "x"}}, "http_server_config.http2: is true or false"),
        (
            {"http_server_config": {"headers": {"Set-Cookie": "a"}}},
            "http_server_config.headers.Set-Cookie: is not known",
        ),
        (
            {"http_server_config": {"headers": {"X-Frame-Options": "maybe"}}},
            "http_server_config.headers.X-Frame-Options: is 'deny' or 'sameorigin'",
        ),
        (
            {"http_server_config": {"headers": {"X-XSS-Protection": "a\r\nb: c"}}},
            "http_server_config.headers.X-XSS-Protection: is not a line",
        ),
        (
            {"tls_server_config": {"client_auth_type": "RequireAnyClientCert"}},
            "tls_server_config.client_auth_type: RequireAnyClientCert takes any certificate",
        ),
        (
            {"tls_server_config": {"cipher_suites": ["TLS_RSA_WITH_RC4_128_SHA"]}},
            "tls_server_config.cipher_suites: 'TLS_RSA_WITH_RC4_128_SHA' is not known",
        ),
        ({"tls_server_config": {"cert": "x"}}, "tls_server_config.cert: is not known"),
        (
            {"tls_server_config": {"cert_file": "no", "key_file": "no"}},
            "the certificate cannot be used",
        ),
        (
            {"tls_server_config": {"client_auth_type": "RequireAndVerifyClientCert"}},
            "client_ca_file: goes with",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(
    tmp_path: Path, content: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_web_config(written(tmp_path, **content))
    assert message in str(caught.value)
