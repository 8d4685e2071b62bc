"""What the version store keeps and gives back, as plain data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidecar.errors import StoreError
from sidecar.series import FloatArray, LabelSet

ACTIVE: Final = "active"
RETIRED: Final = "retired"
ROLLED_BACK: Final = "rolled_back"
CANDIDATE: Final = "candidate"
DAMAGED: Final = "damaged"


@dataclass(frozen=True, eq=False)
class NewVersions:
    """One fit of N series of a watch, to be stored as one version each.

    Attributes:
        model, settings: what builds the model again; settings plain JSON.
        policy: N, ``full_retrain`` or ``finetune``: what was done, not what was asked for.
        arrays: the state by field name, every array with N first.
        cause: N, why each was fitted: first, operator, config, drift, cron.
        gate: N, the gate's code.
        active: (N,) bool, serves from now on; the others wait for ``promote``.
        drift: (N,) mae over the version's own when drift asked for it, else NaN.
        mae, mape, smape, mase: (N,) over the validation, NaN where not known.
        n_samples: (N,) int64.
    """

    watch: str
    model: str
    settings: Mapping[str, Any]
    policy: tuple[str, ...]
    trained_at_ms: int
    labels: tuple[LabelSet, ...]
    arrays: Mapping[str, NDArray[Any]]
    cause: tuple[str, ...]
    gate: tuple[str, ...]
    active: NDArray[np.bool_]
    drift: FloatArray
    mae: FloatArray
    mape: FloatArray
    smape: FloatArray
    mase: FloatArray
    n_samples: NDArray[np.int64]

    def __post_init__(self) -> None:
        n = len(self.labels)
        named = {name: len(value) for name, value in vars(self).items() if name in _PER_SERIES}
        named |= {f"arrays[{name!r}]": len(array) for name, array in self.arrays.items()}
        for name, length in named.items():
            if length != n:
                raise ValueError(f"{name} has {length} entries for {n} series")


_PER_SERIES: Final = (
    "policy",
    "cause",
    "gate",
    "active",
    "drift",
    "mae",
    "mape",
    "smape",
    "mase",
    "n_samples",
)


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One version of one series, without its state.

    Attributes:
        status: active, retired, rolled_back, candidate, or damaged (its bytes do not verify).
        sha256: of the stored bytes that hold its state.
        drift, mae, mape, smape, mase: None where not known.
    """

    watch: str
    labels: LabelSet
    version: int
    model: str
    settings: Mapping[str, Any]
    policy: str
    cause: str
    gate: str
    trained_at_ms: int
    drift: float | None
    mae: float | None
    mape: float | None
    smape: float | None
    mase: float | None
    n_samples: int
    status: str
    sha256: str


@dataclass(frozen=True, eq=False)
class Group:
    """Versions of one model with one set of settings, with their states.

    Attributes:
        labels: N.
        versions: (N,) int64.
        arrays: the state by field name, N first.
        mae: (N,) float64, of their validations.
        trained_at_ms: (N,) int64.
    """

    model: str
    settings: Mapping[str, Any]
    labels: tuple[LabelSet, ...]
    versions: NDArray[np.int64]
    arrays: Mapping[str, NDArray[Any]]
    mae: FloatArray
    trained_at_ms: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Restored:
    """What a watch served when it was last saved.

    Attributes:
        groups: the active versions that verify, or what each series fell back to.
        pinned: series that are not to be fitted on their own accord.
        lost: series that had a version, none of which can be read.
        notes: what was set aside, for the log.
    """

    groups: tuple[Group, ...]
    pinned: frozenset[LabelSet]
    lost: frozenset[LabelSet]
    notes: tuple[str, ...]


class Serving(NamedTuple):
    """Which version of a series serves, and which number will be given next."""

    active: int
    next_version: int


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change, and who made it: operator, drift, cron, first, config, gate, store."""

    at_ms: int
    who: str
    what: str
    labels: LabelSet | None = None
    watch: str = ""
    from_version: int | None = None
    to_version: int | None = None
    detail: Mapping[str, Any] | None = None


def labels_to_text(labels: LabelSet) -> str:
    return json.dumps(labels.pairs, ensure_ascii=False, separators=(",", ":"))


def labels_from_text(text: str) -> LabelSet:
    """Raises:
    StoreError: not what ``labels_to_text`` wrote.
    """
    try:
        return LabelSet(tuple((str(name), str(value)) for name, value in json.loads(text)))
    except (ValueError, TypeError) as error:
        raise StoreError(f"stored labels {str(text)[:80]!r} cannot be read") from error


def seal(*parts: object) -> int:
    """63 bits over the fields of a stored row, to notice one that changed by itself."""
    digest = blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def number(value: float) -> float | None:
    """For SQLite and JSON, neither of which has a NaN."""
    return float(value) if np.isfinite(value) else None
