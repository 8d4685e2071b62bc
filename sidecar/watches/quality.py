"""How well a watch forecasts, in a few numbers for the whole of it; for /metrics and alerts."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from sidecar.known import Known
from sidecar.learning import scores
from sidecar.learning.drift import Severity
from sidecar.series import FloatArray

SHARES: Final = (0.5, 0.9)


@dataclass(frozen=True, slots=True)
class Quality:
    """Of the series that are served; NaN where nothing was judged yet.

    Attributes:
        mase: error against "as the instant before" that a share of the series stay below, one for
            each of ``SHARES``; below 1 is better than naive.
        coverage: share of actuals inside the one-step band, over all series.
        drifting: how many series' residuals call for a finetune, and for a full fit.
    """

    mase: tuple[float, ...]
    coverage: float
    drifting: tuple[int, int]


def quality_of(known: Known) -> Quality:
    """The newest window of instants, over all series with a version."""
    served = (known.versions > 0) & ~known.ended
    figures = scores.scores(known.tracker)
    severity = known.drift.severity[served]
    return Quality(
        mase=tuple(_quantile(figures.mase[served], share) for share in SHARES),
        coverage=_mean(figures.coverage[served]),
        drifting=(
            int((severity == Severity.FINETUNE).sum()),
            int((severity == Severity.RETRAIN).sum()),
        ),
    )


def _quantile(values: FloatArray, share: float) -> float:
    judged = values[np.isfinite(values)]
    return float(np.quantile(judged, share)) if judged.size else float("nan")


def _mean(values: FloatArray) -> float:
    judged = values[np.isfinite(values)]
    return float(judged.mean()) if judged.size else float("nan")
