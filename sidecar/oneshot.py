"""What only ``sentinel once`` does: wait for the server so long, say what has no forecast."""

import asyncio
import logging
from collections.abc import Collection, Coroutine, Sequence
from itertools import islice
from typing import Any, Final

from sidecar.errors import SidecarError
from sidecar.names import FAILURES
from sidecar.series import LabelSet
from sidecar.serve.status import without
from sidecar.source import Source
from sidecar.watches.watching import Watch

log = logging.getLogger(__name__)

# A server that does not answer is asked for so many times `scrape_timeout`: a crontab starts the
# next run soon enough, and runs that wait would pile up.
PATIENCE: Final = 3
# Of so many series of a watch is said why they have no forecast.
_NAMED: Final = 20


async def answered(
    learning: Coroutine[Any, Any, None], source: Source, scrape_timeout_s: float
) -> None:
    """Await the server's first answer, but not for ever.

    Raises:
        SidecarError: there is none; what the last run left waits for the next.
    """
    patience_s = PATIENCE * scrape_timeout_s
    try:
        await asyncio.wait_for(learning, patience_s)
    except TimeoutError:
        raise SidecarError(
            f"{source.trouble}; given up after {patience_s:g} s ({PATIENCE} times scrape_timeout): "
            "nothing was read or forecast; what is not delivered yet stays in artifact_store"
        ) from None


def failures_told(watches: Sequence[Watch], rejected: Collection[LabelSet]) -> bool:
    """Name the series without a forecast in the log; whether something failed for any.

    Args:
        rejected: output series that a receiver refuses.
    """
    failed = False
    for watch in watches:
        reasons = without(watch, rejected)
        for labels, reason in islice(reasons.items(), _NAMED):
            log.warning("watch %s: no forecast of %s: %s", watch.title, labels, reason)
        if len(reasons) > _NAMED:
            log.warning("watch %s: nor of %d more series", watch.title, len(reasons) - _NAMED)
        failed |= any(one in FAILURES for one in reasons.values())
    return failed
