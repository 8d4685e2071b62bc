"""The main job on a real Prometheus: everything here looks at one world, lived through once."""

import re
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from sidecar.names import (
    ACTUAL,
    ANOMALY_SCORE,
    EXPECTED,
    LOWER,
    METRIC_NAME,
    PREDICTED,
    UPPER,
    VERSION_LABEL,
)
from sidecar.series import RawSeries, quote
from tests.e2e.world import FLEET, MODELS, NASTY, RATE, STEPS, World
from tests.prometheus import PrometheusBinary

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="session"),
]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def world(prometheus_binary: PrometheusBinary) -> AsyncIterator[World]:
    async with World(prometheus_binary) as lived:
        yield lived


def spacing_ms(series: RawSeries) -> set[int]:
    return set(np.diff(series.timestamps_ms).tolist())


def seen_at(series: RawSeries, other: RawSeries) -> NDArray[np.bool_]:
    """(S,) where ``other`` has a sample at the same instant."""
    return np.isin(series.timestamps_ms, other.timestamps_ms)


async def at_grid(world: World, expr: str, series: RawSeries) -> RawSeries:
    """A range query at the instants of ``series``, which is one that the sidecar wrote."""
    step_ms = min(spacing_ms(series))
    start_s, end_s = series.timestamps_ms[0] / 1000, series.timestamps_ms[-1] / 1000
    [found] = await world.prometheus.query_range(expr, start_s, end_s, step_ms / 1000)
    return found


# 1. First forecast, joins, counters


async def test_with_defaults_the_first_forecast_is_stored_within_a_minute(world: World) -> None:
    assert world.facts.default_first_s <= 60


@pytest.mark.parametrize("metric", ["x", "plain_gauge"])
async def test_a_gauge_and_what_was_expected_of_it_have_the_same_labels(
    world: World, metric: str
) -> None:
    expected = world.only(metric + EXPECTED)
    at_s = expected.timestamps_ms[-1] / 1000
    [actual] = await world.prometheus.query(metric, at_s)
    assert expected.labels == actual.replaced({METRIC_NAME: metric + EXPECTED})
    residual = await world.prometheus.query(f"{metric} - {metric}{EXPECTED}", at_s)
    assert list(residual) == [actual.without(METRIC_NAME)]
    assert abs(residual[actual.without(METRIC_NAME)]) < 10


async def test_a_residual_by_lead_can_be_asked_for_in_promql(world: World) -> None:
    at_s = world.only("walk" + EXPECTED).timestamps_ms[-1] / 1000
    found = await world.prometheus.query(
        f'walk - ignoring(sentinel_horizon, sentinel_step) walk{PREDICTED}{{sentinel_step="5"}} '
        "offset 5s",
        at_s,
    )
    assert len(found) == 1


async def test_the_rate_of_a_counter_overlays_its_actual_within_5_percent(world: World) -> None:
    actual = world.only("steady_total" + ACTUAL)
    np.testing.assert_allclose(actual.values, RATE, rtol=0.05)
    # By now the windows begin after the seconds in which Prometheus was not yet scraping.
    rate = await at_grid(world, "rate(steady_total[2m])", actual)
    np.testing.assert_allclose(rate.values[-10:], actual.values[-10:], rtol=0.05)
    joined = await world.prometheus.query(
        f"rate(steady_total[2m]) / steady_total{ACTUAL}", actual.timestamps_ms[-1] / 1000
    )
    assert [one == pytest.approx(1, abs=0.05) for one in joined.values()] == [True]


async def test_at_the_defaults_a_counters_rate_is_what_promql_says(world: World) -> None:
    actual = world.only("plain_total" + ACTUAL)
    rate = await world.prometheus.query("rate(plain_total[2m])", actual.timestamps_ms[-1] / 1000)
    assert list(rate.values()) == [pytest.approx(actual.values[-1], rel=0.05)]


# 2. Leads


@pytest.mark.parametrize("model", ["linear", "exponential_smoothing", "arima"])
async def test_what_was_predicted_five_steps_before_lies_on_a_line(
    world: World, model: str
) -> None:
    predicted = world.only("line" + PREDICTED, m=model, sentinel_step=str(STEPS))
    start_s = predicted.timestamps_ms[0] / 1000 + STEPS
    end_s = predicted.timestamps_ms[-1] / 1000 + STEPS
    selector = f'line{PREDICTED}{{m="{model}", sentinel_step="{STEPS}"}}'
    [ahead] = await world.prometheus.query_range(
        f"last_over_time({selector}[2s] offset {STEPS}s)", start_s, end_s, 1
    )
    assert ahead.timestamps_ms[-1] == predicted.timestamps_ms[-1] + STEPS * 1000
    # After a pause only the newest instant is predicted from; [2s] bridges the one before.
    issued = np.isin(ahead.timestamps_ms - STEPS * 1000, predicted.timestamps_ms)
    assert issued.mean() > 0.5
    line = 100 + 0.5 * (ahead.timestamps_ms / 1000 - world.epoch_s)
    np.testing.assert_allclose(ahead.values[issued], line[issued], rtol=1e-6)


async def test_an_actual_scraped_late_is_judged_with_its_true_value(world: World) -> None:
    actual = world.only("late" + ACTUAL)
    true = await at_grid(world, "last_over_time(late[5s])", actual)
    np.testing.assert_array_equal(actual.values, true.values[seen_at(true, actual)])
    judged = world.only("late" + ANOMALY_SCORE)
    assert seen_at(judged, actual).sum() >= actual.timestamps_ms.size - 1


# 3. Prometheus is none the worse for it


async def test_no_scrape_was_refused_as_out_of_bounds(world: World) -> None:
    for reason in ("out_of_bounds", "out_of_order", "duplicate_timestamp"):
        name = f"prometheus_target_scrapes_sample_{reason}_total"
        assert await world.prometheus.self_metric(name) == 0


async def test_up_has_no_gap(world: World) -> None:
    ups = await world.prometheus.samples("up", int(world.begin_s * 1000), world.end_ms)
    for up in ups:
        interval_ms = 5000 if up.labels.get("job") == "slow" else 1000
        assert np.diff(up.timestamps_ms).max() < 3 * interval_ms, up.labels
        assert up.values.min() == 1, up.labels
    assert len(ups) == 3


async def test_no_sample_was_later_than_now(world: World) -> None:
    assert len(world.facts.head_ahead_s) > 100
    assert max(world.facts.head_ahead_s) <= 0


# 4. Models


@pytest.mark.parametrize("model", MODELS)
async def test_a_constant_is_forecast_at_every_step(world: World, model: str) -> None:
    paths = world.of("const" + PREDICTED, m=model)
    assert {one.get("sentinel_step") for one in paths} == {str(k) for k in range(1, STEPS + 1)}
    for path in paths.values():
        np.testing.assert_allclose(path.values, 42.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "tolerance"),
    [("linear", 1e-6), ("exponential_smoothing", 1e-6), ("arima", 1e-6), ("sgd", 1e-2)],
)
async def test_a_line_goes_on_by_its_slope(world: World, model: str, tolerance: float) -> None:
    first, last = (
        world.only("line" + PREDICTED, m=model, sentinel_step=str(k)) for k in (1, STEPS)
    )
    common = np.intersect1d(first.timestamps_ms, last.timestamps_ms)
    rise = (
        last.values[np.isin(last.timestamps_ms, common)]
        - first.values[np.isin(first.timestamps_ms, common)]
    )
    slope = 0.5 * (STEPS - 1)
    # Both ends carry the relative error of the level.
    level = first.values.max()
    np.testing.assert_allclose(rise, slope, atol=slope * tolerance + 2e-9 * level)


async def test_forecasts_change_as_samples_arrive(world: World) -> None:
    first = world.only("walk" + PREDICTED, sentinel_step="1")
    assert np.unique(first.values).size > 0.9 * first.values.size


# 5. One model for each series, whatever its labels


async def test_a_watch_that_matches_16_series_yields_16_forecasts(world: World) -> None:
    for suffix in (PREDICTED, EXPECTED, ANOMALY_SCORE):
        found = {one.get("i") for one in world.of("fleet" + suffix)}
        assert found == {f"{i:02d}" for i in range(FLEET)}


async def test_two_watches_on_one_metric_both_publish(world: World) -> None:
    for suffix in (PREDICTED, EXPECTED, EXPECTED + LOWER, EXPECTED + UPPER):
        assert {one.get("side") for one in world.of("pair" + suffix)} == {"left", "right"}


async def test_hostile_label_values_are_safe_everywhere(world: World) -> None:
    expected = world.only("nasty" + EXPECTED)
    assert expected.labels.get("path") == NASTY
    joined = await world.prometheus.query(
        f"nasty{{path={quote(NASTY)}}} - nasty{EXPECTED}", expected.timestamps_ms[-1] / 1000
    )
    assert [one.get("path") for one in joined] == [NASTY]
    shown = re.findall(rf"^nasty{PREDICTED}{{(.*)}} \S+$", world.facts.page, re.MULTILINE)
    assert shown
    assert all(f"path={quote(NASTY)}" in labels for labels in shown)


# 6. The grid


@pytest.mark.parametrize(
    ("metric", "granularity_ms"),
    [("fleet", 1000), ("walk", 1000), ("late", 5000), ("x", 15_000)],
)
async def test_what_is_expected_lies_on_the_grid_without_a_hole(
    world: World, metric: str, granularity_ms: int
) -> None:
    for suffix in (EXPECTED, EXPECTED + LOWER, EXPECTED + UPPER):
        for one in world.of(metric + suffix).values():
            assert spacing_ms(one) == {granularity_ms}, one.labels
            assert not (one.timestamps_ms % granularity_ms).any(), one.labels


async def test_a_minutes_predictions_are_stamped_a_minute_apart(world: World) -> None:
    for one in world.of("plain_gauge" + PREDICTED).values():
        assert spacing_ms(one) == {60_000}, one.labels
        assert not (one.timestamps_ms % 60_000).any(), one.labels


async def test_nothing_was_sent_twice_or_out_of_order_or_given_up(world: World) -> None:
    for metrics in (world.facts.steady, world.facts.crashing):
        assert metrics.total("sentinel_remote_write_samples_sent_total") > 0
        dropped = [line for line in metrics.page.splitlines() if "_dropped_total{" in line]
        assert metrics.total("sentinel_remote_write_samples_dropped_total") == 0, dropped
        assert metrics.total("sentinel_remote_write_requests_total", code="[45].*") == 0
    assert await world.prometheus.self_metric("prometheus_tsdb_out_of_order_samples_total") == 0


async def test_gaps_and_nan_in_the_input_spoil_nothing(world: World) -> None:
    for one in world.stored.values():
        assert np.isfinite(one.values).all(), one.labels
    expected = world.only("gappy" + EXPECTED)
    assert np.abs(expected.values - 50).max() < 10
    assert len(world.of("gappy" + PREDICTED)) == STEPS
    # Only where a sample was is there something to compare, but there is always an expectation.
    assert expected.timestamps_ms.size > 60


# 7. Counters


async def test_the_forecast_of_a_counter_with_resets_is_a_rate_and_never_negative(
    world: World,
) -> None:
    for suffix in ("", LOWER, UPPER):
        for one in world.of(f"resetting_total{PREDICTED}{suffix}").values():
            assert one.values.min() >= 0, one.labels
    actual = world.only("resetting_total" + ACTUAL)
    assert actual.values.min() >= 0
    assert actual.values.max() <= 1.5 * RATE
    assert np.median(actual.values) == pytest.approx(RATE, rel=0.05)


# 9. kill -9


async def test_after_kill_9_expected_has_no_hole(world: World) -> None:
    expected = world.only("phoenix" + EXPECTED)
    assert expected.timestamps_ms[0] < world.facts.crashed_ms - 10_000
    assert expected.timestamps_ms[-1] > world.facts.back_ms
    assert spacing_ms(expected) == {1000}


async def test_what_is_expected_right_after_kill_9_is_as_good_as_before(world: World) -> None:
    expected = world.only("phoenix" + EXPECTED)
    line = 100 + 0.5 * (expected.timestamps_ms / 1000 - world.epoch_s)
    np.testing.assert_allclose(expected.values, line, rtol=1e-6)


# The whole process


async def test_sigterm_ends_it_with_status_0_within_5_seconds(world: World) -> None:
    status, seconds = world.facts.terminated
    assert status == 0
    assert seconds < 5


async def test_metrics_page_names_the_version_of_each_prediction(world: World) -> None:
    lines = re.findall(
        rf'^const{PREDICTED}{{.*{VERSION_LABEL}="v\d+".*}} 42', world.facts.page, re.M
    )
    assert len(lines) >= STEPS


async def test_everything_stored_stems_from_a_watched_series(world: World) -> None:
    sources = {one.metric.split("_sentinel_")[0] for one in world.stored}
    exact = {"const", "line", "fleet", "pair", "nasty", "gappy", "walk", "phoenix"}
    live = {"x", "late", "steady_total", "resetting_total", "plain_gauge", "plain_total"}
    assert sources == exact | live
    assert world.end_ms <= time.time() * 1000
