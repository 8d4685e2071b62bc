import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.series import LabelSet, RawSeries, Selector
from sidecar.wire.chunks import ChunkDecoder
from sidecar.wire.frames import FrameSplitter
from sidecar.wire.read_replies import encode_chunked_frames, encode_read_response_samples
from sidecar.wire.remote_pb2 import ChunkedReadResponse, ReadResponse
from sidecar.wire.requests import ReadQuery
from tests.unit.wire.oracles import NOW_MS, decode_xor, pb_decoded, plain, series, value_bits

EVER = ReadQuery(Selector(()), -(2**63), 2**63 - 1)

any_series = st.builds(
    lambda name, start, bits: series(
        {"__name__": name}, [start + 15_000 * n for n in range(len(bits))], bits
    ),
    st.sampled_from(["b", "a", "c"]),
    st.sampled_from([NOW_MS, 5, -(10**12)]),
    st.lists(value_bits, min_size=1, max_size=250),
)
results = st.lists(
    st.lists(any_series, max_size=3, unique_by=lambda one: one.labels), min_size=1, max_size=2
)


@settings(deadline=None)
@given(results)
def test_a_sampled_reply_is_one_that_protobuf_reads(made: list[list[RawSeries]]) -> None:
    response = ReadResponse.FromString(encode_read_response_samples(made))
    assert [pb_decoded(one.timeseries) for one in response.results] == [plain(one) for one in made]


@settings(deadline=None)
@given(results, st.sampled_from([1, 1000, 2**20]))
def test_a_streamed_reply_is_one_that_a_client_reads(
    made: list[list[RawSeries]], frame_bytes: int
) -> None:
    splitter, decoder = FrameSplitter(verify_crc=True), ChunkDecoder([EVER] * len(made))
    for frame in encode_chunked_frames(made, frame_bytes):
        for content in splitter.feed(frame):
            decoder.feed(content)
    splitter.finish()
    found = decoder.finish().series
    assert [plain(one) for one in found] == [plain(one) for one in made]
    for one in found:
        assert [each.labels for each in one] == sorted(each.labels for each in one)


def test_chunks_and_frames_are_no_longer_than_those_of_prometheus() -> None:
    size = 30_000
    rng = np.random.default_rng(0)
    one = RawSeries(
        LabelSet.of({"a": "b"}), NOW_MS + np.arange(size, dtype=np.int64), rng.normal(size=size)
    )
    frames = list(encode_chunked_frames([[one]], frame_bytes=10_000))
    contents = [ChunkedReadResponse.FromString(FrameSplitter().feed(one)[0]) for one in frames]
    chunks = [chunk for content in contents for chunk in content.chunked_series[0].chunks]
    assert {len(decode_xor(chunk.data)) for chunk in chunks} == {120}
    assert len(frames) > 10
    assert all(10_000 < len(frame) < 12_000 for frame in frames[:-1])
    assert (chunks[0].min_time_ms, chunks[0].max_time_ms) == (NOW_MS, NOW_MS + 119)
    assert all(content.query_index == 0 for content in contents)


@pytest.mark.parametrize("made", [[], [[]], [[], []]])
def test_a_reply_of_nothing_has_a_result_for_each_query(made: list[list[RawSeries]]) -> None:
    response = ReadResponse.FromString(encode_read_response_samples(made))
    assert len(response.results) == len(made)
    assert list(encode_chunked_frames(made)) == []


def test_a_series_without_samples_is_streamed_as_nothing() -> None:
    assert list(encode_chunked_frames([[series({"a": "b"}, [], [])]])) == []
