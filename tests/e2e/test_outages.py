"""Prometheus away at the start, and away later."""

import asyncio
import time

import numpy as np
import pytest

from sidecar.names import PREDICTED
from tests.exporter import FunctionExporter
from tests.prometheus import Backfill, PrometheusBinary, RealPrometheus
from tests.sidecar import Sidecar

pytestmark = [pytest.mark.integration, pytest.mark.slow]


async def until(sidecar: Sidecar, path: str, wanted: int, timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    while True:
        status, text = await sidecar.get(path)
        if status == wanted:
            return text
        sidecar.check()
        assert time.monotonic() < deadline, f"{path}: {status} {text}\n{sidecar.log[-3000:]}"
        await asyncio.sleep(0.2)


async def until_it_says(sidecar: Sidecar, why: str, timeout_s: float) -> None:
    """Until /-/ready is 503 and gives this reason; before the first try it has another."""
    deadline = time.monotonic() + timeout_s
    while why not in (answer := await sidecar.get("/-/ready"))[1]:
        assert answer[0] == 503
        assert time.monotonic() < deadline, answer
        await asyncio.sleep(0.2)


async def until_withdrawn(sidecar: Sidecar, timeout_s: float) -> None:
    """Until the page no longer shows a prediction: the next turn of the watch sees to it."""
    deadline = time.monotonic() + timeout_s
    while f"\nx{PREDICTED}{{" in (await sidecar.get("/metrics"))[1]:
        assert time.monotonic() < deadline, "it still shows a forecast that has grown old"
        await asyncio.sleep(0.2)


async def test_it_waits_for_prometheus_recovers_by_itself_and_withdraws_what_grew_old(
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
        server = RealPrometheus(
            newest_prometheus,
            history=history,
            # Forecasts count as old when Prometheus itself would call their source stale.
            flags=["--query.lookback-delta=10s"],
            config={"scrape_configs": jobs},
        )
        async with Sidecar(server.url, [{**watch, "training_window": "15m"}]) as sidecar:
            await until(sidecar, "/-/healthy", 200, 20)
            await until_it_says(sidecar, f"{server.url} does not answer", 20)
            async with server:
                await until(sidecar, "/-/ready", 200, 60)
                _, page = await sidecar.get("/metrics")
                assert f"\nx{PREDICTED}{{" in page
                await server.stop()
                await until(sidecar, "/-/ready", 503, 60)
                await until_withdrawn(sidecar, timeout_s=5)
                await server.start()
                await until(sidecar, "/-/ready", 200, 60)
                await server.until(f"timestamp(x{PREDICTED}) > {time.time():.0f}", timeout_s=30)
            status, seconds = await sidecar.terminate()
            assert status == 0
            assert seconds < 5
