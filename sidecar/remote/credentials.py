"""What a request needs beyond its URL: headers and TLS, with files read again on each use.

Everything here blocks (small files, certificates), so the client calls it in a thread where any
file is named at all.
"""

import base64
import ssl
import tempfile
import warnings
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sidecar.errors import Unavailable
from sidecar.remote.settings import HttpSettings, TlsConfig, check_header_value

_TLS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}


@dataclass(frozen=True)
class Credentials:
    """For one request: ``headers`` in order (a name may repeat), and the TLS context if any."""

    headers: tuple[tuple[str, str], ...]
    tls: ssl.SSLContext | None


class CredentialSource:
    """Builds ``Credentials``; the TLS context is built anew only where a file's bytes changed.

    Attributes:
        fixed: once built, where no file is named: nothing is read again.
    """

    def __init__(self, settings: HttpSettings) -> None:
        self._settings = settings
        self._tls: ssl.SSLContext | None = None
        self._tls_digest = b""
        self.fixed: Credentials | None = None

    @property
    def reads_files(self) -> bool:
        s = self._settings
        tls = s.tls_config
        return bool(
            (s.basic_auth and (s.basic_auth.username_file or s.basic_auth.password_file))
            or (s.authorization and s.authorization.credentials_file)
            or any(header.files for header in s.http_headers.values())
            or (tls and (tls.ca_file or tls.cert_file or tls.key_file))
        )

    def load(self) -> Credentials:
        """Blocking.

        Raises:
            Unavailable: a file is unreadable or holds what cannot be sent; it may be mended.
        """
        if self.fixed is not None:
            return self.fixed
        try:
            loaded = Credentials(tuple(_headers(self._settings)), self._context())
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise Unavailable(f"{self._settings.display_url}: credentials: {error}") from error
        if not self.reads_files:
            self.fixed = loaded
        return loaded

    def _context(self) -> ssl.SSLContext | None:
        tls = self._settings.tls_config
        if tls is None:
            return None
        pems = tuple(
            Path(path).read_text() if path else text
            for path, text in (
                (tls.ca_file, tls.ca),
                (tls.cert_file, tls.cert),
                (tls.key_file, tls.key.reveal() if tls.key else ""),
            )
        )
        digest = sha256(b"\0".join(pem.encode() for pem in pems)).digest()
        if self._tls is None or digest != self._tls_digest:
            self._tls, self._tls_digest = _build_context(tls, *pems), digest
        return self._tls


def _build_context(tls: TlsConfig, ca: str, cert: str, key: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ca or None)
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the operator asked for an old version
        if tls.min_version:
            context.minimum_version = _TLS[tls.min_version]
        if tls.max_version:
            context.maximum_version = _TLS[tls.max_version]
    if cert:
        # OpenSSL takes a chain from a file only, and inline PEM has none. mkstemp gives mode 0600.
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as chain:
            chain.write(cert.rstrip() + "\n" + key.rstrip() + "\n")
            chain.flush()
            context.load_cert_chain(chain.name)
    return context


def _headers(settings: HttpSettings) -> list[tuple[str, str]]:
    headers = list(settings.headers.items())
    for name, given in settings.http_headers.items():
        headers += [(name, value) for value in given.values]
        headers += [(name, secret.reveal()) for secret in given.secrets]
        headers += [(name, _read(path)) for path in given.files]
    for name, value in headers:
        check_header_value(name, value)
    return headers + [("Authorization", value) for value in _authorization(settings)]


def _authorization(settings: HttpSettings) -> list[str]:
    parts = urlsplit(settings.url)
    if settings.basic_auth:
        basic = settings.basic_auth
        user = basic.username or _read(basic.username_file)
        password = basic.password.reveal() if basic.password else ""
        return [_basic(user, _read(basic.password_file) if basic.password_file else password)]
    if settings.authorization:
        given = settings.authorization
        text = given.credentials.reveal() if given.credentials else _read(given.credentials_file)
        check_header_value("Authorization", text)
        return [f"{given.type} {text}"]
    if parts.username:
        return [_basic(unquote(parts.username), unquote(parts.password or ""))]
    return []


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _read(path: str) -> str:
    return Path(path).read_text().strip()
