"""The commands that ask a running sidecar reach one behind TLS and passwords, or say why not."""

import asyncio
import http.server
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from sidecar.cli import main, orders
from sidecar.cli.client import PASSWORD_VARIABLE
from sidecar.serve.web_config import load_web_config
from tests.integration.test_web_config import USERS, certificate, served, written

pytestmark = pytest.mark.integration

ASKING = ["status", "explain", *orders.QUESTIONS, *orders.ORDERS]


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    [line] = capsys.readouterr().err.splitlines()
    return line


async def said(command: str, *arguments: str) -> int:
    series = [] if command == "status" else ["x"]
    return await asyncio.to_thread(main, [command, *series, *arguments])


def configured(folder: Path, url: str, **settings: str) -> Path:
    path = folder / "sentinel.yml"
    path.write_text(yaml.safe_dump({"emitter_port": urlsplit(url).port, **settings}))
    return path


@asynccontextmanager
async def protected(folder: Path, *, users: bool = True) -> AsyncIterator[tuple[str, list[str]]]:
    """A sidecar with TLS for a name that is not the one it is reached by, and what selects it."""
    cert, key = certificate(folder)
    content = {"tls_server_config": {"cert_file": cert, "key_file": key}}
    content |= {"basic_auth_users": USERS} if users else {}
    web_config = written(folder, **content)
    async with served(load_web_config(web_config)) as (url, _):
        yield url, ["-c", str(configured(folder, url, web_config_file=str(web_config)))]


@pytest.mark.parametrize("command", ASKING)
async def test_a_user_with_the_password_gets_an_answer_over_tls(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with protected(tmp_path) as (_, select):
        assert await said(command, *select) == 1
        assert "401: this sidecar asks for a user and a password: give --user" in told(capsys)
        monkeypatch.setenv(PASSWORD_VARIABLE, "wrong")
        assert await said(command, *select, "--user", "alice") == 1
        assert "does not know this user with this password" in told(capsys)
        monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
        if command not in ("status", "explain"):
            return  # the server of these tests keeps nothing and takes no order
        await said(command, *select, "--user", "alice")
        assert "401" not in (answer := capsys.readouterr().err)
        assert command == "status" or "no watched series" in answer


async def test_the_password_may_be_the_first_line_of_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("secret\nnot this\n")
    async with protected(tmp_path) as (_, select):
        arguments = [*select, "--user", "alice", "--password-file", str(secret)]
        assert await said("status", *arguments) == 0


async def test_another_certificate_than_the_configured_one_is_not_trusted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with protected(tmp_path, users=False) as (url, select):
        assert await said("status", *select) == 0
        certificate(tmp_path)  # the same names, another key
        assert await said("status", *select) == 1
        assert "certificate is not the one that is trusted" in told(capsys)
        assert await said("status", "--sidecar", url) == 1
        assert "certificate is not the one that is trusted" in told(capsys)


async def test_a_sidecar_elsewhere_is_named_by_url_and_verified_by_an_authority(
    tmp_path: Path,
) -> None:
    async with protected(tmp_path, users=False) as (url, _):
        ca = str(tmp_path / "localhost.crt")
        assert await said("status", "--sidecar", url + "/", "--ca-file", ca) == 0


async def test_plain_http_to_a_tls_port_and_the_reverse_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with protected(tmp_path, users=False) as (url, _):
        assert await said("status", "--sidecar", url.replace("https", "http")) == 1
        assert "no sidecar answers at http://127" in told(capsys)
    async with served(load_web_config(written(tmp_path))) as (url, _):
        assert await said("status", "--sidecar", url) == 0
        assert await said("status", "--sidecar", url.replace("http", "https")) == 1
        assert "TLS fails" in told(capsys)
    assert await said("status", "--sidecar", url) == 1
    assert told(capsys).endswith(
        f"no sidecar answers at {url}: connection refused: is it running, and with this "
        "configuration?"
    )


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """Another program: a page on one path, on the others a redirect to itself."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200 if self.path.startswith("/page") else 302)
        self.send_header("Location", "/page")
        self.end_headers()
        self.wfile.write(b"<h1>Jenkins</h1>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[str]:
    Elsewhere.asked = []
    with http.server.HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("path", "status"), [("/page", 200), ("", 302)])
async def test_what_is_no_sidecar_is_one_line_and_is_followed_nowhere(
    path: str, status: int, elsewhere: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await said("status", "--sidecar", elsewhere + path) == 1
    assert f"answers {status} and no JSON: is that the sidecar's port?" in told(capsys)
    assert len(Elsewhere.asked) == 1


@pytest.mark.parametrize(
    ("arguments", "said_of_it"),
    [
        (["--user", "alice"], f"--user: needs a password, in the variable {PASSWORD_VARIABLE}"),
        (["--password-file", "x"], "--password-file: goes with --user NAME"),
        (["--user", "a", "--password-file", "/none"], "/none cannot be read: No such file"),
        (["--sidecar", "localhost:8080"], "--sidecar: is http://host:port"),
        (["--sidecar", "http://a:b@localhost"], "without user and password"),
        (["--ca-file", "/none"], "--ca-file: goes with --sidecar https://"),
        (["--sidecar", "https://a", "--ca-file", "/none"], "/none cannot be used: No such file"),
    ],
)
def test_options_that_cannot_be_used_are_said(
    arguments: list[str], said_of_it: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", *arguments]) == 2
    assert said_of_it in told(capsys)


@pytest.mark.parametrize(
    ("content", "said_of_it"),
    [
        ("- x", "is not a mapping of settings"),
        ("tls_server_config: {cert_file: none.crt}", "none.crt cannot be read"),
        ("tls_server_config: {cert_file: web.yml}", "holds no certificate in PEM"),
    ],
)
def test_a_web_config_file_that_cannot_be_used_is_said(
    content: str, said_of_it: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    web_config = tmp_path / "web.yml"
    web_config.write_text(content)
    path = configured(tmp_path, "http://localhost:1", web_config_file=str(web_config))
    assert main(["status", "-c", str(path)]) == 2
    assert said_of_it in told(capsys)
