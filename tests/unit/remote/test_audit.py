"""Reading back does its heavy part off the event loop."""

import asyncio
import threading

from sidecar.remote.audit import Audit
from sidecar.remote.writer import SentSample
from sidecar.series import RawSeries, Selector


class Writer:
    def __init__(self) -> None:
        self.asked_in: list[threading.Thread] = []

    def take_sent(self) -> list[SentSample]:
        self.asked_in.append(threading.current_thread())
        return []


class Reader:
    async def read(
        self, selector: Selector, start_ms: int, end_ms: int, *, own_output: bool = False
    ) -> list[RawSeries]:
        return []


def test_what_was_sent_is_taken_apart_in_a_thread() -> None:
    writer = Writer()
    asyncio.run(Audit(writer, Reader(), now_ms=lambda: 0).run())
    assert len(writer.asked_in) == 1
    assert writer.asked_in[0] is not threading.main_thread()
