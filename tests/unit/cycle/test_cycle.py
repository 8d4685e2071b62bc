"""One cycle: what is published when, from which data."""

from itertools import pairwise

import numpy as np
import pytest

from sidecar.cycle import advance, due_instant_ms
from sidecar.models.anomaly import AnomalyRules
from sidecar.names import Reason
from sidecar.series import STALE_NAN, RawSeries
from tests.unit.cycle.helpers import (
    T0,
    G,
    begun,
    cycles,
    history,
    labels,
    model,
    read_for,
    rules,
    sampled,
)

DAY = 288 * G


def line(seconds: np.ndarray) -> np.ndarray:
    return np.asarray(5.0 + 0.01 * (seconds - T0 / 1000))


def test_expected_at_an_instant_is_the_first_step_of_the_forecast_before_it() -> None:
    which, r = model(), rules()
    raw = [sampled(line, T0 - DAY, T0 + 20 * G)]
    _, found = cycles(r, which, begun(r, which, history(r, raw)), raw, 4)
    for before, after in pairwise(found):
        assert after.outcomes[0].expected[0] == before.forecast.mean[0, 0]
        assert after.outcomes[0].instant_ms == before.forecast.instants_ms[0]


def test_a_line_is_continued_at_every_step() -> None:
    which, r = model(), rules()
    raw = [sampled(line, T0 - DAY, T0 + 20 * G)]
    _, found = cycles(r, which, begun(r, which, history(r, raw)), raw, 3)
    forecast = found[-1].forecast
    np.testing.assert_allclose(forecast.mean[0], line(forecast.instants_ms / 1000), rtol=1e-6)


def test_the_first_cycle_has_nothing_expected_and_the_second_has() -> None:
    which, r = model(), rules()
    raw = [sampled(line, T0 - DAY, T0 + 20 * G)]
    _, found = cycles(r, which, begun(r, which, history(r, raw)), raw, 2)
    assert np.isnan(found[0].outcomes[0].expected[0])
    assert np.isfinite(found[1].outcomes[0].expected[0])


def test_replaying_instants_gives_what_the_cycles_would_have_given() -> None:
    which, r = model(), rules()
    raw = [sampled(lambda s: np.sin(s / 700), T0 - DAY, T0 + 20 * G)]
    start = begun(r, which, history(r, raw))
    one_by_one, found = cycles(r, which, start, raw, 6)
    at_once, result = advance(r, which, start, raw, T0 + 6 * G)
    assert [o.instant_ms for o in result.outcomes] == [T0 + k * G for k in range(1, 7)]
    for single, many in zip((f.outcomes[0] for f in found), result.outcomes, strict=True):
        np.testing.assert_array_equal(single.expected, many.expected)
        np.testing.assert_array_equal(single.actual, many.actual)
    np.testing.assert_array_equal(found[-1].forecast.mean, result.forecast.mean)
    assert [o.forecast is not None for o in result.outcomes] == [False] * 5 + [True]
    assert at_once.origin_ms == one_by_one.origin_ms


def test_data_after_an_instant_changes_no_forecast_issued_at_it() -> None:
    which, r = model(), rules()
    raw = [sampled(line, T0 - DAY, T0 + 20 * G)]
    start = begun(r, which, history(r, raw))
    other = RawSeries(raw[0].labels, raw[0].timestamps_ms, raw[0].values.copy())
    other.values[other.timestamps_ms > T0 + 3 * G] = 1e6
    _, plain = advance(r, which, start, raw, T0 + 6 * G)
    _, changed = advance(r, which, start, [other], T0 + 6 * G)
    for a, b in zip(plain.outcomes[:3], changed.outcomes[:3], strict=True):
        np.testing.assert_array_equal(a.expected, b.expected)
    assert plain.outcomes[3].expected[0] == changed.outcomes[3].expected[0]
    assert plain.outcomes[4].expected[0] != changed.outcomes[4].expected[0]


def test_a_missing_scrape_keeps_the_forecast_coming() -> None:
    which, r = model(), rules(staleness_ms=20_000)
    raw = sampled(line, T0 - DAY, T0 + 20 * G)
    hole = (raw.timestamps_ms > T0 + G) & (raw.timestamps_ms <= T0 + 2 * G)
    holed = [RawSeries(raw.labels, raw.timestamps_ms[~hole], raw.values[~hole])]
    _, found = cycles(r, which, begun(r, which, history(r, [raw])), holed, 3)
    assert np.isnan(found[1].outcomes[0].actual[0])
    assert np.isfinite(found[1].forecast.mean).all()
    assert found[1].reasons == (None,)
    assert np.isfinite(found[2].outcomes[0].expected[0])


def test_a_scrape_that_comes_late_is_judged_with_its_true_value() -> None:
    which, r = model(), rules(staleness_ms=20_000)
    raw = sampled(line, T0 - DAY, T0 + 20 * G)
    known = begun(r, which, history(r, [raw]))
    known, _ = cycles(r, which, known, [raw], 2)
    until = raw.timestamps_ms <= T0 + 2 * G
    early = [RawSeries(raw.labels, raw.timestamps_ms[until], raw.values[until])]
    late_known, _ = advance(r, which, known, early, T0 + 3 * G)
    assert np.isnan(late_known.tracker.residuals[T0 + 3 * G][0])
    late_known, _ = advance(r, which, late_known, [raw], T0 + 4 * G)
    assert np.isfinite(late_known.tracker.residuals[T0 + 3 * G][0])


def test_a_series_that_ends_by_a_marker_is_ended_once_and_then_silent() -> None:
    which, r = model(), rules()
    raw = sampled(line, T0 - DAY, T0 + 2 * G)
    marked = RawSeries(
        raw.labels,
        np.append(raw.timestamps_ms, T0 + 2 * G + 15_000),
        np.append(raw.values, STALE_NAN),
    )
    known, found = cycles(r, which, begun(r, which, history(r, [raw])), [marked], 5)
    assert [result.ended for result in found] == [(), (), (labels(),), (), ()]
    assert found[-1].reasons == (Reason.STALE_INPUT,)
    assert np.isnan(found[-1].forecast.mean).all()
    assert np.isnan(found[2].outcomes[0].expected).all()
    assert known.ended.all()


def test_a_series_stays_ended_when_its_marker_is_no_longer_read() -> None:
    which, r = model(), rules(overlap_ms=G)
    raw = sampled(line, T0 - DAY, T0 + 2 * G)
    back = sampled(line, T0 + 10 * G, T0 + 20 * G)
    marked = RawSeries(
        raw.labels,
        np.concatenate([raw.timestamps_ms, [T0 + 2 * G + 15_000], back.timestamps_ms]),
        np.concatenate([raw.values, [STALE_NAN], back.values]),
    )
    known = begun(r, which, history(r, [raw]))
    ends, fresh = [], []
    for _ in range(12):
        instant = known.origin_ms + G
        known, found = advance(r, which, known, read_for(r, known, [marked]), instant)
        ends.append(bool(found.ended))
        fresh.append(found.reasons == (None,))
    assert ends == [False] * 2 + [True] + [False] * 9
    assert fresh == [True] * 2 + [False] * 7 + [True] * 3


def test_a_series_that_falls_silent_is_ended_after_the_patience() -> None:
    which, r = model(), rules(patience_ms=3 * G)
    raw = sampled(line, T0 - DAY, T0 + G)
    _, found = cycles(r, which, begun(r, which, history(r, [raw])), [raw], 7)
    assert [bool(result.ended) for result in found] == [False] * 4 + [True] + [False] * 2


def test_a_series_that_comes_back_is_forecast_again() -> None:
    which, r = model(), rules(patience_ms=2 * G)
    raw = sampled(line, T0 - DAY, T0 + 20 * G)
    hole = (raw.timestamps_ms > T0 + G) & (raw.timestamps_ms <= T0 + 6 * G)
    holed = [RawSeries(raw.labels, raw.timestamps_ms[~hole], raw.values[~hole])]
    _, found = cycles(r, which, begun(r, which, history(r, [raw])), holed, 9)
    assert found[4].reasons == (Reason.STALE_INPUT,)
    assert found[-1].reasons == (None,)


def test_a_newcomer_is_admitted_without_a_word_until_it_is_fitted() -> None:
    which, r = model(), rules()
    old = sampled(line, T0 - DAY, T0 + 20 * G)
    new = sampled(line, T0 + G, T0 + 20 * G, name="b")
    known, found = cycles(r, which, begun(r, which, history(r, [old])), [old, new], 3)
    assert found[0].newcomers + found[1].newcomers == (labels("b"),)
    assert found[-1].reasons == (None, Reason.INSUFFICIENT_HISTORY)
    assert known.labels == (labels("a"), labels("b"))
    assert np.isfinite(found[-1].forecast.mean[0]).all()


def test_series_above_the_limit_are_turned_away_and_known_ones_go_on() -> None:
    which, r = model(), rules(max_series=1)
    old = sampled(line, T0 - DAY, T0 + 20 * G)
    new = sampled(line, T0 - DAY, T0 + 20 * G, name="b")
    known, found = cycles(r, which, begun(r, which, history(r, [old])), [old, new], 2)
    assert known.labels == (labels("a"),)
    assert found[-1].over_budget == 1
    assert found[-1].reasons == (None,)


def test_where_every_series_is_replaced_the_new_ones_take_the_places_of_those_that_ended() -> None:
    which, r = model(), rules(max_series=2, patience_ms=3 * G)
    old = [sampled(line, T0 - DAY, T0 + at * G, name=name) for at, name in enumerate("ba")]
    new = [sampled(line, T0 + G, T0 + 20 * G, name=name) for name in "cd"]
    known = begun(r, which, history(r, old))
    left, over_budget = [], []
    for _ in range(6):
        instant = known.origin_ms + G
        known, found = advance(r, which, known, read_for(r, known, [*old, *new]), instant)
        left.append("".join(one.get("instance") for one in known.labels))
        over_budget.append(found.over_budget)
    assert left == ["ab", "ab", "ab", "ab", "ac", "cd"]  # b fell silent an instant before a
    assert over_budget == [2, 2, 2, 2, 1, 0]


def test_a_series_that_comes_back_keeps_its_place_from_a_newcomer() -> None:
    which, r = model(), rules(max_series=1, patience_ms=2 * G)
    raw = sampled(line, T0 - DAY, T0 + 20 * G)
    hole = (raw.timestamps_ms > T0) & (raw.timestamps_ms <= T0 + 5 * G)
    holed = RawSeries(raw.labels, raw.timestamps_ms[~hole], raw.values[~hole])
    new = sampled(line, T0 + 5 * G + 1, T0 + 20 * G, name="b")
    known, found = cycles(r, which, begun(r, which, history(r, [raw])), [holed, new], 6)
    assert known.labels == (labels("a"),)
    assert found[-1].over_budget == 1
    assert found[-1].reasons == (None,)


def test_a_series_silent_for_long_is_forgotten() -> None:
    which, r = model(), rules(patience_ms=2 * G, forget_ms=4 * G)
    gone, stays = sampled(line, T0 - DAY, T0), sampled(line, T0 - DAY, T0 + 20 * G, name="b")
    start = begun(r, which, history(r, [gone, stays]))
    known, _ = cycles(r, which, start, [gone, stays], 7)
    assert known.labels == (labels("b"),)
    assert known.tracker.size == 1


def test_own_output_is_never_a_source() -> None:
    which, r = model(), rules()
    raw = sampled(line, T0 - DAY, T0 + 20 * G)
    own = RawSeries(labels(metric="x_sentinel_expected"), raw.timestamps_ms, raw.values)
    known, found = cycles(r, which, begun(r, which, history(r, [raw])), [raw, own], 1)
    assert known.labels == (labels(),)
    assert found[0].newcomers == ()


def test_a_rate_is_never_forecast_below_zero() -> None:
    which, r = model(), rules(transform="rate", lowest=0.0)
    falling = [
        sampled(
            lambda s: np.cumsum(np.maximum(0.0, 1.0 - np.linspace(0, 1.02, s.size))),
            T0 - DAY,
            T0 + 5 * G,
        )
    ]
    _, found = cycles(r, which, begun(r, which, history(r, falling)), falling, 4)
    for result in found:
        assert (result.forecast.mean >= 0).all()
        assert (result.forecast.lower >= 0).all()


def test_forecasts_are_clipped_when_published() -> None:
    which, r = model(), rules(lowest=4.9, highest=5.2)
    raw = [sampled(line, T0 - DAY, T0 + 5 * G)]
    _, found = cycles(r, which, begun(r, which, history(r, raw)), raw, 1)
    assert found[0].forecast.mean.max() == 5.2
    assert found[0].forecast.lower.min() >= 4.9
    assert found[0].forecast.upper.max() == 5.2


@pytest.mark.parametrize(
    ("now", "due"), [(T0 + 9_999, T0 - G), (T0 + 10_000, T0), (T0 + G + 9_999, T0)]
)
def test_an_instant_is_due_when_its_late_scrapes_had_their_time(now: int, due: int) -> None:
    assert due_instant_ms(now, G, 10_000) == due


def noise(seconds: np.ndarray) -> np.ndarray:
    return np.asarray(10 + np.random.default_rng(3).standard_normal(seconds.size))


def with_burst(length: int) -> RawSeries:
    """Noise around 10 that stands at 200 for some instants from T0+5G on."""
    raw = sampled(noise, T0 - DAY, T0 + 60 * G)
    burst = (raw.timestamps_ms > T0 + 5 * G) & (raw.timestamps_ms <= T0 + (5 + length) * G)
    return RawSeries(raw.labels, raw.timestamps_ms, np.where(burst, 200.0, raw.values))


def test_a_burst_of_anomalies_does_not_teach_the_model_that_it_is_normal() -> None:
    which, r = model("exponential_smoothing"), rules()
    raw = [with_burst(10)]
    start = begun(r, which, history(r, raw))
    clamped = cycles(r, which, start, raw, 15)[1]
    learned = cycles(rules(anomaly=AnomalyRules(anomaly_policy="learn")), which, start, raw, 15)[1]
    assert all(found.outcomes[0].anomaly_score[0] > 3 for found in clamped[5:15])
    assert abs(clamped[-1].forecast.mean[0, 0] - 10) < 10
    assert abs(learned[-1].forecast.mean[0, 0] - 10) > 10


def test_a_burst_that_stays_is_learned_in_the_end() -> None:
    which, r = model("exponential_smoothing"), rules()
    raw = [with_burst(55)]
    _, found = cycles(r, which, begun(r, which, history(r, raw)), raw, 58)
    assert abs(found[29].forecast.mean[0, 0] - 10) < 15
    assert found[-1].forecast.mean[0, 0] > 60


def test_a_series_that_never_was_negative_is_not_forecast_below_zero() -> None:
    which = model("linear")

    def falling(seconds: np.ndarray) -> np.ndarray:
        return np.asarray(np.maximum(0.001 * (T0 / 1000 + 100 - seconds), 0.0))

    raw = [sampled(falling, T0 - DAY, T0 + G)]
    r = rules(keep_sign=True)
    _, kept = cycles(r, which, begun(r, which, history(r, raw)), raw, 1)
    assert kept[0].forecast.mean.min() >= 0
    assert kept[0].forecast.lower.min() == 0
    r = rules()
    _, free = cycles(r, which, begun(r, which, history(r, raw)), raw, 1)
    assert free[0].forecast.lower.min() < 0
