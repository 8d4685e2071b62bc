"""That the servers the other tests lean on do what those tests take for granted."""

import time

import numpy as np
import pytest

from sidecar.series import LabelSet
from tests.prometheus import (
    Backfill,
    FunctionExporter,
    PrometheusBinary,
    RealPrometheus,
    RealVictoriaMetrics,
)

pytestmark = pytest.mark.integration

NASTY = 'quote " backslash \\ newline \n slash / dots .. ünï'


async def test_history_up_to_now_is_read_back_and_scrapes_go_on_after_it(
    prometheus_binary: PrometheusBinary,
) -> None:
    labels = LabelSet.of({"__name__": "x", "job": "test", "nasty": NASTY})
    end_ms = int(time.time() * 1000) - 100
    times = end_ms - np.arange(2000, -1, -1, dtype=np.int64) * 15_000
    values = np.sin(np.arange(2001)) * 1e-9
    values[7] = np.nan
    history = Backfill().add(labels, times, values)
    with FunctionExporter() as exporter:
        exporter.gauge("live", lambda t: t)
        async with RealPrometheus(
            prometheus_binary, targets=[exporter.address], history=history
        ) as prometheus:
            await prometheus.until("count_over_time(live[1m]) >= 2")
            [read] = await prometheus.samples('x{job="test"}', int(times[0]), end_ms)
            out_of_bounds = await prometheus.self_metric(
                "prometheus_target_scrapes_sample_out_of_bounds_total"
            )
    assert read.labels == labels
    np.testing.assert_array_equal(read.timestamps_ms, times)
    np.testing.assert_array_equal(read.values, values)
    assert out_of_bounds == 0


async def test_a_restarted_server_keeps_what_it_scraped(
    newest_prometheus: PrometheusBinary,
) -> None:
    with FunctionExporter(grid_s=1.0) as exporter:
        exporter.gauge("live", lambda t: t)
        exporter.counter("requests_total", lambda t: 3 * t, code="200")
        async with RealPrometheus(newest_prometheus, targets=[exporter.address]) as prometheus:
            before = await prometheus.until("requests_total")
            await prometheus.kill()
            await prometheus.start()
            after = await prometheus.query("last_over_time(requests_total[1m])")
    assert list(after) == list(before)


@pytest.mark.usefixtures("has_victoria_metrics")
async def test_victoria_metrics_answers_queries() -> None:
    async with RealVictoriaMetrics() as server:
        assert await server.query("vector(1)") == {LabelSet(()): 1.0}
