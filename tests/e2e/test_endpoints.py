"""From one endpoint to several, by a restart, with one of them dead."""

import time

import numpy as np
import pytest

from sidecar.names import EXPECTED
from tests.exporter import FunctionExporter
from tests.prometheus import Backfill, PrometheusBinary, RealPrometheus, free_port
from tests.sidecar import Sidecar

pytestmark = [pytest.mark.integration, pytest.mark.slow]


async def test_a_named_and_a_dead_endpoint_after_a_single_one_and_kill_9(
    newest_prometheus: PrometheusBinary,
) -> None:
    now_ms = int(time.time()) * 1000
    times = now_ms - np.arange(900, 0, -1, dtype=np.int64) * 1000
    history = Backfill().add({"__name__": "x", "job": "test", "instance": "here"}, times, 42.0)
    watch = {"metric": "x", "granularity": "1s", "horizon": "5s", "lookback": "30s"}
    with FunctionExporter() as exporter:
        exporter.gauge("x", lambda t: 42.0)
        target = {"targets": [exporter.address], "labels": {"instance": "here"}}
        jobs = [{"job_name": "test", "scrape_interval": "1s", "static_configs": [target]}]
        async with (
            RealPrometheus(
                newest_prometheus, history=history, config={"scrape_configs": jobs}
            ) as server,
            Sidecar(
                server.url, [{**watch, "training_window": "15m"}], remote_write={"protocol": "1.0"}
            ) as sidecar,
        ):
            await server.until(f"x{EXPECTED} == 42", timeout_s=60)
            await sidecar.kill()
            killed_s = time.time()
            sidecar.config["remote_write"] = [
                {"name": "dead", "url": f"http://127.0.0.1:{free_port()}/api/v1/write"},
                {"name": "main"},
            ]
            sidecar.start()
            await server.until(f"timestamp(x{EXPECTED}) > {killed_s + 5:.0f}", timeout_s=60)
            metrics = await sidecar.self_metrics()
            prefix = "sentinel_remote_write_"
            assert metrics.total(f"{prefix}samples_sent_total", endpoint="main") > 0
            assert metrics.total(f"{prefix}samples_sent_total", endpoint="dead") == 0
            assert metrics.total(f"{prefix}samples_pending", endpoint="dead") > 0
            assert metrics.total(f"{prefix}samples_dropped_total") == 0
            assert metrics.total(f"{prefix}requests_total", code="4xx", endpoint="main") == 0
            assert "main.sqlite" in sidecar.log, "the spool of the single endpoint goes on"
            # No hole over the restart, nothing of it refused.
            stamps = f"timestamp(x{EXPECTED})[5m:1s]"
            instants = f"max_over_time({stamps}) - min_over_time({stamps}) + 1"
            found = await server.query(f"{instants} - count_over_time(x{EXPECTED}[5m])")
            assert list(found.values()) == [0.0]
            # What the first endpoint has not got yet is answered by the sidecar, whatever else.
            status, text = await sidecar.get(f"/api/v1/query?query=x{EXPECTED}+offset+-2s")
            assert status == 200
            assert '"result":[{' in text
            status, seconds = await sidecar.terminate()
            assert (status, seconds < 5) == (0, True)
