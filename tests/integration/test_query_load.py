"""Large answers: the event loop stays free, and slow readers do not fill the memory."""

import asyncio
import gc
import http.client
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import Any
from urllib.parse import parse_qs, urlencode

import aiohttp
import numpy as np
import pytest

from sidecar.publish.paths import ForecastPaths, OutputPaths
from sidecar.serve.outbox import Outbox
from sidecar.serve.promql.answering import Job
from tests.integration.query_world import MINUTE_MS, NOW_MS, ask, future_ms, labels, sidecar

pytestmark = pytest.mark.integration

SERIES = 6_000
METRIC = "demo_load_sentinel_expected"
NOW = NOW_MS // 1000
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
# Two hours back, two hours ahead.
WIDE = {"start": f"{NOW - 7200}", "end": f"{NOW + 7200}", "step": "60"}


class Upstream(BaseHTTPRequestHandler):
    """Has one value of every series at every instant; not on the loop that is measured."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        ends = (
            asked[name][0] for name in (("start", "end") if "start" in asked else ("time",) * 2)
        )
        start, end = map(round, map(float, ends))
        end = min(end, NOW + 300)  # its lookback
        points = ",".join(f'[{at},"12.345678901234567"]' for at in range(start, end + 1, 60))
        rows = ",".join(
            f'{{"metric":{json.dumps(dict(one.pairs))},"values":[{points}]}}' for one in NAMES
        )
        self._answer(f'{{"resultType":"matrix","result":[{rows}]}}')

    def do_GET(self) -> None:
        if "/status/" in self.path:
            self._answer('{"version":"3.5.0"}')
        else:
            again = NAMES * 20  # as long as an answer may be
            self._answer(json.dumps([dict(one.pairs) for one in again]))

    def _answer(self, data: str) -> None:
        body = f'{{"status":"success","data":{data}}}'.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


NAMES = tuple(labels(METRIC, instance=f"10.0.0.{number}:9100") for number in range(SERIES))


@contextmanager
def upstream() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def forecasts() -> ForecastPaths:
    paths = ForecastPaths()
    instants = future_ms(120)
    values = np.linspace(1 / 3, 99, SERIES)[:, None] + instants / MINUTE_MS
    paths.replace("w", [OutputPaths(NAMES, instants, values)])
    paths.acknowledge("w", NOW_MS)
    return paths


def fetched(url: str, path: str, params: dict[str, str]) -> int:
    """The length of an answer, read to its end by a thread of its own."""
    with closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)) as client:
        client.request("POST", f"/api/v1/{path}", urlencode(params), FORM)
        answer = client.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return len(body)


async def test_no_callback_is_long_while_two_large_queries_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spent: list[float] = []
    plain = asyncio.events.Handle._run

    def measured(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        plain(handle)
        spent.append(time.thread_time() - began)

    paths = forecasts()
    with upstream() as theirs:
        async with sidecar(theirs, paths) as url:
            gc.collect()
            gc.freeze()  # the test suite's own heap is not what is measured
            monkeypatch.setattr(asyncio.events.Handle, "_run", measured)
            try:
                sizes = await asyncio.gather(
                    asyncio.to_thread(fetched, url, "query_range", WIDE | {"query": METRIC}),
                    asyncio.to_thread(fetched, url, "query_range", WIDE | {"query": f"{METRIC}+1"}),
                    asyncio.to_thread(fetched, url, "series", {"match[]": METRIC}),
                )
            finally:
                monkeypatch.undo()
                gc.unfreeze()
    assert min(sizes[:2]) > 30_000_000
    # CPU time of the loop's thread, not wall time: whatever else this machine does.
    assert max(spent) < 0.050


class LongestCall:
    """A profile function that finds the longest call into C, by CPU time of its thread.

    While it lasts nothing else may run; where it calls Python back, others get their turn.
    """

    def __init__(self) -> None:
        self.seconds, self.what = 0.0, ""
        self._began: float | None = None

    def __call__(self, _: FrameType, event: str, arg: Any) -> None:
        if event == "c_call":
            self._began = time.thread_time()
        elif event == "c_return" and self._began is not None:
            seconds, self._began = time.thread_time() - self._began, None
            if seconds > self.seconds:
                self.seconds, self.what = seconds, getattr(arg, "__qualname__", repr(arg))
        else:
            self._began = None


async def test_no_call_of_an_evaluation_holds_the_interpreter_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query = f"max_over_time({METRIC}[10m] offset -5m)"
    longest, plain = LongestCall(), Job.run

    def profiled(job: Job) -> list[bytes]:
        sys.setprofile(longest)
        try:
            return plain(job)
        finally:
            sys.setprofile(None)

    monkeypatch.setattr(Job, "run", profiled)
    with upstream() as theirs:
        async with sidecar(theirs, forecasts()) as url:
            size = await asyncio.to_thread(fetched, url, "query_range", WIDE | {"query": query})
    assert size > 20_000_000
    assert 0 < longest.seconds < 0.050, longest.what


async def test_answers_that_nobody_reads_keep_further_ones_out() -> None:
    body = urlencode(WIDE | {"start": f"{NOW}", "query": METRIC}).encode()
    head = (
        "POST /api/v1/query_range HTTP/1.1\r\nHost: x\r\n"
        f"Content-Type: {FORM['Content-Type']}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    outbox = Outbox(most_bytes=1_000_000)
    small = WIDE | {"start": f"{NOW}", "query": f'{METRIC}{{instance="10.0.0.1:9100"}}'}
    with upstream() as theirs:
        async with sidecar(theirs, forecasts(), outbox=outbox) as url:
            host, port = url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
            writer.write(head.encode() + body)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            async with aiohttp.ClientSession() as session:
                for path in ("query_range", "labels"):
                    status, answer = await ask(session, url, path, small)
                    assert (status, answer["errorType"]) == (503, "unavailable")
                past = {"query": "up", "start": f"{NOW - 60}", "end": f"{NOW}", "step": "60"}
                assert (await ask(session, url, "query_range", past))[0] == 200  # passes through
                writer.transport.abort()
                for _ in range(500):
                    if outbox.has_room():
                        break
                    await asyncio.sleep(0.02)
                assert (await ask(session, url, "query_range", small))[0] == 200
