"""How far an actual lies from what was expected, as one number that means the same everywhere.

The score is 0 at the expected value, 1 at the bound of its interval, above 1 outside, at most 100,
on each side measured with that side's own width. What a user knows of a metric goes in as
``AnomalyRules``; the names and meanings are those of vmanomaly's models, so a user of it finds them
again. A 95 % band is left by one instant in twenty by construction: an alert asks for several in a
row.

``absorb`` is the other half: what a model is told to learn from an instant that is anomalous, so
that a burst does not become the new normal while it lasts.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sidecar.models.settings import POSITIVE, Rule, at_least, between, check, one_of
from sidecar.series import FloatArray

HIGHEST: Final = 100.0
# The narrowest half band, relative to the values: a constant series has no band of its own.
NARROWEST: Final = 1e-9
Pair = tuple[float, float]


def _pair(low: float) -> Rule:
    def passes(value: object) -> bool:
        return (
            isinstance(value, tuple)
            and len(value) == 2
            and all(isinstance(one, int | float) and one >= low for one in value)
        )

    return passes, f"two numbers from {low:g} on, for below and above the expected value"


def _passes_range(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and value[0] < value[1]


@dataclass(frozen=True, slots=True)
class AnomalyRules:
    """What a user knows of a metric.

    Attributes:
        detection_direction: ``both``, ``above_expected`` or ``below_expected``; a deviation to the
            other side scores 0.
        min_dev_from_expected: deviations smaller than this score 0 (below, above).
        min_rel_dev_from_expected: the same in percent of the absolute expected value.
        scale: what the half widths of the band are multiplied by (below, above).
        data_range: an actual outside is an anomaly whatever was expected; an expectation outside
            says nothing, and everything scores 0 against it.
        score_outside_data_range: what an actual outside ``data_range`` scores at least.
        anomaly_policy: what a model learns from an instant that scores above ``clamp_at``:
            ``learn`` it as it is, ``clamp`` it towards the expected value, or ``skip`` it.
        clamp_at: in half widths; well above 1, since a 95 % band is left all the time.
        patience: after so many such instants in a row it is no burst, and is learned as it is.
    """

    detection_direction: str = "both"
    min_dev_from_expected: Pair = (0.0, 0.0)
    min_rel_dev_from_expected: Pair = (0.0, 0.0)
    scale: Pair = (1.0, 1.0)
    data_range: Pair = (-np.inf, np.inf)
    score_outside_data_range: float = 1.01
    anomaly_policy: str = "clamp"
    clamp_at: float = 3.0
    patience: int = 30

    def __post_init__(self) -> None:
        check(
            self,
            {
                "detection_direction": one_of("both", "above_expected", "below_expected"),
                "min_dev_from_expected": _pair(0),
                "min_rel_dev_from_expected": _pair(0),
                "scale": _pair(0.01),
                "data_range": (_passes_range, "two numbers, the first below the second"),
                "score_outside_data_range": between(0, HIGHEST),
                "anomaly_policy": one_of("learn", "clamp", "skip"),
                "clamp_at": POSITIVE,
                "patience": at_least(1),
            },
        )


DEFAULT_RULES: Final = AnomalyRules()


def score(
    actual: FloatArray,
    expected: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    rules: AnomalyRules = DEFAULT_RULES,
) -> FloatArray:
    """The anomaly score of each actual, NaN where anything it needs is NaN.

    deviation / max(half width * scale, minimal deviation, 1e-9 of the values), on the side where
    the actual lies; 0 below the minimal deviation, or on a side that is not watched.

    Args:
        actual, expected, lower, upper: one shape.

    Returns:
        That shape, 0 to 100.
    """
    above = actual > expected
    deviation = np.abs(actual - expected)
    width, least = _half_width(actual, expected, lower, upper, rules)
    with np.errstate(invalid="ignore"):
        scores = np.minimum(deviation / width, HIGHEST)
    watched = {"both": above | True, "above_expected": above, "below_expected": ~above}
    counts = watched[rules.detection_direction] & (deviation >= least)
    scores = np.where(counts | np.isnan(scores), scores, 0.0)
    low, high = rules.data_range
    scores = np.where((expected < low) | (expected > high), 0.0 * scores, scores)
    outside = ((actual < low) | (actual > high)) & ~np.isnan(scores)
    return np.where(outside, np.maximum(scores, rules.score_outside_data_range), scores)


def _half_width(
    actual: FloatArray,
    expected: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    rules: AnomalyRules,
) -> tuple[FloatArray, FloatArray]:
    """Half the width that a deviation is measured with, and the deviation that counts at least."""
    above = (actual > expected).astype(np.intp)
    scale = np.array(rules.scale)[above]
    least = np.maximum(
        np.array(rules.min_dev_from_expected)[above],
        np.array(rules.min_rel_dev_from_expected)[above] / 100 * np.abs(expected),
    )
    half = scale * np.where(above > 0, upper - expected, expected - lower)
    size = np.maximum(np.abs(expected), np.where(np.isfinite(actual), np.abs(actual), 0.0))
    narrowest = np.maximum(NARROWEST * size, np.finfo(np.float64).tiny)
    return np.maximum(np.maximum(half, least), narrowest), least


def absorb(
    actual: FloatArray,
    expected: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    run: NDArray[np.int64],
    rules: AnomalyRules = DEFAULT_RULES,
) -> tuple[FloatArray, NDArray[np.int64], NDArray[np.bool_]]:
    """What ``update`` is to be given in place of the actuals.

    An actual beyond ``clamp_at`` half widths is pulled to where the band's edge would be at a
    (run + 1)-th of its width, so that a burst of r instants moves a model by the logarithm of r
    rather than by r; or left out (NaN), which lets uncertainty grow. From the ``patience``-th of a
    run on it is learned as it is.

    Args:
        actual, expected, lower, upper: (N,). Where there is no forecast the actual is learned.
        run: (N,) int64, anomalous instants in a row so far; zeros to begin with.

    Returns:
        what to learn, the new ``run``, and where something else than the actual is learned: there
        the instant must not steer the widths either (``intervals.observe``).
    """
    if rules.anomaly_policy == "learn":
        return actual, np.zeros_like(run), np.zeros(run.shape, np.bool_)
    width, _ = _half_width(actual, expected, lower, upper, rules)
    with np.errstate(invalid="ignore"):
        far = np.abs(actual - expected) > rules.clamp_at * width
    withheld = far & (run < rules.patience)
    longer = np.minimum(run + 1, rules.patience)
    new_run = np.where(np.isnan(actual), run, np.where(far, longer, 0))
    if rules.anomaly_policy == "skip":
        return np.where(withheld, np.nan, actual), new_run, withheld
    move = np.where(actual > expected, width, -width) / (run + 1)
    return np.where(withheld, expected + move, actual), new_run, withheld
