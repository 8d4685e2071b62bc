"""The part of a query that runs in a thread: upstream's bytes in, the answer's bytes out.

Nothing in it may be long at a stretch, for threads share one interpreter with the event loop.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from sidecar.publish.paths import PathBlock
from sidecar.serve.promql.evaluate import Inputs, Ragged, evaluate
from sidecar.serve.promql.frames import Budget, Samples, Scalar, Value
from sidecar.serve.promql.replies import Reply, Row, numbers, read_reply, value_of
from sidecar.serve.promql.split import Steps
from sidecar.serve.promql.syntax import Expr, Kind, RangeSelector, VectorSelector, kind_of
from sidecar.serve.promql.writing import (
    instant_data,
    joined_rows,
    matrix_data,
    matrix_rows,
    scalar_row,
    success,
)

TRUNCATED: Final = "results truncated due to limit"
_POSITION: Final = re.compile(r" \(\d+:\d+\)$")  # line and column that an annotation is about


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a client.

    Attributes:
        steps: one step for an instant query.
        end_ms: as asked: what ``@ end()`` means, though it need not be a step.
        limit: series at most, 0 = all.
        lookback_ms: the client's own lookback, if it gave one.
        timeout_s: how long the client would wait.
    """

    text: str
    steps: Steps
    end_ms: int
    instant: bool
    limit: int = 0
    lookback_ms: int | None = None
    timeout_s: float = math.inf


@dataclass(frozen=True, eq=False)
class Job:
    """Everything a query is answered from.

    Attributes:
        expr: None where nothing is evaluated here and the past is all there is.
        ahead: the steps that are evaluated here.
        past: the upstream's answer for the steps before; None where there are none.
        bodies: the upstream's answers for parts of ``expr``.
        own: the forecasts of each selector.
        warnings: for the client, beside the upstream's.
    """

    query: Query
    expr: Expr | None
    kind: Kind
    ahead: Steps
    past: bytes | None
    bodies: Mapping[Expr, bytes]
    own: Mapping[VectorSelector, Sequence[PathBlock]]
    lookback_ms: int
    since_3: bool
    budget: Budget
    warnings: tuple[str, ...] = ()

    def run(self) -> list[bytes]:
        """The answer's JSON, in pieces.

        Raises:
            QueryError, Garbage
        """
        notes = _Notes(list(self.warnings))
        past = notes.read(self.past) if self.past is not None else None
        rows = past.rows if past else ()
        if self.expr is None:
            data = self._nothing() if self.query.instant else self._matrix(rows, [], notes)
            return success(data, notes.warnings, notes.infos)
        value = evaluate(self.expr, self._inputs(notes))
        if isinstance(value, Samples):
            data = self._matrix((), matrix_rows(value.instants_ms, value, self.budget), notes)
        elif self.query.instant:
            data = instant_data(self._limited(value, notes), self.ahead.start_ms)
        elif isinstance(value, Scalar):
            data = self._matrix(rows, [scalar_row(self.ahead.instants_ms, value)], notes)
        else:
            data = self._matrix(
                rows, matrix_rows(self.ahead.instants_ms, value, self.budget), notes
            )
        return success(data, notes.warnings, notes.infos)

    def _inputs(self, notes: "_Notes") -> Inputs:
        known: dict[Expr, Value] = {}
        raw: dict[RangeSelector, Sequence[Ragged]] = {}
        for node, body in self.bodies.items():
            reply = notes.read(body, part=True)
            if isinstance(node, RangeSelector):
                raw[node] = [(row.labels, *numbers(row.points)) for row in reply.rows]
            else:
                known[node] = value_of(reply, self.ahead, kind_of(node) is Kind.SCALAR)
            self.budget.check(0, 0)
        return Inputs(self.ahead, known, raw, self.own, self.lookback_ms, self.since_3, self.budget)

    def _nothing(self) -> Iterable[str]:
        """An instant that is past now, of what cannot be evaluated."""
        if self.kind is Kind.SCALAR:
            return instant_data(Scalar(np.array([np.nan])), self.ahead.start_ms)
        kind = Kind.MATRIX if self.kind is Kind.MATRIX else Kind.VECTOR
        return [f'{{"resultType":"{kind}","result":[]}}']

    def _matrix(self, past: Sequence[Row], future: Sequence[Row], notes: "_Notes") -> Iterable[str]:
        rows = joined_rows(past, future)
        if 0 < self.query.limit < len(rows):
            notes.warnings.append(TRUNCATED)
            rows = rows[: self.query.limit]
        return matrix_data(rows)

    def _limited(self, value: Value, notes: "_Notes") -> Value:
        if isinstance(value, Scalar):
            return value
        there = [row for row, one in enumerate(value.present[:, 0].tolist()) if one]
        if 0 < self.query.limit < len(there):
            notes.warnings.append(TRUNCATED)
            there = there[: self.query.limit]
        return value.take(there)


@dataclass
class _Notes:
    """Warnings and infos as they come together."""

    warnings: list[str]
    infos: list[str] = field(default_factory=list)

    def read(self, body: bytes, *, part: bool = False) -> Reply:
        """An answer of the upstream, its notes taken down.

        Args:
            part: it is about a part of the query in words of ours, so that positions say nothing.
        """
        reply = read_reply(body)
        for found, new in ((self.warnings, reply.warnings), (self.infos, reply.infos)):
            said = {_POSITION.sub("", one) for one in found}
            for one in new:
                text = _POSITION.sub("", one) if part else one
                if not part or text not in said:
                    found.append(text)
        return reply
