"""Functions of one vector, value by value, and of nothing but the time."""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sidecar.names import METRIC_NAME
from sidecar.series import FloatArray, LabelSet, TimeArray
from sidecar.serve.promql.frames import Frame, Mask, Scalar
from sidecar.serve.promql.matchers import LabelMatcher

_DAY_S: Final = 86_400

ELEMENTWISE: Final[dict[str, Callable[[FloatArray], FloatArray]]] = {
    "abs": np.abs,
    "ceil": np.ceil,
    "floor": np.floor,
    "exp": np.exp,
    "sqrt": np.sqrt,
    "ln": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "sgn": np.sign,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "deg": np.degrees,
    "rad": np.radians,
}


# What Go says of a time that 64 bits cannot hold, which NaN and infinities are.
_OVERFLOWN: Final = {
    "minute": 30.0,
    "hour": 15.0,
    "day_of_week": 0.0,
    "day_of_month": 4.0,
    "day_of_year": 339.0,
    "days_in_month": 31.0,
    "month": 12.0,
    "year": 292_277_026_596.0,
}


def _in(unit: str, seconds: FloatArray) -> NDArray[np.datetime64]:
    return seconds.astype(np.int64).astype("datetime64[s]").astype(f"datetime64[{unit}]")


def _number(of: NDArray[np.generic]) -> FloatArray:
    return of.astype(np.int64).astype(np.float64)


def _minute(seconds: FloatArray) -> FloatArray:
    return _number(seconds.astype(np.int64) // 60 % 60)


def _hour(seconds: FloatArray) -> FloatArray:
    return _number(seconds.astype(np.int64) // 3600 % 24)


def _day_of_week(seconds: FloatArray) -> FloatArray:
    return _number((seconds.astype(np.int64) // _DAY_S + 4) % 7)  # 1970 began on a Thursday


def _day_of_month(seconds: FloatArray) -> FloatArray:
    return _number(_in("D", seconds) - _in("M", seconds)) + 1


def _day_of_year(seconds: FloatArray) -> FloatArray:
    return _number(_in("D", seconds) - _in("Y", seconds)) + 1


def _days_in_month(seconds: FloatArray) -> FloatArray:
    month = _in("M", seconds)
    return _number((month + 1).astype("datetime64[D]") - month.astype("datetime64[D]"))


def _month(seconds: FloatArray) -> FloatArray:
    return _number(_in("M", seconds)) % 12 + 1


def _year(seconds: FloatArray) -> FloatArray:
    return _number(_in("Y", seconds)) + 1970


CALENDAR: Final[dict[str, Callable[[FloatArray], FloatArray]]] = {
    "minute": _minute,
    "hour": _hour,
    "day_of_week": _day_of_week,
    "day_of_month": _day_of_month,
    "day_of_year": _day_of_year,
    "days_in_month": _days_in_month,
    "month": _month,
    "year": _year,
}

CLAMPS: Final = frozenset({"clamp", "clamp_min", "clamp_max"})
OTHERS: Final = frozenset(
    {"round", "scalar", "vector", "time", "timestamp", "absent", "sort", "sort_desc"}
)
FUNCTIONS: Final = frozenset({*ELEMENTWISE, *CALENDAR, *CLAMPS, *OTHERS})


def elementwise(function: str, frame: Frame) -> Frame:
    kernel = ELEMENTWISE.get(function)
    values = kernel(frame.values) if kernel else _of_the_calendar(function, frame.values)
    return Frame(frame.labels, values, frame.present).without_name()


def _of_the_calendar(function: str, seconds: FloatArray) -> FloatArray:
    held = np.abs(seconds) < 2.0**63
    values = CALENDAR[function](np.where(held, seconds, 0.0))
    return np.where(held, values, _OVERFLOWN[function])


def rounded(frame: Frame, nearest: FloatArray) -> Frame:
    """To multiples of ``nearest`` (T,), halves up."""
    inverse = 1.0 / nearest
    values = np.floor(frame.values * inverse + 0.5) / inverse
    return Frame(frame.labels, values, frame.present).without_name()


def clamped(frame: Frame, low: FloatArray | None, high: FloatArray | None) -> Frame:
    """Limited to [low, high], each (T,); nothing at steps where low is above high."""
    values, present = frame.values, frame.present
    if high is not None:
        # NaN wins, save over the infinity that nothing can be beyond.
        values = np.where(
            np.isneginf(values) | np.isneginf(high), -np.inf, np.minimum(values, high)
        )
    if low is not None:
        values = np.where(np.isposinf(values) | np.isposinf(low), np.inf, np.maximum(values, low))
    if low is not None and high is not None:
        present = present & ~(high < low)
    return Frame(frame.labels, values, present).without_name()


def single(frame: Frame) -> Scalar:
    """The only element's value at each step, NaN where there is not exactly one."""
    count = frame.present.sum(axis=0)
    total = np.where(frame.present, frame.values, 0.0).sum(axis=0)
    return Scalar(np.where(count == 1, total, np.nan))


def absence(present: Mask, labels: LabelSet) -> Frame:
    """1 at the steps where no row of ``present`` (N, T) is."""
    missing = np.logical_not(present.any(axis=0))[None, :]
    return Frame((labels,), np.ones(missing.shape), missing)


def absent_labels(matchers: tuple[LabelMatcher, ...]) -> LabelSet:
    """What absent() can say of a series that is not there: labels matched once, by equality."""
    by_name: dict[str, list[LabelMatcher]] = {}
    for matcher in matchers:
        by_name.setdefault(matcher.name, []).append(matcher)
    return LabelSet.of(
        {
            name: found[0].exact
            for name, found in by_name.items()
            if name != METRIC_NAME and len(found) == 1 and found[0].exact is not None
        }
    )


def sorted_by_value(frame: Frame, *, descending: bool) -> Frame:
    """An instant vector by value, NaN last; on a range the order says nothing."""
    if frame.values.shape[1] != 1:
        return frame
    values = frame.values[:, 0]
    keys = -values if descending else values
    return frame.take(np.argsort(keys, kind="stable"))


def seconds(instants_ms: TimeArray) -> FloatArray:
    return instants_ms / 1000.0
