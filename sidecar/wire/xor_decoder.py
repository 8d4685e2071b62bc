"""Many XOR chunks at once: sample i of all of them, then sample i + 1.

A chunk is a string of bits that can only be read from the front: how long a sample is, its own
bits say. But chunks do not depend on each other. So each chunk is a lane of a NumPy array with a
position of its own, and one pass over the arrays reads the next sample of some thousand chunks.
What is read of a lane are always the 64 bits from its position on: a *window*.

The format (Prometheus' variant of Gorilla, see ``xor_encoder``)::

    16 bits   count
    varint    t0, zigzag              64 bits   v0
    varint    t1 - t0                 value
    then      0                       the difference of timestamps stays
           or 10   + 14 bits          it changes by this much
           or 110  + 17 bits
           or 1110 + 20 bits
           or 1111 + 64 bits
              value
    value     0                       the value before once more
           or 10 + n bits             exclusive-or with these bits, placed as the last time
           or 11 + 5 bits + 6 bits + n bits
                                      the same, placed anew: so many zeros lead, then n bits

The 14, 17 or 20 bits are two's complement, except that the highest bit alone is positive: n bits
reach from -2**(n-1) + 1 to 2**(n-1). The 6 bits say n, with 0 for 64.

Lanes are sorted by count, the longest first: those that still go on are a prefix, and no mask is
needed. Samples are written sample-major, whole rows at a time, and turned chunk-major at the end.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidecar.errors import WireError
from sidecar.series import FloatArray, TimeArray
from sidecar.wire.xor_scalar import decode_xor_chunk

Words = NDArray[np.uint64]
Indices = NDArray[np.intp]

COUNT_BYTES: Final = 2
# Lanes whose state, and the cache lines they read from, stay in a second-level cache of 1 MiB.
MAX_LANES: Final = 2300
# Below, NumPy's fixed price of some 60 calls a sample is higher than plain Python's for all lanes.
_MIN_LANES: Final = 40
# Prometheus cuts chunks at 240 samples. Longer ones are read alone: in the company of others, each
# further sample would cost as much as one of all lanes.
_MAX_ROWS: Final = 480
_TILE: Final = 64  # lanes turned from sample-major to chunk-major at once

_MIN_HEAD_BITS: Final = 8 + 64  # the first sample: at least one byte of time, and the value
_MIN_SAMPLE_BITS: Final = 2
_MAX_VARINT_BYTES: Final = 10

# As uint64, or every call would find out anew what type a plain int should have.
_0, _1, _2, _3, _4, _6, _7, _8, _11, _15, _31, _51, _57, _60, _62, _63, _64 = (
    np.uint64(n) for n in (0, 1, 2, 3, 4, 6, 7, 8, 11, 15, 31, 51, 57, 60, 62, 63, 64)
)
_SEVEN_BITS: Final = np.uint64(0x7F)
_TO_BOTTOM: Final = np.int64(64 - 14)  # brings the 14 bits at the top of a word to its bottom
_ONE_AT_TOP: Final = np.int64(1 << (64 - 14))
_ONE: Final = np.int64(1)
_TWO_PREFIX_BITS: Final = 12  # first four bits of a change longer than 14 bits
_ANY_CHANGE: Final = 8  # first four bits of a change


class XorSamples(NamedTuple):
    """The samples of some chunks, one chunk behind the other.

    Attributes:
        timestamps_ms: int64, the sum of ``counts`` of them.
        values: float64, as many.
        counts: how many are in each chunk, in the order the chunks were given.
    """

    timestamps_ms: TimeArray
    values: FloatArray
    counts: NDArray[np.int64]


class XorDecoder:
    """Decodes XOR chunks; keeps its room for the next call, so one is for one thread at a time."""

    def __init__(self) -> None:
        self._rows: tuple[TimeArray, Words] | None = None

    def decode(self, chunks: Sequence[bytes]) -> XorSamples:
        """The samples of all chunks, in order.

        Raises:
            WireError: a chunk is corrupt: too short for its count, or its bits run past its end.
        """
        counts = sample_counts(chunks)
        offsets = np.cumsum(counts) - counts
        total = int(counts.sum())
        # One allocation: from 4 MiB on NumPy asks for huge pages, and most page faults go away.
        room = np.empty(2 * total, dtype=np.int64)
        times, bits = room[:total], room[total:].view(np.uint64)
        order = np.argsort(-counts, kind="stable")
        longest_first = counts[order]
        alone = int(np.count_nonzero(counts > _MAX_ROWS))
        end = int(np.count_nonzero(counts))
        if end - alone < _MIN_LANES:
            alone = end
        for row in order[:alone].tolist():
            at = slice(int(offsets[row]), int(offsets[row] + counts[row]))
            times[at], bits[at] = decode_xor_chunk(chunks[row])
        # In equal parts: the last one costs as much as the others, however few are left for it.
        parts = -(-(end - alone) // MAX_LANES)
        for part in range(parts):
            at = slice(*(alone + (end - alone) * edge // parts for edge in (part, part + 1)))
            rows = order[at]
            some = [chunks[row] for row in rows.tolist()]
            out_times, out_bits = self._decode_lanes(some, longest_first[at])
            _turn(out_times, times, counts[rows], offsets[rows])
            _turn(out_bits, bits, counts[rows], offsets[rows])
        return XorSamples(times, bits.view(np.float64), counts)

    def _decode_lanes(
        self, chunks: Sequence[bytes], counts: NDArray[np.int64]
    ) -> tuple[TimeArray, Words]:
        """Sample-major (rows, lanes); ``counts`` do not increase, and none is 0."""
        if self._rows is None:
            # MAX_LANES is no power of two: all rows would share the same few cache sets.
            shape = (_MAX_ROWS, MAX_LANES)
            self._rows = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.uint64)
        times = self._rows[0][: int(counts[0]), : len(chunks)]
        bits = self._rows[1][: int(counts[0]), : len(chunks)]
        lanes = _Lanes(chunks)
        lanes.first(times[0], bits[0])
        active = np.searchsorted(-counts, -np.arange(counts[0]), side="left").tolist()
        for row in range(1, len(active)):
            going = active[row]
            if going < active[row - 1]:
                lanes.narrow(going)
            if row == 1:
                lanes.second_time()
            else:
                lanes.next_time()
            np.add(times[row - 1, :going], lanes.delta, out=times[row, :going])
            lanes.next_difference()
            np.bitwise_xor(bits[row - 1, :going], lanes.window, out=bits[row, :going])
        lanes.check()
        return times, bits


def sample_counts(chunks: Sequence[bytes]) -> NDArray[np.int64]:
    """How many samples each chunk claims; never more than its length can hold.

    Raises:
        WireError: a chunk is too short for its count, or has none.
    """
    heads = b"".join([chunk[:COUNT_BYTES] for chunk in chunks])
    lengths = np.fromiter(map(len, chunks), dtype=np.int64, count=len(chunks))
    if len(heads) < COUNT_BYTES * len(chunks):
        raise WireError("an XOR chunk is shorter than the count in front of it")
    counts = np.frombuffer(heads, dtype=">u2").astype(np.int64)
    needed = _MIN_HEAD_BITS + _MIN_SAMPLE_BITS * (counts - 1)
    lying = (counts > 0) & (needed > 8 * (lengths - COUNT_BYTES))
    if lying.any():
        row = int(np.argmax(lying))
        raise WireError(f"an XOR chunk of {lengths[row]} bytes claims {counts[row]} samples")
    return counts


class _Lanes:
    """One chunk a lane: where it stands, and room to compute in.

    Every array is (lanes,); ``narrow`` makes them views of their own front.
    """

    def __init__(self, chunks: Sequence[bytes]) -> None:
        size = len(chunks)
        lengths = np.fromiter(map(len, chunks), dtype=np.uint64, count=size)
        ends = np.cumsum(lengths)
        padding = bytes(-int(ends[-1]) % 8)
        self._bytes = np.frombuffer(b"".join([*chunks, padding]), dtype=np.uint8)
        self._words = self._bytes.view(">u8").astype(np.uint64)
        self._end_bits = ends * _8
        position = (ends - lengths + np.uint64(COUNT_BYTES)) * _8
        state = [np.zeros(size, dtype=np.uint64) for _ in range(4)]
        room = [np.empty(size, dtype=np.uint64) for _ in range(6)]
        self._all = (position, *state, *room)
        self.narrow(size)

    def narrow(self, lanes: int) -> None:
        """Go on with the first ``lanes`` only."""
        front = [one[:lanes] for one in self._all]
        self._position, delta, self._right, self._left, self._misplaced, *room = front
        self.delta = delta.view(np.int64)
        self.window, self._a, self._b, self._c, self._d, self._e = room
        self._signed_a, self._signed_b = self._a.view(np.int64), self._b.view(np.int64)
        self._signed_d = self._d.view(np.int64)

    def first(self, times: TimeArray, bits: Words) -> None:
        """Read the first sample of each chunk."""
        zigzag = self._read_varint()
        times[:] = ((zigzag >> _1) ^ (_0 - (zigzag & _1))).view(np.int64)
        self._read_window()
        bits[:] = self.window
        self._position += _64

    def second_time(self) -> None:
        """Read the first difference of timestamps, and leave the window on what follows it."""
        self.delta[:] = self._read_varint().view(np.int64)
        self._read_window()

    def next_time(self) -> None:
        """Read how the difference of timestamps changes; the window is on what follows."""
        self._read_window()
        window, prefix = self.window, self._c
        np.right_shift(window, _60, out=prefix)
        largest = int(prefix.max())
        if largest < _ANY_CHANGE:
            self._position += _1
            np.left_shift(window, _1, out=window)
            return
        long = np.flatnonzero(prefix >= _TWO_PREFIX_BITS) if largest >= _TWO_PREFIX_BITS else None
        changes = long if long is None else self._long_changes(long)
        # The change as if all that change do so by 14 bits; lanes that stay have a mask of zeros.
        change, mask, used = self._signed_a, self._b, self._d
        np.right_shift(window, _63, out=mask)
        np.negative(self._signed_b, out=self._signed_b)
        np.left_shift(window, _2, out=self._a)
        np.subtract(change, _ONE_AT_TOP, out=change)  # the highest bit alone is positive: go one
        np.right_shift(change, _TO_BOTTOM, out=change)  # down, extend the sign, and go up again
        np.add(change, _ONE, out=change)
        np.bitwise_and(self._a, mask, out=self._a)
        np.bitwise_and(mask, _15, out=used)
        np.add(used, _1, out=used)
        if long is not None and changes is not None:
            change[long], used[long] = changes
        np.add(self.delta, change, out=self.delta)
        np.add(self._position, used, out=self._position)
        np.left_shift(window, used, out=window)
        if long is not None:
            window[long] = self._window_at(self._position[long])

    def next_difference(self) -> None:
        """Read the bits in which the next value differs, into ``window``.

        Before the call ``window`` is on the first bit of the value.
        """
        window = self.window
        anew, changed, mask, right, left = self._a, self._b, self._d, self._c, self._e
        np.right_shift(window, _62, out=anew)
        np.right_shift(anew, _1, out=changed)
        np.bitwise_and(anew, changed, out=anew)
        np.negative(self._signed_a, out=self._signed_d)
        # 64 - n and 64 - n - leading, should the bits be placed anew (0 stands for n = 64).
        np.right_shift(window, _51, out=right)
        np.subtract(right, _1, out=right)
        np.bitwise_and(right, _63, out=right)
        np.subtract(_63, right, out=right)
        np.right_shift(window, _57, out=left)
        np.bitwise_and(left, _31, out=left)
        np.subtract(right, left, out=left)
        _choose(self._right, right, mask)
        _choose(self._left, left, mask)
        np.bitwise_or(self._misplaced, self._left, out=self._misplaced)
        # One bit, one more where the value changed, eleven more where it is placed anew.
        np.bitwise_and(mask, _11, out=mask)
        np.add(self._position, mask, out=self._position)
        np.add(self._position, changed, out=self._position)
        np.add(self._position, _1, out=self._position)
        np.negative(self._signed_b, out=self._signed_b)
        self._read_window()
        np.right_shift(window, self._right, out=window)
        np.left_shift(window, self._left, out=window)
        np.bitwise_and(window, changed, out=window)
        np.subtract(_64, self._right, out=self._a)
        np.bitwise_and(self._a, changed, out=self._a)
        np.add(self._position, self._a, out=self._position)

    def check(self) -> None:
        """Raises WireError where a lane was read past its end, or bits were placed past theirs."""
        position, misplaced = self._all[0], self._all[4]
        corrupt = (position > self._end_bits) | (misplaced > _63)
        if corrupt.any():
            raise WireError(f"{np.count_nonzero(corrupt)} of {len(corrupt)} XOR chunks are corrupt")

    def _read_window(self) -> None:
        """Put the 64 bits from each position on into ``window``.

        Beyond the last chunk they are any bits: ``check`` finds out who used some of them.
        """
        window, at, low = self.window, self._c, self._d
        index = at.view(np.int64)
        np.right_shift(self._position, _6, out=at)
        self._words.take(index, out=window, mode="clip")
        np.add(index, _ONE, out=index)
        self._words.take(index, out=low, mode="clip")
        np.bitwise_and(self._position, _63, out=at)
        np.left_shift(window, at, out=window)
        np.bitwise_xor(at, _63, out=at)  # 63 - at: with the shift by 1, also right for at = 0
        np.right_shift(low, _1, out=low)
        np.right_shift(low, at, out=low)
        np.bitwise_or(window, low, out=window)

    def _window_at(self, positions: Words) -> Words:
        """The 64 bits from other positions on."""
        index = (positions >> _6).view(np.int64)
        at = positions & _63
        high = self._words.take(index, mode="clip") << at
        low = (self._words.take(index + _ONE, mode="clip") >> _1) >> (at ^ _63)
        return np.bitwise_or(high, low)

    def _long_changes(self, rows: Indices) -> tuple[TimeArray, Words]:
        """The changes with 17, 20 or 64 bits in these lanes, and the bits they take up."""
        positions = self._position[rows]
        window = self.window[rows]
        prefix = window >> _60
        width = np.where(prefix == 15, 64, np.where(prefix == 14, 20, 17)).astype(np.uint64)
        used = np.where(prefix < 14, _3, _4)
        above = _64 - width
        value = self._window_at(positions + used) >> above
        half = np.uint64(1) << (width - _1)
        negative = (value > half) & (width < _64)
        return (value - (negative * (half << _1))).view(np.int64), used + width

    def _read_varint(self) -> Words:
        """Read one variable-length integer of each lane.

        Raises:
            WireError: one does not fit in 64 bits.
        """
        value = np.zeros(len(self._position), dtype=np.uint64)
        more = np.ones(len(self._position), dtype=np.uint64)
        for place in range(_MAX_VARINT_BYTES):
            at = (self._position >> _3).view(np.int64)
            byte = self._bytes.take(at, mode="clip").astype(np.uint64)
            value |= ((byte & _SEVEN_BITS) * more) << np.uint64(7 * place)
            self._position += more * _8
            if place == _MAX_VARINT_BYTES - 1 and (byte * more > _1).any():
                break  # the tenth byte holds the 64th bit
            more &= byte >> _7
            if not more.any():
                return value
        raise WireError("an XOR chunk has a timestamp that does not fit in 64 bits")


def _choose(old: Words, new: Words, mask: Words) -> None:
    """``old`` becomes ``new`` where ``mask`` has all bits; ``new`` is spent."""
    np.bitwise_xor(new, old, out=new)
    np.bitwise_and(new, mask, out=new)
    np.bitwise_xor(old, new, out=old)


def _turn(
    rows: NDArray[np.generic],
    out: NDArray[np.generic],
    counts: NDArray[np.int64],
    offsets: NDArray[np.int64],
) -> None:
    """Write each lane of ``rows`` (sample-major) to its place in ``out``.

    Runs of lanes that have the same count and stand one behind the other in ``out`` go together,
    a tile at a time that stays in the first-level cache.
    """
    breaks = (counts[1:] != counts[:-1]) | (offsets[1:] != offsets[:-1] + counts[:-1])
    edges = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(counts)]
    for first, after in pairwise(edges):
        count = int(counts[first])
        for lane in range(first, after, _TILE):
            stop = min(lane + _TILE, after)
            at = int(offsets[lane])
            target = out[at : at + count * (stop - lane)].reshape(stop - lane, count)
            target[:] = rows[:count, lane:stop].T
