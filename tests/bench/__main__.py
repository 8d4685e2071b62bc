"""Runs benches; see the package's docstring."""

import gc
import json
import pkgutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import tests.bench
from tests.bench import REGISTRY, Bench, Figure, Skipped

COLUMNS = "{:<28} {:>11} {:>11} {:>11}  {:<16} {:>8}  {}"


def main(argv: Sequence[str] | None = None) -> int:
    modules = load_modules()
    options = parse(argv, modules)
    chosen = choose(options.names, modules)
    if options.list:
        print("\n".join(f"{bench.module}: {bench.name}" for bench in chosen))
        return 0
    print(COLUMNS.format("name", "median", "min", "max", "unit", "ratio", "to"), flush=True)
    found = [figure for bench in chosen for figure in run(bench, options)]
    if options.json:
        rows = [figure.as_json() for figure in found]
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def load_modules() -> list[str]:
    """Import the modules of this package, which registers their rows; gives their names."""
    names = [module.name for module in pkgutil.iter_modules(tests.bench.__path__)]
    found = [name for name in names if not name.startswith("_")]
    for name in found:
        import_module(f"tests.bench.{name}")
    return found


def parse(argv: Sequence[str] | None, modules: Sequence[str]) -> Namespace:
    parser = ArgumentParser(prog="python -m tests.bench", description="Measure, and say what.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a row or a module; none: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of timed rows (default 7)")
    parser.add_argument("--list", action="store_true", help="only say what there is")
    for name in modules:
        module = sys.modules[f"tests.bench.{name}"]
        if hasattr(module, "add_arguments"):
            module.add_arguments(parser.add_argument_group(name))
    return parser.parse_args(argv)


def choose(names: Sequence[str], modules: Sequence[str]) -> list[Bench]:
    """The benches that these names mean, in the order they were registered."""
    unknown = [name for name in names if name not in REGISTRY and name not in modules]
    if unknown:
        known = ", ".join([*modules, *REGISTRY])
        raise SystemExit(f"no bench is called {', '.join(unknown)}; there are: {known}")
    return [
        bench
        for bench in REGISTRY.values()
        if not names or bench.name in names or bench.module in names
    ]


def run(bench: Bench, options: Namespace) -> list[Figure]:
    found = []
    try:
        for figure in bench.run(options):
            print(line(figure), flush=True)
            found.append(figure)
    except Skipped as reason:
        print(f"{bench.name:<28} skipped: {reason}", flush=True)
    gc.collect()
    return found


def line(figure: Figure) -> str:
    values = (figure.value, figure.smallest, figure.largest)
    return COLUMNS.format(
        figure.name,
        *("" if value is None else f"{value:.4g}" for value in values),
        figure.unit,
        "" if figure.ratio is None else f"{figure.ratio:.3g}x",
        figure.reference,
    ).rstrip()


if __name__ == "__main__":
    raise SystemExit(main())
