"""Fitting with an honest validation."""

from dataclasses import replace

import numpy as np
import pytest

from sidecar.learning import training
from sidecar.learning.training import FINETUNE, TrainingOutcome, train, validation_length
from sidecar.models.contract import take
from sidecar.models.registry import MODEL_NAMES, ModelContext, build
from sidecar.names import Reason
from sidecar.series import FloatArray, TimeArray
from tests.unit.learning.toys import (
    MINUTE_MS,
    POISON,
    HarmfulModel,
    MeanModel,
    MeanState,
    OwnModel,
    instants,
)

G = MINUTE_MS
H = 5


def walks(n: int, count: int, seed: int = 0) -> FloatArray:
    return 100 + np.random.default_rng(seed).normal(size=(n, count)).cumsum(axis=1)


def trained(y: FloatArray, **more: object) -> TrainingOutcome:
    return train(MeanModel(), instants(y.shape[1]), y, horizon_steps=H, **more)  # type: ignore[arg-type]


def test_the_validated_fit_does_not_see_what_it_is_judged_on() -> None:
    y = np.concatenate([np.zeros((1, 100)), np.full((1, 30), 7.0)], axis=1)
    outcome = trained(y)
    assert outcome.holdout.tolist() == [30]
    assert outcome.residuals.tolist() == [[7.0] * 30]
    assert outcome.mae.tolist() == [7.0]
    assert outcome.instants_ms.tolist() == instants(130)[-30:].tolist()


def test_what_serves_is_fitted_on_everything() -> None:
    y = walks(3, 130)
    outcome = trained(y)
    assert isinstance(outcome.state, MeanState)
    np.testing.assert_allclose(outcome.state.mean, y.mean(axis=1))
    assert (outcome.state.last_ms == instants(130)[-1]).all()
    assert outcome.n_samples.tolist() == [130] * 3


@pytest.mark.parametrize("name", [*MODEL_NAMES])
def test_the_validation_error_is_the_one_step_error_of_serving(name: str) -> None:
    """Within 20 %, on a thousand instants after it; for each model there is."""
    model = build(name, {}, ModelContext(granularity_ms=G, horizon_steps=H, n_lags=12))
    random = np.random.default_rng(1)
    noise = random.normal(size=(24, 1400))
    y = 50.0 + np.stack([np.convolve(row, 0.7 ** np.arange(10))[:1400] for row in noise])
    t_ms = instants(1400)
    outcome = train(model, t_ms[:700], y[:, :700], horizon_steps=H, validation=200)
    state, errors = outcome.state, []
    for k in range(700, 1400):
        mean = model.forecast(state, t_ms[k : k + 1]).mean[:, 0]
        errors.append(np.abs(y[:, k] - mean))
        state = model.update(state, t_ms[k : k + 1], y[:, k : k + 1])
    assert outcome.mae.mean() == pytest.approx(np.mean(errors), rel=0.2)
    assert outcome.fitted.all()


def test_changing_the_held_out_instants_does_not_change_what_was_forecast_for_the_first() -> None:
    y = walks(2, 130)
    changed = y.copy()
    changed[:, 101:] += 1000.0
    first, second = trained(y).residuals[:, 0], trained(changed).residuals[:, 0]
    np.testing.assert_array_equal(first, second)


def test_the_longer_leads_are_judged_too() -> None:
    y = np.concatenate([np.zeros((1, 200)), np.arange(1.0, 31.0)[None]], axis=1)
    outcome = trained(y)
    assert outcome.leads == (1, 2, 4, 5)
    # lead L has its first target at instant L of the held-out ones: values L..30 against 0
    expected = [np.mean(np.arange(lead, 31.0)) for lead in outcome.leads]
    np.testing.assert_allclose(outcome.lead_mae, [expected])


def test_the_held_out_part_is_twice_the_horizon_and_at_least_thirty() -> None:
    assert validation_length(5) == 30
    assert validation_length(15) == 30
    assert validation_length(16) == 32
    assert validation_length(288) == 576


@pytest.mark.parametrize(
    ("count", "holdout"), [(34, 30), (33, 15), (19, 15), (18, 0), (12, 0), (4, 0)]
)
def test_a_short_history_is_judged_on_fewer_instants_or_on_none(count: int, holdout: int) -> None:
    outcome = trained(walks(1, count))
    assert outcome.holdout.tolist() == [holdout]
    assert outcome.reasons == ("",)
    assert np.isfinite(outcome.mae[0]) == (holdout > 0)
    assert outcome.residuals.shape == (1, holdout)


def test_series_of_different_history_are_each_judged_on_what_they_have() -> None:
    y = walks(4, 100)
    y[1, :70] = np.nan  # 30 left: 4 to fit on, 15 to judge
    y[2, :97] = np.nan  # 3 left: too short to fit
    y[3, -30:] = np.nan  # nothing in the held-out part
    outcome = trained(y)
    assert outcome.holdout.tolist() == [30, 15, 0, 0]
    assert outcome.reasons == ("", "", Reason.INSUFFICIENT_HISTORY, "")
    assert np.isnan(outcome.residuals[1, :15]).all()
    assert np.isfinite(outcome.residuals[1, 15:]).all()
    np.testing.assert_array_equal(outcome.residuals[0], trained(y[:1]).residuals[0])
    np.testing.assert_array_equal(outcome.mae[1], trained(y[1:2]).mae[0])


def test_missing_and_infinite_samples_are_gaps() -> None:
    y = walks(1, 130)
    y[0, [3, 110, 120]] = [np.nan, np.inf, -np.inf]
    outcome = trained(y)
    assert outcome.n_samples.tolist() == [127]
    assert np.isnan(outcome.residuals[0, [10, 20]]).all()
    assert np.isfinite(outcome.mae[0])


def test_the_measures_are_what_their_definitions_say() -> None:
    y = walks(1, 130)
    outcome = trained(y)
    actual, residual = y[0, -30:], outcome.residuals[0]
    naive = np.abs(np.diff(y[0, -31:]))
    assert outcome.mae[0] == pytest.approx(np.abs(residual).mean())
    assert outcome.naive_mae[0] == pytest.approx(naive.mean())
    assert outcome.mase[0] == pytest.approx(np.abs(residual).mean() / naive.mean())
    assert outcome.mape[0] == pytest.approx(np.mean(np.abs(residual) / actual))
    smape = 2 * np.abs(residual) / (np.abs(actual) + np.abs(actual - residual))
    assert outcome.smape[0] == pytest.approx(smape.mean())


def test_naive_goes_on_from_the_newest_value_before_a_gap() -> None:
    y = np.zeros((1, 130))
    y[0, 100:] = np.arange(30.0)
    y[0, 105:110] = np.nan
    outcome = trained(y)
    assert outcome.naive_mae[0] == pytest.approx((4 + 6 + 19) / 25)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_percentage_of_zeros_is_not_reported(level: float) -> None:
    y = np.tile([0.0, level], 65)[None]
    outcome = trained(y)
    assert np.isnan(outcome.mape[0])
    assert np.isfinite(outcome.smape[0])


def test_a_constant_series_is_as_good_as_naive_and_not_infinitely_worse() -> None:
    outcome = trained(np.full((1, 130), 42.0))
    assert outcome.mae.tolist() == [0.0]
    assert outcome.mase.tolist() == [1.0]


def test_a_forecast_that_is_not_finite_has_a_reason_and_spoils_no_other() -> None:
    y = walks(3, 130)
    y[:, 0] = POISON
    outcome = train(HarmfulModel("nan"), instants(130), y, horizon_steps=H)
    assert outcome.reasons == (Reason.NON_FINITE,) * 3
    assert not outcome.fitted.any()


def test_a_state_of_the_wrong_shape_fails_the_whole_batch() -> None:
    y = walks(3, 130)
    y[1, 0] = POISON
    with pytest.raises(ValueError, match="toy_harmful: field 'mean'"):
        train(HarmfulModel("wrong_shape"), instants(130), y, horizon_steps=H)


class ShortPaths(MeanModel):
    name = "toy_short"

    def forecast(self, state: MeanState, t_ms: TimeArray):  # type: ignore[no-untyped-def]
        return super().forecast(state, t_ms[: max(1, t_ms.size - 1)])


def test_forecasts_of_too_few_steps_fail_the_whole_batch() -> None:
    with pytest.raises(ValueError, match=r"toy_short: forecasts have shapes .* \(2, 5\)"):
        train(ShortPaths(), instants(20), walks(2, 20), horizon_steps=H, validation=1)


# Finetuning


def warm_state(y: FloatArray, end: int) -> MeanState:
    return MeanModel().fit(instants(end), y[:, :end])


def test_a_finetune_learns_on_from_the_warm_state_and_is_judged_without_leakage() -> None:
    y = np.concatenate([np.zeros((2, 100)), np.full((2, 60), 8.0)], axis=1)
    outcome = trained(y, warm=warm_state(y, 100), mode=FINETUNE)
    assert outcome.holdout.tolist() == [30, 30]
    # up to the held-out part the mean of all is 30 * 8 / 130; half of the warm state's 0 and that
    expected = 8.0 - 0.5 * (30 * 8.0 / 130)
    np.testing.assert_allclose(outcome.residuals, expected)
    assert isinstance(outcome.state, MeanState)
    np.testing.assert_allclose(outcome.state.mean, 0.5 * (60 * 8.0 / 160))


@pytest.mark.parametrize("which", [*MODEL_NAMES, OwnModel])
def test_every_model_finetunes_to_about_what_a_fit_would_give(which: str | type) -> None:
    model = build(which, {}, ModelContext(granularity_ms=G, horizon_steps=3, n_lags=12))
    random = np.random.default_rng(2)
    noise = random.normal(size=(6, 700))
    y = 50.0 + np.stack([np.convolve(row, 0.7 ** np.arange(10))[:700] for row in noise])
    t_ms = instants(700)
    warm = model.fit(t_ms[:500], y[:, :500])
    tuned = train(model, t_ms, y, warm, horizon_steps=3, validation=100, mode=FINETUNE)
    anew = train(model, t_ms, y, horizon_steps=3, validation=100)
    assert (tuned.state.last_ms == t_ms[-1]).all()
    assert tuned.fitted.all()
    assert tuned.mae.mean() <= 1.1 * anew.mae.mean()


def test_a_finetune_learns_from_the_newest_instants_only() -> None:
    y = np.concatenate([np.full((1, 700), 50.0), np.full((1, 300), 8.0)], axis=1)
    outcome = trained(y, warm=warm_state(y, 600), mode=FINETUNE)
    assert isinstance(outcome.state, MeanState)
    assert outcome.state.mean.tolist() == [(50.0 + 8.0) / 2]
    assert outcome.state.learned.tolist() == [training.RECENT]


def test_a_finetune_does_not_change_the_state_it_starts_from() -> None:
    y = walks(2, 160)
    warm = warm_state(y, 100)
    mean = warm.mean.copy()
    trained(y, warm=warm, mode=FINETUNE)
    np.testing.assert_array_equal(warm.mean, mean)


def test_a_warm_state_that_has_seen_the_newest_instants_is_not_judged_on_them() -> None:
    y = walks(4, 160)
    ends = (143, 130, 100, 160)
    parts = [warm_state(y[row : row + 1], end) for row, end in enumerate(ends)]
    warm = MeanState(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0]))
    )
    outcome = trained(y, warm=warm, mode=FINETUNE)
    assert outcome.holdout.tolist() == [15, 30, 30, 30]
    alone = trained(y[3:], mode=FINETUNE)  # too new to start from: fitted anew
    np.testing.assert_array_equal(outcome.residuals[3], alone.residuals[0])


@pytest.mark.parametrize("why", ["unfitted", "ahead", "a hole before the window"])
def test_a_warm_state_that_is_no_start_leads_to_a_fit_from_scratch(why: str) -> None:
    y = walks(1, 160)
    warm = warm_state(y, 100)
    match why:
        case "unfitted":
            warm = replace(warm, sigma=np.full(1, np.nan))
        case "ahead":
            warm = replace(warm, last_ms=instants(161)[-1:])
        case _:
            warm = replace(warm, last_ms=np.array([-2 * G]))
    tuned, anew = trained(y, warm=warm, mode=FINETUNE), trained(y)
    np.testing.assert_array_equal(tuned.residuals, anew.residuals)
    np.testing.assert_array_equal(tuned.state.sigma, anew.state.sigma)


def test_rows_that_are_tuned_and_rows_fitted_anew_come_back_in_their_order() -> None:
    y = walks(4, 160)
    warm = warm_state(y, 100)
    warm = replace(warm, sigma=np.where([True, False, True, False], np.nan, warm.sigma))
    mixed = trained(y, warm=warm, mode=FINETUNE)
    for row in range(4):
        alone = trained(y[row : row + 1], warm=take(warm, np.array([row])), mode=FINETUNE)
        assert isinstance(mixed.state, MeanState)
        assert isinstance(alone.state, MeanState)
        assert mixed.state.mean[row] == alone.state.mean[0]
        np.testing.assert_array_equal(mixed.residuals[row], alone.residuals[0])


# Rows and arrays


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("count", [3, 11, 30, 100])
def test_a_series_that_has_just_begun_is_learned_as_if_the_window_began_with_it(
    name: str, count: int
) -> None:
    """Its band would be far too narrow if the empty window before it passed for a still past."""
    model = build(name, {}, ModelContext(G, H, 30))
    values = np.random.default_rng(count).normal(10.0, 1.0, (1, count))
    long = np.full((3, 600), np.nan)
    long[0, -count:] = values
    long[1] = np.random.default_rng(1).normal(20.0, 1.0, 600)
    when = instants(600)
    got = train(model, when, long, horizon_steps=H)
    alone = train(model, when[-count:], values, horizon_steps=H)
    assert got.n_samples.tolist() == [count, 600, 0]
    assert got.reasons[0] == alone.reasons[0]
    ahead = when[-1] + G * np.arange(1, 6)
    young, own = model.forecast(got.state, ahead), model.forecast(alone.state, ahead)
    np.testing.assert_allclose(young.mean[0], own.mean[0], rtol=1e-6)
    np.testing.assert_allclose(young.upper[0], own.upper[0], rtol=1e-6)
    assert 15 < young.mean[1, 0] < 25
    assert np.isnan(young.mean[2]).all()


def test_an_outcome_as_arrays_and_back_is_the_same() -> None:
    y = walks(3, 100)
    y[2, :97] = np.nan
    outcome = trained(y)
    again = training.outcome_from_arrays(MeanState, training.outcome_to_arrays(outcome))
    assert again.reasons == outcome.reasons
    assert again.leads == outcome.leads
    for name in ("mae", "mase", "residuals", "instants_ms", "holdout", "n_samples", "lead_mae"):
        np.testing.assert_array_equal(getattr(again, name), getattr(outcome, name))
    np.testing.assert_array_equal(again.state.sigma, outcome.state.sigma)


def test_parts_that_were_judged_on_different_lengths_are_joined_at_their_newest_instant() -> None:
    y = walks(3, 100)
    y[1:, :70] = np.nan
    whole = trained(y)
    joined = training.merge([trained(y[:1]), trained(y[1:])])
    np.testing.assert_array_equal(joined.residuals, whole.residuals)
    np.testing.assert_array_equal(joined.instants_ms, whole.instants_ms)
    np.testing.assert_array_equal(joined.mae, whole.mae)
    assert joined.reasons == whole.reasons
