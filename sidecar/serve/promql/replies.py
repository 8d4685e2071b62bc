"""The upstream's answers, taken apart row by row.

The numbers of a row stay text: the past is passed on as the bytes that the upstream wrote.
"""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

from sidecar.series import FloatArray, LabelSet, TimeArray
from sidecar.serve.promql.cursor import Cursor, Garbage, decoded
from sidecar.serve.promql.frames import Frame, QueryError, Scalar, Value, empty
from sidecar.serve.promql.split import Steps

_END_OF_POINTS: Final = re.compile(r"\][ \t\r\n]*\]")
_ROW_BEGINS: Final = '{"metric":'
_VALUES_BEGIN: Final = '},"values":['
_ROW_ENDS: Final = '"]]}'
_TO_NUMBERS: Final = str.maketrans("", "", '[]" \t\r\n')


@dataclass(frozen=True, slots=True)
class Row:
    """One series of an answer.

    Attributes:
        metric: its labels as the upstream wrote them.
        points: ``[t,"v"],[t,"v"]`` as the upstream wrote them, without the outer brackets.
        rest: further members as JSON, each with a comma before it: native histograms.
    """

    labels: LabelSet
    metric: str
    points: str
    rest: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to a query.

    Attributes:
        result_type: matrix, vector, scalar or string.
        rows: of a matrix or vector; a scalar is one row without labels.
    """

    result_type: str
    rows: tuple[Row, ...]
    warnings: tuple[str, ...]
    infos: tuple[str, ...]


def read_reply(body: bytes) -> Reply:
    """A successful answer of ``/query`` or ``/query_range``.

    Raises:
        Garbage
    """
    try:
        cursor = Cursor(decoded(body))
        found: dict[str, Any] = {"warnings": [], "infos": []}
        for key in cursor.members():
            found[key] = read_data(cursor) if key == "data" else cursor.value()
        result_type, rows = found["data"]
        notes = [tuple(str(one) for one in found[key] or ()) for key in ("warnings", "infos")]
        return Reply(str(result_type), tuple(rows), notes[0], notes[1])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Garbage(f"not an answer to a query: {error}") from None


def read_object(body: bytes) -> dict[str, Any]:
    """``data`` of an answer, where it is an object.

    Raises:
        Garbage
    """
    try:
        data = json.loads(body)["data"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Garbage(f"not an answer: {error}") from None
    if not isinstance(data, dict):
        raise Garbage("an answer whose data is no object")
    return data


def read_data(cursor: Cursor) -> tuple[str, list[Row]]:
    """``data`` of an answer to a query: its type and its rows."""
    result_type, rows = "", []
    for key in cursor.members():
        if key == "resultType":
            result_type = cursor.value()
        elif key == "result" and result_type in ("matrix", "vector", ""):
            rows = [_plain_row(cursor) or _read_row(cursor) for _ in cursor.elements()]
        elif key == "result":  # a scalar or a string is one point
            cursor.expect("[")
            rows = [Row(LabelSet(()), "{}", "[" + _until_bracket(cursor))]
        else:
            cursor.value()
    return result_type, rows


def _plain_row(cursor: Cursor) -> Row | None:
    """A row just as Prometheus writes it, in few steps; None where it is written otherwise.

    A quote inside of a string is written with a backslash, so what is looked for cannot stand
    inside of one.
    """
    text, start = cursor.text, cursor.at
    if not text.startswith(_ROW_BEGINS, start):
        return None
    metric_end = text.find(_VALUES_BEGIN, start) + 1
    end = text.find(_ROW_ENDS, metric_end)
    if not metric_end or end < 0:
        return None
    metric = text[start + len(_ROW_BEGINS) : metric_end]
    points = text[metric_end + len(_VALUES_BEGIN) - 1 : end + 2]
    if "{" in points or "]]" in points or not points.startswith("["):
        return None  # this one has none, and these are another's; or it has histograms too
    try:
        labels = _labels(metric)
    except ValueError:  # up to the values of another
        return None
    cursor.at = end + len(_ROW_ENDS)
    return Row(labels, metric, points)


@lru_cache(maxsize=8192)
def _labels(metric: str) -> LabelSet:
    """The labels that a metric's JSON says; the same few thousand come again and again."""
    found = json.loads(metric)
    if not isinstance(found, dict):
        raise Garbage("a series whose labels are no object")
    return LabelSet.of(found)


def _read_row(cursor: Cursor) -> Row:
    labels, metric, points, rest = LabelSet(()), "{}", "", ""
    for key in cursor.members():
        if key == "metric":
            cursor.value()
            metric = cursor.text[cursor.began : cursor.at]
            labels = _labels(metric)
        elif key == "values":
            points = _points(cursor)
        elif key == "value":
            cursor.expect("[")
            points = "[" + _until_bracket(cursor)
        else:
            cursor.value()
            rest += f",{json.dumps(key)}:{cursor.text[cursor.began : cursor.at]}"
    return Row(labels, metric, points, rest)


def _points(cursor: Cursor) -> str:
    cursor.expect("[")
    if cursor.take("]"):
        return ""
    end = _END_OF_POINTS.search(cursor.text, cursor.at)
    if end is None:
        raise Garbage("the points of a series do not end")
    points = cursor.text[cursor.at : end.start() + 1]
    cursor.at = end.end()
    return points


def _until_bracket(cursor: Cursor) -> str:
    """Up to and including the next ``]``, which neither numbers nor their quotes contain."""
    end = cursor.text.index("]", cursor.at) + 1
    start, cursor.at = cursor.at, end
    return cursor.text[start:end]


def numbers(points: str) -> tuple[TimeArray, FloatArray]:
    """Timestamps (S,) in ms and values (S,) of a row's points."""
    parts = points.translate(_TO_NUMBERS).split(",") if points else []
    flat = np.array([float(part) for part in parts], dtype=np.float64)
    return np.rint(flat[::2] * 1000).astype(np.int64), flat[1::2]


def value_of(reply: Reply, steps: Steps, scalar: bool) -> Value:
    """A range query's answer on its steps.

    Raises:
        Garbage: instants that are none of the steps.
        QueryError: native histograms.
    """
    if any(row.rest for row in reply.rows):
        raise QueryError("execution", "native histograms beside forecasts are not evaluated here")
    shape = (len(reply.rows), steps.size)
    values, present = np.full(shape, np.nan), np.zeros(shape, dtype=np.bool_)
    for i, row in enumerate(reply.rows):
        times, row_values = numbers(row.points)
        columns, rest = np.divmod(times - steps.start_ms, steps.step_ms)
        if rest.any() or (len(columns) and not 0 <= columns[0] <= columns[-1] < steps.size):
            raise Garbage("an answer at other instants than were asked for")
        values[i, columns] = row_values
        present[i, columns] = True
    if scalar:
        return Scalar(values[0] if len(values) else np.full(steps.size, np.nan))
    labels = tuple(row.labels for row in reply.rows)
    return Frame(labels, values, present) if labels else empty(steps.size)
