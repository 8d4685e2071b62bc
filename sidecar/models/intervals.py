"""Prediction intervals that hold what they promise: analytic widths, scaled by what happened.

A model's own interval assumes that its residuals are normal and the future is as regular as the
past; on real series it covers less than it says, and differently from series to series. So each
series learns, from forecasts whose instants have come, by how much to scale its widths:

    half width = analytic half width * k^(1/3) * gain * side * shape(lead)

k is the quantile of the newest scores |residual| / analytic half width, pooled over leads
(conformal prediction); its cube root reacts at once without following every burst. ``gain`` makes
up for the rest and is steered by what did lie outside, log gain += .03 (missed - .05), so that in
the long run 5 % do, whatever the series and the model (adaptive conformal inference: Gibbs and
Candes 2021; on the width itself as in Angelopoulos, Candes and Tibshirani 2023). ``side``, one
above the mean and its inverse below, follows where the misses are, so that skewed residuals get a
skewed interval; ``shape`` does the same between leads, for a model whose widths grow too fast or
too slowly. Both move in small steps, so that only what lasts counts.

Take it for every model; it knows nothing of them. Memory per series: 1.1 KB and four bytes for each
step of the horizon up to 64. Measured live (fits every hour, 200 origins, 221 public series, 12
steps ahead; ``python -m tests.bench coverage``): of ``auto``'s 95 % intervals .953 hold, in 98 % of
the series .93 to .97.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from sidecar.models.contract import Intervals, as_float
from sidecar.series import FloatArray

Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

RING: Final = 240
BLEND: Final = 1 / 3
STEERING: Final = 0.03
SIDEWAYS: Final = 0.005
ALONG: Final = 0.01
# As logarithms: how far gain, sides and shape may go.
LARGEST_GAIN, LARGEST_SIDE, LARGEST_SHAPE = 5.0, 0.7, 1.0
FEWEST: Final = 24
WIDEST: Final = 100.0
MOST: Final = 1e6
LONGEST_MEMORY: Final = 64
# Of the live residuals' median, which is .67 sigma of a normal's, a half width is at least so much;
# a band below this share of it is none; and how many residuals say so.
TYPICAL: Final = 2.0
NO_BAND: Final = 0.01
EARLY, LONG_ENOUGH = 5, 40
# From so many half widths on, a residual says nothing of the scale: there was no band.
NO_SCALE: Final = 1e4
# What the share of hits forgets at each instant.
FORGETTING: Final = 0.998


def check_level(level: float) -> None:
    """Raises ValueError unless 0 < level < 1, as for .95."""
    if not 0 < level < 1:
        raise ValueError(f"level: {level!r} is not a share between 0 and 1: write .95 for 95 %")


def half_width(level: float) -> float:
    """Half the central interval of ``level`` of a normal variable, in standard deviations."""
    return float(ndtri((1.0 + level) / 2.0))


def around(mean: FloatArray, deviation: FloatArray, level: float) -> Intervals:
    """``mean`` with the central normal interval of ``level``; both (N, H), NaN rows stay NaN."""
    width = half_width(level) * np.maximum.accumulate(deviation, axis=1)
    return Intervals(mean=mean, lower=mean - width, upper=mean + width)


@dataclass(frozen=True, eq=False)
class Calibration:
    """How the widths of N series are to be scaled. Every array N first.

    Attributes:
        scores: (N, RING) float32, the newest residuals / analytic half widths, with their sign;
            NaN = none yet. A ring: ``place`` is where the next one goes.
        place: (N,) int64.
        gain: (N,) logarithm of the gain.
        side: (N,) logarithm of the side factor.
        shape: (N, G) logarithm of the shape factor at the leads 1, 2, 4, 8, ...
        factor: (N, 2) what widths below and above the mean are multiplied by, but for the shape.
        issued: (N, D) float32, the mean of the two factors as it was 0, 1, .. D-1 instants ago.
        hits, judged: (N,) how many judged instants lay inside, of how many; old ones fade.
        level: (N,) the coverage aimed at.
    """

    scores: Float32Array
    place: NDArray[np.int64]
    gain: FloatArray
    side: FloatArray
    shape: FloatArray
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
    octaves = int(np.ceil(np.log2(longest_lead))) + 1
    return Calibration(
        scores=np.full((n, RING), np.nan, np.float32),
        place=np.zeros(n, np.int64),
        gain=np.zeros(n),
        side=np.zeros(n),
        shape=np.zeros((n, octaves)),
        factor=np.ones((n, 2)),
        issued=np.ones((n, min(longest_lead, LONGEST_MEMORY)), np.float32),
        hits=np.zeros(n),
        judged=np.zeros(n),
        level=np.full(n, level),
    )


def extend(calibration: Calibration, n: int) -> Calibration:
    """With ``n`` more series, of which nothing is known yet."""
    level = float(calibration.level[0]) if len(calibration.level) else 0.95
    new = start(n, 1 << (calibration.shape.shape[1] - 1), level)
    new = replace(new, issued=np.ones((n, calibration.issued.shape[1]), np.float32))
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
    """A model's own intervals, scaled as learned; never narrower than at a shorter lead."""
    leads = np.arange(1, intervals.mean.shape[1] + 1)
    shape = _shape(calibration, leads)
    below, above = calibration.factor[:, :1] * shape, calibration.factor[:, 1:] * shape
    mean = intervals.mean
    below = np.maximum.accumulate(below * (mean - intervals.lower), axis=1)
    above = np.maximum.accumulate(above * (intervals.upper - mean), axis=1)
    return Intervals(mean=mean, lower=mean - below, upper=mean + above)


def at_least(intervals: Intervals, typical: FloatArray, count: NDArray[np.int64]) -> Intervals:
    """A model's own intervals, no narrower than live residuals allow.

    Learned factors only scale what a model says, and 0 times anything is 0: a model fitted on a
    history that stood still gives a band of nothing for ever. So a half width is never below
    ``TYPICAL`` times the median residual. Where a band is no band beside that, ``EARLY`` residuals
    are enough; elsewhere ``LONG_ENOUGH``, half of which must be large: no short burst widens it.

    Args:
        typical, count: (N,) as ``scores.typical`` gives them.
    """
    half = (intervals.upper[:, 0] - intervals.lower[:, 0]) / 2
    none = half < NO_BAND * typical
    known = (count >= np.where(none, EARLY, LONG_ENOUGH)) & (typical > 0)
    least = np.where(known, TYPICAL * typical, 0.0)[:, None]
    mean = intervals.mean
    return Intervals(
        mean=mean,
        lower=mean - np.maximum(mean - intervals.lower, least),
        upper=mean + np.maximum(intervals.upper - mean, least),
    )


def _octaves(leads: NDArray[np.int64], count: int) -> FloatArray:
    """(leads, count) how much of each lead belongs to the leads 1, 2, 4, ..: straight in log2."""
    place = np.minimum(np.log2(leads), count - 1)
    return np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(count)))


def _shape(calibration: Calibration, leads: NDArray[np.int64]) -> FloatArray:
    """(N, leads) the shape factor."""
    return np.exp(calibration.shape @ _octaves(leads, calibration.shape.shape[1]).T)


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
    lead_array = np.array(leads)
    back = np.minimum(lead_array, calibration.issued.shape[1]) - 1
    plain = half_widths / (calibration.issued[:, back] * _shape(calibration, lead_array))
    floor = np.finfo(np.float64).tiny
    with np.errstate(over="ignore"):
        score = np.clip(residuals / np.maximum(plain, floor), -MOST, MOST)
    use = np.isfinite(score) & (np.abs(score) < NO_SCALE)
    if steer is not None:
        use = use & steer[:, None]
    # A residual outside counts on its side; the two sides are not equally wide.
    sided = np.exp(np.where(residuals > 0, 1, -1) * calibration.side[:, None])
    bound = half_widths * sided / np.cosh(calibration.side)[:, None]
    outside: BoolArray = use & (np.abs(residuals) > bound)
    moved = _steered(calibration, lead_array, residuals, use, outside)
    scores, place = _stored(calibration, score, use)
    factor = _factors(scores, moved)
    newest = factor.mean(axis=1, keepdims=True).astype(np.float32)
    issued = np.concatenate([newest, calibration.issued[:, :-1]], axis=1)
    return replace(moved, scores=scores, place=place, factor=factor, issued=issued)


def _steered(
    calibration: Calibration,
    leads: NDArray[np.int64],
    residuals: FloatArray,
    use: BoolArray,
    outside: BoolArray,
) -> Calibration:
    """Gain, side, shape and coverage after the judged leads of one instant."""
    count = np.maximum(use.sum(axis=1), 1)
    seen, whole = use.any(axis=1), use.all(axis=1, keepdims=True)
    missed = as_float(outside.sum(axis=1) / count)
    gain = calibration.gain + np.where(seen, STEERING * (missed - 1 + calibration.level), 0.0)
    tilt = np.where(outside, np.sign(residuals), 0.0).sum(axis=1) / count
    side = calibration.side + SIDEWAYS * tilt
    octaves = _octaves(leads, calibration.shape.shape[1])
    uneven = np.where(use, outside - missed.reshape(-1, 1), 0.0) @ octaves
    shape = calibration.shape + np.where(whole, ALONG * uneven, 0.0)
    return replace(
        calibration,
        gain=np.clip(gain, -LARGEST_GAIN, LARGEST_GAIN),
        side=np.clip(side, -LARGEST_SIDE, LARGEST_SIDE),
        shape=np.clip(shape, -LARGEST_SHAPE, LARGEST_SHAPE),
        hits=np.where(seen, FORGETTING * calibration.hits + 1 - missed, calibration.hits),
        judged=np.where(seen, FORGETTING * calibration.judged + 1, calibration.judged),
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


def _factors(scores: Float32Array, steered: Calibration) -> FloatArray:
    """(N, 2) k^(1/3) gain, over side and times side, below and above; 1 until ``FEWEST`` scores."""
    side = steered.side
    towards = np.exp(side).astype(np.float32)[:, None]
    sizes = np.sort(np.where(scores > 0, scores / towards, -scores * towards), axis=1)  # NaN last
    count = np.isfinite(sizes).sum(axis=1)
    rank = np.ceil(steered.level * (count + 1)).astype(np.int64)
    at = np.clip(np.minimum(rank, count) - 1, 0, None)
    k = np.take_along_axis(sizes, at[:, None], axis=1)[:, 0].astype(np.float64)
    middle = np.clip(k**BLEND, 1 / WIDEST, WIDEST) * np.exp(steered.gain)
    factors = np.stack([middle * np.exp(-side), middle * np.exp(side)], axis=1)
    return np.where((count >= FEWEST)[:, None], factors, 1.0)
