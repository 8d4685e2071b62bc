"""The ramp after an outage, the breaker, the quarantine."""

import asyncio
import itertools

from hypothesis import given
from hypothesis import strategies as st

from sidecar.remote.gate import Timing
from sidecar.remote.pace import Breaker, Pace
from sidecar.remote.quarantine import Quarantine, as_text
from sidecar.series import LabelSet


class _Time:
    def __init__(self) -> None:
        self.now = 0.0
        self.timing = Timing(lambda: self.now, lambda: self.now, self.sleep, lambda: 0.5)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


async def test_after_an_outage_requests_leave_with_gaps_that_shrink_to_none() -> None:
    time = _Time()
    pace = Pace("here", time.timing)
    pace.failed(ValueError("down"))
    time.now += 3600
    states = [pace.in_outage]
    pace.succeeded()
    assert [*states, pace.in_outage] == [True, False]
    left: list[float] = []
    for _ in range(40):
        await pace.turn()
        left.append(time.now)
        pace.succeeded()
    gaps = [b - a for a, b in itertools.pairwise(left)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.2
    assert gaps[-1] == 0.0
    assert left[-1] - left[0] < 3.0


async def test_a_hiccup_is_no_outage() -> None:
    time = _Time()
    pace = Pace("here", time.timing)
    pace.failed(ValueError("down"))
    time.now += 5
    pace.succeeded()
    await pace.turn()
    await pace.turn()
    assert time.now == 5


def test_the_breaker_opens_when_everything_is_refused_and_for_longer_each_time() -> None:
    time = _Time()
    breaker = Breaker(time.timing)
    pauses = []
    for wave in range(10):
        refusals = 0
        while not breaker.is_open:
            refusals += 1
            assert breaker.refused() is breaker.is_open
        assert refusals == (32 if wave == 0 else 16)
        pauses.append(breaker.pause_s)
        time.now += breaker.pause_s
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600]
    breaker.succeeded()
    for _ in range(32):
        breaker.refused()
    assert breaker.pause_s == 60


def test_a_success_between_refusals_keeps_the_breaker_shut_unless_they_are_very_many() -> None:
    time = _Time()
    breaker = Breaker(time.timing)
    opened = 0
    while not breaker.is_open:
        opened += 1
        breaker.refused()
        breaker.succeeded()
    assert opened == 256
    time.now += 1000
    for _ in range(1000):
        breaker.refused()
        breaker.succeeded()
        time.now += 1.0
    assert not breaker.is_open


A = LabelSet.of({"__name__": "a", "v": 'quote " slash \\ ünï \n'})


def test_pauses_double_up_to_the_longest_and_are_forgotten_after_good_conduct() -> None:
    quarantine = Quarantine(60_000, 3_600_000)
    now, lengths = 0, []
    for _ in range(8):
        pause = quarantine.put(A, now)
        lengths.append(pause.length_ms // 1000)
        assert A in quarantine.active(pause.until_ms - 1)
        assert A not in quarantine.active(pause.until_ms)
        now = pause.until_ms + 1
        assert quarantine.settle(now) == []
    assert lengths == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert quarantine.settle(now + 3_600_001) == [A]
    assert quarantine.put(A, now).pauses == 1


def test_a_quarantine_is_taken_over_by_the_next_process() -> None:
    quarantine = Quarantine(60_000, 3_600_000)
    quarantine.put(A, 0)
    pause = quarantine.put(A, 0)
    again = Quarantine(60_000, 3_600_000)
    again.load([(as_text(A), pause.until_ms, pause.pauses)])
    assert again.active(pause.until_ms - 1) == {A}
    assert again.put(A, 0).pauses == 3


@given(st.integers(0, 10**13))
def test_a_clock_that_is_stepped_back_locks_nobody_out_for_ever(now_ms: int) -> None:
    quarantine = Quarantine(60_000, 3_600_000)
    quarantine.put(A, now_ms + 10**12)
    quarantine.settle(now_ms)
    assert not quarantine.active(now_ms + 60_000)


def test_who_is_in_quarantine_may_be_asked_while_another_thread_puts_series_there() -> None:
    quarantine = Quarantine(60_000, 3_600_000)
    a, b = (LabelSet.of({"__name__": name}) for name in "ab")

    class Now(int):
        """Compares as another thread steps in."""

        def __lt__(self, other: int) -> bool:
            quarantine.put(b, 0)
            return int(self) < other

    quarantine.put(a, 0)
    assert quarantine.active(Now(1)) == {a}
    assert quarantine.active(1) == {a, b}
