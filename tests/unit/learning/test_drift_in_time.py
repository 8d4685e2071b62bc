"""Thirty days in a few seconds: how often drift is found where there is none, and how soon where
there is. Seeds are fixed; the figures are those of the whole loop, tracker included."""

from dataclasses import dataclass

import numpy as np
import pytest

from sidecar.learning import drift, residuals, scores, trackers
from sidecar.learning.drift import DriftSettings, Severity
from sidecar.models.contract import as_float
from sidecar.models.registry import ModelContext, build
from sidecar.series import FloatArray, Forecast
from tests.unit.learning.toys import instants

G = 300_000
DAYS_30 = 30 * 86_400_000 // G
V = 30


def noise(kind: str, random: np.random.Generator, *shape: int) -> FloatArray:
    """Of unit variance."""
    match kind:
        case "gaussian":
            return random.normal(size=shape)
        case "laplace":
            return as_float(random.laplace(size=shape) / np.sqrt(2))
        case _:
            return as_float(random.standard_t(3, size=shape) / np.sqrt(3))


@dataclass
class Loop:
    """Judging and drift of N series, with a validation on V instants before each promotion."""

    kind: str
    random: np.random.Generator
    n: int

    def __post_init__(self) -> None:
        self.tracker = trackers.start(self.n, G, 1)
        self.state = drift.start(self.n)
        self.settings = DriftSettings()
        self.fits = np.zeros((self.n, 3), dtype=np.int64)
        self.promote(np.arange(self.n))

    def promote(self, rows: np.ndarray) -> None:
        validation = noise(self.kind, self.random, rows.size, V)
        centre, scale = drift.robust_centre_and_scale(validation)
        mae = np.abs(validation).mean(axis=1)
        self.state = drift.promoted(self.state, rows, mae, centre, scale)
        self.tracker = trackers.forget(self.tracker, rows)

    def step(self, t_ms: int, actual: FloatArray, mean: FloatArray) -> np.ndarray:
        """One instant; the rows that call for a full fit (in a cooldown or not)."""
        self.tracker, judged = residuals.judge(self.tracker, t_ms, actual)
        newest = scores.rolling(self.tracker)
        self.state, found = drift.assess(
            self.state,
            self.settings,
            t_ms,
            judged.residual,
            newest.mae,
            newest.level,
            newest.steady,
        )
        rows = np.flatnonzero(found.due)
        if rows.size:
            due = found.due[rows]
            self.fits[rows, due] += 1
            self.state = drift.queued(self.state, self.settings, t_ms, rows, due)
        column = mean[:, None]
        self.tracker = residuals.record(
            self.tracker, Forecast((), t_ms, G, column, column - 2, column + 2)
        )
        self.due = np.flatnonzero(found.due == Severity.RETRAIN)
        return np.flatnonzero(found.severity == Severity.RETRAIN)


@pytest.mark.parametrize("kind", ["gaussian", "laplace", "t3"])
def test_on_stationary_noise_there_is_less_than_one_false_full_fit_in_thirty_days(
    kind: str,
) -> None:
    random = np.random.default_rng(11)
    n = 100
    loop = Loop(kind, random, n)
    level = 50.0 * np.ones(n)
    for k in range(1, DAYS_30 + 1):
        loop.step(k * G, level + noise(kind, random, n), level)
        if loop.due.size:
            loop.promote(loop.due)
    per_series = loop.fits.mean(axis=0)
    assert per_series[Severity.RETRAIN] < 0.2
    assert per_series[Severity.FINETUNE] < 1


@pytest.mark.parametrize("kind", ["gaussian", "laplace", "t3"])
@pytest.mark.parametrize(
    ("times", "severity", "within"),
    [(2.0, Severity.FINETUNE, 80), (4.0, Severity.FINETUNE, 30), (5.0, Severity.RETRAIN, 60)],
)
def test_noise_that_grows_is_found_soon(
    kind: str, times: float, severity: Severity, within: int
) -> None:
    random = np.random.default_rng(14)
    n, past = 100, 400
    loop = Loop(kind, random, n)
    level = 50.0 * np.ones(n)
    delay = np.full(n, 10_000)
    for k in range(1, past + 121):
        growth = times if k > past else 1.0
        loop.step(k * G, level + growth * noise(kind, random, n), level)
        if k > past:
            found = loop.state.severity >= severity
            delay[found] = np.minimum(delay[found], k - past)
    assert np.quantile(delay, 0.9) <= within


@pytest.mark.parametrize("kind", ["gaussian", "laplace", "t3"])
@pytest.mark.parametrize("age", [5, 400])
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_a_step_of_three_sigma_is_found_within_thirty_instants_by_a_model_that_does_not_adapt(
    kind: str, age: int, direction: float
) -> None:
    random = np.random.default_rng(12)
    n = 400
    loop = Loop(kind, random, n)
    level = 50.0 * np.ones(n)
    delay = np.full(n, 10_000)
    for k in range(1, age + 31):
        shift = 3.0 * direction if k > age else 0.0
        rows = loop.step(k * G, level + shift + noise(kind, random, n), level)
        if k > age:
            delay[rows] = np.minimum(delay[rows], k - age)
    assert delay.max() <= 30
    assert delay.mean() <= 10


@pytest.mark.parametrize("name", ["holt", "arima", "naive", "linear", "sgd"])
def test_after_a_step_of_three_sigma_drift_is_found_or_the_error_is_soon_back(name: str) -> None:
    random = np.random.default_rng(13)
    n, first, past, soon = 40, 300, 400, 30
    model = build(name, {}, ModelContext(granularity_ms=G, horizon_steps=1, n_lags=6))
    y = 50.0 + random.normal(size=(n, past + 3 * soon))
    y[:, past:] += 3.0
    t_ms = instants(y.shape[1], step_ms=G)
    state = model.fit(t_ms[:first], y[:, :first])
    loop = Loop("gaussian", random, n)
    errors = np.full(y.shape, np.nan)
    found = np.zeros(n, dtype=np.bool_)
    mean = np.full(n, np.nan)
    for k in range(first, y.shape[1]):
        errors[:, k] = np.abs(y[:, k] - mean)
        mean = model.forecast(state, t_ms[k : k + 1]).mean[:, 0]
        rows = loop.step(int(t_ms[k]), y[:, k], mean)
        found[rows] |= past <= k < past + soon
        state = model.update(state, t_ms[k : k + 1], y[:, k : k + 1])
    quiet = ~found
    if quiet.any():
        before = np.nanmean(errors[quiet, first:past])
        assert np.mean(errors[quiet, past + soon :]) <= 1.2 * before
