"""Nothing accepted is lost, altered or refused, whoever is killed whenever.

The writer runs in a process of its own and is killed by SIGKILL at random instants; Prometheus is
killed too, and stands behind a proxy that resets 30 % of the requests, half of them after the
commit. Each value is a function of its series and its timestamp, so what is stored can be judged.

SENTINEL_TEST_KILLS=110 runs the long form (some six minutes).
"""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes import FaultProxy
from tests.prometheus import PrometheusBinary, RealPrometheus
from tests.writing import series, value_of

pytestmark = pytest.mark.integration

KILLS = int(os.environ.get("SENTINEL_TEST_KILLS", "10"))
SERIES = 60


@contextlib.asynccontextmanager
async def child(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The writer's process; killed at the end if it has not ended."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.delivery_child", *arguments),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()


async def lines_of(process: asyncio.subprocess.Process) -> list[str]:
    """What is left in the pipe of a process that has ended; a torn last line was never said."""
    assert process.stdout is not None
    text = (await process.stdout.read()).decode()
    return text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]


@pytest.mark.slow
async def test_kills_of_the_writer_and_of_prometheus_lose_alter_and_refuse_nothing(
    newest_prometheus: PrometheusBinary, tmp_path: Path
) -> None:
    dice = random.Random(7)
    began_s = time.time()
    accepted: set[tuple[int, int]] = set()
    prometheus_kills = max(1, KILLS // 18)
    async with (
        RealPrometheus(newest_prometheus) as prometheus,
        FaultProxy(prometheus.port, share=0.3) as proxy,
    ):
        arguments = (proxy.url, str(tmp_path / "spool"), f"--series={SERIES}")
        restarting: asyncio.Task[None] | None = None
        for kill in range(KILLS):
            async with child(*arguments) as process:
                assert process.stdout is not None
                said = [(await process.stdout.readline()).decode()]
                assert said == ["started\n"]
                if kill % (KILLS // prometheus_kills) == KILLS // prometheus_kills // 2:
                    await prometheus.kill()
                    restarting = asyncio.create_task(prometheus.start())
                # Often within the first append, now and then after some seconds.
                await asyncio.sleep(dice.choice([0.0, 0.01, 0.1, 0.5, 1.0, 2.0]) * dice.random())
                process.send_signal(signal.SIGKILL)
                await process.wait()
                for line in await lines_of(process):
                    word, number, at = line.split()
                    assert word == "accepted", line
                    accepted.add((int(number), int(at)))
            if restarting is not None and restarting.done():
                await restarting
        if restarting is not None:
            await restarting
        async with asyncio.timeout(120), child(*arguments, "--drain") as process:
            assert await process.wait() == 0
            enqueued, sent, dropped = map(int, (await lines_of(process))[-1].split()[1:])
        stored: dict[tuple[str, int], float] = {}
        for name in ("even", "odd"):
            for one in await prometheus.samples(
                f"{name}_sentinel_expected", int(began_s * 1000) - 10_000, int(time.time() * 1000)
            ):
                pairs = zip(one.timestamps_ms.tolist(), one.values.tolist(), strict=True)
                stored.update(((one.labels.key, at), value) for at, value in pairs)
        statuses = dict(proxy.statuses)
    watches = [series(SERIES, "even"), series(SERIES, "odd")]
    expected = {
        (labels.key, at): value_of(labels, at)
        for number, at in accepted
        for labels in watches[number]
    }
    missing = [key for key in expected if key not in stored]
    altered = [key for key, value in expected.items() if key in stored and stored[key] != value]
    print(
        f"kills {KILLS} + {prometheus_kills} of prometheus, samples accepted {len(expected)}, "
        f"missing {len(missing)}, altered {len(altered)}, answers {statuses}, resets "
        f"{proxy.before} before and {proxy.after} after the commit"
    )
    assert len(expected) > KILLS * SERIES
    assert (missing, altered, dropped) == ([], [], 0)
    assert enqueued == sent == len(stored)
    assert {status for status in statuses if 400 <= status < 500} == set()
    assert min(proxy.before, proxy.after) > 0
