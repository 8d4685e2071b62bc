"""What the check says of facts, without any server."""

import io
from typing import Any

import pytest
from rich.console import Console

from sidecar.check import Finding, ServerView, WatchView, judge
from sidecar.check.render import show
from sidecar.check.writers import Elsewhere
from sidecar.config import (
    PublishConfig,
    RemoteReadConfig,
    RemoteWriteConfig,
    SentinelConfig,
    WatchConfig,
    WatchPublish,
)
from sidecar.remote.described import START_RECEIVER
from sidecar.remote.probe import ReceiverFacts, ServerFacts
from sidecar.series import LabelSet

GOOD = ServerFacts(
    version="2.42.0", product="prometheus", remote_read=True, receiver=True, clock_offset_s=0.2
)


def series(count: int, metric: str = "x", **labels: str) -> tuple[LabelSet, ...]:
    return tuple(
        LabelSet.of({"__name__": metric, "instance": f"i{n:05d}", **labels}) for n in range(count)
    )


@pytest.mark.parametrize(
    ("young_ms", "granularity", "said"),
    [
        (None, "1m", None),
        (600_000, "1m", None),
        (90_000, "1m", "its oldest sample is 90 s old"),
        (90_000, "1m", "from some 10 instants of 1m on, in about 9 min; till then `auto` repeats"),
        (90_000, "5s", None),
    ],
)
def test_a_series_that_has_only_just_begun_is_told_when_it_is_learned_from(
    young_ms: int | None, granularity: str, said: str | None
) -> None:
    watch = WatchConfig("x", granularity=granularity, horizon="5m")
    found = one(watch, WatchView(series(1), 1_000, young_ms=young_ms))
    young = [finding for finding in found if "oldest sample" in finding.message]
    assert len(young) == (said is not None)
    assert all(finding.level == "note" and str(said) in finding.message for finding in young)


def one(
    watch: WatchConfig, view: WatchView, facts: ServerFacts = GOOD, **settings: object
) -> tuple[Finding, ...]:
    config = SentinelConfig(watches=[watch], **settings)  # type: ignore[arg-type]
    return judge(config, ServerView(facts), [view]).watches[0].findings


def said(findings: tuple[Finding, ...]) -> list[tuple[str, str]]:
    """Level and the message up to its first colon or comma."""
    return [(f.level, f.message.split(":")[0].split(",")[0]) for f in findings]


def test_an_expression_without_a_result_names_what_the_server_does_not_know() -> None:
    watch = WatchConfig(expr="sum(rate(hits_totl[5m])) / sum(node_load1)", name="a:b")
    view = WatchView(known_names=frozenset({"hits_total", "node_load1", "up"}))
    [finding] = one(watch, view)
    assert finding.level == "error"
    assert finding.message == (
        "the expression gives nothing: the server knows no series called 'hits_totl', "
        "did you mean hits_total?"
    )


def test_an_expression_of_known_metrics_without_a_result_is_told_apart() -> None:
    view = WatchView(known_names=frozenset({"up"}))
    [finding] = one(WatchConfig(expr="up > 9", name="a:b"), view)
    assert finding.message.startswith("the expression 'up > 9' gives nothing now: ask the server")


def test_another_writer_of_the_same_output_is_a_warning() -> None:
    example = LabelSet.of({"__name__": "x_sentinel_expected", "a": "b"})
    view = WatchView(series(2), 15_000, "gauge", elsewhere=Elsewhere(2, example, 12.3, "/store"))
    [finding] = one(WatchConfig("x"), view)
    assert finding.level == "warning"
    assert finding.message.startswith(
        '2 series of its output, such as x_sentinel_expected{a="b"}, got a sample 12 s ago that '
        "did not come from this artifact_store (/store): another sidecar seems to write the same"
    )


def test_a_plain_gauge_gives_nothing_to_say() -> None:
    config = SentinelConfig(watches=[WatchConfig("x")])
    report = judge(config, ServerView(GOOD), [WatchView(series(4), 15_000, "gauge")])
    assert (report.findings, report.watches[0].findings) == ((), ())
    assert report.works
    assert (report.watches[0].matched, report.watches[0].written) == (4, 4 * (3 + 1 + 1 + 5))


def test_what_is_written_is_counted_by_what_is_published() -> None:
    watch = WatchConfig(
        "x_total", horizon="2m", publish=WatchPublish(model_info=False, anomaly_score=False)
    )
    config = SentinelConfig(watches=[watch], emit_confidence_bounds=True)
    view = WatchView(series(3, "x_total"), 15_000, "counter", counter=True)
    report = judge(config, ServerView(GOOD), [view]).watches[0]
    assert report.as_rate
    assert report.written == 3 * (3 + 1 + 2 * 3), "expected with its band, actual, two steps in 3"


def test_a_granularity_below_the_scrape_interval_names_both() -> None:
    [finding] = one(WatchConfig("x", granularity="15s", horizon="1m"), WatchView(series(1), 60_002))
    assert finding.level == "error"
    assert finding.message.startswith(
        "granularity 15s is below the scrape interval of about 1m1s, so most instants"
    )
    assert (
        one(WatchConfig("x", granularity="15s", horizon="1m"), WatchView(series(1), 15_009)) == ()
    )


def test_four_minutes_and_more_need_last_over_time() -> None:
    watch = WatchConfig("x", granularity="4m", horizon="8m")
    [finding] = one(watch, WatchView(series(1), 15_000))
    assert finding.level == "note"
    assert "wrap every output in last_over_time(...[8m])" in finding.message
    assert one(WatchConfig("x", granularity="3m", horizon="6m"), WatchView(series(1), 15_000)) == ()


def test_a_bare_histogram_name_says_what_to_watch() -> None:
    names = frozenset(["latency_bucket", "latency_count", "latency_sum"])
    [finding] = one(WatchConfig("latency"), WatchView(known_names=names))
    assert finding.level == "error"
    assert "write metric: latency_count" in finding.message
    assert "histogram_quantile(0.99, sum by (le) (rate(latency_bucket[5m])))" in finding.message


@pytest.mark.parametrize(
    ("watch", "names", "expected"),
    [
        (WatchConfig("node_lod1"), ["node_load1", "up"], "did you mean node_load1?"),
        (WatchConfig("zzz"), ["up"], "knows no series called 'zzz': is it scraped already?"),
        (WatchConfig("up", {"job": "x"}), ["up"], 'no series of it matches up{job="x"}'),
        (WatchConfig("up"), ["up"], "had no sample lately"),
    ],
)
def test_no_match_says_why(watch: WatchConfig, names: list[str], expected: str) -> None:
    [finding] = one(watch, WatchView(known_names=frozenset(names)))
    assert finding.level == "error"
    assert expected in finding.message


def test_what_cannot_be_read_is_said_in_the_servers_words() -> None:
    [finding] = one(WatchConfig("x"), WatchView(trouble="exceeded sample limit (5)"))
    assert (finding.level, "exceeded sample limit (5)" in finding.message) == ("error", True)


@pytest.mark.parametrize("matcher", ['cluster=~"eu.*"', 'cluster!="us"', 'cluster!~"u."'])
def test_an_external_label_is_compared_for_equality_only(matcher: str) -> None:
    facts = ServerFacts(remote_read=True, receiver=True, external_labels={"cluster": "eu"})
    [finding] = one(WatchConfig("x", matchers=[matcher]), WatchView(), facts)
    assert finding.level == "error"
    assert "write labels: {cluster: eu}" in finding.message


def test_equality_on_an_external_label_works() -> None:
    facts = ServerFacts(remote_read=True, receiver=True, external_labels={"cluster": "eu"})
    assert one(WatchConfig("x", {"cluster": "eu"}), WatchView(series(1), 15_000), facts) == ()


def test_configured_external_labels_are_what_counts() -> None:
    watch = WatchConfig("x", matchers=['replica=~"."'])
    view = WatchView(series(1), 15_000)
    assert one(watch, view) == ()
    assert said(one(watch, view, external_labels={"replica": "0"}))[0][0] == "error"


def test_two_watches_with_one_output_warn() -> None:
    config = SentinelConfig(
        watches=[WatchConfig("x", {"a": "1"}), WatchConfig("x"), WatchConfig("x", model="sgd")]
    )
    few, all_ = series(2, a="1"), series(2, a="1") + series(3, a="2")
    report = judge(
        config,
        ServerView(GOOD),
        [WatchView(few, 15_000), WatchView(all_, 15_000), WatchView(all_, 15_000)],
    )
    first, second, third = report.watches
    assert first.findings == ()
    [finding] = second.findings
    assert finding.level == "warning"
    assert "watches[0] forecasts some of the same series over the same horizon" in finding.message
    assert "duplicate_output" in finding.message
    assert (second.forecast, second.written) == (3, 30)
    assert (third.forecast, third.written, third.examples) == (0, 0, ())
    assert report.works, "it is a warning"


def test_two_watches_with_different_horizons_share_a_series() -> None:
    config = SentinelConfig(watches=[WatchConfig("x"), WatchConfig("x", horizon="10m")])
    views = [WatchView(series(2), 15_000)] * 2
    second = judge(config, ServerView(GOOD), views).watches[1]
    assert said(second.findings)[0][0] == "note"
    assert (second.forecast, second.written) == (2, 20)
    assert not any("expected" in example.expression for example in second.examples)


def test_more_series_than_allowed_warn() -> None:
    [finding] = one(WatchConfig("x", max_series=10), WatchView(series(12), 15_000))
    assert (finding.level, "2 of them are not forecast" in finding.message) == ("warning", True)
    assert one(WatchConfig("x", max_series=12), WatchView(series(12), 15_000)) == ()


def test_more_output_series_than_allowed_warn() -> None:
    watch = WatchConfig("x", publish=WatchPublish(max_series=19))
    report = judge(SentinelConfig(watches=[watch]), ServerView(GOOD), [WatchView(series(2), 1)])
    [found] = report.watches
    [finding] = found.findings
    assert (found.forecast, found.written, finding.level) == (1, 10, "warning")
    assert "publish.max_series is 19, enough for the outputs of 1: 1 of them" in finding.message


def test_an_exposition_that_would_be_too_long_is_said() -> None:
    config = SentinelConfig(
        watches=[WatchConfig("x")], publish=PublishConfig(exposition_max_series=19)
    )
    report = judge(config, ServerView(GOOD), [WatchView(series(4), 15_000)])
    assert [finding.where for finding in report.findings] == ["publish.exposition_max_series"]
    assert report.works


@pytest.mark.parametrize(
    ("watch", "view", "expected"),
    [
        (
            WatchConfig("x_total", transform="none"),
            WatchView(series(1, "x_total"), 15_000, "counter", counter=True),
            ("warning", "'x_total' looks like a counter"),
        ),
        (
            WatchConfig("x", transform="rate"),
            WatchView(series(1), 15_000, "gauge"),
            ("warning", "'x' is a gauge"),
        ),
        (
            WatchConfig("x"),
            WatchView(series(1), 15_000, histograms=series(5, "h")),
            ("warning", "native histograms are not forecast"),
        ),
        (
            WatchConfig("x_bucket"),
            WatchView(series(1, "x_bucket"), 15_000, "histogram", counter=True),
            ("note", "each bucket of a histogram is forecast by itself"),
        ),
        (
            WatchConfig("x"),
            WatchView(series(1, sentinel_step="3"), 15_000),
            ("note", "its series have labels that Sentinel sets itself; outputs carry "
             "sentinel_step as exported_sentinel_step"),
        ),
    ],
)  # fmt: skip
def test_oddities(watch: WatchConfig, view: WatchView, expected: tuple[str, str]) -> None:
    assert said(one(watch, view)) == [expected]


def test_native_histograms_are_named() -> None:
    """And are not taken for a metric that nobody scrapes any more."""
    view = WatchView(known_names=frozenset({"x"}), histograms=series(5))
    [finding] = one(WatchConfig("x"), view)
    assert 'x{instance="i00000"}, x{instance="i00001"}, x{instance="i00002"} and 2 or' in (
        finding.message
    )
    view = WatchView(series(1), 15_000, histograms=series(1, "x", le="1"))
    [finding] = one(WatchConfig("x"), view)
    assert 'forecast: x{instance="i00000", le="1"}; record' in finding.message


@pytest.mark.parametrize(
    ("api", "served", "level"),
    [
        ("query", False, None),
        ("query", None, None),
        ("remote_read", False, "error"),
        ("remote_read", None, "error"),
        ("remote_read", True, None),
        ("auto", True, None),
    ],
)
def test_the_way_of_reading_that_is_asked_for(
    api: Any, served: bool | None, level: str | None
) -> None:
    config = SentinelConfig(watches=[WatchConfig("x")], remote_read=RemoteReadConfig(api=api))
    facts = ServerFacts(remote_read=served, receiver=True)
    report = judge(config, ServerView(facts), [])
    assert [one.level for one in report.findings] == ([] if level is None else [level])


@pytest.mark.parametrize(
    ("api", "served", "by_query"),
    [
        ("auto", True, False),
        ("auto", None, False),
        ("auto", False, True),
        ("query", True, True),
        ("query", None, True),
        ("remote_read", False, False),
    ],
)
def test_which_api_is_read(api: Any, served: bool | None, by_query: bool) -> None:
    assert RemoteReadConfig(api=api).by_query(served) is by_query


@pytest.mark.parametrize("served", [False, None])
def test_a_server_without_remote_read_is_a_warning_since_the_query_api_serves(
    served: bool | None,
) -> None:
    config = SentinelConfig(watches=[WatchConfig("x")])
    facts = ServerFacts(remote_read=served, receiver=True)
    report = judge(config, ServerView(facts, ""), [])
    [finding] = report.findings
    assert finding.level == "warning"
    assert "does not serve remote read: its query API is read instead" in finding.message
    assert report.works


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (None, "does not answer: is prometheus_url right as seen from here? refused"),
        (
            ServerFacts(
                remote_read=True, receiver=False, problems=("remote write is refused: 404 no",)
            ),
            "start Prometheus with --web.enable-remote-write-receiver, or point remote_write.url "
            "at a server that does (remote write is refused: 404 no)",
        ),
        (
            ServerFacts(
                remote_read=True,
                receiver=False,
                problems=(f"remote write is refused: {START_RECEIVER}",),
            ),
            "does not take remote write: start Prometheus with --web.enable-remote-write-receiver, "
            "or point remote_write.url at a server that does",
        ),
        (
            ServerFacts(remote_read=True, receiver=True, clock_offset_s=61.0),
            "its clock is 61 s behind this machine's",
        ),
        (
            ServerFacts(remote_read=True, receiver=True, clock_offset_s=-7200.0),
            "its clock is 7200 s ahead of this machine's",
        ),
    ],
)
def test_what_is_wrong_with_the_server(facts: ServerFacts | None, expected: str) -> None:
    config = SentinelConfig(watches=[WatchConfig("x")])
    report = judge(config, ServerView(facts, "refused"), [])
    [finding] = report.findings
    assert finding.level == "error"
    assert expected in finding.message
    assert finding.message.count(START_RECEIVER) <= 1
    assert not report.works


FAR = [RemoteWriteConfig(), RemoteWriteConfig(name="far", url="http://far/push")]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (
            ReceiverFacts(False, 0.0, "remote write is refused: 401"),
            "endpoint 'far' does not take remote write now: what is written to it waits, the other "
            "endpoints go on (remote write is refused: 401)",
        ),
        (ReceiverFacts(), "endpoint 'far' does not take remote write now"),
        (ReceiverFacts(True, 61.0), "its clock is 61 s behind this machine's"),
        (ReceiverFacts(True, 60.0), None),
    ],
)
def test_what_is_wrong_with_another_endpoint(told: ReceiverFacts, expected: str | None) -> None:
    config = SentinelConfig(watches=[WatchConfig("x")], remote_write=FAR)
    report = judge(config, ServerView(GOOD, others=(told,)), [])
    found = [(one.level, one.where) for one in report.findings]
    assert found == ([] if expected is None else [("error", "http://far/push")])
    assert all(expected is not None and expected in one.message for one in report.findings)
    assert report.works is (expected is None)


def test_every_endpoint_is_shown() -> None:
    out = io.StringIO()
    config = SentinelConfig(watches=[WatchConfig("x")], remote_write=FAR)
    view = ServerView(GOOD, others=(ReceiverFacts(None),))
    show(config, judge(config, view, []), Console(file=out, width=40))
    assert out.getvalue().splitlines()[2:4] == [
        "  remote write    http://localhost:9090/api/v1/write  ok",
        "                  http://far/push  unknown",
    ]


def test_a_clock_a_minute_apart_is_borne() -> None:
    facts = ServerFacts(remote_read=True, receiver=True, clock_offset_s=-60.0)
    report = judge(SentinelConfig(watches=[WatchConfig("x")]), ServerView(facts), [WatchView()])
    assert report.findings == ()


def printed(config: SentinelConfig, facts: ServerFacts | None, views: list[WatchView]) -> str:
    out = io.StringIO()
    show(config, judge(config, ServerView(facts, "refused"), views), Console(file=out, width=40))
    return out.getvalue()


def test_the_report_is_plain_and_unwrapped_where_it_is_no_terminal() -> None:
    labels = {"job": "[red]a[/red]", "long": "y" * 60}
    config = SentinelConfig(watches=[WatchConfig("x", labels)], external_labels={"r": "0"})
    text = printed(config, GOOD, [WatchView(series(1, **labels), 15_000)])
    selector = f'{{job="[red]a[/red]", long="{"y" * 60}"'
    assert text.splitlines() == [
        "Prometheus 2.42.0 at http://localhost:9090",
        "  remote read     http://localhost:9090/api/v1/read  ok",
        "  remote write    http://localhost:9090/api/v1/write  ok",
        '  external labels {r="0"}, taken off what is read',
        "  clock           0 s apart",
        "",
        f"watches[0]  x{selector}}}",
        "  1 series matches now, 1 forecast as they are, 10 output series",
        "  # actual",
        f"  x{selector}}}",
        "  # expected",
        f"  x_sentinel_expected{selector}}}",
        "  # expected, lower bound",
        f"  x_sentinel_expected_lower{selector}}}",
        "  # expected, upper bound",
        f"  x_sentinel_expected_upper{selector}}}",
        "  # what was predicted 5m before, and the next 5m",
        f'  last_over_time(x_sentinel_predicted{selector}, sentinel_horizon="5m", '
        'sentinel_step="5"}[2m] offset 5m)',
        "  # what is predicted in 5m, for alerts: add '> LIMIT'",
        f'  x_sentinel_predicted{selector}, sentinel_horizon="5m", sentinel_step="5"}}',
        "  # anomalies: outside the band 5 times in a row",
        f"  min_over_time(x_sentinel_anomaly_score{selector}}}[5m]) > 1",
        "",
        "works",
    ]


def test_a_counter_is_shown_beside_its_rate() -> None:
    config = SentinelConfig(watches=[WatchConfig("x_total")])
    view = WatchView(series(1, "x_total"), 15_000, counter=True)
    assert "  # actual\n  x_total_sentinel_actual\n" in printed(config, GOOD, [view])
    quiet = SentinelConfig(watches=config.watches, publish=PublishConfig(actual=False))
    assert "  # actual\n  rate(x_total[2m])\n" in printed(quiet, GOOD, [view])


def test_a_coarse_watch_is_wrapped_and_a_clashing_label_renamed() -> None:
    watch = WatchConfig("x", {"sentinel_step": "3"}, granularity="10m", horizon="1h", lookback="1h")
    config = SentinelConfig(watches=[watch])
    text = printed(config, GOOD, [WatchView(series(1, sentinel_step="3"), 15_000)])
    renamed = 'exported_sentinel_step="3"'
    assert f"last_over_time(x_sentinel_expected{{{renamed}}}[20m])" in text
    assert (
        f'last_over_time(x_sentinel_predicted{{{renamed}, sentinel_horizon="1h", '
        'sentinel_step="6"}[20m] offset 1h)'
    ) in text


def test_a_silent_server_is_all_there_is_to_say() -> None:
    config = SentinelConfig(watches=[WatchConfig("x")])
    assert printed(config, None, []).splitlines() == [
        "error: http://localhost:9090: does not answer: is prometheus_url right as seen from "
        "here? refused",
        "the watches were not checked: their series cannot be read",
        "",
        "1 problem",
    ]
