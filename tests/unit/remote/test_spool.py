"""The spool: what was accepted is sent, pending or dropped for a reason, whatever happens."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.errors import StoreError
from sidecar.names import DropReason
from sidecar.remote import blobs
from sidecar.remote.rows import Loose, Request
from sidecar.remote.spool import Spool, SpoolUnusable
from sidecar.series import LabelSet
from sidecar.wire import snappy
from sidecar.wire.template import WriteTemplate

SERIES = [LabelSet.of({"__name__": "x", "i": str(i)}) for i in range(12)]
BIG = 2**40


def loose(shard: int, timestamp_ms: int, members: list[int]) -> Loose:
    labels = [SERIES[i] for i in members]
    raw = WriteTemplate(labels).encode(timestamp_ms, np.arange(len(labels), dtype=np.float64))
    return Loose(shard, timestamp_ms, len(labels), snappy.compress(raw))


def take(
    spool: Spool,
    shard: int = 0,
    *,
    before_ms: int = 0,
    max_samples: int = 2_000,
    max_bytes: int = BIG,
    quarantined: frozenset[LabelSet] = frozenset(),
) -> Request | None:
    spool.begin()
    found = spool.take(
        shard,
        expired_before_ms=before_ms,
        max_samples=max_samples,
        max_bytes=max_bytes,
        quarantined=quarantined,
    )
    spool.commit()
    return found


def append(spool: Spool, *entries: Loose) -> None:
    spool.begin()
    spool.append(entries)
    spool.commit()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    opened = Spool(tmp_path / "spool.sqlite", shards=2, max_bytes=BIG)
    yield opened
    opened.close()


def labels_of(request: Request | None) -> list[LabelSet]:
    assert request is not None
    return blobs.contents(request.body)[0]


def test_loose_rows_of_one_instant_become_one_request(spool: Spool) -> None:
    append(spool, *[loose(0, 10_000_000_000_0, [i]) for i in range(12)])
    request = take(spool)
    assert labels_of(request) == SERIES
    assert take(spool, 1) is None
    assert spool.tally.requests == 1


def test_rows_of_different_instants_are_never_joined_and_leave_oldest_first(spool: Spool) -> None:
    append(spool, loose(0, 2**40 + 2, [1]), loose(0, 2**40 + 1, [0]), loose(0, 2**40 + 2, [2]))
    first = take(spool)
    assert first is not None
    assert first.timestamp_ms == 2**40 + 1
    spool.begin()
    spool.finish(first)
    spool.commit()
    second = take(spool)
    assert labels_of(second) == [SERIES[1], SERIES[2]]


def test_a_sealed_request_keeps_its_bytes_over_restarts_and_takes_in_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "spool.sqlite"
    spool = Spool(path, 2, BIG)
    append(spool, loose(0, 2**40, [0]), loose(0, 2**40, [1]))
    first = take(spool)
    append(spool, loose(0, 2**40, [2]))
    spool.close()
    again = Spool(path, 2, BIG)
    assert take(again) == first
    again.close()


def test_joining_stops_at_the_limits(spool: Spool) -> None:
    append(spool, *[loose(0, 2**40, [i]) for i in range(12)])
    request = take(spool, max_samples=5)
    assert request is not None
    assert request.samples == 5
    size = len(request.body)
    spool.begin()
    spool.finish(request)
    spool.commit()
    smaller = take(spool, max_bytes=size)
    assert smaller is not None
    assert 1 <= smaller.samples < 5


def test_a_loose_row_above_a_lowered_byte_limit_is_cut(spool: Spool) -> None:
    append(spool, loose(0, 2**40, list(range(12))))
    size = len(loose(0, 2**40, list(range(12))).body)
    request = take(spool, max_bytes=size - 1)
    assert request is not None
    assert request.samples < 12
    assert spool.tally.pending == 12


def test_expired_rows_go_before_anything_is_taken(spool: Spool) -> None:
    append(spool, loose(0, 2**40, [0, 1]), loose(0, 2**40 + 5, [0]))
    request = take(spool, before_ms=2**40 + 1)
    assert labels_of(request) == [SERIES[0]]
    assert spool.tally.dropped == {DropReason.EXPIRED: 2}


def test_series_in_quarantine_leave_loose_rows_and_are_counted(spool: Spool) -> None:
    append(spool, loose(0, 2**40, [0, 1, 2]), loose(0, 2**40, [3]), loose(0, 2**40 + 1, [4]))
    request = take(spool, quarantined=frozenset({SERIES[1], SERIES[3]}))
    assert labels_of(request) == [SERIES[0], SERIES[2]]
    assert spool.tally.dropped == {DropReason.QUARANTINED: 2}
    assert spool.tally.pending == 3


def test_a_row_of_nothing_but_quarantine_is_passed_over(spool: Spool) -> None:
    append(spool, loose(0, 2**40, [0]), loose(0, 2**40 + 1, [1]))
    request = take(spool, quarantined=frozenset({SERIES[0]}))
    assert labels_of(request) == [SERIES[1]]


def test_at_the_size_limit_the_oldest_make_room_but_not_what_is_being_sent(tmp_path: Path) -> None:
    one = len(loose(0, 2**40, [0]).body)
    spool = Spool(tmp_path / "s", 1, max_bytes=3 * one + one // 2)
    append(spool, loose(0, 2**40, [0]))
    held = take(spool)
    for step in range(1, 9):
        append(spool, loose(0, 2**40 + step, [0]))
    assert spool.tally.bytes <= 3 * one + one // 2
    assert spool.tally.dropped[DropReason.SPOOL_FULL] == 9 - spool.tally.pending
    assert held is not None
    spool.begin()
    spool.finish(held)
    spool.commit()
    assert spool.tally.sent == 1
    assert labels_of(take(spool)) == [SERIES[0]]
    spool.close()


def test_what_is_dropped_while_on_its_way_is_not_counted_twice(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", 1, BIG)
    append(spool, loose(0, 2**40, [0]))
    held = take(spool)
    assert held is not None
    spool.begin()
    spool.release([held.id])
    assert spool.make_room(1) > 0
    spool.finish(held)
    spool.drop(held, DropReason.REJECTED)
    assert spool.split(held) is None
    spool.commit()
    tally = spool.tally
    assert (tally.sent, tally.pending, tally.dropped) == (0, 0, {DropReason.SPOOL_FULL: 1})
    spool.close()


def test_the_number_of_shards_is_kept_while_anything_is_pending(tmp_path: Path) -> None:
    path = tmp_path / "s"
    spool = Spool(path, 2, BIG)
    append(spool, loose(1, 2**40, [0]))
    spool.close()
    spool = Spool(path, 4, BIG)
    assert spool.shards == 2
    request = take(spool, 1)
    assert request is not None
    spool.begin()
    spool.finish(request)
    spool.commit()
    spool.close()
    spool = Spool(path, 4, BIG)
    assert spool.shards == 4
    spool.close()


def test_a_commit_waits_for_the_disk(spool: Spool) -> None:
    [synchronous] = spool._db.execute("PRAGMA synchronous").fetchone()
    [journal] = spool._db.execute("PRAGMA journal_mode").fetchone()
    assert (synchronous, journal) == (2, "wal")  # 2 is FULL


def test_what_a_rollback_undoes_is_undone_once(spool: Spool) -> None:
    undone: list[int] = []
    spool.begin()
    spool.on_rollback(lambda: undone.append(1))
    spool.on_rollback(lambda: undone.append(2))
    spool.rollback()
    spool.rollback()
    assert undone == [2, 1]


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", 1, BIG)
    with pytest.raises(SpoolUnusable) as caught:
        Spool(tmp_path / "s", 1, BIG)
    assert caught.value.kind == "locked"
    spool.close()


def test_a_file_of_another_format_is_refused_by_name(tmp_path: Path) -> None:
    Spool(tmp_path / "s", 1, BIG).close()
    db = sqlite3.connect(tmp_path / "s")
    db.execute("UPDATE fact SET value = 99 WHERE name = 'format'")
    db.commit()
    db.close()
    with pytest.raises(StoreError, match="format 99"):
        Spool(tmp_path / "s", 1, BIG)


@pytest.mark.parametrize(
    "content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_corrupt_file_is_called_corrupt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(SpoolUnusable) as caught:
        Spool(tmp_path / "s", 1, BIG)
    assert caught.value.kind == "corrupt"


class SpoolMachine(RuleBasedStateMachine):
    """Any order of appends, deliveries, failures, crashes: the books balance, series stay in order.

    The model is a list of what was enqueued for each series; ``delivered`` is what a receiver saw.
    """

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "spool.sqlite"
        self.spool = Spool(self.path, 2, 20_000, slack_bytes=0)
        self.clock = 2**40
        self.held: dict[int, Request] = {}
        self.bodies: dict[int, bytes] = {}
        self.last_sent: dict[LabelSet, int] = {}
        self.enqueued = 0

    @rule(members=st.sets(st.integers(0, 11), min_size=1), forward=st.integers(0, 2))
    def accept(self, members: set[int], forward: int) -> None:
        self.clock += forward + 1
        self.spool.begin()
        for shard in (0, 1):
            mine = [i for i in sorted(members) if i % 2 == shard]
            # Each half of them by itself, as from two watches.
            for part in (mine[::2], mine[1::2]):
                if part:
                    self.spool.append([loose(shard, self.clock, part)])
                    self.enqueued += len(part)
        self.spool.commit()

    @rule(shard=st.integers(0, 1), limit=st.integers(1, 12), back=st.integers(0, 20))
    def begin_to_send(self, shard: int, limit: int, back: int) -> None:
        if shard in self.held:
            return
        found = take(self.spool, shard, before_ms=self.clock - back, max_samples=limit)
        if found is not None:
            assert self.bodies.setdefault(found.id, found.body) == found.body
            assert found.samples <= max(limit, 6)
            self.held[shard] = found

    @rule(shard=st.integers(0, 1))
    def receiver_stores_it(self, shard: int) -> None:
        request = self.held.pop(shard, None)
        if request is None:
            return
        labels, times, _ = blobs.contents(request.body)
        assert len(set(labels)) == len(labels) == request.samples
        for one, time_ms in zip(labels, times.tolist(), strict=True):
            assert time_ms == request.timestamp_ms
            assert self.last_sent.get(one, 0) < time_ms
            self.last_sent[one] = time_ms
        self.spool.begin()
        self.spool.finish(request)
        self.spool.commit()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def receiver_refuses_it(self, data: st.DataObject) -> None:
        shard = data.draw(st.sampled_from(sorted(self.held)))
        request = self.held.pop(shard)
        self.spool.begin()
        if request.samples > 1 and data.draw(st.booleans()):
            halves = self.spool.split(request, by_bytes=data.draw(st.booleans()))
            assert halves is not None
            assert sum(half.samples for half in halves) == request.samples
            assert labels_of(halves[0]) + labels_of(halves[1]) == labels_of(request)
            self.held[shard] = halves[0]
            self.bodies[halves[0].id] = halves[0].body
            self.spool.release([halves[1].id])
        else:
            self.spool.drop(request, DropReason.REJECTED)
        self.spool.commit()

    @rule()
    def a_commit_fails(self) -> None:
        before = self.spool.tally
        self.spool.begin()
        self.spool.append([loose(0, self.clock, [0])])
        self.spool.make_room(10_000)
        self.spool.rollback()
        assert self.spool.tally == before

    @rule()
    def the_process_dies_and_comes_back(self) -> None:
        before = self.spool.tally
        self.spool.close()
        self.held = {}
        self.spool = Spool(self.path, 2, 20_000, slack_bytes=0)
        assert self.spool.tally == before

    @invariant()
    def the_books_balance(self) -> None:
        tally = self.spool.tally
        assert tally.enqueued == self.enqueued
        assert tally.enqueued == tally.sent + tally.pending + sum(tally.dropped.values())
        assert tally.pending >= 0

    def teardown(self) -> None:
        self.spool.close()
        self.folder.cleanup()


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
