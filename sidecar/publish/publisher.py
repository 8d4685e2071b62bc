"""Takes what a watch's cycle found out to the spool, to ``/metrics`` and to the query API."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sidecar import names
from sidecar.publish.exposition import GaugeRules, Page, prefixes, render
from sidecar.publish.outputs import (
    Column,
    InstantOutcome,
    OutputPlan,
    OutputRules,
    due_blocks,
    output_labels,
    plan_outputs,
    sources_within,
)
from sidecar.publish.paths import ForecastPaths, OutputPaths, Staged
from sidecar.remote.writer import WriteBlock
from sidecar.series import Forecast, LabelSet, index_by_labels

T = TypeVar("T")

EMPTY_PAGE: Final = Page({}, 0)
_PATH_SUFFIXES: Final = (
    names.EXPECTED,
    names.EXPECTED + names.LOWER,
    names.EXPECTED + names.UPPER,
)


class InThread(Protocol):
    """Runs a function off the event loop."""

    async def __call__(self, function: Callable[..., T], /, *arguments: object) -> T: ...


class Sink(Protocol):
    """One endpoint that samples are delivered to."""

    async def append(self, blocks: Sequence[WriteBlock]) -> object: ...

    async def end_series(self, labels: Sequence[LabelSet], timestamp_ms: int) -> object: ...


@dataclass(frozen=True, eq=False)
class Plans:
    """What is made anew only when the series of a watch, their versions or their owners change."""

    sources: tuple[LabelSet, ...]
    versions: tuple[int, ...]
    owns: "Owns"
    outputs: OutputPlan
    gauges: list[list[str]]
    owned: NDArray[np.int64]
    expected: tuple[tuple[LabelSet, ...], ...]


@dataclass(frozen=True, eq=False)
class Publication:
    """What one cycle found out that others are to see.

    Attributes:
        sources: N.
        versions: (N,) int64, the version that serves each; 0 = none.
        outcomes: oldest first; the last carries a forecast.
        ended: the sources whose outputs end now.
        newest: no instant follows that is due already; else no prediction is pushed.
    """

    sources: tuple[LabelSet, ...]
    versions: NDArray[np.int64]
    outcomes: tuple[InstantOutcome, ...]
    ended: tuple[LabelSet, ...]
    newest: bool = True


Owns = Callable[[Sequence[LabelSet]], tuple[NDArray[np.bool_], NDArray[np.bool_]]]


class WatchPublisher:
    """Publishes one watch.

    Args:
        watch_id: under which its paths are kept.
        owns: says for N series which the watch owns and which it predicts (``Ownership.of``).
        paths: what the query API reads.
        gauge_limit: above this many gauges none is rendered (``/metrics`` would leave them out).
    """

    def __init__(
        self,
        watch_id: str,
        outputs: OutputRules,
        gauges: GaugeRules,
        horizon_steps: int,
        owns: Owns,
        sinks: Sequence[Sink],
        paths: ForecastPaths,
        gauge_limit: int,
    ) -> None:
        self._watch_id = watch_id
        self._outputs = outputs
        self._gauge_rules = gauges
        self._horizon_steps = horizon_steps
        self._owns = owns
        self._sinks = sinks
        self._paths = paths
        self._gauge_limit = gauge_limit
        self._plans: Plans | None = None
        self._expired_ms: int | None = None
        self.page = EMPTY_PAGE

    async def publish(self, found: Publication, in_thread: InThread) -> None:
        """Hand everything on; afterwards the samples are accepted for delivery.

        One endpoint that fails does not keep the samples from the others.
        """
        prepared = await in_thread(self._prepare, found)
        before, self._plans, self.page = [self._plans], prepared.plans, prepared.page
        self._paths.commit(prepared.paths)
        instant_ms = found.outcomes[-1].instant_ms
        results = await asyncio.gather(
            *(self._deliver(sink, prepared, instant_ms) for sink in self._sinks),
            return_exceptions=True,
        )
        if before != [self._plans]:
            await in_thread(before.clear)  # letting go of ten thousand label sets takes a while
        failures = [one for one in results if isinstance(one, BaseException)]
        if failures:
            raise failures[0]

    def transformed(self, transform: str) -> None:
        """Learn how the model sees the series, which only the data told."""
        self._outputs = replace(self._outputs, transform=transform)
        self._gauge_rules = replace(self._gauge_rules, transform=transform)

    def sources_within(self, output_series: int) -> int:
        """How many sources need no more output series than that."""
        return sources_within(self._outputs, output_series)

    def owned_as(self, owns: Owns) -> None:
        """Learn who owns what now that other watches came or went, as the next cycle will say; what
        was published until now can still be ended."""
        self._owns = owns

    async def end(self, timestamp_ms: int) -> None:
        """End every output series with a stale marker, and show nothing any more."""
        plans, self._plans = self._plans, None
        self.withdraw()
        await self._end_all(plans, timestamp_ms)

    async def expire(self, instant_ms: int) -> None:
        """Take back what is too old to be believed: shown no more, and ended with stale markers.

        They stand just behind ``instant_ms``, the last instant that was published, so that what is
        made up for later comes after them. Once for an instant.
        """
        self.withdraw()
        if instant_ms != self._expired_ms:
            self._expired_ms = instant_ms
            await self._end_all(self._plans, instant_ms + 1)

    async def _end_all(self, plans: Plans | None, timestamp_ms: int) -> None:
        if plans is None:
            return
        labels = [one for row in range(len(plans.sources)) for one in plans.outputs.rows_of(row)]
        await asyncio.gather(*(sink.end_series(labels, timestamp_ms) for sink in self._sinks))

    def unpublished(self) -> frozenset[LabelSet]:
        """The sources of which an earlier watch publishes everything that this one would."""
        plans = self._plans
        if plans is None:
            return frozenset()
        silent = np.flatnonzero(~plans.outputs.owner & ~plans.outputs.predicts)
        return frozenset(plans.sources[row] for row in silent)

    def sources_of(self, outputs: Collection[LabelSet]) -> frozenset[LabelSet]:
        """The sources that some output series speak of."""
        plans = self._plans
        if plans is None or not outputs:
            return frozenset()
        n = len(plans.sources)
        places = (place for place, one in enumerate(plans.outputs.labels) if one in outputs)
        return frozenset(plans.sources[place % n] for place in places)

    def withdraw(self) -> None:
        """Take back what is shown as of now: it has grown too old to be believed."""
        self.page = EMPTY_PAGE
        self._paths.remove(self._watch_id)

    def outputs_of(self, sources: Sequence[LabelSet]) -> tuple[LabelSet, ...]:
        """The series that say what each of N sources should be, to ask how far they are written."""
        column = Column(names.EXPECTED, "expected")
        return tuple(output_labels(one, self._outputs, column, "") for one in sources)

    async def _deliver(self, sink: Sink, prepared: "Prepared", instant_ms: int) -> None:
        await sink.append(prepared.blocks)
        if prepared.ended:
            await sink.end_series(prepared.ended, instant_ms)

    def _prepare(self, found: Publication) -> "Prepared":
        """Everything that takes time, made in a thread."""
        plans = self._planned(found)
        forecast = found.outcomes[-1].forecast
        assert forecast is not None, "the newest outcome carries the forecast"
        last = found.outcomes[-1] if found.newest else replace(found.outcomes[-1], forecast=None)
        outcomes = (*found.outcomes[:-1], last)
        old = self._plans
        before = None if old is None or old is plans else old.outputs
        blocks = [
            block for outcome in outcomes for block in due_blocks(plans.outputs, outcome, before)
        ]
        rows = index_by_labels(plans.sources)
        ended = [label for one in found.ended for label in plans.outputs.rows_of(rows[one])]
        ended += _superseded(self._plans, plans)
        gauges = int(plans.outputs.predicts.sum()) * self._horizon_steps
        page = (
            render(self._gauge_rules, plans.gauges, _predicted(plans, forecast))
            if gauges <= self._gauge_limit
            else Page({}, gauges)
        )
        staged = self._paths.stage(self._watch_id, _paths(plans, forecast))
        return Prepared(plans, blocks, tuple(ended), page, staged)

    def _planned(self, found: Publication) -> Plans:
        versions, owns = tuple(found.versions.tolist()), self._owns
        old = self._plans
        if (
            old is not None
            and old.owns is owns  # not where a reload came, even while that plan was made
            and old.sources == found.sources
            and old.versions == versions
        ):
            return old
        spelled = [f"v{version}" for version in versions]
        owner, predicts = owns(found.sources)
        outputs = plan_outputs(self._outputs, found.sources, spelled, owner, predicts)
        gauges = prefixes(self._gauge_rules, found.sources, spelled, self._horizon_steps)
        rows = np.flatnonzero(owner)
        expected = tuple(
            tuple(
                output_labels(found.sources[row], self._outputs, Column(suffix, "expected"), "")
                for row in rows
            )
            for suffix in _PATH_SUFFIXES
        )
        return Plans(found.sources, versions, owns, outputs, gauges, rows, expected)


@dataclass(frozen=True, eq=False)
class Prepared:
    """What ``publish`` hands on."""

    plans: Plans
    blocks: list[WriteBlock]
    ended: tuple[LabelSet, ...]
    page: Page
    paths: Staged


def _predicted(plans: Plans, forecast: Forecast) -> Forecast:
    """Only of the series that this watch predicts: an earlier one shows the same for the others,
    and a page with one gauge twice is refused by whoever scrapes it."""
    may = plans.outputs.predicts[:, None]
    if may.all():
        return forecast
    return replace(
        forecast,
        mean=np.where(may, forecast.mean, np.nan),
        lower=np.where(may, forecast.lower, np.nan),
        upper=np.where(may, forecast.upper, np.nan),
    )


def _paths(plans: Plans, forecast: Forecast) -> list[OutputPaths]:
    """``expected`` and its band beyond now: the newest forecast's path."""
    return [
        OutputPaths(labels, forecast.instants_ms, values[plans.owned])
        for labels, values in zip(
            plans.expected, (forecast.mean, forecast.lower, forecast.upper), strict=True
        )
        if labels
    ]


def _superseded(before: Plans | None, after: Plans) -> list[LabelSet]:
    """Output series that the new plan no longer has: those that named another version.

    A source that is forgotten had ended before, with a marker of its own.
    """
    if before is None or before is after:
        return []
    stay, sources = set(after.outputs.labels), set(after.sources)
    n = len(before.sources)
    return [
        label
        for place, label in enumerate(before.outputs.labels)
        if before.sources[place % n] in sources
        and before.versions[place % n] > 0
        and label not in stay
    ]
