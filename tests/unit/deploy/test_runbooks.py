"""One runbook for each alert, and nothing in them that is not there: commands, settings, PromQL."""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli import command_line
from sidecar.cli.orders import ORDERS, QUESTIONS
from sidecar.config import SentinelConfig, WatchConfig
from sidecar.config.schema import AnomalyConfig, PublishConfig
from sidecar.learning.gate import Gate
from sidecar.names import EMITTED_LABELS, OUTPUT_SUFFIXES, DropReason, Reason
from tests.test_house import ROOT
from tests.unit.deploy.vocabulary import complaints, grouping_complaints, rules

FOLDER = ROOT / "deploy/runbooks"
RUNBOOKS = sorted(FOLDER.glob("*.md"))
HEADINGS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
# What the examples in the texts watch, and the label they ask about.
SOURCES = frozenset({"node_load1", "http_requests_total"})

each = pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)


def fenced(path: Path, language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)
    return [" ".join(text.split()) for text in found]


def words(path: Path) -> Iterator[str]:
    """What stands between single backticks."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    return (" ".join(found.split()) for found in re.findall(r"`([^`]+)`", text))


def settings(cls: type[Any]) -> set[str]:
    return {one.name for one in fields(cls)} if is_dataclass(cls) else set()


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert [path.stem for path in RUNBOOKS] == sorted(rule["alert"] for rule in rules("alert"))


@each
def test_a_runbook_says_what_it_means_what_it_costs_how_to_look_and_what_to_do(path: Path) -> None:
    text = path.read_text()
    assert text.startswith(f"# {path.stem}\n")
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    assert parts[1::2] == HEADINGS
    assert all(len(part.strip()) > 20 for part in parts[2::2])


@each
def test_the_queries_of_a_runbook_speak_of_series_that_exist(path: Path) -> None:
    for expr in fenced(path, "promql"):
        assert complaints(expr, SOURCES) + grouping_complaints(expr, frozenset({"path"})) == []


@each
def test_a_runbook_gives_something_to_ask_or_to_run(path: Path) -> None:
    assert fenced(path, "promql") + fenced(path, "sh")


@each
def test_the_commands_of_a_runbook_are_those_of_the_program(path: Path) -> None:
    said = [*fenced(path, "sh"), *words(path)]
    for command in (one for one in said if one.startswith("sentinel ")):
        arguments = _split(command)[1:]
        if len(arguments) == 1 and arguments[0] in {*ORDERS, *QUESTIONS, "explain"}:
            arguments += ["x"]  # named in passing, without its series
        command_line().parse_args(arguments)


def _split(command: str) -> list[str]:
    return [part.strip("'") for part in re.findall(r"'[^']*'|\S+", command)]


@each
def test_the_settings_and_codes_that_a_runbook_names_exist(path: Path) -> None:
    anomaly = {f"anomaly.{name}" for name in settings(AnomalyConfig)}
    sections = {f"{side}.{name}" for side in ("remote_read", "remote_write") for name in ("url",)}
    sections |= {f"publish.{name}" for name in settings(PublishConfig)}
    known = (
        settings(SentinelConfig)
        | settings(WatchConfig)
        | anomaly
        | sections
        | {one.value for one in (*Gate, *Reason, *DropReason)}
        | {
            "unavailable",
            "rejected",
            "over_budget",
            "basic_auth",
            "authorization",
            "headers",
            "url",
        }
        | {"prometheus_url", "none", *EMITTED_LABELS, *OUTPUT_SUFFIXES}
        | {"sentinel", "dmesg", "timedatectl"}
    )
    named = {word for word in words(path) if re.fullmatch(r"[a-z_]{3,}(?:\.[a-z_]+)?", word)}
    assert named - known == set()


@each
def test_links_between_runbooks_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (FOLDER / target).exists()
    named = set(re.findall(r"\bSentinel[A-Z][A-Za-z]+\b", text)) - {path.stem}
    assert named <= {one.stem for one in RUNBOOKS}
