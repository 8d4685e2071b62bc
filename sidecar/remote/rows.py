"""What the rows of the spool hold, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidecar.names import DropReason


@dataclass(frozen=True, slots=True)
class Loose:
    """Samples to append: ``body`` is the snappy block of a 1.0 request, all at one timestamp."""

    shard: int
    timestamp_ms: int
    samples: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """A sealed row: ``body`` is what is sent, again and again the same."""

    id: int
    shard: int
    timestamp_ms: int
    samples: int
    body: bytes


@dataclass(frozen=True, slots=True)
class SavedMark:
    """A lineup and the newest timestamp accepted for each of its series.

    ``members`` are 16-byte series keys; ``each_ms`` is packed int64, None where all are the same.
    """

    lineup: int
    members: bytes
    high_water_ms: int
    each_ms: bytes | None


@dataclass(frozen=True)
class Tally:
    """Samples, counted since the spool was made; ``pending`` counts what is in rows now."""

    enqueued: int = 0
    sent: int = 0
    dropped: Mapping[DropReason, int] = field(default_factory=dict)
    pending: int = 0
    requests: int = 0
    bytes: int = 0
