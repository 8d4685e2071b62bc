"""Watches as the status sees them: what is known, without anything that runs."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from sidecar.config import WatchConfig
from sidecar.cycle import advance
from sidecar.known import Known
from sidecar.series import LabelSet, RawSeries, SeriesBatch
from sidecar.watches.watching import Watch
from tests.unit.cycle.helpers import T0, G, begun, history, model, rules, sampled

NOTHING: frozenset[LabelSet] = frozenset()


def known_series(n: int, instants: int = 30) -> Known:
    """``n`` linear series ``x{instance="s0"}``... that have been served for some instants."""
    dice = np.random.default_rng(1)
    short = history(rules(), [sampled(lambda t: t, T0 - 60 * G, T0)], size=60)
    labels = tuple(LabelSet.of({"__name__": "x", "instance": f"s{i}"}) for i in range(n))
    values = 100.0 * np.arange(n)[:, None] + dice.normal(size=(n, 60))
    known = begun(rules(), model(), SeriesBatch(labels, short.grid, values))
    t_ms = T0 + G * np.arange(1, instants + 1)
    raw = [
        RawSeries(one, t_ms, 100.0 * row + dice.normal(size=instants))
        for row, one in enumerate(labels)
    ]
    served, _ = advance(rules(max_series=n), model(), known, raw, int(t_ms[-1]))
    return served


def watch_of(
    known: Known | None,
    *,
    horizon: str = "5m",
    trouble: str = "",
    silent: Sequence[LabelSet] = (),
    rejected: Sequence[LabelSet] = (),
    reasons: Sequence[Any] = (),
) -> Watch:
    """A watch on ``x`` that knows this."""
    latest = None
    if known is not None:
        told = (*reasons, *(None,) * (len(known.labels) - len(reasons)))
        latest = SimpleNamespace(labels=known.labels, reasons=told, over_budget=0)
    publisher = SimpleNamespace(
        unpublished=lambda: frozenset(silent), sources_of=lambda _: frozenset(rejected)
    )
    config = WatchConfig("x", horizon=horizon, model="linear")
    found = SimpleNamespace(
        config=config,
        title=str(config.selector),
        transform="none",
        watch_id=config.id,
        known=known,
        latest=latest,
        trouble=trouble,
        finds_nothing=False,
        publisher=publisher,
        model=model(),
        wishes=SimpleNamespace(
            last_fit_ms={},
            pinned=set(),
            fit_mae={} if known is None else _errors(known),
        ),
    )
    return cast(Watch, found)


def _errors(known: Known) -> dict[str, float]:
    """By key, the error of the version that serves."""
    pairs = zip(known.labels, known.drift.reference.tolist(), strict=True)
    return {one.key: mae for one, mae in pairs if np.isfinite(mae)}


def changed(known: Known, **fields: Any) -> Known:
    return replace(known, **fields)
