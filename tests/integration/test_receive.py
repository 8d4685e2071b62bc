"""The remote write receiver on a real socket: both protocols, refusals, overload."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import WireError
from sidecar.ingest.buffer import PushBuffer
from sidecar.pushed import PushReader, PushStats
from sidecar.series import LabelSet, RawSeries, Selector
from sidecar.serve import receive
from sidecar.serve.receive import MESSAGE_V1, MESSAGE_V2, Receiver
from sidecar.wire import snappy
from sidecar.wire.template import WriteTemplate, WriteTemplateV2
from sidecar.wire.write_requests import decode_push_v1, decode_push_v2

pytestmark = pytest.mark.integration

NOW = 1_700_000_000_000
STEP = 15_000
UP = Selector.of("up")
LABELS = (LabelSet.of({"__name__": "up", "job": "a"}), LabelSet.of({"__name__": "other"}))
PLAIN = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
V2 = {**PLAIN, "Content-Type": f"application/x-protobuf;proto={MESSAGE_V2}"}


@dataclass
class World:
    url: str
    session: aiohttp.ClientSession
    receiver: Receiver
    buffer: PushBuffer
    why_not: list[str] = field(default_factory=list)

    async def push(
        self, body: bytes, headers: dict[str, str], *, packed: bool = False
    ) -> tuple[int, str, dict[str, str]]:
        data = body if packed else snappy.compress(body)
        async with self.session.post(self.url, data=data, headers=headers) as answer:
            return answer.status, await answer.text(), dict(answer.headers)


@asynccontextmanager
async def receiving() -> AsyncIterator[World]:
    buffer, why_not = PushBuffer(settle_ms=0), list[str]()
    buffer.follow({UP: 600_000})
    receiver = Receiver(buffer, lambda: NOW, lambda: why_not[0] if why_not else "")
    app = web.Application(client_max_size=1024)
    app.add_routes(receive.routes(receiver))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}{receive.PATH}"
    try:
        async with aiohttp.ClientSession() as session:
            yield World(url, session, receiver, buffer, why_not)
    finally:
        await runner.cleanup()


def v1(at_ms: int = NOW) -> bytes:
    return WriteTemplate(LABELS).encode(at_ms, np.array([1.5, 2.5]))


def v2(at_ms: int = NOW) -> bytes:
    return WriteTemplateV2(LABELS).encode(at_ms, np.array([1.5, 2.5]))


async def test_a_1_0_request_is_taken_with_and_without_the_name_of_its_message() -> None:
    async with receiving() as world:
        named = {**PLAIN, "Content-Type": f"application/x-protobuf; proto={MESSAGE_V1}"}
        assert (await world.push(v1(NOW - STEP), PLAIN))[0] == 204
        status, _, headers = await world.push(v1(NOW), named)
        assert status == 204
        assert not [name for name in headers if name.startswith("X-Prometheus-Remote-Write")]
        (found,) = world.buffer.read(UP, NOW - STEP, NOW) or []
        assert found.labels == LABELS[0]
        assert found.timestamps_ms.tolist() == [NOW - STEP, NOW]
        assert world.buffer.stats().received == 4


async def test_a_2_0_request_is_answered_by_what_was_written() -> None:
    async with receiving() as world:
        status, _, headers = await world.push(v2(), V2)
        assert status == 204
        assert headers["X-Prometheus-Remote-Write-Samples-Written"] == "2"
        assert headers["X-Prometheus-Remote-Write-Histograms-Written"] == "0"
        assert headers["X-Prometheus-Remote-Write-Exemplars-Written"] == "0"
        assert world.buffer.stats().kept == 1


async def test_an_empty_request_is_fine() -> None:
    async with receiving() as world:
        assert (await world.push(b"", PLAIN))[0] == 204
        assert (await world.push(b"", V2))[0] == 204


@pytest.mark.parametrize(
    "headers",
    [
        {**PLAIN, "Content-Type": "application/json"},
        {**PLAIN, "Content-Type": "application/x-protobuf;proto=io.prometheus.write.v3.Request"},
        {**PLAIN, "Content-Encoding": "gzip"},
        {**PLAIN, "Content-Encoding": "identity"},
        {**PLAIN, "Content-Type": "text"},
    ],
    ids=str,
)
async def test_an_unknown_message_or_encoding_is_a_415(headers: dict[str, str]) -> None:
    async with receiving() as world:
        # Under gzip aiohttp unpacks bodies itself: an empty one is all it can take.
        status, text, _ = await world.push(b"", headers, packed=True)
        assert (status, world.buffer.stats().received) == (415, 0)
        assert "taken" in text


async def test_a_body_that_lies_about_its_length_is_a_400_and_nothing_is_allocated() -> None:
    async with receiving() as world:
        lie = b"\xff\xff\xff\xff\x0f" + b"\x00" * 10
        status, text, _ = await world.push(lie, PLAIN, packed=True)
        assert (status, "claim" in text or "cannot hold" in text) == (400, True)


async def test_not_ready_and_too_busy_are_a_503_that_says_when_to_come_again() -> None:
    async with receiving() as world:
        world.why_not.append("the server has not answered")
        status, text, headers = await world.push(v1(), PLAIN)
        assert (status, headers["Retry-After"]) == (503, "1")
        assert "has not answered" in text
        world.why_not.clear()
        world.receiver._busy = receive.CONCURRENT
        assert (await world.push(v1(), PLAIN))[0] == 503
        world.receiver._busy = 0
        assert (await world.push(v1(), PLAIN))[0] == 204
        assert world.receiver.answers == {503: 2, 204: 1}


async def test_everything_that_was_answered_2xx_is_kept_whatever_else_was_refused() -> None:
    async with receiving() as world:
        times = [NOW - k * 1000 for k in range(100)]
        answers = await asyncio.gather(*(world.push(v1(t), PLAIN) for t in times))
        taken = {t for t, (status, _, _) in zip(times, answers, strict=True) if status == 204}
        assert {status for status, _, _ in answers} <= {204, 503}
        assert set(world.buffer._held[LABELS[0]].times) == taken
        assert world.receiver._busy == 0


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200), st.integers(0, 400), st.booleans(), st.booleans())
def test_a_malformed_body_is_an_error_of_the_wire_and_nothing_else(
    noise: bytes, at: int, second: bool, packed: bool
) -> None:
    receiver = Receiver(PushBuffer(), lambda: NOW, str)
    message, good = (MESSAGE_V2, v2()) if second else (MESSAGE_V1, v1())
    broken = good[:at] + noise + good[at + len(noise) :]
    body = noise if packed else snappy.compress(broken)
    decode = decode_push_v2 if second else decode_push_v1
    try:
        pushed = receiver._taken(message, body)
    except WireError:
        with pytest.raises(WireError):
            decode(bytes(snappy.decompress(body, receive.MAX_REQUEST_BYTES)))
    else:
        assert receiver._buffer.stats().received == pushed.samples


async def test_many_malformed_bodies_are_400_and_the_receiver_goes_on() -> None:
    async with receiving() as world:
        random = np.random.default_rng(1)
        for length in range(1, 60):
            noise = random.bytes(length)
            # Not every noise is malformed protobuf, but a tag of the wire type 7 always is.
            assert (await world.push(b"\x0f" + noise, PLAIN))[0] == 400
            assert (await world.push(b"\x0f" + noise, V2))[0] == 400
        assert (await world.push(v1(), PLAIN))[0] == 204


class Below:
    def __init__(self) -> None:
        self.reads = 0

    async def read(self, selector: Selector, start_ms: int, end_ms: int) -> list[RawSeries]:
        self.reads += 1
        return []

    async def read_slices(
        self, selector: Selector, start_ms: int, end_ms: int
    ) -> AsyncIterator[list[RawSeries]]:
        self.reads += 1
        yield []


async def test_a_reader_asks_the_server_only_for_what_was_not_pushed_whole() -> None:
    buffer, below, stats = PushBuffer(settle_ms=0), Below(), PushStats()
    buffer.follow({UP: 600_000})
    reader = PushReader(buffer, below, stats)
    assert await reader.read(UP, NOW, NOW + STEP) == []
    for k in range(5):
        pushed = decode_push_v1(v1(NOW + k * STEP))
        buffer.add(pushed.series, NOW + k * STEP)
    (found,) = await reader.read(UP, NOW + STEP, NOW + 4 * STEP)
    assert found.timestamps_ms.size == 4
    assert (below.reads, stats.pushed, stats.asked) == (1, 1, 1)
    await reader.read(UP, NOW + STEP, NOW + 8 * STEP)  # nothing came for three intervals
    await reader.read(Selector.of("other"), NOW + STEP, NOW + 4 * STEP)
    assert [part async for part in reader.read_slices(UP, NOW, NOW + STEP)] == [[]]
    assert (below.reads, stats.pushed, stats.asked) == (4, 1, 3)
