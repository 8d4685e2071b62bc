"""What both readers share: slices of time, budgets, and what is taken out of an answer."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from sidecar.errors import DataError
from sidecar.names import METRIC_NAME, OWN_OUTPUT_REGEX, Reason, is_own_output
from sidecar.remote.backoff import BackoffSettings, retried
from sidecar.remote.slices import Densities, SlicePlan
from sidecar.series import LabelSet, Matcher, MatchOp, RawSeries, Selector
from sidecar.wire.requests import ReadQuery

# What turns out too large is cut short as it arrives, and has cost the server little.
_STREAMED_GROWTH: Final = 24
_ALL_HELD: Final = 4  # where all is held in memory anyway, a slice may be so much longer
_MANY_SERIES: Final = 200  # a ms of work
_OVERSHOOT: Final = 4  # a slice may hold so many times its budget before it is cut short
_NOT_OURS: Final = Matcher(METRIC_NAME, MatchOp.NOT_REGEX, OWN_OUTPUT_REGEX)


@dataclass(frozen=True)
class ReadLimits:
    """What one ``read`` may take, and how it is cut.

    Attributes:
        max_bytes: of all replies of one read; of SAMPLES, after decompression.
        max_samples, max_series: beyond them the connection is closed and the read fails.
        slice_samples: about so many in one slice.
        deadline_s: for one reply.
    """

    max_bytes: int = 1024 * 1024 * 1024
    max_samples: int = 50_000_000
    max_series: int = 100_000
    slice_samples: int = 2_000_000
    deadline_s: float = 300.0


class TooMuch(Exception):
    """A slice holds more than its share; a shorter one may do."""


@dataclass
class Found:
    """One whole reply."""

    series: list[RawSeries]
    samples: int
    bytes: int


class Budget:
    """What is left of a read's limits.

    Attributes:
        aimed: how many samples the slice at hand should hold; twice as many are let pass.
    """

    def __init__(self, selector: Selector, limits: ReadLimits) -> None:
        self._selector, self._limits = selector, limits
        self.aimed = limits.slice_samples
        self._bytes = self._samples = 0
        self._series: set[LabelSet] = set()

    def charge(self, found: Found) -> int:
        """Count a whole reply; gives its samples."""
        self._bytes += found.bytes
        self._samples += found.samples
        self._series.update(one.labels for one in found.series)
        self.check(0, 0, len(self._series))
        return found.samples

    def check(self, more_bytes: int, more_samples: int, series: int) -> None:
        """Look at a reply that is still coming.

        Raises:
            DataError: a limit is passed.
            TooMuch: the slice's share is passed.
        """
        limits = self._limits
        self._refuse(self._bytes + more_bytes, limits.max_bytes, "bytes")
        self._refuse(self._samples + more_samples, limits.max_samples, "samples")
        self._refuse(series, limits.max_series, "series")
        if more_samples > max(_OVERSHOOT * limits.slice_samples, 2 * self.aimed):
            raise TooMuch(f"{more_samples} samples in one slice")

    @property
    def sample_bytes(self) -> int:
        """The longest SAMPLES reply (decompressed) of one slice: some 18 bytes a sample."""
        return min(self._limits.max_bytes, 32 * _OVERSHOOT * self._limits.slice_samples)

    def _refuse(self, found: int, limit: int, what: str) -> None:
        if found > limit:
            raise DataError(
                Reason.OVER_BUDGET,
                f"{self._selector}: more than {limit} {what} in one read; connection closed. "
                "Narrow the selector or shorten the range, or allow more",
            )


class SlicedReader(ABC):
    """``read`` and ``read_slices`` over one request for one slice, which a subclass makes."""

    def __init__(
        self, limits: ReadLimits, retry: BackoffSettings, external_labels: Mapping[str, str]
    ) -> None:
        self.external_labels: Mapping[str, str] = dict(external_labels)
        self._limits, self._retry = limits, retry
        self._densities = Densities()

    @abstractmethod
    async def _read(self, query: ReadQuery, budget: Budget) -> Found:
        """One whole reply.

        Raises:
            Unavailable, Rejected, DataError: as ``read``.
            TooMuch: a shorter slice may do.
        """

    async def read(
        self, selector: Selector, start_ms: int, end_ms: int, *, own_output: bool = False
    ) -> list[RawSeries]:
        """The samples with ``start_ms`` <= timestamp <= ``end_ms`` of all matched series.

        Args:
            own_output: whether series that a sidecar wrote are read too.

        Returns:
            Sorted by labels, each series once, at least one sample each; timestamps strictly
            increasing. Staleness markers and ordinary NaNs pass as they are.

        Raises:
            Unavailable: no whole reply after a few attempts.
            Rejected: the server will never answer this.
            DataError: more bytes, samples or series than the limits allow.
        """
        slices = [
            found async for found in self._slices(selector, start_ms, end_ms, own_output, _ALL_HELD)
        ]
        if len(slices) == 1:
            return slices[0]
        return await asyncio.to_thread(joined, slices)

    async def read_slices(
        self, selector: Selector, start_ms: int, end_ms: int, *, own_output: bool = False
    ) -> AsyncIterator[list[RawSeries]]:
        """The same in slices of time, oldest first; a series has a part in each it has samples in.

        The limits hold for all slices together.
        """
        async for found in self._slices(selector, start_ms, end_ms, own_output, 1):
            yield found

    async def _slices(
        self, selector: Selector, start_ms: int, end_ms: int, own_output: bool, factor: int
    ) -> AsyncIterator[list[RawSeries]]:
        """As ``read_slices``, each up to ``factor`` times as long where that costs nobody much."""
        asked = selector if own_output else without_own_output(selector)
        budget = Budget(selector, self._limits)
        density = self._densities.get(str(asked))
        most = self._limits.slice_samples
        plan = SlicePlan(start_ms, end_ms, slice_samples=most, density=density)
        for span in plan:
            found, (first_ms, last_ms) = await self._read_slice(asked, plan, span, budget)
            if len(found.series) < _MANY_SERIES:
                samples, series = self._settled(found, budget, own_output)
            else:
                samples, series = await asyncio.to_thread(self._settled, found, budget, own_output)
            density = samples / (last_ms - first_ms + 1)
            self._densities.note(str(asked), density)
            if self._streams(asked):
                budget.aimed = most * factor
                plan.learn(density, budget.aimed, _STREAMED_GROWTH)
            else:
                budget.aimed = most
                plan.learn(density, budget.aimed)
            yield series

    def _streams(self, selector: Selector) -> bool:
        """Whether the server answers piece by piece, at no cost that grows with the answer."""
        del selector
        return False

    async def _read_slice(
        self, selector: Selector, plan: SlicePlan, span: tuple[int, int], budget: Budget
    ) -> tuple[Found, tuple[int, int]]:
        """A whole reply for the slice, or for a shorter one where it holds too much."""
        while True:
            query = ReadQuery(selector, *span)
            try:
                found = await retried(partial(self._read, query, budget), self._retry)
            except TooMuch as error:
                shorter = plan.shrink()
                if shorter is None:
                    raise DataError(Reason.OVER_BUDGET, f"{selector}: {error}") from None
                span = shorter
            else:
                return found, span

    def _settled(
        self, found: Found, budget: Budget, own_output: bool
    ) -> tuple[int, list[RawSeries]]:
        """A reply charged to the budget and cleaned; its samples. Some 15 us a series."""
        return budget.charge(found), self._cleaned(found.series, own_output)

    def _cleaned(self, series: Sequence[RawSeries], own_output: bool) -> list[RawSeries]:
        """External labels off, own output out, sorted; series that thereby become one are one."""
        external = self.external_labels
        kept: dict[LabelSet, list[RawSeries]] = {}
        for one in series:
            if own_output or not is_own_output(one.labels.metric):
                labels = _without_external(one.labels, external) if external else one.labels
                kept.setdefault(labels, []).append(one)
        return [_merged(labels, kept[labels]) for labels in sorted(kept)]


def without_own_output(selector: Selector) -> Selector:
    """With a matcher that leaves out what a sidecar wrote, unless the name is one plain equality.

    >>> print(without_own_output(Selector.of("up")))
    up
    """
    named = any(m.name == METRIC_NAME and m.op is MatchOp.EQUAL for m in selector.matchers)
    return selector if named else selector.with_matchers(_NOT_OURS)


def joined(slices: Sequence[Sequence[RawSeries]]) -> list[RawSeries]:
    """Each series once, from slices of time that follow each other."""
    parts: dict[LabelSet, list[RawSeries]] = {}
    for one in (one for part in slices for one in part):
        parts.setdefault(one.labels, []).append(one)
    total = sum(len(one.timestamps_ms) for part in slices for one in part)
    # One allocation: from 4 MiB on NumPy asks for huge pages, and most page faults go away.
    room = np.empty(2 * total, dtype=np.int64)
    times, values = room[:total], room[total:].view(np.float64)
    found, at = [], 0
    for labels in sorted(parts):
        some = parts[labels]
        end = at + sum(len(one.timestamps_ms) for one in some)
        np.concatenate([one.timestamps_ms for one in some], out=times[at:end])
        np.concatenate([one.values for one in some], out=values[at:end])
        found.append(RawSeries(labels, times[at:end], values[at:end]))
        at = end
    return found


def _without_external(labels: LabelSet, external: Mapping[str, str]) -> LabelSet:
    """An external label without a value (as of a replica) goes whatever its value is."""
    kept = tuple(
        pair
        for pair in labels.pairs
        if pair[0] not in external or external[pair[0]] not in ("", pair[1])
    )
    return labels if len(kept) == len(labels.pairs) else LabelSet(kept)


def _merged(labels: LabelSet, series: Sequence[RawSeries]) -> RawSeries:
    """One series from several over the same time (replicas); of equal timestamps the last wins."""
    if len(series) == 1:
        [one] = series
        return one if one.labels is labels else RawSeries(labels, one.timestamps_ms, one.values)
    whole = _concatenated(labels, series)
    order = np.argsort(whole.timestamps_ms, kind="stable")
    times = whole.timestamps_ms[order]
    last = np.append(times[1:] != times[:-1], True)
    return RawSeries(labels, times[last], whole.values[order[last]])


def _concatenated(labels: LabelSet, parts: Sequence[RawSeries]) -> RawSeries:
    if len(parts) == 1:
        return parts[0]
    return RawSeries(
        labels,
        np.concatenate([part.timestamps_ms for part in parts]),
        np.concatenate([part.values for part in parts]),
    )
