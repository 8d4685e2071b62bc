"""What is shipped in ``deploy``, asked of a real Prometheus and a real sidecar.

Every expression of every dashboard goes to both data sources as Grafana would send it, its
variables resolved through the same API; rules run in the Prometheus; runbooks' queries are asked.
"""

import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import yaml

from tests.exporter import FunctionExporter
from tests.prometheus import Backfill, PrometheusBinary, RealPrometheus
from tests.sidecar import Sidecar
from tests.unit.deploy.grafana import (
    FILES,
    Json,
    Lookups,
    load,
    panels,
    resolved,
    substituted,
    targets,
    with_built_in,
)
from tests.unit.deploy.test_runbooks import RUNBOOKS, fenced
from tests.unit.deploy.vocabulary import RULES, rule_groups, rules

pytestmark = [pytest.mark.integration, pytest.mark.long]

AHEAD_S = 15
PAST_S = 900
# Nothing goes wrong here, so there is nothing to show.
QUIET = {"Given up or not accepted", "No prediction, by reason"}
WATCH = {"granularity": "1s", "horizon": f"{AHEAD_S}s", "lookback": "30s", "training_window": "15m"}


@dataclass(frozen=True)
class World:
    prometheus: str
    sentinel: str

    def url(self, source: str) -> str:
        return self.prometheus if source == "prometheus" else self.sentinel


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(
    newest_prometheus: PrometheusBinary, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """Lives for so long that everything a dashboard shows has happened at least once."""
    async with AsyncExitStack() as stack:
        exporter = stack.enter_context(FunctionExporter())
        prometheus = RealPrometheus(newest_prometheus, history=_expose(exporter))
        sidecar = Sidecar(
            prometheus.url, [{"metric": m, **WATCH} for m in ("demo_load", "demo_requests_total")]
        )
        prometheus.config |= _config(exporter, sidecar, tmp_path_factory.mktemp("rules"))
        await stack.enter_async_context(prometheus)
        await stack.enter_async_context(sidecar)
        lived = f"count_over_time(demo_load_sentinel_predicted[5m]) > {AHEAD_S + 5}"
        await prometheus.until(lived, timeout_s=150)
        yield World(prometheus.url, sidecar.url)


def _expose(exporter: FunctionExporter) -> Backfill:
    """Two gauges and a counter, and what they were before."""
    now_s = math.floor(time.time())
    history = Backfill()
    times = np.arange(now_s - PAST_S, now_s)
    target = {"job": "shop", "instance": "here"}
    for zone, level in (("north", 100.0), ("south", 200.0)):

        def load_at(t: float, level: float = level) -> float:
            return level + 10 * math.sin(t / 60)

        exporter.gauge("demo_load", load_at, zone=zone)
        labels = {"__name__": "demo_load", "zone": zone, **target}
        history.add(labels, times * 1000, [load_at(t) for t in times.tolist()])

    def requests_at(t: float) -> float:
        return 5 * (t - now_s + PAST_S)

    exporter.counter("demo_requests_total", requests_at)
    labels = {"__name__": "demo_requests_total", **target}
    return history.add(labels, times * 1000, [requests_at(t) for t in times.tolist()])


def _config(exporter: FunctionExporter, sidecar: Sidecar, folder: Path) -> dict[str, Any]:
    """The shipped scrape job and rules, quicker."""
    shipped = yaml.safe_load((RULES.parent / "prometheus.yml").read_text())
    [job] = [one for one in shipped["scrape_configs"] if one["job_name"] == "sentinel"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{sidecar.port}"]}]
    shop = {
        "job_name": "shop",
        "static_configs": [{"targets": [exporter.address], "labels": {"instance": "here"}}],
    }
    for path in RULES.glob("*.yml"):
        groups = [{k: v for k, v in one.items() if k != "interval"} for one in rule_groups(path)]
        for group in groups:
            for rule in group["rules"]:
                if rule.get("record") == "sentinel:threshold:upper":
                    rule |= {"expr": "vector(150)", "labels": {"sentinel_metric": "demo_load"}}
        (folder / path.name).write_text(json.dumps({"groups": groups}))
    return {
        "global": {
            "scrape_interval": "1s",
            "scrape_timeout": "1s",
            "evaluation_interval": "1s",
        },
        "scrape_configs": [shop, job],
        "rule_files": [f"{folder}/*.yml"],
    }


def ask(base: str, path: str, params: dict[str, str]) -> Json:
    """The whole answer, also where it is an error."""
    form = urllib.parse.urlencode(params).encode()
    method = "GET" if path.startswith("label/") else "POST"
    url = f"{base}/api/v1/{path}" + (f"?{form.decode()}" if method == "GET" else "")
    body = form if method == "POST" else None
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as answer:
            found: Json = json.load(answer)
    except urllib.error.HTTPError as error:
        found = json.load(error)
    return found


def values_of(world: World, source: str, dashboard: Json) -> dict[str, Any]:
    """The variables as Grafana would resolve them at the first look."""
    now_s = time.time()
    span = {"start": f"{now_s - 300:.0f}", "end": f"{now_s + AHEAD_S:.0f}"}

    def data(path: str, params: dict[str, str]) -> Any:
        answer = ask(world.url(source), path, {**params, **span})
        assert answer["status"] == "success", (path, params, answer)
        return answer["data"]

    chosen = {"window": "2s", "metric": "demo_load"} if _has(dashboard, "series") else {}
    found = resolved(dashboard, Lookups(data), chosen)
    return dict(with_built_in(found, span=f"{300 + AHEAD_S}s", interval="20s"))


def _has(dashboard: Json, name: str) -> bool:
    return any(one["name"] == name for one in dashboard["templating"]["list"])


def answer_to(world: World, source: str, target: Json, values: dict[str, Any]) -> Json:
    # Scores exist for seconds here: look at them more closely than once a minute.
    expr = substituted(target["expr"], values).replace(":1m]", ":1s]").replace(":5m]", ":1s]")
    now_s = math.floor(time.time())
    if target["instant"]:
        return ask(world.url(source), "query", {"query": expr, "time": str(now_s)})
    times = {"start": str(now_s - 300), "end": str(now_s + AHEAD_S), "step": "1"}
    return ask(world.url(source), "query_range", {"query": expr, **times})


@pytest.mark.parametrize("source", ["prometheus", "sentinel"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_expression_is_answered_without_error_and_shows_something(
    world: World, path: Path, source: str
) -> None:
    dashboard = load(path)
    values = values_of(world, source, dashboard)
    empty = []
    for panel, target in targets(dashboard):
        answer = answer_to(world, source, target, values)
        where = (panel["title"], target["expr"], answer)
        assert answer["status"] == "success", where
        assert not answer.get("warnings"), where
        if not answer["data"]["result"]:
            empty.append(panel["title"])
    assert set(empty) <= QUIET


def test_variables_find_what_is_forecast(world: World) -> None:
    for source in ("prometheus", "sentinel"):
        found = values_of(world, source, load(_file("forecast")))
        assert found["series"] == 'instance="here",job="shop",zone="north"'
        assert (found["horizon"], found["step"]) == (f"{AHEAD_S}s", str(AHEAD_S))
        fleet = values_of(world, source, load(_file("fleet")))
        assert fleet["metric"] == ".+"
        itself = values_of(world, source, load(_file("sentinel")))
        assert itself["job"] == ["sentinel"]


def _file(stem: str) -> Path:
    [path] = [one for one in FILES if one.stem == stem]
    return path


def newest(world: World, source: str, title: str, legend: str) -> float:
    """How far past now the newest value of a line is, in seconds."""
    dashboard = load(_file("forecast"))
    [panel] = [one for one in panels(dashboard) if one["title"] == title]
    [target] = [one for one in panel["targets"] if one["legendFormat"] == legend]
    answer = answer_to(world, source, target, values_of(world, source, dashboard))
    [series] = answer["data"]["result"]
    return float(series["values"][-1][0]) - time.time()


def test_what_is_expected_goes_on_past_now_where_the_data_source_is_the_sidecar(
    world: World,
) -> None:
    title = "Actual and expected"
    assert newest(world, "sentinel", title, "expected") > AHEAD_S / 2
    assert newest(world, "sentinel", title, "upper") > AHEAD_S / 2
    assert newest(world, "prometheus", title, "expected") < AHEAD_S / 2


def test_predictions_are_drawn_past_now_in_prometheus_too(world: World) -> None:
    for source in ("prometheus", "sentinel"):
        assert newest(world, source, "Predicted $horizon ahead", "predicted") > AHEAD_S / 2


def test_a_counter_is_compared_by_its_rate_and_a_gauge_as_it_is(world: World) -> None:
    dashboard = load(_file("forecast"))
    [panel] = [one for one in panels(dashboard) if one["title"] == "Actual and expected"]
    [actual] = [one for one in panel["targets"] if one["legendFormat"] == "actual"]
    for series, metric, low, high in (
        ('instance="here",job="shop"', "demo_requests_total", 4, 6),
        ('instance="here",job="shop",zone="south"', "demo_load", 185, 215),
    ):
        values = values_of(world, "prometheus", dashboard) | {"series": series, "metric": metric}
        [shown] = answer_to(world, "prometheus", actual, values)["data"]["result"]
        numbers = [float(value) for _, value in shown["values"]]
        assert low < min(numbers) <= max(numbers) < high, metric


def test_every_rule_is_evaluated_without_error(world: World) -> None:
    deadline = time.monotonic() + 20
    while True:
        with urllib.request.urlopen(f"{world.prometheus}/api/v1/rules", timeout=10) as answer:
            groups = json.load(answer)["data"]["groups"]
        found = {rule["name"]: rule for group in groups for rule in group["rules"]}
        if all(rule["health"] != "unknown" for rule in found.values()):
            break
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert {
        name: rule.get("lastError") for name, rule in found.items() if rule["health"] != "ok"
    } == {}
    assert set(found) == {
        rule.get("alert") or rule["record"] for rule in rules("alert") + rules("record")
    }


def test_the_alert_on_the_future_names_the_series_its_limit_and_its_horizon(world: World) -> None:
    with urllib.request.urlopen(f"{world.prometheus}/api/v1/alerts", timeout=10) as answer:
        alerts = json.load(answer)["data"]["alerts"]
    found = [one for one in alerts if one["labels"]["alertname"] == "SentinelWillExceedThreshold"]
    [alert] = found  # south; north stays below
    assert alert["labels"]["zone"] == "south"
    said = alert["annotations"]
    assert said["summary"] == f"demo_load of here will be above its limit within {AHEAD_S}s"
    assert "zone=south" in said["description"]


def test_nothing_is_wrong_with_a_sidecar_that_is_well(world: World) -> None:
    with urllib.request.urlopen(f"{world.prometheus}/api/v1/alerts", timeout=10) as answer:
        alerts = json.load(answer)["data"]["alerts"]
    firing = {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}
    assert firing - {"SentinelWillExceedThreshold", "SentinelAnomaly"} == set()


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_the_queries_of_the_runbooks_are_answered(world: World, path: Path) -> None:
    for expr in fenced(path, "promql"):
        answer = ask(world.prometheus, "query", {"query": expr})
        assert answer["status"] == "success", (expr, answer)
        assert not answer.get("warnings"), (expr, answer)
