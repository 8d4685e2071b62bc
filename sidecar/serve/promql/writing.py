"""Answers as Prometheus writes them, in pieces.

A long answer is never one string: to join, to encode or to send it would hold the interpreter, or
the event loop, for as long as that takes.
"""

import json
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np

from sidecar.series import FloatArray, LabelSet, TimeArray
from sidecar.serve.promql.frames import UNBOUNDED, Budget, Frame, Mask, Samples, Scalar, Value
from sidecar.serve.promql.replies import Row

# The body of an answer: what it is when joined.
Pieces: TypeAlias = Sequence[bytes]

PIECE_BYTES: Final = 256 * 1024
_GZIP: Final = 31  # of zlib's window sizes the one that means gzip's header and trailer


def in_pieces(texts: Iterable[str]) -> list[bytes]:
    """The texts, joined and encoded, in pieces of some 256 KiB; what is no text as ``?``."""
    pieces: list[bytes] = []
    held: list[str] = []
    size = 0
    for text in texts:
        held.append(text)
        size += len(text)
        if size >= PIECE_BYTES:
            pieces.append("".join(held).encode("utf-8", "replace"))
            held, size = [], 0
    pieces.append("".join(held).encode("utf-8", "replace"))
    return pieces


def compressed(pieces: Pieces) -> list[bytes]:
    """The same as gzip, quick rather than small."""
    gzip = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
    found = [gzip.compress(piece) for piece in pieces]
    return [piece for piece in (*found, gzip.flush()) if piece]


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


def matrix_data(rows: Sequence[Row]) -> Iterator[str]:
    yield '{"resultType":"matrix","result":['
    for number, row in enumerate(rows):
        values = f',"values":[{row.points}]' if row.points else ""
        yield f'{"," if number else ""}{{"metric":{row.metric}{values}{row.rest}}}'
    yield "]}"


def instant_data(value: Value, time_ms: int) -> Iterator[str]:
    """A frame or scalar of one step."""
    time = time_text(time_ms)
    if isinstance(value, Scalar):
        text = number_text(float(value.values[0]))
        yield f'{{"resultType":"scalar","result":[{time},"{text}"]}}'
        return
    yield '{"resultType":"vector","result":['
    numbers = value.values[:, 0].tolist()
    for place, row in enumerate(np.flatnonzero(value.present[:, 0]).tolist()):
        comma, metric = "," if place else "", metric_text(value.labels[row])
        yield f'{comma}{{"metric":{metric},"value":[{time},"{number_text(numbers[row])}"]}}'
    yield "]}"


def success(
    data: Iterable[str], warnings: Sequence[str] = (), infos: Sequence[str] = ()
) -> list[bytes]:
    """The whole answer around ``data``."""
    notes = "".join(
        f',"{key}":{json.dumps(list(dict.fromkeys(found)), ensure_ascii=False)}'
        for key, found in (("warnings", warnings), ("infos", infos))
        if found
    )
    return in_pieces(('{"status":"success","data":', *data, notes, "}"))


def failure(error_type: str, message: str) -> bytes:
    body = {"status": "error", "errorType": error_type, "error": message}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
