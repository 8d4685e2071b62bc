"""``sentinel status`` on terminals of several widths, in pipes, and live."""

import argparse
import io
import json
import urllib.parse
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console, RenderableType

from sidecar.cli import command_line, main
from sidecar.cli import status as cli
from sidecar.cli.client import Client
from sidecar.config import SentinelConfig
from sidecar.errors import ConfigError, SidecarError
from sidecar.known import Known
from sidecar.names import Reason
from sidecar.serve.status import Wanted, status_page
from sidecar.serve.status_api import encoded, wanted_of
from tests.unit.serve.made_watches import known_series, watch_of

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
CONFIG = SentinelConfig()
CLIENT = Client("http://sidecar:8080")


@pytest.fixture(scope="module")
def known() -> Known:
    return known_series(40)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, known: Known) -> list[str]:
    """The status API without a socket; the paths that were asked for."""
    watches = [watch_of(known, reasons=[Reason.GAP, None, Reason.GAP])]
    paths: list[str] = []

    def asked(_: Client, path: str, order: Mapping[str, Any] | None = None) -> Any:
        assert order is None
        paths.append(path)
        url = urllib.parse.urlsplit(path)
        assert url.path == "/api/v1/status"
        try:
            wanted = wanted_of(urllib.parse.parse_qs(url.query))
        except ValueError as error:
            return {"status": "error", "error": str(error)}
        return json.loads(encoded(status_page(watches, (), wanted), wanted))

    monkeypatch.setattr(cli, "asked", asked)
    return paths


def options(*arguments: str) -> argparse.Namespace:
    return command_line().parse_args(["status", *arguments])


def drawn(what: RenderableType, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(what)
    return [line.rstrip() for line in capture.get().splitlines()]


def one_series(**changes: Any) -> dict[str, Any]:
    plain = {
        "reason": None,
        "state": "serving",
        "active_version": "v12",
        "drift_mae": 0.01234567,
        "active_version_mae": 0.01,
        "pinned": False,
        "mase": 0.8123,
        "coverage": 0.953,
        "last_train": "2026-01-31T09:00:00+00:00",
    }
    return {**plain, **changes}


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_table_fits_and_its_figures_are_whole(width: int) -> None:
    name = 'http_requests_total{instance="very-long-host-name-17.example:9100", job="api"}'
    lines = drawn(cli.table({name: one_series()}, width, NOW), width)
    assert max(map(len, lines)) <= width
    assert lines[0].split() == ["series", "state", "ver", "MAE", "drift", "MASE", "band", "fit"]
    row = lines[2].split()
    assert row[-7:] == ["serving", "v12", "0.01235", "1.2x", "0.81", "95%", "3h"]
    assert lines[2].startswith("http_requests_total{inst")
    assert (name in lines[2]) == (width == 200)


def test_a_reason_stands_below_its_series() -> None:
    facts = {"x": one_series(reason="gap", state="waiting", active_version=None, mase=None)}
    lines = drawn(cli.table(facts, 80, NOW), 80)
    assert lines[3] == "  gap"
    assert lines[2].split()[1:3] == ["waiting", "-"]


@pytest.mark.parametrize(
    ("instant", "age"),
    [
        ("2026-01-31T11:59:30+00:00", "30s"),
        ("2026-01-31T11:58:00+00:00", "2m"),
        ("2026-01-29T12:00:00+00:00", "2d"),
        ("2026-01-31T12:00:09+00:00", "0s"),
        (None, "-"),
    ],
)
def test_the_age_of_a_fit(instant: str | None, age: str) -> None:
    lines = drawn(cli.table({"x": one_series(last_train=instant)}, 80, NOW), 80)
    assert lines[2].split()[-1] == age


def test_no_label_value_moves_the_cursor() -> None:
    facts = {'x{a="\x1b[2J"}': one_series(model="auto", horizon="5m")}
    assert "\x1b" not in "\n".join(drawn(cli.table(facts, 120, NOW), 120))
    assert cli.lines(facts)[0].startswith(r'x{a="\x1b[2J"}: serving; auto, 5m ahead, v12')


def test_all_pages_are_put_together(served: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_PAGE", 7)
    answer = cli.pages(CLIENT, [("state", "serving")], None)
    assert len(answer["data"]) == 40
    assert len(served) == 6
    assert len(cli.pages(CLIENT, [], 10)["data"]) == 10


def test_a_pipe_gets_a_line_a_series(served: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--reason", "gap"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out] == ['x{instance="s0"}', 'x{instance="s2"}']
    assert all("serving (gap); linear, 5m ahead, v1" in line for line in out)


def test_filters_are_passed_on_and_what_is_left_out_is_said(
    served: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["x{instance=~'s1.*'}", "--state", "serving", "--sort", "mase", "--limit", "3"]
    assert main(["status", *arguments]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 3
    assert "8 more; --limit" in said.err
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(served[0]).query)
    assert query == {
        "match[]": ['x{instance=~"s1.*"}'],
        "state": ["serving"],
        "sort": ["mase"],
        "limit": ["3"],
        "offset": ["0"],
    }


def test_json_is_the_facts_alone(served: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "x{instance='s7'}", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert list(facts) == ['x{instance="s7"}']


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["y"], 1, "no watched series is selected by y"),
        (["--state", "gone"], 1, "state is 'gone', but must be one of serving"),
        (["--limit", "0"], 2, "--limit: is at least 1"),
        (["--watch", "0"], 2, "--watch: is from 0.2 to 3600 seconds"),
        (["--watch"], 1, "--watch needs a terminal"),
        (["x{"], 2, "x{"),
    ],
)
def test_what_is_wrong_is_said(
    served: list[str],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    assert main(["status", *arguments]) == status
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("height", [12, 24, 60])
def test_a_frame_fits_the_screen_and_shows_the_worst_first(served: list[str], height: int) -> None:
    lines = drawn(cli.screen(CLIENT, [("sort", "drift")], 80, height), 80)
    assert len(lines) <= height
    assert lines[0].startswith("Sentinel  ")
    assert lines[1].startswith("40 series  40 serving  (2 gap)")
    assert lines[-1].endswith("Ctrl-C ends")
    rows = [line for line in lines if line.startswith("x{")]
    drifts = [float(line.split()[-4].rstrip("x")) for line in rows]
    assert drifts == sorted(drifts, reverse=True)
    assert (len(rows) == 40) == (height == 60)
    assert ("more below" in lines[-1]) == (height < 60)


def test_a_frame_says_when_the_sidecar_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> Any:
        raise SidecarError("no sidecar answers")

    monkeypatch.setattr(cli, "asked", gone)
    assert drawn(cli.screen(CLIENT, [], 80, 24), 80)[1] == "no sidecar answers"


def test_an_option_that_is_wrong_is_not_blamed_on_the_file() -> None:
    with pytest.raises(ConfigError):
        cli.status(CONFIG, options("--limit", "-3"))


def test_a_watch_that_cannot_begin_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, known: Known, capsys: pytest.CaptureFixture[str]
) -> None:
    watches = [watch_of(known), watch_of(None, trouble="parse error: unexpected )")]
    page = json.loads(encoded(status_page(watches, (), Wanted()), Wanted()))
    monkeypatch.setattr(cli, "asked", lambda *_: page)
    line = "watch x has not begun: parse error: unexpected )"
    for more in ([], ["--json"]):
        assert main(["status", *more]) == 0
        assert capsys.readouterr().err == f"sentinel: {line}\n"
    assert "1 watch cannot begin" in cli.counted(page["page"]).plain
    assert cli.not_begun(page["page"], "x") == [line]
    assert cli.not_begun(page["page"], "y") == []


def test_that_nothing_is_delivered_is_said(
    monkeypatch: pytest.MonkeyPatch, known: Known, capsys: pytest.CaptureFixture[str]
) -> None:
    held = replace(
        status_page([watch_of(known)], (), Wanted()), not_delivered=("it refuses us: \x1b[1m404",)
    )
    page = json.loads(encoded(held, Wanted()))
    monkeypatch.setattr(cli, "asked", lambda *_: page)
    for more in ([], ["--json"]):
        assert main(["status", *more]) == 0
        assert capsys.readouterr().err == "sentinel: it refuses us: \\x1b[1m404\n"
    assert "nothing is delivered" in cli.counted(page["page"]).plain
