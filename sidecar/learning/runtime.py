"""What a watch carries from one cycle to the next, kept over a restart: one file a watch.

A file is a line of JSON (checksum, the caller's own few values) and an npz. It is replaced as a
whole, and not in the database: it is large, often written, and of no value once it is old.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from sidecar.errors import StoreError
from sidecar.learning.blobs import LARGEST_BLOB, pack, unpack
from sidecar.learning.database import Database, write_atomically

log = logging.getLogger(__name__)

FOLDER: Final = "runtime"


def put(
    folder: Path, name: str, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]
) -> None:
    """See ``VersionStore.put_runtime``."""
    data, digest = pack(arrays)
    head = json.dumps({"name": name, "sha256": digest, "meta": dict(meta)}).encode()
    check = blake2b(head, digest_size=8).hexdigest().encode()
    path = _path(folder, name)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomically(path, check + b" " + head + b"\n" + data)
    except OSError as error:
        raise StoreError(f"{path}: {error}") from error


def get(database: Database, name: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
    """See ``VersionStore.get_runtime``."""
    path = _path(database.folder, name)
    try:
        if path.stat().st_size > LARGEST_BLOB:
            raise StoreError(f"{path.stat().st_size} bytes are more than any of ours")
        content = path.read_bytes()
        head, _, data = content.partition(b"\n")
        check, _, text = head.partition(b" ")
        if blake2b(text, digest_size=8).hexdigest().encode() != check:
            raise StoreError("its first line is damaged")
        about = json.loads(text)
        if about["name"] != name:
            raise StoreError(f"it belongs to {about['name']!r}")
        return unpack(data, about["sha256"]), dict(about["meta"])
    except FileNotFoundError:
        return None
    except (OSError, StoreError) as error:
        note = f"{path} set aside, {name} starts from its stored versions: {error}"
        log.warning("%s", note)
        database.notes.append(note)
        with suppress(OSError):
            database.set_aside(path.name, path.read_bytes())
            path.unlink()
        return None


def drop_others(folder: Path, keep: Iterable[str]) -> None:
    """See ``VersionStore.drop_runtime``."""
    kept = {_path(folder, name).name for name in keep}
    with suppress(OSError):
        for path in (folder / FOLDER).iterdir():
            if path.name not in kept:
                path.unlink()


def _path(folder: Path, name: str) -> Path:
    """Names come from configuration and labels: a hash of them cannot leave the folder."""
    return folder / FOLDER / (blake2b(name.encode(), digest_size=16).hexdigest() + ".state")
