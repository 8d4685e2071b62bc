"""``remote_read`` and ``remote_write``: how to reach the two ends, in Prometheus' own key names."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, Tag

from sidecar.config import values
from sidecar.config.messages import Problems, Section, section
from sidecar.config.values import HeaderLines, SecretLines
from sidecar.errors import Problem
from sidecar.remote import settings
from sidecar.remote.settings import HttpSettings, Secret, origin

TlsVersion: TypeAlias = Literal["TLS10", "TLS11", "TLS12", "TLS13"]
WriteProtocol: TypeAlias = Literal["1.0", "2.0", "auto"]
ClientErrorRule: TypeAlias = Literal["hold", "drop"]
UNNAMED: Final = "prometheus"  # what an endpoint without a name is called
_WRITE_PATH: Final = "/api/v1/write"
# Keys of Prometheus' remote_read, remote_write and http_config that nothing here reads.
_NOT_USED: Final = frozenset(
    (
        *("azuread", "enable_http2", "filter_external_labels", "google_iam", "metadata_config"),
        *("name", "protobuf_message", "proxy_connect_header", "queue_config"),
        *("read_recent", "required_matchers", "round_robin_dns", "send_exemplars"),
        *("send_native_histograms", "sigv4", "write_relabel_configs"),
    )
)


def _both(given: Mapping[str, Any], *names: str) -> list[Problem]:
    """A problem for each setting that stands beside an earlier one of ``names``."""
    present = [name for name in names if given.get(name) not in (None, "", {}, False)]
    return [
        Problem(name, f"is given beside {present[0]!r}, and only one can hold: take one out")
        for name in present[1:]
    ]


def _secret(value: Secret | str | None) -> Secret | None:
    return Secret(value) if isinstance(value, str) else value


@section
class BasicAuth(Section):
    """User name and password, each in place or in a file that is read again when used."""

    _: KW_ONLY
    username: values.Text | None = None
    username_file: values.PathText | None = None
    password: values.SecretText | None = field(default=None, repr=False)
    password_file: values.PathText | None = None

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> list[Problem]:
        problems = _both(given, "username", "username_file")
        problems += _both(given, "password", "password_file")
        if given.get("username") is None and given.get("username_file") is None:
            problems.append(Problem("", "has no user: write 'username' or 'username_file'"))
        return problems

    def settings(self) -> settings.BasicAuth:
        return settings.BasicAuth(
            username=self.username or "",
            password=_secret(self.password),
            username_file=self.username_file or "",
            password_file=self.password_file or "",
        )


@section
class Authorization(Section):
    """The Authorization header: a type and what follows it."""

    _: KW_ONLY
    type: values.Token = "Bearer"
    credentials: values.SecretText | None = field(default=None, repr=False)
    credentials_file: values.PathText | None = None

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> list[Problem]:
        problems = _both(given, "credentials", "credentials_file")
        if given.get("credentials") is None and given.get("credentials_file") is None:
            problems.append(Problem("", "is empty: write 'credentials' or 'credentials_file'"))
        if str(given.get("type")).strip().lower() == "basic":
            problems.append(Problem("type", "is what 'basic_auth' is for: write that section"))
        return problems

    def settings(self) -> settings.Authorization:
        return settings.Authorization(
            type=self.type,
            credentials=_secret(self.credentials),
            credentials_file=self.credentials_file or "",
        )


@section
class TlsConfig(Section):
    """How to trust the server and how to show who we are; files are read again when they change."""

    _: KW_ONLY
    ca: values.Text | None = field(default=None, repr=False)
    ca_file: values.PathText | None = None
    cert: values.Text | None = field(default=None, repr=False)
    cert_file: values.PathText | None = None
    key: values.SecretBlock | None = field(default=None, repr=False)
    key_file: values.PathText | None = None
    server_name: values.Text | None = None
    insecure_skip_verify: bool = False
    min_version: TlsVersion | None = None
    max_version: TlsVersion | None = None

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> list[Problem]:
        problems = [
            *_both(given, "ca", "ca_file"),
            *_both(given, "cert", "cert_file"),
            *_both(given, "key", "key_file"),
        ]
        cert = given.get("cert") or given.get("cert_file")
        key = given.get("key") or given.get("key_file")
        if (cert is None) != (key is None):
            has, lacks = ("cert", "key") if cert is not None else ("key", "cert")
            problems.append(
                Problem("", f"has '{has}' without '{lacks}': a client certificate needs both")
            )
        return problems

    def settings(self) -> settings.TlsConfig:
        return settings.TlsConfig(
            ca=self.ca or "",
            ca_file=self.ca_file or "",
            cert=self.cert or "",
            cert_file=self.cert_file or "",
            key=_secret(self.key),
            key_file=self.key_file or "",
            server_name=self.server_name or "",
            insecure_skip_verify=self.insecure_skip_verify,
            min_version=self.min_version or "",
            max_version=self.max_version or "",
        )


@section
class OAuth2(Section):
    """A token by the client credentials grant; ``tls_config`` is for the token endpoint."""

    _: KW_ONLY
    client_id: values.Text
    client_secret: values.SecretText | None = field(default=None, repr=False)
    client_secret_file: values.PathText | None = None
    scopes: HeaderLines = ()
    token_url: values.Url
    endpoint_params: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls_config: TlsConfig | None = None

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> list[Problem]:
        problems = _both(given, "client_secret", "client_secret_file")
        if given.get("client_secret") is None and given.get("client_secret_file") is None:
            message = "has no secret: write 'client_secret' or 'client_secret_file'"
            problems.append(Problem("", message))
        return problems

    def settings(self) -> settings.OAuth2:
        return settings.OAuth2(
            client_id=self.client_id,
            token_url=self.token_url,
            client_secret=_secret(self.client_secret),
            client_secret_file=self.client_secret_file or "",
            scopes=tuple(self.scopes),
            endpoint_params=dict(self.endpoint_params),
            tls_config=self.tls_config.settings() if self.tls_config else None,
        )


@section
class HttpHeader(Section):
    """All values of one header, in the order plain, secret, from files."""

    _: KW_ONLY
    values: HeaderLines = ()
    secrets: SecretLines = field(default=(), repr=False)
    files: HeaderLines = ()

    def settings(self) -> settings.HeaderValues:
        secrets = tuple(Secret(one) if isinstance(one, str) else one for one in self.secrets)
        return settings.HeaderValues(tuple(self.values), secrets, tuple(self.files))


@section
class HttpConfig(Section):
    """One end of remote read or remote write.

    Attributes:
        url: the whole URL; None follows from ``prometheus_url``.
        remote_timeout: of one request; ``timeout`` is another name for it.
        headers: sent with each request; those of the protocol cannot be set.
        http_headers: the same with secrets and files.
    """

    _: KW_ONLY
    url: values.Url | None = None
    remote_timeout: values.Seconds | None = None
    timeout: values.Seconds | None = None
    headers: values.Headers = field(default_factory=dict, repr=False)
    http_headers: Mapping[str, HttpHeader] = field(default_factory=dict)
    basic_auth: BasicAuth | None = None
    authorization: Authorization | None = None
    oauth2: OAuth2 | None = None
    tls_config: TlsConfig | None = None
    proxy_url: values.Url | None = None
    no_proxy: values.Text | None = None
    proxy_from_environment: bool = False
    follow_redirects: bool = True

    @classmethod
    def explain(cls, name: str) -> str:
        if name in ("bearer_token", "bearer_token_file"):
            new = name.replace("bearer_token", "credentials")
            return f"is the old name: write authorization: {{{new}: ...}}"
        used = "is a key of Prometheus that Sentinel does not use: take it out"
        return used if name in _NOT_USED else ""

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> list[Problem]:
        problems = _both(given, "remote_timeout", "timeout")
        problems += _both(given, "basic_auth", "authorization", "oauth2")
        problems += _both(given, "proxy_url", "proxy_from_environment")
        if given.get("no_proxy") and not given.get("proxy_url"):
            problems.append(Problem("no_proxy", "does nothing without 'proxy_url': write that too"))
        headers = given.get("http_headers")
        for name in headers if isinstance(headers, Mapping) else ():
            try:
                values.check_header_name(name)
            except ValueError as error:
                problems.append(Problem("http_headers", str(error)))
        return problems

    def settings(self, url: str, timeout_s: float) -> HttpSettings:
        """What the client needs; ``url`` and ``timeout_s`` hold where nothing is configured."""
        chosen = self.remote_timeout if self.remote_timeout is not None else self.timeout
        return HttpSettings(
            url=self.url or url,
            timeout_s=timeout_s if chosen is None else values.seconds_of(chosen),
            headers=dict(self.headers),
            http_headers={name: one.settings() for name, one in self.http_headers.items()},
            basic_auth=self.basic_auth.settings() if self.basic_auth else None,
            authorization=self.authorization.settings() if self.authorization else None,
            oauth2=self.oauth2.settings() if self.oauth2 else None,
            tls_config=self.tls_config.settings() if self.tls_config else None,
            proxy_url=self.proxy_url or "",
            no_proxy=self.no_proxy or "",
            proxy_from_environment=self.proxy_from_environment,
            follow_redirects=self.follow_redirects,
        )


@section
class RemoteReadConfig(HttpConfig):
    """Where series are read from; by default ``/api/v1/read`` of ``prometheus_url``.

    Attributes:
        verify_crc: check the CRC-32C of every frame of a streamed reply.
        concurrent_limit: reads under way at the same time at most.
        api: ``remote_read``, ``query`` for the query API, or ``auto``: the query API where the
            server does not serve remote read.
    """

    _: KW_ONLY
    verify_crc: bool = False
    concurrent_limit: Annotated[int, Field(ge=1, le=10)] = 2
    api: Literal["auto", "remote_read", "query"] = "auto"

    def by_query(self, served: bool | None) -> bool:
        """Whether the query API is read; ``served`` is what is known of remote read."""
        return self.api == "query" or (self.api == "auto" and served is False)


@section
class RemoteWriteConfig(HttpConfig):
    """Where predictions are written to; by default ``/api/v1/write`` of ``prometheus_url``.

    Attributes:
        name: of the endpoint, where there are several: on its metrics, and of its spool's file.
            One without a name is called ``prometheus``.
        protocol: of remote write: ``1.0``, ``2.0``, or ``auto``: 2.0 where the server takes it.
        on_client_error: what a 401, 403, 404 or 405 does: ``hold`` everything until it is mended,
            or ``drop`` the request.
    """

    _: KW_ONLY
    name: values.EndpointName | None = None
    protocol: WriteProtocol = "1.0"
    on_client_error: ClientErrorRule = "hold"

    def end(self, prometheus_url: str, timeout_s: float) -> "WriteEnd":
        """Everything about it, with what follows from ``prometheus_url``."""
        base = prometheus_url.rstrip("/")
        http = self.settings(base + _WRITE_PATH, timeout_s)
        url = http.url.rstrip("/")
        own = url.removesuffix(_WRITE_PATH)
        return WriteEnd(
            name=self.name or UNNAMED,
            http=http,
            api=replace(http, url=own) if own != url else None,
            is_source=origin(url) == origin(base),
            protocol=self.protocol,
            on_client_error=self.on_client_error,
        )


@dataclass(frozen=True)
class WriteEnd:
    """One endpoint that predictions are written to, everything filled in.

    Attributes:
        http: the URL is whole.
        api: its server's own HTTP API; None where the URL does not tell where that is.
        is_source: it is the server that series are read from.
    """

    name: str
    http: HttpSettings
    api: HttpSettings | None
    is_source: bool
    protocol: WriteProtocol
    on_client_error: ClientErrorRule

    @property
    def receiver(self) -> tuple[object, ...]:
        """What makes it another receiver than those of other endpoints: a tenant is a header."""
        http = self.http
        secrets = (http.basic_auth, http.authorization, http.oauth2)
        return (http.url.rstrip("/"), dict(http.headers), dict(http.http_headers), *secrets)


def _distinct(given: Sequence[RemoteWriteConfig]) -> tuple[RemoteWriteConfig, ...]:
    """Each endpoint under a name of its own, for its spool lies under it."""
    first: dict[str, int] = {}
    problems = []
    for number, one in enumerate(given):
        earlier = first.setdefault(one.name or UNNAMED, number)
        if earlier != number:
            message = (
                f"{one.name or UNNAMED!r} is remote_write[{earlier}] already: give each endpoint "
                "a name of its own"
            )
            problems.append(Problem(f"[{number}].name", message))
    if not given:
        problems.append(Problem("", "is an empty list: take it out, or write where to"))
    if problems:
        raise Problems(problems)
    return tuple(given)


def _one_or_several(given: object) -> str:
    several = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    return "<several>" if several else "<one>"


# One section, as there mostly is, or a list of them as in Prometheus.
WriteEnds: TypeAlias = Annotated[
    Annotated[RemoteWriteConfig, Tag("<one>")]
    | Annotated[Sequence[RemoteWriteConfig], AfterValidator(_distinct), Tag("<several>")],
    Discriminator(_one_or_several),
]
