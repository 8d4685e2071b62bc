"""A frozen world for the query API: a Prometheus with a past, forecasts that go on after it.

The clock stands still at ``NOW_MS``. Two Prometheus hold the same past: the *upstream* that the
sidecar's query API continues, and the *oracle* that reads the forecasts by ``remote_read`` from the
same sidecar. What the oracle answers is what the query API should answer.
"""

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from sidecar.publish.paths import ForecastPaths, OutputPaths
from sidecar.remote.settings import HttpSettings
from sidecar.series import FloatArray, LabelSet, TimeArray
from sidecar.serve import query_api, remote_read
from sidecar.serve.query_api import QueryApi
from sidecar.serve.remote_read import RemoteReadServer, remote_read_config
from sidecar.serve.upstream import Upstream
from tests.prometheus import Backfill, PrometheusBinary, RealPrometheus

MINUTE_MS = 60_000
NOW_MS = 1_700_000_040_000
GRANULARITY_MS = MINUTE_MS
HORIZON = 60
LOAD, TEMPERATURE = "demo_load", "demo_temperature"
OUTPUTS = ("_sentinel_expected", "_sentinel_expected_lower", "_sentinel_expected_upper")
INSTANCES = ("a", "b", "c")


def labels(metric: str, **rest: str) -> LabelSet:
    return LabelSet.of({"__name__": metric, "job": "api", **rest})


def load_at(instants_ms: TimeArray, instance: str) -> FloatArray:
    """A daily wave, another one for each instance."""
    phase = {"a": 0.0, "b": 1.0, "c": 2.0}.get(instance, 3.0)
    waves = np.sin(instants_ms / 1_800_000 + phase)
    return np.asarray(10 * (1 + phase) + 5 * waves, dtype=np.float64)


def expected_at(instants_ms: TimeArray, instance: str, output: str) -> FloatArray:
    shift = {"_sentinel_expected_lower": -1.5, "_sentinel_expected_upper": 1.5}.get(output, 0.0)
    rounded = np.round(load_at(instants_ms, instance) * 8) / 8  # some values repeat
    return np.asarray(rounded + shift, dtype=np.float64)


def past_ms(step_ms: int, hours: float = 3.0) -> TimeArray:
    first = NOW_MS - int(hours * 3_600_000)
    return np.arange(first, NOW_MS + 1, step_ms, dtype=np.int64)


def future_ms(steps: int = HORIZON) -> TimeArray:
    return NOW_MS + GRANULARITY_MS * np.arange(1, steps + 1, dtype=np.int64)


def history(pushed_until_ms: int = NOW_MS) -> Backfill:
    """Actual up to now, expected as far as it was pushed; also what is there only once."""
    told = Backfill()
    scraped, grid = past_ms(15_000), past_ms(GRANULARITY_MS)
    grid = grid[grid <= pushed_until_ms]
    for instance in INSTANCES:
        told.add(labels(LOAD, instance=instance), scraped, load_at(scraped, instance))
    for zone in ("north", "south"):
        for instance in INSTANCES[:2]:
            heat = labels(TEMPERATURE, instance=instance, zone=zone)
            told.add(heat, scraped, 20 + np.cos(scraped / 900_000) * (2 if zone == "north" else 1))
    for instance in INSTANCES:
        info = labels("demo_info", instance=instance, version=f"1.{ord(instance) - 97}")
        told.add(info, scraped, 1.0)
    odd = np.where(np.arange(len(grid)) % 3 == 0, np.nan, np.inf)
    told.add(labels("demo_odd", instance="a"), grid, odd)
    for output in OUTPUTS:
        for instance in (*INSTANCES, "gone"):
            told.add(
                labels(LOAD + output, instance=instance), grid, expected_at(grid, instance, output)
            )
    told.add(labels("demo_odd_sentinel_expected", instance="a"), grid, odd)
    return told


def forecasts() -> ForecastPaths:
    """The paths after now: one is shorter, one has a gap, one has no past."""
    paths = ForecastPaths()
    instants = future_ms()
    groups = []
    for output in OUTPUTS:
        values = np.stack([expected_at(instants, one, output) for one in (*INSTANCES, "new")])
        values[2, 30:] = np.nan
        values[1, 10:20] = np.nan
        groups.append(
            OutputPaths(
                tuple(labels(LOAD + output, instance=one) for one in (*INSTANCES, "new")),
                instants,
                values,
            )
        )
    odd = np.where(np.arange(HORIZON) % 2 == 0, np.inf, -np.inf)[None, :]
    groups.append(OutputPaths((labels("demo_odd_sentinel_expected", instance="a"),), instants, odd))
    paths.replace("load", groups)
    paths.acknowledge("load", NOW_MS)
    return paths


def forecasts_behind(acknowledged_ms: int) -> ForecastPaths:
    """The same, but the pushes since ``acknowledged_ms`` are still under way."""
    paths = ForecastPaths()
    start_ms = acknowledged_ms + GRANULARITY_MS
    for first_ms in range(start_ms, NOW_MS + 1, GRANULARITY_MS):
        instants = first_ms + GRANULARITY_MS * np.arange(HORIZON, dtype=np.int64)
        paths.replace(
            "load",
            [
                OutputPaths(
                    tuple(labels(LOAD + output, instance=one) for one in INSTANCES),
                    instants,
                    np.stack([expected_at(instants, one, output) for one in INSTANCES]),
                )
                for output in OUTPUTS
            ],
        )
    paths.acknowledge("load", acknowledged_ms)
    return paths


@dataclass(frozen=True)
class World:
    """Everything that is running."""

    upstream: RealPrometheus
    oracle: RealPrometheus | None
    sidecar_url: str
    paths: ForecastPaths
    session: aiohttp.ClientSession


@asynccontextmanager
async def sidecar(upstream_url: str, paths: ForecastPaths, **options: Any) -> AsyncIterator[str]:
    """The query API and the remote-read server on a free port."""
    upstream = Upstream(HttpSettings(upstream_url))
    api = QueryApi(upstream, paths, now_ms=lambda: NOW_MS, **options)
    app = web.Application()
    app.add_routes([*query_api.routes(api), *remote_read.routes(RemoteReadServer(paths))])
    try:
        async with TestServer(app) as server:
            yield str(server.make_url("")).rstrip("/")
    finally:
        api.close()
        await upstream.close()


@asynccontextmanager
async def world(
    binary: PrometheusBinary,
    *,
    oracle: bool = False,
    by_name: bool = True,
    pushed_until_ms: int = NOW_MS,
    paths: ForecastPaths | None = None,
    flags: Sequence[str] = (),
    **options: Any,
) -> AsyncIterator[World]:
    """
    Args:
        by_name: the oracle reads as ``remote-read-config`` has it, by the metric's name alone; else
            whatever a selector without a name may match comes from the sidecar too.
    """
    paths = forecasts() if paths is None else paths
    flags = ["--storage.tsdb.retention.time=50y", *flags]
    told = history(pushed_until_ms)
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(
            RealPrometheus(binary, history=told, receiver=False, flags=flags)
        )
        url = await stack.enter_async_context(sidecar(upstream.url, paths, **options))
        reader = None
        if oracle:
            block = yaml.safe_load(remote_read_config(url, paths.names()))
            if not by_name:
                del block["remote_read"][1:], block["remote_read"][0]["required_matchers"]
            reader = await stack.enter_async_context(
                RealPrometheus(
                    binary,
                    history=history(pushed_until_ms),
                    receiver=False,
                    flags=flags,
                    config=block,
                )
            )
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield World(upstream, reader, url, paths, session)


async def ask(
    session: aiohttp.ClientSession, url: str, path: str, params: Mapping[str, str]
) -> tuple[int, dict[str, Any]]:
    async with session.post(f"{url}/api/v1/{path}", data=dict(params)) as answer:
        body: dict[str, Any] = await answer.json()
        return answer.status, body


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """What two answers to a query differ in; empty where in nothing but the last digits."""
    if ours.get("status") != theirs.get("status"):
        return f"status: ours {str(ours)[:300]}, theirs {str(theirs)[:300]}"
    if ours["status"] == "error":
        return "" if ours["errorType"] == theirs["errorType"] else f"{ours} instead of {theirs}"
    a, b = ours["data"], theirs["data"]
    if a["resultType"] != b["resultType"]:
        return f"type {a['resultType']} instead of {b['resultType']}"
    if a["resultType"] in ("scalar", "string"):
        return _points_differ([a["result"]], [b["result"]])
    left, right = _by_labels(a["result"]), _by_labels(b["result"])
    if left.keys() != right.keys():
        only_ours = [str(one) for one in left.keys() - right.keys()]
        only_theirs = [str(one) for one in right.keys() - left.keys()]
        return f"series only in ours {only_ours}, only in theirs {only_theirs}"
    for one in left:
        if said := _points_differ(left[one], right[one]):
            return f"{one}: {said}"
    return ""


def _by_labels(result: Sequence[Mapping[str, Any]]) -> dict[LabelSet, list[Any]]:
    return {
        LabelSet.of(one["metric"]): one["values"] if "values" in one else [one["value"]]
        for one in result
    }


def _points_differ(ours: Sequence[Any], theirs: Sequence[Any]) -> str:
    times, their_times = [t for t, _ in ours], [t for t, _ in theirs]
    if times != their_times:
        odd = sorted(set(times) ^ set(their_times))
        return f"{len(times)} instants instead of {len(their_times)}; in one only: {odd[:5]}"
    for (t, a), (_, b) in zip(ours, theirs, strict=True):
        if not _same(a, b):
            return f"at {t} ({t - NOW_MS / 1000:+g} s) {a} instead of {b}"
    return ""


def _same(a: str, b: str) -> bool:
    x, y = float(a), float(b)
    if math.isnan(x) or math.isnan(y):
        return math.isnan(x) and math.isnan(y)
    return x == y or math.isclose(x, y, rel_tol=1e-10, abs_tol=1e-10)
