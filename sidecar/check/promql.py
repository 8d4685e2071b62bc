"""The literal PromQL to see a watch with, to paste into Grafana or a rule.

Predictions are stamped when they are issued and carry how far they look ahead as a label, so
``offset`` by that much lays them over what came true. The range selector keeps Prometheus'
five-minute lookback from drawing a tail; at a granularity of four minutes and more it is what
makes values visible at all between two instants.
"""

from dataclasses import dataclass, replace
from typing import Final

from sidecar import names
from sidecar.config import WatchConfig
from sidecar.duration import format_duration
from sidecar.series import Matcher, MatchOp, Selector

# Prometheus looks back five minutes; two stamps further apart leave holes.
WRAP_FROM_MS: Final = 4 * 60_000
_ANOMALY_INSTANTS: Final = 5


@dataclass(frozen=True, slots=True)
class Example:
    """One expression and what it shows."""

    shows: str
    expression: str


def examples(watch: WatchConfig, *, as_rate: bool, owner: bool) -> list[Example]:
    """What to look at a watch with.

    Args:
        as_rate: the model sees the rate of the series, which is published as ``_actual``.
        owner: the watch owns ``expected`` and what goes with it of at least one of its series.
    """
    step = watch.steps[-1]
    lead = format_duration(step * watch.granularity_ms)
    range_ = format_duration(2 * watch.granularity_ms)
    predicted = _named(watch, names.PREDICTED, *_step(watch, step))
    found = []
    if owner:
        found += _beside(watch, as_rate)
    found.append(
        Example(
            f"what was predicted {lead} before, and the next {lead}",
            f"last_over_time({predicted}[{range_}] offset {lead})",
        )
    )
    found.append(
        Example(f"what is predicted in {lead}, for alerts: add '> LIMIT'", _seen(watch, predicted))
    )
    if owner and watch.published.anomaly_score:
        score = _named(watch, names.ANOMALY_SCORE)
        span = format_duration(_ANOMALY_INSTANTS * watch.granularity_ms)
        found.append(
            Example(
                f"anomalies: outside the band {_ANOMALY_INSTANTS} times in a row",
                f"min_over_time({score}[{span}]) > 1",
            )
        )
    return found


def _beside(watch: WatchConfig, as_rate: bool) -> list[Example]:
    """Actual, expected and its band."""
    published = watch.published
    found = []
    if published.actual is True or (published.actual == "auto" and as_rate):
        found.append(Example("actual", _seen(watch, _named(watch, names.ACTUAL))))
    elif as_rate:
        range_ = format_duration(2 * watch.granularity_ms)
        found.append(Example("actual", f"rate({_named(watch, '')}[{range_}])"))
    else:
        found.append(Example("actual", _named(watch, "")))
    if published.expected:
        found += [
            Example(f"expected{text}", _seen(watch, _named(watch, names.EXPECTED + suffix)))
            for text, suffix in (
                ("", ""),
                (", lower bound", names.LOWER),
                (", upper bound", names.UPPER),
            )
        ]
    return found


def _step(watch: WatchConfig, step: int) -> tuple[Matcher, ...]:
    return (
        Matcher(names.HORIZON_LABEL, MatchOp.EQUAL, format_duration(watch.horizon_ms)),
        Matcher(names.STEP_LABEL, MatchOp.EQUAL, str(step)),
    )


def _named(watch: WatchConfig, suffix: str, *more: Matcher) -> str:
    return str(output_of(watch, suffix, *more))


def output_of(watch: WatchConfig, suffix: str, *more: Matcher) -> Selector:
    """The watch's selector with the name of one of its outputs; its own without a suffix."""
    conditions = [one for one in watch.selector.matchers if one.name != names.METRIC_NAME]
    if suffix:
        conditions = [replace(one, name=names.output_label(one.name)) for one in conditions]
    return Selector.of(watch.output_metric + suffix, *conditions, *more)


def _seen(watch: WatchConfig, selector: str) -> str:
    """An output as it can be seen at every instant."""
    if watch.granularity_ms < WRAP_FROM_MS:
        return selector
    return f"last_over_time({selector}[{format_duration(2 * watch.granularity_ms)}])"
