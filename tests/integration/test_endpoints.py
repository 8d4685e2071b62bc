"""Several endpoints of remote write: each gets everything, and none waits for another."""

import asyncio
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sidecar.config import SentinelConfig
from sidecar.endpoints import Endpoints, take_over
from sidecar.names import DropReason, Refusal
from sidecar.remote.writer import WriterState
from sidecar.serve.readings import of_writers
from tests.fakes import WRITE, Answer, FakePrometheus, Hang
from tests.prometheus import Backfill, PrometheusBinary, RealPrometheus, free_port
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

SERIES = series(40)


def config_of(*urls: str, **settings: Any) -> SentinelConfig:
    """Endpoints called a, b, ... behind a server at the first URL."""
    ends = [
        {"url": f"{url}{WRITE}", "name": name, **settings}
        for url, name in zip(urls, "abcdefgh", strict=False)
    ]
    return SentinelConfig(urls[0], remote_write=ends, scrape_timeout="2s")  # type: ignore[arg-type]


@asynccontextmanager
async def running(config: SentinelConfig, folder: Path | None) -> AsyncIterator[Endpoints]:
    endpoints = Endpoints(config.write_ends(), folder)
    await endpoints.start()
    try:
        yield endpoints
    finally:
        await endpoints.stop(0.0)


async def append(endpoints: Endpoints, at_ms: int) -> None:
    """As a publisher does."""
    await asyncio.gather(*(one.append([block(SERIES, at_ms)]) for one in endpoints.writers))


async def test_one_that_hangs_refuses_or_is_dead_delays_no_other(tmp_path: Path) -> None:
    begin = int(time.time() * 1000) - 30_000
    stamps = [begin + 1000 * n for n in range(20)]
    async with FakePrometheus() as good, FakePrometheus() as hangs, FakePrometheus() as forbids:
        hangs.give_always(WRITE, Hang(30))
        forbids.give_always(WRITE, Answer(403, b"no"))
        dead = f"http://127.0.0.1:{free_port()}"
        config = config_of(good.url, hangs.url, forbids.url, dead)
        async with running(config, tmp_path) as endpoints:
            first, *others = endpoints.writers
            for at in stamps:
                await append(endpoints, at)
                await until(lambda: first.stats().pending == 0, 15)  # others hang for 30 s
            assert_stored(good, SERIES, *stamps)
            for writer in others:
                assert writer.stats().pending == len(SERIES) * len(stamps)
                assert_balanced(writer.stats())
            await until(lambda: others[1].state is WriterState.HELD)
            # All come back, and each is sent what waited for it, in order.
            for fake in (hangs, forbids):
                fake.give_always(WRITE, None)
            async with FakePrometheus(port=int(dead.rpartition(":")[2])) as back:
                await until(lambda: not any(one.stats().pending for one in others), 60)
                for fake in (hangs, forbids, back):
                    assert_stored(fake, SERIES, *stamps)
                    assert_well_behaved(fake)


async def test_what_was_sent_waits_or_was_given_up_is_said_of_each(tmp_path: Path) -> None:
    at = int(time.time() * 1000)
    async with FakePrometheus() as good:
        config = config_of(good.url, f"http://127.0.0.1:{free_port()}")
        async with running(config, tmp_path) as endpoints:
            await append(endpoints, at)
            await append(endpoints, at)  # refused by each
            await until(lambda: endpoints.first.writer.stats().pending == 0)
            found = {one.name: one.values for one in of_writers(endpoints.by_name())}
    n, prefix = len(SERIES), "sentinel_remote_write_"
    assert found[f"{prefix}samples_enqueued_total"] == {("a",): n, ("b",): n}
    assert found[f"{prefix}samples_sent_total"] == {("a",): n, ("b",): 0}
    assert found[f"{prefix}samples_pending"] == {("a",): 0, ("b",): n}
    assert found[f"{prefix}held"] == {("a",): 0.0, ("b",): 1.0}
    assert found[f"{prefix}highest_sent_timestamp_seconds"] == {("a",): at / 1000, ("b",): 0.0}
    refused = found[f"{prefix}samples_refused_total"]
    assert refused["a", "not_newer"] == refused["b", "not_newer"] == n
    assert set(refused) == {(end, why.value) for end in "ab" for why in Refusal}
    assert set(found[f"{prefix}samples_dropped_total"]) == {
        (end, why.value) for end in "ab" for why in DropReason
    }
    assert found[f"{prefix}requests_total"]["a", "2xx"] >= 1
    assert found[f"{prefix}requests_total"]["b", "2xx"] == 0


async def test_stopping_takes_no_longer_with_more_of_them(tmp_path: Path) -> None:
    async with FakePrometheus() as one, FakePrometheus() as two, FakePrometheus() as three:
        config = config_of(one.url, two.url, three.url)
        endpoints = Endpoints(config.write_ends(), tmp_path)
        await endpoints.start()
        await append(endpoints, int(time.time() * 1000) - 5_000)
        await until(lambda: not any(writer.stats().pending for writer in endpoints.writers))
        for fake in (one, two, three):
            fake.give_always(WRITE, Hang(30))
        await append(endpoints, int(time.time() * 1000))
        began = time.monotonic()
        await endpoints.stop(2.0)
        assert time.monotonic() - began < 5.5, "together, not one after the other"


async def test_naming_the_only_endpoint_keeps_what_waits_for_it(tmp_path: Path) -> None:
    """The form without a name came first: its spool is taken over, log and marks included."""
    at = int(time.time() * 1000) - 10_000
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    async with writing(f"http://127.0.0.1:{free_port()}", spool=old / "prometheus.sqlite") as down:
        await down.append([block(SERIES, at)])
        await down.append([block(SERIES, at + 1000)])
        assert (old / "prometheus.sqlite-wal").stat().st_size > 0
        shutil.copytree(old, new)  # as kill -9 leaves it
    async with FakePrometheus() as fake, FakePrometheus() as other:
        async with running(config_of(fake.url, other.url), new) as endpoints:
            writer = endpoints.first.writer
            assert writer.high_water_ms(SERIES[0]) == at + 1000
            refused = await writer.append([block(SERIES, at + 1000)])
            assert refused.refused == {Refusal.NOT_NEWER: len(SERIES)}
            await append(endpoints, at + 2000)
            await until(lambda: not any(one.stats().pending for one in endpoints.writers))
            assert writer.stats().enqueued == 3 * len(SERIES)
        assert_stored(fake, SERIES, at, at + 1000, at + 2000)
        assert_stored(other, SERIES, at + 2000)
        assert_well_behaved(fake)
    assert sorted(path.name for path in new.iterdir()) == ["a.sqlite", "b.sqlite"]


async def test_an_endpoint_without_a_name_beside_others_keeps_its_spool(tmp_path: Path) -> None:
    at = int(time.time() * 1000) - 10_000
    spool = tmp_path / "prometheus.sqlite"
    async with writing(f"http://127.0.0.1:{free_port()}", spool=spool) as down:
        await down.append([block(SERIES, at)])
    async with FakePrometheus() as fake, FakePrometheus() as other:
        config = SentinelConfig(
            fake.url,
            remote_write=[{"url": f"{other.url}{WRITE}", "name": "far"}, {}],  # type: ignore[list-item]
        )
        async with running(config, tmp_path) as endpoints:
            assert endpoints.first.end.name == "prometheus"
            await until(lambda: not any(one.stats().pending for one in endpoints.writers))
        assert_stored(fake, SERIES, at)
        assert_stored(other, [])


def test_a_spool_that_belongs_to_nobody_is_said_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "gone.sqlite").write_bytes(b"")
    (tmp_path / "prometheus.sqlite").write_bytes(b"not a database at all, but bytes of some length")
    take_over(tmp_path, ["main"])
    assert "gone.sqlite is the spool of an endpoint that is not configured" in caplog.text
    assert "prometheus.sqlite cannot go on as" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {"gone.sqlite", "prometheus.sqlite"}


def test_a_spool_of_the_new_name_is_never_replaced(tmp_path: Path) -> None:
    for name in ("main", "prometheus"):
        (tmp_path / f"{name}.sqlite").write_bytes(name.encode())
    take_over(tmp_path, ["main"])
    assert (tmp_path / "main.sqlite").read_bytes() == b"main"


async def test_a_name_that_cannot_be_looked_up_delays_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up, asked, answered = socket.getaddrinfo, threading.Event(), threading.Event()

    def slow(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "far.example.org":
            asked.set()
            answered.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    async with FakePrometheus() as good:
        near = good.url.replace("127.0.0.1", "localhost")
        config = config_of(near, "http://far.example.org:9090")
        async with running(config, tmp_path) as endpoints:
            try:
                for n in range(3):
                    await append(endpoints, int(time.time() * 1000))
                    await until(lambda: endpoints.first.writer.stats().pending == 0)
                    assert good.count() == (n + 1) * len(SERIES)
                    await until(asked.is_set)
            finally:
                answered.set()


async def test_an_instant_before_the_receivers_first_is_given_up_and_no_series_is_left_out(
    prometheus_binary: PrometheusBinary,
) -> None:
    """A Prometheus begun on blocks takes nothing from before their end."""
    labels, end = series(20), int(time.time() * 1000) - 2_000
    past = Backfill().add({"__name__": "past"}, [end - 60_000, end], 1.0)
    async with (
        RealPrometheus(prometheus_binary, history=past) as server,
        writing(server.url, shards=1) as writer,
    ):
        await writer.append([block(labels, end - 1_000)])
        await until_delivered(writer)
        await writer.append([block(labels, at := end + 1_000)])
        await until_delivered(writer)
        assert writer.stats().dropped == {DropReason.EXPIRED: 20}
        assert writer.quarantined() == ()
        assert writer.stats().bisections == 0
        stored = await server.samples('{i!=""}', end - 10_000, end + 10_000)
        assert {tuple(one.timestamps_ms.tolist()) for one in stored} == {(at,)}
        assert len(stored) == 20


HOUR_MS = 3_600_000


async def test_what_the_out_of_order_window_allows_is_delivered_and_nothing_older_is_sent(
    prometheus_binary: PrometheusBinary, tmp_path: Path
) -> None:
    """Older samples are a 500 for ever on 2.42; within the window they are stored."""
    window = {"storage": {"tsdb": {"out_of_order_time_window": "3h"}}}
    async with RealPrometheus(prometheus_binary, config=window) as server:
        config = config_of(server.url)
        async with running(config, tmp_path) as endpoints:
            writer = endpoints.first.writer
            following = asyncio.create_task(endpoints.run())
            await until(lambda: writer.age_limit_ms > HOUR_MS)
            following.cancel()
            assert writer.age_limit_ms == 3 * HOUR_MS - 300_000
            now = int(time.time() * 1000)
            await writer.append([block(series(1, "head"), now)])  # the head is as new as can be
            await until(lambda: writer.stats().pending == 0)
            stamps = [now - writer.age_limit_ms + 5_000, now - 2 * HOUR_MS, now - HOUR_MS, now]
            refused = await writer.append([block(SERIES, now - 3 * HOUR_MS)])
            assert refused.refused == {Refusal.TOO_OLD: len(SERIES)}
            for at in stamps:
                await writer.append([block(SERIES, at)])
            await until(lambda: writer.stats().pending == 0)
            stats = writer.stats()
            assert set(stats.requests) == {"2xx"}
            assert stats.sent == len(SERIES) * len(stamps) + 1
            assert stats.dropped == {}


async def test_the_window_is_remembered_while_the_receiver_is_away(tmp_path: Path) -> None:
    now = int(time.time() * 1000)
    config = config_of(f"http://127.0.0.1:{free_port()}")
    async with running(config, tmp_path) as endpoints:
        await endpoints.first.writer.learn_window(6 * HOUR_MS)
        accepted = await endpoints.first.writer.append([block(SERIES, now - 5 * HOUR_MS)])
        assert accepted.accepted == len(SERIES)
    async with running(config, tmp_path) as endpoints:
        writer = endpoints.first.writer
        assert writer.age_limit_ms == 6 * HOUR_MS - 300_000
        await endpoints.drained(0.5)
        assert writer.stats().pending == len(SERIES), "nothing was given up"
        await writer.learn_window(600_000)
        assert writer.age_limit_ms == 55 * 60_000, "never below what any Prometheus takes"


async def test_a_receiver_that_does_not_tell_its_window_has_that_of_any(tmp_path: Path) -> None:
    async with FakePrometheus() as fake:
        for answer in (Answer(404, b"no"), Answer(200, b"<html>"), Answer(200, b"{}")):
            fake.give("/api/v1/status/config", answer)
            async with running(config_of(fake.url), tmp_path) as endpoints:
                following = asyncio.create_task(endpoints.run())
                await until(lambda: any("status" in one.path for one in fake.seen))
                await asyncio.sleep(0.05)
                following.cancel()
                assert endpoints.first.writer.age_limit_ms == 55 * 60_000
            fake.seen.clear()
