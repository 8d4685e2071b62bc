"""How long to wait before the same request is sent again.

Full jitter: a uniform draw from [0, min(cap, base * 2^attempt)], so that many clients of one server
that failed together do not return together (M. Brooker, "Exponential backoff and jitter", 2015).
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from sidecar.errors import Unavailable
from sidecar.remote.clock import parse_http_date

T = TypeVar("T")

LONGEST_RETRY_AFTER_S: Final = 300.0


@dataclass(frozen=True)
class BackoffSettings:
    """``base_s`` doubles with each failure up to ``cap_s``; ``attempts`` and ``budget_s`` end it.

    Attributes:
        attempts: how often the request is sent at most, the first time included; None: for ever.
        budget_s: no further attempt is begun that would start later than this; None: for ever.
    """

    base_s: float = 1.0
    cap_s: float = 60.0
    attempts: int | None = None
    budget_s: float | None = None


FOREVER: Final = BackoffSettings()
A_FEW: Final = BackoffSettings(base_s=0.5, cap_s=5.0, attempts=3, budget_s=30.0)


def delay_s(
    failures: int,
    settings: BackoffSettings = FOREVER,
    retry_after_s: float | None = None,
    draw: Callable[[], float] = random.random,
) -> float:
    """Seconds to wait after the ``failures``-th failure in a row (1 is the first).

    What the server asked for is honoured up to five minutes, and never shortens the back-off.

    >>> delay_s(3, draw=lambda: 1.0), delay_s(99, draw=lambda: 1.0)
    (4.0, 60.0)
    >>> delay_s(1, retry_after_s=1e9, draw=lambda: 0.5)
    300.0
    """
    ceiling = min(settings.cap_s, settings.base_s * 2.0 ** min(failures - 1, 60))
    jittered = ceiling * draw()
    if retry_after_s is None or retry_after_s != retry_after_s:
        return jittered
    return max(jittered, min(retry_after_s, LONGEST_RETRY_AFTER_S))


def parse_retry_after(text: str | None, now_s: float) -> float | None:
    """Seconds from now, at least 0, of a ``Retry-After``; None where absent or malformed.

    >>> parse_retry_after("120", 0.0), parse_retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 20.0)
    (120.0, 40.0)
    >>> parse_retry_after("soon", 0.0), parse_retry_after("-5", 0.0)
    (None, None)
    """
    if text is None:
        return None
    stripped = text.strip()
    if stripped.isascii() and stripped.isdigit():
        return float(stripped)
    date_s = parse_http_date(stripped)
    return None if date_s is None else max(0.0, date_s - now_s)


async def retried(
    operation: Callable[[], Awaitable[T]],
    settings: BackoffSettings = A_FEW,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    draw: Callable[[], float] = random.random,
    monotonic: Callable[[], float] | None = None,
) -> T:
    """Run ``operation`` again while it raises ``Unavailable`` and the settings allow it.

    Raises:
        Unavailable: the last one, when attempts or budget are used up.
    """
    now = monotonic or asyncio.get_running_loop().time
    started, failures = now(), 0
    while True:
        try:
            return await operation()
        except Unavailable as error:
            failures += 1
            if settings.attempts is not None and failures >= settings.attempts:
                raise
            pause = delay_s(failures, settings, error.retry_after_s, draw)
            if settings.budget_s is not None and now() + pause - started > settings.budget_s:
                raise
        await sleep(pause)
