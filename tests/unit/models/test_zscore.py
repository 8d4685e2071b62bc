import numpy as np
import pytest

from sidecar.models.anomaly import score
from sidecar.models.zscore import ZScoreModel
from sidecar.series import TimeArray


def instants(first: int, count: int) -> TimeArray:
    return 60_000 * (1_000 + first + np.arange(count, dtype=np.int64))


def test_the_band_is_the_moving_average_and_so_many_deviations() -> None:
    y = np.random.default_rng(0).normal(size=(2, 100))
    model = ZScoreModel(window=20, threshold=3.0)
    got = model.forecast(model.fit(instants(0, 100), y), instants(100, 4))
    newest = y[:, -20:]
    np.testing.assert_allclose(got.mean, np.repeat(newest.mean(axis=1)[:, None], 4, axis=1))
    half = got.upper - got.mean
    np.testing.assert_allclose(half, np.repeat(3 * newest.std(axis=1)[:, None], 4, axis=1))


def test_an_anomaly_score_of_one_is_the_threshold() -> None:
    y = np.random.default_rng(0).normal(size=(1, 100))
    model = ZScoreModel()
    got = model.forecast(model.fit(instants(0, 100), y), instants(100, 1))
    mean, deviation = y[0, -60:].mean(), y[0, -60:].std()
    actual = np.array([mean + 2.5 * deviation])
    assert score(actual, got.mean[:, 0], got.lower[:, 0], got.upper[:, 0])[0] == pytest.approx(1)


def test_the_window_moves_with_each_value_and_waits_where_there_is_none() -> None:
    y = np.random.default_rng(0).normal(size=(1, 100))
    model = ZScoreModel(window=10)
    state = model.fit(instants(0, 90), y[:, :90])
    later = y[:, 90:].copy()
    later[0, 3:6] = np.nan
    got = model.update(state, instants(90, 10), later)
    kept = np.concatenate([y[0, :90], later[0]])
    kept = kept[np.isfinite(kept)][-10:]
    np.testing.assert_allclose(got.buffer[0], kept)
    assert got.sigma[0] == pytest.approx(kept.std())


def test_fewer_values_than_the_window_are_averaged_over() -> None:
    y = np.array([[np.nan, 1.0, np.nan, 2.0, 3.0, np.nan]])
    model = ZScoreModel(window=50)
    got = model.forecast(model.fit(instants(0, 6), y), instants(6, 1))
    assert got.mean[0, 0] == pytest.approx(2)


@pytest.mark.parametrize("params", [{"window": 2}, {"threshold": 0}])
def test_wrong_settings_are_refused_by_name(params: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(params))}: "):
        ZScoreModel(**params)
