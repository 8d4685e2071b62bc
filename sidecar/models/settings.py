"""Checks of a model's settings: every problem at once, one line each."""

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, Final, TypeAlias
from zoneinfo import ZoneInfo

# What a value must pass, and what to write instead.
Rule: TypeAlias = tuple[Callable[[Any], bool], str]


def check(settings: object, rules: Mapping[str, Rule]) -> None:
    """Hold the attributes of ``settings`` against a rule for each name.

    Raises:
        ValueError: with one line for each that fails.
    """
    values = {name: getattr(settings, name) for name in rules}
    problems = [
        f"{name}: {value!r} is not {rules[name][1]}"
        for name, value in values.items()
        if not rules[name][0](value)
    ]
    if problems:
        raise ValueError("\n".join(problems))


def at_least(lowest: int) -> Rule:
    """A whole number from ``lowest`` on."""
    return (lambda value: _whole(value) and value >= lowest), f"a whole number from {lowest} on"


def between(low: float, high: float) -> Rule:
    """A number from ``low`` to ``high``, both included."""
    return (lambda value: _number(value) and low <= value <= high), f"from {low:g} to {high:g}"


def one_of(*choices: str) -> Rule:
    """One of a few words."""
    return (lambda value: value in choices), "one of " + ", ".join(choices)


def optional(rule: Rule) -> Rule:
    """What the rule says, or nothing (None)."""
    return (lambda value: value is None or rule[0](value)), rule[1]


def _whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return not math.isnan(value)


def _timezone(value: object) -> bool:
    try:
        ZoneInfo(str(value))
    except (KeyError, ValueError, OSError):
        return False
    return True


FLAG: Final[Rule] = (lambda value: isinstance(value, bool)), "true or false"
POSITIVE: Final[Rule] = (lambda value: _number(value) and value > 0), "a number above 0"
SHARE: Final[Rule] = (
    (lambda value: _number(value) and 0 < value < 1),
    "a share between 0 and 1, such as .95 for 95 %",
)
TIMEZONE: Final[Rule] = _timezone, "a time zone such as 'Europe/Berlin'"
