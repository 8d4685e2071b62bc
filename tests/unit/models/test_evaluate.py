import numpy as np

from sidecar.models.evaluate import adapter, fit_predict


def windows(size: int = 288) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    rng = np.random.default_rng(0)
    return 50 + rng.normal(size=(5, size)).cumsum(axis=1)


def test_the_adapter_gives_a_mean_and_bounds_for_every_window() -> None:
    got = fit_predict(windows(), 12, 288)
    assert set(got) == {"mean", "lo", "hi"}
    for part in got.values():
        assert part.shape == (5, 12)
        assert np.isfinite(part).all()
    assert (got["lo"] <= got["mean"]).all()
    assert (got["mean"] <= got["hi"]).all()


def test_every_window_stands_for_itself() -> None:
    y = windows()
    others = y.copy()
    others[1:] = 1e6 * y[:0:-1]
    np.testing.assert_allclose(
        fit_predict(others, 12, 288)["mean"][0], fit_predict(y, 12, 288)["mean"][0], rtol=1e-6
    )


def test_any_model_can_be_asked_for_with_its_settings() -> None:
    y = windows()
    naive = adapter("naive")(y, 3, 1440)["mean"]
    np.testing.assert_array_equal(naive, np.repeat(y[:, -1:], 3, axis=1))
    plain = adapter("linear", {"trend": "global"})(y, 1, 1440)["mean"]
    assert not np.allclose(plain, naive[:, :1])


def test_a_day_has_as_many_samples_as_the_caller_says() -> None:
    t = np.arange(14 * 24 + 24)
    y = (10 * np.sin(2 * np.pi * t / 24) + 0.01 * np.random.default_rng(1).normal(size=t.size))[
        None
    ]
    got = adapter("lags")(y[:, :-24], 24, 24)["mean"]
    np.testing.assert_allclose(got, y[:, -24:], atol=0.5)
