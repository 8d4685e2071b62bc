"""Prometheus pushes its scrapes to the sidecar, whose cycles then need not read."""

import asyncio
import time

import numpy as np
import pytest

from tests.exporter import FunctionExporter
from tests.prometheus import (
    Backfill,
    PrometheusBinary,
    RealPrometheus,
    free_port,
    prometheus_binaries,
)
from tests.sidecar import Sidecar

pytestmark = [pytest.mark.integration, pytest.mark.long]

V2_SINCE = (2, 54)
WATCH = {
    "metric": "x",
    "model": "linear",
    "granularity": "2s",
    "horizon": "10s",
    "lookback": "60s",
    "training_window": "10m",
    "query_offset": "2s",
}


def speakers() -> list[tuple[PrometheusBinary, str | None]]:
    """Every server with 1.0, and those that know it with 2.0."""
    binaries = prometheus_binaries()
    second = [(one, "io.prometheus.write.v2.Request") for one in binaries if one.version > V2_SINCE]
    return [*((one, None) for one in binaries), *second]


@pytest.mark.parametrize(("binary", "message"), speakers(), ids=str)
async def test_cycles_are_fed_by_the_servers_own_remote_write_and_no_longer_read(
    binary: PrometheusBinary, message: str | None
) -> None:
    port = free_port()
    queue = {"batch_send_deadline": "200ms", "min_backoff": "30ms", "max_backoff": "200ms"}
    push: dict[str, object] = {
        "url": f"http://127.0.0.1:{port}/api/v1/write",
        "queue_config": queue,
        **({"protobuf_message": message} if message else {}),
    }
    with FunctionExporter() as exporter:
        now_s = int(time.time())
        times = np.arange(now_s - 900, now_s, dtype=np.int64)
        history = Backfill()
        for path in ("a", "b"):
            exporter.gauge("x", lambda t: 100 + 0.5 * (t - now_s), path=path)
            labels = {"__name__": "x", "path": path, "job": "test", "instance": exporter.address}
            history.add(labels, times * 1000, 100 + 0.5 * (times - now_s))
        async with (
            RealPrometheus(
                binary,
                targets=[exporter.address],
                history=history,
                external_labels={"cluster": "one"},
                config={"remote_write": [push]},
            ) as prometheus,
            Sidecar(
                prometheus.url, [WATCH], receive_remote_write=True, emitter_port=port
            ) as sidecar,
        ):
            sidecar.port = port
            await sidecar.until_ready()
            await _fed_by_pushes(sidecar)
            before = await sidecar.self_metrics()
            await asyncio.sleep(12)
            after = await sidecar.self_metrics()

            def grown(name: str, **labels: str) -> float:
                return after.total(name, **labels) - before.total(name, **labels)

            assert grown("sentinel_cycles_total", result="ok") >= 4
            assert grown("sentinel_push_reads_total", result="pushed") >= 4
            assert grown("sentinel_remote_read_requests_total") == 0
            assert grown("sentinel_forecasts_total") >= 8
            received = after.total("sentinel_push_samples_received_total")
            dropped = after.total("sentinel_push_samples_dropped_total")
            assert received == after.total("sentinel_push_samples_kept_total") + dropped
            # What we wrote came back to us and was turned away.
            assert grown("sentinel_push_samples_dropped_total", reason="own_output") > 0
            expected = 'x_sentinel_expected{path="a"}'
            assert await prometheus.query(f"{expected} - ignoring(sentinel_horizon) x") is not None
            (error,) = (await prometheus.query(f"abs({expected} - on(path) x)")).values()
            assert error < 5


async def _fed_by_pushes(sidecar: Sidecar, timeout_s: float = 60.0) -> None:
    """Wait until a cycle was answered by what was pushed."""
    deadline = time.monotonic() + timeout_s
    while not (await sidecar.self_metrics()).total("sentinel_push_reads_total", result="pushed"):
        sidecar.check()
        if time.monotonic() > deadline:
            raise AssertionError((await sidecar.self_metrics()).page + sidecar.log)
        await asyncio.sleep(0.5)
