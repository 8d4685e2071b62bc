"""``sentinel run`` as a process of its own, for tests that need the whole program."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import yaml

from tests.prometheus import ServerDied, free_port


def sentinel_command() -> list[str]:
    """The console script beside this interpreter."""
    return [str(Path(sys.executable).with_name("sentinel"))]


def clean_environ(**more: str) -> dict[str, str]:
    """The environment without settings that a developer's shell may carry."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SENTINEL_")}
    return {**kept, **more}


class Sidecar:
    """A running sidecar with a store of its own, killed at the end of its ``async with`` block.

    Args:
        config: as in the YAML file; port and store are added.
        watches: the same, for ``watches``.
    """

    def __init__(self, prometheus_url: str, watches: list[dict[str, Any]], **config: Any) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sentinel-sidecar-"))
        self.port = free_port()
        self.config: dict[str, Any] = {
            "prometheus_url": prometheus_url,
            "emitter_port": self.port,
            "artifact_store": str(self.folder / "store"),
            "watches": watches,
            **config,
        }
        self.started_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            await self.kill()
        assert self._session is not None
        await self._session.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start it, without waiting; a second time after ``kill`` or ``terminate``."""
        path = self.folder / "sentinel.yml"
        path.write_text(yaml.safe_dump(self.config, allow_unicode=True))
        setpriv = shutil.which("setpriv")
        tie = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*tie, *sentinel_command(), "run", "-c", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environ(),
            )
        self.started_s = time.time()

    async def kill(self) -> None:
        """SIGKILL, as the kernel does where memory is short."""
        assert self._process is not None
        self._process.kill()
        await asyncio.to_thread(self._process.wait)
        self._process = None

    async def terminate(self) -> tuple[int, float]:
        """SIGTERM; the exit status and how many seconds it took."""
        assert self._process is not None
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(self._process.wait, 60)
        self._process = None
        return status, time.monotonic() - began

    def check(self) -> None:
        """Fail with the end of its log where it no longer runs."""
        if self._process is None or self._process.poll() is not None:
            raise ServerDied(f"the sidecar has ended: {self.log[-4000:]}")

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text; status 0 where nobody answers."""
        assert self._session is not None
        try:
            async with self._session.get(self.url + path) as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientConnectionError:
            return 0, ""

    async def until_ready(self, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while (answer := await self.get("/-/ready"))[0] != 200:
            self.check()
            if time.monotonic() > deadline:
                raise ServerDied(f"not ready after {timeout_s:g} s: {answer}\n{self.log[-4000:]}")
            await asyncio.sleep(0.1)

    async def self_metrics(self) -> "SelfMetrics":
        status, page = await self.get("/metrics?collect[]=self")
        assert status == 200, page
        return SelfMetrics(page)


class SelfMetrics:
    """The sidecar's own metrics at one moment."""

    def __init__(self, page: str) -> None:
        self.page = page

    def total(self, name: str, **labels: str) -> float:
        """The sum over a metric's series, 0 without any; labels' values are regular expressions."""
        found = re.findall(
            rf"^{re.escape(name)}(?:\{{([^\n]*)\}})? (\S+)$", self.page, re.MULTILINE
        )
        return sum(float(value) for inner, value in found if _matches(_labels(inner), labels))


def _labels(inner: str) -> dict[str, str]:
    return dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', inner))


def _matches(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(re.fullmatch(regex, labels.get(name, "")) for name, regex in wanted.items())
