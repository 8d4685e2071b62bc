"""The remote write receiver: Prometheus pushes what it scrapes, and nobody needs to poll it.

A 2xx means that the samples which a watch wants are in memory; the others were left out on purpose
and count as written, for sending them again would change nothing.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from email.message import Message
from typing import Final

from aiohttp import web

from sidecar.errors import WireError
from sidecar.ingest.buffer import PushBuffer
from sidecar.wire import snappy
from sidecar.wire.write_requests import Pushed, decode_push_v1, decode_push_v2

_log = logging.getLogger(__name__)

PATH: Final = "/api/v1/write"
MAX_REQUEST_BYTES: Final = 32 * 1024 * 1024
CONCURRENT: Final = 4
BODY_WITHIN_S: Final = 10.0
RETRY_AFTER_S: Final = 1
MESSAGE_V1: Final = "prometheus.WriteRequest"
MESSAGE_V2: Final = "io.prometheus.write.v2.Request"
_WRITTEN: Final = "X-Prometheus-Remote-Write-{}-Written"


class _Refused(Exception):
    """A request is answered by this status and these words."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Receiver:
    """Takes remote write 1.0 and 2.0 into a buffer.

    Args:
        now_ms: the wall clock.
        not_ready: why nothing can be taken yet; empty once it can.
    """

    def __init__(
        self, buffer: PushBuffer, now_ms: Callable[[], int], not_ready: Callable[[], str]
    ) -> None:
        self._buffer = buffer
        self._now_ms = now_ms
        self._not_ready = not_ready
        self._busy = 0
        self.answers: Counter[int] = Counter()

    async def write(self, request: web.Request) -> web.StreamResponse:
        response = await self._answered(request)
        self.answers[response.status] += 1
        return response

    async def _answered(self, request: web.Request) -> web.Response:
        why_not = self._not_ready()
        if why_not or self._busy >= CONCURRENT:
            return _later(why_not or "too many requests at once")
        self._busy += 1
        try:
            message = negotiated(request)
            async with asyncio.timeout(BODY_WITHIN_S):
                body = await _body(request)
            pushed = await asyncio.to_thread(self._taken, message, body)
        except TimeoutError:
            return _later("the body did not come in time")
        except _Refused as error:
            return web.Response(status=error.status, text=f"{error}\n")
        except WireError as error:
            _log.warning("a push from %s is malformed: %s", request.remote, error)
            return web.Response(status=400, text=f"{error}\n")
        finally:
            self._busy -= 1
        headers = written(pushed) if message == MESSAGE_V2 else {}
        return web.Response(status=204, headers=headers)

    def _taken(self, message: str, body: bytes) -> Pushed:
        """In a thread: unpack, decode, keep."""
        content = snappy.decompress(body, MAX_REQUEST_BYTES)
        pushed = decode_push_v2(content) if message == MESSAGE_V2 else decode_push_v1(content)
        self._buffer.add(pushed.series, self._now_ms(), duplicates=pushed.duplicates)
        return pushed


def routes(receiver: Receiver) -> list[web.RouteDef]:
    """The route of the receiver."""
    return [web.post(PATH, receiver.write)]


def negotiated(request: web.Request) -> str:
    """Which message the body is: what ``Content-Type`` says, 1.0 where it does not say.

    Raises:
        _Refused: a type or an encoding that is not known.
    """
    encoding = request.headers.get("Content-Encoding", "snappy").strip().lower()
    if encoding != "snappy":
        raise _Refused(415, f"Content-Encoding {encoding!r} is not taken, only snappy")
    given = request.headers.get("Content-Type", "application/x-protobuf")
    parsed = Message()
    parsed["Content-Type"] = given
    message = parsed.get_param("proto", MESSAGE_V1)
    if parsed.get_content_type() != "application/x-protobuf" or message not in (
        MESSAGE_V1,
        MESSAGE_V2,
    ):
        raise _Refused(415, f"Content-Type {given!r} is not taken, only application/x-protobuf "
            f"with proto={MESSAGE_V1} or proto={MESSAGE_V2}")  # fmt: skip
    return str(message)


def written(pushed: Pushed) -> dict[str, str]:
    """What a 2.0 answer says; histograms and exemplars are of no use to us and are not kept."""
    return {
        _WRITTEN.format("Samples"): str(pushed.samples),
        _WRITTEN.format("Histograms"): "0",
        _WRITTEN.format("Exemplars"): "0",
    }


def _later(why: str) -> web.Response:
    text = f"{why}; send it again later\n"
    return web.Response(status=503, text=text, headers={"Retry-After": str(RETRY_AFTER_S)})


async def _body(request: web.Request) -> bytes:
    """
    Raises:
        _Refused: longer than its content may be.
    """
    pieces, size = [], 0
    async for piece in request.content.iter_any():
        size += len(piece)
        if size > MAX_REQUEST_BYTES:
            raise _Refused(413, f"a request is at most {MAX_REQUEST_BYTES} bytes long here")
        pieces.append(piece)
    return b"".join(pieces)
