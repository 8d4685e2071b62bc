"""An exporter whose values are functions of time, for real servers to scrape.

It runs in threads of its own, so a busy event loop or a slow scrape disturbs nobody else.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self, TypeAlias

from sidecar.names import METRIC_NAME
from sidecar.series import LabelSet, quote

# Of seconds since the epoch; None leaves the series out of that scrape.
ValueAt: TypeAlias = Callable[[float], float | None]


@dataclass(frozen=True)
class _Function:
    kind: str
    labels: LabelSet
    value_at: ValueAt


class FunctionExporter:
    """Serves /metrics on a free loopback port while its ``with`` block lasts.

    Args:
        delay_s: how long each scrape takes; values are those of its beginning.
        grid_s: where given, values are those of the newest multiple of it, so that a sample does
            not depend on the few ms between a scrape's stamp and its arrival here.
        stamp: whether samples carry their own timestamp (the grid's instant where ``grid_s`` is
            given, else that of the scrape's arrival).

    >>> with FunctionExporter() as exporter:
    ...     exporter.gauge("x", lambda t: 42.0, job="a")
    ...     print(exporter.page(0.0))
    # TYPE x gauge
    x{job="a"} 42.0
    <BLANKLINE>
    """

    def __init__(
        self, *, delay_s: float = 0.0, grid_s: float | None = None, stamp: bool = False
    ) -> None:
        self.delay_s = delay_s
        self.grid_s = grid_s
        self.stamp = stamp
        self.down = False
        self.scrapes = 0
        self._functions: dict[LabelSet, _Function] = {}
        self._lock = threading.Lock()
        self._server = _HttpServer(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    @property
    def address(self) -> str:
        """``host:port``, as a scrape configuration names it."""
        return f"127.0.0.1:{self._server.server_port}"

    def gauge(self, metric: str, value_at: ValueAt, **labels: str) -> None:
        self.expose("gauge", {METRIC_NAME: metric, **labels}, value_at)

    def counter(self, metric: str, value_at: ValueAt, **labels: str) -> None:
        self.expose("counter", {METRIC_NAME: metric, **labels}, value_at)

    def expose(self, kind: str, labels: Mapping[str, str], value_at: ValueAt) -> None:
        """Add a series, or replace the one with these labels."""
        one = _Function(kind, LabelSet.of(labels), value_at)
        with self._lock:
            self._functions[one.labels] = one

    def remove(self, metric: str, **labels: str) -> None:
        with self._lock:
            del self._functions[LabelSet.of({METRIC_NAME: metric, **labels})]

    def page(self, now_s: float) -> str:
        """What a scrape at ``now_s`` is answered: text format, each metric's series together."""
        at_s = now_s if self.grid_s is None else now_s // self.grid_s * self.grid_s
        with self._lock:
            functions = sorted(self._functions.values(), key=lambda f: f.labels.metric)
        stamp = f" {round(at_s * 1000)}" if self.stamp else ""
        lines, last = [], ""
        for one in functions:
            if one.labels.metric != last:
                last = one.labels.metric
                lines.append(f"# TYPE {last} {one.kind}")
            value = one.value_at(at_s)
            if value is not None:
                inner = ",".join(f"{n}={quote(v)}" for n, v in one.labels.pairs if n != METRIC_NAME)
                name = f"{last}{{{inner}}}" if inner else last
                lines.append(f"{name} {value!r}{stamp}")
        return "\n".join(lines) + "\n"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, exporter: FunctionExporter) -> None:
        self.exporter = exporter
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        now_s = time.time()
        assert isinstance(self.server, _HttpServer)
        exporter = self.server.exporter
        exporter.scrapes += 1
        body = exporter.page(now_s).encode()
        if exporter.delay_s:
            time.sleep(exporter.delay_s)
        self.send_response(503 if exporter.down else 200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the server gave up waiting, as its timeout says

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not news."""
