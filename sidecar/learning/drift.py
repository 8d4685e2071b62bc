"""Have the residuals moved? Pure arithmetic over N series; time is an argument.

Two tests run side by side on the one-step residuals:

* the rolling MAE, its few largest residuals levelled (``scores.Rolling.steady``), against two
  thresholds, each a multiple of the version's own error (``"1.5x"``), a share of the series' mean
  absolute level (``"10%"``), or a number in the series' unit. A severity is entered at its
  threshold and left below ``HYSTERESIS`` of it;
* a two-sided CUSUM (Page 1954) of ``z = (residual - centre) / scale`` clipped at 3:
  ``up = max(0, up + z - k)``, ``down = max(0, down - z - k)``, an alarm from ``h`` on. It sees a
  level shift long before the MAE does. Scale is 1.4826 times the median absolute deviation, so
  that the outliers of the reference do not hide those to come.

A severity leads to at most one fit per cooldown, which doubles with each further drift fit within a
day; only a promotion clears what was found.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sidecar.series import FloatArray, TimeArray

IntArray: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]

HYSTERESIS: Final = 0.8
CUSUM_CLIP: Final = 3.0
CUSUM_K: Final = 1.0
CUSUM_H: Final = 12.0
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
LONGEST_DOUBLING: Final = 4
# Instants after a promotion during which the reference still learns from the live residuals: the
# 30 of the validation alone leave its MAE uncertain by 20 % and more.
BURN_IN: Final = 240
# What the validation's figures weigh against that, in instants (more than their 30, so that a shift
# that comes at once is found before it is learned); and how many live residuals make a first
# reference where there was no validation.
PRIOR: Final = 60
FIRST_LOOK: Final = 20
# 1 / (2 f(m)) at the median m of the absolute value of a normal, as a share of m.
SCALE_GAIN: Final = 1.1663
MAE_TO_SIGMA: Final = 1.2533
# Standard error of a normal's median, in sigma / sqrt(n).
MEDIAN_ERROR: Final = 1.2533
# The reference learns nothing while one of the sums is above this: two large residuals in a row, or
# more smaller ones, may be the beginning of what is to be found.
CALM: Final = 2.0
# Below this share of the level a residual is rounding, not error.
ROUNDING: Final = 1e-9
MAD_TO_SIGMA: Final = 1.4826

_RELATIVE = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([xX%])\s*")


class Severity(IntEnum):
    """What the residuals call for; larger is worse."""

    NONE = 0
    FINETUNE = 1
    RETRAIN = 2


class Unit(IntEnum):
    """What a threshold is measured in."""

    ABSOLUTE = 0
    MULTIPLE = 1
    PERCENT = 2


@dataclass(frozen=True, slots=True)
class Threshold:
    """A bound on the rolling MAE.

    >>> Threshold.parse("1.5x"), Threshold.parse("10%").value
    (Threshold(value=1.5, unit=<Unit.MULTIPLE: 1>), 0.1)
    >>> str(Threshold.parse("10%")), str(Threshold.parse(0.3))
    ('10%', '0.3')
    """

    value: float
    unit: Unit

    @classmethod
    def parse(cls, text: "str | float | Threshold") -> "Threshold":
        """From ``"1.5x"``, ``"10%"`` or a number (also one written as text).

        Raises:
            ValueError: none of these, or not above 0.
        """
        if isinstance(text, Threshold):
            return text
        threshold = cls._read(text)
        if threshold is None or not 0 < threshold.value < float("inf"):
            raise ValueError(
                f"{text!r} is not a threshold: write a multiple of the model's own error such as "
                "'1.5x', a share of the series' level such as '10%', or an absolute error above 0"
            )
        return threshold

    @classmethod
    def _read(cls, text: str | float) -> "Threshold | None":
        if isinstance(text, bool):
            return None
        if isinstance(text, int | float):
            return cls(float(text), Unit.ABSOLUTE)
        if match := _RELATIVE.fullmatch(text):
            if match[2] == "%":
                return cls(float(match[1]) / 100, Unit.PERCENT)
            return cls(float(match[1]), Unit.MULTIPLE)
        try:
            return cls(float(text), Unit.ABSOLUTE)
        except ValueError:
            return None

    def limit(self, reference: FloatArray, level: FloatArray) -> FloatArray:
        """The MAE (N,) from which on this threshold is reached; NaN where it cannot be said."""
        match self.unit:
            case Unit.MULTIPLE:
                return self.value * np.maximum(reference, ROUNDING * level)
            case Unit.PERCENT:
                return self.value * level
            case Unit.ABSOLUTE:
                return np.full(reference.shape, self.value)

    def __str__(self) -> str:
        match self.unit:
            case Unit.MULTIPLE:
                return f"{self.value:g}x"
            case Unit.PERCENT:
                return f"{100 * self.value:g}%"
            case Unit.ABSOLUTE:
                return f"{self.value:g}"


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """What counts as drift, and how often it may lead to a fit.

    Attributes:
        cooldown_ms: the least time between two fits of one series that drift asks for.
        cusum: whether the sequential test may ask for a full fit too.
    """

    finetune: Threshold = field(default_factory=lambda: Threshold.parse("1.5x"))
    retrain: Threshold = field(default_factory=lambda: Threshold.parse("3x"))
    cooldown_ms: int = HOUR_MS
    cusum: bool = True


@dataclass(frozen=True, eq=False)
class DriftState:
    """What is remembered of N series; every field is an array, N first.

    Attributes:
        severity: (N,) int64, the level reached by the rolling MAE (a ``Severity``).
        alarm: (N,) bool, whether the sequential test stands at alarm.
        up, down: (N,) float64, the two sums.
        reference: (N,) float64, the serving version's own MAE; NaN before it is known.
        centre, scale: (N,) float64, where its residuals lay and how wide.
        seen: (N,) int64, live residuals that went into reference and scale since the promotion.
        finetune_after_ms, retrain_after_ms: (N,) int64, before which no such fit is due.
        last_ms: (N,) int64, when drift last led to a fit.
        streak: (N,) int64, how many such fits followed each other within a day.
    """

    severity: IntArray
    alarm: BoolArray
    up: FloatArray
    down: FloatArray
    reference: FloatArray
    centre: FloatArray
    scale: FloatArray
    seen: IntArray
    finetune_after_ms: TimeArray
    retrain_after_ms: TimeArray
    last_ms: TimeArray
    streak: IntArray


@dataclass(frozen=True, eq=False)
class Drift:
    """What one instant found.

    Attributes:
        severity: (N,) int64, of both tests together.
        due: (N,) int64, the fit to start now: the severity where its cooldown is over, else 0.
        mae: (N,) float64, as given.
        times: (N,) float64, mae as a multiple of the version's own; NaN before either is known.
        alarm: (N,) bool.
    """

    severity: IntArray
    due: IntArray
    mae: FloatArray
    times: FloatArray
    alarm: BoolArray


def start(size: int) -> DriftState:
    """N series of which nothing is known: without a reference only absolute thresholds work."""

    def zeros() -> IntArray:
        return np.zeros(size, dtype=np.int64)

    def unknown() -> FloatArray:
        return np.full(size, np.nan)

    return DriftState(
        severity=zeros(),
        alarm=np.zeros(size, dtype=np.bool_),
        up=np.zeros(size),
        down=np.zeros(size),
        reference=unknown(),
        centre=unknown(),
        scale=unknown(),
        seen=zeros(),
        finetune_after_ms=zeros(),
        retrain_after_ms=zeros(),
        last_ms=zeros(),
        streak=zeros(),
    )


def assess(
    state: DriftState,
    settings: DriftSettings,
    t_ms: int,
    residual: FloatArray,
    mae: FloatArray,
    level: FloatArray,
    steady: FloatArray | None = None,
    magnitude: FloatArray | None = None,
) -> tuple[DriftState, Drift]:
    """Take in the one-step residuals of instant ``t_ms`` and say what they call for.

    Args:
        residual: (N,); NaN (no sample, judged before) leaves a series' sums as they are.
        mae, level, steady: (N,), as ``scores.rolling`` gives them; NaN until enough was judged. The
            thresholds are for ``steady``; None is ``mae`` itself.
        magnitude: (N,) what rounding is measured by, known from the first instant on; None is
            ``level``.
    """
    state = _burnt_in(state, residual)
    up, down = _sums(state, residual, level if magnitude is None else magnitude)
    alarm = _entered(np.maximum(up, down), CUSUM_H, CUSUM_H / 2, state.alarm)
    severity = _severity(state, settings, mae if steady is None else steady, level)
    state = replace(state, up=up, down=down, alarm=alarm, severity=severity)
    found = np.where(alarm & settings.cusum, int(Severity.RETRAIN), severity)
    after = np.where(found == Severity.RETRAIN, state.retrain_after_ms, state.finetune_after_ms)
    # A cooldown that ends further ahead than any can was set by a clock that has gone back since.
    beyond = after > t_ms + settings.cooldown_ms * 2**LONGEST_DOUBLING
    floor = np.maximum(state.reference, ROUNDING * level)
    with np.errstate(divide="ignore", invalid="ignore"):
        times = np.where((mae == 0) & (floor == 0), 1.0, mae / floor)
    return state, Drift(
        severity=found,
        due=np.where((t_ms >= after) | beyond, found, int(Severity.NONE)),
        mae=mae,
        times=times,
        alarm=alarm,
    )


def queued(
    state: DriftState, settings: DriftSettings, t_ms: int, rows: IntArray, severity: IntArray
) -> DriftState:
    """Note that fits of ``rows`` (K,) for ``severity`` (K,) were queued; their cooldown begins.

    A finetune delays the next finetune but not a full fit, should things get worse meanwhile.
    """
    recent = (t_ms - state.last_ms[rows] < DAY_MS) & (state.last_ms[rows] > 0)
    streak = np.where(recent, state.streak[rows] + 1, 1)
    pause = settings.cooldown_ms * 2 ** np.minimum(streak - 1, LONGEST_DOUBLING)
    full = severity == Severity.RETRAIN
    return replace(
        state,
        finetune_after_ms=_put(state.finetune_after_ms, rows, t_ms + pause),
        retrain_after_ms=_put(state.retrain_after_ms, rows[full], (t_ms + pause)[full]),
        last_ms=_put(state.last_ms, rows, t_ms),
        streak=_put(state.streak, rows, streak),
    )


def promoted(
    state: DriftState, rows: IntArray, mae: FloatArray, centre: FloatArray, scale: FloatArray
) -> DriftState:
    """A new version serves ``rows`` (K,): what was found is cleared, its own errors are the
    reference. The cooldown goes on.

    Args:
        mae, centre, scale: (K,) as ``TrainingOutcome`` has them; NaN where it could not be
            validated: then the first live residuals make the reference.
    """
    return replace(
        state,
        severity=_put(state.severity, rows, 0),
        alarm=_put(state.alarm, rows, False),
        up=_put(state.up, rows, 0.0),
        down=_put(state.down, rows, 0.0),
        reference=_put(state.reference, rows, mae),
        centre=_put(state.centre, rows, centre),
        scale=_put(state.scale, rows, scale),
        seen=_put(state.seen, rows, 0),
    )


def realign(state: DriftState, rows: IntArray) -> DriftState:
    """The state of other series: row i is old row ``rows[i]``, or a new series where that is -1."""
    fresh = start(rows.size)
    known = rows >= 0
    return DriftState(
        **{
            f.name: _put(
                getattr(fresh, f.name), np.flatnonzero(known), getattr(state, f.name)[rows[known]]
            )
            for f in fields(state)
        }
    )


def to_arrays(state: DriftState) -> dict[str, NDArray[Any]]:
    """The fields by name, as they are stored."""
    return {f.name: getattr(state, f.name) for f in fields(state)}


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> DriftState:
    """What ``to_arrays`` gave, as a state again.

    Raises:
        KeyError: a field is missing.
    """
    return DriftState(**{f.name: arrays[f.name] for f in fields(DriftState)})


def robust_centre_and_scale(residuals: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Median and 1.4826 MAD of each row of ``residuals`` (N, K), NaN left out.

    The median is moved towards 0 by two of its standard errors (and not beyond 0): most models have
    no bias, and one that is only sampling error would hide a shift to its own side. The scale is at
    most what the mean deviation says (over 30 instants the MAD may come out half as large again),
    and at least half of the 80 % quantile: where a third of the residuals are spikes the MAD is 0,
    and each spike would count as the largest possible surprise.
    """
    centre, scale = np.full(len(residuals), np.nan), np.full(len(residuals), np.nan)
    known = np.isfinite(residuals)
    some = known.any(axis=1)
    if some.any():
        rows = np.where(known[some], residuals[some], np.nan)
        middle = np.nanmedian(rows, axis=1)
        deviations = np.abs(rows - middle[:, None])
        mad, high = np.nanquantile(deviations, (0.5, 0.8), axis=1)
        most = MAE_TO_SIGMA * np.nanmean(deviations, axis=1)
        scale[some] = np.maximum(np.minimum(MAD_TO_SIGMA * mad, most), high / 2)
        unsure = 2 * MEDIAN_ERROR * scale[some] / np.sqrt(known[some].sum(axis=1))
        centre[some] = np.sign(middle) * np.maximum(np.abs(middle) - unsure, 0.0)
    return centre, scale


def _severity(
    state: DriftState, settings: DriftSettings, mae: FloatArray, level: FloatArray
) -> IntArray:
    severity = np.zeros(mae.shape, dtype=np.int64)
    for threshold, name in (
        (settings.finetune, Severity.FINETUNE),
        (settings.retrain, Severity.RETRAIN),
    ):
        limit = threshold.limit(state.reference, level)
        reached = _entered(mae, limit, HYSTERESIS * limit, state.severity >= name)
        severity = np.where(reached & (mae > ROUNDING * level), int(name), severity)
    return np.where(np.isnan(mae), state.severity, severity)


def _sums(
    state: DriftState, residual: FloatArray, magnitude: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The two CUSUMs after one residual; they stop growing at 2 h, so that they can come down."""
    usable = np.isfinite(residual) & np.isfinite(state.scale)
    scale = np.fmax(state.scale, ROUNDING * magnitude)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        z = np.where(residual == state.centre, 0.0, (residual - state.centre) / scale)
        z = z.clip(-CUSUM_CLIP, CUSUM_CLIP)
    up = np.clip(state.up + z - CUSUM_K, 0.0, 2 * CUSUM_H)
    down = np.clip(state.down - z - CUSUM_K, 0.0, 2 * CUSUM_H)
    return np.where(usable, up, state.up), np.where(usable, down, state.down)


def _burnt_in(state: DriftState, residual: FloatArray) -> DriftState:
    """The reference with one more live residual in it, while the version is young and at peace.

    The MAE by a running mean, the MAD by stochastic approximation of a median (Robbins and Monro
    1951) with the gain that is best for a normal, which no outlier can drag along. The centre stays
    as it was validated: one that learned would follow the shift that is to be found.
    """
    calm = (state.severity == Severity.NONE) & (np.maximum(state.up, state.down) < CALM)
    young = np.isfinite(residual) & (state.seen < BURN_IN) & calm
    if not young.any():
        return state
    seen = state.seen + young
    known = np.isfinite(state.reference)
    size = np.abs(residual)
    weight = 1.0 / np.where(known & np.isfinite(state.scale), PRIOR + seen, np.maximum(seen, 1))
    reference = np.where(known, state.reference + weight * (size - state.reference), size)
    # Never validated: the scale follows from the first live residuals, as for a normal.
    first = young & np.isnan(state.scale) & (seen >= FIRST_LOOK)
    gain = np.where(young & ~first, 1.0 / (PRIOR + seen), 0.0)
    wide = np.sign(np.abs(residual - state.centre) - state.scale / MAD_TO_SIGMA)
    scale = state.scale * (1.0 + gain * SCALE_GAIN * wide)
    return replace(
        state,
        seen=seen,
        reference=np.where(young, reference, state.reference),
        centre=np.where(first, 0.0, state.centre),
        scale=np.where(first, reference * MAE_TO_SIGMA, np.where(gain > 0, scale, state.scale)),
    )


def _entered(
    value: FloatArray, on: FloatArray | float, off: FloatArray | float, inside: BoolArray
) -> BoolArray:
    """Schmitt trigger: entered from ``on`` upwards, left below ``off``; NaN changes nothing."""
    return np.where(inside, ~(value < off), value >= on)


def _put(array: NDArray[Any], rows: IntArray, values: Any) -> NDArray[Any]:
    out = array.copy()
    out[rows] = values
    return out
