"""One HTTP client for everything we ask a server: bounded replies, errors classified where seen.

A reply is a value; a status that is no success is an exception, ``Unavailable`` where the same
request may succeed later and ``Rejected`` where it never will. Callers never look at statuses.

==========================================  ==================
no connection, reset, time-out, bad TLS     Unavailable
408, 425, 429, 5xx                          Unavailable, with Retry-After
500 whose text is about a bad regex         Rejected
3xx that leaves the host, other 4xx         Rejected
a reply above the caller's bound            Rejected
==========================================  ==================
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import Final
from urllib.parse import urljoin, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from sidecar.errors import Rejected, RemoteError, Unavailable
from sidecar.remote.backoff import parse_retry_after
from sidecar.remote.clock import ServerClock, parse_http_date
from sidecar.remote.credentials import Credentials, CredentialSource
from sidecar.remote.described import described
from sidecar.remote.oauth import Tokens
from sidecar.remote.settings import (
    Authorization,
    BasicAuth,
    HeaderValues,
    HttpSettings,
    Secret,
    TlsConfig,
    origin,
    without_credentials,
)

__all__ = [
    "Authorization",
    "BasicAuth",
    "HeaderValues",
    "HttpClient",
    "HttpSettings",
    "Reply",
    "Secret",
    "StreamedReply",
    "TlsConfig",
    "open_session",
]

MAX_ERROR_BODY: Final = 64 * 1024
MAX_REDIRECTS: Final = 5
READ_BUFFER_BYTES: Final = 512 * 1024
_RETRYABLE: Final = frozenset({408, 425, 429})


@cache
def user_agent() -> str:
    """Read once: where the version is found, metadata are read from the disk."""
    try:
        return f"sentinel-sidecar/{version('sentinel-sidecar')}"
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "sentinel-sidecar/dev"


def open_session(connections: int = 16) -> aiohttp.ClientSession:
    """The session that all clients of a process share; call it inside the event loop.

    Cookies are not kept, environment proxies and ``.netrc`` are not read: a request carries what
    its settings say and nothing else.
    """
    connector = aiohttp.TCPConnector(
        limit=connections, ttl_dns_cache=30, enable_cleanup_closed=False
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        read_bufsize=READ_BUFFER_BYTES,
    )


@dataclass(frozen=True, slots=True)
class Reply:
    """A success (2xx), read whole. ``headers`` has lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class StreamedReply:
    """A success whose body is still to come; ``chunks`` raises ``Unavailable`` where it breaks."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


class HttpClient:
    """Requests to one server, as its settings say.

    Args:
        session: shared with other clients; without one the client opens and closes its own.
        monotonic: seconds; what the server's clock is measured against.
    """

    def __init__(
        self,
        settings: HttpSettings,
        session: aiohttp.ClientSession | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.server_clock = ServerClock(monotonic)
        self._monotonic = monotonic
        self._session, self._owns_session = session, session is None
        self._credentials = CredentialSource(settings)
        self._user_agent = user_agent()
        self._token_client = _token_client(settings, session)
        self._tokens: Tokens | None = None
        if settings.oauth2 and self._token_client:
            ask = partial(_ask_for_token, self._token_client)
            self._tokens = Tokens(settings.oauth2, ask, monotonic)
        parts = urlsplit(settings.url)
        self._base = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")

    async def close(self) -> None:
        if self._token_client is not None:
            await self._token_client.close()
        if self._owns_session and self._session is not None:
            await self._session.close()
            self._session = None

    async def request(
        self,
        method: str,
        path: str = "",
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = 64 * 1024 * 1024,
        timeout_s: float | None = None,
    ) -> Reply:
        """Send, and read the whole reply.

        Args:
            path: appended to the settings' URL; its query is kept.
            params: form fields; in the URL of a GET, in the body of a POST that has no ``body``.
            max_bytes: a longer reply (after decompression) closes the connection.

        Raises:
            Unavailable, Rejected: see the module.
        """
        total = timeout_s or self.settings.timeout_s
        timeout = aiohttp.ClientTimeout(total=total)
        async with self._answer(method, path, params, body, headers, timeout) as response:
            data = await self._read_bounded(response, max_bytes)
            return Reply(response.status, _lower(response), data)

    @asynccontextmanager
    async def stream(
        self,
        path: str = "",
        *,
        body: bytes | None = None,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        deadline_s: float = 600.0,
    ) -> AsyncIterator[StreamedReply]:
        """POST a body or a form, and give the reply piece by piece.

        Leaving the block early closes the socket.
        ``timeout_s`` of the settings is the longest silence, ``deadline_s`` bounds the whole.
        """
        timeout = aiohttp.ClientTimeout(
            total=deadline_s,
            sock_connect=self.settings.timeout_s,
            sock_read=self.settings.timeout_s,
        )
        async with self._answer("POST", path, form, body, headers, timeout) as response:
            yield StreamedReply(response.status, _lower(response), self._pieces(response))

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: bytes | None,
        headers: Mapping[str, str] | None,
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The 2xx answer after redirects within the host; every failure becomes a RemoteError."""
        url = self._url(path)
        as_form = method == "POST" and body is None
        data = dict(params or {}) if as_form else body
        query = None if as_form else params
        where = f"{method} {without_credentials(url)}"
        try:
            for _ in range(MAX_REDIRECTS + 1):
                async with self._send(method, url, query, data, headers, timeout) as response:
                    target = _redirect(response, url)
                    if target is None:
                        await self._raise_unless_success(response, where)
                        yield response
                        return
                    self._check_redirect(response, where, method, url, target)
                    url, query = target, None
            raise Rejected(f"{where}: more than {MAX_REDIRECTS} redirects")
        except RemoteError:
            raise
        except aiohttp.InvalidURL as error:
            raise Rejected(f"{where}: not a usable URL") from error
        except TimeoutError as error:
            raise Unavailable(f"{where}: no answer within {_limit(timeout)} s") from error
        except (aiohttp.ClientError, OSError, EOFError) as error:
            raise Unavailable(f"{where}: {described(error)}") from error

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        url: str,
        query: Mapping[str, str] | None,
        data: bytes | dict[str, str] | None,
        headers: Mapping[str, str] | None,
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        credentials = await self.credentials()
        tls = self.settings.tls_config
        sent_at = self._monotonic()
        async with self._open_session().request(
            method,
            url,
            params=query,
            data=data,
            headers=[
                ("User-Agent", self._user_agent),
                *credentials.headers,
                *(headers or {}).items(),
            ],
            timeout=timeout,
            allow_redirects=False,
            proxy=self._proxy(url),
            ssl=credentials.tls if credentials.tls is not None else True,
            server_hostname=(tls.server_name or None) if tls else None,
        ) as response:
            self.server_clock.observe(response.headers.get("Date"), sent_at, self._monotonic())
            self.note_status(response.status)
            yield response

    async def credentials(self) -> Credentials:
        """What a request needs now to be let in.

        Raises:
            Unavailable: a file cannot be read, or a token not be had at present.
            Rejected: no token is given to us, told as a 401.
        """
        fixed = self._credentials.fixed
        loaded = fixed if fixed else await asyncio.to_thread(self._credentials.load)
        if self._tokens is None:
            return loaded
        token = ("Authorization", await self._tokens.header())
        return Credentials((*loaded.headers, token), loaded.tls)

    def note_status(self, status: int) -> None:
        """A 401 means that a token no longer holds, however long it was meant to."""
        if status == 401 and self._tokens is not None:
            self._tokens.forget()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = open_session()
        return self._session

    def _url(self, path: str) -> str:
        base = self._base
        return urlunsplit(base._replace(path=base.path.rstrip("/") + path) if path else base)

    def _proxy(self, url: str) -> str | None:
        parts = urlsplit(url)
        if self.settings.proxy_url:
            direct = bypasses_proxy(parts.hostname or "", parts.port, self.settings.no_proxy)
            return None if direct else self.settings.proxy_url
        if self.settings.proxy_from_environment and not proxy_bypass(parts.netloc):
            return getproxies().get(parts.scheme)
        return None

    def _check_redirect(
        self, response: aiohttp.ClientResponse, where: str, method: str, old: str, new: str
    ) -> None:
        """A redirect is followed only where the method is kept and no other host sees secrets."""
        said = f"{where}: {response.status} redirects to {without_credentials(new)}"
        if not self.settings.follow_redirects:
            raise Rejected(f"{said}, and follow_redirects is false", status=response.status)
        if origin(old) != origin(new):
            raise Rejected(
                f"{said}, another host: not followed; put the final URL into the configuration",
                status=response.status,
            )
        if method != "GET" and response.status not in (307, 308):
            raise Rejected(
                f"{said}, which would turn {method} into GET; put the final URL into the "
                "configuration",
                status=response.status,
            )

    async def _raise_unless_success(self, response: aiohttp.ClientResponse, where: str) -> None:
        if 200 <= response.status < 300:
            return
        body = await _start_of(response)
        date_s = parse_http_date(response.headers.get("Date", "")) or time.time()
        raise error_of(
            where,
            response.status,
            body,
            parse_retry_after(response.headers.get("Retry-After"), date_s),
        )

    async def _read_bounded(self, response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
        pieces, size = [], 0
        async for piece in self._pieces(response):
            size += len(piece)
            if size > max_bytes:
                raise Rejected(
                    f"{response.method} {without_credentials(str(response.url))}: the reply is "
                    f"longer than {max_bytes} bytes; connection closed",
                    status=response.status,
                )
            pieces.append(piece)
        return b"".join(pieces)

    async def _pieces(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        where = f"{response.method} {without_credentials(str(response.url))}"
        try:
            async for piece in response.content.iter_any():
                yield piece
        except TimeoutError as error:
            raise Unavailable(f"{where}: the reply stopped coming") from error
        except (aiohttp.ClientError, OSError, EOFError) as error:
            raise Unavailable(f"{where}: the reply broke off: {described(error)}") from error


def _token_client(
    settings: HttpSettings, session: aiohttp.ClientSession | None
) -> HttpClient | None:
    """For the token endpoint, by the proxy of the server that the token is for."""
    if settings.oauth2 is None:
        return None
    theirs = replace(
        settings,
        url=settings.oauth2.token_url,
        tls_config=settings.oauth2.tls_config,
        oauth2=None,
        headers={},
        http_headers={},
    )
    return HttpClient(theirs, session)


async def _ask_for_token(
    client: HttpClient, form: Mapping[str, str], headers: Mapping[str, str]
) -> bytes:
    reply = await client.request(
        "POST", params=form, headers={"Accept": "application/json", **headers}, max_bytes=1 << 20
    )
    return reply.body


def bypasses_proxy(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether a comma-separated ``no_proxy`` names this host, a domain above it, or ``*``.

    >>> bypasses_proxy("db.example.org", 9090, ".example.org, 10.0.0.1")
    True
    >>> bypasses_proxy("example.org", 9090, "example.org:80"), bypasses_proxy("a.b", 80, "")
    (False, False)
    """
    for entry in (part.strip().lower() for part in no_proxy.split(",")):
        name, _, wanted = entry.partition(":")
        if wanted and wanted != str(port):
            continue
        bare = name.lstrip(".")
        if bare and (bare in ("*", host) or host.endswith("." + bare)):
            return True
    return False


def error_of(where: str, status: int, body: bytes, retry_after_s: float | None) -> RemoteError:
    """What an answer that is no success means; ``body`` is the server's own text, never trusted."""
    text = body.decode("utf-8", "replace")
    message = f"{where}: {status}: {printable(text)}"
    bad_regex = status == 500 and "error parsing regexp" in text
    if (status >= 500 and not bad_regex) or status in _RETRYABLE:
        return Unavailable(message, status=status, retry_after_s=retry_after_s)
    return Rejected(message, status=status, body=text[:1024])


def printable(text: str, limit: int = 300) -> str:
    r"""Someone else's text for one log line: no control characters, cut.

    >>> printable("bad\x1b[2J\nsample ")
    'bad\\x1b[2J sample'
    """
    flat = " ".join(text[: 2 * limit].split())
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in flat)
    return shown if len(shown) <= limit else shown[:limit] + "..."


async def _start_of(response: aiohttp.ClientResponse) -> bytes:
    """Up to 64 KiB of an error's body; whatever its headers claim about encoding, it is text.

    The rest is not read: leaving the request's block unread closes the connection.
    """
    pieces, size = [], 0
    try:
        async for piece in response.content.iter_any():
            pieces.append(piece)
            size += len(piece)
            if size >= MAX_ERROR_BODY:
                break
    except (aiohttp.ClientError, OSError, EOFError, TimeoutError) as error:
        pieces.append(f" [reply broke off: {described(error)}]".encode())
    return b"".join(pieces)[:MAX_ERROR_BODY]


def _redirect(response: aiohttp.ClientResponse, url: str) -> str | None:
    if response.status not in (301, 302, 303, 307, 308) or "Location" not in response.headers:
        return None
    return urljoin(url, response.headers["Location"])


def _lower(response: aiohttp.ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _limit(timeout: aiohttp.ClientTimeout) -> str:
    return f"{timeout.sock_read or timeout.total or 0:g}"
