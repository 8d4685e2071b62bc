"""The few questions that the demo asks Prometheus and the sidecar."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from sidecar.plot import Curve

Labels: TypeAlias = dict[str, str]


def is_up(url: str) -> bool:
    """Whether it answers 200 within two seconds."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - loopback only
            return bool(answer.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False


def text_of(url: str) -> str:
    """A page as text; empty while nobody answers, or answers an error."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - loopback only
            return str(answer.read().decode())
    except (OSError, urllib.error.HTTPError):
        return ""


def instant(server: str, expr: str) -> list[tuple[Labels, float]]:
    """An instant query for a vector, now."""
    data = _ask(server, "query", {"query": expr})
    return [(one["metric"], float(one["value"][1])) for one in data]


def curves(
    server: str, expr: str, start_s: float, end_s: float, step_s: float
) -> list[tuple[Labels, Curve]]:
    """A range query."""
    times = {"start": f"{start_s:.3f}", "end": f"{end_s:.3f}", "step": f"{step_s:g}"}
    data = _ask(server, "query_range", {"query": expr, **times})
    return [(one["metric"], _curve(one["values"])) for one in data]


def _curve(values: Sequence[Sequence[Any]]) -> Curve:
    table = np.array([(float(t), float(v)) for t, v in values])
    return Curve(table[:, 0], table[:, 1])


def _ask(server: str, path: str, params: Mapping[str, str]) -> Any:
    url = f"{server}/api/v1/{path}?{urllib.parse.urlencode(params)}"
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - loopback only
        return json.load(answer)["data"]["result"]
