"""The shipped rules: they load, speak of what exists, and every alert is tested and explained."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_house import ROOT
from tests.unit.deploy.vocabulary import (
    RULES,
    complaints,
    grouping_complaints,
    recorded,
    rules,
)

CASES = sorted((Path(__file__).parent / "promtool").glob("*.yml"))
ALERTS = rules("alert")
EXPRESSIONS = [
    (rule.get("alert") or rule["record"], rule["expr"]) for rule in rules("record") + ALERTS
]
RUNBOOKS = "https://github.com/sentinel-sidecar/sentinel-sidecar/blob/main/deploy/runbooks/"


def promtool(*arguments: object) -> str:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def cases(path: Path) -> list[dict[str, Any]]:
    tests: list[dict[str, Any]] = yaml.safe_load(path.read_text())["tests"]
    return tests


def alert_cases() -> list[dict[str, Any]]:
    return [one for path in CASES for test in cases(path) for one in test["alert_rule_test"]]


def test_promtool_finds_nothing_to_say_about_the_rules() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *sorted(RULES.glob("*.yml")))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_not_before(path: Path) -> None:
    promtool("test", "rules", path)


@pytest.mark.parametrize("alert", [rule["alert"] for rule in ALERTS])
def test_every_alert_is_seen_firing_and_seen_silent(alert: str) -> None:
    expected = [bool(one["exp_alerts"]) for one in alert_cases() if one["alertname"] == alert]
    assert True in expected
    assert False in expected


def test_no_case_is_about_an_alert_that_is_gone() -> None:
    assert {one["alertname"] for one in alert_cases()} == {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize(("name", "expr"), EXPRESSIONS, ids=[name for name, _ in EXPRESSIONS])
def test_rules_speak_of_series_that_exist(name: str, expr: str) -> None:
    assert complaints(expr) + grouping_complaints(expr, frozenset()) == []


def test_what_does_not_exist_is_complained_about() -> None:
    assert complaints("sentinel_nothing_total") != []
    assert complaints('sentinel_series{state="happy"}') != []
    assert complaints('sentinel_cycles_total{reason="x"}') != []
    assert complaints('{__name__=~".+_sentinel_guess"}') != []
    assert complaints('sentinel_no_prediction{reason!~"gap|nonsense"}') != []
    assert grouping_complaints("sum by (colour) (up)", frozenset()) != []


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_alerts_tell_the_operator_what_happened_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"Sentinel[A-Z][A-Za-z]+", rule["alert"])
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    said = rule["annotations"]
    assert set(said) == {"summary", "description", "runbook_url"}
    assert said["runbook_url"] == f"{RUNBOOKS}{rule['alert']}.md"
    assert len(said["summary"]) < 160
    assert not said["summary"].endswith(".")
    assert len(said["description"]) > 40


def test_the_address_of_the_runbooks_is_that_of_the_project() -> None:
    urls = re.findall(r"https://github\.com/[\w-]+/[\w-]+/", (ROOT / "pyproject.toml").read_text())
    assert RUNBOOKS.startswith(urls[0])


def test_every_recorded_series_is_used_by_an_alert() -> None:
    used = " ".join(rule["expr"] for rule in ALERTS + rules("record"))
    assert [name for name in recorded() if name not in used] == []
