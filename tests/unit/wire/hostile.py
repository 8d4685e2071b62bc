"""Every decoder of bytes from outside, by name, and valid bytes for each to begin with."""

from collections.abc import Callable

import numpy as np

from sidecar.errors import WireError
from sidecar.series import LabelSet, RawSeries, Selector
from sidecar.wire import snappy
from sidecar.wire.chunks import ChunkDecoder
from sidecar.wire.frames import FrameSplitter
from sidecar.wire.read_replies import encode_chunked_frames
from sidecar.wire.requests import ReadQuery, decode_read_request, encode_read_request
from sidecar.wire.samples import decode_sampled_reply
from sidecar.wire.template import WriteTemplate, WriteTemplateV2
from sidecar.wire.write_requests import decode_push_v1, decode_push_v2
from tests.unit.wire.oracles import NOW_MS, pb_reply

MIB = 1024 * 1024
QUERY = ReadQuery(Selector.of("x"), NOW_MS, NOW_MS + 10**9)


def stream(data: bytes) -> None:
    splitter, decoder = FrameSplitter(max_frame_bytes=MIB), ChunkDecoder([QUERY])
    for start in range(0, len(data), 1000):
        for frame in splitter.feed(data[start : start + 1000]):
            decoder.feed(frame)
    splitter.finish()
    decoder.finish()


def frame(data: bytes) -> None:
    """Frames with a checksum that fits, so that what they hold is looked at."""
    decoder = ChunkDecoder([QUERY])
    decoder.feed(data)
    decoder.finish()


DECODERS: dict[str, Callable[[bytes], object]] = {
    "stream": stream,
    "frame": frame,
    "samples": lambda data: decode_sampled_reply(data, [QUERY]),
    "push_v1": decode_push_v1,
    "push_v2": decode_push_v2,
    "request": decode_read_request,
    "snappy": lambda data: snappy.decompress(data, MIB),
}


def valid() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    labels = [LabelSet.of({"__name__": "x", "n": str(n), "job": "api"}) for n in range(3)]
    made = [
        RawSeries(
            one,
            NOW_MS + 15_000 * np.arange(50, dtype=np.int64),
            rng.normal(size=50) * (rng.random(50) < 0.7),
        )
        for one in labels
    ]
    frames = list(encode_chunked_frames([made], 100))
    values = np.array([1.0, 0.0, np.nan])
    return {
        "stream": b"".join(frames),
        "frame": FrameSplitter().feed(frames[0])[0],
        "samples": pb_reply(made),
        "push_v1": WriteTemplate(labels).encode(NOW_MS, values),
        "push_v2": WriteTemplateV2(labels).encode(NOW_MS, values),
        "request": encode_read_request([QUERY]),
        "snappy": snappy.compress(b"".join(frames)),
    }


def try_to_read(name: str, data: bytes) -> None:
    try:
        DECODERS[name](data)
    except WireError:
        return
