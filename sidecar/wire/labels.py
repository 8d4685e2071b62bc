"""Label sets out of the bytes of a series, for both ways in which series spell them."""

from collections.abc import Iterable, MutableMapping, Sequence
from typing import Final, Protocol

from google.protobuf.message import DecodeError

from sidecar.errors import WireError
from sidecar.series import LabelSet
from sidecar.wire import types_pb2, write_v2_pb2
from sidecar.wire.varint import DELIMITED, Buffer, read_delimited, read_uvarint

_LABELS_TAG: Final = 1 << 3 | DELIMITED  # TimeSeries.labels and .labels_refs, the first field of it


class _Sample(Protocol):
    @property
    def value(self) -> float: ...

    @property
    def timestamp(self) -> int: ...


class SeriesMessage(Protocol):
    """What the TimeSeries messages of both protocol versions have in common."""

    @property
    def samples(self) -> Sequence[_Sample]: ...

    @property
    def histograms(self) -> Sequence[object]: ...

    @property
    def exemplars(self) -> Sequence[object]: ...


class Dialect(Protocol):
    """How the TimeSeries messages of one body say whose samples they hold."""

    def front(self, start: int, end: int) -> tuple[LabelSet, int]:
        """The labels in front of the message between, and where its next field begins.

        Raises:
            WireError: they are malformed.
        """

    def whole(self, message: bytes) -> tuple[LabelSet, SeriesMessage]:
        """The labels of a message wherever in it they stand, and the message.

        Raises:
            WireError: it is malformed.
        """


class DialectV1:
    """Of remote read and remote write 1.0: each label is a message.

    Args:
        body: what holds the messages.
        known: label sets by their bytes, looked up before they are parsed, and added to.
    """

    def __init__(self, body: Buffer, known: MutableMapping[bytes, LabelSet] | None = None) -> None:
        self._body = memoryview(body)
        self._known = {} if known is None else known

    def front(self, start: int, end: int) -> tuple[LabelSet, int]:
        after = _skip_labels(self._body, start, end)
        raw = bytes(self._body[start:after])
        labels = self._known.get(raw)
        if labels is None:
            labels = self._known[raw] = self.whole(raw)[0]
        return labels, after

    def whole(self, message: bytes) -> tuple[LabelSet, types_pb2.TimeSeries]:
        try:
            series = types_pb2.TimeSeries.FromString(message)
        except DecodeError as error:
            raise WireError(f"a series is malformed: {error}") from None
        return label_set([(label.name, label.value) for label in series.labels]), series


class DialectV2:
    """Of remote write 2.0: labels are numbers of symbols, names and values in turn.

    Args:
        body: what holds the messages.
        symbols: those of the body.
    """

    def __init__(self, body: Buffer, symbols: Sequence[str]) -> None:
        self._body = memoryview(body)
        self._symbols = symbols

    def front(self, start: int, end: int) -> tuple[LabelSet, int]:
        if start == end or self._body[start] != _LABELS_TAG:
            return LabelSet(()), start
        at, after = read_delimited(self._body, start + 1, end)
        references = []
        while at < after:
            reference, at = read_uvarint(self._body, at, after)
            references.append(reference)
        return self._labels(references), after

    def whole(self, message: bytes) -> tuple[LabelSet, SeriesMessage]:
        try:
            series = write_v2_pb2.TimeSeries.FromString(message)
        except DecodeError as error:
            raise WireError(f"a series is malformed: {error}") from None
        return self._labels(series.labels_refs), series

    def _labels(self, references: Sequence[int]) -> LabelSet:
        if len(references) % 2:
            raise WireError(f"a series has {len(references)} label references, an odd number")
        try:
            texts = [self._symbols[reference] for reference in references]
        except IndexError:
            raise WireError(
                f"a series refers to symbol {max(references)} of {len(self._symbols)}"
            ) from None
        return label_set(zip(texts[::2], texts[1::2], strict=True))


def label_set(pairs: Iterable[tuple[str, str]]) -> LabelSet:
    """The label set of these pairs; those of a well-behaved sender are sorted already."""
    found = tuple(pairs)
    by_name = dict(found)
    if len(by_name) == len(found) and all(by_name.values()) and list(by_name) == sorted(by_name):
        return LabelSet(found)
    return LabelSet.of(found)


def _skip_labels(data: Buffer, at: int, end: int) -> int:
    """Where the run of labels that begins at ``at`` ends."""
    while at < end and data[at] == _LABELS_TAG:
        if at + 1 < end and data[at + 1] < 0x80:  # nearly always: a label below 128 bytes
            at += 2 + data[at + 1]
        else:
            at = read_delimited(data, at + 1, end)[1]
    if at > end:
        raise WireError(f"a label is cut off at byte {end}")
    return at


def read_text(data: Buffer, start: int, end: int) -> str:
    """The text between.

    Raises:
        WireError: it is not UTF-8.
    """
    try:
        return str(data[start:end], "utf-8")
    except UnicodeDecodeError as error:
        raise WireError(f"a name or value is not UTF-8: {error}") from None
