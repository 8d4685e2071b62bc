"""The life of a watch under a clock of our own: how it begins, catches up, and begins anew."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pytest

from sidecar.config import SentinelConfig, WatchConfig
from sidecar.learning.schedule import Mode, Trigger
from sidecar.learning.store import VersionStore
from sidecar.publish.exposition import GaugeRules
from sidecar.publish.outputs import output_rules
from sidecar.publish.paths import ForecastPaths
from sidecar.publish.publisher import WatchPublisher
from sidecar.remote.writer import WriteBlock
from sidecar.series import LabelSet, RawSeries
from sidecar.serve.status import count_reasons, reasons_of
from sidecar.watches import watching
from sidecar.watches.ports import CycleNote, Ports
from sidecar.watches.trainer import Trainee, Trainer
from sidecar.watches.watching import MOST_INSTANTS, Watch
from tests.unit.cycle.helpers import fitted, labels, sampled
from tests.unit.cycle.test_past import Server
from tests.unit.learning.stored import batch
from tests.unit.publish.test_publisher import BOUNDED

T = TypeVar("T")
SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
T0 = 1_700_000_040_000


class FitsAtOnce:
    """A trainer that fits in the next turn of the event loop."""

    def __init__(self) -> None:
        self.trainees: dict[str, Trainee] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.fits = 0
        self.asked: list[Trigger] = []

    def enrol(self, trainee: Trainee) -> None:
        self.trainees[trainee.watch_id] = trainee

    def ask(
        self, watch: str, series: Sequence[str], why: Trigger, _mode: Mode, _drift: object = ()
    ) -> None:
        if series:
            self.asked.append(why)
            self.tasks.add(asyncio.create_task(self._fit(self.trainees[watch], series)))

    async def _fit(self, trainee: Trainee, series: Sequence[str]) -> None:
        self.fits += 1
        past = await trainee.history(series)
        trainee.deliver(fitted(trainee.model, past, self.fits))

    async def idle(self) -> None:
        await asyncio.gather(*(task for task in self.tasks if not task.done()))


class Spy:
    """A receiver that takes everything."""

    def __init__(self) -> None:
        self.blocks: list[WriteBlock] = []
        self.ended: list[tuple[LabelSet, int]] = []

    async def append(self, blocks: Sequence[WriteBlock]) -> None:
        self.blocks += blocks

    async def end_series(self, labels: Sequence[LabelSet], timestamp_ms: int) -> None:
        self.ended += [(one, timestamp_ms) for one in labels]

    def instants(self, suffix: str) -> list[int]:
        return [
            block.timestamp_ms
            for block in self.blocks
            if any(
                one.metric == "x" + suffix and (block.due is None or block.due[row])
                for row, one in enumerate(block.labels)
            )
        ]


class World:
    """One watch with everything around it but the clock, which stands still until it is set."""

    def __init__(self, folder: Path, config: WatchConfig, series: list[RawSeries]) -> None:
        self.now_ms, self.source_behind_ms = T0, 0
        self.trainer, self.spy, self.notes = FitsAtOnce(), Spy(), list[CycleNote]()
        self.server = Server(series, now_ms=self.source_now_ms)
        self.store = VersionStore.open(folder, max_versions=5)
        self.config = SentinelConfig(watches=[config]).watches[0]
        self.watch = self.restarted()

    def source_now_ms(self) -> int:
        return self.now_ms - self.source_behind_ms

    def restarted(self) -> Watch:
        """The watch as a new process makes it, with what the store keeps."""
        publisher = WatchPublisher(
            self.config.id,
            output_rules(BOUNDED, self.config),
            GaugeRules("x", self.config.horizon, bounds=False),
            self.config.horizon_steps,
            lambda labels: (np.ones(len(labels), np.bool_), np.ones(len(labels), np.bool_)),
            [self.spy],
            ForecastPaths(),
            2_000,
        )
        ports = Ports(
            reader_for=lambda _: self.server,
            trainer=cast(Trainer, self.trainer),
            memory=self.store,
            in_thread=_at_once,
            now_ms=lambda: self.now_ms,
            source_now_ms=self.source_now_ms,
            lookback_delta_ms=lambda: 5 * MINUTE,
            kind_of=_no_kind,
            external_labels=dict,
            written_until_ms=_nothing_written,
            note=self.notes.append,
        )
        return Watch(self.config, publisher, ports, "UTC")


async def _at_once(function: Callable[..., T], /, *arguments: object) -> T:
    return function(*arguments)


async def _no_kind(_metric: str) -> str | None:
    return None


async def _nothing_written(_labels: Sequence[LabelSet]) -> int | None:
    return None


def wave(seconds: np.ndarray) -> np.ndarray:
    return np.asarray(10 + np.sin(seconds / 900))


@contextmanager
def world(folder: Path, granularity: str, *series: RawSeries) -> Iterator[World]:
    number, unit = int(granularity[:-1]), granularity[-1]
    config = WatchConfig(
        "x",
        granularity=granularity,
        horizon=f"{5 * number}{unit}",
        lookback=f"{30 * number}{unit}",
        model="linear",
        query_offset="1s",
    )
    one = World(folder, config, list(series))
    try:
        yield one
    finally:
        one.store.close()


def run(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(main)


def test_the_first_cycle_follows_the_first_fit_at_once(tmp_path: Path) -> None:
    with world(tmp_path, "1m", sampled(wave, T0 - HOUR, T0)) as w:
        run(w.watch.turn())
        assert len(w.spy.instants("_sentinel_predicted")) == 1
        assert T0 - 2 * MINUTE < w.spy.blocks[0].timestamp_ms <= T0
        assert w.watch.fresh(T0)


def test_a_run_that_ends_after_one_cycle_is_gone_on_from(tmp_path: Path) -> None:
    with world(tmp_path, "1m", sampled(wave, T0 - HOUR, T0 + HOUR)) as w:
        assert run(w.watch.once())
        for minutes in (1, 2, 2, 4):
            w.now_ms = T0 + minutes * MINUTE
            assert run(w.restarted().once())
        first = w.spy.instants("_sentinel_predicted")[0]
        assert w.spy.instants("_sentinel_expected") == [first + k * MINUTE for k in range(1, 5)]
        assert w.trainer.fits == 1


def test_once_says_so_where_no_series_is_found(tmp_path: Path) -> None:
    with world(tmp_path, "1m") as w:
        assert not run(w.watch.once())


@pytest.mark.parametrize("away_ms", [3 * 24 * HOUR, -2 * HOUR])
def test_after_days_or_a_clock_set_back_a_watch_begins_anew(tmp_path: Path, away_ms: int) -> None:
    with world(tmp_path, "1m", sampled(wave, T0 - 4 * HOUR, T0 + 73 * HOUR)) as w:

        async def main() -> None:
            await w.watch.turn()
            w.now_ms += MINUTE
            await w.watch.turn()
            w.now_ms += away_ms
            w.spy.blocks.clear()
            await w.watch.turn()

        run(main())
        assert w.notes[-1].error == ""
        assert w.notes[-1].instants == 1
        assert w.now_ms - 2 * MINUTE < w.spy.blocks[0].timestamp_ms <= w.now_ms
        assert w.watch.fresh(w.now_ms)


def test_a_clock_that_goes_back_a_little_is_waited_for(tmp_path: Path) -> None:
    with world(tmp_path, "1m", sampled(wave, T0 - HOUR, T0 + HOUR)) as w:

        async def main() -> None:
            await w.watch.turn()
            w.now_ms -= 3 * MINUTE
            await w.watch.turn()

        run(main())
        assert w.trainer.fits == 1
        assert len(w.spy.blocks) == 1


def test_forecasts_that_grow_too_old_end_with_markers_that_what_is_made_up_for_comes_after(
    tmp_path: Path,
) -> None:
    with world(tmp_path, "1m", sampled(wave, T0 - HOUR, T0 + HOUR)) as w:

        async def main() -> None:
            await w.watch.turn()
            w.server.away = True
            for _ in range(3):
                w.now_ms += 2 * MINUTE
                await w.watch.turn()
                # Five minutes are the patience of a Prometheus too.
                assert bool(w.spy.ended) == (w.now_ms - T0 > 5 * MINUTE)
            await w.watch.turn()
            w.server.away = False
            await w.watch.turn()

        run(main())
        published = {one for block in w.spy.blocks for one in block.labels}
        assert {one for one, _ in w.spy.ended} == published
        assert len(w.spy.ended) == len(published), "once"
        [at_ms] = {at for _, at in w.spy.ended}
        expected = w.spy.instants("_sentinel_expected")
        assert np.diff(expected).tolist() == [MINUTE] * (len(expected) - 1)
        assert at_ms == w.spy.blocks[0].timestamp_ms + 1
        assert len(expected) == 6
        assert at_ms < expected[0]


def test_a_long_pause_is_caught_up_with_in_pieces(tmp_path: Path) -> None:
    with world(tmp_path, "1s", sampled(wave, T0 - HOUR, T0 + HOUR, every_ms=SECOND)) as w:

        async def main() -> list[float]:
            await w.watch.turn()
            w.now_ms += 600 * SECOND
            return [await w.watch.turn() for _ in range(3)]

        waits = run(main())
        assert [note.instants for note in w.notes] == [1, MOST_INSTANTS, MOST_INSTANTS, 120]
        assert [wait == 0 for wait in waits] == [True, True, False]
        expected = w.spy.instants("_sentinel_expected")
        assert np.diff(expected).tolist() == [SECOND] * 599


def test_a_server_whose_clock_is_behind_is_waited_for(tmp_path: Path) -> None:
    with world(tmp_path, "15s", sampled(wave, T0 - HOUR, T0 + HOUR)) as w:
        w.source_behind_ms = 30 * SECOND

        async def main() -> None:
            for _ in range(40):
                await w.watch.turn()
                w.now_ms += 15 * SECOND

        run(main())
        assert w.watch.latest is not None
        assert w.watch.latest.reasons == (None,)
        assert np.isfinite([outcome.actual for outcome in w.watch.latest.outcomes]).all()
        assert np.diff(w.spy.instants("_sentinel_expected")).tolist() == [15 * SECOND] * 38


def test_at_one_hour_a_restart_an_hour_later_goes_on(tmp_path: Path) -> None:
    with world(tmp_path, "1h", sampled(wave, T0 - 200 * HOUR, T0 + 9 * HOUR, every_ms=MINUTE)) as w:
        assert run(w.watch.once())
        w.now_ms += HOUR
        assert run(w.restarted().once())
        w.now_ms += HOUR
        assert run(w.restarted().once())
        assert len(w.spy.instants("_sentinel_expected")) == 2
        assert w.trainer.asked.count(Trigger.FIRST) == 1


def test_versions_of_series_that_went_days_ago_are_dropped(tmp_path: Path) -> None:
    with world(tmp_path, "1m", sampled(wave, T0 - HOUR, T0 + 2 * HOUR)) as w:
        gone, lately = labels("gone"), labels("lately")
        for one, hours in ((gone, 49), (lately, 46), (labels("a"), 49)):
            w.store.save(batch([one], 1.0, watch=w.watch.watch_id, at_ms=T0 - hours * HOUR))

        async def main() -> list[set[str]]:
            kept = []
            for minutes in (0, 40, 80):
                w.now_ms = T0 + minutes * MINUTE
                await w.watch.turn()
                kept.append(set(w.store.serving(w.watch.watch_id)))
            return kept

        everything = {gone.key, lately.key, labels("a").key}
        assert run(main()) == [everything, everything, everything - {gone.key}]


def test_a_watch_without_series_says_so_once_a_minute_until_they_come(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    late = [
        sampled(wave, T0 + 100 * SECOND, T0 + HOUR, every_ms=SECOND, name=f"{k}") for k in "abc"
    ]
    with world(tmp_path, "1s", *late) as w, caplog.at_level("INFO", "sidecar.watches.watching"):

        async def main() -> None:
            for _ in range(240):
                await w.watch.turn()
                w.now_ms += SECOND

        run(main())
        said = [one for one in caplog.messages if "no series has a sample" in one]
        assert len(said) == 2
        assert w.watch.learned.labels == tuple(labels(name) for name in "abc")


@pytest.mark.parametrize(
    ("series", "for_each_ms", "every"), [(1, 3_000, 1), (3, MINUTE, 3), (12, MINUTE, 10)]
)
def test_the_more_series_the_less_often_they_are_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, series: int, for_each_ms: int, every: int
) -> None:
    monkeypatch.setattr(watching, "SAVE_EVERY_MS_FOR_EACH", for_each_ms)
    names = [f"{k}" for k in range(series)]
    past = [sampled(wave, T0 - HOUR, T0 + HOUR, every_ms=MINUTE, name=name) for name in names]
    with world(tmp_path, "1m", *past) as w:

        async def main() -> list[int]:
            saved = []
            for minute in range(21):
                await w.watch.turn()
                kept = w.store.get_runtime(w.watch.watch_id)
                assert kept is not None
                saved.append(kept[1]["origin_ms"])
                w.now_ms = T0 + (minute + 1) * MINUTE
            return saved

        assert np.diff(np.unique(run(main()))).max() == every * MINUTE


def test_reasons_are_counted_as_each_series_would_be_asked_for_its_own(tmp_path: Path) -> None:
    past = [sampled(wave, T0 - HOUR, T0 + HOUR, name=name) for name in "abc"]
    gone = sampled(wave, T0 - HOUR, T0 - 2 * MINUTE, name="gone")
    with world(tmp_path, "1m", *past, gone) as w:

        def counted(*rejected: LabelSet) -> dict[str, int]:
            asked = Counter(reasons_of(w.watch, rejected).values())
            found = {why: n for why, n in count_reasons([w.watch], rejected).items() if n}
            assert found == {why.value: n for why, n in asked.items() if why is not None}
            return found

        async def main() -> list[dict[str, int]]:
            found = [counted()]
            for _ in range(6):
                await w.watch.turn()
                w.now_ms += MINUTE
            found.append(counted())
            [output, *_] = w.watch.publisher.outputs_of([labels("a")])
            found.append(counted(output))
            w.watch.trouble = "the server is away"
            return [*found, counted()]

        before, usual, refused, away = run(main())
        assert before == {}
        assert usual == {"stale_input": 1}
        assert refused == {"stale_input": 1, "write_rejected": 1}
        assert away == {"stale_input": 1, "source_error": 3}
