"""Reading from real servers, and from one that breaks its promises."""

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest
from blockbuster import blockbuster_ctx

from sidecar.errors import DataError, Rejected, Unavailable
from sidecar.names import Reason
from sidecar.remote.backoff import BackoffSettings
from sidecar.remote.http import HttpClient, HttpSettings
from sidecar.remote.query_reader import QueryApiReader
from sidecar.remote.reader import ReadLimits, RemoteReader
from sidecar.remote.turns import ReadTurns
from sidecar.remote.writer import RemoteWriter, WriteBlock
from sidecar.series import STALE_NAN, LabelSet, Matcher, MatchOp, RawSeries, Selector, is_stale
from sidecar.wire.frames import encode_frame
from sidecar.wire.read_replies import encode_chunked_frames
from sidecar.wire.remote_pb2 import ChunkedReadResponse
from sidecar.wire.types_pb2 import Chunk, ChunkedSeries, Label
from tests import fakes
from tests.bench.wire import fill
from tests.fakes import READ, Answer, Append, Endless, FakePrometheus, Hang, ResetBefore, Slowly
from tests.fakes import Truncate as CutOff
from tests.prometheus import Backfill, PrometheusBinary, RealPrometheus, RealVictoriaMetrics
from tests.writing import until_delivered

pytestmark = pytest.mark.integration

QUICK = BackoffSettings(base_s=0.01, cap_s=0.02, attempts=3)
HOUR_MS = 3_600_000
X = Selector.of("x")
REGEX = Selector((Matcher("__name__", MatchOp.REGEX, "x.*"),))


def named(name: str, i: int, **more: str) -> LabelSet:
    return LabelSet.of({"__name__": name, "i": str(i), **more})


def history(now_ms: int, hours: float = 9.0, count: int = 6) -> tuple[Backfill, list[RawSeries]]:
    """Series x with values of every kind, one of our own output, and what x holds."""
    times = now_ms - np.arange(int(hours * 240), 0, -1, dtype=np.int64) * 15_000
    backfill, expected = Backfill(), []
    for i in range(count):
        values = np.sin(np.arange(len(times)) * (i + 1)) * 10.0 ** (3 * i - 6)
        values[i::50] = [np.nan, np.inf, -np.inf, -0.0, 5e-324, 0.0][i]
        kept = np.ones(len(times), dtype=np.bool_)
        kept[100 * i : 100 * i + 30] = False
        backfill.add(named("x", i), times[kept], values[kept])
        expected.append(RawSeries(named("x", i), times[kept], values[kept]))
    backfill.add(named("x_sentinel_expected", 0), times, 1.0)
    return backfill, expected


def assert_same(found: Sequence[RawSeries], expected: Sequence[RawSeries]) -> None:
    assert [one.labels for one in found] == [one.labels for one in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.timestamps_ms, other.timestamps_ms)
        np.testing.assert_array_equal(one.values, other.values)


def clipped(series: Sequence[RawSeries], start_ms: int, end_ms: int) -> list[RawSeries]:
    found = []
    for one in series:
        at = (one.timestamps_ms >= start_ms) & (one.timestamps_ms <= end_ms)
        if at.any():
            found.append(RawSeries(one.labels, one.timestamps_ms[at], one.values[at]))
    return found


async def test_every_way_to_read_gives_what_is_stored(prometheus_binary: PrometheusBinary) -> None:
    now_ms = int(time.time() * 1000)
    backfill, expected = history(now_ms)
    first, last = min(int(one.timestamps_ms[0]) for one in expected), now_ms
    async with RealPrometheus(
        prometheus_binary, history=backfill, external_labels={"region": "eu", "replica": "a"}
    ) as server:
        client = HttpClient(HttpSettings(server.url))
        external = {"region": "eu", "replica": ""}
        small = ReadLimits(slice_samples=1500)
        remote = RemoteReader(client, external_labels=external, verify_crc=True)
        in_slices = RemoteReader(client, external_labels=external, limits=small)
        as_samples = RemoteReader(client, external_labels=external, accept_chunks=False)
        query = QueryApiReader(client, limits=small)
        middle = int(expected[0].timestamps_ms[200])
        for reader in (remote, in_slices, as_samples, query):
            assert_same(await reader.read(X, first, last), expected)
            # Both ends are inclusive, to the millisecond.
            assert_same(
                await reader.read(X, middle, middle + 60_000),
                clipped(expected, middle, middle + 60_000),
            )
            assert_same(
                await reader.read(X, middle + 1, middle + 14_999),
                clipped(expected, middle + 1, middle + 14_999),
            )
            assert await reader.read(X, last + HOUR_MS, last + 2 * HOUR_MS) == []
            assert await reader.read(Selector.of("y"), first, last) == []
            assert await reader.read(Selector.of("x_sentinel_expected"), first, last) == []
        regex = Selector((*REGEX.matchers, Matcher("i", MatchOp.NOT_REGEX, "[1-9]")))
        for other in (remote, as_samples, query):
            assert_same(await other.read(regex, first, last), expected[:1])
        assert [
            one.labels.metric for one in await remote.read(regex, first, last, own_output=True)
        ] == ["x", "x_sentinel_expected"]
        parts = [part async for part in in_slices.read_slices(X, first, last)]
        assert len(parts) > 3
        assert all(sum(len(one.values) for one in part) < 4 * 1500 for part in parts)
        edges = [max(one.timestamps_ms[-1] for one in part) for part in parts]
        assert edges == sorted(edges)
        assert in_slices.stats().requests["ok"] > 5
        for each in (remote, in_slices, as_samples, query):
            await each.close()
        await client.close()


async def test_an_expression_is_read_at_its_instants(prometheus_binary: PrometheusBinary) -> None:
    now_ms = int(time.time() * 1000) // 15_000 * 15_000
    times = np.arange(now_ms - 4 * HOUR_MS, now_ms, 1_000, dtype=np.int64)
    backfill = Backfill()
    for i in range(3):
        backfill.add(named("x", i), times, np.arange(len(times)) * (i + 1.0))
    async with RealPrometheus(prometheus_binary, history=backfill) as server:
        client = HttpClient(HttpSettings(server.url))
        reader = QueryApiReader(client)
        start, end = int(times[0]), int(times[-1])
        # 14,400 instants: more than the server gives at once.
        [total] = await reader.read_expression("sum(x)", start, end, 1_000)
        assert total.labels == LabelSet(())
        np.testing.assert_array_equal(total.timestamps_ms, times)
        np.testing.assert_array_equal(total.values, np.arange(len(times)) * 6.0)
        by_i = await reader.read_expression("2 * x", start, end, 60_000)
        assert [one.labels for one in by_i] == [LabelSet.of({"i": str(i)}) for i in range(3)]
        np.testing.assert_array_equal(by_i[1].timestamps_ms, times[::60])
        assert await reader.read_expression("absent_here", start, end, 60_000) == []
        with pytest.raises(Rejected, match="parse"):
            await reader.read_expression("sum(", start, end, 60_000)
        few = QueryApiReader(client, limits=ReadLimits(slice_samples=100, max_samples=1000))
        with pytest.raises(DataError) as caught:
            await few.read_expression("x", start, end, 1_000)
        assert caught.value.reason is Reason.OVER_BUDGET
        await reader.close()
        await client.close()


@pytest.mark.usefixtures("has_victoria_metrics")
async def test_victoria_metrics_is_read_by_the_query_api() -> None:
    now_ms = int(time.time() * 1000)
    labels = tuple(named("x", i) for i in range(3))
    async with RealVictoriaMetrics() as server:
        client = HttpClient(HttpSettings(server.url))
        writer = RemoteWriter(client, None)
        await writer.start()
        stamps = [now_ms - 300_000 + k * 1000 for k in range(300)]
        for at in stamps:
            await writer.append([WriteBlock(labels, at, np.arange(3.0) + at % 1000)])
        await until_delivered(writer)
        await writer.stop()
        await server.flush()
        with pytest.raises(Rejected, match="unsupported path"):
            await RemoteReader(client).read(X, stamps[0], now_ms)
        reader = QueryApiReader(client, limits=ReadLimits(slice_samples=200))
        found = await reader.read(X, stamps[10], stamps[-1])
        assert [one.labels for one in found] == list(labels)
        for one in found:
            np.testing.assert_array_equal(one.timestamps_ms, stamps[10:])
        assert reader.stats().requests["ok"] > 2
        total = await reader.read_expression("sum(x)", stamps[0], stamps[-1], 1000)
        assert len(total) == 1
        await reader.close()
        await client.close()


async def test_stale_markers_and_a_killed_server_are_what_they_are(
    newest_prometheus: PrometheusBinary,
) -> None:
    async with RealPrometheus(newest_prometheus) as server:
        client = HttpClient(HttpSettings(server.url, timeout_s=2))
        writer = RemoteWriter(client, None)
        await writer.start()
        now_ms = int(time.time() * 1000)
        await writer.append([WriteBlock((named("x", 0),), now_ms - 10, np.array([1.0]))])
        await writer.end_series((named("x", 0),), now_ms - 5)
        await until_delivered(writer)
        await writer.stop()
        reader = RemoteReader(client, retry=QUICK)
        as_samples = RemoteReader(client, accept_chunks=False)
        for each in (reader, as_samples):
            [one] = await each.read(X, now_ms - 10_000, now_ms)
            assert is_stale(one.values).tolist() == [False, True]
        await server.kill()
        with pytest.raises(Unavailable):
            await reader.read(X, now_ms - 10_000, now_ms)
        await server.start()
        assert len(await reader.read(X, now_ms - 10_000, now_ms)) == 1
        await reader.close()
        await client.close()


# A server that breaks its promises


def load(fake: FakePrometheus, count: int = 40, samples: int = 500) -> list[RawSeries]:
    expected = []
    for i in range(count):
        times = np.arange(samples, dtype=np.int64) * 15_000 + 1_700_000_000_000
        values = np.random.default_rng(i).normal(size=samples)
        values[3] = STALE_NAN
        fake.load(named("x", i), times.tolist(), values.tolist())
        expected.append(RawSeries(named("x", i), times, values))
    return sorted(expected, key=lambda one: one.labels)


START, END = 1_700_000_000_000, 1_700_000_000_000 + 500 * 15_000


@pytest.mark.parametrize("streams", [True, False], ids=["chunks", "samples"])
@pytest.mark.parametrize(
    "trouble",
    [
        CutOff(1),
        CutOff(1000),
        Append(),
        Append(b"\x00\x00\x00"),
        ResetBefore(),
        Hang(),
        Answer(503, b"starting up"),
        Answer(200, b"garbage", {"Content-Type": "application/x-streamed-protobuf"}),
        Answer(200, b"\xff" * 1000, {"Content-Type": "application/x-protobuf"}),
        Answer(200, b"\xff\x06\x00\x00sNaPpY", {"Content-Type": "application/x-protobuf"}),
        Answer(200, b"\xff\xff\xff\xff\x0f", {"Content-Type": "application/x-protobuf"}),
    ],
    ids=lambda trouble: repr(trouble)[:50],
)
async def test_a_reply_that_is_not_whole_is_discarded_and_read_again(
    trouble: object, streams: bool
) -> None:
    async with FakePrometheus() as fake:
        fake.streams = streams
        expected = load(fake)
        client = HttpClient(HttpSettings(fake.url, timeout_s=0.5))
        reader = RemoteReader(client, retry=QUICK)
        fake.give(READ, trouble, trouble)  # type: ignore[arg-type]
        assert_same(await reader.read(X, START, END), expected)
        stats = reader.stats()
        fake.give_always(READ, trouble)  # type: ignore[arg-type]
        with pytest.raises(Unavailable):
            await reader.read(X, START, END)
        await reader.close()
        await client.close()
    assert stats.requests["unavailable"] == 2
    assert [one.path for one in fake.seen].count(READ) == 2 + stats.requests["ok"] + 3


@pytest.mark.parametrize("streams", [True, False], ids=["chunks", "samples"])
@pytest.mark.parametrize(
    ("limits", "what"),
    [
        (ReadLimits(max_samples=5_000), "5000 samples"),
        (ReadLimits(max_series=7), "7 series"),
        (ReadLimits(max_bytes=2_000), "2000 bytes"),
    ],
)
async def test_a_selector_that_matches_too_much_is_told_so(
    limits: ReadLimits, what: str, streams: bool
) -> None:
    async with FakePrometheus() as fake:
        fake.streams = streams
        load(fake)
        client = HttpClient(HttpSettings(fake.url))
        reader = RemoteReader(client, limits=limits, retry=QUICK)
        everything = Selector((Matcher("__name__", MatchOp.REGEX, ".+"),))
        with pytest.raises(DataError, match=what) as caught:
            await reader.read(everything, START, END)
        assert caught.value.reason is Reason.OVER_BUDGET
        assert "Narrow the selector" in str(caught.value)
        assert reader.stats().requests["over_budget"] == 1
        await reader.close()
        await client.close()


async def test_a_reply_without_end_is_cut_off_at_the_budget() -> None:
    async with FakePrometheus() as fake:
        fake.give_always(READ, Endless())
        client = HttpClient(HttpSettings(fake.url))
        reader = RemoteReader(client, limits=ReadLimits(max_bytes=5_000_000), retry=QUICK)
        async with asyncio.timeout(10):
            with pytest.raises((DataError, Rejected)):
                await reader.read(X, START, END)
        await reader.close()
        await client.close()


async def test_a_slice_that_holds_too_much_is_read_in_shorter_ones() -> None:
    async with FakePrometheus() as fake:
        expected = load(fake)
        client = HttpClient(HttpSettings(fake.url))
        reader = RemoteReader(client, limits=ReadLimits(slice_samples=400), retry=QUICK)
        assert_same(await reader.read(X, START, END), expected)
        assert reader.stats().requests["over_budget"] >= 1
        await reader.close()
        await client.close()


@pytest.mark.parametrize(("streams", "at_most"), [(True, 12), (False, 36)])
async def test_what_is_wanted_whole_is_read_in_longer_slices_where_it_is_streamed(
    streams: bool, at_most: int
) -> None:
    """And none is thrown away because there are some more samples than there were before."""
    times = np.arange(0, 48 * HOUR_MS, 2_000)
    times = np.sort(np.append(times, times[len(times) // 2 :: 2] + 7))  # half as many again
    async with FakePrometheus() as fake:
        fake.streams = streams
        fake.load(named("x", 0), times.tolist(), times.tolist())
        client = HttpClient(HttpSettings(fake.url))
        limits, end_ms = ReadLimits(slice_samples=6_000), int(times[-1])
        reader = RemoteReader(client, limits=limits, retry=QUICK)
        [found] = await reader.read(X, 0, end_ms)
        assert found.timestamps_ms.tolist() == times.tolist()
        whole = reader.stats().requests
        assert whole.get("over_budget", 0) == 0
        assert whole["ok"] <= at_most
        await reader.close()
        reader = RemoteReader(client, limits=limits, retry=QUICK)
        parts = [one async for [one] in reader.read_slices(X, 0, end_ms)]
        assert sum(len(one.values) for one in parts) == len(times)
        assert max(len(one.values) for one in parts) <= 4 * 6_000
        assert (whole["ok"] < len(parts) / 2) is streams
        await reader.close()
        await client.close()


async def test_a_login_page_is_named_as_what_it_is() -> None:
    async with FakePrometheus() as fake:
        fake.give_always(READ, Answer(200, b"<html>", {"Content-Type": "text/html"}))
        client = HttpClient(HttpSettings(fake.url))
        with pytest.raises(Rejected, match=r"'text/html'.*is this the URL"):
            await RemoteReader(client, retry=QUICK).read(X, START, END)
        await client.close()


async def test_chunks_of_an_unknown_kind_are_asked_for_as_samples_from_then_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def in_xor2(results: Sequence[Sequence[RawSeries]]) -> list[bytes]:
        return [
            encode_frame(
                ChunkedReadResponse(
                    chunked_series=[
                        ChunkedSeries(
                            labels=[Label(name=n, value=v) for n, v in one.labels.pairs],
                            chunks=[Chunk(type=4, data=b"\x00\x01rest")],  # type: ignore[arg-type]
                        )
                    ]
                ).SerializeToString()
            )
            for series in results
            for one in series
        ]

    async with FakePrometheus() as fake:
        expected = load(fake)
        monkeypatch.setattr(fakes, "encode_chunked_frames", in_xor2)
        client = HttpClient(HttpSettings(fake.url))
        reader = RemoteReader(client, retry=QUICK)
        with caplog.at_level(logging.WARNING, "sidecar"):
            for _ in range(3):
                assert_same(await reader.read(X, START, END), expected)
        assert reader.stats().samples_selectors == 1
        await reader.close()
        await client.close()
    assert len(caplog.records) == 1


async def test_no_more_reads_run_at_once_than_allowed() -> None:
    async with FakePrometheus() as fake:
        load(fake, 4)
        fake.delay_s = lambda: 0.02
        client = HttpClient(HttpSettings(fake.url))
        turns = ReadTurns(at_once=2)
        readers = [RemoteReader(client, turns=turns) for _ in range(3)]
        await asyncio.gather(*(reader.read(X, START, END) for reader in readers for _ in range(5)))
        assert fake.at_once == 2
        for reader in readers:
            await reader.close()
        await client.close()


async def test_a_server_that_becomes_slow_gets_pauses() -> None:
    async with FakePrometheus() as fake:
        load(fake, 4)
        client = HttpClient(HttpSettings(fake.url))
        reader = RemoteReader(client)
        for _ in range(3):
            await reader.read(X, START, END)
        assert reader.stats().pauses == 0
        fake.give_always(READ, Slowly(0.5))
        for _ in range(2):
            await reader.read(X, START, END)
        assert reader.stats().pauses >= 1
        await reader.close()
        await client.close()


async def test_replicas_become_one_series_when_their_label_is_taken_off() -> None:
    async with FakePrometheus() as fake:
        fake.load(named("x", 0, replica="a"), [1000, 3000], [1.0, 3.0])
        fake.load(named("x", 0, replica="b"), [2000, 3000], [2.0, 3.5])
        client = HttpClient(HttpSettings(fake.url))
        reader = RemoteReader(client, external_labels={"replica": ""})
        [one] = await reader.read(X, 0, 10_000)
        assert one.labels == named("x", 0)
        assert one.timestamps_ms.tolist() == [1000, 2000, 3000]
        assert one.values.tolist() == [1.0, 2.0, 3.5]
        await reader.close()
        await client.close()


async def test_a_label_that_is_only_called_like_an_external_one_stays() -> None:
    async with FakePrometheus(external_labels={"region": "eu"}) as fake:
        fake.load(named("x", 0), [1000], [1.0])
        fake.load(named("x", 1, region="us"), [1000], [1.0])
        client = HttpClient(HttpSettings(fake.url))
        reader = RemoteReader(client, external_labels={"region": "eu"})
        found = [one.labels for one in await reader.read(X, 0, 10_000)]
        assert found == [named("x", 0), named("x", 1, region="us")]
        await reader.close()
        await client.close()


async def test_a_read_that_is_cancelled_leaves_the_reader_usable() -> None:
    async with FakePrometheus() as fake:
        expected = load(fake)
        client = HttpClient(HttpSettings(fake.url))
        reader = RemoteReader(client)
        fake.give(READ, Hang())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.read(X, START, END)
        assert_same(await reader.read(X, START, END), expected)
        await reader.close()
        await client.close()


async def test_a_stream_that_stops_between_two_frames_is_not_a_whole_reply() -> None:
    """A server that dies there has sent nothing but whole frames: only HTTP knows it had more."""
    expected = [RawSeries(named("x", 0), np.array([START]), np.array([1.0]))]
    frame = b"".join(encode_chunked_frames([expected]))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-streamed-protobuf\r\n"
    whole = False

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
        writer.write(f"{len(frame):x}\r\n".encode() + frame + b"\r\n")
        if whole:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = HttpClient(HttpSettings(f"http://127.0.0.1:{port}"))
    reader = RemoteReader(client, retry=QUICK)
    with pytest.raises(Unavailable, match="broke off"):
        await reader.read(X, START, END)
    whole = True
    assert_same(await reader.read(X, START, END), expected)
    await reader.close()
    await client.close()
    server.close()


@asynccontextmanager
async def free_loop(most_s: float = 0.050) -> AsyncIterator[None]:
    """Nothing within keeps the event loop for longer, or waits in it for a disk, a lock or a sleep.

    It is the CPU time of the loop's thread that counts, not wall time: whatever else this machine
    does. A heartbeat sees what comes together between two of its turns.
    """
    callbacks: list[float] = []
    beats: list[float] = []
    plain = asyncio.events.Handle._run

    def measured(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        plain(handle)
        callbacks.append(time.thread_time() - began)

    async def heartbeat() -> None:
        while True:
            began = time.thread_time()
            await asyncio.sleep(0.005)
            beats.append(time.thread_time() - began)

    gc.collect()
    gc.freeze()  # the test suite's own heap is not what is measured
    beating = asyncio.create_task(heartbeat())
    try:
        with pytest.MonkeyPatch.context() as patch, blockbuster_ctx("sidecar"):
            patch.setattr(asyncio.events.Handle, "_run", measured)
            yield
    finally:
        beating.cancel()
        gc.unfreeze()
    assert max(callbacks) < most_s
    assert len(beats) > 10
    assert max(beats) < most_s


@pytest.mark.slow
async def test_the_event_loop_stays_free_while_17_million_samples_are_read(
    newest_prometheus: PrometheusBinary,
) -> None:
    now_ms = int(time.time() * 1000)
    times = now_ms - np.arange(576, 0, -1, dtype=np.int64) * 15_000
    backfill, dice = Backfill(), np.random.default_rng(1)
    for i in range(1000):
        backfill.add(named("x", i), times, np.round(np.cumsum(dice.normal(size=576)), 3))
    async with RealPrometheus(newest_prometheus, history=backfill) as server:
        client = HttpClient(HttpSettings(server.url))
        reader = RemoteReader(client)
        async with free_loop():
            for _ in range(30):
                found = await reader.read(X, int(times[0]), now_ms)
                assert len(found) == 1000
                await asyncio.sleep(0)
        assert reader.stats().samples == 30 * 576_000
        await reader.close()
        await client.close()


@pytest.mark.long
async def test_the_event_loop_stays_free_while_one_read_brings_17_million_samples(
    newest_prometheus: PrometheusBinary,
) -> None:
    async with RealPrometheus(newest_prometheus) as server:
        query = await fill(server, 1000, 17_280)
        client = HttpClient(HttpSettings(server.url))
        reader = RemoteReader(client)
        async with free_loop():
            found = await reader.read(query.selector, query.start_ms, query.end_ms)
        assert sum(len(one.values) for one in found) == 17_280_000
        await reader.close()
        await client.close()


async def test_small_reads_that_wait_together_share_requests_and_not_their_troubles() -> None:
    async with FakePrometheus() as fake:
        for i in range(300):
            fake.load(named(f"m{i}", 0), [START, START + 1000], [float(i), i + 0.5])
        for i in range(50):
            fake.load(named("many", i), [START], [1.0])
        client = HttpClient(HttpSettings(fake.url))
        reader = RemoteReader(client, retry=QUICK, limits=ReadLimits(max_series=20))

        async def read(name: str) -> list[RawSeries]:
            return await reader.read(Selector.of(name), START, START + 60_000)

        names = [f"m{i}" for i in range(300)]
        found = await asyncio.gather(
            *(read(name) for name in [*names, "many"]), return_exceptions=True
        )
        await reader.close()
        await client.close()
    assert isinstance(found[-1], DataError)
    for i, one in enumerate(found[:-1]):
        assert isinstance(one, list)
        assert [(s.labels, s.values.tolist()) for s in one] == [(named(f"m{i}", 0), [i, i + 0.5])]
    assert len(fake.seen) <= 8
