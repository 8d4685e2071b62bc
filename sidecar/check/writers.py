"""Whether somebody else writes what a watch would write."""

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.check.promql import output_of
from sidecar.config import WatchConfig
from sidecar.names import EXPECTED, PREDICTED
from sidecar.remote.sliced import SlicedReader
from sidecar.series import LabelSet, RawSeries, Selector, is_stale

# Samples older than this, and than a few instants, are of somebody who has stopped.
_FRESH_MS: Final = 120_000


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Output series with fresh samples that did not come from this artifact store.

    Attributes:
        series: how many, and the first of them in ``example``.
        age_s: of the newest sample.
        store: the folder that knows nothing of them.
    """

    series: int
    example: LabelSet
    age_s: float
    store: str


async def written_elsewhere(
    watch: WatchConfig, reader: SlicedReader, store: Path
) -> Elsewhere | None:
    """What somebody else writes at present; None where nobody does, or where it cannot be told.

    It cannot where a sidecar runs with this very store: then what is fresh is its own.

    Raises:
        RemoteError, DataError: reading failed.
    """
    now_ms = int(time.time() * 1000)
    fresh_ms = max(_FRESH_MS, 3 * watch.granularity_ms)
    found = await reader.read(outputs_of(watch), now_ms - fresh_ms, now_ms, own_output=True)
    alive = [one for one in found if one.values.size and not is_stale(one.values[-1:])[0]]
    return foreign(alive, store, now_ms)


def foreign(alive: Sequence[RawSeries], store: Path, now_ms: int) -> Elsewhere | None:
    """Of output series with fresh samples those that the store never wrote."""
    if not alive:
        return None
    known = written(store)
    if known is None:
        return None
    strange = [one for one in alive if bytes.fromhex(one.labels.key) not in known]
    if not strange:
        return None
    newest_ms = max(int(one.timestamps_ms[-1]) for one in strange)
    age_s = max(0.0, (now_ms - newest_ms) / 1000)
    return Elsewhere(len(strange), strange[0].labels, age_s, str(store))


def outputs_of(watch: WatchConfig) -> Selector:
    """One output of each series of a watch: ``expected``, else the predictions."""
    return output_of(watch, EXPECTED if watch.published.expected else PREDICTED)


def written(store: Path) -> frozenset[bytes] | None:
    """Keys of the output series that a store has written; None where it cannot be told.

    A running sidecar holds its spools locked.
    """
    keys: set[bytes] = set()
    for spool in sorted((store / "spool").glob("*.sqlite")):
        try:
            with closing(sqlite3.connect(f"{spool.resolve().as_uri()}?mode=ro", uri=True)) as db:
                db.execute("PRAGMA busy_timeout = 0")
                rows = db.execute("SELECT members FROM lineup").fetchall()
        except sqlite3.Error:
            return None
        for (members,) in rows:
            keys.update(members[at : at + 16] for at in range(0, len(members), 16))
    return frozenset(keys)
