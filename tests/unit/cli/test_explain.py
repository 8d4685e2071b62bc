"""``sentinel explain``: why so, why not, and what to do; with a plot; at 80 columns."""

import json
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

import pytest

from sidecar.cli import explain as cli
from sidecar.cli import main, outlook, status
from sidecar.cli.advice import ADVICE
from sidecar.cli.client import Client
from sidecar.errors import SidecarError
from sidecar.known import Known
from sidecar.names import Reason
from sidecar.serve.status import status_page
from sidecar.serve.status_api import encoded, wanted_of
from tests.unit.serve.made_watches import known_series, watch_of

VERSION = {
    "version": 2,
    "status": "active",
    "model": "linear",
    "policy": "full_retrain",
    "cause": "drift",
    "drift": 3.21,
    "gate": "promoted",
    "mae": 0.5,
    "n_samples": 1440,
    "trained_at_ms": 1_700_000_000_000,
}
CHANGE = {"at_ms": 1_700_000_000_000, "who": "drift", "what": "promote", "to_version": 2}


@pytest.fixture(scope="module")
def known() -> Known:
    return known_series(4)


class Sidecar:
    """Answers as a running one would, without a socket."""

    def __init__(self, known: Known) -> None:
        self.watches = [watch_of(known, reasons=[None, Reason.GAP])]
        self.on_server = 0
        self.asked_for: list[tuple[str, dict[str, list[str]]]] = []

    def asked(self, _: Client, path: str, order: Mapping[str, Any] | None = None) -> dict[str, Any]:
        url = urllib.parse.urlsplit(path)
        query = urllib.parse.parse_qs(url.query)
        self.asked_for.append((url.path, query))
        match url.path:
            case "/api/v1/status":
                wanted = wanted_of(query)
                page = encoded(status_page(self.watches, (), wanted), wanted)
                answer: dict[str, Any] = json.loads(page)
                return answer
            case "/api/v1/models/versions":
                watch, (series,) = self.watches[0].watch_id, query["match[]"]
                other = {**VERSION, "version": 9, "series": series.replace("}", ', more="x"}')}
                elsewhere = {**VERSION, "version": 8, "series": series, "watch": "other"}
                own = {**VERSION, "series": series, "watch": watch}
                return {"data": [own, other, elsewhere]}
            case "/api/v1/models/audit":
                return {"data": [{**CHANGE, "series": query["match[]"][0], "labels": None}]}
            case "/api/v1/query":
                result = [{"value": [0, str(self.on_server)]}] if self.on_server else []
                return {"status": "success", "data": {"result": result}}
            case "/api/v1/query_range":
                return self._range(query)
        raise AssertionError(path)

    def _range(self, query: dict[str, list[str]]) -> dict[str, Any]:
        name = query["query"][0].removeprefix("last_over_time(").partition("{")[0]
        start, end, step = (float(query[n][0]) for n in ("start", "end", "step"))
        values: list[list[Any]] = []
        level = {"x": 5.0, "x_sentinel_expected": 5.0}.get(name)
        level = {"x_sentinel_expected_lower": 2.0, "x_sentinel_expected_upper": 8.0}.get(
            name, level
        )
        at = start
        while level is not None and at <= end:
            values.append([at, str(level + (at / step) % 7 / 10)])
            at += step
        result = [{"metric": {}, "values": values}] if values else []
        return {"status": "success", "data": {"result": result}}


@pytest.fixture
def sidecar(monkeypatch: pytest.MonkeyPatch, known: Known) -> Sidecar:
    made = Sidecar(known)
    for module in (cli, status, outlook):
        monkeypatch.setattr(module, "asked", made.asked)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("SENTINEL_CONFIG", raising=False)
    return made


def test_a_series_is_explained_at_80_columns(
    sidecar: Sidecar, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", 'x{instance="s0"}']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == 'x{instance="s0"}'
    heads = [found.group().split()[0] for line in lines if (found := re.match("  [a-z]+ ", line))]
    assert heads == ["state", "accuracy", "lookback", "versions", "changes"]
    text = " ".join(" ".join(lines).split())
    assert "serving: v1 of linear, 5m ahead at 1m" in text
    assert "x its own at the fit" in text
    assert "v2 active: linear full_retrain for drift at 3.2x its error, promoted" in text
    assert "v9" not in text  # of a series that has these labels and more
    assert "v8" not in text  # of another watch
    assert "2023-11-14T22:13:20+00:00 drift: promote v2" in text


def test_the_plot_shows_past_and_future_with_the_band(
    sidecar: Sidecar, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", 'x{instance="s0"}']) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if "│" in line or "|" in line]
    assert len(rows) == 12
    assert any("now" in line for line in lines)
    assert "actual" in lines[-1]
    drawn = "".join(rows)
    assert any("\u2800" < cell <= "\u28ff" for cell in drawn)
    assert "░" in drawn
    asked = [q["query"][0] for path, q in sidecar.asked_for if path.endswith("query_range")]
    assert asked == [
        'last_over_time(x_sentinel_actual{instance="s0"}[1m])',
        'x{instance="s0"}',
        'last_over_time(x_sentinel_expected{instance="s0"}[1m])',
        'last_over_time(x_sentinel_expected_lower{instance="s0"}[1m])',
        'last_over_time(x_sentinel_expected_upper{instance="s0"}[1m])',
    ]


@pytest.mark.parametrize(
    ("transform", "expr"),
    [
        ("rate", 'rate(x{instance="s0"}[2m])'),
        ("delta", 'x{instance="s0"} - x{instance="s0"} offset 1m'),
    ],
)
def test_before_an_actual_is_stored_the_series_is_drawn_as_its_model_sees_it(
    sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch, transform: str, expr: str
) -> None:
    monkeypatch.setattr(sidecar.watches[0], "transform", transform)
    assert main(["explain", 'x{instance="s0"}']) == 0
    asked = [q["query"][0] for path, q in sidecar.asked_for if path.endswith("query_range")]
    assert asked[1] == expr


def test_a_series_without_a_prediction_is_told_why_and_what_to_do(
    sidecar: Sidecar, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", 'x{instance="s1"}']) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"no fresh prediction: gap: {ADVICE[Reason.GAP]}" in text


@pytest.mark.parametrize("reason", list(Reason))
def test_there_is_advice_for_every_reason(reason: Reason) -> None:
    assert len(ADVICE[reason]) > 40


@pytest.mark.parametrize(
    ("arguments", "on_server", "words"),
    [
        (["lonely"], 0, "the server has no such series now"),
        (["lonely"], 3, "the server has 3 of them, but no watch selects it: add '- metric: lonely"),
        (["y", "--watch", "y"], 2, "watches[0] of this configuration is on that metric"),
    ],
)
def test_a_series_that_is_not_watched_is_told_why(
    sidecar: Sidecar,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    on_server: int,
    words: str,
) -> None:
    sidecar.on_server = on_server
    assert main(["explain", *arguments]) == 1
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""


def test_where_nothing_can_be_drawn_the_rest_is_said(
    sidecar: Sidecar, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> Any:
        raise SidecarError("Prometheus is \x1b[2Jdown")

    monkeypatch.setattr(outlook, "asked", refused)
    assert main(["explain", 'x{instance="s0"}']) == 0
    out = capsys.readouterr().out
    assert r"no plot: Prometheus is \x1b[2Jdown" in out
    assert "accuracy" in out


def test_several_series_are_said_one_after_the_other(
    sidecar: Sidecar, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_SAID", 3)
    monkeypatch.setattr(cli, "_DRAWN", 1)
    assert main(["explain", "x"]) == 0
    said = capsys.readouterr()
    assert [line for line in said.out.splitlines() if line.startswith("x{")] == [
        f'x{{instance="s{i}"}}' for i in range(3)
    ]
    assert said.out.count("its band") == 1
    assert "1 more series are selected" in said.err


def test_a_sources_label_that_we_set_too_is_asked_for_under_its_new_name() -> None:
    labels = {"__name__": "x", "sentinel_step": "3", "a": 'q"'}
    assert outlook.exactly(labels, "_sentinel_expected") == (
        'x_sentinel_expected{a="q\\"", exported_sentinel_step="3"}'
    )
    assert outlook.exactly(labels, "") == 'x{a="q\\"", sentinel_step="3"}'


def test_of_a_watch_that_cannot_begin_the_reason_is_told(
    sidecar: Sidecar, capsys: pytest.CaptureFixture[str]
) -> None:
    sidecar.watches = [watch_of(None, trouble="query refused: too many series")]
    assert main(["explain", "x"]) == 1
    told = "watch x has not begun: query refused: too many series"
    assert told in capsys.readouterr().err
