"""The configuration: its schema as Python classes, and ``load`` from YAML and the environment."""

from sidecar.config.http import (
    Authorization,
    BasicAuth,
    OAuth2,
    RemoteReadConfig,
    RemoteWriteConfig,
    TlsConfig,
)
from sidecar.config.loading import load
from sidecar.config.schema import (
    AnomalyConfig,
    PublishConfig,
    SentinelConfig,
    WatchConfig,
    WatchPublish,
)

__all__ = [
    "AnomalyConfig",
    "Authorization",
    "BasicAuth",
    "OAuth2",
    "PublishConfig",
    "RemoteReadConfig",
    "RemoteWriteConfig",
    "SentinelConfig",
    "TlsConfig",
    "WatchConfig",
    "WatchPublish",
    "load",
]
