"""Self metrics that are kept count of elsewhere, taken when the page is scraped."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from sidecar.ingest.buffer import BufferStats
from sidecar.names import DropReason, Refusal
from sidecar.pushed import PushStats
from sidecar.remote.audit import AuditStats
from sidecar.remote.reader import ReaderStats
from sidecar.remote.writer import RemoteWriter, WriterState, WriterStats
from sidecar.series import LabelSet
from sidecar.serve.metrics import Reading
from sidecar.serve.status import count_reasons, count_states
from sidecar.watches.quality import SHARES
from sidecar.watches.watching import Watch


def of_readers(stats: Sequence[ReaderStats]) -> Iterable[Reading]:
    """Totals over all readers."""
    results = Counter(dict.fromkeys(("ok", "unavailable", "rejected", "over_budget"), 0))
    for one in stats:
        results.update(one.requests)
    yield Reading(
        "sentinel_remote_read_requests_total", {(result,): n for result, n in results.items()}
    )
    yield Reading("sentinel_remote_read_samples_total", {(): sum(one.samples for one in stats)})
    yield Reading("sentinel_remote_read_bytes_total", {(): sum(one.bytes for one in stats)})


def of_writers(writers: Mapping[str, RemoteWriter]) -> Iterable[Reading]:
    """Of each endpoint by its name: what was enqueued is what was sent, waits or was dropped."""
    stats = {name: writer.stats() for name, writer in writers.items()}
    prefix = "sentinel_remote_write_"

    def each(metric: str, value: Callable[[WriterStats], float]) -> Reading:
        return Reading(prefix + metric, {(name,): value(one) for name, one in stats.items()})

    def split(
        metric: str, known: Iterable[str], counts: Callable[[WriterStats], Mapping[Any, int]]
    ) -> Reading:
        zeros = dict.fromkeys(known, 0)
        values: dict[tuple[str, ...], float] = {
            (name, str(key)): n
            for name, one in stats.items()
            for key, n in {**zeros, **counts(one)}.items()
        }
        return Reading(prefix + metric, values)

    yield each("samples_enqueued_total", lambda one: one.enqueued)
    yield each("samples_sent_total", lambda one: one.sent)
    yield each("samples_pending", lambda one: one.pending)
    yield split("samples_dropped_total", DropReason, lambda one: one.dropped)
    yield split("samples_refused_total", Refusal, lambda one: one.refused)
    yield split("requests_total", ("2xx", "3xx", "4xx", "5xx", "none"), lambda one: one.requests)
    yield each("highest_sent_timestamp_seconds", lambda one: (one.highest_sent_ms or 0) / 1000)
    yield each("held", lambda one: float(one.state is not WriterState.OK))
    yield each("clock_skew_seconds", lambda one: one.skew_s or 0.0)


def of_watches(watches: Sequence[Watch], rejected: Collection[LabelSet]) -> Iterable[Reading]:
    """States, reasons and quality of all watches."""
    yield Reading("sentinel_watches", {(): len(watches)})
    empty = sum(watch.known is None and watch.finds_nothing for watch in watches)
    yield Reading("sentinel_watches_without_series", {(): empty})
    states = count_states(watches)
    yield Reading("sentinel_series", {(state,): n for state, n in states.items()})
    reasons = count_reasons(watches, rejected)
    yield Reading("sentinel_no_prediction", {(why,): n for why, n in reasons.items()})
    known = [(watch.title, watch.quality) for watch in watches if watch.quality is not None]
    mase: dict[tuple[str, ...], float] = {
        (title, f"{share:g}"): value
        for title, quality in known
        for share, value in zip(SHARES, quality.mase, strict=True)
    }
    yield Reading("sentinel_forecast_mase", mase)
    coverage: dict[tuple[str, ...], float] = {
        (title,): quality.coverage for title, quality in known
    }
    yield Reading("sentinel_forecast_coverage_ratio", coverage)
    drifting: dict[tuple[str, ...], float] = {
        (severity,): sum(quality.drifting[place] for _, quality in known)
        for place, severity in enumerate(("finetune", "retrain"))
    }
    yield Reading("sentinel_drifting_series", drifting)


def of_push(buffer: BufferStats, answers: Mapping[int, int], reads: PushStats) -> Iterable[Reading]:
    """Of the remote write receiver: what was received is what was kept or dropped."""
    prefix = "sentinel_push_"
    codes = {204: 0, 400: 0, 413: 0, 415: 0, 503: 0, **answers}
    yield Reading(f"{prefix}requests_total", {(str(code),): n for code, n in codes.items()})
    yield Reading(f"{prefix}samples_received_total", {(): buffer.received})
    yield Reading(f"{prefix}samples_kept_total", {(): buffer.kept})
    yield Reading(
        f"{prefix}samples_dropped_total", {(str(why),): n for why, n in buffer.dropped.items()}
    )
    yield Reading(f"{prefix}samples_evicted_total", {(): buffer.evicted})
    yield Reading(f"{prefix}samples_buffered", {(): buffer.buffered})
    yield Reading(f"{prefix}reads_total", {("pushed",): reads.pushed, ("asked",): reads.asked})


def of_audit(stats: AuditStats) -> Iterable[Reading]:
    """What was read back of what the receiver acknowledged."""
    yield Reading(
        "sentinel_remote_write_audited_samples_total",
        {
            ("verified",): stats.verified,
            ("missing",): stats.missing,
            ("different",): stats.different,
        },
    )
    newest_ms = stats.newest_verified_ms or 0
    yield Reading("sentinel_remote_write_newest_verified_timestamp_seconds", {(): newest_ms / 1000})
