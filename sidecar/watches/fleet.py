"""All watches of a configuration: built, run each as a task of its own, exchanged on a reload."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from sidecar.config import SentinelConfig, WatchConfig
from sidecar.publish.exposition import GaugeRules
from sidecar.publish.outputs import output_rules
from sidecar.publish.ownership import Ownership
from sidecar.publish.paths import ForecastPaths
from sidecar.publish.publisher import Owns, Sink, WatchPublisher
from sidecar.watches.ports import Ports
from sidecar.watches.watching import Watch

log = logging.getLogger(__name__)

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Fleet:
    """The running watches.

    Args:
        sinks: the endpoints that all of them write to.
        spawn: starts a task that is looked after.
    """

    def __init__(
        self,
        config: SentinelConfig,
        ports: Ports,
        sinks: Sequence[Sink],
        paths: ForecastPaths,
        stopping: asyncio.Event,
        spawn: Spawn,
    ) -> None:
        self._config = config
        self._ports = ports
        self._sinks = sinks
        self._paths = paths
        self._stopping = stopping
        self._spawn = spawn
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._exchanging = asyncio.Lock()
        ownership = Ownership.among(config.watches, ports.external_labels)
        self.watches = [
            self._built(config, watch, partial(ownership.of, place))
            for place, watch in enumerate(config.watches)
        ]

    def start(self) -> None:
        """Let every watch run that does not yet."""
        for watch in self.watches:
            if watch.watch_id not in self._tasks:
                self._tasks[watch.watch_id] = self._spawn(watch.run(self._stopping))

    async def exchange(self, config: SentinelConfig) -> str:
        """Run the watches of another configuration; those that are the same go on untouched.

        A watch whose settings changed goes on from what it knew where that still makes sense; the
        outputs of one that is gone end with stale markers.

        Returns:
            What changed, for the log.
        """
        async with self._exchanging:  # two at once would each end what the other begins
            return await self._exchanged(config)

    async def close(self) -> None:
        """End what the watches have running beside them; a cycle that waits for it is woken."""
        await asyncio.gather(*(asyncio.to_thread(watch.close) for watch in self.watches))

    async def _exchanged(self, config: SentinelConfig) -> str:
        before = {watch.watch_id: watch for watch in self.watches}
        same = {
            watch.id
            for watch in config.watches
            if watch.id in before
            and before[watch.id].config == watch
            and self._config.emit_confidence_bounds == config.emit_confidence_bounds
        }
        now = {watch.id for watch in config.watches}
        ownership = Ownership.among(config.watches, self._ports.external_labels)
        owners = [partial(ownership.of, place) for place in range(len(config.watches))]
        # All that may fail comes before anything is ended.
        watches = [
            before[one.id] if one.id in same else self._built(config, one, owns)
            for one, owns in zip(config.watches, owners, strict=True)
        ]
        for watch_id, watch in before.items():
            if watch_id not in same:
                await self._ended(watch, for_good=watch_id not in now)
        for watch, owns in zip(watches, owners, strict=True):
            watch.publisher.owned_as(owns)
        self.watches, self._config = watches, config
        self.start()
        new = len(now - before.keys())
        gone = len(before.keys() - now)
        changed = len(now) - new - len(same)
        return f"{new} watches are new, {changed} changed, {gone} gone, {len(same)} as before"

    async def _ended(self, watch: Watch, *, for_good: bool) -> None:
        task = self._tasks.pop(watch.watch_id, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._ports.trainer.dismiss(watch.watch_id)
        await asyncio.to_thread(watch.close)
        await watch.leave(for_good=for_good)

    def _built(self, config: SentinelConfig, watch: WatchConfig, owns: Owns) -> Watch:
        publisher = WatchPublisher(
            watch.id,
            output_rules(config, watch),
            GaugeRules(watch.output_metric, watch.horizon, config.emit_confidence_bounds),
            watch.horizon_steps,
            owns,
            self._sinks,
            self._paths,
            config.publish.exposition_max_series,
        )
        return Watch(watch, publisher, self._ports, config.timezone)
