"""``sentinel backtest`` as a user runs it, against a real Prometheus with a past."""

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from sidecar.cli import main
from tests.prometheus import Backfill, PrometheusBinary, RealPrometheus, free_port
from tests.sidecar import clean_environ, sentinel_command

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

STEP_MS = 60_000
HOURS = 8


def history(end_ms: int) -> Backfill:
    """A wave that a model can follow, a step series, a counter, and what a sidecar wrote."""
    dice = np.random.default_rng(5)
    times = end_ms - np.arange(HOURS * 240, -1, -1, dtype=np.int64) * 15_000
    made = Backfill()
    slow = np.sin(2 * np.pi * times / 7_200_000)
    for copy in range(3):
        wave = 100 * (copy + 1) + 20 * slow + dice.normal(scale=0.5, size=times.size)
        made.add({"__name__": "load", "instance": f"i{copy}", "job": "api"}, times, wave)
    made.add({"__name__": "load", "instance": "flat", "job": "api"}, times, 7.0)
    made.add({"__name__": "load_sentinel_expected", "instance": "i0"}, times, 1.0)
    made.add({"__name__": "no_number", "instance": "i0"}, times, np.nan)
    count = np.cumsum(dice.poisson(30, size=times.size).astype(np.float64))
    made.add({"__name__": "requests_total", "job": "api"}, times, count)
    return made


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server(
    newest_prometheus: PrometheusBinary,
) -> AsyncIterator[RealPrometheus]:
    end_ms = int(time.time() * 1000) // STEP_MS * STEP_MS
    async with RealPrometheus(newest_prometheus, history=history(end_ms)) as prometheus:
        yield prometheus


async def process_ran(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit status, output and errors of the program, run in an empty folder."""
    process = await asyncio.create_subprocess_exec(
        *sentinel_command(),
        "backtest",
        *arguments,
        cwd=folder,
        env=clean_environ(COLUMNS="80"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), error.decode()


Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The same without a process of its own, which takes a second or more to start."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("SENTINEL_CONFIG", raising=False)

    def run(arguments: tuple[str, ...]) -> int:
        try:
            return main(["backtest", *arguments])
        except SystemExit as end:  # argparse
            return int(str(end.code))

    async def go(*arguments: str) -> tuple[int, str, str]:
        status = await asyncio.to_thread(run, arguments)
        return status, *capsys.readouterr()

    return go


async def test_a_backtest_prints_a_table_and_writes_nothing_but_the_report(
    server: RealPrometheus, tmp_path: Path
) -> None:
    before = set(await server.query("count by (__name__) ({__name__=~'.+'})"))
    status, out, error = await process_ran(
        tmp_path,
        *("--prometheus-url", server.url, "--watch", "load", "--from", "2h", "--refit", "1h"),
        *("--models", "auto,linear", "--html", "report.html", "--json", "figures.json"),
    )
    assert status == 0, error
    rows = {line.split()[0]: line for line in out.splitlines() if re.match(r"\w+ .*\d/\d$", line)}
    assert list(rows) == ["auto", "linear", "naive", "seasonal_naive"]
    assert "4 series; 120 instants of 1m" in out
    assert "auto beats naive" in out
    assert max(len(line) for line in out.splitlines() if "{" not in line) <= 80
    assert "nothing was written to Prometheus or the store" in out

    data = json.loads((tmp_path / "figures.json").read_text())["watches"][0]
    assert [one["labels"]["instance"] for one in data["models"][0]["by_series"]] == [
        "flat",
        "i0",
        "i1",
        "i2",
    ]
    auto = data["models"][0]
    assert auto["mase"] < 0.8
    assert auto["fits"] == 2
    assert 0.85 < auto["coverage"] <= 1
    naive = next(one for one in data["models"] if one["model"] == "naive")
    assert naive["mase"] == pytest.approx(1.0)
    assert "<svg" in (tmp_path / "report.html").read_text()

    assert set(os.listdir(tmp_path)) == {"report.html", "figures.json"}  # noqa: PTH208
    assert set(await server.query("count by (__name__) ({__name__=~'.+'})")) == before


async def test_a_counter_is_tested_as_its_rate(
    server: RealPrometheus, ran: Run, tmp_path: Path
) -> None:
    status, out, error = await ran(
        *("--prometheus-url", server.url, "--watch", "requests_total", "--from", "1h"),
        *("--json", "figures.json"),
    )
    assert status == 0, error
    assert "as rates per second" in out
    data = json.loads((tmp_path / "figures.json").read_text())["watches"][0]
    # Poisson(30) every 15 s is 2 a second, known to .18 over a minute.
    assert 0.05 < data["models"][0]["mae"] < 0.5


async def test_the_file_says_which_watches_and_an_expression_works_too(
    server: RealPrometheus, ran: Run, tmp_path: Path
) -> None:
    (tmp_path / "sentinel.yml").write_text(
        f"prometheus_url: {server.url}\n"
        "watches:\n"
        "- {metric: load, labels: {instance: i0}, model: linear, horizon: 1m}\n"
        "- {expr: 'sum by (job) (load)', name: 'job:load:sum'}\n"
    )
    status, out, error = await ran("--from", "1h")
    assert status == 0, error
    assert 'load{instance="i0"}' in out
    assert "job:load:sum" in out
    assert re.search(r"^linear \*", out, re.MULTILINE)
    assert re.search(r"^auto \*", out, re.MULTILINE)


async def test_one_watch_without_data_does_not_spoil_the_others(
    server: RealPrometheus, ran: Run
) -> None:
    status, out, error = await ran(
        *("--prometheus-url", server.url, "--from", "30m"),
        *("--watch", "nothing_like_it", "--watch", "load{instance='flat'}"),
    )
    assert status == 1
    assert "nothing_like_it: no series matches at the end of the range" in error
    assert "auto is about as good as naive" in out


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--watch", "load", "--from", "1w"), 1, "there is no history before"),
        (("--watch", "no_number"), 1, "no_number: none of its series has a number at an instant"),
        (("--watch", "load", "--from", "5m"), 1, "the range holds 5 instants of 1m; 10 are"),
        (("--watch", "load", "--models", "holtt"), 2, "is not a model, did you mean 'holt'"),
        (("--watch", "load", "--from", "soon"), 2, "'soon' is not a duration"),
        (("--watch", "load", "--end", "yesterday"), 2, "is no time: write 2026-01-31T12:00:00Z"),
        (("--watch", "load", "--end", "inf"), 2, "'inf' is no time"),
        (("--watch", "load", "--end=-1e18"), 2, "'-1e18' is no time"),
        (("--watch", "load", "--start", "nan"), 2, "'nan' is no time"),
        (("--watch", "load", "--end", "2199-01-01"), 2, "--end: lies in the future"),
        (("--watch", "load", "--from", "1h", "--start", "1"), 2, "give one of the two"),
        (("--watch", "load{"), 2, "load{"),
        ((), 2, "nothing to watch: there is no ./sentinel.yml here; name a file with -c FILE"),
        (("--watch", "load", "--html", "no/such/folder.html"), 2, "its folder does not exist"),
    ],
)
async def test_what_is_wrong_is_said(
    server: RealPrometheus, ran: Run, arguments: tuple[str, ...], status: int, words: str
) -> None:
    got, out, error = await ran("--prometheus-url", server.url, *arguments)
    assert (got, words in error) == (status, True), (got, out, error)
    assert "Traceback" not in error


async def test_a_server_that_is_not_there_is_said(ran: Run) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    status, _, error = await ran("--prometheus-url", url, "--watch", "load")
    assert status == 1
    assert url in error
    assert "Traceback" not in error
