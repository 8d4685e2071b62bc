"""Small models for the tests of the learning loop, some of which do harm on purpose."""

import ctypes
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sidecar.models.contract import (
    BaseModel,
    ForecastModel,
    Intervals,
    PredictionResult,
    State,
    TrainingResult,
)
from sidecar.series import FloatArray, TimeArray

MINUTE_MS = 60_000
# A series that starts with this value is the one that a harmful model stumbles over.
POISON = 666.0


def instants(count: int, after_ms: int = 0, step_ms: int = MINUTE_MS) -> TimeArray:
    return after_ms + step_ms * np.arange(1, count + 1, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class MeanState(State):
    """
    Attributes:
        mean: (N,).
        learned: (N,) how many values the mean is of.
    """

    mean: FloatArray
    learned: FloatArray


@dataclass(frozen=True)
class MeanSettings:
    least: int = 4


@dataclass(frozen=True)
class HarmSettings:
    harm: str = ""
    note: str = ""


class MeanModel(ForecastModel[MeanState]):
    """The mean of what it was fitted on, for ever: it does not adapt."""

    name = "toy_mean"
    settings_type: ClassVar[type[Any]] = MeanSettings
    state_type = MeanState

    def __init__(self, least: int = 4) -> None:
        self.settings = MeanSettings(least)
        self.least = least

    @property
    def min_instants(self) -> int:
        return self.least

    def fit(self, t_ms: TimeArray, y: FloatArray) -> MeanState:
        values = np.isfinite(y)
        count = values.sum(axis=1)
        fitted = count >= self.least
        total = np.where(values, y, 0.0).sum(axis=1)
        mean = np.where(fitted, total / np.maximum(count, 1), np.nan)
        spread = np.where(values, (y - mean[:, None]) ** 2, 0.0).sum(axis=1)
        return MeanState(
            last_ms=np.where(fitted, t_ms[-1], 0),
            sigma=np.where(fitted, np.sqrt(spread / np.maximum(count, 1)), np.nan),
            mean=mean,
            learned=count.astype(np.float64),
        )

    def update(self, state: MeanState, t_ms: TimeArray, y: FloatArray) -> MeanState:
        del y
        fitted = np.isfinite(state.sigma)
        last = np.where(fitted, np.maximum(state.last_ms, t_ms[-1]), state.last_ms)
        return MeanState(last, state.sigma, state.mean, state.learned)

    def forecast(self, state: MeanState, t_ms: TimeArray) -> Intervals:
        mean = np.repeat(state.mean[:, None], t_ms.size, axis=1)
        half = 1.96 * state.sigma[:, None]
        return Intervals(mean, mean - half, mean + half)

    def finetune(self, state: MeanState, t_ms: TimeArray, y: FloatArray) -> MeanState:
        """The old mean and the mean of what is new, half and half."""
        new = self.fit(t_ms, y)
        return MeanState(new.last_ms, new.sigma, (state.mean + new.mean) / 2, new.learned)


class HarmfulModel(MeanModel):
    """Does ``harm`` when it is fitted on a series that starts with ``POISON``, else behaves."""

    name = "toy_harmful"
    settings_type = HarmSettings

    def __init__(self, harm: str, note: str = "") -> None:
        super().__init__()
        self.harm, self.note = harm, note

    def fit(self, t_ms: TimeArray, y: FloatArray) -> MeanState:
        if self.note:
            with Path(self.note).open("a") as file:
                file.write(f"{os.getpid()} {len(y)}\n")
        if (y[:, 0] == POISON).any():
            return self._do_harm(t_ms, y)
        return super().fit(t_ms, y)

    def _do_harm(self, t_ms: TimeArray, y: FloatArray) -> MeanState:
        state = super().fit(t_ms, y)
        match self.harm:
            case "wrong_shape":
                return MeanState(state.last_ms, state.sigma, state.mean[:-1], state.learned)
            case "nan":
                return MeanState(state.last_ms, state.sigma, state.mean * np.nan, state.learned)
            case harm:
                do_harm(harm)
        return state


def do_harm(harm: str) -> None:
    """What code that is not ours may do to the process it runs in."""
    match harm:
        case "raise":
            raise ZeroDivisionError("the poisoned series")
        case "exit":
            os._exit(3)
        case "segfault":
            ctypes.string_at(0)
        case "hang":
            time.sleep(3600)
        case "dawdle":
            time.sleep(0.4)
        case "spin":
            while True:
                pass
        case "allocate":
            hoard = [np.ones(1 << 24) for _ in range(1000)]
            assert hoard
        case "print":
            print("printed by a model")


class BrokenModel(MeanModel):
    """Cannot be built."""

    name = "toy_broken"

    def __init__(self) -> None:
        raise ValueError("these settings do not go together")


class OwnModel(BaseModel):
    """A user's own model: the mean of y."""

    mean = 0.0

    def fit(self, X: FloatArray, y: FloatArray) -> TrainingResult:
        self.mean = float(y.mean())
        return TrainingResult(float(np.abs(y - self.mean).mean()), len(y))

    def partial_fit(self, X: FloatArray, y: FloatArray) -> TrainingResult:
        return self.fit(X, y)

    def predict(self, X: FloatArray) -> PredictionResult:
        return PredictionResult(np.full(3, self.mean))

    def save(self, path: Path) -> None:
        (path / "mean").write_text(repr(self.mean))

    def load(self, path: Path) -> None:
        self.mean = float((path / "mean").read_text())


class HarmfulOwnModel(OwnModel):
    """Does ``harm`` when it is asked for a forecast from a newest value of ``POISON`` and the file
    ``switch`` exists, if one is named; else it is the mean."""

    def __init__(
        self, granularity: str, horizon: str, lookback: str, harm: str = "", switch: str = ""
    ) -> None:
        super().__init__(granularity, horizon, lookback)
        self.harm, self.switch = harm, switch

    def predict(self, X: FloatArray) -> PredictionResult:
        newest = X[0, -7]  # before the mean, the standard deviation and the four of the calendar
        if newest == POISON and (not self.switch or Path(self.switch).exists()):
            if self.harm == "wrong_shape":
                return PredictionResult(np.array(["not", "a", "number"]))
            do_harm(self.harm)
        return super().predict(X)
