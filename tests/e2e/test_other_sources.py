"""Expressions, and a server without remote read."""

import time

import numpy as np
import pytest

from tests.exporter import FunctionExporter
from tests.prometheus import Backfill, PrometheusBinary, RealPrometheus, RealVictoriaMetrics
from tests.sidecar import Sidecar

pytestmark = [pytest.mark.integration, pytest.mark.long]

FAST = {"granularity": "1s", "horizon": "5s", "lookback": "30s", "training_window": "10m"}


async def test_an_expression_is_forecast_under_its_name_with_the_labels_of_its_result(
    newest_prometheus: PrometheusBinary,
) -> None:
    with FunctionExporter(grid_s=1.0, stamp=True) as exporter:
        history = Backfill()
        now_s = int(time.time())
        times = np.arange(now_s - 900, now_s, dtype=np.int64)
        for route in ("a", "b"):
            exporter.counter("hits_total", lambda t: 7 * (t - now_s + 1e5), route=route)
            labels = {"__name__": "hits_total", "route": route, "job": "test"}
            history.add(
                {**labels, "instance": exporter.address}, times * 1000, 7.0 * (times - now_s + 1e5)
            )
        async with RealPrometheus(
            newest_prometheus, targets=[exporter.address], history=history
        ) as prometheus:
            watch = {
                "expr": "sum by (job) (rate(hits_total[30s]))",
                "name": "job:hits:rate",
                **FAST,
            }
            async with Sidecar(prometheus.url, [watch]) as sidecar:
                await sidecar.until_ready()
                expected = 'job:hits:rate_sentinel_expected{job="test"}'
                # Where the first scrape comes late the rate itself dips for half a minute.
                await prometheus.until(f"abs({expected} - 14) < 0.5", timeout_s=90)
                gone = "prometheus_target_scrapes_sample_out_of_bounds_total > 0"
                assert await prometheus.query(gone) == {}


@pytest.mark.usefixtures("has_victoria_metrics")
async def test_a_server_without_remote_read_is_read_by_its_query_api() -> None:
    async with RealVictoriaMetrics() as server:
        now_s = int(time.time())
        times = np.arange(now_s - 600, now_s + 1, dtype=np.int64)
        lines = "".join(f'x{{job="test"}} {100 + 0.5 * (t - now_s)} {t * 1000}\n' for t in times)
        await server.session.post(f"{server.url}/api/v1/import/prometheus", data=lines)
        await server.flush()
        watch = {"metric": "x", "model": "linear", **FAST}
        async with Sidecar(server.url, [watch]) as sidecar:
            await sidecar.until_ready()
            metrics = (await sidecar.get("/metrics"))[1]
            assert 'x_sentinel_predicted{job="test"' in metrics
            await server.flush()
            stored = await server.until('x_sentinel_predicted{sentinel_step="1"}', timeout_s=30)
            assert len(stored) == 1
