"""The training window of series, read from the source and put on the grid."""

import logging
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

import numpy as np

from sidecar.config import WatchConfig
from sidecar.cycle import CycleRules, SampleReader, align, read_start_ms
from sidecar.duration import format_duration
from sidecar.errors import DataError
from sidecar.ingest.history import HistoryBuilder
from sidecar.names import Reason
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

log = logging.getLogger(__name__)

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


async def present(
    config: WatchConfig, reader: SampleReader, start_ms: int, end_ms: int, lookback_delta_ms: int
) -> list[RawSeries]:
    """What a watch's selector matches from ``start_ms`` on, with the samples that still count then.

    Raises:
        RemoteError: reading failed.
    """
    reach_ms = max(lookback_delta_ms, 3 * config.granularity_ms)
    found = await reader.read(config.selector, start_ms - reach_ms, end_ms)
    return [one for one in found if one.timestamps_ms.size]


class Past:
    """Reads histories for one watch.

    Args:
        window_ms: the training window.
        longest_fit: how many instants the model looks at; more are not read.
        apart: so few series are asked for one by one. 0 where each question costs as much as one
            for all of them, as the expression does.
    """

    def __init__(
        self,
        reader: SourceReader,
        in_thread: InThread,
        window_ms: int,
        longest_fit: int,
        apart: int = READ_ONE_BY_ONE,
    ) -> None:
        self._reader = reader
        self._in_thread = in_thread
        self._window_ms = window_ms
        self._longest_fit = longest_fit
        self._apart = apart

    async def of_selector(
        self,
        rules: CycleRules,
        selector: Selector,
        end_ms: int,
        count: int,
        wanted: Collection[LabelSet],
    ) -> SeriesBatch:
        """Those of ``wanted`` that ``selector`` matches, up to ``end_ms``.

        Whatever else it matched in all that time, the pods of last week, is read past. Where the
        window holds more than one read may take, it is shortened, for later reads too.

        Args:
            count: how many series the selector matches at one time.

        Raises:
            RemoteError: reading failed.
            DataError: two instants are too much already.
        """
        step_ms = rules.granularity_ms
        keep: frozenset[LabelSet] = await self._in_thread(frozenset, wanted)
        while True:
            size = min(self._window_ms // step_ms, self._longest_fit)
            size = max(2, min(size, max(LEAST_HISTORY, HISTORY_VALUES // max(1, count))))
            grid = Grid(end_ms, step_ms, size)
            try:
                return await self._read(rules, selector, grid, keep)
            except DataError as error:
                if error.reason is not Reason.OVER_BUDGET or size <= 2:
                    raise
                self._window_ms = size // 2 * step_ms
                log.warning(
                    "%s; the training window of %s is shortened to %s",
                    error,
                    rules.selector,
                    format_duration(self._window_ms),
                )

    async def _read(
        self, rules: CycleRules, selector: Selector, grid: Grid, keep: frozenset[LabelSet]
    ) -> SeriesBatch:
        start_ms = read_start_ms(replace(rules, overlap_ms=0), grid.start_ms)
        reach_ms = 2 * grid.step_ms + rules.staleness_ms
        builder = HistoryBuilder(grid, partial(align, rules), reach_ms)
        async for raw in self._reader.read_slices(selector, start_ms, grid.end_ms):
            await self._in_thread(builder.add, [one for one in raw if one.labels in keep])
        return await self._in_thread(builder.finish)

    async def of_series(
        self, rules: CycleRules, labels: Sequence[LabelSet], end_ms: int, watched: int
    ) -> SeriesBatch:
        """These series, in this order; those without a sample are left out.

        A few are asked for one by one; for many the whole selector is read again.

        Args:
            watched: how many series the watch has.

        Raises:
            RemoteError: reading failed.
            DataError: two instants are too much already.
        """
        if not labels:
            grid = Grid(end_ms, rules.granularity_ms, 2)
            return SeriesBatch((), grid, np.empty((0, grid.size)))
        if len(labels) > self._apart:
            whole = await self.of_selector(rules, rules.selector, end_ms, watched, labels)
            return await self._in_thread(rows_of, whole, labels)
        parts = [
            await self.of_selector(rules, _only(one), end_ms, len(labels), [one]) for one in labels
        ]
        shortest = min((part.grid for part in parts), key=lambda grid: grid.size)
        return SeriesBatch(
            tuple(one for part in parts for one in part.labels),
            shortest,
            np.concatenate([part.values[:, -shortest.size :] for part in parts]),
        )


def _only(labels: LabelSet) -> Selector:
    """A selector for one series (and those that have all its labels and more)."""
    return Selector(tuple(Matcher(name, MatchOp.EQUAL, value) for name, value in labels.pairs))


def rows_of(batch: SeriesBatch, labels: Sequence[LabelSet]) -> SeriesBatch:
    """Some series of a batch, in their order; those that are not in it are left out."""
    at = index_by_labels(batch.labels)
    rows = np.array([at[one] for one in labels if one in at], dtype=np.int64)
    return SeriesBatch(tuple(batch.labels[row] for row in rows), batch.grid, batch.values[rows])
