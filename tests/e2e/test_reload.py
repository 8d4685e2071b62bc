"""SIGHUP and /-/reload: new watches begin, gone ones end, the others go on, a wrong file changes
nothing."""

import asyncio
import os
import signal
import time
from typing import Any

import aiohttp
import numpy as np
import pytest
import yaml

from tests.exporter import FunctionExporter
from tests.prometheus import Backfill, PrometheusBinary, RealPrometheus
from tests.sidecar import Sidecar

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def watch(metric: str, **settings: Any) -> dict[str, Any]:
    fast = {"granularity": "1s", "horizon": "5s", "lookback": "30s", "training_window": "10m"}
    return {"metric": metric, "model": "linear", **fast, **settings}


def rewrite(sidecar: Sidecar, **changes: Any) -> None:
    path = sidecar.folder / "sentinel.yml"
    path.write_text(yaml.safe_dump({**sidecar.config, **changes}))


async def test_a_reload_exchanges_watches_and_a_wrong_file_changes_nothing(
    newest_prometheus: PrometheusBinary,
) -> None:
    now_s = int(time.time())
    with FunctionExporter(grid_s=1.0, stamp=True) as exporter:
        history = Backfill()
        times = np.arange(now_s - 600, now_s, dtype=np.int64)
        for metric in ("stays", "goes", "comes"):
            exporter.gauge(metric, lambda t: 100 + 0.5 * (t - now_s))
            labels = {"__name__": metric, "job": "test", "instance": exporter.address}
            history.add(labels, times * 1000, 100 + 0.5 * (times - now_s))
        async with RealPrometheus(
            newest_prometheus, targets=[exporter.address], history=history
        ) as prometheus:
            watches = [watch("stays"), watch("goes")]
            async with Sidecar(prometheus.url, watches, enable_admin_api=True) as sidecar:
                await sidecar.until_ready()
                await prometheus.until("count({__name__=~'(stays|goes)_sentinel_expected'}) == 2")
                await _wrong_file(sidecar)
                rewrite(sidecar, watches=[watch("stays"), watch("comes")])
                os.kill(sidecar.pid, signal.SIGHUP)
                await prometheus.until("comes_sentinel_expected", timeout_s=30)
                await prometheus.until("absent(goes_sentinel_expected)", timeout_s=10)
                metrics = await sidecar.self_metrics()
                assert metrics.total("sentinel_trainings_total", trigger="first") == 3
                assert metrics.total("sentinel_watches") == 2
                await _over_http(sidecar)
                await _twice_at_once(sidecar)
                versions = {one.get("sentinel_version") for one in await _info(prometheus)}
                assert versions == {"v1"}, "the watch that stays was not fitted again"


async def _wrong_file(sidecar: Sidecar) -> None:
    rewrite(sidecar, watches=[watch("stays", horizon="nonsense")])
    os.kill(sidecar.pid, signal.SIGHUP)
    deadline = time.monotonic() + 10
    while "not reloaded: watches[0].horizon" not in sidecar.log:
        assert time.monotonic() < deadline, sidecar.log
        await asyncio.sleep(0.1)
    assert (await sidecar.self_metrics()).total("sentinel_watches") == 2


async def _over_http(sidecar: Sidecar) -> None:
    """The same order by HTTP: a changed watch goes on from what it knew."""
    rewrite(sidecar, watches=[watch("stays", cron="0 0 * * *"), watch("comes")], emitter_port=1)
    headers = {"X-Sentinel-Admin": "test"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{sidecar.url}/-/reload") as reply,
    ):
        assert reply.status == 200
        message = (await reply.json())["data"]["message"]
    assert "1 changed" in message
    assert "after a restart only: emitter_port" in message


async def _twice_at_once(sidecar: Sidecar) -> None:
    """Neither order leaves a watch that is shown and not run."""
    rewrite(sidecar, watches=[watch("stays", cron="0 1 * * *"), watch("comes")])
    headers = {"X-Sentinel-Admin": "test"}
    async with aiohttp.ClientSession(headers=headers) as session:
        replies = await asyncio.gather(
            *(session.post(f"{sidecar.url}/-/reload", json={}) for _ in range(2))
        )
    assert [reply.status for reply in replies] == [200, 200]
    deadline = time.monotonic() + 20
    while "\nstays_sentinel_predicted{" not in (await sidecar.get("/metrics"))[1]:
        assert time.monotonic() < deadline, sidecar.log
        await asyncio.sleep(0.2)


async def _info(prometheus: RealPrometheus) -> list[Any]:
    return list(await prometheus.query("stays_sentinel_model_info"))
