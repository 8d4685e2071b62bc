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
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Final

import numpy as np

from sidecar.config import WatchConfig
from sidecar.cycle import (
    Advance,
    CycleRules,
    due_instant_ms,
    run_cycle,
)
from sidecar.duration import format_duration
from sidecar.errors import DataError, SidecarError, StoreError
from sidecar.known import Fitted, Known, adopt, begin
from sidecar.learning.gate import GateSettings
from sidecar.learning.records import Group
from sidecar.learning.schedule import Cron, Mode, Trigger, spread_ms
from sidecar.learning.worker import ModelSpec
from sidecar.models.contract import ForecastModel, State, from_arrays, take
from sidecar.models.registry import ModelContext, build
from sidecar.names import Reason
from sidecar.past import Past, SourceReader, rows_of
from sidecar.ports import CycleNote, Ports
from sidecar.publish.publisher import WatchPublisher
from sidecar.quality import Quality, quality_of
from sidecar.remote.backoff import BackoffSettings, delay_s
from sidecar.rules import make_rules
from sidecar.series import (
    LabelSet,
    RawSeries,
    SeriesBatch,
    index_by_labels,
)
from sidecar.snapshot import pack, recipe, unpack
from sidecar.wishes import FitWishes

log = logging.getLogger(__name__)

# A stock receiver takes samples that are up to an hour behind its newest; five minutes are margin.
RECEIVER_WINDOW_MS: Final = 55 * 60_000
# How many of the newest instants stay at hand, so that a fit can catch up with those that came
# while it ran: five minutes at one second, an hour at one minute.
LEAST_AT_HAND: Final = 60
AT_HAND_MS: Final = 300_000
SAVE_EVERY_MS: Final = 60_000
# A cycle that went as the one before it is logged at most so often.
SAY_EVERY_MS: Final = 60_000
AGAIN: Final = BackoffSettings(base_s=1.0, cap_s=30.0)


class Watch:
    """One configured watch, alive.

    Args:
        publisher: where its output goes.
        timezone: whose clock cron and daily patterns follow.
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
        spread = spread_ms(config.id, config.granularity_ms // 4)
        self._offset_ms = config.query_offset_ms + spread
        self.wishes = FitWishes(
            config,
            Cron(config.cron, timezone),
            self.model.min_instants,
            partial(ports.trainer.ask, config.id),
            ports.now_ms,
        )
        self._rules: CycleRules | None = None
        self._first_history: SeriesBatch | None = None
        self._first: set[str] = set()
        self._first_done = asyncio.Event()
        self._fitted: list[Fitted] = []
        self._failures = 0
        self._saved_ms = 0
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
            held = await self._past.of_series(rules, labels, known.origin_ms, len(known.labels))
        return await self._ports.in_thread(rows_of, held, labels)

    def deliver(self, fitted: Fitted) -> None:
        """Called by the trainer; put into service before the next cycle."""
        self._fitted.append(fitted)
        self.wishes.granted(fitted)
        self._first.difference_update(one.key for one in fitted.labels)
        self._wake_when_first_done()

    def failed(self, series: Sequence[str], error: Exception) -> None:
        """Called by the trainer: nothing was fitted for these, and it is worth another try."""
        self.trouble = f"fits failed: {error}"
        self.wishes.put_off(series)
        self._first.difference_update(series)
        self._wake_when_first_done()

    def _wake_when_first_done(self) -> None:
        if not self._first:
            self._first_history = None
            self._first_done.set()

    async def put_back(self, group: Group) -> None:
        """Serve a version that was stored, after the instants since its fit are absorbed.

        Raises:
            DataError: it is older than the training window, or of another model.
            RemoteError: what came since then cannot be read.
        """
        known, rules = self._learned
        labels = group.labels[0]
        if group.model != self.model.name:
            raise DataError(
                Reason.FIT_FAILED,
                f"{labels}: the version is a {group.model}, the watch now asks for "
                f"{self.model.name}: retrain it, or put the model back in the configuration",
            )
        state = from_arrays(self.model.state_type, group.arrays)
        step_ms, since_ms = rules.granularity_ms, int(state.last_ms[0])
        missed = (known.origin_ms - since_ms) // step_ms
        if missed * step_ms > self.config.training_window_ms:
            raise DataError(
                Reason.GAP, f"{labels}: the version is older than the training window: retrain it"
            )
        if missed > 0:
            past = await self._past.of_series(rules, [labels], known.origin_ms, 1)
            instants = since_ms + step_ms * np.arange(1, missed + 1, dtype=np.int64)
            values = np.full((1, missed), np.nan)
            values[:, -past.grid.size :] = past.values[:, -missed:]
            state = await self._ports.in_thread(self.model.update, state, instants, values)
        row = np.array([index_by_labels(known.labels)[labels]], dtype=np.int64)
        nothing = np.full(1, np.nan)
        self._fitted.append(
            Fitted(
                labels=(labels,),
                end_ms=known.origin_ms,
                state=state,
                naive=take(known.naive, row),
                promoted=np.ones(1, dtype=np.bool_),
                serves_naive=np.zeros(1, dtype=np.bool_),
                versions=group.versions,
                why_unfitted=(None,),
                mae=group.mae,
                centre=nothing,
                scale=nothing,
                n_samples=np.zeros(1, dtype=np.int64),
            )
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
        instants = forecasts = 0
        error = ""
        try:
            result = await self._advanced()
            if result is not None:
                instants = len(result.outcomes)
                forecasts = sum(reason is None for reason in result.reasons)
            self._failures, self.trouble = 0, ""
        except SidecarError as failure:
            error = self._out_of_reach(failure)
        except Exception as failure:  # one watch must not stop another
            log.exception("watch %s: a cycle failed; the next one starts afresh", self.title)
            error = self._out_of_reach(failure)
        seconds = asyncio.get_running_loop().time() - begun
        self._ports.note(CycleNote(self.watch_id, seconds, instants, forecasts, error))
        if self._failures:
            return min(delay_s(self._failures, AGAIN), self.config.granularity_ms / 1000)
        return self._until_next_s()

    def fresh(self, now_ms: int) -> bool:
        """Whether forecasts are served that are not too old to be believed."""
        if self.latest is None or self._rules is None:
            return False
        age_ms = now_ms - self.learned.origin_ms
        return age_ms <= self._rules.patience_ms and not all(self.latest.reasons)

    @property
    def title(self) -> str:
        """What the log calls the watch."""
        return str(self.config.selector)

    @property
    def _learned(self) -> tuple[Known, CycleRules]:
        assert self._rules is not None, "the rules are made before the watch begins"
        return self.learned, self._rules

    async def _advanced(self) -> Advance | None:
        """One turn: begin if need be, put fits into service, run the cycle, ask for fits."""
        instant_ms = due_instant_ms(
            self._ports.now_ms(), self.config.granularity_ms, self._offset_ms
        )
        if self.known is None and not await self._begun(instant_ms):
            log.info(
                "watch %s: no series has a sample up to the newest closed instant yet", self.title
            )
            return None
        await self._put_into_service()
        known, rules = self._learned
        if instant_ms <= known.origin_ms:
            return None
        known, result = await run_cycle(
            rules,
            self.model,
            known,
            instant_ms,
            self._reader,
            self._ports.in_thread,
            self.publisher,
        )
        self.known, self.latest = known, result
        await self._record_rollbacks(result)
        self.known = self.wishes.after_cycle(known, result, rules.drift)
        self._log(result)
        await self._save()
        return result

    @cached_property
    def _reader(self) -> SourceReader:
        """Chosen when first needed: by then it is known what the server serves."""
        return self._ports.reader_for(self.config)

    @cached_property
    def _past(self) -> Past:
        return Past(
            self._reader,
            self._ports.in_thread,
            self.config.training_window_ms,
            self.model.longest_fit,
        )

    async def _begun(self, instant_ms: int) -> bool:
        """Find the series, read their past, and wait for their first fit; False if there are none.

        Raises:
            RemoteError: reading failed; the next turn begins again.
        """
        found = await self._found(instant_ms)
        if not found:
            return False
        self._rules = rules = await self._ruled(found)
        self.publisher.transformed(rules.transform)
        await self._read_pins()
        if await self._remembered(rules, instant_ms):
            return True
        labels = sorted(one.labels for one in found)[: rules.max_series]
        end_ms = await self._history_end_ms(labels, instant_ms)
        history = await self._past.of_selector(rules, self.config.selector, end_ms, len(labels))
        if not history.labels:
            return False
        history = await self._ports.in_thread(rows_of, history, history.labels[: rules.max_series])
        width = max(LEAST_AT_HAND, self.config.n_lags, AT_HAND_MS // rules.granularity_ms)
        self.known = await self._ports.in_thread(
            begin, self.model, history, width, self.config.horizon_steps
        )
        self._first_history = history
        self._first = {one.key for one in history.labels}
        self._first_done.clear()
        self._ports.trainer.enrol(self)
        self._ports.trainer.ask(self.watch_id, sorted(self._first), Trigger.FIRST, Mode.FULL)
        await self._first_done.wait()
        return True

    async def _read_pins(self) -> None:
        try:
            pins = await self._ports.in_thread(self._ports.memory.pinned, self.watch_id)
        except StoreError as error:
            log.warning("watch %s: which series are pinned is not known: %s", self.title, error)
            return
        self.wishes.pinned = {one.key for one in pins}

    async def _remembered(self, rules: CycleRules, instant_ms: int) -> bool:
        """Go on from what an earlier run left, if it is of this recipe and not too long ago."""
        try:
            kept = await self._ports.in_thread(self._ports.memory.get_runtime, self.watch_id)
            if kept is None:
                return False
            made_by = recipe(rules, self.model, self.config.model_params)
            known = await self._ports.in_thread(unpack, *kept, self.model, made_by)
        except StoreError as error:
            log.warning("watch %s begins anew: %s", self.title, error)
            return False
        if known is None:
            log.info("watch %s has another recipe now and begins anew", self.title)
            return False
        if not 0 <= instant_ms - known.origin_ms <= RECEIVER_WINDOW_MS:
            return False
        self.known = known
        self._saved_ms = self._ports.now_ms()
        self._ports.trainer.enrol(self)
        log.info("watch %s goes on with %d series as it was left", self.title, len(known.labels))
        return True

    async def _save(self) -> None:
        """Now and then: sum up how it goes, and keep what is known for a restart."""
        now_ms = self._ports.now_ms()
        if now_ms - self._saved_ms < SAVE_EVERY_MS:
            return
        self._saved_ms = now_ms
        known, rules = self._learned
        self.quality = await self._ports.in_thread(quality_of, known)
        made_by = recipe(rules, self.model, self.config.model_params)
        try:
            arrays, meta = await self._ports.in_thread(pack, known, made_by)
            await self._ports.in_thread(self._ports.memory.put_runtime, self.watch_id, arrays, meta)
        except StoreError as error:
            log.warning("watch %s: not kept for a restart: %s", self.title, error)

    async def _found(self, instant_ms: int) -> list[RawSeries]:
        """What the selector matches at present."""
        reach_ms = max(self._ports.lookback_delta_ms(), 3 * self.config.granularity_ms)
        now_ms = self._ports.now_ms()
        raw = await self._reader.read(
            self.config.selector, min(instant_ms, now_ms) - reach_ms, now_ms
        )
        return [one for one in raw if one.timestamps_ms.size]

    async def _ruled(self, found: Sequence[RawSeries]) -> CycleRules:
        """The rules, with what only the data can tell."""
        kind = None
        if self.config.transform == "auto" and not self.config.expr:
            kind = await self._ports.kind_of(self.config.metric)
        return make_rules(self.config, found, kind, self._ports.lookback_delta_ms(), self.gate)

    async def _history_end_ms(self, labels: Sequence[LabelSet], instant_ms: int) -> int:
        """Where the history ends: at what was written last, if the rest can still be caught up."""
        written = await self._ports.written_until_ms(self.publisher.outputs_of(labels))
        if written is None or not 0 <= instant_ms - written <= RECEIVER_WINDOW_MS:
            return instant_ms
        return written // self.config.granularity_ms * self.config.granularity_ms

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

    async def _record_rollbacks(self, result: Advance) -> None:
        """Write down that promotions were undone because they turned out worse."""
        for labels, old, new in result.rolled_back:
            log.warning(
                "watch %s: v%d of %s did worse than v%d, which serves again",
                self.title,
                old,
                labels,
                new,
            )
            switch = partial(
                self._ports.memory.rollback,
                self.watch_id,
                labels,
                new,
                at_ms=self._ports.now_ms(),
                who="gate",
                pin=False,
            )
            try:
                await self._ports.in_thread(switch)
            except StoreError as error:
                log.warning("watch %s: the switch is not recorded: %s", self.title, error)

    # Telling

    def _out_of_reach(self, error: Exception) -> str:
        """Note a failed turn; forecasts that have grown too old are withdrawn, not repeated."""
        self._failures += 1
        self.trouble = str(error) or type(error).__name__
        if self._failures == 1 or self._failures % 10 == 0:
            log.warning("watch %s: %s; trying again", self.title, self.trouble)
        if self.known is not None and self._rules is not None:
            age_ms = self._ports.now_ms() - self.known.origin_ms
            if age_ms > self._rules.patience_ms:
                self.publisher.withdraw()
        return self.trouble

    def _until_next_s(self) -> float:
        granularity_ms = self.config.granularity_ms
        now_ms = self._ports.now_ms()
        next_ms = due_instant_ms(now_ms, granularity_ms, self._offset_ms) + granularity_ms
        return max(0.0, (next_ms + self._offset_ms - now_ms) / 1000) + 0.001

    def _log(self, result: Advance) -> None:
        fresh = sum(reason is None for reason in result.reasons)
        said = (fresh, len(result.labels))
        now_ms = self._ports.now_ms()
        quiet = said == self._said and now_ms - self._said_ms < SAY_EVERY_MS
        if not quiet:
            self._said, self._said_ms = said, now_ms
        log.log(
            logging.DEBUG if quiet else logging.INFO,
            "watch %s: %d of %d series forecast %s ahead%s",
            self.title,
            fresh,
            len(result.labels),
            format_duration(self.config.horizon_ms),
            f", {len(result.outcomes)} instants caught up" if len(result.outcomes) > 1 else "",
        )
