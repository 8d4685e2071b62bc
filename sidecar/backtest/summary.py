"""From sums of errors to a table of models and a sentence. Pure."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np

from sidecar.backtest.replay import Plan, Replayed
from sidecar.backtest.tally import Figures, figures
from sidecar.series import FloatArray, LabelSet

NAIVE: Final = "naive"
SEASONAL_NAIVE: Final = "seasonal_naive"
AUTO: Final = "auto"
# So near to naive's error a model is neither better nor worse.
ABOUT: Final = 0.05
# Another model is worth a word from so much less error on.
WORTH: Final = 0.03
# A 95 % band that holds more or less than this is not what it says, unless chance explains it.
BAND: Final = (0.93, 0.97)
_PROMISED: Final = 0.95
# Two-sided 95 % quantile of the standard normal distribution.
_Z: Final = 1.96
# Relative errors as small as this are rounding: the series is forecast exactly.
_EXACT: Final = 1e-9


@dataclass(frozen=True, eq=False)
class ModelResult:
    """One row of the table: medians over the series, NaN where nothing was judged.

    Attributes:
        figures: by series and lead.
        mae, mase, seasonal_mase, smape: one step ahead.
        far_mase: against naive at the horizon.
        coverage: over all instants, one step ahead, of the series that are not forecast exactly;
            of an exact forecast the band has no width, which says nothing of bands.
        banded: of how many instants that is the share; 0 where every series is forecast exactly.
        wins, judged: how many series are forecast better than by naive, and how many were judged.
        unfitted: how many series could not be fitted.
        lead_mase, lead_coverage: (L,)
    """

    model: str
    replayed: Replayed
    figures: Figures
    mae: float
    mase: float
    seasonal_mase: float
    smape: float
    far_mase: float
    coverage: float
    banded: int
    wins: int
    judged: int
    unfitted: int
    lead_mase: FloatArray
    lead_coverage: FloatArray


@dataclass(frozen=True, eq=False)
class WatchResult:
    """How all models went on one watch.

    Attributes:
        selector, granularity, horizon: as the watch has them.
        configured: the model that the watch is served by.
        rows: the tested models in the order asked for, then the two yardsticks.
        left_out: series beyond ``max_series``, not tested.
    """

    selector: str
    granularity: str
    horizon: str
    configured: str
    plan: Plan
    rows: tuple[ModelResult, ...]
    left_out: int

    @property
    def labels(self) -> tuple[LabelSet, ...]:
        return self.plan.batch.labels

    def row(self, model: str) -> ModelResult | None:
        return next((row for row in self.rows if row.model == model), None)

    @property
    def main(self) -> ModelResult:
        """The row that the sentence is about, and the plots show: the first that was asked for."""
        return self.rows[0]


def result_of(replayed: Replayed) -> ModelResult:
    """A row from a replay."""
    found = figures(replayed.tally)
    judged = found.judged[:, 0] > 0
    total = replayed.tally.banded.sum(axis=0)
    inside = replayed.tally.inside.sum(axis=0)
    coverage = np.divide(inside, total, out=np.full(total.shape, np.nan), where=total > 0)
    inexact = ~((found.mae[:, 0] == 0) | (found.smape[:, 0] <= _EXACT))
    banded = int(replayed.tally.banded[inexact, 0].sum())
    held = int(replayed.tally.inside[inexact, 0].sum())
    lead_mase = np.array([_median(column) for column in found.mase.T])
    return ModelResult(
        model=replayed.model,
        replayed=replayed,
        figures=found,
        mae=_median(found.mae[:, 0]),
        mase=float(lead_mase[0]),
        seasonal_mase=_median(found.seasonal_mase[:, 0]),
        smape=_median(found.smape[:, 0]),
        far_mase=float(lead_mase[-1]),
        coverage=held / banded if banded else float(coverage[0]),
        banded=banded,
        wins=int(np.count_nonzero(found.mase[judged, 0] < 1)),
        judged=int(judged.sum()),
        unfitted=sum(reason is not None for reason in replayed.reasons),
        lead_mase=lead_mase,
        lead_coverage=coverage,
    )


def verdict(result: WatchResult) -> list[str]:
    """What the table comes to, in sentences: does it beat naive, is another better, is the band
    honest, and what ``auto`` would serve."""
    main = result.main
    if not main.judged:
        reasons = Counter(reason for reason in main.replayed.reasons if reason is not None)
        why = ", ".join(f"{reason} ({n} series)" for reason, n in reasons.most_common())
        return [f"{main.model} could forecast none of these series: {why or 'no actuals'}."]
    said = [_against_naive(result, main), *_configured(result, main)]
    auto = result.row(AUTO)
    if auto is not None and auto.judged:
        said.append(_auto_serves(auto))
    said += _better(result, main)
    said.append(_band(main))
    if main.unfitted:
        reasons = Counter(reason for reason in main.replayed.reasons if reason is not None)
        why = ", ".join(f"{reason}: {n}" for reason, n in reasons.most_common())
        said.append(f"{_series(main.unfitted)} could not be fitted ({why}).")
    return said


def _against_naive(result: WatchResult, main: ModelResult) -> str:
    if np.isnan(main.mase):
        return f"{main.model} cannot be held against naive: too few neighbouring samples."
    if main.mase < 1 - ABOUT:
        word = "beats naive"
    elif main.mase <= 1 + ABOUT:
        word = "is about as good as naive"
    else:
        word = "is worse than naive"
    of = "" if main.judged == 1 else f" (medians over {_series(main.judged)})"
    text = f"{main.model} {word}: its error one step ahead is {main.mase:.2f} of naive's"
    if np.isfinite(main.far_mase) and len(main.lead_mase) > 1:
        text += f", {main.far_mase:.2f} at {result.horizon}"
    better = "" if main.judged == 1 else f"; better on {main.wins} of {main.judged}"
    return f"{text}{of}{better}."


def _configured(result: WatchResult, main: ModelResult) -> list[str]:
    """Of the model that serves the watch, where it is another one and does worse than naive."""
    row = result.row(result.configured)
    if row is None or row is main or not row.mase > 1 + ABOUT:
        return []
    text = (
        f"{row.model}, which this watch has now, is worse than naive: {row.mase:.2f} of its error"
    )
    return [f"{text}."]


def _auto_serves(auto: ModelResult) -> str:
    chosen = Counter(chosen_of(line) for line in auto.replayed.explained if line)
    parts = [
        f"{name} for {n}" if len(chosen) > 1 or auto.judged > 1 else name
        for name, n in chosen.most_common()
    ]
    text = f"auto would serve {', '.join(parts)}"
    naive = int(auto.replayed.naive_better.sum())
    if naive:
        text += f"; live, the gate would let naive serve {naive} of them"
    return text + "."


def chosen_of(line: str) -> str:
    """What ``auto`` serves a series by, from what it says of it.

    >>> chosen_of("profile of 1d at 80%; lags: clearly better than the median (back-test: ...)")
    'lags'
    >>> chosen_of("median of members: none is clearly better (back-test: holt 1, median 1)")
    'the median of its members'
    """
    own = line.rsplit("; ", 1)[-1] if line.startswith("profile of") else line
    name = own.partition(":")[0]
    return "the median of its members" if name.startswith("median") else name


def _better(result: WatchResult, main: ModelResult) -> list[str]:
    others = [row for row in result.rows if row is not main and np.isfinite(row.mase)]
    if not others or not np.isfinite(main.mase):
        return []
    best = min(others, key=lambda row: row.mase)
    if best.mase < (1 - WORTH) * main.mase:
        return [f"{best.model} did better ({best.mase:.2f}): try model: {best.model}."]
    if len(others) > 2:
        return [f"None of the others did clearly better (best: {best.model}, {best.mase:.2f})."]
    return []


def _band(main: ModelResult) -> str:
    if not np.isfinite(main.coverage):
        return "It has no band that could be judged."
    if not main.banded:
        return "Its forecasts were exact, so its 95 % band was not put to the test."
    low, high = BAND
    text = f"Its 95 % band held {main.coverage:.1%} of what came"
    if low <= main.coverage <= high:
        return text + "."
    least, most = wilson(main.coverage, main.banded)
    if least <= _PROMISED <= most:
        return f"{text}: {main.banded:,} instants are too few to tell more."
    return text + (": it is too narrow." if main.coverage < low else ": it is too wide.")


def wilson(share: float, n: int) -> tuple[float, float]:
    """Between which shares the true one lies, with 95 % confidence, where ``n`` trials gave this.

    The score interval of E. B. Wilson, JASA 22 (1927) 209-212, which holds for shares near 1 too.

    >>> [round(bound, 3) for bound in wilson(1.0, 12)]
    [0.757, 1.0]
    """
    centre = share + _Z**2 / (2 * n)
    half = _Z * np.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    whole = 1 + _Z**2 / n
    return float((centre - half) / whole), float((centre + half) / whole)


def ranked(row: ModelResult) -> list[int]:
    """The series that were judged, best first: by error against naive, then by MAE."""
    mase, mae = row.figures.mase[:, 0], row.figures.mae[:, 0]
    key = np.where(np.isnan(mase), np.inf, mase)
    order = np.lexsort((mae, key))
    return [int(at) for at in order if row.figures.judged[at, 0] > 0]


def _median(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")


def _series(count: int) -> str:
    return "1 series" if count == 1 else f"{count:,} series"
