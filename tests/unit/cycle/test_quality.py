"""How well a watch forecasts, in a few numbers."""

import numpy as np

from sidecar.watches.quality import quality_of
from tests.unit.cycle.helpers import T0, G, begun, cycles, history, model, rules, sampled

DAY = 288 * G


def line(seconds: np.ndarray) -> np.ndarray:
    return np.asarray(5.0 + 0.01 * (seconds - T0 / 1000) + 0.001 * np.sin(seconds / 7))


RAW = [sampled(line, T0 - DAY, T0 + 60 * G, name=name) for name in ("a", "b", "c")]


def test_nothing_judged_yet_is_no_number() -> None:
    which, r = model(), rules()
    quality = quality_of(begun(r, which, history(r, RAW)))
    assert np.isnan([*quality.mase, quality.coverage]).all()
    assert quality.drifting == (0, 0)


def test_a_line_is_forecast_far_better_than_naive_does() -> None:
    which, r = model(), rules()
    known, _ = cycles(r, which, begun(r, which, history(r, RAW)), RAW, 40)
    quality = quality_of(known)
    assert quality.mase[0] <= quality.mase[1] < 0.1
    assert 0.5 <= quality.coverage <= 1.0


def test_series_without_a_version_do_not_count() -> None:
    which, r = model(), rules()
    known, _ = cycles(r, which, begun(r, which, history(r, RAW), version=0), RAW, 40)
    assert np.isnan(quality_of(known).mase).all()
