"""Keeps connections that ask for nothing from piling up.

aiohttp's server waits for ever for the rest of a request: whoever opens connections and sends half
a header holds them all. The guard looks through the open connections now and then and cuts those
that take longer than they need. Where there are as many as there may be it makes room for the next
one at once, at the cost of those that have asked for nothing yet, and then of those that have not
sent all of what they ask: a scrape comes through whoever else is knocking.
"""

import asyncio
import ssl
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
        body_s: for the body of a request.
        request_s: for one request, its body and the answer included.
    """

    most: int = 256
    first_s: float = 10.0
    idle_s: float = 75.0
    body_s: float = 20.0
    request_s: float = 60.0


class Connection(Protocol):
    """What the guard needs of one of aiohttp's connections."""

    @property
    def transport(self) -> asyncio.Transport | None: ...


@dataclass(frozen=True, slots=True)
class _Busy:
    """A request under way, and since when."""

    since: float
    request: web.Request

    @property
    def is_half(self) -> bool:
        """Whether a part of its body is still to come."""
        return not self.request.content.is_eof()


class Guard:
    """Looks after the connections of one server.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float], limits: GuardLimits | None = None) -> None:
        self._clock = clock
        self._limits = limits or GuardLimits()
        self._idle_since: dict[asyncio.Transport, float] = {}
        self._busy: dict[asyncio.Transport, _Busy] = {}
        self._has_asked: set[asyncio.Transport] = set()

    @property
    def middleware(self) -> Middleware:
        """Notes which connections have a request under way."""

        @web.middleware
        async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
            transport = request.transport
            if transport is None:
                return await handler(request)
            self._busy[transport] = _Busy(self._clock(), request)
            self._has_asked.add(transport)
            try:
                return await handler(request)
            finally:
                self._busy.pop(transport, None)
                self._idle_since[transport] = self._clock()

        return note

    async def run(self, connections: Callable[[], Iterable[Connection]]) -> None:
        """Sweep for ever."""
        while True:
            self.sweep(connections())
            await asyncio.sleep(SWEEP_EVERY_S)

    def door(self, server: web.Server) -> Callable[[], asyncio.BaseProtocol]:
        """What makes a connection of ``server``, after there is room for it."""

        def opened() -> asyncio.BaseProtocol:
            if len(server.connections) >= self._limits.most:
                # Some more than needed, so that not every one of a flood has to look.
                self.sweep(server.connections, self._limits.most * 3 // 4)
            return server()

        return opened

    @property
    def handshake_s(self) -> float:
        return self._limits.first_s

    def sweep(self, connections: Iterable[Connection], most: int | None = None) -> int:
        """Cut what took too long, then the idlest above the number; how many were cut."""
        now = self._clock()
        most = self._limits.most if most is None else most
        open_now = {
            transport
            for one in connections
            if (transport := one.transport) is not None and not transport.is_closing()
        }
        self._forget(open_now)
        overdue = [one for one in open_now if self._is_overdue(one, now)]
        left = open_now.difference(overdue)
        idle = sorted(left.difference(self._busy), key=lambda one: self._idle_since[one])
        half = [one for one, busy in self._busy.items() if busy.is_half and one in left]
        surplus = [*idle, *half][: max(0, len(left) - most)]
        for transport in (*overdue, *surplus):
            transport.abort()
        return len(overdue) + len(surplus)

    def _is_overdue(self, transport: asyncio.Transport, now: float) -> bool:
        busy = self._busy.get(transport)
        if busy is not None:
            allowed_s = self._limits.body_s if busy.is_half else self._limits.request_s
            return now - busy.since > allowed_s
        idle_s = now - self._idle_since.setdefault(transport, now)
        allowed = transport in self._has_asked
        return idle_s > (self._limits.idle_s if allowed else self._limits.first_s)

    def _forget(self, open_now: set[asyncio.Transport]) -> None:
        for gone in self._idle_since.keys() - open_now:
            del self._idle_since[gone]
        for gone in self._busy.keys() - open_now:
            del self._busy[gone]
        self._has_asked &= open_now


class GuardedSite(web.BaseSite):
    """Listens for a server that is looked after.

    Args:
        guard: the one whose middleware the server's application has.
    """

    def __init__(
        self,
        runner: web.AppRunner,
        guard: Guard,
        host: str,
        port: int,
        *,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(runner, ssl_context=ssl_context)
        self._guard, self._host, self._port = guard, host, port

    @property
    def name(self) -> str:
        return f"{'http' if self._ssl_context is None else 'https'}://{self._host}:{self._port}"

    async def start(self) -> None:
        """
        Raises:
            OSError: the port cannot be listened on.
        """
        await super().start()
        server = self._runner.server
        assert server is not None, "the runner is set up before"
        self._server = await asyncio.get_running_loop().create_server(
            self._guard.door(server),
            self._host,
            self._port,
            ssl=self._ssl_context,
            ssl_handshake_timeout=self._guard.handshake_s if self._ssl_context else None,
        )
