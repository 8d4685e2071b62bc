"""Durations in Prometheus' grammar: ``1h30m``, ``15s``, ``500ms``, ``8d``.

The units and their order are those of Prometheus' ``model.ParseDuration``: y, w, d, h, m, s, ms,
each at most once, largest first; a year is 365 days.
"""

import re

_UNITS_MS = {
    "y": 365 * 86_400_000,
    "w": 7 * 86_400_000,
    "d": 86_400_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1_000,
    "ms": 1,
}
_PATTERN = re.compile("".join(rf"(?:(?P<{unit}>[0-9]+){unit})?" for unit in _UNITS_MS))
# Prometheus holds a duration in int64 nanoseconds; beyond that it refuses, and so do we.
_LARGEST_MS = (2**63 - 1) // 1_000_000


def parse_duration_ms(text: str) -> int:
    """Milliseconds of a duration in Prometheus' grammar.

    >>> parse_duration_ms("1h30m")
    5400000
    >>> parse_duration_ms("0")
    0
    >>> parse_duration_ms("1.5h")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: '1.5h' is not a duration: write whole numbers with units, ...

    Raises:
        ValueError: not in the grammar, or beyond 292 years.
    """
    if text == "0":
        return 0
    match = _PATTERN.fullmatch(text)
    if not text or match is None:
        raise ValueError(
            f"{text!r} is not a duration: write whole numbers with units, largest first, "
            "such as '1h30m', '15s' or '500ms'"
        )
    total = sum(int(n) * _UNITS_MS[unit] for unit, n in match.groupdict().items() if n)
    if total > _LARGEST_MS:
        raise ValueError(f"{text!r} is longer than the 292 years that Prometheus can hold")
    return total


def format_duration(duration_ms: int) -> str:
    """The shortest text that ``parse_duration_ms`` reads back, as Prometheus prints it.

    Years and weeks appear only where they are the whole duration, as in Prometheus' own output.

    >>> format_duration(5_400_000), format_duration(0), format_duration(691_200_000)
    ('1h30m', '0s', '8d')

    Raises:
        ValueError: negative.
    """
    if duration_ms < 0:
        raise ValueError(f"a duration is not negative, got {duration_ms} ms")
    if duration_ms == 0:
        return "0s"
    parts, rest = [], duration_ms
    for unit, unit_ms in _UNITS_MS.items():
        if unit in ("y", "w") and rest % unit_ms:
            continue
        count, rest = divmod(rest, unit_ms)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)
