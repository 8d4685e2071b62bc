"""Cutting a long range into slices of time that each hold about so many samples."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

HOUR_MS: Final = 3_600_000
# Prometheus cuts blocks and chunks at even hours; a slice that ends there cuts no chunk in two.
BLOCK_MS: Final = 2 * HOUR_MS
_FIRST_MS: Final = HOUR_MS
_GROWTH: Final = 8
_LONGEST_MS: Final = 2.0**53
_MAX_REMEMBERED: Final = 10_000


class Densities:
    """Samples per millisecond of each selector, as last seen; bounded."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, float] = OrderedDict()

    def get(self, selector: str) -> float | None:
        return self._seen.get(selector)

    def note(self, selector: str, density: float) -> None:
        self._seen[selector] = density
        self._seen.move_to_end(selector)
        if len(self._seen) > _MAX_REMEMBERED:
            self._seen.popitem(last=False)


class SlicePlan:
    """The slices of [start_ms, end_ms], both ends inclusive, oldest first.

    The first slice is an hour where nothing is known of the selector. Each one then teaches how
    long the next may be. ``shrink`` says that the slice at hand was too large: it is cut short.

    >>> plan = SlicePlan(0, 10 * HOUR_MS, slice_samples=8_000, density=1_000 / HOUR_MS)
    >>> [(start / HOUR_MS, (end + 1) / HOUR_MS) for start, end in plan]
    [(0.0, 8.0), (8.0, 10.000000277777778)]
    """

    def __init__(
        self, start_ms: int, end_ms: int, *, slice_samples: int, density: float | None
    ) -> None:
        self._at, self._end_ms = start_ms, end_ms
        self._slice_samples = slice_samples
        self._length_ms = _FIRST_MS if density is None else self._fitting(density)
        self._current = (start_ms, start_ms - 1)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        while self._at <= self._end_ms:
            self._current = (self._at, self._slice_end())
            yield self._current
            self._at = self._current[1] + 1

    def learn(self, density: float, slice_samples: int, growth: int = _GROWTH) -> None:
        """``density`` samples per ms were in the slice at hand; the next may hold so many.

        It is ``growth`` times as long at most: the density may have been that of a quiet hour.
        """
        self._slice_samples = slice_samples
        self._length_ms = min(self._fitting(density), self._length_ms * growth)

    def shrink(self) -> tuple[int, int] | None:
        """A quarter of the slice at hand, to be read in its place; None where it is 1 ms."""
        start_ms, end_ms = self._current
        span_ms = end_ms - start_ms + 1
        if span_ms <= 1:
            return None
        self._length_ms = max(span_ms // 4, 1)
        self._current = (start_ms, start_ms + self._length_ms - 1)
        return self._current

    def _fitting(self, density: float) -> int:
        """The length that holds the budget; without samples, whatever growth allows."""
        if density <= 0:
            return self._end_ms - self._at + 1 if self._end_ms >= self._at else 1
        return max(int(min(self._slice_samples / density, _LONGEST_MS)), 1)

    def _slice_end(self) -> int:
        end_ms = self._at + max(self._length_ms, 1) - 1
        if end_ms >= self._end_ms:
            return self._end_ms
        border_ms = (end_ms + 1) // BLOCK_MS * BLOCK_MS
        return border_ms - 1 if border_ms > self._at else end_ms
