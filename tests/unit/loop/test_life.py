"""A watch from its first fit through finetunes, orders and changes of its settings."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sidecar.learning.schedule import Mode, Trigger
from sidecar.models.contract import State
from sidecar.watches.operating import Kept
from tests.unit.learning.toys import OwnModel
from tests.unit.loop.house import (
    HOUR,
    T0,
    G,
    House,
    ask,
    fit,
    labels,
    noisy,
    records,
    rising,
    unreadable,
)


def _noise_of(seed: int) -> Callable[[np.ndarray], np.ndarray]:
    noise = np.random.default_rng(seed).normal(size=10_007)
    return lambda seconds: np.asarray(50.0 + noise[(seconds // 60).astype(np.int64) % noise.size])


def warm_of(house: House) -> State:
    warm: State | None = house.pool.jobs[-1].warm
    assert warm is not None
    return warm


async def test_the_first_fit_serves_at_once(tmp_path: Path) -> None:
    async with House(tmp_path, {"a": rising, "b": rising}) as house:
        await house.turns(3)
        assert house.errors == []
        assert records(house) == {1: ("first", "full_retrain", "active")}
        assert len(house.pool.jobs) == 1
        truth = rising((house.watch.learned.origin_ms + G * np.arange(1, 6)) / 1000)
        np.testing.assert_allclose(house.ahead(), truth, rtol=1e-3)


async def test_a_fit_gets_the_training_window_and_not_the_lookback(tmp_path: Path) -> None:
    async with House(tmp_path, {"a": rising}, {"lookback": "5m", "training_window": "6h"}) as house:
        await house.turns(1)
        assert house.pool.jobs[0].y.shape == (1, 360)
        assert np.isfinite(house.pool.jobs[0].y).all()


@pytest.mark.parametrize("model", ["holt", "linear"])
async def test_the_band_holds_the_share_that_the_settings_ask_for(
    tmp_path: Path, model: str
) -> None:
    values = {name: _noise_of(seed) for seed, name in enumerate("abcdefgh")}
    settings = {"model": model, "model_params": {"level": 0.8}}
    async with House(tmp_path, values, settings) as house:
        await house.turns(1)
        held = []
        for turn in range(220):
            await house.turns(1)
            (outcome,) = house.watch.latest.outcomes if house.watch.latest else ()
            if turn >= 100:
                inside = (outcome.lower <= outcome.actual) & (outcome.actual <= outcome.upper)
                held.append(inside.mean())
        assert 0.75 <= np.mean(held) <= 0.85


async def test_the_past_of_a_newcomer_says_whether_it_may_be_forecast_below_zero(
    tmp_path: Path,
) -> None:
    def negative_until_now(seconds: np.ndarray) -> np.ndarray:
        plain = noisy(seconds) - 50.0
        return np.where(seconds < T0 / 1000 - 60, plain, np.abs(plain))

    async with House(tmp_path, {"a": rising}) as house:
        await house.turns(2)
        house.reader.values |= {
            "signed": negative_until_now,
            "positive": lambda seconds: np.abs(noisy(seconds) - 50.0),
        }
        await house.turns(3)
        latest = house.watch.latest
        assert latest is not None
        assert not any(latest.reasons)
        lowest = latest.forecast.lower.min(axis=1)
        assert lowest[latest.labels.index(labels("signed"))] < 0
        assert lowest[latest.labels.index(labels("positive"))] == 0


async def test_no_more_series_are_forecast_than_their_outputs_are_allowed(tmp_path: Path) -> None:
    """Ten outputs each: five steps, expected with its band, the score and the model's info."""
    values = dict.fromkeys("abc", rising)
    async with House(tmp_path, values, {"publish": {"max_series": 29}}) as house:
        await house.turns(2)
        latest = house.watch.latest
        assert latest is not None
        assert latest.labels == (labels("a"), labels("b"))
        assert latest.over_budget == 1
        assert not any(latest.reasons)


async def test_a_limit_that_was_lowered_is_kept_to_after_a_restart(tmp_path: Path) -> None:
    house = House(tmp_path, dict.fromkeys("abc", noisy))
    async with house:
        await house.turns(2)
        house.configure({"max_series": 2})
        await house.restart()
        await house.turns(1)
        latest = house.watch.latest
        assert latest is not None
        assert latest.labels == (labels("a"), labels("b"))
        assert latest.over_budget == 1
        assert house.version("b") == 1
        assert house.pool.jobs == []


async def test_a_watch_whose_source_hangs_delays_no_other(tmp_path: Path) -> None:
    async with House(tmp_path, {"a": rising}, {}, {"horizon": "10m"}) as house:
        await house.turns(2)
        hangs, goes_on = house.fleet.watches
        house.reader.hangs = True
        house.now_ms += G
        stuck = asyncio.create_task(hangs.turn())
        await asyncio.sleep(0)
        house.reader.hangs = False
        await goes_on.turn()
        assert not stuck.done()
        assert goes_on.learned.origin_ms == hangs.learned.origin_ms + G
        stuck.cancel()


async def test_a_users_own_model_is_versioned_restored_and_rolled_back(tmp_path: Path) -> None:
    own = {"model": None, "model_class": OwnModel, "horizon": "3m"}
    async with House(tmp_path, {"a": noisy}, own) as house:
        await house.turns(40)
        first = house.ahead().copy()
        house.reader.values["a"] = lambda seconds: noisy(seconds) + 100.0
        await fit(house)
        await house.turns(1)
        assert (house.version(), house.active()) == (2, 2)
        second = house.ahead().copy()
        assert (second > first + 20).all()
        for after_ms in (0, 2 * HOUR):
            await house.restart(after_ms)
            await house.turns(2)
            np.testing.assert_array_equal(house.ahead(), second)
        (done,) = await house.operator.rollback("x", {})
        assert done.error == ""
        await house.turns(1)
        assert (house.version(), house.active()) == (1, 1)
        np.testing.assert_array_equal(house.ahead(), first)


@pytest.mark.parametrize("model", ["linear", "sgd", "holt", "arima", "lags", "auto"])
@pytest.mark.parametrize("step", [0.0, 0.01])
async def test_a_constant_or_a_line_that_is_forecast_to_the_last_digit_is_never_fitted_again(
    tmp_path: Path, model: str, step: float
) -> None:
    def exact(seconds: np.ndarray) -> np.ndarray:
        return np.asarray(5.1 + step * (seconds - T0 / 1000))

    async with House(tmp_path, {"a": exact}, {"model": model}) as house:
        await house.turns(45)
        assert [note.trigger for note in house.notes] == ["first"]


# Finetunes


@pytest.mark.parametrize("model", ["sgd", "linear", "holt", "arima", "auto"])
async def test_a_finetune_learns_on_from_the_version_as_it_was_stored(
    tmp_path: Path, model: str
) -> None:
    async with House(tmp_path, {"a": noisy}, {"model": model}) as house:
        await house.turns(1)
        fitted_ms = int(house.pool.jobs[0].t_ms[-1])
        await house.turns(40)
        await fit(house, Trigger.DRIFT, Mode.FINETUNE)
        # What serves has absorbed the 40 instants that the finetune is judged on.
        assert int(warm_of(house).last_ms[0]) == fitted_ms
        assert int(house.watch.learned.state.last_ms[0]) >= fitted_ms + 40 * G
        await house.turns(1)
        assert house.version() == house.active()
        newest = max(records(house))
        found = house.store.audit(house.watch.watch_id, labels())[0][1].what
        assert records(house)[newest][:2] == ("drift", "finetune") or found == "rejected_worse"


async def test_a_finetune_changes_nothing_of_what_serves_meanwhile(tmp_path: Path) -> None:
    async with House(tmp_path, {"a": noisy}, {"model": "sgd"}) as house:
        await house.turns(41)
        house.pool.held.clear()
        before = house.watch.learned.state
        copied = {name: np.array(value) for name, value in vars(before).items()}
        ask(house, Trigger.DRIFT, Mode.FINETUNE)
        await house.turns(2)
        for name, value in copied.items():
            np.testing.assert_array_equal(getattr(before, name), value)
        assert house.version() == 1
        house.pool.held.set()
        await house.settled()


async def test_a_version_too_young_to_learn_on_from_is_fitted_anew_and_recorded_so(
    tmp_path: Path,
) -> None:
    async with House(tmp_path, {"a": noisy}, {"model": "sgd"}) as house:
        await house.turns(4)
        await fit(house, Trigger.DRIFT, Mode.FINETUNE)
        await house.turns(1)
        assert all(policy == "full_retrain" for _, policy, _ in records(house).values())
        assert house.notes[-1].trigger == "drift"


async def test_a_finetune_without_a_stored_version_is_a_full_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with House(tmp_path, {"a": noisy}, {"model": "sgd"}) as house:
        await house.turns(41)
        with monkeypatch.context() as patch:
            patch.setattr(house.store, "load", unreadable)
            await fit(house, Trigger.DRIFT, Mode.FINETUNE)
        assert house.pool.jobs[-1].warm is None
        assert len(house.notes) == 2


async def test_noise_that_grows_is_finetuned_and_a_shift_is_fitted_anew_each_on_record(
    tmp_path: Path,
) -> None:
    noisier_s = T0 / 1000 + 62 * 60

    def drifting(seconds: np.ndarray) -> np.ndarray:
        noise = noisy(seconds) - 50.0
        return np.asarray(50.0 + noise * np.where(seconds >= noisier_s, 4.0, 1.0))

    watch = {"model": "sgd", "promotion_tolerance": 1.0}  # noise is as good one way as the other
    async with House(tmp_path, {"a": drifting}, watch) as house:
        await house.turns(60)
        assert [note.trigger for note in house.notes] == ["first"], "nothing has drifted yet"
        while len(house.notes) < 2:
            await house.turns(1)
            assert house.now_ms < (noisier_s + 80 * 60) * 1000
        assert (house.notes[1].trigger, house.pool.jobs[1].mode) == ("drift", "finetune")
        _, entry = house.store.audit(house.watch.watch_id, labels())[0]
        assert (entry.who, entry.detail and entry.detail["policy"]) == ("drift", "finetune")
        assert entry.detail is not None
        assert entry.detail["drift"] >= 1.5
        before, version = len(house.notes), house.active()
        house.reader.values["a"] = lambda seconds: drifting(seconds) + 40 * np.sin(seconds / 150)
        while not any(job.mode == "full_retrain" for job in house.pool.jobs[before:]):
            await house.turns(1)
            assert len(house.notes) < 9
        await house.turns(2)
        assert (house.active() or 0) > (version or 0)
        assert house.version() == house.active()


# Orders


async def test_a_rollback_serves_the_version_before_and_holds_until_an_order(
    tmp_path: Path,
) -> None:
    async with House(tmp_path, {"a": noisy, "b": noisy}) as house:
        await house.turns(40)
        await fit(house)
        await house.turns(1)
        assert (house.version(), house.active()) == (2, 2)
        (done,) = await house.operator.rollback("x", {"instance": "a"})
        assert (done.from_version, done.to_version, done.error) == (2, 1, "")
        await house.turns(1)
        assert (house.version(), house.active()) == (1, 1)
        assert house.version("b") == 1
        # Nobody but the operator fits it again, and the shadow does not bring the other one back.
        assert house.watch.learned.shadow is None
        await fit(house, Trigger.DRIFT)
        await house.turns(1)
        assert house.version() == 1
        assert house.audited()[-1] == ("gate", "rejected_pinned")
        await house.operator.retrain("x", {"instance": "a"})
        await house.settled()
        await house.turns(1)
        assert house.version() == house.active() == 3
        assert ("operator", "unpin") in house.audited()
        assert ("operator", "promote") in house.audited()


@pytest.mark.parametrize("pin", [True, False])
async def test_a_rollback_during_a_fit_leaves_store_and_service_of_one_mind(
    tmp_path: Path, pin: bool
) -> None:
    async with House(tmp_path, {"a": noisy}) as house:
        await house.turns(40)
        await fit(house)
        await house.turns(1)
        house.pool.held.clear()
        ask(house, Trigger.CRON, Mode.FULL)
        await house.turns(1)
        await house.operator.rollback("x", {}, pin=pin)
        house.pool.held.set()
        await house.settled()
        await house.turns(1)
        assert house.version() == house.active() == (1 if pin else 3)


async def test_fits_that_wait_are_dropped_when_a_series_is_pinned(tmp_path: Path) -> None:
    async with House(tmp_path, {"a": noisy}) as house:
        await house.turns(40)
        house.pool.held.clear()
        for trigger in (Trigger.CRON, Trigger.DRIFT, Trigger.CONFIG):  # two run, one waits
            ask(house, trigger, Mode.FULL)
            for _ in range(20):
                await asyncio.sleep(0)
        under_way = len(house.pool.jobs)
        ask(house, Trigger.CRON, Mode.FULL)  # not even queued yet
        assert house.trainer.waiting == 4
        await house.operator.pin("x", {}, pinned=True)
        assert house.trainer.waiting == 2
        house.pool.held.set()
        await house.settled()
        assert len(house.pool.jobs) == under_way
        await house.turns(1)
        assert house.version() == 1


async def test_a_rollback_that_cannot_be_served_changes_nothing(tmp_path: Path) -> None:
    house = House(tmp_path, {"a": noisy}, {"model": "sgd"})
    async with house:
        await house.turns(40)
        house.configure({"model": "sgd", "lookback": "10m"})
        await house.restart()
        await house.turns(1)
        assert (house.version(), house.active()) == (2, 2)
        before = records(house), house.audited()
        (done,) = await house.operator.rollback("x", {}, to_version=1)
        assert "learned with other settings" in done.error
        (missing,) = await house.operator.rollback("x", {}, to_version=9)
        assert "has no version v9" in missing.error
        await house.turns(1)
        assert (house.version(), house.active()) == (2, 2)
        assert (records(house), house.audited()) == before
        assert house.watch.wishes.pinned == set()


async def test_a_rollback_while_the_source_is_down_changes_nothing(tmp_path: Path) -> None:
    async with House(tmp_path, {"a": noisy}) as house:
        await house.turns(40)
        await fit(house)
        await house.turns(1)
        house.reader.down = True
        (done,) = await house.operator.rollback("x", {})
        assert "connection refused" in done.error
        assert (house.version(), house.active()) == (2, 2)
        house.reader.down = False
        await house.operator.rollback("x", {})
        await house.turns(1)
        assert (house.version(), house.active()) == (1, 1)


async def test_without_auto_promote_a_candidate_waits_for_the_operator(tmp_path: Path) -> None:
    async with House(tmp_path, {"a": noisy}, {"auto_promote": False}) as house:
        await house.turns(40)
        assert house.version() == 1, "the first has nothing to wait for"
        await fit(house)
        await house.turns(1)
        assert (house.version(), house.active()) == (1, 1)
        assert records(house)[2] == ("cron", "full_retrain", "candidate")
        (done,) = await house.operator.promote("x", {})
        assert (done.from_version, done.to_version) == (1, 2)
        await house.turns(1)
        assert (house.version(), house.active()) == (2, 2)
        assert house.watch.learned.shadow is not None, "what it replaced runs on beside it"
        (again,) = await house.operator.promote("x", {})
        assert "no candidate" in again.error


async def test_a_candidate_that_is_refused_is_on_record_with_the_figures(tmp_path: Path) -> None:
    async with House(tmp_path, {"a": noisy}, {"promotion_tolerance": 0.0}) as house:
        await house.turns(60)
        # What serves was given its actuals beforehand, so that no candidate can be as good.
        known = house.watch.learned
        exact = {t: np.zeros_like(one) for t, one in known.tracker.residuals.items()}
        house.watch.known = replace(known, tracker=replace(known.tracker, residuals=exact))
        await fit(house)
        await house.turns(1)
        assert (house.version(), house.active()) == (1, 1)
        ((_, entry), *_) = house.store.audit(house.watch.watch_id, labels())
        assert (entry.who, entry.what, entry.from_version) == ("gate", "rejected_worse", 1)
        assert entry.detail is not None
        assert entry.detail["cause"] == "cron"
        assert entry.detail["serving_mae"] == 0.0
        assert 0.3 < entry.detail["candidate_mae"] < 3
        assert entry.detail["common"] == 30


async def test_the_log_says_which_version_made_a_prediction(tmp_path: Path) -> None:
    async with House(tmp_path, {"a": noisy}) as house:
        await house.turns(40)
        before_ms = house.watch.learned.origin_ms
        await fit(house)
        await house.turns(1)
        after_ms = house.watch.learned.origin_ms
        await house.turns(1)
        for t_ms, version in ((before_ms, 1), (after_ms, house.version()), (T0 - HOUR, None)):
            found = (await house.operator.served_by(Kept(lambda _: True), t_ms)).entries[0]
            assert found["version"] == version
        assert house.version() == 2


# Changes of the configuration


async def test_other_settings_fit_anew_and_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    house = House(tmp_path, {"a": noisy, "b": noisy}, {"model": "sgd"})
    async with house:
        await house.turns(2)
        house.configure({"model": "sgd", "lookback": "10m"})
        with caplog.at_level(logging.INFO):
            await house.restart()
            await house.turns(1)
        assert records(house)[2] == ("config", "full_retrain", "active")
        assert "2 series were learned with" in caplog.text
        assert house.notes[-1].trigger == "config"
        assert house.errors == []


async def test_what_does_not_touch_the_learning_fits_nothing(tmp_path: Path) -> None:
    house = House(tmp_path, {"a": noisy})
    async with house:
        await house.turns(2)
        house.configure({"cron": "0 0 * * *", "drift_retrain_threshold": "5x"})
        await house.restart()
        await house.turns(1)
        assert list(records(house)) == [1]
        assert house.pool.jobs == []


async def test_a_reload_of_the_same_settings_touches_nothing(tmp_path: Path) -> None:
    house = House(tmp_path, {"a": noisy}, {}, {"horizon": "10m"})
    async with house:
        await house.turns(2)
        watch, jobs = house.watch, len(house.pool.jobs)
        house.configure({}, {"horizon": "10m"})
        assert "2 as before" in await house.fleet.exchange(house.config)
        house.configure({}, {"horizon": "15m"})
        assert "1 watches are new, 0 changed, 1 gone" in await house.fleet.exchange(house.config)
        assert house.watch is watch
        await house.turns(1)
        assert house.version() == 1
        assert len(house.pool.jobs) == jobs + 1, "another horizon is another watch: learned anew"


async def test_a_reload_that_cannot_be_built_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path, {"a": rising}, {}, {"horizon": "10m"})
    async with house:
        await house.turns(2)
        before = list(house.fleet.watches)
        house.configure({"cron": "0 0 * * *"}, {"horizon": "15m"})
        with monkeypatch.context() as patch:
            patch.setattr("sidecar.watches.fleet.Watch", _refuses)
            with pytest.raises(ValueError, match="cannot be built"):
                await house.fleet.exchange(house.config)
        assert house.fleet.watches == before
        await house.turns(1)
        assert all(watch.latest is not None for watch in before)
        assert house.errors == []


async def test_two_reloads_at_once_leave_each_watch_running_once(tmp_path: Path) -> None:
    house = House(tmp_path, {"a": rising})
    async with house:
        await house.turns(2)
        house.fleet.start()
        configs = []
        for horizon in ("10m", "15m"):
            house.configure({"horizon": horizon})
            configs.append(house.config)
        await asyncio.gather(*(house.fleet.exchange(config) for config in configs))
        await asyncio.sleep(0)
        assert [watch.config.horizon for watch in house.fleet.watches] == ["15m"]
        assert sum(not task.done() for task in house.tasks) == 1


def _refuses(*_: object) -> object:
    raise ValueError("cannot be built")
