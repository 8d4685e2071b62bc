"""What every command needs: exit statuses, and the configuration it was given."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from sidecar.config import SentinelConfig, WatchConfig, load

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
DEFAULT_FILE: Final = Path("sentinel.yml")


def configuration(options: argparse.Namespace) -> SentinelConfig:
    """The file, the environment over it, the command line over both."""
    path = file_of(options)
    needed = options.needs_watches and not options.watch
    config = load(path, _environment(options), need_watches=needed)
    watches = tuple(WatchConfig.from_selector(text) for text in options.watch)
    return replace(config, watches=(*config.watches, *watches))


def file_of(options: argparse.Namespace) -> Path | None:
    """The configuration file: named, by the environment, or the one that lies here."""
    if options.config is not None:
        return Path(options.config)
    if "SENTINEL_CONFIG" in os.environ:
        return Path(os.environ["SENTINEL_CONFIG"])
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def _environment(options: argparse.Namespace) -> Mapping[str, str]:
    if not options.prometheus_url:
        return os.environ
    return {**os.environ, "SENTINEL_PROMETHEUS_URL": options.prometheus_url}
