"""The running sidecar as its own commands reach it: where it is, its certificate, a password.

Without ``--sidecar`` it is the one that the configuration describes. Its ``web_config_file`` says
whether it speaks TLS, and then exactly the certificate that stands there is trusted: whoever shows
it and holds its key is the sidecar, by whatever name it was reached.
"""

import argparse
import base64
import http.client
import json
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from sidecar.config import SentinelConfig
from sidecar.errors import ConfigError, Problem, SidecarError

PASSWORD_VARIABLE: Final = "SENTINEL_API_PASSWORD"  # noqa: S105 - its name, no password
_TIMEOUT_S: Final = 60
_PEM_END: Final = "-----END CERTIFICATE-----"


@dataclass(frozen=True)
class Client:
    """How to ask a sidecar.

    Attributes:
        url: scheme, host and port, and a path before the API's where a proxy has one.
        authorization: a header's value; empty: none is sent.
        tls: what is trusted.
    """

    url: str
    authorization: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)


def add_options(command: argparse.ArgumentParser) -> None:
    """What every command takes that asks a running sidecar."""
    command.add_argument(
        "--sidecar",
        metavar="URL",
        help="ask the sidecar at this URL, in place of the one the configuration describes",
    )
    command.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="with --sidecar https://...: whom to trust"
    )
    command.add_argument(
        "--user",
        metavar="NAME",
        help=f"a user of its web_config_file; the password is taken from {PASSWORD_VARIABLE}",
    )
    command.add_argument(
        "--password-file", type=Path, metavar="FILE", help="or from the first line of this file"
    )


def client(config: SentinelConfig, options: argparse.Namespace) -> Client:
    """The sidecar that the command line, or else the configuration, speaks of.

    Raises:
        ConfigError: an option or a file that it names cannot be used.
    """
    authorization = _authorization(options.user, options.password_file)
    if options.sidecar:
        parts = urllib.parse.urlsplit(options.sidecar)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            message = "is http://host:port or https://host:port, without user and password"
            raise ConfigError([Problem("--sidecar", message)])
        tls = _trusting_authorities(options.ca_file) if parts.scheme == "https" else None
        return Client(options.sidecar.rstrip("/"), authorization, tls)
    if options.ca_file:
        raise ConfigError([Problem("--ca-file", "goes with --sidecar https://...")])
    certificate = _certificate(config.web_config_file)
    url = url_here(config, tls=certificate is not None)
    return Client(url, authorization, None if certificate is None else _trusting(certificate))


def url_here(config: SentinelConfig, *, tls: bool) -> str:
    """Where the sidecar of a configuration is reached from this machine."""
    scheme = "https" if tls else "http"
    return f"{scheme}://{_reachable(config.emitter_host)}:{config.emitter_port}"


def _reachable(host: str) -> str:
    """The host of a URL on this machine for an address that is listened on."""
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _authorization(user: str | None, password_file: Path | None) -> str:
    if user is None:
        if password_file is not None:
            raise ConfigError([Problem("--password-file", "goes with --user NAME")])
        return ""
    if password_file is None:
        password = os.environ.get(PASSWORD_VARIABLE, "")
    else:
        password = _text(password_file, "--password-file").partition("\n")[0].rstrip("\r")
    if not password:
        message = f"needs a password, in the variable {PASSWORD_VARIABLE} or by --password-file"
        raise ConfigError([Problem("--user", message)])
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _certificate(web_config_file: str | None) -> Path | None:
    """The certificate that the sidecar shows; None where it does not speak TLS.

    Only that is read, not the key: an operator who may ask need not be able to be the sidecar.
    """
    if not web_config_file:
        return None
    path = Path(web_config_file)
    try:
        given = yaml.safe_load(_text(path, "web_config_file")) or {}
        name = (given.get("tls_server_config") or {}).get("cert_file")
    except (yaml.YAMLError, AttributeError):
        message = f"{path} is not a mapping of settings, as the exporters' web.yml is"
        raise ConfigError([Problem("web_config_file", message)]) from None
    return path.parent / str(name) if name else None


def _trusting(certificate: Path) -> ssl.SSLContext:
    """Exactly the first certificate of the file, whatever names it has and whoever issued it."""
    leaf = _text(certificate, "cert_file").partition(_PEM_END)[0] + _PEM_END
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # no other certificate is accepted, so its names say nothing
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=leaf)
    except (ssl.SSLError, ValueError):
        message = f"{certificate} holds no certificate in PEM"
        raise ConfigError([Problem("cert_file", message)]) from None
    return context


def _trusting_authorities(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        message = f"{ca_file} cannot be used: {error.strerror or error}"
        raise ConfigError([Problem("--ca-file", message)]) from None


def _text(path: Path, where: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ConfigError([Problem(where, message)]) from None


# Asking


class _Here(urllib.request.HTTPRedirectHandler):
    """Follows nobody elsewhere, who would be told the password."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def asked(client: Client, path: str, order: Mapping[str, Any] | None = None) -> Any:
    """What the running sidecar answers, also where it refuses.

    Raises:
        SidecarError: none answers, or it wants a password, or it is something else.
    """
    body = None if order is None else json.dumps(order).encode()
    headers = {"X-Sentinel-Admin": "cli", "Content-Type": "application/json"}
    if client.authorization:
        headers["Authorization"] = client.authorization
    request = urllib.request.Request(client.url + path, body, headers)  # noqa: S310 - checked above
    direct = (
        urllib.request.ProxyHandler({}),
        _Here(),
        urllib.request.HTTPSHandler(context=client.tls),
    )
    try:
        with urllib.request.build_opener(*direct).open(request, timeout=_TIMEOUT_S) as reply:
            return _json(client, reply.status, reply.read())
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.UNAUTHORIZED:
            raise SidecarError(_unauthorized(client)) from None
        return _json(client, error.code, error.read())
    except (OSError, http.client.HTTPException) as error:
        raise SidecarError(f"no sidecar answers at {client.url}: {_why(error)}") from None


def _json(client: Client, status: int, body: bytes) -> Any:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        return answer
    raise SidecarError(
        f"{client.url} answers {status} and no JSON: is that the sidecar's port? "
        "(emitter_port, or --sidecar URL)"
    )


def _unauthorized(client: Client) -> str:
    if client.authorization:
        return f"401: {client.url} does not know this user with this password (web_config_file)"
    return (
        f"401: this sidecar asks for a user and a password: give --user NAME, and the password in "
        f"{PASSWORD_VARIABLE} or by --password-file FILE"
    )


def _why(error: Exception) -> str:
    """In plain words, with what to do."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not the one that is trusted ({cause.verify_message}): see "
            "cert_file of web_config_file, or --ca-file"
        )
    if isinstance(cause, ssl.SSLError):
        return f"TLS fails ({cause.reason or cause}): does that port speak it?"
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused: is it running, and with this configuration?"
    if isinstance(cause, ConnectionError | http.client.HTTPException):
        return "it hangs up: does that port speak TLS (https://...)?"
    if isinstance(cause, TimeoutError):
        return f"no answer within {_TIMEOUT_S} s"
    text = cause.strerror if isinstance(cause, OSError) else None
    return f"{text or cause}: is it running, and with this configuration?"
