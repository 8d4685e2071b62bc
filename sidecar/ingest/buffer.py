"""What a Prometheus pushed lately, kept for the watches that want it.

    received = kept + dropped (by reason), at every instant; of what was kept, some is evicted again

Per series the newest ``span_ms`` are kept. Where all series together pass ``max_samples``, the
oldest samples of all of them go, down to three quarters of the limit: the buffer then covers a
shorter time, says so by ``covers_since_ms``, and readers ask the server for the rest.
"""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

import numpy as np

from sidecar.names import PushDrop, is_own_output
from sidecar.series import FloatArray, LabelSet, RawSeries, Selector, TimeArray, is_stale

MAX_SAMPLES: Final = 4_000_000  # 64 MB
MAX_LABEL_SETS: Final = 200_000
# The shards of a sender are not in step: so long after its first samples all of them have come.
SETTLE_MS: Final = 15_000
SWEEP_EVERY_MS: Final = 30_000
# A receiver that looks at the clock refuses what is further ahead; so does Prometheus.
MAX_AHEAD_MS: Final = 600_000
# Samples further apart than so many usual distances have another between them that did not come.
GAP_FACTOR: Final = 1.5
_EVICT_TO: Final = 0.75


@dataclass(frozen=True)
class BufferStats:
    """Samples counted since the start, and what is held now."""

    received: int
    kept: int
    dropped: Mapping[PushDrop, int]
    evicted: int
    buffered: int
    series: int


@dataclass(slots=True)
class _Held:
    """One series: timestamps strictly increasing, in arrays that grow at the end."""

    span_ms: int
    times: "array[int]" = field(default_factory=lambda: array("q"))
    values: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, times: TimeArray, values: FloatArray) -> int:
        """Merge; how many timestamps are new. Of equal ones the later arrival stays."""
        before = len(self.times)
        if before and times[0] <= self.times[-1]:
            times = np.concatenate([np.array(self.times, dtype=np.int64), times])
            values = np.concatenate([np.array(self.values, dtype=np.float64), values])
            order = np.argsort(times, kind="stable")
            times = times[order]
            last = np.append(times[1:] != times[:-1], True)
            times, values = times[last], values[order[last]]
            self.times, self.values = array("q"), array("d")
        # As bytes: a float on its way through Python need not keep the bits of a NaN.
        self.times.frombytes(times.tobytes())
        self.values.frombytes(values.tobytes())
        return len(self.times) - before

    def forget_before(self, floor_ms: int) -> int:
        """Drop older samples; how many they were."""
        if not self.times or self.times[0] >= floor_ms:
            return 0
        gone = int(np.searchsorted(np.array(self.times, dtype=np.int64), floor_ms))
        del self.times[:gone]
        del self.values[:gone]
        return gone

    def between(self, start_ms: int, end_ms: int) -> "_Stretch":
        """Copies of the samples with ``start_ms`` <= timestamp <= ``end_ms``."""
        times = np.array(self.times, dtype=np.int64)
        values = np.array(self.values, dtype=np.float64)
        low, high = np.searchsorted(times, start_ms), np.searchsorted(times, end_ms, "right")
        return _Stretch(times[:high], values[:high], int(low))


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Samples of one series: the range begins at index ``low``, before it stand older ones."""

    times: TimeArray
    values: FloatArray
    low: int

    def usual_step(self) -> float:
        """The usual distance of two samples; NaN where there are not two."""
        return float(np.median(np.diff(self.times))) if self.times.size > 1 else np.nan

    def whole(self, end_ms: int, usual_ms: float) -> bool:
        """Whether neither a gap lies in the range nor the end is missing, as far as can be told.

        A stale marker explains a gap.
        """
        first = max(0, self.low - 1)
        after = np.diff(self.times[first:], append=end_ms)
        return not (~is_stale(self.values[first:]) & (after > GAP_FACTOR * usual_ms)).any()


@dataclass(slots=True)
class _Followed:
    """One selector, and the series of it that came.

    Attributes:
        asked: what of the selector those series are judged by, which come without external labels.
    """

    asked: Selector
    span_ms: int
    since_ms: int | None = None
    series: dict[LabelSet, _Held] = field(default_factory=dict)


class PushBuffer:
    """Samples that a watch wants, for a while. May be used by several threads at once.

    Args:
        max_samples: of all series together.
        settle_ms: how long after the first samples of a selector its series are taken as complete.
    """

    def __init__(self, *, max_samples: int = MAX_SAMPLES, settle_ms: int = SETTLE_MS) -> None:
        self._max_samples = max_samples
        self._settle_ms = settle_ms
        self._lock = Lock()
        self._now_ms = self._swept_ms = 0
        self._followed: dict[Selector, _Followed] = {}
        self._held: dict[LabelSet, _Held] = {}
        # What became of a label set as it came: under which labels it is held, or why it is not.
        self._verdicts: dict[LabelSet, LabelSet | PushDrop] = {}
        self._external: dict[str, str] = {}
        self._buffered = self._received = self._kept = self._evicted = 0
        self._dropped: Counter[PushDrop] = Counter()
        self._stats = self._counted()

    def follow(self, spans_ms: Mapping[Selector, int]) -> None:
        """Keep samples for these selectors from now on, each for so long, and for no others.

        What is held for those that were followed before stays.
        """
        with self._lock:
            self._followed = {
                selector: self._followed_for(selector, span_ms)
                for selector, span_ms in spans_ms.items()
            }
            self._verdicts.clear()
            wanted: dict[LabelSet, _Held] = {}
            for one in self._followed.values():
                for labels, held in one.series.items():
                    first = labels not in wanted
                    held.span_ms = one.span_ms if first else max(held.span_ms, one.span_ms)
                    wanted[labels] = held
            self._evicted += sum(
                len(held.times) for labels, held in self._held.items() if labels not in wanted
            )
            self._held = wanted
            self._buffered = sum(len(held.times) for held in wanted.values())
            self._stats = self._counted()

    def _followed_for(self, selector: Selector, span_ms: int) -> _Followed:
        """What is held that the selector matches; it covers no more than it did before."""
        known = self._followed.get(selector)
        asked = selector.as_read(self._external)
        series = {labels: held for labels, held in self._held.items() if asked.accepts(labels)}
        if known is None or known.since_ms is None:
            return _Followed(asked, span_ms, None, series)
        return _Followed(asked, span_ms, max(known.since_ms, self._now_ms - known.span_ms), series)

    def strip(self, external_labels: Mapping[str, str]) -> None:
        """Labels to take off from what comes; one without a value whatever its value is."""
        with self._lock:
            if dict(external_labels) != self._external:
                self._external = dict(external_labels)
                self._verdicts.clear()
                for selector, one in self._followed.items():
                    one.asked = selector.as_read(self._external)

    def add(self, series: Sequence[RawSeries], now_ms: int, *, duplicates: int = 0) -> None:
        """Take in what one request held.

        Args:
            series: as decoded, external labels included.
            duplicates: samples that the decoder left out for others with the same timestamp.
        """
        with self._lock:
            self._now_ms = max(self._now_ms, now_ms)
            if now_ms - self._swept_ms > SWEEP_EVERY_MS:
                self._expire(now_ms)
            self._received += duplicates
            self._dropped[PushDrop.DUPLICATE] += duplicates
            newest: dict[LabelSet, int] = {}
            for raw in series:
                self._received += raw.timestamps_ms.size
                labels = self._verdict(raw.labels)
                if isinstance(labels, PushDrop):
                    self._dropped[labels] += raw.timestamps_ms.size
                elif (last_ms := self._take(labels, raw, now_ms)) is not None:
                    newest[labels] = max(last_ms, newest.get(labels, last_ms))
            self._begin(newest)
            if self._buffered > self._max_samples:
                self._evict(now_ms)
            self._stats = self._counted()

    def read(self, selector: Selector, start_ms: int, end_ms: int) -> list[RawSeries] | None:
        """The samples with ``start_ms`` <= timestamp <= ``end_ms``, sorted by labels.

        Returns:
            None where some may be missing: the range begins before ``covers_since_ms``, or a
            series has a gap in it, or ends before it without a stale marker.
        """
        since_ms = self.covers_since_ms(selector)
        if since_ms is None or start_ms < since_ms:
            return None
        with self._lock:
            one = self._followed.get(selector)
            if one is None:  # followed no longer, since a moment ago
                return None
            rows = [(labels, held.between(start_ms, end_ms)) for labels, held in one.series.items()]
        return _complete(rows, end_ms)

    def covers_since_ms(self, selector: Selector) -> int | None:
        """From when on nothing that was pushed is missing; None while nothing has come."""
        with self._lock:
            one = self._followed.get(selector)
            if one is None or one.since_ms is None:
                return None
            return max(one.since_ms, self._now_ms - one.span_ms)

    def stats(self) -> BufferStats:
        """As they were after the last change; waits for nobody, so the event loop may ask."""
        return self._stats

    def _counted(self) -> BufferStats:
        dropped = {reason: self._dropped[reason] for reason in PushDrop}
        return BufferStats(
            self._received, self._kept, dropped, self._evicted, self._buffered, len(self._held)
        )

    def _verdict(self, labels: LabelSet) -> LabelSet | PushDrop:
        verdict = self._verdicts.get(labels)
        if verdict is None:
            if len(self._verdicts) >= MAX_LABEL_SETS:
                self._verdicts.clear()
            verdict = self._verdicts[labels] = self._judged(labels)
        return verdict

    def _judged(self, labels: LabelSet) -> LabelSet | PushDrop:
        if is_own_output(labels.metric):
            return PushDrop.OWN_OUTPUT
        own = without(labels, self._external)
        if any(one.asked.accepts(own) for one in self._followed.values()):
            return own
        return PushDrop.UNMATCHED

    def _take(self, labels: LabelSet, raw: RawSeries, now_ms: int) -> int | None:
        """Keep what is neither too old nor too new; the newest timestamp that was kept."""
        held = self._held.get(labels) or self._new(labels)
        times = raw.timestamps_ms
        old, new = times < now_ms - held.span_ms, times > now_ms + MAX_AHEAD_MS
        self._dropped[PushDrop.TOO_OLD] += int(old.sum())
        self._dropped[PushDrop.FUTURE] += int(new.sum())
        good = ~(old | new)
        if not good.any():
            return None
        added = held.add(times[good], raw.values[good])
        self._dropped[PushDrop.DUPLICATE] += int(good.sum()) - added
        self._kept += added
        gone = held.forget_before(now_ms - held.span_ms)
        self._evicted += gone
        self._buffered += added - gone
        return int(times[good][-1])

    def _new(self, labels: LabelSet) -> _Held:
        wanting = [one for one in self._followed.values() if one.asked.accepts(labels)]
        held = self._held[labels] = _Held(max(one.span_ms for one in wanting))
        for one in wanting:
            one.series[labels] = held
        return held

    def _begin(self, newest: Mapping[LabelSet, int]) -> None:
        """Selectors whose first samples these are cover the time from soon after them."""
        for one in self._followed.values():
            if one.since_ms is None:
                times = [newest[labels] for labels in one.series if labels in newest]
                if times:
                    one.since_ms = max(times) + self._settle_ms

    def _expire(self, now_ms: int) -> None:
        """Forget what is older than its span, of series that no longer come too."""
        self._swept_ms = now_ms
        for labels, held in list(self._held.items()):
            gone = held.forget_before(now_ms - held.span_ms)
            self._evicted += gone
            self._buffered -= gone
            if not held.times:
                del self._held[labels]
                for one in self._followed.values():
                    one.series.pop(labels, None)

    def _evict(self, now_ms: int) -> None:
        """Make room: first by what has outlived its span, then by the oldest of all."""
        self._expire(now_ms)
        too_many = self._buffered - int(_EVICT_TO * self._max_samples)
        if self._buffered <= self._max_samples:
            return
        times = np.concatenate(
            [np.array(held.times, dtype=np.int64) for held in self._held.values()]
        )
        floor_ms = int(np.partition(times, too_many)[too_many]) + 1
        for held in self._held.values():
            gone = held.forget_before(floor_ms)
            self._evicted += gone
            self._buffered -= gone
        for one in self._followed.values():
            if one.since_ms is not None:
                one.since_ms = max(one.since_ms, floor_ms)
        self._expire(now_ms)


def without(labels: LabelSet, external: Mapping[str, str]) -> LabelSet:
    """Without those external labels that have the value given, or any where none is given."""
    if not external:
        return labels
    return LabelSet(
        tuple(
            pair
            for pair in labels.pairs
            if pair[0] not in external or external[pair[0]] not in ("", pair[1])
        )
    )


def _complete(rows: Sequence[tuple[LabelSet, _Stretch]], end_ms: int) -> list[RawSeries] | None:
    """What lies in the range, sorted by labels; None where a series has a gap, or nothing is."""
    rows = [(labels, stretch) for labels, stretch in rows if stretch.times.size]
    steps = [stretch.usual_step() for _, stretch in rows]
    if np.isnan(steps).all():
        return None
    common = float(np.nanmedian(steps))
    found = []
    for (labels, stretch), step in zip(rows, steps, strict=True):
        if not stretch.whole(end_ms, common if np.isnan(step) else step):
            return None
        if stretch.low < stretch.times.size:
            low = stretch.low
            found.append(RawSeries(labels, stretch.times[low:], stretch.values[low:]))
    return sorted(found, key=lambda raw: raw.labels) or None
