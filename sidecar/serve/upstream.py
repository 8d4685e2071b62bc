"""The Prometheus behind the query API: what is passed on, and what we ask ourselves.

Unlike ``remote.http`` this client does not judge statuses: an error of the upstream belongs to
whoever asked, word for word. Only what is no answer at all is ``Unavailable``.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from sidecar.duration import parse_duration_ms
from sidecar.errors import Rejected, Unavailable
from sidecar.remote.described import described
from sidecar.remote.http import HttpClient, bypasses_proxy, open_session, printable, user_agent
from sidecar.remote.settings import HttpSettings
from sidecar.serve.promql.cursor import Garbage
from sidecar.serve.promql.replies import read_object

DEFAULT_LOOKBACK_MS: Final = 300_000
_FACTS_LIVE_S: Final = 300.0
_FACTS_RETRY_S: Final = 10.0
_LONG_BYTES: Final = 1 << 20
_NEWEST: Final = (99, 0)
_FORM: Final = "application/x-www-form-urlencoded"
_UNSAFE_IN_QUERY: Final = "%!$&'()*+,;=:@/?-._~[]{}|^`\"<>\\"


@dataclass(frozen=True, slots=True)
class Forward:
    """A client's request as it is passed on.

    Attributes:
        path: below the upstream's own prefix, beginning with ``/api/v1/``, percent-encoded.
        query: the raw query string.
        body: the raw body; None for none.
    """

    method: str
    path: str
    query: str = ""
    body: bytes | None = None
    content_type: str = ""
    accept_encoding: str = "identity"


class UpstreamRefused(Exception):
    """The upstream answered one of our own questions with an error.

    Attributes:
        body: the answer, usually Prometheus' error JSON.
    """

    def __init__(self, status: int, content_type: str, body: bytes) -> None:
        self.status, self.content_type, self.body = status, content_type, body
        super().__init__(f"{status}: {printable(body[:600].decode('utf-8', 'replace'))}")


class TooLarge(Exception):
    """The answers to our own questions are longer than the query may load."""


class Room:
    """How many bytes the answers to one query's questions may still have, together."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = self._left = max_bytes

    def take(self, size: int) -> None:
        """
        Raises:
            TooLarge
        """
        self._left -= size
        if self._left < 0:
            raise TooLarge(f"the upstream's answer is longer than {self._max_bytes} bytes")


@dataclass(frozen=True, slots=True)
class UpstreamFacts:
    """What the evaluator must know of the server whose answers it continues.

    Attributes:
        lookback_ms: ``--query.lookback-delta``.
        since_3: Prometheus 3 or later: windows exclude their beginning, and more such.
        takes_lookback: a query may bring its own, as ``lookback_delta``: 2.44 and later.
    """

    lookback_ms: int = DEFAULT_LOOKBACK_MS
    since_3: bool = True
    takes_lookback: bool = True


async def whole(response: aiohttp.ClientResponse, room: Room) -> bytes:
    """A body in one; to put a long one together is left to a thread.

    Raises:
        TooLarge
    """
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        room.take(len(piece))
        size += len(piece)
        pieces.append(piece)
    return b"".join(pieces) if size < _LONG_BYTES else await asyncio.to_thread(b"".join, pieces)


class Upstream:
    """Requests to the upstream's HTTP API.

    Args:
        settings: ``url`` is the server's base, as for remote read.
        session: shared with other clients; without one it opens and closes its own.
    """

    def __init__(
        self, settings: HttpSettings, session: aiohttp.ClientSession | None = None
    ) -> None:
        self.settings = settings
        self._session, self._owns_session = session, session is None
        self._client = HttpClient(settings, session)
        parts = urlsplit(settings.url)
        self._base = parts._replace(
            netloc=parts.netloc.rpartition("@")[2],
            path=parts.path.rstrip("/"),
            query="",
            fragment="",
        )
        self._facts: UpstreamFacts | None = None
        self._facts_until = 0.0
        self._facts_lock = asyncio.Lock()

    @property
    def display_url(self) -> str:
        return self.settings.display_url

    async def close(self) -> None:
        await self._client.close()
        if self._owns_session and self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def send(
        self, request: Forward, timeout_s: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, whatever its status, its body neither read nor decompressed.

        Raises:
            Unavailable: there is none, or it is a redirect.
        """
        url = self._url(request)
        try:
            loaded = await self._client.credentials()
        except Rejected as error:
            raise Unavailable(str(error)) from error
        headers = [("User-Agent", user_agent()), *loaded.headers]
        headers.append(("Accept-Encoding", request.accept_encoding))
        if request.body is not None:
            headers.append(("Content-Type", request.content_type or _FORM))
        tls = self.settings.tls_config
        try:
            async with self._open_session().request(
                request.method,
                url,
                data=request.body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
                auto_decompress=False,
                proxy=self._proxy(),
                ssl=loaded.tls if loaded.tls is not None else True,
                server_hostname=(tls.server_name or None) if tls else None,
            ) as response:
                self._client.note_status(response.status)
                if 300 <= response.status < 400 and response.status != 304:
                    raise Unavailable(f"{self.display_url}: {response.status}, a redirect")
                yield response
        except TimeoutError as error:
            raise Unavailable(f"{self.display_url}: no answer within {timeout_s:.0f} s") from error
        except (aiohttp.ClientError, OSError, EOFError) as error:
            raise Unavailable(f"{self.display_url}: {described(error)}") from error

    async def ask(
        self, path: str, params: Mapping[str, str], *, timeout_s: float, room: Room
    ) -> bytes:
        """A question of our own, as a form: the body of a 200.

        Raises:
            Unavailable, UpstreamRefused, TooLarge
        """
        body = urlencode(params, errors="surrogateescape").encode()
        async with self.send(Forward("POST", path, body=body), timeout_s) as response:
            answer = await whole(response, room)
            if response.status != 200:
                raise UpstreamRefused(response.status, response.content_type, answer)
            if response.content_type != "application/json":
                raise Unavailable(f"{self.display_url}: answers with {response.content_type}")
            return answer

    async def facts(self) -> UpstreamFacts:
        """Its lookback and window rule, asked once in a while; defaults where it does not say."""
        async with self._facts_lock:
            if self._facts is None or time.monotonic() >= self._facts_until:
                learned = await self._learn_facts()
                known = learned is not None
                self._facts = learned or self._facts or UpstreamFacts()
                live_s = _FACTS_LIVE_S if known else _FACTS_RETRY_S
                self._facts_until = time.monotonic() + live_s
            return self._facts

    async def _learn_facts(self) -> UpstreamFacts | None:
        build, flags = await asyncio.gather(
            self._get_object("/api/v1/status/buildinfo"), self._get_object("/api/v1/status/flags")
        )
        if build is None:
            return None
        found = re.match(r"v?(\d+)\.(\d+)", str(build.get("version", "")))
        version = (int(found[1]), int(found[2])) if found else _NEWEST
        lookback = str((flags or {}).get("query.lookback-delta", ""))
        try:
            lookback_ms = parse_duration_ms(lookback)
        except ValueError:
            lookback_ms = DEFAULT_LOOKBACK_MS
        return UpstreamFacts(
            lookback_ms or DEFAULT_LOOKBACK_MS, version >= (3, 0), version >= (2, 44)
        )

    async def _get_object(self, path: str) -> dict[str, Any] | None:
        """``data`` of a harmless GET; None where there is none."""
        try:
            async with self.send(Forward("GET", path), 5.0) as response:
                body = await response.content.read(1 << 20)
                return read_object(body) if response.status == 200 else None
        except (Unavailable, Garbage):
            return None

    def _url(self, request: Forward) -> URL:
        path = self._base.path + request.path
        query = quote(request.query, safe=_UNSAFE_IN_QUERY)
        return URL(urlunsplit(self._base._replace(path=path, query=query)), encoded=True)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = open_session(connections=32)
        return self._session

    def _proxy(self) -> str | None:
        settings, base = self.settings, self._base
        if settings.proxy_url:
            direct = bypasses_proxy(base.hostname or "", base.port, settings.no_proxy)
            return None if direct else settings.proxy_url
        if settings.proxy_from_environment and not proxy_bypass(base.netloc):
            return getproxies().get(base.scheme)
        return None
