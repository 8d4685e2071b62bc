"""Runs of Sample messages to arrays and back, without looking at them one by one.

Within a series each sample is the field ``12``, its length, then a double and a varint::

    12 10 09 v0 v1 v2 v3 v4 v5 v6 v7 10 t0 t1 t2 t3 t4 t5      18 bytes
    12 07 10 t0 t1 t2 t3 t4 t5                                  9 bytes: a value of 0 is left out

The varint has six bytes from 1971 to 2109. So a run is a table with rows of 18 bytes, whose
constant columns tell whether it really is one. With zeros in it, it is a table of 9-byte rows of
three kinds: the head of a long sample, its tail, a short sample. Their third bytes are 09, 10 and
10: what is a head shows without reading from the front, the row behind a head is a tail, all others
must be short samples. Any other run is left to the protobuf classes by the caller.
"""

from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sidecar.series import FloatArray, TimeArray

SAMPLE_TAG: Final = 0x12
SAMPLE_BYTES: Final = 18
ROW_BYTES: Final = 9

Bytes: TypeAlias = NDArray[np.uint8]


class RunSamples(NamedTuple):
    """The samples of a run.

    Attributes:
        timestamps_ms: (S,) int64.
        values: (S,) float64.
        ends: (S,) where in the run each sample ends, in bytes.
    """

    timestamps_ms: TimeArray
    values: FloatArray
    ends: NDArray[np.int64]


# A piece whose arrays stay in a second-level cache; a multiple of both kinds of rows.
_PIECE_BYTES: Final = 8192 * SAMPLE_BYTES

_LONG_HEAD: Final = np.uint32(0x091012)
_SHORT_HEAD: Final = np.uint32(0x100712)
_HEAD_MASK: Final = np.uint32(0xFFFFFF)

# The word that ends with the varint: a byte that is not ours, the tag 10, five bytes that say more
# follow, one that says none does.
_TIME_PATTERN: Final = np.uint64(0x00_80_80_80_80_80_10_00)
_TIME_MASK: Final = np.uint64(0x80_80_80_80_80_80_FF_00)

_16, _1, _2, _4 = (np.uint64(n) for n in (16, 1, 2, 4))
_SEVENS: Final = np.uint64(0x7F_7F_7F_7F_7F_7F)
_ODD_SEVENS: Final = np.uint64(0x7F_00_7F_00_7F_00)
_FOURTEENS: Final = tuple(np.uint64(0x3FFF << place) for place in (0, 16, 32))


# The timestamps whose varint has exactly six bytes.
SIX_BYTES_FROM_MS: Final = 2**35
SIX_BYTES_UNTIL_MS: Final = 2**42
_TIME_TAG: Final = 0x10


def varint48(timestamps_ms: TimeArray) -> NDArray[np.uint64]:
    """Each timestamp as a varint of six bytes, the first in the lowest byte of the word.

    Only for timestamps that ``have_six_bytes``.

    >>> hex(varint48(np.array([2**35], dtype=np.int64))[0])
    '0x18080808080'
    """
    rest = timestamps_ms.view(np.uint64)
    word = np.full(rest.shape, 0x8080808080, dtype=np.uint64)  # five bytes say that more follow
    for place in range(6):
        word |= (rest & np.uint64(0x7F << (7 * place))) << np.uint64(place)
    return word


def have_six_bytes(timestamps_ms: TimeArray) -> bool:
    """Whether the varint of each of these, at least one, has exactly six bytes."""
    low, high = int(timestamps_ms.min()), int(timestamps_ms.max())
    return low >= SIX_BYTES_FROM_MS and high < SIX_BYTES_UNTIL_MS


def encode_run(timestamps_ms: TimeArray, values: FloatArray) -> bytes | None:
    """A run of long samples; None where a timestamp does not have its six bytes."""
    size = len(values)
    if size and not have_six_bytes(timestamps_ms):
        return None
    run = np.empty((size, SAMPLE_BYTES), dtype=np.uint8)
    run[:, :3] = np.frombuffer(_LONG_HEAD.tobytes()[:3], dtype=np.uint8)
    run[:, 3:11] = np.ascontiguousarray(values, dtype="<f8").view(np.uint8).reshape(size, 8)
    run[:, 11] = _TIME_TAG
    words = varint48(timestamps_ms).astype("<u8").view(np.uint8).reshape(size, 8)
    run[:, 12:] = words[:, :6]
    return run.tobytes()


def parse_long_run(data: Bytes) -> RunSamples | None:
    """The samples of a run without zeros; None where it is anything else.

    Args:
        data: (n,) uint8, all of the run.
    """
    if len(data) % SAMPLE_BYTES:
        return None
    size = len(data) // SAMPLE_BYTES
    times, values = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.float64)
    for start in range(0, len(data), _PIECE_BYTES):
        piece = data[start : start + _PIECE_BYTES]
        rows = len(piece) // SAMPLE_BYTES
        at = slice(start // SAMPLE_BYTES, start // SAMPLE_BYTES + rows)
        heads = _column(piece, "<u4", 0, rows, SAMPLE_BYTES)
        words = _column(piece, "<u8", 10, rows, SAMPLE_BYTES).astype(np.uint64)
        if not ((heads & _HEAD_MASK) == _LONG_HEAD).all() or not _are_times(words):
            return None
        _read_times(words, times[at])
        values[at] = _column(piece, "<f8", 3, rows, SAMPLE_BYTES)
    return RunSamples(times, values, np.arange(1, size + 1) * SAMPLE_BYTES)


def parse_mixed_run(data: Bytes) -> RunSamples | None:
    """The samples of a run with or without zeros; None where it is anything else."""
    if len(data) % ROW_BYTES:
        return None
    found = []
    start = 0
    while start < len(data):
        stop = min(start + _PIECE_BYTES, len(data))
        last = data[stop - ROW_BYTES : stop - ROW_BYTES + 3]
        if last.tobytes() == _LONG_HEAD.tobytes()[:3]:
            stop += ROW_BYTES  # not between a head and its tail
        samples = _parse_mixed_piece(data[start:stop])
        if stop > len(data) or samples is None:
            return None
        found.append(samples._replace(ends=samples.ends + start))
        start = stop
    if not found:
        return parse_long_run(data)
    if len(found) == 1:
        return found[0]
    times, values, ends = zip(*found, strict=True)
    return RunSamples(np.concatenate(times), np.concatenate(values), np.concatenate(ends))


def _parse_mixed_piece(data: Bytes) -> RunSamples | None:
    rows = len(data) // ROW_BYTES
    heads = _column(data, "<u4", 0, rows, ROW_BYTES) & _HEAD_MASK
    is_head = heads == _LONG_HEAD
    is_tail = np.zeros(rows, dtype=np.bool_)
    is_tail[1:] = is_head[:-1]
    is_short = ~is_head & ~is_tail
    if is_head[-1] or (is_head & is_tail).any() or (heads[is_short] != _SHORT_HEAD).any():
        return None
    last_rows = np.flatnonzero(~is_head)
    # take, not []: it copies the column into alignment first, which is three times as fast.
    words = _column(data, "<u8", 1, rows, ROW_BYTES).take(last_rows).astype(np.uint64, copy=False)
    if not _are_times(words):
        return None
    times = np.empty(len(words), dtype=np.int64)
    _read_times(words, times)
    values = np.zeros(len(words), dtype=np.float64)
    head_rows = np.flatnonzero(is_head)
    # A value begins in its head and ends in its tail: rows before it, less the heads among them.
    places = head_rows - np.arange(len(head_rows))
    values[places] = _column(data, "<f8", 3, rows - 1, ROW_BYTES).take(head_rows)
    return RunSamples(times, values, (last_rows + 1) * ROW_BYTES)


def _column(data: Bytes, dtype: str, at: int, rows: int, stride: int) -> NDArray[Any]:
    """One field of each row, where the rows lie in ``data``; fields need no alignment."""
    return np.ndarray((rows,), dtype=dtype, buffer=data.data, offset=at, strides=(stride,))


def _are_times(words: NDArray[np.uint64]) -> bool:
    return bool(((words & _TIME_MASK) == _TIME_PATTERN).all())


def _read_times(words: NDArray[np.uint64], out: TimeArray) -> None:
    """Varints of six bytes, each at the top of its word, to ``out``; ``words`` is spent.

    Neighbouring groups of seven bits are joined to fourteen, then the three of those to 42.
    """
    np.right_shift(words, _16, out=words)
    np.bitwise_and(words, _SEVENS, out=words)
    odd = words & _ODD_SEVENS
    np.right_shift(odd, _1, out=odd)
    np.subtract(words, odd, out=words)
    time = out.view(np.uint64)
    np.bitwise_and(words, _FOURTEENS[0], out=time)
    np.bitwise_and(words, _FOURTEENS[1], out=odd)
    np.right_shift(odd, _2, out=odd)
    np.bitwise_or(time, odd, out=time)
    np.bitwise_and(words, _FOURTEENS[2], out=odd)
    np.right_shift(odd, _4, out=odd)
    np.bitwise_or(time, odd, out=time)
