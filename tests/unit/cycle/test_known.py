"""Series come and go in what a watch knows, and it survives a restart."""

import numpy as np
import pytest

from sidecar.cycle import advance
from sidecar.errors import StoreError
from sidecar.known import adopt, forget
from sidecar.names import Reason
from sidecar.watches.snapshot import pack, recipe, unpack
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


def wave(seconds: np.ndarray) -> np.ndarray:
    return np.asarray(10 + np.sin(seconds / 900))


RAW = [sampled(wave, T0 - DAY, T0 + 30 * G, name=name) for name in ("a", "b")]


@pytest.mark.parametrize("name", ["linear", "exponential_smoothing", "arima", "sgd", "auto"])
def test_a_watch_goes_on_after_a_restart_as_if_there_had_been_none(name: str) -> None:
    which, r = model(name), rules()
    known, _ = cycles(r, which, begun(r, which, history(r, RAW)), RAW, 5)
    arrays, meta = pack(known, recipe(r, which), {})
    again = unpack(arrays, meta, model(name), recipe(r, which))
    assert again is not None
    _, before = advance(r, which, known, RAW, T0 + 8 * G)
    _, after = advance(r, which, again, RAW, T0 + 8 * G)
    np.testing.assert_array_equal(before.forecast.mean, after.forecast.mean)
    np.testing.assert_array_equal(before.forecast.upper, after.forecast.upper)
    np.testing.assert_array_equal(before.outcomes[0].expected, after.outcomes[0].expected)


def test_another_recipe_does_not_read_a_snapshot() -> None:
    which, r = model("linear"), rules()
    arrays, meta = pack(begun(r, which, history(r, RAW)), recipe(r, which), {})
    assert unpack(arrays, meta, which, recipe(rules(horizon_steps=6), which)) is None
    assert unpack(arrays, meta, model("sgd"), recipe(r, model("sgd"))) is None


def test_a_snapshot_that_lacks_something_is_refused() -> None:
    which, r = model("linear"), rules()
    arrays, meta = pack(begun(r, which, history(r, RAW)), recipe(r, which), {})
    for name in arrays:
        with pytest.raises(StoreError):
            unpack({k: v for k, v in arrays.items() if k != name}, meta, which, meta["recipe"])
    with pytest.raises(StoreError):
        unpack(arrays, {**meta, "labels": meta["labels"][:1]}, which, meta["recipe"])


def test_a_fit_catches_up_with_the_instants_that_came_while_it_ran() -> None:
    which, r = model("exponential_smoothing"), rules()
    past = history(r, RAW)
    known, _ = cycles(r, which, begun(r, which, past), RAW, 4)
    later = adopt(which, known, fitted(which, past, version=2))
    at_once = begun(r, which, past, version=2)
    rolled, _ = cycles(r, which, at_once, RAW, 4)
    np.testing.assert_allclose(later.state.sigma, rolled.state.sigma)
    ahead = T0 + G * np.arange(5, 10)
    np.testing.assert_allclose(
        which.forecast(later.state, ahead).mean, which.forecast(rolled.state, ahead).mean
    )
    assert later.versions.tolist() == [2, 2]


def test_a_fit_that_ends_too_long_ago_is_refused() -> None:
    which, r = model("linear"), rules()
    past = history(r, RAW)
    known, _ = cycles(r, which, begun(r, which, past), RAW, 2)
    too_late = advance(r, which, known, RAW, T0 + 25 * G)[0]
    short = history(r, RAW, end_ms=T0 - 40 * G)
    with pytest.raises(ValueError, match="before the origin"):
        adopt(which, too_late, fitted(which, short))


def test_a_fit_of_a_series_that_vanished_meanwhile_changes_nothing() -> None:
    which, r = model("linear"), rules()
    known = begun(r, which, history(r, RAW[:1]))
    other = fitted(which, history(r, [sampled(wave, T0 - DAY, T0, name="gone")]), version=9)
    assert adopt(which, known, other) is known


def test_a_refused_candidate_leaves_what_serves_in_service() -> None:
    which, r = model("linear"), rules()
    known = begun(r, which, history(r, RAW))
    worse = fitted(which, history(r, RAW), version=2)
    refused = type(worse)(**{**vars(worse), "promoted": np.array([False, True])})
    after = adopt(which, known, refused)
    assert after.versions.tolist() == [1, 2]
    np.testing.assert_array_equal(after.state.sigma[0], known.state.sigma[0])


def test_a_series_whose_first_fit_failed_is_served_by_naive_with_the_reason_kept() -> None:
    which, r = model("linear"), rules()
    past = history(r, RAW)
    good = fitted(which, past)
    failed = type(good)(
        **{
            **vars(good),
            "promoted": np.array([False, True]),
            "versions": np.array([0, 1]),
            "why_unfitted": (Reason.QUARANTINED, None),
        }
    )
    known = begun(r, which, past, version=0)
    known = type(known)(**{**vars(known), "versions": np.zeros(2, dtype=np.int64)})
    known = adopt(which, known, failed)
    assert known.serves_naive.tolist() == [True, False]
    _, result = advance(r, which, known, RAW, T0 + G)
    newest = RAW[0].values[RAW[0].timestamps_ms == T0 + G]
    np.testing.assert_array_equal(result.forecast.mean[0], np.repeat(newest, 5))
    assert known.why_unfitted[0] is Reason.QUARANTINED


def test_the_last_series_are_never_forgotten() -> None:
    which, r = model("linear"), rules()
    known = begun(r, which, history(r, RAW))
    assert forget(known, -1) is known
    assert forget(known, 60 * G).labels == (labels("a"), labels("b"))
