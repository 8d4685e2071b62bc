"""A PromQL expression read as if it were a metric: its result under a name of its own."""

from collections.abc import AsyncIterator, Sequence

import numpy as np

from sidecar.errors import DataError
from sidecar.names import METRIC_NAME, Reason
from sidecar.remote.query_reader import QueryApiReader
from sidecar.series import LabelSet, RawSeries, Selector


class ExpressionReader:
    """The reader of one watch on an expression.

    Its samples lie on the grid of the watch, each the value of the expression at that instant.

    Args:
        name: what the result is called.
        step_ms: the granularity.
    """

    def __init__(self, reader: QueryApiReader, expr: str, name: str, step_ms: int) -> None:
        self._reader = reader
        self._expr = expr
        self._name = name
        self._step_ms = step_ms

    async def read(self, selector: Selector, start_ms: int, end_ms: int) -> list[RawSeries]:
        """The expression at every instant of the range, both ends included.

        Args:
            selector: which series of the result; those that it does not accept are left out.

        Raises:
            Unavailable, Rejected, DataError: as ``QueryApiReader.read_expression``; and DataError
                where series of the result differ by their name only.
        """
        first_ms = -(-start_ms // self._step_ms) * self._step_ms
        found = await self._reader.read_expression(self._expr, first_ms, end_ms, self._step_ms)
        named: dict[LabelSet, list[RawSeries]] = {}
        for one in found:
            labels = one.labels.replaced({METRIC_NAME: self._name})
            named.setdefault(labels, []).append(one)
        return [
            self._one(labels, named[labels]) for labels in sorted(named) if selector.accepts(labels)
        ]

    def _one(self, labels: LabelSet, parts: Sequence[RawSeries]) -> RawSeries:
        """The parts as one series: those of a metric that was renamed follow each other."""
        if len(parts) == 1:
            return RawSeries(labels, parts[0].timestamps_ms, parts[0].values)
        times = np.concatenate([part.timestamps_ms for part in parts])
        order = np.argsort(times, kind="stable")
        if (np.diff(times[order]) == 0).any():
            names = ", ".join(sorted(str(part.labels) for part in parts))
            raise DataError(
                Reason.SOURCE_ERROR,
                f"{self._expr}: series of its result differ by their name only ({names}): "
                "aggregate them, or copy the name to a label with label_replace",
            )
        values = np.concatenate([part.values for part in parts])
        return RawSeries(labels, times[order], values[order])

    async def read_slices(
        self, selector: Selector, start_ms: int, end_ms: int
    ) -> AsyncIterator[list[RawSeries]]:
        """All of it at once: the reader below splits it as the server wants it."""
        yield await self.read(selector, start_ms, end_ms)
