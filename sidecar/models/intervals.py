"""Prediction intervals that hold what they promise: analytic widths, scaled by what happened.

A model's own interval assumes that its residuals are normal and the future is as regular as the
past; on real series it covers less than it says, and differently from series to series. So each
series learns, from forecasts whose instants have come, by how much to scale its widths:

    half width = analytic half width * sqrt(k)

where k is the empirical (1 - a)-quantile of the newest scores |residual| / analytic half width,
pooled over leads (conformal prediction), and a, the share that may lie outside, is steered by what
did lie outside (adaptive conformal inference: a += .02 (.05 - missed); Gibbs and Candes 2021). The
square root blends the two: analytic widths react at once, conformal ones are right on average.
Each side of the interval has a share of its own where the residuals are asymmetric.

Take it for every model; it knows nothing of them. Memory per series: see ``Calibration``.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from sidecar.models.contract import Intervals
from sidecar.series import FloatArray

Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

RING: Final = 240
STEERING: Final = 0.02
FEWEST: Final = 24
# How wide where the steering asks for more than any score seen.
BEYOND: Final = 1.3
WIDEST: Final = 100.0


def check_level(level: float) -> None:
    """Raises ValueError unless 0 < level < 1, as for .95."""
    if not 0 < level < 1:
        raise ValueError(f"level: {level!r} is not a share between 0 and 1: write .95 for 95 %")


def around(mean: FloatArray, deviation: FloatArray, level: float) -> Intervals:
    """``mean`` with the central normal interval of ``level``; both (N, H), NaN rows stay NaN."""
    width = float(ndtri((1.0 + level) / 2.0)) * np.maximum.accumulate(deviation, axis=1)
    return Intervals(mean=mean, lower=mean - width, upper=mean + width)


@dataclass(frozen=True, eq=False)
class Calibration:
    """How the widths of N series are to be scaled. Every array N first.

    Attributes:
        scores: (N, RING) float32, the newest |residual| / analytic half width, signed as the
            residual; NaN = none yet. A ring: ``place`` is where the next one goes.
        place: (N,) int64.
        share: (N,) float64, a: the share of instants that may lie outside, as steered.
        factor: (N, 2) float64, what widths below and above the mean are multiplied by.
        issued: (N, D) float32, the mean of the two factors as it was 0, 1, .. D-1 instants ago.
        hits, judged: (N,) float64, how many judged instants lay inside, of how many (discounted).
        level: (N,) float64, the coverage aimed at.
    """

    scores: Float32Array
    place: NDArray[np.int64]
    share: FloatArray
    factor: FloatArray
    issued: Float32Array
    hits: FloatArray
    judged: FloatArray
    level: FloatArray


def start(n: int, longest_lead: int = 1, level: float = 0.95) -> Calibration:
    """Nothing learned yet: widths stay as the model says.

    Args:
        longest_lead: the largest lead, in instants, that ``observe`` will be told of.
    """
    check_level(level)
    return Calibration(
        scores=np.full((n, RING), np.nan, np.float32),
        place=np.zeros(n, np.int64),
        share=np.full(n, 1.0 - level),
        factor=np.ones((n, 2)),
        issued=np.ones((n, longest_lead), np.float32),
        hits=np.zeros(n),
        judged=np.zeros(n),
        level=np.full(n, level),
    )


def extend(calibration: Calibration, n: int) -> Calibration:
    """With ``n`` more series, of which nothing is known yet."""
    level = float(calibration.level[0]) if len(calibration.level) else 0.95
    new = start(n, calibration.issued.shape[1], level)
    return Calibration(
        **{
            f.name: np.concatenate([getattr(calibration, f.name), getattr(new, f.name)])
            for f in fields(calibration)
        }
    )


def take(calibration: Calibration, rows: NDArray[Any]) -> Calibration:
    """Of some series only."""
    return Calibration(**{f.name: getattr(calibration, f.name)[rows] for f in fields(calibration)})


def widen(intervals: Intervals, calibration: Calibration) -> Intervals:
    """A model's own intervals, scaled as learned."""
    below, above = calibration.factor[:, :1], calibration.factor[:, 1:]
    mean = intervals.mean
    return Intervals(
        mean=mean,
        lower=mean - below * (mean - intervals.lower),
        upper=mean + above * (intervals.upper - mean),
    )


def coverage(calibration: Calibration) -> FloatArray:
    """(N,) share of the judged instants that lay inside; NaN before the first."""
    judged = calibration.judged
    return np.where(judged > 0, calibration.hits / np.where(judged > 0, judged, 1.0), np.nan)


def observe(
    calibration: Calibration,
    leads: tuple[int, ...],
    residuals: FloatArray,
    half_widths: FloatArray,
    steer: BoolArray | None = None,
) -> Calibration:
    """Learn from one instant. Call it once for each instant, before the next forecast is widened.

    Args:
        leads: L, in instants, none larger than ``start`` was told.
        residuals: (N, L) actual - mean of the forecasts made ``leads`` instants ago; NaN = none.
        half_widths: (N, L) half the widths that those were issued with (after ``widen``).
        steer: (N,) False where the actual was anomalous, which must not widen the interval.
    """
    n = len(calibration.share)
    back = np.array(leads) - 1
    plain = half_widths / calibration.issued[:, back]
    tiny = np.finfo(np.float64).tiny
    with np.errstate(over="ignore"):  # a residual against no width at all: the largest score
        score = residuals / np.maximum(plain, tiny)
    use = np.isfinite(score) & (np.ones(n, bool) if steer is None else steer)[:, None]
    scores, place = _stored(calibration, np.clip(score, -1e6, 1e6), use)
    inside = np.abs(residuals) <= half_widths
    missed = np.where(use.any(axis=1), (use & ~inside).sum(1) / np.maximum(use.sum(1), 1), np.nan)
    seen = np.isfinite(missed)
    share = calibration.share + STEERING * np.where(seen, 1 - calibration.level - missed, 0.0)
    share = np.clip(share, -0.05, 0.5)
    factor = _factors(scores, share)
    issued = np.concatenate(
        [factor.mean(axis=1, keepdims=True).astype(np.float32), calibration.issued[:, :-1]], axis=1
    )
    return replace(
        calibration,
        scores=scores,
        place=place,
        share=share,
        factor=factor,
        issued=issued,
        hits=calibration.hits + np.where(seen, 1 - missed, 0.0),
        judged=calibration.judged + seen,
    )


def _stored(
    calibration: Calibration, score: FloatArray, use: BoolArray
) -> tuple[Float32Array, NDArray[np.int64]]:
    """The ring with the new scores in it, and where the next goes."""
    scores, place = calibration.scores.copy(), calibration.place
    rows = np.arange(len(place))
    for lead in range(score.shape[1]):
        used = rows[use[:, lead]]
        scores[used, place[used]] = score[used, lead]
        place = np.where(use[:, lead], (place + 1) % RING, place)
    return scores, place


def _factors(scores: Float32Array, share: FloatArray) -> FloatArray:
    """(N, 2) sqrt of the (1 - share)-quantile of |score|; 1 until there are ``FEWEST``."""
    sizes = np.sort(np.abs(scores), axis=1)  # NaN last
    count = np.isfinite(sizes).sum(axis=1)
    rank = np.ceil((1 - share) * (count + 1)).astype(np.int64)
    at = np.clip(rank - 1, 0, np.maximum(count - 1, 0))
    k = np.take_along_axis(sizes, at[:, None], axis=1)[:, 0].astype(np.float64)
    k = np.where(rank > count, BEYOND * k, k)
    factor = np.sqrt(np.clip(k, 1 / WIDEST**2, WIDEST**2))
    factor = np.where(count >= FEWEST, factor, 1.0)
    return np.stack([factor, factor], axis=1)
