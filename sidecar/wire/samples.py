"""A read reply of the kind SAMPLES, from its bytes to series."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sidecar.errors import WireError
from sidecar.series import LabelSet, RawSeries
from sidecar.wire.assemble import ALL_TIME, Assembler, Range
from sidecar.wire.labels import DialectV1
from sidecar.wire.requests import ReadQuery
from sidecar.wire.series_messages import SeriesMessages
from sidecar.wire.varint import DELIMITED, Buffer, find_fields

_RESULT_TAG: Final = 1 << 3 | DELIMITED  # ReadResponse.results
_SERIES_TAG: Final = 1 << 3 | DELIMITED  # QueryResult.timeseries


@dataclass(frozen=True)
class SampledReply:
    """What a reply of the kind SAMPLES held; its fields mean what those of ChunkedReply do.

    Attributes:
        histograms: samples that are native histograms, which were skipped.
    """

    series: list[list[RawSeries]]
    histograms: int
    histogram_series: tuple[LabelSet, ...]
    samples: int
    duplicates: int
    clipped: int


def decode_samples(body: Buffer, query_count: int = 1) -> list[list[RawSeries]]:
    """The series of a ReadResponse (already decompressed), one list for each query.

    Raises:
        WireError: it is malformed, or does not have ``query_count`` results.
    """
    return _decode(body, [ALL_TIME] * query_count).series


def decode_sampled_reply(body: Buffer, queries: Sequence[ReadQuery]) -> SampledReply:
    """The same, clipped to the ranges of the request's queries, and with what was left out.

    Raises:
        WireError: it is malformed, or does not have one result for each query.
    """
    return _decode(body, [(query.start_ms, query.end_ms) for query in queries])


def _decode(body: Buffer, ranges: Sequence[Range]) -> SampledReply:
    assembler = Assembler(ranges)
    messages = SeriesMessages(body, assembler, DialectV1(body))
    results = list(find_fields(body, 0, len(body), _RESULT_TAG))
    if len(results) != len(ranges):
        raise WireError(f"{len(results)} results for {len(ranges)} queries")
    for query, (start, end) in enumerate(results):
        for series_start, series_end in find_fields(body, start, end, _SERIES_TAG):
            messages.take(query, series_start, series_end)
    messages.flush()
    return SampledReply(
        series=assembler.finish(),
        histograms=messages.histograms,
        histogram_series=tuple(messages.histogram_series),
        samples=assembler.samples,
        duplicates=assembler.duplicates,
        clipped=assembler.clipped,
    )
