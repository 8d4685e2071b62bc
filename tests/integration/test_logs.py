"""The log of the running program: JSON throughout, and a line that says how cycles go."""

import asyncio
import json
import re

import pytest

from tests.prometheus import FunctionExporter, PrometheusBinary, RealPrometheus
from tests.sidecar import Sidecar

pytestmark = pytest.mark.integration

WATCH = {"metric": "load", "granularity": "1s", "horizon": "5s", "lookback": "30s"}


async def test_with_log_format_json_every_line_is_an_object(
    newest_prometheus: PrometheusBinary,
) -> None:
    with FunctionExporter() as exporter:
        exporter.gauge("load", lambda t: t % 60)
        async with RealPrometheus(newest_prometheus, targets=[exporter.address]) as prometheus:
            await prometheus.until("count_over_time(load[20s]) > 12")
            async with Sidecar(prometheus.url, [WATCH], log_format="json") as sidecar:
                await sidecar.until_ready()
                await asyncio.sleep(3)
                await sidecar.terminate()
                lines = sidecar.log.splitlines()
    entries = [json.loads(line) for line in lines]
    assert all({"time", "level", "logger", "message"} <= set(entry) for entry in entries)
    assert [entry for entry in entries if entry["level"] not in ("info", "warning")] == []
    cycles = [
        entry["message"]
        for entry in entries
        if re.match(r"watch load: \d+ of \d+ series forecast 5s ahead", entry["message"])
    ]
    assert cycles
    assert cycles[-1].startswith("watch load: 1 of 1 series forecast")
    assert len(cycles) <= 4, "cycles of a second that go as before are not told each"
