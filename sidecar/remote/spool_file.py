"""The file under the spool: its tables, how it is opened, what its errors mean, the disk's room."""

import os
import sqlite3
from pathlib import Path
from typing import Final

from sidecar.errors import StoreError

PAGE_BYTES: Final = 4096
_LOG_PAGES: Final = 256
_RESERVE_BYTES: Final = 16 * 1024 * 1024
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tally (name TEXT PRIMARY KEY, samples INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS request (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    shard INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    sealed INTEGER NOT NULL,
    samples INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS request_by_age ON request (shard, timestamp_ms, sealed DESC, id);
CREATE TABLE IF NOT EXISTS lineup (id INTEGER PRIMARY KEY AUTOINCREMENT, members BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS mark (
    lineup INTEGER PRIMARY KEY,
    high_water_ms INTEGER NOT NULL,
    each_ms BLOB
);
CREATE TABLE IF NOT EXISTS quarantine (
    labels TEXT PRIMARY KEY,
    until_ms INTEGER NOT NULL,
    pauses INTEGER NOT NULL
) WITHOUT ROWID;
"""


class Disk:
    """How much of the disk is left to others and to us."""

    def __init__(self, path: Path | None) -> None:
        self._folder = path.parent if path else None

    def has_room(self) -> bool:
        """Whether more than a reserve is free: 16 MiB, or a quarter of a small disk."""
        return self.spare_bytes() > 0

    def spare_bytes(self) -> int:
        """What is free beyond the reserve."""
        if self._folder is None:
            return 2**62
        try:
            disk = os.statvfs(self._folder)
        except OSError:  # the folder is gone: nobody can say
            return 0
        reserve = min(_RESERVE_BYTES, disk.f_blocks * disk.f_frsize // 4)
        return max(disk.f_bavail * disk.f_frsize - reserve, 0)


class SpoolUnusable(StoreError):
    """The disk does not take or give what it should; ``kind`` says what may help."""

    def __init__(self, message: str, kind: str) -> None:
        self.kind = kind
        super().__init__(message)


def as_store_error(path: Path | None, error: sqlite3.Error) -> SpoolUnusable:
    """``kind``: full (make room), locked (another process), corrupt (set aside), io (reopen)."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    kind = {
        sqlite3.SQLITE_FULL: "full",
        sqlite3.SQLITE_BUSY: "locked",
        sqlite3.SQLITE_LOCKED: "locked",
        sqlite3.SQLITE_CORRUPT: "corrupt",
        sqlite3.SQLITE_NOTADB: "corrupt",
    }.get(code, "io")
    return SpoolUnusable(f"{path or 'spool in memory'}: {error}", kind)


def connect(path: Path | None) -> sqlite3.Connection:
    db = sqlite3.connect(
        ":memory:" if path is None else path,
        isolation_level=None,
        check_same_thread=False,
        timeout=1.0,
    )
    try:
        # Exclusive: a second process is refused, and the index of the log lives in the heap
        # rather than in a mapped file, which on a full disk would end the process by SIGBUS.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        db.execute(f"PRAGMA journal_size_limit = {_LOG_PAGES * PAGE_BYTES}")
        db.executescript(_SCHEMA)
    except sqlite3.Error:
        db.close()
        raise
    return db
