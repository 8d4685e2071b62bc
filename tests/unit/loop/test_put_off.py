"""Fits that were due and could not be had: none is forgotten."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidecar.errors import Unavailable
from sidecar.learning.drift import DriftSettings
from sidecar.learning.schedule import Mode, Trigger
from sidecar.watches.growth import Growth
from tests.unit.loop.house import HOUR, G, House, ask, labels, noisy, records


async def _out_of_reach(*_: object) -> object:
    raise Unavailable("connection refused")


@pytest.mark.parametrize("trigger", [Trigger.CRON, Trigger.OPERATOR, Trigger.GROWTH])
async def test_a_fit_that_meets_a_source_that_is_away_is_made_up_for(
    tmp_path: Path, trigger: Trigger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with House(tmp_path, {"a": noisy}) as house:
        await house.turns(3)
        assert records(house).keys() == {1}
        with monkeypatch.context() as away:
            away.setattr(house.watch, "history", _out_of_reach)
            ask(house, trigger, Mode.FULL)
            await house.settled()
        await house.turns(4)
        assert records(house)[2][:2] == (trigger.name.lower(), "full_retrain")
        await house.turns(3)
        assert records(house).keys() == {1, 2}


async def test_what_was_put_off_is_made_up_for_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with House(tmp_path, {"a": noisy}) as house:
        await house.turns(3)
        with monkeypatch.context() as away:
            away.setattr(house.watch, "history", _out_of_reach)
            ask(house, Trigger.CRON, Mode.FULL)
            await house.settled()
        await house.watch.leave(for_good=False)
        await house.restart()
        await house.turns(3)
        assert records(house)[2][0] == "cron"


async def test_a_pinned_series_that_was_away_for_long_is_forecast_again(tmp_path: Path) -> None:
    """It was forgotten and has no version any more: a pin must not leave it without a forecast."""
    there = [True]

    def now_and_then(seconds: np.ndarray) -> np.ndarray:
        return noisy(seconds) if there[0] else np.full(len(seconds), np.nan)

    async with House(tmp_path, {"a": now_and_then, "b": noisy}) as house:
        await house.turns(40)
        await house.operator.pin("x", {"instance": "a"}, pinned=True)
        there[0] = False
        await house.turns(HOUR // G + 10)
        assert labels("a") not in house.watch.learned.labels
        there[0] = True
        await house.turns(3)
        assert house.version("a") > 1
        assert np.isfinite(house.ahead("a")).all()
        assert house.watch.wishes.pinned == {labels("a").key}


async def test_a_fit_that_ends_after_its_watch_was_changed_is_not_on_record(tmp_path: Path) -> None:
    """It would be the newest version, of settings that are no more."""
    async with House(tmp_path, {"a": noisy}, {"model": "sgd"}) as house:
        await house.turns(3)
        house.pool.held.clear()
        ask(house, Trigger.CRON, Mode.FULL)
        for _ in range(20):
            await asyncio.sleep(0)
        house.configure({"model": "sgd", "lookback": "10m"})
        await house.fleet.exchange(house.config)
        house.pool.held.set()
        await house.settled()
        await house.turns(2)
        assert {number: cause for number, (cause, _, _) in records(house).items()} == {
            1: "first",
            2: "config",
        }
        assert house.version() == house.active() == 2


def test_a_young_series_is_due_until_it_is_asked_for_and_again_after_its_fit() -> None:
    growth = Growth(G, 1_000)
    growth.fitted("a", 12, 0)
    assert growth.due(11 * G) == []
    assert growth.due(12 * G) == growth.due(13 * G) == ["a"]
    growth.asked(["a"])
    assert growth.due(14 * G) == []
    growth.fitted("a", 24, 14 * G)
    assert growth.due(38 * G) == ["a"]


async def test_where_naive_takes_over_no_predecessor_is_compared_with_it(tmp_path: Path) -> None:
    asked: list[str] = []

    async def noted(function: Callable[..., Any], /, *arguments: Any) -> Any:
        asked.append(getattr(function, "__name__", ""))
        return function(*arguments)

    house = House(tmp_path, {"a": noisy, "b": noisy})
    house.in_thread = noted
    async with house:
        await house.turns(3)
        ask(house, Trigger.CRON, Mode.FULL, "a")
        ask(house, Trigger.CRON, Mode.FULL, "b")
        await house.settled()
        await house.turns(1)
        watch, latest = house.watch, house.watch.latest
        assert latest is not None
        assert watch.learned.shadow is not None
        assert watch.learned.shadow.rows.tolist() == [0, 1]
        outdone = np.array([1])
        after = watch.wishes.after_cycle(watch.learned, latest, DriftSettings(), outdone)
        assert after.serves_naive.tolist() == [False, True]
        assert after.shadow is not None
        assert after.shadow.rows.tolist() == [0]
        # Who is outdone takes a tenth of a second of ten thousand series: not on the event loop.
        assert asked.count("outdone") == 4
