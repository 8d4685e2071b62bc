"""Stored states, verified: at the start for a whole watch, and one at a time for a rollback."""

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidecar.errors import StoreError
from sidecar.learning import audit, rows
from sidecar.learning.blobs import unpack
from sidecar.learning.database import UNREADABLE, Database
from sidecar.learning.records import (
    ACTIVE,
    CANDIDATE,
    DAMAGED,
    RETIRED,
    ROLLED_BACK,
    AuditEntry,
    Group,
    Restored,
    labels_from_text,
)
from sidecar.learning.rows import KEYS, VERSIONS, VersionRow
from sidecar.series import LabelSet

Arrays = Mapping[str, NDArray[Any]]


def load(database: Database, watch: str, labels: Sequence[LabelSet] | None) -> Restored:
    """See ``VersionStore.load``."""
    with database.reading() as connection:
        loading = _Loading(database, connection)
        restored = loading.restored(watch, labels)
    loading.record_damage()
    return restored


@dataclass
class _Loading:
    """One load: what verified, what did not, what took its place."""

    database: Database
    connection: sqlite3.Connection
    good: list[tuple[VersionRow, LabelSet, Arrays]] = field(default_factory=list)
    damaged: list[VersionRow] = field(default_factory=list)
    fallen_back: list[VersionRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    read: dict[tuple[str, str], LabelSet | None] = field(default_factory=dict)

    def restored(self, watch: str, labels: Sequence[LabelSet] | None) -> Restored:
        chosen, arguments = "s.watch = ?", [watch]
        if labels is not None:
            chosen += " AND s.key IN (SELECT value FROM json_each(?))"
            arguments.append(json.dumps([one.key for one in labels]))
        active = rows.select(
            self.connection,
            f"WHERE {chosen} AND v.status = 'active' ORDER BY v.blob, v.place",
            *arguments,
        )
        groups = self._verified(active)
        named = self.connection.execute(
            f"SELECT s.id, s.key, s.labels, s.pinned FROM series s WHERE {chosen} "  # noqa: S608
            "AND EXISTS (SELECT 1 FROM versions v WHERE v.series = s.id AND v.status <> ?)",
            (*arguments, CANDIDATE),
        ).fetchall()
        pinned, lost = set(), set()
        served = {row.series for group in groups for row in group.rows}
        for series, key, text, pin in named:
            whose = self._labels(key, text)
            if whose is None:
                continue
            if pin:
                pinned.add(whose)
            if series not in served and not self._fall_back(series, groups):
                lost.add(whose)
        return Restored(
            groups=tuple(group.finished() for group in _joined(groups)),
            pinned=frozenset(pinned),
            lost=frozenset(lost),
            notes=tuple(self.notes),
        )

    def _verified(self, wanted: Sequence[VersionRow]) -> list["_Piece"]:
        """The wanted versions that verify, a piece for each stored batch they are in."""
        pieces = []
        by_blob: dict[int, list[VersionRow]] = {}
        for row in wanted:
            by_blob.setdefault(row.blob, []).append(row)
        for blob, members in by_blob.items():
            piece = self._piece(blob, members)
            if piece is not None:
                pieces.append(piece)
        return pieces

    def _piece(self, blob: int, members: Sequence[VersionRow]) -> "_Piece | None":
        try:
            arrays = read_states(self.connection, blob)
        except StoreError as error:
            self.notes.append(f"{len(members)} versions in one stored batch set aside: {error}")
            self.damaged += members
            self._keep_bytes(blob)
            return None
        good, labels = [], []
        for row in members:
            whose = self._labels(row.key, row.labels)
            if whose is not None and belongs(row, arrays):
                good.append(row)
                labels.append(whose)
            else:
                self.notes.append(f"{row.labels} v{row.version} set aside: its record is damaged")
                self.damaged.append(row)
        return _Piece(good, labels, _states(arrays, good)) if good else None

    def _fall_back(self, series: int, pieces: list["_Piece"]) -> bool:
        """Let the newest other version of a series serve that verifies; whether there is one."""
        others = rows.select(
            self.connection,
            "WHERE s.id = ? AND v.status IN (?, ?) ORDER BY v.version IS s.predecessor DESC, "
            "v.status = ? DESC, v.version DESC",
            series,
            RETIRED,
            ROLLED_BACK,
            RETIRED,
        )
        for row in others:
            piece = self._piece(row.blob, [row])
            if piece is not None:
                self.fallen_back.append(row)
                self.notes.append(f"{piece.labels[0]}: v{row.version} serves in its place")
                pieces.append(piece)
                return True
        return False

    def _labels(self, key: str, text: str) -> LabelSet | None:
        """The labels of a series' row, None where they are not what its key says."""
        if (key, text) not in self.read:
            self.read[key, text] = self._read_labels(key, text)
        return self.read[key, text]

    def _read_labels(self, key: str, text: str) -> LabelSet | None:
        try:
            labels = labels_from_text(text)
        except StoreError as error:
            self.notes.append(str(error))
            return None
        return labels if labels.key == key else None

    def _keep_bytes(self, blob: int) -> None:
        try:
            found = self.connection.execute("SELECT data FROM blobs WHERE id = ?", (blob,))
            data = found.fetchone()
        except UNREADABLE:
            return  # not even readable; the note says so already
        if data is not None:
            self.database.set_aside(f"states-{blob}.npz", bytes(data[0]))

    def record_damage(self) -> None:
        """Write down what did not verify and what serves instead, where the disk lets us."""
        if not self.damaged and not self.fallen_back:
            return
        try:
            with self.database.transaction() as connection:
                rows.restate(connection, self.damaged, DAMAGED)
                rows.restate(connection, self.fallen_back, ACTIVE)
                audit.append(connection, [_fall_back_entry(row) for row in self.fallen_back])
        except StoreError as error:
            self.database.notes.append(f"what was set aside could not be recorded: {error}")


def _fall_back_entry(row: VersionRow) -> AuditEntry:
    return AuditEntry(
        at_ms=time.time_ns() // 1_000_000,
        who="store",
        what="fall_back",
        labels=labels_from_text(row.labels),
        watch=row.watch,
        to_version=row.version,
        detail={"why": "the version that served could not be read"},
    )


@dataclass
class _Piece:
    """Versions of one stored batch, their states row by row."""

    rows: list[VersionRow]
    labels: list[LabelSet]
    arrays: Arrays

    def finished(self) -> Group:
        first = self.rows[0]
        return Group(
            model=first.model,
            settings=json.loads(first.settings),
            labels=tuple(self.labels),
            versions=np.array([row.version for row in self.rows], dtype=np.int64),
            arrays=self.arrays,
            mae=np.array([np.nan if row.mae is None else row.mae for row in self.rows]),
            trained_at_ms=np.array([row.trained_at_ms for row in self.rows], dtype=np.int64),
        )


def _joined(pieces: Sequence[_Piece]) -> list[_Piece]:
    """One piece for each recipe: model, settings and the shapes of its state."""
    by_recipe: dict[tuple[Any, ...], list[_Piece]] = {}
    for piece in pieces:
        first = piece.rows[0]
        shapes = tuple((name, array.shape[1:]) for name, array in sorted(piece.arrays.items()))
        by_recipe.setdefault((first.model, first.settings, shapes), []).append(piece)
    return [
        _Piece(
            rows=[row for one in same for row in one.rows],
            labels=[labels for one in same for labels in one.labels],
            arrays={
                name: np.concatenate([one.arrays[name] for one in same]) for name in same[0].arrays
            },
        )
        for same in by_recipe.values()
    ]


def read_states(connection: sqlite3.Connection, blob: int) -> dict[str, NDArray[Any]]:
    """The arrays of a stored batch.

    Raises:
        StoreError: they are missing, cannot be read, or are not what was written.
    """
    try:
        found = connection.execute(
            "SELECT data, sha256 FROM blobs WHERE id = ?", (blob,)
        ).fetchone()
    except UNREADABLE as error:
        raise StoreError(f"its bytes cannot be read: {error}") from error
    if found is None:
        raise StoreError("its bytes are missing")
    return unpack(*found)


def belongs(row: VersionRow, arrays: Arrays) -> bool:
    """Whether a version's row is intact and the state it points at is that version's."""
    keys, numbers = arrays.get(KEYS), arrays.get(VERSIONS)
    return (
        row.intact
        and keys is not None
        and numbers is not None
        and 0 <= row.place < min(len(keys), len(numbers))
        and keys[row.place] == row.key.encode()
        and int(numbers[row.place]) == row.version
    )


def _states(arrays: Arrays, of: Sequence[VersionRow]) -> Arrays:
    places = np.array([row.place for row in of], dtype=np.int64)
    return {name: array[places] for name, array in arrays.items() if name not in (KEYS, VERSIONS)}


def chosen(
    connection: sqlite3.Connection, watch: str, labels: LabelSet, version: int | None, what: str
) -> Group:
    """See ``VersionStore.chosen``."""
    return _chosen(connection, watch, labels, version, what)[2]


def _chosen(
    connection: sqlite3.Connection, watch: str, labels: LabelSet, version: int | None, what: str
) -> tuple[VersionRow | None, VersionRow, Group]:
    """The version that serves, the one that is meant, and its state.

    Raises:
        StoreError: there is none such, or it does not verify.
    """
    kept = rows.one_series(connection, watch, labels)
    active = next((row for row in kept if row.status == ACTIVE), None)
    target = _target(labels, kept, active, version, what)
    arrays = read_states(connection, target.blob)
    if target.status == DAMAGED or not belongs(target, arrays):
        raise StoreError(f"{labels} v{target.version} does not verify, so it cannot serve")
    return active, target, _Piece([target], [labels], _states(arrays, [target])).finished()


def switch(
    connection: sqlite3.Connection,
    watch: str,
    labels: LabelSet,
    version: int | None,
    what: str,
    who: str,
    at_ms: int,
    pin: bool,
) -> Group:
    """See ``VersionStore.rollback`` and ``promote``; inside the caller's transaction."""
    active, target, group = _chosen(connection, watch, labels, version, what)
    if active is not None:
        after = ROLLED_BACK if what == "rollback" else RETIRED
        rows.restate(connection, [active], after)
    rows.restate(connection, [target], ACTIVE)
    connection.execute(
        "UPDATE series SET predecessor = ?, pinned = ? WHERE id = ?",
        (active and active.version, pin, target.series),
    )
    entry = AuditEntry(
        at_ms,
        who,
        what,
        labels,
        watch,
        active and active.version,
        target.version,
        {"pinned": pin},
    )
    audit.append(connection, [entry])
    return group


def _target(
    labels: LabelSet,
    kept: Sequence[VersionRow],
    active: VersionRow | None,
    version: int | None,
    what: str,
) -> VersionRow:
    """Which version is meant.

    Raises:
        StoreError: there is none such; the text says which there are.
    """
    there = ", ".join(f"v{row.version} ({row.status})" for row in kept) or "none"
    if version is not None:
        found = next((row for row in kept if row.version == version), None)
        if found is None:
            raise StoreError(f"{labels} has no version v{version}; stored: {there}")
        if found is active:
            raise StoreError(f"{labels} is served by v{version} already; stored: {there}")
        return found
    if what == "promote":
        waiting = next((row for row in kept if row.status == CANDIDATE), None)
        if waiting is None:
            raise StoreError(f"{labels} has no candidate waiting; stored: {there}")
        return waiting
    before = next((row for row in kept if active and row.version == active.predecessor), None)
    older = (row for row in kept if active and row.version < active.version)
    usable = next((row for row in older if row.status == RETIRED), None)
    found = usable
    if before is not None and active and before.version < active.version:
        found = before if before.status == RETIRED else usable
    if found is None:
        raise StoreError(
            f"{labels} has no earlier version to go back to: name one with --to; stored: {there}"
        )
    return found
