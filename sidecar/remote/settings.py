"""How to reach a server: the client half of Prometheus' ``http_config``, as plain frozen data.

Field names are Prometheus' own. Secrets live in ``Secret`` and never show in a ``repr``, a log line
or an error. Values that may stand in a file are read when they are used, so rotation needs no
restart; nothing is read when the settings are built.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit, urlunsplit

# Headers that belong to the protocol or to the connection: Prometheus refuses these too.
RESERVED_HEADERS: Final = frozenset(
    {
        "accept-encoding",
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "transfer-encoding",
        "user-agent",
        "www-authenticate",
        "x-prometheus-remote-read-version",
        "x-prometheus-remote-write-version",
    }
)

_PORTS: Final = {"http": 80, "https": 443}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Secret:
    """A string that prints as ``<secret>``; ``reveal`` gives it to whoever really sends it.

    >>> Secret("hunter2"), f"{Secret('hunter2')}"
    (<secret>, '<secret>')
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "<secret>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(("Secret", self._value))


@dataclass(frozen=True)
class BasicAuth:
    """User and password; each may stand in a file instead."""

    username: str = ""
    password: Secret | None = None
    username_file: str = ""
    password_file: str = ""

    def __post_init__(self) -> None:
        if bool(self.username) == bool(self.username_file):
            raise ValueError("basic_auth needs exactly one of username and username_file")
        if self.password is not None and self.password_file:
            raise ValueError("basic_auth takes password or password_file, not both")


@dataclass(frozen=True)
class Authorization:
    """The ``Authorization`` header: ``<type> <credentials>``."""

    type: str = "Bearer"
    credentials: Secret | None = None
    credentials_file: str = ""

    def __post_init__(self) -> None:
        if (self.credentials is not None) == bool(self.credentials_file):
            raise ValueError("authorization needs exactly one of credentials and credentials_file")
        if self.type.strip().lower() == "basic":
            raise ValueError("authorization.type 'Basic': use basic_auth instead")
        if not _TOKEN.fullmatch(self.type):
            raise ValueError(f"authorization.type {self.type!r} is not a token")


@dataclass(frozen=True)
class TlsConfig:
    """Trust and client certificates. Inline PEM or files; files are read again when they change."""

    ca: str = ""
    ca_file: str = ""
    cert: str = ""
    cert_file: str = ""
    key: Secret | None = None
    key_file: str = ""
    server_name: str = ""
    insecure_skip_verify: bool = False
    min_version: str = ""
    max_version: str = ""

    def __post_init__(self) -> None:
        if self.ca and self.ca_file:
            raise ValueError("tls_config takes ca or ca_file, not both")
        if self.cert and self.cert_file:
            raise ValueError("tls_config takes cert or cert_file, not both")
        if self.key is not None and self.key_file:
            raise ValueError("tls_config takes key or key_file, not both")
        has_cert, has_key = bool(self.cert or self.cert_file), bool(self.key or self.key_file)
        if has_cert != has_key:
            raise ValueError("tls_config needs a certificate and its key, or neither")
        for name in ("min_version", "max_version"):
            value = getattr(self, name)
            if value and value not in TLS_VERSIONS:
                raise ValueError(
                    f"tls_config.{name} {value!r} is none of {', '.join(TLS_VERSIONS)}"
                )


@dataclass(frozen=True)
class OAuth2:
    """Where a token comes from, and what for; ``tls_config`` is for that endpoint."""

    client_id: str
    token_url: str = field(repr=False)
    client_secret: Secret | None = None
    client_secret_file: str = ""
    scopes: tuple[str, ...] = ()
    endpoint_params: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls_config: TlsConfig | None = None

    def __post_init__(self) -> None:
        _check_url("oauth2.token_url", self.token_url)
        if (self.client_secret is not None) == bool(self.client_secret_file):
            raise ValueError("oauth2 needs exactly one of client_secret and client_secret_file")


TLS_VERSIONS: Final = ("TLS10", "TLS11", "TLS12", "TLS13")


@dataclass(frozen=True)
class HeaderValues:
    """All values of one header, in the order plain, secret, from files."""

    values: tuple[str, ...] = ()
    secrets: tuple[Secret, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class HttpSettings:
    """One server.

    Attributes:
        url: http or https; paths given to the client are appended to it. A user and password in
            it are sent as basic authentication and never printed.
        timeout_s: for one whole request; for a streamed reply, the longest silence.
        headers: sent with each request; none of ``RESERVED_HEADERS``.
        http_headers: Prometheus' newer form of the same, with secrets and files.
        no_proxy: comma-separated hosts, domain suffixes or ``host:port`` that bypass the proxy.

    Raises:
        ValueError: a setting that cannot work, in words for the operator.
    """

    url: str = field(repr=False)
    timeout_s: float = 30.0
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    http_headers: Mapping[str, HeaderValues] = field(default_factory=dict)
    basic_auth: BasicAuth | None = None
    authorization: Authorization | None = None
    oauth2: OAuth2 | None = None
    tls_config: TlsConfig | None = None
    proxy_url: str = field(default="", repr=False)
    no_proxy: str = ""
    proxy_from_environment: bool = False
    follow_redirects: bool = True

    def __post_init__(self) -> None:
        _check_url("url", self.url)
        if self.proxy_url:
            _check_url("proxy_url", self.proxy_url)
            if self.proxy_from_environment:
                raise ValueError("proxy_url and proxy_from_environment exclude each other")
        if self.no_proxy and not self.proxy_url:
            raise ValueError("no_proxy without proxy_url has no effect")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout {self.timeout_s!r} must be above 0")
        ways = [one for one in (self.basic_auth, self.authorization, self.oauth2) if one]
        if len(ways) > 1:
            raise ValueError("at most one of basic_auth, authorization and oauth2")
        if urlsplit(self.url).username and ways:
            raise ValueError(
                "a user in the url and basic_auth, authorization or oauth2 exclude each other"
            )
        for name in (*self.headers, *self.http_headers):
            _check_header_name(name)
        for name, value in self.headers.items():
            check_header_value(name, value)

    @property
    def display_url(self) -> str:
        """The URL as it may be printed: without user, password, query or fragment."""
        return without_credentials(self.url)

    def __str__(self) -> str:
        return self.display_url


def without_credentials(url: str) -> str:
    """``url`` as it may be printed.

    >>> without_credentials("https://user:pass@example.org:9090/p?token=x")
    'https://example.org:9090/p'
    """
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of the server that ``url`` leads to; the same for the same server.

    >>> origin("http://example.org/a") == origin("http://EXAMPLE.org:80/b")
    True
    """
    parts = urlsplit(url)
    try:
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return "", None, None


def check_header_value(name: str, value: str) -> None:
    """Raise ValueError where ``value`` could end the header line; the value is not shown."""
    if any(ord(char) < 32 and char != "\t" for char in value) or "\x7f" in value:
        raise ValueError(f"the value of header {name!r} has control characters")


def _check_header_name(name: str) -> None:
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is not a header name")
    if name.lower() in RESERVED_HEADERS:
        raise ValueError(f"header {name!r} is reserved: it belongs to the protocol or to its auth")


def _check_url(what: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        usable = usable and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(
            f"{what} {_printable_url(url)!r} must be http://host:port/... or https://..."
        )


def _printable_url(url: str) -> str:
    return url.rpartition("@")[2] if "@" in url else url
