"""What is wrong with a section of the configuration, said as an operator needs it.

pydantic finds the problems; this module turns its findings into ``Problem`` with a path, the value
and what to write instead. ``Section`` is the base of every schema class: it gathers the problems of
single settings and of settings together, so that one answer holds them all.
"""

import difflib
import functools
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, fields, is_dataclass
from typing import Any, Final, TypeVar, cast

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import ArgsKwargs, ErrorDetails

from sidecar.errors import ConfigError, Problem

C = TypeVar("C")
_NAMES_SHOWN: Final = 5
_SCHEMA: Final = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


class Problems(ValueError):
    """Several problems of one section on their way up; paths are relative to the section."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in problems))


@typing.dataclass_transform(frozen_default=True, field_specifiers=(field, Field))
def section(cls: type[C]) -> type[C]:
    """Make a class a section of the schema: frozen, checked, ``ConfigError`` when it is wrong."""
    made = pydantic_dataclass(frozen=True, config=_SCHEMA)(cls)
    construct: Callable[..., None] = made.__init__

    @functools.wraps(construct)
    def __init__(self: C, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it is one
        try:
            construct(self, *args, **kwargs)
        except ValidationError as error:
            raise ConfigError(list(_problems_of(error, made))) from None

    type.__setattr__(made, "__init__", __init__)
    return cast(type[C], made)


@pydantic_dataclass(frozen=True, config=_SCHEMA)
class Section:
    """Base of the sections.

    ``rules`` checks settings together. It sees what was written, not what was accepted, so that a
    mistake in one setting does not hide another: a setting it cannot read is not its business.
    """

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> list[Problem]:
        """Problems between settings; ``given`` holds every setting, defaults included."""
        del given
        return []

    @classmethod
    def explain(cls, name: str) -> str:
        """What to say of a key that does not belong here but is no slip; empty where it is one."""
        del name
        return ""

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, given: Any, handler: Callable[[Any], Any]) -> Any:
        problems: list[Problem] = []
        checked = None
        try:
            checked = handler(given)
        except ValidationError as error:
            problems += _problems_of(error, cls)
        if isinstance(given, ArgsKwargs | Mapping):
            problems += cls.rules(_with_defaults(cls, given))
        if problems:
            raise Problems(problems)
        return checked


def _with_defaults(cls: type[Any], given: ArgsKwargs | Mapping[str, Any]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for one in fields(cls):
        if callable(one.default_factory):
            named[one.name] = one.default_factory()
        else:
            named[one.name] = one.default
    if isinstance(given, ArgsKwargs):
        named.update(zip(named, given.args, strict=False))
        return {**named, **(given.kwargs or {})}
    return {**named, **given}


def _problems_of(error: ValidationError, cls: type[Any]) -> Iterator[Problem]:
    for detail in error.errors():
        nested = detail.get("ctx", {}).get("error")
        path = path_of(_named(_loc_of(detail), cls))
        if isinstance(nested, Problems):
            for problem in nested.problems:
                yield Problem(join(path, problem.path), problem.message)
        else:
            yield Problem(path, _message(detail, cls))


def _loc_of(detail: ErrorDetails) -> tuple[int | str, ...]:
    """Where in the file: pydantic also says which branch of a choice it took, as ``<one>``."""
    return tuple(part for part in detail["loc"] if not str(part).startswith("<"))


def _named(loc: tuple[int | str, ...], cls: type[Any]) -> tuple[int | str, ...]:
    """The location with a positional argument replaced by the name of its setting."""
    names = [one.name for one in fields(cls)]
    if loc and isinstance(loc[0], int) and loc[0] < len(names):
        return (names[loc[0]], *loc[1:])
    return loc


def path_of(loc: Sequence[int | str]) -> str:
    """``("watches", 0, "horizon")`` as ``watches[0].horizon``."""
    path = ""
    for part in loc:
        path = f"{path}[{part}]" if isinstance(part, int) else join(path, part)
    return path


def join(path: str, rest: str) -> str:
    return f"{path}.{rest}" if path and rest and not rest.startswith("[") else path + rest


def _message(detail: ErrorDetails, cls: type[Any]) -> str:
    value, context = detail["input"], detail.get("ctx", {})
    match detail["type"]:
        case "value_error":
            return str(context["error"])
        case "unexpected_keyword_argument":
            return unknown_key(str(detail["loc"][-1]), cls)
        case "unexpected_positional_argument":
            return f"{value!r} is one argument too many: name the ones after the first"
        case "int_parsing" | "int_type" | "int_from_float":
            return f"{value!r} is not a whole number"
        case "bool_parsing" | "bool_type":
            return f"{value!r} is neither true nor false: write one of the two"
        case "greater_than_equal":
            return f"{value} is too small: write {context['ge']} or more"
        case "less_than_equal":
            return f"{value} is too large: write {context['le']} or less"
        case "literal_error":
            return f"{value!r} is not known: write {context['expected']}"
        case "string_type":
            return f"{value!r} is not text: put it in quotes"
        case "dataclass_type":
            return f"found {kind(value)} where settings by name belong: {_names(detail, cls)}"
        case "is_instance_of":
            return f"found {kind(value)} where a list belongs: start each entry with '- '"
        case _:
            return f"{detail['msg'].lower()}, found {kind(value)}"


def kind(value: object) -> str:
    """What a value is, without saying it: it may be a secret in the wrong place."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, str | bytes):
        return "text"
    return "a list" if isinstance(value, Sequence) else f"a {type(value).__name__}"


def _names(detail: ErrorDetails, cls: type[Any]) -> str:
    inner = section_at(_loc_of(detail), cls)
    names = [one.name for one in fields(inner)] if inner else []
    return ", ".join(names[:_NAMES_SHOWN] + ["..."] * (len(names) > _NAMES_SHOWN))


def section_at(loc: Sequence[int | str], cls: type[Any]) -> type[Any] | None:
    """The schema class of what lies at ``loc`` under ``cls``, None where that is no section."""
    found: type[Any] | None = cls
    for part in loc:
        if isinstance(part, int) or found is None:
            continue
        found = _section_in(typing.get_type_hints(found).get(part))
    return found


def _section_in(hint: Any) -> type[Any] | None:
    if isinstance(hint, type) and is_dataclass(hint):
        return hint
    inner = (_section_in(one) for one in typing.get_args(hint))
    return next((one for one in inner if one is not None), None)


def unknown_key(name: str, cls: type[Any]) -> str:
    """What to say of a key that the section does not have."""
    names = [one.name for one in fields(cls)]
    explained = cls.explain(name) if issubclass(cls, Section) else ""
    if explained:
        return f"{name!r} {explained}"
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    if close:
        return f"there is no setting {name!r} here, did you mean {close[0]!r}?"
    return f"there is no setting {name!r} here: known are {', '.join(names)}"
