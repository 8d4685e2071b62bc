"""``backtest``: how models would have forecast a past range of your own series."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from sidecar.backtest import Span, run_backtest
from sidecar.backtest.report import page
from sidecar.backtest.table import LEGEND, as_json, show
from sidecar.cli.status_codes import EXIT_FAILED, EXIT_OK
from sidecar.config import SentinelConfig
from sidecar.duration import parse_duration_ms
from sidecar.errors import ConfigError, Problem, SidecarError
from sidecar.models.registry import MODEL_NAMES, model_type

_DEFAULT_RANGE: Final = "1d"
_WATCHED_COLUMNS: Final = 40


def add_options(command: argparse.ArgumentParser) -> None:
    """What only a backtest takes."""
    command.add_argument(
        "--from",
        dest="back_ms",
        type=_duration,
        metavar="DURATION",
        help=f"test the newest so much before the end (default: {_DEFAULT_RANGE})",
    )
    command.add_argument(
        "--start",
        type=_instant,
        metavar="TIME",
        help="RFC 3339 or Unix seconds, in place of --from",
    )
    command.add_argument(
        "--end", type=_instant, metavar="TIME", help="RFC 3339 or Unix seconds; default: now"
    )
    command.add_argument(
        "--models",
        type=_models,
        default=(),
        metavar="A,B",
        help=f"models to test, or all (default: each watch's own): {', '.join(MODEL_NAMES)}",
    )
    command.add_argument(
        "--refit",
        type=_refit,
        default=_refit("1d"),
        metavar="DURATION",
        help="fit anew so often, as cron would, or never (default: 1d)",
    )
    command.add_argument("--html", type=Path, metavar="FILE", help="write a report with plots")
    command.add_argument("--json", type=Path, metavar="FILE", help="write every figure as JSON")


def backtest(config: SentinelConfig, options: argparse.Namespace) -> int:
    """Test, print, and write what was asked for."""
    span = _span(options, int(time.time() * 1000))
    for path in (options.html, options.json):
        if path is not None and not path.absolute().parent.is_dir():
            raise ConfigError([Problem(str(path), "its folder does not exist")])
    began = time.monotonic()
    with _Bar() as bar:
        results, failures = run_backtest(config, span, options.models, bar.show)
    console = Console()
    for result in results:
        show(result, console)
    if results:
        console.print()
        console.print(Text(LEGEND, style="dim"), soft_wrap=True)
        took = f"{time.monotonic() - began:.1f} s; nothing was written to Prometheus or the store"
        console.print(Text(took, style="dim"))
    for error in failures:
        print(f"sentinel: {error}", file=sys.stderr)
    if results and options.html is not None:
        _write(options.html, page(results))
    if results and options.json is not None:
        _write(options.json, json.dumps({"watches": [as_json(one) for one in results]}, indent=2))
    return EXIT_FAILED if failures else EXIT_OK


def _span(options: argparse.Namespace, now_ms: int) -> Span:
    if options.back_ms is not None and options.start is not None:
        raise ConfigError([Problem("--start", "is another way to say --from: give one of the two")])
    end_ms = now_ms if options.end is None else options.end
    back_ms = options.back_ms or _duration(_DEFAULT_RANGE)
    start_ms = end_ms - back_ms if options.start is None else options.start
    problems = []
    if end_ms > now_ms:
        problems.append(Problem("--end", "lies in the future, where there is nothing to test on"))
    if start_ms >= end_ms:
        problems.append(Problem("--start", "is not before the end of the range"))
    if problems:
        raise ConfigError(problems)
    return Span(start_ms, end_ms, options.refit)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SidecarError(f"{path} cannot be written: {error.strerror}") from None
    print(f"wrote {path}", file=sys.stderr)


class _Bar:
    """A bar on standard error, on a terminal only; one line for each step."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "_Bar":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, what: str, done: float) -> None:
        if self._bar is None:
            return
        if what not in self._tasks:
            short = what if len(what) <= _WATCHED_COLUMNS else what[: _WATCHED_COLUMNS - 1] + "…"
            self._tasks[what] = self._bar.add_task(short, total=1.0)
        self._bar.update(self._tasks[what], completed=done)


# What the options' values are


def _checked(read: Callable[[str], int], text: str) -> int:
    try:
        return read(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _duration(text: str) -> int:
    found = _checked(parse_duration_ms, text)
    if found == 0:
        raise argparse.ArgumentTypeError("0 is no range")
    return found


def _refit(text: str) -> int:
    return 0 if text == "never" else _checked(parse_duration_ms, text)


def _instant(text: str) -> int:
    """Milliseconds of RFC 3339 (UTC where it names no zone) or of Unix seconds."""
    try:
        return round(_moment(text).timestamp() * 1000)
    except (ValueError, OverflowError, OSError):  # the last two: no year from 1 to 9999
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: write 2026-01-31T12:00:00Z or Unix seconds"
        ) from None


def _moment(text: str) -> datetime:
    try:
        seconds = float(text)
    except ValueError:
        at = datetime.fromisoformat(text)
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    return datetime.fromtimestamp(seconds, UTC)


def _models(text: str) -> tuple[str, ...]:
    if text == "all":
        return MODEL_NAMES
    try:
        return tuple(model_type(name.strip()).name for name in text.split(",") if name.strip())
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
