"""Pieces of Grafana dashboards (schema 39: Grafana 10.4 and newer) as plain data.

Every panel asks the data source that the variable ``datasource`` names, has a description, and a
unit. ``assemble`` numbers the panels and lays them out, 24 columns wide, in the order given.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

Json: TypeAlias = dict[str, Any]

SOURCE: Final[Json] = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS: Final = 24
GREEN: Final = "green"
ORANGE: Final = "orange"
RED: Final = "red"
BLUE: Final = "blue"
# What links, folders and searches know the dashboards by.
TAG: Final = "sentinel"


@dataclass(frozen=True, slots=True)
class Query:
    """One expression of a panel.

    Attributes:
        legend: the name of its series; ``{{label}}`` is replaced, ``__auto`` is Grafana's own.
        table: asked once, for the end of the time range, with labels as columns.
    """

    expr: str
    legend: str = "__auto"
    table: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel before it has its place; ``body`` is what differs from kind to kind."""

    kind: str
    title: str
    description: str
    queries: tuple[Query, ...]
    width: int
    height: int
    body: Json


@dataclass(frozen=True, slots=True)
class Row:
    """A heading and what is below it; with ``repeat`` once for each value of that variable."""

    title: str
    panels: tuple[Panel, ...]
    repeat: str = ""


@dataclass(frozen=True, slots=True)
class Style:
    """How one series, known by its name, differs from the rest of its panel."""

    name: str
    properties: Json = field(default_factory=dict)

    def override(self) -> Json:
        return {
            "matcher": {"id": "byName", "options": self.name},
            "properties": [{"id": name, "value": value} for name, value in self.properties.items()],
        }


def color(name: str) -> Json:
    return {"mode": "fixed", "fixedColor": name}


def band(lower: str, upper: str) -> tuple[Style, Style]:
    """Two series as the area between them."""
    edge: Json = {"custom.lineWidth": 0, "color": color(ORANGE), "custom.hideFrom": _legend_only()}
    filled = {**edge, "custom.fillBelowTo": lower, "custom.fillOpacity": 15}
    return Style(upper, filled), Style(lower, edge)


def dashed(name: str, shade: str) -> Style:
    """A forecast's line."""
    line = {"fill": "dash", "dash": [8, 6]}
    return Style(name, {"custom.lineStyle": line, "color": color(shade), "custom.lineWidth": 2})


def plain(name: str, shade: str) -> Style:
    return Style(name, {"color": color(shade)})


def _legend_only() -> Json:
    return {"legend": True, "tooltip": False, "viz": False}


def timeseries(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    width: int = 12,
    height: int = 8,
    styles: Sequence[Style] = (),
    limit: float | None = None,
    minimum: float | None = None,
    stacked: bool = False,
) -> Panel:
    """Lines over time, or stacked bars.

    Args:
        limit: where a red line is drawn.
        minimum: where the axis begins.
    """
    custom: Json = {
        "drawStyle": "bars" if stacked else "line",
        "lineWidth": 1,
        "fillOpacity": 60 if stacked else 0,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "off" if limit is None else "line"},
    }
    defaults: Json = {"unit": unit, "custom": custom, "color": {"mode": "palette-classic"}}
    if limit is not None:
        defaults["thresholds"] = _steps((GREEN, None), (RED, limit))
    if minimum is not None:
        defaults["min"] = minimum
    options: Json = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return Panel(
        "timeseries",
        title,
        description,
        queries,
        width,
        height,
        _body(defaults, options, [one.override() for one in styles]),
    )


def stat(
    title: str,
    description: str,
    query: Query,
    *,
    unit: str,
    width: int = 4,
    steps: Sequence[tuple[str, float | None]] = ((BLUE, None),),
    words: dict[str, str] | None = None,
    text: bool = False,
) -> Panel:
    """The newest value as a number.

    Args:
        steps: colours from values on; the first has none.
        words: what to show in place of a value.
        text: show the name of the series in place of its value.
    """
    defaults: Json = {"unit": unit, "color": {"mode": "thresholds"}, "thresholds": _steps(*steps)}
    if words:
        shown = {value: {"text": word} for value, word in words.items()}
        defaults["mappings"] = [{"type": "value", "options": shown}]
    options: Json = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none" if text or words else "area",
        "textMode": "name" if text else "auto",
    }
    return Panel("stat", title, description, (query,), width, 4, _body(defaults, options, []))


def table(
    title: str,
    description: str,
    query: Query,
    *,
    value: str,
    unit: str,
    width: int = 12,
    height: int = 9,
    steps: Sequence[tuple[str, float | None]] = ((BLUE, None),),
) -> Panel:
    """Labels and one value, the largest first."""
    cell = Style(
        value,
        {
            "unit": unit,
            "thresholds": _steps(*steps),
            "color": {"mode": "thresholds"},
            "custom.cellOptions": {"type": "color-text"},
        },
    )
    body = _body({"unit": unit}, {"showHeader": True}, [cell.override()])
    hidden = {"Time": True, "__name__": True}
    body["transformations"] = [
        {"id": "organize", "options": {"excludeByName": hidden, "renameByName": {"Value": value}}},
        {"id": "sortBy", "options": {"sort": [{"field": value, "desc": True}]}},
    ]
    return Panel("table", title, description, (query,), width, height, body)


def timeline(title: str, description: str, query: Query, *, height: int = 4) -> Panel:
    """Which series there were when."""
    defaults: Json = {
        "unit": "none",
        "color": {"mode": "palette-classic"},
        "mappings": [{"type": "value", "options": {"1": {"text": " "}}}],
    }
    options: Json = {"showValue": "never", "rowHeight": 0.8, "legend": {"showLegend": False}}
    return Panel(
        "state-timeline",
        title,
        description,
        (query,),
        COLUMNS,
        height,
        _body(defaults, options, []),
    )


def _body(defaults: Json, options: Json, overrides: list[Json]) -> Json:
    return {"fieldConfig": {"defaults": defaults, "overrides": overrides}, "options": options}


def _steps(*steps: tuple[str, float | None]) -> Json:
    return {"mode": "absolute", "steps": [{"color": name, "value": at} for name, at in steps]}


# Variables


def datasource(chosen: str, uid: str) -> Json:
    return {
        "name": "datasource",
        "label": "Data source",
        "description": "Prometheus shows what was; Sentinel also what is expected past now.",
        "type": "datasource",
        "query": "prometheus",
        "regex": "",
        "refresh": 1,
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "current": {"text": chosen, "value": uid},
        "options": [],
    }


def query_variable(
    name: str,
    label: str,
    description: str,
    query: str,
    *,
    regex: str = "",
    multi: bool = False,
    every: str | None = None,
    sort: int = 1,
) -> Json:
    """A variable whose values Prometheus knows; asked again whenever the time range changes.

    Args:
        regex: its first group is the value.
        every: what "All" stands for: a regular expression, or empty for the values as they are
            known. None leaves it out.
        sort: 1 alphabetical, 4 numbers from the largest.
    """
    return {
        "name": name,
        "label": label,
        "description": description,
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {
            "query": query,
            "refId": "PrometheusVariableQueryEditor-VariableQuery",
            "qryType": 5,
        },
        "regex": regex,
        "refresh": 2,
        "sort": sort,
        "hide": 0,
        "multi": multi,
        "includeAll": every is not None,
        **({"allValue": every} if every else {}),
        "current": {} if every is None else {"text": "All", "value": "$__all"},
        "options": [],
    }


def choice(name: str, label: str, description: str, values: Sequence[str], chosen: str) -> Json:
    return {
        "name": name,
        "label": label,
        "description": description,
        "type": "custom",
        "query": ",".join(values),
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "current": {"text": chosen, "value": chosen, "selected": True},
        "options": [{"text": v, "value": v, "selected": v == chosen} for v in values],
    }


# The whole


def assemble(
    uid: str,
    title: str,
    description: str,
    *,
    variables: Sequence[Json],
    rows: Sequence[Row],
    start: str = "now-6h",
    end: str = "now",
) -> Json:
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": [TAG],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": start, "to": end},
        "timepicker": {},
        "fiscalYearStartMonth": 0,
        "weekStart": "",
        "annotations": {"list": []},
        "links": [
            {
                "title": "Sentinel",
                "type": "dashboards",
                "tags": [TAG],
                "asDropdown": False,
                "includeVars": False,
                "keepTime": False,
                "targetBlank": False,
                "icon": "external link",
                "tooltip": "",
                "url": "",
            }
        ],
        "templating": {"list": list(variables)},
        "panels": _laid_out(rows),
    }


def _laid_out(rows: Sequence[Row]) -> list[Json]:
    """Panels from left to right, a new line where the next one does not fit."""
    placed: list[Json] = []
    y = 0
    for row in rows:
        placed.append(_heading(row, len(placed) + 1, y))
        y += 1
        x = line = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, line = 0, y + line, 0
            placed.append(_drawn(panel, len(placed) + 1, x, y))
            x, line = x + panel.width, max(line, panel.height)
        y += line
    return placed


def _heading(row: Row, number: int, y: int) -> Json:
    return {
        "id": number,
        "type": "row",
        "title": row.title,
        "collapsed": False,
        "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
        "panels": [],
        **({"repeat": row.repeat} if row.repeat else {}),
    }


def _drawn(panel: Panel, number: int, x: int, y: int) -> Json:
    targets = [
        {
            "refId": chr(ord("A") + i),
            "datasource": SOURCE,
            "editorMode": "code",
            "expr": query.expr,
            "legendFormat": query.legend,
            "range": not query.table,
            "instant": query.table,
            "format": "table" if query.table else "time_series",
        }
        for i, query in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "targets": targets,
        **panel.body,
    }
