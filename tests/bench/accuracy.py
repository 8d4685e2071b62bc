"""How right forecasts are: rolling origins over recorded series.

    python -m tests.bench accuracy --data FILE [--models auto,lags] [--protocols main,week]

FILE is an npz with ``y`` (all series one after the other), ``offset`` (n + 1, where each begins)
and ``period`` (samples a day of each). Every window is a series of its own to the model.

Scores of a window, averaged over windows; flat ones (fewer than 2 % of the differences are not 0)
are only held to be sane, within three ranges of the history around it:

- MASE: mean absolute error / mean absolute difference of the history, at most 50; MASE1: of the
  first step alone.
- relMAE: geometric mean of (MAE + e) / (naive's MAE + e), e a twentieth of the scale of MASE.
- wins: share of windows with less MAE than naive, ties count half.
- cov: share of actuals inside the 95 % bounds. MSIS: Winkler's score of them / scale, at most 500.
- bad: windows with a forecast that is not finite. flat_ok: share of flat windows forecast sanely.
"""

import time
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tests.bench import Figure, Skipped, figures

Array = NDArray[Any]


@dataclass(frozen=True)
class Protocol:
    """``origins`` windows of each series: ``history`` instants, then ``horizon`` to forecast.

    ``period``: only of series with so many samples a day; 0 for all.
    """

    history: int
    horizon: int
    origins: int
    period: int = 0


PROTOCOLS: Final = {
    "main": Protocol(288, 12, 4),
    "dense": Protocol(288, 12, 16),
    "short": Protocol(72, 12, 4),
    "week": Protocol(2016, 12, 4, 288),
    "day": Protocol(2016, 288, 2, 288),
    "hourly": Protocol(336, 24, 4, 24),
}
PUBLIC: Final = Path(__file__).parents[3] / "shared" / "data" / "public.npz"
FLAT: Final = 0.02
SHOWN: Final = ("MASE", "MASE1", "relMAE", "wins", "cov", "MSIS", "bad", "flat_ok", "ms")


def add_arguments(parser: Any) -> None:
    parser.add_argument("--data", type=Path, default=PUBLIC, help="npz of recorded series")
    parser.add_argument("--models", default="auto", help="names, comma between (default auto)")
    parser.add_argument("--protocols", default="main", help=f"of {', '.join(PROTOCOLS)}")
    parser.add_argument("--limit", type=int, help="at most so many windows of each protocol")


@dataclass(frozen=True)
class Windows:
    """Windows of one sampling: (n, history) and (n, horizon)."""

    period: int
    history: Array
    future: Array


def recorded(path: Path) -> dict[str, Array]:
    if not path.exists():
        raise Skipped(f"there is no {path}: name an npz of series with --data")
    with np.load(path) as file:
        return {name: file[name] for name in ("y", "offset", "period")}


def windows_of(data: dict[str, Array], protocol: Protocol, limit: int | None) -> list[Windows]:
    """Every window of the protocol, by sampling; every k-th where there are more than ``limit``."""
    found: dict[int, list[tuple[Array, Array]]] = {}
    for begin, end, period in zip(
        data["offset"][:-1], data["offset"][1:], data["period"], strict=True
    ):
        y = data["y"][begin:end].astype(np.float64)
        last = len(y) - protocol.horizon
        if last < protocol.history or protocol.period not in (0, period):
            continue
        spaced = np.linspace(protocol.history, last, protocol.origins).round().astype(int)
        found.setdefault(int(period), []).extend(
            (y[at - protocol.history : at], y[at : at + protocol.horizon])
            for at in np.unique(spaced)
        )
    total = sum(map(len, found.values()))
    stride = max(1, -(-total // limit)) if limit else 1
    return [
        Windows(
            period, *map(np.ascontiguousarray, map(np.stack, zip(*rows[::stride], strict=True)))
        )
        for period, rows in sorted(found.items())
    ]


def scores_of(windows: Windows, mean: Array, low: Array, high: Array) -> dict[str, Array]:
    """The scores of each window, (n,) each."""
    history, future = windows.history, windows.future
    steps = np.abs(np.diff(history, axis=1))
    live = (steps > 0).mean(axis=1) >= FLAT
    scale = np.where(live, steps.mean(axis=1), 1.0)
    bad = ~np.isfinite(mean).all(axis=1)
    naive = np.repeat(history[:, -1:], future.shape[1], axis=1)
    mean = np.where(bad.reshape(-1, 1), naive, mean)
    error, naive_error = np.abs(future - mean), np.abs(future - naive)
    mae, naive_mae, least = error.mean(axis=1), naive_error.mean(axis=1), 0.05 * scale
    tie = np.abs(mae - naive_mae) <= 1e-9 * scale
    outside = np.maximum(low - future, 0) + np.maximum(future - high, 0)
    winkler = ((high - low) + 2 / 0.05 * outside).mean(axis=1) / scale
    inside = ((future >= low) & (future <= high)).mean(axis=1)
    bounded = np.isfinite(low).all(axis=1) & np.isfinite(high).all(axis=1)
    size = np.ptp(history, axis=1) + 1e-9 * np.abs(history).max(axis=1) + 1e-12
    floor, ceiling = history.min(axis=1) - 3 * size, history.max(axis=1) + 3 * size
    sane = (mean.min(axis=1) >= floor) & (mean.max(axis=1) <= ceiling) & ~bad
    return {
        "live": live,
        "bad": bad,
        "flat_ok": sane,
        "MASE": np.minimum(mae / scale, 50),
        "MASE1": np.minimum(error[:, 0] / scale, 50),
        "relMAE": np.log((mae + least) / (naive_mae + least)),
        "wins": np.where(tie, 0.5, mae < naive_mae),
        "cov": np.where(bounded, inside, np.nan),
        "MSIS": np.where(bounded, np.minimum(winkler, 500), np.nan),
    }


def summary_of(scores: dict[str, Array]) -> dict[str, float]:
    """The averages over the windows."""
    live = scores["live"]
    found = {name: _mean(scores[name][live]) for name in ("MASE", "MASE1", "wins", "cov", "MSIS")}
    found["relMAE"] = float(np.exp(_mean(scores["relMAE"][live])))
    found["bad"] = float(scores["bad"].sum())
    found["flat_ok"] = _mean(scores["flat_ok"][~live]) if not live.all() else 1.0
    return found


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def evaluate(
    data: dict[str, Array], protocol: Protocol, model: str, limit: int | None = None
) -> dict[str, float]:
    """What ``model`` scores, and ``ms``, the milliseconds it took for a series."""
    from sidecar.models.evaluate import adapter

    fit_predict, parts, took = adapter(model), [], 0.0
    for windows in windows_of(data, protocol, limit):
        begin = time.process_time()
        got = fit_predict(windows.history, protocol.horizon, windows.period)
        took += time.process_time() - begin
        parts.append(scores_of(windows, got["mean"], got["lo"], got["hi"]))
    if not parts:
        raise Skipped("no series is long enough, or none has the protocol's sampling")
    scores = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return summary_of(scores) | {"ms": 1e3 * took / len(scores["live"])}


@figures("accuracy")
def accuracy(options: Namespace) -> Iterable[Figure]:
    """Each model under each protocol, naive beside it."""
    data = recorded(options.data)
    for protocol in options.protocols.split(","):
        if protocol not in PROTOCOLS:
            raise Skipped(f"{protocol!r} is not one of {', '.join(PROTOCOLS)}")
        naive = evaluate(data, PROTOCOLS[protocol], "naive", options.limit)
        for model in dict.fromkeys(["naive", *options.models.split(",")]):
            found = (
                naive
                if model == "naive"
                else evaluate(data, PROTOCOLS[protocol], model, options.limit)
            )
            for score in SHOWN:
                name, value = f"{protocol}_{model}_{score}", found[score]
                ratio = value / naive[score] if score.startswith("MASE") else None
                yield Figure(name, value, score, "naive" if ratio else "", ratio)
