import math

import numpy as np
import pytest

from deploy.demo_stack.generator import DAY_S, RESET_AFTER_S, Signal, Spell, page, signals
from sidecar.names import is_own_output

EPOCH = 1_700_000_000.0


def signal(name: str, label: str = "") -> Signal:
    return next(
        s for s in signals(EPOCH) if s.name == name and (label in s.labels.values() or not label)
    )


def test_history_and_live_scrapes_agree_whenever_they_are_made() -> None:
    first, again = signals(EPOCH), signals(EPOCH)
    at = EPOCH + 12_345.678
    assert page(first, at, ()) == page(again, at, ())


def test_users_come_back_after_a_day() -> None:
    users = signal("demo_active_users")
    one = np.array([users.value_at(EPOCH + t, ()) for t in range(0, 1800, 15)])
    next_day = np.array([users.value_at(EPOCH + DAY_S + t, ()) for t in range(0, 1800, 15)])
    assert np.corrcoef(one, next_day)[0, 1] > 0.98
    assert one.max() - one.min() > 300


@pytest.mark.parametrize("route", ["/search", "/checkout"])
def test_the_counters_rise_but_for_one_reset(route: str) -> None:
    requests = signal("demo_requests_total", route)
    values = np.array([requests.value_at(EPOCH + t, ()) for t in range(0, 7200, 5)])
    falls = np.flatnonzero(np.diff(values) < 0)
    assert falls.tolist() == [math.ceil(RESET_AFTER_S / 5) - 1]
    assert values.min() >= 0


def test_a_counters_slope_is_its_rate() -> None:
    requests = signal("demo_requests_total", "/search")
    at = EPOCH + 3000.0
    slope = (requests.value_at(at + 30, ()) - requests.value_at(at - 30, ())) / 60
    assert slope == pytest.approx(80 + 50 * math.sin(2 * math.pi * at / DAY_S), rel=0.02)


def test_drift_multiplies_users_while_it_lasts() -> None:
    users = signal("demo_active_users")
    spell = Spell(2.0, EPOCH + 100, EPOCH + 200)
    plain, drifted = users.value_at(EPOCH + 150, ()), users.value_at(EPOCH + 150, [spell])
    assert drifted == pytest.approx(2 * plain, abs=2)
    assert users.value_at(EPOCH + 200, [spell]) == users.value_at(EPOCH + 200, ())
    assert users.value_at(EPOCH + 99, [spell]) == users.value_at(EPOCH + 99, ())


def test_a_counter_does_not_fall_when_drift_ends() -> None:
    requests = signal("demo_requests_total", "/search")
    spell = Spell(3.0, EPOCH + 1000, EPOCH + 1100)
    values = np.array([requests.value_at(EPOCH + t, [spell]) for t in range(900, 1300)])
    assert (np.diff(values) >= 0).all()
    during, after = values[150] - values[120], values[350] - values[320]
    assert during > 2 * after


def test_no_series_of_the_demo_looks_like_our_own_output() -> None:
    assert not any(is_own_output(one.name) for one in signals(EPOCH))
