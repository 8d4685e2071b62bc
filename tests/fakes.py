"""Servers that keep Prometheus' promises, and break them when told to.

``FakePrometheus`` is a real aiohttp server with real snappy and protobuf: remote read of both
kinds, a remote write receiver with Prometheus' own rules, the few API paths a probe asks for. A
list of troubles is given out first. ``FaultProxy`` stands in front of any HTTP server and resets
connections, half of them after the request went through.

    async with FakePrometheus() as fake:
        fake.give("/api/v1/write", Answer(503), ResetAfter())
        ...
        assert fake.stored[labels] == {60_000: 1.0}
"""

import asyncio
import contextlib
import json
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from types import TracebackType
from typing import Self, TypeAlias

import numpy as np
import snappy  # type: ignore[import-untyped]
from aiohttp import web

from sidecar.series import LabelSet, Matcher, MatchOp, RawSeries, Selector
from sidecar.wire.read_replies import encode_chunked_frames
from sidecar.wire.remote_pb2 import QueryResult, ReadRequest, ReadResponse, WriteRequest
from sidecar.wire.types_pb2 import Label, LabelMatcher, Sample, TimeSeries
from sidecar.wire.write_v2_pb2 import Request as WriteRequestV2

WRITE = "/api/v1/write"
READ = "/api/v1/read"
HOUR_MS = 3_600_000
_OPERATORS = {
    LabelMatcher.EQ: MatchOp.EQUAL,
    LabelMatcher.NEQ: MatchOp.NOT_EQUAL,
    LabelMatcher.RE: MatchOp.REGEX,
    LabelMatcher.NRE: MatchOp.NOT_REGEX,
}


class FastTime:
    """A clock that runs ``factor`` times as fast: an hour's outage in seconds.

    Wall and monotonic time run alike, from the real now; ``ahead_s`` lets the wall clock lie.
    """

    def __init__(self, factor: float = 1.0) -> None:
        self.factor, self.ahead_s = factor, 0.0
        self._wall, self._mono = time.time(), time.monotonic()

    def monotonic_s(self) -> float:
        return (time.monotonic() - self._mono) * self.factor

    def true_s(self) -> float:
        """What a correct clock shows."""
        return self._wall + self.monotonic_s()

    def now_s(self) -> float:
        return self.true_s() + self.ahead_s

    def now_ms(self) -> int:
        return int(self.now_s() * 1000)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.factor)


# Troubles


@dataclass(frozen=True)
class Answer:
    """This status, body and headers instead of doing anything."""

    status: int
    body: bytes = b"trouble"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ResetBefore:
    """The connection is reset before anything is done."""


@dataclass(frozen=True)
class ResetAfter:
    """It is done, and the connection reset before the answer."""


@dataclass(frozen=True)
class Hang:
    """Nothing for so long, then a reset."""

    seconds: float = 3600.0


@dataclass(frozen=True)
class Truncate:
    """The right answer, but for its last bytes; the connection is closed."""

    bytes_missing: int = 1


@dataclass(frozen=True)
class Append:
    """The right answer and then some more, as an error after the stream began."""

    text: bytes = b"expanding series: context deadline exceeded"


@dataclass(frozen=True)
class Endless:
    """A 200 whose body never ends."""

    piece: bytes = bytes(64 * 1024)


@dataclass(frozen=True)
class Slowly:
    """The right answer, after so many seconds."""

    seconds: float


Trouble: TypeAlias = Answer | ResetBefore | ResetAfter | Hang | Truncate | Append | Endless | Slowly


@dataclass(frozen=True)
class Seen:
    """One request, as it came. ``raw`` is the body on the wire, ``series`` what it holds."""

    path: str
    headers: Mapping[str, str]
    raw: bytes
    series: tuple[tuple[LabelSet, int, float], ...]
    at: float
    status: int


class _Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        self.status, self.text = status, text
        super().__init__(text)


class FakePrometheus:
    """A Prometheus in memory.

    Args:
        now_s: its clock: the Date header, and what is too far in the future.
        takes_future: as 2.42 and 2.53; otherwise more than 10 minutes ahead is a 400 (3.x).
        v2: whether the receiver understands remote write 2.0; else it answers 204 to it and stores
            nothing, as 2.42 does.
        date: whether answers carry a Date header.

    Attributes:
        stored: for each series its samples, by timestamp.
        seen: all requests in the order of their answers.
        refusals: what the receiver refused, in its own words.
        poisoned: series for which a write request is a 400; ``poisoned_500`` for a 500,
            ``forbidden`` for a 403.
        max_body: a longer write request is a 413.
        at_once: the most requests that were under way at the same time.
    """

    def __init__(
        self,
        *,
        now_s: Callable[[], float] = time.time,
        takes_future: bool = True,
        v2: bool = False,
        external_labels: Mapping[str, str] | None = None,
        date: bool = True,
        port: int = 0,
    ) -> None:
        self.now_s, self.takes_future, self.v2, self.date = now_s, takes_future, v2, date
        self.external_labels = dict(external_labels or {})
        self.stored: dict[LabelSet, dict[int, float]] = {}
        self.seen: list[Seen] = []
        self.refusals: list[str] = []
        self.poisoned: Callable[[LabelSet], bool] = lambda labels: False
        self.poisoned_500: Callable[[LabelSet], bool] = lambda labels: False
        self.forbidden: Callable[[LabelSet], bool] = lambda labels: False
        self.max_body: int | None = None
        self.streams = True
        self.delay_s: Callable[[], float] = lambda: 0.0
        self.at_once = 0
        self.port = port
        self._under_way = 0
        self._head_max_ms: int | None = None
        self._troubles: dict[str, list[Trouble]] = {}
        self._always: dict[str, Trouble] = {}
        self._runner: web.AppRunner | None = None

    # Its life

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after ``stop`` on the same port, with what it held."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        server = site._server
        assert isinstance(server, asyncio.Server)
        self.port = server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # What tests say and ask

    def give(self, path: str, *troubles: Trouble) -> None:
        """These, one each, to the next requests on the path."""
        self._troubles.setdefault(path, []).extend(troubles)

    def give_always(self, path: str, trouble: Trouble | None) -> None:
        """This to every request on the path, after those of ``give``; None ends it."""
        if trouble is None:
            self._always.pop(path, None)
        else:
            self._always[path] = trouble

    def load(self, labels: LabelSet, timestamps_ms: Sequence[int], values: Sequence[float]) -> None:
        """Samples that are there from the beginning."""
        samples = zip(timestamps_ms, values, strict=True)
        self.stored.setdefault(labels, {}).update((int(t), float(v)) for t, v in samples)

    def writes(self, *, empty: bool = False) -> list[Seen]:
        """Write requests with samples in them (or those without)."""
        return [one for one in self.seen if one.path == WRITE and bool(one.series) is not empty]

    def count(self) -> int:
        return sum(len(samples) for samples in self.stored.values())

    # Serving

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        path = request.path
        waiting = self._troubles.get(path)
        trouble = waiting.pop(0) if waiting else self._always.get(path)
        self._under_way += 1
        self.at_once = max(self.at_once, self._under_way)
        try:
            await asyncio.sleep(self.delay_s())
            return await self._answer(request, raw, trouble)
        finally:
            self._under_way -= 1

    async def _answer(
        self, request: web.Request, raw: bytes, trouble: Trouble | None
    ) -> web.StreamResponse:
        match trouble:
            case Answer(status, body, headers):
                self._note(request, raw, status)
                return self._response(status, body, headers)
            case ResetBefore():
                self._note(request, raw, 0)
                return self._reset(request)
            case Hang(seconds):
                self._note(request, raw, 0)
                await asyncio.sleep(seconds)
                return self._reset(request)
            case Endless(piece):
                self._note(request, raw, 200)
                return await self._endless(request, piece)
            case Slowly(seconds):
                await asyncio.sleep(seconds)
        status, body, headers = self._do(request, raw)
        self._note(request, raw, status)
        match trouble:
            case ResetAfter():
                return self._reset(request)
            case Truncate(missing):
                return await self._cut_off(request, status, body, headers, missing)
            case Append(text):
                return self._response(status, body + text, headers)
        return self._response(status, body, headers)

    def _do(self, request: web.Request, raw: bytes) -> tuple[int, bytes, Mapping[str, str]]:
        try:
            if request.path == WRITE:
                return self._write(request, raw)
            if request.path == READ:
                return self._read(raw)
            return self._api(request.path)
        except _Refused as refusal:
            self.refusals.append(refusal.text)
            return refusal.status, (refusal.text + "\n").encode(), {}

    def _response(self, status: int, body: bytes, headers: Mapping[str, str]) -> web.Response:
        return web.Response(status=status, body=body, headers={**self._dated(), **headers})

    def _dated(self) -> Mapping[str, str]:
        return {"Date": formatdate(self.now_s(), usegmt=True) if self.date else ""}

    def _reset(self, request: web.Request) -> web.StreamResponse:
        reset(request.transport)
        raise asyncio.CancelledError

    async def _endless(self, request: web.Request, piece: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers=self._dated())
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(piece)
        return response

    async def _cut_off(
        self,
        request: web.Request,
        status: int,
        body: bytes,
        headers: Mapping[str, str],
        missing: int,
    ) -> web.StreamResponse:
        """A body that ends early: by its length where the wire says one, silently where not."""
        response = web.StreamResponse(status=status, headers={**self._dated(), **headers})
        response.force_close()
        await response.prepare(request)
        await response.write(body[: max(len(body) - missing, 0)])
        await response.write_eof()
        return response

    def _note(self, request: web.Request, raw: bytes, status: int) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        series: tuple[tuple[LabelSet, int, float], ...] = ()
        if request.path == WRITE and raw:
            series = tuple(self._parsed(request, raw))
        self.seen.append(Seen(request.path, headers, raw, series, time.monotonic(), status))

    # The receiver

    def _write(self, request: web.Request, raw: bytes) -> tuple[int, bytes, Mapping[str, str]]:
        is_v2 = "v2" in request.headers.get("Content-Type", "")
        if is_v2 and not self.v2:
            return 204, b"", {}  # not understood, not stored, not said
        if self.max_body is not None and len(raw) > self.max_body:
            raise _Refused(413, "request body too large")
        samples = list(self._parsed(request, raw))
        staged: dict[LabelSet, dict[int, float]] = {}
        head_max_ms = self._head_max_ms
        for labels, time_ms, value in samples:
            self._check(labels, time_ms, value, staged)
            staged.setdefault(labels, {})[time_ms] = value
            head_max_ms = time_ms if head_max_ms is None else max(head_max_ms, time_ms)
        self._head_max_ms = head_max_ms
        for labels, new in staged.items():
            self.stored.setdefault(labels, {}).update(new)
        written = {
            "X-Prometheus-Remote-Write-Samples-Written": str(len(samples)),
            "X-Prometheus-Remote-Write-Histograms-Written": "0",
            "X-Prometheus-Remote-Write-Exemplars-Written": "0",
        }
        return 204, b"", written if is_v2 else {}

    def _check(
        self, labels: LabelSet, time_ms: int, value: float, staged: dict[LabelSet, dict[int, float]]
    ) -> None:
        """The rules of the head, in its order."""
        names = [name for name, _ in labels.pairs]
        if not names or len(set(names)) != len(names):
            raise _Refused(500, f"invalid labels {labels}")
        if self.poisoned(labels):
            raise _Refused(400, f"poisoned {labels}")
        if self.forbidden(labels):
            raise _Refused(403, f"poisoned, said a firewall: {labels}")
        if self.poisoned_500(labels):
            raise _Refused(500, f"too old sample, poisoned {labels}")
        if not self.takes_future and time_ms > self.now_s() * 1000 + 600_000:
            raise _Refused(400, f"too far in the future {labels}")
        if self._head_max_ms is not None and time_ms < self._head_max_ms - HOUR_MS:
            raise _Refused(400, f"out of bounds {labels} {time_ms}")
        known = {**self.stored.get(labels, {}), **staged.get(labels, {})}
        if not known:
            return
        last_ms = max(known)
        if time_ms < last_ms:
            raise _Refused(400, f"out of order sample {labels} {time_ms} < {last_ms}")
        if time_ms == last_ms and _bits(known[last_ms]) != _bits(value):
            raise _Refused(400, f"duplicate sample for timestamp {labels} {time_ms}")

    def _parsed(self, request: web.Request, raw: bytes) -> list[tuple[LabelSet, int, float]]:
        body = snappy.decompress(raw)
        if "v2" in request.headers.get("Content-Type", ""):
            return _samples_v2(body)
        found = []
        for series in WriteRequest.FromString(body).timeseries:
            labels = LabelSet(tuple((one.name, one.value) for one in series.labels))
            found += [(labels, one.timestamp, one.value) for one in series.samples]
        return found

    # Remote read and the API

    def _read(self, raw: bytes) -> tuple[int, bytes, Mapping[str, str]]:
        asked = ReadRequest.FromString(snappy.decompress(raw))
        results = [
            self._select(
                [(m.type, m.name, m.value) for m in query.matchers],
                query.start_timestamp_ms,
                query.end_timestamp_ms,
            )
            for query in asked.queries
        ]
        wants_chunks = ReadRequest.STREAMED_XOR_CHUNKS in asked.accepted_response_types
        if wants_chunks and self.streams:
            kind = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse"
            return 200, b"".join(encode_chunked_frames(results)), {"Content-Type": kind}
        body = _as_samples(results)
        headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
        return 200, snappy.compress(body), headers

    def _select(
        self, matchers: Sequence[tuple[LabelMatcher.Type, str, str]], start_ms: int, end_ms: int
    ) -> list[RawSeries]:
        """Sorted by labels, with the external labels that a series does not have itself."""
        selector = Selector(
            tuple(Matcher(name, _OPERATORS[kind], value) for kind, name, value in matchers)
        )
        found = []
        for labels, samples in self.stored.items():
            times = sorted(t for t in samples if start_ms <= t <= end_ms)
            if times and selector.matchers and selector.accepts(labels):
                shown = LabelSet.of({**self.external_labels, **dict(labels.pairs)})
                values = np.array([samples[t] for t in times], dtype=np.float64)
                found.append(RawSeries(shown, np.array(times, dtype=np.int64), values))
        return sorted(found, key=lambda one: one.labels)

    def _api(self, path: str) -> tuple[int, bytes, Mapping[str, str]]:
        data: dict[str, object] = {
            "/api/v1/status/buildinfo": {"version": "2.42.0"},
            "/api/v1/status/flags": {"query.lookback-delta": "5m"},
            "/api/v1/status/config": {
                "yaml": json.dumps(
                    {
                        "global": {
                            "scrape_interval": "15s",
                            "external_labels": self.external_labels,
                        }
                    }
                )
            },
        }
        if path not in data:
            return 404, b"404 page not found\n", {}
        body = json.dumps({"status": "success", "data": data[path]}).encode()
        return 200, body, {"Content-Type": "application/json"}


def _samples_v2(body: bytes) -> list[tuple[LabelSet, int, float]]:
    request = WriteRequestV2.FromString(body)
    symbols = list(request.symbols)
    assert symbols[:1] in ([""], []), "the first symbol is the empty string"
    assert len(set(symbols)) == len(symbols), "symbols are there once"
    found = []
    for series in request.timeseries:
        refs = list(series.labels_refs)
        assert len(refs) % 2 == 0, "names and values come in pairs"
        pairs = [(symbols[a], symbols[b]) for a, b in zip(refs[::2], refs[1::2], strict=True)]
        found += [(LabelSet(tuple(pairs)), one.timestamp, one.value) for one in series.samples]
    return found


def _as_samples(results: Sequence[Sequence[RawSeries]]) -> bytes:
    """By the generated classes: what our own codecs are checked against."""
    response = ReadResponse(
        results=[
            QueryResult(
                timeseries=[
                    TimeSeries(
                        labels=[Label(name=n, value=v) for n, v in one.labels.pairs],
                        samples=[
                            Sample(timestamp=t, value=v)
                            for t, v in zip(
                                one.timestamps_ms.tolist(), one.values.tolist(), strict=True
                            )
                        ],
                    )
                    for one in series
                ]
            )
            for series in results
        ]
    )
    return response.SerializeToString()


def _bits(value: float) -> bytes:
    return struct.pack("<d", value)


def reset(transport: asyncio.BaseTransport | None) -> None:
    """Close so that the other end sees a reset, not an end."""
    if transport is None:
        return
    raw = transport.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()


class FaultProxy:
    """Forwards HTTP requests one by one to a loopback port, and resets some connections.

    Of the resets half come before the request is forwarded and half after it was answered: the
    sender cannot tell which.

    Attributes:
        share: of requests that end in a reset.
        forwarded, before, after: how many of each.
        statuses: what the server behind has answered, and how often.
    """

    def __init__(self, upstream_port: int, *, share: float = 0.3, seed: int = 1) -> None:
        self.upstream_port, self.share = upstream_port, share
        self.port = 0
        self.forwarded = self.before = self.after = 0
        self.statuses: Counter[int] = Counter()
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._connection(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            reset(writer.transport)  # either end is gone; the other one hears of it
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await _http_message(reader)
            fate = self._random.random()
            if fate < self.share / 2:
                self.before += 1
                return reset(writer.transport)
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
            try:
                up_writer.write(request)
                answer = await _http_message(up_reader, is_answer=True)
            finally:
                up_writer.close()
            self.forwarded += 1
            self.statuses[int(answer.split(b" ", 2)[1])] += 1
            if fate < self.share:
                self.after += 1
                return reset(writer.transport)
            writer.write(answer)
            await writer.drain()


async def _http_message(reader: asyncio.StreamReader, *, is_answer: bool = False) -> bytes:
    """Head and body, by Content-Length; a 204 has no body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
    if is_answer and head.split(b" ", 2)[1] in (b"204", b"304"):
        length = 0
    return head + await reader.readexactly(length)


@contextlib.asynccontextmanager
async def silent_port() -> AsyncIterator[int]:
    """A port that accepts connections and never says a word."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
