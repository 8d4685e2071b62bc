"""Stored versions as the states that a finetune starts from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sidecar.learning.records import Group, Restored
from sidecar.models.contract import (
    ForecastModel,
    S,
    State,
    concat,
    from_arrays,
    put,
    take,
    to_arrays,
)
from sidecar.series import LabelSet, index_by_labels


def warm_states(
    restored: Restored,
    model: ForecastModel[S],
    recipe: Mapping[str, Any],
    labels: Sequence[LabelSet],
) -> S | None:
    """The states of some series as their serving versions were stored, rows as ``labels``.

    They stand where their training ended, before the instants that a finetune is judged on. A
    series without one (or with that of another recipe) gets a row whose sigma is NaN, which
    ``training.train`` fits anew; None where that is so for all.

    Args:
        restored: what ``VersionStore.load(watch, labels)`` gave.
        recipe: what versions of today are stored with as their settings (``snapshot.recipe``).
    """
    parts, rows, place = [], [], index_by_labels(labels)
    for group in restored.groups:
        known = [row for row, one in enumerate(group.labels) if one in place]
        state = _state(group, model) if group.settings == recipe else None
        if state is not None and known:
            parts.append(take(state, np.array(known, dtype=np.int64)))
            rows += [place[group.labels[row]] for row in known]
    if not parts:
        return None
    instants = np.arange(1, max(2, model.min_instants) + 1, dtype=np.int64)
    blank = model.fit(instants, np.full((len(labels), instants.size), np.nan))
    if any(_widths(part) != _widths(blank) for part in parts):
        return None
    return put(blank, np.array(rows, dtype=np.int64), concat(parts))


def _state(group: Group, model: ForecastModel[S]) -> S | None:
    if group.model != model.name:
        return None
    try:
        return from_arrays(model.state_type, group.arrays)
    except KeyError:  # stored by a version of the program whose model had other fields
        return None


def _widths(state: State) -> list[tuple[int, ...]]:
    """The shapes of its fields but for N: others than the model's mean other settings."""
    return [array.shape[1:] for array in to_arrays(state).values()]
