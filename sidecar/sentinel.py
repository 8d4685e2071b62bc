"""The sidecar as a library: ``Sentinel(config).start()`` blocks until a signal or ``stop()``."""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

# What `models.alone` would load amid a cycle, holding up the event loop, is loaded here.
import scipy.optimize
import scipy.signal  # noqa: F401

from sidecar.config import SentinelConfig
from sidecar.errors import ConfigError, SidecarError
from sidecar.logs import set_up_logging
from sidecar.running import SHUTDOWN_S, Progress, Running

__all__ = ["Progress", "Sentinel"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_SWITCH_INTERVAL_S: Final = 0.001


class Sentinel:
    """The sidecar as a library.

    >>> from sidecar import Sentinel, SentinelConfig, WatchConfig
    >>> sentinel = Sentinel(SentinelConfig(watches=[WatchConfig("node_load1")]))
    >>> sentinel.status()
    {}

    Args:
        config: what to watch.
        log_level: of the package's own logger; None leaves logging alone.
        on_progress: told how far the start has come, from the event loop's thread.
        load: reads the configuration again, on SIGHUP and ``POST /-/reload``.
    """

    def __init__(
        self,
        config: SentinelConfig,
        log_level: str | None = "INFO",
        *,
        on_progress: Callable[[Progress], None] | None = None,
        load: Callable[[], SentinelConfig] | None = None,
    ) -> None:
        self.config = config
        self._log_level = log_level
        self._on_progress = on_progress
        self._load = load
        self._running: Running | None = None
        self._ended = threading.Event()
        self._ended.set()

    def start(self) -> None:
        """Run until a signal or ``stop`` from another thread; may be started again afterwards.

        Raises:
            SidecarError: the port is taken, or another process uses the artifact store.
        """
        asyncio.run(self._live(_until_stopped))

    def once(self) -> bool:
        """One cycle of every watch, delivered, then return; whether nothing went wrong."""
        return asyncio.run(self._live(_one_cycle))

    def stop(self) -> None:
        """End ``start`` from another thread; returns when it has ended. Idle: does nothing."""
        running = self._running
        if running is not None:
            running.loop.call_soon_threadsafe(running.stopping.set)
        self._ended.wait(2 * SHUTDOWN_S)

    def status(self) -> dict[str, dict[str, Any]]:
        """Facts of every series, keyed by its notation ``metric{a="b"}``; empty if not running."""
        running = self._running
        return {} if running is None else dict(running.status())

    def rollback(
        self,
        metric: str,
        labels: Mapping[str, str] | None = None,
        to_version: int | None = None,
        *,
        pin: bool = True,
    ) -> bool:
        """Put another version back into service for every series that has these labels.

        Args:
            to_version: its number; None for the version before the active one.
            pin: whether these series are from now on fitted only when an operator asks for it.

        Returns:
            Whether it was done for any series; for one where it could not be, nothing has changed.

        Raises:
            SidecarError: not running.
        """
        running = self._running
        if running is None:
            raise SidecarError("rollback needs a running sidecar: call start() first")
        order = running.operator.rollback(
            metric, dict(labels or {}), to_version=to_version, pin=pin
        )
        done = asyncio.run_coroutine_threadsafe(order, running.loop).result()
        for one in done:
            if one.error:
                log.warning("rollback of %s: %s", one.series, one.error)
        return any(not one.error for one in done)

    async def _live(self, do: Callable[["Running"], Coroutine[Any, Any, T]]) -> T:
        if self._log_level is not None:
            set_up_logging(self._log_level, self.config.log_format)
        # Threads with long sums hand the interpreter back sooner: the event loop waits less.
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        self._ended.clear()
        try:
            async with Running(self.config, self._on_progress, self._load) as running:
                self._running = running
                return await do(running)
        finally:
            self._running = None
            self._ended.set()


async def _until_stopped(running: Running) -> None:
    """Signals ask for an end; a second one does not wait for it."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread:
        for number in (signal.SIGTERM, signal.SIGINT):
            running.loop.add_signal_handler(number, _on_signal, running, number)
        running.loop.add_signal_handler(signal.SIGHUP, _on_hangup, running)
    try:
        await running.run()
    finally:
        if in_main_thread:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                running.loop.remove_signal_handler(number)


def _on_signal(running: Running, number: int) -> None:
    if running.stopping.is_set():
        log.warning("second signal: ending at once; what is in the spool stays there")
        os._exit(128 + number)
    log.info("stopping: %s", signal.Signals(number).name)
    running.stopping.set()


def _on_hangup(running: Running) -> None:
    """Read the configuration again; a wrong one changes nothing."""

    async def reload() -> None:
        try:
            await running.reload()
        except ConfigError as error:
            log.warning("not reloaded, the old configuration goes on:")
            for problem in error.problems:
                log.warning("not reloaded: %s", problem)
        except SidecarError as error:
            log.warning("not reloaded: %s", error)

    running.later(reload())


async def _one_cycle(running: Running) -> bool:
    return await running.once()
