"""Every metric name, label name and reason code that this program emits.

``<metric>`` below is the source's own name. Self metrics stand in ``SELF_METRICS`` with their type
and help, so that the exposition, the README's reference and the tests read one table.
"""

from enum import StrEnum
from typing import Final, NamedTuple

METRIC_NAME: Final = "__name__"

# Suffixes of the pushed series (and, for PREDICTED and its bounds, of the gauges on /metrics).
PREDICTED: Final = "_sentinel_predicted"
EXPECTED: Final = "_sentinel_expected"
ACTUAL: Final = "_sentinel_actual"
ANOMALY_SCORE: Final = "_sentinel_anomaly_score"
MODEL_INFO: Final = "_sentinel_model_info"
LOWER: Final = "_lower"
UPPER: Final = "_upper"

OUTPUT_SUFFIXES: Final = (
    PREDICTED,
    PREDICTED + LOWER,
    PREDICTED + UPPER,
    EXPECTED,
    EXPECTED + LOWER,
    EXPECTED + UPPER,
    ACTUAL,
    ANOMALY_SCORE,
    MODEL_INFO,
)

# Labels that we add. A source's label of the same name is renamed ``exported_<name>``.
HORIZON_LABEL: Final = "sentinel_horizon"
STEP_LABEL: Final = "sentinel_step"
VERSION_LABEL: Final = "sentinel_version"
MODEL_LABEL: Final = "sentinel_model"
TRANSFORM_LABEL: Final = "sentinel_transform"
EMITTED_LABELS: Final = (HORIZON_LABEL, STEP_LABEL, VERSION_LABEL, MODEL_LABEL, TRANSFORM_LABEL)
EXPORTED_PREFIX: Final = "exported_"


def output_label(name: str) -> str:
    """The name under which a label of a source stands on its outputs.

    >>> output_label("job"), output_label("sentinel_step")
    ('job', 'exported_sentinel_step')
    """
    return EXPORTED_PREFIX + name if name in EMITTED_LABELS else name


def is_own_output(metric: str) -> bool:
    """Whether a metric of this name is one that a sidecar wrote, and so never a source.

    Only exact suffixes count: real metrics have ``sentinel`` in their names too.

    >>> is_own_output("up_sentinel_expected_lower"), is_own_output("redis_sentinel_master_status")
    (True, False)
    """
    return metric.endswith(OUTPUT_SUFFIXES)


# RE2, anchored: what every selector we send excludes.
OWN_OUTPUT_REGEX: Final = ".+(" + "|".join(OUTPUT_SUFFIXES) + ")"


class Reason(StrEnum):
    """Why a series has no fresh prediction; a label value of ``sentinel_no_prediction``."""

    INSUFFICIENT_HISTORY = "insufficient_history"
    STALE_INPUT = "stale_input"
    GAP = "gap"
    NON_FINITE = "non_finite"
    OVER_BUDGET = "over_budget"
    DUPLICATE_OUTPUT = "duplicate_output"
    SOURCE_ERROR = "source_error"
    FIT_FAILED = "fit_failed"
    QUARANTINED = "quarantined"
    WRITE_REJECTED = "write_rejected"


# Those for which something did not work; the others are the data's, or the configuration's.
FAILURES: Final = frozenset(
    (
        Reason.NON_FINITE,
        Reason.SOURCE_ERROR,
        Reason.FIT_FAILED,
        Reason.QUARANTINED,
        Reason.WRITE_REJECTED,
    )
)


class Refusal(StrEnum):
    """Why a sample was not accepted for delivery."""

    NON_FINITE = "non_finite"
    NOT_NEWER = "not_newer"
    FUTURE = "future"
    TOO_OLD = "too_old"
    CLOCK_SKEW = "clock_skew"
    QUARANTINED = "quarantined"
    NEVER_SENT = "never_sent"
    SPOOL_UNUSABLE = "spool_unusable"


class DropReason(StrEnum):
    """Why an accepted sample was given up."""

    EXPIRED = "expired"
    SPOOL_FULL = "spool_full"
    REJECTED = "rejected"
    QUARANTINED = "quarantined"
    CLIENT_ERROR = "client_error"
    TOO_LARGE = "too_large"
    CLOCK_SKEW = "clock_skew"


class PushDrop(StrEnum):
    """Why a sample that Prometheus pushed to the sidecar was not kept."""

    UNMATCHED = "unmatched"
    OWN_OUTPUT = "own_output"
    TOO_OLD = "too_old"
    FUTURE = "future"
    DUPLICATE = "duplicate"


class SelfMetric(NamedTuple):
    """One self metric: its full name, ``gauge``, ``counter`` or ``histogram``, help and labels."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


SELF_METRICS: Final = (
    SelfMetric(
        "sentinel_build_info", "gauge", "Always 1; which build runs.", ("version", "python")
    ),
    SelfMetric("sentinel_ready", "gauge", "1 once a source answered and a model serves."),
    SelfMetric("sentinel_watches", "gauge", "Configured watches."),
    SelfMetric(
        "sentinel_watches_without_series", "gauge", "Watches that have found no series yet."
    ),
    SelfMetric("sentinel_series", "gauge", "Watched series by state.", ("state",)),
    SelfMetric(
        "sentinel_no_prediction",
        "gauge",
        "Series without a fresh prediction, by reason; a watch that cannot begin counts as one.",
        ("reason",),
    ),
    SelfMetric(
        "sentinel_forecast_mase",
        "gauge",
        "One-step error against the naive forecast's that this share of a watch's series stay "
        "below; under 1 is better than naive.",
        ("watch", "share"),
    ),
    SelfMetric(
        "sentinel_forecast_coverage_ratio",
        "gauge",
        "Share of a watch's actuals inside their 95 % band, over the newest 60 instants.",
        ("watch",),
    ),
    SelfMetric(
        "sentinel_drifting_series",
        "gauge",
        "Series whose residuals have moved, by what that calls for.",
        ("severity",),
    ),
    SelfMetric("sentinel_cycles_total", "counter", "Cycles run, by result.", ("result",)),
    SelfMetric("sentinel_cycle_duration_seconds", "histogram", "Wall time of a watch's cycle."),
    SelfMetric(
        "sentinel_cycle_last_success_timestamp_seconds", "gauge", "When a cycle last succeeded."
    ),
    SelfMetric(
        "sentinel_replayed_instants_total", "counter", "Instants caught up with after a pause."
    ),
    SelfMetric(
        "sentinel_forecasts_total", "counter", "Forecasts made, one per series and instant."
    ),
    SelfMetric(
        "sentinel_trainings_total",
        "counter",
        "Fits of series by model, what asked for them, and how they ended.",
        ("model", "trigger", "result"),
    ),
    SelfMetric("sentinel_training_duration_seconds", "histogram", "Wall time of a batch of fits."),
    SelfMetric("sentinel_training_queue_length", "gauge", "Batches of fits waiting or running."),
    SelfMetric("sentinel_worker_restarts_total", "counter", "Worker processes replaced."),
    SelfMetric(
        "sentinel_remote_read_requests_total", "counter", "Remote read requests.", ("result",)
    ),
    SelfMetric("sentinel_remote_read_samples_total", "counter", "Samples read."),
    SelfMetric("sentinel_remote_read_bytes_total", "counter", "Bytes of replies read."),
    SelfMetric(
        "sentinel_remote_write_samples_enqueued_total",
        "counter",
        "Samples accepted for delivery.",
        ("endpoint",),
    ),
    SelfMetric(
        "sentinel_remote_write_samples_sent_total",
        "counter",
        "Samples the receiver acknowledged.",
        ("endpoint",),
    ),
    SelfMetric(
        "sentinel_remote_write_samples_dropped_total",
        "counter",
        "Accepted samples given up, by reason.",
        ("endpoint", "reason"),
    ),
    SelfMetric(
        "sentinel_remote_write_samples_pending",
        "gauge",
        "Samples waiting in the spool.",
        ("endpoint",),
    ),
    SelfMetric(
        "sentinel_remote_write_samples_refused_total",
        "counter",
        "Samples not accepted for delivery, by reason.",
        ("endpoint", "reason"),
    ),
    SelfMetric(
        "sentinel_remote_write_requests_total",
        "counter",
        "Remote write requests by the class of the answer.",
        ("endpoint", "code"),
    ),
    SelfMetric(
        "sentinel_remote_write_highest_sent_timestamp_seconds",
        "gauge",
        "Newest timestamp the receiver acknowledged.",
        ("endpoint",),
    ),
    SelfMetric(
        "sentinel_remote_write_held",
        "gauge",
        "1 while writes are held back; the log says why.",
        ("endpoint",),
    ),
    SelfMetric(
        "sentinel_remote_write_clock_skew_seconds",
        "gauge",
        "Our clock less the receiver's; beyond 60 s either way writes are held.",
        ("endpoint",),
    ),
    SelfMetric(
        "sentinel_push_requests_total",
        "counter",
        "Remote write requests received, by the status of the answer.",
        ("code",),
    ),
    SelfMetric("sentinel_push_samples_received_total", "counter", "Samples pushed to the sidecar."),
    SelfMetric("sentinel_push_samples_kept_total", "counter", "Pushed samples that a watch wants."),
    SelfMetric(
        "sentinel_push_samples_dropped_total",
        "counter",
        "Pushed samples not kept, by reason.",
        ("reason",),
    ),
    SelfMetric(
        "sentinel_push_samples_evicted_total",
        "counter",
        "Kept samples forgotten again, by age or for lack of room.",
    ),
    SelfMetric("sentinel_push_samples_buffered", "gauge", "Pushed samples held now."),
    SelfMetric(
        "sentinel_push_reads_total",
        "counter",
        "Reads of cycles answered from what was pushed, or by asking the server.",
        ("result",),
    ),
    SelfMetric(
        "sentinel_remote_write_audited_samples_total",
        "counter",
        "Acknowledged samples that were read back: verified, missing, or different.",
        ("result",),
    ),
    SelfMetric(
        "sentinel_remote_write_newest_verified_timestamp_seconds",
        "gauge",
        "Timestamp of the newest sample that was read back as it was sent.",
    ),
    SelfMetric("sentinel_event_loop_lag_seconds", "gauge", "Worst lateness of a timer in 10 s."),
    SelfMetric(
        "sentinel_exposition_series", "gauge", "Prediction gauges on this page when not limited."
    ),
    SelfMetric(
        "sentinel_exposition_limited",
        "gauge",
        "1 while predictions are left out of this page: more than publish.exposition_max_series.",
    ),
)
