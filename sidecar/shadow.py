"""A promoted version's predecessor, run beside it for one window, to see whether it was better.

For each instant both residuals are kept; as soon as the gate finds the new version clearly worse,
the predecessor serves again, from the state it would have had. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sidecar.learning import gate
from sidecar.learning.gate import Gate, GateSettings
from sidecar.models.contract import ForecastModel, State, concat, take
from sidecar.series import FloatArray

Model = ForecastModel[State]

# How many instants a predecessor runs on, as many as the rolling scores look at.
WINDOW = 60


@dataclass(frozen=True, eq=False)
class Shadow:
    """Predecessors of K series; every array has K first.

    Attributes:
        rows: (K,) int64, the rows of the watch they belong to.
        versions: (K,) int64, their numbers.
        state: what they would serve from.
        expected: (K,) float64, what they forecast for the next instant.
        live, old: (K, WINDOW) float64, one-step residuals of what serves and of the predecessor,
            newest last; NaN = not judged.
        age: (K,) int64, instants since the promotion.
    """

    rows: NDArray[np.int64]
    versions: NDArray[np.int64]
    state: State
    expected: FloatArray
    live: FloatArray
    old: FloatArray
    age: NDArray[np.int64]


def begin(
    shadow: Shadow | None,
    model: Model,
    rows: NDArray[np.int64],
    versions: NDArray[np.int64],
    state: State,
    next_ms: int,
) -> Shadow:
    """Let the predecessors of ``rows`` run on; those of an earlier promotion end.

    Args:
        state: of these rows, as it served up to the instant before ``next_ms``.
    """
    left = without(shadow, rows)
    ahead = np.array([next_ms], dtype=np.int64)
    empty = np.full((rows.size, WINDOW), np.nan)
    new = Shadow(
        rows=rows,
        versions=versions,
        state=state,
        expected=model.forecast(state, ahead).mean[:, 0],
        live=empty,
        old=empty.copy(),
        age=np.zeros(rows.size, dtype=np.int64),
    )
    return new if left is None else _joined(left, new)


def observe(
    shadow: Shadow, model: Model, t_ms: int, step_ms: int, y: FloatArray, residual: FloatArray
) -> Shadow:
    """One instant more.

    The predecessor learns the actuals as they are: what is clamped to the band of the version that
    serves would hide from it what that version does not see.

    Args:
        y, residual: (N,) of the watch: the actuals, and the residuals of what serves.
    """
    actual = y[shadow.rows]
    state = model.update(shadow.state, np.array([t_ms], dtype=np.int64), actual[:, None])
    ahead = np.array([t_ms + step_ms], dtype=np.int64)
    return replace(
        shadow,
        state=state,
        expected=model.forecast(state, ahead).mean[:, 0],
        live=_pushed(shadow.live, residual[shadow.rows]),
        old=_pushed(shadow.old, actual - shadow.expected),
        age=shadow.age + 1,
    )


def decide(shadow: Shadow, settings: GateSettings) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Which predecessors (places in the shadow) serve again, and which (K,) have had their time."""
    codes = gate.shadow(shadow.live, shadow.old, settings).code
    back = np.array([code is Gate.SHADOW_ROLLED_BACK for code in codes], dtype=np.bool_)
    done = back | (shadow.age >= WINDOW)
    return np.flatnonzero(back), done


def kept(shadow: Shadow, keep: NDArray[np.bool_]) -> Shadow | None:
    """Only some predecessors; None where none is left."""
    return _taken(shadow, np.flatnonzero(keep)) if keep.any() else None


def without(shadow: Shadow | None, rows: NDArray[np.int64]) -> Shadow | None:
    """The predecessors of other rows of the watch."""
    return None if shadow is None else kept(shadow, ~np.isin(shadow.rows, rows))


def renumbered(shadow: Shadow | None, new_rows: Mapping[int, int]) -> Shadow | None:
    """After rows of the watch went: old row -> new row for those that stay."""
    if shadow is None:
        return None
    stay = np.array([row in new_rows for row in shadow.rows.tolist()], dtype=np.bool_)
    left = kept(shadow, stay)
    if left is None:
        return None
    return replace(left, rows=np.array([new_rows[row] for row in left.rows.tolist()]))


def _pushed(ring: FloatArray, newest: FloatArray) -> FloatArray:
    return np.concatenate([ring[:, 1:], newest[:, None]], axis=1)


def _taken(shadow: Shadow, places: NDArray[np.int64]) -> Shadow:
    return Shadow(
        rows=shadow.rows[places],
        versions=shadow.versions[places],
        state=take(shadow.state, places),
        expected=shadow.expected[places],
        live=shadow.live[places],
        old=shadow.old[places],
        age=shadow.age[places],
    )


def _joined(first: Shadow, second: Shadow) -> Shadow:
    return Shadow(
        rows=np.concatenate([first.rows, second.rows]),
        versions=np.concatenate([first.versions, second.versions]),
        state=concat([first.state, second.state]),
        expected=np.concatenate([first.expected, second.expected]),
        live=np.concatenate([first.live, second.live]),
        old=np.concatenate([first.old, second.old]),
        age=np.concatenate([first.age, second.age]),
    )
