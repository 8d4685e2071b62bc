"""What Grafana does with a dashboard before it asks: its variables, as far as ours use them."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from tests.test_house import ROOT

FOLDER: Final = ROOT / "deploy/grafana"
FILES: Final = sorted((FOLDER / "dashboards").glob("*.json"))
ALL: Final = "$__all"

Json: TypeAlias = dict[str, Any]
Values: TypeAlias = Mapping[str, str | Sequence[str]]

_REFERENCE: Final = re.compile(r"\$(\w+)|\$\{(\w+)(?::(\w+))?\}")
_BUILT_IN: Final = ("__rate_interval", "__range", "__interval")
_LABEL_VALUES: Final = re.compile(r"label_values\((?:(.+),\s*)?([a-zA-Z_][a-zA-Z0-9_]*)\)\s*")
_METRICS: Final = re.compile(r"metrics\((.+)\)\s*")


def load(path: Path) -> Json:
    found: Json = json.loads(path.read_text(encoding="utf-8"))
    return found


def variables(dashboard: Json) -> list[Json]:
    found: list[Json] = dashboard["templating"]["list"]
    return found


def panels(dashboard: Json) -> list[Json]:
    """Those that show something: rows are headings."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def targets(dashboard: Json) -> Iterator[tuple[Json, Json]]:
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield panel, target


def references(text: str) -> set[str]:
    """The variables that a text speaks of; ``$1`` of a regular expression is none."""
    names = {found[1] or found[2] for found in _REFERENCE.finditer(text)}
    return {name for name in names if not name.isdigit()}


def substituted(text: str, values: Values) -> str:
    """The text with every variable in its place; a list becomes a regular expression.

    >>> substituted('x{a=~"$v"}[$w]', {"v": ["p", "q"], "w": "2m"})
    'x{a=~"(p|q)"}[2m]'
    """

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in values:
            return found[0]
        chosen = values[name]
        if isinstance(chosen, str):
            return chosen
        return f"({'|'.join(chosen)})" if len(chosen) != 1 else chosen[0]

    return _REFERENCE.sub(value, text)


def kept(texts: Sequence[str], regex: str) -> list[str]:
    """What a variable's regular expression, ``/.../``, makes of the answers; each value once."""
    if not regex:
        return list(dict.fromkeys(texts))
    pattern = re.compile(regex.strip("/"))
    return list(dict.fromkeys(found[1] for text in texts if (found := pattern.search(text))))


class Lookups:
    """The questions of the API behind a variable; each gives an array of ``data``."""

    def __init__(self, ask: Callable[[str, dict[str, str]], Any]) -> None:
        self._ask = ask

    def texts(self, query: str) -> list[str]:
        """What Grafana shows for a variable's query, before the regular expression."""
        if found := _LABEL_VALUES.fullmatch(query):
            match = {"match[]": found[1]} if found[1] else {}
            return [str(value) for value in self._ask(f"label/{found[2]}/values", match)]
        if found := _METRICS.fullmatch(query):
            names = self._ask("label/__name__/values", {})
            return [name for name in names if re.search(found[1], name)]
        return [_notation(labels) for labels in self._ask("series", {"match[]": query})]


def resolved(dashboard: Json, lookups: Lookups, chosen: Values) -> dict[str, str | list[str]]:
    """A value for every variable, in their order, as at the first look; ``chosen`` go before."""
    values: dict[str, str | list[str]] = {name: _copied(value) for name, value in chosen.items()}
    for variable in variables(dashboard):
        name = variable["name"]
        if name in values:
            continue
        if variable["type"] != "query":
            values[name] = variable["current"]["value"]
            continue
        texts = lookups.texts(substituted(variable["query"]["query"], values))
        found = _sorted(kept(texts, variable["regex"]), variable["sort"])
        assert found, f"variable {name} has no value: {variable['query']['query']}"
        if variable["current"].get("value") != ALL:
            values[name] = found[0]
        else:
            values[name] = variable.get("allValue") or found
    return values


def _copied(value: str | Sequence[str]) -> str | list[str]:
    return value if isinstance(value, str) else list(value)


def _sorted(texts: list[str], order: int) -> list[str]:
    return sorted(texts, key=float, reverse=True) if order == 4 else sorted(texts)


def _notation(labels: Mapping[str, str]) -> str:
    """A series as Grafana writes it: values are not escaped."""
    inner = ",".join(f'{n}="{v}"' for n, v in labels.items() if n != "__name__")
    return f"{labels.get('__name__', '')}{{{inner}}}"


def with_built_in(values: Values, *, span: str, interval: str) -> dict[str, str | Sequence[str]]:
    """The variables that Grafana has by itself."""
    own = dict(zip(_BUILT_IN, (interval, span, interval), strict=True))
    return {**values, **own}
