"""``auto``: several models for each series, and the one that would have served it best.

The default: take it unless you know better. Most series are served by the median of four members,
which is more accurate than any of them: it needs no history to choose by and is wrong only where
most members are. It gives way to one member alone, or to naive (flat, zero-inflated and step
series), only where a back-test says so by a clear margin, which also keeps the choice from flapping
from one fit to the next.

Members: ``lags`` (twelve differences and three running means), ``far`` (24 differences and the
means), ``levels`` (24 levels; up to 96 steps ahead), ``holt`` (damped, on the newest 288 instants);
and ``naive``.

    fit     every member on all but the newest B instants; its state is then rolled forward, not
            refitted, to V origins (at least four), and the mean absolute error over the horizon
            taken at each. Then every member on everything.
    choose  the median of the live members, unless some member's error is below (1 - margin) times
            the median's own. For a series that holds its value (four in five values equal the one
            before) naive, unless the median's error is below (1 - margin) times naive's.
    bounds  the median of the members' bounds, or those of the one chosen, times k^.3, k
            the quantile of |residual| / half width in the back-test (split conformal prediction,
            blended and bounded as its few scores deserve: .6 to 1.6); up to a fifth wider where
            fewer than 1,500 values were fitted.

(Combining forecasts by their median: Petropoulos and Svetunkov, A simple combination of univariate
models, International Journal of Forecasting 36, 2020. Split conformal: Vovk, Gammerman and Shafer,
Algorithmic Learning in a Random World, 2005.)

With less history than the back-test needs, the median of whatever could be fitted and naive
(``far`` and ``levels`` only from 60 values on); with less than that, naive alone. ``explain`` says
which it was and by what figures.

Settings: ``margin`` (.2), ``origins`` (4), ``horizon_steps`` (the watch's), ``level`` of the
interval (.95).

Measured on the public set, a day of five-minute instants, an hour ahead: MASE 1.60, MAE .785 of
naive's (naive 2.32; AutoARIMA 1.88), bounds hold .949; six hours of history 1.69 (.941); a week .98
(.957), and a day ahead 1.91 (.962); two weeks of hourly ones, a day ahead, 2.20 (.933; naive 2.98).
Live, with calibrated intervals: .953 held, 98 % of the series within .93 to .97. A fit with its
back-test takes .27 ms a series in large batches.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from sidecar.models.composite import composite, flat, part
from sidecar.models.contract import ForecastModel, Intervals, State, as_float
from sidecar.models.holt import ExponentialSmoothingModel
from sidecar.models.lags import LagsModel
from sidecar.models.naive import NaiveModel
from sidecar.models.numeric import IntArray
from sidecar.models.settings import SHARE, at_least, between, check
from sidecar.series import FloatArray, TimeArray

HOLT_INSTANTS: Final = 288
# The back-test takes at most a third of the history and needs this much of it.
SHORTEST_BACKTEST: Final = 48
# Fewer values than this are not averaged over: naive serves.
FEWEST: Final = 10
MEDIAN: Final = -1
# The members of 24 lags fit anything to fewer values, and believe in it.
ENOUGH_FOR_LONG: Final = 60
LONG: Final = ("far", "levels")
# Levels decay to their mean, which is no forecast so far ahead.
LONG_HORIZON: Final = 96
BLEND: Final = 0.3
HOLDING: Final = 0.8
SPREAD: Final = (0.6, 1.6)
# Widened by a fifth up to 195 values, an eighth for 288, not at all from 1,500 on.
CAUTION, CONFIDENT, MOST_CAUTION = 45.0, 0.03, 0.2


@dataclass(frozen=True, slots=True)
class AutoSettings:
    """See the module."""

    margin: float = 0.2
    origins: int = 4
    horizon_steps: int = 5
    level: float = 0.95

    def __post_init__(self) -> None:
        check(
            self,
            {
                "margin": between(0.0, 0.9),
                "origins": at_least(4),
                "horizon_steps": at_least(1),
                "level": SHARE,
            },
        )


@dataclass(frozen=True, eq=False)
class AutoState(State):
    """Beside these, each member's state with its name before the fields.

    Attributes:
        choice: (N,) int64, the member that serves, ``MEDIAN`` for the median of all.
        errors: (N, members + 1) mean absolute errors of the back-test, the median's last; NaN
            where there was none.
        values: (N,) int64, how many values the fit had.
        spread: (N,) what the members' widths are multiplied by.
    """

    choice: IntArray
    errors: FloatArray
    values: IntArray
    spread: FloatArray


class AutoModel(ForecastModel[AutoState]):
    """The median of several models, or one of them; see the module."""

    name: ClassVar[str] = "auto"
    settings_type: ClassVar[type[Any]] = AutoSettings

    def __init__(self, **settings: Any) -> None:
        self.settings: AutoSettings = AutoSettings(**settings)
        level = self.settings.level
        self.members: dict[str, ForecastModel[Any]] = {
            "lags": LagsModel(level=level),
            "far": LagsModel(order=24, level=level),
            "levels": LagsModel(order=24, on="levels", ridge=0.3, level=level),
            "holt": ExponentialSmoothingModel(damped=True, level=level),
            "naive": NaiveModel(level=level),
        }
        if self.settings.horizon_steps > LONG_HORIZON:
            del self.members["levels"]
        self.names = list(self.members)
        types = {name: member.state_type for name, member in self.members.items()}
        self.state_type = composite(AutoState, **types)

    def __reduce__(self) -> Any:
        return _made, (self.settings,)

    @property
    def min_instants(self) -> int:
        return self.members["naive"].min_instants

    def fit(self, t_ms: TimeArray, y: FloatArray) -> AutoState:
        values = np.isfinite(y).sum(axis=1)
        errors, choice, spread = self._backtest(t_ms, y, values)
        few = (values < ENOUGH_FOR_LONG)[:, None]
        short = np.where(few, np.nan, y) if few.any() else y
        states = {
            name: self._fit_member(name, t_ms, short if name in LONG else y) for name in self.names
        }
        spread = spread * _caution(values)
        own = {"choice": choice, "errors": errors, "values": values, "spread": spread}
        return self._state(states, own)

    def _fit_member(self, name: str, t_ms: TimeArray, y: FloatArray) -> State:
        newest = slice(-HOLT_INSTANTS if name == "holt" else None, None)
        state: State = self.members[name].fit(t_ms[newest], y[:, newest])
        return state

    def _state(self, states: Mapping[str, State], own: Mapping[str, NDArray[Any]]) -> AutoState:
        sigma = np.stack([states[name].sigma for name in self.names])
        arrays = dict(own)
        for name, state in states.items():
            arrays |= flat(name, state)
        return self.state_type(
            last_ms=np.max([state.last_ms for state in states.values()], axis=0),
            sigma=_served(sigma, _middle(sigma), own["choice"]),
            **arrays,
        )

    def _moved(self, state: AutoState, states: Mapping[str, State]) -> AutoState:
        own = {name: getattr(state, name) for name in ("choice", "errors", "values", "spread")}
        return self._state(states, own)

    def _states(self, state: AutoState) -> dict[str, State]:
        return {name: part(state, name, member.state_type) for name, member in self.members.items()}

    def _backtest(
        self, t_ms: TimeArray, y: FloatArray, values: IntArray
    ) -> tuple[FloatArray, IntArray, FloatArray]:
        """Errors (N, members + 1), the median's last and NaN where there was no test; what serves
        (N,); and by how much widths are to be scaled (N,)."""
        n, size = y.shape
        errors = np.full((n, len(self.names) + 1), np.nan)
        holding = _holding(y)
        choice = np.where((values < FEWEST) | holding, self.names.index("naive"), MEDIAN)
        spread = np.ones(n)
        horizon = max(1, min(self.settings.horizon_steps, size // 12))
        held = max(self.settings.origins * horizon, min(SHORTEST_BACKTEST, size // 6))
        rows = np.flatnonzero(values >= SHORTEST_BACKTEST + held)
        if not len(rows) or size <= held:
            return errors, choice, spread
        origins = np.linspace(size - held, size - horizon, self.settings.origins).astype(int)
        paths = self._rolled(t_ms, y[rows], origins.tolist(), horizon)
        actual = np.stack([y[rows, origin : origin + horizon] for origin in origins], axis=1)
        middle = _middle(paths[: self.names.index("naive")])
        means = np.concatenate([paths[:, 0], middle[:1]])
        errors[rows] = _mean_known(np.abs(means - actual)).T
        choice[rows] = self._choose(errors[rows], holding[rows])
        serving = _served(paths.swapaxes(1, 2), middle.swapaxes(0, 1), choice[rows])
        mean, lower, upper = serving.swapaxes(0, 1)
        spread[rows] = self._spread(mean, (upper - lower) / 2, actual)
        return errors, choice, spread

    def _rolled(
        self, t_ms: TimeArray, y: FloatArray, origins: list[int], horizon: int
    ) -> FloatArray:
        """(members, 3, N, V, H) means and bounds of every member from V origins.

        Each is fitted once, before the first of them, and rolled from one to the next.
        """
        paths = np.empty((len(self.names), 3, len(y), len(origins), horizon))
        for at, (name, member) in enumerate(self.members.items()):
            before = origins[0]
            state = self._fit_member(name, t_ms[:before], y[:, :before])
            for v, origin in enumerate(origins):
                if origin > before:
                    state = member.update(state, t_ms[before:origin], y[:, before:origin])
                    before = origin
                got = member.forecast(state, t_ms[origin : origin + horizon])
                paths[at, :, :, v] = got.mean, got.lower, got.upper
        return paths

    def _choose(self, errors: FloatArray, holding: NDArray[np.bool_]) -> IntArray:
        """(N,) the member whose error is least, if it is clearly below the median's own; naive for
        series that hold their value, unless the median's error is clearly below naive's."""
        singles, median = errors[:, :-1], errors[:, -1]
        known = np.where(np.isfinite(singles), singles, np.inf)
        best, naive = np.argmin(known, axis=1), self.names.index("naive")
        with np.errstate(invalid="ignore"):
            clear = known[np.arange(len(best)), best] < (1 - self.settings.margin) * median
            moves = median < (1 - self.settings.margin) * known[:, naive]
        return np.where(clear, best, np.where(holding & ~moves, naive, MEDIAN))

    def _spread(self, mean: FloatArray, half: FloatArray, actual: FloatArray) -> FloatArray:
        """(N,) the quantile of the scores to the power ``BLEND``, each argument (N, V, H)."""
        with np.errstate(over="ignore"):
            ratio = np.abs(actual - mean) / np.maximum(half, np.finfo(np.float64).tiny)
        scores = np.sort(ratio.reshape(len(actual), -1), axis=1)
        count = np.isfinite(scores).sum(axis=1)
        rank = np.ceil(self.settings.level * (count + 1)).astype(np.int64)
        at = np.clip(np.minimum(rank, count) - 1, 0, None)
        k = np.take_along_axis(scores, at[:, None], axis=1)[:, 0]
        return np.where(count > 0, np.clip(k**BLEND, *SPREAD), 1.0)

    def update(self, state: AutoState, t_ms: TimeArray, y: FloatArray) -> AutoState:
        states = {
            name: self.members[name].update(one, t_ms, y)
            for name, one in self._states(state).items()
        }
        return self._moved(state, states)

    def finetune(self, state: AutoState, t_ms: TimeArray, y: FloatArray) -> AutoState:
        """Every member learns on; the choice between them stays until the next fit."""
        states = {
            name: self.members[name].finetune(one, t_ms, y)
            for name, one in self._states(state).items()
        }
        return self._moved(state, states)

    def forecast(self, state: AutoState, t_ms: TimeArray) -> Intervals:
        got = [self.members[name].forecast(one, t_ms) for name, one in self._states(state).items()]
        paths = np.stack([(one.mean, one.lower, one.upper) for one in got])
        alone = paths.copy()
        # Where nothing was back-tested, naive has a voice in the median.
        paths[self.names.index("naive")][:, np.isfinite(state.errors[:, -1])] = np.nan
        serving = _served(alone.swapaxes(1, 2), _middle(paths).swapaxes(0, 1), state.choice)
        mean, lower, upper = serving.swapaxes(0, 1)
        # The middle of several widths may shrink with the lead; uncertainty does not.
        below = np.maximum.accumulate(mean - lower, axis=1) * state.spread[:, None]
        above = np.maximum.accumulate(upper - mean, axis=1) * state.spread[:, None]
        return Intervals(mean=mean, lower=mean - below, upper=mean + above)

    def explain(self, state: AutoState) -> list[str]:
        return [
            self._line(int(choice), errors, int(values))
            for choice, errors, values in zip(state.choice, state.errors, state.values, strict=True)
        ]

    def _line(self, choice: int, errors: FloatArray, values: int) -> str:
        if values < self.min_instants:
            return f"nothing: {values} values do not make a history"
        if values < FEWEST:
            return f"naive: {values} values, {FEWEST} are needed for more"
        if not np.isfinite(errors[-1]):
            return (
                f"naive: {values} values, nearly all equal to the one before"
                if choice != MEDIAN
                else f"median of what fits {values} values: too few for a back-test"
            )
        best = int(np.nanargmin(errors[:-1]))
        said = f"back-test: {self.names[best]} {errors[best]:.4g}, median {errors[-1]:.4g}"
        if choice == MEDIAN:
            return f"median of members: none is clearly better ({said})"
        if errors[choice] < (1 - self.settings.margin) * errors[-1]:
            return f"{self.names[choice]}: clearly better than the median ({said})"
        return f"naive: nearly all values equal the one before ({said})"


def _made(settings: AutoSettings) -> AutoModel:
    return AutoModel(**{f.name: getattr(settings, f.name) for f in fields(settings)})


def _caution(values: IntArray) -> FloatArray:
    """(N,) by how much to widen what was learned from so many values: the next hour is less
    regular than the past that was fitted, and the more so the less of it was seen."""
    return 1.0 + np.clip(CAUTION / np.maximum(values, 1) - CONFIDENT, 0.0, MOST_CAUTION)


def _holding(y: FloatArray) -> NDArray[np.bool_]:
    """(N,) series whose values nearly all equal the one before."""
    pairs = np.isfinite(y[:, 1:]) & np.isfinite(y[:, :-1])
    same = (y[:, 1:] == y[:, :-1]).sum(axis=1)
    return np.asarray(same > HOLDING * np.maximum(pairs.sum(axis=1), 1))


def _middle(stack: FloatArray) -> FloatArray:
    """The median over the first axis, NaN left out; NaN where all are."""
    ordered = np.sort(stack, axis=0)
    count = np.isfinite(ordered).sum(axis=0, keepdims=True)
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0) // 2, axis=0)
    high = np.take_along_axis(ordered, np.maximum(count, 1) // 2, axis=0)
    return as_float((low + (high - low) / 2)[0])


def _served(members: FloatArray, middle: FloatArray, choice: IntArray) -> FloatArray:
    """(N, ...) what was chosen for each series, of ``members`` (members, N, ...) or the middle."""
    single = members[np.maximum(choice, 0), np.arange(len(choice))]
    chosen = (choice != MEDIAN).reshape(-1, *[1] * (single.ndim - 1))
    return np.where(chosen, single, middle)


def _mean_known(values: FloatArray) -> FloatArray:
    """(..., N) the mean over the last two axes, NaN left out; NaN where all are."""
    known = np.isfinite(values)
    count = known.sum(axis=(-2, -1))
    total = np.where(known, values, 0.0).sum(axis=(-2, -1))
    return as_float(np.where(count > 0, total / np.maximum(count, 1), np.nan))
