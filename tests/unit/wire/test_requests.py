import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import WireError
from sidecar.series import Matcher, MatchOp, Selector
from sidecar.wire.remote_pb2 import Query, ReadRequest
from sidecar.wire.requests import (
    ReadQueries,
    ReadQuery,
    decode_read_request,
    encode_read_request,
)
from sidecar.wire.types_pb2 import LabelMatcher, ReadHints
from tests.unit.wire.oracles import golden

UP = ReadQuery(Selector.of("up", Matcher("job", MatchOp.NOT_EQUAL, "a")), 1000, 2000)


def test_a_request_is_these_bytes() -> None:
    query = ReadQuery(
        Selector.of("up", Matcher("job", MatchOp.REGEX, "a|b")),
        1_700_000_000_000,
        1_700_000_060_000,
    )
    assert encode_read_request([query]) == golden("read_request.hex")


@pytest.mark.parametrize(
    ("op", "wire_type"),
    [
        (MatchOp.EQUAL, LabelMatcher.EQ),
        (MatchOp.NOT_EQUAL, LabelMatcher.NEQ),
        (MatchOp.REGEX, LabelMatcher.RE),
        (MatchOp.NOT_REGEX, LabelMatcher.NRE),
    ],
)
def test_each_operator_has_its_number(op: MatchOp, wire_type: int) -> None:
    body = encode_read_request([ReadQuery(Selector((Matcher("a", op, "b"),)), 1, 2)])
    assert ReadRequest.FromString(body).queries[0].matchers[0].type == wire_type


def test_chunks_are_asked_for_first_and_samples_always() -> None:
    both = ReadRequest.FromString(encode_read_request([UP])).accepted_response_types
    one = ReadRequest.FromString(encode_read_request([UP], accept_chunks=False))
    assert list(both) == [ReadRequest.STREAMED_XOR_CHUNKS, ReadRequest.SAMPLES]
    assert list(one.accepted_response_types) == [ReadRequest.SAMPLES]


def test_hints_are_never_sent() -> None:
    query = ReadRequest.FromString(encode_read_request([UP])).queries[0]
    assert not query.HasField("hints")


texts = st.text(max_size=20)


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            ReadQuery,
            st.builds(
                lambda pairs: Selector(tuple(Matcher(n, MatchOp.EQUAL, v) for n, v in pairs)),
                st.lists(st.tuples(texts, texts), max_size=4),
            ),
            st.integers(-(2**63), 2**63 - 1),
            st.integers(-(2**63), 2**63 - 1),
        ),
        max_size=4,
    ),
    st.booleans(),
)
def test_what_is_asked_arrives(queries: list[ReadQuery], accept_chunks: bool) -> None:
    body = encode_read_request(queries, accept_chunks=accept_chunks)
    assert decode_read_request(body) == ReadQueries(tuple(queries), accept_chunks)


def test_hints_of_others_are_read_over() -> None:
    request = ReadRequest(queries=[Query(hints=ReadHints(func="rate"), end_timestamp_ms=5)])
    assert decode_read_request(request.SerializeToString()).queries == (
        ReadQuery(Selector(()), 0, 5),
    )


def test_a_client_that_names_no_kind_gets_samples() -> None:
    assert not decode_read_request(ReadRequest().SerializeToString()).accept_chunks


def test_kinds_that_we_do_not_know_are_passed_over() -> None:
    body = b"\x12\x02\x07\x01"  # accepted_response_types: 7, 1
    assert decode_read_request(body).accept_chunks


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\x0a\x05", "not a ReadRequest"),
        (
            ReadRequest(
                queries=[Query(matchers=[LabelMatcher(name="job", value="(", type="RE")])]
            ).SerializeToString(),
            "the matcher on 'job'",
        ),
        (b"\x0a\x04\x1a\x02\x08\x09", "unknown type 9"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message):
        decode_read_request(body)
