"""Variable-length integers and the tag bytes of protobuf, as plain Python.

For the few integers around the samples; the samples themselves are read and written by NumPy.
"""

from collections.abc import Iterator
from typing import Final, TypeAlias

from sidecar.errors import WireError

Buffer: TypeAlias = bytes | bytearray | memoryview

# Wire types of protobuf.
VARINT: Final = 0
FIXED64: Final = 1
DELIMITED: Final = 2
FIXED32: Final = 5

_MAX_VARINT_BYTES: Final = 10


def encode_uvarint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow.

    >>> encode_uvarint(300).hex()
    'ac02'
    """
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def read_uvarint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """The integer that begins at ``at`` and where the next thing begins.

    >>> read_uvarint(bytes.fromhex("ac0299"), 0, 3)
    (300, 2)

    Raises:
        WireError: it does not end before ``end``, or does not fit in 64 bits.
    """
    if at < end and data[at] < 0x80:  # nearly always
        return data[at], at + 1
    value = shift = 0
    for place in range(at, min(end, at + _MAX_VARINT_BYTES)):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, place + 1
        shift += 7
    raise WireError(f"the integer at byte {at} of {end} is cut off or longer than 64 bits")


def read_delimited(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """Where the content behind the length at ``at`` begins and ends.

    Raises:
        WireError: the length is cut off, or reaches past ``end``.
    """
    length, start = read_uvarint(data, at, end)
    if length > end - start:
        raise WireError(f"a field at byte {at} claims {length} bytes, {end - start} are left")
    return start, start + length


def skip_field(data: Buffer, wire_type: int, at: int, end: int) -> int:
    """Where the field ends whose tag was read just before ``at``.

    Raises:
        WireError: it is cut off, or of a kind that proto3 does not have.
    """
    if wire_type == VARINT:
        return read_uvarint(data, at, end)[1]
    if wire_type == DELIMITED:
        return read_delimited(data, at, end)[1]
    if wire_type not in (FIXED64, FIXED32):
        raise WireError(f"the field before byte {at} has the unknown wire type {wire_type}")
    after = at + (8 if wire_type == FIXED64 else 4)
    if after > end:
        raise WireError(f"the fixed-size field at byte {at} is cut off at {end}")
    return after


def find_fields(data: Buffer, at: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Where the contents of the delimited fields with the tag ``wanted`` begin and end, in turn.

    Raises:
        WireError: a field is cut off.
    """
    while at < end:
        tag, at = read_uvarint(data, at, end)
        if tag == wanted:
            start, at = read_delimited(data, at, end)
            yield start, at
        else:
            at = skip_field(data, tag & 7, at, end)
