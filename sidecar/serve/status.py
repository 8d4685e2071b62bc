"""What is known of each series, as plain data for ``sentinel status`` and the status API."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sidecar.known import Known
from sidecar.learning import scores, trackers
from sidecar.models.contract import take
from sidecar.names import Reason
from sidecar.series import FloatArray, LabelSet
from sidecar.serve.selecting import Accepts
from sidecar.watches.watching import Watch

STATES: Final = ("serving", "fallback", "waiting", "ended")
_SERVING, _FALLBACK, _WAITING, _ENDED = range(4)
_NONE: Final = np.empty(0, dtype=np.int64)
_BLOCK: Final = 2_048
SORTS: Final = ("mase", "drift")
NOTHING_FOUND: Final = (
    "no series is selected, or none has a sample yet: `sentinel check` says what is nearest"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which series a page shows, and how many.

    Attributes:
        accepts: only series that it is true of; None: all.
        states, reasons: only series with one of these; none: all.
        sort: ``mase`` or ``drift``: the worst first; empty: as they were met.
        limit: None: all of them.
    """

    accepts: Accepts | None = None
    states: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    sort: str = ""
    offset: int = 0
    limit: int | None = None


@dataclass(frozen=True)
class StatusPage:
    """Some series, and how many there are.

    Attributes:
        series: facts, keyed by the series' notation ``metric{a="b"}``. Where several watches know
            one series, the later ones' keys say which watch they are of.
        total: watched series, of all watches.
        matched: how many of them are wanted, on this page and others.
        states, reasons: over the series that are accepted, whatever their state.
        not_begun: of each watch that cannot begin its ``selector``, the ``metric`` of its outputs,
            and the ``error``. Which series it would have is not known.
        not_delivered: why nothing reaches a receiver at present, a line for each.
    """

    series: dict[str, dict[str, Any]]
    total: int
    matched: int
    states: Counter[str]
    reasons: Counter[str]
    not_begun: tuple[dict[str, str], ...] = ()
    not_delivered: tuple[str, ...] = ()


def series_facts(
    watches: Sequence[Watch], rejected: Collection[LabelSet] = ()
) -> dict[str, dict[str, Any]]:
    """Facts of every series of all watches, as ``StatusPage.series``.

    Args:
        rejected: output series that a receiver refuses.
    """
    return status_page(watches, rejected, Wanted()).series


def status_page(
    watches: Sequence[Watch], rejected: Collection[LabelSet], wanted: Wanted
) -> StatusPage:
    """A page of facts. May run in a thread beside the cycles: it reads what they replace whole."""
    views = [_View(watch, rejected) for watch in watches if watch.known is not None]
    states, reasons = Counter(dict.fromkeys(STATES, 0)), Counter[str]()
    chosen: list[tuple[int, NDArray[np.int64]]] = []
    for place, view in enumerate(views):
        rows = view.accepted(wanted.accepts)
        states.update(STATES[code] for code in view.states[rows].tolist())
        reasons.update(one.value for row in rows.tolist() if (one := view.reasons[row]) is not None)
        chosen.append((place, view.of_state(rows, wanted)))
    at = np.concatenate([np.full(rows.size, place) for place, rows in chosen] or [_NONE])
    rows = np.concatenate([rows for _, rows in chosen] or [_NONE])
    if wanted.sort and rows.size:
        badness = np.concatenate([views[place].badness(wanted.sort)[own] for place, own in chosen])
        order = np.argsort(-np.where(np.isnan(badness), -np.inf, badness), kind="stable")
        at, rows = at[order], rows[order]
    end = None if wanted.limit is None else wanted.offset + wanted.limit
    page_at, page_rows = at[wanted.offset : end], rows[wanted.offset : end]
    return StatusPage(
        series=_facts(views, page_at, page_rows),
        total=sum(len(view.known.labels) for view in views),
        matched=int(rows.size),
        states=states,
        reasons=reasons,
        not_begun=not_begun(watches),
    )


def not_begun(watches: Iterable[Watch]) -> tuple[dict[str, str], ...]:
    """The watches that cannot begin, and why: as ``StatusPage.not_begun``."""
    return tuple(
        {
            "selector": watch.title,
            "metric": watch.config.output_metric,
            "error": watch.trouble or NOTHING_FOUND,
        }
        for watch in watches
        if watch.known is None and (watch.trouble or watch.finds_nothing)
    )


def _facts(
    views: Sequence["_View"], at: NDArray[np.int64], rows: NDArray[np.int64]
) -> dict[str, dict[str, Any]]:
    """The facts of row ``rows[i]`` of view ``at[i]``, in order."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for place in np.unique(at).tolist():
        own = rows[at == place]
        for row, facts in zip(own.tolist(), views[place].facts(own), strict=True):
            found[place, row] = facts
    return {
        _key(views, place, row): found[place, row]
        for place, row in zip(at.tolist(), rows.tolist(), strict=True)
    }


def _key(views: Sequence["_View"], place: int, row: int) -> str:
    """The series' notation, with what tells it from the same series of an earlier watch."""
    view = views[place]
    labels = view.known.labels[row]
    earlier = [
        one for one in views[:place] if one.metric == view.metric and labels in one.known_labels
    ]
    if not earlier:
        return str(labels)
    same = sum(one.described == view.described for one in earlier[1:])
    return f"{labels} [{view.described}]" + "'" * same


class _View:
    """What is to be said of one watch's series; everything is taken once, at the beginning."""

    def __init__(self, watch: Watch, rejected: Collection[LabelSet]) -> None:
        assert watch.known is not None, "a watch that has begun"
        self.watch, self.known = watch, watch.known
        self.metric = watch.config.output_metric
        self.described = f"{watch.config.model_name}, {watch.config.horizon} ahead"
        by_labels = reasons_of(watch, rejected)
        self.reasons = [
            by_labels.get(labels, Reason.INSUFFICIENT_HISTORY) for labels in self.known.labels
        ]
        self.states = _state_codes(self.known)

    @cached_property
    def known_labels(self) -> frozenset[LabelSet]:
        return frozenset(self.known.labels)

    def accepted(self, accepts: Accepts | None) -> NDArray[np.int64]:
        """The rows of the series that are accepted."""
        if accepts is None:
            return np.arange(len(self.known.labels))
        rows = [row for row, labels in enumerate(self.known.labels) if accepts(labels)]
        return np.array(rows, dtype=np.int64)

    def of_state(self, rows: NDArray[np.int64], wanted: Wanted) -> NDArray[np.int64]:
        """Those of ``rows`` with a wanted state and reason."""
        if wanted.states:
            codes = [code for code, state in enumerate(STATES) if state in wanted.states]
            rows = rows[np.isin(self.states[rows], codes)]
        if wanted.reasons:
            kept = [row for row in rows.tolist() if self.reasons[row] in wanted.reasons]
            rows = np.array(kept, dtype=np.int64)
        return rows

    def badness(self, sort: str) -> FloatArray:
        """(N,) what the worst have most of; NaN where it is not known.

        In blocks: one sum over 100,000 series would hold the interpreter, and the event loop with
        it, for a quarter of a second.
        """
        known, n = self.known, len(self.known.labels)
        out = np.full(n, np.nan)
        for start in range(0, n, _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, n))
            tracker = trackers.realign(known.tracker, rows)
            if sort == "mase":
                out[rows] = scores.scores(tracker).mase
                continue
            own = known.drift.reference[rows]
            np.divide(
                scores.rolling(tracker).mae, own, out=out[start : start + _BLOCK], where=own > 0
            )
        return out

    def facts(self, rows: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
        known, watch = self.known, self.watch
        figures = scores.scores(trackers.realign(known.tracker, rows))
        explained = watch.model.explain(take(known.state, rows))
        filled = np.isfinite(known.recent[rows, -watch.config.n_lags :]).mean(axis=1)
        for at, row in enumerate(rows.tolist()):
            labels, reason = known.labels[row], self.reasons[row]
            version = int(known.versions[row])
            yield {
                "labels": dict(labels.pairs),
                "watch": watch.watch_id,
                "ready": reason is None,
                "state": STATES[self.states[row]],
                "pinned": labels.key in watch.wishes.pinned,
                "reason": None if reason is None else reason.value,
                "model": watch.config.model_name,
                "transform": watch.transform,
                "granularity": watch.config.granularity,
                "horizon": watch.config.horizon,
                "active_version": f"v{version}" if version else None,
                "active_version_mae": watch.wishes.fit_mae.get(labels.key),
                "drift_mae": _number(figures.mae[at]),
                "mase": _number(figures.mase[at]),
                "coverage": _number(figures.coverage[at]),
                "buffer_fill": _number(filled[at]),
                "last_train": _instant(watch.wishes.last_fit_ms.get(labels.key)),
                "explanation": explained[at],
                "last_error": watch.trouble or None,
            }


def _state_codes(known: Known) -> NDArray[np.int64]:
    """(N,) places in ``STATES``: ended, else naive serves, else a version does, else none yet."""
    codes = np.where(known.versions > 0, _SERVING, _WAITING)
    codes = np.where(known.serves_naive, _FALLBACK, codes)
    return np.where(known.ended, _ENDED, codes)


def count_states(watches: Iterable[Watch]) -> Counter[str]:
    """How many series are in each state; every state is there, 0 where there is none."""
    counts = Counter(dict.fromkeys(STATES, 0))
    for watch in watches:
        if watch.known is not None:
            found = np.bincount(_state_codes(watch.known), minlength=len(STATES))
            counts.update(dict(zip(STATES, found.tolist(), strict=True)))
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


def without(watch: Watch, rejected: Collection[LabelSet]) -> dict[LabelSet, Reason]:
    """The series of a watch that got no fresh prediction in its newest cycle, and why."""
    if watch.latest is None:
        return {}
    found = reasons_of(watch, rejected)
    return {labels: reason for labels, reason in found.items() if reason is not None}


def count_reasons(watches: Iterable[Watch], rejected: Collection[LabelSet] = ()) -> Counter[str]:
    """How many series lack a fresh prediction for each reason; every reason is there.

    A watch that cannot be read counts as one ``source_error``: its series are not known.
    """
    watches = list(watches)
    counts = Counter({reason.value: 0 for reason in Reason})
    counts[Reason.SOURCE_ERROR.value] += sum(
        watch.known is None and bool(watch.trouble) for watch in watches
    )
    for watch in watches:
        found = _of_the_cycle(watch, rejected)
        if found is None:
            found = tuple(reasons_of(watch, rejected).values())
        counts.update({why.value: n for why, n in Counter(found).items() if why is not None})
        if watch.latest is not None:
            counts[Reason.OVER_BUDGET.value] += watch.latest.over_budget
    return counts


def _of_the_cycle(watch: Watch, rejected: Collection[LabelSet]) -> tuple[Reason | None, ...] | None:
    """The reasons as the newest cycle gave them; None where something else has a say as well.

    A scrape asks for the reasons of every series, on the event loop, and this is the usual case.
    """
    known, latest = watch.known, watch.latest
    if known is None or latest is None or latest.labels is not known.labels:
        return None
    if watch.trouble or rejected or watch.publisher.unpublished():
        return None
    return latest.reasons


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _instant(at_ms: int | None) -> str | None:
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")
