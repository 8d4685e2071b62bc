"""A backtest on a terminal: a table of models, and what it comes to. 80 columns suffice."""

from typing import Any, Final

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sidecar.backtest.history import utc
from sidecar.backtest.summary import ModelResult, WatchResult, ranked, verdict
from sidecar.duration import format_duration
from sidecar.learning.scores import LARGEST_RATIO
from sidecar.printable import printable

HEADINGS: Final = ("MAE", "MASE", "vs 1d", "sMAPE", "in band")
_SHOWN: Final = 3


def show(result: WatchResult, console: Console) -> None:
    """The range, the table, the verdict, and which series went best and worst."""
    console.print()
    console.print(Text(printable(result.selector), style="bold"), soft_wrap=True)
    for line in described(result):
        console.print(Text(line, style="dim"), soft_wrap=True)
    console.print(table_of(result))
    for sentence in verdict(result):
        console.print(Text(sentence))
    for line in _extremes(result):
        console.print(Text(line, style="dim"), soft_wrap=True)


def described(result: WatchResult) -> list[str]:
    """What was tested, and on what it was learned."""
    plan, step_ms = result.plan, result.plan.batch.grid.step_ms
    start_ms = int(plan.instants_ms[0]) - step_ms
    refit = format_duration(plan.refit * step_ms) if plan.refit else ""
    transform = plan.rules.transform
    seen = {"rate": ", as rates per second", "delta": ", as changes"}.get(transform, "")
    left_out = f" ({result.left_out:,} more left out by max_series)" if result.left_out else ""
    return [
        f"{len(result.labels):,} series{left_out}{seen}; {plan.tested:,} instants of "
        f"{result.granularity}, {utc(start_ms)} to {utc(plan.batch.grid.end_ms)}",
        f"learned from up to {format_duration(plan.window * step_ms)} before, "
        + (f"again every {refit}" if refit else "once, at the start"),
    ]


def table_of(result: WatchResult) -> Table:
    """One row a model; MASE is the error against naive's, below 1 is better than naive."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    table.add_column("model", overflow="fold")
    one_step = len(result.main.lead_mase) < 2
    far = [] if one_step else [f"at {result.horizon}"]
    for heading in (*HEADINGS, *far, "wins"):
        table.add_column(heading, justify="right", no_wrap=True)
    best = least_mase(result)
    for row in result.rows:
        cells = [
            *cells_of(row),
            *([] if one_step else [ratio(row.far_mase)]),
            f"{row.wins}/{row.judged}" if row.judged else "-",
        ]
        mark = " *" if row.model == result.configured else ""
        style = "bold" if row.mase == best else ""
        table.add_row(row.model + mark, *cells, style=style)
    return table


def cells_of(row: ModelResult) -> tuple[str, ...]:
    """The figures of a row one step ahead, below ``HEADINGS``."""
    return (
        number(row.mae),
        ratio(row.mase),
        ratio(row.seasonal_mase),
        percent(row.smape),
        percent(row.coverage),
    )


def least_mase(result: WatchResult) -> float:
    """The smallest error against naive's of all rows; NaN where none has one."""
    return min((row.mase for row in result.rows if np.isfinite(row.mase)), default=np.nan)


LEGEND = (
    "Medians over the series, one step ahead. MAE: mean absolute error. MASE: error\n"
    "against naive's (as the instant before), below 1 is better; vs 1d: against the\n"
    "value a day before; at ...: MASE at the horizon. in band: actuals inside the\n"
    "95 % band. wins: series forecast better than by naive. *: configured."
)


def _extremes(result: WatchResult) -> list[str]:
    """The best and the worst series of the model in question, where there are several."""
    order = ranked(result.main)
    if len(order) < 2:
        return []
    worst = list(reversed(order))[: min(_SHOWN, len(order) // 2)]
    return ["", f"worst series of {result.main.model}:", *(_line(result, row) for row in worst)]


def _line(result: WatchResult, row: int) -> str:
    figures = result.main.figures
    return (
        f"  MASE {ratio(figures.mase[row, 0])}, in band {percent(figures.coverage[row, 0])}  "
        f"{printable(str(result.labels[row]))}"
    )


def as_json(result: WatchResult) -> dict[str, Any]:
    """Everything that was measured, for programs; null where nothing was judged."""
    plan, step_ms = result.plan, result.plan.batch.grid.step_ms
    return {
        "selector": result.selector,
        "granularity": result.granularity,
        "horizon": result.horizon,
        "transform": plan.rules.transform,
        "configured_model": result.configured,
        "start": utc(int(plan.instants_ms[0]) - step_ms),
        "end": utc(plan.batch.grid.end_ms),
        "refit": format_duration(plan.refit * step_ms) if plan.refit else None,
        "series": len(result.labels),
        "series_left_out": result.left_out,
        "verdict": verdict(result),
        "models": [_row_json(result, row) for row in result.rows],
    }


def _row_json(result: WatchResult, row: ModelResult) -> dict[str, Any]:
    figures, leads = row.figures, row.replayed.tally.leads
    return {
        "model": row.model,
        "mae": _plain(row.mae),
        "mase": _plain(row.mase),
        "seasonal_mase": _plain(row.seasonal_mase),
        "smape": _plain(row.smape),
        "coverage": _plain(row.coverage),
        "beats_naive": row.wins,
        "judged": row.judged,
        "unfitted": row.unfitted,
        "fits": row.replayed.fits,
        "fit_seconds": round(row.replayed.fit_s, 3),
        "replay_seconds": round(row.replayed.replay_s, 3),
        "leads": [
            {"lead": lead, "mase": _plain(mase), "coverage": _plain(coverage)}
            for lead, mase, coverage in zip(
                leads, row.lead_mase.tolist(), row.lead_coverage.tolist(), strict=True
            )
        ],
        "by_series": [
            {
                "series": str(labels),
                "labels": dict(labels.pairs),
                "judged": int(figures.judged[at, 0]),
                "mae": _plain(figures.mae[at, 0]),
                "mase": _plain(figures.mase[at, 0]),
                "seasonal_mase": _plain(figures.seasonal_mase[at, 0]),
                "smape": _plain(figures.smape[at, 0]),
                "coverage": _plain(figures.coverage[at, 0]),
                "reason": row.replayed.reasons[at],
                "explanation": row.replayed.explained[at],
            }
            for at, labels in enumerate(result.labels)
        ],
    }


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def number(value: float) -> str:
    """Four digits, with an SI prefix from ten thousand on; a dash for NaN.

    >>> number(0.01234), number(1234.5), number(2.5e9), number(float("nan"))
    ('0.01234', '1234', '2.500G', '-')
    """
    if not np.isfinite(value):
        return "-"
    size = abs(value)
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= scale and size >= 1e4:
            return f"{value / scale:#.4g}{prefix}"
    return f"{value:.4g}"


def ratio(value: float, digits: int = 3) -> str:
    """A MASE; where naive was exact it is only known to be large.

    >>> ratio(0.7184), ratio(100.0), ratio(float("nan"))
    ('0.718', '100+', '-')
    """
    if not np.isfinite(value):
        return "-"
    return f"{LARGEST_RATIO:.0f}+" if value >= LARGEST_RATIO else f"{value:.{digits}f}"


def percent(value: float) -> str:
    return f"{value:.1%}" if np.isfinite(value) else "-"
