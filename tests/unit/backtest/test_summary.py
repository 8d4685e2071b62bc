"""What a backtest is said to come to."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from sidecar.backtest.summary import ModelResult, WatchResult, ranked, verdict
from sidecar.backtest.table import as_json, show
from sidecar.names import Reason
from sidecar.series import LabelSet
from tests.unit.backtest.made import HISTORY, plan_of, result, signal

TESTED = 48


@pytest.fixture(scope="module")
def found() -> WatchResult:
    return result(plan_of(signal(4, HISTORY + TESTED), TESTED), "auto", "linear")


def said(found: WatchResult, **changes: object) -> str:
    main = replace(found.main, **changes)  # type: ignore[arg-type]
    return " ".join(verdict(replace(found, rows=(main, *found.rows[1:]))))


def with_reasons(row: ModelResult, *reasons: Reason | None) -> ModelResult:
    return replace(row, replayed=replace(row.replayed, reasons=reasons))


@pytest.mark.parametrize(
    ("mase", "words"),
    [
        (0.5, "auto beats naive: its error one step ahead is 0.50 of naive's, 0.70 at 5m"),
        (1.02, "auto is about as good as naive"),
        (1.2, "auto is worse than naive"),
        (np.nan, "auto cannot be held against naive"),
    ],
)
def test_a_model_is_held_against_naive(found: WatchResult, mase: float, words: str) -> None:
    assert words in said(found, mase=mase, far_mase=0.7)


def test_several_series_are_counted_and_one_is_not(found: WatchResult) -> None:
    assert "(medians over 4 series); better on 3 of 4." in said(found, mase=0.5, wins=3)
    assert "medians" not in said(found, mase=0.5, wins=1, judged=1)


def test_it_says_what_auto_would_serve_and_where_naive_would_take_over(found: WatchResult) -> None:
    lines = ("lags: clearly better", "profile of 1d at 9%; lags: x", "median of members: none", "")
    row = replace(found.main, replayed=replace(found.main.replayed, explained=lines))
    row = replace(row, replayed=replace(row.replayed, naive_better=np.array([True, 0, 0, 0], bool)))
    text = " ".join(verdict(replace(found, rows=(row, *found.rows[1:]))))
    assert "auto would serve lags for 2, the median of its members for 1" in text
    assert "live, the gate would let naive serve 1 of them" in text


def test_a_better_model_is_named_with_what_to_write(found: WatchResult) -> None:
    better = replace(found.rows[1], mase=0.3)
    text = " ".join(verdict(replace(found, rows=(found.rows[0], better, *found.rows[2:]))))
    assert "linear did better (0.30): try model: linear." in text


@pytest.mark.parametrize(
    ("coverage", "words"),
    [(0.80, "80.0% of what came: it is too narrow."), (0.99, "too wide"), (0.95, "what came.")],
)
def test_a_band_that_does_not_hold_what_it_says_is_called_so(
    found: WatchResult, coverage: float, words: str
) -> None:
    assert words in said(found, coverage=coverage)


@pytest.mark.parametrize(
    ("inside", "of", "words"),
    [
        (12, 12, "held 100.0% of what came: 12 instants are too few to tell"),
        (72, 72, "72 instants are too few"),
        (1000, 1000, "too wide"),
        (8, 12, "66.7% of what came: it is too narrow"),
        (9_800, 10_000, "too wide"),
    ],
)
def test_a_band_is_not_judged_on_too_few_instants(
    found: WatchResult, inside: int, of: int, words: str
) -> None:
    assert words in said(found, coverage=inside / of, banded=of)


@pytest.mark.parametrize("level", [0.0, 42.0])
def test_a_constant_is_no_reason_to_call_a_band_too_wide(level: float) -> None:
    constant = np.full((1, HISTORY + TESTED), level)
    alone = result(plan_of(constant, TESTED), "linear")
    assert "too wide" not in " ".join(verdict(alone))
    assert "exact" in " ".join(verdict(alone))
    noisy = signal(1, HISTORY + TESTED)
    among = result(plan_of(np.vstack([noisy, constant, constant]), TESTED), "linear").main
    assert among.coverage == result(plan_of(noisy, TESTED), "linear").main.coverage


def test_a_configured_model_that_is_worse_than_naive_is_named(found: WatchResult) -> None:
    worse = replace(found.rows[1], mase=1.4)
    mixed = replace(found, configured="linear", rows=(found.rows[0], worse, *found.rows[2:]))
    text = " ".join(verdict(mixed))
    assert "linear, which this watch has now, is worse than naive: 1.40 of its error." in text
    assert "which this watch has now" not in " ".join(verdict(replace(mixed, configured="auto")))


def test_series_that_could_not_be_fitted_are_counted_by_reason(found: WatchResult) -> None:
    row = with_reasons(found.main, None, None, None, Reason.INSUFFICIENT_HISTORY)
    text = " ".join(verdict(replace(found, rows=(replace(row, unfitted=1), *found.rows[1:]))))
    assert "1 series could not be fitted (insufficient_history: 1)." in text


def test_where_nothing_could_be_forecast_it_says_why(found: WatchResult) -> None:
    row = with_reasons(replace(found.main, judged=0), *[Reason.INSUFFICIENT_HISTORY] * 4)
    text = verdict(replace(found, rows=(row, *found.rows[1:])))
    assert text == ["auto could forecast none of these series: insufficient_history (4 series)."]


def test_series_are_ranked_by_their_error_against_naive(found: WatchResult) -> None:
    order = ranked(found.main)
    errors = found.main.figures.mase[order, 0]
    assert sorted(order) == [0, 1, 2, 3]
    assert (np.diff(errors) >= 0).all()


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal_and_has_a_row_for_each_model(
    found: WatchResult, width: int
) -> None:
    names = ("auto", "exponential_smoothing", "naive", "seasonal_naive")
    rows = tuple(replace(row, model=name) for row, name in zip(found.rows, names, strict=True))
    text = printed(replace(found, rows=rows), width)
    table = [line for line in text.splitlines() if line.split("  ")[0].rstrip(" *") in names]
    assert [line.split()[0] for line in table] == list(names)
    assert max(len(line) for line in text.splitlines()) <= width
    heads = next(line for line in text.splitlines() if line.startswith("model"))
    assert heads.split()[:5] == ["model", "MAE", "MASE", "vs", "1d"]
    assert [len(row.split()) for row in table[1:]] == [8] * 3
    assert table[0].startswith("auto *")
    assert "1.000" in table[2]


def test_a_label_value_cannot_move_the_cursor() -> None:
    value = "\x1b[2J\x1b]0;owned\x07[bold]\u202e"
    hostile = [LabelSet.of({"__name__": "x", "a": value, "b": str(row)}) for row in range(2)]
    plan = plan_of(signal(2, HISTORY + TESTED), TESTED, names=hostile)
    text = printed(result(plan, "linear"), 80)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert r"\x1b[2J" in text
    assert "[bold]" in text


def test_json_holds_every_figure_and_no_nan(found: WatchResult) -> None:
    text = json.dumps(as_json(found), allow_nan=False)
    data = json.loads(text)
    assert [row["model"] for row in data["models"]] == ["auto", "linear", "naive", "seasonal_naive"]
    first = data["models"][0]
    assert [lead["lead"] for lead in first["leads"]] == [1, 2, 4, 5]
    assert [one["series"] for one in first["by_series"]] == [str(one) for one in found.labels]
    assert first["mase"] == pytest.approx(found.main.mase)
    assert data["series"] == 4


def printed(found: WatchResult, width: int) -> str:
    out = io.StringIO()
    show(found, Console(file=out, width=width, force_terminal=False))
    return out.getvalue()
