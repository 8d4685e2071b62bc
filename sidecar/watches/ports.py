"""What a watch needs of the rest of the house, and what it tells it."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from sidecar.config import WatchConfig
from sidecar.learning.records import AuditEntry, Group, Restored, Serving
from sidecar.publish.publisher import InThread
from sidecar.series import LabelSet
from sidecar.watches.past import SourceReader
from sidecar.watches.trainer import Trainer


class Memory(Protocol):
    """Where a watch keeps what it knows over a restart; called in a thread."""

    def put_runtime(
        self, name: str, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]
    ) -> None: ...

    def get_runtime(self, name: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None: ...

    def load(self, watch: str, labels: Sequence[LabelSet] | None = None) -> Restored: ...

    def serving(self, watch: str) -> Mapping[str, Serving]: ...

    def pinned(self, watch: str) -> frozenset[LabelSet]: ...

    def forget_gone(self, watch: str, alive: Collection[str], before_ms: int) -> int: ...

    def note(self, entries: Iterable[AuditEntry]) -> None: ...

    def rollback(
        self,
        watch: str,
        labels: LabelSet,
        to_version: int | None = None,
        *,
        at_ms: int,
        who: str = "operator",
        pin: bool = True,
    ) -> Group: ...


@dataclass(frozen=True)
class Ports:
    """What a watch needs of the rest of the house.

    Attributes:
        source_now_ms: what time it is where the samples come from, at most our own.
        reader_for: what reads a watch's series, once the server is known.
        kind_of: the type that the server's metadata gives a metric; None where it has none.
        external_labels: those that the server adds to its series, as far as they are known.
        written_until_ms: the newest instant accepted for delivery of some output series.
        note: told of every cycle: instants, series, seconds, error.
    """

    reader_for: Callable[[WatchConfig], SourceReader]
    trainer: Trainer
    memory: Memory
    in_thread: InThread
    now_ms: Callable[[], int]
    source_now_ms: Callable[[], int]
    lookback_delta_ms: Callable[[], int]
    kind_of: Callable[[str], Awaitable[str | None]]
    external_labels: Callable[[], Mapping[str, str]]
    written_until_ms: Callable[[Sequence[LabelSet]], Awaitable[int | None]]
    note: Callable[["CycleNote"], None]


@dataclass(frozen=True, slots=True)
class CycleNote:
    """What there is to count about one turn of a watch; ``error`` is empty where it went well."""

    watch: str
    seconds: float
    instants: int
    forecasts: int
    error: str
