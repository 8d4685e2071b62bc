"""What an operator may order: retrain, roll back, promote, pin. Each order names series by metric
and labels, is carried out series by series, and says of each what was done or why not.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from sidecar.errors import SidecarError
from sidecar.learning.records import AuditEntry, Group
from sidecar.learning.schedule import Mode, Trigger
from sidecar.learning.store import VersionStore
from sidecar.publish.publisher import InThread
from sidecar.series import LabelSet
from sidecar.trainer import Trainer
from sidecar.watching import Watch


@dataclass(frozen=True, slots=True)
class Done:
    """What became of an order for one series; ``error`` is empty where it was carried out."""

    series: str
    watch: str
    from_version: int | None = None
    to_version: int | None = None
    error: str = ""


class Operator:
    """Carries out orders on the running watches.

    Args:
        watches: those that run now.
    """

    def __init__(
        self,
        watches: Callable[[], Sequence[Watch]],
        store: VersionStore,
        trainer: Trainer,
        in_thread: InThread,
        now_ms: Callable[[], int],
    ) -> None:
        self._watches = watches
        self._store = store
        self._trainer = trainer
        self._in_thread = in_thread
        self._now_ms = now_ms

    async def retrain(
        self, metric: str, labels: Mapping[str, str], *, who: str = "operator"
    ) -> list[Done]:
        """Queue full fits, before all but first ones; a pin ends with it."""
        done = []
        for watch, series in self._chosen(metric, labels):
            watch.wishes.pinned.discard(series.key)
            self._trainer.ask(watch.watch_id, [series.key], Trigger.OPERATOR, Mode.FULL)
            done.append(Done(str(series), watch.watch_id, _version(watch, series)))
        await self._note(who, "retrain", done)
        return done

    async def rollback(
        self,
        metric: str,
        labels: Mapping[str, str],
        *,
        to_version: int | None = None,
        pin: bool = True,
        who: str = "operator",
    ) -> list[Done]:
        """Serve an earlier version again, the predecessor where none is named."""

        async def switch(watch: Watch, series: LabelSet) -> Group:
            order = partial(
                self._store.rollback,
                watch.watch_id,
                series,
                to_version,
                at_ms=self._now_ms(),
                who=who,
                pin=pin,
            )
            group = await self._in_thread(order)
            if pin:
                watch.wishes.pinned.add(series.key)
            return group

        return await self._switched(metric, labels, switch)

    async def promote(
        self,
        metric: str,
        labels: Mapping[str, str],
        *,
        version: int | None = None,
        who: str = "operator",
    ) -> list[Done]:
        """Serve a version that waits, the newest where none is named."""

        async def switch(watch: Watch, series: LabelSet) -> Group:
            order = partial(
                self._store.promote,
                watch.watch_id,
                series,
                version,
                at_ms=self._now_ms(),
                who=who,
            )
            return await self._in_thread(order)

        return await self._switched(metric, labels, switch)

    async def pin(
        self, metric: str, labels: Mapping[str, str], *, pinned: bool, who: str = "operator"
    ) -> list[Done]:
        """Keep series from being fitted on their own accord, or let them be again."""
        done = []
        for watch, series in self._chosen(metric, labels):
            version = _version(watch, series)
            order = partial(
                self._store.pin, watch.watch_id, series, pinned, at_ms=self._now_ms(), who=who
            )
            try:
                await self._in_thread(order)
            except SidecarError as error:
                done.append(Done(str(series), watch.watch_id, version, version, str(error)))
                continue
            (watch.wishes.pinned.add if pinned else watch.wishes.pinned.discard)(series.key)
            done.append(Done(str(series), watch.watch_id, version, version))
        return done

    async def versions(self, metric: str, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """What is kept of each series, newest first, JSON-ready."""
        found = []
        for watch, series in self._chosen(metric, labels):
            records = await self._in_thread(self._store.versions, watch.watch_id, series)
            for record in records:
                entry = {**asdict(record), "labels": dict(record.labels.pairs)}
                found.append({"series": str(series), **entry})
        return found

    async def audit(
        self, metric: str, labels: Mapping[str, str], limit: int
    ) -> list[dict[str, Any]]:
        """Who changed what of each series, newest first, JSON-ready."""
        found = []
        for watch, series in self._chosen(metric, labels):
            read = partial(self._store.audit, watch.watch_id, series, limit=limit)
            for _, entry in await self._in_thread(read):
                found.append({"series": str(series), **asdict(entry), "labels": None})
        return found

    async def _switched(
        self,
        metric: str,
        labels: Mapping[str, str],
        switch: Callable[[Watch, LabelSet], Awaitable[Group]],
    ) -> list[Done]:
        done = []
        for watch, series in self._chosen(metric, labels):
            before = _version(watch, series)
            try:
                group = await switch(watch, series)
                await watch.put_back(group)
            except SidecarError as error:
                done.append(Done(str(series), watch.watch_id, before, before, str(error)))
                continue
            done.append(Done(str(series), watch.watch_id, before, int(group.versions[0])))
        return done

    def _chosen(self, metric: str, labels: Mapping[str, str]) -> Iterator[tuple[Watch, LabelSet]]:
        """The series of a metric that have all these labels, in every watch on it."""
        for watch in self._watches():
            if watch.known is None or watch.config.output_metric != metric:
                continue
            for series in watch.known.labels:
                if all(series.get(name) == value for name, value in labels.items()):
                    yield watch, series

    async def _note(self, who: str, what: str, done: Sequence[Done]) -> None:
        at_ms = self._now_ms()
        entries = [
            AuditEntry(at_ms, who, what, None, one.watch, one.from_version, None, asdict(one))
            for one in done
        ]
        await self._in_thread(self._store.note, entries)


def _version(watch: Watch, series: LabelSet) -> int | None:
    """The version that serves a series now; None where none does."""
    known = watch.known
    if known is None or series not in known.labels:
        return None
    return int(known.versions[known.labels.index(series)]) or None
