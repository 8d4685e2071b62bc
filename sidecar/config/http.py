"""``remote_read`` and ``remote_write``: how to reach the two ends, in Prometheus' own key names."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, field
from typing import Any, Final

from sidecar.config import values
from sidecar.config.messages import Section, section
from sidecar.errors import Problem

_NOT_SERVED: Final = "is a key of Prometheus that this version does not use: take it out"
_OTHER_KEYS: Final = frozenset(
    (
        *("azuread", "enable_http2", "filter_external_labels", "follow_redirects", "http_headers"),
        *("metadata_config", "name", "no_proxy", "oauth2", "protobuf_message"),
        *("proxy_connect_header", "proxy_from_environment", "queue_config", "read_recent"),
        *("required_matchers", "send_exemplars", "send_native_histograms", "sigv4"),
        *("write_relabel_configs",),
    )
)


def _both(given: Mapping[str, Any], one: str, other: str) -> list[Problem]:
    if given.get(one) is None or given.get(other) is None:
        return []
    return [Problem(other, f"is given beside {one!r}, and only one can hold: take one out")]


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


@section
class Authorization(Section):
    """The Authorization header: a type and what follows it."""

    _: KW_ONLY
    type: values.Text = "Bearer"
    credentials: values.SecretText | None = field(default=None, repr=False)
    credentials_file: values.PathText | None = None

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> list[Problem]:
        problems = _both(given, "credentials", "credentials_file")
        if given.get("credentials") is None and given.get("credentials_file") is None:
            problems.append(Problem("", "is empty: write 'credentials' or 'credentials_file'"))
        if str(given.get("type")).strip().lower() == "basic":
            problems.append(
                Problem("type", "'Basic' is for basic_auth: write that section instead")
            )
        return problems


@section
class TlsConfig(Section):
    """How to trust the server and how to show who we are."""

    _: KW_ONLY
    ca_file: values.PathText | None = None
    cert_file: values.PathText | None = None
    key_file: values.PathText | None = None
    server_name: values.Text | None = None
    insecure_skip_verify: bool = False

    @classmethod
    def explain(cls, name: str) -> str:
        if name in ("ca", "cert", "key"):
            return f"is not read from the configuration: write the file's path under '{name}_file'"
        return _NOT_SERVED if name in ("min_version", "max_version") else ""

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> list[Problem]:
        cert, key = given.get("cert_file"), given.get("key_file")
        if (cert is None) == (key is None):
            return []
        have, lacks = ("cert_file", "key_file") if cert is not None else ("key_file", "cert_file")
        return [Problem(have, f"is given without {lacks!r}: a client certificate needs both")]


@section
class HttpConfig(Section):
    """One end of remote read or remote write.

    Attributes:
        url: the whole URL; None follows from ``prometheus_url``.
        remote_timeout: of one request; ``timeout`` is another name for it.
        headers: sent with each request; those of the protocol cannot be set.
    """

    _: KW_ONLY
    url: values.Url | None = None
    remote_timeout: values.Seconds | None = None
    timeout: values.Seconds | None = None
    headers: values.Headers = field(default_factory=dict, repr=False)
    basic_auth: BasicAuth | None = None
    authorization: Authorization | None = None
    tls_config: TlsConfig | None = None
    proxy_url: values.Url | None = None

    @classmethod
    def explain(cls, name: str) -> str:
        if name in ("bearer_token", "bearer_token_file"):
            new = name.replace("bearer_token", "credentials")
            return f"is the old name: write authorization: {{{new}: ...}}"
        return _NOT_SERVED if name in _OTHER_KEYS else ""

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> list[Problem]:
        problems = _both(given, "remote_timeout", "timeout")
        problems += _both(given, "basic_auth", "authorization")
        headers = given.get("headers")
        names = {str(name).lower() for name in headers} if isinstance(headers, Mapping) else set()
        if "authorization" in names and (given.get("basic_auth") or given.get("authorization")):
            problems.append(
                Problem("headers", "has 'Authorization' beside a section that sets it: keep one")
            )
        return problems

    @property
    def timeout_s(self) -> float | None:
        """Seconds for one request, None where nothing is configured."""
        chosen = self.remote_timeout if self.remote_timeout is not None else self.timeout
        return None if chosen is None else values.seconds_of(chosen)


@section
class RemoteReadConfig(HttpConfig):
    """Where series are read from."""


@section
class RemoteWriteConfig(HttpConfig):
    """Where predictions are written to."""
