"""The append-only log of what changed, who changed it, from what to what.

Rows are never altered (a trigger sees to it); beyond ``MOST_ROWS`` the oldest are forgotten.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from sidecar.errors import StoreError
from sidecar.learning.records import AuditEntry, labels_from_text, labels_to_text
from sidecar.series import LabelSet

MOST_ROWS: Final = 1_000_000
_COLUMNS: Final = "at_ms, who, what, series, from_version, to_version, detail"


def append(connection: sqlite3.Connection, entries: Iterable[AuditEntry]) -> None:
    """Add entries; a series that has no version yet gets its row here."""
    append_rows(
        connection,
        [
            (
                entry.at_ms,
                entry.who,
                entry.what,
                _series(connection, entry),
                entry.from_version,
                entry.to_version,
                json.dumps(dict(entry.detail or {}), default=str),
            )
            for entry in entries
        ],
    )


def append_rows(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Add rows of the log's own columns, and forget the oldest where there are too many."""
    connection.executemany(
        f"INSERT INTO audit ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - our names
        rows,
    )
    (newest,) = connection.execute("SELECT coalesce(max(id), 0) FROM audit").fetchone()
    oldest = newest - MOST_ROWS
    if oldest > 0:
        connection.execute(
            "UPDATE meta SET value = max(value, ?) WHERE name = 'audit_forgotten_to'", (oldest,)
        )
        connection.execute("DELETE FROM audit WHERE id <= ?", (oldest,))


def _series(connection: sqlite3.Connection, entry: AuditEntry) -> int | None:
    if entry.labels is None:
        return None
    arguments = (entry.watch, entry.labels.key)
    find = "SELECT id FROM series WHERE watch = ? AND key = ?"
    row = connection.execute(find, arguments).fetchone()
    if row is not None:
        return int(row[0])
    return connection.execute(
        "INSERT INTO series (watch, key, labels, next_version) VALUES (?, ?, ?, 1 + "
        "(SELECT coalesce(max(value), 0) FROM meta WHERE name = 'version_floor'))",
        (*arguments, labels_to_text(entry.labels)),
    ).lastrowid


def entries(
    connection: sqlite3.Connection,
    watch: str,
    labels: LabelSet | None,
    limit: int,
    before_id: int | None,
) -> list[tuple[int, AuditEntry]]:
    """Newest first, each with its id."""
    conditions: list[str] = ["1"]
    arguments: list[Any] = []
    if before_id is not None:
        conditions.append("a.id < ?")
        arguments.append(before_id)
    if watch:
        conditions.append("s.watch = ?")
        arguments.append(watch)
    if labels is not None:
        conditions.append("s.key = ?")
        arguments.append(labels.key)
    found = connection.execute(
        "SELECT a.id, a.at_ms, a.who, a.what, s.labels, s.watch, a.from_version, a.to_version, "  # noqa: S608
        "a.detail FROM audit a LEFT JOIN series s ON s.id = a.series "
        f"WHERE {' AND '.join(conditions)} ORDER BY a.id DESC LIMIT ?",
        (*arguments, limit),
    )
    return [(row[0], _entry(*row[1:])) for row in found]


def _entry(
    at_ms: int,
    who: str,
    what: str,
    labels: str | None,
    watch: str | None,
    from_version: int | None,
    to_version: int | None,
    detail: str,
) -> AuditEntry:
    try:
        of = None if labels is None else labels_from_text(labels)
        more = json.loads(detail)
    except (StoreError, ValueError, TypeError):  # a damaged entry still says when and what
        of, more = None, {"damaged": f"{labels} {detail}"}
    return AuditEntry(at_ms, who, what, of, watch or "", from_version, to_version, more)


def serving_at(
    connection: sqlite3.Connection, watch: str, labels: LabelSet, t_ms: int
) -> int | None:
    """The version that served a series at ``t_ms``."""
    row = connection.execute(
        "SELECT a.to_version FROM audit a JOIN series s ON s.id = a.series "
        "WHERE s.watch = ? AND s.key = ? AND a.at_ms <= ? AND a.what IN (?, ?, ?) "
        "ORDER BY a.at_ms DESC, a.id DESC LIMIT 1",
        (watch, labels.key, t_ms, *SWITCHES),
    ).fetchone()
    return None if row is None else row[0]


SWITCHES: Final = ("promote", "rollback", "fall_back")
