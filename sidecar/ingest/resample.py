"""Ragged samples onto a grid, for series that are modelled as they are (gauges)."""

from collections.abc import Sequence

import numpy as np

from sidecar.ingest.flat import blocks, in_order, labels_of, runs_of
from sidecar.series import Grid, RawSeries, SeriesBatch


def resample(raw: Sequence[RawSeries], grid: Grid, staleness_ms: int) -> SeriesBatch:
    """Put ragged series on one grid, taking at each instant what an instant query would return.

    That is the newest sample at or before the instant, unless it is a staleness marker or older
    than ``staleness_ms``; then NaN. An instant whose newest sample was the previous instant's
    already is NaN too: nothing new is known of it. So is one whose newest sample is not finite.
    Series are sorted by labels, so equal input sets give equal batches whatever order the server
    answered in.

    Args:
        raw: one entry for each series; two with the same labels is a server error.
        grid: T instants.
        staleness_ms: the oldest age that still counts; Prometheus calls this the lookback delta,
            and ``checks.staleness_ms`` computes ours.

    Returns:
        N series by T instants, float64.

    Raises:
        DataError: two entries carry the same label set.
    """
    ordered = in_order(raw)
    values = np.full((len(ordered), grid.size), np.nan)
    for block in blocks(ordered):
        runs = runs_of(block, grid)
        newest = block.values[runs.last]
        age_ms = grid.start_ms + runs.slots * grid.step_ms - block.timestamps_ms[runs.last]
        known = np.isfinite(newest) & (age_ms <= staleness_ms)
        values[runs.rows[known], runs.slots[known]] = newest[known]
    return SeriesBatch(labels_of(ordered), grid, values)
