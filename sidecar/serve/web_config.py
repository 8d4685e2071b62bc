"""TLS and passwords for the sidecar's own port, from a file as Prometheus' exporters read it.

The keys and their meaning are those of Prometheus' exporter-toolkit: ``tls_server_config`` and
``basic_auth_users`` (names with bcrypt hashes). Once there are users, every page asks for one,
health and metrics included. Certificates are read again when their files change.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import bcrypt
import yaml
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from sidecar.errors import ConfigError, Problem

_CLIENT_AUTH: Final = {
    "NoClientCert": ssl.CERT_NONE,
    "RequestClientCert": ssl.CERT_OPTIONAL,
    "RequireAnyClientCert": ssl.CERT_REQUIRED,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_NEEDS_CA: Final = ("VerifyClientCertIfGiven", "RequireAndVerifyClientCert")
_VERSIONS: Final = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_TLS_KEYS: Final = (
    "cert_file",
    "key_file",
    "client_auth_type",
    "client_ca_file",
    "min_version",
    "max_version",
)
_CHALLENGE: Final = {"WWW-Authenticate": 'Basic realm="sentinel"'}
# A hash of nobody's, so that an unknown user takes as long as a wrong password.
_NOBODY: Final = b"$2b$10$CwTycUXWue0Thq9StjUM0uJ8Z8W4uQ0eG5fYkq7E3L6dF8rWc7Y5W"
_REMEMBERED: Final = 100


@dataclass(frozen=True)
class WebConfig:
    """What protects the port.

    Attributes:
        users: name -> bcrypt hash; empty: nobody is asked.
        certificate, key: paths; both empty without TLS.
    """

    users: Mapping[str, bytes] = field(default_factory=dict)
    certificate: Path | None = None
    key: Path | None = None
    context: ssl.SSLContext | None = None


def load_web_config(path: str | Path) -> WebConfig:
    """Read the file.

    Raises:
        ConfigError: with every problem; paths in it are relative to its folder.
    """
    path = Path(path)
    try:
        given = yaml.safe_load(path.read_text()) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError([Problem("web_config_file", f"{path} cannot be read: {error}")]) from None
    problems: list[Problem] = []
    if not isinstance(given, dict):
        raise ConfigError([Problem("web_config_file", f"{path} is not a mapping of settings")])
    problems += [
        Problem(str(key), "is not known; write tls_server_config or basic_auth_users")
        for key in given.keys() - {"tls_server_config", "basic_auth_users"}
    ]
    users = _users(given.get("basic_auth_users") or {}, problems)
    tls = given.get("tls_server_config") or {}
    certificate, key, context = _tls(tls, path.parent, problems) if tls else (None, None, None)
    if problems:
        raise ConfigError(problems)
    return WebConfig(users, certificate, key, context)


def _users(given: Any, problems: list[Problem]) -> dict[str, bytes]:
    if not isinstance(given, dict):
        problems.append(Problem("basic_auth_users", "is not a mapping of names to bcrypt hashes"))
        return {}
    users = {}
    for name, secret in given.items():
        text = str(secret)
        if not text.startswith(("$2a$", "$2b$", "$2y$")) or len(text) != 60:
            message = "is not a bcrypt hash: make one with 'htpasswd -nBC 10 NAME'"
            problems.append(Problem(f"basic_auth_users.{name}", message))
        users[str(name)] = text.encode()
    return users


def _tls(
    given: Any, folder: Path, problems: list[Problem]
) -> tuple[Path | None, Path | None, ssl.SSLContext | None]:
    where = "tls_server_config"
    if not isinstance(given, dict):
        problems.append(Problem(where, "is not a mapping of settings"))
        return None, None, None
    problems += [
        Problem(f"{where}.{key}", f"is not known; write one of {', '.join(_TLS_KEYS)}")
        for key in given.keys() - set(_TLS_KEYS)
    ]
    wanted = str(given.get("client_auth_type", "NoClientCert"))
    authority = given.get("client_ca_file")
    if wanted not in _CLIENT_AUTH:
        problems.append(
            Problem(f"{where}.client_auth_type", f"is one of {', '.join(_CLIENT_AUTH)}")
        )
    elif (wanted in _NEEDS_CA) != bool(authority):
        problems.append(
            Problem(f"{where}.client_ca_file", f"goes with client_auth_type {_NEEDS_CA}")
        )
    for key in ("min_version", "max_version"):
        if key in given and given[key] not in _VERSIONS:
            problems.append(Problem(f"{where}.{key}", f"is one of {', '.join(_VERSIONS)}"))
    files = [given.get(key) for key in ("cert_file", "key_file")]
    if not all(isinstance(one, str) and one for one in files):
        problems.append(Problem(where, "needs both cert_file and key_file"))
    if problems:
        return None, None, None
    certificate, key_file = (folder / str(one) for one in files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[given.get("min_version", "TLS12")]
    if "max_version" in given:
        context.maximum_version = _VERSIONS[given["max_version"]]
    try:
        context.load_cert_chain(certificate, key_file)
        if authority:
            context.load_verify_locations(folder / str(authority))
    except (OSError, ssl.SSLError) as error:
        problems.append(Problem(where, f"the certificate cannot be used: {error}"))
    context.verify_mode = _CLIENT_AUTH[wanted]
    return certificate, key_file, context


class Doorkeeper:
    """Asks every request for a user, where there are any."""

    def __init__(self, config: WebConfig) -> None:
        self._config = config
        self._known: dict[bytes, bool] = {}
        self._stamp = self._files()

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def ask(request: web.Request, handler: Handler) -> web.StreamResponse:
            if self._config.users and not await self._lets_in(request):
                return web.Response(status=401, text="Unauthorized\n", headers=dict(_CHALLENGE))
            return await handler(request)

        return ask

    def refresh(self) -> None:
        """Read the certificate again where its files have changed; a broken one is not taken.

        Raises:
            OSError, ssl.SSLError: the new files cannot be used; the old ones stay.
        """
        config, stamp = self._config, self._files()
        if config.context is None or stamp == self._stamp:
            return
        self._stamp = stamp
        assert config.certificate is not None, "a context has a certificate"
        probe = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        probe.load_cert_chain(config.certificate, config.key)
        config.context.load_cert_chain(config.certificate, config.key)

    def _files(self) -> tuple[int, ...]:
        paths = (self._config.certificate, self._config.key)
        return tuple(one.stat().st_mtime_ns for one in paths if one is not None and one.exists())

    async def _lets_in(self, request: web.Request) -> bool:
        """Whether name and password are right; bcrypt runs in a thread and is remembered."""
        name, password = _credentials(request.headers.get("Authorization", ""))
        secret = self._config.users.get(name)
        tried = hashlib.sha256(b"\0".join((name.encode(), password, secret or b""))).digest()
        known = self._known.get(tried)
        if known is None:
            right = await asyncio.to_thread(_matches, password, secret or _NOBODY)
            known = right and secret is not None
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[tried] = known
        return known


def _matches(password: bytes, secret: bytes) -> bool:
    # bcrypt itself takes no more than 72 bytes; Go's, as the exporters use it, refuses them.
    if len(password) > 72:
        return False
    return hmac.compare_digest(bcrypt.hashpw(password, secret[:29]), secret)


def _credentials(header: str) -> tuple[str, bytes]:
    """Name and password of a Basic header; empty where it is none."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return "", b""
    try:
        name, _, password = base64.b64decode(encoded, validate=True).partition(b":")
        return name.decode(), password
    except (binascii.Error, UnicodeDecodeError):
        return "", b""
