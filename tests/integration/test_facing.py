"""What an operator sees of a running sidecar: status, explain, versions, by the program's words."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from sidecar.cli import main
from tests.prometheus import Backfill, FunctionExporter, PrometheusBinary, RealPrometheus
from tests.sidecar import Sidecar

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

FINE = {"granularity": "1s", "horizon": "5s", "lookback": "30s"}
Say = Callable[..., Awaitable[tuple[int, list[str], str]]]


def history(instance: str) -> Backfill:
    """Five minutes of what is scraped, so that models can be fitted at once."""
    end_ms = int(time.time()) * 1000
    t_ms = end_ms - 1000 * np.arange(300, -1, -1, dtype=np.int64)
    made = Backfill()
    for metric, values in (("load", 50 + t_ms / 1000 % 30), ("hits_total", 3 * t_ms / 1000)):
        labels = {"__name__": metric, "instance": instance, "job": "test"}
        made.add({**labels, "path": 'a"b'} if metric == "load" else labels, t_ms, values)
    return made


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def config(newest_prometheus: PrometheusBinary) -> AsyncIterator[Path]:
    """The configuration file of a sidecar that has forecast for a while."""
    with FunctionExporter() as exporter:
        exporter.gauge("load", lambda t: 50 + t % 30, path='a"b')
        exporter.counter("hits_total", lambda t: 3 * t)
        exporter.gauge("lonely", lambda t: t)
        past = history(exporter.address)
        async with RealPrometheus(
            newest_prometheus, targets=[exporter.address], history=past
        ) as prometheus:
            watches = [{"metric": "load", **FINE}, {"metric": "hits_total", **FINE}]
            async with Sidecar(prometheus.url, watches) as sidecar:
                await sidecar.until_ready()
                await prometheus.until("count_over_time(load_sentinel_expected[30s]) > 4")
                await prometheus.until("count_over_time(hits_total_sentinel_expected[30s]) > 4")
                yield sidecar.folder / "sentinel.yml"


@pytest.fixture
def say(config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    monkeypatch.setenv("COLUMNS", "80")

    async def go(command: str, *arguments: str) -> tuple[int, list[str], str]:
        status = await asyncio.to_thread(main, [command, "-c", str(config), *arguments])
        said = capsys.readouterr()
        return status, said.out.splitlines(), said.err

    return go


async def test_explain_draws_a_gauge_with_its_future(say: Say) -> None:
    status, lines, error = await say("explain", "load{path='a\"b'}")
    assert status == 0, error
    assert max(map(len, lines[1:])) <= 80
    assert any(line.startswith("  state    serving: v1 of auto, 5s ahead at 1s") for line in lines)
    assert any(line.startswith("  versions v1 active: auto full_retrain") for line in lines)
    rows = [line for line in lines if "│" in line]
    assert len(rows) == 12
    past, ahead = "".join(row[10:60] for row in rows), "".join(row[-3:] for row in rows)
    assert any("\u2800" < cell <= "\u28ff" for cell in past), "the actual"
    assert any(cell in "▔─▁░" for cell in ahead), "the forecast, past now"


async def test_explain_draws_a_counter_as_the_rate_that_its_model_sees(say: Say) -> None:
    status, lines, error = await say("explain", "hits_total")
    assert status == 0, error
    marks = [line.split("│")[0].strip() for line in lines if "│" in line]
    levels = [float(mark) for mark in marks if mark]
    assert levels
    assert all(0 <= level < 10 for level in levels), "3 a second, and not the counter's value"


async def test_explain_of_what_is_not_watched_says_what_to_add(say: Say) -> None:
    status, lines, error = await say("explain", "lonely")
    assert (status, lines) == (1, [])
    assert "the server has 1 of them, but no watch selects it: add '- metric: lonely'" in error
    status, _, error = await say("explain", "load{path='other'}")
    assert status == 1
    assert "the server has no such series now" in error


async def test_status_is_filtered_and_has_every_key(say: Say) -> None:
    status, lines, _ = await say("status", "--state", "serving")
    assert status == 0
    assert [line.split("{")[0] for line in lines] == ["load", "hits_total"]
    _, lines, _ = await say("status", "hits_total", "--json")
    [(series, facts)] = json.loads("\n".join(lines)).items()
    assert series.startswith("hits_total{")
    wanted = "ready state reason active_version active_version_mae drift_mae mase coverage"
    assert set(wanted.split()) | {"buffer_fill", "last_train", "last_error"} <= set(facts)
    assert facts["ready"] is True


async def test_versions_and_changes_are_told(say: Say) -> None:
    status, lines, error = await say("versions", "load{path=~'a.*'}")
    assert status == 0, error
    assert len(lines) == 1
    assert ": v1 active: auto full_retrain for first" in lines[0]
    status, lines, _ = await say("audit", "load")
    assert status == 0
    assert all("first: promote v1" in line for line in lines)
