import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import WireError
from sidecar.wire.varint import (
    encode_uvarint,
    find_fields,
    read_delimited,
    read_uvarint,
    skip_field,
)


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1), st.binary(max_size=3), st.binary(max_size=3))
def test_an_integer_reads_back_from_within_other_bytes(
    value: int, before: bytes, after: bytes
) -> None:
    data = before + encode_uvarint(value) + after
    assert read_uvarint(data, len(before), len(data)) == (value, len(data) - len(after))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"\xff" * 9,
        b"\x80" * 10 + b"\x01",  # eleven bytes
        b"\xff" * 9 + b"\x02",  # 65 bits
    ],
)
def test_an_integer_that_ends_nowhere_or_is_too_large_is_refused(data: bytes) -> None:
    with pytest.raises(WireError, match="cut off or longer than 64 bits"):
        read_uvarint(data, 0, len(data))


def test_an_integer_is_not_read_past_the_given_end() -> None:
    with pytest.raises(WireError):
        read_uvarint(b"\xac\x02", 0, 1)


def test_a_length_beyond_the_end_is_refused() -> None:
    assert read_delimited(b"\x02ab", 0, 3) == (1, 3)
    with pytest.raises(WireError, match="claims 3 bytes, 2 are left"):
        read_delimited(b"\x03ab", 0, 3)


@pytest.mark.parametrize(
    ("wire_type", "data", "after"),
    [(0, b"\xac\x02", 2), (1, b"12345678", 8), (2, b"\x01a", 2), (5, b"1234", 4)],
)
def test_a_field_of_each_kind_is_skipped_and_cut_off_refused(
    wire_type: int, data: bytes, after: int
) -> None:
    assert skip_field(data + b"rest", wire_type, 0, len(data) + 4) == after
    with pytest.raises(WireError):
        skip_field(data, wire_type, 0, len(data) - 1)


@pytest.mark.parametrize("wire_type", [3, 4, 6, 7])
def test_groups_and_unknown_kinds_of_fields_are_refused(wire_type: int) -> None:
    with pytest.raises(WireError, match="unknown wire type"):
        skip_field(bytes(20), wire_type, 0, 20)


def test_wanted_fields_are_found_among_others() -> None:
    data = bytes.fromhex("0801 1201 61 0a02 6262 1d00000000 0a00")
    assert [data[start:end] for start, end in find_fields(data, 0, len(data), 0x0A)] == [b"bb", b""]
