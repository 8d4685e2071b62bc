"""Inline SVG for the report: lines over time, errors by lead, coverage. Pure; no text from outside.

Coordinates are in a box of fixed size that the page scales; colours are the page's variables, so
that one picture is right in light and in dark.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sidecar.backtest.summary import BAND
from sidecar.models.contract import as_float
from sidecar.plot import compact
from sidecar.series import FloatArray, TimeArray

# More points across than this are drawn as the range they span.
_MOST_POINTS: Final = 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 10, 22
_DAY_MS, _HOUR_MS = 86_400_000, 3_600_000


@dataclass(frozen=True, eq=False)
class Frame:
    """A box with axes: x from ``x0`` to ``x1``, y from ``y0`` (bottom) to ``y1``."""

    width: int
    height: int
    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> float:
        inner = self.width - _LEFT - _RIGHT
        return _LEFT + (value - self.x0) / (self.x1 - self.x0) * inner

    def y(self, value: float) -> float:
        inner = self.height - _TOP - _BOTTOM
        share = (value - self.y0) / (self.y1 - self.y0)
        return _TOP + (1 - min(max(share, 0.0), 1.0)) * inner

    def open(self, label: str) -> str:
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{label}" '
            'preserveAspectRatio="xMidYMid meet">'
        )

    def horizontal(self, ticks: Sequence[tuple[float, str]]) -> str:
        """Grid lines with their labels on the left."""
        return "".join(
            f'<line class="grid" x1="{_LEFT}" x2="{self.width - _RIGHT}" '
            f'y1="{self.y(value):.1f}" y2="{self.y(value):.1f}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{self.y(value) + 3.5:.1f}" '
            f'text-anchor="end">{label}</text>'
            for value, label in ticks
        )

    def vertical(self, ticks: Sequence[tuple[float, str]]) -> str:
        """Labels below the box; one at an edge is kept inside."""
        parts = []
        for value, label in ticks:
            at = self.x(value)
            near = 3.2 * len(label)  # half a label, roughly
            outside = "end" if at + near > self.width else "start" if at < near else "middle"
            parts.append(
                f'<text class="tick" x="{min(at, self.width - 2.0):.1f}" y="{self.height - 6}" '
                f'text-anchor="{outside}">{label}</text>'
            )
        return "".join(parts)


def lines_over_time(
    t_ms: TimeArray,
    actual: FloatArray,
    expected: NDArray[np.float32],
    label: str,
    *,
    width: int = 420,
    height: int = 180,
) -> str:
    """Actual against expected with its band; ``actual`` (T,), ``expected`` (3, T)."""
    low, high = _limits(actual, expected)
    frame = Frame(width, height, float(t_ms[0]), float(max(t_ms[-1], t_ms[0] + 1)), low, high)
    x, groups = _columns(t_ms)
    with np.errstate(invalid="ignore"):
        mean, lower, upper = (_binned(row.astype(np.float64), groups) for row in expected)
        least, most = _binned(actual, groups, np.fmin), _binned(actual, groups, np.fmax)
    parts = [
        frame.open(label),
        frame.horizontal([(value, _level(value, high - low)) for value in nice(low, high, 4)]),
        frame.vertical(time_ticks(int(t_ms[0]), int(t_ms[-1]))),
        f'<path class="band" d="{_area(frame, x, lower, upper)}"/>',
        f'<path class="actual" d="{_spread(frame, x, least, most)}"/>',
        f'<path class="expected" d="{_line(frame, x, mean)}"/>',
        "</svg>",
    ]
    return "".join(parts)


def error_by_lead(
    leads: Sequence[int],
    rows: Sequence[tuple[int, FloatArray]],
    label: str,
    *,
    width: int = 420,
    height: int = 200,
) -> str:
    """MASE over the lead, one line for each (colour, (L,) values); naive is the line at 1."""
    known = np.concatenate([values[np.isfinite(values)] for _, values in rows] or [np.ones(1)])
    high = max(1.1, min(float(known.max(initial=1.0)), 3.0) * 1.05)
    low = min(0.9, float(known.min(initial=1.0)) * 0.95)
    last = max(leads[-1], 2)
    frame = Frame(width, height, 0.0, math.log2(last), low, high)
    x = np.log2(np.array(leads, dtype=np.float64))
    parts = [
        frame.open(label),
        frame.horizontal([(value, f"{value:g}") for value in nice(low, high, 5)]),
        frame.vertical([(math.log2(lead), f"{lead}") for lead in _apart(leads)]),
        f'<line class="rule" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{frame.y(1):.1f}" '
        f'y2="{frame.y(1):.1f}"/>',
    ]
    for colour, values in rows:
        parts.append(f'<path class="line c{colour}" d="{_line(frame, x, values)}"/>')
        parts += [
            f'<circle class="dot c{colour}" cx="{frame.x(at):.1f}" '
            f'cy="{frame.y(value):.1f}" r="3"/>'
            for at, value in zip(x.tolist(), values.tolist(), strict=True)
            if math.isfinite(value)
        ]
    return "".join([*parts, "</svg>"])


def coverage_over_time(
    t_ms: TimeArray,
    covered: FloatArray,
    counted: FloatArray,
    label: str,
    *,
    width: int = 420,
    height: int = 200,
    bins: int = 48,
) -> str:
    """Share of actuals inside the band, all series together, in bins of time; 95 % is the rule."""
    edges = np.unique(np.linspace(0, t_ms.size, min(bins, t_ms.size) + 1).astype(int))
    inside, judged = np.add.reduceat(covered, edges[:-1]), np.add.reduceat(counted, edges[:-1])
    share = np.divide(inside, judged, out=np.full(inside.size, np.nan), where=judged > 0)
    known = share[np.isfinite(share)]
    low = max(0.0, min(0.8, float(known.min(initial=1.0)) - 0.02))
    frame = Frame(width, height, float(t_ms[0]), float(max(t_ms[-1], t_ms[0] + 1)), low, 1.0)
    times = np.append(t_ms, 2 * t_ms[-1] - t_ms[-2] if t_ms.size > 1 else t_ms[-1] + 1)
    bars = []
    for at, value in enumerate(share.tolist()):
        if not math.isfinite(value):
            continue
        left = frame.x(min(float(times[edges[at]]), frame.x1))
        right = frame.x(min(float(times[edges[at + 1]]), frame.x1))
        top = frame.y(value)
        kind = "good" if BAND[0] <= value <= BAND[1] else "off"
        bars.append(
            f'<rect class="bar {kind}" x="{left + 0.5:.1f}" y="{top:.1f}" '
            f'width="{max(right - left - 1, 0.5):.1f}" height="{frame.y(low) - top:.1f}"/>'
        )
    return "".join(
        [
            frame.open(label),
            frame.horizontal([(value, f"{value:.0%}") for value in nice(low, 1.0, 5)]),
            frame.vertical(time_ticks(int(t_ms[0]), int(t_ms[-1]))),
            *bars,
            f'<line class="rule" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{frame.y(0.95):.1f}" '
            f'y2="{frame.y(0.95):.1f}"/>',
            "</svg>",
        ]
    )


def sorted_errors(mase: FloatArray, label: str, *, width: int = 420, height: int = 200) -> str:
    """The error of each series against naive, best first: how many are below 1."""
    values = np.sort(mase[np.isfinite(mase)])
    high = max(1.1, float(np.quantile(values, 0.99)) * 1.1) if values.size else 1.1
    frame = Frame(width, height, 0.0, float(max(values.size - 1, 1)), 0.0, min(high, 4.0))
    x = np.arange(values.size, dtype=np.float64)
    dots = "".join(
        f'<circle class="dot c0" cx="{frame.x(at):.1f}" cy="{frame.y(value):.1f}" r="2.5"/>'
        for at, value in zip(x.tolist(), values.tolist(), strict=True)
    )
    if values.size > _MOST_POINTS:
        dots = f'<path class="line c0" d="{_line(frame, x, values)}"/>'
    ticks = [(0.0, "best"), (frame.x1, "worst")] if values.size > 1 else []
    return "".join(
        [
            frame.open(label),
            frame.horizontal([(value, f"{value:g}") for value in nice(0, frame.y1, 5)]),
            frame.vertical(ticks),
            f'<line class="rule" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{frame.y(1):.1f}" '
            f'y2="{frame.y(1):.1f}"/>',
            dots,
            "</svg>",
        ]
    )


def nice(low: float, high: float, most: int) -> list[float]:
    """Round numbers between the two, ``most`` of them at the most.

    >>> nice(0.0, 1.0, 5), nice(3.2, 9.9, 4)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [4.0, 6.0, 8.0])
    """
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    rough = span / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def time_ticks(start_ms: int, end_ms: int) -> list[tuple[float, str]]:
    """Whole hours or days (UTC), at most six, each with its label."""
    span = max(end_ms - start_ms, 1)
    steps = [h * _HOUR_MS for h in (1, 2, 3, 6, 12)] + [d * _DAY_MS for d in (1, 2, 7, 14, 30, 90)]
    small = [m * 60_000 for m in (1, 5, 10, 15, 30)]
    step = next((s for s in (*small, *steps) if span / s <= 5), 365 * _DAY_MS)
    ticks = []
    for at in range(-(-start_ms // step) * step, end_ms + 1, step):
        moment = np.datetime64(at, "ms").astype(object)
        whole = step >= _DAY_MS or at % _DAY_MS == 0
        ticks.append((float(at), f"{moment:%d %b}" if whole else f"{moment:%H:%M}"))
    return ticks


def _level(value: float, span: float) -> str:
    """A value beside a grid line, in few characters.

    >>> _level(0.00034, 3e-5), _level(2.5e-9, 1e-9), _level(400.0, 30.0), _level(0.0, 1e-5)
    ('340.0µ', '2.50n', '400.0', '0.0µ')
    """
    size = max(abs(value), span)
    if size >= 1e-3:
        return compact(value, span)
    scale, prefix = (1e6, "µ") if size >= 1e-6 else (1e9, "n")
    return compact(value * scale, span * scale) + prefix


def _apart(leads: Sequence[int]) -> list[int]:
    """Leads whose labels do not touch: the last one, and the others that are not near it."""
    return [lead for lead in leads[:-1] if lead * 1.2 < leads[-1]] + [leads[-1]]


def _limits(actual: FloatArray, expected: NDArray[np.float32]) -> tuple[float, float]:
    """The lines decide; a band much wider than they are is cut."""
    lines = np.concatenate([actual, expected[0].astype(np.float64)])
    lines = lines[np.isfinite(lines)]
    if not lines.size:
        return 0.0, 1.0
    low, high = float(lines.min()), float(lines.max())
    reach = max(high - low, abs(high) * 0.02, 1e-12)
    band = expected[1:].astype(np.float64)
    band = band[np.isfinite(band)]
    if band.size:
        low, high = (
            max(min(low, float(np.quantile(band, 0.01))), low - reach / 2),
            min(max(high, float(np.quantile(band, 0.99))), high + reach / 2),
        )
    air = 0.04 * (high - low) if high - low > reach / 2 else reach / 2
    return low - air, high + air


def _columns(t_ms: TimeArray) -> tuple[FloatArray, NDArray[np.int64]]:
    """Where each of at most ``_MOST_POINTS`` columns lies, and where its instants begin."""
    count = min(t_ms.size, _MOST_POINTS)
    starts = (np.arange(count) * t_ms.size) // count
    return t_ms[starts].astype(np.float64), starts.astype(np.int64)


def _binned(
    values: FloatArray, starts: NDArray[np.int64], by: np.ufunc | None = None
) -> FloatArray:
    """One value a column: its mean, or what ``by`` makes of its values; NaN where it has none."""
    if by is not None:
        return np.asarray(by.reduceat(values, starts), dtype=np.float64)
    known = np.isfinite(values)
    total = np.add.reduceat(np.where(known, values, 0.0), starts)
    count = np.add.reduceat(known.astype(np.float64), starts)
    return as_float(np.divide(total, count, out=np.full(total.size, np.nan), where=count > 0))


def _line(frame: Frame, x: FloatArray, y: FloatArray) -> str:
    """A path; a NaN lifts the pen."""
    parts, down = [], False
    for at, value in zip(x.tolist(), y.tolist(), strict=True):
        if math.isfinite(value):
            parts.append(f"{'L' if down else 'M'}{frame.x(at):.1f} {frame.y(value):.1f}")
        down = math.isfinite(value)
    return "".join(parts)


def _spread(frame: Frame, x: FloatArray, least: FloatArray, most: FloatArray) -> str:
    """As ``_line``, through the least and the most of each column, so that spikes stay."""
    if np.array_equal(least, most, equal_nan=True):
        return _line(frame, x, least)
    both = np.stack([least, most], axis=1)
    both[1::2] = both[1::2, ::-1]  # down and up by turns: no needless strokes
    return _line(frame, np.repeat(x, 2), both.reshape(-1))


def _area(frame: Frame, x: FloatArray, lower: FloatArray, upper: FloatArray) -> str:
    """Closed pieces between two lines, one for each stretch without a gap."""
    known = np.isfinite(lower) & np.isfinite(upper)
    pieces = []
    for run in np.split(
        np.flatnonzero(known), np.flatnonzero(np.diff(np.flatnonzero(known)) > 1) + 1
    ):
        if run.size:
            above = _line(frame, x[run], upper[run])
            below = _line(frame, x[run][::-1], lower[run][::-1]).replace("M", "L", 1)
            pieces.append(above + below + "Z")
    return "".join(pieces)
