"""Cron slots, spreading, and the queue of fits."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.learning.schedule import (
    AGEING_MS,
    MINUTE_MS,
    Cron,
    CronTrigger,
    FitQueue,
    Mode,
    Slot,
    Trigger,
    spread_ms,
)

HOUR = 60 * MINUTE_MS
DAY = 24 * HOUR
BERLIN = "Europe/Berlin"


def at(text: str, zone: str = "UTC") -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def utc(t_ms: int) -> str:
    return datetime.fromtimestamp(t_ms / 1000, UTC).isoformat(timespec="minutes")[:-6]


def slots(cron: Cron, start_ms: int, end_ms: int) -> list[Slot]:
    found, t_ms = [], start_ms
    while (slot := cron.next_after(t_ms)).due_ms <= end_ms:
        found.append(slot)
        t_ms = slot.due_ms
    return found


def test_slots_come_in_order_each_once() -> None:
    found = slots(Cron("0 */6 * * *"), at("2025-03-01"), at("2025-03-03"))
    assert [utc(slot.due_ms) for slot in found][:3] == [
        "2025-03-01T06:00",
        "2025-03-01T12:00",
        "2025-03-01T18:00",
    ]
    assert found[0].id == "2025-03-01T06:00[UTC]"
    assert len({slot.id for slot in found}) == len(found) == 8


def test_a_slot_in_the_hour_that_comes_twice_runs_once() -> None:
    found = slots(Cron("30 2 * * *", BERLIN), at("2025-10-25T12:00"), at("2025-10-27T12:00"))
    assert [slot.id for slot in found] == [
        "2025-10-26T02:30[Europe/Berlin]",
        "2025-10-27T02:30[Europe/Berlin]",
    ]
    assert utc(found[0].due_ms) == "2025-10-26T00:30"  # the first of the two, still summer time


def test_a_slot_in_the_hour_that_is_skipped_runs_as_the_clocks_go_forward() -> None:
    found = slots(Cron("30 2 * * *", BERLIN), at("2025-03-29T12:00"), at("2025-03-31T12:00"))
    assert [utc(slot.due_ms) for slot in found] == ["2025-03-30T01:00", "2025-03-31T00:30"]
    assert found[0].id == "2025-03-30T02:30[Europe/Berlin]"


@pytest.mark.parametrize("zone", [BERLIN, "America/New_York", "Australia/Lord_Howe", "UTC"])
@pytest.mark.parametrize("expression", ["30 2 * * *", "*/15 * * * *", "0 * * * *", "59 1 * * 0"])
def test_polling_each_minute_through_a_year_of_clock_changes_runs_each_slot_once(
    zone: str, expression: str
) -> None:
    changes = ["2025-03-08", "2025-03-29", "2025-04-05", "2025-10-04", "2025-10-25", "2025-11-01"]
    ran: list[Slot] = []
    for day in changes:
        trigger = CronTrigger(Cron(expression, zone))
        polled = [trigger.poll(at(day) + k * MINUTE_MS) for k in range(3 * 24 * 60)]
        ran += [slot for slot in polled if slot]
    assert len({slot.id for slot in ran}) == len(ran)
    dues = [slot.due_ms for slot in ran]
    assert sorted(dues) == dues
    if expression == "30 2 * * *":  # once a day, whatever the clocks did
        assert len(ran) in (17, 18)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40 * 365 * DAY), st.sampled_from(["*/7 3 * * *", "5 4 1 * *", "0 0 * * 1"]))
def test_the_latest_slot_is_the_one_before_the_next(t_ms: int, expression: str) -> None:
    cron = Cron(expression, BERLIN)
    latest, following = cron.latest(t_ms), cron.next_after(t_ms)
    assert latest.due_ms <= t_ms < following.due_ms
    assert cron.next_after(latest.due_ms) == following
    assert cron.latest(following.due_ms - 1) == latest
    assert cron.latest(latest.due_ms).due_ms == latest.due_ms


def test_missed_slots_run_together_once() -> None:
    trigger = CronTrigger(Cron("*/5 * * * *"))
    assert trigger.poll(at("2025-01-01T00:01")) is None
    slot = trigger.poll(at("2025-01-01T03:02"))
    assert slot is not None
    assert slot.id == "2025-01-01T03:00[UTC]"
    assert trigger.poll(at("2025-01-01T03:03")) is None
    assert trigger.poll(at("2025-01-01T03:05")) is not None


def test_a_restart_runs_what_was_missed_and_not_what_has_run() -> None:
    cron = Cron("0 */6 * * *")
    before = CronTrigger(cron)
    before.poll(at("2025-01-01T05:00"))
    ran = before.poll(at("2025-01-01T06:00"))
    assert ran is not None
    assert CronTrigger(cron, last=ran).poll(at("2025-01-01T06:01")) is None
    missed = CronTrigger(cron, last=ran).poll(at("2025-01-01T13:00"))
    assert missed is not None
    assert missed.id == "2025-01-01T12:00[UTC]"


def test_a_first_start_does_not_run_the_slot_before_it() -> None:
    assert CronTrigger(Cron("0 */6 * * *")).poll(at("2025-01-01T06:00:01")) is None


def test_a_clock_that_goes_back_an_hour_runs_no_slot_again() -> None:
    trigger = CronTrigger(Cron("*/30 * * * *"))
    trigger.poll(at("2025-01-01T00:00"))
    ran = [trigger.poll(at("2025-01-01T00:30") + k * MINUTE_MS) for k in range(60)]
    again = [trigger.poll(at("2025-01-01T00:25") + k * MINUTE_MS) for k in range(65)]
    assert sum(slot is not None for slot in ran) == 2
    assert [slot for slot in again if slot] == []


def test_a_clock_that_was_a_year_ahead_does_not_silence_cron_for_a_year() -> None:
    trigger = CronTrigger(Cron("0 * * * *"))
    trigger.poll(at("2026-01-01T00:00"))
    assert trigger.poll(at("2026-01-01T01:00")) is not None
    ran = [trigger.poll(at("2025-01-01T00:10") + k * MINUTE_MS) for k in range(180)]
    assert sum(slot is not None for slot in ran) == 3


def test_an_offset_delays_every_run_by_the_same() -> None:
    trigger = CronTrigger(Cron("0 * * * *"), offset_ms=10 * MINUTE_MS)
    trigger.poll(at("2025-01-01T00:30"))
    assert trigger.poll(at("2025-01-01T01:09:59")) is None
    assert trigger.poll(at("2025-01-01T01:10")) is not None
    assert trigger.poll(at("2025-01-01T02:09:59")) is None
    assert trigger.poll(at("2025-01-01T02:10")) is not None


@pytest.mark.parametrize("year", ["1970-01-02", "2038-01-20", "2100-03-01"])
def test_any_year_will_do(year: str) -> None:
    assert utc(Cron("0 12 * * *").next_after(at(year)).due_ms) == f"{year}T12:00"


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        (Cron("0 0 31 2 *"), "never comes"),
        (Cron("61 * * * *"), "not a cron expression"),
        (Cron("* * * *"), "five fields"),
        (Cron("* * * * * *"), "five fields"),
        (Cron(""), "five fields"),
        (Cron("@daily"), "five fields"),
        (Cron("a b c d e"), "not a cron expression"),
        (Cron("0 0 * * *", "Mars/Olympus"), "'Europe/Berlin'"),
        (Cron("0 0 * * *", "../etc/passwd"), "'Europe/Berlin'"),
        (Cron("0 0 * * *", ""), "'Europe/Berlin'"),
    ],
)
def test_what_cannot_be_a_schedule_is_told_with_what_to_write(cron: Cron, message: str) -> None:
    problem = cron.problem()
    assert problem is not None
    assert message in problem


@pytest.mark.parametrize("expression", ["0 */6 * * *", "* * * * *", "0 0 29 2 *", "5 4 * * sun"])
def test_a_schedule_that_comes_is_fine(expression: str) -> None:
    assert Cron(expression, BERLIN).problem() is None


def test_offsets_are_spread_evenly_and_stay_the_same() -> None:
    offsets = np.array([spread_ms(f"watch-{k}", HOUR) for k in range(2_000)])
    assert offsets.min() >= 0
    assert offsets.max() < HOUR
    counts, _ = np.histogram(offsets, bins=10, range=(0, HOUR))
    assert counts.min() > 120
    assert spread_ms("a", HOUR) == 1783343  # in every process, for ever
    assert spread_ms("a", 0) == 0


# The queue


def push(
    queue: FitQueue,
    watch: str,
    count: int,
    trigger: Trigger,
    now_ms: int = 0,
    mode: Mode = Mode.FULL,
) -> None:
    queue.push(watch, [f"{watch}-{trigger}-{k}" for k in range(count)], trigger, mode, now_ms)


def order(queue: FitQueue, now_ms: int = 0, most: int = 10) -> list[tuple[str, str, int]]:
    found = []
    while (batch := queue.pop(now_ms, most)) is not None:
        found.append((batch.watch, batch.trigger.name, len(batch.series)))
    return found


def test_first_fits_go_before_the_operators_before_drift_before_cron() -> None:
    queue = FitQueue()
    for trigger in (Trigger.CRON, Trigger.DRIFT, Trigger.CONFIG, Trigger.OPERATOR, Trigger.FIRST):
        push(queue, "w", 1, trigger)
    assert [name for _, name, _ in order(queue)] == ["FIRST", "OPERATOR", "CONFIG", "DRIFT", "CRON"]


def test_watches_take_turns() -> None:
    queue = FitQueue()
    push(queue, "large", 40, Trigger.FIRST)
    push(queue, "small", 10, Trigger.FIRST)
    assert [watch for watch, _, _ in order(queue)] == ["large", "small", "large", "large", "large"]


def test_a_series_waits_once_with_its_most_urgent_reason_and_most_thorough_way() -> None:
    queue = FitQueue()
    queue.push("w", ["a"], Trigger.CRON, Mode.FULL, 1)
    queue.push("w", ["a"], Trigger.DRIFT, Mode.FINETUNE, 2, [4.5])
    queue.push("w", ["a"], Trigger.CRON, Mode.FINETUNE, 3)
    assert len(queue) == 1
    batch = queue.pop(10, 10)
    assert batch is not None
    (request,) = batch.requests
    assert (batch.trigger, batch.mode) == (Trigger.DRIFT, Mode.FULL)
    assert (request.queued_ms, request.drift) == (1, 4.5)
    assert queue.pop(10, 10) is None
    assert len(queue) == 0


def test_a_batch_is_of_one_watch_one_reason_and_one_way() -> None:
    queue = FitQueue()
    push(queue, "w", 2, Trigger.DRIFT, mode=Mode.FULL)
    queue.push("w", ["x"], Trigger.DRIFT, Mode.FINETUNE, 0)
    assert sorted(order(queue)) == [("w", "DRIFT", 1), ("w", "DRIFT", 2)]


def test_cron_and_drift_keep_to_the_budget_and_it_refills() -> None:
    queue = FitQueue(per_minute=100)
    push(queue, "w", 250, Trigger.CRON)
    assert sum(count for _, _, count in order(queue, 0, 40)) == 100
    assert order(queue, 30_000, 40) == [("w", "CRON", 40), ("w", "CRON", 10)]
    assert sum(count for _, _, count in order(queue, 10 * MINUTE_MS, 40)) == 100
    assert len(queue) == 0


def test_first_fits_and_an_operators_are_not_held_back_but_counted() -> None:
    queue = FitQueue(per_minute=100)
    push(queue, "w", 300, Trigger.FIRST)
    push(queue, "w", 30, Trigger.OPERATOR)
    push(queue, "w", 10, Trigger.CRON)
    found = order(queue, 0, 1_000)
    assert found == [("w", "FIRST", 300), ("w", "OPERATOR", 30)]
    assert order(queue, MINUTE_MS, 1_000) == [("w", "CRON", 10)]


def test_a_clock_that_goes_back_gives_no_budget_and_takes_none() -> None:
    queue = FitQueue(per_minute=10)
    push(queue, "w", 30, Trigger.CRON)
    assert sum(count for _, _, count in order(queue, DAY)) == 10
    assert order(queue, 0) == []
    assert sum(count for _, _, count in order(queue, MINUTE_MS)) == 10


def test_a_storm_of_drift_does_not_starve_cron_for_ever() -> None:
    queue = FitQueue(per_minute=1_000_000)
    push(queue, "patient", 1, Trigger.CRON, now_ms=0)
    for minute in range(60):
        now_ms = minute * MINUTE_MS
        push(queue, f"storm-{minute}", 5, Trigger.DRIFT, now_ms=now_ms)
        batch = queue.pop(now_ms, 5)
        assert batch is not None
        if batch.watch == "patient":
            assert AGEING_MS <= now_ms <= 2 * AGEING_MS
            return
    pytest.fail("cron never had its turn")


def test_what_a_watch_waits_for_can_be_dropped() -> None:
    queue = FitQueue()
    queue.push("w", ["a", "b"], Trigger.CRON, Mode.FULL, 0)
    queue.push("v", ["a"], Trigger.CRON, Mode.FULL, 0)
    assert {request.series for request in queue.waiting("w")} == {"a", "b"}
    queue.drop("w", ["a"])
    assert [request.series for request in queue.waiting("w")] == ["b"]
    queue.drop("w")
    assert queue.waiting("w") == ()
    assert len(queue) == 1


def test_ten_thousand_series_of_a_thousand_watches_are_all_fitted_once() -> None:
    queue = FitQueue(per_minute=100_000)
    for watch in range(1_000):
        push(queue, f"w{watch}", 10, Trigger.CRON)
    seen: set[str] = set()
    while (batch := queue.pop(0, 1_000)) is not None:
        assert not seen & set(batch.series)
        seen |= set(batch.series)
    assert len(seen) == 10_000
