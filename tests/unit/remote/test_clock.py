"""The server's clock, from Date headers that are a second wide and late."""

from email.utils import formatdate

from hypothesis import given
from hypothesis import strategies as st

from sidecar.remote.clock import ServerClock, parse_http_date


class _Mono:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _observe(clock: ServerClock, mono: _Mono, server_offset: float, latency_s: float) -> None:
    """One round trip: the server stamps its answer half-way."""
    sent = mono.now
    stamp = mono.now + latency_s / 2 + server_offset
    mono.now += latency_s
    clock.observe(formatdate(int(stamp), usegmt=True), sent, mono.now)


@given(
    st.floats(1e9, 1.9e9),
    st.lists(st.tuples(st.floats(0.001, 5.0), st.floats(0.0, 100.0)), min_size=1, max_size=30),
)
def test_it_never_claims_a_later_time_than_the_server_shows(
    offset: float, trips: list[tuple[float, float]]
) -> None:
    mono = _Mono()
    clock = ServerClock(mono)
    for latency, pause in trips:
        _observe(clock, mono, offset, latency)
        mono.now += pause
        earliest = clock.earliest_now_s()
        assert earliest is not None
        assert earliest <= mono.now + offset + 1e-6
        assert (
            clock.skew_s(mono.now + offset) in (0.0, -0.0)
            or abs(clock.skew_s(mono.now + offset) or 0.0) < 1e-3
        )


def test_several_answers_tell_more_than_one() -> None:
    mono = _Mono()
    clock = ServerClock(mono)
    for _ in range(20):
        _observe(clock, mono, 1.7e9, 0.01)
        mono.now += 0.37
    earliest = clock.earliest_now_s()
    assert earliest is not None
    assert mono.now + 1.7e9 - earliest < 0.15


def test_a_server_clock_that_is_stepped_is_believed_at_once() -> None:
    for step in (-3600.0, 3600.0, -5.0):
        mono = _Mono()
        clock = ServerClock(mono)
        _observe(clock, mono, 1.7e9, 0.01)
        mono.now += 10
        _observe(clock, mono, 1.7e9 + step, 0.01)
        skew = clock.skew_s(mono.now + 1.7e9)
        earliest = clock.earliest_now_s()
        assert skew is not None
        assert earliest is not None
        assert abs(skew + step) < 2.1
        assert -2.1 < earliest - (mono.now + 1.7e9 + step) <= 1e-6


def test_nothing_is_known_before_an_answer_with_a_date() -> None:
    clock = ServerClock(_Mono())
    for date in (None, "", "yesterday", "Thu, 99 Foo 2020 00:00:00 GMT"):
        clock.observe(date, 0.0, 1.0)
    assert not clock.known
    assert clock.earliest_now_s() is None
    assert clock.skew_s(0.0) is None


def test_skew_has_the_sign_of_own_minus_server() -> None:
    mono = _Mono()
    clock = ServerClock(mono)
    _observe(clock, mono, 1.7e9, 0.01)
    ahead, behind = clock.skew_s(mono.now + 1.7e9 + 120), clock.skew_s(mono.now + 1.7e9 - 120)
    assert ahead is not None
    assert behind is not None
    assert 118 < ahead <= 120
    assert -120 <= behind < -118


@given(st.text())
def test_no_date_raises(text: str) -> None:
    parse_http_date(text)
