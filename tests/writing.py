"""What the tests of the writer share: a running writer, an oracle, the promises to check."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sidecar.remote.http import HttpClient, HttpSettings
from sidecar.remote.writer import RemoteWriter, WriteBlock, WriterSettings, WriterStats
from sidecar.series import LabelSet
from tests.fakes import FakePrometheus, FastTime


def series(count: int, name: str = "x") -> tuple[LabelSet, ...]:
    return tuple(
        LabelSet.of({"__name__": f"{name}_sentinel_expected", "i": str(i)}) for i in range(count)
    )


def value_of(labels: LabelSet, timestamp_ms: int) -> float:
    """The oracle: what any process ever writes for a series and an instant."""
    return float(int(labels.key[:6], 16) + timestamp_ms % 1_000_003)


def block(labels: Sequence[LabelSet], timestamp_ms: int) -> WriteBlock:
    values = np.array([value_of(one, timestamp_ms) for one in labels])
    return WriteBlock(tuple(labels), timestamp_ms, values)


@contextlib.asynccontextmanager
async def writing(
    url: str | HttpSettings,
    time: FastTime | None = None,
    *,
    spool: Path | None = None,
    timeout_s: float = 5.0,
    draw: Callable[[], float] | None = None,
    **settings: Any,
) -> AsyncIterator[RemoteWriter]:
    """A running writer; time runs as in ``time``. Its books are looked at all the while."""
    clock = time or FastTime()
    settled = HttpSettings(url, timeout_s=timeout_s) if isinstance(url, str) else url
    client = HttpClient(settled, monotonic=clock.monotonic_s)
    more: dict[str, Any] = {} if draw is None else {"draw": draw}
    writer = RemoteWriter(
        client,
        spool,
        WriterSettings(**settings),
        now_s=clock.now_s,
        monotonic_s=clock.monotonic_s,
        sleep=clock.sleep,
        **more,
    )
    await writer.start()
    auditor = asyncio.create_task(_keep_balanced(writer))
    try:
        yield writer
    finally:
        await writer.stop(0.0)
        await client.close()
        assert not auditor.done() or auditor.exception() is None, auditor.exception()
        auditor.cancel()


async def _keep_balanced(writer: RemoteWriter) -> None:
    while True:
        assert_balanced(writer.stats())
        await asyncio.sleep(0.003)


async def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - conditions of any kind
            await asyncio.sleep(0.005)


async def until_delivered(writer: RemoteWriter, within_s: float = 20.0) -> None:
    await until(lambda: writer.stats().pending == 0, within_s)


def assert_balanced(stats: WriterStats) -> None:
    assert stats.enqueued == stats.sent + stats.pending + sum(stats.dropped.values())


def assert_stored(fake: FakePrometheus, labels: Sequence[LabelSet], *stamps: int) -> None:
    """These samples and no others, with their values."""
    expected = {one: {at: value_of(one, at) for at in stamps} for one in labels}
    assert fake.stored == expected


def assert_well_behaved(fake: FakePrometheus, *, max_samples: int = 2_000, shards: int = 2) -> None:
    """What holds for every request of every writer, whatever was done to it."""
    newest: dict[LabelSet, int] = {}
    assert fake.at_once <= shards
    for one in fake.writes():
        labels = [found for found, _, _ in one.series]
        assert len(labels) == len(set(labels)) <= max_samples
        for found in labels:
            names = [name for name, _ in found.pairs]
            assert names == sorted(set(names))
            assert all(name and value for name, value in found.pairs)
        if one.status in (200, 204):
            for found, at_ms, _ in one.series:
                # The same again is a retry; earlier is disorder.
                assert newest.get(found, 0) <= at_ms
                newest[found] = at_ms
    assert [text for text in fake.refusals if "poisoned" not in text] == []
