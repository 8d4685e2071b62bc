"""Frames of a streamed read reply: a length, a CRC-32C, the data. The end of the stream ends it."""

from typing import Final

from sidecar.errors import WireError
from sidecar.wire.crc import crc32c
from sidecar.wire.varint import encode_uvarint, read_uvarint

# Prometheus closes a frame at the first chunk beyond 1 MiB; others may be set to more.
MAX_FRAME_BYTES: Final = 32 * 1024 * 1024

_CRC_BYTES: Final = 4
_MAX_LENGTH_BYTES: Final = 10
_SHOWN_BYTES: Final = 100  # of what a server may have appended in plain text
_SERIES_TAG: Final = 0x0A  # what the content of a frame begins with: its first series


class FrameSplitter:
    """Cuts a stream that arrives in arbitrary pieces into the contents of its frames.

    A server that fails after its 200 appends the error's text to the stream. Such text makes a
    frame whose data does not begin as a frame does, so a frame like that has its CRC checked even
    where ``verify_crc`` is off: nothing but a frame gets through.

    Args:
        max_frame_bytes: a longer frame is an error, found before it is buffered.
        verify_crc: check every frame.
    """

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES, verify_crc: bool = False) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._verify_crc = verify_crc
        self._rest = bytearray()
        self._missing = 0  # bytes until the frame at hand can be complete
        self.frames = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The contents of the frames that ``data`` completes.

        Raises:
            WireError: a frame is too long, or its checksum wrong.
        """
        rest = self._rest
        rest += data
        if len(data) < self._missing:
            self._missing -= len(data)
            return []
        frames = []
        at = 0
        while (bounds := self._next(at)) is not None:
            start, end = bounds
            frames.append(self._checked(bytes(rest[start:end]), start))
            at = end
        del rest[:at]
        return frames

    def finish(self) -> None:
        """Say that nothing more will come.

        Raises:
            WireError: a frame is incomplete.
        """
        if self._rest:
            begin = bytes(self._rest[:_SHOWN_BYTES])
            raise WireError(
                f"the stream ends within frame {self.frames + 1}, which begins with {begin!r}"
            )

    def _next(self, at: int) -> tuple[int, int] | None:
        """Where the content of the frame at ``at`` begins and ends; None while it is incomplete."""
        rest = self._rest
        available = len(rest) - at
        complete = any(byte < 0x80 for byte in rest[at : at + _MAX_LENGTH_BYTES])
        if not complete and available < _MAX_LENGTH_BYTES:
            self._missing = 1
            return None
        length, start = read_uvarint(rest, at, len(rest))
        if length > self._max_frame_bytes:
            raise WireError(
                f"frame {self.frames + 1} claims {length} bytes, "
                f"at most {self._max_frame_bytes} allowed"
            )
        end = start + _CRC_BYTES + length
        if end > len(rest):
            self._missing = end - len(rest)
            return None
        self._missing = 0
        return start + _CRC_BYTES, end

    def _checked(self, content: bytes, start: int) -> bytes:
        self.frames += 1
        if self._verify_crc or not content or content[0] != _SERIES_TAG:
            claimed = int.from_bytes(self._rest[start - _CRC_BYTES : start], "big")
            if crc32c(content) != claimed:
                raise WireError(
                    f"frame {self.frames} has a wrong checksum: {content[:_SHOWN_BYTES]!r}"
                )
        return content


def encode_frame(content: bytes) -> bytes:
    """``content`` as one frame."""
    crc = crc32c(content).to_bytes(_CRC_BYTES, "big")
    return b"".join((encode_uvarint(len(content)), crc, content))
