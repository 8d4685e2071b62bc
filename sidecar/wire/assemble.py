"""Decoded samples to series: clipped to what was asked for, sorted, one sample an instant."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sidecar.errors import WireError
from sidecar.series import FloatArray, LabelSet, RawSeries, TimeArray

Range: TypeAlias = tuple[int, int]

ALL_TIME: Final[Range] = (-(2**63), 2**63 - 1)


class _Piece(NamedTuple):
    timestamps_ms: TimeArray
    values: FloatArray
    increasing: bool


class Assembler:
    """Collects the samples of series as they are decoded, in any number of pieces each.

    Attributes:
        duplicates: samples left out because a later one of their series has the same timestamp.
        clipped: samples left out because they lie outside of the range that was asked for.
        samples: those that are left in.

    Args:
        ranges: for each query the first and the last timestamp asked for, in ms.
    """

    def __init__(self, ranges: Sequence[Range]) -> None:
        self._ranges = tuple(ranges)
        self._owners: dict[tuple[int, LabelSet], int] = {}
        self._pieces: list[list[_Piece]] = []
        self.duplicates = self.clipped = self.samples = 0

    @property
    def series(self) -> int:
        """How many different series there are so far."""
        return len(self._pieces)

    def owner(self, query: int, labels: LabelSet) -> int:
        """The number to name a series by in ``add``; the same for the same labels.

        Raises:
            WireError: there is no such query.
        """
        if not 0 <= query < len(self._ranges):
            raise WireError(f"a series of query {query}, {len(self._ranges)} were asked")
        key = (query, labels)
        number = self._owners.get(key)
        if number is None:
            number = self._owners[key] = len(self._pieces)
            self._pieces.append([])
        return number

    def add(
        self,
        owners: Sequence[int],
        starts: NDArray[np.int64],
        timestamps_ms: TimeArray,
        values: FloatArray,
    ) -> None:
        """Take samples in; the arrays are kept, not copied.

        Args:
            owners: R runs of samples, whose each is.
            starts: (R,) where each run begins; it ends where the next one begins.
            timestamps_ms: (S,), in any order.
            values: (S,).
        """
        steps_back = np.flatnonzero(timestamps_ms[1:] <= timestamps_ms[:-1]) + 1
        runs = np.searchsorted(starts, steps_back, side="right") - 1
        disordered = set(runs[starts[runs] != steps_back].tolist())
        edges = [*starts.tolist(), len(timestamps_ms)]
        for run, owner in enumerate(owners):
            at = slice(edges[run], edges[run + 1])
            if at.start < at.stop:
                piece = _Piece(timestamps_ms[at], values[at], run not in disordered)
                self._pieces[owner].append(piece)

    def finish(self) -> list[list[RawSeries]]:
        """For each query its series that have samples, in the order they came in."""
        found: list[list[RawSeries]] = [[] for _ in self._ranges]
        for (query, labels), number in self._owners.items():
            pieces, self._pieces[number] = self._pieces[number], []
            if not pieces:
                continue
            times, values = self._clip(*self._join(pieces), self._ranges[query])
            if len(times):
                self.samples += len(times)
                found[query].append(RawSeries(labels, times, values))
        return found

    def _join(self, pieces: list[_Piece]) -> tuple[TimeArray, FloatArray]:
        increasing = all(piece.increasing for piece in pieces) and all(
            one.timestamps_ms[-1] < two.timestamps_ms[0] for one, two in pairwise(pieces)
        )
        if len(pieces) == 1 and increasing:
            return pieces[0].timestamps_ms, pieces[0].values
        times = np.concatenate([piece.timestamps_ms for piece in pieces])
        values = np.concatenate([piece.values for piece in pieces])
        if increasing:
            return times, values
        order = np.argsort(times, kind="stable")
        times = times[order]
        last = np.append(times[1:] != times[:-1], True)
        self.duplicates += len(times) - int(np.count_nonzero(last))
        return times[last], values[order[last]]

    def _clip(
        self, times: TimeArray, values: FloatArray, limits: Range
    ) -> tuple[TimeArray, FloatArray]:
        first, last = limits
        if first <= times[0] and times[-1] <= last:
            return times, values
        start = int(np.searchsorted(times, first, side="left"))
        stop = int(np.searchsorted(times, last, side="right"))
        self.clipped += len(times) - max(stop - start, 0)
        return times[start:stop], values[start:stop]
