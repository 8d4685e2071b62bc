import io
import urllib.parse

import pytest
from rich.console import Console

from deploy.demo_stack import view
from sidecar.config import load
from tests.test_house import ROOT


def test_progress_is_told_from_the_sidecars_own_metrics() -> None:
    page = (
        'sentinel_series{state="fitting"} 3\nsentinel_series{state="serving"} 2\n'
        'sentinel_series{state="ended"} 0\nsentinel_training_queue_length 1\n'
    )
    assert view.progress(page) == "3 series fitting, 2 series serving, 1 fits to do"


def test_a_sidecar_that_does_not_answer_yet_is_starting() -> None:
    assert view.progress("") == "starting"


def test_a_graph_address_carries_each_expression_unharmed() -> None:
    exprs = ['up{job="a b"} > 1 and x', "rate(y[5m])"]
    query = urllib.parse.urlsplit(view.graph_url("http://127.0.0.1:9090", *exprs)).query
    fields = dict(urllib.parse.parse_qsl(query))
    assert [fields["g0.expr"], fields["g1.expr"]] == exprs


@pytest.mark.parametrize("shown", view.SHOWN, ids=lambda one: one.metric)
def test_a_title_is_never_cut_within_its_expression(shown: view.Shown) -> None:
    for width in (40, 80, 120):
        title = view.titled(shown, width)
        assert len(title) <= width
        assert title == shown.title or title.endswith(f"({shown.actual})")


@pytest.mark.parametrize("model", ["exponential_smoothing", "seasonal_naive", "auto"])
def test_no_word_of_the_table_is_split_at_80_columns(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {
        "__name__": "demo_requests_total_sentinel_model_info",
        "route": "/checkout",
        "sentinel_model": model,
        "sentinel_version": "v12",
    }
    info = [(labels, 1.0)]
    monkeypatch.setattr(view, "instant", lambda _, e: info if "model_info" in e else [])
    console = Console(file=io.StringIO(), width=80)
    console.print(view.numbers("http://nobody"))
    assert isinstance(console.file, io.StringIO)
    [_, row] = console.file.getvalue().splitlines()
    assert row.split()[:3] == [
        'demo_requests_total{route="/checkout"}',
        "holt" if model == "exponential_smoothing" else model,
        "v12",
    ]


def test_the_demo_draws_what_the_example_configuration_forecasts() -> None:
    watches = load(ROOT / "deploy/sentinel.example.yml", {}).watches
    assert {watch.metric for watch in watches} == {shown.metric for shown in view.SHOWN}
    assert {watch.granularity_ms / 1000 for watch in watches} == {view.GRANULARITY_S}
    assert {watch.horizon_ms / 1000 for watch in watches} == {view.AHEAD_S}
