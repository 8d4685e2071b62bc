"""A replay forecasts what the live cycle would have, and nothing from later data."""

from dataclasses import replace

import numpy as np
import pytest

from sidecar.backtest.replay import Plan, replay, yardstick
from sidecar.backtest.tally import figures
from sidecar.cycle import Advance
from sidecar.known import Known
from sidecar.learning import scores
from sidecar.names import Reason
from sidecar.series import Grid, RawSeries, SeriesBatch
from tests.unit.backtest.made import HISTORY, plan_of, replayed, signal
from tests.unit.cycle.helpers import T0, G, begun, cycles, labels, model, rules

TESTED = 40


def lived(plan: Plan) -> tuple[Known, list[Advance]]:
    """The tested range as a live watch would have gone through it, a cycle at each instant."""
    batch, t_ms = plan.batch, plan.batch.grid.instants_ms
    grid = Grid(int(t_ms[HISTORY - 1]), G, HISTORY)
    past = SeriesBatch(batch.labels, grid, batch.values[:, :HISTORY])
    raw = [
        RawSeries(one, t_ms[np.isfinite(row)], row[np.isfinite(row)])
        for one, row in zip(batch.labels, batch.values, strict=True)
    ]
    live = rules(overlap_ms=0, staleness_ms=0)
    return cycles(live, model(), begun(live, model(), past), raw, plan.tested)


def test_a_replay_forecasts_what_cycles_at_each_instant_would_have() -> None:
    values = signal(2, HISTORY + TESTED)
    values[1, HISTORY + 5 : HISTORY + 9] = np.nan
    plan = plan_of(values, TESTED)
    got = replayed(plan)

    _, advances = lived(plan)
    expected = np.stack([one.outcomes[-1].expected for one in advances], axis=1)
    np.testing.assert_allclose(got.expected[0], expected, rtol=1e-6)
    lower = np.stack([one.outcomes[-1].lower for one in advances], axis=1)
    np.testing.assert_allclose(got.expected[1], lower, rtol=1e-6)
    assert np.isfinite(expected[:, 1:]).all()


def test_the_figures_are_those_of_live_judging_over_the_same_instants() -> None:
    tested = 60  # the window that live scores look at
    values = signal(3, HISTORY + tested)
    values[2, HISTORY + 10] = np.nan
    plan = plan_of(values, tested)
    known, _ = lived(plan)
    wanted = scores.scores(known.tracker)

    got = figures(replayed(plan).tally)
    np.testing.assert_array_equal(got.judged[:, 0], wanted.count)
    np.testing.assert_allclose(got.mae[:, 0], wanted.mae, rtol=1e-5)
    np.testing.assert_allclose(got.smape[:, 0], wanted.smape, rtol=1e-5)
    np.testing.assert_allclose(got.coverage[:, 0], wanted.coverage, rtol=1e-6)


@pytest.mark.parametrize("name", ["linear", "auto", "seasonal_naive"])
def test_changing_what_came_from_an_instant_on_changes_no_forecast_issued_before(name: str) -> None:
    tested, refit, at = 24, 15, 18  # in the middle of a turn, right after the second fit
    values = signal(2, HISTORY + tested)
    before = replayed(plan_of(values, tested, refit=refit), name)
    changed = values.copy()
    changed[:, HISTORY + at :] = 1e6
    after = replayed(plan_of(changed, tested, refit=refit), name)
    np.testing.assert_array_equal(after.expected[:, :, : at + 1], before.expected[:, :, : at + 1])
    assert not np.array_equal(after.expected[:, :, at + 1], before.expected[:, :, at + 1])


@pytest.mark.parametrize(("refit", "fits"), [(0, 1), (10, 4), (13, 4), (40, 1), (100, 1)])
def test_models_are_fitted_at_the_start_and_then_as_often_as_asked(refit: int, fits: int) -> None:
    got = replayed(plan_of(signal(1, HISTORY + TESTED), TESTED, refit=refit))
    assert got.fits == fits


def test_a_fit_takes_effect_with_the_instant_after_it() -> None:
    values = signal(1, HISTORY + TESTED)
    values[:, HISTORY:] += 30.0 * np.arange(TESTED)  # a slope that the first fit cannot know
    once = replayed(plan_of(values, TESTED))
    twice = replayed(plan_of(values, TESTED, refit=20))
    np.testing.assert_array_equal(once.expected[0, :, :20], twice.expected[0, :, :20])
    # The forecast for instant 20 was issued at 19, before the fit.
    assert once.expected[0, 0, 20] == twice.expected[0, 0, 20]
    assert (once.expected[0, 0, 21:] != twice.expected[0, 0, 21:]).any()


def test_a_series_that_begins_within_the_range_is_judged_from_its_first_fit_on() -> None:
    values = signal(2, HISTORY + TESTED)
    values[1, : HISTORY + 2] = np.nan
    plan = plan_of(values, TESTED, refit=20)
    got = replayed(plan)
    assert np.isnan(got.expected[0, 1, :21]).all()
    assert np.isfinite(got.expected[0, 1, 21:]).all()
    assert got.reasons == (None, None)
    once = replayed(plan_of(values, TESTED))
    assert once.reasons == (None, Reason.INSUFFICIENT_HISTORY)
    assert once.tally.judged[:, 0].tolist() == [TESTED - 1, 0]


def test_series_do_not_influence_each_other() -> None:
    values = signal(3, HISTORY + TESTED)
    alone = replayed(plan_of(values[1:2], TESTED, names=[labels("i01")]))
    together = replayed(plan_of(values, TESTED))
    np.testing.assert_allclose(together.expected[:, 1], alone.expected[:, 0], rtol=1e-5)


def test_the_plan_is_left_as_it_was() -> None:
    values = signal(2, HISTORY + TESTED)
    plan = plan_of(values.copy(), TESTED, refit=10)
    replayed(plan, keep=False)
    np.testing.assert_array_equal(plan.batch.values, values)
    assert plan.instants_ms[-1] == T0


def test_progress_adds_up_to_the_range() -> None:
    done: list[int] = []
    plan = plan_of(signal(1, HISTORY + TESTED), TESTED, refit=13)
    replay(model(), "linear", plan, note=done.append)
    assert sum(done) == TESTED
    assert max(done) <= 8


@pytest.mark.parametrize("name", ["naive", "seasonal_naive"])
def test_a_yardstick_forecasts_as_its_model_would_but_has_no_band(name: str) -> None:
    values = signal(2, 3000)
    values[0, 2990:2995] = np.nan
    plan = replace(plan_of(values, 60), window=2900)
    model_s, plain = figures(replayed(plan, name).tally), figures(yardstick(name, plan).tally)
    assert np.isnan(plain.coverage).all()
    # The model's first forecasts for the longer leads come only as those leads have passed.
    np.testing.assert_allclose(plain.mae[:, 0], model_s.mae[:, 0], rtol=0.06)
    assert plain.judged[0, 0] == 55
    if name == "naive":
        np.testing.assert_array_equal(plain.mase, 1.0)
