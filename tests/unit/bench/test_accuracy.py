import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.bench.accuracy import PROTOCOLS, Protocol, Windows, scores_of, summary_of, windows_of

HARNESS = Path(__file__).parents[4] / "shared" / "tools" / "forecast" / "bench.py"


def window(history: list[float], future: list[float]) -> Windows:
    return Windows(288, np.array([history]), np.array([future]))


def scored(windows: Windows, mean: list[float], half: float = 1.0) -> dict[str, float]:
    forecast = np.array([mean])
    return summary_of(scores_of(windows, forecast, forecast - half, forecast + half))


def test_scores_are_what_their_definitions_say() -> None:
    one = window([0, 1, 0, 1, 0], [2, 4])
    got = scored(one, [1, 1], half=1.5)
    assert got["MASE"] == pytest.approx(2)  # errors 1 and 3, differences of 1
    assert got["MASE1"] == pytest.approx(1)
    assert got["relMAE"] == pytest.approx(2.05 / 3.05)  # naive is off by 2 and 4
    assert got["wins"] == 1
    assert got["cov"] == 0.5
    assert got["MSIS"] == pytest.approx(3 + 40 * 1.5 / 2)
    assert got["bad"] == 0


def test_a_forecast_that_is_not_finite_counts_as_naive_and_is_told() -> None:
    got = scored(window([0, 1, 0, 1, 0], [2, 4]), [1, np.nan])
    assert (got["bad"], got["MASE"], got["wins"]) == (1, 3, 0.5)


def test_a_flat_window_is_only_held_to_be_sane() -> None:
    flat = window([5.0] * 50, [9.0])
    assert scored(flat, [5])["flat_ok"] == 1
    assert scored(flat, [6])["flat_ok"] == 0
    assert np.isnan(scored(flat, [5])["MASE"])


def test_windows_are_spread_over_a_series_and_only_of_the_sampling_asked_for() -> None:
    data = {
        "y": np.arange(300, dtype=np.float32),
        "offset": np.array([0, 100, 300]),
        "period": np.array([24, 288]),
    }
    (got,) = windows_of(data, Protocol(10, 2, 3, 288), None)
    assert got.history[:, 0].tolist() == [100, 194, 288]
    assert got.future.tolist() == [[110, 111], [204, 205], [298, 299]]
    assert sum(len(w.history) for w in windows_of(data, Protocol(10, 2, 3), 4)) == 4


@pytest.fixture(scope="module")
def harness() -> ModuleType:
    if not HARNESS.exists():
        pytest.skip("the harness that these scores are defined by lies outside of the project")
    spec = importlib.util.spec_from_file_location("forecast_bench", HARNESS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["forecast_bench"] = module
    spec.loader.exec_module(module)
    return module


def recorded() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    lengths = [400, 900, 3000, 2500]
    y = [rng.normal(size=n).cumsum() for n in lengths]
    y[1][:] = np.round(y[1])
    y[2][:2600] = 7.0
    return {
        "y": np.concatenate(y).astype(np.float32),
        "offset": np.concatenate([[0], np.cumsum(lengths)]),
        "period": np.array([24, 24, 288, 288]),
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_windows_and_scores_are_the_harness_s_own(harness: ModuleType, protocol: str) -> None:
    data = recorded()
    theirs = harness.windows(data, protocol)
    ours = windows_of(data, PROTOCOLS[protocol], None)
    assert [w.period for w in ours] == list(theirs)
    rng = np.random.default_rng(1)
    for windows in ours:
        history, future, _ = theirs[windows.period]
        np.testing.assert_array_equal(windows.history, history)
        np.testing.assert_array_equal(windows.future, future)
        mean = history[:, -1:] + rng.normal(size=future.shape)
        mean[0, 0] = np.nan
        low, high = mean - rng.random(future.shape), mean + 2
        wanted = harness.summarise(
            harness.score(history, future, {"mean": mean, "lo": low, "hi": high})
        )
        got = summary_of(scores_of(windows, mean, low, high))
        for name, value in got.items():
            assert value == pytest.approx(wanted[name], nan_ok=True), name
