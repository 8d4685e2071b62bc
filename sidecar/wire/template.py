"""Write requests from a template: everything but the numbers is serialised once.

A series always has the same labels, so in a request with one sample per series only 15 bytes a
series change from one cycle to the next. They stand together, at a place that never moves::

    0a <length> <labels> 12 10 09 <value, 8 bytes> 10 <timestamp, 6 bytes>
                                  |--------------- patched --------------|

The timestamp keeps its six bytes as long as it lies between 1971 and 2109; any other goes through
the generated classes. A zero is written out, where the classes would leave it away: that reads back
the same, keeps the sign of -0.0, and keeps the place of everything behind it.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sidecar.series import FloatArray, LabelSet, TimeArray
from sidecar.wire import remote_pb2, types_pb2, write_v2_pb2
from sidecar.wire.sample_runs import have_six_bytes, varint48
from sidecar.wire.varint import encode_uvarint

_SAMPLE_HEAD: Final = bytes((0x12, 16, 0x09))  # field 2, 16 bytes; in it field 1, a double
_PATCH_BYTES: Final = 15  # the double, the tag of field 2, a varint of six bytes
_SECOND_WORD: Final = 7  # where the last byte of the double stands: 1 + 1 + 6 bytes make a word


class WriteTemplate:
    """Remote write 1.0 requests for a fixed list of series, one sample each.

    Threads may share one: encoding never changes it.

    Args:
        labels: N label sets, no two the same (a receiver takes a request with a repeated series
            and silently keeps one of its samples).
    """

    _series_tag = bytes((0x0A,))  # WriteRequest.timeseries

    def __init__(self, labels: Sequence[LabelSet]) -> None:
        self.labels = tuple(labels)
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("a write request names the same series twice")
        self._lay_out(b"", [_labels_v1(one) for one in self.labels])

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size_bytes(self) -> int:
        """The length of a request with all series, before compression."""
        return len(self._blank)

    def encode(
        self,
        timestamps_ms: int | TimeArray,
        values: FloatArray,
        keep: NDArray[np.bool_] | None = None,
    ) -> bytes:
        """The request's protobuf, not yet compressed.

        Args:
            timestamps_ms: one for all series, or (N,) int64.
            values: (N,) float64; every bit pattern passes, NaN and staleness markers included.
            keep: (N,), which series to send; None is all.
        """
        times = np.broadcast_to(np.asarray(timestamps_ms, dtype=np.int64), values.shape)
        if values.shape != (len(self.labels),):
            raise ValueError(f"{values.shape} values for {len(self.labels)} series")
        if keep is not None and keep.all():
            keep = None
        chosen = times if keep is None else times[keep]
        if chosen.size and not have_six_bytes(chosen):
            rows = np.arange(len(values)) if keep is None else np.flatnonzero(keep)
            return self._encode_by_classes(rows, times, values)
        patched = self._patch(timestamps_ms if isinstance(timestamps_ms, int) else times, values)
        if keep is None:
            return patched.tobytes()
        whole = patched.data
        parts = [whole[self._starts[row] : self._starts[row + 1]] for row in np.flatnonzero(keep)]
        return b"".join([whole[: self._starts[0]], *parts])

    def _lay_out(self, head: bytes, prefixes: Sequence[bytes]) -> None:
        """Build the blank request: ``head``, then for each series its prefix and a sample."""
        parts = [head]
        starts = [len(head)]
        for prefix in prefixes:
            length = len(prefix) + len(_SAMPLE_HEAD) + _PATCH_BYTES
            message = self._series_tag + encode_uvarint(length) + prefix + _SAMPLE_HEAD
            parts.append(message + bytes(_PATCH_BYTES))
            starts.append(starts[-1] + len(message) + _PATCH_BYTES)
        self._blank = np.frombuffer(b"".join(parts), dtype=np.uint8)
        self._starts = starts
        self._patch_at = np.array(starts[1:], dtype=np.intp) - _PATCH_BYTES

    def _patch(self, timestamps_ms: int | TimeArray, values: FloatArray) -> NDArray[np.uint8]:
        filled = self._blank.copy()
        if not len(values):
            return filled
        # Words of eight bytes that begin at every byte: two of them cover the patch, and share
        # the last byte of the double.
        words = np.ndarray((filled.size - 7,), dtype="<u8", buffer=filled.data, strides=(1,))
        bits = np.ascontiguousarray(values).view(np.uint64)
        times = np.atleast_1d(np.asarray(timestamps_ms, dtype=np.int64))
        tail = varint48(times) << np.uint64(16) | np.uint64(0x10 << 8)
        words[self._patch_at] = bits
        words[self._patch_at + _SECOND_WORD] = bits >> np.uint64(56) | tail
        return filled

    def _encode_by_classes(
        self, rows: NDArray[np.intp], times: TimeArray, values: FloatArray
    ) -> bytes:
        request = remote_pb2.WriteRequest()
        for row in rows:
            series = request.timeseries.add()
            series.MergeFromString(_labels_v1(self.labels[row]))
            series.samples.add(value=values[row], timestamp=times[row])
        return request.SerializeToString(deterministic=True)


class WriteTemplateV2(WriteTemplate):
    """The same for remote write 2.0: strings stand once, in a table in front of the series."""

    _series_tag = bytes((0x2A,))  # Request.timeseries

    def __init__(self, labels: Sequence[LabelSet]) -> None:
        self.labels = tuple(labels)
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("a write request names the same series twice")
        symbols = {"": 0}
        refs = [
            [symbols.setdefault(text, len(symbols)) for pair in one.pairs for text in pair]
            for one in self.labels
        ]
        self._head = write_v2_pb2.Request(symbols=list(symbols)).SerializeToString()
        self._refs = refs
        self._lay_out(self._head, [_labels_v2(one) for one in refs])

    def _encode_by_classes(
        self, rows: NDArray[np.intp], times: TimeArray, values: FloatArray
    ) -> bytes:
        request = write_v2_pb2.Request.FromString(self._head)
        for row in rows:
            series = request.timeseries.add(labels_refs=self._refs[row])
            series.samples.add(value=values[row], timestamp=times[row])
        return request.SerializeToString(deterministic=True)


def _labels_v1(labels: LabelSet) -> bytes:
    message = types_pb2.TimeSeries(
        labels=[types_pb2.Label(name=name, value=value) for name, value in labels.pairs]
    )
    return message.SerializeToString(deterministic=True)


def _labels_v2(refs: Sequence[int]) -> bytes:
    return write_v2_pb2.TimeSeries(labels_refs=refs).SerializeToString(deterministic=True)
