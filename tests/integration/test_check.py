"""``sentinel check`` against a real Prometheus, and the PromQL it prints run there."""

import io
import re
import time
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from sidecar.check import CheckReport, judge, run_check
from sidecar.check.gather import gather
from sidecar.config import RemoteReadConfig, RemoteWriteConfig, SentinelConfig, WatchConfig
from tests.fakes import FakePrometheus
from tests.prometheus import (
    Backfill,
    FunctionExporter,
    PrometheusBinary,
    RealPrometheus,
    RealVictoriaMetrics,
    free_port,
)

pytestmark = pytest.mark.integration

FINE: dict[str, Any] = {"granularity": "1s", "horizon": "5s", "lookback": "30s"}


def history(*metrics: str, every_ms: int = 15_000, copies: int = 1) -> Backfill:
    """Twenty minutes of each metric, a line with the slope of a counter, up to now."""
    end_ms = int(time.time() * 1000) - 200
    times = end_ms - np.arange(20 * 60_000 // every_ms, -1, -1, dtype=np.int64) * every_ms
    made = Backfill()
    for metric in metrics:
        for copy in range(copies):
            labels = {"__name__": metric, "job": "test", "copy": str(copy), "path": 'a"b\\c'}
            made.add(labels, times, np.arange(times.size) * 2.0)
    return made


async def checked(config: SentinelConfig) -> CheckReport:
    return judge(config, *await gather(config))


async def test_a_good_configuration_is_counted_and_its_expressions_run(
    prometheus_binary: PrometheusBinary,
) -> None:
    with FunctionExporter() as exporter:
        exporter.counter("requests_total", lambda t: 3 * t, code="200", path='a"b\\c')
        exporter.gauge("load", lambda t: t % 60)
        async with RealPrometheus(
            prometheus_binary,
            targets=[exporter.address],
            external_labels={"cluster": "eu", "replica": "0"},
            history=history("slow", every_ms=60_000, copies=3),
        ) as prometheus:
            await prometheus.until("count_over_time(load[1m]) >= 3")
            config = SentinelConfig(
                prometheus.url,
                watches=[
                    WatchConfig("requests_total", {"path": 'a"b\\c'}, **FINE),
                    WatchConfig("load", **FINE),
                    WatchConfig("slow", granularity="15s", horizon="1m"),
                    WatchConfig("load", matchers=['cluster=~"e."']),
                    WatchConfig("laod"),
                ],
            )
            report = await checked(config)
            for watch in report.watches:
                for example in watch.examples:
                    await prometheus.query(example.expression)
            out = io.StringIO()
            status = await run_check(config, Console(file=out))
    facts = report.server.facts
    assert facts is not None
    assert facts.version.startswith(str(prometheus_binary))
    assert dict(facts.external_labels) == {"cluster": "eu", "replica": "0"}
    assert report.findings == ()
    counter, gauge, slow, external, misspelt = report.watches
    assert (counter.matched, counter.as_rate, counter.written) == (1, True, 11)
    assert (gauge.matched, gauge.as_rate, gauge.findings) == (1, False, ())
    assert slow.matched == 3
    assert [f.level for f in slow.findings] == ["error"]
    assert "granularity 15s is below the scrape interval of about 1m" in slow.findings[0].message
    assert "external label" in external.findings[0].message
    assert "did you mean load" in misspelt.findings[0].message
    assert status == 1
    assert "3 series match now" in out.getvalue()


async def test_a_server_without_the_receiver_is_told_the_flag(
    prometheus_binary: PrometheusBinary,
) -> None:
    async with RealPrometheus(
        prometheus_binary, receiver=False, history=history("load")
    ) as prometheus:
        report = await checked(SentinelConfig(prometheus.url, watches=[WatchConfig("load")]))
    [finding] = report.findings
    assert finding.where == f"{prometheus.url}/api/v1/write"
    assert "--web.enable-remote-write-receiver" in finding.message
    assert report.watches[0].matched == 1


async def test_every_endpoint_is_tried(newest_prometheus: PrometheusBinary) -> None:
    dead = f"http://127.0.0.1:{free_port()}/api/v1/push"
    async with (
        RealPrometheus(newest_prometheus, history=history("load")) as prometheus,
        FakePrometheus() as well,
        FakePrometheus(now_s=lambda: time.time() - 7200) as late,
    ):
        ends = [
            RemoteWriteConfig(name="well", url=f"{well.url}/api/v1/write"),
            RemoteWriteConfig(name="late", url=f"{late.url}/api/v1/write"),
            RemoteWriteConfig(name="dead", url=dead),
            RemoteWriteConfig(),
        ]
        watches = [WatchConfig("load")]
        report = await checked(SentinelConfig(prometheus.url, watches=watches, remote_write=ends))
    found = {one.where: one.message for one in report.findings}
    assert set(found) == {f"{late.url}/api/v1/write", dead}
    assert "endpoint 'dead' does not take remote write now" in found[dead]
    assert "s ahead of this machine's" not in found[f"{late.url}/api/v1/write"]
    assert re.search(r"7(199|20\d) s behind", found[f"{late.url}/api/v1/write"])
    assert not well.stored


async def test_a_histograms_bare_name_is_explained(newest_prometheus: PrometheusBinary) -> None:
    made = history("latency_bucket", "latency_count", "latency_sum")
    async with RealPrometheus(newest_prometheus, history=made) as prometheus:
        watches = [WatchConfig("latency"), WatchConfig("latency_count")]
        report = await checked(SentinelConfig(prometheus.url, watches=watches))
    bare, count = report.watches
    assert "write metric: latency_count" in bare.findings[0].message
    assert (count.findings, count.as_rate) == ((), True)


@pytest.mark.usefixtures("has_victoria_metrics")
async def test_a_server_without_remote_read_is_named() -> None:
    async with RealVictoriaMetrics() as server:
        report = await checked(SentinelConfig(server.url, watches=[WatchConfig("x")]))
    [finding] = report.findings
    assert finding.level == "warning"
    assert "does not serve remote read" in finding.message


async def test_a_server_that_is_down_is_named() -> None:
    config = SentinelConfig(
        f"http://127.0.0.1:{free_port()}",
        watches=[WatchConfig("x")],
        remote_read=RemoteReadConfig(timeout="2s"),
    )
    out = io.StringIO()
    assert await run_check(config, Console(file=out)) == 1
    assert "does not answer" in out.getvalue()
