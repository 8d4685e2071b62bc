"""The gauges on /metrics: one family in one piece, escaped, parsed back by the client's parser."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from sidecar.publish.exposition import GaugeRules, Page, join, prefixes, render
from sidecar.series import Forecast, LabelSet

RULES = GaugeRules("x", "2m", bounds=False)


def page(sources: tuple[LabelSet, ...], mean: list[list[float]], rules: GaugeRules = RULES) -> Page:
    path = np.array(mean)
    forecast = Forecast(sources, 0, 60_000, path, path - 1, path + 1)
    return render(rules, prefixes(rules, sources, ["v3"] * len(sources), 2), forecast)


def labelled(value: str) -> LabelSet:
    return LabelSet.of({"__name__": "x", "path": value})


@given(st.text(min_size=1))
def test_any_label_value_is_read_back_as_it_was(value: str) -> None:
    families = list(text_string_to_metric_families(join([page((labelled(value),), [[1.5, 2.5]])])))
    assert [family.name for family in families] == ["x_sentinel_predicted"]
    assert [(s.labels["path"], s.value) for s in families[0].samples] == [
        (value, 1.5),
        (value, 2.5),
    ]


def test_labels_say_horizon_step_and_version() -> None:
    (family,) = text_string_to_metric_families(join([page((labelled("a"),), [[1.0, 2.0]])]))
    assert [sample.labels for sample in family.samples] == [
        {"path": "a", "sentinel_horizon": "2m", "sentinel_step": step, "sentinel_version": "v3"}
        for step in ("1", "2")
    ]


def test_two_watches_on_one_metric_share_one_header() -> None:
    text = join([page((labelled("a"),), [[1.0, 2.0]]), page((labelled("b"),), [[3.0, 4.0]])])
    assert text.count("# TYPE x_sentinel_predicted gauge") == 1
    assert text.count("# HELP x_sentinel_predicted ") == 1
    assert len([line for line in text.splitlines() if not line.startswith("#")]) == 4


def test_a_series_without_a_finite_forecast_is_left_out() -> None:
    shown = page((labelled("a"), labelled("b")), [[np.nan, 1.0], [1.0, 2.0]])
    assert shown.series == 2
    assert 'path="a"' not in join([shown])


def test_a_page_without_a_line_has_no_header() -> None:
    assert join([page((labelled("a"),), [[np.nan, np.nan]])]) == ""


def test_help_says_per_second_for_a_counter() -> None:
    text = join([page((labelled("a"),), [[1.0, 2.0]], GaugeRules("x", "2m", False, "rate"))])
    assert "per second" in text.splitlines()[0]


def test_bounds_are_families_of_their_own() -> None:
    text = join([page((labelled("a"),), [[1.0, 2.0]], GaugeRules("x", "2m", bounds=True))])
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert sorted(families) == [
        "x_sentinel_predicted",
        "x_sentinel_predicted_lower",
        "x_sentinel_predicted_upper",
    ]
    assert families["x_sentinel_predicted_upper"].samples[0].value == 2.0
