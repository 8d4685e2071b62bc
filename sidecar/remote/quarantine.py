"""Series that the receiver refuses: left out for a while, then tried again, ever less often.

The pause doubles each time a series is refused soon after it was let in again. An entry is
forgotten when it has stayed out of trouble for as long as its last pause.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

from sidecar.series import LabelSet


@dataclass(frozen=True, slots=True)
class Pause:
    """``pauses`` counts those so far; the series is left out until ``until_ms``."""

    until_ms: int
    length_ms: int
    pauses: int


class Quarantine:
    """Which series are left out now."""

    def __init__(self, first_pause_ms: int, longest_pause_ms: int) -> None:
        self._first_ms, self._longest_ms = first_pause_ms, longest_pause_ms
        self._pauses: dict[LabelSet, Pause] = {}

    def load(self, saved: Iterable[tuple[str, int, int]]) -> None:
        for text, until_ms, pauses in saved:
            labels = LabelSet.of([(name, value) for name, value in json.loads(text)])
            self._pauses[labels] = Pause(until_ms, self._length_ms(pauses), pauses)

    def put(self, labels: LabelSet, now_ms: int) -> Pause:
        """Refused now."""
        known = self._pauses.get(labels)
        pauses = 1 if known is None else known.pauses + 1
        length = self._length_ms(pauses)
        pause = Pause(now_ms + length, length, pauses)
        self._pauses[labels] = pause
        return pause

    def active(self, now_ms: int) -> frozenset[LabelSet]:
        """The series left out now. May be called from another thread than ``put`` and ``settle``:
        it looks at a copy, which is made in one step."""
        pauses = list(self._pauses.items())
        return frozenset(one for one, pause in pauses if pause.until_ms > now_ms)

    def settle(self, now_ms: int) -> list[LabelSet]:
        """Forget series that gave no trouble since they were let in again; gives which.

        A clock that was stepped back cannot lock a series out for longer than its pause.
        """
        for labels, pause in self._pauses.items():
            latest = now_ms + pause.length_ms
            if pause.until_ms > latest:
                self._pauses[labels] = replace(pause, until_ms=latest)
        gone = [k for k, p in self._pauses.items() if now_ms > p.until_ms + p.length_ms]
        for labels in gone:
            del self._pauses[labels]
        return gone

    def _length_ms(self, pauses: int) -> int:
        doublings = min(max(pauses - 1, 0), 30)
        return min(self._longest_ms, self._first_ms << doublings)


def as_text(labels: LabelSet) -> str:
    """What ``load`` reads back, whatever the label values are."""
    return json.dumps(labels.pairs)
