"""``explain``: why series are forecast as they are, or why not."""

import argparse
import sys
import urllib.parse
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape

from sidecar.cli.common import EXIT_FAILED, EXIT_OK, asked
from sidecar.cli.orders import version_line
from sidecar.cli.status import figures, pages
from sidecar.config import SentinelConfig, WatchConfig


def explain(config: SentinelConfig, options: argparse.Namespace) -> int:
    """Everything that is known of series: state, figures, versions and the newest changes."""
    watch = WatchConfig.from_selector(options.series)
    query = urllib.parse.urlencode({"metric": watch.metric, **watch.labels})
    facts = pages(config, [("match[]", str(watch.selector))], None)["data"]
    versions = asked(config, f"/api/v1/models/versions?{query}")["data"]
    audit = asked(config, f"/api/v1/models/audit?{query}&limit=10")["data"]
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
        console.print(f"  {escape(figures(one))}", highlight=False)
        if one["explanation"]:
            console.print(f"  {escape(one['explanation'])}", highlight=False)
        for record in (v for v in versions if v["series"] == series):
            console.print(f"  {escape(version_line(record))}", highlight=False)
        for entry in (a for a in audit if a["series"] == series):
            at = datetime.fromtimestamp(entry["at_ms"] / 1000, UTC).isoformat(timespec="seconds")
            console.print(
                f"  {at} {escape(entry['who'])}: {escape(entry['what'])}", highlight=False
            )
    if not shown:
        print(f"sentinel: no watched series matches {watch.selector}", file=sys.stderr)
    return EXIT_OK if shown else EXIT_FAILED
