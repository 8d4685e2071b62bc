"""The SQLite file under the version store: locked, opened, migrated, mended.

Bad state on disk never prevents a start. In order of what is tried:

1. the file as it is, migrated forward where its schema is older;
2. a damaged file is moved to ``set_aside/`` and what can still be read is copied into a new one;
3. where the folder cannot be written (full, read-only), a copy in memory: versions are served, new
   ones are lost at the next restart, and ``degraded`` says so;
4. a file of a newer program is left alone; an empty store in memory takes its place.
"""

import fcntl
import json
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from sidecar.errors import StoreError
from sidecar.learning.schema import STEPS, NewerSchema, expected_tables, migrate, tables

log = logging.getLogger(__name__)

FILE: Final = "versions.db"
LOCK: Final = "lock"
SET_ASIDE: Final = "set_aside"
KEPT_ASIDE: Final = 20
# A number above every version ever given, for when the file that says so is lost.
FLOOR: Final = "version_floor"
FLOOR_STEP: Final = 100

# Primary result codes: the disk is full, read-only, failing, or in somebody else's hands.
_NOT_THE_FILES_FAULT: Final = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_AUTH,
}
_TABLES: Final = ("meta", "series", "versions", "audit", "blobs")


# SQLite quotes a damaged schema in its messages, which then are not always text.
UNREADABLE: Final = (sqlite3.Error, UnicodeDecodeError)


class StoreLocked(StoreError):
    """Another process has this store open."""


class Database:
    """One connection to the store of a folder; made by ``Database.open``.

    Attributes:
        degraded: why versions are kept in memory only; empty where they are on disk.
        suspect: whether the last call found the file damaged; the next one mends it first.
        notes: what was found and done while opening, for the log and the status page.
    """

    def __init__(
        self,
        folder: Path,
        steps: Sequence[str],
        connection: sqlite3.Connection,
        lock: int | None,
        degraded: str,
    ) -> None:
        self.folder = folder
        self.suspect = False
        self._steps = steps
        self.degraded = degraded
        self.notes: list[str] = []
        self._floor = _noted_floor(folder)
        self._connection: sqlite3.Connection | None = connection
        self._lock = lock
        self._file = _identity(folder)

    @classmethod
    def open(cls, folder: Path, steps: Sequence[str] = STEPS) -> "Database":
        """Open or create the store in ``folder``.

        Raises:
            StoreLocked: another process has it open.
        """
        folder = folder.absolute()  # whoever changes the working directory later changes nothing
        lock: int | None = None
        notes: list[str] = []
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _locked(folder)
            connection, notes = _opened(folder, steps)
            degraded = ""
        except StoreLocked:
            raise
        except (OSError, *UNREADABLE, NewerSchema) as error:
            connection, degraded = _in_memory(folder, steps, error)
        database = cls(folder, steps, connection, lock, degraded)
        database.notes += [*notes, *([degraded] if degraded else [])]
        return database

    def close(self) -> None:
        """Give the file back. A second call does nothing."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the block, or nothing of it.

        Raises:
            StoreError: the disk is full, refuses, or the file is damaged. After a failed write the
                connection is closed, since what a failed fsync left behind cannot be known, and
                opened anew for the next one.
        """
        connection = self._reopened()
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            if not isinstance(error, UNREADABLE):
                raise
            self._distrust(error)
            raise StoreError(f"{self.folder / FILE}: {error}") from error

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Raises:
        StoreError: the file cannot be read.
        """
        connection = self._reopened()
        try:
            yield connection
        except UNREADABLE as error:
            self._distrust(error)
            raise StoreError(f"{self.folder / FILE}: {error}") from error

    def _distrust(self, error: Exception) -> None:
        """Close the connection that failed; where the file is at fault, look into it next time."""
        if not self.degraded and self._connection is not None:
            self._connection.close()
            self._connection = None
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            # A constraint that fails is the caller's mistake, or a damage that the check will find.
            self.suspect = code not in _NOT_THE_FILES_FAULT

    def note_floor(self, version: int) -> None:
        """Remember outside the file that versions up to ``version`` have been given."""
        if self.degraded or version <= self._floor:
            return
        self._floor = (version // FLOOR_STEP + 1) * FLOOR_STEP
        write_atomically(self.folder / FLOOR, str(self._floor).encode())

    def set_aside(self, name: str, data: bytes) -> None:
        """Keep bytes that could not be used, for whoever wants to know why."""
        with suppress(OSError):
            (self.folder / SET_ASIDE).mkdir(mode=0o700, exist_ok=True)
            (self.folder / SET_ASIDE / name).write_bytes(data)
            _tidy(self.folder / SET_ASIDE)

    def _reopened(self) -> sqlite3.Connection:
        """The connection; a new one after a failure, and where the file is no longer ours."""
        if self._lock is None and not self.degraded:
            raise StoreError(f"{self.folder}: the store is closed")
        gone = not self.degraded and _identity(self.folder) != self._file
        if self._connection is None or gone:
            try:
                notes = self._opened_anew(gone)
            except (OSError, *UNREADABLE) as error:
                raise StoreError(f"{self.folder / FILE}: {error}") from error
            self.notes += notes
            for note in notes:
                log.warning("%s", note)
        assert self._connection is not None
        return self._connection

    def _opened_anew(self, gone: bool) -> list[str]:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if gone:  # with the folder went its lock
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            held, self._lock = self._lock, _locked(self.folder)
            if held is not None:
                os.close(held)
        self._connection, notes = _opened(self.folder, self._steps, thorough=self.suspect)
        self.suspect = False
        self._file = _identity(self.folder)
        if gone:
            raise_floor(self._connection, self._floor)
            notes.append(f"{self.folder / FILE} was deleted or replaced: versions start anew")
        return notes


def _identity(folder: Path) -> tuple[int, int] | None:
    """Which file the database is; None where there is none (or none to be seen)."""
    try:
        found = (folder / FILE).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def raise_floor(connection: sqlite3.Connection, floor: int) -> None:
    """Let the numbers of series that are not known begin above ``floor``."""
    connection.execute(
        "UPDATE meta SET value = max(value, ?) WHERE name = 'version_floor'", (floor,)
    )


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file so that a crash at any moment leaves the old one or the new one.

    Raises:
        OSError: it could not be written; the old one is still there.
    """
    new = path.with_name(path.name + ".new")
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _opened(
    folder: Path, steps: Sequence[str], *, thorough: bool = False
) -> tuple[sqlite3.Connection, list[str]]:
    """A connection to a sound file, and what had to be done to it."""
    path = folder / FILE
    try:
        return _checked(path, steps, thorough), []
    except UNREADABLE as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code in _NOT_THE_FILES_FAULT:
            raise
        aside = _move_aside(folder)
        connection = _checked(path, steps, thorough=False)
        saved = _salvaged(aside, connection)
        note = (
            f"{path} was damaged ({error}): moved to {aside}, {saved} versions could be read and "
            "are served"
        )
        return connection, [note]


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=10.0, cached_statements=64
    )
    try:
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "journal_size_limit = 67108864",
            "trusted_schema = OFF",
            "cell_size_check = ON",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def _checked(path: Path, steps: Sequence[str], thorough: bool) -> sqlite3.Connection:
    """A connection to a file with our schema, whose rows can be read to the end.

    The states, which are most of a file, are read only where it is ``thorough``.
    """
    path.touch(mode=0o600)  # SQLite gives its journal the permissions of the file
    connection = _connected(path)
    try:
        migrate(connection, steps)
        if tables(connection) != expected_tables(tuple(steps)):
            raise sqlite3.DatabaseError("its tables are not those that were made")
        for table in ("meta", "series", "versions"):
            for _ in connection.execute(f"SELECT * FROM {table}"):  # noqa: S608 - our names
                pass
        connection.execute("SELECT max(id), max(at_ms) FROM audit").fetchall()
        connection.execute("SELECT id, model, settings, sha256 FROM blobs").fetchall()
        if thorough:
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(found)
    except BaseException:
        connection.close()
        raise
    return connection


def _in_memory(
    folder: Path, steps: Sequence[str], error: Exception
) -> tuple[sqlite3.Connection, str]:
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    kept = "no stored version could be read"
    if not isinstance(error, NewerSchema):
        with suppress(*UNREADABLE, OSError):
            uri = (folder / FILE).as_uri() + "?mode=ro&immutable=1"
            with closing(sqlite3.connect(uri, uri=True)) as disk:
                disk.backup(connection)
                kept = "stored versions are served"
    try:
        connection.execute("PRAGMA journal_mode = MEMORY").fetchall()
        migrate(connection, steps)
    except UNREADABLE:
        connection.close()
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        migrate(connection, steps)
        kept = "no stored version could be read"
    return connection, (
        f"the version store in {folder} cannot be used ({error}): {kept}, new versions are kept in "
        "memory only and are lost at the next restart"
    )


def _locked(folder: Path) -> int:
    """The descriptor that holds the folder's lock; the kernel gives it back when we end."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 256, 0).decode("utf-8", "replace").strip()
        os.close(descriptor)
        raise StoreLocked(
            f"{folder} is in use by another sentinel ({_named(holder)}): stop it, or "
            "give this one an artifact_store of its own"
        ) from None
    except OSError as error:
        # Some network file systems have no locks; a start is worth more than this check.
        log.warning("%s cannot be locked (%s): make sure only one sentinel uses it", folder, error)
        return descriptor
    with suppress(OSError):  # on a full disk the lock holds all the same, without the name
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid()}).encode(), 0)
    return descriptor


def _named(holder: str) -> str:
    """The process that wrote this into the lock file."""
    try:
        return f"process {int(json.loads(holder)['pid'])}"
    except (ValueError, KeyError, TypeError):
        return "unknown process"


def _move_aside(folder: Path) -> Path:
    """Move the database with its journal out of the way; where to."""
    aside = folder / SET_ASIDE
    aside.mkdir(mode=0o700, exist_ok=True)
    number = 1
    while (target := aside / f"{FILE}.{number}").exists():
        number += 1
    for suffix in ("-wal", "-shm", ""):
        source = folder / (FILE + suffix)
        if source.exists():
            source.replace(target.with_name(target.name + suffix))
    _tidy(aside)
    return target


def _tidy(aside: Path) -> None:
    """Keep the newest few."""
    files = sorted(aside.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[KEPT_ASIDE:]:
        path.unlink()


def _salvaged(damaged: Path, into: sqlite3.Connection) -> int:
    """Copy every row that can still be read; how many versions those were.

    Rows are only copied: whether a version is what it claims is checked when it is loaded.
    """
    into.execute("BEGIN IMMEDIATE")
    with suppress(*UNREADABLE), closing(sqlite3.connect(damaged)) as source:
        for table in _TABLES:
            _copy_table(source, into, table)
    found = into.execute("SELECT max(next_version) FROM series").fetchone()[0] or 0
    floor = max(found, _noted_floor(damaged.parent.parent))
    raise_floor(into, floor)
    into.execute("COMMIT")
    saved: int = into.execute("SELECT count(*) FROM versions").fetchone()[0]
    return saved


def _noted_floor(folder: Path) -> int:
    try:
        return int((folder / FLOOR).read_text())
    except (OSError, ValueError):
        return 0


def _copy_table(source: sqlite3.Connection, into: sqlite3.Connection, table: str) -> None:
    """Row by row and column by position, since a name may be what is damaged."""
    columns = [row[1] for row in into.execute(f"PRAGMA table_info({table})")]

    def copy(rows: Iterator[Any]) -> None:
        for row in rows:
            names, marks = ", ".join(columns[: len(row)]), ", ".join("?" * len(row))
            with suppress(*UNREADABLE):
                into.execute(
                    f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})",  # noqa: S608
                    row,
                )

    # From both ends, since a page that cannot be read stops a walk where it is.
    for order in ("ASC", "DESC"):
        with suppress(*UNREADABLE):
            copy(iter(source.execute(f"SELECT * FROM {table} ORDER BY 1 {order}")))  # noqa: S608
