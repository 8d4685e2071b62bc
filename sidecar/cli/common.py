"""What every command needs: exit statuses, and the configuration it was given."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from sidecar.cli.status_codes import DEFAULT_FILE
from sidecar.config import SentinelConfig, WatchConfig, load
from sidecar.errors import ConfigError, Problem


def configuration(options: argparse.Namespace) -> SentinelConfig:
    """The file, the environment over it, the command line over both."""
    path = file_of(options)
    needed = options.needs_watches and not options.watch
    try:
        config = load(path, _environment(options), need_watches=needed)
    except ConfigError as error:
        if path is None and needed and [one.path for one in error.problems] == ["watches"]:
            raise ConfigError([_NOTHING]) from None
        raise
    watches = tuple(_watch(text) for text in options.watch)
    return replace(config, watches=(*config.watches, *watches))


_NOTHING: Final = Problem(
    "",
    f"nothing to watch: there is no ./{DEFAULT_FILE} here; name a file with -c FILE, or a "
    "series with --watch 'node_load1{job=\"node\"}'",
)


def file_of(options: argparse.Namespace) -> Path | None:
    """The configuration file: named, by the environment, or the one that lies here."""
    if options.config is not None:
        return Path(options.config)
    if "SENTINEL_CONFIG" in os.environ:
        return Path(os.environ["SENTINEL_CONFIG"])
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def _watch(selector: str) -> WatchConfig:
    try:
        return WatchConfig.from_selector(selector)
    except ConfigError as error:
        if "(" not in selector.partition("{")[0]:
            raise
        hint = "an expression is watched from a file, with expr and name in place of metric"
        first = Problem("--watch", f"{error.problems[0].message}; {hint}")
        raise ConfigError([first]) from None


def _environment(options: argparse.Namespace) -> Mapping[str, str]:
    if not options.prometheus_url:
        return os.environ
    return {**os.environ, "SENTINEL_PROMETHEUS_URL": options.prometheus_url}
