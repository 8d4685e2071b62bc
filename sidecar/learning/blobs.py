"""Named arrays as npz bytes, and back only if they are the very bytes that were written.

A checksum is checked before anything is parsed, and what the archive claims to hold is bounded
before anything is allocated: a flipped bit can otherwise load as other numbers, and a megabyte can
ask for a thousand. Objects are refused both ways, so nothing is ever unpickled.
"""

import io
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sidecar.errors import StoreError

# SQLite's own limit on one value is 1e9 bytes.
LARGEST_BLOB: Final = 900_000_000
_KINDS: Final = "biufSU"


def pack(arrays: Mapping[str, NDArray[Any]]) -> tuple[bytes, str]:
    """The bytes to store and their SHA-256 in hex.

    Raises:
        StoreError: an array of objects, or more bytes than could be loaded again.
    """
    for name, array in arrays.items():
        if array.dtype.kind not in _KINDS:
            raise StoreError(f"array {name!r} of type {array.dtype} cannot be stored")
    size = sum(array.nbytes for array in arrays.values())
    if size > LARGEST_BLOB - (1 << 20):
        raise StoreError(
            f"a state of {size >> 20} MiB is larger than the {LARGEST_BLOB >> 20} MiB that can be "
            "stored in one piece: watch fewer series at once, or save smaller models"
        )
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]
    data = buffer.getvalue()
    return data, sha256(data).hexdigest()


def unpack(data: bytes, digest: str) -> dict[str, NDArray[Any]]:
    """What ``pack`` was given.

    Raises:
        StoreError: not these bytes, or not an archive of plain arrays of a sane size.
    """
    if len(data) > LARGEST_BLOB:
        raise StoreError(f"{len(data)} bytes are more than any state of ours")
    if sha256(data).hexdigest() != digest:
        raise StoreError("its checksum does not match its bytes")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            claimed = sum(member.file_size for member in archive.infolist())
            if claimed > LARGEST_BLOB:
                raise StoreError(f"it claims to hold {claimed} bytes")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(f"it is no archive of arrays: {error}") from error
