"""A watch that begins right after Prometheus did: a dozen samples that say nothing, then life."""

from pathlib import Path

import numpy as np
import pytest

from sidecar.models.registry import MODEL_NAMES, ModelContext, build
from tests.unit.loop.house import T0, G, House, Value

NOISE = np.random.default_rng(5).normal(size=(6, 4_096))


def _at(seconds: np.ndarray) -> np.ndarray:
    """Instants since the sidecar began."""
    return np.asarray((seconds * 1000 - T0) // G, dtype=np.int64)


def young(first: int, seed: int) -> Value:
    """Nothing, ``first`` times 30, then 36 with some noise."""

    def value(seconds: np.ndarray) -> np.ndarray:
        at = _at(seconds)
        lively = 36.0 + 0.3 * NOISE[seed, at % NOISE.shape[1]]
        return np.where(at <= -first, np.nan, np.where(at <= 0, 30.0, lively))

    return value


@pytest.mark.parametrize("model", MODEL_NAMES)
async def test_a_watch_begun_on_a_dozen_equal_samples_is_soon_as_good_as_naive(
    tmp_path: Path, model: str
) -> None:
    first = max(12, build(model, {}, ModelContext(G, 5, 30)).min_instants)
    values = {name: young(first, seed) for seed, name in enumerate("abcdef")}
    async with House(tmp_path, values, {"model": model, "horizon": "5m"}) as house:
        await house.turns(38)
        expected, lower, upper, actual, score = await _lived(house, 40)
    assert np.all(upper > lower)
    assert np.mean((actual >= lower) & (actual <= upper)) >= 0.8
    assert np.median(score) < 1
    naive = np.abs(np.diff(actual, axis=0)).mean()
    assert np.abs(actual - expected).mean() < 1.3 * naive


async def _lived(house: House, count: int) -> np.ndarray:
    """(5, count, N): expected, lower, upper, actual and score of so many instants."""
    found = []
    for _ in range(count):
        await house.turns(1)
        assert house.watch.latest is not None
        one = house.watch.latest.outcomes[-1]
        found.append((one.expected, one.lower, one.upper, one.actual, one.anomaly_score))
    return np.array(found).transpose(1, 0, 2)
