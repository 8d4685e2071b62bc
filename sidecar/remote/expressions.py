"""A PromQL expression read as if it were a metric: its result under a name of its own."""

from collections.abc import AsyncIterator

from sidecar.names import METRIC_NAME
from sidecar.remote.query_reader import QueryApiReader
from sidecar.series import RawSeries, Selector


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
            Unavailable, Rejected, DataError: as ``QueryApiReader.read_expression``.
        """
        first_ms = -(-start_ms // self._step_ms) * self._step_ms
        found = await self._reader.read_expression(self._expr, first_ms, end_ms, self._step_ms)
        named = (
            RawSeries(one.labels.replaced({METRIC_NAME: self._name}), one.timestamps_ms, one.values)
            for one in found
        )
        return sorted(
            (one for one in named if selector.accepts(one.labels)), key=lambda one: one.labels
        )

    async def read_slices(
        self, selector: Selector, start_ms: int, end_ms: int
    ) -> AsyncIterator[list[RawSeries]]:
        """All of it at once: the reader below splits it as the server wants it."""
        yield await self.read(selector, start_ms, end_ms)
