import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.wire.crc import crc32c
from tests.unit.wire import oracles


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_the_published_examples_have_their_checksums(data: bytes, crc: int) -> None:
    assert crc32c(data) == crc


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_it_is_the_checksum_that_is_made_bit_by_bit(data: bytes) -> None:
    assert crc32c(data) == oracles.crc32c(data)


@pytest.mark.parametrize("length", [65_535, 65_536, 65_537, 131_072, 140_000])
def test_it_holds_beyond_the_blocks_of_the_framing_format(length: int) -> None:
    data = bytes((place * 7 + place // 251) & 0xFF for place in range(length))
    assert crc32c(data) == oracles.crc32c(data)


def test_views_are_taken_as_they_come() -> None:
    assert crc32c(memoryview(bytearray(b"123456789"))) == 0xE3069283
