"""Answers on their way to clients: in pieces, and bounded together.

To hand a long body to a socket in one go copies what the client does not take at once, on the event
loop. And a client that asks for much and reads slowly would hold the memory of its answers.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from aiohttp import web

from sidecar.serve.promql.frames import QueryError
from sidecar.serve.promql.writing import PIECE_BYTES, Pieces, compressed

MOST_BYTES: Final = 128 * 1024 * 1024
_GZIP_FROM: Final = 1024


class Outbox:
    """Sends answers, and counts what waits for its client.

    Args:
        most_bytes: that may wait for their clients before further questions are refused.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._waiting_bytes = 0

    def has_room(self) -> bool:
        return self._waiting_bytes < self._most_bytes

    def check_room(self) -> None:
        """See that another answer may be made.

        Raises:
            QueryError: too much is waiting.
        """
        if not self.has_room():
            raise QueryError("unavailable", "too many answers wait for their readers, try again")

    async def send(
        self,
        request: web.Request,
        pieces: Pieces,
        headers: Mapping[str, str],
        *,
        status: int = 200,
        gzip: bool = False,
    ) -> web.StreamResponse:
        """The answer that the pieces are together.

        Args:
            gzip: compress it, where that pays.
        """
        size = sum(map(len, pieces))
        if gzip and size >= _GZIP_FROM:
            pieces = await asyncio.to_thread(compressed, pieces)
            size, headers = sum(map(len, pieces)), {**headers, "Content-Encoding": "gzip"}
        if size <= PIECE_BYTES:
            return web.Response(status=status, headers=headers, body=b"".join(pieces))
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = size
        self._waiting_bytes += size
        try:
            await response.prepare(request)
            for piece in pieces:
                await response.write(piece)
                await asyncio.sleep(0)  # a client that reads fast must not keep the loop
            await response.write_eof()
        finally:
            self._waiting_bytes -= size
        return response
