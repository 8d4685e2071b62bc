"""Named arrays and a little JSON as bytes, and back: what goes between the processes.

One message is ``<u4 header length> <u8 body length> <header: JSON> <body: the arrays, one after the
other, each at a multiple of 8>``. The arrays are sent from and received into their own memory,
without a copy. Objects cannot be expressed, so none are made.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

PREFIX: Final = Struct("<IQ")
LARGEST_HEADER: Final = 4 << 20
LARGEST_BODY: Final = 2 << 30
_KINDS: Final = "biufSU"
_ALIGN: Final = 8


@dataclass(frozen=True, eq=False)
class Message:
    """``kind`` says what it is; ``meta`` is plain JSON."""

    kind: str
    meta: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]


def encode(message: Message) -> list[memoryview]:
    """The message as buffers to be sent in order.

    Raises:
        ValueError: an array of objects, or settings that JSON cannot say.
    """
    entries, buffers, size = [], [], 0
    for name, array in message.arrays.items():
        if array.dtype.kind not in _KINDS:
            raise ValueError(f"array {name!r} of type {array.dtype} cannot be sent")
        flat = np.ascontiguousarray(array)
        entries.append((name, flat.dtype.str, array.shape))
        if flat.nbytes:
            buffers.append(flat.reshape(-1).view(np.uint8).data)
            padding = -flat.nbytes % _ALIGN
            buffers.extend([memoryview(bytes(padding))] if padding else [])
            size += flat.nbytes + padding
    try:
        text = json.dumps([message.kind, message.meta, entries])
    except TypeError as error:
        raise ValueError(f"settings cannot be sent to a worker: {error}") from None
    header = text.encode()
    return [memoryview(PREFIX.pack(len(header), size) + header), *buffers]


def sizes(prefix: bytes | bytearray) -> tuple[int, int]:
    """Lengths of header and body that a prefix announces.

    Raises:
        ValueError: beyond what either end would send.
    """
    header, body = PREFIX.unpack(prefix)
    if header > LARGEST_HEADER or body > LARGEST_BODY:
        raise ValueError(f"a message of {header} + {body} bytes is larger than any of ours")
    return header, body


def decode(header: bytes | bytearray, body: bytearray) -> Message:
    """The message of a header and a body; its arrays are views into ``body``.

    Raises:
        ValueError: the two do not fit each other.
    """
    kind, meta, entries = json.loads(bytes(header))
    arrays, offset = {}, 0
    for name, dtype, shape in entries:
        kind_of = np.dtype(dtype)
        if kind_of.kind not in _KINDS:
            raise ValueError(f"array {name!r} of type {kind_of} is not accepted")
        count = int(np.prod(shape, dtype=np.int64))
        nbytes = count * kind_of.itemsize
        if nbytes == 0:
            arrays[name] = np.empty(shape, dtype=kind_of)
            continue
        arrays[name] = np.frombuffer(body, kind_of, count, offset).reshape(shape)
        offset += nbytes + -nbytes % _ALIGN
    return Message(kind, meta, arrays)
