"""Failures of a connection are said in plain words."""

import asyncio
from pathlib import Path

import pytest

from sidecar.errors import RemoteError
from sidecar.remote.http import HttpClient, HttpSettings
from sidecar.serve.web_config import load_web_config
from tests.integration.test_web_config import certificate, served, written
from tests.prometheus import free_port

pytestmark = pytest.mark.integration


async def said(url: str) -> str:
    client = HttpClient(HttpSettings(url))
    with pytest.raises(RemoteError) as caught:
        await client.request("GET", "/x", timeout_s=5)
    await client.close()
    return str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_nobody_listening_is_a_refused_connection(host: str) -> None:
    url = f"http://{host}:{free_port()}"
    assert await said(url) == f"GET {url}/x: connection refused"


async def test_a_certificate_that_is_not_trusted_is_called_so(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    config = load_web_config(
        written(tmp_path, tls_server_config={"cert_file": cert, "key_file": key})
    )
    async with served(config) as (url, _):
        assert (await said(url)).endswith(
            "/x: its certificate is not trusted: self-signed certificate"
        )


async def test_what_hangs_up_or_speaks_no_tls_is_called_so() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        text = await said(f"http://127.0.0.1:{port}")
        assert text.endswith(
            ("it closed the connection without an answer", "connection reset by peer")
        )
        assert "Errno" not in await said(f"https://127.0.0.1:{port}")
