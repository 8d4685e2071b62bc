"""Clocks that are wrong or stepped, hours without a receiver, restarts, and many small watches."""

import asyncio
import gc
import logging
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from sidecar.errors import StoreError
from sidecar.names import DropReason, Refusal
from sidecar.remote.http import HttpClient, HttpSettings
from sidecar.remote.marks import shard_of
from sidecar.remote.writer import RemoteWriter, WriteBlock, WriterState
from sidecar.series import is_stale
from tests.fakes import WRITE, Answer, FakePrometheus, FastTime
from tests.writing import (
    assert_balanced,
    assert_stored,
    assert_well_behaved,
    block,
    series,
    until,
    until_delivered,
    writing,
)

pytestmark = pytest.mark.integration

HOUR_MS = 3_600_000


def latest_stamp_ms(fake: FakePrometheus) -> int:
    return max((at for samples in fake.stored.values() for at in samples), default=0)


# Clocks


async def test_no_sample_later_than_now_leaves_the_process_however_it_is_asked() -> None:
    time, labels = FastTime(), series(5)
    async with FakePrometheus(now_s=time.true_s) as fake:
        async with writing(fake.url, time) as writer:
            for ahead_ms in (1_000, 60_000, HOUR_MS, 24 * HOUR_MS):
                found = await writer.append([block(labels, time.now_ms() + ahead_ms)])
                assert (found.accepted, found.refused) == (0, {Refusal.FUTURE: 5})
            await writer.append([block(labels, at := time.now_ms())])
            found = await writer.end_series(labels, time.now_ms() + HOUR_MS)
            assert found.accepted == 0
            await until_delivered(writer)
        assert_stored(fake, labels, at)


async def test_a_sample_waits_until_the_receivers_clock_has_passed_it() -> None:
    time, labels = FastTime(10), series(5)
    late = FastTime(10)
    late.ahead_s = -30.0  # the receiver's clock is half a minute behind ours: tolerable
    async with FakePrometheus(now_s=late.now_s) as fake:
        async with writing(fake.url, time) as writer:
            await writer.append([block(labels, at := time.now_ms())])
            assert fake.count() == 0
            await until_delivered(writer)
            assert latest_stamp_ms(fake) == at
            assert at <= late.now_ms()
            assert writer.state is WriterState.OK
        assert_well_behaved(fake)


@pytest.mark.parametrize("ahead_s", [120.0, 7200.0, -120.0, -7200.0])
async def test_clocks_apart_stop_the_writes_and_say_so_until_they_agree_again(
    ahead_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    time, labels = FastTime(50), series(5)
    async with FakePrometheus(now_s=time.true_s) as fake:
        async with writing(fake.url, time) as writer:
            await writer.append([block(labels, first := time.now_ms())])
            await until_delivered(writer)
            time.ahead_s = ahead_s
            with caplog.at_level(logging.ERROR, "sidecar"):
                found = await writer.append([block(labels, time.now_ms())])
                assert found.refused == {Refusal.CLOCK_SKEW: 5}
                assert writer.state is WriterState.CLOCK_SKEW
                skew = writer.stats().skew_s
                assert skew is not None
                assert abs(skew - ahead_s) < 2
                await time.sleep(30)
            assert len(caplog.records) == 1
            assert ("ahead of" if ahead_s > 0 else "behind") in caplog.text
            time.ahead_s = 0.0
            found = await writer.append([block(labels, second := time.now_ms())])
            assert found.accepted == 5
            await until_delivered(writer)
        assert_stored(fake, labels, first, second)
        assert_well_behaved(fake)


async def test_a_receivers_clock_that_is_mended_is_noticed_while_nothing_is_pending() -> None:
    time, labels = FastTime(100), series(5)
    theirs = FastTime(100)
    async with FakePrometheus(now_s=theirs.now_s) as fake, writing(fake.url, time) as writer:
        await writer.append([block(labels, time.now_ms())])
        await until_delivered(writer)
        theirs.ahead_s = 4000.0
        await asyncio.sleep(0.01)
        await writer.append([block(labels, time.now_ms())])
        await until(lambda: writer.state is WriterState.CLOCK_SKEW)
        theirs.ahead_s = 0.0
        await until(lambda: writer.state is WriterState.OK)
        found = await writer.append([block(labels, time.now_ms())])
        assert found.accepted == 5
        await until_delivered(writer)


async def test_what_a_wrong_clock_stamped_before_the_receiver_was_known_is_taken_back(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    time, labels = FastTime(50), series(5)
    time.ahead_s = 7200.0
    async with FakePrometheus(now_s=time.true_s) as fake:
        fake.give_always(WRITE, Answer(503))
        fake.date = False
        async with writing(fake.url, time, spool=tmp_path / "s") as writer:
            found = await writer.append([block(labels, ahead := time.now_ms())])
            assert found.accepted == 5  # nobody can know yet
            await time.sleep(5)
            fake.date = True
            with caplog.at_level(logging.WARNING, "sidecar"):
                fake.give_always(WRITE, None)
                await until(lambda: writer.stats().pending == 0)
            assert writer.stats().dropped == {DropReason.CLOCK_SKEW: 5}
            assert_balanced(writer.stats())
            assert any("ahead of the server's" in one.getMessage() for one in caplog.records)
            time.ahead_s = 0.0
            mark = writer.high_water_ms(labels[0])
            assert mark is not None
            assert mark < ahead
            await until(lambda: (writer.high_water_ms(labels[0]) or 0) < time.now_ms(), 10)
            await until(lambda: writer.state is WriterState.OK)
            at = time.now_ms()
            assert (await writer.append([block(labels, at)])).accepted == 5
            await until_delivered(writer)
        assert_stored(fake, labels, at)
    # The marks on disk were taken back too.
    async with (
        FakePrometheus(now_s=time.true_s) as fake,
        writing(fake.url, time, spool=tmp_path / "s") as writer,
    ):
        assert writer.high_water_ms(labels[0]) == at


async def test_a_process_that_begins_with_a_wrong_clock_gives_up_nothing_that_waits(
    tmp_path: Path,
) -> None:
    time, labels = FastTime(50), series(5)
    async with FakePrometheus(now_s=time.true_s) as fake:
        fake.give_always(WRITE, Answer(503))
        stamps = []
        async with writing(fake.url, time, spool=tmp_path / "s") as writer:
            for _ in range(4):
                stamps.append(time.now_ms())
                assert (await writer.append([block(labels, stamps[-1])])).accepted == 5
                await time.sleep(2)
        fake.give_always(WRITE, None)
        time.ahead_s = 7200.0
        async with writing(fake.url, time, spool=tmp_path / "s") as writer:
            await until(lambda: writer.state is WriterState.CLOCK_SKEW)
            await time.sleep(20)
            assert writer.stats().dropped == {}
            time.ahead_s = 0.0
            await until_delivered(writer)
            assert writer.stats().sent == 20
        assert_stored(fake, labels, *stamps)


async def test_a_clock_that_steps_ahead_while_a_request_is_under_way_gives_up_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time, labels = FastTime(50), series(5)
    async with FakePrometheus(now_s=time.true_s) as fake:
        fake.give_always(WRITE, Answer(503))
        async with writing(fake.url, time, shards=1) as writer:
            stamps = []
            for _ in range(4):
                stamps.append(time.now_ms())
                await writer.append([block(labels, stamps[-1])])
                await time.sleep(2)
            send = writer._transport.send

            async def stepped(body: bytes) -> None:
                await send(body)
                time.ahead_s = 7200.0

            monkeypatch.setattr(writer._transport, "send", stepped)
            fake.give_always(WRITE, None)
            await until(lambda: writer.state is WriterState.CLOCK_SKEW)
            monkeypatch.undo()
            await time.sleep(20)
            assert writer.stats().dropped == {}
            time.ahead_s = 0.0
            await until_delivered(writer)
        assert_stored(fake, labels, *stamps)


async def test_both_clocks_stepping_back_cause_no_refusal() -> None:
    time, labels = FastTime(50), series(5)
    async with FakePrometheus(now_s=time.now_s) as fake:
        async with writing(fake.url, time) as writer:
            for step_s in (0.0, -600.0, -599.0):
                time.ahead_s = step_s
                for _ in range(5):
                    await writer.append([block(labels, time.now_ms())])
                    await time.sleep(2)
            stats = writer.stats()
        assert (
            stats.refused.get(Refusal.NOT_NEWER, 0) + stats.refused.get(Refusal.CLOCK_SKEW, 0) == 50
        )
        assert_well_behaved(fake)


async def test_a_receiver_without_a_date_is_written_to_by_our_own_clock() -> None:
    time, labels = FastTime(), series(5)
    async with FakePrometheus(now_s=time.true_s, date=False) as fake:
        async with writing(fake.url, time) as writer:
            await writer.append([block(labels, at := time.now_ms())])
            await until_delivered(writer)
        assert_stored(fake, labels, at)


# Outages


@pytest.mark.slow
async def test_an_hour_without_a_receiver_loses_nothing_and_costs_no_memory(
    tmp_path: Path,
) -> None:
    """An hour's outage at one cycle a minute, 20 watches of 100 series, scaled 400 times.

    The age limit is that of a receiver with an out-of-order window, so that a slow machine, on
    which the hour becomes longer, changes nothing.
    """
    time = FastTime(400)
    watches = [series(100, f"m{n}") for n in range(20)]
    stamps: list[int] = []
    async with FakePrometheus(now_s=time.true_s) as fake:
        async with writing(
            fake.url, time, spool=tmp_path / "s", age_limit_ms=4 * HOUR_MS
        ) as writer:

            async def cycle() -> None:
                stamps.append(time.now_ms())
                await asyncio.gather(*(writer.append([block(w, stamps[-1])]) for w in watches))

            await cycle()
            await until_delivered(writer)
            await fake.stop()
            sizes = []
            tracemalloc.start()
            for minute in range(60):
                await cycle()
                if minute % 10 == 4:
                    gc.collect()
                    sizes.append(tracemalloc.get_traced_memory()[0])
                await time.sleep(max(0.0, stamps[-1] / 1000 + 60 - time.now_s()))
            tracemalloc.stop()
            assert writer.state is WriterState.OUTAGE
            assert "samples wait in the spool" in writer.trouble
            assert writer.stats().pending == 60 * 2000
            await fake.start()
            back = time.monotonic_s()
            await until_delivered(writer, 60)
            took_s = time.monotonic_s() - back
            stats = writer.stats()
        assert_stored(fake, [one for w in watches for one in w], *stamps)
        assert_well_behaved(fake)
        assert stats.dropped == {}
        assert_balanced(stats)
        # Small watches share requests, and the first ones after the outage leave with gaps.
        drained = [one for one in fake.writes() if one.series[0][1] in stamps[1:]]
        assert len(drained) <= 60 * 2 + 10
        for shard in (0, 1):
            order = [one.series[0][1] for one in drained if shard_of(one.series[0][0], 2) == shard]
            assert order == sorted(order)
    assert sizes[-1] - sizes[0] < 300_000, sizes
    assert took_s > 2.0


async def test_samples_older_than_the_limit_expire_oldest_first_and_are_counted(
    tmp_path: Path,
) -> None:
    time, labels = FastTime(1000), series(10)
    stamps: list[int] = []
    async with FakePrometheus(now_s=time.true_s) as fake:
        async with writing(fake.url, time, spool=tmp_path / "s", age_limit_ms=600_000) as writer:
            await fake.stop()
            for _ in range(30):
                stamps.append(time.now_ms())
                await writer.append([block(labels, stamps[-1])])
                await time.sleep(60)
            assert writer.stats().pending <= 12 * 10  # given up while the outage lasts
            await fake.start()
            await until_delivered(writer)
            stats = writer.stats()
        kept = sorted({at for samples in fake.stored.values() for at in samples})
        assert kept == stamps[-len(kept) :]
        assert 6 <= len(kept) <= 11
        assert stats.dropped == {DropReason.EXPIRED: 10 * (30 - len(kept))}
        assert_well_behaved(fake)
        assert_balanced(stats)


async def test_a_full_spool_drops_the_oldest_and_counts_them(tmp_path: Path) -> None:
    time, labels = FastTime(1000), series(50)
    async with FakePrometheus(now_s=time.true_s) as fake:
        async with writing(
            fake.url,
            time,
            spool=tmp_path / "s",
            spool_max_bytes=20_000,
            age_limit_ms=10**9,  # however long a busy machine makes the outage
        ) as writer:
            await fake.stop()
            stamps = []
            for _ in range(60):
                stamps.append(time.now_ms())
                assert (await writer.append([block(labels, stamps[-1])])).accepted == 50
                await time.sleep(20)
                assert writer.stats().pending_bytes <= 20_000
            await fake.start()
            await until_delivered(writer)
            stats = writer.stats()
        assert stats.dropped[DropReason.SPOOL_FULL] == 60 * 50 - stats.sent
        assert stats.sent > 300
        assert stamps[-1] in fake.stored[labels[0]]
        assert_well_behaved(fake)


# Restarts


async def test_what_was_accepted_is_delivered_by_the_next_process_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    labels = series(40)
    time = FastTime()
    async with FakePrometheus(now_s=time.true_s) as fake:
        fake.give(WRITE, Answer(204))
        fake.give_always(WRITE, Answer(503))
        async with writing(fake.url, spool=tmp_path / "s") as writer:
            await writer.append([block(labels, at := time.now_ms())])
            await until(lambda: len(fake.writes()) >= 2)
            before = writer.stats()
        fake.give_always(WRITE, None)
        async with writing(fake.url, spool=tmp_path / "s") as writer:
            again = writer.stats()
            assert (again.enqueued, again.pending) == (before.enqueued, before.pending)
            assert writer.high_water_ms(labels[0]) == at
            assert (await writer.append([block(labels, at)])).accepted == 0
            await until_delivered(writer)
            assert_balanced(writer.stats())
            assert writer.stats().sent == 40
        assert_stored(fake, labels, at)
        assert len({one.raw for one in fake.writes()}) == 2  # one request in each shard


async def test_a_second_writer_on_one_spool_is_refused_with_a_reason(tmp_path: Path) -> None:
    async with FakePrometheus() as fake, writing(fake.url, spool=tmp_path / "s"):
        client = HttpClient(HttpSettings(fake.url))
        with pytest.raises(StoreError, match="in use by another process"):
            await RemoteWriter(client, tmp_path / "s").start()
        await client.close()


async def test_stopping_delivers_what_can_be_and_keeps_what_cannot(tmp_path: Path) -> None:
    time, labels = FastTime(), series(2000)
    async with FakePrometheus(now_s=time.true_s) as fake:
        client = HttpClient(HttpSettings(fake.url, timeout_s=30))
        writer = RemoteWriter(client, tmp_path / "s")
        await writer.start()
        for _ in range(3):
            await writer.append([block(labels, time.now_ms())])
            await asyncio.sleep(0.002)
        await writer.stop(30.0)
        assert fake.count() == 6000
        await client.close()
        await fake.stop()
        client = HttpClient(HttpSettings(fake.url, timeout_s=30))
        writer = RemoteWriter(client, tmp_path / "s")
        await writer.start()
        await writer.append([block(labels, time.now_ms())])
        async with asyncio.timeout(15):
            await writer.stop(20.0)
        assert writer.stats().pending == 2000
        await client.close()


@pytest.mark.parametrize("damage", ["garbage", "truncated", "a folder in its place"])
async def test_no_state_of_the_spool_prevents_a_start(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    time, labels, path = FastTime(), series(20), tmp_path / "s"
    async with FakePrometheus(now_s=time.true_s) as fake:
        async with writing(fake.url, spool=path) as writer:
            await writer.append([block(labels, time.now_ms())])
            await until_delivered(writer)
        whole = path.read_bytes()
        if damage == "garbage":
            path.write_bytes(b"\xff" * len(whole))
        elif damage == "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        else:
            path.unlink()
            path.mkdir()
        with caplog.at_level(logging.WARNING, "sidecar"):
            async with writing(fake.url, spool=path) as writer:
                found = await writer.append([block(labels, time.now_ms())])
                assert found.accepted == 20
                await until_delivered(writer)
                assert writer.stats().durable is (damage != "a folder in its place")
    assert caplog.records


# Many small watches, and series that end


async def test_500_watches_of_one_series_do_not_make_500_requests() -> None:
    time = FastTime()
    watches = [series(1, f"w{n}") for n in range(500)]
    async with FakePrometheus(now_s=time.true_s) as fake:
        async with writing(fake.url, time) as writer:
            at = time.now_ms()
            await asyncio.gather(*(writer.append([block(w, at)]) for w in watches))
            await until_delivered(writer)
        assert_stored(fake, [one for w in watches for one in w], at)
        assert len(fake.writes()) <= 2 * 4


async def test_a_series_that_ends_gets_one_marker_and_may_come_back() -> None:
    time, labels = FastTime(), series(3)
    async with FakePrometheus(now_s=time.true_s) as fake:
        async with writing(fake.url, time) as writer:
            await writer.append([block(labels, first := time.now_ms())])
            await asyncio.sleep(0.005)
            ended = await writer.end_series([labels[1], *series(1, "other")], first)
            assert (ended.accepted, ended.refused) == (1, {Refusal.NEVER_SENT: 1})
            await asyncio.sleep(0.005)
            await writer.append([block(labels, second := time.now_ms())])
            await until_delivered(writer)
        marker = fake.stored[labels[1]].pop(first + 1)
        assert is_stale(np.array([marker])).all()
        assert_stored(fake, labels, first, second)
        assert_well_behaved(fake)


async def test_churned_series_leave_no_trace_in_memory_or_on_disk(tmp_path: Path) -> None:
    time = FastTime(5000)
    async with FakePrometheus(now_s=time.true_s) as fake:
        async with writing(fake.url, time, spool=tmp_path / "s", age_limit_ms=60_000) as writer:
            known = []
            for wave in range(100):
                labels = series(100, f"wave{wave}")
                await writer.append([WriteBlock(labels, time.now_ms(), np.zeros(100))])
                await time.sleep(60)
                known.append(writer.stats().known_series)
            await until_delivered(writer)
        assert max(known) < 2000, known
    assert (tmp_path / "s").stat().st_size < 4_000_000
