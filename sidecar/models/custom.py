"""A user's own model of one series, run as a model of many.

For each series an instance of the user's class is made, fitted on feature rows (``BaseModel`` says
which), saved by its own ``save``, and the folder it wrote is kept as bytes in the state: a state
stays an array of values, is stored without pickle, and an instance being served is never the one
being fitted. What the user's code raises is that series' problem and nobody else's: its forecasts
are NaN and ``explain`` says what was raised.
"""

import io
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from sidecar.duration import format_duration
from sidecar.models.contract import (
    OUTPUT_LEVEL,
    BaseModel,
    ForecastModel,
    Intervals,
    State,
    as_float,
)
from sidecar.models.features import append, cyclic, fill_gaps, rows_before, windows
from sidecar.models.intervals import around
from sidecar.models.naive import rms_difference
from sidecar.models.numeric import IntArray, absorb_new
from sidecar.series import FloatArray, TimeArray

# NumPy's byte strings lose zeros at their end, so each blob ends with something else.
_END: Final = b"\x01"
# Instances kept alive, so that a forecast does not load its model from bytes each time.
ALIVE: Final = 1024
_NOTE_LENGTH: Final = 200
# Of a normal variable: standard deviation / mean absolute deviation.
_SD_OF_MAE: Final = 1.2533


@dataclass(frozen=True, eq=False)
class CustomState(State):
    """
    Attributes:
        missed: (N,) int64, instants since the newest value.
        buffer: (N, n_lags) the newest values; the last one repeated where none was seen.
        blob: (N,) byte strings, what ``save`` wrote; empty for a series that could not be fitted.
        note: (N,) text, what the user's fit said or raised.
    """

    missed: IntArray
    buffer: FloatArray
    blob: NDArray[np.bytes_]
    note: NDArray[np.str_]


class Predictor(Protocol):
    """Asks the instances of K series for their forecasts."""

    def predict(
        self, asked: Sequence[tuple[int, bytes]], X: FloatArray, steps: int
    ) -> tuple[FloatArray, list[str]]:
        """What ``predict`` of each instance says, as ``CustomModel.answer`` gives it.

        Args:
            asked: of each series its row and what its instance saved.
            X: (K, n_features).

        Returns:
            (3, K, steps), NaN for a series that has no answer; and K texts that say why, empty
            where it has.
        """


class CustomModel(ForecastModel[CustomState]):
    """Runs ``model``, a ``BaseModel`` class, for each series.

    Args:
        params: further keywords of its constructor.
        context: granularity_ms, horizon_steps, n_lags, timezone.

    Attributes:
        predictor: what asks the instances for forecasts: the model itself, in this process, unless
            another is put in its place.
    """

    name: ClassVar[str] = "custom"
    state_type = CustomState

    def __init__(
        self, model: type[BaseModel], params: Mapping[str, object], context: Mapping[str, Any]
    ) -> None:
        self.model, self.params = model, dict(params)
        self.n_lags = int(context["n_lags"])
        self.horizon_steps = int(context["horizon_steps"])
        self.timezone = str(context["timezone"])
        self.granularity_ms = int(context["granularity_ms"])
        self.settings = self.params
        self.predictor: Predictor | None = None
        self._alive: OrderedDict[bytes, BaseModel] = OrderedDict()
        # What the newest forecast met. By what it was made from, not by row: ``explain`` is asked
        # about a few series out of many.
        self._raised: dict[tuple[bytes, bytes], str] = {}
        self._made()  # a wrong keyword shows here, not in the first fit

    def _made(self) -> BaseModel:
        """A new instance.

        Raises:
            ValueError: its constructor does not take the parameters.
        """
        try:
            return self.model(
                format_duration(self.granularity_ms),
                format_duration(self.horizon_steps * self.granularity_ms),
                format_duration(self.n_lags * self.granularity_ms),
                **self.params,
            )
        except Exception as error:
            raise ValueError(f"{self.model.__name__}(...) raised {_said(error)}") from error

    @property
    def level(self) -> float:
        return OUTPUT_LEVEL

    @property
    def recipe(self) -> str:
        params = {name: repr(value) for name, value in sorted(self.params.items())}
        return f"{params}, n_lags={self.n_lags}, timezone={self.timezone!r}"

    @property
    def min_instants(self) -> int:
        return self.n_lags + 2

    def fit(self, t_ms: TimeArray, y: FloatArray) -> CustomState:
        filled, observed = fill_gaps(y)
        fitted = observed.sum(axis=1) >= self.min_instants
        n, size = y.shape
        sigma, note = np.full(n, np.nan), [""] * n
        blobs = [b""] * n
        times = cyclic(t_ms[self.n_lags :], self.timezone)
        naive = rms_difference(filled, observed, 1)
        for row in np.flatnonzero(fitted):
            use = observed[row, self.n_lags :]
            lags = windows(filled[row], self.n_lags)[: size - self.n_lags]
            X, target = rows_before(lags, times)[use], filled[row, self.n_lags :][use]
            blobs[row], mae, note[row] = self._fitted(self._made(), X, target, "fit")
            if blobs[row]:
                sigma[row] = _SD_OF_MAE * mae if np.isfinite(mae) else naive[row]
        padded = np.concatenate([np.repeat(filled[:, :1], self.n_lags, axis=1), filled], axis=1)
        return CustomState(
            last_ms=np.where(np.isfinite(sigma), t_ms[-1], 0),
            sigma=sigma,
            missed=np.argmax(observed[:, ::-1], axis=1),
            buffer=padded[:, -self.n_lags :].copy(),
            blob=np.array(blobs, np.bytes_),
            note=np.array([one[:_NOTE_LENGTH] for one in note], np.str_),
        )

    def _fitted(
        self, instance: BaseModel, X: FloatArray, y: FloatArray, how: str
    ) -> tuple[bytes, float, str]:
        """What the instance saved after ``fit`` or ``partial_fit``, its own error, its message."""
        try:
            result = getattr(instance, how)(X, y)
            return _packed(instance), float(result.mae), str(result.message)
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything; it is shown
            return b"", np.nan, f"{how} raised {_said(error)}"

    def finetune(self, state: CustomState, t_ms: TimeArray, y: FloatArray) -> CustomState:
        """``partial_fit`` of each instance on the rows of recent instants."""
        filled, observed = fill_gaps(y)
        size = y.shape[1]
        times = cyclic(t_ms[self.n_lags :], self.timezone)
        blobs, notes = list(state.blob), list(state.note)
        for row in np.flatnonzero(np.isfinite(state.sigma)):
            use = observed[row, self.n_lags :]
            if not use.any():
                continue
            lags = windows(filled[row], self.n_lags)[: size - self.n_lags]
            X, target = rows_before(lags, times)[use], filled[row, self.n_lags :][use]
            blob, _, note = self._fitted(
                _loaded(self._made(), blobs[row]), X, target, "partial_fit"
            )
            blobs[row], notes[row] = blob or blobs[row], note[:_NOTE_LENGTH]
        return replace(state, blob=np.array(blobs, np.bytes_), note=np.array(notes, np.str_))

    def update(self, state: CustomState, t_ms: TimeArray, y: FloatArray) -> CustomState:
        return absorb_new(self._absorb, state, t_ms, y)

    def _absorb(self, state: CustomState, t_ms: TimeArray, y: FloatArray) -> CustomState:
        buffer, missed = state.buffer, state.missed
        for column in y.T:
            seen = np.isfinite(column)
            value = np.where(seen, column, buffer[:, -1])
            buffer = append(buffer, value, np.where(seen, missed, 0))
            missed = np.where(seen, 0, missed + 1)
        last_ms = np.where(np.isfinite(state.sigma), t_ms[-1], state.last_ms)
        return replace(state, last_ms=last_ms, buffer=buffer, missed=missed)

    def forecast(self, state: CustomState, t_ms: TimeArray) -> Intervals:
        told = np.full((3, len(state.sigma), len(t_ms)), np.nan)
        raised: dict[tuple[bytes, bytes], str] = {}
        rows = np.flatnonzero(np.isfinite(state.sigma))
        if len(t_ms) and rows.size:
            X = rows_before(state.buffer, cyclic(t_ms[:1], self.timezone))[rows]
            asked = [(row, bytes(state.blob[row])) for row in rows.tolist()]
            ask = self.predict if self.predictor is None else self.predictor.predict
            told[:, rows], said = ask(asked, X, len(t_ms))
            for (row, blob), text in zip(asked, said, strict=True):
                if text:
                    raised[blob, state.buffer[row].tobytes()] = text[:_NOTE_LENGTH]
        self._raised = raised
        mean, lower, upper = told
        steps = np.arange(1, len(t_ms) + 1) + state.missed[:, None]
        plain = around(mean, state.sigma[:, None] * np.sqrt(steps), OUTPUT_LEVEL)
        return Intervals(
            mean=mean,
            lower=np.where(np.isfinite(lower), np.minimum(lower, mean), plain.lower),
            upper=np.where(np.isfinite(upper), np.maximum(upper, mean), plain.upper),
        )

    def predict(
        self, asked: Sequence[tuple[int, bytes]], X: FloatArray, steps: int
    ) -> tuple[FloatArray, list[str]]:
        """``Predictor.predict`` in this process."""
        told, said = np.full((3, len(asked), steps), np.nan), [""] * len(asked)
        for at, (_, blob) in enumerate(asked):
            try:
                told[:, at] = self.answer(blob, X[at : at + 1], steps)
            except Exception as error:  # noqa: BLE001 - a user's code may raise anything; it is shown
                said[at] = raised_by_predict(error)
        return told, said

    def answer(self, blob: bytes, X: FloatArray, steps: int) -> FloatArray:
        """Values, lower and upper bounds (3, steps) that the instance which saved ``blob`` says for
        ``X`` (1, n_features); NaN where it says nothing. Raises whatever the user's code raises.
        """
        told = np.full((3, steps), np.nan)
        said = self._instance(blob).predict(X)
        for row, values in zip(
            told, (said.values, said.lower_bound, said.upper_bound), strict=True
        ):
            _place(row, values)
        return told

    def _instance(self, blob: bytes) -> BaseModel:
        """The instance that saved ``blob``; the most recently used ones are kept."""
        if blob not in self._alive:
            self._alive[blob] = _loaded(self._made(), blob)
            if len(self._alive) > ALIVE:
                self._alive.popitem(last=False)
        self._alive.move_to_end(blob)
        return self._alive[blob]

    def explain(self, state: CustomState) -> list[str]:
        return [
            self._raised.get((bytes(blob), buffer.tobytes()), str(note))
            for blob, buffer, note in zip(state.blob, state.buffer, state.note, strict=True)
        ]


def _place(row: FloatArray, values: FloatArray | None) -> None:
    """Write as many of ``values`` as there are instants; the others stay NaN."""
    if values is not None:
        flat = as_float(np.asarray(values)).ravel()[: len(row)]
        row[: len(flat)] = np.where(np.isfinite(flat), flat, np.nan)


def _packed(instance: BaseModel) -> bytes:
    """The folder that ``save`` writes, as one uncompressed zip file."""
    with tempfile.TemporaryDirectory() as folder, io.BytesIO() as buffer:
        instance.save(Path(folder))
        with zipfile.ZipFile(buffer, "w") as archive:
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    # A fixed date: equal models give equal bytes, and so one living instance.
                    name = zipfile.ZipInfo(str(path.relative_to(folder)))
                    archive.writestr(name, path.read_bytes())
        return buffer.getvalue() + _END


def _loaded(instance: BaseModel, blob: bytes) -> BaseModel:
    """``instance`` after it has loaded what another saved."""
    with (
        tempfile.TemporaryDirectory() as folder,
        zipfile.ZipFile(io.BytesIO(blob[: -len(_END)])) as archive,
    ):
        archive.extractall(folder)
        instance.load(Path(folder))
    instance.is_fitted = True
    return instance


def raised_by_predict(error: Exception) -> str:
    """What ``explain`` says of a forecast that the user's code did not give."""
    return f"predict raised {_said(error)}"


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
