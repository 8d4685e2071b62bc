"""Versions of learned states: v1, v2, ... of each series, which of them serves, and who changed it.

A batch fit is one transaction: the states of all its series as one npz, one row for each series
beside it. What is loaded has been checked first: the bytes by their SHA-256, each row by its seal,
and the state by the keys and version numbers it carries itself, so that no damage can make one
series serve another's state. What fails is set aside, and the series' newest other version serves.

Every method is synchronous and safe to call from any thread; call them outside the event loop.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from sidecar.errors import StoreError
from sidecar.learning import audit, loading, rows, runtime
from sidecar.learning.database import Database, StoreLocked
from sidecar.learning.records import (
    AuditEntry,
    Group,
    NewVersions,
    Restored,
    Serving,
    VersionRecord,
)
from sidecar.series import LabelSet

__all__ = [
    "AuditEntry",
    "Group",
    "NewVersions",
    "Restored",
    "Serving",
    "StoreLocked",
    "VersionRecord",
    "VersionStore",
]

DEFAULT_MAX_VERSIONS: Final = 5
R = TypeVar("R")


class VersionStore:
    """The versions of every watch, in one folder; made by ``VersionStore.open``.

    Attributes:
        folder: absolute.
        max_versions: how many versions of a series are kept; the one that serves and its
            predecessor always are.
    """

    def __init__(self, database: Database, max_versions: int) -> None:
        self._database = database
        self._guard = threading.RLock()
        self.max_versions = max_versions
        self.folder = database.folder

    @classmethod
    def open(
        cls, folder: str | Path, *, max_versions: int = DEFAULT_MAX_VERSIONS
    ) -> "VersionStore":
        """Open or create the store in ``folder``; what was found there is in ``notes``.

        Raises:
            StoreLocked: another process has it open.
        """
        return cls(Database.open(Path(folder)), max_versions)

    @property
    def degraded(self) -> str:
        """Why versions are kept in memory only; empty where they are on disk."""
        return self._database.degraded

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found and done about it since the start, for the log."""
        return tuple(self._database.notes)

    def close(self) -> None:
        """Give the files back; a second call does nothing."""
        with self._guard:
            self._database.close()

    def save(self, new: NewVersions) -> NDArray[np.int64]:
        """Store a batch of versions; all of them are there afterwards, or none.

        Versions of series that ``active`` names serve from now on in place of those that did.

        Returns:
            (N,) int64, the version numbers.

        Raises:
            StoreError: the disk is full or refuses. What served before still does.
        """
        if not new.labels:
            return np.empty(0, dtype=np.int64)
        with self._guard:
            return self._mending(lambda: self._saved(new))

    def _saved(self, new: NewVersions) -> NDArray[np.int64]:
        with self._database.transaction() as connection:
            known = rows.admitted(connection, new.watch, new.labels)
            numbers = np.array([one.next_version for one in known], dtype=np.int64)
            self._note_floor(int(numbers.max()))
            blob, digest = rows.put_states(connection, new, numbers)
            rows.insert_versions(connection, new, known, blob, digest)
            rows.prune(connection, [one.id for one in known], self.max_versions)
        return numbers

    def load(self, watch: str, labels: Sequence[LabelSet] | None = None) -> Restored:
        """The versions that serve, verified, with their states as they were stored.

        A version that does not verify is set aside for good, and its series is given its newest
        other version that does.

        Args:
            labels: only these series; None for all of the watch.

        Raises:
            StoreError: the file cannot be read at all.
        """
        with self._guard:
            return self._mending(lambda: loading.load(self._database, watch, labels))

    def _mending(self, work: Callable[[], R]) -> R:
        """Do it; a second time where the first found the file damaged, which is mended between."""
        try:
            return work()
        except StoreError:
            if not self._database.suspect:
                raise
            return work()

    def chosen(
        self, watch: str, labels: LabelSet, version: int | None = None, *, what: str = "rollback"
    ) -> Group:
        """The version that ``rollback`` (or ``promote``) would let serve, verified; no change.

        Raises:
            StoreError: there is none such, or it does not verify.
        """
        with self._guard, self._database.reading() as connection:
            return loading.chosen(connection, watch, labels, version, what)

    def rollback(
        self,
        watch: str,
        labels: LabelSet,
        to_version: int | None = None,
        *,
        at_ms: int,
        who: str = "operator",
        pin: bool = True,
    ) -> Group:
        """Let another stored version serve: loaded and verified first, then switched.

        Args:
            to_version: None for the newest before the one that serves that was not rolled back.
            pin: whether the series is from now on fitted only when an operator asks for it.

        Returns:
            The version that serves now, one series.

        Raises:
            StoreError: there is no such version, or it does not verify. Nothing has changed.
        """
        return self._switch(watch, labels, to_version, "rollback", who, at_ms, pin)

    def promote(
        self,
        watch: str,
        labels: LabelSet,
        version: int | None = None,
        *,
        at_ms: int,
        who: str = "operator",
    ) -> Group:
        """Let a version that waits for the operator serve; None for the newest that does.

        A pin ends with it.

        Raises:
            StoreError: none waits, there is no such version, or it does not verify.
        """
        return self._switch(watch, labels, version, "promote", who, at_ms, False)

    def _switch(
        self,
        watch: str,
        labels: LabelSet,
        version: int | None,
        what: str,
        who: str,
        at_ms: int,
        pin: bool,
    ) -> Group:
        with self._guard, self._database.transaction() as connection:
            return loading.switch(connection, watch, labels, version, what, who, at_ms, pin)

    def pin(
        self, watch: str, labels: LabelSet, pinned: bool, *, at_ms: int, who: str = "operator"
    ) -> None:
        """Keep a series from being fitted on its own accord, or let it be again.

        Raises:
            StoreError: the series has no version yet, or the disk refuses.
        """
        with self._guard, self._database.transaction() as connection:
            rows.pin(connection, watch, labels, pinned, at_ms, who)

    def pinned(self, watch: str) -> frozenset[LabelSet]:
        """The series of a watch that are fitted only when an operator asks for it.

        Raises:
            StoreError: the file cannot be read.
        """
        with self._guard, self._database.reading() as connection:
            return frozenset(rows.pinned(connection, watch))

    def serving(self, watch: str) -> dict[str, Serving]:
        """Which version of each series serves, by the series' key; nothing is verified.

        Raises:
            StoreError: the file cannot be read.
        """
        with self._guard, self._database.reading() as connection:
            return rows.serving(connection, watch)

    def versions(self, watch: str, labels: LabelSet) -> list[VersionRecord]:
        """What is kept of a series, newest first; empty where nothing is.

        Raises:
            StoreError: the file cannot be read.
        """
        with self._guard, self._database.reading() as connection:
            return rows.records(connection, watch, labels)

    def forget(self, watch: str, labels: Sequence[LabelSet]) -> None:
        """Drop the versions of series that are gone; their numbers are still never given again.

        Raises:
            StoreError: the disk refuses.
        """
        with self._guard, self._database.transaction() as connection:
            rows.forget(connection, watch, labels)

    def forget_gone(self, watch: str, alive: Collection[str], before_ms: int) -> int:
        """Drop the versions of the series of a watch that are gone for good.

        What is left of a series, its number, goes when the audit log no longer speaks of it.

        Args:
            alive: keys of the series that the watch knows.
            before_ms: series of which a version was fitted since then stay, and so do pinned ones.

        Returns:
            How many series were dropped.

        Raises:
            StoreError: the disk refuses.
        """
        with self._guard, self._database.transaction() as connection:
            return rows.forget_gone(connection, watch, alive, before_ms)

    # The audit log

    def note(self, entries: Iterable[AuditEntry]) -> None:
        """Append entries that no version came of: rejected candidates, quarantines, reloads.

        Raises:
            StoreError: the disk is full or refuses.
        """
        with self._guard, self._database.transaction() as connection:
            audit.append(connection, entries)

    def audit(
        self,
        watch: str = "",
        labels: LabelSet | None = None,
        *,
        limit: int = 100,
        before_id: int | None = None,
    ) -> list[tuple[int, AuditEntry]]:
        """The log, newest first, with the id to page on from.

        Args:
            watch, labels: only what concerns this series; or the whole log.

        Raises:
            StoreError: the file cannot be read.
        """
        with self._guard, self._database.reading() as connection:
            return audit.entries(connection, watch, labels, limit, before_id)

    def serving_at(self, watch: str, labels: LabelSet, t_ms: int) -> int | None:
        """Which version made the predictions of ``t_ms``; None where none served.

        Raises:
            StoreError: the file cannot be read.
        """
        with self._guard, self._database.reading() as connection:
            return audit.serving_at(connection, watch, labels, t_ms)

    # What a watch carries from one cycle to the next

    def put_runtime(
        self, name: str, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]
    ) -> None:
        """Replace what is kept under ``name`` (a watch's id); a crash leaves the old or the new.

        Raises:
            StoreError: objects in it, or the disk is full or refuses.
        """
        if not self.degraded:
            with self._guard:
                runtime.put(self.folder, name, arrays, meta)

    def get_runtime(self, name: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
        """What was put; None where nothing is, or where it is damaged (then it is set aside)."""
        with self._guard:
            return runtime.get(self._database, name)

    def drop_runtime(self, keep: Iterable[str]) -> None:
        """Remove what is kept under names that no watch has any more."""
        with self._guard:
            runtime.drop_others(self.folder, keep)

    def _note_floor(self, version: int) -> None:
        try:
            self._database.note_floor(version)
        except OSError as error:
            raise StoreError(f"{self.folder}: {error}") from error
