"""``sentinel check`` beside other sidecars: an alarm for a stranger, none for oneself."""

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from sidecar.check import judge
from sidecar.check.gather import gather
from sidecar.check.writers import outputs_of, written
from sidecar.config import SentinelConfig, WatchConfig, WatchPublish
from tests.prometheus import Backfill, FunctionExporter, PrometheusBinary, RealPrometheus
from tests.sidecar import Sidecar

pytestmark = pytest.mark.integration

WATCH = {"metric": "load", "granularity": "1s", "horizon": "5s", "lookback": "30s"}


async def warnings(url: str, store: Path) -> list[str]:
    config = SentinelConfig(url, watches=[WatchConfig(**WATCH)], artifact_store=str(store))  # type: ignore[arg-type]
    report = judge(config, *await gather(config))
    return [one.message for one in report.watches[0].findings if one.level == "warning"]


async def test_a_stranger_that_writes_the_same_is_seen_and_oneself_is_not(
    newest_prometheus: PrometheusBinary, tmp_path: Path
) -> None:
    with FunctionExporter() as exporter:
        exporter.gauge("load", lambda t: t % 60)
        t_ms = int(time.time()) * 1000 - 1000 * np.arange(300, -1, -1, dtype=np.int64)
        labels = {"__name__": "load", "instance": exporter.address, "job": "test"}
        async with RealPrometheus(
            newest_prometheus,
            targets=[exporter.address],
            history=Backfill().add(labels, t_ms, t_ms / 1000 % 60),
        ) as prometheus:
            await prometheus.until("count_over_time(load[20s]) > 15")
            assert await warnings(prometheus.url, tmp_path / "new") == []
            async with Sidecar(prometheus.url, [WATCH]) as sidecar:
                own = sidecar.folder / "store"
                await prometheus.until("load_sentinel_expected")
                assert await warnings(prometheus.url, own) == [], "it runs with this store"
                [said] = await warnings(prometheus.url, tmp_path / "new")
                assert "such as load_sentinel_expected{" in said
                assert f"({tmp_path / 'new'})" in said
                await sidecar.terminate()
                assert await asyncio.to_thread(written, own), "the store knows what it wrote"
                assert await warnings(prometheus.url, own) == [], "it was stopped a moment ago"


def test_the_output_that_is_looked_for_has_the_names_it_is_written_under() -> None:
    watch = WatchConfig("x", {"sentinel_step": "1"}, matchers=['job=~"a.*"'])
    assert str(outputs_of(watch)) == ('x_sentinel_expected{exported_sentinel_step="1", job=~"a.*"}')
    quiet = WatchConfig("x", publish=WatchPublish(expected=False))
    assert str(outputs_of(quiet)) == "x_sentinel_predicted"


def test_a_store_that_is_not_there_has_written_nothing(tmp_path: Path) -> None:
    assert written(tmp_path / "none") == frozenset()


def test_of_a_spool_that_cannot_be_read_nothing_is_claimed(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "prometheus.sqlite").write_bytes(b"not a database at all" * 100)
    assert written(tmp_path) is None
