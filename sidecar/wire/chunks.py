"""A streamed read reply (STREAMED_XOR_CHUNKS), from its frames to series."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from google.protobuf.message import DecodeError

from sidecar.errors import WireError
from sidecar.series import LabelSet, RawSeries
from sidecar.wire.assemble import Assembler
from sidecar.wire.labels import label_set
from sidecar.wire.remote_pb2 import ChunkedReadResponse
from sidecar.wire.requests import ReadQuery
from sidecar.wire.types_pb2 import Chunk, ChunkedSeries
from sidecar.wire.xor_decoder import COUNT_BYTES, XorDecoder

# Chunks decoded at a time: enough for the price per call not to matter, and 20 ms of work.
BLOCK_CHUNKS: Final = 4096

_ONLY_XOR: Final = frozenset((Chunk.XOR,))
_HISTOGRAMS: Final = frozenset((Chunk.HISTOGRAM, Chunk.FLOAT_HISTOGRAM))


@dataclass(frozen=True)
class ChunkedReply:
    """What a streamed reply held.

    Attributes:
        series: for each query its series; timestamps strictly increasing and within the query's
            range, series without samples left out.
        histogram_chunks: chunks of native histograms, which were skipped.
        histogram_series: whose they were.
        unknown_chunk_types: kinds of chunks that were skipped because we do not know them. Where
            this is not empty the reply is not whole: ask again with SAMPLES.
        samples, duplicates, clipped: samples in ``series``; left out because a later one has the
            same timestamp; left out because they are outside of the range.
    """

    series: list[list[RawSeries]]
    histogram_chunks: int
    histogram_series: tuple[LabelSet, ...]
    unknown_chunk_types: frozenset[int]
    samples: int
    duplicates: int
    clipped: int


class ChunkDecoder:
    """Takes frames as they arrive, decodes a block of chunks at a time, gives the reply at the end.

    One is for one reply. A call of ``feed`` takes at most some 30 ms of CPU for frames of 1 MiB;
    call it in a thread, its NumPy calls leave the interpreter to others all the time.

    Attributes:
        samples, series: how many the frames so far claim to hold. For the caller's budget: no
            chunk claims more than four samples for each of its bytes.

    Args:
        queries: those of the request, in order.
    """

    def __init__(self, queries: Sequence[ReadQuery]) -> None:
        self._assembler = Assembler([(query.start_ms, query.end_ms) for query in queries])
        self._decoder = XorDecoder()
        self._chunks: list[bytes] = []
        self._owners: list[int] = []
        self._histogram_chunks = 0
        self._histogram_series: dict[LabelSet, None] = {}
        self._unknown: set[int] = set()
        self.samples = 0

    @property
    def series(self) -> int:
        return self._assembler.series

    def feed(self, frame: bytes) -> None:
        """Take in the content of one frame.

        Raises:
            WireError: it is not a ChunkedReadResponse, or a chunk is corrupt.
        """
        try:
            response = ChunkedReadResponse.FromString(frame)
        except DecodeError as error:
            raise WireError(f"a frame is not a ChunkedReadResponse: {error}") from None
        for series in response.chunked_series:
            labels = label_set((label.name, label.value) for label in series.labels)
            self._take(self._assembler.owner(response.query_index, labels), labels, series)

    def finish(self) -> ChunkedReply:
        """What all frames held.

        Raises:
            WireError: a chunk is corrupt.
        """
        self._decode_block()
        series = self._assembler.finish()
        return ChunkedReply(
            series=series,
            histogram_chunks=self._histogram_chunks,
            histogram_series=tuple(self._histogram_series),
            unknown_chunk_types=frozenset(self._unknown),
            samples=self._assembler.samples,
            duplicates=self._assembler.duplicates,
            clipped=self._assembler.clipped,
        )

    def _take(self, owner: int, labels: LabelSet, series: ChunkedSeries) -> None:
        chunks = list(series.chunks)
        if {chunk.type for chunk in chunks} != _ONLY_XOR:
            self._note_others(labels, chunks)
            chunks = [chunk for chunk in chunks if chunk.type in _ONLY_XOR]
        contents = [chunk.data for chunk in chunks]
        heads = b"".join([content[:COUNT_BYTES] for content in contents])
        self.samples += 256 * sum(heads[::2]) + sum(heads[1::2])
        self._chunks += contents
        self._owners += [owner] * len(contents)
        if len(self._chunks) >= BLOCK_CHUNKS:
            self._decode_block()

    def _note_others(self, labels: LabelSet, chunks: Sequence[Chunk]) -> None:
        for kind in [chunk.type for chunk in chunks]:
            if kind in _HISTOGRAMS:
                self._histogram_chunks += 1
                self._histogram_series[labels] = None
            elif kind not in _ONLY_XOR:
                self._unknown.add(kind)

    def _decode_block(self) -> None:
        if not self._chunks:
            return
        times, values, counts = self._decoder.decode(self._chunks)
        owners = np.array(self._owners, dtype=np.int64)
        self._chunks, self._owners = [], []
        firsts = np.flatnonzero(np.append(True, owners[1:] != owners[:-1]))
        starts = (np.cumsum(counts) - counts)[firsts]
        self._assembler.add(owners[firsts].tolist(), starts, times, values)
