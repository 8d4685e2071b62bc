"""Which series and labels a rule, a dashboard or a runbook may speak of: those that exist.

The tables of ``names.py`` are the truth for what Sentinel says; what Prometheus adds and what the
shipped recording rules make is read from where it is made.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml
from prometheus_client import CollectorRegistry, ProcessCollector

from sidecar.learning.gate import Gate
from sidecar.learning.schedule import Trigger
from sidecar.names import (
    EMITTED_LABELS,
    METRIC_NAME,
    OUTPUT_SUFFIXES,
    SELF_METRICS,
    DropReason,
    Reason,
    Refusal,
    is_own_output,
)
from sidecar.series import MatchOp
from sidecar.serve.promql.matchers import LabelMatcher
from sidecar.serve.promql.parse import parse
from sidecar.serve.promql.syntax import VectorSelector, metric_of, selectors
from sidecar.serve.status import STATES
from tests.test_house import ROOT

RULES: Final = ROOT / "deploy/prometheus/rules"
# What any Prometheus makes of a target, a rule or itself.
_OF_PROMETHEUS: Final = {"up", "ALERTS", "scrape_duration_seconds"}
# What a target gets from its scrape, and what the rules add to tell metrics apart.
_TARGET_LABELS: Final = {"job", "instance", "le"}
_RULE_LABELS: Final = {"sentinel_metric"}
_VALUES: Final = {
    ("sentinel_series", "state"): set(STATES),
    ("sentinel_no_prediction", "reason"): {one.value for one in Reason},
    ("sentinel_remote_write_samples_dropped_total", "reason"): {one.value for one in DropReason},
    ("sentinel_remote_write_samples_refused_total", "reason"): {one.value for one in Refusal},
    ("sentinel_cycles_total", "result"): {"ok", "error"},
    ("sentinel_remote_read_requests_total", "result"): {
        "ok",
        "unavailable",
        "rejected",
        "over_budget",
    },
    ("sentinel_trainings_total", "trigger"): {one.name.lower() for one in Trigger},
    ("sentinel_trainings_total", "result"): {one.value for one in (*Gate, *Reason)},
}


def rule_groups(path: Path) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load(path.read_text())["groups"]
    return groups


def rules(kind: str) -> list[dict[str, Any]]:
    """Every shipped rule of a kind, ``alert`` or ``record``."""
    return [
        rule
        for path in sorted(RULES.glob("*.yml"))
        for group in rule_groups(path)
        for rule in group["rules"]
        if kind in rule
    ]


@cache
def recorded() -> frozenset[str]:
    return frozenset(rule["record"] for rule in rules("record"))


@cache
def self_metrics() -> dict[str, frozenset[str]]:
    """Names of the series on ``/metrics?collect[]=self`` and their labels."""
    found: dict[str, frozenset[str]] = {}
    for metric in SELF_METRICS:
        labels = frozenset(metric.labels)
        if metric.kind == "histogram":
            found |= {metric.name + end: labels for end in ("_bucket", "_count", "_sum")}
        else:
            found[metric.name] = labels
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    process = {
        sample.name: frozenset[str]() for one in registry.collect() for sample in one.samples
    }
    return {**found, **process}


def complaints(expr: str, sources: frozenset[str] = frozenset()) -> list[str]:
    """What an expression speaks of that is not there; empty where all is.

    Args:
        sources: names of the watched metrics, which are the user's own.
    """
    return [said for one in selectors(parse(expr)) for said in _of_selector(one, sources)]


def _of_selector(selector: VectorSelector, sources: frozenset[str]) -> Iterator[str]:
    metric = metric_of(selector)
    if metric is None:
        yield from _of_pattern(selector)
        return
    if metric in sources or is_own_output(metric) or metric in recorded():
        return
    if metric in _OF_PROMETHEUS:
        return
    if metric not in self_metrics():
        yield f"there is no metric {metric}"
        return
    for matcher in selector.matchers:
        yield from _of_self_metric(metric, matcher)


def _of_self_metric(metric: str, matcher: LabelMatcher) -> Iterator[str]:
    if matcher.name == METRIC_NAME or matcher.name in _TARGET_LABELS:
        return
    if matcher.name not in self_metrics()[metric]:
        yield f"{metric} has no label {matcher.name}"
        return
    known = _VALUES.get((metric, matcher.name))
    if known is not None:
        named = matcher.value.split("|") if matcher.op in _PATTERNS else [matcher.value]
        yield from (
            f"{metric} has no {matcher.name}={value!r}" for value in named if value not in known
        )


_PATTERNS: Final = (MatchOp.REGEX, MatchOp.NOT_REGEX)


def _of_pattern(selector: VectorSelector) -> Iterator[str]:
    """A selector without a name must choose one kind of output by its suffix."""
    patterns = [m.value for m in selector.matchers if m.name == METRIC_NAME and m.op in _PATTERNS]
    for pattern in patterns or [""]:
        if not any(pattern.endswith(suffix) for suffix in OUTPUT_SUFFIXES):
            yield f"{pattern!r} chooses no output series"


def grouping_complaints(expr: str, labels: frozenset[str]) -> list[str]:
    """Labels named in ``by``, ``without``, ``on``, ``ignoring`` that nobody has.

    Args:
        labels: those of the user's own series that the text may name.
    """
    known = labels | _TARGET_LABELS | _RULE_LABELS | set(EMITTED_LABELS)
    known |= {label for some in self_metrics().values() for label in some}
    clauses = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expr)
    named = {name.strip() for clause in clauses for name in clause.split(",") if name.strip()}
    return [f"no series has the label {name}" for name in sorted(named - known)]
