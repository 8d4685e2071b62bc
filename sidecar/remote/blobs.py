"""Taking write requests apart and putting them together without touching a sample's bytes.

A remote write 1.0 request is nothing but ``0a <length> <series>`` for each series, so requests
with different series join by concatenation and part at any of those borders.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise

import numpy as np

from sidecar.errors import WireError
from sidecar.series import FloatArray, LabelSet, TimeArray
from sidecar.wire import snappy
from sidecar.wire.types_pb2 import TimeSeries
from sidecar.wire.varint import read_uvarint

_SERIES_TAG = 0x0A
MAX_REQUEST_BYTES = 32 * 1024 * 1024  # what a receiver decodes at most, and so what we ever wrote


def unpack(body: bytes) -> bytes:
    """The protobuf of a stored (snappy) request."""
    return bytes(snappy.decompress(body, MAX_REQUEST_BYTES))


def join(bodies: Sequence[bytes]) -> bytes:
    """One stored request with the series of all, which have none in common."""
    if len(bodies) == 1:
        return bodies[0]
    return snappy.compress(b"".join(unpack(body) for body in bodies))


def series_borders(raw: bytes) -> list[int]:
    """Where each series of the protobuf begins, and where the last one ends (n + 1 numbers).

    Raises:
        WireError: not a request of ours.
    """
    borders, at = [0], 0
    while at < len(raw):
        if raw[at] != _SERIES_TAG:
            raise WireError(f"byte {at} of a stored request is no series")
        length, start = read_uvarint(raw, at + 1, len(raw))
        at = start + length
        borders.append(at)
    if at != len(raw):
        raise WireError("a stored request is cut off")
    return borders


def halves(body: bytes, *, by_bytes: bool = False) -> tuple[tuple[bytes, int], tuple[bytes, int]]:
    """Two stored requests with about half the series (or half the bytes) each, and their counts.

    Needs two series or more; both halves have at least one.
    """
    raw = unpack(body)
    borders = series_borders(raw)
    count = len(borders) - 1
    middle = count // 2
    if by_bytes:
        middle = sum(1 for border in borders[1:-1] if border <= len(raw) // 2)
    middle = min(max(middle, 1), count - 1)
    cut = borders[middle]
    left, right = snappy.compress(raw[:cut]), snappy.compress(raw[cut:])
    return (left, middle), (right, count - middle)


def without(body: bytes, unwanted: Collection[LabelSet]) -> tuple[bytes, int]:
    """The stored request without some series, and how many were taken out."""
    raw = unpack(body)
    borders = series_borders(raw)
    parts = [raw[start:end] for start, end in pairwise(borders)]
    kept = [part for part in parts if _labels(part) not in unwanted]
    if len(kept) == len(parts):
        return body, 0
    return snappy.compress(b"".join(kept)), len(parts) - len(kept)


def contents(body: bytes) -> tuple[list[LabelSet], TimeArray, FloatArray]:
    """The N series of a stored request, with the timestamp and value of each."""
    raw = unpack(body)
    messages = [_series(raw[start:end]) for start, end in pairwise(series_borders(raw))]
    times = np.array([one.samples[0].timestamp for one in messages], dtype=np.int64)
    values = np.array([one.samples[0].value for one in messages], dtype=np.float64)
    return [_label_set(one) for one in messages], times, values


def _series(message: bytes) -> TimeSeries:
    _, start = read_uvarint(message, 1, len(message))
    return TimeSeries.FromString(message[start:])


def _label_set(series: TimeSeries) -> LabelSet:
    return LabelSet(tuple((label.name, label.value) for label in series.labels))


def _labels(message: bytes) -> LabelSet:
    return _label_set(_series(message))
