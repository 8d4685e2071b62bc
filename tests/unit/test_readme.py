"""README says what is there: every metric, every command, and an example that runs."""

import re
from pathlib import Path

import pytest
import yaml

from sidecar.config import SentinelConfig
from sidecar.names import OUTPUT_SUFFIXES, SELF_METRICS, Reason, SelfMetric
from sidecar.serve.guard import GuardLimits
from sidecar.serve.outbox import MOST_BYTES
from sidecar.serve.promql.engine import QueryLimits
from sidecar.serve.promql.functions import FUNCTIONS
from sidecar.serve.promql.windows import WINDOW_FUNCTIONS

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.parametrize("metric", SELF_METRICS, ids=lambda metric: metric.name)
def test_readme_lists_every_self_metric_with_its_labels_and_meaning(metric: SelfMetric) -> None:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    assert f"| `{metric.name}` | {labels} | {metric.help} |" in README


def test_readme_lists_no_self_metric_that_is_not_there() -> None:
    listed = set(re.findall(r"^\| `(sentinel_[a-z_]+)` \|", README, re.MULTILINE))
    assert listed == {metric.name for metric in SELF_METRICS}


@pytest.mark.parametrize("suffix", [s for s in OUTPUT_SUFFIXES if not s.endswith(("er",))])
def test_readme_names_every_output_series(suffix: str) -> None:
    assert f"`x{suffix}" in README


@pytest.mark.parametrize("reason", [reason.value for reason in Reason])
def test_readme_explains_every_reason(reason: str) -> None:
    assert f"`{reason}`" in README


def test_readmes_python_quick_start_makes_a_configuration() -> None:
    block = re.search(r"```python\n(from sidecar import.*?)```", README, re.DOTALL)
    assert block is not None
    code, _, rest = block[1].partition("sentinel.start()")
    assert rest, "the quick start starts something"
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    config = names["config"]
    assert isinstance(config, SentinelConfig)
    assert [watch.horizon_steps for watch in config.watches] == [5, 30]


def test_the_data_source_of_the_readme_is_the_one_that_is_shipped() -> None:
    block = re.search(r"```yaml\n(apiVersion: 1\ndatasources.*?)```", README, re.DOTALL)
    assert block is not None
    [ours] = yaml.safe_load(block[1])["datasources"]
    shipped = Path(__file__).parents[2] / "deploy/grafana/provisioning/datasources/sentinel.yml"
    [theirs] = [
        one
        for one in yaml.safe_load(shipped.read_text())["datasources"]
        if one["name"] == ours["name"]
    ]
    for key in ("uid", "type", "access", "jsonData"):
        assert ours[key] == theirs[key], key


@pytest.mark.parametrize(
    "function", ["rate", "predict_linear", "histogram_quantile", "label_replace"]
)
def test_what_the_readme_says_is_not_evaluated_past_now_is_not(function: str) -> None:
    assert function not in FUNCTIONS | WINDOW_FUNCTIONS


@pytest.mark.parametrize("function", ["abs", "round", "time", "timestamp", "scalar", "vector"])
def test_what_the_readme_says_is_evaluated_past_now_is(function: str) -> None:
    assert f"`{function}`" in README
    assert function in FUNCTIONS


def test_the_limits_of_the_port_are_those_of_the_readme() -> None:
    guard, query, text = GuardLimits(), QueryLimits(), " ".join(README.split())
    assert (
        f"It holds {guard.most} connections, waits {guard.first_s:.0f} s for a header, "
        f"{guard.body_s:.0f} s for a body and {guard.request_s:.0f} s for all of a request"
    ) in text
    assert (
        f"{query.concurrent} are evaluated at once and {query.waiting} wait, each for "
        f"{query.deadline_s:.0f} s; a query loads {query.max_reply_bytes >> 20} MiB of Prometheus' "
        f"answers, and {MOST_BYTES >> 20} MiB wait for slow readers"
    ) in text
