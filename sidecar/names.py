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


class SelfMetric(NamedTuple):
    """One self metric: its full name, ``gauge``, ``counter`` or ``histogram``, help and labels."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


SELF_PREFIX: Final = "sentinel_"
