import pickle
from typing import Any

import numpy as np
import pytest

from sidecar.models.features import DAY_MS
from sidecar.models.lags import LagsModel
from sidecar.models.linear import LinearTrendModel
from sidecar.models.naive import NaiveModel
from sidecar.models.seasonal import BASE_INSTANTS, SeasonalModel, periods_of
from sidecar.series import FloatArray, TimeArray

STEP = 300_000
A_DAY = DAY_MS // STEP


def instants(first: int, count: int, step: int = STEP) -> TimeArray:
    return step * (20_000 * (DAY_MS // step) + first + np.arange(count, dtype=np.int64))


def season(t_ms: TimeArray) -> FloatArray:
    """A day with a working-hours bump and a lunch dip."""
    angle = 2 * np.pi * (t_ms % DAY_MS) / DAY_MS
    return np.asarray(50 + 10 * np.sin(angle) + 4 * np.cos(3 * angle) + np.sin(7 * angle))


def front(base: Any = None, **settings: Any) -> SeasonalModel:
    return SeasonalModel(base or NaiveModel(), granularity_ms=STEP, **settings)


def test_a_pure_season_is_forecast_exactly() -> None:
    size = 7 * A_DAY
    model = front()
    state = model.fit(instants(0, size), season(instants(0, size))[None])
    got = model.forecast(state, instants(size, A_DAY)).mean[0]
    np.testing.assert_allclose(got, season(instants(size, A_DAY)), atol=1e-5)
    assert state.weight[0] == pytest.approx(1)


def test_days_that_do_not_resemble_each_other_give_no_profile() -> None:
    y = np.random.default_rng(0).normal(size=(30, 7 * A_DAY)).cumsum(axis=1)
    state = front().fit(instants(0, 7 * A_DAY), y)
    assert np.median(state.weight) < 0.25
    noise = np.random.default_rng(1).normal(size=(30, 7 * A_DAY))
    white = front().fit(instants(0, 7 * A_DAY), noise)
    explained = np.sqrt((white.profile**2).sum(axis=1) / 2)
    assert np.median(explained) < 0.05


def test_noise_on_a_season_costs_the_season_little() -> None:
    t_ms = instants(0, 7 * A_DAY)
    y = season(t_ms) + np.random.default_rng(2).normal(size=(5, 7 * A_DAY))
    model = front(LagsModel())
    later = instants(7 * A_DAY, A_DAY)
    got = model.forecast(model.fit(t_ms, y), later).mean
    assert np.abs(got - season(later)).mean() < 0.5


@pytest.mark.parametrize(("days", "harmonics"), [(1.5, 0), (2, 8), (6.5, 8), (7, 24)])
def test_as_many_harmonics_as_the_history_can_bear(days: float, harmonics: int) -> None:
    size = round(days * A_DAY)
    y = np.random.default_rng(3).normal(size=(1, size))
    y += 5 * season(instants(0, size))
    used = front().fit(instants(0, size), y).profile[0] != 0
    assert used[:24].sum() <= harmonics
    assert used[0] == (harmonics > 0)


@pytest.mark.parametrize(("weeks", "harmonics"), [(2, 16), (3.5, 16), (4, 24)])
def test_a_week_has_the_harmonics_beside_those_of_the_day(weeks: float, harmonics: int) -> None:
    model = SeasonalModel(NaiveModel(), granularity_ms=3_600_000)
    used = model._columns(weeks * 7 * DAY_MS, 3_600_000.0).reshape(2, 2, 24)
    wanted = [k for k in range(1, harmonics + 1) if k % 7]
    for part in used[1]:
        assert (np.flatnonzero(part) + 1).tolist() == wanted


def test_coarse_samples_bear_few_harmonics() -> None:
    step = 3 * 3_600_000
    t_ms = instants(0, 14 * 8, step)
    y = 10 * np.sin(2 * np.pi * t_ms / DAY_MS) + np.random.default_rng(4).normal(size=t_ms.size)
    model = SeasonalModel(NaiveModel(), granularity_ms=step)
    state = model.fit(t_ms, y[None])
    assert (state.profile[0, 3:24] == 0).all()
    assert state.weight[0] > 0.9


def test_fine_samples_are_averaged_before_the_profile_is_fitted() -> None:
    step = 60_000
    t_ms = instants(0, 3 * 1440, step)
    noise = np.random.default_rng(5).normal(size=(1, t_ms.size))
    model = SeasonalModel(NaiveModel(), granularity_ms=step)
    times, coarse = model._coarser(t_ms, noise)
    assert coarse.shape == (1, 3 * 288)
    np.testing.assert_allclose(coarse[0, -1], noise[0, -5:].mean())
    assert times[-1] == t_ms[-3]
    state = model.fit(t_ms, season(t_ms) + noise)
    later = instants(3 * 1440, 60, step)
    shape = model._season(state.profile, later)[0] + 50
    assert np.abs(shape - season(later)).max() < 1.0


def test_gaps_do_not_bend_the_profile() -> None:
    t_ms = instants(0, 7 * A_DAY)
    y = np.repeat(season(t_ms)[None], 3, axis=0)
    y[0, 2 * A_DAY : 2 * A_DAY + 200] = np.nan
    y[1, : 4 * A_DAY] = np.nan
    y[2, ::3] = np.nan
    model = front()
    state = model.fit(t_ms, y)
    later = instants(7 * A_DAY, A_DAY)
    got = model.forecast(state, later).mean
    np.testing.assert_allclose(got, np.repeat(season(later)[None], 3, axis=0), atol=0.05)


def test_a_profile_follows_the_local_clock_when_clocks_are_changed() -> None:
    # 2026-03-29 01:00 UTC: Berlin goes from UTC+1 to UTC+2.
    change = 1_774_746_000_000
    before = change - STEP * np.arange(6 * A_DAY, 0, -1, dtype=np.int64)
    after = change + STEP * np.arange(A_DAY, dtype=np.int64)
    y = season(before + 3_600_000)[None]
    local, utc = front(timezone="Europe/Berlin"), front()
    follows = local.forecast(local.fit(before, y), after).mean[0]
    stays = utc.forecast(utc.fit(before, y), after).mean[0]
    np.testing.assert_allclose(follows, season(after + 2 * 3_600_000), atol=1e-3)
    np.testing.assert_allclose(stays, season(after + 3_600_000), atol=1e-3)


@pytest.mark.parametrize(
    ("weeks", "minutes", "found"),
    [(1.5, 60, False), (2, 60, True), (2, 10, False), (4, 10, True)],
)
def test_a_week_is_tried_unasked_once_there_are_four_or_two_of_coarse_samples(
    weeks: float, minutes: int, found: bool
) -> None:
    step = 60_000 * minutes
    t_ms = instants(0, round(weeks * 168 * 60 / minutes), step)
    weekend = (t_ms // DAY_MS + 3) % 7 >= 5
    y = (10 * np.sin(2 * np.pi * t_ms / DAY_MS) - 6 * weekend)[None]
    model = SeasonalModel(NaiveModel(), granularity_ms=step)
    state = model.fit(t_ms, y)
    assert state.profile[0, 48:].any() == found
    said = "profile of 1d and 1w" if found else "profile of 1d at"
    assert model.explain(state)[0].startswith(said)


def test_days_of_the_week_that_have_another_shape_are_forecast_in_theirs() -> None:
    step = 3_600_000
    t_ms = instants(0, 5 * 168, step)
    weekend = (t_ms // DAY_MS + 3) % 7 >= 5
    y = np.where(weekend, 2.0, 10.0) * (1.5 + np.sin(2 * np.pi * t_ms / DAY_MS))
    y += 0.1 * np.random.default_rng(10).normal(size=t_ms.size)
    known = 4 * 168
    error = {}
    for asked in ("auto", "1d"):
        model = SeasonalModel(NaiveModel(), season=asked, granularity_ms=step)
        state = model.fit(t_ms[:known], y[None, :known])
        shape = model._season(state.profile, t_ms[known:])[0]
        error[asked] = np.std(shape - y[known:])
    assert error["auto"] < 0.25 * error["1d"]


def test_two_periods_are_fitted_together() -> None:
    step = 3_600_000
    t_ms = instants(0, 28 * 24, step)
    weekly = 3 * np.sin(2 * np.pi * t_ms / (7 * DAY_MS))
    y = (weekly + 10 * np.sin(2 * np.pi * t_ms / DAY_MS))[None]
    model = SeasonalModel(NaiveModel(), season=["1d", "1w"], granularity_ms=step)
    state = model.fit(t_ms, y)
    later = instants(28 * 24, 48, step)
    wanted = 3 * np.sin(2 * np.pi * later / (7 * DAY_MS)) + 10 * np.sin(2 * np.pi * later / DAY_MS)
    np.testing.assert_allclose(model.forecast(state, later).mean[0], wanted, atol=1e-3)


def test_without_a_season_the_base_model_sees_the_series_as_it_is() -> None:
    y = np.random.default_rng(6).normal(size=(2, 500)) + 5
    model, base = front(LagsModel(), season="none"), LagsModel()
    got = model.forecast(model.fit(instants(0, 500), y), instants(500, 9))
    np.testing.assert_allclose(
        got.mean, base.forecast(base.fit(instants(0, 500), y), instants(500, 9)).mean
    )


def test_the_base_model_is_fitted_on_the_newest_instants() -> None:
    size = BASE_INSTANTS + 1000
    y = np.random.default_rng(7).normal(size=(1, size))
    y[0, :1000] += 1e6
    model = front(LinearTrendModel(trend="global"), season="none")
    got = model.forecast(model.fit(instants(0, size), y), instants(size, 1)).mean
    assert abs(got[0, 0]) < 1


def test_no_forecast_goes_further_than_a_range_beyond_all_that_was_seen() -> None:
    y = np.random.default_rng(8).normal(size=(1, 288)).cumsum(axis=1)
    y[0, -20:] = y[0, -21] + 3 * np.arange(1, 21)
    model = front(LinearTrendModel(window=4), horizon_steps=12)
    state = model.fit(instants(0, 288), y)
    got = model.forecast(state, instants(288, 280))
    assert got.mean.max() == pytest.approx(y.max() + np.ptp(y))
    assert (got.lower <= got.mean).all()
    assert (got.mean <= got.upper).all()
    # What is seen later widens it.
    rising = y[0, -1] + 3 * np.arange(1, 101)
    later = model.update(state, instants(288, 100), rising[None])
    assert model.forecast(later, instants(388, 280)).mean.max() > y.max() + np.ptp(y) + 100


def test_a_finetune_keeps_the_profile() -> None:
    t_ms = instants(0, 7 * A_DAY)
    model = front(LagsModel())
    state = model.fit(t_ms, season(t_ms)[None])
    shifted = instants(7 * A_DAY, 60)
    y = season(shifted)[None] + 30
    state = model.finetune(model.update(state, shifted, y), shifted, y)
    later = instants(7 * A_DAY + 60, 100)
    np.testing.assert_allclose(model.forecast(state, later).mean[0], season(later) + 30, atol=0.5)


def test_what_was_chosen_is_said() -> None:
    t_ms = instants(0, 7 * A_DAY)
    y = np.stack([season(t_ms), np.random.default_rng(9).normal(size=t_ms.size)])
    y[1, :] = np.where(np.arange(t_ms.size) < t_ms.size // 2, y[1], -y[1])
    model = front()
    lines = model.explain(model.fit(t_ms, y))
    assert lines[0] == "profile of 1d at 100%"
    assert front(season="none").explain(front(season="none").fit(t_ms, y)) == ["", ""]


def test_it_is_called_what_it_runs_and_travels_to_other_processes() -> None:
    model = front(LagsModel(order=5))
    assert model.name == "lags"
    copy = pickle.loads(pickle.dumps(model))
    assert copy.base.settings == model.base.settings
    assert copy.state_type is model.state_type


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ("auto", (DAY_MS, 7 * DAY_MS)),
        ("none", ()),
        ("1d", (DAY_MS,)),
        (["1w", "1d", "1d"], (DAY_MS, 7 * DAY_MS)),
        ("12h", (DAY_MS // 2,)),
    ],
)
def test_seasons_are_written_as_durations(setting: object, wanted: tuple[int, ...]) -> None:
    assert periods_of(setting) == wanted


@pytest.mark.parametrize("setting", ["daily", [], ["1d", "soon"], "10s", 86_400, {"1d": True}])
def test_what_is_no_season_is_refused(setting: object) -> None:
    with pytest.raises(ValueError, match=r"season|duration"):
        SeasonalModel(NaiveModel(), season=setting)
