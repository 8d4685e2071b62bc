"""The rows of the version store: series, versions and the bytes they point at."""

import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidecar.errors import StoreError
from sidecar.learning import audit
from sidecar.learning.blobs import pack
from sidecar.learning.database import raise_floor
from sidecar.learning.records import (
    ACTIVE,
    CANDIDATE,
    DAMAGED,
    RETIRED,
    AuditEntry,
    NewVersions,
    Serving,
    VersionRecord,
    labels_from_text,
    labels_to_text,
    number,
    seal,
)
from sidecar.series import LabelSet

# What the arrays of a stored batch carry beside the state, to be recognised by.
KEYS: Final = "_keys"
VERSIONS: Final = "_versions"
# A fit that an operator asked for ends a pin.
OPERATOR: Final = "operator"


class KnownSeries(NamedTuple):
    """A series as the store knows it; ``active`` is the version that serves, None before any."""

    id: int
    next_version: int
    active: int | None


class VersionRow(NamedTuple):
    """One row of ``versions`` with what its series and its bytes say; columns as selected below."""

    series: int
    version: int
    blob: int
    place: int
    trained_at_ms: int
    policy: str
    cause: str
    gate: str
    drift: float | None
    mae: float | None
    mape: float | None
    smape: float | None
    mase: float | None
    n_samples: int
    status: str
    seal: int
    watch: str
    key: str
    labels: str
    pinned: int
    predecessor: int | None
    model: str
    settings: str
    sha256: str

    def seal_with(self, status: str) -> int:
        """What the seal of this row is, with such a status."""
        figures = self[_FIRST_FIGURE : _LAST_FIGURE + 1]
        whose = (self.watch, self.key, self.version, self.sha256, self.place)
        return seal(*whose, self.model, self.settings, figures, status)

    @property
    def intact(self) -> bool:
        return self.seal == self.seal_with(self.status)


_FIRST_FIGURE: Final = VersionRow._fields.index("trained_at_ms")
_LAST_FIGURE: Final = VersionRow._fields.index("n_samples")
# A version whose bytes are gone still has a row to be found and marked.
SELECT: Final = """
    SELECT v.series, v.version, v.blob, v.place, v.trained_at_ms, v.policy, v.cause, v.gate,
        v.drift, v.mae, v.mape, v.smape, v.mase, v.n_samples, v.status, v.seal,
        s.watch, s.key, s.labels, s.pinned, s.predecessor,
        coalesce(b.model, ''), coalesce(b.settings, ''), coalesce(b.sha256, '')
    FROM series s JOIN versions v ON v.series = s.id LEFT JOIN blobs b ON b.id = v.blob
"""


def select(connection: sqlite3.Connection, where: str, *arguments: Any) -> list[VersionRow]:
    """Versions that a condition over s (series), v (versions) and b (blobs) names."""
    return [VersionRow(*row) for row in connection.execute(f"{SELECT} {where}", arguments)]


def one_series(connection: sqlite3.Connection, watch: str, labels: LabelSet) -> list[VersionRow]:
    """Every version of one series, newest first."""
    condition = "WHERE s.watch = ? AND s.key = ? ORDER BY v.version DESC"
    return select(connection, condition, watch, labels.key)


def admitted(
    connection: sqlite3.Connection, watch: str, labels: Sequence[LabelSet]
) -> list[KnownSeries]:
    """The series' rows, made where there was none.

    Raises:
        ValueError: two entries with the same labels.
        sqlite3.DatabaseError: what was written is not found again.
    """
    if len({one.key for one in labels}) != len(labels):
        raise ValueError(f"a batch of {len(labels)} versions names a series twice")
    (floor,) = connection.execute(
        "SELECT coalesce(max(value), 0) FROM meta WHERE name = 'version_floor'"
    ).fetchone()
    connection.executemany(
        "INSERT INTO series (watch, key, labels, next_version) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (watch, key) DO UPDATE SET labels = excluded.labels "
        "WHERE labels <> excluded.labels",
        [(watch, one.key, labels_to_text(one), floor + 1) for one in labels],
    )
    found = connection.execute(
        "SELECT s.key, s.id, max(s.next_version, 1 + coalesce((SELECT max(version) FROM versions "
        "WHERE series = s.id), 0)), a.version FROM series s LEFT JOIN versions a "
        "ON a.series = s.id AND a.status = 'active' "
        "WHERE s.watch = ? AND s.key IN (SELECT value FROM json_each(?))",
        (watch, json.dumps([one.key for one in labels])),
    )
    known = {key: KnownSeries(*rest) for key, *rest in found}
    if len(known) != len(labels):
        raise sqlite3.DatabaseError(f"of {len(labels)} series {len(known)} are found")
    return [known[one.key] for one in labels]


def serving(connection: sqlite3.Connection, watch: str) -> dict[str, Serving]:
    """See ``VersionStore.serving``."""
    found = connection.execute(
        "SELECT s.key, v.version, s.next_version FROM series s JOIN versions v ON v.series = s.id "
        "WHERE s.watch = ? AND v.status = 'active'",
        (watch,),
    )
    return {key: Serving(*numbers) for key, *numbers in found}


def put_states(
    connection: sqlite3.Connection, new: NewVersions, numbers: NDArray[np.int64]
) -> tuple[int, str]:
    """Store the bytes of a batch; their row and checksum."""
    keys = np.array([labels.key for labels in new.labels], dtype=np.bytes_)
    data, digest = pack({**new.arrays, KEYS: keys, VERSIONS: numbers})
    cursor = connection.execute(
        "INSERT INTO blobs (model, settings, sha256, data) VALUES (?, ?, ?, ?)",
        (new.model, settings_text(new), digest, data),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid, digest


def settings_text(new: NewVersions) -> str:
    """Canonical, so that equal settings are equal text.

    Raises:
        StoreError: not plain JSON.
    """
    try:
        return json.dumps(new.settings, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise StoreError(f"settings of model {new.model} cannot be stored: {error}") from None


def insert_versions(
    connection: sqlite3.Connection,
    new: NewVersions,
    known: Sequence[KnownSeries],
    blob: int,
    digest: str,
) -> None:
    """The versions of a batch; those that serve retire the ones that did."""
    settings = settings_text(new)
    replaced = [one for one, active in zip(known, new.active, strict=True) if active]
    _retire(connection, [one.id for one in replaced])
    inserts, entries = [], []
    for place, (one, labels) in enumerate(zip(known, new.labels, strict=True)):
        active = bool(new.active[place])
        row = VersionRow(
            series=one.id,
            version=one.next_version,
            blob=blob,
            place=place,
            trained_at_ms=new.trained_at_ms,
            policy=new.policy[place],
            cause=new.cause[place],
            gate=new.gate[place],
            drift=number(new.drift[place]),
            mae=number(new.mae[place]),
            mape=number(new.mape[place]),
            smape=number(new.smape[place]),
            mase=number(new.mase[place]),
            n_samples=int(new.n_samples[place]),
            status=ACTIVE if active else CANDIDATE,
            seal=0,
            watch=new.watch,
            key=labels.key,
            labels="",
            pinned=0,
            predecessor=None,
            model=new.model,
            settings=settings,
            sha256=digest,
        )
        inserts.append((*row[: _LAST_FIGURE + 1], row.status, row.seal_with(row.status)))
        entries.append(_entry(row, one))
    connection.executemany(f"INSERT INTO versions VALUES ({', '.join('?' * 16)})", inserts)  # noqa: S608
    connection.executemany(
        "UPDATE series SET next_version = ? WHERE id = ?",
        [(one.next_version + 1, one.id) for one in known],
    )
    connection.executemany(
        "UPDATE series SET predecessor = ? WHERE id = ?",
        [(one.active, one.id) for one in replaced if one.active is not None],
    )
    asked = [one for one, cause in zip(known, new.cause, strict=True) if cause == OPERATOR]
    connection.executemany(
        "UPDATE series SET pinned = 0 WHERE id = ?", [(one.id,) for one in asked]
    )
    audit.append_rows(connection, entries)


def _entry(row: VersionRow, one: KnownSeries) -> tuple[Any, ...]:
    detail = {"gate": row.gate, "policy": row.policy, "mae": row.mae, "drift": row.drift}
    return (
        row.trained_at_ms,
        row.cause,
        "promote" if row.status == ACTIVE else "candidate",
        one.id,
        one.active,
        one.next_version,
        json.dumps({name: value for name, value in detail.items() if value is not None}),
    )


def _retire(connection: sqlite3.Connection, series: Sequence[int]) -> None:
    condition = "WHERE v.status = 'active' AND s.id IN (SELECT value FROM json_each(?))"
    restate(connection, select(connection, condition, json.dumps(list(series))), RETIRED)


def restate(connection: sqlite3.Connection, rows: Iterable[VersionRow], status: str) -> None:
    """Give versions another status; one whose seal is broken is damaged whatever is asked."""
    connection.executemany(
        "UPDATE versions SET status = ?, seal = ? WHERE series = ? AND version = ?",
        [
            (new, row.seal_with(new), row.series, row.version)
            for row in rows
            for new in (status if row.intact else DAMAGED,)
        ],
    )


def prune(connection: sqlite3.Connection, series: Sequence[int], most: int) -> None:
    """Drop the oldest versions of some series beyond ``most``, and bytes that nothing points at.

    What serves, its predecessor, and the newest candidate stay whatever their age.
    """
    old = connection.execute(
        "SELECT series, version, blob FROM (SELECT v.series, v.version, v.blob, v.status, "
        "s.predecessor, row_number() OVER (PARTITION BY v.series ORDER BY v.version DESC) AS age "
        "FROM versions v JOIN series s ON s.id = v.series "
        "WHERE s.id IN (SELECT value FROM json_each(?))) "
        "WHERE age > ? AND status <> 'active' AND version IS NOT predecessor",
        (json.dumps(list(series)), most),
    ).fetchall()
    _delete(connection, old)


def forget(connection: sqlite3.Connection, watch: str, labels: Sequence[LabelSet]) -> None:
    """Drop every version of some series; the numbers given stay known."""
    found = connection.execute(
        "SELECT id FROM series WHERE watch = ? AND key IN (SELECT value FROM json_each(?))",
        (watch, json.dumps([one.key for one in labels])),
    )
    _forget(connection, [series for (series,) in found])


def forget_gone(
    connection: sqlite3.Connection, watch: str, alive: Collection[str], before_ms: int
) -> int:
    """Drop every version of the series that are not ``alive`` (keys) and were fitted before
    ``before_ms`` last; pinned ones stay. Gives how many series that were."""
    found = connection.execute(
        "SELECT id FROM series WHERE watch = ? AND NOT pinned "
        "AND key NOT IN (SELECT value FROM json_each(?)) "
        "AND (SELECT max(trained_at_ms) FROM versions WHERE series = series.id) < ?",
        (watch, json.dumps(list(alive)), before_ms),
    )
    gone = [series for (series,) in found]
    _forget(connection, gone)
    _forget_numbers(connection, watch, alive)
    return len(gone)


def _forget_numbers(connection: sqlite3.Connection, watch: str, alive: Collection[str]) -> None:
    """Drop the rows of series of which nothing is kept any more, not even in the audit log.

    That no number is given twice to one that comes back, new series begin above theirs.
    """
    found = connection.execute(
        "SELECT id, next_version FROM series WHERE watch = ? AND NOT pinned "
        "AND key NOT IN (SELECT value FROM json_each(?)) "
        "AND NOT EXISTS (SELECT 1 FROM versions WHERE series = series.id) "
        "AND NOT EXISTS (SELECT 1 FROM audit WHERE series = series.id)",
        (watch, json.dumps(list(alive))),
    ).fetchall()
    raise_floor(connection, max((next_version - 1 for _, next_version in found), default=0))
    connection.executemany("DELETE FROM series WHERE id = ?", [row[:1] for row in found])


def _forget(connection: sqlite3.Connection, series: Sequence[int]) -> None:
    ids = json.dumps(list(series))
    every = connection.execute(
        "SELECT series, version, blob FROM versions "
        "WHERE series IN (SELECT value FROM json_each(?))",
        (ids,),
    ).fetchall()
    connection.execute(
        "UPDATE series SET predecessor = NULL, pinned = 0 "
        "WHERE id IN (SELECT value FROM json_each(?))",
        (ids,),
    )
    _delete(connection, every)


def _delete(connection: sqlite3.Connection, rows: Sequence[tuple[int, int, int]]) -> None:
    connection.executemany(
        "DELETE FROM versions WHERE series = ? AND version = ?", [row[:2] for row in rows]
    )
    connection.executemany(
        "DELETE FROM blobs WHERE id = ? AND NOT EXISTS "
        "(SELECT 1 FROM versions WHERE blob = blobs.id)",
        [(blob,) for blob in {row[2] for row in rows}],
    )


def pinned(connection: sqlite3.Connection, watch: str) -> list[LabelSet]:
    """The series of a watch that are fitted only when an operator asks for it."""
    found = connection.execute("SELECT labels FROM series WHERE watch = ? AND pinned", (watch,))
    return [labels_from_text(text) for (text,) in found]


def pin(
    connection: sqlite3.Connection,
    watch: str,
    labels: LabelSet,
    pinned: bool,
    at_ms: int,
    who: str,
) -> None:
    """Raises:
    StoreError: the store does not know the series.
    """
    done = connection.execute(
        "UPDATE series SET pinned = ? WHERE watch = ? AND key = ?",
        (int(pinned), watch, labels.key),
    )
    if done.rowcount == 0:
        raise StoreError(f"{labels}: no version of it is stored yet, so it cannot be pinned")
    what = "pin" if pinned else "unpin"
    audit.append(connection, [AuditEntry(at_ms, who, what, labels, watch)])


def records(connection: sqlite3.Connection, watch: str, labels: LabelSet) -> list[VersionRecord]:
    """What is kept of a series, newest first."""
    return [_record(row, labels) for row in one_series(connection, watch, labels)]


def _record(row: VersionRow, labels: LabelSet) -> VersionRecord:
    status = row.status if row.intact else DAMAGED
    settings = {} if status == DAMAGED else json.loads(row.settings)
    return VersionRecord(
        watch=row.watch,
        labels=labels,
        version=row.version,
        model=row.model,
        settings=settings,
        policy=row.policy,
        cause=row.cause,
        gate=row.gate,
        trained_at_ms=row.trained_at_ms,
        drift=row.drift,
        mae=row.mae,
        mape=row.mape,
        smape=row.smape,
        mase=row.mase,
        n_samples=row.n_samples,
        status=status,
        sha256=row.sha256,
    )
