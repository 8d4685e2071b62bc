"""Batches of versions to store, for the tests of the version store."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sidecar.errors import StoreError
from sidecar.learning.records import Group, NewVersions, Restored
from sidecar.learning.store import VersionStore
from sidecar.series import LabelSet

WATCH = "watch-1"
T0 = 1_700_000_000_000
SETTINGS = {"damped": True, "season": [1, 2]}


def labels(count: int, metric: str = "load") -> list[LabelSet]:
    return [LabelSet.of({"__name__": metric, "instance": f"host-{k:05d}"}) for k in range(count)]


def batch(
    series: Sequence[LabelSet],
    value: float,
    *,
    watch: str = WATCH,
    model: str = "holt",
    cause: str = "cron",
    at_ms: int = T0,
    active: bool = True,
    width: int = 3,
    mae: float = 1.0,
) -> NewVersions:
    """One version for each series; the state of series k holds ``value`` + k / 1000."""
    n = len(series)
    nothing = np.full(n, np.nan)
    own = value + np.arange(n) / 1000
    return NewVersions(
        watch=watch,
        model=model,
        settings=SETTINGS,
        policy=("full_retrain",) * n,
        trained_at_ms=at_ms,
        labels=tuple(series),
        arrays={
            "last_ms": np.full(n, at_ms, dtype=np.int64),
            "sigma": own,
            "lags": np.tile(own[:, None], width),
        },
        cause=(cause,) * n,
        gate=("promoted",) * n,
        active=np.full(n, active),
        drift=nothing,
        mae=np.full(n, mae),
        mape=nothing,
        smape=nothing,
        mase=np.full(n, 0.5),
        n_samples=np.full(n, 288, dtype=np.int64),
    )


def opened(folder: Path, max_versions: int = 5) -> VersionStore:
    return VersionStore.open(folder, max_versions=max_versions)


def served(restored: Restored) -> dict[LabelSet, tuple[int, float]]:
    """The version and the value of each series that serves; checks each state against itself."""
    found: dict[LabelSet, tuple[int, float]] = {}
    for group in restored.groups:
        for row, one in enumerate(group.labels):
            value = float(group.arrays["sigma"][row])
            assert (group.arrays["lags"][row] == value).all()
            assert one not in found
            found[one] = (int(group.versions[row]), value)
    return found


def value_of(group: Group) -> float:
    return float(group.arrays["sigma"][0])


# What the fault tests do to a store of another process, by name.


def _save(folder: Path) -> None:
    opened(folder).save(batch(labels(3), 2.0))


def _rollback(folder: Path) -> None:
    opened(folder).rollback(WATCH, labels(1)[0], at_ms=T0)


def _runtime(folder: Path) -> None:
    opened(folder).put_runtime("w", {"n": np.array([2])}, {"n": 2})


def _many(folder: Path) -> None:
    store = opened(folder)
    print("begun", flush=True)
    while True:
        print(store.save(batch(labels(3), 2.0))[0], flush=True)


def _hold(folder: Path) -> None:
    store = opened(folder)
    print("held", flush=True)
    time.sleep(600)
    store.close()


def _tried(store: VersionStore) -> None:
    if store.degraded:
        print(f"in memory only: {store.degraded}")
    try:
        print(store.save(batch(labels(3), 2.0)).tolist())
    except StoreError as error:
        print(f"StoreError: {error}")


def _try_save(folder: Path) -> None:
    _tried(opened(folder))


def _try_twice(folder: Path) -> None:
    store = opened(folder)
    _tried(store)
    _tried(store)


def _try_runtime(folder: Path) -> None:
    try:
        _runtime(folder)
    except StoreError as error:
        print(f"StoreError: {error}")


SAVERS: dict[str, Callable[[Path], None]] = {
    "save": _save,
    "rollback": _rollback,
    "runtime": _runtime,
    "many": _many,
    "hold": _hold,
    "try_save": _try_save,
    "try_twice": _try_twice,
    "try_runtime": _try_runtime,
}
