"""A process that writes by the oracle until it is killed: ``python -m tests.delivery_child ...``.

It prints a line for each instant whose samples were accepted, after they were; whoever reads those
lines knows what must be stored in the end. At each start it goes on where its high-water marks end.
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path

from sidecar.remote.backoff import BackoffSettings
from sidecar.remote.http import HttpClient, HttpSettings
from sidecar.remote.writer import RemoteWriter, WriterSettings
from tests.writing import block, series


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("spool", type=Path)
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--step-ms", type=int, default=100)
    parser.add_argument("--drain", action="store_true", help="write nothing, deliver all, end")
    asked = parser.parse_args()
    client = HttpClient(HttpSettings(asked.url, timeout_s=5))
    settings = WriterSettings(backoff=BackoffSettings(base_s=0.05, cap_s=0.5))
    writer = RemoteWriter(client, asked.spool, settings)
    await writer.start()
    print("started", flush=True)
    if asked.drain:
        while writer.stats().pending:  # noqa: ASYNC110 - the parent sets the deadline
            await asyncio.sleep(0.02)
        await writer.stop()
        await client.close()
        stats = writer.stats()
        print(f"stats {stats.enqueued} {stats.sent} {sum(stats.dropped.values())}", flush=True)
        return
    # Two watches that share no series: their samples meet in the same requests.
    watches = [series(asked.series, "even"), series(asked.series, "odd")]
    marks = [writer.high_water_ms(watch[0]) or 0 for watch in watches]
    while True:
        at = int(time.time() * 1000) // asked.step_ms * asked.step_ms
        for number, watch in enumerate(watches):
            if at <= marks[number]:
                continue
            found = await writer.append([block(watch, at)])
            if found.accepted == len(watch):
                print(f"accepted {number} {at}", flush=True)
            elif found.accepted:
                print(f"in part {found}", flush=True)
                sys.exit(1)
            marks[number] = at
        await asyncio.sleep(0.005)


if __name__ == "__main__":
    asyncio.run(main())
