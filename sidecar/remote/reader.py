"""Reading series by remote read: streamed chunks first, samples where a server has no chunks.

A long range is read in slices of time, each of about as many samples as the limits say. A reply is
used whole or not at all: what is truncated, corrupt or broken off is thrown away and read again.
Decoding happens in threads, piece by piece as the reply arrives. Small reads that wait at the same
time share a request: 500 watches due at once cost a few requests, a twentieth of the time.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, ParamSpec, TypeVar

from sidecar.errors import Rejected, RemoteError, Unavailable, WireError
from sidecar.remote.backoff import A_FEW, BackoffSettings
from sidecar.remote.batches import Batches
from sidecar.remote.http import HttpClient, StreamedReply
from sidecar.remote.sliced import Budget, Found, ReadLimits, SlicedReader, TooMuch
from sidecar.remote.turns import ReadTurns
from sidecar.series import LabelSet, RawSeries, Selector
from sidecar.wire import snappy
from sidecar.wire.chunks import ChunkDecoder, ChunkedReply
from sidecar.wire.frames import FrameSplitter
from sidecar.wire.requests import ReadQuery, encode_read_request
from sidecar.wire.samples import SampledReply, decode_sampled_reply

__all__ = ["ReadLimits", "ReadTurns", "ReaderStats", "RemoteReader"]

log = logging.getLogger(__name__)
T = TypeVar("T")
P = ParamSpec("P")

_HEADERS: Final = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "Accept-Encoding": "snappy",
    "X-Prometheus-Remote-Read-Version": "0.1.0",
}
_PIECE_BYTES: Final = 1024 * 1024
_NAMED_AT_MOST: Final = 20
_SMALL_SPAN_MS: Final = 600_000
_SMALL_SAMPLES: Final = 5_000


@dataclass(frozen=True)
class ReaderStats:
    """Counters since the reader was made.

    Attributes:
        requests: by result: ``ok``, ``unavailable``, ``rejected``, ``over_budget``.
        duplicates, clipped: samples left out, see ``ChunkedReply``.
        histogram_series: some of the series whose native histograms were skipped.
        samples_selectors: selectors that are read as SAMPLES because of chunks unknown to us.
        pauses: waits because the server had become slow.
    """

    requests: Mapping[str, int] = field(default_factory=dict)
    samples: int = 0
    bytes: int = 0
    duplicates: int = 0
    clipped: int = 0
    histogram_chunks: int = 0
    histogram_series: tuple[LabelSet, ...] = ()
    samples_selectors: int = 0
    pauses: int = 0


class RemoteReader(SlicedReader):
    """Reads from one server.

    Args:
        path: appended to the client's URL.
        external_labels: the server's own, which it adds to each series; taken off again. One
            without a value (a replica's name) is taken off whatever its value is. May be set
            later, when they become known.
        turns: shared by all readers of the server.
        accept_chunks: False asks for SAMPLES only.
        verify_crc: check the checksum of each frame.
        share: so many small reads go in one request at most.
    """

    def __init__(
        self,
        client: HttpClient,
        *,
        path: str = "/api/v1/read",
        external_labels: Mapping[str, str] | None = None,
        limits: ReadLimits | None = None,
        turns: ReadTurns | None = None,
        retry: BackoffSettings = A_FEW,
        accept_chunks: bool = True,
        verify_crc: bool = False,
        threads: int = 2,
        share: int = 100,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(limits or ReadLimits(), retry, external_labels or {})
        self._client, self._path = client, path
        self._turns = turns or ReadTurns()
        self._accept_chunks, self._verify_crc = accept_chunks, verify_crc
        self._monotonic_s = monotonic_s
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._batches = Batches(self._request_small, lambda query: query.selector, most=share)
        self._as_samples: set[Selector] = set()
        self._streamed = False  # the newest reply was, as it mostly is
        self._results: Counter[str] = Counter()
        self._stats = ReaderStats()

    async def close(self) -> None:
        await self._batches.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def stats(self) -> ReaderStats:
        return replace(
            self._stats,
            requests=dict(self._results),
            samples_selectors=len(self._as_samples),
            pauses=self._turns.pauses,
        )

    async def _read(self, query: ReadQuery, budget: Budget) -> Found:
        """One whole reply: with others in one request where it is small."""
        if not self._is_small(query):
            return (await self._request([query], budget))[0]
        found = await self._batches.ask(query)
        budget.check(found.bytes, found.samples, len(found.series))
        return found

    def _streams(self, selector: Selector) -> bool:
        return self._streamed and selector not in self._as_samples

    def _is_small(self, query: ReadQuery) -> bool:
        """Few samples by all that is known, as the new ones of a watch in each cycle."""
        if not self._accept_chunks or query.selector in self._as_samples:
            return False
        span_ms = query.end_ms - query.start_ms + 1
        density = self._densities.get(str(query.selector))
        if density is None:
            return span_ms <= _SMALL_SPAN_MS
        return density * span_ms <= _SMALL_SAMPLES

    async def _request_small(self, queries: Sequence[ReadQuery]) -> list[Found]:
        """One request for several queries; each looks at its own number of series afterwards."""
        limits = self._limits
        together = replace(limits, max_series=limits.max_series * len(queries))
        return await self._request(queries, Budget(queries[0].selector, together))

    async def _request(self, queries: Sequence[ReadQuery], budget: Budget) -> list[Found]:
        """One request, its reply whole; for each query what was found."""
        result = "over_budget"
        try:
            async with self._turns.turn():
                found = await self._ask(queries, budget)
            result = "ok"
            return found
        except WireError as error:
            result = "unavailable"
            where = self._client.settings.display_url + self._path
            raise Unavailable(
                f"{where}: reply discarded, {_named(queries)}: {error}", status=200
            ) from error
        except RemoteError as error:
            result = "unavailable" if isinstance(error, Unavailable) else "rejected"
            if error.status == 400 and "exceeded sample limit" in str(error):
                raise TooMuch(str(error)) from error
            raise
        finally:
            self._results[result] += 1

    async def _ask(self, queries: Sequence[ReadQuery], budget: Budget) -> list[Found]:
        if self._accept_chunks and self._as_samples.isdisjoint(q.selector for q in queries):
            found = await self._post(queries, budget, accept_chunks=True)
            if found is not None:
                return found
            if len(queries) > 1:
                raise WireError("chunks of a kind unknown to us")  # each by itself says whose
            log.warning(
                "%s: chunks of a kind unknown to us, read as SAMPLES from now on", _named(queries)
            )
            self._as_samples.add(queries[0].selector)
        found = await self._post(queries, budget, accept_chunks=False)
        if found is None:
            raise Rejected(f"{_named(queries)}: unknown chunks although SAMPLES were asked for")
        return found

    async def _post(
        self, queries: Sequence[ReadQuery], budget: Budget, *, accept_chunks: bool
    ) -> list[Found] | None:
        """None where there are chunks that we cannot read."""
        body = snappy.compress(encode_read_request(queries, accept_chunks=accept_chunks))
        sent_at = self._monotonic_s()
        async with self._client.stream(
            self._path, body=body, headers=_HEADERS, deadline_s=self._limits.deadline_s
        ) as reply:
            self._turns.observe(self._monotonic_s() - sent_at)
            kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
            self._streamed = kind == "application/x-streamed-protobuf"
            if self._streamed:
                return await self._chunked(reply, queries, budget)
            if kind == "application/x-protobuf":
                return await self._sampled(reply, queries, budget)
        raise Rejected(
            f"{self._client.settings.display_url}{self._path}: answered {kind!r}, which is no "
            "remote read reply: is this the URL of a remote read endpoint?"
        )

    async def _chunked(
        self, reply: StreamedReply, queries: Sequence[ReadQuery], budget: Budget
    ) -> list[Found] | None:
        """Decode in a thread while the next piece arrives."""
        splitter, decoder = FrameSplitter(verify_crc=self._verify_crc), ChunkDecoder(queries)
        decoding: asyncio.Future[None] | None = None
        size = 0
        try:
            async for piece in gathered(reply.chunks, _PIECE_BYTES):
                size += len(piece)
                if decoding is not None:
                    await decoding
                budget.check(size, decoder.samples, decoder.series)
                decoding = self._in_thread(_feed, splitter, decoder, piece)
        except BaseException:
            if decoding is not None:  # the thread must be done with it before anybody goes on
                await asyncio.gather(decoding, return_exceptions=True)
            raise
        if decoding is not None:
            await decoding
        splitter.finish()
        budget.check(size, decoder.samples, decoder.series)
        whole: ChunkedReply = await self._in_thread(decoder.finish)
        self._note(whole, size, whole.histogram_chunks)
        return None if whole.unknown_chunk_types else _found(whole.series, size)

    async def _sampled(
        self, reply: StreamedReply, queries: Sequence[ReadQuery], budget: Budget
    ) -> list[Found]:
        pieces, size = [], 0
        async for piece in reply.chunks:
            pieces.append(piece)
            size += len(piece)
            budget.check(size, 0, 0)
        body = b"".join(pieces)
        length = snappy.decompressed_length(body)
        budget.check(length, 0, 0)
        if length > budget.sample_bytes:
            raise TooMuch(f"{length} bytes in one slice")

        def decode() -> SampledReply:
            return decode_sampled_reply(snappy.decompress(body, length), queries)

        whole = await self._in_thread(decode)
        budget.check(length, whole.samples, sum(map(len, whole.series)))
        self._note(whole, size, 0)
        return _found(whole.series, length)

    def _in_thread(
        self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> "asyncio.Future[T]":
        return asyncio.get_running_loop().run_in_executor(
            self._threads, partial(work, *args, **kwargs)
        )

    def _note(self, reply: ChunkedReply | SampledReply, size: int, histogram_chunks: int) -> None:
        stats = self._stats
        named = dict.fromkeys((*stats.histogram_series, *reply.histogram_series))
        self._stats = replace(
            stats,
            samples=stats.samples + reply.samples,
            bytes=stats.bytes + size,
            duplicates=stats.duplicates + reply.duplicates,
            clipped=stats.clipped + reply.clipped,
            histogram_chunks=stats.histogram_chunks + histogram_chunks,
            histogram_series=tuple(named)[:_NAMED_AT_MOST],
        )


def _found(results: Sequence[list[RawSeries]], size: int) -> list[Found]:
    """For each query; the reply's bytes are shared out by samples."""
    samples = [sum(len(one.timestamps_ms) for one in series) for series in results]
    total = max(sum(samples), 1)
    return [
        Found(series, count, size * count // total)
        for series, count in zip(results, samples, strict=True)
    ]


def _named(queries: Sequence[ReadQuery]) -> str:
    more = f" and {len(queries) - 1} more" if len(queries) > 1 else ""
    return f"{queries[0].selector}{more}"


async def gathered(chunks: AsyncIterator[bytes], at_least: int) -> AsyncIterator[bytes]:
    """The same bytes in pieces of at least so many, but for the last."""
    waiting, size = [], 0
    async for chunk in chunks:
        waiting.append(chunk)
        size += len(chunk)
        if size >= at_least:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _feed(splitter: FrameSplitter, decoder: ChunkDecoder, piece: bytes) -> None:
    for frame in splitter.feed(piece):
        decoder.feed(frame)
