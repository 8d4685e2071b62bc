"""Prometheus' JSON: the upstream's answers taken apart, our own put together.

An answer may hold millions of numbers. The parser of the standard library would make objects of all
of them in one go and hold the interpreter meanwhile; so an answer is walked row by row, and the
numbers of a row stay text: the past is passed on as the bytes that the upstream wrote.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import numpy as np

from sidecar.series import FloatArray, LabelSet, TimeArray
from sidecar.serve.promql.frames import (
    UNBOUNDED,
    Budget,
    Frame,
    Mask,
    QueryError,
    Samples,
    Scalar,
    Value,
    empty,
)
from sidecar.serve.promql.split import Steps

_DECODER: Final = json.JSONDecoder()
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_END_OF_POINTS: Final = re.compile(r"\][ \t\r\n]*\]")
_ROW_BEGINS: Final = '{"metric":'
_VALUES_BEGIN: Final = '},"values":['
_ROW_ENDS: Final = '"]]}'
_TO_NUMBERS: Final = str.maketrans("", "", '[]" \t\r\n')


class Garbage(ValueError):
    """The upstream's answer is not what Prometheus would say."""


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
        cursor = _Cursor(body.decode())
        found: dict[str, Any] = {"warnings": [], "infos": []}
        for key in cursor.members():
            found[key] = _read_data(cursor) if key == "data" else cursor.value()
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


class _Cursor:
    """A place in a JSON text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.began = 0  # where the newest value began

    def peek(self) -> str:
        found = _SPACE.match(self.text, self.at)
        assert found is not None, "the pattern matches nothing too"
        self.at = found.end()
        return self.text[self.at : self.at + 1]

    def take(self, sign: str) -> bool:
        if self.peek() != sign:
            return False
        self.at += 1
        return True

    def expect(self, sign: str) -> None:
        if not self.take(sign):
            raise Garbage(f"expected {sign!r} at {self.at}")

    def value(self) -> Any:
        self.peek()
        self.began = self.at
        value, self.at = _DECODER.raw_decode(self.text, self.at)
        return value

    def members(self) -> Iterator[str]:
        """Keys of an object; whoever iterates must take each value."""
        self.expect("{")
        if self.take("}"):
            return
        while True:
            key = self.value()
            self.expect(":")
            yield key
            if not self.take(","):
                break
        self.expect("}")

    def elements(self) -> Iterator[None]:
        """Elements of an array; whoever iterates must take each."""
        self.expect("[")
        if self.take("]"):
            return
        yield None
        while self.take(","):
            yield None
        self.expect("]")


def _read_data(cursor: _Cursor) -> tuple[str, list[Row]]:
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


def _plain_row(cursor: _Cursor) -> Row | None:
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


def _read_row(cursor: _Cursor) -> Row:
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


def _points(cursor: _Cursor) -> str:
    cursor.expect("[")
    if cursor.take("]"):
        return ""
    end = _END_OF_POINTS.search(cursor.text, cursor.at)
    if end is None:
        raise Garbage("the points of a series do not end")
    points = cursor.text[cursor.at : end.start() + 1]
    cursor.at = end.end()
    return points


def _until_bracket(cursor: _Cursor) -> str:
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


# Writing


def number_text(value: float) -> str:
    """A sample's value as Go writes it in JSON.

    >>> [number_text(v) for v in (1.0, 1e-7, 1e-5, 1e20, 1e21, -0.0)]
    ['1', '1e-07', '0.00001', '100000000000000000000', '1e+21', '-0']
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    text = repr(value)
    if "e" in text and 1e-6 <= abs(value) < 1e21:
        text = format(Decimal(text), "f")
    return text.removesuffix(".0")


def time_text(ms: int) -> str:
    """A timestamp in seconds as Prometheus writes it.

    >>> time_text(1_500), time_text(2_000), time_text(-1)
    ('1.500', '2', '-0.001')
    """
    sign, ms = ("-", -ms) if ms < 0 else ("", ms)
    seconds, rest = divmod(ms, 1000)
    return f"{sign}{seconds}.{rest:03d}" if rest else f"{sign}{seconds}"


@lru_cache(maxsize=8192)
def metric_text(labels: LabelSet) -> str:
    return json.dumps(dict(labels.pairs), ensure_ascii=False, separators=(",", ":"))


class PointWriter:
    """Writes rows of one grid; the text of the timestamps is made once."""

    def __init__(self, instants_ms: TimeArray) -> None:
        self._heads = [f'[{time_text(ms)},"' for ms in instants_ms.tolist()]
        self._all = ",".join(f'{head}%r"]' for head in self._heads)

    def text(self, values: FloatArray, present: Mask) -> str:
        """Points (S,) that are present, without the outer brackets."""
        size = np.abs(values)
        plain = (size == 0) | ((size >= 1e-4) & (size < 1e16))  # where repr() needs no exponent
        if present.all() and plain.all():
            return (self._all % tuple(values.tolist())).replace('.0"]', '"]')
        return ",".join(
            f'{self._heads[i]}{number_text(value)}"]'
            for i, value in zip(
                np.flatnonzero(present).tolist(), values[present].tolist(), strict=True
            )
        )


def matrix_rows(
    instants_ms: TimeArray, frame: Frame | Samples, budget: Budget = UNBOUNDED
) -> list[Row]:
    """Series that have a point, each as a row.

    Raises:
        QueryError: out of time.
    """
    writer, rows = PointWriter(instants_ms), []
    for labels, values, present in zip(frame.labels, frame.values, frame.present, strict=True):
        budget.check(0, 0)
        if text := writer.text(values, present):
            rows.append(Row(labels, metric_text(labels), text))
    return rows


def scalar_row(instants_ms: TimeArray, scalar: Scalar) -> Row:
    """A scalar on a range: a series without labels."""
    everywhere = np.ones(scalar.values.shape, dtype=np.bool_)
    return Row(LabelSet(()), "{}", PointWriter(instants_ms).text(scalar.values, everywhere))


def joined_rows(past: Sequence[Row], future: Sequence[Row]) -> list[Row]:
    """Rows of both, sorted by labels; points of a series that both have follow each other."""
    by_labels = {row.labels: row for row in past}
    for row in future:
        before = by_labels.get(row.labels)
        if before is None or not before.points:
            by_labels[row.labels] = row
        else:
            both = f"{before.points},{row.points}"
            by_labels[row.labels] = Row(row.labels, before.metric, both, before.rest)
    return sorted(by_labels.values(), key=lambda row: row.labels.pairs)


def matrix_data(rows: Sequence[Row]) -> str:
    result = ",".join(
        f'{{"metric":{row.metric},"values":[{row.points}]{row.rest}}}'
        if row.points
        else f'{{"metric":{row.metric}{row.rest}}}'
        for row in rows
    )
    return f'{{"resultType":"matrix","result":[{result}]}}'


def instant_data(value: Value, time_ms: int) -> str:
    """A frame or scalar of one step."""
    time = time_text(time_ms)
    if isinstance(value, Scalar):
        text = number_text(float(value.values[0]))
        return f'{{"resultType":"scalar","result":[{time},"{text}"]}}'
    result = ",".join(
        f'{{"metric":{metric_text(labels)},"value":[{time},"{number_text(number)}"]}}'
        for labels, number, there in zip(
            value.labels, value.values[:, 0].tolist(), value.present[:, 0].tolist(), strict=True
        )
        if there
    )
    return f'{{"resultType":"vector","result":[{result}]}}'


def success(data: str, warnings: Sequence[str] = (), infos: Sequence[str] = ()) -> bytes:
    """The whole answer around ``data``."""
    notes = "".join(
        f',"{key}":{json.dumps(list(dict.fromkeys(found)), ensure_ascii=False)}'
        for key, found in (("warnings", warnings), ("infos", infos))
        if found
    )
    return f'{{"status":"success","data":{data}{notes}}}'.encode("utf-8", "replace")


def failure(error_type: str, message: str) -> bytes:
    body = {"status": "error", "errorType": error_type, "error": message}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
