"""Speed of Holt and ARIMA against statsforecast, and how near their sums of squares come.

Windows of 288 recorded values (``--data``), or walks where there is no such file. Rates are per
core and second of CPU time, rounds interleaved. statsforecast is optional (dependency group
``bench``): without it the rows have no ratio and the parity is skipped.

The rows named ``textbook`` fit what statsforecast fits (initial states fitted, plain least
squares); the others are the models as they come: robust, from the first sample on. ``warm`` rows
start from an earlier fit.
"""

import os
from argparse import Namespace
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tests.bench import Figure, Measure, Rounds, Skipped, cpu_rate, cpu_seconds, figures, row
from tests.bench.accuracy import PROTOCOLS, recorded, windows_of

T: Final = 288
STEP_MS: Final = 300_000
MANY: Final = 10_000
PEER: Final = "statsforecast"

Array = NDArray[Any]


def instants(first: int, count: int) -> NDArray[np.int64]:
    return STEP_MS * (first + np.arange(1, count + 1, dtype=np.int64))


@cache
def windows(path: Path) -> Array:
    """(N, 288), those that move, shuffled so that neighbours are not of one series."""
    random = np.random.default_rng(0)
    if path.exists():
        found = windows_of(recorded(path), PROTOCOLS["main"], None)
        y = np.concatenate([one.history for one in found])
        y = y[(np.diff(y, axis=1) != 0.0).mean(axis=1) >= 0.02]
    else:
        y = np.cumsum(random.normal(size=(1024, T)), axis=1) + random.normal(size=(1024, T))
    return np.ascontiguousarray(random.permutation(y))


def peers() -> Any:
    """The models of statsforecast."""
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")
    try:
        return import_module("statsforecast.models")
    except ImportError:
        raise Skipped("statsforecast is not installed (dependency group bench)") from None


def peer(make: Callable[[Any], Any], count: int, y: Array) -> Measure | None:
    """Series per second of a statsforecast model; None where that is not installed."""
    try:
        statsforecast = peers()
    except Skipped:
        return None
    make(statsforecast).fit(y[0])  # compiles
    return cpu_rate(count, lambda: [make(statsforecast).fit(one) for one in y[:count]])


def holt(**settings: Any) -> Any:
    from sidecar.models.holt import ExponentialSmoothingModel

    return ExponentialSmoothingModel(**settings)


def textbook(**settings: Any) -> Any:
    return holt(initial="fitted", robust=False, **settings)


def arima(**settings: Any) -> Any:
    from sidecar.models.arima import ARIMAModel

    return ARIMAModel(**settings)


def undamped(statsforecast: Any) -> Any:
    return statsforecast.AutoETS(model="AAN", damped=False)


def damped(statsforecast: Any) -> Any:
    return statsforecast.AutoETS(model="AAN", damped=True)


def cold(options: Namespace, model: Any, make: Callable[[Any], Any], count: int) -> Rounds:
    """Fits of all windows at once, and of ``count`` windows by the peer."""
    y, t_ms = windows(options.data), instants(0, T)
    return Rounds(cpu_rate(len(y), lambda: model.fit(t_ms, y)), peer(make, count, y))


def warm(options: Namespace, model: Any, make: Callable[[Any], Any], count: int) -> Rounds:
    """The same from a fit of the same windows twelve instants earlier."""
    y, t_ms = windows(options.data), instants(0, T)
    earlier = model.fit(t_ms[:-12], y[:, :-12])
    again = cpu_rate(len(y), lambda: model.fit(t_ms, y, warm=earlier))
    return Rounds(again, peer(make, count, y))


@row("fit_holt", unit="series/s cpu", reference=PEER)
def fit_holt(options: Namespace) -> Rounds:
    return cold(options, holt(damped=False), undamped, 150)


@row("fit_holt_textbook", unit="series/s cpu", reference=PEER)
def fit_holt_textbook(options: Namespace) -> Rounds:
    return cold(options, textbook(damped=False), undamped, 150)


@row("fit_holt_warm", unit="series/s cpu", reference=PEER)
def fit_holt_warm(options: Namespace) -> Rounds:
    return warm(options, holt(damped=False), undamped, 150)


@row("fit_holt_textbook_warm", unit="series/s cpu", reference=PEER)
def fit_holt_textbook_warm(options: Namespace) -> Rounds:
    return warm(options, textbook(damped=False), undamped, 150)


@row("fit_holt_damped", unit="series/s cpu", reference=PEER)
def fit_holt_damped(options: Namespace) -> Rounds:
    return cold(options, holt(damped=True), damped, 60)


@row("fit_holt_damped_textbook", unit="series/s cpu", reference=PEER)
def fit_holt_damped_textbook(options: Namespace) -> Rounds:
    return cold(options, textbook(damped=True), damped, 60)


@row("fit_holt_damped_warm", unit="series/s cpu", reference=PEER)
def fit_holt_damped_warm(options: Namespace) -> Rounds:
    return warm(options, holt(damped=True), damped, 60)


@row("fit_holt_one", unit="series/s cpu", reference=PEER)
def fit_holt_one(options: Namespace) -> Rounds:
    """One series at a time, as a watch of a single series has it."""
    y, t_ms, model = windows(options.data)[:60], instants(0, T), holt(damped=True)
    return Rounds(
        cpu_rate(len(y), lambda: [model.fit(t_ms, one[None]) for one in y]), peer(damped, 60, y)
    )


@row("fit_holt_seasonal", unit="series/s cpu")
def fit_holt_seasonal(options: Namespace) -> Rounds:
    y, t_ms, model = windows(options.data)[:512], instants(0, T), holt(seasonal_steps=12)
    return Rounds(cpu_rate(len(y), lambda: model.fit(t_ms, y)))


@row("fit_arima", unit="series/s cpu", reference=PEER)
def fit_arima(options: Namespace) -> Rounds:
    return cold(options, arima(), lambda them: them.ARIMA(order=(3, 1, 1)), 20)


@row("fit_arima111", unit="series/s cpu", reference=PEER)
def fit_arima111(options: Namespace) -> Rounds:
    model = arima(p=1, d=1, q=1)
    return cold(options, model, lambda them: them.ARIMA(order=(1, 1, 1)), 30)


@row("fit_arima212", unit="series/s cpu", reference=PEER)
def fit_arima212(options: Namespace) -> Rounds:
    model = arima(p=2, d=1, q=2)
    return cold(options, model, lambda them: them.ARIMA(order=(2, 1, 2)), 20)


@row("fit_arima212_warm", unit="series/s cpu", reference=PEER)
def fit_arima212_warm(options: Namespace) -> Rounds:
    model = arima(p=2, d=1, q=2)
    return warm(options, model, lambda them: them.ARIMA(order=(2, 1, 2)), 20)


@row("fit_arima_auto", unit="series/s cpu")
def fit_arima_auto(options: Namespace) -> Rounds:
    y, t_ms, model = windows(options.data), instants(0, T), arima(order="auto")
    return Rounds(cpu_rate(len(y), lambda: model.fit(t_ms, y)))


@row("retrain_10000_holt", unit="s cpu")
def retrain_10000_holt(options: Namespace) -> Rounds:
    return retrain(options, holt())


@row("retrain_10000_arima212", unit="s cpu")
def retrain_10000_arima212(options: Namespace) -> Rounds:
    return retrain(options, arima(p=2, d=1, q=2))


def retrain(options: Namespace, model: Any) -> Rounds:
    y, t_ms = windows(options.data), instants(0, T)
    y = np.resize(y, (MANY, T))
    return Rounds(cpu_seconds(lambda: model.fit(t_ms, y)))


@row("update_holt", unit="ns/series cpu", reference="copy of the state")
def update_holt(options: Namespace) -> Rounds:
    return updates(options, holt(), ("level", "trend", "missed", "last_ms"))


@row("update_arima", unit="ns/series cpu", reference="copy of the state")
def update_arima(options: Namespace) -> Rounds:
    return updates(options, arima(), ("x", "e", "y", "missed", "last_ms"))


def updates(options: Namespace, model: Any, changed: tuple[str, ...]) -> Rounds:
    """One instant of 10,000 series, beside what has to be written at least."""
    y, t_ms = windows(options.data), instants(0, T)
    y = np.resize(y, (MANY, T))
    state, news = model.fit(t_ms, y), y[:, :1].copy()
    arrays, turns = [getattr(state, name) for name in changed], 50
    work = cpu_seconds(lambda: [model.update(state, instants(T, 1), news) for _ in range(turns)])
    copy = cpu_seconds(lambda: [[array.copy() for array in arrays] for _ in range(turns)])
    to_ns = 1e9 / (turns * MANY)
    return Rounds(lambda: to_ns * work(), lambda: to_ns * copy())


@figures("holt_parity")
def holt_parity(options: Namespace) -> Iterable[Figure]:
    """Share of windows on which our sum of squares is at most 1.001 times the peer's."""
    statsforecast = peers()
    y, t_ms = windows(options.data), instants(0, T)
    for name, make, model, spent in (
        ("holt_parity", undamped, textbook(damped=False), 4),
        ("holt_damped_parity", damped, textbook(damped=True), 5),
    ):
        ours = model.fit(t_ms, y).sigma ** 2 * (T - spent)
        theirs = [(make(statsforecast).fit(one).model_["residuals"] ** 2).sum() for one in y]
        share = float((ours <= 1.001 * np.array(theirs)).mean())
        yield Figure(name, share, f"of {len(y)} windows", reference=PEER)
