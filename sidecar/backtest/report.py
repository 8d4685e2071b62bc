"""A backtest as one page of HTML: opens from disk or mail, asks nothing of any server.

Label values are hostile input: whatever comes from outside goes through ``_text``, and the page
forbids itself scripts and requests.
"""

from collections.abc import Sequence
from html import escape
from typing import Final

import numpy as np

from sidecar.backtest import charts
from sidecar.backtest.style import STYLE
from sidecar.backtest.summary import ABOUT, ModelResult, WatchResult, ranked, verdict
from sidecar.backtest.table import HEADINGS, cells_of, described, least_mase, percent, ratio
from sidecar.names import METRIC_NAME
from sidecar.printable import printable
from sidecar.series import LabelSet

_DRAWN: Final = 3
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"


def page(results: Sequence[WatchResult]) -> str:
    """The whole page, one section a watch."""
    sections = "".join(_section(result) for result in results)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Sentinel backtest: {_text(results[0].selector)}</title>"
        f"<style>{STYLE}</style></head><body><header><p class=brand>Sentinel</p>"
        "<h1>Backtest</h1><p>How models would have forecast the past, each instant from the data "
        f"before it.</p></header><main>{sections}</main>{_FOOTER}</body></html>\n"
    )


_FOOTER: Final = (
    "<footer><p><b>MAE</b> mean absolute error, in the series' unit. <b>MASE</b> that error "
    "against the naive forecast's (as it was at the origin): below 1 is better than naive. "
    "<b>vs 1d</b> the same against the value a day before. <b>sMAPE</b> symmetric error in "
    "percent. <b>In band</b> share of actuals inside the 95 % band. Figures of several series are "
    "medians over them; <i>in band</i> counts all their instants. Fits that drift would have "
    "asked for are not replayed.</p></footer>"
)


def _section(result: WatchResult) -> str:
    sentences = verdict(result)
    rest = " ".join(_text(one) for one in sentences[1:])
    facts = "".join(f"<p class=facts>{_text(line)}</p>" for line in described(result))
    return (
        f"<section><h2><code>{_text(result.selector)}</code></h2>{facts}"
        f'<div class="verdict {_mood(result.main)}"><p><b>{_text(sentences[0])}</b></p>'
        f"<p>{rest}</p></div>{_tiles(result)}{_table(result)}{_overview(result)}"
        f"{_multiples(result)}</section>"
    )


def _mood(row: ModelResult) -> str:
    if not np.isfinite(row.mase):
        return "none"
    return "good" if row.mase < 1 - ABOUT else "even" if row.mase <= 1 + ABOUT else "bad"


def _tiles(result: WatchResult) -> str:
    main = result.main
    tiles = [
        ("error against naive", ratio(main.mase, 2), "MASE, one step ahead"),
        (f"at {result.horizon}", ratio(main.far_mase, 2), "MASE at the horizon"),
        ("inside the band", percent(main.coverage), "95 % is what it says"),
        ("better than naive", f"{main.wins}/{main.judged}", "series"),
    ]
    cells = "".join(
        f"<div class=tile><p>{_text(name)}</p><b>{_text(value)}</b>"
        f"<small>{_text(unit)}</small></div>"
        for name, value, unit in tiles
    )
    return f"<div class=tiles>{cells}</div>"


def _table(result: WatchResult) -> str:
    best = least_mase(result)
    heads = ("model", *HEADINGS, f"at {result.horizon}", "wins")
    rows = []
    for at, row in enumerate(result.rows):
        cells = (
            *cells_of(row),
            ratio(row.far_mase),
            f"{row.wins}/{row.judged}",
        )
        mark = " <span class=tag>configured</span>" if row.model == result.configured else ""
        mark += " <span class='tag best'>best</span>" if row.mase == best else ""
        tds = "".join(f"<td>{_text(cell)}</td>" for cell in cells)
        key = f'<i class="key c{at % 8}"></i>'
        rows.append(f"<tr><th scope=row>{key}{_text(row.model)}{mark}</th>{tds}</tr>")
    head = "".join(f"<th scope=col>{_text(name)}</th>" for name in heads)
    return (
        f"<div class=scroll><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _overview(result: WatchResult) -> str:
    main, plan = result.main, result.plan
    tally = main.replayed.tally
    pictures = []
    if len(tally.leads) > 1:
        lines = [(at % 8, row.lead_mase) for at, row in enumerate(result.rows)]
        drawn = charts.error_by_lead(tally.leads, lines, "error by lead")
        title = "Error by lead"
        pictures.append((title, f"MASE, by how many {result.granularity} instants ahead", drawn))
    covered = charts.coverage_over_time(
        plan.instants_ms, tally.covered, tally.counted, "coverage over time"
    )
    pictures.append(("Coverage", f"share inside {main.model}'s band; the line is 95%", covered))
    if main.judged > 1:
        errors = charts.sorted_errors(main.figures.mase[:, 0], "error of each series")
        pictures.append(("Series", f"MASE of {main.model} on each; the line is naive", errors))
    figures = "".join(
        f"<figure><figcaption><b>{_text(title)}</b> {_text(about)}</figcaption>{svg}</figure>"
        for title, about, svg in pictures
    )
    return f"<div class=charts>{figures}</div>"


def _multiples(result: WatchResult) -> str:
    """The worst and the best series, actual against expected."""
    order = ranked(result.main)
    if not order:
        return ""
    if len(order) <= 2 * _DRAWN:
        groups = [("Every series, worst first", order[::-1])]
    else:
        groups = [("Worst series", order[::-1][:_DRAWN]), ("Best series", order[:_DRAWN])]
    common = _common(result.labels)
    shown = "".join(
        f"<h3>{title}</h3><div class=charts>"
        + "".join(_multiple(result, row, common) for row in rows)
        + "</div>"
        for title, rows in groups
    )
    shared = f" All have <code>{_text(str(LabelSet(common)))}</code>." if common else ""
    return (
        f"{shown}<p class=legend><i class='swatch actual'></i>actual "
        f"<i class='swatch expected'></i>expected, as forecast one step before "
        f"<i class='swatch band'></i>its 95 % band.{shared}</p>"
    )


def _multiple(result: WatchResult, row: int, common: tuple[tuple[str, str], ...]) -> str:
    main = result.main
    own = tuple(pair for pair in result.labels[row].pairs if pair not in common)
    name = str(LabelSet(own)) if own else str(result.labels[row])
    drawn = charts.lines_over_time(
        result.plan.instants_ms,
        result.plan.actual[row],
        main.replayed.expected[:, row],
        "actual against expected",
    )
    mase, held = main.figures.mase[row, 0], main.figures.coverage[row, 0]
    said = main.replayed.explained[row]
    about = f"MASE {ratio(float(mase), 2)}, in band {percent(held)}"
    return (
        f"<figure><figcaption><code><bdi>{_text(name)}</bdi></code><br>"
        f"<span>{_text(about)}</span></figcaption>{drawn}"
        + (f"<p class=why>{_text(said)}</p>" if said else "")
        + "</figure>"
    )


def _common(labels: Sequence[LabelSet]) -> tuple[tuple[str, str], ...]:
    """The labels that all series share, where there are several."""
    if len(labels) < 2:
        return ()
    shared = set(labels[0].pairs).intersection(*(one.pairs for one in labels[1:]))
    return tuple(sorted(shared, key=lambda pair: (pair[0] != METRIC_NAME, pair)))


def _text(value: str) -> str:
    return escape(printable(value))
