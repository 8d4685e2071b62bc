"""Remote write that loses nothing: accept into the spool, deliver from it.

    writer = RemoteWriter(client, Path("spool/prometheus.sqlite"))
    await writer.start()
    acceptance = await writer.append([WriteBlock(labels, timestamp_ms, values)])
    ...
    await writer.stop(deadline_s=3.0)

What ``append`` has accepted survives kill -9 and is delivered unless it grows older than any
receiver takes. Several endpoints are several writers: none waits for another.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from sidecar.errors import StoreError
from sidecar.names import DropReason, Refusal
from sidecar.remote import blobs
from sidecar.remote.backoff import FOREVER, BackoffSettings
from sidecar.remote.committer import Committer
from sidecar.remote.delivery import Road, ShardSender
from sidecar.remote.gate import Gate, Timing, WriterState
from sidecar.remote.http import HttpClient
from sidecar.remote.intake import Acceptance, Intake, WriteBlock
from sidecar.remote.marks import MarkBook
from sidecar.remote.pace import Pace
from sidecar.remote.quarantine import Quarantine, as_text
from sidecar.remote.rows import Request
from sidecar.remote.spool import Spool
from sidecar.remote.transport import Protocol, WriteTransport
from sidecar.series import LabelSet

__all__ = [
    "Acceptance",
    "RemoteWriter",
    "SentSample",
    "WriteBlock",
    "WriterSettings",
    "WriterState",
    "WriterStats",
]

log = logging.getLogger(__name__)

_HOUSEKEEPING_S: Final = 30.0
_LINEUP_UNUSED_MS: Final = 600_000
# What is sent at the last moment still has to arrive, and the newest sample of a Prometheus may be
# a little ahead of its clock.
_WINDOW_MARGIN_MS: Final = 5 * 60_000
_WINDOW_FACT: Final = "out_of_order_window_ms"


@dataclass(frozen=True)
class WriterSettings:
    """How one receiver is written to.

    Attributes:
        path: appended to the client's URL.
        shards: connections at most; a series is always in the same one.
        age_limit_ms: older samples are given up. 55 minutes suits a stock Prometheus; see
            ``learn_window`` for one with a longer out-of-order window.
        spool_max_bytes: of waiting requests on disk; beyond it the oldest are dropped.
        on_client_error: what 401, 403, 404 ... do: hold everything until an empty request passes,
            or drop that request.
        protocol: 1.0, 2.0, or 2.0 where the receiver understands it (auto).
        linger_s: a lone sample waits so long for company.
    """

    path: str = "/api/v1/write"
    shards: int = 2
    max_samples_per_request: int = 2_000
    max_request_bytes: int = 4 * 1024 * 1024
    age_limit_ms: int = 55 * 60_000
    spool_max_bytes: int = 256 * 1024 * 1024
    on_client_error: Literal["hold", "drop"] = "hold"
    protocol: Protocol = "1.0"
    backoff: BackoffSettings = FOREVER
    quarantine_first_ms: int = 60_000
    quarantine_longest_ms: int = 3_600_000
    linger_s: float = 0.02

    def __post_init__(self) -> None:
        if not 1 <= self.shards <= 4:
            raise ValueError(f"a writer has 1 to 4 shards, not {self.shards}")
        if self.max_samples_per_request < 1 or self.age_limit_ms < 1:
            raise ValueError("a request holds at least one sample, and its age limit is above 0")


@dataclass(frozen=True)
class WriterStats:
    """``enqueued == sent + pending + sum(dropped)``, in samples, since the spool was made.

    Attributes:
        refused: samples that ``append`` did not accept, since this process began.
        requests: answers by class, ``2xx`` ... ``5xx``, ``none`` where there was none.
        skew_s: own clock minus the receiver's; None while that is unknown.
        durable: False where the spool could only be held in memory.
    """

    enqueued: int
    sent: int
    pending: int
    dropped: Mapping[DropReason, int]
    refused: Mapping[Refusal, int]
    pending_requests: int
    pending_bytes: int
    retried: int
    bisections: int
    requests: Mapping[str, int]
    quarantined: int
    known_series: int
    state: WriterState
    skew_s: float | None
    highest_accepted_ms: int | None
    highest_sent_ms: int | None
    protocol: str
    durable: bool
    last_error: str


@dataclass(frozen=True, slots=True)
class SentSample:
    """A sample that the receiver acknowledged."""

    labels: LabelSet
    timestamp_ms: int
    value: float


class RemoteWriter:
    """One receiver.

    Args:
        spool_path: one file for each receiver; None keeps the spool in memory.
        now_s: own wall clock; sleep, draw and monotonic_s as in ``Timing``.
    """

    def __init__(
        self,
        client: HttpClient,
        spool_path: Path | None,
        settings: WriterSettings | None = None,
        *,
        now_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.settings = settings or WriterSettings()
        s = self.settings
        self._timing = Timing(now_s, monotonic_s, sleep, draw)
        self._transport = WriteTransport(client, s.path, s.protocol, s.shards)
        self._quarantine = Quarantine(s.quarantine_first_ms, s.quarantine_longest_ms)
        self._committer = Committer(
            spool_path,
            s.shards,
            s.spool_max_bytes,
            on_open=self._opened,
            name=f"spool-{spool_path.stem if spool_path else 'memory'}",
        )
        self._gate = Gate(
            self._transport,
            client.server_clock,
            self._timing,
            s.backoff,
            on_ahead=self._take_back,
        )
        self._pace = Pace(self._transport.where, self._timing)
        self._road = Road(
            transport=self._transport,
            gate=self._gate,
            pace=self._pace,
            quarantine=self._quarantine,
            backoff=s.backoff,
            timing=self._timing,
            run=self._committer.run,
            on_client_error=s.on_client_error,
            age_limit_ms=s.age_limit_ms,
            max_samples=s.max_samples_per_request,
            max_bytes=s.max_request_bytes,
            linger_s=s.linger_s,
        )
        self._book: MarkBook | None = None
        self._intake: Intake | None = None
        self._senders: list[ShardSender] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._refused: Counter[Refusal] = Counter()
        self._highest_ms: int | None = None
        self._window_ms = 0
        self._said_dropped: Mapping[DropReason, int] = {}

    async def start(self) -> None:
        """Open the spool and begin to deliver what an earlier process left in it.

        Raises:
            StoreError: another process has the spool open.
        """
        await self._committer.start()
        assert self._book is not None
        waiting = self._committer.tally
        self._said_dropped = waiting.dropped
        if waiting.pending:
            log.info(
                "%s: %d samples wait in the spool since the last run",
                self._transport.where,
                waiting.pending,
            )
        if waiting.requests > 10:
            self._pace.slow_start()
        self._senders = [ShardSender(shard, self._road) for shard in range(self._committer.shards)]
        self._tasks = [asyncio.create_task(sender.run()) for sender in self._senders]
        self._tasks.append(asyncio.create_task(self._keep_house()))

    async def stop(self, deadline_s: float = 3.0) -> None:
        """Deliver what can be delivered by then, and close; the rest waits for the next start.

        1. Nothing is waited for where the receiver does not answer. 2. Senders are cancelled; a
        request under way is sent again at the next start, with the same bytes. 3. The spool
        commits what it was given and closes.
        """
        if not self._tasks:
            return
        await self.drained(deadline_s)
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        for result in ended:
            if isinstance(result, Exception):
                log.error("%s: a sender had ended: %r", self._transport.where, result)
        self._tasks = []
        await self._committer.close()
        left = self._committer.tally.pending
        if left:
            log.warning(
                "%s: stopped with %d samples undelivered, %s",
                self._transport.where,
                left,
                "kept in the spool" if self._committer.durable else "lost: the spool is in memory",
            )

    async def append(self, blocks: Sequence[WriteBlock]) -> Acceptance:
        """Accept what may be sent; returns when it is on disk.

        Refused and counted: not finite, not after the series' high-water mark, later than our
        clock, older than the age limit, in quarantine; everything while the clocks disagree, and
        everything that the disk does not take.
        """
        now_ms = self._road.now_ms()
        samples = sum(block.samples for block in blocks)
        if self._gate.skewed:
            await self._gate.say_state()
            return self._count(Acceptance.none(samples, Refusal.CLOCK_SKEW))
        assert self._intake is not None, "start() comes first"
        accept = self._intake.accept
        acceptance = await self._accepted(lambda spool: accept(spool, blocks, now_ms), samples)
        if acceptance.accepted:
            newest = max(block.timestamp_ms for block in blocks)
            self._highest_ms = max(newest, self._highest_ms or newest)
        return acceptance

    async def end_series(self, labels: Sequence[LabelSet], timestamp_ms: int) -> Acceptance:
        """Append a staleness marker for each series that was sent before.

        At the instant given, or 1 ms after the series' high-water mark where that is later.
        """
        now_ms = self._road.now_ms()
        if self._gate.skewed:
            return self._count(Acceptance.none(len(labels), Refusal.CLOCK_SKEW))
        assert self._intake is not None, "start() comes first"
        end = self._intake.end
        return await self._accepted(
            lambda spool: end(spool, labels, timestamp_ms, now_ms), len(labels)
        )

    async def learn_window(self, out_of_order_ms: int) -> None:
        """Give up samples only when the receiver's out-of-order window is over, less 5 minutes.

        A window shorter than the age limit changes nothing: a Prometheus takes samples of the last
        hour in order anyway. It is kept with the spool, for what waits may be old when the next
        process begins, and the receiver away.
        """
        if out_of_order_ms == self._window_ms:
            return
        self._set_window(out_of_order_ms)
        log.info(
            "%s: out-of-order window %d min: what is delivered later than %d min is given up",
            self._transport.where,
            out_of_order_ms // 60_000,
            self._road.age_limit_ms // 60_000,
        )
        try:
            await self._committer.run(lambda spool: spool.save_fact(_WINDOW_FACT, out_of_order_ms))
        except StoreError as error:
            log.warning("%s: %s", self._transport.where, error)

    @property
    def age_limit_ms(self) -> int:
        """How old a sample may be and is still delivered."""
        return self._road.age_limit_ms

    def _set_window(self, out_of_order_ms: int) -> None:
        limit_ms = max(self.settings.age_limit_ms, out_of_order_ms - _WINDOW_MARGIN_MS)
        self._window_ms = out_of_order_ms
        self._road.age_limit_ms = limit_ms
        if self._intake is not None:
            self._intake.age_limit_ms = limit_ms

    def high_water_ms(self, labels: LabelSet) -> int | None:
        """The newest timestamp accepted for the series, before the last restart too.

        None where there is none, or where it is older than any sample that would be accepted.
        """
        return None if self._book is None else self._book.get(labels)

    async def drained(self, timeout_s: float) -> bool:
        """Wait until nothing is pending; False where the time is over or the receiver away."""
        deadline = self._timing.monotonic_s() + timeout_s
        while self._committer.tally.pending:
            left = deadline - self._timing.monotonic_s()
            if left <= 0 or not self._is_hopeful():
                return False
            await self._timing.sleep(min(0.02, left))
        return True

    def _is_hopeful(self) -> bool:
        """Whether what is pending may be delivered within seconds."""
        if self._gate.state is WriterState.CONNECTING:
            return not self._gate.has_failed
        return self.state is WriterState.OK and not self._pace.failing

    @property
    def state(self) -> WriterState:
        state = self._gate.state
        if state is WriterState.OK and self._pace.in_outage:
            return WriterState.OUTAGE
        return state

    @property
    def trouble(self) -> str:
        """Why nothing is delivered at present, and what to do; empty where all is well."""
        state = self.state
        if said := self._gate.trouble(state):
            return said
        unanswered = state is WriterState.CONNECTING and self._gate.has_failed
        if state is WriterState.OUTAGE or unanswered:
            waiting = f"{self._committer.tally.pending:,} samples wait in the spool"
            return f"{self._transport.where} does not take what is sent, {waiting}"
        return ""

    def quarantined(self) -> tuple[LabelSet, ...]:
        """The series left out now, because the receiver refuses them."""
        return tuple(sorted(self._quarantine.active(self._road.now_ms())))

    def take_sent(self) -> list[SentSample]:
        """Some of what was stored lately, each given out once: to be read back and compared."""
        samples: list[SentSample] = []
        while self._road.progress.recent:
            samples += _samples_of(self._road.progress.recent.popleft())
        return samples

    def stats(self) -> WriterStats:
        tally, progress = self._committer.tally, self._road.progress
        return WriterStats(
            enqueued=tally.enqueued,
            sent=tally.sent,
            pending=tally.pending,
            dropped=tally.dropped,
            refused=dict(self._refused),
            pending_requests=tally.requests,
            pending_bytes=tally.bytes,
            retried=progress.retried,
            bisections=progress.bisections,
            requests=dict(self._transport.codes),
            quarantined=len(self._quarantine.active(self._road.now_ms())),
            known_series=0 if self._book is None else len(self._book),
            state=self.state,
            skew_s=self._gate.skew_s,
            highest_accepted_ms=self._highest_ms,
            highest_sent_ms=progress.highest_sent_ms,
            protocol=self._transport.version,
            durable=self._committer.durable,
            last_error=progress.last_error,
        )

    def _opened(self, spool: Spool) -> None:
        """In the spool's thread: take over its marks. Also after the file was opened anew."""
        s = self.settings
        if self._book is None:
            self._book = MarkBook(spool.shards, s.max_samples_per_request, s.max_request_bytes)
            self._intake = Intake(self._book, self._quarantine, s.age_limit_ms)
            self._set_window(spool.fact(_WINDOW_FACT) or 0)
        self._book.load(spool.marks())
        self._quarantine.load(spool.quarantines())

    async def _accepted(self, operation: Callable[[Spool], Acceptance], samples: int) -> Acceptance:
        try:
            acceptance = await self._committer.run(operation)
        except StoreError as error:
            log.warning("%s: %d samples not accepted: %s", self._transport.where, samples, error)
            acceptance = Acceptance.none(samples, Refusal.SPOOL_UNUSABLE)
        if acceptance.accepted:
            for sender in self._senders:
                sender.wake()
        return self._count(acceptance)

    def _count(self, acceptance: Acceptance) -> Acceptance:
        self._refused.update(acceptance.refused)
        return acceptance

    async def _take_back(self, server_now_s: float) -> None:
        """Our clock was ahead: what it stamped lies in the receiver's future and never left."""
        limit_ms = int((server_now_s + 60.0) * 1000)

        def operation(spool: Spool) -> int:
            assert self._book is not None
            spool.on_rollback(self._book.cap(limit_ms))
            spool.cap_marks(limit_ms)
            return spool.drop_where("timestamp_ms > ?", (limit_ms,), DropReason.CLOCK_SKEW)

        try:
            dropped = await self._committer.run(operation)
        except StoreError as error:
            log.warning("%s: %s", self._transport.where, error)
            return
        if dropped:
            log.warning(
                "%s: %d samples dropped, stamped by a clock that was ahead",
                self._transport.where,
                dropped,
            )

    async def _keep_house(self) -> None:
        while True:
            await self._timing.sleep(_HOUSEKEEPING_S)
            await self._gate.look()
            if self._gate.skewed:
                continue  # nothing is too old by a clock that may be wrong
            try:
                await self._committer.run(partial(self._tidy, self._road.now_ms()))
            except StoreError as error:
                log.warning("%s: %s", self._transport.where, error)
            self._say_losses()

    def _say_losses(self) -> None:
        """One line for what was given up since the last look."""
        dropped = self._committer.tally.dropped
        lost = {r: n - self._said_dropped.get(r, 0) for r, n in dropped.items()}
        self._said_dropped = dict(dropped)
        named = ", ".join(f"{reason} {count}" for reason, count in lost.items() if count > 0)
        if named:
            log.warning("%s: samples given up: %s", self._transport.where, named)

    def _tidy(self, now_ms: int, spool: Spool) -> None:
        """Give up what is too old, and forget marks that the age limit stands in for."""
        assert self._book is not None
        limit_ms = self._road.age_limit_ms
        spool.drop_where("timestamp_ms < ?", (now_ms - limit_ms,))
        spool.forget_marks(now_ms - 2 * limit_ms)
        self._book.forget(now_ms - 2 * limit_ms, now_ms - _LINEUP_UNUSED_MS)
        for labels in self._quarantine.settle(now_ms):
            spool.end_quarantine(as_text(labels))


def _samples_of(request: Request) -> list[SentSample]:
    labels, times, values = blobs.contents(request.body)
    return [
        SentSample(one, int(time_ms), float(value))
        for one, time_ms, value in zip(labels, times, values, strict=True)
    ]
