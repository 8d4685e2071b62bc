"""Sentinel: a forecasting sidecar for Prometheus.

>>> from sidecar import SentinelConfig, WatchConfig
>>> config = SentinelConfig(watches=[WatchConfig("node_load1", horizon="30m")])
>>> config.watches[0].horizon_steps
30
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidecar.config import SentinelConfig, WatchConfig
    from sidecar.errors import (
        ConfigError,
        DataError,
        Rejected,
        RemoteError,
        SidecarError,
        StoreError,
        Unavailable,
    )
    from sidecar.models.arima import ARIMAModel
    from sidecar.models.contract import BaseModel, PredictionResult, TrainingResult
    from sidecar.models.holt import ExponentialSmoothingModel
    from sidecar.models.linear import LinearTrendModel
    from sidecar.models.sgd import SGDRegressorModel
    from sidecar.sentinel import Progress, Sentinel

__all__ = [
    "ARIMAModel",
    "BaseModel",
    "ConfigError",
    "DataError",
    "ExponentialSmoothingModel",
    "LinearTrendModel",
    "PredictionResult",
    "Progress",
    "Rejected",
    "RemoteError",
    "SGDRegressorModel",
    "Sentinel",
    "SentinelConfig",
    "SidecarError",
    "StoreError",
    "TrainingResult",
    "Unavailable",
    "WatchConfig",
]

# Where each name lives. They are imported when first asked for: a worker process that only fits
# models then starts without the web server, and a codec can be used without SciPy.
_HOMES = {
    "SentinelConfig": "config",
    "WatchConfig": "config",
    "ARIMAModel": "models.arima",
    "BaseModel": "models.contract",
    "PredictionResult": "models.contract",
    "TrainingResult": "models.contract",
    "ExponentialSmoothingModel": "models.holt",
    "LinearTrendModel": "models.linear",
    "SGDRegressorModel": "models.sgd",
    "Progress": "sentinel",
    "Sentinel": "sentinel",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'sidecar' has no attribute {name!r}")
    return getattr(import_module(f"sidecar.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return __all__
