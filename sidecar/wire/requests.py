"""What to ask of a remote-read server, and what was asked of ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from sidecar.errors import WireError
from sidecar.series import Matcher, MatchOp, Selector
from sidecar.wire.remote_pb2 import Query, ReadRequest
from sidecar.wire.types_pb2 import LabelMatcher

_TYPES: Final = {
    MatchOp.EQUAL: LabelMatcher.EQ,
    MatchOp.NOT_EQUAL: LabelMatcher.NEQ,
    MatchOp.REGEX: LabelMatcher.RE,
    MatchOp.NOT_REGEX: LabelMatcher.NRE,
}
_OPERATORS: Final = {wire_type: op for op, wire_type in _TYPES.items()}


@dataclass(frozen=True, slots=True)
class ReadQuery:
    """Samples of the selected series with ``start_ms`` <= timestamp <= ``end_ms``."""

    selector: Selector
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class ReadQueries:
    """A whole request: its queries, and whether the other end takes STREAMED_XOR_CHUNKS first."""

    queries: tuple[ReadQuery, ...]
    accept_chunks: bool


def encode_read_request(queries: Sequence[ReadQuery], *, accept_chunks: bool = True) -> bytes:
    """The protobuf of a ReadRequest, not yet compressed.

    Hints are never sent: they replace the range of the query inside the server, and without a
    range of their own they make it answer with nothing.

    Args:
        queries: answered in this order.
        accept_chunks: ask for STREAMED_XOR_CHUNKS, with SAMPLES as second choice.
    """
    accepted = [ReadRequest.STREAMED_XOR_CHUNKS] if accept_chunks else []
    return ReadRequest(
        queries=[_query(query) for query in queries],
        accepted_response_types=[*accepted, ReadRequest.SAMPLES],
    ).SerializeToString(deterministic=True)


def decode_read_request(body: bytes) -> ReadQueries:
    """What a remote-read client asks for. Hints are read over: they only permit to send less.

    Raises:
        WireError: not a ReadRequest, an unknown kind of matcher, or a regular expression that
            does not compile here.
    """
    try:
        request = ReadRequest.FromString(body)
    except DecodeError as error:
        raise WireError(f"not a ReadRequest: {error}") from None
    return ReadQueries(
        queries=tuple(
            ReadQuery(_selector(query), query.start_timestamp_ms, query.end_timestamp_ms)
            for query in request.queries
        ),
        accept_chunks=_prefers_chunks(request),
    )


def _query(query: ReadQuery) -> Query:
    return Query(
        start_timestamp_ms=query.start_ms,
        end_timestamp_ms=query.end_ms,
        matchers=[
            LabelMatcher(type=_TYPES[matcher.op], name=matcher.name, value=matcher.value)
            for matcher in query.selector.matchers
        ],
    )


def _selector(query: Query) -> Selector:
    matchers = []
    for matcher in query.matchers:
        op = _OPERATORS.get(matcher.type)
        if op is None:
            raise WireError(f"the matcher on {matcher.name!r} has the unknown type {matcher.type}")
        try:
            matchers.append(Matcher(matcher.name, op, matcher.value))
        except ValueError as error:
            raise WireError(f"the matcher on {matcher.name!r}: {error}") from None
    return Selector(tuple(matchers))


def _prefers_chunks(request: ReadRequest) -> bool:
    """As Prometheus decides: the first accepted kind that the server knows."""
    known = (ReadRequest.SAMPLES, ReadRequest.STREAMED_XOR_CHUNKS)
    for kind in request.accepted_response_types:
        if kind in known:
            return kind == ReadRequest.STREAMED_XOR_CHUNKS
    return False
