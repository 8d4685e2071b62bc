"""Reading back what was delivered: 204 is not "stored".

Now and then a few acknowledged samples are read again. One that is not there, or is another number,
means that something between us and the storage acknowledges and then loses or rewrites: relabelling
rules, a second writer, a proxy, a tenant's limits.
"""

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final, Protocol

from sidecar.names import METRIC_NAME
from sidecar.remote.writer import SentSample
from sidecar.series import LabelSet, Matcher, MatchOp, RawSeries, Selector

log = logging.getLogger(__name__)

_SETTLE_MS: Final = 30_000
_MOST_WAITING: Final = 256
_SAY_AT_MOST: Final = 5


class ReadsSamples(Protocol):
    """Either reader."""

    async def read(
        self, selector: Selector, start_ms: int, end_ms: int, *, own_output: bool = False
    ) -> list[RawSeries]: ...


class GivesSentSamples(Protocol):
    """A writer."""

    def take_sent(self) -> list[SentSample]: ...


@dataclass(frozen=True)
class AuditStats:
    """Samples since the start.

    Attributes:
        verified: read back with the same bits.
        missing: acknowledged, and not there.
        different: there with another value.
        newest_verified_ms: the newest timestamp that was verified.
    """

    verified: int = 0
    missing: int = 0
    different: int = 0
    newest_verified_ms: int | None = None


class Audit:
    """Picks acknowledged samples and reads them back half a minute later.

    Args:
        samples_each: how many are read back in one ``run``.
        settle_ms: how long a receiver may take to show what it has stored.
    """

    def __init__(
        self,
        writer: GivesSentSamples,
        reader: ReadsSamples,
        *,
        now_ms: Callable[[], int],
        samples_each: int = 3,
        settle_ms: int = _SETTLE_MS,
        random: Random | None = None,
    ) -> None:
        self._writer, self._reader, self._now_ms = writer, reader, now_ms
        self._samples_each, self._settle_ms = samples_each, settle_ms
        self._random = random or Random()  # noqa: S311 - which samples to look at is no secret
        self._waiting: deque[tuple[int, SentSample]] = deque(maxlen=_MOST_WAITING)
        self._said = 0
        self.stats = AuditStats()

    async def run(self) -> AuditStats:
        """Note what was sent lately, and read back what has had time to settle.

        Raises:
            Unavailable, Rejected, DataError: the reader's; what was due stays due.
        """
        now_ms = self._now_ms()
        # Requests taken apart, thousands of samples: nothing for the event loop.
        sent = await asyncio.to_thread(self._writer.take_sent)
        chosen = self._random.sample(sent, min(self._samples_each, len(sent)))
        self._waiting.extend((now_ms, sample) for sample in chosen)
        due = [s for at, s in self._waiting if now_ms - at >= self._settle_ms]
        for sample in due[: self._samples_each]:
            await self._verify(sample)
            self._waiting.popleft()
        return self.stats

    async def _verify(self, sample: SentSample) -> None:
        found = await self._reader.read(
            exactly(sample.labels), sample.timestamp_ms, sample.timestamp_ms, own_output=True
        )
        stored = _value_in(found, sample.labels)
        stats = self.stats
        if stored is None:
            self.stats = replace(stats, missing=stats.missing + 1)
            self._say("acknowledged and not stored", sample, "no sample")
        elif _bits(stored) != _bits(sample.value):
            self.stats = replace(stats, different=stats.different + 1)
            self._say("stored with another value", sample, repr(stored))
        else:
            newest = max(sample.timestamp_ms, stats.newest_verified_ms or sample.timestamp_ms)
            self.stats = replace(stats, verified=stats.verified + 1, newest_verified_ms=newest)

    def _say(self, what: str, sample: SentSample, found: str) -> None:
        self._said += 1
        if self._said <= _SAY_AT_MOST:
            log.warning(
                "%s: %s at %d ms: sent %r, found %s; look for another writer of this series, "
                "relabelling, or a limit of the receiver",
                what,
                sample.labels,
                sample.timestamp_ms,
                sample.value,
                found,
            )


def exactly(labels: LabelSet) -> Selector:
    """The series with these labels, and any with more."""
    name = Matcher(METRIC_NAME, MatchOp.EQUAL, labels.metric)
    others = [Matcher(n, MatchOp.EQUAL, v) for n, v in labels.pairs if n != METRIC_NAME]
    return Selector((name, *others))


def _value_in(found: Sequence[RawSeries], labels: LabelSet) -> float | None:
    for one in found:
        if one.labels == labels and len(one.values):
            return float(one.values[-1])
    return None


def _bits(value: float) -> bytes:
    return struct.pack("<d", value)
