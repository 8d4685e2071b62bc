import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import WireError
from sidecar.wire.frames import FrameSplitter, encode_frame
from sidecar.wire.varint import encode_uvarint
from tests.unit.wire import oracles
from tests.unit.wire.oracles import golden

CONTENTS = [b"\n" + bytes(size) for size in (0, 1, 126, 127, 20_000)]
STREAM = b"".join(encode_frame(content) for content in CONTENTS)


def split(stream: bytes, sizes: list[int] | None = None, **options: int) -> list[bytes]:
    splitter = FrameSplitter(**options)  # type: ignore[arg-type]
    frames = []
    at = 0
    for size in [*(sizes or []), len(stream)]:
        frames += splitter.feed(stream[at : at + size])
        at += size
    splitter.finish()
    return frames


def test_a_frame_is_these_bytes() -> None:
    frame = golden("streamed_frame.hex")
    assert split(frame, verify_crc=True) == [frame[5:]]
    assert encode_frame(frame[5:]) == frame


def test_the_checksum_is_crc32c_and_big_endian() -> None:
    content = b"\nabc"
    crc = oracles.crc32c(content).to_bytes(4, "big")
    assert encode_frame(content) == b"\x04" + crc + content


@settings(deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=30))
def test_frames_are_the_same_however_the_stream_is_cut(sizes: list[int]) -> None:
    assert split(STREAM, sizes) == CONTENTS


def test_frames_are_the_same_a_byte_at_a_time() -> None:
    short = b"".join(encode_frame(content) for content in CONTENTS[:4])
    assert split(short, [1] * len(short)) == CONTENTS[:4]


def test_a_frame_is_given_out_with_its_last_byte() -> None:
    splitter = FrameSplitter()
    frame = encode_frame(b"\nabc")
    assert splitter.feed(frame[:-1]) == []
    assert splitter.feed(frame[-1:]) == [b"\nabc"]


@settings(deadline=None)
@given(st.integers(1, len(STREAM) - 1))
def test_a_stream_that_ends_within_a_frame_is_an_error(end: int) -> None:
    whole = {sum(map(len, map(encode_frame, CONTENTS[:n]))) for n in range(len(CONTENTS))}
    if end in whole:
        return
    with pytest.raises(WireError, match="ends within frame"):
        split(STREAM[:end])


def test_a_frame_above_the_limit_is_refused_before_it_arrives() -> None:
    splitter = FrameSplitter(max_frame_bytes=1000)
    assert splitter.feed(encode_frame(b"\n" + bytes(999))) == [b"\n" + bytes(999)]
    with pytest.raises(WireError, match="frame 2 claims 1001 bytes, at most 1000 allowed"):
        splitter.feed(encode_uvarint(1001))


def test_a_length_that_does_not_end_is_refused() -> None:
    with pytest.raises(WireError):
        split(b"\xff" * 10)


def test_a_wrong_checksum_is_found_where_it_is_asked_for() -> None:
    frame = bytearray(encode_frame(b"\nabcdef"))
    frame[-1] ^= 1
    assert split(bytes(frame)) == [b"\nabcdeg"]
    with pytest.raises(WireError, match="frame 1 has a wrong checksum"):
        split(bytes(frame), verify_crc=True)


@pytest.mark.parametrize(
    "text",
    [
        b"remote read: query timed out\n",
        b"x" * 500,
        b"tooLongForItsFirstByteToBeALength" * 20,
        b"\x00\x00\x00\x00\x01",  # an empty frame with a wrong checksum
    ],
)
def test_text_appended_by_a_failing_server_is_never_taken_for_a_frame(text: bytes) -> None:
    with pytest.raises(WireError):
        split(STREAM + text)


def test_what_a_failing_server_appended_is_in_the_message() -> None:
    with pytest.raises(WireError, match="query timed out"):
        split(STREAM + b"remote read: query timed out\n")


def test_an_empty_stream_has_no_frames() -> None:
    assert split(b"") == []


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_any_bytes_give_frames_or_an_error(data: bytes) -> None:
    try:
        frames = split(data, verify_crc=True)
    except WireError:
        return
    assert b"".join(encode_frame(frame) for frame in frames) == data
