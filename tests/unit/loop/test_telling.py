"""What the log says of cycles: one line each, unless they are short and go as before."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from sidecar.remote.intake import WriteBlock
from sidecar.series import LabelSet
from sidecar.serve.readings import of_watches
from sidecar.serve.status import NOTHING_FOUND, count_reasons, not_begun
from sidecar.watches import watching
from tests.unit.loop.house import HOUR, G, House


async def test_a_cycle_of_a_minute_is_one_line_though_timers_jitter(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="sidecar.watches.watching")
    async with House(tmp_path, {"a": lambda t: t % 7, "b": lambda t: t % 11}) as house:
        await house.turns(3)
        caplog.clear()
        for jitter_ms in (-900, 0, -700, 300, 0, -5):
            house.now_ms += jitter_ms
            await house.turns(1)
            house.now_ms -= jitter_ms
    cycles = [r.getMessage() for r in caplog.records if "series forecast" in r.getMessage()]
    assert cycles == ["watch x: 2 of 2 series forecast 5m ahead"] * 6


async def test_a_watch_whose_source_never_answers_is_a_source_error(tmp_path: Path) -> None:
    async with House(tmp_path, {"a": lambda t: t % 7}) as house:
        house.reader.down = True
        await house.turns(1)
        assert count_reasons(house.fleet.watches)["source_error"] == 1
        (told,) = not_begun(house.fleet.watches)
        assert told == {"selector": "x", "metric": "x", "error": "connection refused"}
        house.reader.down = False
        await house.turns(2)
        assert not_begun(house.fleet.watches) == ()
        assert count_reasons(house.fleet.watches)["source_error"] == 0


async def test_a_watch_that_finds_nothing_is_told_until_it_does(tmp_path: Path) -> None:
    async with House(tmp_path, {}) as house:
        assert not_begun(house.fleet.watches) == ()  # it has not looked yet
        await house.turns(1)
        (told,) = not_begun(house.fleet.watches)
        assert (told["selector"], told["error"]) == ("x", NOTHING_FOUND)
        assert count_reasons(house.fleet.watches)["source_error"] == 0
        assert _without_series(house) == 1
        house.reader.values["a"] = lambda t: t % 7
        await house.turns(2)
        assert not_begun(house.fleet.watches) == ()
        assert _without_series(house) == 0


@pytest.mark.parametrize("later_ms", [2 * HOUR, -2 * HOUR])
async def test_nothing_old_is_shown_where_a_watch_begins_anew_and_finds_nothing(
    tmp_path: Path, later_ms: int
) -> None:
    async with House(tmp_path, {"a": lambda t: t % 7}) as house:
        await house.turns(2)
        assert house.watch.publisher.page.series
        house.reader.values.clear()
        house.now_ms += later_ms
        await house.turns(1)
        assert house.watch.finds_nothing
        assert not house.watch.publisher.page.series


def _without_series(house: House) -> float:
    found = {one.name: one.values for one in of_watches(house.fleet.watches, ())}
    return found["sentinel_watches_without_series"][()]


class Noting:
    """Takes note of which outputs have samples, and when."""

    def __init__(self) -> None:
        self.sent: dict[str, list[int]] = {}

    async def append(self, blocks: Sequence[WriteBlock]) -> None:
        for block in blocks:
            due = [True] * len(block.labels) if block.due is None else block.due.tolist()
            for name in {
                one.metric for one, is_due in zip(block.labels, due, strict=True) if is_due
            }:
                self.sent.setdefault(name, []).append(block.timestamp_ms)

    async def end_series(self, labels: Sequence[LabelSet], timestamp_ms: int) -> None:
        """Nothing ends here."""


async def test_what_is_caught_up_with_in_pieces_is_predicted_from_the_newest_instant_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "MOST_INSTANTS", 3)
    async with House(tmp_path, {"a": lambda t: t % 7}) as house:
        await house.turns(3)
        sink, origin_ms = Noting(), house.watch.learned.origin_ms
        monkeypatch.setattr(house.watch.publisher, "_sinks", [sink])
        house.now_ms += 8 * G
        await house.watch.turn()
        while house.watch.behind:
            await house.watch.turn()
    assert sink.sent["x_sentinel_predicted"] == [origin_ms + 8 * G]
    assert sink.sent["x_sentinel_expected"] == [origin_ms + G * k for k in range(1, 9)]
