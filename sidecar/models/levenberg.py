"""Levenberg-Marquardt in a box, for N small least-squares problems at once.

Each problem has its own damping and stops by itself; problems that stopped are left out of further
evaluations once they are the majority. The step solves (H + damping diag H) s = -g over the free
parameters: one at a bound whose gradient points outwards is held there, and one that the step would
carry out of the box is moved to its bound and the step solved again for the others.
(More, The Levenberg-Marquardt algorithm, 1978; the active set as in Bertsekas, Projected Newton
methods, 1982.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sidecar.models.numeric import BoolArray, solve
from sidecar.series import FloatArray

FIRST_DAMPING = 1e-3
LARGEST_DAMPING = 1e9


@dataclass(frozen=True, eq=False)
class Local:
    """A sum of squares around one point: value (N,), gradient (P, N), Gauss-Newton matrix.

    All of half the sum of squares' scale: the model is cost + 2 g s + s H s.
    """

    cost: FloatArray
    gradient: FloatArray
    hessian: FloatArray

    def rows(self, rows: NDArray[np.int64]) -> "Local":
        return Local(self.cost[rows], self.gradient[:, rows], self.hessian[:, :, rows])

    def assign(self, rows: NDArray[np.int64], other: "Local") -> None:
        self.cost[rows] = other.cost
        self.gradient[:, rows] = other.gradient
        self.hessian[:, :, rows] = other.hessian


Evaluate: TypeAlias = Callable[[FloatArray, NDArray[np.int64]], Local]


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where the search stood at the end: params (P, N), cost (N,), and who converged (N,)."""

    params: FloatArray
    cost: FloatArray
    converged: BoolArray


def minimise(
    evaluate: Evaluate,
    start: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    steps: int,
    tolerance: float = 1e-5,
) -> Minimum:
    """Least sums of squares from ``start``.

    Args:
        evaluate: gives the local model of the problems with the given indices at params (P, n).
        start: (P, N). lower, upper: (P, 1) or (P, N).
        steps: at most so many evaluations after the first.
        tolerance: a problem has converged when a step promises less than this share of its cost.
    """
    params = np.clip(start, lower, upper)
    low, high = np.broadcast_to(lower, params.shape), np.broadcast_to(upper, params.shape)
    every = np.arange(params.shape[1])
    here = evaluate(params, every)
    damping = np.full(len(every), FIRST_DAMPING)
    converged = np.zeros(len(every), dtype=bool)
    live = every
    for _ in range(steps):
        step, promised = bounded_step(
            here.rows(live), params[:, live], low[:, live], high[:, live], damping[live]
        )
        small = np.abs(promised) <= tolerance * here.cost[live]
        converged[live[small]] = True
        live, step, promised = live[~small], step[:, ~small], promised[~small]
        if len(live) == 0:
            break
        trial = np.clip(params[:, live] + step, low[:, live], high[:, live])
        there = evaluate(trial, live)
        gain = here.cost[live] - there.cost
        better = gain > 0.0
        damping[live] *= np.where(gain > 0.5 * promised, 0.1, np.where(better, 0.7, 8.0))
        won = np.flatnonzero(better)
        params[:, live[won]] = trial[:, won]
        here.assign(live[won], there.rows(won))
        converged[live[damping[live] > LARGEST_DAMPING]] = True
        live = live[damping[live] <= LARGEST_DAMPING]
    return Minimum(params, here.cost, converged)


def bounded_step(
    local: Local, params: FloatArray, lower: FloatArray, upper: FloatArray, damping: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The damped step that stays in the box, (P, N), and the fall in cost it promises, (N,)."""
    room_down, room_up = lower - params, upper - params
    held = ((room_down >= 0.0) & (local.gradient > 0.0)) | (
        (room_up <= 0.0) & (local.gradient < 0.0)
    )
    fixed = np.zeros_like(params)
    for _ in range(len(params)):
        step = _step_with(local, damping, held, fixed)
        out = ((step < room_down) | (step > room_up)) & ~held
        if not out.any():
            break
        fixed = np.where(out, np.clip(step, room_down, room_up), fixed)
        held |= out
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
