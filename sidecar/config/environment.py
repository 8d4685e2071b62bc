"""Settings from environment variables: ``SENTINEL_`` and the setting's name, ``__`` one level down.

``SENTINEL_WATCHES__0__HORIZON=10m`` sets ``watches[0].horizon``. An index one past the end adds an
entry. A list or a mapping can be given whole, in YAML. An empty variable counts as not set.
"""

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from sidecar.config import text
from sidecar.config.messages import path_of, section_at
from sidecar.config.schema import SentinelConfig
from sidecar.errors import ConfigError, Problem

PREFIX: Final = "SENTINEL_"
_MAPPINGS: Final = frozenset(
    ("labels", "external_labels", "headers", "model_params", "endpoint_params")
)
# A section, or a list of sections: a variable may speak of it either way.
_ONE_OR_SEVERAL: Final = ("remote_write",)
_LISTS: Final = frozenset(("watches", "matchers", "steps", "scopes"))


def apply(
    given: dict[str, Any], environ: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str], list[Problem]]:
    """The file's values with those of the environment set over them.

    Returns:
        The values, the variable that set each path, and problems.
    """
    problems: list[Problem] = []
    sources: dict[str, str] = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or not environ[variable]:
            continue
        loc = _location(variable)
        if not _concerns_us(loc):
            continue
        try:
            given = _with(given, loc, _value(loc, environ[variable]), ())
            sources[path_of(loc)] = variable
        except ConfigError as error:
            problems += [Problem(variable, problem.message) for problem in error.problems]
    return given, sources, problems


def _location(variable: str) -> tuple[int | str, ...]:
    parts = variable.removeprefix(PREFIX).lower().split("__")
    return tuple(int(part) if part.isdigit() else part for part in parts)


def _concerns_us(loc: tuple[int | str, ...]) -> bool:
    """Whether a variable is a setting, or close enough to one to be a slip.

    Other programs' variables begin like ours too: Kubernetes sets ``SENTINEL_SERVICE_HOST`` in
    every pod beside a Service of that name.
    """
    names = [one.name for one in fields(SentinelConfig)]
    first = str(loc[0])
    return first in names or bool(difflib.get_close_matches(first, names, n=1, cutoff=0.85))


def _value(loc: tuple[int | str, ...], value: str) -> Any:
    """The text itself; for a list, a mapping or a section the YAML in it."""
    last = loc[-1]
    inside = len(loc) > 1 and loc[-2] in _MAPPINGS
    is_section = section_at(loc, SentinelConfig) is not None and last != "watches"
    if inside or not (last in _MAPPINGS or last in _LISTS or is_section):
        return text.as_yaml(value) if text.TYPED in loc else value
    parsed, problems = text.parse(f"value: {value}", {}, typed=text.TYPED in loc)
    if problems:
        raise ConfigError(problems)
    return parsed.get("value")


def _with(given: Any, loc: tuple[int | str, ...], value: Any, above: tuple[int | str, ...]) -> Any:
    """``given`` with ``value`` set at ``loc``; nothing is changed in place."""
    if not loc:
        return value
    first, rest = loc[0], loc[1:]
    here = (*above, first)
    if above == _ONE_OR_SEVERAL:
        given, loc = _one_or_several(given, loc)
        first, rest = loc[0], loc[1:]
        here = (*above, first)
    if isinstance(first, int):
        entries = list(given) if isinstance(given, list | tuple) else []
        if first > len(entries):
            raise ConfigError(
                [
                    Problem(
                        "",
                        f"sets {path_of(here)}, but there are only "
                        f"{len(entries)} entries: number them without a gap",
                    )
                ]
            )
        entries[first : first + 1] = [
            _with(entries[first] if first < len(entries) else None, rest, value, here)
        ]
        return entries
    named = dict(given) if isinstance(given, Mapping) else {}
    return {**named, first: _with(named.get(first), rest, value, here)}


def _one_or_several(given: Any, loc: tuple[int | str, ...]) -> tuple[Any, tuple[int | str, ...]]:
    """A single section named by number becomes a list of one; of a list the number must be said."""
    listed = isinstance(given, list | tuple)
    if isinstance(loc[0], int) and not listed:
        return [] if given is None else [given], loc
    if isinstance(loc[0], str) and listed:
        if len(given) > 1:
            [name] = _ONE_OR_SEVERAL
            entry = f"{PREFIX}{name}__0__{loc[0]}".upper()
            message = f"{name} has {len(given)} entries: say which by its number, such as {entry}"
            raise ConfigError([Problem("", message)])
        return given, (0, *loc)
    return given, loc
