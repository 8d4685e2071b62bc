"""What the query API costs beside the upstream, and beside a Prometheus that reads the forecasts.

The sidecar runs in a process of its own. Requests to it and to what it is compared with alternate.
"""

import asyncio
import http.client
import statistics
import subprocess
import sys
import threading
import time
from argparse import Namespace, _ArgumentGroup
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from urllib.parse import urlencode

import yaml

from sidecar.serve.remote_read import remote_read_config
from tests.bench import Figure, Skipped, figures
from tests.bench._query_server import METRIC, labels_of
from tests.integration.query_world import NOW_MS, expected_at, load_at, past_ms
from tests.prometheus import Backfill, RealPrometheus, prometheus_binaries

NOW = NOW_MS / 1000
# 121 points: an hour back and an hour ahead.
RANGE = {"start": f"{NOW - 3600}", "end": f"{NOW + 3600}", "step": "60"}
KEEP = ["--storage.tsdb.retention.time=50y"]


def add_arguments(parser: _ArgumentGroup) -> None:
    parser.add_argument(
        "--forecasts", type=int, default=1000, help="forecast series (default 1000)"
    )
    parser.add_argument(
        "--requests", type=int, default=300, help="small requests for a latency (default 300)"
    )


@dataclass(frozen=True)
class Servers:
    upstream: str
    sidecar: str
    oracle: str


def told(series: int) -> Backfill:
    grid = past_ms(60_000, hours=2)
    told = Backfill()
    for number in range(series):
        told.add(labels_of(number), grid, expected_at(grid, "a", "") + number + 1 / 3)
    actual = labels_of(0).replaced({"__name__": "bench"})
    told.add(actual, grid, load_at(grid, "a"))
    return told


@asynccontextmanager
async def servers(series: int) -> AsyncIterator[Servers]:
    binaries = prometheus_binaries()
    if not binaries:
        raise Skipped("no prometheus on the path")
    upstream = RealPrometheus(binaries[-1], history=told(series), receiver=False, flags=KEEP)
    async with upstream:
        command = [sys.executable, "-m", "tests.bench._query_server", upstream.url, str(series)]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            url = (await process.stdout.readline()).decode().strip()
            block = yaml.safe_load(remote_read_config(url, [METRIC]))
            oracle = RealPrometheus(
                binaries[-1], history=told(series), receiver=False, flags=KEEP, config=block
            )
            async with oracle:
                yield Servers(upstream.url, url, oracle.url)
        finally:
            process.stdin.close()
            await process.wait()


class Client:
    """One connection that is kept open; a call sends a request and reads the whole answer."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)

    def close(self) -> None:
        self._connection.close()

    def __call__(self, path: str, params: dict[str, str]) -> float:
        start = time.perf_counter()
        self._connection.request(
            "POST",
            f"/api/v1/{path}",
            urlencode(params),
            {"Content-Type": "application/x-www-form-urlencoded"},
        )
        answer = self._connection.getresponse()
        body = answer.read()
        elapsed = time.perf_counter() - start
        assert answer.status == 200, body[:300]
        return elapsed


def alternate(
    count: int, ours: Callable[[], float], theirs: Callable[[], float]
) -> tuple[list[float], list[float]]:
    pairs = [(ours(), theirs()) for _ in range(count + 5)][5:]
    return [a for a, _ in pairs], [b for _, b in pairs]


def compared(name: str, reference: str, ours: list[float], theirs: list[float]) -> Figure:
    median = statistics.median(ours)
    return Figure(
        name,
        median * 1000,
        "ms",
        reference,
        median / statistics.median(theirs),
        min(ours) * 1000,
        max(ours) * 1000,
    )


@figures("query")
def query(options: Namespace) -> list[Figure]:
    """All rows of this module, against the same servers."""
    return asyncio.run(_all(options))


async def _all(options: Namespace) -> list[Figure]:
    async with servers(options.forecasts) as running:
        return await asyncio.to_thread(lambda: list(_measure(running, options)))


def _measure(running: Servers, options: Namespace) -> Iterator[Figure]:
    with ExitStack() as stack:
        sidecar, upstream, oracle = [
            stack.enter_context(closing(Client(url)))
            for url in (running.sidecar, running.upstream, running.oracle)
        ]
        yield from _latencies(sidecar, upstream, oracle, options)
    yield _under_load(running)


def _latencies(
    sidecar: Client, upstream: Client, oracle: Client, options: Namespace
) -> Iterator[Figure]:
    one = labels_of(0)
    small = f'{METRIC}{{instance="{one.get("instance")}"}}'
    now = {"query": "bench", "time": f"{NOW}"}
    ours, theirs = alternate(
        options.requests, lambda: sidecar("query", now), lambda: upstream("query", now)
    )
    yield compared("query_pass_through", "the upstream itself", ours, theirs)
    added = statistics.median(ours) - statistics.median(theirs)
    yield Figure("query_pass_through_added", added * 1000, "ms p50")
    for name, text in (
        ("query_forecast_instant", small),
        ("query_join_instant", f"bench - on(instance) {small}"),
    ):
        ahead = {"query": text, "time": f"{NOW + 60}"}
        yield compared(
            name,
            "Prometheus with remote_read",
            *alternate(
                options.requests // 3,
                lambda ahead=ahead: sidecar("query", ahead),  # type: ignore[misc]
                lambda ahead=ahead: oracle("query", ahead),  # type: ignore[misc]
            ),
        )
    for name, text in (
        ("query_range_1000x121", METRIC),
        ("query_range_sum_1000x121", f"sum by (zone) ({METRIC})"),
        ("query_range_max_1h_ahead_1000x121", f"max_over_time({METRIC}[1h] offset -1h)"),
    ):
        wide = {**RANGE, "query": text}
        yield compared(
            name,
            "Prometheus with remote_read",
            *alternate(
                7,
                lambda wide=wide: sidecar("query_range", wide),  # type: ignore[misc]
                lambda wide=wide: oracle("query_range", wide),  # type: ignore[misc]
            ),
        )


def _under_load(running: Servers) -> Figure:
    """The longest a small request waits while large ones are evaluated: the loop stays free."""
    done = threading.Event()

    def load() -> None:
        heavy = {**RANGE, "query": f"quantile_over_time(0.5, {METRIC}[30m])"}
        with closing(Client(running.sidecar)) as client:
            while not done.is_set():
                client("query_range", heavy)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    waits: list[float] = []
    until = time.monotonic() + 6
    with closing(Client(running.sidecar)) as client:
        while time.monotonic() < until:
            waits.append(client("query", {"query": "bench", "time": f"{NOW}"}))
            time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    ordered = sorted(waits)
    return Figure(
        "query_small_under_load",
        statistics.median(ordered) * 1000,
        "ms p50 (max p100)",
        smallest=ordered[0] * 1000,
        largest=ordered[-1] * 1000,
    )
