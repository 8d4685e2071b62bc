"""Reading series by remote read: streamed chunks first, samples where a server has no chunks.

A long range is read in slices of time, each of about as many samples as the limits say. A reply is
used whole or not at all: what is truncated, corrupt or broken off is thrown away and read again.
Decoding happens in threads, piece by piece as the reply arrives.
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

import numpy as np

from sidecar.errors import DataError, Rejected, RemoteError, Unavailable, WireError
from sidecar.names import METRIC_NAME, OWN_OUTPUT_REGEX, Reason, is_own_output
from sidecar.remote.backoff import A_FEW, BackoffSettings, retried
from sidecar.remote.http import HttpClient, StreamedReply
from sidecar.remote.slices import Densities, SlicePlan
from sidecar.remote.turns import ReadTurns
from sidecar.series import LabelSet, Matcher, MatchOp, RawSeries, Selector
from sidecar.wire import snappy
from sidecar.wire.chunks import ChunkDecoder, ChunkedReply
from sidecar.wire.frames import FrameSplitter
from sidecar.wire.requests import ReadQuery, encode_read_request
from sidecar.wire.samples import SampledReply, decode_sampled_reply

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
_OVERSHOOT: Final = 4  # a slice may hold so many times its budget before it is cut short
_NAMED_AT_MOST: Final = 20
_NOT_OURS: Final = Matcher(METRIC_NAME, MatchOp.NOT_REGEX, OWN_OUTPUT_REGEX)


@dataclass(frozen=True)
class ReadLimits:
    """What one ``read`` may take, and how it is cut.

    Attributes:
        max_bytes: of all replies of one read; of SAMPLES, after decompression.
        max_samples, max_series: beyond them the connection is closed and the read fails.
        slice_samples: about so many in one slice.
        deadline_s: for one reply.
    """

    max_bytes: int = 1024 * 1024 * 1024
    max_samples: int = 50_000_000
    max_series: int = 100_000
    slice_samples: int = 2_000_000
    deadline_s: float = 300.0


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


class _TooMuch(Exception):
    """A slice holds more than its share; a shorter one may do."""


@dataclass
class _Found:
    """One whole reply."""

    series: list[RawSeries]
    samples: int
    bytes: int


class _Budget:
    """What is left of a read's limits."""

    def __init__(self, selector: Selector, limits: ReadLimits) -> None:
        self._selector, self._limits = selector, limits
        self._bytes = self._samples = 0
        self._series: set[LabelSet] = set()

    def charge(self, found: _Found) -> int:
        """Count a whole reply; gives its samples."""
        self._bytes += found.bytes
        self._samples += found.samples
        self._series.update(one.labels for one in found.series)
        self.check(0, 0, len(self._series))
        return found.samples

    def check(self, more_bytes: int, more_samples: int, series: int) -> None:
        """Look at a reply that is still coming.

        Raises:
            DataError: a limit is passed.
            _TooMuch: the slice's share is passed.
        """
        limits = self._limits
        self._refuse(self._bytes + more_bytes, limits.max_bytes, "bytes")
        self._refuse(self._samples + more_samples, limits.max_samples, "samples")
        self._refuse(series, limits.max_series, "series")
        if more_samples > _OVERSHOOT * limits.slice_samples:
            raise _TooMuch(f"{more_samples} samples in one slice")

    @property
    def sample_bytes(self) -> int:
        """The longest SAMPLES reply (decompressed) of one slice: some 18 bytes a sample."""
        return min(self._limits.max_bytes, 32 * _OVERSHOOT * self._limits.slice_samples)

    def _refuse(self, found: int, limit: int, what: str) -> None:
        if found > limit:
            raise DataError(
                Reason.OVER_BUDGET,
                f"{self._selector}: more than {limit} {what} in one read; connection closed. "
                "Narrow the selector or shorten the range, or allow more",
            )


class RemoteReader:
    """Reads from one server.

    Args:
        path: appended to the client's URL.
        external_labels: the server's own, which it adds to each series; taken off again. One
            without a value (a replica's name) is taken off whatever its value is. May be set
            later, when they become known.
        turns: shared by all readers of the server.
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
        verify_crc: bool = False,
        threads: int = 2,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.external_labels: Mapping[str, str] = dict(external_labels or {})
        self._client, self._path = client, path
        self._limits = limits or ReadLimits()
        self._turns = turns or ReadTurns()
        self._retry, self._verify_crc, self._monotonic_s = retry, verify_crc, monotonic_s
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._densities = Densities()
        self._as_samples: set[Selector] = set()
        self._results: Counter[str] = Counter()
        self._stats = ReaderStats()

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def read(
        self, selector: Selector, start_ms: int, end_ms: int, *, own_output: bool = False
    ) -> list[RawSeries]:
        """The samples with ``start_ms`` <= timestamp <= ``end_ms`` of all matched series.

        Args:
            own_output: whether series that a sidecar wrote are read too.

        Returns:
            Sorted by labels, each series once, at least one sample each; timestamps strictly
            increasing. Staleness markers and ordinary NaNs pass as they are.

        Raises:
            Unavailable: no whole reply after a few attempts.
            Rejected: the server will never answer this.
            DataError: more bytes, samples or series than the limits allow.
        """
        slices = [
            found
            async for found in self.read_slices(selector, start_ms, end_ms, own_output=own_output)
        ]
        return joined(slices)

    async def read_slices(
        self, selector: Selector, start_ms: int, end_ms: int, *, own_output: bool = False
    ) -> AsyncIterator[list[RawSeries]]:
        """The same in slices of time, oldest first; a series has a part in each it has samples in.

        The limits hold for all slices together.
        """
        asked = selector if own_output else without_own_output(selector)
        budget = _Budget(selector, self._limits)
        plan = SlicePlan(
            start_ms,
            end_ms,
            slice_samples=self._limits.slice_samples,
            density=self._densities.get(str(asked)),
        )
        for span in plan:
            found, (first_ms, last_ms) = await self._read_slice(asked, plan, span, budget)
            density = budget.charge(found) / (last_ms - first_ms + 1)
            self._densities.note(str(asked), density)
            plan.learn(density)
            yield self._cleaned(found.series, own_output)

    def stats(self) -> ReaderStats:
        return replace(
            self._stats,
            requests=dict(self._results),
            samples_selectors=len(self._as_samples),
            pauses=self._turns.pauses,
        )

    async def _read_slice(
        self, selector: Selector, plan: SlicePlan, span: tuple[int, int], budget: _Budget
    ) -> tuple[_Found, tuple[int, int]]:
        """A whole reply for the slice, or for a shorter one where it holds too much."""
        while True:
            query = ReadQuery(selector, *span)
            try:
                found = await retried(partial(self._read, query, budget), self._retry)
            except _TooMuch as error:
                shorter = plan.shrink()
                if shorter is None:
                    raise DataError(Reason.OVER_BUDGET, f"{selector}: {error}") from None
                span = shorter
            else:
                return found, span

    async def _read(self, query: ReadQuery, budget: _Budget) -> _Found:
        """One request, whole."""
        result = "over_budget"
        try:
            async with self._turns.turn():
                found = await self._ask(query, budget)
            result = "ok"
            return found
        except WireError as error:
            result = "unavailable"
            where = self._client.settings.display_url + self._path
            raise Unavailable(f"{where}: reply discarded, {query.selector}: {error}") from error
        except RemoteError as error:
            result = "unavailable" if isinstance(error, Unavailable) else "rejected"
            if error.status == 400 and "exceeded sample limit" in str(error):
                raise _TooMuch(str(error)) from error
            raise
        finally:
            self._results[result] += 1

    async def _ask(self, query: ReadQuery, budget: _Budget) -> _Found:
        if query.selector not in self._as_samples:
            found = await self._post(query, budget, accept_chunks=True)
            if found is not None:
                return found
            log.warning(
                "%s: chunks of a kind unknown to us, read as SAMPLES from now on", query.selector
            )
            self._as_samples.add(query.selector)
        found = await self._post(query, budget, accept_chunks=False)
        if found is None:
            raise Rejected(f"{query.selector}: unknown chunks although SAMPLES were asked for")
        return found

    async def _post(
        self, query: ReadQuery, budget: _Budget, *, accept_chunks: bool
    ) -> _Found | None:
        """None where there are chunks that we cannot read."""
        body = snappy.compress(encode_read_request([query], accept_chunks=accept_chunks))
        sent_at = self._monotonic_s()
        async with self._client.stream(
            self._path, body=body, headers=_HEADERS, deadline_s=self._limits.deadline_s
        ) as reply:
            self._turns.observe(self._monotonic_s() - sent_at)
            kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind == "application/x-streamed-protobuf":
                return await self._chunked(reply, query, budget)
            if kind == "application/x-protobuf":
                return await self._sampled(reply, query, budget)
        raise Rejected(
            f"{self._client.settings.display_url}{self._path}: answered {kind!r}, which is no "
            "remote read reply: is this the URL of a remote read endpoint?"
        )

    async def _chunked(
        self, reply: StreamedReply, query: ReadQuery, budget: _Budget
    ) -> _Found | None:
        """Decode in a thread while the next piece arrives."""
        splitter, decoder = FrameSplitter(verify_crc=self._verify_crc), ChunkDecoder([query])
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
        if whole.unknown_chunk_types:
            return None
        return _Found(whole.series[0], whole.samples, size)

    async def _sampled(self, reply: StreamedReply, query: ReadQuery, budget: _Budget) -> _Found:
        pieces, size = [], 0
        async for piece in reply.chunks:
            pieces.append(piece)
            size += len(piece)
            budget.check(size, 0, 0)
        body = b"".join(pieces)
        length = snappy.decompressed_length(body)
        budget.check(length, 0, 0)
        if length > budget.sample_bytes:
            raise _TooMuch(f"{length} bytes in one slice")

        def decode() -> SampledReply:
            return decode_sampled_reply(snappy.decompress(body, length), [query])

        whole = await self._in_thread(decode)
        budget.check(length, whole.samples, len(whole.series[0]))
        self._note(whole, size, 0)
        return _Found(whole.series[0], whole.samples, length)

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

    def _cleaned(self, series: Sequence[RawSeries], own_output: bool) -> list[RawSeries]:
        """External labels off, own output out, sorted; series that thereby become one are one."""
        external = self.external_labels
        kept: dict[LabelSet, list[RawSeries]] = {}
        for one in series:
            if own_output or not is_own_output(one.labels.metric):
                labels = _without_external(one.labels, external) if external else one.labels
                kept.setdefault(labels, []).append(one)
        return [_merged(labels, kept[labels]) for labels in sorted(kept)]


def without_own_output(selector: Selector) -> Selector:
    """With a matcher that leaves out what a sidecar wrote, unless the name is one plain equality.

    >>> print(without_own_output(Selector.of("up")))
    up
    """
    named = any(m.name == METRIC_NAME and m.op is MatchOp.EQUAL for m in selector.matchers)
    return selector if named else selector.with_matchers(_NOT_OURS)


def joined(slices: Sequence[Sequence[RawSeries]]) -> list[RawSeries]:
    """Each series once, from slices of time that follow each other."""
    if len(slices) == 1:
        return list(slices[0])
    parts: dict[LabelSet, list[RawSeries]] = {}
    for one in (one for part in slices for one in part):
        parts.setdefault(one.labels, []).append(one)
    return [_concatenated(labels, parts[labels]) for labels in sorted(parts)]


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


def _without_external(labels: LabelSet, external: Mapping[str, str]) -> LabelSet:
    """An external label without a value (as of a replica) goes whatever its value is."""
    kept = tuple(
        pair
        for pair in labels.pairs
        if pair[0] not in external or external[pair[0]] not in ("", pair[1])
    )
    return labels if len(kept) == len(labels.pairs) else LabelSet(kept)


def _merged(labels: LabelSet, series: Sequence[RawSeries]) -> RawSeries:
    """One series from several over the same time (replicas); of equal timestamps the last wins."""
    if len(series) == 1:
        return RawSeries(labels, series[0].timestamps_ms, series[0].values)
    whole = _concatenated(labels, series)
    order = np.argsort(whole.timestamps_ms, kind="stable")
    times = whole.timestamps_ms[order]
    last = np.append(times[1:] != times[:-1], True)
    return RawSeries(labels, times[last], whole.values[order[last]])


def _concatenated(labels: LabelSet, parts: Sequence[RawSeries]) -> RawSeries:
    if len(parts) == 1:
        return parts[0]
    return RawSeries(
        labels,
        np.concatenate([part.timestamps_ms for part in parts]),
        np.concatenate([part.values for part in parts]),
    )
