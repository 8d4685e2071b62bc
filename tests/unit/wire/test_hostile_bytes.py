"""Whatever arrives: a result or a WireError, soon, and in room that the bytes can justify."""

import gc
import subprocess
import sys
import tracemalloc
from importlib.util import find_spec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import WireError
from sidecar.wire.frames import encode_frame
from sidecar.wire.varint import encode_uvarint
from sidecar.wire.write_requests import decode_push_v1
from tests.unit.wire.hostile import DECODERS, MIB, frame, stream, try_to_read, valid

VALID = valid()
decoders = pytest.mark.parametrize("name", list(DECODERS))


@decoders
def test_the_bytes_to_be_spoilt_are_good(name: str) -> None:
    DECODERS[name](VALID[name])


@decoders
@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(name: str, data: bytes) -> None:
    try_to_read(name, data)


@decoders
@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_spoilt_bytes_are_read_or_refused(name: str, data: st.DataObject) -> None:
    """A few bytes changed, taken out, put in or repeated, at any place."""
    spoilt = bytearray(VALID[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(spoilt)))
        width = data.draw(st.integers(0, 12))
        piece = data.draw(
            st.binary(max_size=12)
            | st.sampled_from([b"\xff" * 10, b"\x80\x80\x80\x80\x08", bytes(spoilt[at : at + 40])])
        )
        spoilt[at : at + width] = piece
    try_to_read(name, bytes(spoilt))


@decoders
def test_bytes_that_are_cut_off_anywhere_are_read_or_refused(name: str) -> None:
    for end in range(len(VALID[name])):
        try_to_read(name, VALID[name][:end])


def nested(content: bytes, *tags: int) -> bytes:
    for tag in tags:
        content = bytes([tag]) + encode_uvarint(len(content)) + content
    return content


LABEL = nested(nested(b"a", 0x0A) + nested(b"b", 0x12), 0x0A)
# What is dearest to hold for its bytes: (decoder, body, bytes of room allowed for each of its own).
DEAR = {
    "lying snappy": ("snappy", encode_uvarint(2**32 - 1) + bytes(1000), 1),
    "lying frame": ("stream", encode_uvarint(2**31) + bytes(1000), 3),
    "lying field": ("samples", b"\x0a" + encode_uvarint(2**40) + bytes(1000), 1),
    "lying count": (
        "frame",
        nested(b"\x18\x01" + nested(b"\xff\xff" + bytes(9), 0x22), 0x12, 0x0A),
        99,
    ),
    "dense chunk": (
        "frame",
        nested(b"\x18\x01" + nested(b"\xff\xff" + bytes(16_395), 0x22), 0x12, 0x0A),
        4 * 64,
    ),
    "many chunks": (
        "frame",
        nested(nested(b"\x18\x01" + nested(b"\x00\x01" + bytes(9), 0x22), 0x12) * 20_000, 0x0A),
        64,
    ),
    "short samples": (
        "samples",
        nested(LABEL + bytes.fromhex("12071080d095ffbc31") * 100_000, 0x0A, 0x0A),
        16,
    ),
    "empty samples": ("samples", nested(LABEL + b"\x12\x00" * 100_000, 0x0A, 0x0A), 128),
    "empty series": ("push_v1", b"\x0a\x00" * 90_000, 16),
    "empty symbols": ("push_v2", b"\x22\x00" * 100_000, 16),
}


@pytest.mark.parametrize("dear", list(DEAR))
def test_room_is_in_proportion_to_what_arrived(dear: str) -> None:
    name, body, allowed = DEAR[dear]
    gc.collect()
    tracemalloc.start()
    try:
        try_to_read(name, body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < allowed * len(body) + MIB


def test_a_push_of_tiny_series_stops_at_the_allowed_number() -> None:
    body = b"".join(
        nested(nested(nested(str(n).encode(), 0x0A), 0x0A) + b"\x12\x02\x10\x01", 0x0A)
        for n in range(100_001)
    )
    with pytest.raises(WireError, match="more than the 100000 series"):
        decode_push_v1(body)


def test_a_frame_of_error_text_is_never_a_reply() -> None:
    for text in (b"context canceled", b"\n" * 50, b"upstream connect error or disconnect" * 9):
        with pytest.raises(WireError):
            stream(VALID["stream"] + text)
        with pytest.raises(WireError):
            frame(text)


def test_a_checked_frame_of_nonsense_is_refused() -> None:
    with pytest.raises(WireError):
        stream(VALID["stream"] + encode_frame(b"\nonsense"))


def test_the_fuzzer_runs_or_says_what_it_lacks() -> None:
    command = [sys.executable, "-m", "tests.fuzz.wire", "push_v2", "-runs=2000"]
    done = subprocess.run(command, capture_output=True, text=True)
    if find_spec("atheris") is None:
        assert "pip install --group fuzz" in done.stderr
    else:
        assert done.returncode == 0
        assert "Done 2000 runs" in done.stderr
