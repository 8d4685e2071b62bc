"""``Sentinel`` as a Python program uses it: started in a thread, stopped, started again."""

import asyncio
import socket
import threading
import time
from pathlib import Path

import pytest

from sidecar import Sentinel, SentinelConfig, WatchConfig
from tests.fakes import FakePrometheus
from tests.prometheus import free_port

pytestmark = pytest.mark.integration


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


async def until(port: int, *, open_: bool) -> None:
    deadline = time.monotonic() + 20
    while answers(port) is not open_:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_stop_frees_the_port_within_seconds_and_start_works_again(tmp_path: Path) -> None:
    port = free_port()
    async with FakePrometheus() as prometheus:
        watches = [WatchConfig(f"m{k}", granularity="1s", horizon="5s") for k in range(20)]
        config = SentinelConfig(prometheus.url, port, str(tmp_path / "store"), watches=watches)
        sentinel = Sentinel(config)
        before = set(threading.enumerate())
        for _ in range(2):
            running = threading.Thread(target=sentinel.start)
            running.start()
            await until(port, open_=True)
            await asyncio.sleep(1)
            begun = time.monotonic()
            await asyncio.to_thread(sentinel.stop)
            assert time.monotonic() - begun < 5
            await asyncio.to_thread(running.join, 5)
            assert not running.is_alive()
            with socket.socket() as mine:
                mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                mine.bind(("127.0.0.1", port))
        assert sentinel.status() == {}
        # An exporter of another test's world serves each scrape in a thread of its own meanwhile.
        left = [
            thread.name
            for thread in set(threading.enumerate()) - before
            if "process_request_thread" not in thread.name
        ]
        assert len(left) <= 2, f"two are of asyncio.to_thread here: {left}"
