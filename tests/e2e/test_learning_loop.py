"""The source drifts: a finetune, a full fit, a promotion, all on record; then a rollback that
survives kill -9."""

import asyncio
import json
import math
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import numpy as np
import pytest

from tests.exporter import FunctionExporter
from tests.prometheus import Backfill, PrometheusBinary, RealPrometheus
from tests.sidecar import Sidecar, sentinel_command

pytestmark = [pytest.mark.integration, pytest.mark.long]

NOISE = np.random.default_rng(1).standard_normal(4096)


class Drifting:
    """Noise around 100 that can grow noisier, and then become a tall wave."""

    def __init__(self) -> None:
        self.noisier_s = self.waves_s = math.inf

    def __call__(self, t: float) -> float:
        noise = NOISE[int(t) % NOISE.size] * (2.2 if t >= self.noisier_s else 1.0)
        return float(100 + noise + (40 * math.sin(t / 2.5) if t >= self.waves_s else 0.0))


async def until(
    what: str, sidecar: Sidecar, found: Callable[[], Any], timeout_s: float = 90.0
) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (answer := await found()):
        sidecar.check()
        log = "\n".join(line for line in sidecar.log.splitlines() if "forecast" not in line)
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}\n{log}"
        await asyncio.sleep(0.5)
    return answer


async def listed(sidecar: Sidecar, what: str) -> list[dict[str, Any]]:
    status, text = await sidecar.get(f"/api/v1/models/{what}?metric=x")
    assert status == 200, text
    return list(json.loads(text)["data"])


async def order(sidecar: Sidecar, verb: str, **more: Any) -> tuple[int, Any]:
    headers = {"X-Sentinel-Admin": "test"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{sidecar.url}/api/v1/models/{verb}", json={"metric": "x", **more}) as reply,
    ):
        return reply.status, await reply.json()


async def test_drift_is_learned_recorded_and_can_be_rolled_back(
    newest_prometheus: PrometheusBinary,
) -> None:
    signal = Drifting()
    with FunctionExporter(grid_s=1.0, stamp=True) as exporter:
        exporter.gauge("x", signal)
        now_s = int(time.time())
        times = np.arange(now_s - 900, now_s, dtype=np.int64)
        names = {"__name__": "x", "job": "test", "instance": exporter.address}
        history = Backfill().add(names, times * 1000, [signal(float(t)) for t in times])
        async with RealPrometheus(
            newest_prometheus, targets=[exporter.address], history=history
        ) as prometheus:
            watch = {
                "metric": "x",
                "model": "arima",
                "granularity": "1s",
                "horizon": "5s",
                "lookback": "30s",
                "training_window": "4m",
                "retrain_cooldown": "5s",
                # In the series' own unit: a young version's own error still learns from what comes.
                "drift_finetune_threshold": 1.3,
                "drift_retrain_threshold": 8.0,
            }
            async with Sidecar(prometheus.url, [watch], enable_admin_api=True) as sidecar:
                await sidecar.until_ready()
                await asyncio.sleep(22)  # so that there are residuals to judge
                signal.noisier_s = time.time()
                await _is_finetuned(sidecar)
                signal.waves_s = time.time()
                await _is_fitted_anew(sidecar)
                await _rolls_back(sidecar, prometheus)


async def _is_finetuned(sidecar: Sidecar) -> None:
    async def finetuned() -> float:
        metrics = await sidecar.self_metrics()
        return metrics.total("sentinel_trainings_total", trigger="drift")

    await until("a fit for drift", sidecar, finetuned, 120)
    assert "(drift, finetune)" in sidecar.log


async def _is_fitted_anew(sidecar: Sidecar) -> None:
    async def promoted() -> list[dict[str, Any]]:
        return [
            one
            for one in await listed(sidecar, "versions")
            if (one["status"], one["cause"], one["policy"]) == ("active", "drift", "full_retrain")
        ]

    (active,) = await until("a full fit for drift is promoted", sidecar, promoted, 120)
    assert active["version"] >= 2
    # The sequential test sees a shift before enough was judged for a rolling error.
    assert active["drift"] is None or active["drift"] > 1.5
    metrics = await sidecar.self_metrics()
    assert metrics.total("sentinel_trainings_total", trigger="first") == 1
    assert {"promote"} <= {one["what"] for one in await listed(sidecar, "audit")}


async def _rolls_back(sidecar: Sidecar, prometheus: RealPrometheus) -> None:
    status, answer = await order(sidecar, "rollback", to_version=1)
    assert status == 200, answer
    (done,) = answer["data"]
    assert done["to_version"] == 1
    info = 'x_sentinel_model_info{sentinel_version="v1"} == 1'
    await prometheus.until(info, timeout_s=20)
    await asyncio.sleep(8)  # beyond the cooldown: pinned, it is not fitted again for its drift
    (active,) = [o for o in await listed(sidecar, "versions") if o["status"] == "active"]
    assert active["version"] == 1
    await _is_explained(sidecar)
    before = await sidecar.self_metrics()
    await sidecar.kill()
    sidecar.start()
    await sidecar.until_ready(20)
    after = await sidecar.self_metrics()
    assert after.total("sentinel_trainings_total") == 0, "nothing was fitted again for the start"
    status, text = await sidecar.get("/api/v1/status")
    (facts,) = json.loads(text)["data"].values()
    assert facts["active_version"] == "v1"
    audit = await listed(sidecar, "audit")
    assert {"rollback"} <= {one["what"] for one in audit}
    assert before.total("sentinel_remote_write_samples_dropped_total") == 0


async def _is_explained(sidecar: Sidecar) -> None:
    """The commands of a person who asks the running sidecar."""
    told = await sentinel(sidecar, "explain", "x")
    assert "x{" in told
    assert "v1 active: arima full_retrain for first" in told
    assert "rollback" in told
    assert "v1 active" in await sentinel(sidecar, "versions", "x")
    assert "serving" in await sentinel(sidecar, "status")
    assert "unknown" not in await sentinel(sidecar, "pin", "x")


async def sentinel(sidecar: Sidecar, *arguments: str) -> str:
    command = [*sentinel_command(), *arguments, "-c", str(sidecar.folder / "sentinel.yml")]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, output.decode()
    return output.decode()
