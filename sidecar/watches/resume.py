"""Stored versions put back into service: rolled over what came since they were fitted.

For a watch that begins without a snapshot (it was away for long, or the snapshot is damaged), and
for a version that an operator puts back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidecar.known import Fitted, Known, adopt
from sidecar.learning.records import Restored
from sidecar.learning.warm import warm_states
from sidecar.models.contract import ForecastModel, State, take
from sidecar.models.naive import NaiveModel, NaiveState
from sidecar.series import FloatArray, LabelSet, SeriesBatch

Model = ForecastModel[State]


@dataclass(frozen=True, eq=False)
class Resumed:
    """A watch with its stored versions in service.

    Attributes:
        known: what is known now.
        serving: series that a stored version serves.
        last_fit_ms: by key, when those versions were fitted.
        outdated: series whose stored version was learned by another recipe: other settings, another
            lookback or transform.
    """

    known: Known
    serving: frozenset[LabelSet]
    last_fit_ms: Mapping[str, int]
    outdated: frozenset[LabelSet]


def resume(
    model: Model,
    known: Known,
    history: SeriesBatch,
    restored: Restored,
    recipe: Mapping[str, Any],
) -> Resumed:
    """Let what was stored serve where it can still be brought up to the origin.

    That is a version of this recipe that was fitted within the history, so that no instant since
    then is missing. The others are left to be fitted anew.

    Args:
        known: right after ``begin``, rows as ``history``.
        restored: what ``VersionStore.load(watch)`` gave.
    """
    labels = set(history.labels)
    outdated = frozenset(
        one
        for group in restored.groups
        if group.settings != recipe
        for one in group.labels
        if one in labels
    )
    warm = warm_states(restored, model, recipe, history.labels)
    if warm is None:
        return Resumed(known, frozenset(), {}, outdated)
    grid = history.grid
    within = (warm.last_ms >= grid.start_ms - grid.step_ms) & (warm.last_ms <= grid.end_ms)
    rows = np.flatnonzero(np.isfinite(warm.sigma) & within)
    if not rows.size:
        return Resumed(known, frozenset(), {}, outdated)
    values = history.values[rows]
    state = model.update(take(warm, rows), grid.instants_ms, values)
    figures = {
        one: (int(version), float(mae), int(at_ms))
        for group in restored.groups
        for one, version, mae, at_ms in zip(
            group.labels, group.versions, group.mae, group.trained_at_ms, strict=True
        )
    }
    serving = tuple(history.labels[row] for row in rows)
    fitted = as_fitted(
        serving,
        grid.end_ms,
        state,
        NaiveModel().fit(grid.instants_ms, values),
        np.array([figures[one][0] for one in serving], dtype=np.int64),
        np.array([figures[one][1] for one in serving]),
        shadowed=False,
    )
    return Resumed(
        known=adopt(model, known, fitted),
        serving=frozenset(serving),
        last_fit_ms={one.key: figures[one][2] for one in serving},
        outdated=outdated,
    )


def as_fitted(
    labels: tuple[LabelSet, ...],
    end_ms: int,
    state: State,
    naive: NaiveState,
    versions: NDArray[np.int64],
    mae: FloatArray,
    *,
    shadowed: bool,
) -> Fitted:
    """Stored versions of n series, absorbed up to ``end_ms``, as what a fit would have given.

    Args:
        mae: (n,) of their validations; the width of their residuals is learned anew.
    """
    n = len(labels)
    nothing = np.full(n, np.nan)
    return Fitted(
        labels=labels,
        end_ms=end_ms,
        state=state,
        naive=naive,
        promoted=np.ones(n, dtype=np.bool_),
        serves_naive=np.zeros(n, dtype=np.bool_),
        versions=versions,
        why_unfitted=(None,) * n,
        mae=mae,
        centre=nothing,
        scale=nothing,
        n_samples=np.zeros(n, dtype=np.int64),
        never_negative=np.ones(n, dtype=np.bool_),  # their past has had its say already
        shadowed=shadowed,
    )
