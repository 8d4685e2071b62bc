"""From a watch's configuration, and what its data tell, to the rules of its cycles."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import numpy as np

from sidecar.config import WatchConfig
from sidecar.cycle import CycleRules
from sidecar.ingest.checks import scrape_interval_ms, staleness_ms
from sidecar.ingest.counters import looks_like_counter
from sidecar.learning.drift import DriftSettings, Threshold
from sidecar.learning.gate import GateSettings
from sidecar.series import RawSeries

FORGET_MS: Final = 3_600_000


async def kind_asked(
    config: WatchConfig, kind_of: Callable[[str], Awaitable[str | None]]
) -> str | None:
    """The type that the server's metadata gives the metric; None where it makes no difference."""
    if config.transform != "auto" or config.expr:
        return None
    return await kind_of(config.metric)


def make_rules(
    config: WatchConfig,
    found: Sequence[RawSeries],
    kind: str | None,
    lookback_delta_ms: int,
    gate: GateSettings,
) -> CycleRules:
    """Only the data tell how often the series are scraped, and whether they count or measure.

    Args:
        found: some recent samples of every series.
        kind: the type that the server's metadata gives the metric; None where it has none.
    """
    interval_ms = scrape_interval_ms(found)
    transform = config.transform
    if config.expr:
        transform = "none"
    elif transform == "auto":
        transform = "rate" if looks_like_counter(config.metric, found, kind) else "none"
    low, high = config.clip or (None, None)
    floor = 0.0 if transform == "rate" else -np.inf
    return CycleRules(
        watch=config.id,
        selector=config.selector,
        granularity_ms=config.granularity_ms,
        horizon_steps=config.horizon_steps,
        transform=transform,
        staleness_ms=staleness_ms(config.granularity_ms, interval_ms, lookback_delta_ms),
        overlap_ms=config.query_offset_ms + 2 * (interval_ms or config.granularity_ms),
        patience_ms=max(lookback_delta_ms, 2 * config.granularity_ms),
        forget_ms=max(FORGET_MS, 4 * config.granularity_ms),
        max_series=config.max_series,
        lowest=floor if low is None else max(low, floor),
        highest=np.inf if high is None else high,
        keep_sign=config.clip is None and transform != "delta",
        anomaly=config.anomaly.rules_for(),
        drift=DriftSettings(
            finetune=Threshold.parse(config.drift_finetune_threshold),
            retrain=Threshold.parse(config.drift_retrain_threshold),
            cooldown_ms=config.retrain_cooldown_ms,
        ),
        gate=gate,
    )
