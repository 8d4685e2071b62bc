"""The configuration as Python classes: order, defaults, what is derived."""

import inspect

import pytest

from sidecar.config import (
    PublishConfig,
    RemoteWriteConfig,
    SentinelConfig,
    WatchConfig,
    WatchPublish,
)
from sidecar.errors import ConfigError
from sidecar.models.contract import BaseModel, PredictionResult, TrainingResult
from sidecar.series import FloatArray


def test_the_positional_order_of_sentinel_mlops_holds() -> None:
    watch = WatchConfig("up", {"job": "api"}, None, "0 * * * *", "15s", "1m", "5m", 0.1, 0.3)
    assert watch == WatchConfig(
        metric="up",
        labels={"job": "api"},
        model_class=None,
        cron="0 * * * *",
        granularity="15s",
        horizon="1m",
        lookback="5m",
        drift_finetune_threshold=0.1,
        drift_retrain_threshold=0.3,
    )
    config = SentinelConfig("http://p:9090", 9000, "./store", 7, [watch], 3, True)
    assert (config.prometheus_url, config.emitter_port) == ("http://p:9090", 9000)
    assert (config.artifact_store, config.max_versions_per_metric) == ("./store", 7)
    assert (config.scrape_timeout_s, config.emit_confidence_bounds) == (3.0, True)
    assert config.watches == (watch,)


def test_the_defaults_of_sentinel_mlops_hold() -> None:
    config = SentinelConfig()
    assert config.prometheus_url == "http://localhost:9090"
    assert (config.emitter_port, config.emitter_host) == (8080, "127.0.0.1")
    assert (config.artifact_store, config.max_versions_per_metric) == ("./sentinel_artifacts", 5)
    assert (config.watches, config.scrape_timeout) == ((), 10)
    assert config.emit_confidence_bounds is False


def test_what_is_not_named_comes_by_name_only() -> None:
    assert list(inspect.signature(WatchConfig).parameters)[:9] == [
        "metric", "labels", "model_class", "cron", "granularity", "horizon", "lookback",
        "drift_finetune_threshold", "drift_retrain_threshold",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="one argument too many"):
        WatchConfig("up", {}, None, "@daily", "1m", "5m", "30m", 1, 2, "arima")  # type: ignore[call-arg]


def test_a_configuration_cannot_be_changed() -> None:
    watch = WatchConfig("up")
    with pytest.raises(AttributeError):
        watch.horizon = "10m"  # type: ignore[misc]


def test_durations_come_in_milliseconds() -> None:
    watch = WatchConfig("up", granularity="15s", horizon="1m30s", lookback="1h")
    assert (watch.granularity_ms, watch.horizon_ms, watch.lookback_ms) == (
        15_000,
        90_000,
        3_600_000,
    )
    assert (watch.horizon_steps, watch.n_lags) == (6, 240)
    assert watch.training_window_ms == 8 * 86_400_000


@pytest.mark.parametrize(
    ("granularity", "offset", "expected_ms"),
    [("1m", None, 10_000), ("5s", None, 5_000), ("1m", "30s", 30_000), ("1m", "0s", 0)],
)
def test_query_offset(granularity: str, offset: str | None, expected_ms: int) -> None:
    watch = WatchConfig("up", granularity=granularity, query_offset=offset)
    assert watch.query_offset_ms == expected_ms


@pytest.mark.parametrize(
    ("horizon", "steps", "expected"),
    [
        ("5m", "auto", (1, 2, 3, 4, 5)),
        ("12m", "auto", tuple(range(1, 13))),
        ("13m", "auto", (1, 13)),
        ("5m", [5, 1, 5], (1, 5)),
    ],
)
def test_published_steps(horizon: str, steps: list[int] | str, expected: tuple[int, ...]) -> None:
    publish = WatchPublish(steps=steps)  # type: ignore[arg-type]
    assert WatchConfig("up", horizon=horizon, publish=publish).steps == expected


def test_steps_that_all_watches_share_are_cut_at_the_horizon_of_each() -> None:
    config = SentinelConfig(
        watches=[WatchConfig("a", horizon="3m"), WatchConfig("b", horizon="10m")],
        publish=PublishConfig(steps=[2, 5, 60]),
    )
    assert [watch.steps for watch in config.watches] == [(2,), (2, 5)]
    beyond = SentinelConfig(watches=[WatchConfig("a")], publish=PublishConfig(steps=[60]))
    assert beyond.watches[0].steps == (5,)


def test_a_watch_overrides_what_all_publish_setting_by_setting() -> None:
    config = SentinelConfig(
        watches=[WatchConfig("a", publish=WatchPublish(expected=True, max_series=3))],
        publish=PublishConfig(expected=False, model_info=False, max_series=9),
    )
    published = config.watches[0].published
    assert (published.expected, published.model_info, published.max_series) == (True, False, 3)


def test_identity_changes_with_the_source_and_what_is_forecast_and_nothing_else() -> None:
    base = WatchConfig("up", {"a": "1", "b": "2"}, matchers=['c=~"x"', 'd!="y"'])
    same = [
        WatchConfig("up", {"b": "2", "a": "1"}, matchers=['d!="y"', 'c=~"x"']),
        WatchConfig("up", {"a": "1"}, matchers=["b='2'", 'c=~"x"', 'd!="y"']),
        WatchConfig("up", {"a": "1", "b": "2"}, matchers=['c=~"x"', 'd!="y"'], lookback="1h"),
        WatchConfig("up", {"a": "1", "b": "2"}, matchers=['c=~"x"', 'd!="y"'], horizon="300s"),
    ]
    assert {one.id for one in same} == {base.id}
    other = [
        WatchConfig("up", {"a": "1"}, matchers=['c=~"x"', 'd!="y"']),
        WatchConfig("down", {"a": "1", "b": "2"}, matchers=['c=~"x"', 'd!="y"']),
        WatchConfig("up", {"a": "1", "b": "2"}, matchers=['c=~"x"', 'd=~"y"']),
        WatchConfig("up", {"a": "1", "b": "2"}, matchers=['c=~"x"', 'd!="y"'], horizon="10m"),
        WatchConfig("up", {"a": "1", "b": "2"}, matchers=['c=~"x"', 'd!="y"'], granularity="30s"),
        WatchConfig("up", {"a": "1", "b": "2"}, matchers=['c=~"x"', 'd!="y"'], model="sgd"),
    ]
    assert len({one.id for one in (base, *other)}) == len(other) + 1
    pinned = WatchConfig("up", model="arima").id
    assert pinned == "746cee66b21a1ba0", "restarts must find what was learned before"


def test_without_a_model_the_choice_is_left_to_the_data() -> None:
    assert WatchConfig("up").model_choice == "auto"


def test_two_watches_of_one_identity_are_told_apart() -> None:
    config = SentinelConfig(watches=[WatchConfig("up"), WatchConfig("up", lookback="1h")])
    first, second = (watch.id for watch in config.watches)
    assert second == f"{first}-2"
    assert SentinelConfig(watches=config.watches).watches[1].id == second


def test_labels_and_matchers_are_one_selector() -> None:
    watch = WatchConfig("up", {"job": 'a"b'}, matchers=['env!~"dev|test"', "zone=`a\\b`"])
    assert str(watch.selector) == r'up{job="a\"b", env!~"dev|test", zone="a\\b"}'


@pytest.mark.parametrize(
    "text", ["up", 'up{env!="dev"}', 'up{a="1", a="2"}', 'up{a="", b=~"x|y"}', '{__name__="up"}']
)
def test_a_watch_can_be_made_of_a_selector(text: str) -> None:
    watch = WatchConfig.from_selector(text, horizon="10m")
    assert watch.horizon_steps == 10
    assert WatchConfig.from_selector(str(watch.selector), horizon="10m").id == watch.id


def test_what_is_no_selector_is_said_so() -> None:
    with pytest.raises(ConfigError, match="lacks quotes around the value"):
        WatchConfig.from_selector("up{job=api}")
    with pytest.raises(ConfigError, match="does not select one metric"):
        WatchConfig.from_selector("sum(up)")


class Flat(BaseModel):
    """A user's model."""

    def fit(self, X: FloatArray, y: FloatArray) -> TrainingResult:
        return TrainingResult(0.0, len(y))

    partial_fit = fit

    def predict(self, X: FloatArray) -> PredictionResult:
        return PredictionResult(X[0, :5])

    def save(self, path: object) -> None: ...

    def load(self, path: object) -> None: ...


def test_a_users_own_class_is_a_model() -> None:
    watch = WatchConfig("up", {}, Flat)
    assert watch.model_choice is Flat
    assert watch.model_name.endswith(":Flat")


def test_a_built_in_class_is_the_model_of_its_name() -> None:
    by_name = WatchConfig("up", model_class="ARIMAModel")
    assert by_name.model_choice == "arima"
    assert by_name.id == WatchConfig("up", model="arima").id
    assert WatchConfig("up", model="holt").model_choice == "exponential_smoothing"


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        SentinelConfig(
            emitter_port=-1,
            watches=[{"metric": "a", "horizon": "7x"}, {"granularity": "2m"}],  # type: ignore[list-item]
            remote_write=RemoteWriteConfig(url="http://x"),
        )
    assert [problem.path for problem in caught.value.problems] == [
        "emitter_port",
        "watches[0].horizon",
        "watches[1].metric",
        "watches[1].horizon",
    ]


def test_a_wrong_argument_names_itself() -> None:
    with pytest.raises(ConfigError) as caught:
        WatchConfig("up", {}, None, "0 0 * * *", "1 minute")
    assert [problem.path for problem in caught.value.problems] == ["granularity"]


@pytest.mark.parametrize("value", [200, None, ["a"]])
def test_a_label_value_that_is_not_text_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="a label's value is text"):
        WatchConfig("up", {"code": value})  # type: ignore[dict-item]


def test_the_two_ends_follow_from_one_url() -> None:
    config = SentinelConfig("http://p:9090/prefix/", scrape_timeout="5s")
    assert config.read_http().url == "http://p:9090/prefix/api/v1/read"
    assert config.write_http().url == "http://p:9090/prefix/api/v1/write"
    assert config.api_http().url == "http://p:9090/prefix"
    assert config.write_http().timeout_s == 5.0


def test_one_endpoint_or_several_are_given_as_they_are() -> None:
    far = RemoteWriteConfig(name="far", url="http://far/api/v1/push")
    alone = SentinelConfig(remote_write=far)
    assert [end.name for end in alone.write_ends()] == ["far"]
    both = SentinelConfig(remote_write=[far, RemoteWriteConfig()])
    assert [end.name for end in both.write_ends()] == ["prometheus", "far"]
    assert SentinelConfig(remote_write=both.remote_write) == both
    with pytest.raises(ConfigError, match=r"remote_write\[1\]\.name: 'far' is remote_write\[0\]"):
        SentinelConfig(remote_write=[far, far])


def test_the_first_in_the_file_comes_first_where_none_is_read_from() -> None:
    ends = [RemoteWriteConfig(name=name, url=f"http://{name}/api/v1/write") for name in "zab"]
    assert [end.name for end in SentinelConfig(remote_write=ends).write_ends()] == ["z", "a", "b"]


def test_the_api_is_asked_as_remote_read_is() -> None:
    config = SentinelConfig(
        remote_read={"url": "http://other/read", "authorization": {"credentials": "t"}}  # type: ignore[arg-type]
    )
    api = config.api_http()
    assert api.url == "http://localhost:9090"
    assert api.authorization == config.read_http().authorization
    assert api.authorization is not None


def test_a_watch_can_be_added_to_a_configuration() -> None:
    from dataclasses import replace

    config = SentinelConfig(watches=[WatchConfig("a")], publish=PublishConfig(steps=[2]))
    more = replace(config, watches=(*config.watches, WatchConfig("b")))
    assert [(watch.metric, watch.steps) for watch in more.watches] == [("a", (2,)), ("b", (2,))]
