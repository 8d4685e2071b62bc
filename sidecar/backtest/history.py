"""The past of a watch, read as the product reads it, once and within a budget."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

import numpy as np

from sidecar.backtest.replay import Plan
from sidecar.config import WatchConfig
from sidecar.cycle import CycleRules, align, read_start_ms
from sidecar.duration import format_duration
from sidecar.errors import DataError
from sidecar.ingest.history import HistoryBuilder
from sidecar.learning.gate import GateSettings
from sidecar.names import Reason
from sidecar.series import Grid, SeriesBatch
from sidecar.source import Source
from sidecar.watches.past import present
from sidecar.watches.rules import kind_asked, make_rules

# 400 MB of history at most are held.
MOST_VALUES: Final = 50_000_000
LEAST_TESTED: Final = 10


@dataclass(frozen=True, slots=True)
class Span:
    """The tested range: instants after ``start_ms`` up to ``end_ms``; ``refit_ms`` 0 is never."""

    start_ms: int
    end_ms: int
    refit_ms: int


@dataclass(frozen=True, eq=False)
class Past:
    """What there is to test a watch on; ``left_out``: series beyond ``max_series``."""

    plan: Plan
    left_out: int


async def read_past(
    watch: WatchConfig,
    span: Span,
    source: Source,
    longest_fit: int,
    note: Callable[[float], None],
) -> Past:
    """Everything the watch selects, from its training window before the range to the range's end.

    Own output is never read.

    Args:
        source: has answered.
        longest_fit: how many instants the models look at; more are not read.
        note: told which share of the range has been read, 0 to 1.

    Raises:
        RemoteError: reading failed.
        DataError: nothing matches, there is no history, or more of it than can be held.
    """
    step_ms = watch.granularity_ms
    end_ms = span.end_ms // step_ms * step_ms
    tested = end_ms // step_ms - span.start_ms // step_ms
    if tested < LEAST_TESTED:
        raise _error(
            watch,
            f"the range holds {max(0, tested)} instants of {watch.granularity}; "
            f"{LEAST_TESTED} are the least: test a longer one",
        )
    rules, count = await _ruled(watch, source, end_ms)
    window = max(2, min(watch.training_window_ms // step_ms, longest_fit))
    if count * (tested + window) > MOST_VALUES:
        raise _error(
            watch,
            f"{count:,} series over {tested + window:,} instants, {window:,} of them history to "
            f"learn from, are more than the {MOST_VALUES:,} values that are held: test a shorter "
            "range or fewer series, or lower training_window or raise granularity",
        )
    grid = Grid(end_ms, step_ms, tested + window)
    begin_ms = read_start_ms(replace(rules, overlap_ms=0), grid.start_ms)
    builder = HistoryBuilder(grid, partial(align, rules), 2 * step_ms + rules.staleness_ms)
    reader = source.reader_for(watch)
    async for raw in reader.read_slices(watch.selector, begin_ms, end_ms):
        await asyncio.to_thread(builder.add, raw)
        with suppress(ValueError):  # an empty slice
            newest = max(int(one.timestamps_ms[-1]) for one in raw)
            note((newest - begin_ms) / (end_ms - begin_ms))
    batch = await asyncio.to_thread(builder.finish)
    return _planned(watch, rules, batch, tested, window, span.refit_ms)


async def _ruled(watch: WatchConfig, source: Source, end_ms: int) -> tuple[CycleRules, int]:
    """The rules as the watch would have made them at the end of the range, and how many series."""
    reader, lookback_ms = source.reader_for(watch), source.lookback_delta_ms()
    found = await present(watch, reader, end_ms, end_ms, lookback_ms)
    if not found:
        raise _error(
            watch,
            f"no series matches at the end of the range, {utc(end_ms)}: `sentinel check` says "
            "what the server has; --end tests an earlier range",
        )
    kind = await kind_asked(watch, source.kind_of)
    gate = GateSettings(watch.promotion_tolerance, watch.auto_promote)
    rules = await asyncio.to_thread(make_rules, watch, found, kind, lookback_ms, gate)
    return rules, min(len(found), rules.max_series)


def _planned(
    watch: WatchConfig,
    rules: CycleRules,
    batch: SeriesBatch,
    tested: int,
    window: int,
    refit_ms: int,
) -> Past:
    """The series that have something to judge, as many as the watch may have."""
    there = np.isfinite(batch.values)
    rows = np.flatnonzero(there[:, -tested:].any(axis=1))
    kept = rows[: rules.max_series]
    start_ms = batch.grid.end_ms - tested * batch.grid.step_ms
    if not there.any():
        raise _error(
            watch,
            f"none of its series has a number at an instant of {watch.granularity} up to "
            f"{utc(batch.grid.end_ms)}: where they have only just begun, try again in some minutes",
        )
    if not there[kept, :-tested].any():
        first = np.flatnonzero(there.any(axis=0))
        since = utc(batch.grid.start_ms + int(first[0]) * batch.grid.step_ms)
        raise _error(
            watch,
            f"there is no history before {utc(start_ms)} to learn from, the first sample is "
            f"of {since}: test a shorter range, --from {_half(batch, int(first[0]))}",
        )
    labels = tuple(batch.labels[row] for row in kept)
    plan = Plan(
        rules=rules,
        batch=SeriesBatch(labels, batch.grid, np.ascontiguousarray(batch.values[kept])),
        tested=tested,
        window=window,
        refit=-(-refit_ms // batch.grid.step_ms),
    )
    return Past(plan, rows.size - kept.size)


def _half(batch: SeriesBatch, first: int) -> str:
    """Half of what there is, as a duration in whole minutes."""
    half_ms = (batch.grid.size - first) * batch.grid.step_ms // 2
    return format_duration(max(60_000, half_ms // 60_000 * 60_000))


def utc(at_ms: int) -> str:
    """An instant as it is written for people, RFC 3339 in whole seconds."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _error(watch: WatchConfig, message: str) -> DataError:
    return DataError(Reason.INSUFFICIENT_HISTORY, f"{watch.selector}: {message}")
