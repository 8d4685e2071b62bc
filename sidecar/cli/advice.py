"""What to do about each reason for which a series has no fresh prediction."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from sidecar.names import Reason

ADVICE: Final[Mapping[str, str]] = MappingProxyType(
    {
        Reason.INSUFFICIENT_HISTORY: (
            "it has too few instants with a value to learn from: wait, or set a finer granularity "
            "or a longer training_window if the data is there"
        ),
        Reason.STALE_INPUT: (
            "the source series has ended, is silent, or gives only NaN or infinity: see whether "
            "its target is still scraped, and its values; its outputs begin again with it"
        ),
        Reason.GAP: (
            "a hole in its data is longer than can be bridged: wait, it is fitted again once there "
            "is enough new data"
        ),
        Reason.NON_FINITE: (
            "its model gave something that is no number; the naive forecast serves: try another "
            "model; it is fitted again by itself"
        ),
        Reason.OVER_BUDGET: (
            "more series match than max_series or publish.max_series allows: narrow the selector, "
            "or raise it (`sentinel check` says which)"
        ),
        Reason.DUPLICATE_OUTPUT: (
            "an earlier watch writes the same output: remove one of the two, or give them "
            "different horizons"
        ),
        Reason.SOURCE_ERROR: (
            "reading failed in the last cycle, the words are above: it is tried again with growing "
            "pauses"
        ),
        Reason.FIT_FAILED: (
            "its model could not be fitted; the naive forecast serves: try another model, or look "
            "at the data; it is fitted again by itself"
        ),
        Reason.QUARANTINED: (
            "fitting it hung, crashed or ate memory; the naive forecast serves: try another model; "
            "it is fitted again by itself"
        ),
        Reason.WRITE_REJECTED: (
            "the server refuses an output of this series, and only this one; the log has its "
            "words: it is tried again with growing pauses"
        ),
    }
)
