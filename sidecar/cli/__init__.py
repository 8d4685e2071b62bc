"""The command line: ``sentinel run | check | once | status | ...``.

Exit status: 0 done; 1 something did not work (said on standard error); 2 the configuration or the
command line is wrong.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from sidecar.cli import backtest, client, explain, models, orders, running, status
from sidecar.cli.common import DEFAULT_FILE, EXIT_FAILED, EXIT_USAGE, configuration, file_of
from sidecar.config import SentinelConfig
from sidecar.errors import ConfigError, SidecarError
from sidecar.serve.metrics import program_version

Command = Callable[[SentinelConfig, argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``sentinel`` and ``python -m sidecar``."""
    options = command_line().parse_args(arguments)
    if not hasattr(options, "config"):  # a command that needs none
        return int(options.command(options))
    try:
        config = configuration(options)
    except ConfigError as error:
        return _told(error, str(file_of(options) or ""))
    try:
        return int(options.command(config, options))
    except ConfigError as error:
        return _told(error)
    except SidecarError as error:
        print(f"sentinel: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_FAILED


def _told(error: ConfigError, source: str = "") -> int:
    if error.source or source:
        print(f"sentinel: {error.source or source} cannot be used:", file=sys.stderr)
    for problem in error.problems:
        print(problem, file=sys.stderr)
    return EXIT_USAGE


def command_line() -> argparse.ArgumentParser:
    """Every command with its options; ``command`` is what to call, by ``main``."""
    parser = argparse.ArgumentParser(
        prog="sentinel", description="Forecasting sidecar for Prometheus."
    )
    parser.add_argument("--version", action="version", version=f"sentinel {program_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(
        name: str, function: Command, about: str, *, watches: bool = True
    ) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
        command.set_defaults(command=function, needs_watches=False, watch=[])
        _add_common(command, watches=watches)
        return command

    for name, function, about in _ON_WATCHES:
        add(name, function, about).set_defaults(needs_watches=True)
    tested = add(
        "backtest", backtest.backtest, "how models would have forecast a past range of the watches"
    )
    tested.set_defaults(needs_watches=True)
    backtest.add_options(tested)
    about = "what a running sidecar knows of each series, once or live (--watch)"
    shown = add("status", status.status, about, watches=False)
    status.add_options(shown)
    _add_json(shown)
    client.add_options(shown)
    add(
        "remote-read-config",
        running.show_remote_read_config,
        "the remote_read block that shows Prometheus the future",
    )
    about = "what models there are, and what each says of itself"
    shown = commands.add_parser("models", help=about, description=about)
    shown.set_defaults(command=models.models)
    models.add_options(shown)
    shown = add("explain", explain.explain, "why series are forecast as they are, or why not")
    _add_series(shown)
    client.add_options(shown)
    for verb, about in orders.QUESTIONS.items():
        command = add(verb, orders.question, about)
        command.set_defaults(verb=verb)
        _add_series(command)
        client.add_options(command)
        _add_json(command)
        if verb == "versions":
            command.add_argument(
                "--at",
                metavar="TIME",
                help="which one made the predictions of this instant (RFC 3339 or Unix seconds)",
            )
    for verb, about in orders.ORDERS.items():
        command = add(verb, orders.order, about)
        command.set_defaults(verb=verb)
        _add_series(command)
        client.add_options(command)
        if verb in ("rollback", "promote"):
            command.add_argument(
                "--to", type=orders.version, metavar="vN", help="version N: v3 or 3"
            )
        if verb == "rollback":
            command.add_argument(
                "--no-pin", action="store_true", help="let the series be fitted on its own again"
            )
    return parser


_ON_WATCHES: Final[Sequence[tuple[str, Command, str]]] = (
    ("run", running.run, "read, learn, forecast and push until stopped"),
    ("check", running.check, "validate the configuration against the real Prometheus"),
    ("once", running.once, "one cycle of every watch, then exit"),
)


def _add_series(command: argparse.ArgumentParser) -> None:
    command.add_argument("series", metavar="SERIES", help="a metric with labels: 'x{job=\"api\"}'")


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON")


def _add_common(command: argparse.ArgumentParser, *, watches: bool) -> None:
    command.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="FILE",
        help=f"YAML file; ./{DEFAULT_FILE} where it exists (environment: SENTINEL_CONFIG)",
    )
    command.add_argument(
        "--prometheus-url", metavar="URL", help="in place of prometheus_url in the file"
    )
    if watches:
        command.add_argument(
            "--watch",
            action="append",
            default=[],
            metavar="SELECTOR",
            help="watch this selector with the defaults, beside the file's; may be repeated",
        )
    command.add_argument(
        "--log-level",
        default="INFO",
        choices=["DEBUG", "INFO", "WARNING", "ERROR"],
        help="default: INFO",
    )
