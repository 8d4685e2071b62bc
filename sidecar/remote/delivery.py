"""One shard's requests, one after the other, until each is stored or given up for a reason.

==============================  ====================================================================
2xx                             stored: the row goes
no answer, 408, 429, 5xx        the same bytes again, after full jitter (Retry-After clamped)
400, 409, 422                   bisected: the one bad series goes into quarantine, the rest is sent
413                             halved by bytes; requests stay below what was refused
401, 403, 404 and other 4xx     all writes are held (``on_client_error: hold``) or it is dropped
400 out of bounds               dropped: that instant is too old for this receiver, of any series
older than the age limit        dropped before it is sent
==============================  ====================================================================

**Bisection.** A request of n series was refused, so one is bad. Send the first half. Refused: the
bad one is in there, and the second half waits, loose, to be sent with all other good parts in one
request at the end. Stored: the bad one is in the second half, which is halved without being sent.
That takes at most log2(n) + 3 requests more, whatever series it is. A receiver that refuses
everything (a second sidecar has written the same series) would make this cost 2n, so after 32
refusals without one success the breaker opens: refused requests are dropped whole, until a growing
pause is over.

**A 500 that never heals.** Some receivers answer 500 to what is really bad data. Where an empty
request goes through and this one has failed five times by 500, it is bisected with care: nothing
goes into quarantine unless its other half was stored meanwhile.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import Final, Literal, Protocol, TypeAlias, TypeVar

from sidecar.errors import Rejected, RemoteError, StoreError, Unavailable
from sidecar.names import DropReason
from sidecar.remote import blobs
from sidecar.remote.backoff import BackoffSettings, delay_s
from sidecar.remote.gate import DATA_ERRORS, Gate, Timing
from sidecar.remote.http import printable
from sidecar.remote.pace import Breaker, Pace
from sidecar.remote.quarantine import Quarantine, as_text
from sidecar.remote.rows import Request
from sidecar.remote.spool import Spool
from sidecar.remote.transport import WriteTransport

log = logging.getLogger(__name__)
T = TypeVar("T")

_SUSPECT_AFTER: Final = 5  # times 500 for one request
_REFUSALS_AT_MOST: Final = 3  # client errors for one request while empty ones go through
_STORE_PAUSE_S: Final = 5.0
_TRUST_500_S: Final = 600.0  # after a bisection showed that the receiver itself fails
_REMEMBER_EVERY_S: Final = 5.0
# Prometheus' words for an instant before the first that its head takes: the end of its newest
# block, where history was put in beforehand. All samples of a request are of one instant.
_OUT_OF_BOUNDS: Final = "out of bounds"


class RunsOnSpool(Protocol):
    def __call__(self, operation: Callable[[Spool], T]) -> Awaitable[T]: ...


class Outcome(Enum):
    STORED = auto()
    BAD = auto()  # refused for what is in it
    SUSPECT = auto()  # answered 500 again and again, while empty requests go through
    TOO_LARGE = auto()
    FORBIDDEN = auto()  # a client error, and the operator wants such requests dropped
    EXPIRED = auto()
    FROM_THE_FUTURE = auto()  # by a clock that was wrong


_DROPS: Final = {
    Outcome.FORBIDDEN: DropReason.CLIENT_ERROR,
    Outcome.TOO_LARGE: DropReason.TOO_LARGE,
    Outcome.EXPIRED: DropReason.EXPIRED,
    Outcome.FROM_THE_FUTURE: DropReason.CLOCK_SKEW,
}


@dataclass
class Progress:
    """What the shards of one writer have done; ``recent`` is some of what was stored lately."""

    retried: int = 0
    bisections: int = 0
    highest_sent_ms: int | None = None
    last_error: str = ""
    recent: deque[Request] = field(default_factory=lambda: deque(maxlen=8))
    recent_at: float = -math.inf


@dataclass
class Road:
    """What the shards of one writer share.

    Attributes:
        max_bytes: of one request; shrinks for good when the receiver says 413.
        age_limit_ms: older samples are given up; follows the receiver's out-of-order window.
        run: runs an operation on the spool and gives its result once it is on disk.
    """

    transport: WriteTransport
    gate: Gate
    pace: Pace
    quarantine: Quarantine
    backoff: BackoffSettings
    timing: Timing
    run: RunsOnSpool
    on_client_error: Literal["hold", "drop"]
    age_limit_ms: int
    max_samples: int
    max_bytes: int
    linger_s: float
    progress: Progress = field(default_factory=Progress)

    def now_ms(self) -> int:
        return int(self.timing.now_s() * 1000)

    def expired_before_ms(self) -> int:
        """What is older is given up; nothing is by a clock that may be wrong."""
        return self.now_ms() - self.age_limit_ms if self.gate.tells_age else 0


class ShardSender:
    """Sends one shard's requests in the order of their timestamps, one at a time."""

    def __init__(self, shard: int, road: Road) -> None:
        self._shard, self._road = shard, road
        self._breaker = Breaker(road.timing)
        self._wake = asyncio.Event()
        self._said = ""  # the receiver's words about the newest refusal
        self._trusts_500_until = -math.inf

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        settle: Settle = _nothing
        while True:
            self._wake.clear()
            request = await self._stored(partial(self._settle_and_take, settle))
            settle = _nothing
            if request is not None:
                settle = await self._deliver(request)
                continue
            await self._wake.wait()
            # What is appended in the same breath then shares a request.
            await self._road.timing.sleep(self._road.linger_s)

    def _settle_and_take(self, settle: "Settle", spool: Spool) -> Request | None:
        """One commit for the end of one request and the beginning of the next."""
        settle(spool)
        road = self._road
        return spool.take(
            self._shard,
            expired_before_ms=road.expired_before_ms(),
            max_samples=road.max_samples,
            max_bytes=road.max_bytes,
            quarantined=road.quarantine.active(road.now_ms()),
        )

    async def _deliver(self, request: Request) -> "Settle":
        """See it through; gives what is still to be noted in the spool."""
        outcome = await self._attempt(request)
        if outcome is Outcome.BAD:
            return await self._bisect(request)
        if outcome is Outcome.SUSPECT:
            return await self._bisect_with_care(request)
        return self._settling(request, outcome)

    def _settling(self, request: Request, outcome: Outcome) -> "Settle":
        """What an outcome means for the row; one that stays is released for the next attempt."""
        if outcome is Outcome.STORED:
            return lambda spool: spool.finish(request)
        if outcome is Outcome.TOO_LARGE and request.samples > 1:
            self._road.max_bytes = min(self._road.max_bytes, max(len(request.body) // 2, 1))
            return partial(_halve, request)
        if outcome in _DROPS:
            return lambda spool: spool.drop(request, _DROPS[outcome])
        return partial(_release, request)

    async def _attempt(self, request: Request, *, suspect_after: int = _SUSPECT_AFTER) -> Outcome:
        """Send until there is an answer that settles it."""
        road, failures, answers_500, client_errors = self._road, 0, 0, 0
        while True:
            if not await road.gate.admit(request.timestamp_ms):
                return Outcome.FROM_THE_FUTURE
            if request.timestamp_ms < road.expired_before_ms():
                return Outcome.EXPIRED
            await road.pace.turn()
            try:
                await road.transport.send(request.body)
            except Unavailable as error:
                failures += 1
                answers_500 = answers_500 + 1 if error.status == 500 else 0
                self._note(request, error)
                if answers_500 < suspect_after:
                    road.pace.failed(error)
                if answers_500 >= suspect_after and await self._suspects():
                    return Outcome.SUSPECT
                pause = delay_s(failures, road.backoff, error.retry_after_s, road.timing.draw)
                await road.timing.sleep(pause)
            except Rejected as error:
                client_errors += 1
                self._note(request, error)
                outcome = self._verdict(error, client_errors)
                if outcome is not None:
                    return outcome
                road.gate.hold(error)
            else:
                self._note_success(request)
                return Outcome.STORED

    def _verdict(self, error: Rejected, client_errors: int) -> Outcome | None:
        """What a refusal means; None where all writes are to be held."""
        if error.status == 413:
            return Outcome.TOO_LARGE
        if error.status == 400 and error.body.startswith(_OUT_OF_BOUNDS):
            return Outcome.EXPIRED
        if error.status not in DATA_ERRORS:
            if self._road.on_client_error == "drop":
                return Outcome.FORBIDDEN
            if client_errors < _REFUSALS_AT_MOST:
                return None
        # Refused for what is in it, or again and again while empty requests went through.
        self._said = error.body or str(error)
        if self._breaker.refused():
            log.error(
                "%s refuses request after request (does another sidecar write these series?): "
                "refused ones are dropped for %.0f s: %s",
                self._road.transport.where,
                self._breaker.pause_s,
                printable(self._said),
            )
        return Outcome.BAD

    def _note(self, request: Request, error: RemoteError) -> None:
        self._road.progress.last_error = self._said = str(error)
        if isinstance(error, Unavailable):
            self._road.progress.retried += request.samples

    def _note_success(self, request: Request) -> None:
        road = self._road
        road.pace.succeeded()
        self._breaker.succeeded()
        progress, now = road.progress, road.timing.monotonic_s()
        if progress.highest_sent_ms is None or progress.highest_sent_ms < request.timestamp_ms:
            progress.highest_sent_ms = request.timestamp_ms
        if now - progress.recent_at >= _REMEMBER_EVERY_S:
            progress.recent.append(request)
            progress.recent_at = now

    async def _suspects(self) -> bool:
        """Whether it is this request that fails and not the receiver."""
        if self._road.timing.monotonic_s() < self._trusts_500_until:
            return False
        try:
            await self._road.transport.probe()
        except RemoteError:
            return False
        return True

    async def _bisect(self, refused: Request) -> "Settle":
        """Find one bad series; all that is good is stored or stays loose."""
        self._road.progress.bisections += 1
        proven = True
        while refused.samples > 1 and not self._breaker.is_open:
            halves = await self._stored(partial(_split, refused))
            if halves is None:
                return _nothing
            first, second = halves
            outcome = await self._attempt(first)
            if outcome is Outcome.STORED:
                await self._stored(self._settling(first, outcome))
                refused, proven = second, False
            else:
                await self._stored(partial(_release, second))
                if outcome is not Outcome.BAD:
                    return self._settling(first, outcome)
                refused, proven = first, True
        if not proven and refused.samples == 1:
            await self._stored(lambda spool: spool.seal(refused))
            outcome = await self._attempt(refused)
            if outcome is not Outcome.BAD:
                return self._settling(refused, outcome)
        if self._breaker.is_open:
            return lambda spool: spool.drop(refused, DropReason.REJECTED)
        return self._quarantining(refused)

    async def _bisect_with_care(self, failing: Request) -> "Settle":
        """As ``_bisect``, for a receiver whose 500 may mean bad data or real trouble."""
        self._road.progress.bisections += 1
        while failing.samples > 1:
            halves = await self._stored(partial(_split, failing, seal_both=True))
            if halves is None:
                return _nothing
            outcomes = [await self._attempt(half, suspect_after=1) for half in halves]
            pairs = list(zip(halves, outcomes, strict=True))
            for half, outcome in pairs:
                if outcome is not Outcome.SUSPECT:
                    await self._stored(self._settling(half, outcome))
            left = [half for half, outcome in pairs if outcome is Outcome.SUSPECT]
            if not left:
                return _nothing
            if Outcome.STORED not in outcomes:
                self._trusts_500_until = self._road.timing.monotonic_s() + _TRUST_500_S
                return lambda spool: spool.release([half.id for half in left])
            failing = left[0]
        return self._quarantining(failing)

    def _quarantining(self, refused: Request) -> "Settle":
        """The one series of ``refused`` is left out for a while; its sample is dropped."""
        road, said = self._road, printable(self._said)

        def settle(spool: Spool) -> None:
            spool.drop(refused, DropReason.REJECTED)
            [labels], _, _ = blobs.contents(refused.body)
            pause = road.quarantine.put(labels, road.now_ms())
            spool.save_quarantine(as_text(labels), pause.until_ms, pause.pauses)
            log.warning(
                "%s refuses this series, left out for %.0f s, then tried again: %s: %s",
                road.transport.where,
                pause.length_ms / 1000,
                labels,
                said,
            )

        return settle

    async def _stored(self, operation: Callable[[Spool], T]) -> T:
        """Run it on the spool, again and again while the disk does not take it."""
        while True:
            try:
                return await self._road.run(operation)
            except StoreError as error:
                log.warning(
                    "%s: delivery waits for the disk: %s", self._road.transport.where, error
                )
                await self._road.timing.sleep(_STORE_PAUSE_S)


Settle: TypeAlias = Callable[[Spool], None]


def _nothing(_spool: Spool) -> None:
    pass


def _release(request: Request, spool: Spool) -> None:
    spool.release([request.id])


def _split(
    request: Request, spool: Spool, *, seal_both: bool = False
) -> tuple[Request, Request] | None:
    halves = spool.split(request)
    if halves is not None and seal_both:
        spool.seal(halves[1])
    return halves


def _halve(request: Request, spool: Spool) -> None:
    halves = spool.split(request, by_bytes=True)
    if halves is not None:
        spool.release([half.id for half in halves])
