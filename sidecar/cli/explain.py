"""``explain``: why series are forecast as they are, or why not, and what to do."""

import argparse
import sys
import urllib.parse
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from sidecar.cli.advice import ADVICE
from sidecar.cli.client import Client, asked, client
from sidecar.cli.orders import change_line, version_line
from sidecar.cli.outlook import exactly, outlook
from sidecar.cli.status import PINNED, not_begun, pages
from sidecar.cli.status_codes import EXIT_FAILED, EXIT_OK
from sidecar.config import SentinelConfig, WatchConfig
from sidecar.errors import SidecarError
from sidecar.plot import speaks_unicode
from sidecar.printable import printable
from sidecar.series import LabelSet, Selector

# Of how many series everything is said, and of how many of them a plot is drawn.
_SAID: Final = 20
_DRAWN: Final = 3
_CHANGES: Final = 10
_WIDEST: Final = 100
_ROWS: Final = 12
_INDENT: Final = 11


def explain(config: SentinelConfig, options: argparse.Namespace) -> int:
    """Everything that is known of series: state, figures, versions, changes, and a plot."""
    watch = WatchConfig.from_selector(options.series)
    sidecar = client(config, options)
    answer = pages(sidecar, [("match[]", str(watch.selector))], _SAID)
    if not answer["data"]:
        stuck = not_begun(answer["page"], watch.metric)
        for line in stuck or why_unknown(sidecar, config, watch):
            print(f"sentinel: {line}", file=sys.stderr)
        return EXIT_FAILED
    console = Console()
    width = min(console.width, _WIDEST)
    for at, (series, one) in enumerate(answer["data"].items()):
        if at:
            console.print()
        for text in described(series, one, *_kept(sidecar, one), width):
            console.print(text, soft_wrap=True)
        if at < _DRAWN:
            for text in _plot(sidecar, one, width, speaks_unicode(console)):
                console.print(text, soft_wrap=True)
    left = answer["page"]["matched"] - len(answer["data"])
    if left:
        print(f"sentinel: {left} more series are selected: name more labels", file=sys.stderr)
    return EXIT_OK


def described(
    series: str,
    one: Mapping[str, Any],
    versions: Sequence[Mapping[str, Any]],
    changes: Sequence[Mapping[str, Any]],
    width: int,
) -> list[Text]:
    """What is known of one series; no line is wider than ``width`` but for the series' own."""
    lines = [Text(printable(series), style="bold")]

    def add(name: str, text: str, style: str = "") -> None:
        rows = wrap(printable(text), width - _INDENT, break_on_hyphens=False) or [""]
        for at, row in enumerate(rows):
            head = f"  {name if not at else '':<{_INDENT - 2}}"
            lines.append(Text.assemble((head, "dim"), (row, style)))

    serves = one["active_version"] or "no version"
    ahead = f"{one['horizon']} ahead at {one['granularity']}"
    add("state", f"{one['state']}{PINNED * one['pinned']}: {serves} of {one['model']}, {ahead}")
    if one["last_error"]:
        add("error", one["last_error"], "red")
    if one["reason"]:
        add("no fresh", f"prediction: {one['reason']}: {ADVICE[one['reason']]}", "yellow")
    if one["explanation"]:
        add("why", one["explanation"])
    add("accuracy", _accuracy(one))
    add("lookback", f"{one['buffer_fill'] or 0:.0%} of its instants have a value")
    for at, record in enumerate(versions):
        add("versions" if not at else "", version_line(record))
    for at, entry in enumerate(changes):
        add("changes" if not at else "", change_line(entry))
    return lines


def _accuracy(one: Mapping[str, Any]) -> str:
    """The rolling error, beside that at the fit and beside naive's."""
    mae, own = one["drift_mae"], one["active_version_mae"]
    if mae is None:
        return "not judged yet: some twenty instants with a forecast and an actual are needed"
    parts = [f"MAE {mae:.4g}"]
    if own:
        parts[0] += f", {mae / own:.2f}x its own at the fit ({own:.4g})"
    if one["mase"] is not None:
        word = "better" if one["mase"] < 1 else "no better"
        parts.append(f"{one['mase']:.2f} of the naive forecast's, so {word} than it")
    if one["coverage"] is not None:
        parts.append(f"{one['coverage']:.0%} inside the 95 % band")
    if one["last_train"]:
        parts.append(f"fitted {one['last_train']}")
    return "; ".join(parts)


def _kept(
    sidecar: Client, one: Mapping[str, Any]
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The versions and the newest changes of exactly this series in this watch."""
    query = urllib.parse.urlencode({"match[]": exactly(one["labels"], "")})
    series, found = str(LabelSet.of(one["labels"])), []
    for path in ("versions?", f"audit?limit={_CHANGES}&"):
        rows = asked(sidecar, f"/api/v1/models/{path}{query}").get("data", ())
        own = [row for row in rows if row["series"] == series]
        found.append([row for row in own if row.get("watch") in (None, "", one["watch"])])
    return found[0], found[1][:_CHANGES]


def _plot(sidecar: Client, one: Mapping[str, Any], width: int, unicode: bool) -> list[Text]:
    try:
        return outlook(sidecar, one).draw(width, _ROWS, unicode=unicode)[1:]
    except SidecarError as error:
        return [Text(f"  no plot: {printable(str(error))}", style="dim")]


# Of what is not watched


def why_unknown(sidecar: Client, config: SentinelConfig, watch: WatchConfig) -> list[str]:
    """Why the sidecar knows no such series, and what to do."""
    lines = [f"no watched series is selected by {printable(str(watch.selector))}"]
    count = _on_server(sidecar, watch.selector)
    same = [
        f"watches[{index}]"
        for index, other in enumerate(config.watches)
        if other.output_metric == watch.metric
    ]
    if count == 0:
        lines.append("the server has no such series now: is it scraped, and spelled as there?")
    elif same:
        lines.append(
            f"{' and '.join(same)} of this configuration is on that metric: either its matchers "
            "leave these series out, or they came after max_series was reached, or nothing of "
            "them was read yet: see `sentinel check`"
        )
    else:
        found = "the server has it" if count is None else f"the server has {count} of them"
        lines.append(
            f"{found}, but no watch selects it: add '- metric: {watch.metric}' to watches and "
            "reload (SIGHUP)"
        )
    return lines


def _on_server(sidecar: Client, selector: Selector) -> int | None:
    """How many series the server has now; None where it does not say."""
    query = urllib.parse.urlencode({"query": f"count({selector})"})
    try:
        answer = asked(sidecar, f"/api/v1/query?{query}")
        result = answer["data"]["result"]
        return int(float(result[0]["value"][1])) if result else 0
    except (SidecarError, KeyError, IndexError, ValueError, TypeError):
        return None
