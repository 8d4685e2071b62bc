"""Whether intervals hold what they promise, live.

    python -m tests.bench coverage --data FILE [--models auto] [--origins 200]

FILE and ``--models`` as for ``accuracy``. Each series is run as in production: at every instant an
update, a forecast, and a judgement of the forecasts that were made for it; every hour (12 instants)
a fit on the newest 288 instants. Scored are the 95 % bounds of the hourly forecasts, 12 steps each.
"""

from argparse import Namespace
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np

from tests.bench import Figure, Skipped, figures
from tests.bench.accuracy import FLAT, Array, recorded

# Instants of history of a fit, steps ahead, instants between two fits.
HISTORY, HORIZON, REFIT = 288, 12, 12
MOST: Final = 500  # of Winkler's score of one forecast


def add_arguments(parser: Any) -> None:
    parser.add_argument("--origins", type=int, default=200, help="of the coverage run")


def online(data: dict[str, Array], model: str, origins: int) -> Iterator[dict[str, Array]]:
    """The run over the series of each sampling: whether actuals lay inside, and Winkler's score,
    each (N, origins, H)."""
    from sidecar.learning.trackers import leads_of
    from sidecar.models import intervals
    from sidecar.models.registry import ModelContext, build

    leads = leads_of(HORIZON)
    for period, y in long_enough(data, HISTORY + (origins + 1) * REFIT).items():
        step_ms = 86_400_000 // period
        built = build(model, {}, ModelContext(step_ms, HORIZON, 30))
        t_ms = step_ms * (19_676 * period + np.arange(y.shape[1] + HORIZON, dtype=np.int64))
        calibration = intervals.start(len(y), HORIZON)
        issued: list[Any] = []
        inside, winkler = [], []
        state: Any = None
        for at in range(HISTORY, HISTORY + origins * REFIT):
            if (at - HISTORY) % REFIT == 0:
                state = built.fit(t_ms[at - HISTORY : at], y[:, at - HISTORY : at])
            else:
                state = built.update(state, t_ms[at - 1 : at], y[:, at - 1 : at])
            if issued:
                residuals, widths = judged(issued, leads, y[:, at - 1])
                calibration = intervals.observe(calibration, leads, residuals, widths)
            plain = built.forecast(state, t_ms[at : at + HORIZON])
            issued.append(intervals.widen(plain, calibration))
            if (at - HISTORY) % REFIT == 0:
                last, future = issued[-1], y[:, at : at + HORIZON]
                beyond = np.maximum(last.lower - future, 0) + np.maximum(future - last.upper, 0)
                inside.append(beyond == 0)
                winkler.append(last.upper - last.lower + 40 * beyond)
        scale = np.abs(np.diff(y, axis=1)).mean(axis=1)
        yield {
            "inside": np.stack(inside, axis=1),
            "MSIS": np.minimum(np.stack(winkler, axis=1) / scale[:, None, None], MOST),
        }


def judged(issued: list[Any], leads: tuple[int, ...], actual: Array) -> tuple[Array, Array]:
    """(N, L) residual and half width of the forecasts made ``leads`` instants ago."""
    shape = (len(actual), len(leads))
    residuals, widths = np.full(shape, np.nan), np.full(shape, np.nan)
    for at, lead in enumerate(leads):
        if lead <= len(issued):
            made = issued[-lead]
            residuals[:, at] = actual - made.mean[:, lead - 1]
            widths[:, at] = (made.upper[:, lead - 1] - made.lower[:, lead - 1]) / 2
    return residuals, widths


def long_enough(data: dict[str, Array], size: int) -> dict[int, Array]:
    """The first ``size`` instants of each series that has so many and is not flat, by sampling."""
    found: dict[int, list[Array]] = {}
    for begin, end, period in zip(
        data["offset"][:-1], data["offset"][1:], data["period"], strict=True
    ):
        y = data["y"][begin : begin + size].astype(np.float64)
        if end - begin >= size and (np.diff(y) != 0).mean() >= FLAT:
            found.setdefault(int(period), []).append(y)
    return {period: np.stack(rows) for period, rows in sorted(found.items())}


@figures("coverage")
def coverage(options: Namespace) -> Iterable[Figure]:
    """Whether 95 % intervals hold 95 %, live, for each model."""
    data = recorded(options.data)
    for model in options.models.split(","):
        parts = list(online(data, model, options.origins))
        if not parts:
            raise Skipped("no series is long enough for so many origins")
        inside = np.concatenate([part["inside"] for part in parts])
        of_series = inside.mean(axis=(1, 2))
        held = ((of_series >= 0.93) & (of_series <= 0.97)).mean()
        winkler = np.concatenate([part["MSIS"] for part in parts]).mean()
        yield Figure(f"coverage_{model}", float(inside.mean()), "share")
        yield Figure(f"coverage_{model}_step1", float(inside[:, :, 0].mean()), "share")
        yield Figure(f"coverage_{model}_series", float(held), "within .93-.97")
        yield Figure(f"coverage_{model}_MSIS", float(winkler), "MSIS")
