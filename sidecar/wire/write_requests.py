"""What a Prometheus pushes to us: remote write 1.0 and 2.0 bodies, already decompressed."""

from collections.abc import MutableMapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from sidecar.errors import WireError
from sidecar.series import LabelSet, RawSeries
from sidecar.wire import types_pb2, write_v2_pb2
from sidecar.wire.assemble import ALL_TIME, Assembler
from sidecar.wire.labels import DialectV1, DialectV2, read_text
from sidecar.wire.series_messages import SeriesMessages
from sidecar.wire.varint import DELIMITED, Buffer, find_fields

# Of one request. Prometheus sends 2,000 samples at a time unless told otherwise.
MAX_SERIES: Final = 100_000
MAX_SYMBOLS: Final = 400_000

_SERIES_TAG_V1: Final = 1 << 3 | DELIMITED  # WriteRequest.timeseries
_METADATA_TAG_V1: Final = 3 << 3 | DELIMITED  # WriteRequest.metadata
_SYMBOLS_TAG_V2: Final = 4 << 3 | DELIMITED  # Request.symbols
_SERIES_TAG_V2: Final = 5 << 3 | DELIMITED  # Request.timeseries
_METADATA_TAG_V2: Final = 5 << 3 | DELIMITED  # TimeSeries.metadata

_M = TypeVar("_M", bound=Message)


class MetricType(StrEnum):
    """What a metric is, as its exporter declared it; names as the HTTP API has them."""

    UNKNOWN = "unknown"
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    GAUGE_HISTOGRAM = "gaugehistogram"
    SUMMARY = "summary"
    INFO = "info"
    STATESET = "stateset"


_TYPES: Final = tuple(MetricType)  # in the order of their numbers, the same in both versions


@dataclass(frozen=True)
class Pushed:
    """What a body held.

    Attributes:
        series: those with samples; timestamps strictly increasing.
        samples: how many were in the body, duplicates of a timestamp included.
        duplicates: how many of them were left out for a later one with the same timestamp.
        histograms, exemplars: how many were in the body; they are skipped.
        histogram_series: whose the histograms were.
        types: what was declared, by the name of the metric family (1.0) or of the series (2.0);
            no entry for those that are unknown.
    """

    series: list[RawSeries]
    samples: int
    duplicates: int
    histograms: int
    exemplars: int
    histogram_series: tuple[LabelSet, ...]
    types: dict[str, MetricType]


def decode_write_v1(body: Buffer) -> list[RawSeries]:
    """The series of a WriteRequest.

    Raises:
        WireError: it is malformed.
    """
    return decode_push_v1(body).series


def decode_write_v2(body: Buffer) -> list[RawSeries]:
    """The series of an io.prometheus.write.v2.Request.

    Raises:
        WireError: it is malformed, or refers to symbols that it does not have.
    """
    return decode_push_v2(body).series


def decode_push_v1(
    body: Buffer,
    known: MutableMapping[bytes, LabelSet] | None = None,
    *,
    max_series: int = MAX_SERIES,
) -> Pushed:
    """All that a WriteRequest holds.

    Args:
        body: the protobuf.
        known: label sets of earlier requests by their bytes: looked up, and added to. The caller
            keeps it from growing for ever.
        max_series: more messages of the kind TimeSeries are an error. (Prometheus makes one of
            each sample: there may be several with the same labels.)

    Raises:
        WireError: it is malformed, or has too many series.
    """
    assembler = Assembler([ALL_TIME])
    messages = SeriesMessages(body, assembler, DialectV1(body, known), max_messages=max_series)
    for start, end in find_fields(body, 0, len(body), _SERIES_TAG_V1):
        messages.take(0, start, end)
    messages.flush()
    types: dict[str, MetricType] = {}
    for start, end in find_fields(body, 0, len(body), _METADATA_TAG_V1):
        declared = _parsed(types_pb2.MetricMetadata, body[start:end])
        if 0 < declared.type < len(_TYPES):
            types[declared.metric_family_name] = _TYPES[declared.type]
    return _pushed(assembler, messages, types)


def decode_push_v2(body: Buffer, *, max_series: int = MAX_SERIES) -> Pushed:
    """All that an io.prometheus.write.v2.Request holds.

    Raises:
        WireError: it is malformed, refers to symbols that it does not have, or has too many series
            or symbols.
    """
    places = find_fields(body, 0, len(body), _SYMBOLS_TAG_V2)
    symbols = [read_text(body, start, end) for start, end in islice(places, MAX_SYMBOLS)]
    if next(places, None) is not None:
        raise WireError(f"more than the {MAX_SYMBOLS} symbols that are allowed at once")
    assembler = Assembler([ALL_TIME])
    messages = SeriesMessages(
        body,
        assembler,
        DialectV2(body, symbols),
        ignored_tags=frozenset((_METADATA_TAG_V2,)),
        max_messages=max_series,
    )
    types: dict[str, MetricType] = {}
    for start, end in find_fields(body, 0, len(body), _SERIES_TAG_V2):
        labels = messages.take(0, start, end)
        for at, after in find_fields(body, start, end, _METADATA_TAG_V2):
            kind = _parsed(write_v2_pb2.Metadata, body[at:after]).type
            if 0 < kind < len(_TYPES):
                types[labels.metric] = _TYPES[kind]
    messages.flush()
    return _pushed(assembler, messages, types)


def _parsed(kind: type[_M], data: Buffer) -> _M:
    try:
        return kind.FromString(bytes(data))
    except DecodeError as error:
        raise WireError(f"metadata is malformed: {error}") from None


def _pushed(assembler: Assembler, messages: SeriesMessages, types: dict[str, MetricType]) -> Pushed:
    series = assembler.finish()[0]
    return Pushed(
        series=series,
        samples=assembler.samples + assembler.duplicates,
        duplicates=assembler.duplicates,
        histograms=messages.histograms,
        exemplars=messages.exemplars,
        histogram_series=tuple(messages.histogram_series),
        types=types,
    )
