"""The forecasts of the present, for whoever reads past now: query API and remote-read server.

A watch leaves here, for each of its output series, the path of the newest forecast. Columns that
the next path no longer holds stay for a while as the *tail*: until they are acknowledged by the
receiver they are served like the path, so that no hole opens between what was pushed and what is
still ahead; afterwards they only bridge windows while the upstream is down.

    instants      ... t-2g   t-g  |   t     t+g   t+2g ... t+Hg
                  tail, pushed    |  tail, under way |  path
                            acknowledged             newest instant pushed

Owned by the event loop: only it changes anything, but for ``stage``. Whoever reads may be a thread:
what is handed out are views of arrays that are never written again, and it may go on reading them
while the loop replaces the path.

Memory: ``8 * series * (H + tail_instants)`` bytes; the label sets are the caller's own objects.
``max_samples`` bounds the whole: where a path does not fit any more, the tail is given up first and
then its farthest steps.
"""

import threading
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from sidecar.names import METRIC_NAME
from sidecar.series import FloatArray, LabelSet, RawSeries, TimeArray, index_by_labels

_NEVER: Final = -(2**62)
_EVER: Final = 2**62
_REMEMBERED_SELECTIONS: Final = 64

Rows = NDArray[np.intp]


class LabelTest(Hashable, Protocol):
    """One condition on one label, as a selector has them."""

    @property
    def name(self) -> str: ...

    @property
    def exact(self) -> str | None:
        """The only value that is accepted, where there is only one."""

    def accepts_value(self, value: str) -> bool:
        """``value`` is empty where the label is absent."""


@dataclass(frozen=True, eq=False)
class OutputPaths:
    """N output series and what each will be.

    Attributes:
        labels: N, unique; handing over the same tuple as last time is what makes replacing cheap.
        instants_ms: (H,) int64, strictly increasing.
        values: (N, H) float64; NaN = nothing to say. Not to be written to afterwards.
    """

    labels: tuple[LabelSet, ...]
    instants_ms: TimeArray
    values: FloatArray

    def __post_init__(self) -> None:
        expected = (len(self.labels), len(self.instants_ms))
        if self.values.shape != expected:
            raise ValueError(f"values have shape {self.values.shape}, expected {expected}")
        if np.any(np.diff(self.instants_ms) <= 0):
            raise ValueError("instants_ms must be strictly increasing")


@dataclass(frozen=True, eq=False)
class PathBlock:
    """Samples of series that share their instants.

    Attributes:
        labels: N.
        instants_ms: (S,) int64, strictly increasing.
        values: (N, S) float64; NaN = no sample.
    """

    labels: tuple[LabelSet, ...]
    instants_ms: TimeArray
    values: FloatArray


@dataclass(frozen=True, slots=True)
class PathStats:
    """How much is held: for /metrics."""

    series: int
    samples: int


def ragged(blocks: Iterable[PathBlock]) -> list[RawSeries]:
    """The samples of blocks as series, sorted by labels; those without a sample are left out."""
    series = [
        RawSeries(labels, block.instants_ms[here], row[here])
        for block in blocks
        for labels, row, here in zip(
            block.labels, block.values, _present(block.values), strict=True
        )
        if here.any()
    ]
    return sorted(series, key=lambda one: one.labels)


class ForecastPaths:
    """The newest forecast path of every output series, by watch.

    Args:
        tail_instants: how many instants before the path are kept.
        max_samples: of all watches together; 20 million are 160 MB.
    """

    def __init__(self, *, tail_instants: int = 32, max_samples: int = 20_000_000) -> None:
        self._tail_instants = tail_instants
        self._max_samples = max_samples
        self._watches: dict[str, tuple[_Group, ...]] = {}
        self._acks: dict[str, _Acks] = {}
        self._shared: frozenset[str] = frozenset()  # metrics of which two watches hold series
        self._stats = PathStats(0, 0)

    # What the cycles call

    def replace(self, watch_id: str, paths: Sequence[OutputPaths]) -> int:
        """Put a watch's new paths in the place of its old ones.

        Series that are in no new path are gone at once. A new path may begin before the last
        acknowledged instant; what was acknowledged is not served.

        Returns:
            How many samples of the paths did not fit under ``max_samples``, 0 in good times.
        """
        return self.commit(self.stage(watch_id, paths))

    def stage(self, watch_id: str, paths: Sequence[OutputPaths]) -> "Staged":
        """The work of ``replace``, for a thread: 10,000 new label sets take a tenth of a second.

        Nothing changes before ``commit``; one watch is staged and committed by one cycle at a time.
        """
        others = [groups for name, groups in list(self._watches.items()) if name != watch_id]
        room = self._max_samples - _samples(others)
        old = self._watches.get(watch_id, ())
        groups: list[_Group] = []
        left_out = 0
        for path in paths:
            fitting = _fitting(path, room)
            left_out += path.values.size - fitting.values.size
            tail_room = (room - fitting.values.size) // max(len(path.labels), 1)
            group = _continued(fitting, old, min(self._tail_instants, tail_room))
            room -= group.values.size
            groups.append(group)
        return Staged(watch_id, tuple(groups), left_out)

    def commit(self, staged: "Staged") -> int:
        """Show what was staged; returns what ``replace`` returns."""
        if not staged.groups:
            self.remove(staged.watch_id)
            return staged.left_out
        self._watches[staged.watch_id] = staged.groups
        acks = self._acks.get(staged.watch_id)
        if acks is not None and acks.of_series:
            kept = {one for group in staged.groups for one in group.labels}
            of_series = {one: ms for one, ms in acks.of_series.items() if one in kept}
            self._acks[staged.watch_id] = _Acks(acks.until_ms, of_series)
        self._take_stock()
        return staged.left_out

    def acknowledge(
        self, watch_id: str, until_ms: int, labels: Iterable[LabelSet] | None = None
    ) -> None:
        """The receiver has every sample of the watch at or before ``until_ms``.

        Args:
            labels: only these output series.
        """
        if watch_id in self._watches:
            before = self._acks.get(watch_id, _Acks())
            self._acks[watch_id] = before.with_more(until_ms, labels)

    def remove(self, watch_id: str) -> None:
        self._watches.pop(watch_id, None)
        self._acks.pop(watch_id, None)
        self._take_stock()

    # What the readers call

    def blocks(
        self, tests: tuple[LabelTest, ...], start_ms: int, end_ms: int, *, tail: bool = False
    ) -> list[PathBlock]:
        """Samples of the series that pass every test, ``start_ms`` <= instant <= ``end_ms``.

        Args:
            tail: give the acknowledged ones too, as far back as they are kept.
        """
        found = (
            group.block(rows, start_ms, end_ms, _Acks() if tail else acks)
            for group, rows, acks in self._matching(tests)
        )
        return [block for block in found if block.values.size]

    def select(
        self, tests: tuple[LabelTest, ...], start_ms: int, end_ms: int, *, tail: bool = False
    ) -> list[RawSeries]:
        """The same, as ``ragged`` gives it."""
        return ragged(self.blocks(tests, start_ms, end_ms, tail=tail))

    def labels(
        self, tests: tuple[LabelTest, ...], start_ms: int, end_ms: int, *, tail: bool = False
    ) -> list[LabelSet]:
        """Label sets of the series that have a sample in that time, sorted."""
        return sorted(
            labels
            for block in self.blocks(tests, start_ms, end_ms, tail=tail)
            for labels, here in zip(block.labels, _any_present(block.values), strict=True)
            if here
        )

    def first_served_ms(self, tests: tuple[LabelTest, ...]) -> int | None:
        """The earliest instant at which a series that passes every test is served from here."""
        firsts = [group.first_served_ms(rows, acks) for group, rows, acks in self._matching(tests)]
        return min((one for one in firsts if one is not None), default=None)

    def holds(self, tests: tuple[LabelTest, ...]) -> bool:
        """Whether any series passes every test, served or not."""
        return next(self._matching(tests), None) is not None

    def names(self) -> list[str]:
        """Metric names of all series, sorted."""
        groups = (group for groups in list(self._watches.values()) for group in groups)
        return sorted({name for group in groups for name in group.index.by_metric})

    def label_names(self, tests: tuple[LabelTest, ...], start_ms: int, end_ms: int) -> list[str]:
        """Label names of the series that pass every test, sorted.

        Time counts by groups of series here: whether any of the group is served then.
        """
        found: set[str] = set()
        for group, rows, acks in self._matching(tests):
            if group.served_within(start_ms, end_ms, acks):
                found |= group.index.label_names(rows)
        return sorted(found)

    def label_values(
        self, name: str, tests: tuple[LabelTest, ...], start_ms: int, end_ms: int
    ) -> list[str]:
        """Values of a label over the series that pass every test, sorted; time as above."""
        found: set[str] = set()
        for group, rows, acks in self._matching(tests):
            if group.served_within(start_ms, end_ms, acks):
                found |= group.index.label_values(name, rows)
        return sorted(found - {""})

    def stats(self) -> PathStats:
        return self._stats

    def _matching(self, tests: tuple[LabelTest, ...]) -> Iterator[tuple["_Group", Rows, "_Acks"]]:
        """Groups with the rows that pass; a series that two watches hold comes from the first."""
        seen: set[LabelSet] = set()
        for watch_id, groups in list(self._watches.items()):  # the loop may change it meanwhile
            for group in groups:
                rows = group.index.rows(tests)
                if not self._shared.isdisjoint(group.index.by_metric):
                    fresh = [row for row in rows.tolist() if group.labels[row] not in seen]
                    seen.update(group.labels[row] for row in fresh)
                    rows = np.array(fresh, dtype=np.intp)
                if len(rows):
                    yield group, rows, self._acks.get(watch_id, _Acks())

    def _take_stock(self) -> None:
        groups = [group for groups in self._watches.values() for group in groups]
        self._stats = PathStats(
            sum(len(group.labels) for group in groups), sum(group.values.size for group in groups)
        )
        by_watch = [
            {name for group in groups for name in group.index.by_metric}
            for groups in self._watches.values()
        ]
        counts = Counter(name for names in by_watch for name in names)
        self._shared = frozenset(name for name, count in counts.items() if count > 1)


@dataclass(frozen=True, eq=False)
class Staged:
    """New paths of a watch, ready to be shown."""

    watch_id: str
    groups: "tuple[_Group, ...]"
    left_out: int


@dataclass(frozen=True, eq=False)
class _Acks:
    """How far the receiver has the samples of a watch, and of some of its series farther."""

    until_ms: int = _NEVER
    of_series: Mapping[LabelSet, int] = field(default_factory=dict)

    def with_more(self, until_ms: int, labels: Iterable[LabelSet] | None) -> "_Acks":
        until = max(self.until_ms, until_ms) if labels is None else self.until_ms
        farther = dict.fromkeys(labels or (), until_ms)
        every = {
            one: max(self.of_series.get(one, _NEVER), farther.get(one, _NEVER))
            for one in self.of_series.keys() | farther.keys()
        }
        return _Acks(until, {one: ms for one, ms in every.items() if ms > until})

    def of(self, labels: Sequence[LabelSet]) -> TimeArray:
        """(N, 1), or (1, 1) where it is one for all."""
        if not self.of_series:
            return np.array([[self.until_ms]], dtype=np.int64)
        found = [self.of_series.get(one, self.until_ms) for one in labels]
        return np.array(found, dtype=np.int64)[:, None]


class _Index:
    """Which rows of a tuple of label sets pass a selector; made once for each tuple."""

    def __init__(self, labels: tuple[LabelSet, ...]) -> None:
        self._labels = labels
        self._remembered: dict[tuple[LabelTest, ...], Rows] = {}
        self._remembering = threading.Lock()
        by_metric: dict[str, list[int]] = {}
        for row, one in enumerate(labels):
            by_metric.setdefault(one.metric, []).append(row)
        self.by_metric = {name: np.array(rows, dtype=np.intp) for name, rows in by_metric.items()}

    def rows(self, tests: tuple[LabelTest, ...]) -> Rows:
        found = self._remembered.get(tests)
        if found is None:
            found = self._find(tests)
            with self._remembering:
                if len(self._remembered) >= _REMEMBERED_SELECTIONS:
                    self._remembered.pop(next(iter(self._remembered)))
                self._remembered[tests] = found
        return found

    def label_names(self, rows: Rows) -> set[str]:
        return {name for row in rows.tolist() for name, _ in self._labels[row].pairs}

    def label_values(self, name: str, rows: Rows) -> set[str]:
        if name == METRIC_NAME and len(rows) == len(self._labels):
            return set(self.by_metric)
        return {self._labels[row].get(name) for row in rows.tolist()}

    def _find(self, tests: tuple[LabelTest, ...]) -> Rows:
        metrics = set(self.by_metric)
        for test in tests:
            if test.name == METRIC_NAME:
                if test.exact is not None:
                    metrics &= {test.exact}
                else:
                    metrics = {name for name in metrics if test.accepts_value(name)}
        candidates = [row for name in metrics for row in self.by_metric[name].tolist()]
        for test in tests:
            if test.name != METRIC_NAME and candidates:
                candidates = self._passing(candidates, test)
        return np.array(sorted(candidates), dtype=np.intp)

    def _passing(self, rows: list[int], test: LabelTest) -> list[int]:
        values = [self._labels[row].get(test.name) for row in rows]
        # Many rows share few values, and a regular expression is dear.
        accepted = {value for value in set(values) if test.accepts_value(value)}
        return [row for row, value in zip(rows, values, strict=True) if value in accepted]


@dataclass(frozen=True, eq=False)
class _Group:
    """One ``OutputPaths`` with its tail. Never written to: every change makes a new one."""

    labels: tuple[LabelSet, ...]
    index: _Index
    instants_ms: TimeArray
    values: FloatArray

    def block(self, rows: Rows, start_ms: int, end_ms: int, acks: _Acks) -> PathBlock:
        labels, values = self.labels, self.values
        if len(rows) < len(labels):
            labels, values = tuple(labels[row] for row in rows.tolist()), values[rows]
        acked = acks.of(labels)
        from_ms = max(start_ms, int(acked.min(initial=end_ms)) + 1)
        first = int(np.searchsorted(self.instants_ms, from_ms, "left"))
        last = int(np.searchsorted(self.instants_ms, end_ms, "right"))
        instants, values = self.instants_ms[first:last], values[:, first:last]
        if len(instants) and int(acked.max(initial=_NEVER)) >= int(instants[0]):
            values = np.where(instants > acked, values, np.nan)
        return PathBlock(labels, instants, values)

    def served_within(self, start_ms: int, end_ms: int, acks: _Acks) -> bool:
        from_ms = max(start_ms, acks.until_ms + 1)
        first = int(np.searchsorted(self.instants_ms, from_ms, "left"))
        return first < int(np.searchsorted(self.instants_ms, end_ms, "right"))

    def first_served_ms(self, rows: Rows, acks: _Acks) -> int | None:
        block = self.block(rows, _NEVER, _EVER, acks)
        columns = _present(block.values).any(axis=0)
        return int(block.instants_ms[int(np.argmax(columns))]) if columns.any() else None


def _samples(watches: Iterable[tuple[_Group, ...]]) -> int:
    return sum(group.values.size for groups in watches for group in groups)


def _present(values: FloatArray) -> NDArray[np.bool_]:
    return np.logical_not(np.isnan(values))


def _any_present(values: FloatArray) -> list[bool]:
    """For each row whether it has a sample."""
    return [bool(row.any()) for row in _present(values)]


def _fitting(path: OutputPaths, room: int) -> OutputPaths:
    """The path without the farthest steps that there is no room for."""
    steps = min(len(path.instants_ms), room // max(len(path.labels), 1))
    if steps == len(path.instants_ms):
        return path
    return OutputPaths(path.labels, path.instants_ms[:steps], path.values[:, :steps])


def _continued(path: OutputPaths, old: tuple[_Group, ...], tail_instants: int) -> _Group:
    """The path with what the old groups know of the instants before it."""
    same = next((one for one in old if one.labels == path.labels), None)
    sources = old if same is None else (same,)
    instants = _tail_instants(path, sources, tail_instants)
    tail = np.full((len(path.labels), len(instants)), np.nan)
    for source in sources:
        new_rows, old_rows = _shared_rows(path.labels, source.labels)
        shared, new_columns, old_columns = np.intersect1d(
            instants, source.instants_ms, assume_unique=True, return_indices=True
        )
        if same is not None:
            tail[:, new_columns] = source.values[:, old_columns]
        elif len(shared):
            tail[np.ix_(new_rows, new_columns)] = source.values[np.ix_(old_rows, old_columns)]
    return _Group(
        path.labels,
        _Index(path.labels) if same is None else same.index,
        np.concatenate([instants, path.instants_ms]),
        np.concatenate([tail, path.values], axis=1),
    )


def _tail_instants(path: OutputPaths, sources: tuple[_Group, ...], at_most: int) -> TimeArray:
    """The newest instants of the sources before the path's first."""
    if not sources or at_most <= 0:
        return np.empty(0, dtype=np.int64)
    known = np.unique(np.concatenate([source.instants_ms for source in sources]))
    if len(path.instants_ms):
        known = known[known < path.instants_ms[0]]
    return known[-at_most:]


def _shared_rows(new: tuple[LabelSet, ...], old: tuple[LabelSet, ...]) -> tuple[Rows, Rows]:
    """Rows of the label sets that both have, pairwise."""
    if new == old:  # compares identities first: cheap for the tuple of last time
        rows: Rows = np.arange(len(new), dtype=np.intp)
        return rows, rows
    row_of = index_by_labels(old)
    pairs = [(row, row_of[one]) for row, one in enumerate(new) if one in row_of]
    both = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    return both[:, 0], both[:, 1]
