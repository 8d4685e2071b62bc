"""Which samples are accepted, and that a failed commit leaves no trace of them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sidecar.names import Refusal
from sidecar.remote import blobs, marks
from sidecar.remote.intake import Acceptance, Intake, WriteBlock
from sidecar.remote.marks import NEVER, MarkBook, shard_of
from sidecar.remote.quarantine import Quarantine
from sidecar.remote.spool import Spool
from sidecar.series import LabelSet, is_stale

NOW = 1_700_000_000_000
HOUR = 3_600_000
SERIES = tuple(LabelSet.of({"__name__": "x", "i": str(i)}) for i in range(50))


class Box:
    """An intake with all it needs, over one spool file."""

    def __init__(self, path: Path, shards: int = 3) -> None:
        self.spool = Spool(path, shards, 2**40)
        self.book = MarkBook(shards, 2_000, 2**22)
        self.book.load(self.spool.marks())
        self.quarantine = Quarantine(60_000, HOUR)
        self.intake = Intake(self.book, self.quarantine, 55 * 60_000)

    def accept(self, *blocks: WriteBlock, now_ms: int = NOW) -> Acceptance:
        self.spool.begin()
        found = self.intake.accept(self.spool, blocks, now_ms)
        self.spool.commit()
        return found

    def end(self, labels: tuple[LabelSet, ...], at_ms: int, now_ms: int = NOW) -> Acceptance:
        self.spool.begin()
        found = self.intake.end(self.spool, labels, at_ms, now_ms)
        self.spool.commit()
        return found

    def samples(self) -> dict[tuple[LabelSet, int], float]:
        """All that waits in the spool."""
        found: dict[tuple[LabelSet, int], float] = {}
        rows = self.spool._db.execute("SELECT body, shard, samples, timestamp_ms FROM request")
        for body, shard, samples, timestamp_ms in rows:
            labels, times, values = blobs.contents(body)
            assert len(labels) == samples
            assert set(times.tolist()) == {timestamp_ms}
            for one, time_ms, value in zip(labels, times.tolist(), values.tolist(), strict=True):
                assert shard_of(one, self.spool.shards) == shard
                assert (one, time_ms) not in found
                found[one, time_ms] = value
        return found


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path / "spool")
    yield made
    made.spool.close()


def block(
    timestamp_ms: int, values: object = None, labels: tuple[LabelSet, ...] = SERIES
) -> WriteBlock:
    given = np.arange(len(labels)) if values is None else values
    return WriteBlock(labels, timestamp_ms, np.asarray(given, dtype=np.float64))


def test_what_is_accepted_is_what_waits(box: Box) -> None:
    assert box.accept(block(NOW)) == Acceptance(50, {})
    assert box.samples() == {(one, NOW): float(i) for i, one in enumerate(SERIES)}


def test_values_that_are_no_numbers_are_left_out_and_counted(box: Box) -> None:
    values = np.arange(50.0)
    values[[0, 7, 9]] = [np.nan, np.inf, -np.inf]
    assert box.accept(block(NOW, values)) == Acceptance(47, {Refusal.NON_FINITE: 3})
    assert len(box.samples()) == 47


def test_series_with_nothing_due_are_neither_taken_nor_counted_nor_a_lineup_of_their_own(
    box: Box,
) -> None:
    due = np.ones(50, dtype=np.bool_)
    due[[1, 4]] = False
    values = np.arange(50.0)
    values[[1, 7]] = np.nan
    part = WriteBlock(SERIES, NOW - 1, values, due)
    assert part.samples == 48
    assert box.accept(part, block(NOW)) == Acceptance(97, {Refusal.NON_FINITE: 1})
    written = {at_ms: {one for one, at in box.samples() if at == at_ms} for at_ms in (NOW - 1, NOW)}
    assert set(SERIES) - written[NOW - 1] == {SERIES[1], SERIES[4], SERIES[7]}
    assert written[NOW] == set(SERIES)
    assert len(list(box.spool.marks())) == 1


@pytest.mark.parametrize(
    ("at_ms", "reason"),
    [
        (NOW + 1, Refusal.FUTURE),
        (NOW + HOUR, Refusal.FUTURE),
        (NOW - 55 * 60_000 - 1, Refusal.TOO_OLD),
        (0, Refusal.TOO_OLD),
    ],
)
def test_what_is_later_than_now_or_too_old_is_refused(
    box: Box, at_ms: int, reason: Refusal
) -> None:
    assert box.accept(block(at_ms)) == Acceptance(0, {reason: 50})
    assert box.samples() == {}


@pytest.mark.parametrize("at_ms", [NOW, NOW - 55 * 60_000])
def test_the_ends_of_the_window_are_taken(box: Box, at_ms: int) -> None:
    assert box.accept(block(at_ms)).accepted == 50


def test_a_series_never_goes_back_or_stands_still(box: Box) -> None:
    box.accept(block(NOW - 1000))
    again = box.accept(block(NOW - 1000), block(NOW - 2000), block(NOW), block(NOW))
    assert again == Acceptance(50, {Refusal.NOT_NEWER: 150})
    assert box.book.get(SERIES[3]) == NOW


def test_only_the_series_that_had_a_value_move_on(box: Box) -> None:
    values = np.arange(50.0)
    values[::2] = np.nan
    box.accept(block(NOW - 1000, values))
    assert box.book.get(SERIES[0]) is None
    assert box.book.get(SERIES[1]) == NOW - 1000
    assert box.accept(block(NOW - 1000)) == Acceptance(25, {Refusal.NOT_NEWER: 25})


def test_marks_survive_a_restart_for_each_series(tmp_path: Path) -> None:
    box = Box(tmp_path / "s")
    values = np.arange(50.0)
    values[::2] = np.nan
    box.accept(block(NOW - 5000))
    box.accept(block(NOW - 1000, values))
    box.accept(block(NOW - 500, labels=SERIES[:3]))
    before = [box.book.get(one) for one in SERIES]
    box.spool.close()
    again = Box(tmp_path / "s")
    assert [again.book.get(one) for one in SERIES] == before
    assert before[:5] == [NOW - 500, NOW - 500, NOW - 500, NOW - 1000, NOW - 5000]
    again.spool.close()


def test_a_label_set_that_is_there_twice_is_sent_once(box: Box) -> None:
    labels = (SERIES[0], SERIES[1], SERIES[0])
    assert box.accept(block(NOW, [1, 2, 3], labels)) == Acceptance(2, {Refusal.NOT_NEWER: 1})
    assert box.samples() == {(SERIES[0], NOW): 1.0, (SERIES[1], NOW): 2.0}


def test_equal_label_sets_in_another_tuple_share_their_marks(box: Box) -> None:
    box.accept(block(NOW))
    reordered = tuple(reversed([LabelSet(one.pairs) for one in SERIES]))
    assert box.accept(block(NOW, labels=reordered)).accepted == 0


def test_a_failed_commit_moves_no_mark(box: Box) -> None:
    box.accept(block(NOW - 1000))
    box.spool.begin()
    box.intake.accept(box.spool, [block(NOW), block(NOW, labels=(LabelSet.of({"a": "b"}),))], NOW)
    box.spool.rollback()
    assert box.book.get(SERIES[0]) == NOW - 1000
    assert box.book.get(LabelSet.of({"a": "b"})) is None
    assert box.accept(block(NOW)).accepted == 50


def test_a_series_ends_at_the_instant_or_just_after_its_last_sample(box: Box) -> None:
    box.accept(block(NOW - 1000, labels=SERIES[:2]))
    ended = box.end(SERIES[:2] + SERIES[5:6] + SERIES[:1], NOW - 5000)
    assert ended == Acceptance(2, {Refusal.NEVER_SENT: 1})
    stale = {key: value for key, value in box.samples().items() if value != value}
    assert set(stale) == {(SERIES[0], NOW - 999), (SERIES[1], NOW - 999)}
    assert is_stale(np.array(list(stale.values()))).all()
    assert box.end(SERIES[:1], NOW).accepted == 1
    assert box.book.get(SERIES[0]) == NOW


def test_an_end_is_never_stamped_after_now(box: Box) -> None:
    box.accept(block(NOW))
    assert box.end(SERIES[:1], NOW) == Acceptance(0, {Refusal.FUTURE: 1})


def test_series_in_quarantine_wait_until_their_pause_is_over(box: Box) -> None:
    box.quarantine.put(SERIES[4], NOW)
    assert box.accept(block(NOW)) == Acceptance(49, {Refusal.QUARANTINED: 1})
    assert box.end((SERIES[4],), NOW).refused == {Refusal.NEVER_SENT: 1}
    later = NOW + 60_001
    assert box.accept(block(later), now_ms=later).accepted == 50


def test_large_lineups_are_cut_by_count_and_by_bytes() -> None:
    labels = tuple(
        LabelSet.of({"__name__": "x", "i": str(i), "pad": "p" * 500}) for i in range(500)
    )
    book = MarkBook(1, max_samples=200, max_bytes=40_000)
    lineup = book.lineup(labels, NOW)
    assert all(len(chunk.rows) <= 200 for chunk in lineup.chunks)
    assert all(chunk.template.size_bytes <= 40_000 for chunk in lineup.chunks)
    assert sorted(row for chunk in lineup.chunks for row in chunk.rows.tolist()) == list(range(500))


def test_old_marks_are_forgotten_and_their_places_used_again() -> None:
    book = MarkBook(1, 2_000, 2**22)
    for wave in range(200):
        labels = tuple(LabelSet.of({"wave": str(wave), "i": str(i)}) for i in range(50))
        at = NOW + wave * 60_000
        lineup = book.lineup(labels, at)
        book.advance(lineup.slots, at)
        book.forget(at - 300_000, at - 300_000)
        assert len(book) <= 350
    assert len(book.high_ms) <= 1024
    assert book.get(labels[0]) == at
    assert (book.high_ms > NEVER).sum() == len(book)


def test_lineups_that_the_last_minute_had_no_use_for_make_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(marks, "_MAX_LINEUP_SERIES", 100)
    book = MarkBook(1, 2_000, 2**22)
    groups = [
        tuple(LabelSet.of({"__name__": "x", "group": str(k), "i": str(i)}) for i in range(40))
        for k in range(8)
    ]
    steady = book.lineup(groups[0], NOW)
    for k in range(1, 8):
        at = NOW + k * 45_000
        book.advance(book.lineup(groups[k], at).slots, at)
        assert book.lineup(groups[0], at) is steady
        assert len(book._lineups) == min(k + 1, 3)
    assert [book.get(group[3]) for group in groups[1:]] == [NOW + k * 45_000 for k in range(1, 8)]


def test_lineups_in_use_all_stay_whatever_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "_MAX_LINEUP_SERIES", 30)
    book = MarkBook(1, 2_000, 2**22)
    made = [book.lineup((one,), NOW) for one in SERIES]
    assert [book.lineup((one,), NOW + 1_000) for one in SERIES] == made


def test_a_lineup_in_use_keeps_its_places_however_old_its_marks_are() -> None:
    book = MarkBook(1, 2_000, 2**22)
    lineup = book.lineup(SERIES, NOW)
    book.advance(lineup.slots[:10], NOW - 10 * HOUR)
    setattr(lineup, "row_id", 7)  # noqa: B010 - or mypy takes the value for granted
    book.forget(NOW - HOUR, NOW - HOUR)
    assert len(book) == 50
    assert lineup.row_id is None  # the spool has forgotten it: it is saved anew
    other = book.lineup((LabelSet.of({"new": "1"}),), NOW)
    assert other.slots[0] not in lineup.slots


def test_stamps_of_a_clock_that_was_ahead_are_taken_back(box: Box) -> None:
    ahead = NOW + 2 * HOUR
    box.accept(block(ahead), now_ms=ahead)
    marks = [box.book.get(SERIES[0])]
    undo = box.book.cap(NOW + 60_000)
    marks.append(box.book.get(SERIES[0]))
    undo()
    marks.append(box.book.get(SERIES[0]))
    assert marks == [ahead, NOW + 60_000, ahead]


def churned(cycle: int, size: int = 40) -> tuple[LabelSet, ...]:
    """The series of a cycle: in each another one comes in the place of the oldest."""
    return tuple(LabelSet.of({"__name__": "x", "i": str(cycle + i)}) for i in range(size))


def follow_on(cycle: int) -> WriteBlock:
    values, before = np.arange(40.0), churned(cycle - 1) if cycle else ()
    return WriteBlock(churned(cycle), NOW + cycle * 1_000, values, before=before)


def saved(box: Box) -> tuple[int, int]:
    """Series in the lineups of the book, and in those of the file."""
    (on_disk,) = box.spool._db.execute("SELECT sum(length(members)) / 16 FROM lineup").fetchone()
    return sum(len(labels) for labels in box.book._lineups), on_disk


def test_where_pods_come_and_go_only_the_marks_of_those_that_went_are_kept(
    box: Box, tmp_path: Path
) -> None:
    for cycle in range(100):
        assert box.accept(follow_on(cycle), now_ms=NOW + cycle * 1_000).accepted == 40
    assert saved(box) == (40, 40 + 99)
    box.spool.close()
    box = Box(tmp_path / "spool")  # a restart still knows every one
    every = [LabelSet.of({"__name__": "x", "i": str(i)}) for i in range(139)]
    assert [box.book.get(one) for one in every] == [NOW + 1_000 * min(i, 99) for i in range(139)]
    box.spool.close()


def test_what_was_replaced_before_it_was_saved_is_not_forgotten(box: Box) -> None:
    box.accept(follow_on(0))
    nothing = np.full(40, np.nan)
    for cycle in (1, 2):  # nothing of it is accepted, so nothing of it is saved
        block = follow_on(cycle)
        box.accept(WriteBlock(block.labels, block.timestamp_ms, nothing, before=block.before))
    assert saved(box) == (40, 40)
    box.accept(follow_on(3), now_ms=NOW + 3_000)
    assert saved(box) == (40, 40 + 3)
    found = MarkBook(3, 2_000, 2**22)
    found.load(box.spool.marks())
    assert [found.get(one) for one in churned(0)] == [NOW] * 3 + [NOW + 3_000] * 37


def test_a_commit_that_fails_leaves_the_lineup_that_was_to_go(box: Box) -> None:
    box.accept(follow_on(0))
    box.spool.begin()
    box.intake.accept(box.spool, [follow_on(1), follow_on(2)], NOW + 2_000)
    box.spool.rollback()
    assert churned(0) in box.book._lineups
    assert all(not one.replaced.rows for one in box.book._lineups.values())
    assert saved(box)[1] == 40
    for cycle in (1, 2, 3):
        assert box.accept(follow_on(cycle), now_ms=NOW + cycle * 1_000).accepted == 40
    assert saved(box) == (40, 40 + 3)
    found = MarkBook(3, 2_000, 2**22)
    found.load(box.spool.marks())
    assert [found.get(one) for one in churned(0)[:4]] == [NOW + 1_000 * i for i in range(4)]


def test_after_the_file_is_opened_anew_no_row_of_the_earlier_one_is_dropped(box: Box) -> None:
    box.accept(follow_on(0))
    box.accept(block(NOW, labels=SERIES))
    block_1 = follow_on(1)
    nothing = np.full(40, np.nan)
    box.accept(WriteBlock(block_1.labels, block_1.timestamp_ms, nothing, before=block_1.before))
    box.book.load(box.spool.marks())
    box.accept(block_1, now_ms=NOW + 1_000)
    assert saved(box)[1] == 40 + 50 + 40


def test_a_lineup_that_comes_in_its_own_place_stays(box: Box) -> None:
    for later in (0, 1_000):
        again = WriteBlock(churned(0), NOW + later, np.arange(40.0), before=churned(0))
        assert box.accept(again, now_ms=NOW + later).accepted == 40
    assert saved(box) == (40, 40)
