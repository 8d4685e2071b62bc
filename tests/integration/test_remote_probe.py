"""What is found out about a server before anything relies on it."""

import json
import time

import pytest

from sidecar.errors import Unavailable
from sidecar.remote.http import HttpClient, HttpSettings
from sidecar.remote.probe import ServerFacts, list_series, metric_types, probe
from sidecar.series import LabelSet, Matcher, MatchOp, Selector
from tests.fakes import READ, WRITE, Answer, FakePrometheus, FastTime, Hang
from tests.prometheus import (
    FunctionExporter,
    PrometheusBinary,
    RealPrometheus,
    RealVictoriaMetrics,
    free_port,
)

pytestmark = pytest.mark.integration


async def facts_of(url: str, time: FastTime | None = None) -> ServerFacts:
    client = HttpClient(HttpSettings(url))
    try:
        return await probe(client, now_s=(time or FastTime()).now_s)
    finally:
        await client.close()


async def test_a_real_prometheus_tells_all(prometheus_binary: PrometheusBinary) -> None:
    config = {"storage": {"tsdb": {"out_of_order_time_window": "30m"}}}
    async with RealPrometheus(
        prometheus_binary,
        scrape_interval="3s",
        external_labels={"region": "eu", "replica": "a"},
        flags=["--query.lookback-delta=2m"],
        config=config,
        targets=["127.0.0.1:9"],
    ) as server:
        facts = await facts_of(server.url)
    assert facts.version.startswith(str(prometheus_binary))
    assert facts.product == "prometheus"
    assert (facts.remote_read, facts.receiver) == (True, True)
    assert facts.external_labels == {"region": "eu", "replica": "a"}
    assert facts.clock_offset_s == 0.0
    assert facts.lookback_ms == 120_000
    assert facts.ooo_window_ms == 1_800_000
    assert facts.scrape_interval_ms == 3_000
    assert facts.scrape_intervals_ms == {"test": 3_000}
    assert facts.problems == ()


async def test_a_receiver_that_is_off_is_named_with_what_to_do(
    newest_prometheus: PrometheusBinary,
) -> None:
    async with RealPrometheus(newest_prometheus, receiver=False) as server:
        facts = await facts_of(server.url)
    assert (facts.remote_read, facts.receiver) == (True, False)
    [problem] = facts.problems
    assert "--web.enable-remote-write-receiver" in problem


@pytest.mark.usefixtures("has_victoria_metrics")
async def test_victoria_metrics_has_no_remote_read() -> None:
    async with RealVictoriaMetrics() as server:
        facts = await facts_of(server.url)
    assert (facts.product, facts.remote_read, facts.receiver) == ("victoriametrics", False, True)
    assert any("query API is used" in problem for problem in facts.problems)


async def test_nobody_there_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await facts_of(f"http://127.0.0.1:{free_port()}")


async def test_what_a_managed_service_does_not_answer_stays_unknown() -> None:
    async with FakePrometheus() as fake:
        for path in ("buildinfo", "config", "flags"):
            fake.give_always(f"/api/v1/status/{path}", Answer(404, b"no such page"))
        facts = await facts_of(fake.url)
    assert facts == ServerFacts(remote_read=True, receiver=True, clock_offset_s=0.0)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data": 3}', b'{"data": {"yaml": 7}}', b"\xff"])
async def test_odd_answers_are_unknown_facts_and_not_failures(body: bytes) -> None:
    async with FakePrometheus() as fake:
        for path in ("buildinfo", "config", "flags"):
            fake.give_always(f"/api/v1/status/{path}", Answer(200, body))
        facts = await facts_of(fake.url)
    assert facts.external_labels == {}
    assert facts.lookback_ms is None


@pytest.mark.parametrize(
    "yaml",
    [
        "",
        "- a",
        "global: 3",
        "global: {scrape_interval: soon}",
        "a: &a [*a]",
        "\t",
        "x: [",
        "a: !!timestamp x",
        "a: !!int ''",
    ],
)
async def test_a_configuration_of_any_shape_is_survived(yaml: str) -> None:
    body = json.dumps({"data": {"yaml": yaml}}).encode()
    async with FakePrometheus() as fake:
        fake.give_always("/api/v1/status/config", Answer(200, body))
        facts = await facts_of(fake.url)
    assert facts.scrape_interval_ms is None


@pytest.mark.parametrize("value", ["2023-13-45", "010", "12:30", "1_000", "yes", "null"])
async def test_a_label_of_the_server_is_the_text_that_it_wrote(value: str) -> None:
    """The first is no date, which YAML takes it for."""
    yaml = f"global: {{external_labels: {{build: {value}}}}}"
    async with FakePrometheus() as fake:
        body = json.dumps({"data": {"yaml": yaml}}).encode()
        fake.give_always("/api/v1/status/config", Answer(200, body))
        facts = await facts_of(fake.url)
    assert facts.external_labels == {"build": value}


async def test_clocks_apart_and_reads_that_go_elsewhere_are_named() -> None:
    time = FastTime()
    time.ahead_s = 7200.0
    async with FakePrometheus(now_s=time.true_s) as fake:
        fake.give_always(READ, Answer(200, b"<html>", {"Content-Type": "text/html"}))
        fake.give_always(WRITE, Answer(503, b"starting"))
        facts = await facts_of(fake.url, time)
    assert (facts.remote_read, facts.receiver) == (False, None)
    assert facts.clock_offset_s is not None
    assert abs(facts.clock_offset_s - 7200) < 2
    assert any("ahead of the server's" in problem for problem in facts.problems)
    assert any("not remote read" in problem for problem in facts.problems)
    assert any("no answer" in problem for problem in facts.problems)


async def test_one_endpoint_that_hangs_leaves_its_fact_unknown() -> None:
    async with FakePrometheus() as fake:
        fake.give_always(READ, Hang())
        client = HttpClient(HttpSettings(fake.url))
        facts = await probe(client, timeout_s=0.3)
        await client.close()
    assert (facts.remote_read, facts.receiver) == (None, True)


async def test_series_and_types_are_listed_without_reading_samples(
    prometheus_binary: PrometheusBinary,
) -> None:
    with FunctionExporter() as exporter:
        exporter.gauge("g", lambda t: t, a='quote " backslash \\ newline \n é')
        exporter.counter("c_total", lambda t: t)
        exporter.gauge("g_sentinel_expected", lambda t: t)
        async with RealPrometheus(prometheus_binary, targets=[exporter.address]) as server:
            await server.until("g")
            client = HttpClient(HttpSettings(server.url))
            end_ms = int(time.time() * 1000)
            everything = Selector((Matcher("__name__", MatchOp.REGEX, "g.*|c_total"),))
            found = await list_series(client, everything, end_ms - 60_000, end_ms)
            assert [one.metric for one in found] == ["c_total", "g"]
            assert found[1].get("a") == 'quote " backslash \\ newline \n é'
            types = await metric_types(client, ["g", "c_total", "not_there"])
            many = await metric_types(client)
            few = await metric_types(client, ["g"] + [f"none_{i}" for i in range(9)])
            await client.close()
    assert found[0] == LabelSet.of(dict(found[0].pairs))
    assert types["g"] == "gauge"
    # The family of a counter has no suffix in one exposition format and has it in the other.
    assert "counter" in (types.get("c_total"), many.get("c"))
    assert few == {"g": "gauge"}
