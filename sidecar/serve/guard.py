"""Keeps connections that ask for nothing from piling up.

aiohttp's server waits for ever for the rest of a request: whoever opens connections and sends half
a header holds them all. The guard looks through the open connections now and then and cuts those
that take longer than they need, and the idlest ones above a number.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

SWEEP_EVERY_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """Seconds that a connection may take, and how many there may be.

    Attributes:
        first_s: from its opening to a whole first header.
        idle_s: between two requests.
        request_s: for one request, its body and the answer included.
    """

    most: int = 256
    first_s: float = 10.0
    idle_s: float = 75.0
    request_s: float = 60.0


class Connection(Protocol):
    """What the guard needs of one of aiohttp's connections."""

    @property
    def transport(self) -> asyncio.Transport | None: ...


class Guard:
    """Looks after the connections of one server.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float], limits: GuardLimits | None = None) -> None:
        self._clock = clock
        self._limits = limits or GuardLimits()
        self._idle_since: dict[asyncio.Transport, float] = {}
        self._busy_since: dict[asyncio.Transport, float] = {}
        self._has_asked: set[asyncio.Transport] = set()

    @property
    def middleware(self) -> Middleware:
        """Notes which connections have a request under way."""

        @web.middleware
        async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
            transport = request.transport
            if transport is None:
                return await handler(request)
            self._busy_since[transport] = self._clock()
            self._has_asked.add(transport)
            try:
                return await handler(request)
            finally:
                self._busy_since.pop(transport, None)
                self._idle_since[transport] = self._clock()

        return note

    async def run(self, connections: Callable[[], Iterable[Connection]]) -> None:
        """Sweep for ever."""
        while True:
            self.sweep(connections())
            await asyncio.sleep(SWEEP_EVERY_S)

    def sweep(self, connections: Iterable[Connection]) -> int:
        """Cut what took too long, then the idlest above the number; how many were cut."""
        now = self._clock()
        open_now = {one.transport for one in connections if one.transport is not None}
        self._forget(open_now)
        overdue = [one for one in open_now if self._is_overdue(one, now)]
        left = open_now.difference(overdue)
        idle = sorted(left.difference(self._busy_since), key=lambda one: self._idle_since[one])
        surplus = idle[: max(0, len(left) - self._limits.most)]
        for transport in (*overdue, *surplus):
            transport.abort()
        return len(overdue) + len(surplus)

    def _is_overdue(self, transport: asyncio.Transport, now: float) -> bool:
        busy = self._busy_since.get(transport)
        if busy is not None:
            return now - busy > self._limits.request_s
        idle_s = now - self._idle_since.setdefault(transport, now)
        allowed = transport in self._has_asked
        return idle_s > (self._limits.idle_s if allowed else self._limits.first_s)

    def _forget(self, open_now: set[asyncio.Transport]) -> None:
        for noted in (self._idle_since, self._busy_since):
            for gone in noted.keys() - open_now:
                del noted[gone]
        self._has_asked &= open_now
