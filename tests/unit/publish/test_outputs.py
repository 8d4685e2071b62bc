"""Which samples a watch owes, under which names."""

import numpy as np
import pytest

from sidecar import names
from sidecar.publish.outputs import (
    InstantOutcome,
    OutputRules,
    due_blocks,
    plan_outputs,
    with_ours,
)
from sidecar.series import Forecast, LabelSet

T = 1_700_000_040_000
G = 60_000
A = LabelSet.of({"__name__": "x", "instance": "a"})
B = LabelSet.of({"__name__": "x", "instance": "b"})


def rules(**changes: object) -> OutputRules:
    plain: dict[str, object] = {
        "metric": "x",
        "horizon": "3m",
        "steps": (1, 2, 3),
        "bounds": False,
        "expected": True,
        "actual": "auto",
        "anomaly_score": True,
        "model_info": True,
        "version_label": False,
        "model": "holt",
    }
    return OutputRules(**{**plain, **changes})  # type: ignore[arg-type]


def outcome(expected: list[float], mean: list[list[float]] | None) -> InstantOutcome:
    column = np.array(expected)
    forecast = None
    if mean is not None:
        path = np.array(mean)
        forecast = Forecast((A, B), T, G, path, path - 1, path + 1)
    return InstantOutcome(T, column, column - 1, column + 1, column + 0.5, np.zeros(2), forecast)


def written(
    plan_rules: OutputRules,
    what: InstantOutcome,
    owner: tuple[bool, bool] = (True, True),
    predicts: tuple[bool, bool] = (True, True),
) -> dict[str, float]:
    plan = plan_outputs(plan_rules, (A, B), ("v1", "v2"), np.array(owner), np.array(predicts))
    blocks = due_blocks(plan, what)
    assert all(block.timestamp_ms == T for block in blocks)
    return {
        str(block.labels[row]): block.values[row]
        for block in blocks
        for row in np.flatnonzero(np.ones(len(block.labels)) if block.due is None else block.due)
    }


def test_a_gauge_gets_expected_band_score_info_and_predictions() -> None:
    samples = written(rules(steps=(1, 3)), outcome([5.0, 7.0], [[1, 2, 3], [4, 5, 6]]))
    assert samples['x_sentinel_expected{instance="a"}'] == 5.0
    assert samples['x_sentinel_expected_lower{instance="b"}'] == 6.0
    assert samples['x_sentinel_expected_upper{instance="b"}'] == 8.0
    assert samples['x_sentinel_anomaly_score{instance="a"}'] == 0.0
    predicted = 'x_sentinel_predicted{instance="b", sentinel_horizon="3m", sentinel_step="3"}'
    assert samples[predicted] == 6.0
    info = (
        'x_sentinel_model_info{instance="b", sentinel_model="holt", sentinel_transform="none", '
        'sentinel_version="v2"}'
    )
    assert samples[info] == 1.0
    assert len(samples) == 2 * (3 + 1 + 1 + 2)


def test_actual_is_published_where_the_model_does_not_see_the_series_itself() -> None:
    what = outcome([5.0, 7.0], None)
    assert 'x_sentinel_actual{instance="a"}' not in written(rules(), what)
    assert written(rules(transform="rate"), what)['x_sentinel_actual{instance="a"}'] == 5.5
    assert 'x_sentinel_actual{instance="a"}' in written(rules(actual=True), what)
    assert 'x_sentinel_actual{instance="a"}' not in written(
        rules(transform="rate", actual=False), what
    )


def test_an_instant_that_is_caught_up_with_issues_no_prediction() -> None:
    samples = written(rules(), outcome([5.0, 7.0], None))
    assert not [name for name in samples if "predicted" in name]
    assert 'x_sentinel_expected{instance="a"}' in samples


def test_what_is_not_finite_is_not_written() -> None:
    what = outcome([np.nan, np.inf], [[np.nan] * 3, [np.inf, 1, -np.inf]])
    samples = written(rules(anomaly_score=False), what)
    assert samples == {
        'x_sentinel_predicted{instance="b", sentinel_horizon="3m", sentinel_step="2"}': 1.0
    }


def test_bounds_of_predictions_are_written_when_asked_for() -> None:
    samples = written(rules(bounds=True, steps=(2,)), outcome([5.0, 7.0], [[1, 2, 3], [4, 5, 6]]))
    labels = '{instance="a", sentinel_horizon="3m", sentinel_step="2"}'
    assert samples[f"x_sentinel_predicted_lower{labels}"] == 1.0
    assert samples[f"x_sentinel_predicted_upper{labels}"] == 3.0


def test_a_series_owned_by_an_earlier_watch_gets_only_predictions() -> None:
    samples = written(
        rules(steps=(1,)),
        outcome([5.0, 7.0], [[1, 2, 3], [4, 5, 6]]),
        owner=(True, False),
        predicts=(False, True),
    )
    assert [name for name in samples if 'instance="b"' in name] == [
        'x_sentinel_predicted{instance="b", sentinel_horizon="3m", sentinel_step="1"}'
    ]
    assert not [name for name in samples if 'instance="a"' in name and "predicted" in name]


def test_version_label_starts_new_series_only_when_asked_for() -> None:
    what = outcome([5.0, 7.0], [[1, 2, 3], [4, 5, 6]])
    plain = [name for name in written(rules(), what) if "predicted" in name]
    named = [name for name in written(rules(version_label=True), what) if "predicted" in name]
    assert not [name for name in plain if "sentinel_version" in name]
    assert all("sentinel_version" in name for name in named)


@pytest.mark.parametrize("ours", names.EMITTED_LABELS)
def test_a_sources_label_that_we_emit_is_renamed(ours: str) -> None:
    source = LabelSet.of({"__name__": "x", ours: "theirs", "job": "j"})
    assert with_ours(source, {"__name__": "y", ours: "ours"}) == LabelSet.of(
        {"__name__": "y", ours: "ours", f"exported_{ours}": "theirs", "job": "j"}
    )


def test_the_steady_state_hands_on_the_plans_own_labels() -> None:
    plan = plan_outputs(
        rules(), (A, B), ("v1", "v1"), np.ones(2, dtype=np.bool_), np.ones(2, dtype=np.bool_)
    )
    blocks = due_blocks(plan, outcome([5.0, 7.0], [[1, 2, 3], [4, 5, 6]]))
    handed_on = [one for block in blocks for one in block.labels]
    assert sorted(handed_on) == sorted(plan.labels)
    assert all(block.due is None for block in blocks)
    again = due_blocks(plan, outcome([5.0, np.nan], [[1, 2, 3], [4, 5, 6]]))
    assert [id(block.labels) for block in again] == [id(block.labels) for block in blocks]
    for block in again:
        assert block.due is not None
        np.testing.assert_array_equal(block.due, np.isfinite(block.values))


@pytest.mark.parametrize("version_label", [False, True])
def test_a_new_version_makes_new_labels_only_where_they_name_it(version_label: bool) -> None:
    everyone, r = np.ones(2, dtype=np.bool_), rules(steps=(1,), version_label=version_label)
    plans = [plan_outputs(r, (A, B), ("v1", new), everyone, everyone) for new in ("v1", "v2")]
    before, after = ([labels for _, labels in plan.parts] for plan in plans)
    assert len(before) == len(after) == 2
    assert before[0] == after[0]
    assert not any(one.get(names.VERSION_LABEL) for one in before[0])
    assert before[1] != after[1]
    named = {one.metric for one in before[1]}
    assert named == (
        {"x_sentinel_model_info", "x_sentinel_predicted"}
        if version_label
        else {"x_sentinel_model_info"}
    )
