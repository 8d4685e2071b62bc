"""Which samples a watch owes at an instant: the table "What is published", as a function.

A plan holds the label sets of every output series and is made anew only when the sources, their
owners or their versions change; in each cycle only numbers move.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sidecar import names
from sidecar.config import SentinelConfig, WatchConfig
from sidecar.remote.writer import WriteBlock
from sidecar.series import FloatArray, Forecast, LabelSet


@dataclass(frozen=True, slots=True)
class OutputRules:
    """What one watch publishes, the same for each of its series.

    Attributes:
        metric: the front of every output name (the source's own name, or the expression's).
        horizon: the value of ``sentinel_horizon``, such as ``5m``.
        steps: the steps (1 = next instant) whose predictions are pushed.
        bounds: the predictions' bounds are pushed too.
        expected, actual, anomaly_score, model_info: whether these outputs are pushed; ``actual``
            "auto" is where the model does not see the series itself.
        version_label: predictions carry ``sentinel_version`` (a new series with each version).
        model, transform: what ``model_info`` says.
    """

    metric: str
    horizon: str
    steps: tuple[int, ...]
    bounds: bool
    expected: bool
    actual: bool | Literal["auto"]
    anomaly_score: bool
    model_info: bool
    version_label: bool
    model: str
    transform: str = "none"

    @property
    def shows_actual(self) -> bool:
        return self.transform != "none" if self.actual == "auto" else self.actual


def output_rules(config: SentinelConfig, watch: WatchConfig) -> OutputRules:
    """As configured; what the data tell (``transform``) is still to be learned."""
    published = watch.published
    return OutputRules(
        metric=watch.output_metric,
        horizon=watch.horizon,
        steps=watch.steps,
        bounds=config.emit_confidence_bounds,
        expected=published.expected,
        actual=published.actual,
        anomaly_score=published.anomaly_score,
        model_info=published.model_info,
        version_label=published.version_label,
        model=watch.model_name,
    )


@dataclass(frozen=True, eq=False)
class InstantOutcome:
    """Everything there is to say at one instant about N series; NaN = nothing to say.

    Attributes:
        expected, lower, upper: (N,) what this instant was forecast to be, one step before.
        actual: (N,) what the model saw.
        anomaly_score: (N,).
        forecast: issued at this instant; None where an instant is only caught up with.
    """

    instant_ms: int
    expected: FloatArray
    lower: FloatArray
    upper: FloatArray
    actual: FloatArray
    anomaly_score: FloatArray
    forecast: Forecast | None


@dataclass(frozen=True, eq=False)
class OutputPlan:
    """The output label sets of N sources, column by column, and who may publish which.

    Attributes:
        labels: every output series, one block of N after the other in the order of ``columns``.
        columns: for each block of N which number goes there.
        owner: (N,) bool, this watch owns expected, actual, score and info of the series.
        predicts: (N,) bool, this watch may push predictions of the series.
    """

    labels: tuple[LabelSet, ...]
    columns: tuple["Column", ...]
    owner: NDArray[np.bool_]
    predicts: NDArray[np.bool_]

    @cached_property
    def parts(self) -> tuple[tuple[tuple["Column", ...], tuple[LabelSet, ...]], ...]:
        """Columns with their label sets, those that name a version apart from the others: a new
        version of one series makes a new tuple of the former only."""
        n = len(self.owner)
        if not n:
            return ()
        apart = [
            bool(self.labels[k * n].get(names.VERSION_LABEL)) for k in range(len(self.columns))
        ]
        found = []
        for versioned in (False, True):
            places = [k for k, it_is in enumerate(apart) if it_is is versioned]
            labels = tuple(one for k in places for one in self.labels[k * n : (k + 1) * n])
            if places:
                found.append((tuple(self.columns[k] for k in places), labels))
        return tuple(found)

    def rows_of(self, source: int) -> tuple[LabelSet, ...]:
        """Every output series of one source that this watch publishes."""
        n = len(self.owner)
        allowed = (self.predicts if column.is_prediction else self.owner for column in self.columns)
        return tuple(
            self.labels[block * n + source]
            for block, may in enumerate(allowed)
            if bool(may[source])
        )


@dataclass(frozen=True, slots=True)
class Column:
    """One number of an outcome: ``field`` of it, at ``step`` where it is a prediction."""

    suffix: str
    field: str
    step: int = 0

    @property
    def is_prediction(self) -> bool:
        return self.step > 0

    def values(self, outcome: InstantOutcome) -> FloatArray:
        """(N,) float64; NaN where there is nothing to publish."""
        if self.field == "info":
            return np.ones_like(outcome.expected)
        if not self.is_prediction:
            column: FloatArray = getattr(outcome, self.field)
            return column
        if outcome.forecast is None:
            return np.full_like(outcome.expected, np.nan)
        path: FloatArray = getattr(outcome.forecast, self.field)
        return path[:, self.step - 1]


def columns(rules: OutputRules) -> tuple[Column, ...]:
    """The numbers that a watch with these rules publishes for each series."""
    chosen: list[Column] = []
    if rules.expected:
        chosen += [
            Column(names.EXPECTED, "expected"),
            Column(names.EXPECTED + names.LOWER, "lower"),
            Column(names.EXPECTED + names.UPPER, "upper"),
        ]
    if rules.shows_actual:
        chosen.append(Column(names.ACTUAL, "actual"))
    if rules.anomaly_score:
        chosen.append(Column(names.ANOMALY_SCORE, "anomaly_score"))
    if rules.model_info:
        chosen.append(Column(names.MODEL_INFO, "info"))
    for step in rules.steps:
        chosen.append(Column(names.PREDICTED, "mean", step))
        if rules.bounds:
            chosen.append(Column(names.PREDICTED + names.LOWER, "lower", step))
            chosen.append(Column(names.PREDICTED + names.UPPER, "upper", step))
    return tuple(chosen)


def sources_within(rules: OutputRules, output_series: int) -> int:
    """How many sources need no more output series than that; one always may be published."""
    return max(1, output_series // len(columns(rules)))


def plan_outputs(
    rules: OutputRules,
    sources: Sequence[LabelSet],
    versions: Sequence[str],
    owner: NDArray[np.bool_],
    predicts: NDArray[np.bool_],
) -> OutputPlan:
    """Label sets of all outputs of N sources.

    Args:
        versions: N, such as ``v3``; used by ``model_info`` and under ``version_label``.
        owner, predicts: (N,) see ``OutputPlan``.
    """
    chosen = columns(rules)
    labels = tuple(
        output_labels(source, rules, column, version)
        for column in chosen
        for source, version in zip(sources, versions, strict=True)
    )
    return OutputPlan(labels, chosen, owner, predicts)


def output_labels(source: LabelSet, rules: OutputRules, column: Column, version: str) -> LabelSet:
    """The label set of one output series: the source's own labels, and ours where they are due."""
    ours = {names.METRIC_NAME: rules.metric + column.suffix}
    if column.is_prediction:
        ours[names.HORIZON_LABEL] = rules.horizon
        ours[names.STEP_LABEL] = str(column.step)
        if rules.version_label:
            ours[names.VERSION_LABEL] = version
    if column.field == "info":
        ours[names.VERSION_LABEL] = version
        ours[names.MODEL_LABEL] = rules.model
        ours[names.TRANSFORM_LABEL] = rules.transform
    return with_ours(source, ours)


def with_ours(source: LabelSet, ours: Mapping[str, str]) -> LabelSet:
    """A source's labels with ours set over them; its labels of names we emit become exported_*.

    >>> print(with_ours(LabelSet.of({"__name__": "x", "sentinel_step": "9"}), {"__name__": "y"}))
    y{exported_sentinel_step="9"}
    """
    kept = {
        names.output_label(name): value for name, value in source.pairs if name != names.METRIC_NAME
    }
    return LabelSet.of({**kept, **ours})


def due_blocks(
    plan: OutputPlan, outcome: InstantOutcome, before: OutputPlan | None = None
) -> list[WriteBlock]:
    """The samples owed at the outcome's instant, at most one for each output series.

    Only finite numbers are sent. The plan's own label tuples are handed on whatever is due, which
    lets the writer keep what it prepared for them.

    Args:
        before: the plan in whose place this one came; the writer lets go of what it kept for it.
    """
    blocks = []
    earlier = dict(before.parts) if before is not None else {}
    for chosen, labels in plan.parts:
        values = np.concatenate([_allowed(plan, column, outcome) for column in chosen])
        finite = np.isfinite(values)
        if finite.any():
            due = None if finite.all() else finite
            old = earlier.get(chosen, ())
            blocks.append(WriteBlock(labels, outcome.instant_ms, values, due, old))
    return blocks


def _allowed(plan: OutputPlan, column: Column, outcome: InstantOutcome) -> FloatArray:
    may = plan.predicts if column.is_prediction else plan.owner
    values = column.values(outcome)
    if column.field == "info":  # a version is only named while it says something
        may = may & np.isfinite(outcome.expected)
    return np.where(may, values, np.nan)
