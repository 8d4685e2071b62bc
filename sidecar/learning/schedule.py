"""When to fit what: cron slots that never run twice, and a fair queue of fits.

A slot is named by its wall-clock time (``2026-10-25T02:30[Europe/Berlin]``), and each wall-clock
time happens once: where the clocks go back, on its first pass; where they go forward, at the moment
they do. Time is an argument everywhere; nothing here reads a clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from hashlib import blake2b
from itertools import islice
from typing import Final, NamedTuple, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterBadDateError, CroniterError, croniter

MINUTE_MS: Final = 60_000
# A job that has waited this long counts as one class more urgent, so that none waits for ever.
AGEING_MS: Final = 10 * MINUTE_MS
_HOUR = timedelta(hours=1)
# So near to a change of the clocks a wall-clock time may come twice or not at all.
_NEAR_MS: Final = 4 * 3_600_000


@dataclass(frozen=True, slots=True)
class Slot:
    """One time at which a cron expression asks for a run."""

    id: str
    due_ms: int


@dataclass(frozen=True)
class Cron:
    """A cron expression of five fields in a timezone.

    >>> Cron("0 */6 * * *").next_after(0).id
    '1970-01-01T06:00[UTC]'
    """

    expression: str
    timezone: str = "UTC"

    def problem(self) -> str | None:
        """What is wrong with it and what to write instead; None if it is fine."""
        try:
            self._zone()
        except (ZoneInfoNotFoundError, ValueError):
            return (
                f"timezone {self.timezone!r} is unknown: write an IANA name such as 'Europe/Berlin'"
            )
        if len(self.expression.split()) != 5:
            return (
                f"{self.expression!r} is not a cron expression: write five fields "
                "(minute hour day month weekday) such as '0 */6 * * *'"
            )
        try:
            croniter(self.expression, datetime(2024, 1, 1, tzinfo=UTC)).get_next(datetime)
        except CroniterBadDateError:
            return f"{self.expression!r} names a day that never comes"
        except (CroniterError, ValueError, KeyError) as error:
            return f"{self.expression!r} is not a cron expression: {error}"
        return None

    def next_after(self, t_ms: int) -> Slot:
        """The first slot later than ``t_ms``."""
        steps = croniter(self.expression, self._wall(t_ms) - self._margin(t_ms))
        while (slot := self._slot(steps.get_next(datetime))).due_ms <= t_ms:
            pass
        return slot

    def latest(self, t_ms: int) -> Slot:
        """The last slot at or before ``t_ms``."""
        until = self._wall(t_ms) + self._margin(t_ms) + timedelta(seconds=1)
        steps = croniter(self.expression, until)
        while (slot := self._slot(steps.get_prev(datetime))).due_ms > t_ms:
            pass
        return slot

    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    def _wall(self, t_ms: int) -> datetime:
        """What a clock on the wall shows, as a naive time that croniter takes for UTC."""
        instant = datetime.fromtimestamp(t_ms / 1000, self._zone())
        return instant.replace(tzinfo=UTC, fold=0)

    def _margin(self, t_ms: int) -> timedelta:
        """How far a wall clock may be put forward or back around ``t_ms``."""
        near = (t_ms - _NEAR_MS, t_ms, t_ms + _NEAR_MS)
        offsets = {datetime.fromtimestamp(at / 1000, self._zone()).utcoffset() for at in near}
        return _HOUR if len(offsets) > 1 else timedelta(0)

    def _slot(self, wall: datetime) -> Slot:
        local = wall.replace(tzinfo=self._zone(), fold=0)
        instant = local.astimezone(UTC)
        if instant.astimezone(self._zone()).replace(tzinfo=UTC) != wall:
            # The hour that is skipped in spring: these slots are due as the clocks go forward.
            instant = _transition(instant, self._zone())
        return Slot(f"{wall:%Y-%m-%dT%H:%M}[{self.timezone}]", round(instant.timestamp() * 1000))


def _transition(after: datetime, zone: ZoneInfo) -> datetime:
    """The moment, at most a day before ``after`` (UTC), at which the zone's offset changed."""
    low, high = after - timedelta(days=1), after
    offset = high.astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) / 2
        if middle.astimezone(zone).utcoffset() == offset:
            high = middle
        else:
            low = middle
    return high.replace(microsecond=0)


def spread_ms(key: str, span_ms: int) -> int:
    """An offset in [0, span_ms) that is the same for a key in every process and at every start."""
    if span_ms <= 0:
        return 0
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") % span_ms


class CronTrigger:
    """Tells when a cron asks for a run: each slot once, missed ones together, however time jumps.

    Args:
        offset_ms: how long after its slot a run starts.
        last: the newest slot that has run, or None at the very first start (then none has been
            missed: the first fit of a series does not wait for cron).
    """

    def __init__(self, cron: Cron, offset_ms: int = 0, last: Slot | None = None) -> None:
        self.cron = cron
        self.offset_ms = offset_ms
        self.last = last
        self._next: Slot | None = None

    def poll(self, now_ms: int) -> Slot | None:
        """The slot to run now, or None; the newest where several were missed."""
        at_ms = now_ms - self.offset_ms
        if self.last is None or self.last.due_ms > at_ms + 24 * 60 * MINUTE_MS:
            # First start, or a clock that has since gone back by more than a day.
            self.last = self.cron.latest(at_ms)
            self._next = None
        if self._next is None:
            self._next = self.cron.next_after(self.last.due_ms)
        if self._next.due_ms > at_ms:
            return None
        self.last = self.cron.latest(at_ms)
        self._next = None
        return self.last


class Trigger(IntEnum):
    """Why a series is fitted; the smaller goes first."""

    FIRST = 0
    OPERATOR = 1
    CONFIG = 2
    DRIFT = 3
    CRON = 4
    GROWTH = 5


class Mode(IntEnum):
    """How: on from the serving state with the newest data, or anew from all of it."""

    FINETUNE = 0
    FULL = 1


class FitRequest(NamedTuple):
    """One series that wants a fit; a tuple, since ten thousand are made in one go."""

    watch: str
    series: str
    trigger: Trigger
    mode: Mode
    queued_ms: int
    drift: float = float("nan")


@dataclass(frozen=True, slots=True)
class FitBatch:
    """Series of one watch to be fitted in one go, for one reason in one way."""

    watch: str
    trigger: Trigger
    mode: Mode
    series: tuple[str, ...]
    requests: tuple[FitRequest, ...]


_Group: TypeAlias = tuple[str, Trigger, Mode]


@dataclass
class FitQueue:
    """Waiting fits: the most urgent class first, in it the watches in turn, one entry a series.

    Args:
        per_minute: how many series drift and cron may have fitted in a minute; a first fit and an
            operator's are not held back, but are counted.
    """

    per_minute: int = 2_000
    _groups: dict[_Group, dict[str, FitRequest]] = field(default_factory=dict)
    _group_of: dict[tuple[str, str], _Group] = field(default_factory=dict)
    _tokens: float = field(init=False)
    _refilled_ms: int | None = field(default=None, init=False)
    _served: dict[str, int] = field(default_factory=dict)
    _turn: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._tokens = float(self.per_minute)

    def __len__(self) -> int:
        return len(self._group_of)

    def push(
        self,
        watch: str,
        series: Sequence[str],
        trigger: Trigger,
        mode: Mode,
        now_ms: int,
        drift: Sequence[float] = (),
    ) -> None:
        """Queue fits; a series that waits already keeps its time and the more urgent reason."""
        for at, one in enumerate(series):
            times = drift[at] if len(drift) else float("nan")
            request = FitRequest(watch, one, trigger, mode, now_ms, times)
            if (watch, one) in self._group_of:
                request = _merged(self._removed(watch, one), request)
            group = (watch, request.trigger, request.mode)
            self._groups.setdefault(group, {})[one] = request
            self._group_of[watch, one] = group

    def pop(self, now_ms: int, most: int) -> FitBatch | None:
        """The next batch of at most ``most`` series, or None where nothing may run now."""
        self._refill(now_ms)
        ready = [g for g in self._groups if g[1] <= Trigger.CONFIG or self._tokens >= 1]
        if not ready:
            return None

        def urgency(group: _Group) -> tuple[int, int, int]:
            # The first of a group is about its oldest, which is all that ageing needs.
            oldest = next(iter(self._groups[group].values())).queued_ms
            aged = max(0, now_ms - oldest) // AGEING_MS
            return max(0, group[1] - aged), self._served.get(group[0], -1), oldest

        chosen = min(ready, key=urgency)
        if chosen[1] > Trigger.CONFIG:
            most = min(most, int(self._tokens))
        requests = tuple(islice(self._groups[chosen].values(), most))
        for request in requests:
            self._removed(request.watch, request.series)
        self._tokens = max(0.0, self._tokens - len(requests))
        self._turn += 1
        self._served[chosen[0]] = self._turn
        return FitBatch(*chosen, tuple(request.series for request in requests), requests)

    def drop(self, watch: str, series: Sequence[str] | None = None) -> None:
        """Forget what waits for a watch, or for some of its series (gone, pinned)."""
        if series is None:
            series = [request.series for request in self.waiting(watch)]
            self._served.pop(watch, None)
        for one in series:
            if (watch, one) in self._group_of:
                self._removed(watch, one)

    def waiting(self, watch: str) -> tuple[FitRequest, ...]:
        """What waits for a watch."""
        groups = [members for group, members in self._groups.items() if group[0] == watch]
        return tuple(request for members in groups for request in members.values())

    def _removed(self, watch: str, series: str) -> FitRequest:
        group = self._group_of.pop((watch, series))
        members = self._groups[group]
        request = members.pop(series)
        if not members:
            del self._groups[group]
        return request

    def _refill(self, now_ms: int) -> None:
        if self._refilled_ms is not None:
            passed = max(0, now_ms - self._refilled_ms)
            self._tokens = min(
                float(self.per_minute), self._tokens + self.per_minute * passed / MINUTE_MS
            )
        self._refilled_ms = now_ms


def _merged(old: FitRequest, new: FitRequest) -> FitRequest:
    """Two wishes for one series: the more urgent reason, the more thorough way, the older time."""
    reason = min(old, new, key=lambda request: request.trigger)
    return FitRequest(
        old.watch,
        old.series,
        reason.trigger,
        max(old.mode, new.mode),
        old.queued_ms,
        reason.drift,
    )
