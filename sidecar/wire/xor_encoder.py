"""One chunk of samples in Prometheus' XOR encoding, a sample at a time.

For the few samples that the remote-read server gives out (forecast paths); reading, which sees
millions, is in ``xor_decoder``. The encoding is Gorilla's (Pelkonen et al., "Gorilla: a fast,
scalable, in-memory time series database", VLDB 2015, section 4.1) with Prometheus' widths: instants
are in milliseconds, so the differences of differences have 14, 17 or 20 bits instead of 7, 9 or 12.
"""

from typing import Final

import numpy as np

from sidecar.series import FloatArray, TimeArray
from sidecar.wire.varint import encode_uvarint

MAX_SAMPLES: Final = 65_535  # the count in front has 16 bits
_WORD: Final = 0xFFFFFFFFFFFFFFFF
_MAX_LEADING: Final = 31  # the field for it has five bits


class _Bits:
    """Bits appended at the end of one long integer, the oldest highest."""

    def __init__(self) -> None:
        self._done = bytearray()
        self._pending = 0
        self._length = 0

    def put(self, value: int, width: int) -> None:
        self._pending = self._pending << width | value
        self._length += width
        if self._length >= 512:
            spare = self._length % 8
            self._done += (self._pending >> spare).to_bytes(self._length // 8, "big")
            self._pending &= (1 << spare) - 1
            self._length = spare

    def to_bytes(self) -> bytes:
        """All of it, the last byte filled up with zeros."""
        padding = -self._length % 8
        tail = (self._pending << padding).to_bytes((self._length + padding) // 8, "big")
        return bytes(self._done) + tail


def encode_xor_chunk(timestamps_ms: TimeArray, values: FloatArray) -> bytes:
    """A chunk of 1 to 65,535 samples, bit for bit what Prometheus would store for them.

    Args:
        timestamps_ms: (S,) int64, not decreasing.
        values: (S,) float64; every bit pattern passes.
    """
    if not 0 < len(values) <= MAX_SAMPLES:
        raise ValueError(f"a chunk has 1 to {MAX_SAMPLES} samples, not {len(values)}")
    times = timestamps_ms.tolist()
    words = np.ascontiguousarray(values).view(np.uint64).tolist()
    out = _Bits()
    out.put(len(words), 16)
    first = encode_uvarint((times[0] << 1 ^ times[0] >> 63) & _WORD)  # zigzag
    out.put(int.from_bytes(first, "big"), 8 * len(first))
    out.put(words[0], 64)
    delta = 0
    window = (_MAX_LEADING + 1, 0)  # no window yet: nothing fits in it
    for place in range(1, len(words)):
        step = times[place] - times[place - 1]
        if place == 1:
            second = encode_uvarint(step & _WORD)
            out.put(int.from_bytes(second, "big"), 8 * len(second))
        else:
            _put_change(out, step - delta)
        delta = step
        window = _put_value(out, words[place] ^ words[place - 1], window)
    return out.to_bytes()


def _put_change(out: _Bits, change: int) -> None:
    """The difference of two differences of timestamps."""
    if change == 0:
        out.put(0b0, 1)
        return
    for prefix, prefix_width, width in ((0b10, 2, 14), (0b110, 3, 17), (0b1110, 4, 20)):
        half = 1 << (width - 1)
        if -half < change <= half:
            out.put(prefix, prefix_width)
            out.put(change & ((1 << width) - 1), width)
            return
    out.put(0b1111, 4)
    out.put(change & _WORD, 64)


def _put_value(out: _Bits, difference: int, window: tuple[int, int]) -> tuple[int, int]:
    """The bits in which two values differ; gives the window of (leading, trailing) zeros after."""
    if difference == 0:
        out.put(0b0, 1)
        return window
    leading = min(64 - difference.bit_length(), _MAX_LEADING)
    trailing = (difference & -difference).bit_length() - 1
    if leading >= window[0] and trailing >= window[1]:
        out.put(0b10, 2)
        out.put(difference >> window[1], 64 - window[0] - window[1])
        return window
    width = 64 - leading - trailing
    out.put(0b11, 2)
    out.put(leading, 5)
    out.put(width & 63, 6)  # 64 does not fit: it is written 0
    out.put(difference >> trailing, width)
    return leading, trailing
