"""What was accepted and is not yet delivered, on disk, in SQLite.

A row is a request: the bytes that go over the wire. It is *loose* until its first attempt is about
to be made; loose rows of one shard with one timestamp may still be joined into one request. From
then on it is *sealed*: its bytes never change again, whatever is answered, whoever restarts. All
samples of a row have one timestamp and lie in one shard, and a series is always in the same shard;
taking rows in the order of their timestamps therefore never takes a series out of order, and one
request never holds a series twice.

Counters are rows too and change in the same transactions, so at every instant and across restarts
``enqueued = sent + pending + dropped``.

Nothing here is aware of threads or time: one thread owns a ``Spool`` and calls it inside
``begin`` and ``commit``.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from sidecar.errors import StoreError
from sidecar.names import DropReason
from sidecar.remote import blobs
from sidecar.remote.rows import Loose, Request, SavedMark, Tally
from sidecar.remote.spool_file import PAGE_BYTES, Disk, SpoolUnusable, as_store_error, connect
from sidecar.series import LabelSet

__all__ = ["Spool", "SpoolUnusable", "as_store_error"]

_FORMAT: Final = 1
_DROPPED: Final = "dropped:"
_SAVE_FACT: Final = (
    "INSERT INTO fact VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)
_SLACK_MARGIN: Final = 128 * 1024


class Spool:
    """The open file. ``path`` None keeps everything in memory.

    Args:
        shards: wanted; what the file was made with counts while anything is pending.
        max_bytes: of waiting requests; beyond it the oldest are dropped.
        slack_bytes: empty pages kept within a new file, for times when the disk has none to give.

    Attributes:
        tally: as of the last commit; a new value each time, so any thread may read it.
        shards: how many; fixed while anything is pending.

    Raises:
        SpoolUnusable: another process has it, or it cannot be opened or read; ``kind`` says which.
        StoreError: it was made by a version of another format.
    """

    def __init__(
        self,
        path: Path | None,
        shards: int,
        max_bytes: int,
        *,
        slack_bytes: int = 2 * 1024 * 1024,
    ) -> None:
        self.path = path
        self._slack_bytes = slack_bytes
        self._max_bytes = max_bytes
        self._busy: set[int] = set()
        self._undo: list[Callable[[], None]] = []
        try:
            self._db = connect(path)
        except sqlite3.Error as error:
            raise as_store_error(path, error) from error
        self._disk = Disk(path)
        try:
            self.shards = self._settle_shards(shards)
            self.tally = self._count()
            self._set_aside_slack()
        except sqlite3.Error as error:
            self._db.close()
            raise as_store_error(path, error) from error
        except StoreError:
            self._db.close()
            raise
        self._draft = self.tally

    def close(self) -> None:
        self._db.close()

    # Transactions

    def begin(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._draft, self._undo = self.tally, []

    def commit(self) -> None:
        self._save_tally()
        self._db.execute("COMMIT")
        self.tally, self._undo = self._draft, []

    def rollback(self) -> None:
        """Leave everything, here and in whoever gave ``on_rollback``, as it was at ``begin``."""
        for undo in reversed(self._undo):
            undo()
        self._undo = []
        if self._db.in_transaction:  # SQLite has rolled back by itself after some errors
            self._db.execute("ROLLBACK")

    def on_rollback(self, undo: Callable[[], None]) -> None:
        self._undo.append(undo)

    # Requests

    def append(self, entries: Iterable[Loose]) -> None:
        """Accept samples; at the size limit, and on a disk that is nearly full, the oldest make
        room, counted."""
        accepted = list(entries)
        self._stay_in_the_file(sum(len(entry.body) for entry in accepted))
        for entry in accepted:
            self._insert(entry, sealed=False)
            self._adjust(enqueued=entry.samples)
        if self._draft.bytes > self._max_bytes:
            self.make_room(self._draft.bytes - self._max_bytes)

    def take(
        self,
        shard: int,
        *,
        expired_before_ms: int,
        max_samples: int,
        max_bytes: int,
        quarantined: frozenset[LabelSet] = frozenset(),
    ) -> Request | None:
        """The shard's oldest request, sealed; None where nothing is pending.

        Samples older than ``expired_before_ms`` are dropped first. Loose rows of one timestamp are
        joined up to the limits, and series in quarantine are taken out of them.
        """
        self.drop_where("shard = ? AND timestamp_ms < ?", (shard, expired_before_ms))
        while True:
            row = self._db.execute(
                "SELECT id, timestamp_ms, sealed, samples, body FROM request WHERE shard = ?"
                " ORDER BY timestamp_ms, sealed DESC, id LIMIT 1",
                (shard,),
            ).fetchone()
            if row is None:
                return None
            request_id, timestamp_ms, sealed, samples, body = row
            request = Request(request_id, shard, timestamp_ms, samples, body)
            if not sealed:
                if len(body) > max_bytes and samples > 1:  # made before a 413 taught a lower limit
                    self._halve_loose(request)
                    continue
                found = self._seal(shard, timestamp_ms, max_samples, max_bytes, quarantined)
                if found is None:  # all its series were in quarantine
                    continue
                request = found
            self._hold(request.id)
            return request

    def finish(self, request: Request) -> None:
        """It was stored by the receiver."""
        if self._delete(request.id):
            self._adjust(sent=request.samples)

    def drop(self, request: Request, reason: DropReason) -> None:
        if self._delete(request.id):
            self._drop(reason, request.samples)

    def split(self, request: Request, *, by_bytes: bool = False) -> tuple[Request, Request] | None:
        """Two new requests in its place; None where it is gone (the spool was full).

        The first is sealed and meant to be sent next, the second stays loose.
        """
        if not self._delete(request.id):
            return None
        made: list[Request] = []
        for body, samples in blobs.halves(request.body, by_bytes=by_bytes):
            entry = Loose(request.shard, request.timestamp_ms, samples, body)
            row = self._insert(entry, sealed=not made)
            made.append(Request(row, request.shard, request.timestamp_ms, samples, body))
            self._hold(row)
        return made[0], made[1]

    def seal(self, request: Request) -> bool:
        """Fix a loose row's bytes before it is sent alone; False where it is gone."""
        done = self._db.execute("UPDATE request SET sealed = 1 WHERE id = ?", (request.id,))
        return done.rowcount == 1

    def release(self, request_ids: Iterable[int]) -> None:
        """Nobody is working on these any more; they may make room for others."""
        self._busy.difference_update(request_ids)

    def drop_where(
        self,
        condition: str,
        values: Sequence[int],
        reason: DropReason = DropReason.EXPIRED,
    ) -> int:
        """Drop the rows under an SQL condition (a literal of ours) that nobody works on.

        Gives how many samples these were.
        """
        found = self._db.execute(
            f"SELECT id, samples FROM request WHERE {condition}",  # noqa: S608 - literals of ours
            values,
        ).fetchall()
        rows = [row for row in found if row[0] not in self._busy]
        for request_id, samples in rows:
            self._delete(request_id)
            self._drop(reason, samples)
        return sum(samples for _, samples in rows)

    def make_room(self, needed: int) -> int:
        """Drop the oldest rows until ``needed`` bytes are free; gives how many were freed.

        Rows that are being sent stay; loose ones go first.
        """
        freed = 0
        for request_id, samples, size in self._oldest():
            if freed >= needed:
                break
            self._delete(request_id)
            self._drop(DropReason.SPOOL_FULL, samples)
            freed += size
        return freed

    def shorten_log(self) -> None:
        """Move the log into the file and give its space back. Outside of a transaction."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def oldest_ms(self) -> int | None:
        row = self._db.execute("SELECT min(timestamp_ms) FROM request").fetchone()
        return None if row[0] is None else int(row[0])

    # High-water marks and quarantine

    def add_lineup(self, members: bytes) -> int:
        cursor = self._db.execute("INSERT INTO lineup (members) VALUES (?)", (members,))
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def drop_lineups(self, rows: Iterable[int]) -> None:
        """Forget lineups and their marks."""
        places = [(row,) for row in rows]
        self._db.executemany("DELETE FROM mark WHERE lineup = ?", places)
        self._db.executemany("DELETE FROM lineup WHERE id = ?", places)

    def save_mark(self, lineup: int, high_water_ms: int, each_ms: bytes | None) -> None:
        self._db.execute(
            "INSERT INTO mark VALUES (?, ?, ?) ON CONFLICT (lineup) DO UPDATE SET"
            " high_water_ms = excluded.high_water_ms, each_ms = excluded.each_ms",
            (lineup, high_water_ms, each_ms),
        )

    def marks(self) -> Iterator[SavedMark]:
        rows = self._db.execute(
            "SELECT id, members, high_water_ms, each_ms FROM lineup JOIN mark ON lineup = id"
        )
        return (SavedMark(*row) for row in rows)

    def cap_marks(self, at_most_ms: int) -> None:
        """Lower every mark above; marks kept for each series of a lineup become this one too."""
        self._db.execute(
            "UPDATE mark SET high_water_ms = ?1, each_ms = NULL WHERE high_water_ms > ?1",
            (at_most_ms,),
        )

    def forget_marks(self, before_ms: int) -> None:
        """Forget lineups whose newest timestamp is older."""
        self._db.execute("DELETE FROM mark WHERE high_water_ms < ?", (before_ms,))
        self._db.execute("DELETE FROM lineup WHERE id NOT IN (SELECT lineup FROM mark)")

    def quarantines(self) -> list[tuple[str, int, int]]:
        """(labels as text, until_ms, pauses) of each."""
        return self._db.execute("SELECT labels, until_ms, pauses FROM quarantine").fetchall()

    def save_quarantine(self, labels: str, until_ms: int, pauses: int) -> None:
        self._db.execute(
            "INSERT INTO quarantine VALUES (?, ?, ?) ON CONFLICT (labels) DO UPDATE SET"
            " until_ms = excluded.until_ms, pauses = excluded.pauses",
            (labels, until_ms, pauses),
        )

    def end_quarantine(self, labels: str) -> None:
        self._db.execute("DELETE FROM quarantine WHERE labels = ?", (labels,))

    # Inside

    def _stay_in_the_file(self, new_bytes: int) -> None:
        """On a disk that is nearly full the file must not grow: the oldest rows give their pages.

        Then the log can always be moved into the file, and so never grows beyond its size either.
        """
        if self.path is None or self._disk.has_room():
            return
        [free_pages] = self._db.execute("PRAGMA freelist_count").fetchone()
        missing = new_bytes + _SLACK_MARGIN - free_pages * PAGE_BYTES
        if missing > 0:
            self.make_room(missing)

    def _set_aside_slack(self) -> None:
        """Empty pages within the file, so that a few minutes' requests need no more of the disk."""
        if self.path is None:
            return
        [free_pages] = self._db.execute("PRAGMA freelist_count").fetchone()
        wanted = min(self._slack_bytes, self._disk.spare_bytes() // 4) - free_pages * PAGE_BYTES
        if wanted < PAGE_BYTES:
            return
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("CREATE TABLE slack (filling BLOB)")
        self._db.execute("INSERT INTO slack VALUES (zeroblob(?))", (wanted,))
        self._db.execute("DROP TABLE slack")
        self._db.execute("COMMIT")

    def _seal(
        self,
        shard: int,
        timestamp_ms: int,
        max_samples: int,
        max_bytes: int,
        quarantined: frozenset[LabelSet],
    ) -> Request | None:
        """Join the loose rows of one timestamp into one sealed row."""
        chosen: list[tuple[int, int, bytes]] = []
        samples = size = 0
        for row in self._db.execute(
            "SELECT id, samples, body FROM request"
            " WHERE shard = ? AND timestamp_ms = ? AND sealed = 0 ORDER BY id",
            (shard, timestamp_ms),
        ):
            samples, size = samples + row[1], size + len(row[2])
            if chosen and (samples > max_samples or size > max_bytes):
                break
            chosen.append(row)
        kept = self._take_out(chosen, quarantined) if quarantined else chosen
        if not kept:
            return None
        total = sum(count for _, count, _ in kept)
        if len(kept) == 1:
            request_id, _, body = kept[0]
            self._db.execute("UPDATE request SET sealed = 1 WHERE id = ?", (request_id,))
            return Request(request_id, shard, timestamp_ms, total, body)
        body = blobs.join([part for _, _, part in kept])
        for request_id, _, _ in kept:
            self._delete(request_id)
        row_id = self._insert(Loose(shard, timestamp_ms, total, body), sealed=True)
        return Request(row_id, shard, timestamp_ms, total, body)

    def _halve_loose(self, request: Request) -> None:
        self._delete(request.id)
        for body, samples in blobs.halves(request.body, by_bytes=True):
            entry = Loose(request.shard, request.timestamp_ms, samples, body)
            self._insert(entry, sealed=False)

    def _take_out(
        self, rows: Sequence[tuple[int, int, bytes]], quarantined: frozenset[LabelSet]
    ) -> list[tuple[int, int, bytes]]:
        """The rows without series in quarantine; these are dropped, and emptied rows deleted."""
        kept = []
        for request_id, samples, body in rows:
            shorter, removed = blobs.without(body, quarantined)
            if removed == 0:
                kept.append((request_id, samples, body))
                continue
            self._drop(DropReason.QUARANTINED, removed)
            if removed == samples:
                self._delete(request_id)
                continue
            self._db.execute(
                "UPDATE request SET samples = ?, bytes = ?, body = ? WHERE id = ?",
                (samples - removed, len(shorter), shorter, request_id),
            )
            self._draft = replace(
                self._draft,
                pending=self._draft.pending - removed,
                bytes=self._draft.bytes - len(body) + len(shorter),
            )
            kept.append((request_id, samples - removed, shorter))
        return kept

    def _insert(self, entry: Loose, *, sealed: bool) -> int:
        cursor = self._db.execute(
            "INSERT INTO request (shard, timestamp_ms, sealed, samples, bytes, body)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (
                entry.shard,
                entry.timestamp_ms,
                int(sealed),
                entry.samples,
                len(entry.body),
                entry.body,
            ),
        )
        draft = self._draft
        self._draft = replace(
            draft,
            pending=draft.pending + entry.samples,
            requests=draft.requests + 1,
            bytes=draft.bytes + len(entry.body),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _delete(self, request_id: int) -> bool:
        """Take a row away; False where it is gone already. Whose samples they are now, the caller
        says in the same transaction."""
        row = self._db.execute(
            "DELETE FROM request WHERE id = ? RETURNING samples, bytes", (request_id,)
        ).fetchone()
        if row is None:
            return False
        self._busy.discard(request_id)
        draft = self._draft
        self._draft = replace(
            draft,
            pending=draft.pending - row[0],
            requests=draft.requests - 1,
            bytes=draft.bytes - row[1],
        )
        return True

    def _hold(self, request_id: int) -> None:
        self._busy.add(request_id)
        self.on_rollback(lambda: self._busy.discard(request_id))

    def _oldest(self) -> list[tuple[int, int, int]]:
        rows = self._db.execute(
            "SELECT id, samples, bytes FROM request ORDER BY sealed, timestamp_ms, id"
        ).fetchall()
        return [row for row in rows if row[0] not in self._busy]

    def _adjust(self, *, enqueued: int = 0, sent: int = 0) -> None:
        draft = self._draft
        self._draft = replace(draft, enqueued=draft.enqueued + enqueued, sent=draft.sent + sent)

    def _drop(self, reason: DropReason, samples: int) -> None:
        dropped = dict(self._draft.dropped)
        dropped[reason] = dropped.get(reason, 0) + samples
        self._draft = replace(self._draft, dropped=dropped)

    def _save_tally(self) -> None:
        old, new = _named(self.tally), _named(self._draft)
        changed = [(name, samples) for name, samples in new.items() if old.get(name) != samples]
        self._db.executemany(
            "INSERT INTO tally VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET samples = excluded.samples",
            changed,
        )

    def _count(self) -> Tally:
        named = dict(self._db.execute("SELECT name, samples FROM tally"))
        pending, requests, size = self._db.execute(
            "SELECT coalesce(sum(samples), 0), count(*), coalesce(sum(bytes), 0) FROM request"
        ).fetchone()
        dropped = {
            DropReason(name.removeprefix(_DROPPED)): samples
            for name, samples in named.items()
            if name.startswith(_DROPPED)
        }
        enqueued, sent = named.get("enqueued", 0), named.get("sent", 0)
        return Tally(enqueued, sent, dropped, pending, requests, size)

    def fact(self, name: str) -> int | None:
        """A number kept with the file; None where it was never saved."""
        row = self._db.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return None if row is None else int(row[0])

    def save_fact(self, name: str, value: int) -> None:
        self._db.execute(_SAVE_FACT, (name, value))

    def _settle_shards(self, wanted: int) -> int:
        """Another number would send a pending series' next sample past its last one."""
        stored = dict(self._db.execute("SELECT name, value FROM fact"))
        if stored.get("format", _FORMAT) != _FORMAT:
            raise StoreError(
                f"{self.path}: spool format {stored['format']}, this version reads {_FORMAT}"
            )
        pending = self._db.execute("SELECT 1 FROM request LIMIT 1").fetchone() is not None
        shards = stored["shards"] if pending and "shards" in stored else wanted
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(
            _SAVE_FACT,
            [("format", _FORMAT), ("shards", shards)],
        )
        self._db.execute("COMMIT")
        return int(shards)


def _named(tally: Tally) -> dict[str, int]:
    return {
        "enqueued": tally.enqueued,
        "sent": tally.sent,
        **{_DROPPED + reason: samples for reason, samples in tally.dropped.items()},
    }
