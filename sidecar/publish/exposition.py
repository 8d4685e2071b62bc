"""The predictions as gauges in Prometheus' text format.

A watch renders its own lines, off the event loop, when its cycle has run; a scrape only joins them.
Several watches may share a metric, and the format wants each family in one piece under one header,
so lines are kept by family.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from sidecar import names
from sidecar.publish.outputs import with_ours
from sidecar.series import FloatArray, Forecast, LabelSet, quote

_UNITS: Final = MappingProxyType(
    {"none": "", "rate": ", per second", "delta": ", its change per instant"}
)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Page:
    """One watch's gauges: for each family its help and its lines, rendered.

    Attributes:
        families: family name -> (help, lines).
        series: how many gauges there are.
    """

    families: Mapping[str, tuple[str, str]]
    series: int


@dataclass(frozen=True, slots=True)
class GaugeRules:
    """What the gauges of a watch are called and how they are explained."""

    metric: str
    horizon: str
    bounds: bool
    transform: str = "none"


def prefixes(
    rules: GaugeRules, sources: Sequence[LabelSet], versions: Sequence[str], horizon_steps: int
) -> list[list[str]]:
    """For each source and step the text between the family's name and the value.

    Made anew only when the sources or their versions change.
    """
    return [
        [
            _braces(
                with_ours(
                    source,
                    {
                        names.METRIC_NAME: "",
                        names.HORIZON_LABEL: rules.horizon,
                        names.STEP_LABEL: str(step),
                        names.VERSION_LABEL: version,
                    },
                )
            )
            for step in range(1, horizon_steps + 1)
        ]
        for source, version in zip(sources, versions, strict=True)
    ]


def _braces(labels: LabelSet) -> str:
    return "{" + ",".join(f"{name}={quote(value)}" for name, value in labels.pairs) + "} "


def render(rules: GaugeRules, prepared: list[list[str]], forecast: Forecast) -> Page:
    """A watch's page; series without a finite forecast are left out."""
    fields: list[tuple[str, str, FloatArray]] = [("", "Forecast of", forecast.mean)]
    if rules.bounds:
        fields += [
            (names.LOWER, "Lower bound of the forecast of", forecast.lower),
            (names.UPPER, "Upper bound of the forecast of", forecast.upper),
        ]
    unit = _UNITS[rules.transform]
    families = {}
    count = 0
    for suffix, about, values in fields:
        family = rules.metric + names.PREDICTED + suffix
        rows = np.flatnonzero(np.isfinite(values).all(axis=1))
        lines = [
            family + prefix + repr(value)
            for row in rows
            for prefix, value in zip(prepared[row], values[row].tolist(), strict=True)
        ]
        count += len(lines)
        about = f"{about} {rules.metric} at each step of the horizon{unit}."
        families[family] = (about, "\n".join(lines) + "\n" if lines else "")
    return Page(families, count)


def join(pages: Iterable[Page]) -> str:
    """The pages of several watches as one exposition, each family once."""
    helps: dict[str, str] = {}
    lines: dict[str, list[str]] = {}
    for page in pages:
        for family, (about, text) in page.families.items():
            if text:
                helps.setdefault(family, about)
                lines.setdefault(family, []).append(text)
    return "".join(
        f"# HELP {family} {about}\n# TYPE {family} gauge\n" + "".join(lines[family])
        for family, about in sorted(helps.items())
    )
