"""What is odd about the samples of a reply, counted; and how old a sample may be."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sidecar.series import RawSeries, is_stale

DEFAULT_LOOKBACK_DELTA_MS = 300_000


@dataclass(frozen=True, slots=True)
class Oddities:
    """How many samples of a reply were not plain numbers in order of time.

    Attributes:
        duplicates: had the time of another sample of their series; the last one was kept.
        disordered: stood before an older one; they were sorted.
        not_finite: NaN or infinite, staleness markers not counted; missing values.
        stale_markers: ends of series; gaps.
    """

    duplicates: int = 0
    disordered: int = 0
    not_finite: int = 0
    stale_markers: int = 0

    def __add__(self, other: "Oddities") -> "Oddities":
        return Oddities(
            self.duplicates + other.duplicates,
            self.disordered + other.disordered,
            self.not_finite + other.not_finite,
            self.stale_markers + other.stale_markers,
        )


def tidy(raw: Sequence[RawSeries]) -> tuple[list[RawSeries], Oddities]:
    """Series whose times strictly increase, as ``RawSeries`` promises, and what was odd.

    Overlapping chunks and replicas give one time twice: the last one written wins. Series that are
    in order already are passed on as they are.
    """
    total = Oddities()
    tidied = []
    for one in raw:
        finite = np.isfinite(one.values)
        if not finite.all():
            stale = int(np.count_nonzero(is_stale(one.values)))
            total += Oddities(
                not_finite=int(one.values.size - np.count_nonzero(finite)) - stale,
                stale_markers=stale,
            )
        gaps = np.diff(one.timestamps_ms)
        if gaps.size and gaps.min() <= 0:
            one, odd = _sorted(one, disordered=int(np.count_nonzero(gaps < 0)))
            total += odd
        tidied.append(one)
    return tidied, total


def _sorted(one: RawSeries, disordered: int) -> tuple[RawSeries, Oddities]:
    order = np.argsort(one.timestamps_ms, kind="stable")
    times, values = one.timestamps_ms[order], one.values[order]
    kept = np.append(np.diff(times) > 0, True)
    odd = Oddities(duplicates=int(np.count_nonzero(~kept)), disordered=disordered)
    return RawSeries(one.labels, times[kept], values[kept]), odd


def scrape_interval_ms(raw: Sequence[RawSeries]) -> int | None:
    """The usual distance between samples: the median over series of their median distance.

    None where no series has two samples.
    """
    medians = [
        float(np.median(np.diff(one.timestamps_ms))) for one in raw if one.timestamps_ms.size > 1
    ]
    return round(float(np.median(medians))) if medians else None


def staleness_ms(
    step_ms: int, interval_ms: int | None, lookback_delta_ms: int = DEFAULT_LOOKBACK_DELTA_MS
) -> int:
    """How old a sample may be at an instant of a grid and still count.

    Twice the observed scrape interval, so that one failed scrape is no gap; at least one step, at
    most what the server itself would bridge.

    >>> staleness_ms(60_000, 15_000), staleness_ms(15_000, 15_000), staleness_ms(600_000, 15_000)
    (60000, 30000, 300000)
    """
    return min(lookback_delta_ms, max(step_ms, 2 * (interval_ms or 0)))
