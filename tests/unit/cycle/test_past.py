"""Histories: of which series, how long, and in how many questions."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import numpy as np
import pytest

from sidecar.errors import DataError, Unavailable
from sidecar.names import Reason
from sidecar.series import RawSeries, Selector
from sidecar.watches.past import READ_ONE_BY_ONE, Past
from tests.unit.cycle.helpers import T0, G, labels, rules, sampled

T = TypeVar("T")
WEEK = 7 * 24 * 60


async def at_once(function: Callable[..., T], /, *arguments: object) -> T:
    return function(*arguments)


class Server:
    """Answers reads from memory, refuses what holds too many samples, and counts questions.

    Args:
        now_ms: its clock; it has no later samples.
    """

    def __init__(
        self,
        series: list[RawSeries],
        most: int = 10**9,
        now_ms: Callable[[], int] = lambda: 2**62,
    ) -> None:
        self._series = series
        self._most = most
        self._now_ms = now_ms
        self.away = False
        self.asked: list[tuple[str, int]] = []

    async def read(self, selector: Selector, start_ms: int, end_ms: int) -> list[RawSeries]:
        self.asked.append((str(selector), end_ms - start_ms))
        if self.away:
            raise Unavailable("nobody there")
        found = []
        for one in self._series:
            times = one.timestamps_ms
            here = (times >= start_ms) & (times <= min(end_ms, self._now_ms()))
            if here.any() and selector.accepts(one.labels):
                found.append(RawSeries(one.labels, times[here], one.values[here]))
        if sum(one.values.size for one in found) > self._most:
            raise DataError(Reason.OVER_BUDGET, "too many samples")
        return found

    async def read_slices(
        self, selector: Selector, start_ms: int, end_ms: int
    ) -> AsyncIterator[list[RawSeries]]:
        yield await self.read(selector, start_ms, end_ms)


def wave(seconds: np.ndarray) -> np.ndarray:
    return np.asarray(10 + np.sin(seconds / 900))


def test_of_a_selector_only_the_series_wanted_are_kept() -> None:
    last_week = [sampled(wave, T0 - 600 * G, T0 - 500 * G, name=f"old{k}") for k in range(9)]
    server = Server([sampled(wave, T0 - 600 * G, T0, name=name) for name in "ba"] + last_week)
    past = Past(server, at_once, WEEK * G, WEEK)
    wanted = [labels("a"), labels("not there"), labels("b")]
    found = asyncio.run(past.of_selector(rules(), Selector.of("x"), T0, 3, wanted))
    assert found.labels == (labels("a"), labels("b"))
    assert np.isfinite(found.values[:, -600:]).all()


def test_a_window_of_too_many_samples_is_shortened_once_and_for_all() -> None:
    server = Server([sampled(wave, T0 - 1_000 * G, T0)], most=4 * 300)
    past = Past(server, at_once, 1_000 * G, WEEK)
    r = rules()
    found = asyncio.run(past.of_selector(r, Selector.of("x"), T0, 1, [labels()]))
    assert found.grid.size == 250
    assert np.isfinite(found.values).all()
    assert len(server.asked) == 3
    asyncio.run(past.of_selector(r, Selector.of("x"), T0, 1, [labels()]))
    assert len(server.asked) == 4


def test_where_even_two_instants_are_too_much_there_is_no_history() -> None:
    past = Past(Server([sampled(wave, T0 - 100 * G, T0)], most=0), at_once, 100 * G, WEEK)
    with pytest.raises(DataError, match="too many samples"):
        asyncio.run(past.of_selector(rules(), Selector.of("x"), T0, 1, [labels()]))


def test_a_few_series_are_asked_for_one_by_one_and_many_together() -> None:
    names = [f"s{k:02}" for k in range(READ_ONE_BY_ONE + 1)]
    server = Server([sampled(wave, T0 - 10 * G, T0, name=name) for name in names])
    past, wanted = Past(server, at_once, 10 * G, WEEK), [labels(name) for name in names]
    few = asyncio.run(past.of_series(rules(), wanted[1::-1], T0, len(wanted)))
    assert few.labels == (wanted[1], wanted[0])
    assert len(server.asked) == 2
    many = asyncio.run(past.of_series(rules(), wanted[::-1], T0, len(wanted)))
    assert many.labels == tuple(wanted[::-1])
    assert len(server.asked) == 3


def test_an_expression_is_evaluated_once_for_all_series() -> None:
    server = Server([sampled(wave, T0 - 10 * G, T0, name=name) for name in "abc"])
    past = Past(server, at_once, 10 * G, WEEK, apart=0)
    found = asyncio.run(past.of_series(rules(), [labels("c"), labels("a")], T0, 3))
    assert found.labels == (labels("c"), labels("a"))
    assert [selector for selector, _ in server.asked] == ["x"]


def test_of_no_series_nothing_is_asked() -> None:
    server = Server([sampled(wave, T0 - 10 * G, T0)])
    found = asyncio.run(Past(server, at_once, 10 * G, WEEK).of_series(rules(), [], T0, 1))
    assert found.labels == ()
    assert server.asked == []
