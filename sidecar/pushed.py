"""A reader that answers from what was pushed, and asks the server where that may not be all."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final

from sidecar.config import WatchConfig
from sidecar.ingest.buffer import PushBuffer
from sidecar.series import RawSeries, Selector
from sidecar.watches.past import SourceReader

# Two lookbacks of Prometheus and some minutes: what a cycle reads beside its own instants.
KEPT_FOR_MS: Final = 900_000


def spans(watches: Iterable[WatchConfig]) -> dict[Selector, int]:
    """For how long each selector's samples are kept, so that cycles find what they read."""
    found: dict[Selector, int] = {}
    for watch in watches:
        if not watch.expr:
            span_ms = 3 * watch.granularity_ms + watch.query_offset_ms + KEPT_FOR_MS
            found[watch.selector] = max(span_ms, found.get(watch.selector, 0))
    return found


class PushStats:
    """How many reads the buffer answered, and how many the server."""

    def __init__(self) -> None:
        self.pushed = 0
        self.asked = 0


class PushReader:
    """``SourceReader`` over a buffer with another reader below it, which has all history."""

    def __init__(self, buffer: PushBuffer, below: SourceReader, stats: PushStats) -> None:
        self._buffer = buffer
        self._below = below
        self._stats = stats

    async def read(self, selector: Selector, start_ms: int, end_ms: int) -> list[RawSeries]:
        """
        Raises:
            RemoteError: what was pushed does not cover the range, and the server did not answer.
        """
        found = await asyncio.to_thread(self._buffer.read, selector, start_ms, end_ms)
        if found is not None:
            self._stats.pushed += 1
            return found
        self._stats.asked += 1
        return await self._below.read(selector, start_ms, end_ms)

    def read_slices(
        self, selector: Selector, start_ms: int, end_ms: int
    ) -> AsyncIterator[list[RawSeries]]:
        """Long ranges are always the server's."""
        return self._below.read_slices(selector, start_ms, end_ms)
