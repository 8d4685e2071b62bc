"""A plot in the terminal: what was, what was expected, and the band, past and ahead of now.

Each line can be told from the others by its shape alone, so neither colour nor a good eye for it is
needed: the actual is a fine dotted line (braille, 2 x 4 dots a cell), the forecast dashes, the band
a light hatch. Where the terminal speaks no Unicode, plain characters take their place.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from rich.console import Console
from rich.text import Text

from sidecar.duration import format_duration
from sidecar.series import FloatArray

# Okabe and Ito's colours for every kind of colour vision, legible on dark and on light.
ACTUAL_STYLE = "#56B4E9"
EXPECTED_STYLE = "bold #E69F00"
BAND_STYLE = "bright_black"
FRAME_STYLE = "dim"

_LABEL_WIDTH = 8
_SMALLEST_WIDTH, _SMALLEST_HEIGHT = 24, 4
_TICKS_S = (15, 30, 60, 120, 180, 300, 600, 900, 1800, 3600, 7200, 21_600)
# Dots of a braille cell by (row, column); the code points begin at U+2800.
_BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


@dataclass(frozen=True, eq=False)
class Curve:
    """(S,) seconds since the epoch, ascending, and values; a NaN is a gap."""

    times: FloatArray = field(default_factory=lambda: np.empty(0))
    values: FloatArray = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True, eq=False)
class Band:
    """(S,) seconds and bounds, without a gap between neighbours."""

    times: FloatArray
    lower: FloatArray
    upper: FloatArray


@dataclass(frozen=True, eq=False)
class Picture:
    """What to draw: ``expected`` may consist of pieces, such as the past and what is ahead."""

    title: str
    actual: Curve
    expected: Sequence[Curve]
    bands: Sequence[Band]
    start_s: float
    end_s: float
    now_s: float

    def draw(self, width: int, height: int, *, unicode: bool = True) -> list[Text]:
        """Lines of at most ``width`` cells: a title, ``height`` rows, the axis, the legend."""
        columns = max(width, _SMALLEST_WIDTH) - _LABEL_WIDTH - 2
        canvas = _Canvas(self, columns, max(height, _SMALLEST_HEIGHT), unicode)
        title = Text(self.title[:width], style="bold")
        rows = [Text.assemble(*canvas.row(r)) for r in range(canvas.rows)]
        return [title, *rows, canvas.axis(), *canvas.legend(width)]


class _Canvas:
    """Cells of ``columns`` x ``rows``; a sub-cell grid of 2 x 4 dots for the actual."""

    def __init__(self, picture: Picture, columns: int, rows: int, unicode: bool) -> None:
        self.picture, self.columns, self.rows, self.unicode = picture, columns, rows, unicode
        self.low, self.high = _limits(picture)
        self.dots = np.zeros((rows, columns), dtype=np.int64)
        self.dashes = np.full((rows, columns), -1)
        self.hatch = np.zeros((rows, columns), dtype=bool)
        for band in picture.bands:
            self._fill(band)
        for curve in picture.expected:
            self._dash(curve)
        self._trace(picture.actual)

    def _x(self, time_s: float) -> float:
        """From 0 at the left edge to ``columns`` at the right."""
        start, end = self.picture.start_s, self.picture.end_s
        return (time_s - start) / (end - start) * self.columns

    def _y(self, value: float) -> float:
        """From 0 at the top to ``rows`` at the bottom, cut there."""
        share = (self.high - value) / (self.high - self.low)
        return min(max(share, 0.0), 1.0) * (self.rows - 1e-9)

    def _by_column(self, curve: Curve, per_cell: int) -> Iterator[tuple[int, float]]:
        """(column, value) for each of ``per_cell`` columns a cell that the curve passes."""
        good = np.isfinite(curve.values)
        if not good.any():
            return
        times, values = curve.times[good], curve.values[good]
        # A hole wider than a few ordinary distances is drawn as a hole.
        usual = float(np.median(np.diff(times))) if times.size > 1 else 0.0
        dx = (self.picture.end_s - self.picture.start_s) / (self.columns * per_cell)
        for column in range(self.columns * per_cell):
            t = self.picture.start_s + (column + 0.5) * dx
            right = int(np.searchsorted(times, t))
            near = max(usual * 3, dx)
            ahead = times[right] - t if right < times.size else math.inf
            behind = t - times[right - 1] if right else math.inf
            if min(ahead, behind) <= dx / 2 or ahead + behind <= near:
                yield column, float(np.interp(t, times, values))

    def _trace(self, curve: Curve) -> None:
        last: tuple[int, int] | None = None
        for column, value in self._by_column(curve, 2):
            dot = int(self._y(value) * 4)
            joined = last is not None and last[0] == column - 1
            first = dot if last is None or not joined else last[1]
            # Up or down from the column before, so that a steep line stays a line.
            step = 1 if dot >= first else -1
            for y in range(first + step, dot + step, step) if first != dot else (dot,):
                self.dots[y // 4, column // 2] |= _BRAILLE[y % 4][column % 2]
            last = (column, dot)

    def _dash(self, curve: Curve) -> None:
        for column, value in self._by_column(curve, 1):
            y = self._y(value)
            self.dashes[int(y), column] = int(y % 1 * 3)

    def _fill(self, band: Band) -> None:
        lower = dict(self._by_column(Curve(band.times, band.lower), 1))
        for column, upper in self._by_column(Curve(band.times, band.upper), 1):
            if column in lower:
                top, bottom = int(self._y(upper)), int(self._y(lower[column]))
                self.hatch[top : bottom + 1, column] = True

    def row(self, r: int) -> Iterator[tuple[str, str]]:
        """A row as (text, style) pieces, its label in front."""
        every = max(1, self.rows // 4)
        value = self.high - (r + 0.5) / self.rows * (self.high - self.low)
        label = compact(value, self.high - self.low) if r % every == every // 2 else ""
        yield label.rjust(_LABEL_WIDTH)[:_LABEL_WIDTH], FRAME_STYLE
        yield (" │" if self.unicode else " |"), FRAME_STYLE
        now = int(self._x(self.picture.now_s))
        cells = [self._cell(r, column, is_now=column == now) for column in range(self.columns)]
        for style, run in groupby(cells, key=lambda cell: cell[1]):
            yield "".join(text for text, _ in run), style

    def _cell(self, r: int, column: int, *, is_now: bool) -> tuple[str, str]:
        dots, dash = int(self.dots[r, column]), int(self.dashes[r, column])
        # Where both lie in one cell they take turns, so that neither hides the other.
        if dash >= 0 and (not dots or column % 2):
            return ("▔─▁"[dash] if self.unicode else "-"), EXPECTED_STYLE
        if dots:
            return (chr(0x2800 + dots) if self.unicode else "*"), ACTUAL_STYLE
        if is_now:
            return ("┊" if self.unicode else "|"), FRAME_STYLE
        if self.hatch[r, column]:
            return ("░" if self.unicode else ":"), BAND_STYLE
        return " ", ""

    def axis(self) -> Text:
        """Times from now, as far as they fit side by side."""
        line = [" "] * (self.columns + _LABEL_WIDTH + 2)
        before = self.picture.start_s - self.picture.now_s
        after = self.picture.end_s - self.picture.now_s
        step = next((s for s in _TICKS_S if (after - before) / s * 12 <= self.columns), 86_400)
        ticks = [k * step for k in range(math.ceil(before / step), math.floor(after / step) + 1)]
        for offset_s in sorted(ticks, key=abs):  # "now" first, where there is little room
            text = _from_now(offset_s)
            x = round(self._x(self.picture.now_s + offset_s))
            at = _LABEL_WIDTH + 2 + x - len(text) // 2
            at = min(max(at, _LABEL_WIDTH), len(line) - len(text))
            if all(cell == " " for cell in line[max(0, at - 1) : at + len(text) + 1]):
                line[at : at + len(text)] = text
        return Text("".join(line).rstrip(), style=FRAME_STYLE)

    def legend(self, width: int) -> list[Text]:
        dots, dash, hatch = ("⠒⠒", "──", "░░") if self.unicode else ("**", "--", "::")
        entries = [
            Text.assemble((dots, ACTUAL_STYLE), " actual"),
            Text.assemble((dash, EXPECTED_STYLE), " expected"),
            Text.assemble((hatch, BAND_STYLE), " its band"),
        ]
        margin = " " * (_LABEL_WIDTH + 2)
        one_line = Text(margin) + Text("   ").join(entries)
        return [one_line] if len(one_line) <= width else [Text(margin) + one for one in entries]


def _limits(picture: Picture) -> tuple[float, float]:
    """The values at the bottom and at the top, with a little air.

    The lines decide; a band that is much wider than they are is cut, else it would flatten them.
    """
    lines = [picture.actual.values, *(curve.values for curve in picture.expected)]
    finite = np.concatenate([*lines, np.empty(0)])
    finite = finite[np.isfinite(finite)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    reach = max(high - low, abs(high) * 1e-3, 1e-12)
    bounds = [array for band in picture.bands for array in (band.lower, band.upper)]
    band = np.concatenate([*bounds, np.empty(0)])
    band = band[np.isfinite(band)]
    if band.size:
        low = max(min(low, float(band.min())), low - reach)
        high = min(max(high, float(band.max())), high + reach)
    air = max(0.05 * (high - low), abs(high) * 1e-3, 1e-12)
    return low - air, high + air


def compact(value: float, span: float) -> str:
    """A number for an axis that spans ``span``: SI prefix, as many digits as tell rows apart.

    >>> compact(40_312_000_000, 500e6), compact(612.4, 700), compact(21.95, 2.5), compact(0.0, 1)
    ('40.31G', '612', '21.95', '0.00')
    """
    size = max(abs(value), span)
    scale, prefix = next(
        ((s, p) for s, p in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")) if size >= s),
        (1.0, ""),
    )
    if prefix == "k":
        scale = 1e3
    # Down to a fortieth of the span: labels are an eighth of it apart, or more.
    digits = math.ceil(-math.log10(span / scale / 40)) if span > 0 else 0
    digits = min(max(digits, 0), 6)
    return f"{value / scale:.{digits}f}{prefix}"


def _from_now(offset_s: int) -> str:
    if offset_s == 0:
        return "now"
    return ("+" if offset_s > 0 else "-") + format_duration(abs(offset_s) * 1000)


def speaks_unicode(console: Console) -> bool:
    """Whether the terminal can show braille and blocks."""
    return console.encoding.lower().replace("-", "") in ("utf8", "utf16", "utf32")
