"""Series that went leave no fits waiting, and are not counted where they are not known."""

import logging
from pathlib import Path

import pytest

from sidecar.learning.schedule import Mode, Trigger
from tests.unit.loop.house import G, House, ask, noisy


async def test_fits_of_series_that_went_do_not_wait_for_ever(tmp_path: Path) -> None:
    async with House(tmp_path, {"a": noisy, "b": noisy}) as house:
        await house.turns(3)
        gone = [f"{k:032x}" for k in range(9_000)]  # more than may be fitted in a minute
        house.trainer.ask(house.watch.watch_id, gone, Trigger.DRIFT, Mode.FULL)
        for name in "ab":
            ask(house, Trigger.CRON, Mode.FULL, name)
        await house.settled()
        assert house.trainer.waiting == 2  # for the next minute
        before = len(house.notes)
        house.now_ms += G
        ask(house, Trigger.CRON, Mode.FULL, "a")
        await house.settled()
        assert house.trainer.waiting == 0
        assert [(one.trigger, sum(one.results.values())) for one in house.notes[before:]] == [
            ("cron", 2)
        ]


async def test_after_a_restart_it_says_how_many_series_are_known_not_how_many_there_were(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with House(tmp_path, {"a": noisy, "b": noisy}, {"max_series": 1}) as house:
        await house.turns(3)
        await house.restart()
        with caplog.at_level(logging.INFO):
            await house.turns(1)
        assert "goes on with 1 series" in caplog.text
