"""The remote-read server: its protocol, and a real Prometheus that reads the future through it."""

import io
import json
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import bcrypt
import numpy as np
import pytest
import yaml

from sidecar.cli import main
from sidecar.publish.paths import ForecastPaths, OutputPaths
from sidecar.series import Matcher, MatchOp, RawSeries, Selector
from sidecar.serve import remote_read as server_module
from sidecar.serve.remote_read import MAX_BODY_BYTES, remote_read_config
from sidecar.wire import snappy
from sidecar.wire.chunks import ChunkDecoder
from sidecar.wire.frames import FrameSplitter
from sidecar.wire.remote_pb2 import ReadRequest
from sidecar.wire.requests import ReadQuery, encode_read_request
from sidecar.wire.samples import decode_samples
from tests.integration.query_world import LOAD, NOW_MS, forecasts, labels, sidecar, world
from tests.prometheus import PrometheusBinary, RealPrometheus

pytestmark = pytest.mark.integration

EXPECTED = LOAD + "_sentinel_expected"
FAR = 9_223_309_901_257_974


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with sidecar("http://127.0.0.1:1", forecasts()) as it:
        yield it


async def post(url: str, body: bytes) -> tuple[int, str, bytes]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/api/v1/read", data=io.BytesIO(body)) as answer,
    ):
        return answer.status, answer.headers.get("Content-Type", ""), await answer.read()


async def read(url: str, *queries: ReadQuery) -> list[list[RawSeries]]:
    body = snappy.compress(encode_read_request(queries, accept_chunks=False))
    status, kind, answer = await post(url, body)
    assert (status, kind) == (200, "application/x-protobuf")
    return decode_samples(bytes(snappy.decompress(answer, 1 << 24)), len(queries))


async def streamed(url: str, query: ReadQuery) -> list[RawSeries]:
    request = ReadRequest.FromString(encode_read_request([query]))
    del request.accepted_response_types[1:]
    status, kind, answer = await post(url, snappy.compress(request.SerializeToString()))
    assert status == 200
    assert kind == "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse"
    splitter, decoder = FrameSplitter(verify_crc=True), ChunkDecoder([query])
    for frame in splitter.feed(answer):
        decoder.feed(frame)
    splitter.finish()
    return decoder.finish().series[0]


def same(a: Sequence[RawSeries], b: Sequence[RawSeries]) -> bool:
    return len(a) == len(b) and all(
        x.labels == y.labels
        and np.array_equal(x.timestamps_ms, y.timestamps_ms)
        and np.array_equal(x.values, y.values)
        for x, y in zip(a, b, strict=True)
    )


async def test_what_is_not_acknowledged_is_served_and_nothing_else(url: str) -> None:
    [found] = await read(url, ReadQuery(Selector.of(EXPECTED), -FAR, FAR))
    assert [one.labels.get("instance") for one in found] == ["a", "b", "c", "new"]
    assert all(int(one.timestamps_ms[0]) == NOW_MS + 60_000 for one in found)
    assert [len(one.values) for one in found] == [60, 50, 30, 60]


async def test_what_was_acknowledged_since_is_not_served_any_more() -> None:
    paths = forecasts()
    paths.acknowledge("load", NOW_MS + 120_000)
    async with sidecar("http://127.0.0.1:1", paths) as url:
        [found] = await read(url, ReadQuery(Selector.of(EXPECTED), -FAR, FAR))
    assert all(int(one.timestamps_ms[0]) == NOW_MS + 180_000 for one in found)


async def test_each_query_of_a_request_is_answered_in_its_place(url: str) -> None:
    end_ms = NOW_MS + 120_000
    lower = Selector.of(EXPECTED + "_lower", Matcher("instance", MatchOp.REGEX, "a|b"))
    answers = await read(
        url,
        ReadQuery(Selector.of("up"), 0, FAR),
        ReadQuery(lower, NOW_MS, end_ms),
        ReadQuery(Selector(()), 0, FAR),
        ReadQuery(Selector.of(EXPECTED), 5, 4),
    )
    assert [len(one) for one in answers] == [0, 2, 0, 0]
    assert answers[1][0].timestamps_ms.tolist() == [NOW_MS + 60_000, end_ms]


async def test_chunks_hold_what_samples_hold(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    query = ReadQuery(Selector.of(EXPECTED), NOW_MS, FAR)
    [samples] = await read(url, query)
    assert same(await streamed(url, query), samples)
    monkeypatch.setattr(server_module, "STREAM_FROM_SAMPLES", 1)
    both = snappy.compress(encode_read_request([query], accept_chunks=True))
    _, kind, _ = await post(url, both)
    assert kind.startswith("application/x-streamed-protobuf")
    monkeypatch.setattr(server_module, "STREAM_FROM_SAMPLES", 10**9)
    _, kind, _ = await post(url, both)
    assert kind == "application/x-protobuf"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", ""),
        (b"garbage", "snappy"),
        (snappy.compress(b"\xff\xff\xff"), ""),
        (b"x" * (MAX_BODY_BYTES + 1), "at most"),
        (
            snappy.compress(
                encode_read_request([ReadQuery(Selector.of("x"), 0, 1) for _ in range(101)])
            ),
            "at most 100",
        ),
    ],
)
async def test_what_is_no_request_is_a_400_in_plain_text(url: str, body: bytes, said: str) -> None:
    status, kind, answer = await post(url, body)
    assert (status, kind) == (400, "text/plain; charset=utf-8")
    assert said in answer.decode()


async def test_a_regular_expression_that_is_none_is_a_400(url: str) -> None:
    request = ReadRequest.FromString(
        encode_read_request([ReadQuery(Selector.of("x", Matcher("a", MatchOp.REGEX, "b")), 0, 1)])
    )
    request.queries[0].matchers[1].value = "("
    status, _, answer = await post(url, snappy.compress(request.SerializeToString()))
    assert (status, b"regexp" in answer) == (400, True)


def test_the_block_names_each_metric_once_and_nothing_else() -> None:
    text = remote_read_config("http://localhost:8080/", ["b", "a", "a"], timeout="3s")
    block = yaml.safe_load(text)["remote_read"]
    assert [one["required_matchers"] for one in block] == [{"__name__": "a"}, {"__name__": "b"}]
    assert all(one["url"] == "http://localhost:8080/api/v1/read" for one in block)
    assert all(one["read_recent"] and one["remote_timeout"] == "3s" for one in block)
    assert yaml.safe_load(remote_read_config("http://x", [])) == {"remote_read": []}


def test_the_block_of_a_protected_sidecar_says_who_asks_and_prometheus_takes_it(
    tmp_path: Path,
) -> None:
    text = remote_read_config("https://localhost:8080", ["a", "b"], user="alice")
    for one in yaml.safe_load(text)["remote_read"]:
        assert one["url"] == "https://localhost:8080/api/v1/read"
        assert one["basic_auth"] == {"username": "alice", "password_file": "sentinel.password"}
    assert text.startswith(
        "# write the password of 'alice' into sentinel.password\n# add tls_config"
    )
    assert "&" not in text, "no references"
    (tmp_path / "prometheus.yml").write_text(text)
    (tmp_path / "sentinel.password").write_text("secret")
    command = ["promtool", "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_command_prints_the_block_for_the_running_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    users = {"alice": bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()}
    (tmp_path / "web.yml").write_text(yaml.safe_dump({"basic_auth_users": users}))
    config = {
        "prometheus_url": "http://localhost:9090",
        "emitter_port": 8123,
        "web_config_file": str(tmp_path / "web.yml"),
        "watches": [{"metric": "up"}, {"metric": "demo_load"}],
    }
    (tmp_path / "sentinel.yml").write_text(yaml.safe_dump(config))
    command = ["remote-read-config", "-c", str(tmp_path / "sentinel.yml")]
    assert main(command) == 0
    block = yaml.safe_load(capsys.readouterr().out)["remote_read"]
    assert len(block) == 6
    assert {one["url"] for one in block} == {"http://127.0.0.1:8123/api/v1/read"}
    assert {one["basic_auth"]["username"] for one in block} == {"alice"}
    (tmp_path / "web.yml").write_text("nonsense: 1")
    assert main(command) == 2
    assert "nonsense: is not known" in capsys.readouterr().err


async def test_series_of_the_future_are_found_through_prometheus(
    prometheus_binary: PrometheusBinary,
) -> None:
    async with world(prometheus_binary, oracle=True) as running:
        assert running.oracle is not None
        async with running.session.get(
            f"{running.oracle.url}/api/v1/series", params={"match[]": EXPECTED}
        ) as answer:
            found = (await answer.json())["data"]
    assert {"a", "b", "c", "gone", "new"} == {one["instance"] for one in found}


async def test_an_alert_on_the_future_fires_and_one_on_the_past_does_not(
    prometheus_binary: PrometheusBinary,
) -> None:
    """Way C: the rule looks half an hour ahead, where the forecast is above the threshold."""
    now_ms = int(time.time() * 1000) // 60_000 * 60_000
    instants = now_ms + 60_000 * np.arange(1, 61, dtype=np.int64)
    disk = labels("demo_disk_sentinel_expected", instance="a")
    paths = ForecastPaths()
    paths.replace("w", [OutputPaths((disk,), instants, np.linspace(50, 99, 60)[None, :])])
    paths.acknowledge("w", now_ms)
    rules = {
        "groups": [
            {
                "name": "future",
                "interval": "1s",
                "rules": [
                    {
                        "alert": "DiskWillBeFull",
                        "expr": "max_over_time(demo_disk_sentinel_expected[1h] offset -1h) > 90",
                    },
                    {"alert": "DiskIsFull", "expr": "demo_disk_sentinel_expected > 90"},
                    {
                        "record": "demo_disk:max_ahead",
                        "expr": "max_over_time(demo_disk_sentinel_expected[1h] offset -1h)",
                    },
                ],
            }
        ]
    }
    async with sidecar("http://127.0.0.1:1", paths) as url:
        block = yaml.safe_load(remote_read_config(url, paths.names()))
        prometheus = RealPrometheus(prometheus_binary, config=block)
        rule_file = prometheus.folder / "rules.json"
        rule_file.write_text(json.dumps(rules))
        prometheus.config["rule_files"] = [str(rule_file)]
        async with prometheus:
            firing = await prometheus.until('ALERTS{alertstate="firing"}')
            recorded = await prometheus.until("demo_disk:max_ahead")
    assert {one.get("alertname") for one in firing} == {"DiskWillBeFull"}
    assert recorded == {labels("demo_disk:max_ahead", instance="a"): 99.0}
