"""How far the receiver has what was pushed."""

from dataclasses import dataclass

import numpy as np

from sidecar.publish.acknowledgements import Acknowledgements
from sidecar.publish.paths import ForecastPaths, OutputPaths
from sidecar.series import LabelSet

X = LabelSet.of({"__name__": "x_sentinel_expected"})


@dataclass
class Totals:
    enqueued: int
    pending: int


def first_served(paths: ForecastPaths) -> int | None:
    return paths.first_served_ms(())


def paths_from(first_ms: int) -> ForecastPaths:
    paths = ForecastPaths()
    instants = np.arange(first_ms, first_ms + 5)
    paths.replace("w", [OutputPaths((X,), instants, np.ones((1, 5)))])
    return paths


def test_an_instant_is_acknowledged_once_all_that_was_accepted_by_then_is_settled() -> None:
    paths = paths_from(10)
    acknowledgements = Acknowledgements(paths)
    acknowledgements.look([Totals(100, 5)], [("w", 11)])
    assert first_served(paths) == 10
    acknowledgements.look([Totals(100, 1)], [("w", 11)])
    assert first_served(paths) == 10
    acknowledgements.look([Totals(120, 20)], [("w", 11)])
    assert first_served(paths) == 12


def test_the_slowest_endpoint_decides() -> None:
    paths = paths_from(10)
    acknowledgements = Acknowledgements(paths)
    acknowledgements.look([Totals(100, 5), Totals(100, 5)], [("w", 11)])
    acknowledgements.look([Totals(100, 0), Totals(100, 5)], [("w", 11)])
    assert first_served(paths) == 10
    acknowledgements.look([Totals(100, 0), Totals(100, 0)], [("w", 11)])
    assert first_served(paths) == 12
