"""The life of one watch: find its series, learn their past, then a cycle at each instant.

    find       which series match now, how often they are scraped, counter or gauge
    backfill   the training window, read once in time slices
    first fit  in the workers; meanwhile nothing is published
    cycles     one at each instant; fits are asked for and put into service between two of them

Where the sidecar was stopped and started again, the history ends at what was written last and the
instants since then are replayed, so that ``expected`` has no hole and nothing is written twice.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from sidecar.config import WatchConfig
from sidecar.cycle import Advance, CycleRules, due_instant_ms, run_cycle
from sidecar.duration import format_duration
from sidecar.errors import DataError, SidecarError, StoreError
from sidecar.known import Fitted, Known, adopt
from sidecar.learning.gate import GateSettings
from sidecar.learning.predicting import aside
from sidecar.learning.records import Group
from sidecar.learning.schedule import Cron, FitBatch, Mode, Trigger, spread_ms
from sidecar.learning.worker import ModelSpec
from sidecar.models.contract import ForecastModel, State, from_arrays, take
from sidecar.models.registry import ModelContext, build
from sidecar.names import Reason
from sidecar.publish.publisher import WatchPublisher
from sidecar.remote.backoff import BackoffSettings, delay_s
from sidecar.series import SeriesBatch, TimeArray, index_by_labels
from sidecar.watches.beginning import Beginning, within_reach
from sidecar.watches.past import rows_of
from sidecar.watches.ports import CycleNote, Ports
from sidecar.watches.quality import Quality, quality_of
from sidecar.watches.resume import as_fitted
from sidecar.watches.rollbacks import record_rollbacks
from sidecar.watches.snapshot import pack
from sidecar.watches.wishes import FitWishes

log = logging.getLogger(__name__)

# Of a long pause so many instants, and values of all series, are caught up with in one go.
MOST_INSTANTS: Final = 240
MOST_VALUES: Final = 100_000
SUM_UP_EVERY_MS: Final = 60_000
# A snapshot is some 10 kB for each series: of 10,000 series each minute it would be 150 GB a day.
SAVE_EVERY_MS: Final = 60_000
SAVE_EVERY_MS_FOR_EACH: Final = 60
SAVE_AT_LEAST_EVERY_MS: Final = 600_000
# Where pods come and go all day, the versions of those that went would fill the disk.
TIDY_EVERY_MS: Final = 3_600_000
KEEP_GONE_MS: Final = 48 * 3_600_000
# A cycle that went as the one before it is logged at most so often.
SAY_EVERY_MS: Final = 60_000
AGAIN: Final = BackoffSettings(base_s=1.0, cap_s=30.0)


class Watch:
    """One configured watch, alive.

    Args:
        publisher: where its output goes.
        timezone: whose clock cron and daily patterns follow.

    Attributes:
        close: ends the process of a user's model, if there is one; blocks while it ends.
        recipe: what makes its states what they are; empty until it has begun.
        finds_nothing: it has looked, and no series is selected or none has a sample yet.
    """

    def __init__(
        self, config: WatchConfig, publisher: WatchPublisher, ports: Ports, timezone: str
    ) -> None:
        self.config = config
        self.publisher = publisher
        self.gate = GateSettings(config.promotion_tolerance, config.auto_promote)
        self.known: Known | None = None
        self.latest: Advance | None = None
        self.quality: Quality | None = None
        self.trouble = ""
        self._ports = ports
        context = ModelContext(config.granularity_ms, config.horizon_steps, config.n_lags, timezone)
        self.model: ForecastModel[State] = build(config.model_choice, config.model_params, context)
        self.spec = ModelSpec.of(config.model_choice, config.model_params, context)
        self.close = aside(self.model, self.spec)
        spread = spread_ms(config.id, config.granularity_ms // 4)
        self._offset_ms = config.query_offset_ms + spread
        self.wishes = FitWishes(
            config,
            Cron(config.cron, timezone),
            self.model.min_instants,
            partial(ports.trainer.ask, config.id),
            ports.now_ms,
        )
        self.recipe: Mapping[str, Any] = {}
        self._beginning = Beginning(config, self.model, self.gate, publisher, ports, self.title)
        self._rules: CycleRules | None = None
        self._first_history: SeriesBatch | None = None
        self._first: set[str] = set()
        self._first_done = asyncio.Event()
        self._fitted: list[Fitted] = []
        self._failures = 0
        self.behind = self.finds_nothing = False
        self._saved_ms = self._summed_up_ms = 0
        self._tidied_ms = ports.now_ms()  # not at once: some of them may just not be scraped yet
        self._said = (-1, -1)
        self._said_ms = 0

    # What the trainer asks and tells

    @property
    def watch_id(self) -> str:
        return self.config.id

    @property
    def horizon_steps(self) -> int:
        return self.config.horizon_steps

    @property
    def pinned(self) -> Collection[str]:
        return self.wishes.pinned

    @property
    def learned(self) -> Known:
        assert self.known is not None, "the trainer only knows watches that have begun"
        return self.known

    async def history(self, series: Sequence[str]) -> SeriesBatch:
        """The training window up to the origin of the series with these keys."""
        known, rules = self._learned
        wanted = set(series)
        labels = [one for one in known.labels if one.key in wanted]
        held = self._first_history
        if held is None or held.grid.end_ms != known.origin_ms or not wanted <= self._first:
            held = await self._beginning.past.of_series(
                rules, labels, known.origin_ms, len(known.labels)
            )
        return await self._ports.in_thread(rows_of, held, labels)

    def deliver(self, fitted: Fitted) -> None:
        """Called by the trainer; put into service before the next cycle."""
        self._fitted.append(fitted)
        self.wishes.granted(fitted)
        self._first.difference_update(one.key for one in fitted.labels)
        self._wake_when_first_done()

    def put_back(self, fitted: Fitted, trained_at_ms: TimeArray) -> None:
        """Called for the operator; put into service before the next cycle, after what waits."""
        self._fitted.append(fitted)
        self.wishes.served(fitted.labels, trained_at_ms, fitted.mae)

    def failed(self, batch: FitBatch, error: Exception) -> None:
        """Called by the trainer: nothing was fitted for these, and it is worth another try."""
        self.trouble = f"fits failed: {error}"
        self.wishes.put_off(batch)
        self._first.difference_update(batch.series)
        self._wake_when_first_done()

    def _wake_when_first_done(self) -> None:
        if not self._first:
            self._first_history = None
            self._first_done.set()

    async def ready_to_serve(self, group: Group, *, shadowed: bool) -> Fitted:
        """A version that was stored, with the instants since its fit absorbed; for ``put_back``.

        Args:
            shadowed: whether it may be replaced again by itself, should it do worse.

        Raises:
            DataError: it is older than the training window, or of another recipe.
            RemoteError: what came since then cannot be read.
        """
        known, rules = self._learned
        labels = group.labels[0]
        if group.model != self.model.name or group.settings != self.recipe:
            raise DataError(
                Reason.FIT_FAILED,
                f"{labels}: the version was learned with other settings ({group.model}) than the "
                f"watch has now ({self.model.name}): retrain it, or put the settings back",
            )
        state = from_arrays(self.model.state_type, group.arrays)
        step_ms, since_ms = rules.granularity_ms, int(state.last_ms[0])
        missed = (known.origin_ms - since_ms) // step_ms
        if missed * step_ms > self.config.training_window_ms:
            raise DataError(
                Reason.GAP, f"{labels}: the version is older than the training window: retrain it"
            )
        if missed > 0:
            past = await self._beginning.past.of_series(rules, [labels], known.origin_ms, 1)
            instants = since_ms + step_ms * np.arange(1, missed + 1, dtype=np.int64)
            values = np.full((1, missed), np.nan)
            if past.labels:
                values[:, -past.grid.size :] = past.values[:, -missed:]
            state = await self._ports.in_thread(self.model.update, state, instants, values)
        row = np.array([index_by_labels(known.labels)[labels]], dtype=np.int64)
        return as_fitted(
            (labels,),
            known.origin_ms,
            state,
            take(known.naive, row),
            group.versions,
            group.mae,
            shadowed=shadowed,
        )

    # Its life

    async def run(self, stopping: asyncio.Event) -> None:
        """Turn after turn until stopped; what goes wrong costs this watch this turn only."""
        while not stopping.is_set():
            wait_s = await self.turn()
            try:
                await asyncio.wait_for(stopping.wait(), wait_s)
            except TimeoutError:
                continue

    async def once(self) -> bool:
        """Bring the watch up to now, and keep it for the next run; whether it was read.

        The fits that the cycle asked for serve the next run.
        """
        await self.turn()
        while self.behind:
            await self.turn()
        if self.known is not None:
            await self._ports.trainer.idle()
            await self._put_into_service()
        await self.leave(for_good=False)
        return self.known is not None and not self.trouble

    async def leave(self, *, for_good: bool) -> None:
        """After the last turn: keep what is known, or end the outputs where nobody goes on."""
        if for_good:
            await self.publisher.end(self._ports.now_ms())
        elif self.known is not None:
            self._saved_ms = 0
            await self._save()

    async def turn(self) -> float:
        """Bring the watch up to now; seconds until the next turn."""
        begun = asyncio.get_running_loop().time()
        self.behind = False
        instants = forecasts = 0
        error = ""
        try:
            result = await self._advanced()
            if result is not None:
                instants = len(result.outcomes)
                forecasts = sum(reason is None for reason in result.reasons)
            self._failures, self.trouble = 0, ""
        except SidecarError as failure:
            error = await self._out_of_reach(failure)
        except Exception as failure:  # one watch must not stop another
            log.exception("watch %s: a cycle failed; the next one starts afresh", self.title)
            error = await self._out_of_reach(failure)
        seconds = asyncio.get_running_loop().time() - begun
        self._ports.note(CycleNote(self.watch_id, seconds, instants, forecasts, error))
        if self._failures:
            return min(delay_s(self._failures, AGAIN), self.config.granularity_ms / 1000)
        return self._until_next_s()

    def made_at_ms(self, instant_ms: int) -> int:
        """When the cycle of an instant began, unless it was caught up with later."""
        return instant_ms + self._offset_ms

    def fresh(self, now_ms: int) -> bool:
        """Whether forecasts are served that are not too old to be believed."""
        if self.latest is None or self._rules is None:
            return False
        age_ms = now_ms - self.learned.origin_ms
        return abs(age_ms) <= self._rules.patience_ms and not all(self.latest.reasons)

    @property
    def title(self) -> str:
        """What the log calls the watch."""
        return str(self.config.selector)

    @property
    def transform(self) -> str:
        """How the model sees the series: ``none``, ``rate`` or ``delta``; only the data tells."""
        return self.config.transform if self._rules is None else self._rules.transform

    @property
    def _learned(self) -> tuple[Known, CycleRules]:
        assert self._rules is not None, "the rules are made before the watch begins"
        return self.learned, self._rules

    async def _advanced(self) -> Advance | None:
        """One turn: begin if need be, put fits into service, run the cycle, ask for fits."""
        instant_ms = self._due_ms()
        if not self._goes_on(instant_ms):
            self.finds_nothing = not await self._begun(instant_ms)
            if self.finds_nothing:
                self._say((0, 0), "no series has a sample up to the newest closed instant yet")
                await self._expire()
                return None
            instant_ms = self._due_ms()  # the first fits may have taken a while
        await self._put_into_service()
        known, rules = self._learned
        if instant_ms <= known.origin_ms:
            return None
        until_ms = min(instant_ms, known.origin_ms + rules.granularity_ms * _at_once(known))
        known, result = await run_cycle(
            rules,
            self.model,
            known,
            until_ms,
            self._beginning.reader,
            self._ports.in_thread,
            self.publisher,
            newest=until_ms == instant_ms,
        )
        self.known, self.latest, self.behind = known, result, until_ms < instant_ms
        await record_rollbacks(
            self._ports, self.watch_id, self.title, result.rolled_back, lambda: self._fitted
        )
        outdone = await self._ports.in_thread(self.wishes.outdone, known)
        self.known = self.wishes.after_cycle(known, result, rules.drift, outdone)
        self._log(result)
        await self._save()
        return result

    def _goes_on(self, instant_ms: int) -> bool:
        """Whether it goes on from what is known: not after days, nor after a clock set back."""
        if self.known is None or self._rules is None:
            return False
        behind_ms = instant_ms - self.known.origin_ms
        if -self._rules.patience_ms <= behind_ms <= 0:
            return True
        if within_reach(instant_ms, self.known.origin_ms, self.config.granularity_ms):
            return True
        log.warning(
            "watch %s stands %s %s the newest closed instant and begins anew",
            self.title,
            format_duration(abs(behind_ms)),
            "behind" if behind_ms > 0 else "ahead of",
        )
        return False

    async def _begun(self, instant_ms: int) -> bool:
        """Begin, and wait for the first fits where nothing serves yet; False without any series.

        Raises:
            RemoteError: reading failed; the next turn begins again.
        """
        begun = await self._beginning.begun(instant_ms)
        if begun is None:
            return False
        await self._read_pins()
        self.wishes.recall(begun.wishes, begun.last_fit_ms)
        self._rules, self.recipe = begun.rules, begun.recipe
        self.known = begun.known
        if begun.history is None:  # as it was left, so that those that are silent are known, too;
            self._tidied_ms = 0  # runs of `once` would never come to it
        self._first = {*begun.lacking, *begun.outdated}
        self._first_history = begun.history if self._first else None
        self._ports.trainer.enrol(self)
        self._first_done.clear()
        for trigger, keys in (Trigger.FIRST, begun.lacking), (Trigger.CONFIG, begun.outdated):
            if keys:
                self._ports.trainer.ask(self.watch_id, keys, trigger, Mode.FULL)
        if self._first and not begun.serving:
            await self._first_done.wait()
        return True

    async def _read_pins(self) -> None:
        try:
            pins = await self._ports.in_thread(self._ports.memory.pinned, self.watch_id)
        except StoreError as error:
            log.warning("watch %s: which series are pinned is not known: %s", self.title, error)
            return
        self.wishes.pinned = {one.key for one in pins}

    async def _save(self) -> None:
        """Now and then: sum up how it goes, and keep what is known for a restart."""
        now_ms, (known, _) = self._ports.now_ms(), self._learned
        if now_ms - self._summed_up_ms >= SUM_UP_EVERY_MS:
            self._summed_up_ms = now_ms
            self.quality = await self._ports.in_thread(quality_of, known)
        if now_ms - self._saved_ms < _save_every_ms(known):
            return
        self._saved_ms = now_ms
        try:
            arrays, meta = await self._ports.in_thread(pack, known, self.recipe, self.wishes.memo())
            await self._ports.in_thread(self._ports.memory.put_runtime, self.watch_id, arrays, meta)
            await self._tidy(now_ms)
        except StoreError as error:
            log.warning("watch %s: not kept for a restart: %s", self.title, error)

    async def _tidy(self, now_ms: int) -> None:
        """Now and then: drop the versions of series that went days ago."""
        if now_ms - self._tidied_ms < TIDY_EVERY_MS:
            return
        self._tidied_ms = now_ms
        alive = {one.key for one in self.learned.labels}
        forget = self._ports.memory.forget_gone
        gone = await self._ports.in_thread(forget, self.watch_id, alive, now_ms - KEEP_GONE_MS)
        if gone:
            log.info("watch %s: versions of %d series that are gone dropped", self.title, gone)

    # Between two cycles

    async def _put_into_service(self) -> None:
        waiting, self._fitted = self._fitted, []
        if waiting:
            self._saved_ms = 0  # another version serves: a restart must not bring back the old one
        for fitted in waiting:
            known, _ = self._learned
            try:
                self.known = await self._ports.in_thread(adopt, self.model, known, fitted)
            except ValueError as error:
                log.warning("watch %s: a fit came too late: %s", self.title, error)

    # Telling

    async def _out_of_reach(self, error: Exception) -> str:
        """Note a failed turn; forecasts that have grown too old are withdrawn, not repeated."""
        self._failures += 1
        self.trouble = str(error) or type(error).__name__
        if self._failures == 1 or self._failures % 10 == 0:
            log.warning("watch %s: %s; trying again", self.title, self.trouble)
        await self._expire()
        return self.trouble

    async def _expire(self) -> None:
        """Withdraw what is too old, or ahead of a clock that was set back, if anything is."""
        if self.known is not None and self._rules is not None:
            age_ms = self._ports.now_ms() - self.known.origin_ms
            if abs(age_ms) > self._rules.patience_ms:
                await self.publisher.expire(self.known.origin_ms)

    def _until_next_s(self) -> float:
        if self.behind:
            return 0.0
        next_ms = self._due_ms() + self.config.granularity_ms + self._offset_ms
        return max(0.0, (next_ms - self._ports.source_now_ms()) / 1000) + 0.001

    def _due_ms(self) -> int:
        """The newest closed instant."""
        now_ms = self._ports.source_now_ms()
        return due_instant_ms(now_ms, self.config.granularity_ms, self._offset_ms)

    def _log(self, result: Advance) -> None:
        said = (sum(reason is None for reason in result.reasons), len(result.labels))
        ahead, late = format_duration(self.config.horizon_ms), len(result.outcomes)
        caught_up = f", {late} instants caught up" if late > 1 else ""
        self._say(said, f"{said[0]} of {said[1]} series forecast {ahead} ahead{caught_up}")

    def _say(self, said: tuple[int, int], words: str) -> None:
        """A line for what has changed; for what is as it was, one a minute."""
        now_ms = self._ports.now_ms()
        # Half an instant less: cycles of a minute come now and then a little early.
        pause_ms = SAY_EVERY_MS - self.config.granularity_ms // 2
        quiet = said == self._said and now_ms - self._said_ms < pause_ms
        if not quiet:
            self._said, self._said_ms = said, now_ms
        log.log(logging.DEBUG if quiet else logging.INFO, "watch %s: %s", self.title, words)


def _at_once(known: Known) -> int:
    """How many missed instants are caught up with in one go: about a second's work, so that a
    request to stop is heard, and what was read for them fits into memory."""
    return min(MOST_INSTANTS, max(1, MOST_VALUES // len(known.labels)))


def _save_every_ms(known: Known) -> int:
    wished_ms = max(SAVE_EVERY_MS, SAVE_EVERY_MS_FOR_EACH * len(known.labels))
    return min(SAVE_AT_LEAST_EVERY_MS, wished_ms)
