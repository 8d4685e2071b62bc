"""What an operator may order: retrain, roll back, promote, pin. Each order names series by metric
and labels, is carried out series by series, and says of each what was done or why not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
            if series.key in watch.wishes.pinned:
                await self._pinned(watch, series, False, who)
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

        def switch(watch: Watch, series: LabelSet, version: int) -> Group:
            at_ms = self._now_ms()
            return self._store.rollback(
                watch.watch_id, series, version, at_ms=at_ms, who=who, pin=pin
            )

        return await self._switched("rollback", metric, labels, to_version, switch, pin=pin)

    async def promote(
        self,
        metric: str,
        labels: Mapping[str, str],
        *,
        version: int | None = None,
        who: str = "operator",
    ) -> list[Done]:
        """Serve a version that waits, the newest where none is named; a pin ends with it."""

        def switch(watch: Watch, series: LabelSet, version: int) -> Group:
            return self._store.promote(
                watch.watch_id, series, version, at_ms=self._now_ms(), who=who
            )

        return await self._switched("promote", metric, labels, version, switch, pin=False)

    async def pin(
        self, metric: str, labels: Mapping[str, str], *, pinned: bool, who: str = "operator"
    ) -> list[Done]:
        """Keep series from being fitted on their own accord, or let them be again."""
        done = []
        for watch, series in self._chosen(metric, labels):
            version = _version(watch, series)
            try:
                await self._pinned(watch, series, pinned, who)
            except SidecarError as error:
                done.append(Done(str(series), watch.watch_id, version, version, str(error)))
                continue
            done.append(Done(str(series), watch.watch_id, version, version))
        return done

    async def _pinned(self, watch: Watch, series: LabelSet, pinned: bool, who: str) -> None:
        order = partial(
            self._store.pin, watch.watch_id, series, pinned, at_ms=self._now_ms(), who=who
        )
        await self._in_thread(order)
        self._hold(watch, series, pinned)

    def _hold(self, watch: Watch, series: LabelSet, pinned: bool) -> None:
        """Let fits that nobody ordered wait no longer, or let them be asked for again."""
        if pinned:
            watch.wishes.pinned.add(series.key)
            self._trainer.forget(watch.watch_id, [series.key])
        else:
            watch.wishes.pinned.discard(series.key)

    async def versions(self, metric: str, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """What is kept of each series, newest first, JSON-ready."""
        found = []
        for watch, series in self._chosen(metric, labels):
            records = await self._in_thread(self._store.versions, watch.watch_id, series)
            for record in records:
                entry = {**asdict(record), "labels": dict(record.labels.pairs)}
                found.append({"series": str(series), **entry})
        return found

    async def served_by(
        self, metric: str, labels: Mapping[str, str], t_ms: int
    ) -> list[dict[str, Any]]:
        """Which version of each series made the predictions stamped ``t_ms``, JSON-ready.

        The audit log says which version served when the cycle of that instant ran; ``version`` is
        None where none did, or where the log does not reach back so far.
        """
        found = []
        for watch, series in self._chosen(metric, labels):
            at_ms = watch.made_at_ms(t_ms)
            find = partial(self._store.serving_at, watch.watch_id, series, at_ms)
            version = await self._in_thread(find)
            found.append({"series": str(series), "watch": watch.watch_id, "version": version})
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
        what: str,
        metric: str,
        labels: Mapping[str, str],
        version: int | None,
        switch: Callable[[Watch, LabelSet, int], Group],
        *,
        pin: bool,
    ) -> list[Done]:
        """Bring the other version up to now first, then switch: what fails on the way has changed
        nothing."""
        done = []
        for watch, series in self._chosen(metric, labels):
            before = _version(watch, series)
            choose = partial(self._store.chosen, watch.watch_id, series, version, what=what)
            try:
                group = await self._in_thread(choose)
                fitted = await watch.ready_to_serve(group, shadowed=what == "promote")
                to = int(group.versions[0])
                async with self._trainer.switching:
                    await self._in_thread(switch, watch, series, to)
                    self._hold(watch, series, pin)
                    watch.put_back(fitted)
            except SidecarError as error:
                done.append(Done(str(series), watch.watch_id, before, before, str(error)))
                continue
            done.append(Done(str(series), watch.watch_id, before, to))
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
