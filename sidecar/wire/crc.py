"""CRC-32C (Castagnoli), by way of the snappy framing format, which carries it.

Neither Python nor NumPy has it. The framing format's checksum is this CRC, computed by the snappy
library with the processor's own instruction, so packing data and reading the checksum off the
result costs about as much as copying the data a few times (the bench says how much).
"""

from functools import cache
from typing import Final

import cramjam

from sidecar.wire.varint import Buffer

# A packed stream: its head, then chunks of one byte of type, three of length, four of checksum.
_CHECKSUM_AT: Final = 10 + 1 + 3
_CHECKSUM_BYTES: Final = 4
_BLOCK_BYTES: Final = 65_536  # what one chunk covers
_MASK_DELTA: Final = 0xA282EAD8
_POLYNOMIAL: Final = 0x82F63B78  # reflected
_WORD: Final = 0xFFFFFFFF
_EMPTY: Final = 0  # the CRC of no bytes


def crc32c(data: Buffer) -> int:
    """The CRC-32C of ``data``.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    odd = len(data) % _BLOCK_BYTES  # in front, so that whatever follows a block has one length
    crc = _block_crc(data[:odd]) if odd else _EMPTY
    for start in range(odd, len(data), _BLOCK_BYTES):
        crc = _after_a_block(crc) ^ _block_crc(data[start : start + _BLOCK_BYTES])
    return crc


def _block_crc(block: Buffer) -> int:
    packed = memoryview(cramjam.snappy.compress(block))
    checksum = packed[_CHECKSUM_AT : _CHECKSUM_AT + _CHECKSUM_BYTES]
    rotated = (int.from_bytes(checksum, "little") - _MASK_DELTA) & _WORD
    return (rotated << 15 | rotated >> 17) & _WORD  # the format rotates it to the right by 15


def _after_a_block(crc: int) -> int:
    """What ``crc`` adds to the CRC of its data followed by a block."""
    return _apply(_block_of_zeros(), crc)


@cache
def _block_of_zeros() -> tuple[int, ...]:
    """The linear map of 32 bits that a block of zeros does to a CRC: the image of each bit.

    As in zlib's crc32_combine: the map of one zero bit, squared until it is that of 2**19 bits.
    """
    image = (_POLYNOMIAL, *(1 << bit for bit in range(31)))
    for _ in range((8 * _BLOCK_BYTES).bit_length() - 1):
        image = tuple(_apply(image, one) for one in image)
    return image


def _apply(image: tuple[int, ...], crc: int) -> int:
    out = 0
    for bit in image:
        if crc & 1:
            out ^= bit
        crc >>= 1
    return out
