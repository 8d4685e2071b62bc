"""The load generator: signals that are pure functions of time, as a /metrics page on loopback.

Since a value depends on nothing but its instant, history made beforehand and live scrapes fit
together without a seam. A "day" lasts half an hour, so that several fit into a short history.

    python -m deploy.demo_stack.generator --port 9201 --epoch 1700000000
    curl -X POST 'http://127.0.0.1:9201/drift?factor=1.6'    # users and requests jump
    curl -X DELETE http://127.0.0.1:9201/drift               # and come back
"""

import argparse
import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, TypeAlias
from urllib.parse import parse_qs, urlsplit

DAY_S: Final = 1800.0
# How far into the history the shop was restarted: its counters begin again at zero.
RESET_AFTER_S: Final = 0.4 * DAY_S


@dataclass(frozen=True)
class Spell:
    """A time during which users and requests are ``factor`` times the usual."""

    factor: float
    start_s: float
    end_s: float = math.inf


Drift: TypeAlias = Sequence[Spell]


@dataclass(frozen=True)
class Signal:
    """One series; ``value_at(t, drift)`` with t in seconds since the epoch."""

    name: str
    kind: str
    help: str
    value_at: Callable[[float, Drift], float]
    labels: Mapping[str, str] = field(default_factory=dict)


def signals(epoch_s: float) -> tuple[Signal, ...]:
    """Every series of the shop; ``epoch_s`` is where the history begins."""
    requests = "Requests answered since the shop started."
    return (
        Signal("demo_active_users", "gauge", "Users online: a daily cycle.", _users),
        Signal(
            "demo_disk_used_bytes",
            "gauge",
            "Disk in use: a trend.",
            partial(_disk, epoch_s=epoch_s),
        ),
        Signal("demo_temperature_celsius", "gauge", "Room temperature: noise.", _temperature),
        *(
            Signal(
                "demo_requests_total",
                "counter",
                requests,
                partial(_requests, epoch_s=epoch_s, mean=mean, swing=swing),
                {"route": route},
            )
            for route, mean, swing in (("/search", 80.0, 50.0), ("/checkout", 20.0, 12.0))
        ),
    )


def _noise(name: str, t: float) -> float:
    """Standard normal, the same for ever for one name and second."""
    return random.Random(f"{name} {math.floor(t)}").gauss(0.0, 1.0)  # noqa: S311 - no secret


def _factor(t: float, drift: Drift) -> float:
    return math.prod(one.factor for one in drift if one.start_s <= t < one.end_s)


def _users(t: float, drift: Drift) -> float:
    phase = 2 * math.pi * t / DAY_S
    shape = 600 + 250 * math.sin(phase) + 80 * math.sin(2 * phase + 1)
    return float(round((shape + 12 * _noise("users", t)) * _factor(t, drift)))


def _disk(t: float, drift: Drift, epoch_s: float) -> float:
    del drift
    return float(round(40e9 + 250e3 * (t - epoch_s) + 3e6 * _noise("disk", t)))


def _temperature(t: float, drift: Drift) -> float:
    del drift
    return round(22 + 0.4 * _noise("temperature", t), 2)


def _requests(t: float, drift: Drift, epoch_s: float, mean: float, swing: float) -> float:
    def counted(until_s: float) -> float:
        """The integral of mean + swing sin(2 pi t / day): requests from the epoch to then."""
        omega = 2 * math.pi / DAY_S
        wave = math.cos(omega * epoch_s) - math.cos(omega * until_s)
        return mean * (until_s - epoch_s) + swing / omega * wave

    reset_s = epoch_s + RESET_AFTER_S
    since_s = reset_s if t >= reset_s else epoch_s
    more = math.fsum(
        (one.factor - 1) * (counted(min(t, one.end_s)) - counted(one.start_s))
        for one in drift
        if one.start_s < t
    )
    return float(math.floor(counted(t) - counted(since_s) + more))


def page(series: Sequence[Signal], t: float, drift: Drift) -> str:
    """The exposition, text format."""
    lines: list[str] = []
    seen: set[str] = set()
    for one in series:
        if one.name not in seen:
            seen.add(one.name)
            lines += [f"# HELP {one.name} {one.help}", f"# TYPE {one.name} {one.kind}"]
        lines.append(f"{series_name(one.name, one.labels)} {one.value_at(t, drift)!r}")
    return "\n".join(lines) + "\n"


def series_name(name: str, labels: Mapping[str, str]) -> str:
    """``name{label="value"}``; the demo's label values need no escapes."""
    inner = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return f"{name}{{{inner}}}" if inner else name


class Generator(ThreadingHTTPServer):
    """Serves the page and takes the drift switch; bound to loopback only."""

    daemon_threads = True

    def __init__(self, port: int, epoch_s: float) -> None:
        self.series = signals(epoch_s)
        self.drift: tuple[Spell, ...] = ()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    def begin_drift(self, factor: float, now_s: float) -> None:
        self.end_drift(now_s)
        with self._lock:
            self.drift = (*self.drift, Spell(factor, now_s))

    def end_drift(self, now_s: float) -> None:
        with self._lock:
            self.drift = tuple(
                Spell(one.factor, one.start_s, min(one.end_s, now_s)) for one in self.drift
            )


class _Handler(BaseHTTPRequestHandler):
    server: Generator

    def do_GET(self) -> None:
        if urlsplit(self.path).path == "/metrics":
            self._answer(200, page(self.server.series, time.time(), self.server.drift))
        else:
            self._answer(404, "only /metrics and /drift are here\n")

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        try:
            factor = float(parse_qs(url.query).get("factor", ["1.6"])[0])
        except ValueError:
            factor = math.nan
        if url.path != "/drift":
            self._answer(404, "only /metrics and /drift are here\n")
        elif not 0 <= factor <= 100:  # NaN too
            self._answer(400, "factor must be a number from 0 to 100, such as 1.6\n")
        else:
            self.server.begin_drift(factor, time.time())
            self._answer(200, f"users and requests are now {factor:g} times the usual\n")

    def do_DELETE(self) -> None:
        if urlsplit(self.path).path == "/drift":
            self.server.end_drift(time.time())
            self._answer(200, "users and requests are as usual\n")
        else:
            self._answer(404, "only /metrics and /drift are here\n")

    def _answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not news."""


def main() -> None:
    parser = argparse.ArgumentParser(description="The demo's load generator.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--epoch", type=float, required=True, help="where its history begins, s")
    options = parser.parse_args()
    Generator(options.port, options.epoch).serve_forever()


if __name__ == "__main__":
    main()
