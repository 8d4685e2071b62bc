"""The configuration: its schema as Python classes, and ``load`` from YAML and the environment."""

from sidecar.config.http import (
    Authorization,
    BasicAuth,
    RemoteReadConfig,
    RemoteWriteConfig,
    TlsConfig,
)
from sidecar.config.loading import load
from sidecar.config.schema import PublishConfig, SentinelConfig, WatchConfig, WatchPublish
from sidecar.config.values import DriftThreshold, DriftUnit, parse_drift_threshold

__all__ = [
    "Authorization",
    "BasicAuth",
    "DriftThreshold",
    "DriftUnit",
    "PublishConfig",
    "RemoteReadConfig",
    "RemoteWriteConfig",
    "SentinelConfig",
    "TlsConfig",
    "WatchConfig",
    "WatchPublish",
    "load",
    "parse_drift_threshold",
]
