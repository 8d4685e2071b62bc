"""What the log says of cycles: one line each, unless they are short and go as before."""

import logging
from pathlib import Path

import pytest

from sidecar.serve.status import count_reasons, not_begun
from tests.unit.loop.house import House


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
