"""The demo's load for ``deploy/compose.yml``: hours of history first, then a page to scrape.

    python deploy/compose/shop.py history FOLDER    # FOLDER/shop.om, for promtool to make blocks of
    python deploy/compose/shop.py serve FOLDER      # the same signals, live

The signals are functions of time and of the instant at which their history begins. That instant is
kept in FOLDER, so that a later start goes on with the same signals and makes no second history.
"""

import math
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.demo_stack.generator import Generator, series_name, signals

HISTORY_S = 6 * 3600.0
SCRAPE_S = 5.0
PORT = 9201
# As the scrapes add them: job and instance of prometheus.yml.
TARGET_LABELS = {"job": "shop", "instance": "shop-1"}


def write_history(folder: Path, now_s: float) -> int:
    """Samples written: those of the hours before ``now_s``, or none if there was a history."""
    epoch = folder / "epoch"
    known = epoch.exists()
    start_s = now_s - HISTORY_S
    count = 0 if known else math.floor(HISTORY_S / SCRAPE_S) + 1
    instants = [start_s + i * SCRAPE_S for i in range(count)]
    series = signals(start_s)
    with (folder / "shop.om").open("w", encoding="utf-8") as text:
        for one in series if instants else ():
            name = series_name(one.name, {**one.labels, **TARGET_LABELS})
            text.writelines(f"{name} {one.value_at(t, ())!r} {t:.3f}\n" for t in instants)
        text.write("# EOF\n")
    if not known:
        epoch.write_text(repr(start_s))
    return count * len(series)


def serve(folder: Path) -> None:
    """Until ended. On loopback: whoever scrapes shares the network with it."""
    Generator(PORT, float((folder / "epoch").read_text())).serve_forever()


def main(arguments: list[str]) -> int:
    match arguments:
        case ["history", folder]:
            print(f"{write_history(Path(folder), time.time())} samples of history")
        case ["serve", folder]:
            serve(Path(folder))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
