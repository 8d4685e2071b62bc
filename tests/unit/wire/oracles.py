"""Slow twins that are obviously right, and data to try them on."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from hypothesis import strategies as st

from sidecar.series import STALE_BITS, LabelSet, RawSeries
from sidecar.wire import remote_pb2, types_pb2

GOLDEN: Final = Path(__file__).resolve().parents[2] / "golden"
NOW_MS: Final = 1_700_000_000_000
WORD: Final = 2**64 - 1

# Values that a shortcut would spoil, as their bits.
SPECIAL_BITS: Final = (
    0x0000000000000000,  # 0.0
    0x8000000000000000,  # -0.0
    0x7FF8000000000001,  # the NaN that Prometheus writes
    STALE_BITS,
    0xFFF8000000000000,  # NaN with a sign
    0x7FF0000000000001,  # a signalling NaN
    0x7FF0000000000000,  # +Inf
    0xFFF0000000000000,  # -Inf
    0x0000000000000001,  # the smallest denormal
    0x800FFFFFFFFFFFFF,  # the largest negative denormal
    0x7FEFFFFFFFFFFFFF,  # the largest number
    0x3FF0000000000000,  # 1.0
    0x12070A12100A0712,  # the bytes that short samples begin with, within a value
    0xFFFFFFFFFFFFFFFF,
)

value_bits = st.sampled_from(SPECIAL_BITS) | st.integers(0, WORD)


def bits_of(values: Iterable[float]) -> list[int]:
    """Values as integers: a comparison that tells NaNs and zeros apart."""
    found: list[int] = np.array(list(values), dtype=np.float64).view(np.uint64).tolist()
    return found


def floats(bits: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array(bits, dtype=np.uint64).view(np.float64)


def series(labels: dict[str, str], times: Sequence[int], bits: Sequence[int]) -> RawSeries:
    return RawSeries(LabelSet.of(labels), np.array(times, dtype=np.int64), floats(bits))


def plain(found: Iterable[RawSeries]) -> dict[str, list[tuple[int, int]]]:
    """Series as plain numbers, values as bits, for ``==``."""
    return {
        str(one.labels): list(
            zip(one.timestamps_ms.tolist(), bits_of(one.values.tolist()), strict=True)
        )
        for one in found
    }


def golden(name: str) -> bytes:
    """The bytes of a file of hex digits in which ``#`` begins a comment."""
    lines = (GOLDEN / name).read_text(encoding="utf-8").splitlines()
    return bytes.fromhex("".join(line.partition("#")[0] for line in lines))


def signed(word: int, width: int = 64) -> int:
    return word - (1 << width) if word >> (width - 1) else word


class Bits:
    """A chunk as a text of zeros and ones."""

    def __init__(self, data: bytes) -> None:
        self.text = "".join(f"{byte:08b}" for byte in data)
        self.at = 0

    def take(self, width: int) -> int:
        assert self.at + width <= len(self.text), "past the end"
        self.at += width
        return int(self.text[self.at - width : self.at] or "0", 2)

    def uvarint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(8)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value


def decode_xor(chunk: bytes) -> list[tuple[int, int]]:
    """(timestamp, value's bits) of each sample, read as the format is written down."""
    bits = Bits(chunk)
    count = bits.take(16)
    found: list[tuple[int, int]] = []
    time = value = delta = leading = trailing = 0
    for place in range(count):
        if place == 0:
            zigzag = bits.uvarint()
            time = zigzag // 2 if zigzag % 2 == 0 else -(zigzag + 1) // 2
            value = bits.take(64)
            found.append((time, value))
            continue
        delta = bits.uvarint() if place == 1 else delta + _change(bits)
        time = signed((time + delta) & WORD)
        if bits.take(1):
            if bits.take(1):
                leading = bits.take(5)
                trailing = 64 - leading - (bits.take(6) or 64)
            value ^= bits.take(64 - leading - trailing) << trailing
        found.append((time, value))
    return found


def _change(bits: Bits) -> int:
    ones = 0
    while ones < 4 and bits.take(1):
        ones += 1
    width = (0, 14, 17, 20, 64)[ones]
    number = bits.take(width)
    if ones == 4:
        return signed(number)
    return number - (1 << width) if ones and number > 1 << (width - 1) else number


def crc32c(data: bytes) -> int:
    """CRC-32C, a bit at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def pb_labels(labels: LabelSet) -> list[types_pb2.Label]:
    return [types_pb2.Label(name=name, value=value) for name, value in labels.pairs]


def pb_series(one: RawSeries) -> types_pb2.TimeSeries:
    pairs = zip(one.timestamps_ms.tolist(), one.values.tolist(), strict=True)
    return types_pb2.TimeSeries(
        labels=pb_labels(one.labels),
        samples=[types_pb2.Sample(timestamp=time, value=value) for time, value in pairs],
    )


def pb_reply(*results: Sequence[RawSeries]) -> bytes:
    """A ReadResponse by the protobuf classes, so with zeros left out."""
    return remote_pb2.ReadResponse(
        results=[
            remote_pb2.QueryResult(timeseries=[pb_series(one) for one in result])
            for result in results
        ]
    ).SerializeToString()


def pb_decoded(timeseries: Iterable[types_pb2.TimeSeries]) -> dict[str, list[tuple[int, int]]]:
    """What protobuf reads, in the form of ``plain``; series without samples left out."""
    return {
        str(LabelSet.of((label.name, label.value) for label in one.labels)): [
            (sample.timestamp, bits_of([sample.value])[0]) for sample in one.samples
        ]
        for one in timeseries
        if one.samples
    }


def golden_bits(name: str) -> bytes:
    """The same for a file of zeros and ones."""
    lines = (GOLDEN / name).read_text(encoding="utf-8").splitlines()
    text = "".join(line.partition("#")[0].strip() for line in lines)
    return int(text, 2).to_bytes(len(text) // 8, "big")
