"""What happens in the demo, top to bottom."""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from deploy.demo_stack import view
from deploy.demo_stack.api import instant, is_up, text_of
from deploy.demo_stack.history import HistoryError
from deploy.demo_stack.processes import ChildDied
from deploy.demo_stack.stack import HISTORY_S, Stack
from sidecar.names import EXPECTED, PREDICTED

# It is usually there within half a minute; on a busy machine it may be a little later.
_FORECAST_WITHIN_S = 120.0
# So many instants expected and seen make a picture.
_INSTANTS = 4


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy/demo", description="Sentinel on this machine.")
    parser.add_argument("--once", action="store_true", help="draw one picture, stop, exit 0")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    console = Console(highlight=False)
    try:
        with Stack() as stack:
            _start(stack, console)
            _show(stack, console, once=options.once)
    except KeyboardInterrupt:
        console.print("\nstopped everything that the demo had started")
        return 0
    except (ChildDied, HistoryError) as error:
        console.print(f"\nthe demo did not work: {error}", markup=False, soft_wrap=True)
        return 1
    console.print("stopped everything that the demo had started")
    return 0


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Being told to end is the same as Ctrl-C, whoever says it."""
    del number, frame
    raise KeyboardInterrupt


def _start(stack: Stack, console: Console) -> None:
    checklist = view.Checklist(console)
    with checklist.step("load generator") as note:
        with_node = stack.start_exporters()
        stack.wait_for(f"{stack.generator_url}/metrics", "generator", 20)
        note(stack.generator_url + (", node-exporter too" if with_node else ""))
    with checklist.step(f"{HISTORY_S / 3600:.0f} hours of history") as note:
        note(f"{stack.make_history():,} samples")
    with checklist.step("Prometheus") as note:
        stack.start_prometheus()
        version = subprocess.run(
            ["prometheus", "--version"], capture_output=True, text=True, check=True
        )
        words = (version.stdout + version.stderr).split()
        note(f"{words[2]} on {stack.prometheus_url}")
    with checklist.step("first scrapes"):
        stack.let_it_scrape()
    began = time.monotonic()
    with checklist.step("sidecar") as note:
        stack.start_sidecar()
        ready = f"{stack.sidecar_url}/-/ready"
        _until(lambda: is_up(ready), "the sidecar to be ready", stack, note)
    with checklist.step("first forecast stored in Prometheus") as note:
        stored = f'{{__name__=~"demo_.+{PREDICTED}"}}'
        _until(lambda: instant(stack.prometheus_url, stored), "a first forecast", stack, note)
        note(f"{time.monotonic() - began:.0f} s after the sidecar's start")
    with checklist.step("a minute in which to come true") as note:
        lived = f"count_over_time(demo_active_users{EXPECTED}[10m]) >= {_INSTANTS}"
        _until(lambda: instant(stack.prometheus_url, lived), "forecasts to compare", stack, note)


def _until(
    done: Callable[[], object], what: str, stack: Stack, note: Callable[[str], None]
) -> None:
    deadline = time.monotonic() + _FORECAST_WITHIN_S
    while not done():
        stack.check()
        if time.monotonic() > deadline:
            raise ChildDied(
                f"waited {_FORECAST_WITHIN_S:.0f} s for {what}; the logs are in {stack.folder}"
            )
        note(view.progress(text_of(f"{stack.sidecar_url}/metrics")))
        time.sleep(0.3)


def _show(stack: Stack, console: Console, *, once: bool) -> None:
    console.print()
    if not once:  # nobody can follow what stops the next moment
        server, generator = stack.prometheus_url, stack.generator_url
        for what, where in view.addresses(server, stack.sidecar_url, generator):
            console.print(Text.assemble((f"{what}:", "bold"), f" {where}"), soft_wrap=True)
        console.print()

    def drawn() -> Group:
        server = stack.prometheus_url
        return Group(view.pictures(server, console), Text(), view.numbers(server))

    if once or not console.is_terminal:
        console.print(drawn())
    if once:
        return
    console.print(Text("Ctrl-C stops everything that the demo started", style="bold"))
    if not console.is_terminal:
        while True:
            stack.check()
            time.sleep(1)
    with Live(drawn(), console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            for _ in range(10):
                stack.check()
                time.sleep(0.5)
            live.update(drawn(), refresh=True)


if __name__ == "__main__":
    sys.exit(main())
