"""Remote-read replies as a server gives them, from series to bytes."""

from collections.abc import Iterator, Sequence
from typing import Final

from sidecar.series import LabelSet, RawSeries
from sidecar.wire import remote_pb2, types_pb2
from sidecar.wire.frames import encode_frame
from sidecar.wire.sample_runs import encode_run
from sidecar.wire.varint import encode_uvarint
from sidecar.wire.xor_encoder import encode_xor_chunk

_DELIMITED_1: Final = b"\x0a"  # field 1, delimited: results, timeseries
# As Prometheus cuts them: a chunk is at most so long, a frame ends with the first chunk beyond.
_CHUNK_SAMPLES: Final = 120
FRAME_BYTES: Final = 1024 * 1024


def encode_read_response_samples(results: Sequence[Sequence[RawSeries]]) -> bytes:
    """The protobuf of a ReadResponse, not yet compressed.

    Args:
        results: for each query its series.
    """
    return b"".join(
        _delimited(b"".join(_delimited(_labelled(one) + _samples(one)) for one in series))
        for series in results
    )


def encode_chunked_frames(
    results: Sequence[Sequence[RawSeries]], frame_bytes: int = FRAME_BYTES
) -> Iterator[bytes]:
    """The frames of a streamed reply, in the order they are to be sent.

    Args:
        results: for each query its series; they are sent sorted by labels, as clients expect.
        frame_bytes: a frame ends with the first chunk that makes it longer than this.
    """
    for query, series in enumerate(results):
        for one in sorted(series, key=lambda each: each.labels):
            chunks: list[types_pb2.Chunk] = []
            size = 0
            for chunk in _chunks(one):
                chunks.append(chunk)
                size += len(chunk.data)
                if size > frame_bytes:
                    yield _frame(query, one.labels, chunks)
                    chunks, size = [], 0
            if chunks:
                yield _frame(query, one.labels, chunks)


def _delimited(content: bytes) -> bytes:
    return b"".join((_DELIMITED_1, encode_uvarint(len(content)), content))


def _labels(labels: LabelSet) -> list[types_pb2.Label]:
    return [types_pb2.Label(name=name, value=value) for name, value in labels.pairs]


def _labelled(series: RawSeries) -> bytes:
    return types_pb2.TimeSeries(labels=_labels(series.labels)).SerializeToString()


def _samples(series: RawSeries) -> bytes:
    run = encode_run(series.timestamps_ms, series.values)
    if run is not None:
        return run
    pairs = zip(series.timestamps_ms.tolist(), series.values.tolist(), strict=True)
    samples = [types_pb2.Sample(timestamp=time, value=value) for time, value in pairs]
    return types_pb2.TimeSeries(samples=samples).SerializeToString()


def _chunks(series: RawSeries) -> Iterator[types_pb2.Chunk]:
    for start in range(0, len(series.values), _CHUNK_SAMPLES):
        times = series.timestamps_ms[start : start + _CHUNK_SAMPLES]
        values = series.values[start : start + _CHUNK_SAMPLES]
        yield types_pb2.Chunk(
            min_time_ms=int(times[0]),
            max_time_ms=int(times[-1]),
            type=types_pb2.Chunk.XOR,
            data=encode_xor_chunk(times, values),
        )


def _frame(query: int, labels: LabelSet, chunks: Sequence[types_pb2.Chunk]) -> bytes:
    series = types_pb2.ChunkedSeries(labels=_labels(labels), chunks=chunks)
    response = remote_pb2.ChunkedReadResponse(chunked_series=[series], query_index=query)
    return encode_frame(response.SerializeToString())
