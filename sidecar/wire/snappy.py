"""The snappy block format: one length, then literals and copies.

The length in front is what the sender claims. It is checked against the caller's limit, and against
what so many bytes can hold at all, before anything is allocated.
"""

from typing import Final

import cramjam
import numpy as np
import snappy  # type: ignore[import-untyped]  # it brings no types

from sidecar.errors import WireError
from sidecar.wire.varint import Buffer, read_uvarint

_MAX_PREAMBLE_BYTES: Final = 5
_MAX_LENGTH: Final = 2**32 - 1

# The densest element is a copy: three bytes that stand for 64.
_COPY_BYTES: Final = 3
_COPIED_BYTES: Final = 64


def compress(data: Buffer) -> bytes:
    """``data`` as one snappy block."""
    compressed: bytes = snappy.compress(data)
    return compressed


def decompress(data: Buffer, max_bytes: int) -> memoryview:
    """The content of one snappy block, at most ``max_bytes`` long.

    The interpreter lock is free meanwhile, and nothing is copied under it: the block is unpacked
    into the buffer that the result is a view of.

    Raises:
        WireError: the block is corrupt, or claims to hold more than ``max_bytes``.
    """
    length = decompressed_length(data)
    if length > max_bytes:
        raise WireError(f"{len(data)} bytes of snappy claim {length}, at most {max_bytes} allowed")
    room = np.empty(length, dtype=np.uint8)
    if length == 0:
        if len(data) != 1:
            raise WireError(f"{len(data)} bytes of snappy claim to hold none")
        return room.data
    try:
        filled = cramjam.snappy.decompress_raw_into(data, room.data)
    except cramjam.DecompressionError as error:
        raise WireError(f"not a snappy block: {error}") from None
    if filled != length:
        raise WireError(f"a snappy block claims {length} bytes and holds {filled}")
    return room.data


def decompressed_length(data: Buffer) -> int:
    """How many bytes the block claims to hold; never more than its own length can stand for.

    Raises:
        WireError: the length is cut off, above 32 bits, or a lie.
    """
    length, start = read_uvarint(data, 0, min(len(data), _MAX_PREAMBLE_BYTES))
    if length > _MAX_LENGTH:
        raise WireError(f"a snappy block claims {length} bytes, the format ends at {_MAX_LENGTH}")
    if length * _COPY_BYTES > (len(data) - start) * _COPIED_BYTES:
        raise WireError(f"{len(data)} bytes of snappy cannot hold the {length} they claim")
    return length
