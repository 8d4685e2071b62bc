"""The command line: ``sentinel run | check | once | status``.

Exit status: 0 done; 1 something did not work (said on standard error); 2 the configuration or the
command line is wrong.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as ProgressBar
from rich.progress import TaskID
from rich.table import Table

from sidecar.config import SentinelConfig, WatchConfig, load
from sidecar.errors import ConfigError, SidecarError
from sidecar.names import EXPECTED, LOWER, UPPER
from sidecar.running import Progress
from sidecar.sentinel import Sentinel
from sidecar.serve.metrics import program_version

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
_WIDE: Final = 140
_DEFAULT_FILE: Final = Path("sentinel.yml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``sentinel`` and ``python -m sidecar``."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(_config(options), options))
    except ConfigError as error:
        source = _file(options)
        if source is not None:
            print(f"sentinel: {source} cannot be used:", file=sys.stderr)
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return EXIT_USAGE
    except SidecarError as error:
        print(f"sentinel: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sentinel", description="Forecasting sidecar for Prometheus."
    )
    parser.add_argument("--version", action="version", version=f"sentinel {program_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, function, about in (
        ("run", _run, "read, learn, forecast and push until stopped"),
        ("check", _check, "validate the configuration against the real Prometheus"),
        ("once", _once, "one cycle of every watch, then exit"),
        ("status", _status, "what a running sidecar knows of each series"),
        (
            "remote-read-config",
            _remote_read_config,
            "the remote_read block that shows Prometheus the future",
        ),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(command=function)
        _add_common(command)
    for verb, about in _ORDERS.items():
        command = commands.add_parser(verb, help=about, description=about)
        command.set_defaults(command=_order, verb=verb)
        _add_common(command)
        command.add_argument(
            "series", metavar="SERIES", help="a metric with labels: 'x{job=\"api\"}'"
        )
        if verb in ("rollback", "promote"):
            command.add_argument("--to", type=int, metavar="N", help="version N, 3 for v3")
        if verb == "rollback":
            command.add_argument(
                "--no-pin", action="store_true", help="let the series be fitted on its own again"
            )
    return parser


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="FILE",
        help=f"YAML file; ./{_DEFAULT_FILE} where it exists (environment: SENTINEL_CONFIG)",
    )
    command.add_argument(
        "--prometheus-url", metavar="URL", help="in place of prometheus_url in the file"
    )
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
    command.add_argument("--json", action="store_true", help="print JSON: status, versions, audit")


def _config(options: argparse.Namespace) -> SentinelConfig:
    """The file, the environment over it, the command line over both."""
    path = _file(options)
    needed = options.command in (_run, _check, _once) and not options.watch
    config = load(path, _environment(options), need_watches=needed)
    watches = tuple(WatchConfig.from_selector(text) for text in options.watch)
    return replace(config, watches=(*config.watches, *watches))


def _file(options: argparse.Namespace) -> Path | None:
    """The configuration file: named, by the environment, or the one that lies here."""
    if options.config is not None:
        return Path(options.config)
    if "SENTINEL_CONFIG" in os.environ:
        return Path(os.environ["SENTINEL_CONFIG"])
    return _DEFAULT_FILE if _DEFAULT_FILE.exists() else None


def _environment(options: argparse.Namespace) -> Mapping[str, str]:
    if not options.prometheus_url:
        return os.environ
    return {**os.environ, "SENTINEL_PROMETHEUS_URL": options.prometheus_url}


def _run(config: SentinelConfig, options: argparse.Namespace) -> int:
    # What is loaded by now stays for good; looking through it in each collection would hold up
    # the event loop for tens of milliseconds.
    gc.collect()
    gc.freeze()
    with _StartProgress() as progress:
        load_again = partial(_config, options)
        Sentinel(config, options.log_level, on_progress=progress.show, load=load_again).start()
    return EXIT_OK


def _once(config: SentinelConfig, options: argparse.Namespace) -> int:
    with _StartProgress() as progress:
        complete = Sentinel(config, options.log_level, on_progress=progress.show).once()
    if not complete:
        print("sentinel: not every series got a forecast; the log says why", file=sys.stderr)
    return EXIT_OK if complete else EXIT_FAILED


class _StartProgress:
    """A bar on standard error while watches read their past and are fitted, on a terminal only."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar = ProgressBar(console=console, transient=True) if console.is_terminal else None
        self._task: TaskID | None = None

    def __enter__(self) -> "_StartProgress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, progress: Progress) -> None:
        if self._bar is None:
            return
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("reading and fitting watches", total=progress.watches)
        self._bar.update(self._task, completed=progress.begun)
        if progress.begun == progress.watches:
            self._bar.stop()
            self._bar = None


def _check(config: SentinelConfig, _: argparse.Namespace) -> int:
    from sidecar.check import run_check

    return asyncio.run(run_check(config, Console()))


def _remote_read_config(config: SentinelConfig, _: argparse.Namespace) -> int:
    """Print the block; it needs only the configuration, and names the metrics it will write."""
    from sidecar.serve.remote_read import remote_read_config

    metrics = [
        watch.output_metric + suffix
        for watch in config.watches
        for suffix in (EXPECTED, EXPECTED + LOWER, EXPECTED + UPPER)
    ]
    url = f"http://{_reachable(config.emitter_host)}:{config.emitter_port}"
    print(remote_read_config(url, metrics), end="")
    return EXIT_OK


_ORDERS: Final = {
    "retrain": "fit series anew now, before all others",
    "rollback": "serve an earlier version again, and pin it",
    "promote": "serve a version that waits for the operator",
    "pin": "fit series only when an operator asks for it",
    "unpin": "let series be fitted on their own again",
    "versions": "what is kept of series, and which version serves",
    "audit": "who changed what of series, and why",
    "explain": "why series are forecast as they are, or why not",
}


def _order(config: SentinelConfig, options: argparse.Namespace) -> int:
    """Give an order to the running sidecar, and say of each series what was done."""
    watch = WatchConfig.from_selector(options.series)
    if options.verb in ("versions", "audit"):
        query = urllib.parse.urlencode({"metric": watch.metric, **watch.labels})
        found = _asked(config, f"/api/v1/models/{options.verb}?{query}")["data"]
        if options.json:
            print(json.dumps(found, indent=2))
        for one in () if options.json else found:
            line = _version_line(one) if options.verb == "versions" else _change_line(one)
            print(f"{one['series']}: {line}")
        if not found:
            print(f"sentinel: nothing is kept of {watch.selector}", file=sys.stderr)
        return EXIT_OK if found else EXIT_FAILED
    if options.verb == "explain":
        return _explain(config, watch)
    order: dict[str, Any] = {"metric": watch.metric, "labels": dict(watch.labels)}
    if getattr(options, "to", None) is not None:
        order["to_version" if options.verb == "rollback" else "version"] = options.to
    if getattr(options, "no_pin", False):
        order["pin"] = False
    answer = _asked(config, f"/api/v1/models/{options.verb}", order)
    for one in answer.get("data", ()):
        change = f"v{one['from_version']}" if one["from_version"] else "no version"
        if one["to_version"]:
            change += f" -> v{one['to_version']}"
        print(f"{one['series']}: {one['error'] or change}")
    if "error" in answer:
        print(f"sentinel: {answer['error']}", file=sys.stderr)
    return EXIT_OK if answer.get("status") == "success" else EXIT_FAILED


def _explain(config: SentinelConfig, watch: WatchConfig) -> int:
    """Everything that is known of series: state, figures, versions and the newest changes."""
    query = urllib.parse.urlencode({"metric": watch.metric, **watch.labels})
    facts = _asked(config, "/api/v1/status")["data"]
    versions = _asked(config, f"/api/v1/models/versions?{query}")["data"]
    audit = _asked(config, f"/api/v1/models/audit?{query}&limit=10")["data"]
    console = Console(soft_wrap=True)
    shown = 0
    for series, one in facts.items():
        labels = one["labels"]
        if labels.get("__name__") != watch.metric or any(
            labels.get(name) != value for name, value in watch.labels.items()
        ):
            continue
        shown += 1
        console.print(f"[bold]{escape(series)}[/bold]: {one['state']}", highlight=False)
        if one["reason"]:
            console.print(f"  no fresh prediction: {one['reason']}", highlight=False)
        console.print(f"  {escape(_figures(one))}", highlight=False)
        if one["explanation"]:
            console.print(f"  {escape(one['explanation'])}", highlight=False)
        for record in (v for v in versions if v["series"] == series):
            console.print(f"  {escape(_version_line(record))}", highlight=False)
        for entry in (a for a in audit if a["series"] == series):
            at = datetime.fromtimestamp(entry["at_ms"] / 1000, UTC).isoformat(timespec="seconds")
            console.print(
                f"  {at} {escape(entry['who'])}: {escape(entry['what'])}", highlight=False
            )
    if not shown:
        print(f"sentinel: no watched series matches {watch.selector}", file=sys.stderr)
    return EXIT_OK if shown else EXIT_FAILED


def _figures(one: Mapping[str, Any]) -> str:
    parts = [f"{one['model']}, {one['horizon']} ahead, {one['active_version'] or 'no version'}"]
    for key, name in (("drift_mae", "MAE"), ("mase", "MASE"), ("coverage", "coverage")):
        if one[key] is not None:
            parts.append(f"{name} {one[key]:.4g}")
    if one["active_version_mae"] is not None:
        parts.append(f"its own MAE at the fit {one['active_version_mae']:.4g}")
    if one["last_train"]:
        parts.append(f"fitted {one['last_train']}")
    return "; ".join(parts)


def _change_line(entry: Mapping[str, Any]) -> str:
    at = datetime.fromtimestamp(entry["at_ms"] / 1000, UTC).isoformat(timespec="seconds")
    versions = [f"v{entry[key]}" for key in ("from_version", "to_version") if entry.get(key)]
    return f"{at} {entry['who']}: {entry['what']} {' -> '.join(versions)}".rstrip()


def _version_line(record: Mapping[str, Any]) -> str:
    mae = "" if record["mae"] is None else f", MAE {record['mae']:.4g}"
    return (
        f"v{record['version']} {record['status']}: {record['model']} {record['policy']} for "
        f"{record['cause']}, {record['gate']}{mae}, {record['n_samples']} samples"
    )


def _asked(config: SentinelConfig, path: str, order: Mapping[str, Any] | None = None) -> Any:
    """What the running sidecar answers, also where it refuses.

    Raises:
        SidecarError: none answers.
    """
    url = f"http://{_reachable(config.emitter_host)}:{config.emitter_port}{path}"
    body = None if order is None else json.dumps(order).encode()
    headers = {"X-Sentinel-Admin": "cli", "Content-Type": "application/json"}
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310 - as above
            return json.load(reply)
    except urllib.error.HTTPError as error:
        return json.load(error)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise SidecarError(
            f"no sidecar answers at {url} ({error}): is it running, and with this configuration?"
        ) from error


def _status(config: SentinelConfig, options: argparse.Namespace) -> int:
    facts = _asked(config, "/api/v1/status")["data"]
    if options.json:
        print(json.dumps(facts, indent=2))
    else:
        _print(facts)
    return EXIT_OK


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound


def _print(facts: Mapping[str, Mapping[str, Any]]) -> None:
    """A table on a terminal that is wide enough, else a line a series, for grep."""
    console = Console()
    if console.is_terminal and console.width >= _WIDE:
        console.print(_table(facts))
        return
    for series, one in facts.items():
        reason = f" ({one['reason']})" if one["reason"] else ""
        print(f"{series}: {one['state']}{reason}; {_figures(one)}")


def _table(facts: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="Watched series")
    for heading in ("series", "state", "reason", "version", "MAE", "MASE", "coverage", "last fit"):
        table.add_column(heading, overflow="fold")
    for series, one in facts.items():
        table.add_row(
            series,
            str(one["state"]),
            str(one["reason"] or ""),
            str(one["active_version"] or ""),
            _number(one["drift_mae"]),
            _number(one["mase"]),
            _number(one["coverage"]),
            str(one["last_train"] or ""),
        )
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
