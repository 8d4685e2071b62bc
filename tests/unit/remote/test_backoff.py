"""How long to wait, whatever the server says about it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import Rejected, Unavailable
from sidecar.remote.backoff import (
    FOREVER,
    LONGEST_RETRY_AFTER_S,
    BackoffSettings,
    delay_s,
    parse_retry_after,
    retried,
)


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_never_above_the_cap_and_never_negative(failures: int, drawn: float) -> None:
    assert 0 <= delay_s(failures, FOREVER, draw=lambda: drawn) <= FOREVER.cap_s


def test_the_ceiling_doubles_until_the_cap() -> None:
    ceilings = [delay_s(n, FOREVER, draw=lambda: 1.0) for n in range(1, 9)]
    assert ceilings == [1, 2, 4, 8, 16, 32, 60, 60]


@given(st.integers(1, 100), st.floats(allow_nan=True), st.floats(0, 1, exclude_max=True))
def test_what_the_server_asks_for_lengthens_a_delay_and_only_up_to_five_minutes(
    failures: int, asked: float, drawn: float
) -> None:
    plain = delay_s(failures, FOREVER, draw=lambda: drawn)
    delay = delay_s(failures, FOREVER, asked, draw=lambda: drawn)
    assert plain <= delay <= max(plain, LONGEST_RETRY_AFTER_S)
    if plain <= asked <= LONGEST_RETRY_AFTER_S:
        assert delay == asked


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0.0),
        (" 7 ", 7.0),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("1e9", None),
        ("-1", None),
        ("", None),
        ("soon", None),
        ("٣", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(
    text: str | None, expected: float | None
) -> None:
    assert parse_retry_after(text, now_s=100.0) == expected


@given(st.text())
def test_no_retry_after_raises_or_gives_less_than_nothing(text: str) -> None:
    seconds = parse_retry_after(text, 0.0)
    assert seconds is None or seconds >= 0


def test_a_number_of_400_digits_is_clamped() -> None:
    asked = parse_retry_after("9" * 400, 0.0)
    assert delay_s(1, FOREVER, asked, draw=lambda: 0.5) == LONGEST_RETRY_AFTER_S


class _Clock:
    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


async def test_an_operation_is_tried_again_until_it_succeeds() -> None:
    clock, failures = _Clock(), [Unavailable("a"), Unavailable("b", retry_after_s=9.0)]

    async def operation() -> str:
        if failures:
            raise failures.pop(0)
        return "done"

    settings = BackoffSettings(attempts=3)
    found = await retried(
        operation, settings, sleep=clock.sleep, draw=lambda: 0.5, monotonic=clock.monotonic
    )
    assert found == "done"
    assert clock.slept == [0.5, 9.0]


@pytest.mark.parametrize(
    "settings", [BackoffSettings(attempts=3), BackoffSettings(base_s=10.0, budget_s=20.0)]
)
async def test_attempts_and_budget_end_it_with_the_last_error(settings: BackoffSettings) -> None:
    clock, calls = _Clock(), 0

    async def operation() -> None:
        nonlocal calls
        calls += 1
        raise Unavailable(f"failure {calls}")

    with pytest.raises(Unavailable, match="failure") as caught:
        await retried(
            operation, settings, sleep=clock.sleep, draw=lambda: 0.9, monotonic=clock.monotonic
        )
    assert str(caught.value) == f"failure {calls}"
    assert calls == (3 if settings.attempts else 2)


async def test_what_will_always_fail_is_not_tried_again() -> None:
    calls = 0

    async def operation() -> None:
        nonlocal calls
        calls += 1
        raise Rejected("no")

    with pytest.raises(Rejected):
        await retried(operation, FOREVER)
    assert calls == 1
