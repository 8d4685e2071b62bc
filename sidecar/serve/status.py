"""What is known of each series, as plain data for ``sentinel status`` and the status API."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np

from sidecar.learning import scores
from sidecar.names import Reason
from sidecar.series import LabelSet
from sidecar.watching import Watch


def series_facts(
    watches: Iterable[Watch], rejected: Collection[LabelSet] = ()
) -> dict[str, dict[str, Any]]:
    """Facts of every series of all watches, keyed by its notation ``metric{a="b"}``.

    Where several watches know one series, the later ones' keys say which watch they are of.

    Args:
        rejected: output series that a receiver refuses.
    """
    facts: dict[str, dict[str, Any]] = {}
    for watch in watches:
        for series, one in _of_watch(watch, rejected):
            key = series
            if key in facts:
                key = f"{series} [{watch.config.model_name}, {watch.config.horizon} ahead]"
            while key in facts:
                key += "'"
            facts[key] = one
    return facts


def _of_watch(watch: Watch, rejected: Collection[LabelSet]) -> Iterator[tuple[str, dict[str, Any]]]:
    known = watch.known
    if known is None:
        return
    figures = scores.scores(known.tracker)
    reasons = reasons_of(watch, rejected)
    explained = watch.model.explain(known.state)
    filled = np.isfinite(known.recent[:, -watch.config.n_lags :]).mean(axis=1)
    for row, labels in enumerate(known.labels):
        reason = reasons[labels]
        version = int(known.versions[row])
        yield (
            str(labels),
            {
                "labels": dict(labels.pairs),
                "watch": watch.watch_id,
                "ready": reason is None,
                "state": state_of(
                    ended=bool(known.ended[row]),
                    version=version,
                    naive=bool(known.serves_naive[row]),
                ),
                "reason": None if reason is None else reason.value,
                "model": watch.config.model_name,
                "horizon": watch.config.horizon,
                "active_version": f"v{version}" if version else None,
                "active_version_mae": _number(known.drift.reference[row]),
                "drift_mae": _number(figures.mae[row]),
                "mase": _number(figures.mase[row]),
                "coverage": _number(figures.coverage[row]),
                "buffer_fill": _number(filled[row]),
                "last_train": _instant(watch.wishes.last_fit_ms.get(labels.key)),
                "explanation": explained[row],
                "last_error": watch.trouble or None,
            },
        )


def state_of(*, ended: bool, version: int, naive: bool) -> str:
    """One word: ``ended``, ``fallback`` (naive serves), ``serving`` or ``waiting`` (no fit yet)."""
    if ended:
        return "ended"
    if naive:
        return "fallback"
    return "serving" if version else "waiting"


STATES = ("serving", "fallback", "waiting", "ended")


def count_states(watches: Iterable[Watch]) -> Counter[str]:
    """How many series are in each state; every state is there, 0 where there is none."""
    counts = Counter(dict.fromkeys(STATES, 0))
    for watch in watches:
        known = watch.known
        if known is None:
            continue
        for ended, version, naive in zip(
            known.ended.tolist(), known.versions.tolist(), known.serves_naive.tolist(), strict=True
        ):
            counts[state_of(ended=ended, version=version, naive=naive)] += 1
    return counts


def reasons_of(watch: Watch, rejected: Collection[LabelSet]) -> dict[LabelSet, Reason | None]:
    """Why each series of a watch has no fresh prediction to show; None where it has."""
    known, latest = watch.known, watch.latest
    if known is None:
        return {}
    if latest is None:
        return dict.fromkeys(known.labels, Reason.INSUFFICIENT_HISTORY)
    reasons = dict.fromkeys(known.labels, Reason.INSUFFICIENT_HISTORY) | dict(
        zip(latest.labels, latest.reasons, strict=True)
    )
    if watch.trouble:
        reasons |= {one: Reason.SOURCE_ERROR for one, why in reasons.items() if why is None}
    reasons |= dict.fromkeys(watch.publisher.unpublished(), Reason.DUPLICATE_OUTPUT)
    return reasons | dict.fromkeys(watch.publisher.sources_of(rejected), Reason.WRITE_REJECTED)


def count_reasons(watches: Iterable[Watch], rejected: Collection[LabelSet] = ()) -> Counter[str]:
    """How many series lack a fresh prediction for each reason; every reason is there."""
    counts = Counter({reason.value: 0 for reason in Reason})
    for watch in watches:
        found = reasons_of(watch, rejected).values()
        counts.update(reason.value for reason in found if reason is not None)
        if watch.latest is not None:
            counts[Reason.OVER_BUDGET.value] += watch.latest.over_budget
    return counts


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _instant(at_ms: int | None) -> str | None:
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")
