import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import WireError
from sidecar.wire import snappy
from sidecar.wire.varint import encode_uvarint

MIB = 1024 * 1024


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_what_was_compressed_reads_back(data: bytes) -> None:
    assert bytes(snappy.decompress(snappy.compress(data), len(data))) == data


def test_megabytes_read_back() -> None:
    data = bytes(range(256)) * 20_000
    assert bytes(snappy.decompress(snappy.compress(data), len(data))) == data


def test_content_above_the_limit_is_refused() -> None:
    packed = snappy.compress(b"a" * 1000)
    assert len(snappy.decompress(packed, 1000)) == 1000
    with pytest.raises(WireError, match="claim 1000, at most 999 allowed"):
        snappy.decompress(packed, 999)


def test_a_lying_length_costs_no_memory() -> None:
    tracemalloc.start()
    for claimed in (2**32 - 1, 512 * MIB, 200_000):
        lie = encode_uvarint(claimed) + b"\x00" * 3000
        with pytest.raises(WireError, match="cannot hold"):
            snappy.decompress(lie, 2**40)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MIB


def test_the_densest_block_there_can_be_is_no_lie() -> None:
    copies = 1000
    # One literal byte, then copies of 64 bytes from one byte back, each in three bytes.
    block = encode_uvarint(1 + 64 * copies) + b"\x00a" + b"\xfe\x01\x00" * copies
    assert bytes(snappy.decompress(block, MIB)) == b"a" * (1 + 64 * copies)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"\xff\xff\xff\xff\xff\x01",
        b"\x80\x80\x80\x80\x20",  # 2**33
        b"\x00\x00",
        b"\x05\x10abc",
        b"\x03\x08abc\x00a",
        b"\x04\x08abc",
        b"exceeded sample limit (10)\n",
    ],
)
def test_what_is_no_block_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        snappy.decompress(data, MIB)


def test_an_empty_block_is_empty() -> None:
    assert bytes(snappy.decompress(b"\x00", 0)) == b""


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_give_content_or_an_error(data: bytes) -> None:
    try:
        snappy.decompress(data, MIB)
    except WireError:
        return


def test_views_are_taken_as_they_come() -> None:
    packed = memoryview(bytearray(snappy.compress(b"abc")))
    assert bytes(snappy.decompress(packed, 3)) == b"abc"
