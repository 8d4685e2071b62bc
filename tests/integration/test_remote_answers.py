"""What real servers answer: the tables that the reader, the writer and the fake rest on.

Where a newer Prometheus answers otherwise one of these fails, and the table has a new column.
"""

import time
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from sidecar.errors import Rejected, RemoteError, Unavailable
from sidecar.remote.http import HttpClient, HttpSettings, Reply
from sidecar.remote.transport import Protocol
from sidecar.remote.writer import RemoteWriter, WriteBlock, WriterSettings
from sidecar.series import LabelSet, Matcher, MatchOp, Selector
from sidecar.wire import snappy
from sidecar.wire.remote_pb2 import Query, ReadRequest, WriteRequest
from sidecar.wire.requests import ReadQuery, encode_read_request
from sidecar.wire.template import WriteTemplateV2
from sidecar.wire.types_pb2 import Label, LabelMatcher, Sample, TimeSeries
from tests.fakes import FakePrometheus
from tests.prometheus import PrometheusBinary, RealPrometheus, RealVictoriaMetrics
from tests.writing import series, until_delivered

pytestmark = pytest.mark.integration

V1 = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}
V2 = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request",
    "X-Prometheus-Remote-Write-Version": "2.0.0",
}
READ = {**V1, "X-Prometheus-Remote-Read-Version": "0.1.0"}
MINUTE_MS = 60_000
X = (("__name__", "x"), ("i", "0"))
Y = (("__name__", "y"), ("i", "0"))


def now_ms() -> int:
    return int(time.time() * 1000)


def written(*samples: tuple[Sequence[tuple[str, str]], int, float]) -> bytes:
    """A 1.0 request as given, rules or no rules."""
    request = WriteRequest(
        timeseries=[
            TimeSeries(
                labels=[Label(name=name, value=value) for name, value in labels],
                samples=[Sample(timestamp=at, value=value)],
            )
            for labels, at, value in samples
        ]
    )
    return snappy.compress(request.SerializeToString())


async def write(client: HttpClient, body: bytes) -> tuple[int, str]:
    """Status and text of an answer."""
    try:
        reply = await client.request("POST", "/api/v1/write", body=body, headers=V1)
    except RemoteError as error:
        return error.status or 0, str(error)
    return reply.status, ""


@pytest.fixture
async def server(prometheus_binary: PrometheusBinary) -> AsyncIterator[RealPrometheus]:
    async with RealPrometheus(prometheus_binary) as running:
        yield running


@pytest.fixture
async def client(server: RealPrometheus) -> AsyncIterator[HttpClient]:
    made = HttpClient(HttpSettings(server.url))
    yield made
    await made.close()


async def check_the_rules(client: HttpClient, takes_future: bool) -> None:
    """The rows that are the same for the real ones and the fake."""
    now = now_ms()
    assert await write(client, snappy.compress(b"")) == (204, "")
    assert client.server_clock.known, "an empty request tells the server's time"
    assert await write(client, written((X, now - 1000, 1.0))) == (204, "")
    assert await write(client, written((X, now - 1000, 1.0))) == (204, ""), "exact duplicate"
    status, text = await write(client, written((X, now - 1000, 2.0)))
    assert (status, "duplicate sample" in text) == (400, True)
    status, text = await write(client, written((X, now - 2000, 1.0)))
    assert (status, "out of order" in text) == (400, True)
    status, text = await write(client, written((Y, now - 61 * MINUTE_MS, 1.0)))
    assert (status, "out of bounds" in text) == (400, True)
    assert await write(client, written((Y, now - 58 * MINUTE_MS, 1.0))) == (204, "")
    status, _ = await write(client, written((Y, now, 5.0), (X, now - 5000, 1.0)))
    assert status == 400
    assert await write(client, written((Y, now - 57 * MINUTE_MS, 1.0))) == (204, ""), (
        "of a request with one bad series nothing is stored"
    )
    status, _ = await write(client, written((Y, now + 15 * MINUTE_MS, 1.0)))
    assert status == (204 if takes_future else 400)


async def test_the_receiver_keeps_its_rules(
    client: HttpClient, prometheus_binary: PrometheusBinary
) -> None:
    await check_the_rules(client, prometheus_binary.version < (2, 54))


@pytest.mark.parametrize("takes_future", [True, False])
async def test_the_fake_keeps_the_rules_of_the_real_ones(takes_future: bool) -> None:
    async with FakePrometheus(takes_future=takes_future) as fake:
        client = HttpClient(HttpSettings(fake.url))
        await check_the_rules(client, takes_future)
        await client.close()


async def test_bad_labels_are_answered_as_the_table_says(
    server: RealPrometheus, client: HttpClient, prometheus_binary: PrometheusBinary
) -> None:
    now, v3 = now_ms(), prometheus_binary.version >= (3,)
    bad_name = (("__name__", "bad-name"), ("i", "0"))
    twice = (("__name__", "z"), ("a", "1"), ("a", "2"))
    assert await write(client, written((bad_name, now, 1.0))) == (204, "")
    assert [(await write(client, written((labels, now, 1.0))))[0] for labels in (twice, ())] == (
        [204, 204] if v3 else [500, 500]
    )
    found = await server.query('count({__name__=~"bad.name|z"})')
    stored = 0 if not found else next(iter(found.values()))
    # 2.42 stores it as it is, 2.53 drops it and says nothing, 3 takes any UTF-8.
    assert stored == (0 if (2, 53) <= prometheus_binary.version < (3,) else 1)


async def test_too_old_beside_an_out_of_order_window_is_a_500_in_the_oldest(
    prometheus_binary: PrometheusBinary,
) -> None:
    window = {"storage": {"tsdb": {"out_of_order_time_window": "10m"}}}
    async with RealPrometheus(prometheus_binary, config=window) as server:
        client = HttpClient(HttpSettings(server.url))
        now = now_ms()
        assert await write(client, written((X, now, 1.0))) == (204, "")
        assert await write(client, written((X, now - 5 * MINUTE_MS, 1.0))) == (204, "")
        status, text = await write(client, written((X, now - 120 * MINUTE_MS, 1.0)))
        await client.close()
    assert status == (500 if prometheus_binary.version < (2, 50) else 400), text


async def test_without_the_flag_the_receiver_says_404_and_what_to_do(
    prometheus_binary: PrometheusBinary,
) -> None:
    async with RealPrometheus(prometheus_binary, receiver=False) as server:
        client = HttpClient(HttpSettings(server.url))
        status, text = await write(client, snappy.compress(b""))
        await client.close()
    assert status == 404
    assert "remote write receiver needs to be enabled" in text


async def v2_reply(client: HttpClient, now: int) -> Reply | RemoteError:
    body = WriteTemplateV2([LabelSet(X)]).encode(now, np.array([1.0]))
    try:
        return await client.request("POST", "/api/v1/write", body=snappy.compress(body), headers=V2)
    except RemoteError as error:
        return error


async def test_a_2_0_message_is_stored_and_said_so_or_not_understood(
    server: RealPrometheus, client: HttpClient, prometheus_binary: PrometheusBinary
) -> None:
    reply = await v2_reply(client, now_ms())
    stored = await server.query("x")
    if prometheus_binary.version >= (3,):
        assert isinstance(reply, Reply)
        assert reply.headers["x-prometheus-remote-write-samples-written"] == "1"
        assert len(stored) == 1
    else:
        assert not stored
        assert isinstance(reply, Reply)
        assert reply.status == 204
        assert "x-prometheus-remote-write-samples-written" not in reply.headers


@pytest.mark.parametrize("protocol", ["1.0", "auto", "2.0"])
async def test_the_writer_delivers_in_every_protocol_setting(
    server: RealPrometheus,
    client: HttpClient,
    prometheus_binary: PrometheusBinary,
    protocol: Protocol,
) -> None:
    labels = series(3000)
    writer = RemoteWriter(client, None, WriterSettings(protocol=protocol))
    await writer.start()
    at = now_ms()
    await writer.append([WriteBlock(labels, at, np.arange(3000.0) / 2)])
    await until_delivered(writer)
    await writer.end_series(labels[:10], at + 1)
    await until_delivered(writer)
    stats = writer.stats()
    await writer.stop()
    assert stats.sent == 3010
    assert stats.dropped == {}
    expected = "2.0" if protocol != "1.0" and prometheus_binary.version >= (3,) else "1.0"
    assert stats.protocol == expected
    found = await server.samples("x_sentinel_expected", at, at)
    assert [one.values.tolist() for one in sorted(found, key=lambda s: int(s.labels.get("i")))] == [
        [i * 0.5] for i in range(3000)
    ]
    assert len(await server.query("x_sentinel_expected")) == 2990


@pytest.mark.usefixtures("has_victoria_metrics")
@pytest.mark.parametrize("protocol", ["1.0", "auto"])
async def test_the_writer_delivers_to_victoria_metrics(protocol: Protocol) -> None:
    labels = series(100)
    async with RealVictoriaMetrics() as server:
        client = HttpClient(HttpSettings(server.url))
        writer = RemoteWriter(client, None, WriterSettings(protocol=protocol))
        await writer.start()
        at = now_ms()
        await writer.append([WriteBlock(labels, at, np.arange(100.0))])
        await until_delivered(writer)
        stats = writer.stats()
        await writer.stop()
        await client.close()
        await server.flush()
        found = await server.samples("x_sentinel_expected", at, at)
    assert (stats.protocol, stats.sent) == ("1.0", 100)
    assert len(found) == 100


# Remote read


async def read(client: HttpClient, body: bytes, method: str = "POST") -> Reply:
    return await client.request(method, "/api/v1/read", body=snappy.compress(body), headers=READ)


def query_of(matcher: Matcher | None) -> ReadQuery:
    selector = Selector((matcher,) if matcher else ())
    return ReadQuery(selector, now_ms() - 10 * MINUTE_MS, now_ms())


async def test_the_kind_of_reply_follows_what_was_asked(client: HttpClient) -> None:
    await write(client, written((X, now_ms(), 1.0)))
    query = query_of(Matcher("__name__", MatchOp.EQUAL, "x"))
    streamed = await read(client, encode_read_request([query]))
    assert streamed.headers["content-type"].startswith("application/x-streamed-protobuf")
    assert "content-encoding" not in streamed.headers
    sampled = await read(client, encode_read_request([query], accept_chunks=False))
    assert sampled.headers["content-type"] == "application/x-protobuf"
    assert sampled.headers["content-encoding"] == "snappy"


async def test_odd_read_requests_are_answered_as_the_table_says(client: HttpClient) -> None:
    nothing = await read(client, encode_read_request([query_of(None)], accept_chunks=False))
    assert len(snappy.decompress(nothing.body, 1000)) <= 2
    with pytest.raises(Rejected) as caught:
        await read(client, b"\xff\xff\xff garbage")
    assert caught.value.status == 400
    with pytest.raises(Rejected) as caught:
        await read(client, b"", method="GET")
    assert caught.value.status == 405
    bad = ReadRequest(
        queries=[
            Query(
                start_timestamp_ms=0,
                end_timestamp_ms=now_ms(),
                matchers=[LabelMatcher(type=LabelMatcher.RE, name="__name__", value="a(?=b)")],
            )
        ]
    )
    with pytest.raises(Rejected) as caught:
        await read(client, bad.SerializeToString())
    assert caught.value.status in (400, 500), "a bad regex never becomes a good one"


async def test_above_the_sample_limit_a_400_lies_about_its_encoding(
    prometheus_binary: PrometheusBinary,
) -> None:
    flags = ["--storage.remote.read-sample-limit=5"]
    async with RealPrometheus(prometheus_binary, flags=flags) as server:
        client = HttpClient(HttpSettings(server.url))
        now = now_ms()
        for step in range(10, 0, -1):
            await write(client, written((X, now - step * 1000, 1.0)))
        query = query_of(Matcher("__name__", MatchOp.EQUAL, "x"))
        with pytest.raises(Rejected, match="exceeded sample limit") as caught:
            await read(client, encode_read_request([query], accept_chunks=False))
        await client.close()
    assert caught.value.status == 400


async def test_during_the_start_everything_is_unavailable_and_then_it_is_not(
    newest_prometheus: PrometheusBinary,
) -> None:
    async with RealPrometheus(newest_prometheus) as server:
        client = HttpClient(HttpSettings(server.url))
        await server.kill()
        with pytest.raises(Unavailable):
            await write_or_raise(client)
        await server.start()
        await write_or_raise(client)
        await client.close()


async def write_or_raise(client: HttpClient) -> None:
    await client.request("POST", "/api/v1/write", body=snappy.compress(b""), headers=V1)
