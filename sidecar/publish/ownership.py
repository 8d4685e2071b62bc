"""Which watch publishes what of a series that several watches match.

The first watch in file order owns the series' ``expected``, ``actual``, ``anomaly_score`` and
``model_info``; a later one adds its ``predicted`` only where its horizon is another. Decided from
the selectors alone, so that it does not depend on which watch met a series first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidecar.config import WatchConfig
from sidecar.series import LabelSet, Selector


@dataclass(frozen=True, slots=True)
class Claim:
    """What one watch would publish: series of ``metric`` at ``horizon`` for what it selects."""

    selector: Selector
    metric: str
    horizon_ms: int


class Ownership:
    """Answers for all watches of a configuration, in file order.

    Args:
        external_labels: the server's own, by which a watch may select though its series come
            without them.
    """

    def __init__(
        self,
        claims: Sequence[Claim],
        external_labels: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._claims = tuple(claims)
        self._external_labels = external_labels
        self._rivals = tuple(
            tuple(earlier for earlier in claims[:index] if earlier.metric == claim.metric)
            for index, claim in enumerate(claims)
        )

    @classmethod
    def among(
        cls, watches: Sequence[WatchConfig], external_labels: Callable[[], Mapping[str, str]]
    ) -> "Ownership":
        """Of the watches of a configuration."""
        claims = [Claim(one.selector, one.output_metric, one.horizon_ms) for one in watches]
        return cls(claims, external_labels)

    def of(
        self, watch: int, labels: Sequence[LabelSet]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """For each of N series: whether the watch owns it, and whether it may push predictions."""
        owner = np.ones(len(labels), dtype=np.bool_)
        predicts = np.ones(len(labels), dtype=np.bool_)
        horizon_ms, external = self._claims[watch].horizon_ms, self._external_labels()
        for earlier in self._rivals[watch]:
            selector = earlier.selector.as_read(external)
            for row, one in enumerate(labels):
                if selector.accepts(one):
                    owner[row] = False
                    predicts[row] &= earlier.horizon_ms != horizon_ms
        return owner, predicts
