"""``run``, ``once``, ``check`` and ``remote-read-config``: what works on a configuration."""

import argparse
import asyncio
import gc
import sys
from functools import partial

from rich.console import Console
from rich.progress import Progress as ProgressBar
from rich.progress import TaskID

from sidecar.cli.client import url_here
from sidecar.cli.common import configuration
from sidecar.cli.status_codes import EXIT_FAILED, EXIT_OK
from sidecar.config import SentinelConfig
from sidecar.names import EXPECTED, LOWER, UPPER
from sidecar.running import Progress
from sidecar.sentinel import Sentinel


def run(config: SentinelConfig, options: argparse.Namespace) -> int:
    # What is loaded by now stays for good; looking through it in each collection would hold up
    # the event loop for tens of milliseconds.
    gc.collect()
    gc.freeze()
    with _StartProgress() as progress:
        load_again = partial(configuration, options)
        Sentinel(config, options.log_level, on_progress=progress.show, load=load_again).start()
    return EXIT_OK


def once(config: SentinelConfig, options: argparse.Namespace) -> int:
    with _StartProgress() as progress:
        complete = Sentinel(config, options.log_level, on_progress=progress.show).once()
    if not complete:
        print("sentinel: something did not work; the log says what", file=sys.stderr)
    return EXIT_OK if complete else EXIT_FAILED


class _StartProgress:
    """A bar on standard error while watches read their past and are fitted, on a terminal only."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar = ProgressBar(console=console, transient=True) if console.is_terminal else None
        self._task: TaskID | None = None
        self._begun = 0

    def __enter__(self) -> "_StartProgress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, progress: Progress) -> None:
        if progress.begun > self._begun:
            gc.freeze()  # the label sets of a watch that has begun stay, too
        self._begun = progress.begun
        if self._bar is None:
            return
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("reading and fitting watches", total=progress.watches)
        self._bar.update(self._task, completed=progress.begun)
        if progress.begun == progress.watches:
            self._bar.stop()
            self._bar = None


def check(config: SentinelConfig, _: argparse.Namespace) -> int:
    from sidecar.check import run_check

    return asyncio.run(run_check(config, Console()))


def show_remote_read_config(config: SentinelConfig, _: argparse.Namespace) -> int:
    """Print the block; it needs only the configuration, and names the metrics it will write."""
    from sidecar.serve.remote_read import remote_read_config
    from sidecar.serve.web_config import WebConfig, load_web_config

    metrics = [
        watch.output_metric + suffix
        for watch in config.watches
        for suffix in (EXPECTED, EXPECTED + LOWER, EXPECTED + UPPER)
    ]
    protection = load_web_config(config.web_config_file) if config.web_config_file else WebConfig()
    url = url_here(config, tls=protection.context is not None)
    print(remote_read_config(url, metrics, user=next(iter(protection.users), "")), end="")
    return EXIT_OK
