"""What the demo consists of, and the order in which it starts."""

import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from deploy.demo_stack.api import is_up
from deploy.demo_stack.generator import signals
from deploy.demo_stack.history import write_history
from deploy.demo_stack.processes import Child, ChildDied, choose_port, stop_all

EXAMPLE_CONFIG: Final = Path(__file__).resolve().parents[1] / "sentinel.example.yml"
HISTORY_S: Final = 6 * 3600.0
SCRAPE_S: Final = 5
# The watches' granularity, query offset and spread; the sidecar needs some of it to start.
FIRST_INSTANT_S: Final = 15 + 10 + 3.75 - 3
# The target's labels, fixed, so that history and scrapes are the same series whatever the port.
TARGET_LABELS: Final = {"job": "shop", "instance": "shop-1"}
_NODE_EXPORTERS: Final = ("prometheus-node-exporter", "node_exporter")


@dataclass(frozen=True, slots=True)
class Ports:
    """Where things listen on 127.0.0.1: their usual ports where those are free."""

    prometheus: int
    sidecar: int
    generator: int
    node_exporter: int

    @classmethod
    def choose(cls) -> "Ports":
        return cls(*(choose_port(usual) for usual in (9090, 8080, 9201, 9100)))


class Stack:
    """The running demo; leaving its ``with`` block stops all of it and nothing else.

    The folder with data and logs is removed at the end unless something went wrong.
    """

    def __init__(self) -> None:
        self.ports = Ports.choose()
        self.folder = Path(tempfile.mkdtemp(prefix="sentinel-demo-"))
        self.epoch_s = time.time() - HISTORY_S
        self.history_end_s = time.time()
        self.children: list[Child] = []

    @property
    def prometheus_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.prometheus}"

    @property
    def sidecar_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.sidecar}"

    @property
    def generator_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.generator}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stop_all(self.children)
        if kind is None or not issubclass(kind, Exception):
            shutil.rmtree(self.folder, ignore_errors=True)

    def check(self) -> None:
        """Raise ``ChildDied`` where one of the processes has ended by itself."""
        for child in self.children:
            child.check()

    def make_history(self) -> int:
        """Blocks up to now, for a Prometheus that starts right after; how many samples."""
        self.history_end_s = time.time()
        return write_history(
            self.folder / "prometheus",
            signals(self.epoch_s),
            TARGET_LABELS,
            start_s=self.epoch_s,
            end_s=self.history_end_s,
            every_s=SCRAPE_S,
        )

    def let_it_scrape(self) -> None:
        """Until an instant has closed that lies behind the history's end.

        What is stamped before the end of a block cannot be written, so an earlier start would only
        have its first samples refused.
        """
        while time.time() < self.history_end_s + FIRST_INSTANT_S:
            self.check()
            time.sleep(0.2)

    def start_exporters(self) -> bool:
        """The load generator, and a node-exporter where there is one; whether there is."""
        command = [sys.executable, "-m", "deploy.demo_stack.generator"]
        options = [f"--port={self.ports.generator}", f"--epoch={self.epoch_s!r}"]
        self._start("generator", [*command, *options])
        node = next(filter(None, map(shutil.which, _NODE_EXPORTERS)), None)
        if node:
            address = f"--web.listen-address=127.0.0.1:{self.ports.node_exporter}"
            self._start("node-exporter", [node, address])
        return node is not None

    def start_prometheus(self) -> None:
        config = self.folder / "prometheus.yml"
        config.write_text(json.dumps(self._prometheus_config(), indent=2))  # JSON is YAML
        self._start(
            "prometheus",
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={self.folder / 'prometheus'}",
                f"--web.listen-address=127.0.0.1:{self.ports.prometheus}",
                "--web.enable-remote-write-receiver",
            ],
        )
        self.wait_for(f"{self.prometheus_url}/-/ready", "prometheus", 60)

    def start_sidecar(self) -> None:
        environ = {
            "SENTINEL_PROMETHEUS_URL": self.prometheus_url,
            "SENTINEL_EMITTER_PORT": str(self.ports.sidecar),
            "SENTINEL_ARTIFACT_STORE": str(self.folder / "sentinel"),
        }
        sentinel = Path(sys.executable).with_name("sentinel")
        self._start("sentinel", [str(sentinel), "run", "-c", str(EXAMPLE_CONFIG)], environ)

    def wait_for(self, url: str, name: str, within_s: float) -> None:
        """Until ``url`` answers 200.

        Raises:
            ChildDied: something ended, or the time is over.
        """
        deadline = time.monotonic() + within_s
        while not is_up(url):
            self.check()
            if time.monotonic() > deadline:
                log = self.folder / f"{name}.log"
                raise ChildDied(f"{name} is not ready after {within_s:g} s; its log is {log}")
            time.sleep(0.1)

    def _start(self, name: str, command: list[str], environ: dict[str, str] | None = None) -> None:
        ours = {"PYTHONUNBUFFERED": "1", **(environ or {})}
        log = self.folder / f"{name}.log"
        self.children.append(Child(name, command, log, ours))

    def _prometheus_config(self) -> dict[str, object]:
        def job(name: str, port: int, **more: object) -> dict[str, object]:
            return {
                "job_name": name,
                "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
                **more,
            }

        shop = job(TARGET_LABELS["job"], self.ports.generator)
        shop["static_configs"] = [
            {
                "targets": [f"127.0.0.1:{self.ports.generator}"],
                "labels": {"instance": TARGET_LABELS["instance"]},
            }
        ]
        # The predictions reach Prometheus by remote write; scraped too, each would be there twice.
        sidecar = job("sentinel", self.ports.sidecar, params={"collect[]": ["self"]})
        jobs = [shop, job("prometheus", self.ports.prometheus), sidecar]
        if any(child.name == "node-exporter" for child in self.children):
            jobs.append(job("node", self.ports.node_exporter))
        timing = {"scrape_interval": f"{SCRAPE_S}s", "scrape_timeout": f"{SCRAPE_S}s"}
        return {"global": timing, "scrape_configs": jobs}
