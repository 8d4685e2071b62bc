"""One XOR chunk, a sample at a time: for few chunks, or one that is far longer than the others.

The format is drawn in ``xor_decoder``.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from sidecar.errors import WireError
from sidecar.series import TimeArray
from sidecar.wire.varint import read_uvarint

_WORD: Final = 0xFFFFFFFFFFFFFFFF
_COUNT_BYTES: Final = 2
_VALUE_BYTES: Final = 8
# The longest sample: 4 + 64 bits of time, 2 + 5 + 6 + 64 of value, beginning within a byte.
_SAMPLE_BYTES: Final = 20
# By the four bits in front: how long the prefix is, and the number behind it.
_CHANGES: Final = (*[(1, 0)] * 8, *[(2, 14)] * 4, *[(3, 17)] * 2, (4, 20), (4, 64))


def decode_xor_chunk(chunk: bytes) -> tuple[TimeArray, NDArray[np.uint64]]:
    """Timestamps in ms, and the values as their bits; one of each for each sample.

    Raises:
        WireError: the chunk is corrupt.
    """
    end = len(chunk)
    count = int.from_bytes(chunk[:_COUNT_BYTES], "big")
    zigzag, at = read_uvarint(chunk, _COUNT_BYTES, end)
    time = zigzag >> 1 ^ -(zigzag & 1)
    bits = int.from_bytes(chunk[at : at + _VALUE_BYTES], "big")
    times, values = [time], [bits]
    at += _VALUE_BYTES
    delta = 0
    if count > 1:
        delta, at = read_uvarint(chunk, at, end)
    position = 8 * at
    right = left = 0
    for row in range(1, count):
        start = position >> 3
        window = int.from_bytes(chunk[start : start + _SAMPLE_BYTES].ljust(_SAMPLE_BYTES, b"\0"))
        rest = 8 * _SAMPLE_BYTES - (position & 7)  # bits of the window that are not read yet
        first = rest
        if row > 1:
            prefix, width = _CHANGES[window >> (rest - 4) & 15]
            rest -= prefix + width
            change = window >> rest & ((1 << width) - 1)
            delta += change - (1 << width) if change << 1 > 1 << width else change
        time += delta
        rest -= 1
        if window >> rest & 1:
            rest -= 1
            if window >> rest & 1:
                rest -= 11
                right = 63 - ((window >> rest) - 1 & 63)
                left = right - (window >> (rest + 6) & 31)
                if left < 0:
                    raise WireError("an XOR chunk places more bits than a value has")
            rest -= 64 - right
            bits ^= (window >> rest & (1 << (64 - right)) - 1) << left
        position += first - rest
        times.append(time)
        values.append(bits)
    if position > 8 * end:
        raise WireError(f"the {count} samples of an XOR chunk of {end} bytes run past its end")
    return _wrapped(times), np.array(values, dtype=np.uint64)


def _wrapped(times: list[int]) -> TimeArray:
    """To int64; what runs over wraps, as it does in the server."""
    return np.array([time & _WORD for time in times], dtype=np.uint64).view(np.int64)
