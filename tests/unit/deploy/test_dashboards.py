"""The dashboards' JSON, without a Grafana: what it would not say is wrong, and what it would not
show. Whether their expressions are answered is asked in ``tests/integration/test_deploy_live.py``.
"""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from deploy.grafana.__main__ import dashboards, text_of
from tests.unit.deploy.grafana import (
    FILES,
    FOLDER,
    Json,
    load,
    panels,
    references,
    substituted,
    targets,
    variables,
    with_built_in,
)
from tests.unit.deploy.vocabulary import complaints, grouping_complaints

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Of Grafana's units, those that are in use here.
UNITS = {"short", "none", "percentunit", "s", "ops", "reqps", "bytes", "Bps"}
EXAMPLE = {
    "metric": "demo_load",
    "job": ".*",
    "instance": ["a:1", "b:1"],
    "series": 'instance="a:1",job="api"',
    "horizon": "5m",
    "step": "5",
    "window": "2m",
    "top": "20",
    "datasource": "sentinel",
}
BUILT_IN = {"__rate_interval", "__range", "__interval"}

files = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def example(text: str) -> str:
    return substituted(text, with_built_in(EXAMPLE, span="25200s", interval="1m"))


def names_shown(panel: Json) -> set[str]:
    """What overrides can name: series by their legend, columns by their heading."""
    legends = {target["legendFormat"] for target in panel["targets"]}
    renamed = [
        one["options"]["renameByName"].values()
        for one in panel.get("transformations", ())
        if one["id"] == "organize"
    ]
    return legends | {name for names in renamed for name in names}


def test_the_files_are_what_the_code_makes() -> None:
    made = {name: text_of(one) for name, one in dashboards().items()}
    assert {path.name: path.read_text() for path in FILES} == made


def test_every_dashboard_has_an_identity_of_its_own() -> None:
    found = [load(path) for path in FILES]
    assert len({one["uid"] for one in found}) == len({one["title"] for one in found}) == 3
    for one in found:
        assert re.fullmatch(r"[a-z-]{8,40}", one["uid"])
        assert one["schemaVersion"] == 39
        assert one["tags"] == ["sentinel"]
        assert one["description"]
        assert "id" not in one


@files
def test_panels_are_numbered_and_do_not_lie_on_each_other(path: Path) -> None:
    found = load(path)["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    taken: set[tuple[int, int]] = set()
    for panel in found:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert all(a["gridPos"]["y"] <= b["gridPos"]["y"] for a, b in pairwise(found))


@files
def test_every_panel_says_what_it_shows_and_in_which_unit(path: Path) -> None:
    found = panels(load(path))
    assert len({panel["title"] for panel in found}) == len(found)
    for panel in found:
        assert len(panel["description"]) > 10, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert panel["datasource"] == SOURCE
        assert panel["targets"]
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == sorted(set(letters))
        assert all(target["datasource"] == SOURCE for target in panel["targets"])


@files
def test_overrides_are_about_what_the_panel_shows(path: Path) -> None:
    for panel in panels(load(path)):
        shown = names_shown(panel)
        for override in panel["fieldConfig"]["overrides"]:
            assert override["matcher"]["id"] == "byName"
            assert override["matcher"]["options"] in shown, panel["title"]
            for one in override["properties"]:
                if one["id"] == "custom.fillBelowTo":
                    assert one["value"] in shown, panel["title"]
        for step in panel.get("transformations", ()):
            if step["id"] == "sortBy":
                assert {one["field"] for one in step["options"]["sort"]} <= shown


def test_the_band_is_the_area_between_two_lines_that_are_not_drawn() -> None:
    [panel] = [one for one in panels(load(FOLDER / "dashboards/forecast.json")) if _is_banded(one)]
    styles = {
        one["matcher"]["options"]: {p["id"]: p["value"] for p in one["properties"]}
        for one in panel["fieldConfig"]["overrides"]
    }
    assert styles["upper"]["custom.fillBelowTo"] == "lower"
    assert styles["upper"]["custom.fillOpacity"] == 15
    assert styles["upper"]["custom.lineWidth"] == styles["lower"]["custom.lineWidth"] == 0
    assert styles["expected"]["custom.lineStyle"]["fill"] == "dash"


def _is_banded(panel: Json) -> bool:
    return "custom.fillBelowTo" in str(panel["fieldConfig"]["overrides"])


@files
def test_every_variable_that_is_used_is_there_and_the_other_way_round(path: Path) -> None:
    dashboard = load(path)
    there = {one["name"] for one in variables(dashboard)}
    used = {"datasource"}
    for one in variables(dashboard):
        used |= references(str(one.get("query", "")))
    for panel in dashboard["panels"]:
        used |= references(panel["title"]) | ({panel["repeat"]} if "repeat" in panel else set())
    for _, target in targets(dashboard):
        used |= references(target["expr"]) - BUILT_IN
    assert used == there


@files
def test_variables_are_explained_and_follow_the_time_range(path: Path) -> None:
    for one in variables(load(path)):
        assert one["label"]
        assert one["description"], one["name"]
        if one["type"] == "query":
            assert one["refresh"] == 2
            assert one["datasource"] == SOURCE
            assert one["definition"] == one["query"]["query"]


@files
def test_a_variable_only_asks_about_those_before_it(path: Path) -> None:
    known = {"datasource"}
    for one in variables(load(path)):
        assert references(str(one["query"])) <= known, one["name"]
        known.add(one["name"])


@files
def test_every_expression_parses_and_speaks_of_what_exists(path: Path) -> None:
    for panel, target in targets(load(path)):
        expr = example(target["expr"])
        assert "${" not in expr
        said = complaints(expr, frozenset({"demo_load"})) + grouping_complaints(expr, frozenset())
        assert said == [], (panel["title"], expr)


@files
def test_legends_name_labels_that_the_expression_leaves(path: Path) -> None:
    for panel, target in targets(load(path)):
        wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        grouped = re.search(r"^(?:sum|count|avg) by \(([^)]*)\)", target["expr"])
        if wanted and grouped:
            left = {name.strip() for name in grouped[1].split(",")}
            assert wanted <= left, panel["title"]


def test_one_row_of_panels_is_repeated_for_each_chosen_series() -> None:
    rows = [
        one for one in load(FOLDER / "dashboards/forecast.json")["panels"] if one["type"] == "row"
    ]
    assert [row.get("repeat") for row in rows] == [None, "series"]


def test_the_forecast_goes_on_past_now() -> None:
    assert load(FOLDER / "dashboards/forecast.json")["time"] == {"from": "now-6h", "to": "now+1h"}


def test_both_data_sources_are_provisioned_as_the_forecasts_need_it() -> None:
    text = (FOLDER / "provisioning/datasources/sentinel.yml").read_text()
    prometheus, sentinel = yaml.safe_load(text)["datasources"]
    assert prometheus["url"] == "http://prometheus:9090"
    assert sentinel["url"] == "http://sentinel:8080"
    assert prometheus["uid"] != sentinel["uid"]
    for one in (prometheus, sentinel):
        assert one["type"] == "prometheus"
        assert one["access"] == "proxy"
        assert one["jsonData"]["httpMethod"] == "POST"
        assert one["jsonData"]["incrementalQuerying"] is False
        assert one["jsonData"]["timeInterval"] == "15s"
        assert "isDefault" not in one  # a Grafana in use has its own
    assert sentinel["jsonData"]["manageAlerts"] is False


def test_dashboards_begin_with_a_data_source_that_is_provisioned() -> None:
    text = (FOLDER / "provisioning/datasources/sentinel.yml").read_text()
    provisioned = {one["uid"]: one["name"] for one in yaml.safe_load(text)["datasources"]}
    for path in FILES:
        [chosen] = [one for one in variables(load(path)) if one["type"] == "datasource"]
        assert provisioned[chosen["current"]["value"]] == chosen["current"]["text"]


def test_the_provider_finds_the_dashboards_where_compose_puts_them() -> None:
    provider = yaml.safe_load((FOLDER / "provisioning/dashboards/sentinel.yml").read_text())
    [one] = provider["providers"]
    compose = (FOLDER.parent / "compose.yml").read_text()
    assert f"./grafana/dashboards:{one['options']['path']}:ro" in compose
