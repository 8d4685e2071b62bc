import numpy as np
import pytest
from rich.text import Text

from sidecar.plot import Band, Curve, Picture, compact

NOW = 1_700_000_000.0


def drawn(
    actual: Curve | None = None,
    expected: Curve | None = None,
    band: Band | None = None,
    *,
    width: int = 60,
    height: int = 10,
    unicode: bool = True,
) -> list[Text]:
    picture = Picture(
        title="x",
        actual=actual or Curve(),
        expected=[expected] if expected else [],
        bands=[band] if band else [],
        start_s=NOW - 600,
        end_s=NOW + 120,
        now_s=NOW,
    )
    return picture.draw(width, height, unicode=unicode)


def times(start_s: float, end_s: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.arange(NOW + start_s, NOW + end_s + 1, 5.0)


def rising(start_s: float, end_s: float) -> Curve:
    t = times(start_s, end_s)
    return Curve(t, t - NOW)


def rows(lines: list[Text]) -> list[str]:
    """The canvas: between the title and the axis, right of the frame."""
    return [line.plain.split("│")[1] for line in lines if "│" in line.plain]


def is_braille(cell: str) -> bool:
    return 0x2800 < ord(cell) < 0x2900


@pytest.mark.parametrize("width", [20, 24, 40, 80, 200])
@pytest.mark.parametrize("unicode", [True, False])
def test_no_line_is_wider_than_the_terminal(width: int, unicode: bool) -> None:
    band = Band(times(-60, 120), times(-60, 120) - NOW - 5, times(-60, 120) - NOW + 5)
    lines = drawn(rising(-600, 0), rising(-60, 120), band, width=width, unicode=unicode)
    assert max(len(line) for line in lines) <= max(width, 24)


def test_plain_characters_are_all_there_is_without_unicode() -> None:
    band = Band(times(-60, 120), times(-60, 120) - NOW - 50, times(-60, 120) - NOW + 50)
    text = "".join(
        line.plain for line in drawn(rising(-600, 0), rising(-60, 120), band, unicode=False)
    )
    assert text.isascii()
    assert set("*-:") <= set(text)


def test_a_rising_line_leads_from_the_lower_left_to_now() -> None:
    canvas = rows(drawn(rising(-600, 0)))
    columns = len(canvas[0])
    marked = {
        (r, c) for r, row in enumerate(canvas) for c, cell in enumerate(row) if is_braille(cell)
    }
    tops = [min(r for r, c in marked if c == column) for column in range(int(columns * 600 / 720))]
    assert tops[0] == len(canvas) - 1
    assert tops[-1] == 0
    assert tops == sorted(tops, reverse=True)


def test_a_step_is_drawn_as_one_unbroken_line() -> None:
    t = times(-600, 0)
    canvas = rows(drawn(Curve(t, np.where(t < NOW - 300, 0.0, 1.0)), height=12))
    assert all(any(is_braille(cell) for cell in row) for row in canvas[1:-1])


def test_a_hole_in_the_actual_stays_a_hole() -> None:
    t = times(-600, 0)
    t = t[(t < NOW - 400) | (t > NOW - 200)]
    canvas = rows(drawn(Curve(t, np.ones_like(t))))
    columns = len(canvas[0])
    hole = range(int(columns * 215 / 720), int(columns * 385 / 720))
    assert not any(is_braille(row[column]) for row in canvas for column in hole)
    assert any(is_braille(cell) for row in canvas for cell in row)


def test_a_nan_is_a_gap_and_not_a_value() -> None:
    t = times(-600, 0)
    values = np.where(t > NOW - 300, np.nan, 5.0)
    canvas = rows(drawn(Curve(t, values)))
    assert not any(is_braille(cell) for row in canvas for cell in row[len(row) // 2 :])


def test_where_both_lie_the_forecast_and_the_actual_take_turns() -> None:
    lines = drawn(rising(-600, 0), rising(-600, 0), height=5)
    cells = "".join(rows(lines))
    assert any(is_braille(cell) for cell in cells)
    assert any(cell in "▔─▁" for cell in cells)


def test_the_forecast_goes_on_right_of_now() -> None:
    canvas = rows(drawn(rising(-600, 0), rising(5, 120)))
    now = next(c for c, cell in enumerate(canvas[-1]) if cell == "┊")
    ahead = [cell for row in canvas for cell in row[now + 1 :]]
    assert any(cell in "▔─▁" for cell in ahead)
    assert not any(is_braille(cell) for cell in ahead)


def test_an_enormous_band_does_not_flatten_the_lines() -> None:
    t = times(-60, 120)
    band = Band(t, np.full_like(t, -1e9), np.full_like(t, 1e9))
    canvas = rows(drawn(rising(-600, 0), None, band, height=12))
    assert sum(any(is_braille(cell) for cell in row) for row in canvas) >= 4


@pytest.mark.parametrize("values", [0.0, 42.0, 1e12, -1e-9])
def test_a_constant_is_drawn(values: float) -> None:
    t = times(-600, 0)
    assert any(is_braille(c) for row in rows(drawn(Curve(t, np.full_like(t, values)))) for c in row)


def test_nothing_at_all_is_an_empty_frame() -> None:
    assert not any(is_braille(cell) for row in rows(drawn()) for cell in row)


def test_the_axis_says_now_where_now_is() -> None:
    lines = drawn(rising(-600, 0), width=80)
    frame, axis = lines[-3].plain, lines[-2].plain
    assert abs(axis.index("now") + 1 - frame.index("┊")) <= 1
    assert "-9m" in axis
    assert axis.index("-9m") < axis.index("-3m") < axis.index("now")


@pytest.mark.parametrize(
    ("value", "span", "text"),
    [
        (1.5, 1e-3, "1.50000"),
        (12_345, 20_000, "12.3k"),
        (-40e9, 1e9, "-40.00G"),
        (5e12, 1e12, "5.00T"),
        (999.0, 10.0, "999.0"),
    ],
)
def test_axis_labels_have_the_digits_that_tell_rows_apart(
    value: float, span: float, text: str
) -> None:
    assert compact(value, span) == text
