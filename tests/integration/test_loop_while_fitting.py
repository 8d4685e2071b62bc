"""While ten thousand series are fitted, judged, saved and forecast, the event loop stays free."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidecar.learning.workers import FitPool
from sidecar.series import RawSeries, Selector
from tests.unit.loop.house import House, Reader, labels

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SERIES = 10_000
MOST_S = 0.050


class ManyReader(Reader):
    """Ten thousand series that are made off the event loop, as replies are decoded."""

    def __init__(self) -> None:
        super().__init__("x", {})
        self.names = [labels(f"host-{k:05}") for k in range(SERIES)]
        self.noise = np.random.default_rng(1).normal(size=100_000)

    async def read(self, selector: Selector, start_ms: int, end_ms: int) -> list[RawSeries]:
        return await asyncio.to_thread(self._made, selector, start_ms, end_ms)

    def _made(self, selector: Selector, start_ms: int, end_ms: int) -> list[RawSeries]:
        t_ms = np.arange(-(-start_ms // 60_000) * 60_000, end_ms + 1, 60_000)
        at = (t_ms // 60_000) % 50_000
        wanted = {m.value for m in selector.matchers if m.name == "instance"}
        return [
            RawSeries(one, t_ms, 50.0 + self.noise[at + 5 * k])
            for k, one in enumerate(self.names)
            if not wanted or one.get("instance") in wanted
        ]


async def to_thread(function: Callable[..., Any], /, *arguments: object) -> Any:
    return await asyncio.to_thread(function, *arguments)


def resumed_at(handle: Any) -> str:
    """The coroutines that a callback goes on with, outermost first."""
    task = getattr(handle._callback, "__self__", None)
    coroutine = task.get_coro() if isinstance(task, asyncio.Task) else None
    names = []
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        names.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
        coroutine = getattr(coroutine, "cr_await", None)
    return " > ".join(names) or repr(handle)


@asynccontextmanager
async def callbacks() -> AsyncIterator[list[tuple[float, str]]]:
    """CPU seconds of this thread, and what went on, for every callback of the event loop."""
    found: list[tuple[float, str]] = []
    plain = asyncio.events.Handle._run

    def measured(handle: asyncio.Handle) -> None:
        where = resumed_at(handle)
        began = time.thread_time()
        plain(handle)
        found.append((time.thread_time() - began, where))

    gc.collect()
    gc.disable()  # a collection falls where it will, and walks over the test suite's heap too
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio.events.Handle, "_run", measured)
            yield found
    finally:
        gc.enable()


async def test_no_callback_takes_long_while_ten_thousand_series_are_fitted(tmp_path: Path) -> None:
    watch = {"max_series": SERIES, "training_window": "2h", "cron": "* * * * *"}
    house = House(tmp_path, {}, watch)
    house.reader = ManyReader()
    house.in_thread = to_thread
    pool = FitPool(processes=1, timeout_s=120)
    house.make_pool = lambda: pool
    pool.start()
    async with house:
        async with callbacks() as found:
            await house.turns(1, settle=False)
            assert house.version("host-00000") == 1
            fitted = len(house.notes)
            for _ in range(3):  # each begins a fit of all, and the cycles go on beside it
                await house.turns(1, settle=False)
                await asyncio.sleep(0.5)
            longest = sorted(found, reverse=True)[:5]  # without what this test does from here on
        assert len(house.notes) > fitted, "fits came back meanwhile"
        assert house.errors == []
    await pool.stop()
    assert longest[0][0] < MOST_S, longest
