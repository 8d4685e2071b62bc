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
from sidecar.watches.trainer import Trainer
from sidecar.watches.watching import Watch


@dataclass(frozen=True, slots=True)
class Done:
    """What became of an order for one series; ``error`` is empty where it was carried out."""

    series: str
    watch: str
    from_version: int | None = None
    to_version: int | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """Of which series to tell what is kept: those that ``accepts`` is true of, page by page."""

    accepts: Callable[[LabelSet], bool]
    offset: int = 0
    limit: int = 100


@dataclass(frozen=True, slots=True)
class KeptPage:
    """The entries of some series, how many series there are, and where the next page begins."""

    entries: list[dict[str, Any]]
    matched: int
    next_offset: int | None


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

    async def versions(self, kept: Kept) -> KeptPage:
        """What is kept of series: their versions, newest first, JSON-ready."""

        def read(watch: Watch, series: LabelSet) -> list[dict[str, Any]]:
            records = self._store.versions(watch.watch_id, series)
            return [{**asdict(one), "labels": dict(one.labels.pairs)} for one in records]

        return await self._page(kept, read)

    async def served_by(self, kept: Kept, t_ms: int) -> KeptPage:
        """Which version of each series made the predictions stamped ``t_ms``, JSON-ready.

        The audit log says which version served when the cycle of that instant ran; ``version`` is
        None where none did, or where the log does not reach back so far.
        """

        def read(watch: Watch, series: LabelSet) -> list[dict[str, Any]]:
            version = self._store.serving_at(watch.watch_id, series, watch.made_at_ms(t_ms))
            return [{"watch": watch.watch_id, "version": version}]

        return await self._page(kept, read)

    async def audit(self, kept: Kept, newest: int) -> KeptPage:
        """Who changed what of series, newest first, JSON-ready.

        Args:
            newest: at most so many changes of each series.
        """

        def read(watch: Watch, series: LabelSet) -> list[dict[str, Any]]:
            found = self._store.audit(watch.watch_id, series, limit=newest)
            return [{**asdict(entry), "labels": None} for _, entry in found]

        return await self._page(kept, read)

    async def _page(
        self, kept: Kept, read: Callable[[Watch, LabelSet], list[dict[str, Any]]]
    ) -> KeptPage:
        """Some series' entries; chosen and read in threads, one series at a time."""

        def choose() -> list[tuple[Watch, LabelSet]]:
            return [
                (watch, series)
                for watch in self._watches()
                if watch.known is not None
                for series in watch.known.labels
                if kept.accepts(series)
            ]

        chosen = await self._in_thread(choose)
        entries: list[dict[str, Any]] = []
        for watch, series in chosen[kept.offset : kept.offset + kept.limit]:
            found = await self._in_thread(read, watch, series)
            entries += [{"series": str(series), **entry} for entry in found]
        end = kept.offset + kept.limit
        return KeptPage(entries, len(chosen), end if end < len(chosen) else None)

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
                    watch.put_back(fitted, group.trained_at_ms)
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
