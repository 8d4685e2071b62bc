"""How a watch begins: find its series, then go on from what was left, or from their past.

In order of what is tried:

1. the snapshot of the last run, where it is of today's recipe and not too long ago; a series that
   has been switched to another version since it was taken is served by that version;
2. the stored versions, rolled over the history that is read anyway;
3. what neither gives is fitted.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from sidecar.config import WatchConfig
from sidecar.cycle import CycleRules
from sidecar.errors import StoreError
from sidecar.known import Known, begin, within
from sidecar.learning.gate import GateSettings
from sidecar.learning.records import Serving
from sidecar.models.contract import ForecastModel, State
from sidecar.publish.publisher import WatchPublisher
from sidecar.series import LabelSet, RawSeries, SeriesBatch
from sidecar.watches.past import READ_ONE_BY_ONE, Past, SourceReader, present
from sidecar.watches.ports import Ports
from sidecar.watches.resume import Resumed, resume
from sidecar.watches.rules import kind_asked, make_rules
from sidecar.watches.snapshot import recipe, unpack

log = logging.getLogger(__name__)

# A stock receiver takes samples that are up to an hour behind its newest; five minutes are margin.
RECEIVER_WINDOW_MS: Final = 55 * 60_000
# How many of the newest instants stay at hand, so that a fit can catch up with those that came
# while it ran: five minutes at one second, an hour at one minute.
LEAST_AT_HAND: Final = 60
AT_HAND_MS: Final = 300_000


def within_reach(instant_ms: int, origin_ms: int, granularity_ms: int) -> bool:
    """Whether a watch that stands at ``origin_ms`` can be brought up to ``instant_ms``.

    Not where the receiver would take nothing of what was missed, nor where the clock went back.
    """
    most_ms = max(RECEIVER_WINDOW_MS, 2 * granularity_ms)
    return 0 <= instant_ms - origin_ms <= most_ms


@dataclass(frozen=True, eq=False)
class Begun:
    """A watch at its start.

    Attributes:
        recipe: what makes its states what they are.
        history: what was read for the series that are to be fitted; None where none was.
        lacking: keys of the series that have no version, in order.
        outdated: the same of those whose stored version was learned with other settings.
        serving: whether a version serves any of the others.
        wishes: the memo of the last run's ``FitWishes``; empty where there is none.
        last_fit_ms: by key, when the stored versions that serve were fitted.
    """

    known: Known
    rules: CycleRules
    recipe: Mapping[str, Any]
    wishes: Mapping[str, Any]
    last_fit_ms: Mapping[str, int]
    history: SeriesBatch | None = None
    lacking: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()
    serving: bool = True


class Beginning:
    """Begins one watch.

    Args:
        title: what the log calls it.
    """

    def __init__(
        self,
        config: WatchConfig,
        model: ForecastModel[State],
        gate: GateSettings,
        publisher: WatchPublisher,
        ports: Ports,
        title: str,
    ) -> None:
        self._config = config
        self._model = model
        self._gate = gate
        self._publisher = publisher
        self._ports = ports
        self._title = title

    @cached_property
    def reader(self) -> SourceReader:
        """Chosen when first needed: by then it is known what the server serves."""
        return self._ports.reader_for(self._config)

    @cached_property
    def past(self) -> Past:
        return Past(
            self.reader,
            self._ports.in_thread,
            self._config.training_window_ms,
            self._model.longest_fit,
            apart=0 if self._config.expr else READ_ONE_BY_ONE,
        )

    async def begun(self, instant_ms: int) -> Begun | None:
        """The watch, ready for its first cycle; None where no series is found.

        Raises:
            RemoteError: reading failed; the same call may be made again.
        """
        found = await self._found(instant_ms)
        if not found:
            return None
        rules = await self._ruled(found)
        made_by = recipe(rules, self._model)
        self._publisher.transformed(rules.transform)
        affordable = self._publisher.sources_within(self._config.published.max_series)
        rules = replace(rules, max_series=min(rules.max_series, affordable))
        known, wishes = await self._remembered(made_by, instant_ms)
        if known is not None:
            known = await self._ports.in_thread(within, known, rules.max_series)
            count = len(known.labels)
            log.info("watch %s goes on with %d series as it was left", self._title, count)
            stored = await self._as_stored(known, rules, made_by)
            return Begun(stored.known, rules, made_by, wishes, stored.last_fit_ms)
        labels = sorted(one.labels for one in found)[: rules.max_series]
        end_ms = await self._history_end_ms(labels, instant_ms)
        history = await self.past.of_selector(
            rules, self._config.selector, end_ms, len(labels), labels
        )
        if not history.labels:
            return None
        return await self._from_history(rules, made_by, wishes, history)

    async def _from_history(
        self,
        rules: CycleRules,
        made_by: Mapping[str, Any],
        wishes: Mapping[str, Any],
        history: SeriesBatch,
    ) -> Begun:
        in_thread = self._ports.in_thread
        width = max(LEAST_AT_HAND, self._config.n_lags, AT_HAND_MS // rules.granularity_ms)
        known = await in_thread(begin, self._model, history, width, self._config.horizon_steps)
        resumed = await self._resumed(known, history, made_by, None)
        lacking, outdated = await in_thread(_unserved, history.labels, resumed)
        if resumed.serving:
            log.info("watch %s: %d stored versions serve", self._title, len(resumed.serving))
        if resumed.outdated:
            log.info(
                "watch %s: its settings are others than %d series were learned with: they are "
                "fitted anew",
                self._title,
                len(resumed.outdated),
            )
        return Begun(
            known=resumed.known,
            rules=rules,
            recipe=made_by,
            wishes=wishes,
            last_fit_ms=resumed.last_fit_ms,
            history=history,
            lacking=lacking,
            outdated=outdated,
            serving=bool(resumed.serving),
        )

    async def _remembered(
        self, made_by: Mapping[str, Any], instant_ms: int
    ) -> tuple[Known | None, Mapping[str, Any]]:
        """What an earlier run left, if it is of this recipe and not too long ago; and its memo."""
        memory, in_thread = self._ports.memory, self._ports.in_thread
        try:
            kept = await in_thread(memory.get_runtime, self._config.id)
            if kept is None:
                return None, {}
            wishes = dict(kept[1].get("wishes", {}))
            known = await in_thread(unpack, *kept, self._model, made_by)
        except StoreError as error:
            log.warning("watch %s: what was left of it is not used: %s", self._title, error)
            return None, {}
        step_ms = self._config.granularity_ms
        if known is None or not within_reach(instant_ms, known.origin_ms, step_ms):
            return None, wishes
        return known, wishes

    async def _as_stored(
        self, known: Known, rules: CycleRules, made_by: Mapping[str, Any]
    ) -> Resumed:
        """With those versions in service that the store says serve.

        A version is recorded before it serves, so a crash between the two leaves a snapshot that is
        behind. Versions that could not be recorded are only in the snapshot and stay.
        """
        memory, in_thread = self._ports.memory, self._ports.in_thread
        try:
            serving = await in_thread(memory.serving, self._config.id)
        except StoreError as error:
            log.warning("watch %s: the snapshot is believed: %s", self._title, error)
            return Resumed(known, frozenset(), {}, frozenset())
        behind = await in_thread(_behind, known, serving)
        if not behind:
            return Resumed(known, frozenset(), {}, frozenset())
        past = await self.past.of_series(rules, behind, known.origin_ms, len(known.labels))
        resumed = await self._resumed(known, past, made_by, behind)
        log.info(
            "watch %s: %d series serve a version that was recorded after the snapshot",
            self._title,
            len(resumed.serving),
        )
        return resumed

    async def _resumed(
        self,
        known: Known,
        history: SeriesBatch,
        made_by: Mapping[str, Any],
        of: Sequence[LabelSet] | None,
    ) -> Resumed:
        """With the stored versions in service that still can serve; ``of`` some series or all."""
        memory, in_thread = self._ports.memory, self._ports.in_thread
        try:
            restored = await in_thread(memory.load, self._config.id, of)
        except StoreError as error:
            log.warning("watch %s: stored versions cannot be read: %s", self._title, error)
            return Resumed(known, frozenset(), {}, frozenset())
        for note in restored.notes:
            log.warning("watch %s: %s", self._title, note)
        return await in_thread(resume, self._model, known, history, restored, made_by)

    async def _found(self, instant_ms: int) -> list[RawSeries]:
        """What the selector matches at present."""
        now_ms = self._ports.now_ms()
        begin_ms = min(instant_ms, now_ms)
        lookback_ms = self._ports.lookback_delta_ms()
        return await present(self._config, self.reader, begin_ms, now_ms, lookback_ms)

    async def _ruled(self, found: Sequence[RawSeries]) -> CycleRules:
        """The rules, with what only the data can tell."""
        kind = await kind_asked(self._config, self._ports.kind_of)
        lookback_ms = self._ports.lookback_delta_ms()
        return await self._ports.in_thread(
            make_rules, self._config, found, kind, lookback_ms, self._gate
        )

    async def _history_end_ms(self, labels: Sequence[LabelSet], instant_ms: int) -> int:
        """Where the history ends: at what was written last, if the rest can still be caught up.

        Else one instant early, so that the first cycle is due at once and not an instant later.
        """
        outputs = await self._ports.in_thread(self._publisher.outputs_of, labels)
        written = await self._ports.written_until_ms(outputs)
        step_ms = self._config.granularity_ms
        if written is None or not within_reach(instant_ms, written, step_ms):
            return instant_ms - step_ms
        return written // step_ms * step_ms


def _unserved(
    labels: Sequence[LabelSet], resumed: Resumed
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Keys of the series that no version serves: those without one, and the outdated ones."""
    lacking = [one for one in labels if one not in resumed.serving]
    return (
        tuple(sorted(one.key for one in lacking if one not in resumed.outdated)),
        tuple(sorted(one.key for one in lacking if one in resumed.outdated)),
    )


def _behind(known: Known, serving: Mapping[str, Serving]) -> list[LabelSet]:
    """The series whose snapshot is of another version than the store says serves."""
    return [
        one
        for one, version in zip(known.labels, known.versions.tolist(), strict=True)
        if one.key in serving
        and serving[one.key].active != version
        and version < serving[one.key].next_version
    ]
