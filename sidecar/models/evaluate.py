"""Forecasts of windows that stand for themselves: how the models are judged and compared.

``fit_predict`` is the one adapter: what a harness calls with histories, and what the figures in the
modules' docstrings were measured with. ``adapter`` gives the same for one model by name.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import numpy as np

from sidecar.models.features import DAY_MS
from sidecar.models.registry import ModelContext, build
from sidecar.series import FloatArray

FitPredict: TypeAlias = Callable[[FloatArray, int, int], dict[str, FloatArray]]

DEFAULT_MODEL: Final = "auto"
# A Tuesday, so that a window's days fall where they would in production.
_START_MS: Final = 1_700_006_400_000
_N_LAGS: Final = 30


def adapter(model: str, params: Mapping[str, object] | None = None) -> FitPredict:
    """A function that fits ``model`` to each window and forecasts what follows.

    Returns:
        fit_predict(y, horizon, seasonal_period): y (n, T), evenly spaced, oldest first, with
        ``seasonal_period`` samples a day; gives ``mean``, ``lo`` and ``hi`` (95 %), each
        (n, horizon). A window that cannot be fitted is NaN.
    """
    settings = dict(params or {})

    def run(y: FloatArray, horizon: int, seasonal_period: int) -> dict[str, FloatArray]:
        step_ms = DAY_MS // seasonal_period
        context = ModelContext(granularity_ms=step_ms, horizon_steps=horizon, n_lags=_N_LAGS)
        size = y.shape[1]
        t_ms = _START_MS // step_ms * step_ms + step_ms * np.arange(size + horizon, dtype=np.int64)
        built = build(model, settings, context)
        got = built.forecast(built.fit(t_ms[:size], np.asarray(y, np.float64)), t_ms[size:])
        return {"mean": got.mean, "lo": got.lower, "hi": got.upper}

    return run


def fit_predict(y: FloatArray, horizon: int, seasonal_period: int) -> dict[str, FloatArray]:
    """``adapter`` of the default model."""
    return adapter(DEFAULT_MODEL)(y, horizon, seasonal_period)
