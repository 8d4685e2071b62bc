"""The training window of series, read from the source and put on the grid."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

import numpy as np

from sidecar.cycle import CycleRules, SampleReader, align, read_start_ms
from sidecar.ingest.history import HistoryBuilder
from sidecar.publish.publisher import InThread
from sidecar.series import (
    Grid,
    LabelSet,
    Matcher,
    MatchOp,
    RawSeries,
    Selector,
    SeriesBatch,
    index_by_labels,
)

# So many values of history at most are held for one batch of fits: 96 MB. The newest
# ``LEAST_HISTORY`` instants are there whatever the number of series.
HISTORY_VALUES: Final = 12_000_000
LEAST_HISTORY: Final = 1_440
# Above this many series the whole selector is read again rather than each of them.
READ_ONE_BY_ONE: Final = 24


class SourceReader(SampleReader, Protocol):
    """A reader that also reads long ranges piece by piece, oldest first."""

    def read_slices(
        self, selector: Selector, start_ms: int, end_ms: int
    ) -> AsyncIterator[list[RawSeries]]: ...


class Past:
    """Reads histories for one watch.

    Args:
        window_ms: the training window.
        longest_fit: how many instants the model looks at; more are not read.
    """

    def __init__(
        self, reader: SourceReader, in_thread: InThread, window_ms: int, longest_fit: int
    ) -> None:
        self._reader = reader
        self._in_thread = in_thread
        self._window_ms = window_ms
        self._longest_fit = longest_fit

    async def of_selector(
        self, rules: CycleRules, selector: Selector, end_ms: int, count: int
    ) -> SeriesBatch:
        """Everything that ``selector`` matches, about ``count`` series, up to ``end_ms``.

        Raises:
            RemoteError: reading failed.
        """
        step_ms = rules.granularity_ms
        size = min(self._window_ms // step_ms, self._longest_fit)
        size = max(2, min(size, max(LEAST_HISTORY, HISTORY_VALUES // max(1, count))))
        grid = Grid(end_ms, step_ms, size)
        start_ms = read_start_ms(replace(rules, overlap_ms=0), grid.start_ms)
        builder = HistoryBuilder(grid, partial(align, rules), 2 * step_ms + rules.staleness_ms)
        async for raw in self._reader.read_slices(selector, start_ms, end_ms):
            await self._in_thread(builder.add, raw)
        return await self._in_thread(builder.finish)

    async def of_series(
        self, rules: CycleRules, labels: Sequence[LabelSet], end_ms: int, watched: int
    ) -> SeriesBatch:
        """These series, in this order; those without a sample are left out.

        A few are asked for one by one; of many the whole selector is read again.

        Args:
            watched: how many series the watch has.

        Raises:
            RemoteError: reading failed.
        """
        if len(labels) > READ_ONE_BY_ONE:
            whole = await self.of_selector(rules, rules.selector, end_ms, watched)
            return await self._in_thread(rows_of, whole, labels)
        parts = [
            rows_of(await self.of_selector(rules, _only(one), end_ms, len(labels)), [one])
            for one in labels
        ]
        return SeriesBatch(
            tuple(one for part in parts for one in part.labels),
            parts[0].grid,
            np.concatenate([part.values for part in parts]),
        )


def _only(labels: LabelSet) -> Selector:
    """A selector for one series (and those that have all its labels and more)."""
    return Selector(tuple(Matcher(name, MatchOp.EQUAL, value) for name, value in labels.pairs))


def rows_of(batch: SeriesBatch, labels: Sequence[LabelSet]) -> SeriesBatch:
    """Some series of a batch, in their order; those that are not in it are left out."""
    at = index_by_labels(batch.labels)
    rows = np.array([at[one] for one in labels if one in at], dtype=np.int64)
    return SeriesBatch(tuple(batch.labels[row] for row in rows), batch.grid, batch.values[rows])
