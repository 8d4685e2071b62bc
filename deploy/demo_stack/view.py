"""What the demo shows: progress while things start, the pictures, the numbers, the addresses."""

import math
import re
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from deploy.demo_stack.api import curves, instant
from sidecar.models.registry import ALIASES
from sidecar.names import ACTUAL, ANOMALY_SCORE, EXPECTED, LOWER, MODEL_INFO, PREDICTED, UPPER
from sidecar.plot import Band, Curve, Picture, speaks_unicode

GRANULARITY_S = 15.0
PAST_S, AHEAD_S = 12 * 60.0, 180.0
# The last instants' stamps lie up to a granularity and a query offset back.
_RECENT = "[1m]"
# Lines on the screen: of a small picture, of all that is neither, and of the large one at least.
_SMALL_LINES, _OTHER_LINES, _LEAST_ROWS = 9, 12, 6


@dataclass(frozen=True, slots=True)
class Shown:
    """One series to draw: its actual in PromQL, and what its forecasts are named after."""

    title: str
    actual: str
    metric: str
    matchers: str = ""


SHOWN = (
    Shown("Users online: a daily cycle", "demo_active_users", "demo_active_users"),
    Shown(
        "Requests per second, of a counter",
        'rate(demo_requests_total{route="/search"}[30s])',
        "demo_requests_total",
        '{route="/search"}',
    ),
    Shown("Disk in use: a trend", "demo_disk_used_bytes", "demo_disk_used_bytes"),
    Shown("Temperature: noise", "demo_temperature_celsius", "demo_temperature_celsius"),
)


class Checklist:
    """Steps as they are done: a spinner with live notes on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._mark = "✔" if speaks_unicode(console) else "ok"

    @contextmanager
    def step(self, text: str) -> Iterator[Callable[[str], None]]:
        """While it lasts, the function given shows a note; the last note stays beside the step."""
        began = time.monotonic()
        latest = ""

        def note(words: str) -> None:
            nonlocal latest
            latest = words
            status.update(Text.assemble(text, ("  " + words, "dim")))

        with self._console.status(text) as status:
            yield note
        took = f"{time.monotonic() - began:.1f} s"
        line = Text.assemble(
            (self._mark, "bold"), f" {text}  ", (f"{latest} ({took})".strip(), "dim")
        )
        self._console.print(line, soft_wrap=True)


def picture_of(server: str, shown: Shown, now_s: float, width: int) -> Picture:
    """The last minutes of the actual, what was expected of them, and the newest forecast path."""
    start_s, end_s = now_s - PAST_S, now_s + AHEAD_S

    def past(expr: str) -> Curve:
        found = curves(server, expr, start_s, now_s, GRANULARITY_S)
        return found[0][1] if found else Curve()

    # A recorded series is read no further than its newest sample: without the window the lookback
    # of five minutes would draw it on as a flat line.
    recent = f"{EXPECTED}%s{shown.matchers}[{GRANULARITY_S:g}s]"
    expected, lower, upper = (
        past(f"last_over_time({shown.metric}{recent % suffix})") for suffix in ("", LOWER, UPPER)
    )
    path, low, high = (_path(server, shown, suffix, now_s) for suffix in ("", LOWER, UPPER))
    return Picture(
        title=titled(shown, width),
        actual=past(shown.actual),
        expected=[expected, path],
        bands=[*_band(lower, upper), *_band(low, high)],
        start_s=start_s,
        end_s=end_s,
        now_s=now_s,
    )


def titled(shown: Shown, width: int) -> str:
    """With what is drawn in PromQL, where there is room for all of it."""
    whole = f"{shown.title}  ({shown.actual})"
    return whole if len(whole) <= width else shown.title


def _path(server: str, shown: Shown, suffix: str, now_s: float) -> Curve:
    """The newest prediction for each step, at the instant that it speaks of."""
    metric = shown.metric + PREDICTED + suffix
    found = instant(server, f"last_over_time({metric}{shown.matchers}{_RECENT})")
    issued = instant(server, f"max(timestamp({metric}{shown.matchers}))")
    origin_s = issued[0][1] if issued else now_s
    steps = sorted((int(labels["sentinel_step"]), value) for labels, value in found)
    times = np.array([origin_s + k * GRANULARITY_S for k, _ in steps])
    return Curve(times, np.array([value for _, value in steps]))


def _band(lower: Curve, upper: Curve) -> list[Band]:
    common = np.intersect1d(lower.times, upper.times)
    if common.size == 0:
        return []
    low = lower.values[np.isin(lower.times, common)]
    return [Band(common, low, upper.values[np.isin(upper.times, common)])]


def pictures(server: str, console: Console, shown: Sequence[Shown] = SHOWN) -> Group:
    """The first series large, the others below it where there is room, two side by side if wide."""
    now_s = time.time()
    unicode = speaks_unicode(console)
    columns, gap = (2, 2) if console.width >= 100 else (1, 0)
    below = _SMALL_LINES * -(-len(shown[1:]) // columns)
    # A pipe has no height to keep to.
    room = console.height - _OTHER_LINES if console.is_terminal else 16 + below
    small = shown[1:] if room - below >= _LEAST_ROWS else ()
    rows = max(_LEAST_ROWS, min(18, room - (below if small else 0)))
    large = picture_of(server, shown[0], now_s, console.width).draw(
        console.width, rows, unicode=unicode
    )
    each = (console.width - gap * (columns - 1)) // columns
    grid = Table.grid(padding=(1, gap, 0, 0), expand=False)
    for _ in range(columns):
        grid.add_column(width=each, no_wrap=True, overflow="crop")
    drawn = [
        Group(*picture_of(server, one, now_s, each).draw(each, 6, unicode=unicode)[:-1])
        for one in small
    ]
    for i in range(0, len(drawn), columns):
        grid.add_row(*drawn[i : i + columns])
    return Group(*large, grid)


def numbers(server: str) -> Table:
    """Each series with its model, what it is now, what was expected, and how unusual that is."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("series", overflow="fold")
    table.add_column("model", no_wrap=True)
    table.add_column("ver", no_wrap=True)
    for name in ("actual", "expected", "score"):
        table.add_column(name, justify="right", no_wrap=True)
    found = {
        suffix: {
            _series(labels, suffix): value
            for labels, value in instant(server, f'{{__name__=~"demo_.+{suffix}"}}')
        }
        for suffix in (EXPECTED, ANOMALY_SCORE, ACTUAL)
    }
    plain = {_series(labels, ""): v for labels, v in instant(server, '{job="shop"}')}
    for labels, _ in instant(server, f'{{__name__=~"demo_.+{MODEL_INFO}"}}'):
        series = _series(labels, MODEL_INFO)
        table.add_row(
            series,
            short_name(labels.get("sentinel_model", "")),
            labels.get("sentinel_version", ""),
            _short(found[ACTUAL].get(series, plain.get(series))),
            _short(found[EXPECTED].get(series)),
            _short(found[ANOMALY_SCORE].get(series)),
        )
    return table


def short_name(model: str) -> str:
    """A model's alias, where it has one: six narrow columns have to fit beside each other."""
    return next((alias for alias, meant in ALIASES.items() if meant == model), model)


def _series(labels: dict[str, str], suffix: str) -> str:
    """The source's name, with the one label that tells the demo's series apart."""
    name = labels.get("__name__", "").removesuffix(suffix)
    return f'{name}{{route="{labels["route"]}"}}' if "route" in labels else name


def _short(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value / 1e9:.4f}G" if abs(value) >= 1e9 else f"{value:.5g}"


def progress(page: str) -> str:
    """The state of the sidecar in a few words, from its /metrics page."""
    states = re.findall(r'^sentinel_series\{state="([^"]+)"\} (\S+)', page, re.MULTILINE)
    words = [f"{float(count):.0f} series {state}" for state, count in states if float(count)]
    queue = re.search(r"^sentinel_training_queue_length (\S+)", page, re.MULTILINE)
    if queue and float(queue[1]):
        words.append(f"{float(queue[1]):.0f} fits to do")
    return ", ".join(words) or "starting"


def graph_url(server: str, *exprs: str) -> str:
    """Prometheus' expression page with these filled in as graphs."""
    fields: list[tuple[str, str]] = []
    for i, expr in enumerate(exprs):
        fields += [(f"g{i}.expr", expr), (f"g{i}.tab", "0"), (f"g{i}.range_input", "30m")]
    return f"{server}/graph?{urllib.parse.urlencode(fields)}"


def addresses(prometheus: str, sidecar: str, generator: str) -> list[tuple[str, str]]:
    """What to look at, and what to try."""
    users, last = "demo_active_users", round(AHEAD_S / GRANULARITY_S)
    window = f"[{2 * GRANULARITY_S:.0f}s]"
    both = f'{{__name__=~"{users}({EXPECTED}({LOWER}|{UPPER})?)?"}}'
    step = f'{users}{PREDICTED}{{sentinel_step="{last}"}}'
    ahead = f"last_over_time({step}{window} offset {AHEAD_S:.0f}s) or {users}"
    rate = f"demo_requests_total{EXPECTED} or demo_requests_total{ACTUAL}"
    return [
        ("actual, expected and its band", graph_url(prometheus, both)),
        (f"forecast {AHEAD_S / 60:.0f} minutes before", graph_url(prometheus, ahead)),
        ("a counter, as a rate", graph_url(prometheus, rate)),
        ("how unusual each is", graph_url(prometheus, f'{{__name__=~"demo_.+{ANOMALY_SCORE}"}}')),
        ("the sidecar's own page", f"{sidecar}/metrics"),
        ("make users and requests jump", f"curl -X POST '{generator}/drift?factor=1.6'"),
        ("and back again", f"curl -X DELETE {generator}/drift"),
    ]
