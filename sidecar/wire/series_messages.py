"""TimeSeries messages to samples, many series at once: of a read reply, or of a push.

Python finds where each series' labels end and its samples begin; the samples of many series are
then read together, since NumPy's price per call does not depend on how many there are. What does
not look as expected (other fields, odd timestamps) goes through the protobuf classes, alone.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from sidecar.errors import WireError
from sidecar.series import LabelSet
from sidecar.wire.assemble import Assembler
from sidecar.wire.labels import Dialect
from sidecar.wire.sample_runs import (
    ROW_BYTES,
    SAMPLE_BYTES,
    SAMPLE_TAG,
    Bytes,
    parse_long_run,
    parse_mixed_run,
)
from sidecar.wire.varint import Buffer, read_delimited, read_uvarint, skip_field

# Samples read together: enough for the price per call not to matter.
_BATCH_BYTES: Final = 16_384 * SAMPLE_BYTES
# From here on a run is read where it lies; shorter ones are copied together.
_LARGE_RUN_BYTES: Final = 2_048 * SAMPLE_BYTES
# So many samples are walked over one by one to see what comes behind them. A longer run is taken
# to reach to the end of its message, which its own bytes confirm or deny.
_WALKED_BYTES: Final = 8 * SAMPLE_BYTES


class _Run(NamedTuple):
    owner: int
    start: int
    end: int
    query: int
    message_start: int
    message_end: int


class SeriesMessages:
    """Reads TimeSeries messages of one body into an assembler.

    Attributes:
        histograms, exemplars: how many were seen, and skipped.
        histogram_series: whose the histograms were.

    Args:
        ignored_tags: fields behind the samples that do not matter.
        max_messages: more are an error. A series of a dozen bytes becomes objects of some hundred,
            so the length of a body says too little about the room it will take.
    """

    def __init__(
        self,
        body: Buffer,
        assembler: Assembler,
        dialect: Dialect,
        *,
        ignored_tags: frozenset[int] = frozenset(),
        max_messages: int | None = None,
    ) -> None:
        self._body = memoryview(body)
        self._bytes: Bytes = np.frombuffer(body, dtype=np.uint8)
        self._assembler = assembler
        self._dialect = dialect
        self._ignored_tags = ignored_tags
        self._max_messages = max_messages
        self._messages = 0
        self._runs: list[_Run] = []
        self._pending_bytes = 0
        self.histograms = self.exemplars = 0
        self.histogram_series: dict[LabelSet, None] = {}

    def take(self, query: int, start: int, end: int) -> LabelSet:
        """Read the message between ``start`` and ``end``; its samples may follow at ``flush``.

        Raises:
            WireError: a message is malformed, or one too many.
        """
        self._messages += 1
        if self._max_messages is not None and self._messages > self._max_messages:
            raise WireError(f"more than the {self._max_messages} series that are allowed at once")
        labels, at = self._dialect.front(start, end)
        run_end = self._run_end(at, end)
        if run_end is None:
            self.flush()  # samples of one series stay in the order in which they came
            return self._add_by_classes(query, start, end)
        if at < run_end:
            owner = self._assembler.owner(query, labels)
            self._runs.append(_Run(owner, at, run_end, query, start, end))
            self._pending_bytes += run_end - at
            if self._pending_bytes >= _BATCH_BYTES or run_end - at >= _LARGE_RUN_BYTES:
                self.flush()
        return labels

    def flush(self) -> None:
        """Decode what is pending.

        Raises:
            WireError: a message is malformed.
        """
        runs, self._runs, self._pending_bytes = self._runs, [], 0
        large = runs[-1:] if runs and runs[-1].end - runs[-1].start >= _LARGE_RUN_BYTES else []
        for batch in (runs[: len(runs) - len(large)], large):
            if batch and not self._add_together(batch):
                for run in batch:
                    if not self._add_together([run]):
                        self._add_by_classes(run.query, run.message_start, run.message_end)

    def _run_end(self, at: int, end: int) -> int | None:
        """Where the run of samples at ``at`` ends; None where the classes have to tell."""
        if end - at > _WALKED_BYTES:
            return end if (end - at) % ROW_BYTES == 0 else None
        body = self._body
        if end - at > 2 and body[at] == SAMPLE_TAG and body[at + 1] == end - at - 2:
            return end  # one sample and nothing else, as in nearly all pushes
        while at < end and body[at] == SAMPLE_TAG:
            at = read_delimited(body, at + 1, end)[1]
        rest = at
        while rest < end:
            tag, rest = read_uvarint(body, rest, end)
            if tag not in self._ignored_tags:
                return None
            rest = skip_field(body, tag & 7, rest, end)
        return at

    def _add_together(self, runs: Sequence[_Run]) -> bool:
        """Decode runs as if they were one; False where they are not made as expected."""
        if len(runs) == 1:
            data = self._bytes[runs[0].start : runs[0].end]
        else:
            joined = b"".join([self._body[run.start : run.end] for run in runs])
            data = np.frombuffer(joined, dtype=np.uint8)
        samples = parse_long_run(data) or parse_mixed_run(data)
        if samples is None:
            return False
        run_ends = np.cumsum([run.end - run.start for run in runs])
        last = np.searchsorted(samples.ends, run_ends)
        if (samples.ends[last] != run_ends).any():
            return False  # a sample reaches from one run into the next
        starts = np.append(0, last[:-1] + 1)
        owners = [run.owner for run in runs]
        self._assembler.add(owners, starts, samples.timestamps_ms, samples.values)
        return True

    def _add_by_classes(self, query: int, start: int, end: int) -> LabelSet:
        labels, message = self._dialect.whole(bytes(self._body[start:end]))
        self.exemplars += len(message.exemplars)
        self.histograms += len(message.histograms)
        if message.histograms:
            self.histogram_series[labels] = None
        if message.samples:
            size = len(message.samples)
            times = np.fromiter((one.timestamp for one in message.samples), np.int64, size)
            values = np.fromiter((one.value for one in message.samples), np.float64, size)
            owner = self._assembler.owner(query, labels)
            self._assembler.add([owner], np.zeros(1, dtype=np.int64), times, values)
        return labels
