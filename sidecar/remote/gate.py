"""Whether anything may be written now, and to whom it is said when not.

Three things stop all writes to a receiver, whatever is pending; each ends by itself, found out with
an empty request now and then:

- its clock is not known yet (the first write must not carry a sample from the receiver's future);
- its clock and ours are more than a minute apart;
- it refuses us altogether (401, 403, 404 ...): the operator has to mend something.

And a sample waits until both clocks have passed its timestamp. Prometheus takes samples from the
future and is damaged by them: one accepted sample an hour ahead ends all scraping.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sidecar.errors import Rejected, RemoteError
from sidecar.remote.backoff import BackoffSettings, delay_s
from sidecar.remote.clock import ServerClock
from sidecar.remote.described import START_RECEIVER, receiver_is_off
from sidecar.remote.transport import WriteTransport

log = logging.getLogger(__name__)

# The receiver has read the request and does not like what is in it.
DATA_ERRORS: Final = frozenset({400, 409, 413, 422})

MAX_SKEW_S: Final = 60.0
_LOOK_AGAIN_S: Final = 5.0


class WriterState(StrEnum):
    """What a writer is doing; one at a time."""

    OK = "ok"
    CONNECTING = "connecting"
    OUTAGE = "outage"
    HELD = "held"
    CLOCK_SKEW = "clock_skew"


@dataclass(frozen=True)
class Timing:
    """Where time comes from and how it passes; tests give their own.

    Attributes:
        now_s: own wall clock, seconds since the epoch.
        monotonic_s: seconds that never go back.
        draw: uniform in [0, 1).
    """

    now_s: Callable[[], float]
    monotonic_s: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    draw: Callable[[], float]


class Gate:
    """Lets writes through, or holds them and finds out when it may let them through again.

    Attributes:
        has_failed: whether the newest empty request got no answer.
    """

    def __init__(
        self,
        transport: WriteTransport,
        server_clock: ServerClock,
        timing: Timing,
        backoff: BackoffSettings,
        *,
        on_ahead: Callable[[float], Awaitable[None]],
    ) -> None:
        """``on_ahead`` is told the receiver's time when ours turns out to be far ahead of it."""
        self._transport, self._clock, self._timing = transport, server_clock, timing
        self._backoff, self._on_ahead = backoff, on_ahead
        self._asking = asyncio.Lock()
        self._held_by: Rejected | None = None
        self._answers_without_date = False
        self.has_failed = False
        self._said: WriterState | None = None

    @property
    def state(self) -> WriterState:
        if self._held_by is not None:
            return WriterState.HELD
        if self.skewed:
            return WriterState.CLOCK_SKEW
        unknown = not (self._clock.known or self._answers_without_date)
        return WriterState.CONNECTING if unknown else WriterState.OK

    @property
    def skew_s(self) -> float | None:
        """Own clock minus the receiver's; None while that is not known."""
        return self._clock.skew_s(self._timing.now_s())

    @property
    def skewed(self) -> bool:
        skew = self.skew_s
        return skew is not None and abs(skew) > MAX_SKEW_S

    @property
    def tells_age(self) -> bool:
        """Whether our clock may say how old a sample is: not before the receiver's is known, where
        that can be had, nor while the two disagree."""
        return not self.skewed and (self._clock.known or self._answers_without_date)

    def latest_ms(self) -> int:
        """No later timestamp may be sent now: the earlier of both clocks."""
        own = self._timing.now_s()
        server = self._clock.earliest_now_s()
        return int(1000 * (own if server is None else min(own, server)))

    def hold(self, error: Rejected) -> None:
        """The receiver refuses us: nothing more until an empty request goes through."""
        self._held_by = error

    async def look(self) -> None:
        """Say what has changed; while the clocks disagree, ask the receiver for its time."""
        await self.say_state()
        if self.skewed:
            await self._probe()
            await self.say_state()

    async def admit(self, timestamp_ms: int) -> bool:
        """Return when a sample of this timestamp may be sent.

        False where it may not be for more than a minute, by the receiver's clock: it was stamped
        by a clock that was wrong, and waiting would hold up all that is right.
        """
        while True:
            if self.state is not WriterState.OK:
                async with self._asking:
                    await self._until_ok(timestamp_ms)
            if self._is_beyond(timestamp_ms):
                return False
            ahead_s = (timestamp_ms - self.latest_ms()) / 1000
            if ahead_s <= 0 and self.state is WriterState.OK:
                return True
            await self._timing.sleep(min(max(ahead_s, 0.0), _LOOK_AGAIN_S))

    def _is_beyond(self, timestamp_ms: int) -> bool:
        server = self._clock.earliest_now_s()
        return server is not None and timestamp_ms / 1000 > server + MAX_SKEW_S + 1.0

    async def _until_ok(self, timestamp_ms: int) -> None:
        failures = 0
        while (state := self.state) is not WriterState.OK:
            await self._say(state)
            if self._is_beyond(timestamp_ms):
                return
            if failures or state is not WriterState.CONNECTING:
                await self._timing.sleep(self._pause_s(max(failures, 1), state))
            failures += 1
            await self._probe()
        await self._say(WriterState.OK)

    def _pause_s(self, failures: int, state: WriterState) -> float:
        if state is WriterState.CONNECTING:
            return delay_s(failures, self._backoff, draw=self._timing.draw)
        # Someone has to act, so the first looks are not urgent; half the pause is certain.
        longest = min(self._backoff.cap_s, 5.0 * self._backoff.base_s * 2.0 ** min(failures - 1, 9))
        return longest * (0.5 + 0.5 * self._timing.draw())

    async def _probe(self) -> None:
        try:
            await self._transport.probe()
        except Rejected as error:
            if self._held_by is not None:
                # An empty request that is "bad data" has passed whatever refused us.
                self._held_by = None if error.status in DATA_ERRORS else error
            self._answers_without_date = not self._clock.known
        except RemoteError as error:
            self.has_failed = True
            log.debug("%s: %s", self._transport.where, error)
        else:
            self.has_failed = False
            self._held_by = None
            self._answers_without_date = not self._clock.known

    async def say_state(self) -> None:
        """One line in the log for each change, and what follows from it."""
        await self._say(self.state)

    def trouble(self, state: WriterState) -> str:
        """Why nothing is sent in such a state, and what to do; empty where it passes by itself."""
        where, skew = self._transport.where, self.skew_s or 0.0
        if state is WriterState.HELD:
            return (
                f"{where} refuses us, predictions wait in the spool until it lets an empty request "
                f"through: {self._held_by}{self._hint()}"
            )
        if state is WriterState.CLOCK_SKEW:
            side = "ahead of" if skew > 0 else "behind"
            return (
                f"{where}: our clock is {abs(skew):.0f} s {side} the server's: no writes until "
                f"they are within {MAX_SKEW_S:.0f} s; set the clocks (NTP)"
            )
        return ""

    def _hint(self) -> str:
        """What to do, where what the server says of that is out of date."""
        if self._held_by is None or not receiver_is_off(self._held_by):
            return ""
        return f"; {START_RECEIVER} (the flag in its own words is obsolete)"

    async def _say(self, state: WriterState) -> None:
        if state is self._said:
            return
        skew = self.skew_s or 0.0
        if trouble := self.trouble(state):
            log.error("%s", trouble)
        elif state is WriterState.OK and self._said in (WriterState.HELD, WriterState.CLOCK_SKEW):
            log.info("%s: writes go on", self._transport.where)
        self._said = state
        server = self._clock.earliest_now_s()
        if state is WriterState.CLOCK_SKEW and skew > 0 and server is not None:
            await self._on_ahead(server)
