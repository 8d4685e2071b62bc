"""Hours of history in a Prometheus that has not started yet: once it scrapes it is too late.

A receiver refuses samples older than an hour before its newest one, so the past goes into TSDB
blocks that ``promtool`` makes. They may reach up to the present: a block ends with its last
sample, and Prometheus takes whatever is newer.
"""

import math
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.demo_stack.generator import Signal, series_name


class HistoryError(RuntimeError):
    """promtool made no blocks; its own words are in the message."""


def write_history(
    data_dir: Path,
    series: Sequence[Signal],
    target_labels: Mapping[str, str],
    *,
    start_s: float,
    end_s: float,
    every_s: float,
) -> int:
    """Blocks of what scrapes from ``start_s`` to ``end_s`` would have stored.

    Args:
        target_labels: ``job`` and ``instance``, as the later scrapes will add them.

    Returns:
        How many samples were written.
    """
    count = math.floor((end_s - start_s) / every_s) + 1
    instants = [start_s + i * every_s for i in range(count)]
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".om", encoding="utf-8") as text:
        for one in series:
            name = series_name(one.name, {**one.labels, **target_labels})
            text.writelines(f"{name} {one.value_at(t, ())!r} {t:.3f}\n" for t in instants)
        text.write("# EOF\n")
        text.flush()
        command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", text.name]
        done = subprocess.run(
            [*command, str(data_dir)], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise HistoryError(done.stderr.strip() or done.stdout.strip())
    return count * len(series)
