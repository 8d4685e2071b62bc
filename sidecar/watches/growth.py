"""Young series: whose version was fitted on much less history than there is to come.

A fit of a dozen instants says little, and cannot be validated. So a series is fitted again whenever
its history has doubled, until a fit had half of the training window or more of it no longer makes
a difference; and as long as it is young, naive serves in place of a version that does clearly
worse.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sidecar.known import Fitted, Known
from sidecar.learning import gate, scores, trackers

# A history that has grown by less than this since the fit before will not double again.
GROWING: Final = 1.5


class Growth:
    """On how much the series of a watch were fitted, and when they will have twice as much.

    Args:
        step_ms: the granularity.
        most: instants in the training window.
    """

    def __init__(self, step_ms: int, most: int) -> None:
        self._step_ms, self._most = step_ms, most
        self._fits: dict[str, tuple[int, int]] = {}
        self._asked: set[str] = set()

    def fitted(self, key: str, n_samples: int, now_ms: int) -> None:
        """Note a fit, whatever became of it, on so many instants with a value."""
        before, due_ms = self._fits.get(key, (0, 0))
        self._asked.discard(key)
        stands_still = now_ms >= due_ms and n_samples < GROWING * before
        if n_samples >= self._most / 2 or stands_still:
            self._fits.pop(key, None)
        else:
            self._fits[key] = n_samples, now_ms + n_samples * self._step_ms

    def due(self, now_ms: int) -> list[str]:
        """Keys of the series that should be fitted again, but for those that are ``asked``."""
        return [
            key
            for key, (_, due_ms) in self._fits.items()
            if due_ms <= now_ms and key not in self._asked
        ]

    def asked(self, keys: Collection[str]) -> None:
        """Note that fits of these were asked for; they are not due again until ``fitted``."""
        self._asked.update(keys)

    def young(self, key: str) -> bool:
        """Whether its newest fit had few instants."""
        samples, _ = self._fits.get(key, (gate.YOUNG, 0))
        return samples < gate.YOUNG

    def forget(self, keys: Collection[str]) -> None:
        """Of all series but these."""
        self._fits = {key: one for key, one in self._fits.items() if key in keys}
        self._asked &= self._fits.keys()

    def memo(self) -> dict[str, list[int]]:
        """For ``recall`` after a restart; plain JSON."""
        return {key: list(one) for key, one in self._fits.items()}

    def recall(self, memo: Mapping[str, Any]) -> None:
        """Raises:
        ValueError, TypeError: not what ``memo`` gave.
        """
        self._fits = {str(key): (int(samples), int(due)) for key, (samples, due) in memo.items()}

    def outdone(self, known: Known, left_alone: Collection[str]) -> NDArray[np.int64]:
        """Rows of young series whose version is clearly worse than naive, which does not serve yet.

        Args:
            left_alone: keys of the series whose version somebody has chosen.
        """
        rows = np.array(
            [
                row
                for row, one in enumerate(known.labels if self._fits else ())
                if known.versions[row] and not known.serves_naive[row]
                if self.young(one.key) and one.key not in left_alone
            ],
            dtype=np.int64,
        )
        if not rows.size:
            return rows
        figures = scores.scores(trackers.realign(known.tracker, rows))
        return rows[figures.mase > gate.CLEAR_MARGIN]


def noted(growth: Growth, fitted: Fitted, now_ms: int) -> None:
    """Note what a batch of fits had to learn from."""
    for one, samples in zip(fitted.labels, fitted.n_samples.tolist(), strict=True):
        growth.fitted(one.key, samples, now_ms)
