"""What time it is at the server, from the ``Date`` headers of its replies.

``Date`` has whole seconds, cut off. A request sent at s and answered at r (our monotonic clock)
with ``Date: d`` says that the server's clock minus our monotonic clock lies in [d - r, d + 1 - s].
The intersection of several such intervals is far narrower than a second; an empty one means that a
clock was stepped, and only the newest answer counts. The lower end is what the future guard uses:
it never claims a later time than the server's own.
"""

from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Final

# Two machines' clocks drift apart by up to some 100 ppm: 0.06 s in ten minutes.
_KEEP_S: Final = 600.0


def parse_http_date(text: str) -> float | None:
    """Seconds since the epoch, or None where ``text`` is not an HTTP date.

    >>> parse_http_date("Thu, 01 Jan 1970 00:01:00 GMT"), parse_http_date("soon")
    (60.0, None)
    """
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


class ServerClock:
    """An interval that holds the server's clock; ``monotonic`` gives seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._low = 0.0
        self._high = 0.0
        self._since: float | None = None  # when the intersection began; None before any answer

    @property
    def known(self) -> bool:
        return self._since is not None

    def observe(self, date: str | None, sent_mono_s: float, received_mono_s: float) -> None:
        """Learn from one reply; a missing or malformed ``Date`` teaches nothing."""
        date_s = parse_http_date(date) if date else None
        if date_s is None:
            return
        low, high = date_s - received_mono_s, date_s + 1.0 - sent_mono_s
        both_low, both_high = max(low, self._low), min(high, self._high)
        expired = self._since is None or received_mono_s - self._since > _KEEP_S
        if expired or both_low > both_high:
            self._low, self._high, self._since = low, high, received_mono_s
        else:
            self._low, self._high = both_low, both_high

    def earliest_now_s(self) -> float | None:
        """The earliest that the server's clock can show now; None before any answer."""
        return None if self._since is None else self._low + self._monotonic()

    def skew_s(self, own_now_s: float) -> float | None:
        """Own clock minus the server's, at least: 0.0 where they may agree; None if unknown."""
        if self._since is None:
            return None
        now = self._monotonic()
        low, high = self._low + now, self._high + now
        return own_now_s - high if own_now_s > high else min(own_now_s - low, 0.0)
