"""``models``: what models there are, and what each says of itself."""

import argparse
import sys
from typing import Final

from rich.console import Console
from rich.table import Table

from sidecar.cli.status_codes import EXIT_OK, EXIT_USAGE
from sidecar.models.auto import AutoModel
from sidecar.models.registry import (
    ALIASES,
    MODEL_NAMES,
    PROFILE,
    ModelContext,
    defaults,
    describe,
    is_fronted,
    summary,
)

_NARROWEST: Final = 80


def add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "name", nargs="?", metavar="NAME", help="a model: print all that it says of itself"
    )


def models(options: argparse.Namespace) -> int:
    """A table of all models; with a name, that model's documentation and settings."""
    name = options.name
    if name is None:
        _print_table()
        return EXIT_OK
    try:
        text = _documentation(name)
    except ValueError as error:
        print(f"sentinel: {error}", file=sys.stderr)
        return EXIT_USAGE
    print(text)
    return EXIT_OK


def _print_table() -> None:
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "what it is", "settings"):
        table.add_column(column, overflow="fold")
    for name in (*MODEL_NAMES, PROFILE):
        settings = [one for one in defaults(name) if one not in _filled()]
        table.add_row(_title(name), summary(name), ", ".join(settings))
    console.print(table, width=max(console.width, _NARROWEST), highlight=False, markup=False)
    print(
        f"\nA watch takes {AutoModel.name} unless it names another by model and model_params."
        f"\n{PROFILE} is no model of its own: it stands in front of those that take season."
        "\nsentinel models NAME: when to take it, how it works, its settings, measured figures."
    )


def _title(name: str) -> str:
    others = [alias for alias, meant in ALIASES.items() if meant == name]
    return f"{name} ({', '.join(others)})" if others else name


def _documentation(name: str) -> str:
    """The module's text, then every setting with its default.

    Raises:
        ValueError: there is no such model.
    """
    filled = _filled()
    lines = [describe(name).replace("``", ""), "", "Defaults (model_params):", ""]
    for setting, value in defaults(name).items():
        if setting in filled:
            lines.append(f"  {setting}: the watch's")
        else:
            lines.append(f"  {setting}: {_written(value)}")
    if name != PROFILE and is_fronted(name):
        lines += [
            "",
            f"In front of it stands a profile of days and weeks: sentinel models {PROFILE}.",
        ]
    return "\n".join(lines)


def _written(value: object) -> str:
    """As it is written in YAML."""
    if value is None:
        return "chosen"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _filled() -> frozenset[str]:
    """Settings that the watch fills in."""
    return frozenset(ModelContext.__dataclass_fields__)
