"""The codec against real servers: what they store, stream, push and accept."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import pytest_asyncio
from aiohttp import web

from sidecar.series import STALE_BITS, LabelSet, Matcher, MatchOp, RawSeries, Selector
from sidecar.wire import snappy
from sidecar.wire.chunks import ChunkDecoder, ChunkedReply
from sidecar.wire.frames import FrameSplitter
from sidecar.wire.remote_pb2 import ChunkedReadResponse, WriteRequest
from sidecar.wire.requests import ReadQuery, encode_read_request
from sidecar.wire.samples import SampledReply, decode_sampled_reply
from sidecar.wire.template import WriteTemplate, WriteTemplateV2
from sidecar.wire.types_pb2 import Chunk, TimeSeries
from sidecar.wire.write_requests import MetricType, Pushed, decode_push_v1, decode_push_v2
from sidecar.wire.xor_encoder import encode_xor_chunk
from tests.exporter import FunctionExporter
from tests.prometheus import PrometheusBinary, RealPrometheus
from tests.unit.wire.oracles import SPECIAL_BITS, decode_xor, floats, pb_labels, pb_series, plain

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

MIB = 1024 * 1024
SERIES = 60
SIZE = 700
STEP_MS = 5000
START_MS = (int(time.time() * 1000) // 60_000 - 90) * 60_000
END_MS = START_MS + SIZE * STEP_MS + 60_000
X = Selector.of("x")
ALL = ReadQuery(X, START_MS, END_MS)
PROTOBUF = "application/x-protobuf"


def made_series(number: int) -> RawSeries:
    """Regular, jittered and gappy timestamps; values that stay, count, wander or are special."""
    rng = np.random.default_rng(number)
    size = SIZE if number else 1
    steps = np.full(size, STEP_MS)
    if number % 3:
        steps += rng.integers(-4, 5, size)
    if number % 3 == 2:
        steps = np.where(rng.random(size) < 0.05, rng.integers(1, 4000, size), steps)
    times = START_MS + np.cumsum(steps) - steps[0]
    values = (
        rng.normal(size=size),
        np.cumsum(rng.integers(0, 9, size)).astype(np.float64),
        np.where(rng.random(size) < 0.5, 0.0, np.round(rng.normal(size=size), 1)),
        floats(rng.choice(np.array(SPECIAL_BITS, dtype=np.uint64), size).tolist()),
        floats(rng.integers(0, 2**64 - 1, size, dtype=np.uint64).tolist()),
    )[number % 5]
    return RawSeries(LabelSet.of({"__name__": "x", "n": f"{number:02d}"}), times, values)


MADE = [made_series(number) for number in range(SERIES)]


def without_signs_of_zero(found: Sequence[RawSeries]) -> list[RawSeries]:
    """As SAMPLES has them: Prometheus does not write a value that equals zero."""
    return [
        RawSeries(one.labels, one.timestamps_ms, np.where(one.values == 0, 0.0, one.values))
        for one in found
    ]


async def write(
    server: RealPrometheus, body: bytes, kind: str = PROTOBUF, version: str = "0.1.0"
) -> dict[str, str]:
    headers = {
        "Content-Encoding": "snappy",
        "Content-Type": kind,
        "X-Prometheus-Remote-Write-Version": version,
    }
    url = f"{server.url}/api/v1/write"
    async with server.session.post(url, data=snappy.compress(body), headers=headers) as answer:
        assert answer.status == 204, await answer.text()
        return dict(answer.headers)


async def ask(
    server: RealPrometheus, queries: Sequence[ReadQuery], *, chunks: bool
) -> tuple[str, bytes]:
    headers = {
        "Content-Encoding": "snappy",
        "Content-Type": PROTOBUF,
        "X-Prometheus-Remote-Read-Version": "0.1.0",
    }
    body = snappy.compress(encode_read_request(queries, accept_chunks=chunks))
    async with server.session.post(
        f"{server.url}/api/v1/read", data=body, headers=headers
    ) as answer:
        content = await answer.read()
        assert answer.status == 200, content
        return answer.headers["Content-Type"], content


async def read_chunks(server: RealPrometheus, *queries: ReadQuery) -> ChunkedReply:
    kind, content = await ask(server, queries, chunks=True)
    assert kind.startswith("application/x-streamed-protobuf")
    splitter, decoder = FrameSplitter(verify_crc=True), ChunkDecoder(queries)
    for start in range(0, len(content), 10_000):
        for frame in splitter.feed(content[start : start + 10_000]):
            decoder.feed(frame)
    splitter.finish()
    return decoder.finish()


async def read_samples(server: RealPrometheus, *queries: ReadQuery) -> SampledReply:
    kind, content = await ask(server, queries, chunks=False)
    assert kind == PROTOBUF
    return decode_sampled_reply(snappy.decompress(content, 64 * MIB), queries)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(prometheus_binary: PrometheusBinary) -> AsyncIterator[RealPrometheus]:
    async with RealPrometheus(
        prometheus_binary, flags=["--enable-feature=native-histograms"]
    ) as running:
        for start in range(0, SIZE, 100):
            request = WriteRequest(
                timeseries=[
                    pb_series(
                        RawSeries(
                            one.labels,
                            one.timestamps_ms[start : start + 100],
                            one.values[start : start + 100],
                        )
                    )
                    for one in MADE
                    if start < len(one.values)
                ]
            )
            await write(running, request.SerializeToString())
        yield running


async def test_chunks_give_back_bit_by_bit_what_was_stored(server: RealPrometheus) -> None:
    found = await read_chunks(server, ALL)
    assert plain(found.series[0]) == plain(MADE)
    assert found.samples == sum(len(one.values) for one in MADE)
    assert (found.duplicates, found.clipped, found.histogram_chunks) == (0, 0, 0)
    assert found.unknown_chunk_types == frozenset()


async def test_samples_give_back_bit_by_bit_what_was_stored(server: RealPrometheus) -> None:
    found = await read_samples(server, ALL)
    assert plain(found.series[0]) == plain(without_signs_of_zero(MADE))


async def test_stale_markers_are_told_from_other_nans(server: RealPrometheus) -> None:
    stored = [one.values.view(np.uint64) for one in MADE]
    for found in (
        (await read_chunks(server, ALL)).series,
        (await read_samples(server, ALL)).series,
    ):
        by_labels = sorted(found[0], key=lambda one: one.labels)
        for expected, one in zip(stored, by_labels, strict=True):
            stale = one.values.view(np.uint64) == STALE_BITS
            assert np.array_equal(stale, expected == STALE_BITS)


async def test_our_chunks_are_those_of_prometheus_bit_by_bit(server: RealPrometheus) -> None:
    _, content = await ask(server, [ALL], chunks=True)
    count = 0
    for frame in FrameSplitter(verify_crc=True).feed(content):
        for one in ChunkedReadResponse.FromString(frame).chunked_series:
            for chunk in one.chunks:
                assert chunk.type == Chunk.XOR
                samples = decode_xor(chunk.data)
                times = np.array([time for time, _ in samples], dtype=np.int64)
                values = floats([bits for _, bits in samples])
                ours = encode_xor_chunk(times, values)
                # Until 2.x a chunk that ends with a whole byte may have a spare one behind it.
                assert chunk.data in (ours, ours + b"\0")
                assert (chunk.min_time_ms, chunk.max_time_ms) == (times[0], times[-1])
                count += 1
    assert count > SERIES


@pytest.mark.parametrize(("first", "last"), [(0, 0), (1, 3), (100, 250), (119, 121), (0, SIZE - 1)])
async def test_both_ends_of_a_range_belong_to_it(
    server: RealPrometheus, first: int, last: int
) -> None:
    one = MADE[3]
    bounds = int(one.timestamps_ms[first]), int(one.timestamps_ms[last])
    query = ReadQuery(X.with_matchers(Matcher("n", MatchOp.EQUAL, "03")), *bounds)
    expected = RawSeries(
        one.labels, one.timestamps_ms[first : last + 1], one.values[first : last + 1]
    )
    assert plain((await read_chunks(server, query)).series[0]) == plain([expected])
    sampled = (await read_samples(server, query)).series[0]
    assert plain(sampled) == plain(without_signs_of_zero([expected]))


@pytest.mark.parametrize(
    "matcher",
    [
        Matcher("n", MatchOp.EQUAL, "07"),
        Matcher("n", MatchOp.NOT_EQUAL, "07"),
        Matcher("n", MatchOp.REGEX, "0[1-3]|5."),
        Matcher("n", MatchOp.NOT_REGEX, "0.|1.|2.|3."),
        Matcher("absent", MatchOp.EQUAL, ""),
    ],
    ids=str,
)
async def test_each_matcher_selects_what_it_says(server: RealPrometheus, matcher: Matcher) -> None:
    selector = X.with_matchers(matcher)
    found = (await read_chunks(server, ReadQuery(selector, START_MS, END_MS))).series[0]
    expected = [str(one.labels) for one in MADE if selector.accepts(one.labels)]
    assert expected
    assert sorted(str(one.labels) for one in found) == expected


async def test_several_queries_are_answered_each_for_itself(server: RealPrometheus) -> None:
    queries = [
        ReadQuery(X.with_matchers(Matcher("n", MatchOp.EQUAL, "02")), START_MS, END_MS),
        ReadQuery(Selector.of("there_is_no_such_metric"), START_MS, END_MS),
        ReadQuery(X.with_matchers(Matcher("n", MatchOp.EQUAL, "01")), START_MS, END_MS),
    ]
    for found in (await read_chunks(server, *queries), await read_samples(server, *queries)):
        names = [[one.labels.get("n") for one in result] for result in found.series]
        assert names == [["02"], [], ["01"]]


async def test_a_template_is_stored_as_it_was_meant(server: RealPrometheus) -> None:
    values = floats([bits for bits in SPECIAL_BITS for _ in range(3)])
    labels = [
        LabelSet.of({"__name__": "written", "n": str(n), "text": 'a"\\\n/../ä' * (n % 7)})
        for n in range(len(values))
    ]
    await write(server, WriteTemplate(labels).encode(START_MS + 5, values))
    query = ReadQuery(Selector.of("written"), START_MS, END_MS)
    found = (await read_chunks(server, query)).series[0]
    one_each = [
        RawSeries(one, np.array([START_MS + 5]), values[n : n + 1]) for n, one in enumerate(labels)
    ]
    assert plain(found) == plain(one_each)


async def test_a_2_0_template_is_stored_by_receivers_that_know_2_0(server: RealPrometheus) -> None:
    values = np.array([1.5, 0.0, -2.5])
    labels = [LabelSet.of({"__name__": "written_v2", "n": str(n), "a": "1"}) for n in range(3)]
    body = WriteTemplateV2(labels).encode(START_MS + 5, values)
    kind = f"{PROTOBUF};proto=io.prometheus.write.v2.Request"
    headers = await write(server, body, kind, "2.0.0")
    query = ReadQuery(Selector.of("written_v2"), START_MS, END_MS)
    found = (await read_chunks(server, query)).series[0]
    if server.binary.version >= (3,):
        assert headers["X-Prometheus-Remote-Write-Samples-Written"] == "3"
        assert [one.values.tolist() for one in found] == [[1.5], [0.0], [-2.5]]
    else:  # 204, and nothing is stored: the header that is not there is the only sign
        assert "X-Prometheus-Remote-Write-Samples-Written" not in headers
        assert found == []


# A native histogram of five observations, all in the zero bucket: count 5, sum 1.0, schema 3,
# zero_threshold 0.001, zero_count 5; our own messages do not spell these fields out.
HISTOGRAM = bytes.fromhex("0805 19000000000000f03f 2006 29fca9f1d24d62503f 3005 78")


async def test_native_histograms_are_skipped_counted_and_named(server: RealPrometheus) -> None:
    times = [START_MS + 15_000 * n for n in range(5)]
    labels = LabelSet.of({"__name__": "native"})
    message = TimeSeries(labels=pb_labels(labels)).SerializeToString()
    for moment in times:
        content = HISTOGRAM + varint(moment)
        message += b"\x22" + varint(len(content)) + content
    await write(server, b"\x0a" + varint(len(message)) + message)
    both = Selector((Matcher("__name__", MatchOp.REGEX, "native|x"),))
    query = ReadQuery(both, START_MS, END_MS)
    chunked, sampled = await read_chunks(server, query), await read_samples(server, query)
    assert chunked.histogram_chunks >= 1
    assert chunked.histogram_series == (labels,)
    assert len(chunked.series[0]) == len(sampled.series[0]) == SERIES
    if server.binary.version >= (2, 53):  # before, SAMPLES leave them out without a word
        assert (sampled.histograms, sampled.histogram_series) == (5, (labels,))


def varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


@dataclass
class Receiver:
    """Takes what a Prometheus pushes, and keeps all of it."""

    bodies: list[tuple[str, bytes]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        body = bytes(snappy.decompress(await request.read(), 32 * MIB))
        self.bodies.append((request.content_type, body))
        version_2 = "v2" in request.headers["Content-Type"]
        pushed = decode_push_v2(body) if version_2 else decode_push_v1(body)
        written = {"X-Prometheus-Remote-Write-Samples-Written": str(pushed.samples)}
        return web.Response(status=204, headers=written if version_2 else {})

    async def start(self) -> tuple[web.AppRunner, str]:
        application = web.Application(client_max_size=32 * MIB)
        application.router.add_post("/api/v1/write", self.take)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        return runner, f"http://{host}:{port}/api/v1/write"


@pytest.mark.parametrize("version", [1, 2])
async def test_what_prometheus_pushes_is_what_it_scraped(
    prometheus_binary: PrometheusBinary, version: int
) -> None:
    if version == 2 and prometheus_binary.version < (3,):
        pytest.skip("remote write 2.0 is sent by Prometheus 3 and later")
    receiver = Receiver()
    runner, url = await receiver.start()
    flags = []
    remote_write: dict[str, object] = {"url": url, "metadata_config": {"send_interval": "1s"}}
    if version == 2:
        remote_write["protobuf_message"] = "io.prometheus.write.v2.Request"
        flags = ["--enable-feature=metadata-wal-records"]  # or it sends no types
    try:
        with FunctionExporter() as exporter:
            exporter.gauge("g", lambda t: t % 7.0, a="1")
            exporter.gauge("zero", lambda t: 0.0)
            async with RealPrometheus(
                prometheus_binary,
                targets=[exporter.address],
                config={"remote_write": [remote_write]},
                flags=flags,
            ) as sender:
                await sender.until("count_over_time(g[1m]) >= 4")
                now_ms = int(time.time() * 1000)
                stored = [
                    one for name in ("g", "zero") for one in await sender.samples(name, 0, now_ms)
                ]
                pushed = await until_pushed(receiver, stored, version)
    finally:
        await runner.cleanup()
    assert stored
    for labels, samples in plain(stored).items():
        assert set(samples) <= set(pushed[labels])


async def until_pushed(
    receiver: Receiver, stored: Sequence[RawSeries], version: int
) -> dict[str, list[tuple[int, int]]]:
    """All that was pushed, once it holds as many samples as are stored."""
    deadline = time.monotonic() + 30
    known: dict[bytes, LabelSet] = {}
    while True:
        found: dict[str, list[tuple[int, int]]] = {}
        types: dict[str, MetricType] = {}
        for _, body in receiver.bodies:
            one: Pushed = decode_push_v2(body) if version == 2 else decode_push_v1(body, known)
            types |= one.types
            for labels, samples in plain(one.series).items():
                found.setdefault(labels, []).extend(samples)
        wanted = plain(stored)
        if types and all(len(found.get(one, [])) >= len(wanted[one]) for one in wanted):
            assert types["g"] is MetricType.GAUGE
            return found
        assert time.monotonic() < deadline, f"{len(receiver.bodies)} bodies, {types}, {found}"
        await asyncio.sleep(0.2)
