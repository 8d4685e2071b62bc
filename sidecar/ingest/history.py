"""A long past, read in time slices, put on one grid without ever holding all its samples.

An instant speaks with the newest sample at or before it, which may lie in the slice before: the
builder keeps the end of each slice for the next one.
"""

from collections.abc import Callable, Sequence

import numpy as np

from sidecar.series import FloatArray, Grid, LabelSet, RawSeries, SeriesBatch

Align = Callable[[Sequence[RawSeries], Grid], SeriesBatch]


class HistoryBuilder:
    """Takes slices, oldest first; gives N series on the whole grid.

    Args:
        grid: T instants.
        align: how samples become numbers on a grid (``resample``, ``rates``).
        reach_ms: how far back behind an instant ``align`` looks.
    """

    def __init__(self, grid: Grid, align: Align, reach_ms: int) -> None:
        self._grid = grid
        self._align = align
        self._reach_ms = reach_ms
        self._next_ms = grid.start_ms
        self._tails: dict[LabelSet, RawSeries] = {}
        self._rows: dict[LabelSet, FloatArray] = {}

    def add(self, raw: Sequence[RawSeries]) -> None:
        """Take one slice: everything the source has between the slice before and its own end."""
        merged = dict(self._tails)
        for one in raw:
            merged[one.labels] = _joined(merged.get(one.labels), one)
        newest = max(
            (int(one.timestamps_ms[-1]) for one in raw if one.timestamps_ms.size), default=0
        )
        self._tails = merged
        self._place(min(newest, self._grid.end_ms))

    def finish(self) -> SeriesBatch:
        """All series that were met, sorted by labels: N by T, NaN where there was no sample."""
        self._place(self._grid.end_ms)
        labels = tuple(sorted(self._rows))
        values = np.full((len(labels), self._grid.size), np.nan)
        for row, one in enumerate(labels):
            values[row] = self._rows[one]
        return SeriesBatch(labels, self._grid, values)

    def _place(self, until_ms: int) -> None:
        """Fill the instants up to ``until_ms``, then keep only the samples that later ones need."""
        if until_ms < self._next_ms:
            return
        part = Grid.between(self._next_ms, until_ms, self._grid.step_ms)
        batch = self._align(list(self._tails.values()), part)
        first = (part.start_ms - self._grid.start_ms) // self._grid.step_ms
        for one, values in zip(batch.labels, batch.values, strict=True):
            row = self._rows.get(one)
            if row is None:
                row = self._rows[one] = np.full(self._grid.size, np.nan)
            row[first : first + part.size] = values
        self._next_ms = part.end_ms + self._grid.step_ms
        oldest = part.end_ms - self._reach_ms
        trimmed = ((one, _after(series, oldest)) for one, series in self._tails.items())
        self._tails = {one: series for one, series in trimmed if series.timestamps_ms.size}


def _joined(before: RawSeries | None, after: RawSeries) -> RawSeries:
    if before is None:
        return after
    return RawSeries(
        after.labels,
        np.concatenate([before.timestamps_ms, after.timestamps_ms]),
        np.concatenate([before.values, after.values]),
    )


def _after(series: RawSeries, oldest_ms: int) -> RawSeries:
    """The samples from ``oldest_ms`` on, copied so that the slice itself can be freed."""
    first = int(np.searchsorted(series.timestamps_ms, oldest_ms))
    return RawSeries(
        series.labels, series.timestamps_ms[first:].copy(), series.values[first:].copy()
    )
