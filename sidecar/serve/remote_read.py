"""The remote-read server: the forecasts inside the user's own Prometheus.

Only what the receiver has not acknowledged is served, so nothing that its own storage holds. A
server that reads from here while we read from it asks for other names too: those are answered at
once with nothing.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import yaml
from aiohttp import web
from google.protobuf.message import DecodeError

from sidecar.errors import WireError
from sidecar.names import METRIC_NAME
from sidecar.publish.paths import ForecastPaths, PathBlock, ragged
from sidecar.series import MatchOp
from sidecar.serve.outbox import Outbox
from sidecar.serve.promql.matchers import LabelMatcher
from sidecar.serve.promql.writing import PIECE_BYTES, Pieces
from sidecar.wire import snappy
from sidecar.wire.read_replies import encode_chunked_frames, encode_read_response_samples
from sidecar.wire.remote_pb2 import Query, ReadRequest
from sidecar.wire.types_pb2 import LabelMatcher as WireMatcher

_log = logging.getLogger(__name__)

PATH: Final = "/api/v1/read"
# Beside prometheus.yml: Prometheus takes such paths as relative to it.
LOGIN_FILE: Final = "sentinel.password"
MAX_BODY_BYTES: Final = 1024 * 1024
MAX_REQUEST_BYTES: Final = 8 * 1024 * 1024
MAX_QUERIES: Final = 100
# A SAMPLES reply is made whole, 16 bytes a sample and then compressed; a streamed one in pieces,
# but at more CPU time. So that is for the large ones.
STREAM_FROM_SAMPLES: Final = 250_000
_MAX_SAMPLES: Final = 2_000_000
_CONCURRENT: Final = 4
# From so many on looking through them is left to a thread.
_MANY_SERIES: Final = 2_000
_STREAM_TYPE: Final = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse"
_OPERATORS: Final = {
    WireMatcher.EQ: MatchOp.EQUAL,
    WireMatcher.NEQ: MatchOp.NOT_EQUAL,
    WireMatcher.RE: MatchOp.REGEX,
    WireMatcher.NRE: MatchOp.NOT_REGEX,
}

Results = list[list[PathBlock]]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One query: matchers, and both ends inclusive."""

    tests: tuple[LabelMatcher, ...]
    start_ms: int
    end_ms: int


class RemoteReadServer:
    """Answers remote reads from the forecast store."""

    def __init__(self, paths: ForecastPaths) -> None:
        self._paths = paths
        self._gate = asyncio.Semaphore(_CONCURRENT)
        self._outbox = Outbox()

    async def read(self, request: web.Request) -> web.StreamResponse:
        try:
            wanted, accepted = _decode(await _body(request))
        except (WireError, DecodeError, ValueError) as error:
            return web.Response(status=400, text=f"{error}\n")
        results = await self._results(wanted)
        samples = sum(block.values.size for blocks in results for block in blocks)
        if not samples:
            return await self._samples(request, _whole([[] for _ in results]))
        if not self._outbox.has_room():
            return web.Response(status=503, text="too many answers wait for their readers\n")
        async with self._gate:
            if _streams(accepted, samples):
                return await _stream(request, results)
            if samples > _MAX_SAMPLES:
                return web.Response(status=400, text=f"exceeded sample limit ({_MAX_SAMPLES})\n")
            pieces = await asyncio.to_thread(_whole, results)
        return await self._samples(request, pieces)

    async def _results(self, wanted: Sequence[_Wanted]) -> Results:
        """In a thread where there is much to look through."""

        def found() -> Results:
            return [self._found(one) for one in wanted]

        few = self._paths.stats().series * len(wanted) < _MANY_SERIES
        return found() if few else await asyncio.to_thread(found)

    async def _samples(self, request: web.Request, pieces: Pieces) -> web.StreamResponse:
        headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
        return await self._outbox.send(request, pieces, headers)

    def _found(self, wanted: _Wanted) -> list[PathBlock]:
        if not wanted.tests or wanted.start_ms > wanted.end_ms:
            return []
        return self._paths.blocks(wanted.tests, wanted.start_ms, wanted.end_ms)


def routes(server: RemoteReadServer) -> list[web.RouteDef]:
    """The route of the remote-read server."""
    return [web.post(PATH, server.read)]


def remote_read_config(
    url: str, output_metrics: Iterable[str], *, timeout: str = "5s", user: str = ""
) -> str:
    """The ``remote_read`` block for prometheus.yml.

    One entry for each metric: ``required_matchers`` knows only equality, and without it every
    query of the server would come here.

    Args:
        url: of this sidecar, such as ``http://localhost:8080``.
        output_metrics: full names, such as ``up_sentinel_expected``.
        timeout: what a selector waits for a sidecar that hangs.
        user: whose password it asks for; empty where it asks for none.
    """
    login = {"basic_auth": {"username": user, "password_file": LOGIN_FILE}} if user else {}
    entries = [
        {
            "url": url.rstrip("/") + PATH,
            "name": f"sentinel-{metric}",
            "required_matchers": {METRIC_NAME: metric},
            "read_recent": True,
            "remote_timeout": timeout,
            "filter_external_labels": False,
            **login,
        }
        for metric in sorted(set(output_metrics))
    ]
    if not entries:
        return "remote_read: []\n"
    notes = f"# write the password of {user!r} into {LOGIN_FILE}\n" if user else ""
    if url.startswith("https:"):
        notes += "# add tls_config: {ca_file: ...} to each where no known authority has signed\n"
    block = {"remote_read": entries}
    return notes + yaml.dump(block, Dumper=_Plain, sort_keys=False, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    """Without references: what entries have in common is written in each."""

    def ignore_aliases(self, _: object) -> bool:
        return True


async def _body(request: web.Request) -> bytes:
    """
    Raises:
        WireError: longer than any Prometheus sends.
    """
    pieces, size = [], 0
    async for piece in request.content.iter_any():
        size += len(piece)
        if size > MAX_BODY_BYTES:
            raise WireError(f"a read request is at most {MAX_BODY_BYTES} bytes long here")
        pieces.append(piece)
    return b"".join(pieces)


def _decode(body: bytes) -> tuple[list[_Wanted], Sequence[int]]:
    """
    Raises:
        WireError, DecodeError, ValueError
    """
    request = ReadRequest.FromString(bytes(snappy.decompress(body, MAX_REQUEST_BYTES)))
    if len(request.queries) > MAX_QUERIES:
        raise WireError(f"{len(request.queries)} queries in one request, at most {MAX_QUERIES}")
    return [_wanted(query) for query in request.queries], list(request.accepted_response_types)


def _wanted(query: Query) -> _Wanted:
    tests = []
    for matcher in query.matchers:
        op = _OPERATORS.get(matcher.type)
        if op is None:
            raise WireError(f"the matcher on {matcher.name!r} has the unknown type {matcher.type}")
        tests.append(LabelMatcher(matcher.name, op, matcher.value))
    return _Wanted(tuple(tests), query.start_timestamp_ms, query.end_timestamp_ms)


def _streams(accepted: Sequence[int], samples: int) -> bool:
    """Whether to answer in chunks: asked for first, and large, or nothing else is taken."""
    known = [
        kind for kind in accepted if kind in (ReadRequest.SAMPLES, ReadRequest.STREAMED_XOR_CHUNKS)
    ]
    if not known or known[0] != ReadRequest.STREAMED_XOR_CHUNKS:
        return False
    return ReadRequest.SAMPLES not in known or samples >= STREAM_FROM_SAMPLES


def _whole(results: Results) -> list[bytes]:
    encoded = encode_read_response_samples([ragged(blocks) for blocks in results])
    body = snappy.compress(encoded)
    return [body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES)]


async def _stream(request: web.Request, results: Results) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": _STREAM_TYPE})
    await response.prepare(request)
    frames = await asyncio.to_thread(_frames, results)
    while piece := await asyncio.to_thread(_some, frames):
        await response.write(piece)
    await response.write_eof()
    return response


def _frames(results: Results) -> Iterator[bytes]:
    return encode_chunked_frames([ragged(blocks) for blocks in results])


def _some(frames: Iterator[bytes], at_least: int = 256 * 1024) -> bytes:
    """The next frames, together at least so long; empty at the end."""
    pieces, size = [], 0
    for frame in frames:
        pieces.append(frame)
        size += len(frame)
        if size >= at_least:
            break
    return b"".join(pieces)
