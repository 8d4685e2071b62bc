"""A series drawn in the terminal: actual against expected with its band, past and ahead of now.

The numbers come from the sidecar's own query API, which answers for the past from Prometheus and
for the future from its forecasts.
"""

import time
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from sidecar.cli.client import Client, asked
from sidecar.duration import format_duration, parse_duration_ms
from sidecar.errors import SidecarError
from sidecar.names import (
    ACTUAL,
    EXPECTED,
    LOWER,
    METRIC_NAME,
    UPPER,
    output_label,
)
from sidecar.plot import Band, Curve, Picture
from sidecar.series import Matcher, MatchOp, Selector

# So many instants of the past are drawn, and of the future the horizon.
_PAST: Final = 90


def outlook(sidecar: Client, one: Mapping[str, Any], now_s: float | None = None) -> Picture:
    """What to draw of a series, from its facts.

    Raises:
        SidecarError: the numbers cannot be had, or there are none.
    """
    step_s = parse_duration_ms(one["granularity"]) / 1000
    horizon_s = parse_duration_ms(one["horizon"]) / 1000
    now_s = time.time() if now_s is None else now_s
    grid_s = now_s // step_s * step_s
    start_s, end_s = grid_s - _PAST * step_s, grid_s + horizon_s

    window = format_duration(round(step_s * 1000))

    def drawn(suffix: str) -> Curve:
        expr = f"last_over_time({exactly(one['labels'], suffix)}[{window}])"
        return _curve(sidecar, expr, start_s, end_s, step_s)

    actual = drawn(ACTUAL)
    if not actual.values.size:  # none is stored, or none yet
        expr = _as_modelled(exactly(one["labels"], ""), one["transform"], step_s)
        actual = _curve(sidecar, expr, start_s, grid_s, step_s)
    expected, lower, upper = (drawn(EXPECTED + bound) for bound in ("", LOWER, UPPER))
    if not actual.values.size and not expected.values.size:
        raise SidecarError("there is nothing to draw of the newest instants")
    return Picture(
        title="",
        actual=actual,
        expected=[expected],
        bands=_band(lower, upper),
        start_s=start_s,
        end_s=end_s,
        now_s=now_s,
    )


def _as_modelled(selector: str, transform: str, step_s: float) -> str:
    """What the model sees of a series, as nearly as PromQL says it."""
    step, two = (format_duration(round(steps * step_s * 1000)) for steps in (1, 2))
    match transform:
        case "rate":
            return f"rate({selector}[{two}])"
        case "delta":
            return f"{selector} - {selector} offset {step}"
        case _:
            return selector


def exactly(labels: Mapping[str, str], suffix: str) -> str:
    """A selector of the series itself, or of one of its outputs."""
    equal = []
    for name, value in sorted(labels.items()):
        if name == METRIC_NAME:
            continue
        shown = output_label(name) if suffix else name
        equal.append(Matcher(shown, MatchOp.EQUAL, value))
    return str(Selector.of(labels.get(METRIC_NAME, "") + suffix, *equal))


def _curve(sidecar: Client, expr: str, start_s: float, end_s: float, step_s: float) -> Curve:
    """One series over a range; empty where there is none."""
    query = urllib.parse.urlencode(
        {"query": expr, "start": f"{start_s:.3f}", "end": f"{end_s:.3f}", "step": f"{step_s:g}"}
    )
    answer = asked(sidecar, f"/api/v1/query_range?{query}")
    if answer.get("status") != "success":
        raise SidecarError(str(answer.get("error", "the query API gave no answer")))
    result = answer["data"]["result"]
    if not result:
        return Curve()
    times, values = zip(*result[0]["values"], strict=True)
    return Curve(np.array(times, dtype=np.float64), np.array(values, dtype=np.float64))


def _band(lower: Curve, upper: Curve) -> list[Band]:
    """Over the instants where both bounds are known, in pieces without a hole."""
    common, at_lower, at_upper = np.intersect1d(lower.times, upper.times, return_indices=True)
    if not common.size:
        return []
    return [Band(common, lower.values[at_lower], upper.values[at_upper])]
