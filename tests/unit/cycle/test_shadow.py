"""A promoted version clearly worse than its predecessor is rolled back by itself, once."""

from dataclasses import replace

import numpy as np

from sidecar.cycle import CycleRules, advance
from sidecar.known import Known, adopt
from sidecar.learning.gate import GateSettings
from sidecar.models.contract import ForecastModel, State
from sidecar.shadow import WINDOW
from tests.unit.cycle.helpers import (
    T0,
    G,
    begun,
    cycles,
    fitted,
    history,
    labels,
    model,
    rules,
    sampled,
)

DAY = 288 * G


def line(seconds: np.ndarray) -> np.ndarray:
    return np.asarray(5.0 + 0.01 * (seconds - T0 / 1000) + 0.05 * np.sin(seconds / 7))


def other(seconds: np.ndarray) -> np.ndarray:
    return np.asarray(100.0 - 0.5 * (seconds - T0 / 1000) + np.sin(seconds / 11))


RAW = [sampled(line, T0 - DAY, T0 + 200 * G, name=name) for name in ("a", "b")]


def promoted(worse: bool) -> tuple[ForecastModel[State], CycleRules, Known]:
    """A watch whose series a got a second version, fitted on its own past or on another series'."""
    which, r = model("exponential_smoothing"), rules(gate=GateSettings())
    known = begun(r, which, history(r, RAW))
    past = history(r, [sampled(other if worse else line, T0 - DAY, T0, name="a")])
    return which, r, adopt(which, known, fitted(which, past, version=2))


def test_a_worse_version_goes_back_to_its_predecessor_once_and_is_named() -> None:
    which, r, known = promoted(worse=True)
    assert known.versions.tolist() == [2, 1]
    stuck = known
    found = []
    for _ in range(WINDOW + 5):
        instant = stuck.origin_ms + G
        stuck, result = advance(r, which, stuck, RAW, instant)
        # The state is held at what it learned from the other series, as a model that cannot adapt.
        if stuck.versions[0] == 2:
            stuck = replace(stuck, state=_held(stuck.state, known.state))
        found.append(result.rolled_back)
    assert [switch for switches in found for switch in switches] == [(labels("a"), 2, 1)]
    assert stuck.versions.tolist() == [1, 1]
    assert stuck.shadow is None
    _, after = advance(r, which, stuck, RAW, stuck.origin_ms + G)
    truth = line(after.forecast.instants_ms / 1000)
    np.testing.assert_allclose(after.forecast.mean[0], truth, atol=0.5)


def test_a_version_as_good_as_its_predecessor_stays_and_the_shadow_ends() -> None:
    which, r, known = promoted(worse=False)
    known, found = cycles(r, which, known, RAW, WINDOW + 1)
    assert known.versions.tolist() == [2, 1]
    assert known.shadow is None
    assert not any(result.rolled_back for result in found)


def test_the_predecessor_runs_on_as_it_would_have_served() -> None:
    which, r, known = promoted(worse=True)
    plain, _ = cycles(r, which, begun(r, which, history(r, RAW)), RAW, 10)
    beside, _ = cycles(r, which, known, RAW, 10)
    assert beside.shadow is not None
    assert beside.shadow.versions.tolist() == [1]
    ahead = plain.origin_ms + G * np.arange(1, 6)
    np.testing.assert_allclose(
        which.forecast(beside.shadow.state, ahead).mean[0],
        which.forecast(plain.state, ahead).mean[0],
    )


def test_a_shadow_follows_its_series_when_others_go() -> None:
    which, r, _ = promoted(worse=True)
    short = replace(r, patience_ms=2 * G, forget_ms=4 * G)
    gone = [sampled(line, T0 - DAY, T0, name="b")]
    start = begun(short, which, history(short, [*gone, RAW[0]]))
    past = history(short, [sampled(other, T0 - DAY, T0, name="a")])
    start = adopt(which, start, fitted(which, past, version=2))
    after, _ = cycles(short, which, start, [RAW[0]], 8)
    assert after.labels == (labels("a"),)
    assert after.shadow is not None
    assert after.shadow.rows.tolist() == [0]


def test_a_version_that_naive_stood_in_for_is_not_brought_back() -> None:
    """It had been found worse than naive: it is no predecessor to go back to."""
    which, r, known = promoted(worse=False)
    naive = replace(known, serves_naive=np.array([True, False]), shadow=None)
    past = history(r, RAW)
    after = adopt(which, naive, fitted(which, past, version=3))
    assert after.versions.tolist() == [3, 3]
    assert not after.serves_naive.any()
    assert after.shadow is not None
    assert (after.shadow.rows.tolist(), after.shadow.versions.tolist()) == ([1], [1])


def test_where_naive_is_promoted_the_version_before_runs_on_and_no_earlier_one() -> None:
    which, r, known = promoted(worse=False)
    assert known.shadow is not None
    assert known.shadow.versions.tolist() == [1]
    third = fitted(which, history(r, [RAW[0]]), version=3)
    after = adopt(which, known, replace(third, serves_naive=np.array([True])))
    assert after.serves_naive.tolist() == [True, False]
    assert after.shadow is not None
    assert (after.shadow.rows.tolist(), after.shadow.versions.tolist()) == ([0], [2])
    assert after.shadow.age.tolist() == [0]


def test_a_predecessor_that_comes_back_from_naive_serves_itself() -> None:
    which, r, known = promoted(worse=False)
    third = fitted(which, history(r, [RAW[0]]), version=3)
    known = adopt(which, known, replace(third, serves_naive=np.array([True])))
    found = []
    for _ in range(WINDOW + 1):
        known, result = advance(r, which, known, RAW, known.origin_ms + G)
        found += list(result.rolled_back)
    assert found == [(labels("a"), 3, 2)]
    assert known.versions[0] == 2
    assert not known.serves_naive[0]


def _held(now: State, held: State) -> State:
    """The state as it is, but for the values of series a, which stay as they were."""
    fields = vars(now)
    changed = {}
    for name, array in fields.items():
        copy = array.copy()
        copy[0] = vars(held)[name][0]
        changed[name] = copy
    changed["last_ms"] = fields["last_ms"]
    return type(now)(**changed)
