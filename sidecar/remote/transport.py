"""One remote write request over HTTP, in either version of the protocol.

The spool holds 1.0 requests. Where 2.0 is spoken a request is translated when it is sent; the
translation is deterministic, so a retry still repeats the same bytes.

A 2xx to a 2.0 message counts only with the headers that say how much was written: older receivers
answer 204 to it and store nothing. Such an answer, or a 415, means 1.0 from then on.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from sidecar.errors import Rejected, RemoteError
from sidecar.remote import blobs
from sidecar.remote.http import HttpClient
from sidecar.wire import snappy
from sidecar.wire.template import WriteTemplateV2

log = logging.getLogger(__name__)

Protocol: TypeAlias = Literal["auto", "1.0", "2.0"]

_HEADERS: Final[Mapping[str, Mapping[str, str]]] = {
    "1.0": {
        "Content-Encoding": "snappy",
        "Content-Type": "application/x-protobuf",
        "X-Prometheus-Remote-Write-Version": "0.1.0",
    },
    "2.0": {
        "Content-Encoding": "snappy",
        "Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request",
        "X-Prometheus-Remote-Write-Version": "2.0.0",
    },
}
_WRITTEN: Final = "x-prometheus-remote-write-samples-written"
_MAX_REPLY_BYTES: Final = 1024 * 1024
_EMPTY: Final = snappy.compress(b"")


class WriteTransport:
    """Sends requests; at most ``connections`` at once, probes included.

    Attributes:
        codes: answers by class: ``2xx`` ... ``5xx``, and ``none`` where there was none.
        version: what is spoken now.
    """

    def __init__(
        self, client: HttpClient, path: str, protocol: Protocol = "1.0", connections: int = 2
    ) -> None:
        self._client, self._path = client, path
        self._places = asyncio.Semaphore(connections)
        self.codes: Counter[str] = Counter()
        self.version: Literal["1.0", "2.0"] = "1.0" if protocol == "1.0" else "2.0"

    @property
    def where(self) -> str:
        return self._client.settings.display_url + self._path

    async def send(self, body: bytes) -> None:
        """Deliver a stored 1.0 request.

        Raises:
            Unavailable, Rejected: as ``HttpClient.request``.
        """
        if self.version == "2.0":
            translated = await asyncio.to_thread(_as_v2, body)
            if await self._sent_as_v2(translated):
                return
        await self._post(body, "1.0")

    async def probe(self) -> None:
        """An empty request: is the receiver there, does it let us in, what is its time?

        Under 2.0 also: does it understand 2.0?
        """
        if self.version == "2.0" and await self._sent_as_v2(_EMPTY):
            return
        await self._post(_EMPTY, "1.0")

    async def _sent_as_v2(self, body: bytes) -> bool:
        """False where the receiver does not speak 2.0: remembered, and to be sent again as 1.0."""
        try:
            headers = await self._post(body, "2.0")
        except Rejected as error:
            if error.status != 415:
                raise
        else:
            if _WRITTEN in headers:
                return True
        log.warning("%s does not speak remote write 2.0: 1.0 from now on", self.where)
        self.version = "1.0"
        return False

    async def _post(self, body: bytes, version: str) -> Mapping[str, str]:
        async with self._places:
            try:
                reply = await self._client.request(
                    "POST",
                    self._path,
                    body=body,
                    headers=_HEADERS[version],
                    max_bytes=_MAX_REPLY_BYTES,
                )
            except RemoteError as error:
                self.codes[_code_class(error.status)] += 1
                if error.status is not None and 200 <= error.status < 300:
                    return {}  # an endless or broken body after a success: stored it is
                raise
        self.codes[_code_class(reply.status)] += 1
        return reply.headers


def _code_class(status: int | None) -> str:
    return "none" if status is None else f"{status // 100}xx"


def _as_v2(body: bytes) -> bytes:
    labels, times, values = blobs.contents(body)
    return snappy.compress(WriteTemplateV2(labels).encode(times, values))
