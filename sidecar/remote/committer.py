"""One thread that owns the spool: everything waiting goes to disk in one transaction.

SQLite with ``synchronous = FULL`` waits for the disk at each commit, so whatever was asked for
meanwhile shares the next one (group commit). An operation is a function of the spool; its result is
handed over only after the commit. Where a commit fails, all its operations are undone and tried
one by one, so one that cannot succeed harms no other.

=============  ==========================================================================
disk full      the log is shortened and the oldest requests are dropped, then again
I/O error      the file is opened anew (after a failed fsync a descriptor says nothing)
corrupt        at opening: set aside, a new one begun; the loss is logged
not openable   at opening: in memory, and said so; never a reason not to start
=============  ==========================================================================
"""

import asyncio
import logging
import math
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Final, TypeVar, cast

from sidecar.errors import StoreError, WireError
from sidecar.remote.rows import Tally
from sidecar.remote.spool import Spool, SpoolUnusable, as_store_error

log = logging.getLogger(__name__)
T = TypeVar("T")

_MAX_BATCH: Final = 256
_ROOM_BYTES: Final = 128 * 1024
_SAY_EVERY_S: Final = 60.0
_OPEN_PAUSE_S: Final = 0.2


class _Job:
    """An operation and where its result goes; the type of the result is known to the caller."""

    def __init__(self, operation: Callable[[Spool], object], future: "Future[object]") -> None:
        self.operation, self.future = operation, future


class Committer:
    """Runs operations on a spool in its own thread.

    Args:
        on_open: called in that thread with each newly opened spool, before any operation on it.
    """

    def __init__(
        self,
        path: Path | None,
        shards: int,
        max_bytes: int,
        *,
        on_open: Callable[[Spool], None],
        name: str = "spool",
    ) -> None:
        self.path = path
        self.durable = path is not None
        self._shards, self._max_bytes, self._on_open = shards, max_bytes, on_open
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._spool: Spool | None = None
        self._tally = Tally()
        self._closed = False
        self._said_full_at = -math.inf
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._opened: Future[None] = Future()

    @property
    def shards(self) -> int:
        """How many the spool has, once it is open."""
        return self._shards

    @property
    def tally(self) -> Tally:
        """As of the last commit."""
        return self._tally

    async def start(self) -> None:
        """Open the spool.

        Raises:
            StoreError: another process has it open.
        """
        self._thread.start()
        await asyncio.wrap_future(self._opened)

    async def run(self, operation: Callable[[Spool], T]) -> T:
        """The operation's result, once it is on disk. Cancelling the wait does not undo it.

        Raises:
            StoreError: it could not be committed, and nothing of it was.
        """
        if self._closed:
            raise StoreError(f"spool {self.path} is closed")
        future: Future[object] = Future()
        self._jobs.put(_Job(operation, future))
        return cast(T, await asyncio.shield(asyncio.wrap_future(future)))

    async def close(self) -> None:
        """Commit what is waiting, close the file, end the thread."""
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            self._spool = self._open_at_start()
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the start
            self._opened.set_exception(error)
            return
        self._opened.set_result(None)
        ended = False
        while not ended:
            batch, ended = self._collect()
            try:
                self._commit_together(batch)
            except BaseException as error:  # noqa: BLE001 - nobody may wait for ever
                for job in batch:
                    if not job.future.done():
                        job.future.set_exception(error)
        self._discard()

    def _collect(self) -> tuple[list[_Job], bool]:
        """Wait for a job, then take all that are there; True where the end was among them."""
        batch: list[_Job] = []
        while len(batch) < _MAX_BATCH:
            try:
                job = self._jobs.get(block=not batch)
            except queue.Empty:
                break
            if job is None:
                return batch, True
            batch.append(job)
        return batch, False

    def _commit_together(self, batch: list[_Job]) -> None:
        if not batch:
            return
        if len(batch) > 1:
            try:
                results = self._transact([job.operation for job in batch])
            except Exception as error:  # noqa: BLE001 - each is tried alone, and raises there
                log.debug("a commit of %d operations failed, one by one now: %s", len(batch), error)
            else:
                for job, result in zip(batch, results, strict=True):
                    job.future.set_result(result)
                return
        for job in batch:
            self._commit_alone(job)

    def _commit_alone(self, job: _Job) -> None:
        for attempt in range(4):
            try:
                [result] = self._transact([job.operation])
            except SpoolUnusable as error:
                if attempt == 3 or not self._recovered(error):
                    job.future.set_exception(error)
                    return
            except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
                job.future.set_exception(error)
                return
            else:
                job.future.set_result(result)
                return

    def _transact(self, operations: list[Callable[[Spool], object]]) -> list[object]:
        spool = self._usable_spool()
        try:
            spool.begin()
            results = [operation(spool) for operation in operations]
            spool.commit()
        except sqlite3.Error as error:
            self._roll_back(spool)
            raise as_store_error(self.path, error) from error
        except BaseException:
            self._roll_back(spool)
            raise
        self._tally = spool.tally
        return results

    def _roll_back(self, spool: Spool) -> None:
        try:
            spool.rollback()
        except sqlite3.Error as error:
            log.warning("spool %s: rolling back failed, opened anew: %s", self.path, error)
            self._discard()

    def _recovered(self, error: SpoolUnusable) -> bool:
        """Do what may help; True where another attempt is worth it."""
        if error.kind == "full":
            return self._made_room()
        if error.kind in ("io", "corrupt"):
            log.warning("spool %s: %s; opened anew", self.path, error)
            self._discard()
            if error.kind == "corrupt" and self.durable and self.path is not None:
                _set_aside(self.path, error)
            return True
        return False

    def _made_room(self) -> bool:
        """The last resort: the spool stays within its file before a disk is quite full."""
        try:
            self._shorten_log()
            wanted = max(_ROOM_BYTES, self._tally.bytes // 8)
            [freed] = self._transact([lambda spool: spool.make_room(wanted)])
            self._shorten_log()
        except StoreError as error:
            self._say_full("no room could be made: %s", error)
            return False
        self._say_full("the oldest %d bytes of waiting requests are dropped", freed)
        return freed != 0

    def _shorten_log(self) -> None:
        try:
            self._usable_spool().shorten_log()
        except sqlite3.Error as error:
            raise as_store_error(self.path, error) from error

    def _say_full(self, what: str, detail: object) -> None:
        """Once a minute: a full disk stays full for a while."""
        now = time.monotonic()
        level = logging.WARNING if now - self._said_full_at > _SAY_EVERY_S else logging.DEBUG
        if level == logging.WARNING:
            self._said_full_at = now
        log.log(level, f"spool %s: the disk is full: {what}", self.path, detail)

    def _usable_spool(self) -> Spool:
        if self._spool is None:
            on_disk = self.path if self.durable else None
            self._spool = self._open(None) if on_disk is None else self._open_or_set_aside(on_disk)
        return self._spool

    def _discard(self) -> None:
        spool, self._spool = self._spool, None
        if spool is not None:
            try:
                spool.close()
            except sqlite3.Error as error:
                log.warning("spool %s: closing failed: %s", self.path, error)

    def _open(self, path: Path | None) -> Spool:
        spool = Spool(path, self._shards, self._max_bytes)
        try:
            self._on_open(spool)
        except sqlite3.Error as error:
            spool.close()
            raise as_store_error(path, error) from error
        except BaseException:
            spool.close()
            raise
        self._shards, self._tally = spool.shards, spool.tally
        return spool

    def _open_at_start(self) -> Spool:
        if self.path is None:
            return self._open(None)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            return self._open_patiently(self.path)
        except (OSError, StoreError) as error:
            if isinstance(error, SpoolUnusable) and error.kind == "locked":
                raise StoreError(
                    f"spool {self.path} is in use by another process: give each its own folder"
                ) from error
            log.warning(
                "spool %s cannot be opened, predictions wait in memory only and a restart loses "
                "those not yet delivered: %s",
                self.path,
                error,
            )
            self.durable = False
            return self._open(None)

    def _open_patiently(self, path: Path) -> Spool:
        """A single I/O error says little; several in a row say enough."""
        for _ in range(3):
            try:
                return self._open_or_set_aside(path)
            except SpoolUnusable as error:
                if error.kind != "io":
                    raise
                log.warning("spool %s: %s; tried again", path, error)
                time.sleep(_OPEN_PAUSE_S)
        return self._open_or_set_aside(path)

    def _open_or_set_aside(self, path: Path) -> Spool:
        try:
            return self._open(path)
        except (SpoolUnusable, WireError) as error:
            if isinstance(error, SpoolUnusable) and error.kind != "corrupt":
                raise
            _set_aside(path, error)
            return self._open(path)


def _set_aside(path: Path, why: Exception) -> None:
    aside = f"{path.name}.corrupt-{os.urandom(4).hex()}"
    log.warning("spool %s is corrupt, set aside as %s: %s", path, aside, why)
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(path.with_name(aside + suffix))
