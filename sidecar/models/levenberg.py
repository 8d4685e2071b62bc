"""Levenberg-Marquardt in a box, for N small least-squares problems at once.

Each problem has its own damping and drops out as soon as it has converged. A step solves
(H + damping diag H) s = -g over the free parameters: one at a bound whose gradient points outwards
is held there, and the one that the step would carry out of the box first is moved to its bound and
the step solved again for the others. (More, The Levenberg-Marquardt algorithm, 1978; the active set
as in Bertsekas, Projected Newton methods, 1982.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from sidecar.models.numeric import BoolArray, IntArray, solve
from sidecar.series import FloatArray

FIRST_DAMPING = 1e-3
LARGEST_DAMPING = 1e9


@dataclass(frozen=True, eq=False)
class Local:
    """Sums of squares around one point each: near it, cost + 2 gradient s + s hessian s.

    Attributes:
        cost: (N,). gradient: (P, N). hessian: (P, P, N) by Gauss and Newton.
        extra: (K, N) what else the caller wants to know of the best point.
    """

    cost: FloatArray
    gradient: FloatArray
    hessian: FloatArray
    extra: FloatArray

    @classmethod
    def joined(cls, parts: list["Local"]) -> "Local":
        """The problems of all parts, in order."""
        arrays = zip(*(part._arrays() for part in parts), strict=True)
        return cls(*(np.concatenate(pieces, axis=-1) for pieces in arrays))

    def columns(self, columns: IntArray) -> "Local":
        return Local(*(array[..., columns] for array in self._arrays()))

    def assign(self, columns: IntArray, other: "Local") -> None:
        """Overwrite the problems ``columns`` with those of ``other``, in place."""
        for array, news in zip(self._arrays(), other._arrays(), strict=True):
            array[..., columns] = news

    def _arrays(self) -> tuple[FloatArray, ...]:
        return self.cost, self.gradient, self.hessian, self.extra


Evaluate: TypeAlias = Callable[[FloatArray, IntArray], Local]


def minimise(
    evaluate: Evaluate,
    start: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    steps: int,
    tolerance: float,
) -> tuple[FloatArray, Local]:
    """Search for the least cost within reach of ``start``.

    Args:
        evaluate: gives the local model of the problems with the given indices at params (P, n).
        start: (P, N). lower, upper: (P, 1).
        steps: at most so many evaluations after the first.
        tolerance: a problem is done when a step promises less than this share of its cost.

    Returns:
        The best params (P, N), and the local model there.
    """
    params = np.clip(start, lower, upper)
    live = np.arange(params.shape[1])
    here = evaluate(params, live)
    damping = np.full(len(live), FIRST_DAMPING)
    for _ in range(steps if len(params) else 0):
        step, promised = bounded_step(
            here.columns(live), params[:, live], lower, upper, damping[live]
        )
        moving = (np.abs(promised) > tolerance * here.cost[live]) & (
            damping[live] < LARGEST_DAMPING
        )
        live, step, promised = live[moving], step[:, moving], promised[moving]
        if len(live) == 0:
            break
        trial = np.clip(params[:, live] + step, lower, upper)
        there = evaluate(trial, live)
        gain = here.cost[live] - there.cost
        damping[live] *= np.where(gain > 0.5 * promised, 0.1, np.where(gain > 0.0, 0.7, 8.0))
        won = np.flatnonzero(gain > 0.0)
        params[:, live[won]] = trial[:, won]
        here.assign(live[won], there.columns(won))
    return params, here


def bounded_step(
    local: Local, params: FloatArray, lower: FloatArray, upper: FloatArray, damping: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The damped step that stays in the box, (P, N), and the fall in cost it promises, (N,)."""
    room_down, room_up = lower - params, upper - params
    held = ((room_down >= 0.0) & (local.gradient > 0.0)) | (
        (room_up <= 0.0) & (local.gradient < 0.0)
    )
    fixed = np.zeros_like(params)
    order = np.arange(len(params))[:, None]
    for _ in range(len(params)):
        step = _step_with(local, damping, held, fixed)
        inside = np.clip(step, room_down, room_up)
        overshoot = np.where(held, 1.0, np.abs(step) / np.maximum(np.abs(inside), 1e-300))
        first = (overshoot > 1.0) & (order == overshoot.argmax(axis=0))
        if not first.any():
            break
        fixed = np.where(first, inside, fixed)
        held |= first
    step = np.clip(step, room_down, room_up)
    bend = np.einsum("in,ijn,jn->n", step, local.hessian, step)
    return step, -2.0 * np.einsum("in,in->n", local.gradient, step) - bend


def _step_with(local: Local, damping: FloatArray, held: BoolArray, fixed: FloatArray) -> FloatArray:
    """Solve for the free parameters with those ``held`` moved by ``fixed``."""
    size = len(fixed)
    right = -(local.gradient + np.einsum("ijn,jn->in", local.hessian, fixed))
    free = ~held
    matrix = local.hessian * (free[:, None] & free[None, :])
    diagonal = np.arange(size)
    matrix[diagonal, diagonal] = np.where(
        free, local.hessian[diagonal, diagonal] * (1.0 + damping) + 1e-300, 1.0
    )
    return np.where(held, fixed, solve(matrix, (right * free)[:, None])[:, 0])
