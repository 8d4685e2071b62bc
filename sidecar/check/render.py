"""A check report on a terminal; plain text, unwrapped, where it goes to a file or a pipe."""

from typing import Final

from rich.console import Console
from rich.text import Text

from sidecar.check.facts import Finding, ServerView
from sidecar.check.findings import CheckReport, WatchReport, external_labels
from sidecar.config import SentinelConfig
from sidecar.series import LabelSet

_PRODUCTS: Final = {"prometheus": "Prometheus", "victoriametrics": "VictoriaMetrics"}
_STYLES: Final = {"error": "bold red", "warning": "yellow", "note": "cyan", "ok": "green"}


def show(config: SentinelConfig, report: CheckReport, console: Console) -> None:
    """Print everything; expressions stand on lines of their own, to be copied whole."""
    for line in _server(config, report.server):
        _print(console, line)
    for finding in report.findings:
        _print(console, _finding(finding, with_place=True))
    for watch in report.watches:
        _print(console, Text())
        _show_watch(watch, console)
    if len(report.watches) < len(config.watches):
        _print(console, Text("the watches were not checked: their series cannot be read"))
    _print(console, Text())
    _print(console, _summary(report))


def _print(console: Console, text: Text) -> None:
    console.print(text, soft_wrap=True)


def _server(config: SentinelConfig, server: ServerView) -> list[Text]:
    facts = server.facts
    if facts is None:
        return []
    name = _PRODUCTS.get(facts.product, "a server")
    lines = [
        Text(f"{name} {facts.version}".rstrip() + f" at {config.prometheus_url}"),
        _end("remote read", str(config.read_http()), facts.remote_read),
        _end("remote write", str(config.write_http()), facts.receiver),
        *(
            _end("", str(end.http), told.takes)
            for end, told in zip(config.write_ends()[1:], server.others, strict=False)
        ),
    ]
    external = external_labels(config, facts)
    if external:
        lines.append(Text(f"  external labels {LabelSet.of(external)}, taken off what is read"))
    if facts.clock_offset_s is not None:
        lines.append(Text(f"  clock           {abs(facts.clock_offset_s):.0f} s apart"))
    return lines


def _end(name: str, url: str, works: bool | None) -> Text:
    word = {True: "ok", False: "no", None: "unknown"}[works]
    style = {True: "ok", False: "error", None: "warning"}[works]
    return Text(f"  {name:<15} {url}  ").append(word, style=_STYLES[style])


def _show_watch(watch: WatchReport, console: Console) -> None:
    _print(console, Text(f"{watch.path}  {watch.selector}", style="bold"))
    what = "as their rate per second" if watch.as_rate else "as they are"
    _print(
        console,
        Text(
            f"  {_series(watch.matched)} now, {watch.forecast:,} forecast {what}, "
            f"{watch.written:,} output series"
        ),
    )
    for finding in watch.findings:
        _print(console, Text("  ").append_text(_finding(finding, with_place=False)))
    for example in watch.examples:
        _print(console, Text(f"  # {example.shows}", style="dim"))
        _print(console, Text(f"  {example.expression}"))


def _series(count: int) -> str:
    return "1 series matches" if count == 1 else f"{count:,} series match"


def _finding(finding: Finding, *, with_place: bool) -> Text:
    text = Text(finding.level, style=_STYLES[finding.level])
    place = f"{finding.where}: " if with_place else ""
    return text.append(f": {place}{finding.message}", style="default")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _summary(report: CheckReport) -> Text:
    every = [*report.findings, *(one for watch in report.watches for one in watch.findings)]
    errors = sum(one.level == "error" for one in every)
    warnings = sum(one.level == "warning" for one in every)
    if errors:
        return Text(_counted(errors, "problem"), style=_STYLES["error"])
    if warnings:
        return Text(f"works, with {_counted(warnings, 'warning')}", style=_STYLES["warning"])
    return Text("works", style=_STYLES["ok"])
