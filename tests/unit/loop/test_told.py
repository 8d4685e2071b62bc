"""What an operator is told of the version that serves, and where a rollback leads."""

from pathlib import Path

import pytest

from sidecar.cli.explain import described
from sidecar.cli.status import lines
from sidecar.learning.schedule import Trigger
from sidecar.serve.status import series_facts
from tests.unit.loop.house import House, fit, labels, noisy


async def test_the_figures_of_the_fit_are_those_on_record_whatever_comes_after(
    tmp_path: Path,
) -> None:
    async with House(tmp_path, {"a": noisy}) as house:
        await house.turns(1)
        (record,) = house.store.versions(house.watch.watch_id, labels())
        for _ in range(3):
            await house.turns(5)
            (one,) = series_facts(house.fleet.watches).values()
            assert one["active_version_mae"] == record.mae


async def test_after_a_rollback_time_and_error_of_the_fit_are_the_earlier_versions(
    tmp_path: Path,
) -> None:
    async with House(tmp_path, {"a": noisy}) as house:
        await house.turns(1)
        (first,) = series_facts(house.fleet.watches).values()
        await house.turns(9)
        await fit(house, Trigger.OPERATOR)
        await house.turns(1)
        (second,) = series_facts(house.fleet.watches).values()
        assert second["last_train"] > first["last_train"]
        await house.operator.rollback("x", {})
        await house.turns(1)
        (back,) = series_facts(house.fleet.watches).values()
        named = ("active_version", "last_train", "active_version_mae")
        assert [back[name] for name in named] == [first[name] for name in named]


async def test_a_rollback_never_leads_forwards(tmp_path: Path) -> None:
    async with House(tmp_path, {"a": noisy}) as house:
        await house.turns(3)
        for _ in range(2):
            await fit(house, Trigger.OPERATOR)
            await house.turns(1)
        assert house.active() == 3
        for earlier in (2, 1):
            await house.operator.rollback("x", {})
            await house.turns(1)
            assert (house.version(), house.active()) == (earlier, earlier)
        (refused,) = await house.operator.rollback("x", {})
        assert "no earlier version" in str(refused.error)
        assert house.active() == 1


@pytest.mark.parametrize("pinned", [True, False])
async def test_a_pin_is_shown_wherever_a_series_is(tmp_path: Path, pinned: bool) -> None:
    async with House(tmp_path, {"a": noisy}) as house:
        await house.turns(1)
        await house.operator.pin("x", {}, pinned=pinned)
        facts = series_facts(house.fleet.watches)
        (one,) = facts.values()
        assert one["pinned"] is pinned
        shown = [lines(facts)[0], "\n".join(map(str, described("x", one, [], [], 100)))]
        assert [("serving, pinned" in text) for text in shown] == [pinned, pinned]
