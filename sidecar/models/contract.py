"""What a model promises, to the engine and to a user who writes one.

Inside, a model is batched: it learns N series at once, and what it learned (its *state*) is a
frozen dataclass whose every field is an array with N first. A state therefore stores without
pickle, splits over workers by row, and can be replaced for only the rows that drifted. A state is
an argument and a result, never changed in place: the state being served stays as it is while
another is fitted.

A user's own model is per series and follows ``BaseModel``; ``sidecar.models.custom`` runs it beside
the batched ones.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from sidecar.series import FloatArray, TimeArray

# The share of actuals that intervals hold unless a model's settings say otherwise.
OUTPUT_LEVEL: Final = 0.95


@dataclass(frozen=True, eq=False)
class State:
    """What a model learned of N series. Subclasses add fields; every field is an array, N first.

    Attributes:
        last_ms: (N,) int64, the newest instant absorbed (0 for a series that could not be fitted).
        sigma: (N,) float64, standard deviation of the one-step residuals in the series' own unit;
            NaN marks a series that could not be fitted, whose forecasts are NaN.
    """

    last_ms: TimeArray
    sigma: FloatArray


@dataclass(frozen=True, eq=False)
class Intervals:
    """Point forecasts and their prediction interval for N series at H instants.

    Attributes:
        mean, lower, upper: (N, H) float64 with lower <= mean <= upper; NaN rows for series without
            a fitted state.
    """

    mean: FloatArray
    lower: FloatArray
    upper: FloatArray


S = TypeVar("S", bound=State)


class ForecastModel(ABC, Generic[S]):
    """One batched model: settings in, states out, no clock and no randomness of its own.

    A model takes its settings as keywords and keeps them as a frozen dataclass, which checks itself
    and raises ValueError with one line for each problem.

    Attributes:
        name: what the configuration calls it.
        settings_type: the dataclass of its settings. A field that is named like one of
            ``registry.ModelContext`` is filled from the watch unless the user sets it.
        state_type: the dataclass of its states.
        settings: the settings of this one.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[Any]]
    state_type: type[S]
    settings: Any

    @property
    @abstractmethod
    def min_instants(self) -> int:
        """How many instants with a value a series needs before it can be fitted."""

    @property
    def longest_fit(self) -> int:
        """How many of the newest instants a fit looks at; more history is not read for it."""
        return 1_440

    @property
    def level(self) -> float:
        """The share of actuals that its intervals are to hold."""
        return float(getattr(self.settings, "level", OUTPUT_LEVEL))

    @property
    def recipe(self) -> str:
        """Every setting that shapes its states: one of another recipe is no start for this one."""
        return repr(self.settings)

    @abstractmethod
    def fit(self, t_ms: TimeArray, y: FloatArray) -> S:
        """Learn anew.

        Args:
            t_ms: (T,) int64, evenly spaced instants, oldest first.
            y: (N, T) float64; NaN = no sample. A row with fewer than ``min_instants`` values gets a
                state whose sigma is NaN; it spoils no other row.

        Returns:
            The state after ``t_ms[-1]`` has been absorbed.
        """

    @abstractmethod
    def update(self, state: S, t_ms: TimeArray, y: FloatArray) -> S:
        """Absorb the instants after ``state.last_ms``, in order: ``t_ms`` (K,), ``y`` (N, K).

        NaN moves the state on in time without correcting it. Learned parameters stay (but for
        models that learn online). Two short updates equal one long one.
        """

    @abstractmethod
    def forecast(self, state: S, t_ms: TimeArray) -> Intervals:
        """What comes at the H instants ``t_ms`` (H,) that follow the last one absorbed.

        Args:
            t_ms: (H,) int64, ``t_ms[0]`` is the instant after the newest absorbed one.

        Returns:
            (N, H) each; the interval covers 95 % unless the settings say otherwise.
        """

    def finetune(self, state: S, t_ms: TimeArray, y: FloatArray) -> S:
        """Learn on from what is known, from recent instants up to the newest absorbed one.

        Cheaper than a fit and after it in time: what drift asks for first. Shapes as for ``fit``;
        a series whose recent instants do not suffice keeps what it has. Models that cannot learn on
        are fitted to the recent instants alone.
        """
        recent = self.fit(t_ms, y)
        rows = np.flatnonzero(np.isfinite(recent.sigma))
        return put(state, rows, take(recent, rows))

    def explain(self, state: S) -> list[str]:
        """One line for each of the N series: what was chosen for it and why; may be empty."""
        return [""] * len(state.sigma)


def take(state: S, rows: NDArray[Any]) -> S:
    """The state of some series only; ``rows`` is an index array or a mask over N."""
    return type(state)(**{f.name: getattr(state, f.name)[rows] for f in fields(state)})


def concat(states: list[S]) -> S:
    """One state of all the series of several, in order. At least one; all of one type.

    Raises:
        ValueError: fields of different widths, which only differently configured models have.
    """
    return type(states[0])(
        **{
            f.name: np.concatenate([getattr(state, f.name) for state in states])
            for f in fields(states[0])
        }
    )


def put(state: S, rows: NDArray[np.int64], other: S) -> S:
    """``state`` with its ``rows`` replaced by those of ``other``; neither is changed."""
    arrays = {}
    for f in fields(state):
        new = getattr(other, f.name)
        # A copy in the common type: assigning longer byte strings would cut them without a word.
        array = np.array(getattr(state, f.name), np.result_type(getattr(state, f.name), new))
        array[rows] = new
        arrays[f.name] = array
    return type(state)(**arrays)


def to_arrays(state: State) -> dict[str, NDArray[Any]]:
    """The fields by name, as they are stored."""
    return {f.name: getattr(state, f.name) for f in fields(state)}


def from_arrays(state_type: type[S], arrays: Mapping[str, NDArray[Any]]) -> S:
    """What ``to_arrays`` gave, as a state again.

    Raises:
        KeyError: a field is missing, as after a change of the model between two versions.
    """
    return state_type(**{f.name: arrays[f.name] for f in fields(state_type)})


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a fit of one series gave, as users of sentinel-mlops know it.

    Attributes:
        mae: mean absolute one-step error on the newest part of the data, which was held back from
            the fit that is judged (NaN where there was not enough of it).
        n_samples: rows learned from.
        message: what to tell the operator; empty where there is nothing to tell.
    """

    mae: float
    n_samples: int
    message: str = ""


@dataclass(frozen=True, eq=False, slots=True)
class PredictionResult:
    """The forecast of one series: ``values`` (horizon_steps,), bounds of the same shape or None."""

    values: FloatArray
    lower_bound: FloatArray | None = None
    upper_bound: FloatArray | None = None


class BaseModel(ABC):
    """A user's own model of one series, handed as ``model_class``.

    Feature rows ``X`` hold, for a target instant: ``n_lags`` lags (newest last), the mean and the
    standard deviation of those lags, and the sine and cosine of the target's hour of day and day of
    week: n_lags + 6 columns, where n_lags = lookback / granularity.

    Args:
        granularity, horizon, lookback: durations in Prometheus' grammar.
    """

    def __init__(self, granularity: str, horizon: str, lookback: str) -> None:
        self.granularity = granularity
        self.horizon = horizon
        self.lookback = lookback
        self.is_fitted = False

    @abstractmethod
    def fit(self, X: FloatArray, y: FloatArray) -> TrainingResult:
        """Learn anew from ``X`` (n_samples, n_features) and ``y`` (n_samples,), both finite."""

    @abstractmethod
    def partial_fit(self, X: FloatArray, y: FloatArray) -> TrainingResult:
        """Learn on from what is already known; shapes as for ``fit``."""

    @abstractmethod
    def predict(self, X: FloatArray) -> PredictionResult:
        """``horizon_steps`` values from one feature row ``X`` (1, n_features)."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write everything ``load`` needs into the folder ``path``."""

    @abstractmethod
    def load(self, path: Path) -> None:
        """Read what ``save`` wrote."""


def as_float(array: NDArray[Any]) -> FloatArray:
    """The same numbers as C-ordered float64, copied only where needed."""
    return cast(FloatArray, np.ascontiguousarray(array, dtype=np.float64))
