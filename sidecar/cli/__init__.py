"""The command line: ``sentinel run | check | once | status | ...``.

Exit status: 0 done; 1 something did not work (said on standard error); 2 the configuration or the
command line is wrong.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sidecar.cli.status_codes import DEFAULT_FILE, EXIT_FAILED, EXIT_USAGE
from sidecar.errors import ConfigError, SidecarError

if TYPE_CHECKING:
    from sidecar.config import SentinelConfig

Command = Callable[["SentinelConfig", argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``sentinel`` and ``python -m sidecar``."""
    try:
        status = _main(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()  # what is left must not fail when nobody can be told
        return status
    except KeyboardInterrupt:
        return EXIT_FAILED
    except BrokenPipeError:  # as from `| head`: whoever reads has enough, and nobody is to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _main(arguments: Sequence[str]) -> int:
    options = command_line(arguments).parse_args(arguments)
    if not hasattr(options, "config"):  # a command that needs none
        return int(options.command(options))
    common = import_module("sidecar.cli.common")
    try:
        config = common.configuration(options)
    except ConfigError as error:
        return _told(error, str(common.file_of(options) or ""))
    try:
        return int(options.command(config, options))
    except ConfigError as error:
        return _told(error)
    except SidecarError as error:
        print(f"sentinel: {error}", file=sys.stderr)
        return EXIT_FAILED


def _told(error: ConfigError, source: str = "") -> int:
    if error.source or source:
        print(f"sentinel: {error.source or source} cannot be used:", file=sys.stderr)
    for problem in error.problems:
        print(problem, file=sys.stderr)
    return EXIT_USAGE


def command_line(arguments: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Every command with its options; ``command`` is what to call, by ``main``.

    Args:
        arguments: where given, only commands that are named in it get their options, so that
            nothing is loaded that is not needed; else all do.
    """
    parser = argparse.ArgumentParser(
        prog="sentinel", description="Forecasting sidecar for Prometheus."
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (about, fill) in _COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about)
        if arguments is None or name in arguments:
            command.set_defaults(needs_watches=False, watch=[], verb=name)
            fill(command, name)
    return parser


class _Version(argparse.Action):
    """Looks the version up only where it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version, and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from sidecar.version import program_version

        print(f"sentinel {program_version()}")
        parser.exit()


# What each command takes; its module is loaded here and not before.


def _on_watches(command: argparse.ArgumentParser, name: str) -> None:
    from sidecar.cli import running

    command.set_defaults(command=getattr(running, name), needs_watches=True)
    _add_common(command, watches=True)


def _backtest(command: argparse.ArgumentParser, _: str) -> None:
    from sidecar.cli import backtest

    command.set_defaults(command=backtest.backtest, needs_watches=True)
    _add_common(command, watches=True)
    backtest.add_options(command)


def _status(command: argparse.ArgumentParser, _: str) -> None:
    from sidecar.cli import client, status

    command.set_defaults(command=status.status)
    _add_common(command, watches=False)
    status.add_options(command)
    _add_json(command)
    client.add_options(command)


def _explain(command: argparse.ArgumentParser, _: str) -> None:
    from sidecar.cli import client, explain

    command.set_defaults(command=explain.explain)
    _add_common(command, watches=True)
    _add_series(command)
    client.add_options(command)


def _question(command: argparse.ArgumentParser, name: str) -> None:
    from sidecar.cli import client, orders

    command.set_defaults(command=orders.question)
    _add_common(command, watches=True)
    _add_series(command)
    client.add_options(command)
    _add_json(command)
    if name == "versions":
        command.add_argument(
            "--at",
            metavar="TIME",
            help="which one made the predictions of this instant (RFC 3339 or Unix seconds)",
        )


def _order(command: argparse.ArgumentParser, name: str) -> None:
    from sidecar.cli import client, orders

    command.set_defaults(command=orders.order)
    _add_common(command, watches=True)
    _add_series(command)
    client.add_options(command)
    if name in ("rollback", "promote"):
        command.add_argument("--to", type=orders.version, metavar="vN", help="version N: v3 or 3")
    if name == "rollback":
        command.add_argument(
            "--no-pin", action="store_true", help="let the series be fitted on its own again"
        )


def _remote_read_config(command: argparse.ArgumentParser, _: str) -> None:
    from sidecar.cli import running

    command.set_defaults(command=running.show_remote_read_config)
    _add_common(command, watches=True)


def _models(command: argparse.ArgumentParser, _: str) -> None:
    from sidecar.cli import models

    command.set_defaults(command=models.models)
    models.add_options(command)


Fill = Callable[[argparse.ArgumentParser, str], None]
_COMMANDS: Final[Mapping[str, tuple[str, Fill]]] = {
    "run": ("read, learn, forecast and push until stopped", _on_watches),
    "check": ("validate the configuration against the real Prometheus", _on_watches),
    "once": ("one cycle of every watch, then exit", _on_watches),
    "backtest": ("how models would have forecast a past range of the watches", _backtest),
    "status": ("what a running sidecar knows of each series, once or live (--watch)", _status),
    "remote-read-config": (
        "the remote_read block that shows Prometheus the future",
        _remote_read_config,
    ),
    "models": ("what models there are, and what each says of itself", _models),
    "explain": ("why series are forecast as they are, or why not", _explain),
    "versions": ("what is kept of series, and which version serves", _question),
    "audit": ("who changed what of series, and why", _question),
    "retrain": ("fit series anew now, before all others", _order),
    "rollback": ("serve an earlier version again, and pin it", _order),
    "promote": ("serve a version that waits for the operator", _order),
    "pin": ("fit series only when an operator asks for it", _order),
    "unpin": ("let series be fitted on their own again", _order),
}


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
