"""The report is one sound page that trusts no label value and asks nobody for anything."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from sidecar.backtest.charts import nice, time_ticks
from sidecar.backtest.report import page
from sidecar.series import LabelSet
from tests.unit.backtest.made import HISTORY, plan_of, result, signal

TESTED = 48
HOSTILE = "</code><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x1b[2J\x00\u202e"
_VOID = {"meta", "link", "br", "img", "input"}


class Outline(HTMLParser):
    """Collects elements and text, and notes whatever is not closed in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(text: str) -> Outline:
    outline = Outline()
    outline.feed(text)
    outline.close()
    return outline


@pytest.fixture(scope="module")
def hostile_page() -> str:
    names = [LabelSet.of({"__name__": "x", "a": f"{HOSTILE}{row}"}) for row in range(8)]
    values = signal(8, HISTORY + TESTED)
    values[3, HISTORY + 5 : HISTORY + 20] = np.nan
    values[4] = 7.0  # naive is exact
    return page([result(plan_of(values, TESTED, names=names), "linear", "auto")])


def test_every_element_is_closed_and_there_is_no_script(hostile_page: str) -> None:
    outline = read(hostile_page)
    assert outline.wrong == []
    assert outline.open == []
    tags = {tag for tag, _ in outline.elements}
    assert tags.isdisjoint({"script", "img", "iframe", "link", "object", "a"})
    assert not [name for _, attrs in outline.elements for name in attrs if name.startswith("on")]


def test_what_a_label_says_is_shown_as_text(hostile_page: str) -> None:
    shown = "".join(read(hostile_page).text)
    assert "<script>alert(1)</script>" in shown
    assert r"\x1b[2J" in shown
    for raw in ("\x1b", "\x00", "\u202e"):
        assert raw not in hostile_page


def test_the_page_asks_no_server_for_anything(hostile_page: str) -> None:
    outline = read(hostile_page)
    asked = [
        (tag, name)
        for tag, attrs in outline.elements
        for name in attrs
        if name in ("src", "href", "srcset", "action", "data", "xlink:href")
    ]
    assert asked == []
    style = re.search(r"<style>(.*?)</style>", hostile_page, re.DOTALL)
    assert style is not None
    assert not re.search(r"@import|url\(", style[1])
    policy = [a for tag, a in outline.elements if tag == "meta" and "http-equiv" in a]
    assert policy[0]["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_every_number_in_a_drawing_is_finite_and_inside(hostile_page: str) -> None:
    outline = read(hostile_page)
    paths = [attrs["d"] or "" for tag, attrs in outline.elements if tag == "path"]
    assert len(paths) > 10
    assert all(re.fullmatch(r"(?:[ML]-?[0-9.]+ -?[0-9.]+|Z)*", one) for one in paths)
    for tag, attrs in outline.elements:
        for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"):
            if tag in ("rect", "line", "circle", "text") and name in attrs:
                assert -1 <= float(attrs[name] or "nan") <= 1000, (tag, attrs)


def test_worst_and_best_series_are_drawn_three_each(hostile_page: str) -> None:
    text = "".join(read(hostile_page).text)
    assert text.index("Worst series") < text.index("Best series")
    assert hostile_page.count('class="band"') == 6


def test_every_model_has_a_row_and_the_best_is_marked(hostile_page: str) -> None:
    rows = re.findall(r"<tr><th scope=row>.*?</tr>", hostile_page)
    named = [re.search(r"</i>(\w+?)(?: <|<)", row) for row in rows]
    models = [found[1] for found in named if found]
    assert models == ["linear", "auto", "naive", "seasonal_naive"]
    assert "configured" in rows[0]
    assert sum("tag best" in row for row in rows) == 1


def test_both_colour_schemes_define_the_same_colours(hostile_page: str) -> None:
    light, dark = (
        set(re.findall(r"(--[a-z0-9]+):", block))
        for block in re.findall(r":root\{(.*?)\}", hostile_page, re.DOTALL)
    )
    assert light == dark
    assert set(re.findall(r"var\((--[a-z0-9]+)\)", hostile_page)) <= light


def test_one_series_and_one_step_make_a_page_too() -> None:
    text = page([result(plan_of(signal(1, HISTORY + TESTED), TESTED), "linear")])
    outline = read(text)
    assert outline.wrong == []
    assert "Every series" in "".join(outline.text)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1e-9), (-5.0, 5.0), (1e12, 1.1e12), (3.0, 3.0)])
def test_round_numbers_lie_inside_and_are_few(low: float, high: float) -> None:
    ticks = nice(low, high, 5)
    assert 1 <= len(ticks) <= 7
    slack = 1e-6 * max(abs(low), abs(high))
    assert all(low - slack <= tick <= high + slack for tick in ticks)


@pytest.mark.parametrize("hours", [0.25, 1, 6, 24, 72, 24 * 30, 24 * 400])
def test_times_on_the_axis_are_few_and_within(hours: float) -> None:
    start = 1_700_000_123_456
    end = start + int(hours * 3_600_000)
    ticks = time_ticks(start, end)
    assert 1 <= len(ticks) <= 7
    assert all(start <= at <= end for at, _ in ticks)
