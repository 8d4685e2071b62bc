"""``status``: what a running sidecar knows of each series."""

import argparse
import json
from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from sidecar.cli.common import EXIT_OK, asked
from sidecar.config import SentinelConfig

_WIDE: Final = 140


def status(config: SentinelConfig, options: argparse.Namespace) -> int:
    facts = asked(config, "/api/v1/status")["data"]
    if options.json:
        print(json.dumps(facts, indent=2))
    else:
        _print(facts)
    return EXIT_OK


def _print(facts: Mapping[str, Mapping[str, Any]]) -> None:
    """A table on a terminal that is wide enough, else a line a series, for grep."""
    console = Console()
    if console.is_terminal and console.width >= _WIDE:
        console.print(_table(facts))
        return
    for series, one in facts.items():
        reason = f" ({one['reason']})" if one["reason"] else ""
        print(f"{series}: {one['state']}{reason}; {figures(one)}")


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


def figures(one: Mapping[str, Any]) -> str:
    parts = [f"{one['model']}, {one['horizon']} ahead, {one['active_version'] or 'no version'}"]
    for key, name in (("drift_mae", "MAE"), ("mase", "MASE"), ("coverage", "coverage")):
        if one[key] is not None:
            parts.append(f"{name} {one[key]:.4g}")
    if one["active_version_mae"] is not None:
        parts.append(f"its own MAE at the fit {one['active_version_mae']:.4g}")
    if one["last_train"]:
        parts.append(f"fitted {one['last_train']}")
    return "; ".join(parts)
