"""What every command needs: exit statuses, the configuration it was given, the running sidecar."""

import argparse
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from sidecar.config import SentinelConfig, WatchConfig, load
from sidecar.errors import SidecarError

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


def asked(config: SentinelConfig, path: str, order: Mapping[str, Any] | None = None) -> Any:
    """What the running sidecar answers, also where it refuses.

    Raises:
        SidecarError: none answers.
    """
    url = f"http://{reachable(config.emitter_host)}:{config.emitter_port}{path}"
    body = None if order is None else json.dumps(order).encode()
    headers = {"X-Sentinel-Admin": "cli", "Content-Type": "application/json"}
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310 - as above
            return json.load(reply)
    except urllib.error.HTTPError as error:
        return _refusal(url, error)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise SidecarError(
            f"no sidecar answers at {url} ({error}): is it running, and with this configuration?"
        ) from error


def _refusal(url: str, error: urllib.error.HTTPError) -> Any:
    """What a refusal says, where it is the sidecar's own.

    Raises:
        SidecarError: it is something else's, or asks for a password.
    """
    if error.code in (401, 403) and error.headers.get("WWW-Authenticate"):
        raise SidecarError(
            f"{url} wants a password (web_config_file): the command line has none to give, ask "
            "with curl -u"
        ) from None
    try:
        return json.load(error)
    except ValueError:
        raise SidecarError(
            f"{url} answers {error.code} {error.reason}: is that the sidecar's port?"
        ) from None


def reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
