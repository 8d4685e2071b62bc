"""TLS and passwords for the sidecar's own port, from a file as Prometheus' exporters read it.

The keys and their meaning are those of Prometheus' exporter-toolkit: ``tls_server_config``,
``http_server_config`` and ``basic_auth_users`` (names with bcrypt hashes). Once there are users,
every page asks for one, health and metrics included. Users and certificates are read again when
their files change; TLS itself is turned on or off by a restart. What cannot be had here (HTTP/2 is
never spoken, and a client's certificate is always verified) is refused by name rather than ignored
wherever it would weaken what the file asks for.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import bcrypt
import yaml
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from sidecar.errors import ConfigError, Problem

_CLIENT_AUTH: Final = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_NEEDS_CA: Final = ("VerifyClientCertIfGiven", "RequireAndVerifyClientCert")
_UNVERIFIED: Final = ("RequestClientCert", "RequireClientCert", "RequireAnyClientCert")
_VERSIONS: Final = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_KEYS: Final = ("tls_server_config", "http_server_config", "basic_auth_users")
# Of TLS 1.2: Go's name and OpenSSL's. Those of 1.3 are all on, there as here.
_CIPHERS: Final = {
    f"TLS_ECDHE_{kind}_WITH_{go}": f"ECDHE-{kind}-{openssl}"
    for kind in ("RSA", "ECDSA")
    for go, openssl in (
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("CHACHA20_POLY1305", "CHACHA20-POLY1305"),
        ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
        ("AES_128_CBC_SHA", "AES128-SHA"),
        ("AES_256_CBC_SHA", "AES256-SHA"),
    )
}
_CIPHERS_13: Final = (
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
)
# Headers that may be set, and what each may be; None is anything.
_HEADERS: Final[Mapping[str, tuple[str, ...] | None]] = {
    "Content-Security-Policy": None,
    "Strict-Transport-Security": None,
    "X-Content-Type-Options": ("", "nosniff"),
    "X-Frame-Options": ("", "deny", "sameorigin"),
    "X-XSS-Protection": None,
}
_TLS_KEYS: Final = (
    "cert_file",
    "key_file",
    "client_auth_type",
    "client_ca_file",
    "min_version",
    "max_version",
    "cipher_suites",
    "prefer_server_cipher_suites",
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
        headers: to be set on every answer.
        path: the file itself.
    """

    users: Mapping[str, bytes] = field(default_factory=dict)
    certificate: Path | None = None
    key: Path | None = None
    context: ssl.SSLContext | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    path: Path | None = None


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
        Problem(str(key), f"is not known; write one of {', '.join(_KEYS)}")
        for key in sorted(given.keys() - set(_KEYS), key=str)
    ]
    users = _users(given.get("basic_auth_users") or {}, problems)
    tls = given.get("tls_server_config") or {}
    certificate, key, context = _tls(tls, path.parent, problems) if tls else (None, None, None)
    headers = _http(given.get("http_server_config") or {}, problems)
    if problems:
        raise ConfigError(problems, str(path))
    return WebConfig(users, certificate, key, context, headers, path)


def _http(given: Any, problems: list[Problem]) -> dict[str, str]:
    """The headers to set; HTTP/2 may be allowed, as it need not be spoken."""
    where = "http_server_config"
    if not isinstance(given, dict):
        problems.append(Problem(where, "is not a mapping of settings"))
        return {}
    problems += [
        Problem(f"{where}.{key}", "is not known; write http2 or headers")
        for key in sorted(given.keys() - {"http2", "headers"}, key=str)
    ]
    if not isinstance(given.get("http2", True), bool):
        problems.append(Problem(f"{where}.http2", "is true or false"))
    headers = given.get("headers") or {}
    if not isinstance(headers, dict):
        problems.append(Problem(f"{where}.headers", "is not a mapping of names to values"))
        return {}
    for name, value in headers.items():
        if name not in _HEADERS:
            message = f"is not known; write one of {', '.join(_HEADERS)}"
            problems.append(Problem(f"{where}.headers.{name}", message))
            continue
        allowed = _HEADERS[name]
        if not isinstance(value, str) or not value.isprintable() or not value.isascii():
            problems.append(Problem(f"{where}.headers.{name}", "is not a line of plain text"))
        elif allowed is not None and value.lower() not in allowed:
            one = " or ".join(repr(text) for text in allowed if text)
            problems.append(Problem(f"{where}.headers.{name}", f"is {one}"))
    return {str(name): str(value) for name, value in headers.items() if value}


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
    if wanted in _UNVERIFIED:
        message = f"{wanted} takes any certificate, which is not done here: write one of "
        message += ", ".join(_CLIENT_AUTH)
        problems.append(Problem(f"{where}.client_auth_type", message))
    elif wanted not in _CLIENT_AUTH:
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
    ciphers = _ciphers(given.get("cipher_suites") or [], problems)
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
    if not given.get("prefer_server_cipher_suites", True):
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        if ciphers:
            context.set_ciphers(":".join(ciphers))
        context.load_cert_chain(certificate, key_file)
        if authority:
            context.load_verify_locations(folder / str(authority))
    except (OSError, ssl.SSLError) as error:
        problems.append(Problem(where, f"the certificate cannot be used: {error}"))
    context.verify_mode = _CLIENT_AUTH[wanted]
    return certificate, key_file, context


def _ciphers(given: Any, problems: list[Problem]) -> list[str]:
    """OpenSSL's names of the suites of TLS 1.2, in the order given."""
    where = "tls_server_config.cipher_suites"
    if not isinstance(given, list):
        problems.append(Problem(where, "is not a list of names"))
        return []
    named = [str(one) for one in given if str(one) not in _CIPHERS_13]
    problems += [
        Problem(where, f"{one!r} is not known; write one of {', '.join((*_CIPHERS_13, *_CIPHERS))}")
        for one in named
        if one not in _CIPHERS
    ]
    return [_CIPHERS[one] for one in named if one in _CIPHERS]


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

    async def set_headers(self, _: web.Request, response: web.StreamResponse) -> None:
        """For ``on_response_prepare`` of the application."""
        response.headers.update(self._config.headers)

    def refresh(self) -> None:
        """Read the file again where it or the certificate has changed; a broken one is not taken.

        Raises:
            ConfigError, OSError, ssl.SSLError: what is new cannot be used; the old stays.
        """
        config, stamp = self._config, self._files()
        if config.path is None or stamp == self._stamp:
            return
        self._stamp = stamp
        new = load_web_config(config.path)
        if (new.context is None) != (config.context is None):
            message = "is turned on or off by a restart only"
            raise ConfigError([Problem("tls_server_config", message)])
        if config.context is not None:  # connections are made from this one
            assert new.certificate is not None, "a context has a certificate"
            config.context.load_cert_chain(new.certificate, new.key)
        self._config = replace(new, context=config.context)
        self._known.clear()

    def _files(self) -> tuple[int, ...]:
        paths = (self._config.path, self._config.certificate, self._config.key)
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
