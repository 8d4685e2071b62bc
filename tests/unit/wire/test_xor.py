from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import WireError
from sidecar.wire import xor_decoder
from sidecar.wire.xor_decoder import MAX_LANES, XorDecoder, sample_counts
from sidecar.wire.xor_encoder import encode_xor_chunk
from sidecar.wire.xor_scalar import decode_xor_chunk
from tests.unit.wire.oracles import (
    NOW_MS,
    SPECIAL_BITS,
    decode_xor,
    floats,
    golden_bits,
    signed,
    value_bits,
)

Samples = list[tuple[int, int]]

# Enough other chunks that NumPy reads them all, of all lengths there usually are.
COMPANY = 60


def encode(samples: Samples) -> bytes:
    times = np.array([time for time, _ in samples], dtype=np.int64)
    return encode_xor_chunk(times, floats([bits for _, bits in samples]))


def decoded(chunks: Sequence[bytes], decoder: XorDecoder | None = None) -> list[Samples]:
    found = (decoder or XorDecoder()).decode(chunks)
    pairs = list(
        zip(found.timestamps_ms.tolist(), found.values.view(np.uint64).tolist(), strict=True)
    )
    ends = np.cumsum(found.counts).tolist()
    return [pairs[end - count : end] for end, count in zip(ends, found.counts, strict=True)]


def random_samples(seed: int, size: int) -> Samples:
    """Timestamps with all kinds of steps, values that stay, drift, jump or are special."""
    rng = np.random.default_rng(seed)
    scale = rng.choice([0, 1, 5, 5000, 60_000, 500_000, 2**40], size, p=[0.3, 0.2] + [0.1] * 5)
    times = NOW_MS + np.cumsum(15_000 + (rng.random(size) * scale).astype(np.int64))
    kinds = rng.integers(0, 4, size)
    bits = np.where(
        kinds == 0, np.uint64(0x4059000000000000), rng.normal(size=size).view(np.uint64)
    )
    bits = np.where(kinds == 2, rng.integers(0, 2**64 - 1, size, dtype=np.uint64), bits)
    special = np.array(SPECIAL_BITS, dtype=np.uint64)
    bits = np.where(kinds == 3, rng.choice(special, size), bits)
    return list(zip(times.tolist(), bits.tolist(), strict=True))


def company(count: int = COMPANY) -> list[bytes]:
    return list(_company(count))


@cache
def _company(count: int) -> tuple[bytes, ...]:
    return tuple(encode(random_samples(n, 1 + (37 * n) % 240)) for n in range(count))


def test_a_chunk_is_these_bits() -> None:
    chunk = golden_bits("xor_chunk.bits")
    start = 1_700_000_000_000
    steps = [0, 15_000, 30_000, 45_001, 80_000, 300_000, 10_300_000, 10_315_000]
    values = [1.0, 1.0, 1.5, 1.25, 1.25, 2.0, -3.0, 2.0]
    times = np.array(steps, dtype=np.int64) + start
    assert encode_xor_chunk(times, np.array(values)) == chunk
    found = XorDecoder().decode([chunk] * COMPANY)
    assert found.timestamps_ms.tolist() == times.tolist() * COMPANY
    assert found.values.tolist() == values * COMPANY


steps = (
    st.sampled_from([0, 1, 15_000, 15_001, 14_999, 8192 + 15_000, 15_000 - 8191])
    | st.integers(0, 2**21)
    | st.integers(0, 2**58)
)


@settings(deadline=None, max_examples=60)
@given(
    start=st.integers(-(2**62), 2**62) | st.just(NOW_MS),
    rest=st.lists(st.tuples(steps, value_bits), max_size=240),
    first=value_bits,
)
def test_what_was_encoded_reads_back_bit_by_bit(
    start: int, rest: list[tuple[int, int]], first: int
) -> None:
    times = np.cumsum([start, *(step for step, _ in rest)], dtype=np.int64)
    samples = list(zip(times.tolist(), [first, *(bits for _, bits in rest)], strict=True))
    chunk = encode(samples)
    assert decode_xor(chunk) == samples
    others = company(COMPANY)
    assert decoded([*others[:20], chunk, *others[20:]])[20] == samples
    assert decoded([chunk]) == [samples]


@pytest.mark.parametrize("width", [14, 17, 20])
@pytest.mark.parametrize("offset", [-1, 0, 1])
@pytest.mark.parametrize("sign", [-1, 1])
def test_each_width_of_a_change_holds_at_its_bounds(width: int, offset: int, sign: int) -> None:
    change = sign * (2 ** (width - 1)) + offset
    base = 2**22
    times = np.cumsum([0, base, base + change, base], dtype=np.int64)
    samples = [(time, 5) for time in times.tolist()]
    chunk = encode(samples)
    assert decode_xor(chunk) == samples
    assert decoded([chunk]) == [samples]
    assert decoded([chunk] * COMPANY) == [samples] * COMPANY


class Writer:
    """Any encoding that the format permits, not only the shortest."""

    def __init__(self, draw: st.DrawFn, count: int) -> None:
        self._draw = draw
        self._bits = f"{count:016b}"
        self._window = (0, 64)
        self.delta = self.time = self.value = 0
        self.samples: Samples = []

    def put(self, value: int, width: int) -> None:
        self._bits += f"{value & ((1 << width) - 1):0{width}b}" if width else ""

    def uvarint(self, value: int) -> None:
        while value > 0x7F:
            self.put(value & 0x7F | 0x80, 8)
            value >>= 7
        self.put(value, 8)

    def sample(self, place: int) -> None:
        if place == 0:
            self.time = self._draw(st.integers(-(2**63), 2**63 - 1))
            self.uvarint(self.time * 2 if self.time >= 0 else -2 * self.time - 1)
            self.value = self._draw(value_bits)
            self.put(self.value, 64)
        else:
            self._time(place)
            self._value()
        self.samples.append((self.time, self.value))

    def _time(self, place: int) -> None:
        if place == 1:
            self.delta = self._draw(st.integers(0, 2**64 - 1))
            self.uvarint(self.delta)
        else:
            width = self._draw(st.sampled_from([0, 14, 17, 20, 64]))
            prefix = {0: "0", 14: "10", 17: "110", 20: "1110", 64: "1111"}[width]
            number = self._draw(st.integers(0, max(2**width - 1, 0)))
            self._bits += prefix
            self.put(number, width)
            if width == 64 or (width and number > 2 ** (width - 1)):
                number -= 2**width
            self.delta += number
        self.time = signed((self.time + self.delta) % 2**64)

    def _value(self) -> None:
        kind = self._draw(st.sampled_from(["0", "10", "11"]))
        self._bits += kind
        if kind == "11":
            leading = self._draw(st.integers(0, 31))
            width = self._draw(st.integers(1, 64 - leading))
            self._window = leading, width
            self.put(leading, 5)
            self.put(width & 63, 6)
        if kind != "0":
            leading, width = self._window
            number = self._draw(st.integers(0, 2**width - 1))
            self.put(number, width)
            self.value ^= number << (64 - leading - width)

    def chunk(self) -> bytes:
        padded = self._bits + "0" * (-len(self._bits) % 8)
        return int(padded, 2).to_bytes(len(padded) // 8, "big")


@st.composite
def any_encoding(draw: st.DrawFn) -> tuple[bytes, Samples]:
    count = draw(st.integers(1, 12))
    writer = Writer(draw, count)
    for place in range(count):
        writer.sample(place)
    return writer.chunk(), writer.samples


@settings(deadline=None, max_examples=60)
@given(st.lists(any_encoding(), min_size=1, max_size=3))
def test_other_encoders_are_understood_bit_by_bit(made: list[tuple[bytes, Samples]]) -> None:
    chunks = [chunk for chunk, _ in made]
    expected = [samples for _, samples in made]
    assert [decode_xor(chunk) for chunk in chunks] == expected
    assert decoded(chunks) == expected
    assert decoded(chunks + company())[: len(chunks)] == expected


@pytest.mark.parametrize("count", [1, 39, 40, 41, 64, 65, MAX_LANES, MAX_LANES + 1])
def test_chunks_of_all_lengths_keep_their_places(count: int) -> None:
    chunks = (company(200) * (count // 200 + 1))[:count]
    known = {chunk: decode_xor(chunk) for chunk in set(chunks)}
    assert decoded(chunks) == [known[chunk] for chunk in chunks]


def test_a_decoder_is_not_changed_by_what_it_decoded() -> None:
    decoder = XorDecoder()
    first, second = company(50), company(120)[50:]
    expected = [[decode_xor(chunk) for chunk in chunks] for chunks in (first, second)]
    assert [decoded(first, decoder), decoded(second, decoder)] == expected
    assert decoded(first, decoder) == expected[0]


def test_earlier_results_are_not_overwritten_by_later_ones() -> None:
    decoder = XorDecoder()
    kept = decoder.decode(company(50))
    before = kept.timestamps_ms.copy(), kept.values.copy()
    decoder.decode(company(90)[40:])
    assert np.array_equal(kept.timestamps_ms, before[0])
    assert np.array_equal(kept.values.view(np.uint64), before[1].view(np.uint64))


@pytest.mark.parametrize("length", [480, 481, 2000])
def test_a_chunk_far_longer_than_the_others_reads_right(length: int) -> None:
    long = random_samples(1, length)
    chunks = [*company(30), encode(long), *company(60)[30:]]
    assert decoded(chunks) == [decode_xor(chunk) for chunk in chunks]


def test_the_longest_chunk_reads_right() -> None:
    samples = [(NOW_MS + place, place) for place in range(65_535)]
    assert decoded([encode(samples)]) == [samples]


def test_an_empty_chunk_has_no_samples() -> None:
    empty = b"\x00\x00"
    assert decoded([empty]) == [[]]
    chunks = [empty, *company(), empty]
    assert decoded(chunks) == [decode_xor(chunk) for chunk in chunks]
    assert decoded([]) == []


def test_bytes_behind_the_last_sample_do_not_matter() -> None:
    chunks = company()
    assert decoded([chunk + b"\xff\xff" for chunk in chunks]) == decoded(chunks)


@pytest.mark.parametrize("alone", [True, False])
def test_a_chunk_that_is_cut_off_anywhere_is_an_error(alone: bool) -> None:
    chunk = encode(random_samples(3, 120))
    others = [] if alone else company()
    for end in range(0, len(chunk), 1 if alone else 61):
        with pytest.raises(WireError):
            decoded([*others, chunk[:end]])


def test_a_chunk_that_runs_past_its_end_is_an_error_beside_any_other() -> None:
    """The bits it takes for its own are then those of the next chunk."""
    chunk = encode(random_samples(3, 120))
    for end in range(len(chunk) - 10, len(chunk)):
        with pytest.raises(WireError):
            decoded([chunk[:end], *company()])


@pytest.mark.parametrize("alone", [True, False])
def test_more_bits_than_a_value_has_are_an_error(alone: bool) -> None:
    head = f"{2:016b}" + f"{0:08b}" + f"{0:064b}" + f"{1:08b}"
    text = head + "11" + f"{31:05b}" + f"{34:06b}" + "1" * 34
    chunk = int(text.ljust(160, "0"), 2).to_bytes(20, "big")
    with pytest.raises(WireError):
        decoded([chunk] if alone else [*company(), chunk])


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("varint", [b"\xff" * 10, b"\x80" * 11, b"\xff" * 9 + b"\x02"])
def test_a_timestamp_above_64_bits_is_an_error(alone: bool, varint: bytes) -> None:
    chunk = b"\x00\x01" + varint + bytes(8)
    with pytest.raises(WireError):
        decoded([chunk] if alone else [*company(), chunk])


@pytest.mark.parametrize(
    ("chunk", "count"),
    [
        (b"\x00\x01" + bytes(9), 1),
        (b"\x00\x02" + bytes(10), 2),
        (b"\x01\x00" + bytes(9 + 64), 256),
    ],
)
def test_a_count_is_believed_as_far_as_the_bytes_can_hold_it(chunk: bytes, count: int) -> None:
    assert sample_counts([chunk]).tolist() == [count]
    with pytest.raises(WireError, match=f"{len(chunk) - 1} bytes claims {count} samples"):
        sample_counts([chunk[:-1]])


@pytest.mark.parametrize("chunk", [b"", b"\x00"])
def test_a_chunk_without_a_count_is_an_error(chunk: bytes) -> None:
    with pytest.raises(WireError):
        decoded([chunk])
    with pytest.raises(WireError):
        decoded([*company(), chunk])


@settings(deadline=None)
@given(st.binary(min_size=2, max_size=60), st.integers(0, 400))
def test_any_bytes_read_alike_alone_and_in_company(rest: bytes, count: int) -> None:
    chunk = count.to_bytes(2, "big") + rest
    results: list[Samples | None] = []
    for others in ([], company(45)):
        try:
            results.append(decoded([*others, chunk])[-1])
        except WireError:
            results.append(None)
    assert results[0] == results[1]


def test_a_few_chunks_are_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixed price of NumPy's way is 50 times that of one chunk."""
    monkeypatch.setattr(xor_decoder, "_Lanes", None)
    chunks = company(10)
    assert decoded(chunks) == [decode_xor(chunk) for chunk in chunks]


def test_the_scalar_reader_gives_the_same_types() -> None:
    times, bits = decode_xor_chunk(encode([(NOW_MS, 1), (NOW_MS + 1, 2)]))
    assert (times.dtype.name, bits.dtype.name) == ("int64", "uint64")


def test_more_leading_zeros_than_five_bits_can_say_are_written_out() -> None:
    chunk = encode([(0, 0), (0, 1)])
    expected = f"{2:016b}" + "0" * 8 + "0" * 64 + "0" * 8 + "11" + f"{31:05b}{33:06b}{1:033b}"
    assert chunk == int(expected.ljust(144, "0"), 2).to_bytes(18, "big")


def test_a_chunk_of_nothing_or_too_much_is_not_written() -> None:
    for size in (0, 65_536):
        with pytest.raises(ValueError, match="1 to 65535 samples"):
            encode_xor_chunk(np.zeros(size, dtype=np.int64), np.zeros(size))
