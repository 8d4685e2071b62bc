from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import WireError
from sidecar.series import LabelSet, RawSeries, Selector
from sidecar.wire import chunks as chunks_module
from sidecar.wire.chunks import ChunkDecoder, ChunkedReply
from sidecar.wire.frames import FrameSplitter
from sidecar.wire.remote_pb2 import ChunkedReadResponse
from sidecar.wire.requests import ReadQuery
from sidecar.wire.types_pb2 import Chunk, ChunkedSeries
from sidecar.wire.xor_encoder import encode_xor_chunk
from tests.unit.wire.oracles import (
    NOW_MS,
    decode_xor,
    golden,
    pb_labels,
    plain,
    series,
    value_bits,
)

EVER = ReadQuery(Selector(()), -(2**63), 2**63 - 1)
UP = LabelSet.of({"__name__": "up"})


def samples(size: int, start_ms: int = NOW_MS, seed: int = 0) -> RawSeries:
    rng = np.random.default_rng(seed)
    return RawSeries(UP, start_ms + 15_000 * np.arange(size, dtype=np.int64), rng.normal(size=size))


def xor(one: RawSeries) -> Chunk:
    return Chunk(type=Chunk.XOR, data=encode_xor_chunk(one.timestamps_ms, one.values))


def frame(chunks: Sequence[Chunk], labels: LabelSet = UP, query: int = 0) -> bytes:
    return ChunkedReadResponse(
        chunked_series=[ChunkedSeries(labels=pb_labels(labels), chunks=chunks)], query_index=query
    ).SerializeToString()


def read(frames: Sequence[bytes], queries: Sequence[ReadQuery] = (EVER,)) -> ChunkedReply:
    decoder = ChunkDecoder(queries)
    for one in frames:
        decoder.feed(one)
    return decoder.finish()


def test_a_reply_is_read_from_these_bytes() -> None:
    stream = golden("streamed_frame.hex")
    found = read(FrameSplitter(verify_crc=True).feed(stream))
    chunk = ChunkedReadResponse.FromString(stream[5:]).chunked_series[0].chunks[0].data
    assert plain(found.series[0]) == {"up": decode_xor(chunk)}
    assert found.samples == 8


def test_a_series_goes_on_over_chunks_and_frames() -> None:
    parts = [samples(120, NOW_MS + 120 * 15_000 * n, n) for n in range(5)]
    found = read([frame([xor(parts[0]), xor(parts[1])]), frame([xor(one) for one in parts[2:]])])
    times = np.concatenate([part.timestamps_ms for part in parts])
    values = np.concatenate([part.values for part in parts])
    assert plain(found.series[0]) == plain([RawSeries(UP, times, values)])


def test_a_series_goes_on_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks_module, "BLOCK_CHUNKS", 3)
    labels = [LabelSet.of({"__name__": "x", "n": str(n)}) for n in range(4)]
    parts = [samples(7, NOW_MS + 7 * 15_000 * n, n) for n in range(5)]
    found = read([frame([xor(part) for part in parts], one) for one in labels])
    expected = [
        RawSeries(
            one,
            np.concatenate([part.timestamps_ms for part in parts]),
            np.concatenate([part.values for part in parts]),
        )
        for one in labels
    ]
    assert plain(found.series[0]) == plain(expected)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),  # query
            st.integers(0, 2),  # series
            st.lists(st.tuples(st.integers(0, 30_000), value_bits), min_size=1, max_size=30),
        ),
        max_size=12,
    )
)
def test_any_reply_holds_what_its_chunks_hold(
    made: list[tuple[int, int, list[tuple[int, int]]]],
) -> None:
    frames, expected = [], [dict[str, dict[int, int]](), dict[str, dict[int, int]]()]
    for query, number, steps in made:
        times = (NOW_MS + np.cumsum([step for step, _ in steps])).tolist()
        one = series({"n": str(number)}, times, [bits for _, bits in steps])
        chunk = xor(one)
        frames.append(frame([chunk], one.labels, query))
        expected[query].setdefault(str(one.labels), {}).update(decode_xor(chunk.data))
    found = read(frames, (EVER, EVER))
    assert [plain(one) for one in found.series] == [
        {labels: sorted(samples.items()) for labels, samples in one.items()} for one in expected
    ]
    assert found.samples + found.duplicates == sum(len(steps) for _, _, steps in made)


def test_a_reply_is_clipped_to_the_range_of_each_query() -> None:
    one = samples(10)
    queries = [
        ReadQuery(Selector(()), NOW_MS + 15_000, NOW_MS + 45_000),
        ReadQuery(Selector(()), NOW_MS + 1, NOW_MS + 14_999),
    ]
    found = read([frame([xor(one)], query=n) for n in (0, 1)], queries)
    times = [[each.timestamps_ms.tolist() for each in result] for result in found.series]
    assert times == [[[NOW_MS + 15_000 * n for n in (1, 2, 3)]], []]
    assert (found.samples, found.clipped) == (3, 17)


def test_overlapping_chunks_give_each_instant_once() -> None:
    first, second = samples(10), samples(10, NOW_MS + 5 * 15_000, seed=1)
    found = read([frame([xor(first), xor(second)])])
    assert found.duplicates == 5
    assert found.series[0][0].timestamps_ms.tolist() == [NOW_MS + 15_000 * n for n in range(15)]
    assert found.series[0][0].values.tolist() == [*first.values[:5], *second.values]


def test_chunks_of_histograms_are_skipped_counted_and_named() -> None:
    others = [Chunk(type=Chunk.HISTOGRAM, data=b"?"), Chunk(type=Chunk.FLOAT_HISTOGRAM)]
    found = read([frame([*others, xor(samples(3))]), frame(others, LabelSet.of({"h": "1"}))])
    assert found.histogram_chunks == 4
    assert [str(one) for one in found.histogram_series] == ["up", '{h="1"}']
    assert [str(one.labels) for one in found.series[0]] == ["up"]
    assert found.unknown_chunk_types == frozenset()


@pytest.mark.parametrize("kind", [0, 4, 5, 6, 250])
def test_kinds_of_chunks_that_we_do_not_know_are_reported(kind: int) -> None:
    unknown = bytes([0x18, *([kind] if kind < 128 else [kind & 0x7F | 0x80, kind >> 7])])
    chunk = Chunk.FromString(unknown + b"\x22\x03\x00\x01\x02")
    found = read([frame([xor(samples(3)), chunk])])
    assert found.unknown_chunk_types == {kind}
    assert found.samples == 3


def test_the_claims_of_the_frames_so_far_can_be_asked_for() -> None:
    decoder = ChunkDecoder([EVER])
    seen = []
    for number in range(3):
        labels = LabelSet.of({"n": str(number // 2)})
        decoder.feed(frame([xor(samples(7)), xor(samples(5))], labels))
        seen.append((decoder.samples, decoder.series))
    assert seen == [(12, 1), (24, 1), (36, 2)]
    decoder.feed(frame([xor(samples(1000))]))
    assert decoder.samples == 1036


def test_an_empty_reply_has_no_series() -> None:
    found = read([], (EVER, EVER))
    assert found.series == [[], []]
    assert read([ChunkedReadResponse().SerializeToString()]).series == [[]]


@pytest.mark.parametrize("query", [-1, 1])
def test_a_frame_for_a_query_that_was_not_asked_is_an_error(query: int) -> None:
    with pytest.raises(WireError, match="1 were asked"):
        read([frame([xor(samples(1))], query=query)])


@pytest.mark.parametrize(
    "broken",
    [
        b"\x0a",
        b"\x0a\x02\x0a\x05",
        b"error: something broke",
        frame([Chunk(type=Chunk.XOR, data=b"")]),
        frame([Chunk(type=Chunk.XOR, data=b"\x00\x05abcdefgh")]),
        frame([Chunk(type=Chunk.XOR, data=b"\x00\x02" + bytes(9))]),
    ],
)
def test_a_reply_with_one_broken_frame_is_refused_as_a_whole(broken: bytes) -> None:
    with pytest.raises(WireError):
        read([frame([xor(samples(3))]), broken])


def test_any_changed_byte_gives_a_reply_or_an_error() -> None:
    whole = frame([xor(samples(60)), xor(samples(60, NOW_MS + 10**6))])
    for place in range(len(whole)):
        for flip in (0x01, 0x80, 0xFF):
            changed = bytearray(whole)
            changed[place] ^= flip
            try:
                read([bytes(changed)])
            except WireError:
                continue
