"""Real servers for the tests: Prometheus, VictoriaMetrics, and history made beforehand.

Everything listens on a free loopback port, keeps its data in a temporary folder, and is stopped by
its own process id. History is put into blocks *before* the server starts: beside a running scrape
a receiver refuses samples more than an hour old.

    async with RealPrometheus(binary, targets=[exporter.address], history=backfill) as prometheus:
        await prometheus.until('count(x) == 1')
        series = await prometheus.samples('x', start_ms, end_ms)
"""

import asyncio
import itertools
import json
import math
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import aiohttp
import numpy as np
from numpy.typing import ArrayLike

from sidecar.names import METRIC_NAME
from sidecar.series import LabelSet, RawSeries, quote
from tests.exporter import FunctionExporter

__all__ = [
    "Backfill",
    "FunctionExporter",
    "PrometheusBinary",
    "QueryError",
    "RealPrometheus",
    "RealVictoriaMetrics",
    "ServerDied",
    "free_port",
    "prometheus_binaries",
    "victoria_metrics_binary",
]

ENV_BINARIES = "SENTINEL_TEST_PROMETHEUS"
_HOUR_MS = 3_600_000
# promtool cuts blocks at multiples of 2 h times a power of three and reads its whole input once
# for each block: short history in small blocks, long history in few.
_BLOCK_HOURS = (2, 6, 18, 54)
_BLOCKS_AT_MOST = 12
# Below the ports that the system gives to outgoing connections; each process begins elsewhere.
_FIRST_PORT, _PORTS = 10_000, 20_000
_ports = itertools.count(os.getpid() * 7919)


class ServerDied(AssertionError):
    """A server that a test needs did not become ready; the end of its log is in the message."""


class QueryError(AssertionError):
    """The server refused a query; its own words are in the message."""


@dataclass(frozen=True, order=True)
class PrometheusBinary:
    """A prometheus executable; ``str()`` is its version, for test ids."""

    version: tuple[int, ...]
    path: Path

    @classmethod
    def at(cls, path: Path) -> Self:
        """Ask the executable for its version (Debian's prints ``2.42.0+ds``)."""
        done = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
        found = re.search(r"version (\d+(?:\.\d+)*)", done.stdout + done.stderr)
        if found is None:
            raise ServerDied(f"{path} --version says no version: {done.stdout!r}")
        return cls(tuple(int(part) for part in found[1].split(".")), path)

    def __str__(self) -> str:
        return ".".join(map(str, self.version))


@cache
def prometheus_binaries() -> tuple[PrometheusBinary, ...]:
    """The ``prometheus`` on the path and those that SENTINEL_TEST_PROMETHEUS names, oldest first.

    One for each version; a name in the variable that is no executable is an error, not a skip.
    """
    on_path = shutil.which("prometheus")
    named = [part for part in os.environ.get(ENV_BINARIES, "").split(":") if part]
    found = [PrometheusBinary.at(Path(name)) for name in ([on_path] if on_path else []) + named]
    return tuple(sorted({binary.version: binary for binary in reversed(found)}.values()))


def victoria_metrics_binary() -> Path | None:
    """VictoriaMetrics' single-node executable, as Debian or its own releases name it."""
    for name in ("victoria-metrics", "victoria-metrics-prod"):
        if found := shutil.which(name):
            return Path(found)
    return None


def free_port() -> int:
    """A loopback port on which nothing listens, another one each time."""
    for number in itertools.islice(_ports, _PORTS):
        port = _FIRST_PORT + number % _PORTS
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no loopback port is free")


@dataclass
class Backfill:
    """History for a server that has not started yet.

    Samples of one series must be added in the order of their timestamps; NaN is an ordinary NaN,
    a gap is a sample that is not there.
    """

    lines: list[str] = field(default_factory=list)
    first_ms: int | None = None
    last_ms: int | None = None

    def add(
        self, labels: LabelSet | Mapping[str, str], timestamps_ms: ArrayLike, values: ArrayLike
    ) -> Self:
        """One series: (S,) milliseconds since the epoch, and (S,) values or one for all."""
        times = np.atleast_1d(np.asarray(timestamps_ms, dtype=np.int64))
        numbers = np.broadcast_to(np.asarray(values, dtype=np.float64), times.shape)
        if times.size == 0:
            return self
        series = _exposed(labels if isinstance(labels, LabelSet) else LabelSet.of(labels))
        self.lines += [
            f"{series} {_number(value)} {ms // 1000}.{ms % 1000:03d}"
            for ms, value in zip(times.tolist(), numbers.tolist(), strict=True)
        ]
        first, last = int(times[0]), int(times[-1])
        self.first_ms = first if self.first_ms is None else min(first, self.first_ms)
        self.last_ms = last if self.last_ms is None else max(last, self.last_ms)
        return self

    def write_blocks(self, data_dir: Path, promtool: str = "promtool") -> None:
        """Make TSDB blocks in ``data_dir``; newer servers read those of an older promtool."""
        if self.first_ms is None or self.last_ms is None:
            return
        data_dir.mkdir(parents=True, exist_ok=True)
        hours = (self.last_ms - self.first_ms) / _HOUR_MS
        block = next((b for b in _BLOCK_HOURS if hours / b <= _BLOCKS_AT_MOST), _BLOCK_HOURS[-1])
        with tempfile.NamedTemporaryFile("w", suffix=".om", encoding="utf-8") as text:
            text.write("\n".join(self.lines) + "\n# EOF\n")
            text.flush()
            command = [promtool, "tsdb", "create-blocks-from", f"--max-block-duration={block}h"]
            done = subprocess.run(
                [*command, "openmetrics", text.name, str(data_dir)], capture_output=True, text=True
            )
        if done.returncode:
            raise ServerDied(f"promtool made no blocks: {done.stderr or done.stdout}")


def _exposed(labels: LabelSet) -> str:
    inner = ",".join(f"{n}={quote(v)}" for n, v in labels.pairs if n != METRIC_NAME)
    return f"{labels.metric}{{{inner}}}" if inner else labels.metric


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return repr(value) if math.isfinite(value) else f"{value:+f}".replace("inf", "Inf")


class _Server:
    """A process that serves HTTP on a loopback port: start, wait until ready, ask, stop."""

    name = ""
    ready_path = ""
    starts_within_s = 60.0

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"sentinel-{self.name}-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._session: aiohttp.ClientSession | None = None

    def command(self) -> list[str]:
        raise AssertionError("each server says how it is started")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def log(self) -> str:
        """Everything the server has logged so far, over all its starts."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None, "use the server with `async with`"
        return self._session

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        try:
            await self.start()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.kill()
        await self.session.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def start(self, *, ready: bool = True) -> None:
        """Start on this server's port and folder; after ``stop`` or ``kill`` it starts again."""
        assert self._process is None, "already started"
        with (self.folder / "log").open("ab") as log:
            self._process = _spawn(self.command(), log)
        if ready:
            await self.until_ready()

    async def until_ready(self) -> None:
        deadline = time.monotonic() + self.starts_within_s
        while not await self._is_ready():
            if self._process is None or self._process.poll() is not None:
                raise ServerDied(f"{self.name} ended at its start: {self.log[-3000:]}")
            if time.monotonic() > deadline:
                raise ServerDied(f"{self.name} is not ready: {self.log[-3000:]}")
            await asyncio.sleep(0.05)

    async def _is_ready(self) -> bool:
        try:
            async with self.session.get(self.url + self.ready_path) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def stop(self) -> None:
        """SIGTERM, and wait: what was scraped is on disk for the next ``start``."""
        if self._process is not None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait, 30)
            self._process = None

    async def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
            self._process = None

    async def api(self, path: str, **params: str) -> Any:
        """``data`` of an answer of the HTTP API."""
        async with self.session.post(f"{self.url}/api/v1/{path}", data=params) as answer:
            text = await answer.text()
            if answer.status != 200:
                raise QueryError(f"{path} {params}: {answer.status} {text}")
        return json.loads(text)["data"]

    async def query(self, expr: str, at_s: float | None = None) -> dict[LabelSet, float]:
        """An instant query for a vector (or a scalar, which gets the empty label set)."""
        when = {} if at_s is None else {"time": f"{at_s:.3f}"}
        data = await self.api("query", query=expr, **when)
        if data["resultType"] == "scalar":
            return {LabelSet(()): float(data["result"][1])}
        return {LabelSet.of(one["metric"]): float(one["value"][1]) for one in data["result"]}

    async def query_range(
        self, expr: str, start_s: float, end_s: float, step_s: float
    ) -> list[RawSeries]:
        """A range query; timestamps are those of the steps. Sorted by labels."""
        times = {"start": f"{start_s:.3f}", "end": f"{end_s:.3f}", "step": f"{step_s:.3f}"}
        return _matrix(await self.api("query_range", query=expr, **times))

    async def samples(self, selector: str, start_ms: int, end_ms: int) -> list[RawSeries]:
        """The stored samples with their own timestamps, both ends inclusive. Sorted by labels.

        Staleness markers do not show in this way; ordinary NaNs do.
        """
        # Ranges are left-open since Prometheus 3 and closed before: ask for one more ms, then clip.
        asked = f"{selector}[{end_ms - start_ms + 1}ms]"
        found = _matrix(await self.api("query", query=asked, time=f"{end_ms / 1000:.3f}"))
        inside = [(one, one.timestamps_ms >= start_ms) for one in found]
        clipped = [RawSeries(s.labels, s.timestamps_ms[m], s.values[m]) for s, m in inside]
        return [one for one in clipped if one.timestamps_ms.size]

    async def until(
        self, expr: str, *, timeout_s: float = 60.0, every_s: float = 0.1
    ) -> dict[LabelSet, float]:
        """Ask again and again until the answer has a series; fails after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while not (found := await self.query(expr)):
            if time.monotonic() > deadline:
                raise QueryError(f"still no series after {timeout_s:g} s: {expr}")
            await asyncio.sleep(every_s)
        return found

    async def self_metric(self, name: str) -> float:
        """A metric of the server's own /metrics page, summed over its label sets.

        Raises:
            QueryError: the page has no such metric.
        """
        async with self.session.get(f"{self.url}/metrics") as answer:
            page = await answer.text()
        found = re.findall(rf"^{re.escape(name)}(?:\{{[^\n]*\}})? (\S+)", page, re.MULTILINE)
        if not found:
            raise QueryError(f"no {name} on {self.url}/metrics")
        return math.fsum(float(value) for value in found)


def _matrix(data: Any) -> list[RawSeries]:
    rows = [
        RawSeries(
            LabelSet.of(one["metric"]),
            np.array([round(float(t) * 1000) for t, _ in one["values"]], dtype=np.int64),
            np.array([float(v) for _, v in one["values"]], dtype=np.float64),
        )
        for one in data["result"]
    ]
    return sorted(rows, key=lambda row: row.labels)


def _spawn(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a process that dies with this one, even when this one is killed outright."""
    setpriv = shutil.which("setpriv")
    tied = [setpriv, "--pdeathsig", "KILL", *command] if setpriv else command
    return subprocess.Popen(tied, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


class RealPrometheus(_Server):
    """A Prometheus with the remote write receiver on.

    Args:
        binary: which executable; ``prometheus_binaries()`` names them.
        targets: ``host:port`` of exporters, scraped as job ``test``.
        scrape_interval: in Prometheus' grammar.
        scrape_timeout: the interval, where None.
        honor_timestamps: whether timestamps on the exporter's page are kept.
        external_labels: put on what leaves the server.
        history: samples to hold before the start.
        receiver: whether ``--web.enable-remote-write-receiver`` is given.
        flags: further flags, such as ``--storage.tsdb.retention.time=15d``.
        config: further top-level sections of the configuration, such as ``remote_write``.
    """

    name = "prometheus"
    ready_path = "/-/ready"

    def __init__(
        self,
        binary: PrometheusBinary,
        *,
        targets: Sequence[str] = (),
        scrape_interval: str = "1s",
        scrape_timeout: str | None = None,
        honor_timestamps: bool = True,
        external_labels: Mapping[str, str] | None = None,
        history: Backfill | None = None,
        receiver: bool = True,
        flags: Sequence[str] = (),
        config: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        self.binary = binary
        self.history = history
        self._flags = [*(["--web.enable-remote-write-receiver"] if receiver else []), *flags]
        timing = {
            "scrape_interval": scrape_interval,
            "scrape_timeout": scrape_timeout or scrape_interval,
        }
        job = {
            "job_name": "test",
            "honor_timestamps": honor_timestamps,
            "static_configs": [{"targets": list(targets)}],
        }
        self.config: dict[str, object] = {
            "global": {**timing, "external_labels": dict(external_labels or {})},
            "scrape_configs": [job] if targets else [],
            **(config or {}),
        }

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    def command(self) -> list[str]:
        return [
            str(self.binary.path),
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.data_dir}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            *self._flags,
        ]

    async def start(self, *, ready: bool = True) -> None:
        # JSON is YAML. Written at each start, so that a test may change it between two.
        (self.folder / "prometheus.yml").write_text(json.dumps(self.config))
        if self.history is not None:
            await asyncio.to_thread(self.history.write_blocks, self.data_dir)
            self.history = None
        await super().start(ready=ready)


class RealVictoriaMetrics(_Server):
    """A single-node VictoriaMetrics: takes remote write at /api/v1/write, serves no remote read.

    New samples show in queries only after a second or so; ``flush`` makes them show at once.
    """

    name = "victoria-metrics"
    ready_path = "/health"

    def __init__(self, binary: Path | None = None, *, flags: Sequence[str] = ()) -> None:
        super().__init__()
        found = binary or victoria_metrics_binary()
        if found is None:
            raise ServerDied("no victoria-metrics on the path: apt-get install victoria-metrics")
        self.binary = found
        self._flags = list(flags)

    def command(self) -> list[str]:
        return [
            str(self.binary),
            f"-httpListenAddr=127.0.0.1:{self.port}",
            f"-storageDataPath={self.folder / 'data'}",
            "-retentionPeriod=2y",
            "-search.latencyOffset=0s",  # else the newest 30 s are hidden
            "-search.disableCache",
            *self._flags,
        ]

    async def flush(self) -> None:
        async with self.session.get(f"{self.url}/internal/force_flush") as answer:
            answer.raise_for_status()
