"""``status``: what a running sidecar knows of each series, once or live."""

import argparse
import json
import sys
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sidecar.cli.client import Client, asked, client
from sidecar.cli.status_codes import EXIT_FAILED, EXIT_OK
from sidecar.config import SentinelConfig, WatchConfig
from sidecar.errors import ConfigError, Problem, SidecarError
from sidecar.printable import printable

_PAGE: Final = 1_000
_EVERY_S: Final = 2.0
# What is added to the state of a series that only an operator has fitted.
PINNED: Final = ", pinned"
# Lines of the live view that are no series: head, counts, headings, foot.
_AROUND: Final = 6
_STYLES: Final = {"serving": "green", "fallback": "yellow", "waiting": "cyan", "ended": "dim"}


def add_options(command: argparse.ArgumentParser) -> None:
    """What only ``status`` takes."""
    command.add_argument(
        "series", nargs="?", metavar="SERIES", help="only series that this selects"
    )
    command.add_argument(
        "--state", help="only these: serving, fallback, waiting, ended; several by comma"
    )
    command.add_argument("--reason", help="only series without a prediction for this reason")
    command.add_argument(
        "--sort",
        choices=("mase", "drift"),
        help="the worst first: by error against naive, or against its own at the fit",
    )
    command.add_argument("--limit", type=int, metavar="N", help="at most so many series")
    command.add_argument(
        "--watch",
        dest="every_s",
        nargs="?",
        type=float,
        const=_EVERY_S,
        metavar="SECONDS",
        help="show it live, like top; default: every 2 s",
    )


def status(config: SentinelConfig, options: argparse.Namespace) -> int:
    """A table on a terminal, a line a series elsewhere, or JSON."""
    query, sidecar = _query(options), client(config, options)
    if options.every_s is not None:
        return _live(sidecar, query, options.every_s)
    answer = pages(sidecar, query, options.limit)
    if options.json:
        print(json.dumps(answer["data"], indent=2))
        for line in remarks(answer["page"]):
            print(f"sentinel: {line}", file=sys.stderr)
        return EXIT_OK
    console = Console()
    if console.is_terminal:
        console.print(counted(answer["page"]))
        console.print(table(answer["data"], console.width, _now()))
    else:
        for line in lines(answer["data"]):
            print(line)
    for line in remarks(answer["page"]):
        print(f"sentinel: {line}", file=sys.stderr)
    left = answer["page"]["matched"] - len(answer["data"])
    if left > 0:
        print(f"sentinel: {left} more; --limit shows as many as you ask for", file=sys.stderr)
    if options.series and not answer["data"]:
        print(f"sentinel: no watched series is selected by {options.series}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK


def _query(options: argparse.Namespace) -> list[tuple[str, str]]:
    given = [(name, getattr(options, name)) for name in ("state", "reason", "sort")]
    query = [(name, value) for name, value in given if value]
    if options.series:
        query.append(("match[]", str(WatchConfig.from_selector(options.series).selector)))
    if options.limit is not None and options.limit < 1:
        raise ConfigError([Problem("--limit", "is at least 1")])
    if options.every_s is not None and not 0.2 <= options.every_s <= 3600:
        raise ConfigError([Problem("--watch", "is from 0.2 to 3600 seconds")])
    return query


def pages(sidecar: Client, query: Sequence[tuple[str, str]], most: int | None) -> dict[str, Any]:
    """The answer of the status API, its pages put together; all of them where ``most`` is None.

    Raises:
        SidecarError: no sidecar answers, or it refuses.
    """
    data: dict[str, Any] = {}
    offset: int | None = 0
    page: dict[str, Any] = {}
    while offset is not None and (most is None or len(data) < most):
        limit = _PAGE if most is None else min(_PAGE, most - len(data))
        text = urllib.parse.urlencode([*query, ("limit", limit), ("offset", offset)])
        answer = asked(sidecar, f"/api/v1/status?{text}")
        if answer.get("status") != "success":
            raise SidecarError(str(answer.get("error", "the sidecar gave no answer")))
        data |= answer["data"]
        page = answer["page"]
        offset = page["next_offset"]
    return {"data": data, "page": page}


# Showing


def _live(sidecar: Client, query: Sequence[tuple[str, str]], every_s: float) -> int:
    """The same again and again on the whole screen, until Ctrl-C."""
    console = Console()
    if not console.is_terminal:
        raise SidecarError("--watch needs a terminal; without it `sentinel status` prints once")
    if not any(name == "sort" for name, _ in query):
        query = [*query, ("sort", "drift")]
    pages(sidecar, query, 1)  # whatever is wrong is said before the screen is taken
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(screen(sidecar, query, console.width, console.height), refresh=True)
                time.sleep(every_s)
    except KeyboardInterrupt:
        return EXIT_OK


def screen(
    sidecar: Client, query: Sequence[tuple[str, str]], width: int, height: int
) -> RenderableType:
    """One frame: as many of the worst series as fit."""
    clock = f"{_now():%H:%M:%S}Z"
    room = max(1, (height - _AROUND) // 2)  # a series may take two lines
    try:
        answer = pages(sidecar, query, max(room, height - _AROUND))
    except SidecarError as error:
        return Group(Text(f"Sentinel  {clock}", style="bold"), Text(str(error), style="red"))
    shown, used = {}, 0
    for key, one in answer["data"].items():
        used += 2 if one["reason"] else 1
        if used > height - _AROUND:
            break
        shown[key] = one
    left = answer["page"]["matched"] - len(shown)
    foot = f"{left:,} more below; " if left else ""
    return Group(
        Text.assemble(("Sentinel  ", "bold"), clock),
        counted(answer["page"]),
        table(shown, width, _now()),
        Text(f"{foot}Ctrl-C ends", style="dim"),
    )


def counted(page: Mapping[str, Any]) -> Text:
    """How many series there are, by state and by reason."""
    text = Text(f"{page['total']:,} series")
    for state, count in page["states"].items():
        if count:
            text.append(f"  {count:,} {state}", style=_STYLES.get(state, ""))
    if page["reasons"]:
        parts = (f"{count:,} {reason}" for reason, count in page["reasons"].items())
        text.append(f"  ({', '.join(parts)})", style="dim")
    stuck = len(page.get("not_begun", ()))
    if stuck:
        text.append(f"  {stuck:,} {'watch' if stuck == 1 else 'watches'} cannot begin", style="red")
    if page.get("not_delivered"):
        text.append("  nothing is delivered", style="red")
    return text


def remarks(page: Mapping[str, Any]) -> list[str]:
    """What there is to say beside the series: watches that cannot begin, and held writes."""
    return [*not_begun(page), *map(printable, page.get("not_delivered", ()))]


def not_begun(page: Mapping[str, Any], metric: str | None = None) -> list[str]:
    """A line for each watch (of one metric, or all) that cannot begin: its series are not known."""
    return [
        printable(f"watch {one['selector']} has not begun: {one['error']}")
        for one in page.get("not_begun", ())
        if metric in (None, one["metric"])
    ]


def table(facts: Mapping[str, Mapping[str, Any]], width: int, now: datetime) -> Table:
    """One line a series, a second one with the reason where it has no fresh prediction."""
    found = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), width=width)
    found.add_column("series", ratio=1, no_wrap=True, overflow="ellipsis")
    found.add_column("state", no_wrap=True)
    for heading in ("ver", "MAE", "drift", "MASE", "band", "fit"):
        found.add_column(heading, justify="right", no_wrap=True)
    for series, one in facts.items():
        name = Text(printable(series))
        if one["reason"]:
            name.append(f"\n  {one['reason']}", style="yellow")
        state = str(one["state"])
        found.add_row(
            name,
            Text(f"{state}{PINNED * one['pinned']}", style=_STYLES.get(state, "")),
            str(one["active_version"] or "-"),
            _number(one["drift_mae"]),
            _drift(one),
            _plain(one["mase"], ".2f"),
            _plain(one["coverage"], ".0%"),
            _age(one["last_train"], now),
        )
    return found


def lines(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line a series, for grep."""
    found = []
    for series, one in facts.items():
        reason = f" ({one['reason']})" if one["reason"] else ""
        found.append(
            f"{printable(series)}: {one['state']}{PINNED * one['pinned']}{reason}; {figures(one)}"
        )
    return found


def figures(one: Mapping[str, Any]) -> str:
    """What is known of a series in one line."""
    parts = [f"{one['model']}, {one['horizon']} ahead, {one['active_version'] or 'no version'}"]
    for key, name in (("drift_mae", "MAE"), ("mase", "MASE"), ("coverage", "coverage")):
        if one[key] is not None:
            parts.append(f"{name} {one[key]:.4g}")
    if one["active_version_mae"] is not None:
        parts.append(f"its own MAE at the fit {one['active_version_mae']:.4g}")
    if one["last_train"]:
        parts.append(f"fitted {one['last_train']}")
    return "; ".join(parts)


def _drift(one: Mapping[str, Any]) -> str:
    """How many times its own error at the fit a version makes now."""
    mae, own = one["drift_mae"], one["active_version_mae"]
    return f"{mae / own:.1f}x" if mae is not None and own else "-"


def _age(instant: str | None, now: datetime) -> str:
    """How long ago, in the largest unit that fits."""
    if instant is None:
        return "-"
    seconds = max(0.0, (now - datetime.fromisoformat(instant)).total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _plain(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _now() -> datetime:
    return datetime.now(UTC)
