from dataclasses import dataclass
from typing import Any

import pytest

from sidecar.models.settings import (
    FLAG,
    POSITIVE,
    SHARE,
    TIMEZONE,
    Rule,
    at_least,
    between,
    check,
    one_of,
    optional,
)


@dataclass
class Holder:
    value: Any
    other: Any = 1


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (at_least(2), [2, 10**9], [1, 2.0, True, "2", None]),
        (between(0, 1), [0, 0.5, 1], [-0.1, 1.1, float("nan"), "0", True]),
        (one_of("a", "b"), ["a", "b"], ["c", None, 1]),
        (optional(at_least(1)), [None, 1], [0, "none"]),
        (FLAG, [True, False], [1, 0, "true"]),
        (POSITIVE, [1e-9, 5], [0, -1, float("nan")]),
        (SHARE, [0.01, 0.95], [0, 1, 95, "0.95"]),
        (TIMEZONE, ["UTC", "Europe/Berlin"], ["Berlin", "", "../etc/passwd", 3]),
    ],
)
def test_a_rule_takes_what_it_says_and_nothing_else(
    rule: Rule, good: list[object], bad: list[object]
) -> None:
    for value in good:
        check(Holder(value), {"value": rule})
    for value in bad:
        with pytest.raises(ValueError, match=r"^value: .* is not "):
            check(Holder(value), {"value": rule})


def test_every_problem_is_named() -> None:
    with pytest.raises(ValueError, match=r"^value: .*\nother: .*") as caught:
        check(Holder(-1, "x"), {"value": POSITIVE, "other": FLAG})
    assert str(caught.value).splitlines()[1] == "other: 'x' is not true or false"
