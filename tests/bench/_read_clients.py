"""Ways to read from a server: the bare codec, the product's reader, and what one would write first.

::

    python -m tests.bench._read_clients chunks URL METRIC START_MS END_MS

reads once and prints how much memory that took at its peak.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import numpy as np

from sidecar.remote.http import HttpClient
from sidecar.remote.reader import RemoteReader
from sidecar.remote.settings import HttpSettings
from sidecar.series import LabelSet, RawSeries, Selector
from sidecar.wire import snappy
from sidecar.wire.chunks import ChunkDecoder
from sidecar.wire.frames import FrameSplitter
from sidecar.wire.remote_pb2 import ReadResponse
from sidecar.wire.requests import ReadQuery, encode_read_request

PIECE_BYTES = 256 * 1024
HEADERS = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "X-Prometheus-Remote-Read-Version": "0.1.0",
}

Client = Callable[[str, ReadQuery], Awaitable[list[RawSeries]]]


async def by_chunks(url: str, query: ReadQuery) -> list[RawSeries]:
    """Streamed chunks, decoded in a thread while the next piece arrives."""
    splitter, decoder = FrameSplitter(), ChunkDecoder([query])

    def decode(piece: bytes) -> None:
        for frame in splitter.feed(piece):
            decoder.feed(frame)

    body = snappy.compress(encode_read_request([query]))
    async with (
        aiohttp.ClientSession(read_bufsize=4 * PIECE_BYTES) as session,
        session.post(f"{url}/api/v1/read", data=body, headers=HEADERS) as answer,
    ):
        assert answer.status == 200
        decoding: asyncio.Task[None] | None = None
        pieces, size = [], 0
        async for piece in answer.content.iter_any():
            pieces.append(piece)
            size += len(piece)
            if size >= PIECE_BYTES:
                if decoding is not None:
                    await decoding
                decoding = asyncio.create_task(asyncio.to_thread(decode, b"".join(pieces)))
                pieces, size = [], 0
        if decoding is not None:
            await decoding
    await asyncio.to_thread(decode, b"".join(pieces))
    splitter.finish()
    reply = await asyncio.to_thread(decoder.finish)
    return reply.series[0]


async def by_reader(url: str, query: ReadQuery) -> list[RawSeries]:
    """As the product reads: in slices, with budgets, retries and labels stripped."""
    client = HttpClient(HttpSettings(url=url))
    reader = RemoteReader(client)
    try:
        return await reader.read(query.selector, query.start_ms, query.end_ms)
    finally:
        await reader.close()
        await client.close()


async def by_protobuf_loop(url: str, query: ReadQuery) -> list[RawSeries]:
    """SAMPLES, the protobuf classes, and a loop over the samples."""
    body = snappy.compress(encode_read_request([query], accept_chunks=False))
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/api/v1/read", data=body, headers=HEADERS) as answer,
    ):
        assert answer.status == 200
        content = await answer.read()
    response = ReadResponse.FromString(bytes(snappy.decompress(content, 2**32 - 1)))
    del content
    return [
        RawSeries(
            LabelSet.of((label.name, label.value) for label in one.labels),
            np.array([sample.timestamp for sample in one.samples], dtype=np.int64),
            np.array([sample.value for sample in one.samples], dtype=np.float64),
        )
        for one in response.results[0].timeseries
    ]


CLIENTS: dict[str, Client] = {
    "chunks": by_chunks,
    "reader": by_reader,
    "protobuf": by_protobuf_loop,
}


def memory_bytes(kind: str) -> int:
    """VmRSS: held now. VmHWM: the most ever held (getrusage would count the parent's too)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {kind}")


def main() -> None:
    kind, url, metric, start_ms, end_ms = sys.argv[1:]
    query = ReadQuery(Selector.of(metric), int(start_ms), int(end_ms))
    before = memory_bytes("VmRSS")

    async def read() -> list[RawSeries]:
        return await CLIENTS[kind](url, query)

    found = asyncio.run(read())
    peak = memory_bytes("VmHWM")
    arrays = sum(one.timestamps_ms.nbytes + one.values.nbytes for one in found)
    print(json.dumps({"peak_bytes": peak - before, "array_bytes": arrays}))


if __name__ == "__main__":
    main()
