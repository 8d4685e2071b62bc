"""What goes on after a restart, and what is fitted anew."""

from pathlib import Path

import numpy as np
import pytest

from tests.unit.loop.house import HOUR, G, House, fit, labels, noisy, records, rising, unreadable


@pytest.mark.parametrize("model", ["linear", "sgd", "holt", "arima", "auto"])
@pytest.mark.parametrize("after_ms", [0, 2 * HOUR])
async def test_a_restart_fits_nothing_that_is_fresh(
    tmp_path: Path, model: str, after_ms: int
) -> None:
    async with House(tmp_path, {"a": rising, "b": rising}, {"model": model}) as house:
        await house.turns(5)
        await house.restart(after_ms)
        await house.turns(2)
        assert house.pool.jobs == []
        assert house.errors == []
        assert house.version() == house.active() == 1
        truth = rising((house.watch.learned.origin_ms + G * np.arange(1, 6)) / 1000)
        np.testing.assert_allclose(house.ahead(), truth, rtol=0.02)


async def test_a_version_older_than_the_history_is_fitted_anew(tmp_path: Path) -> None:
    async with House(tmp_path, {"a": noisy}, {"cron": "0 0 1 1 *"}) as house:
        await house.turns(5)
        await house.restart(30 * HOUR)
        await house.turns(1)
        assert house.version() == house.active() == 2
        assert records(house)[2][0] == "first"


async def test_versions_of_series_that_went_days_ago_are_dropped_by_short_runs_too(
    tmp_path: Path,
) -> None:
    settings = {"granularity": "2h", "horizon": "10h", "lookback": "60h", "training_window": "8d"}
    async with House(tmp_path, {"a": noisy, "gone": noisy}, settings) as house:
        house.now_ms += HOUR
        for run in range(30):
            await house.watch.once()
            if run == 0:
                del house.reader.values["gone"]
                assert records(house, "gone")
            await house.restart(2 * HOUR)
        assert records(house, "gone") == {}
        assert records(house, "a")


async def test_a_damaged_snapshot_leaves_the_stored_version_in_service(tmp_path: Path) -> None:
    async with House(tmp_path, {"a": rising}) as house:
        await house.turns(5)
        await house.stop()
        for path in (tmp_path / "runtime").iterdir():
            path.write_bytes(path.read_bytes()[:-100])
        await house.start()
        await house.turns(1)
        assert house.pool.jobs == []
        assert house.version() == house.active() == 1


async def test_a_version_recorded_right_before_the_end_serves_after_it(tmp_path: Path) -> None:
    async with House(tmp_path, {"a": noisy, "b": noisy}) as house:
        await house.turns(40)
        await fit(house)  # recorded, and ended before the next cycle could serve it
        assert (house.version(), house.active()) == (1, 2)
        await house.restart()
        await house.turns(1)
        assert (house.version(), house.active()) == (2, 2)
        assert house.version("b") == 1
        assert house.pool.jobs == []


async def test_a_rollback_right_before_the_end_holds_after_it(tmp_path: Path) -> None:
    async with House(tmp_path, {"a": noisy}) as house:
        await house.turns(40)
        await fit(house)
        await house.turns(2)
        await house.operator.rollback("x", {})
        await house.restart()
        await house.turns(1)
        assert (house.version(), house.active()) == (1, 1)
        assert house.watch.learned.shadow is None
        assert house.watch.wishes.pinned == {labels().key}


async def test_a_version_that_the_disk_refused_serves_and_survives_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with House(tmp_path, {"a": noisy}) as house:
        await house.turns(40)
        with monkeypatch.context() as patch:
            patch.setattr(house.store, "save", unreadable)
            await fit(house)
            await house.turns(1)
        assert house.version() == 2, "a number that the stored ones do not have"
        assert house.active() == 1
        await house.restart()
        await house.turns(1)
        assert house.version() == 2


@pytest.mark.parametrize("after_ms", [10 * G, 2 * HOUR])
async def test_cron_slots_missed_while_stopped_run_together_once(
    tmp_path: Path, after_ms: int
) -> None:
    house = House(tmp_path, {"a": noisy}, {"cron": "*/5 * * * *"})
    async with house:
        await house.turns(8)
        slots = len(house.notes) - 1
        assert 1 <= slots <= 2
        await house.restart()
        await house.turns(2)
        assert [one.trigger for one in house.notes].count("cron") <= slots + 1
        house.notes.clear()
        await house.restart(after_ms)
        await house.turns(1)
        await house.turns(1)
        assert [one.trigger for one in house.notes] == ["cron"]


async def test_when_a_series_was_last_fitted_is_known_after_a_restart(tmp_path: Path) -> None:
    async with House(tmp_path, {"a": noisy}) as house:
        await house.turns(3)
        fitted_ms = house.watch.wishes.last_fit_ms[labels().key]
        for after_ms in (0, 2 * HOUR):
            await house.restart(after_ms)
            await house.turns(2)
            assert house.watch.wishes.last_fit_ms == {labels().key: fitted_ms}
