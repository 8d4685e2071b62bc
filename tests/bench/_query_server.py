"""The query API and the remote-read server in a process of their own, for the bench of queries.

    python -m tests.bench._query_server UPSTREAM_URL SERIES

Prints its URL, and ends when its standard input does.
"""

import asyncio
import sys

import numpy as np

from sidecar.publish.paths import ForecastPaths, OutputPaths
from sidecar.series import LabelSet
from tests.integration.query_world import NOW_MS, expected_at, future_ms, sidecar

METRIC = "bench_sentinel_expected"


def labels_of(number: int) -> LabelSet:
    return LabelSet.of(
        {
            "__name__": METRIC,
            "env": "production",
            "instance": f"10.0.{number // 250}.{number % 250}:9100",
            "job": "api",
            "zone": "eu-west-1a",
        }
    )


def paths_of(series: int) -> ForecastPaths:
    instants = future_ms()
    rows = np.stack([expected_at(instants, "a", "") + n + 1 / 3 for n in range(series)])
    paths = ForecastPaths()
    paths.replace("w", [OutputPaths(tuple(map(labels_of, range(series))), instants, rows)])
    paths.acknowledge("w", NOW_MS)
    return paths


async def main(upstream_url: str, series: int) -> None:
    async with sidecar(upstream_url, paths_of(series)) as url:
        print(url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
