"""The newest timestamp accepted for each series: nothing at or before it is ever sent again.

A *lineup* is the tuple of label sets that a caller pushes together, cycle after cycle. What does
not change with the numbers is worked out once for each: the series' places in one array of marks,
the shards, and the request templates. On disk too a lineup is one row, so saving the marks of
10,000 series writes a few bytes. Where pods come and go, nearly each cycle brings another lineup in
the place of the one before: of that one only the marks of the series that went are kept.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sidecar.remote.rows import SavedMark
from sidecar.series import LabelSet, TimeArray
from sidecar.wire.template import WriteTemplate

NEVER: Final = -(2**62)
_KEY_BYTES: Final = 16
_MAX_LINEUPS: Final = 4_096
# A lineup takes 250 bytes for each of its series, and 1.5 kB where nobody else has its label sets.
# Beyond so many series in all lineups those go that the last minute had no use for.
_MAX_LINEUP_SERIES: Final = 400_000
_LINEUP_IDLE_MS: Final = 60_000

BoolArray = NDArray[np.bool_]
Slots = NDArray[np.intp]


def shard_of(labels: LabelSet, shards: int) -> int:
    """The same on every machine and in every version: the first 8 hex digits of the key."""
    return int(labels.key[:8], 16) % shards


@dataclass(frozen=True, eq=False)
class Chunk:
    """The part of a lineup that goes into one request: rows of the lineup and their template."""

    shard: int
    rows: Slots
    template: WriteTemplate


@dataclass(frozen=True, eq=False)
class Replaced:
    """What is left of lineups in whose place another came.

    Attributes:
        rows: theirs in the spool.
        gone: keys of those of their series that the other did not have.
    """

    rows: frozenset[int] = frozenset()
    gone: frozenset[bytes] = frozenset()


@dataclass(eq=False)
class Lineup:
    """N series that are pushed together.

    Attributes:
        slots: (N,) places in the book's array of marks.
        first: (N,) False where a label set repeats an earlier one of the lineup.
        row_id: its row in the spool, None before the first save.
        replaced: what is no longer needed as it is in the spool once this one is saved.
    """

    labels: tuple[LabelSet, ...]
    slots: Slots
    first: BoolArray
    chunks: tuple[Chunk, ...]
    used_ms: int = 0
    row_id: int | None = None
    replaced: Replaced = Replaced()

    @property
    def members(self) -> bytes:
        return b"".join(_key(labels) for labels in self.labels)


class MarkBook:
    """All marks. One thread writes; ``get`` may be called from another."""

    def __init__(self, shards: int, max_samples: int, max_bytes: int) -> None:
        self._shards, self._max_samples, self._max_bytes = shards, max_samples, max_bytes
        self._slot_of: dict[bytes, int] = {}
        self._free: list[int] = []
        self._lineups: OrderedDict[tuple[LabelSet, ...], Lineup] = OrderedDict()
        self.high_ms: TimeArray = np.full(64, NEVER, dtype=np.int64)
        self.blocked: BoolArray = np.zeros(64, dtype=np.bool_)
        self._blocked: frozenset[LabelSet] = frozenset()

    def __len__(self) -> int:
        return len(self._slot_of)

    def get(self, labels: LabelSet) -> int | None:
        return self._mark(_key(labels))

    def _mark(self, key: bytes) -> int | None:
        slot = self._slot_of.get(key)
        if slot is None or self.high_ms[slot] == NEVER:
            return None
        return int(self.high_ms[slot])

    def load(self, saved: Iterable[SavedMark]) -> None:
        """Take over what a spool holds; of several marks the newest counts.

        Lineups are saved anew: what they were in an earlier file says nothing about this one.
        """
        for lineup in self._lineups.values():
            lineup.row_id, lineup.replaced = None, Replaced()
        for one in saved:
            size = len(one.members) // _KEY_BYTES
            keys = [one.members[i : i + _KEY_BYTES] for i in range(0, len(one.members), _KEY_BYTES)]
            slots = self._slots(keys)
            marks = (
                np.full(size, one.high_water_ms, dtype=np.int64)
                if one.each_ms is None
                else np.frombuffer(one.each_ms, dtype="<i8").astype(np.int64)
            )
            np.maximum.at(self.high_ms, slots, marks)

    def lineup(self, labels: tuple[LabelSet, ...], now_ms: int) -> Lineup:
        found = self._lineups.get(labels)
        if found is None:
            found = self._build(labels)
            self._make_room(len(labels), now_ms - _LINEUP_IDLE_MS)
            self._lineups[labels] = found
        self._lineups.move_to_end(labels)
        found.used_ms = now_ms
        return found

    def replace(self, before: tuple[LabelSet, ...], new: Lineup) -> Callable[[], None]:
        """Let go of the lineup in whose place another came; gives what undoes it."""
        old, replaced = self._lineups.get(before), new.replaced
        if old is None or old is new:
            return lambda: None
        del self._lineups[before]
        new.replaced = self._left_of(old, new)

        def undo() -> None:
            self._lineups[before], new.replaced = old, replaced

        return undo

    def _left_of(self, old: Lineup, new: Lineup) -> Replaced:
        stays = set(new.slots.tolist())
        places = zip(old.labels, old.slots.tolist(), strict=True)
        gone = {_key(one) for one, slot in places if slot not in stays}
        gone |= old.replaced.gone | new.replaced.gone
        rows = old.replaced.rows | new.replaced.rows
        if old.row_id is not None:
            rows |= {old.row_id}
        return Replaced(rows, frozenset(key for key in gone if self._mark(key) is not None))

    def marks_of(self, keys: Iterable[bytes]) -> dict[bytes, int]:
        """The marks of the series that have one."""
        found = ((key, self._mark(key)) for key in keys)
        return {key: mark for key, mark in found if mark is not None}

    def _make_room(self, series: int, idle_since_ms: int) -> None:
        """Drop the lineups that were not used for longest, so that one more fits."""
        if len(self._lineups) >= _MAX_LINEUPS:
            self._lineups.popitem(last=False)
        series += sum(len(labels) for labels in self._lineups)
        while series > _MAX_LINEUP_SERIES and self._lineups:
            labels, oldest = next(iter(self._lineups.items()))
            if oldest.used_ms >= idle_since_ms:
                return
            del self._lineups[labels]
            series -= len(labels)

    def advance(self, slots: Slots, timestamp_ms: int) -> Callable[[], None]:
        """Set the marks of distinct slots; gives what undoes it."""
        before = self.high_ms[slots]
        self.high_ms[slots] = timestamp_ms

        def undo() -> None:
            self.high_ms[slots] = before

        return undo

    def set_blocked(self, labels: frozenset[LabelSet]) -> None:
        """These series, and no others, are left out for now."""
        if labels == self._blocked:
            return
        self._blocked = labels
        slots = self._slots([_key(one) for one in labels])
        self.blocked[:] = False
        self.blocked[slots] = True

    def cap(self, at_most_ms: int) -> Callable[[], None]:
        """Lower every mark above: stamps of a clock that was wrong, none of which was sent.

        Gives what undoes it.
        """
        return self.advance(np.flatnonzero(self.high_ms > at_most_ms), at_most_ms)

    def forget(self, before_ms: int, unused_since_ms: int) -> None:
        """Drop lineups not used since, then marks older than ``before_ms`` that nobody refers to.

        Whoever asks must refuse samples that old by other means.
        """
        for labels in [k for k, one in self._lineups.items() if one.used_ms < unused_since_ms]:
            del self._lineups[labels]
        old = (self.high_ms < before_ms) & ~self.blocked
        for one in self._lineups.values():
            if old[one.slots].all():
                one.row_id = None  # its row in the spool is forgotten as well
            old[one.slots] = False
        old[self._free] = False
        gone = set(np.flatnonzero(old).tolist())
        for key in [key for key, slot in self._slot_of.items() if slot in gone]:
            slot = self._slot_of.pop(key)
            self.high_ms[slot] = NEVER
            self._free.append(slot)

    def _build(self, labels: tuple[LabelSet, ...]) -> Lineup:
        slots = self._slots([_key(one) for one in labels])
        rows_of = {one: row for row, one in reversed(list(enumerate(labels)))}
        first = np.zeros(len(labels), dtype=np.bool_)
        first[list(rows_of.values())] = True
        shards = np.array([shard_of(one, self._shards) for one in labels], dtype=np.intp)
        chunks: list[Chunk] = []
        for shard in range(self._shards):
            rows = np.flatnonzero(first & (shards == shard))
            for start in range(0, len(rows), self._max_samples):
                part = rows[start : start + self._max_samples]
                chunks += self._chunks(labels, shard, part)
        return Lineup(labels, slots, first, tuple(chunks))

    def _chunks(self, labels: Sequence[LabelSet], shard: int, rows: Slots) -> list[Chunk]:
        """One chunk, or halves of it where its request would have too many bytes."""
        template = WriteTemplate([labels[row] for row in rows])
        if template.size_bytes <= self._max_bytes or len(rows) == 1:
            return [Chunk(shard, rows, template)]
        middle = len(rows) // 2
        parts = (rows[:middle], rows[middle:])
        return [chunk for part in parts for chunk in self._chunks(labels, shard, part)]

    def _slots(self, keys: Sequence[bytes]) -> Slots:
        """The places of these series, new ones where they are not known."""
        places = np.empty(len(keys), dtype=np.intp)
        for row, key in enumerate(keys):
            slot = self._slot_of.get(key)
            if slot is None:
                slot = self._free.pop() if self._free else len(self._slot_of)
                self._grow(slot + 1)
                self._slot_of[key] = slot
            places[row] = slot
        return places

    def _grow(self, size: int) -> None:
        if size <= len(self.high_ms):
            return
        room = max(size, 2 * len(self.high_ms)) - len(self.high_ms)
        self.high_ms = np.concatenate([self.high_ms, np.full(room, NEVER, dtype=np.int64)])
        self.blocked = np.concatenate([self.blocked, np.zeros(room, dtype=np.bool_)])


def _key(labels: LabelSet) -> bytes:
    return bytes.fromhex(labels.key)
