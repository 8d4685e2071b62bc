import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sidecar.models.contract import (
    BaseModel,
    PredictionResult,
    TrainingResult,
    concat,
    from_arrays,
    put,
    take,
    to_arrays,
)
from sidecar.models.custom import CustomModel, CustomState
from sidecar.models.registry import ModelContext, build
from sidecar.series import FloatArray, TimeArray

STEP = 60_000
CONTEXT = ModelContext(granularity_ms=STEP, horizon_steps=3, n_lags=4, timezone="Europe/Berlin")


def instants(first: int, count: int) -> TimeArray:
    return STEP * (1_000 + first + np.arange(count, dtype=np.int64))


class MeanOfLags(BaseModel):
    """Forecasts the mean of the lags plus what it learned: the mean distance of targets to it."""

    def __init__(self, granularity: str, horizon: str, lookback: str, factor: float = 1.0) -> None:
        super().__init__(granularity, horizon, lookback)
        self.factor, self.offset, self.seen = factor, 0.0, 0

    def fit(self, X: FloatArray, y: FloatArray) -> TrainingResult:
        if (y < 0).any():
            raise RuntimeError("negative values\nare not for me")
        self.offset, self.seen = float((y - X[:, :4].mean(axis=1)).mean()), len(y)
        self.is_fitted = True
        return TrainingResult(mae=2.0, n_samples=len(y), message=f"{len(y)} rows")

    def partial_fit(self, X: FloatArray, y: FloatArray) -> TrainingResult:
        self.offset += 100
        return TrainingResult(mae=1.0, n_samples=len(y))

    def predict(self, X: FloatArray) -> PredictionResult:
        assert self.is_fitted
        assert X.shape == (1, 10)
        mean = float(X[0, :4].mean()) * self.factor + self.offset
        return PredictionResult(np.array([mean, mean, mean]))

    def save(self, path: Path) -> None:
        (path / "deep").mkdir()
        (path / "deep" / "model.json").write_text(json.dumps([self.offset, self.seen]))

    def load(self, path: Path) -> None:
        self.offset, self.seen = json.loads((path / "deep" / "model.json").read_text())


class Bounded(MeanOfLags):
    def predict(self, X: FloatArray) -> PredictionResult:
        values = super().predict(X).values
        return PredictionResult(values, values - [1, 2, 3], values + 1)


def series(n: int = 2, size: int = 30) -> FloatArray:
    return np.abs(np.random.default_rng(0).normal(size=(n, size))) + 10


def built(model: type[BaseModel] = MeanOfLags, **params: object) -> CustomModel:
    model_ = build(model, params, CONTEXT)
    assert isinstance(model_, CustomModel)
    return model_


def test_each_series_gets_an_instance_of_its_own() -> None:
    y = series()
    model = built()
    state = model.fit(instants(0, 30), y)
    got = model.forecast(state, instants(30, 3))
    for row in range(2):
        lags = y[row, -4:].mean()
        targets = [y[row, t] - y[row, t - 4 : t].mean() for t in range(4, 30)]
        np.testing.assert_allclose(got.mean[row], lags + np.mean(targets))
    assert model.explain(state) == ["26 rows", "26 rows"]


def test_a_model_without_bounds_gets_those_of_its_own_error() -> None:
    model = built()
    got = model.forecast(model.fit(instants(0, 30), series()), instants(30, 3))
    half = got.upper - got.mean
    np.testing.assert_allclose(half[0], 1.96 * 2.0 * 1.2533 * np.sqrt([1, 2, 3]), rtol=1e-3)


def test_a_models_own_bounds_are_taken() -> None:
    model = built(Bounded)
    got = model.forecast(model.fit(instants(0, 30), series()), instants(30, 3))
    np.testing.assert_allclose((got.mean - got.lower)[0], [1, 2, 3])


def test_durations_and_parameters_reach_the_constructor() -> None:
    model = built(factor=2.0)
    instance = model._made()
    assert (instance.granularity, instance.horizon, instance.lookback) == ("1m", "3m", "4m")
    assert isinstance(instance, MeanOfLags)
    assert instance.factor == 2.0


def test_a_parameter_that_the_constructor_does_not_take_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"MeanOfLags\(\.\.\.\) raised TypeError: .*'speed'"):
        built(speed=3)


def test_what_one_series_raises_is_its_own_problem_and_is_said() -> None:
    y = series(3)
    y[1] -= 100
    model = built()
    state = model.fit(instants(0, 30), y)
    got = model.forecast(state, instants(30, 3)).mean
    assert np.isnan(got[1]).all()
    assert np.isfinite(got[[0, 2]]).all()
    said = model.explain(state)[1]
    assert said == "fit raised RuntimeError: negative values are not for me"


class Moody(MeanOfLags):
    """Fails to forecast what lies above ``factor``: it raises, or says what is no number."""

    def predict(self, X: FloatArray) -> PredictionResult:
        if X[0, 3] > 2 * self.factor:
            return PredictionResult(np.array(["what"]))
        if X[0, 3] > self.factor:
            raise ZeroDivisionError("too high\nfor me")
        return super().predict(X)


def test_a_series_that_cannot_be_forecast_is_its_own_problem_and_is_said() -> None:
    y = series(4)
    y[1] += 120
    y[2] += 2000
    model = built(Moody, factor=100.0)
    state = model.fit(instants(0, 30), y)
    got = model.forecast(state, instants(30, 3))
    assert np.isnan(got.mean[1:3]).all()
    assert np.isnan(got.upper[1:3]).all()
    assert np.isfinite(got.mean[[0, 3]]).all()
    lines = model.explain(state)
    assert lines[0] == "26 rows"
    assert lines[1] == "predict raised ZeroDivisionError: too high for me"
    assert lines[2].startswith("predict raised ValueError: ")
    # What goes well again is no longer complained of.
    calm = model.update(state, instants(30, 1), np.full((4, 1), 10.0))
    assert np.isfinite(model.forecast(calm, instants(31, 3)).mean).all()
    assert model.explain(calm)[1] == "26 rows"


def test_forecasts_follow_new_samples() -> None:
    y = series(2, 33)
    model = built()
    state = model.fit(instants(0, 30), y[:, :30])
    later = model.update(state, instants(30, 3), y[:, 30:])
    before, after = (model.forecast(one, instants(33, 1)).mean for one in (state, later))
    np.testing.assert_allclose(
        after - before, (y[:, 29:33].mean(axis=1) - y[:, 26:30].mean(axis=1))[:, None]
    )


def test_a_missing_sample_repeats_the_newest_and_widens() -> None:
    model = built()
    state = model.fit(instants(0, 30), series())
    silent = model.update(state, instants(30, 2), np.full((2, 2), np.nan))
    assert (silent.buffer[:, -1] == state.buffer[:, -1]).all()
    width = [
        np.ptp((f.lower, f.upper))
        for f in (model.forecast(one, instants(32, 1)) for one in (state, silent))
    ]
    assert width[1] > width[0]


def test_more_steps_than_it_forecasts_are_missing_and_fewer_are_cut() -> None:
    model = built()
    state = model.fit(instants(0, 30), series())
    got = model.forecast(state, instants(30, 5)).mean
    assert np.isfinite(got[:, :3]).all()
    assert np.isnan(got[:, 3:]).all()
    assert model.forecast(state, instants(30, 2)).mean.shape == (2, 2)


def test_a_finetune_learns_on_a_copy() -> None:
    y = series()
    model = built()
    state = model.fit(instants(0, 30), y)
    before = model.forecast(state, instants(30, 3)).mean
    tuned = model.finetune(state, instants(10, 20), y[:, 10:])
    np.testing.assert_allclose(model.forecast(tuned, instants(30, 3)).mean, before + 100)
    np.testing.assert_allclose(model.forecast(state, instants(30, 3)).mean, before)


def test_a_state_is_arrays_that_store_without_pickle(tmp_path: Path) -> None:
    model = built()
    state = model.fit(instants(0, 30), series(4))
    np.savez(tmp_path / "state.npz", allow_pickle=False, **to_arrays(state))
    with np.load(tmp_path / "state.npz", allow_pickle=False) as stored:
        restored = from_arrays(CustomState, dict(stored))
    fresh = built()
    np.testing.assert_array_equal(
        fresh.forecast(restored, instants(30, 3)).mean,
        model.forecast(state, instants(30, 3)).mean,
    )


def test_states_of_different_sizes_join_whole() -> None:
    y = series(4)
    y[2] *= 123_456.789  # a longer number in its file
    model = built()
    t_ms = instants(0, 30)
    whole = model.fit(t_ms, y)
    joined = concat([model.fit(t_ms, y[:2]), model.fit(t_ms, y[2:])])
    swapped = put(take(whole, np.array([0, 1])), np.array([1]), take(whole, np.array([2])))
    wanted = model.forecast(whole, instants(30, 3)).mean
    np.testing.assert_array_equal(model.forecast(joined, instants(30, 3)).mean, wanted)
    np.testing.assert_array_equal(model.forecast(swapped, instants(30, 3)).mean, wanted[[0, 2]])


def test_too_short_a_history_is_not_handed_to_the_users_code() -> None:
    y = np.full((1, 30), np.nan)
    y[0, -5:] = 1.0
    state = built().fit(instants(0, 30), y)
    assert np.isnan(state.sigma).all()


def test_its_lookback_and_its_parameters_are_its_recipe() -> None:
    plain = build(MeanOfLags, {}, CONTEXT).recipe
    assert build(MeanOfLags, {}, CONTEXT).recipe == plain
    assert build(MeanOfLags, {"factor": 2.0}, CONTEXT).recipe != plain
    assert build(MeanOfLags, {}, replace(CONTEXT, n_lags=5)).recipe != plain
