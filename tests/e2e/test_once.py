"""``sentinel once`` from a crontab: each run goes on where the last one was left."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml

from sidecar.config.http import UNNAMED
from sidecar.names import EXPECTED, MODEL_INFO
from sidecar.remote.http import HttpClient
from sidecar.remote.intake import WriteBlock
from sidecar.remote.settings import HttpSettings
from sidecar.remote.writer import RemoteWriter, WriterSettings
from sidecar.series import LabelSet
from tests.exporter import FunctionExporter
from tests.prometheus import Backfill, PrometheusBinary, RealPrometheus, free_port
from tests.sidecar import clean_environ, sentinel_command

pytestmark = [pytest.mark.integration, pytest.mark.slow]


async def test_runs_of_once_write_every_instant_with_one_model(
    newest_prometheus: PrometheusBinary, tmp_path: Path
) -> None:
    now_ms = int(time.time()) * 1000
    times = now_ms - np.arange(900, 0, -1, dtype=np.int64) * 1000
    history = Backfill().add({"__name__": "x", "job": "test", "instance": "here"}, times, 42.0)
    history.add({"__name__": "y", "job": "test", "instance": "here"}, times, 7.0)
    watch = {"metric": "x", "granularity": "2s", "horizon": "10s", "lookback": "60s"}
    with FunctionExporter() as exporter:
        exporter.gauge("x", lambda t: 42.0)
        exporter.gauge("y", lambda t: 7.0)
        target = {"targets": [exporter.address], "labels": {"instance": "here"}}
        jobs = [{"job_name": "test", "scrape_interval": "1s", "static_configs": [target]}]
        async with RealPrometheus(
            newest_prometheus, history=history, config={"scrape_configs": jobs}
        ) as server:
            config = {
                "prometheus_url": server.url,
                "emitter_port": free_port(),
                "artifact_store": str(tmp_path / "store"),
                "withdraw_on_shutdown": True,  # the next run goes on: nothing ends
                "watches": [{**watch, "training_window": "15m", "metric": name} for name in "xy"],
            }
            # Only a series that was scraped is ended by a marker, and Prometheus begins late.
            await server.until(f"timestamp(y) > {now_ms // 1000 + 2}")
            logs = []
            for run in range(4):
                log = await asyncio.to_thread(once, tmp_path / "sentinel.yml", config)
                logs.append(log)
                if run == 0:
                    exporter.remove("y")  # its marker is the next scrape's
                assert await server.query(f"x{EXPECTED}") or run == 0, "its outputs have ended"
                await asyncio.sleep(2.0)  # an instant at least for each run
            assert any(
                'no forecast of y{instance="here", job="test"}: stale_input' in one
                for one in logs[1:]
            )
            assert "no forecast of x" not in log
            start_ms, end_ms = now_ms - 60_000, int(time.time() * 1000)
            [written] = await server.samples(f"x{EXPECTED}", start_ms, end_ms)
            infos = await server.query(f"count(count_over_time(x{MODEL_INFO}[5m]))")
    assert written.timestamps_ms.size >= 3
    assert set(np.diff(written.timestamps_ms)) == {2_000}
    assert list(infos.values()) == [1.0]


async def test_a_prometheus_that_is_away_ends_the_run_soon_and_leaves_the_spool(
    tmp_path: Path,
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    config = {
        "prometheus_url": url,
        "emitter_port": free_port(),
        "artifact_store": str(tmp_path / "store"),
        "scrape_timeout": "500ms",
        "watches": [{"metric": "x"}],
    }
    path = tmp_path / "sentinel.yml"
    path.write_text(yaml.safe_dump(config))
    await asyncio.to_thread(run_once, path)  # makes the folders
    spool = tmp_path / "store" / "spool" / f"{UNNAMED}.sqlite"
    label = LabelSet.of({"__name__": "x_sentinel_expected"})
    async with waiting(url, spool) as writer:
        await writer.append([WriteBlock((label,), int(time.time() * 1000), np.array([1.0]))])
    done = await asyncio.to_thread(run_once, path)
    assert done.returncode == 1, done.stderr
    assert f"sentinel: {url} does not answer" in done.stderr
    assert "given up after 1.5 s" in done.stderr
    assert "Traceback" not in done.stderr
    async with waiting(url, spool) as writer:
        assert writer.stats().pending == 1


@asynccontextmanager
async def waiting(url: str, spool: Path) -> AsyncIterator[RemoteWriter]:
    """A writer on a spool, of which nothing can be delivered."""
    client = HttpClient(HttpSettings(url))
    writer = RemoteWriter(client, spool, WriterSettings())
    await writer.start()
    try:
        yield writer
    finally:
        await writer.stop(0.1)
        await client.close()


def run_once(path: Path) -> subprocess.CompletedProcess[str]:
    """A run that is to end by itself."""
    return subprocess.run(
        [*sentinel_command(), "once", "-c", str(path)],
        env=clean_environ(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def once(path: Path, config: dict[str, object]) -> str:
    """What it said; a series that has ended is no failure."""
    path.write_text(yaml.safe_dump(config))
    done = run_once(path)
    assert done.returncode == 0, done.stderr
    return done.stderr
