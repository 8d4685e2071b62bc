"""How fast to send, and when to stop looking for what is wrong with a request."""

import asyncio
import logging
import math
from typing import Final

from sidecar.remote.gate import Timing

log = logging.getLogger(__name__)

_OUTAGE_S: Final = 10.0
_SAY_EVERY_S: Final = 60.0
_FIRST_GAP_S: Final = 0.5
_SHRINK: Final = 0.75
_NO_GAP_S: Final = 0.01
_IN_A_ROW: Final = 32
_IN_A_ROW_AGAIN: Final = 16
_IN_WINDOW: Final = 256
_WINDOW_S: Final = 60.0


class Pace:
    """After an outage requests leave with gaps that shrink, so recovery is not a second outage.

    The gaps begin at half a second and shrink by a quarter with each success: the first ten
    requests take two seconds, after fifteen there is no gap.
    """

    def __init__(self, where: str, timing: Timing) -> None:
        self._where, self._timing = where, timing
        self._failing_since: float | None = None
        self._said, self._said_at = False, -math.inf
        self._gap_s = 0.0
        self._next_at = 0.0
        self._turn = asyncio.Lock()

    @property
    def in_outage(self) -> bool:
        since = self._failing_since
        return since is not None and self._timing.monotonic_s() - since > _OUTAGE_S

    @property
    def failing(self) -> bool:
        """Whether the newest request was not delivered."""
        return self._failing_since is not None

    def slow_start(self) -> None:
        self._gap_s = _FIRST_GAP_S

    async def turn(self) -> None:
        """Return when the next request may leave."""
        if self._gap_s == 0.0:
            return
        async with self._turn:
            wait = self._next_at - self._timing.monotonic_s()
            if wait > 0:
                await self._timing.sleep(wait)
            self._next_at = self._timing.monotonic_s() + self._gap_s

    def failed(self, error: Exception) -> None:
        now = self._timing.monotonic_s()
        if self._failing_since is not None:
            return
        self._failing_since = now
        self._said = now - self._said_at >= _SAY_EVERY_S
        if self._said:  # a receiver that fails now and then is one line a minute
            self._said_at = now
            log.warning("%s: not delivered, will be sent again: %s", self._where, error)

    def succeeded(self) -> None:
        if self._failing_since is not None:
            lasted = self._timing.monotonic_s() - self._failing_since
            if self._said or self.in_outage:
                log.info("%s: delivers again after %.1f s", self._where, lasted)
            if self.in_outage:
                self.slow_start()
            self._failing_since = None
        self._gap_s = self._gap_s * _SHRINK if self._gap_s > _NO_GAP_S else 0.0


class Breaker:
    """Whether refused requests are still bisected.

    Opens after 32 refusals without one success between them, or 256 in a minute whatever else
    succeeds, for a pause that doubles up to an hour. After the pause 16 in a row open it again:
    enough to find one bad series.
    """

    def __init__(self, timing: Timing, *, pause_s: float = 60.0, longest_s: float = 3600.0) -> None:
        self._timing = timing
        self._first_s, self._longest_s = pause_s, longest_s
        self.pause_s = pause_s
        self._in_a_row = 0
        self._in_window = 0
        self._window_from = 0.0
        self._open_until: float | None = None

    @property
    def is_open(self) -> bool:
        return self._open_until is not None and self._timing.monotonic_s() < self._open_until

    def refused(self) -> bool:
        """Note a refusal; True where it opened the breaker."""
        now = self._timing.monotonic_s()
        if now - self._window_from > _WINDOW_S:
            self._window_from, self._in_window = now, 0
        self._in_a_row += 1
        self._in_window += 1
        limit = _IN_A_ROW if self._open_until is None else _IN_A_ROW_AGAIN
        if self.is_open or not (self._in_a_row >= limit or self._in_window >= _IN_WINDOW):
            return False
        if self._open_until is not None:
            self.pause_s = min(2 * self.pause_s, self._longest_s)
        self._in_a_row = self._in_window = 0
        self._open_until = now + self.pause_s
        return True

    def succeeded(self) -> None:
        self._in_a_row = 0
        if self._open_until is not None and not self.is_open:
            self._open_until, self.pause_s = None, self._first_s
