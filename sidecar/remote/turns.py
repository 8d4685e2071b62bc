"""Reading politely: few reads at once, and fewer still while the server is slower than it was."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

_REMEMBERED: Final = 64
_SLOWER: Final = 5.0  # times the best of the remembered latencies
_NOTICEABLE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0


class ReadTurns:
    """Shared by all readers of one server.

    A reply that begins later than five times the best latency of late (and later than 0.2 s) is
    followed by a pause as long as that latency, 5 s at most: the server's own queries come first.

    Attributes:
        pauses: how often somebody had to wait for that.
    """

    def __init__(
        self,
        at_once: int = 2,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._monotonic_s, self._sleep = monotonic_s, sleep
        self._latencies: deque[float] = deque(maxlen=_REMEMBERED)
        self._not_before = 0.0
        self.pauses = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        async with self._places:
            wait = self._not_before - self._monotonic_s()
            if wait > 0:
                self.pauses += 1
                await self._sleep(wait)
            yield

    def observe(self, latency_s: float) -> None:
        """How long the server took to begin its answer."""
        best = min(self._latencies, default=latency_s)
        self._latencies.append(latency_s)
        if latency_s > max(_SLOWER * best, _NOTICEABLE_S):
            self._not_before = self._monotonic_s() + min(latency_s, _LONGEST_PAUSE_S)
