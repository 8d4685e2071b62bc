"""Which samples are accepted, and the requests they become: one pass in the spool's thread.

A sample is refused where sending it could only do harm: not a number, not after the newest
accepted one of its series, later than now, too old for any receiver, or its series in quarantine.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sidecar.names import Refusal
from sidecar.remote.marks import Lineup, MarkBook, Replaced
from sidecar.remote.quarantine import Quarantine
from sidecar.remote.rows import Loose
from sidecar.remote.spool import Spool
from sidecar.series import STALE_BITS, FloatArray, LabelSet
from sidecar.wire import snappy


@dataclass(frozen=True, eq=False)
class WriteBlock:
    """Samples of N series at one instant.

    Hand over the same ``labels`` tuple each time: what depends on the labels alone is kept for it.
    A new tuple costs a hundred times as much, and some memory for ten minutes; so series that have
    nothing to say this time stay in it and are not ``due``.

    Attributes:
        values: (N,) float64.
        due: (N,) bool, which series have a sample here; None for all.
        before: the tuple in whose place ``labels`` came, which is never handed over again: what
            was kept for it is let go of at once.
    """

    labels: tuple[LabelSet, ...]
    timestamp_ms: int
    values: FloatArray
    due: NDArray[np.bool_] | None = None
    before: tuple[LabelSet, ...] = ()

    @property
    def samples(self) -> int:
        return len(self.labels) if self.due is None else int(np.count_nonzero(self.due))

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.labels),):
            raise ValueError(f"{self.values.shape} values for {len(self.labels)} series")


@dataclass(frozen=True)
class Acceptance:
    """``accepted`` samples are on disk and will be delivered; the others are counted by reason."""

    accepted: int = 0
    refused: Mapping[Refusal, int] = field(default_factory=dict)

    @classmethod
    def none(cls, samples: int, reason: Refusal) -> "Acceptance":
        return cls(0, {reason: samples} if samples else {})


class Intake:
    """Turns blocks into rows of the spool. All of it runs in the spool's thread.

    Attributes:
        age_limit_ms: older samples are refused; may be set at any time.
    """

    def __init__(self, book: MarkBook, quarantine: Quarantine, age_limit_ms: int) -> None:
        self._book, self._quarantine = book, quarantine
        self.age_limit_ms = age_limit_ms

    def accept(self, spool: Spool, blocks: Sequence[WriteBlock], now_ms: int) -> Acceptance:
        """Append what may be sent; marks move with it, and back if the commit fails."""
        self._apply_quarantine(now_ms)
        refused: Counter[Refusal] = Counter()
        accepted = 0
        for block in blocks:
            lineup = self._book.lineup(block.labels, now_ms)
            if block.before:
                spool.on_rollback(self._book.replace(block.before, lineup))
            due = block.due
            keep = np.ones(len(block.labels), np.bool_) if due is None else due.copy()
            for reason, bad in self._objections(block, lineup, now_ms):
                refused[reason] += int((keep & bad).sum())
                keep &= ~bad
            accepted += self._append(spool, lineup, block, keep)
        return Acceptance(accepted, {reason: n for reason, n in refused.items() if n})

    def end(
        self, spool: Spool, labels: Sequence[LabelSet], timestamp_ms: int, now_ms: int
    ) -> Acceptance:
        """Append staleness markers: at the instant, or 1 ms after what was sent last.

        A series that was never sent, or whose marker would lie after now, gets none.
        """
        self._apply_quarantine(now_ms)
        refused: Counter[Refusal] = Counter()
        ends: dict[int, list[LabelSet]] = {}
        for one in dict.fromkeys(labels):
            mark = self._book.get(one)
            at_ms = timestamp_ms if mark is None else max(timestamp_ms, mark + 1)
            if mark is None:
                refused[Refusal.NEVER_SENT] += 1
            elif at_ms > now_ms:
                refused[Refusal.FUTURE] += 1
            else:
                ends.setdefault(at_ms, []).append(one)
        accepted = 0
        for at_ms, ended in sorted(ends.items()):
            stale = np.full(len(ended), STALE_BITS, dtype=np.uint64).view(np.float64)
            block = WriteBlock(tuple(ended), at_ms, stale)
            lineup = self._book.lineup(block.labels, now_ms)
            blocked = self._book.blocked[lineup.slots]
            refused[Refusal.QUARANTINED] += int(blocked.sum())
            accepted += self._append(spool, lineup, block, ~blocked)
        return Acceptance(accepted, {reason: n for reason, n in refused.items() if n})

    def _objections(
        self, block: WriteBlock, lineup: Lineup, now_ms: int
    ) -> list[tuple[Refusal, NDArray[np.bool_]]]:
        """Why samples are refused, the first that applies: each (N,)."""
        stamp, every = block.timestamp_ms, np.ones(len(block.labels), dtype=np.bool_)
        return [
            (Refusal.NON_FINITE, ~np.isfinite(block.values)),
            (Refusal.FUTURE, every & (stamp > now_ms)),
            (Refusal.TOO_OLD, every & (stamp < now_ms - self.age_limit_ms)),
            (Refusal.NOT_NEWER, (stamp <= self._book.high_ms[lineup.slots]) | ~lineup.first),
            (Refusal.QUARANTINED, self._book.blocked[lineup.slots]),
        ]

    def _append(
        self, spool: Spool, lineup: Lineup, block: WriteBlock, keep: NDArray[np.bool_]
    ) -> int:
        if not keep.any():
            return 0
        spool.append(self._loose(lineup, block, keep))
        spool.on_rollback(self._book.advance(lineup.slots[keep], block.timestamp_ms))
        self._save_marks(spool, lineup, block.timestamp_ms)
        return int(keep.sum())

    def _loose(self, lineup: Lineup, block: WriteBlock, keep: NDArray[np.bool_]) -> list[Loose]:
        entries = []
        for chunk in lineup.chunks:
            kept = keep[chunk.rows]
            samples = int(kept.sum())
            if samples == 0:
                continue
            raw = chunk.template.encode(block.timestamp_ms, block.values[chunk.rows], kept)
            body = snappy.compress(raw)
            entries.append(Loose(chunk.shard, block.timestamp_ms, samples, body))
        return entries

    def _save_marks(self, spool: Spool, lineup: Lineup, newest_ms: int) -> None:
        if lineup.row_id is None:
            lineup.row_id = spool.add_lineup(lineup.members)

            def undo() -> None:
                lineup.row_id = None

            spool.on_rollback(undo)
        if lineup.replaced.rows or lineup.replaced.gone:
            self._drop_replaced(spool, lineup)
        marks = self._book.high_ms[lineup.slots]
        uniform = bool((marks == newest_ms).all())
        each = None if uniform else marks.astype("<i8").tobytes()
        spool.save_mark(lineup.row_id, max(newest_ms, int(marks.max())), each)

    def _drop_replaced(self, spool: Spool, lineup: Lineup) -> None:
        """Keep of the rows in whose place this lineup's came the marks of those that went."""
        replaced = lineup.replaced
        left = self._book.marks_of(replaced.gone)
        if left:
            marks = np.array(list(left.values()), dtype="<i8")
            spool.save_mark(spool.add_lineup(b"".join(left)), int(marks.max()), marks.tobytes())
        spool.drop_lineups(replaced.rows)
        lineup.replaced = Replaced()

        def undo() -> None:
            lineup.replaced = replaced

        spool.on_rollback(undo)

    def _apply_quarantine(self, now_ms: int) -> None:
        self._book.set_blocked(self._quarantine.active(now_ms))
