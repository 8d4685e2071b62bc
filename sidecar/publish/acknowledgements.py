"""Tells the forecast paths how far the receiver has what was pushed.

The writer settles samples (sent or given up) in about the order in which it accepted them. A mark
notes how many it had accepted once a watch had published an instant; when as many are settled, that
instant is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sidecar.publish.paths import ForecastPaths


class Totals(Protocol):
    """Of one endpoint, in samples since its spool was made."""

    @property
    def enqueued(self) -> int: ...

    @property
    def pending(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Mark:
    instant_ms: int
    enqueued: tuple[int, ...]


class Acknowledgements:
    """Call ``look`` now and then."""

    def __init__(self, paths: ForecastPaths) -> None:
        self._paths = paths
        self._marks: dict[str, _Mark] = {}
        self._done: dict[str, int] = {}

    def look(self, totals: Sequence[Totals], published: Iterable[tuple[str, int]]) -> None:
        """Settle old marks and set new ones.

        Args:
            totals: one for each endpoint, always in the same order.
            published: for each watch its id and the newest instant handed to the writers.
        """
        accepted = tuple(one.enqueued for one in totals)
        settled = tuple(one.enqueued - one.pending for one in totals)
        for watch, instant_ms in published:
            mark = self._marks.get(watch)
            if mark is not None:
                if any(now < then for now, then in zip(settled, mark.enqueued, strict=True)):
                    continue
                self._paths.acknowledge(watch, mark.instant_ms)
                self._done[watch] = mark.instant_ms
                del self._marks[watch]
            if instant_ms > self._done.get(watch, -1):
                self._marks[watch] = _Mark(instant_ms, accepted)
