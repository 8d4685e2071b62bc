"""The assertions of the public sender compliance suites that apply to us, both protocol versions.

Written after what ``prometheus/compliance`` (remotewrite/sender) and the 2.0 sender tests ask of a
sender, against a receiver that looks at every byte.
"""

import asyncio
import logging
import random
from pathlib import Path

import numpy as np
import pytest
import snappy  # type: ignore[import-untyped]

from sidecar.names import DropReason
from sidecar.remote.http import HttpClient, HttpSettings
from sidecar.remote.settings import RESERVED_HEADERS
from sidecar.remote.writer import RemoteWriter, WriteBlock, WriterState
from sidecar.series import LabelSet, is_stale
from sidecar.wire.remote_pb2 import WriteRequest
from sidecar.wire.write_v2_pb2 import Request as WriteRequestV2
from tests.fakes import WRITE, Answer, FakePrometheus, FastTime, Hang, ResetBefore
from tests.prometheus import free_port
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

VERSIONS = ["1.0", "2.0"]
both_versions = pytest.mark.parametrize("version", VERSIONS)


def receiver(version: str, time: FastTime | None = None) -> FakePrometheus:
    return FakePrometheus(now_s=(time or FastTime()).true_s, v2=version == "2.0")


@both_versions
async def test_each_request_has_exactly_the_headers_of_the_protocol(version: str) -> None:
    async with receiver(version) as fake, writing(fake.url, protocol=version) as writer:
        await writer.append([block(series(3), FastTime().now_ms())])
        await until_delivered(writer)
    for one in fake.seen:
        headers = one.headers
        assert headers["content-encoding"] == "snappy"
        assert headers["user-agent"].startswith("sentinel-sidecar/")
        assert "content-length" in headers
        if version == "1.0":
            assert headers["content-type"] == "application/x-protobuf"
            assert headers["x-prometheus-remote-write-version"] == "0.1.0"
        else:
            proto = "application/x-protobuf;proto=io.prometheus.write.v2.Request"
            assert headers["content-type"] == proto
            assert headers["x-prometheus-remote-write-version"] == "2.0.0"


@both_versions
async def test_the_body_is_a_snappy_block_that_parses_and_holds_sorted_unique_full_labels(
    version: str,
) -> None:
    nasty = LabelSet.of(
        {
            "__name__": "node:cpu:rate_sentinel_expected",
            "quote": 'a"b',
            "slash": "\\",
            "line": "a\nb",
            "path": "../..//",
            "unicode": "ünï–日本語-🙂",
            "long": "v" * 10_000,
            "zeroes": "\0",
        }
    )
    labels = (nasty, *series(100))
    time = FastTime()
    async with receiver(version) as fake:
        async with writing(fake.url, protocol=version, shards=1) as writer:
            await writer.append([block(labels, at := time.now_ms())])
            await until_delivered(writer)
        assert_stored(fake, labels, at)
        assert_well_behaved(fake)
    [request] = fake.writes()
    raw = snappy.decompress(request.raw)
    assert not request.raw.startswith(b"\xff\x06\x00\x00sNaPpY"), "the block format, not frames"
    if version == "1.0":
        for one in WriteRequest.FromString(raw).timeseries:
            pairs = [(label.name, label.value) for label in one.labels]
            assert pairs == sorted(set(pairs))
            assert all(name and value for name, value in pairs)
            assert len(one.samples) == 1
    else:
        parsed = WriteRequestV2.FromString(raw)
        symbols = list(parsed.symbols)
        assert symbols[0] == ""
        assert len(set(symbols)) == len(symbols)
        for two in parsed.timeseries:
            refs = list(two.labels_refs)
            assert len(refs) % 2 == 0
            assert max(refs) < len(symbols)
            names = [symbols[ref] for ref in refs[::2]]
            assert names == sorted(set(names))


@both_versions
async def test_series_stay_in_order_while_the_receiver_answers_after_random_delays(
    version: str,
) -> None:
    time, labels, dice = FastTime(50), series(1000), random.Random(3)
    stamps = []
    async with receiver(version, time) as fake:
        fake.delay_s = lambda: dice.random() * 5 / 50  # up to 5 s
        async with writing(fake.url, time, protocol=version, shards=4) as writer:
            for _ in range(12):
                stamps.append(time.now_ms())
                await writer.append([block(labels, stamps[-1])])
                await time.sleep(1)
            await until_delivered(writer)
        assert_stored(fake, labels, *stamps)
        assert_well_behaved(fake, shards=4)
        assert fake.at_once > 1


@both_versions
@pytest.mark.parametrize("status", [500, 503])
async def test_server_errors_are_retried_with_the_same_bytes_until_they_end(
    version: str, status: int
) -> None:
    time, labels = FastTime(200), series(5)
    async with receiver(version, time) as fake:
        async with writing(fake.url, time, protocol=version, shards=1) as writer:
            await writer.append([block(labels, time.now_ms())])
            await until_delivered(writer)
            fake.give(WRITE, *[Answer(status)] * 4)
            await time.sleep(1)
            await writer.append([block(labels, time.now_ms())])
            await until_delivered(writer)
        attempts = fake.writes()[1:]
    assert [one.status for one in attempts] == [status] * 4 + [204]
    assert len({one.raw for one in attempts}) == 1


@both_versions
@pytest.mark.parametrize("status", [400, 401, 404, 413])
async def test_client_errors_are_never_retried(version: str, status: int) -> None:
    time, labels = FastTime(100), series(1)
    async with receiver(version, time) as fake:
        async with writing(
            fake.url, time, protocol=version, on_client_error="drop", shards=1
        ) as writer:
            await writer.append([block(labels, time.now_ms())])
            await until_delivered(writer)
            fake.give_always(WRITE, Answer(status))
            await time.sleep(1)
            await writer.append([block(labels, time.now_ms())])
            await until_delivered(writer)
            await time.sleep(120)
            assert_balanced(writer.stats())
        assert len(fake.writes()) == 2


@both_versions
async def test_429_is_retried_no_earlier_than_it_asks(version: str) -> None:
    time, labels = FastTime(20), series(1)
    async with receiver(version, time) as fake:
        async with writing(fake.url, time, protocol=version) as writer:
            await writer.append([block(labels, time.now_ms())])
            await until_delivered(writer)
            fake.give(WRITE, Answer(429, headers={"Retry-After": "7"}))
            await time.sleep(1)
            await writer.append([block(labels, time.now_ms())])
            await until_delivered(writer)
        refused, stored = fake.writes()[1:]
    assert (stored.at - refused.at) * time.factor >= 7.0


async def test_the_pauses_grow_exponentially_with_jitter_up_to_a_minute() -> None:
    time, labels = FastTime(2000), series(1)
    async with receiver("1.0", time) as fake:
        async with writing(fake.url, time, draw=lambda: 0.999) as writer:
            await writer.append([block(labels, time.now_ms())])
            await until_delivered(writer)
            fake.give(WRITE, *[Answer(503)] * 9)
            await time.sleep(1)
            await writer.append([block(labels, time.now_ms())])
            await until_delivered(writer)
        moments = [one.at * time.factor for one in fake.writes()[1:]]
    gaps = np.diff(moments)
    # Round trips take real milliseconds: some virtual seconds each.
    floor = np.array([1, 2, 4, 8, 16, 32, 60, 60, 60]) * 0.99
    assert (gaps >= floor).all(), gaps
    assert (gaps[-3:] < 60 + 60).all(), gaps


@both_versions
async def test_12000_series_take_several_requests_of_at_most_2000(version: str) -> None:
    time, labels = FastTime(), series(12_000)
    async with receiver(version, time) as fake:
        async with writing(fake.url, time, protocol=version) as writer:
            await writer.append([block(labels, at := time.now_ms())])
            await until_delivered(writer)
        assert_stored(fake, labels, at)
        sizes = [len(one.series) for one in fake.writes()]
    assert 6 <= len(sizes) <= 8
    assert max(sizes) <= 2_000


@both_versions
async def test_a_source_that_vanishes_ends_with_a_stale_marker_and_nothing_else_is_one(
    version: str,
) -> None:
    time, labels = FastTime(), series(3)
    async with receiver(version, time) as fake:
        async with writing(fake.url, time, protocol=version) as writer:
            await writer.append([WriteBlock(labels, time.now_ms(), np.array([1.0, np.nan, -0.0]))])
            await asyncio.sleep(0.005)
            await writer.end_series(labels, at := time.now_ms())
            await until_delivered(writer)
        found = fake.stored
    assert set(found) == {labels[0], labels[2]}
    for samples in found.values():
        assert is_stale(np.array([samples[at]])).all()
        assert len(samples) == 2
        assert not is_stale(np.array([samples[min(samples)]])).any()
    zero = found[labels[2]][min(found[labels[2]])]
    assert np.signbit(zero)


@both_versions
async def test_no_sample_is_later_than_the_end_of_the_test(version: str) -> None:
    time, labels = FastTime(), series(3)
    async with receiver(version, time) as fake:
        async with writing(fake.url, time, protocol=version) as writer:
            for ahead in (0, 500, 5_000, 10**7):
                await writer.append([block(labels, time.now_ms() + ahead)])
            await until_delivered(writer)
        assert max(at for samples in fake.stored.values() for at in samples) <= time.now_ms()


@both_versions
async def test_refused_connections_hangs_and_odd_answers_are_survived(version: str) -> None:
    time, labels, port = FastTime(100), series(10), free_port()
    stamps = []
    async with writing(f"http://127.0.0.1:{port}", time, protocol=version, timeout_s=0.3) as writer:
        stamps.append(time.now_ms())
        await writer.append([block(labels, stamps[-1])])
        await time.sleep(3)
        async with FakePrometheus(now_s=time.true_s, v2=version == "2.0", port=port) as fake:
            await until_delivered(writer)
            for trouble in (
                Hang(30),
                ResetBefore(),
                Answer(500, b"\xff" * 2**20),
                Answer(502, b""),
            ):
                fake.give(WRITE, trouble)
                await time.sleep(1)
                stamps.append(time.now_ms())
                await writer.append([block(labels, stamps[-1])])
                await until_delivered(writer)
            assert_stored(fake, labels, *stamps)
            assert_well_behaved(fake)


def test_users_cannot_override_a_header_of_the_protocol() -> None:
    for name in ("Content-Encoding", "Content-Type", "X-Prometheus-Remote-Write-Version"):
        assert name.lower() in RESERVED_HEADERS
        with pytest.raises(ValueError, match="reserved"):
            HttpSettings("http://127.0.0.1:1", headers={name: "x"})


# Version 2.0 and those who do not speak it


@pytest.mark.parametrize("protocol", ["auto", "2.0"])
async def test_a_receiver_that_answers_204_to_a_2_0_message_and_stores_nothing_gets_1_0(
    protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As Prometheus 2.42 and VictoriaMetrics do."""
    time, labels = FastTime(), series(20)
    async with FakePrometheus(now_s=time.true_s, v2=False) as fake:
        with caplog.at_level(logging.WARNING, "sidecar"):
            async with writing(fake.url, protocol=protocol) as writer:
                await writer.append([block(labels, at := time.now_ms())])
                await until_delivered(writer)
                assert writer.stats().protocol == "1.0"
                assert writer.stats().sent == 20
        assert_stored(fake, labels, at)
    assert sum("1.0 from now on" in one.getMessage() for one in caplog.records) == 1
    assert sum("v2" in one.headers["content-type"] for one in fake.seen) == 1


async def test_415_means_1_0_from_then_on_and_the_sample_at_hand_is_not_lost() -> None:
    time, labels = FastTime(), series(20)
    async with FakePrometheus(now_s=time.true_s, v2=True) as fake:
        async with writing(fake.url, protocol="2.0", shards=1) as writer:
            await writer.append([block(labels, first := time.now_ms())])
            await until_delivered(writer)
            fake.give(WRITE, Answer(415))
            await asyncio.sleep(0.005)
            await writer.append([block(labels, second := time.now_ms())])
            await until_delivered(writer)
            await asyncio.sleep(0.005)
            await writer.append([block(labels, third := time.now_ms())])
            await until_delivered(writer)
        assert_stored(fake, labels, first, second, third)
        kinds = ["v2" in one.headers["content-type"] for one in fake.writes()]
    assert kinds == [True, True, False, False]


async def test_a_poisoned_series_is_found_in_2_0_as_well(tmp_path: Path) -> None:
    time, labels = FastTime(), series(64)
    async with FakePrometheus(now_s=time.true_s, v2=True) as fake:
        fake.poisoned = lambda one: one == labels[9]
        async with writing(fake.url, protocol="2.0", shards=1, spool=tmp_path / "s") as writer:
            await writer.append([block(labels, at := time.now_ms())])
            await until_delivered(writer)
            assert writer.quarantined() == (labels[9],)
            assert writer.stats().dropped == {DropReason.REJECTED: 1}
        assert_stored(fake, [one for one in labels if one != labels[9]], at)


async def test_a_writer_counts_its_answers_by_class() -> None:
    time, labels = FastTime(100), series(4)
    async with (
        FakePrometheus(now_s=time.true_s) as fake,
        writing(fake.url, time, shards=1) as writer,
    ):
        fake.give(WRITE, Answer(204), Answer(503), ResetBefore())
        await writer.append([block(labels, time.now_ms())])
        await until_delivered(writer)
        stats = writer.stats()
        assert stats.requests == {"2xx": 2, "5xx": 1, "none": 1}
        assert stats.retried == 8
        assert stats.highest_sent_ms == stats.highest_accepted_ms
        await until(lambda: writer.state is WriterState.OK)


async def test_samples_sent_can_be_asked_for_to_read_them_back() -> None:
    time, labels = FastTime(), series(4)
    async with FakePrometheus(now_s=time.true_s) as fake:
        client = HttpClient(HttpSettings(fake.url))
        writer = RemoteWriter(client, None)
        await writer.start()
        await writer.append([block(labels, at := time.now_ms())])
        await until_delivered(writer)
        sent = writer.take_sent()
        assert {fake.stored[one.labels][at] == one.value for one in sent} == {True}
        assert writer.take_sent() == []
        await writer.stop()
        await client.close()
