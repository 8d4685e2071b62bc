"""Sums of errors against the definitions, written out in plain loops."""

import math

import numpy as np
import pytest

from sidecar.backtest.tally import Judged, Tally, add, figures, start_tally
from sidecar.series import Grid, SeriesBatch
from tests.unit.cycle.helpers import T0, labels

HOUR = 3_600_000
LEADS = (1, 2, 5)
N, HISTORY, TESTED = 3, 30, 40


def made(seed: int = 3) -> tuple[Tally, SeriesBatch, np.ndarray]:
    """A tally of random forecasts over hourly series with gaps; (T, N, 3) one-step and leads."""
    dice = np.random.default_rng(seed)
    values = dice.normal(size=(N, HISTORY + TESTED)).cumsum(axis=1)
    values[dice.random(values.shape) < 0.15] = np.nan
    values[2, :HISTORY] = np.nan
    end_ms = T0 // HOUR * HOUR
    names = tuple(labels(f"i{row}") for row in range(N))
    batch = SeriesBatch(names, Grid(end_ms, HOUR, HISTORY + TESTED), values)
    tally = start_tally(batch, TESTED, LEADS)
    forecasts = dice.normal(size=(TESTED, N, len(LEADS)))
    forecasts[dice.random(forecasts.shape) < 0.1] = np.nan
    for column in range(TESTED):
        mean = forecasts[column]
        one = np.stack([mean[:, 0], mean[:, 0] - 0.5, mean[:, 0] + 1.5], axis=1)
        half = np.full(mean.shape, 1.0)
        add(tally, np.arange(N), column, Judged(one, mean, half))
    return tally, batch, forecasts


def plainly(batch: SeriesBatch, forecasts: np.ndarray, row: int, at: int) -> dict[str, float]:
    """The definitions, one instant at a time."""
    lead, values = LEADS[at], batch.values[row]
    errors, relative, inside = [], [], []
    ours_naive, naive, ours_season, season = [], [], [], []
    for column in range(TESTED):
        actual, mean = values[HISTORY + column], forecasts[column, row, at]
        if math.isnan(actual) or math.isnan(mean):
            continue
        error = abs(actual - mean)
        errors.append(error)
        relative.append(2 * error / (abs(actual) + abs(mean)))
        low, high = (0.5, 1.5) if at == 0 else (1.0, 1.0)
        inside.append(mean - low <= actual <= mean + high)
        before = [v for v in values[: HISTORY + column - lead + 1] if not math.isnan(v)]
        if before:
            ours_naive.append(error)
            naive.append(abs(actual - before[-1]))
        yesterday = values[HISTORY + column - 24]
        if not math.isnan(yesterday):
            ours_season.append(error)
            season.append(abs(actual - yesterday))
    return {
        "judged": len(errors),
        "mae": sum(errors) / len(errors),
        "smape": sum(relative) / len(relative),
        "coverage": sum(inside) / len(inside),
        "mase": sum(ours_naive) / sum(naive),
        "seasonal_mase": sum(ours_season) / sum(season),
    }


@pytest.mark.parametrize("row", range(N))
@pytest.mark.parametrize("at", range(len(LEADS)))
def test_figures_are_as_the_definitions_say(row: int, at: int) -> None:
    tally, batch, forecasts = made()
    found = figures(tally)
    for name, wanted in plainly(batch, forecasts, row, at).items():
        assert getattr(found, name)[row, at] == pytest.approx(wanted, rel=1e-12), name


def test_coverage_over_time_adds_up_to_that_of_the_series() -> None:
    tally, _, _ = made()
    assert tally.covered.sum() == tally.inside[:, 0].sum()
    assert tally.counted.sum() == tally.judged[:, 0].sum() == tally.banded[:, 0].sum()


def test_nothing_judged_is_not_a_number() -> None:
    tally, batch, _ = made()
    empty = figures(start_tally(batch, TESTED, LEADS))
    for name in ("mae", "mase", "seasonal_mase", "smape", "coverage"):
        assert np.isnan(getattr(empty, name)).all(), name
    assert figures(tally).mae.shape == (N, len(LEADS))


def test_without_a_day_of_history_there_is_no_day_before() -> None:
    values = np.arange(20.0)[None]
    batch = SeriesBatch((labels(),), Grid(T0 // HOUR * HOUR, HOUR, 20), values)
    assert np.isnan(start_tally(batch, 10, (1,)).yesterday).all()
    longer = SeriesBatch((labels(),), Grid(T0 // HOUR * HOUR, HOUR, 30), np.arange(30.0)[None])
    found = start_tally(longer, 10, (1,)).yesterday[0]
    assert np.isnan(found[:4]).all()
    assert found[4:].tolist() == [0.0, 1, 2, 3, 4, 5]


def test_naives_own_forecasts_are_exactly_as_good_as_naive() -> None:
    values = np.random.default_rng(0).normal(size=(1, 50))
    batch = SeriesBatch((labels(),), Grid(T0 // HOUR * HOUR, HOUR, 50), values)
    tally = start_tally(batch, 20, (1, 3))
    for column in range(20):
        mean = np.array([[values[0, 29 + column], values[0, 27 + column]]])
        one = np.stack([mean[:, 0], mean[:, 0], mean[:, 0]], axis=1)
        add(tally, np.arange(1), column, Judged(one, mean, np.zeros((1, 2))))
    assert figures(tally).mase[0].tolist() == [1.0, 1.0]
