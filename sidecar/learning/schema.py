"""The tables of the version store, and how a store of an older program gets to them."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import cache
from typing import Final

# Step i brings a store from schema i to schema i + 1; a released step is never edited.
STEPS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO meta VALUES ('audit_forgotten_to', 0), ('version_floor', 0);
    CREATE TABLE series (
        id INTEGER PRIMARY KEY,
        watch TEXT NOT NULL,
        key TEXT NOT NULL,
        labels TEXT NOT NULL,
        next_version INTEGER NOT NULL,
        predecessor INTEGER,
        pinned INTEGER NOT NULL DEFAULT 0,
        UNIQUE (watch, key)
    );
    CREATE TABLE blobs (
        id INTEGER PRIMARY KEY,
        model TEXT NOT NULL,
        settings TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        data BLOB NOT NULL
    );
    CREATE TABLE versions (
        series INTEGER NOT NULL,
        version INTEGER NOT NULL,
        blob INTEGER NOT NULL,
        place INTEGER NOT NULL,
        trained_at_ms INTEGER NOT NULL,
        policy TEXT NOT NULL,
        cause TEXT NOT NULL,
        gate TEXT NOT NULL,
        drift REAL, mae REAL, mape REAL, smape REAL, mase REAL,
        n_samples INTEGER NOT NULL,
        status TEXT NOT NULL,
        seal INTEGER NOT NULL,
        PRIMARY KEY (series, version)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX one_active ON versions (series) WHERE status = 'active';
    CREATE INDEX versions_by_blob ON versions (blob);
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at_ms INTEGER NOT NULL,
        who TEXT NOT NULL,
        what TEXT NOT NULL,
        series INTEGER,
        from_version INTEGER,
        to_version INTEGER,
        detail TEXT NOT NULL
    );
    CREATE INDEX audit_by_series ON audit (series, id);
    CREATE TRIGGER audit_is_written_once BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
    CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit
    WHEN OLD.id > (SELECT value FROM meta WHERE name = 'audit_forgotten_to')
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
    """,
)


class NewerSchema(Exception):
    """The file was written by a later version of this program."""


def tables(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    """What a database is made of: its tables, indexes and triggers with their definitions."""
    return connection.execute(
        "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_master ORDER BY type, name"
    ).fetchall()


@cache
def expected_tables(steps: tuple[str, ...]) -> list[tuple[str, ...]]:
    """What a database that took all the steps is made of."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, steps)
        return tables(connection)


def migrate(connection: sqlite3.Connection, steps: Sequence[str]) -> None:
    """Take the steps that a database has not taken yet, each wholly or not at all.

    Raises:
        NewerSchema: it has taken more of them than there are.
    """
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    if schema > len(steps):
        raise NewerSchema(f"its schema is {schema}, this program knows {len(steps)}")
    for number in range(schema, len(steps)):
        connection.executescript(
            f"BEGIN IMMEDIATE; {steps[number]}; PRAGMA user_version = {number + 1}; COMMIT;"
        )
