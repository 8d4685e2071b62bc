"""Calls that share a request, and reads that take turns."""

import asyncio
from collections.abc import Sequence

import pytest

from sidecar.errors import Rejected, Unavailable
from sidecar.remote.batches import Batches
from sidecar.remote.turns import ReadTurns


class _Server:
    """Doubles numbers; refuses those in ``bad``; ``down`` answers nobody."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.bad: set[int] = set()
        self.deadly: set[int] = set()
        self.under_way = self.at_once = 0

    async def run(self, items: Sequence[int]) -> list[int]:
        self.seen.append(list(items))
        self.under_way += 1
        self.at_once = max(self.at_once, self.under_way)
        await asyncio.sleep(0.001)
        self.under_way -= 1
        if self.deadly.intersection(items):
            raise Unavailable("no answer")
        if self.bad.intersection(items):
            raise Rejected("bad", status=400)
        return [2 * item for item in items]


async def test_each_call_gets_its_own_result_and_waiting_ones_share_a_request() -> None:
    server = _Server()
    batches = Batches(server.run, int, at_once=2, most=100)
    found = await asyncio.gather(*(batches.ask(i) for i in range(500)))
    assert found == [2 * i for i in range(500)]
    assert len(server.seen) <= 6
    assert server.at_once <= 2
    assert sorted(i for one in server.seen for i in one) == list(range(500))


async def test_a_lone_call_is_not_delayed() -> None:
    server = _Server()
    batches = Batches(server.run, int)
    assert await batches.ask(21) == 42
    assert server.seen == [[21]]


async def test_one_bad_call_harms_no_other() -> None:
    server = _Server()
    server.bad = {7, 123}
    batches = Batches(server.run, int)
    found = await asyncio.gather(*(batches.ask(i) for i in range(300)), return_exceptions=True)
    assert [i for i, one in enumerate(found) if isinstance(one, Rejected)] == [7, 123]
    assert [one for i, one in enumerate(found) if i not in (7, 123)] == [
        2 * i for i in range(300) if i not in (7, 123)
    ]


async def test_where_nobody_answers_all_are_told_and_meet_in_half_the_company() -> None:
    server = _Server()
    server.deadly = {3}
    batches = Batches(server.run, int, at_once=1, most=64)
    left, sizes = list(range(64)), []
    for _ in range(7):
        found = await asyncio.gather(*(batches.ask(i) for i in left), return_exceptions=True)
        left = [i for i, one in zip(left, found, strict=True) if isinstance(one, Unavailable)]
        sizes.append(len(left))
    assert sizes == [64, 32, 16, 8, 4, 2, 1]
    assert left == [3]
    server.deadly = set()
    assert await batches.ask(3) == 6
    before = len(server.seen)
    for _ in range(3):
        await asyncio.gather(*(batches.ask(i) for i in range(64)))
    assert len(server.seen[-1]) == 64
    assert len(server.seen) - before < 64


async def test_a_call_that_is_cancelled_leaves_the_others_alone() -> None:
    server = _Server()
    batches = Batches(server.run, int, at_once=1)
    tasks = [asyncio.create_task(batches.ask(i)) for i in range(10)]
    await asyncio.sleep(0)
    tasks[5].cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[5], asyncio.CancelledError)
    assert [one for i, one in enumerate(found) if i != 5] == [2 * i for i in range(10) if i != 5]


async def test_closing_lets_nobody_wait_for_ever() -> None:
    server = _Server()
    batches = Batches(server.run, int, at_once=1, most=1)
    tasks = [asyncio.create_task(batches.ask(i)) for i in range(5)]
    await asyncio.sleep(0)
    await batches.close()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in found)


class _Time:
    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


async def test_a_slow_answer_is_followed_by_a_pause_and_a_fast_one_is_not() -> None:
    time = _Time()
    turns = ReadTurns(monotonic_s=time.monotonic, sleep=time.sleep)
    for latency in (0.05, 0.06, 0.3, 0.05, 60.0):
        async with turns.turn():
            turns.observe(latency)
    async with turns.turn():
        pass
    assert time.slept == pytest.approx([0.3, 5.0])
    assert turns.pauses == 2


async def test_a_server_that_was_always_slow_gets_no_pauses() -> None:
    time = _Time()
    turns = ReadTurns(monotonic_s=time.monotonic, sleep=time.sleep)
    for _ in range(10):
        async with turns.turn():
            turns.observe(2.0)
    assert time.slept == []
