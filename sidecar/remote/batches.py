"""Calls that wait at the same time share one request.

Nobody waits for company: the first call starts at once, and what comes while all places are taken
goes together when one is free. A request that fails for a reason that may be one call's alone is
split at once, so that none suffers for another. One that fails because nobody answers fails for
all, and those who were in it meet in half the company next time: should one of them be why, the
others get away from it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Final, Generic, TypeVar

from sidecar.errors import Unavailable

Q = TypeVar("Q")
R = TypeVar("R")

_REMEMBERED: Final = 10_000
# Answers that say nothing about what was asked.
_BUSY: Final = frozenset({None, 408, 425, 429, 502, 503, 504})


class Batches(Generic[Q, R]):
    """Joins calls.

    Args:
        run: one request for several items; its results are in their order.
        key: what names an item over several calls.
        at_once: requests under way at most.
        most: items in one request at most.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Q]], Awaitable[Sequence[R]]],
        key: Callable[[Q], Hashable],
        *,
        at_once: int = 2,
        most: int = 100,
    ) -> None:
        self._run, self._key = run, key
        self._at_once, self._most = at_once, most
        self._company: dict[Hashable, int] = {}  # what is not ``most`` for a call
        self._waiting: list[tuple[Q, asyncio.Future[R]]] = []
        self._running: set[asyncio.Task[None]] = set()

    async def ask(self, item: Q) -> R:
        """The item's own result, or its own error."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if len(self._running) < self._at_once:
            task = asyncio.create_task(self._work())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return await future

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for _, future in self._waiting:
            future.cancel()

    async def _work(self) -> None:
        while self._waiting:
            await self._settle(self._next_batch())

    def _next_batch(self) -> list[tuple[Q, "asyncio.Future[R]"]]:
        """The calls that have waited longest, as many as each of them bears."""
        batch: list[tuple[Q, asyncio.Future[R]]] = []
        room, taken = self._most, 0
        for item, future in self._waiting:
            room = min(room, self._company.get(self._key(item), self._most))
            if len(batch) >= room:
                break
            taken += 1
            if not future.done():
                batch.append((item, future))
        del self._waiting[:taken]
        return batch

    async def _settle(self, batch: Sequence[tuple[Q, "asyncio.Future[R]"]]) -> None:
        if not batch:
            return
        try:
            results = await self._run([item for item, _ in batch])
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - handed to those who asked
            if isinstance(error, Unavailable) and error.status in _BUSY:
                if len(self._company) > _REMEMBERED:
                    self._company.clear()
                for item, _ in batch:
                    self._company[self._key(item)] = max(len(batch) // 2, 1)
                _fail(batch, error)
            elif len(batch) == 1:
                _fail(batch, error)
            else:
                for one in batch:
                    await self._settle([one])
            return
        for (item, future), result in zip(batch, results, strict=True):
            self._company.pop(self._key(item), None)
            if not future.done():
                future.set_result(result)


def _fail(batch: Sequence[tuple[Q, "asyncio.Future[R]"]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
