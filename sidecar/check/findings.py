"""From what the server has to what will work and what will not. Pure: no clock, no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Final

import numpy as np

from sidecar import names
from sidecar.check.expressions import why_nothing
from sidecar.check.facts import Finding, ServerView, WatchView
from sidecar.check.promql import WRAP_FROM_MS, Example, examples
from sidecar.config import SentinelConfig, WatchConfig
from sidecar.duration import format_duration
from sidecar.publish.outputs import columns, output_rules, sources_within
from sidecar.publish.ownership import Ownership
from sidecar.remote.described import START_RECEIVER
from sidecar.remote.probe import ServerFacts
from sidecar.series import LabelSet, MatchOp

# Beyond this nothing is written: what is stamped by our clock would lie in the server's future.
MOST_CLOCK_OFFSET_S: Final = 60.0
# About as many values as `auto` learns from at least.
FIRST_INSTANTS: Final = 10
_HISTOGRAM_PARTS: Final = ("_bucket", "_count", "_sum")
_RECEIVER_FLAG: Final = "--web.enable-remote-write-receiver"


@dataclass(frozen=True, slots=True)
class WatchReport:
    """What one watch will do.

    Attributes:
        path: ``watches[0]``.
        selector: as PromQL.
        matched: source series now.
        forecast: how many of them are forecast, ``max_series`` heeded.
        written: output series that will be pushed.
        as_rate: the model sees their rate.
    """

    path: str
    selector: str
    matched: int
    forecast: int
    written: int
    as_rate: bool
    examples: tuple[Example, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Everything ``sentinel check`` says."""

    server: ServerView
    findings: tuple[Finding, ...]
    watches: tuple[WatchReport, ...]

    @property
    def works(self) -> bool:
        """Whether no error was found."""
        every = [*self.findings, *(one for watch in self.watches for one in watch.findings)]
        return all(one.level != "error" for one in every)


def judge(config: SentinelConfig, server: ServerView, views: Sequence[WatchView]) -> CheckReport:
    """The report on a configuration.

    Args:
        views: one for each watch, in order; none where the server could not be asked for series.
    """
    found = server_findings(config, server)
    if server.facts is None or not views:
        return CheckReport(server, tuple(found), ())
    external = external_labels(config, server.facts)
    ownership = Ownership.among(config.watches, lambda: external)
    reports = tuple(
        _watch_report(config, index, view, external, ownership) for index, view in enumerate(views)
    )
    gauges = sum(
        report.forecast * watch.horizon_steps
        for report, watch in zip(reports, config.watches, strict=True)
    )
    limit = config.publish.exposition_max_series
    if gauges > limit:
        message = (
            f"/metrics would show {gauges:,} predictions, more than {limit:,}, so it shows none: "
            "raise the limit if something scrapes them there; what is pushed stays as it is"
        )
        found.append(Finding("note", "publish.exposition_max_series", message))
    return CheckReport(server, tuple(found), reports)


def external_labels(config: SentinelConfig, facts: ServerFacts) -> Mapping[str, str]:
    """What the server adds to its series: as configured, else as it says."""
    return facts.external_labels if config.external_labels is None else config.external_labels


def server_findings(config: SentinelConfig, server: ServerView) -> list[Finding]:
    """What is wrong with the two ends."""
    facts = server.facts
    if facts is None:
        message = f"does not answer: is prometheus_url right as seen from here? {server.trouble}"
        return [Finding("error", config.prometheus_url, message)]
    found = []
    if facts.remote_read is not True and config.remote_read.api == "remote_read":
        message = (
            f"does not serve remote read, which remote_read.api asks for{_words(facts, 'read')}"
        )
        found.append(Finding("error", str(config.read_http()), message))
    elif facts.remote_read is not True and config.remote_read.api == "auto":
        message = (
            "does not serve remote read: its query API is read instead, which costs it more; where "
            "there is a Prometheus below it, as with Thanos, point remote_read.url there"
            f"{_words(facts, 'read')}"
        )
        found.append(Finding("warning", str(config.read_http()), message))
    if facts.receiver is not True:
        message = (
            f"does not take remote write: start Prometheus with {_RECEIVER_FLAG}, or point "
            f"remote_write.url at a server that does{_words(facts, 'write')}"
        )
        found.append(Finding("error", str(config.write_http()), message))
    found += _clock(config.prometheus_url, facts.clock_offset_s)
    for end, told in zip(config.write_ends()[1:], server.others, strict=False):
        url = str(end.http)
        if told.takes is not True:
            message = (
                f"endpoint {end.name!r} does not take remote write now: what is written to it "
                f"waits, the other endpoints go on ({told.said or 'no answer'})"
            )
            found.append(Finding("error", url, message))
        found += _clock(url, told.clock_offset_s)
    return found


def _clock(url: str, offset_s: float | None) -> list[Finding]:
    if offset_s is None or abs(offset_s) <= MOST_CLOCK_OFFSET_S:
        return []
    behind = "behind" if offset_s > 0 else "ahead of"
    message = (
        f"its clock is {abs(offset_s):.0f} s {behind} this machine's, and beyond "
        f"{MOST_CLOCK_OFFSET_S:.0f} s nothing is written: set both by NTP"
    )
    return [Finding("error", url, message)]


def _words(facts: ServerFacts, end: str) -> str:
    """What was said of remote read or remote write when it was tried."""
    said = [
        text
        for text in facts.problems
        if f"remote {end}" in text and not text.endswith(START_RECEIVER)  # that we say ourselves
    ]
    return f" ({said[0]})" if said else ""


def _some(series: Sequence[LabelSet], shown: int = 3) -> str:
    names = ", ".join(str(one) for one in series[:shown])
    return names + (f" and {len(series) - shown} or more others" if len(series) > shown else "")


def _watch_report(
    config: SentinelConfig,
    index: int,
    view: WatchView,
    external: Mapping[str, str],
    ownership: Ownership,
) -> WatchReport:
    watch = config.watches[index]
    path = f"watches[{index}]"
    as_rate = watch.transform == "rate" or (watch.transform == "auto" and view.counter)
    transform = "rate" if as_rate else "delta" if watch.transform == "delta" else "none"
    rules = replace(output_rules(config, watch), transform=transform)
    affordable = sources_within(rules, watch.published.max_series)
    sources = view.series[: min(watch.max_series, affordable)]
    owner, predicts = ownership.of(index, sources)
    written = sum(
        int((predicts if column.is_prediction else owner).sum()) for column in columns(rules)
    )
    found = [
        *_matching(path, watch, view, external),
        *_sampling(path, watch, view, as_rate),
        *_beginning(path, watch, view),
        *_limits(path, watch, view, affordable),
        *_sharing(path, config, index, sources, bool(predicts.all()), bool(owner.all())),
        *_labels(path, sources),
        *_writers(path, view),
    ]
    shown = examples(watch, as_rate=transform != "none", owner=bool(owner.any()) or not sources)
    return WatchReport(
        path=path,
        selector=str(watch.selector),
        matched=len(view.series),
        forecast=int(np.count_nonzero(owner | predicts)),
        written=written,
        as_rate=as_rate,
        examples=tuple(shown) if predicts.any() or not sources else (),
        findings=tuple(found),
    )


def _matching(
    path: str, watch: WatchConfig, view: WatchView, external: Mapping[str, str]
) -> list[Finding]:
    """Does it match anything, and if not, why?"""
    found = _on_external_labels(path, watch, external)
    if view.trouble:
        return [*found, Finding("error", path, f"its series cannot be read: {view.trouble}")]
    if view.series or view.histograms or found:
        return found
    if watch.expr:
        return [Finding("error", path, why_nothing(watch.expr, view.known_names))]
    metric = watch.metric
    parts = [metric + part for part in _HISTOGRAM_PARTS if metric + part in view.known_names]
    if parts and metric not in view.known_names:
        message = (
            f"{metric!r} is a histogram or summary, which has no series of that name: write "
            f"metric: {metric}_count for how often, or record a quantile with a recording rule "
            f"(histogram_quantile(0.99, sum by (le) (rate({metric}_bucket[5m])))) and name that"
        )
    elif metric in view.known_names and watch.selector.matchers[1:]:
        message = f"{metric!r} exists, but no series of it matches {watch.selector}: see its labels"
    elif metric in view.known_names:
        message = f"{metric!r} exists, but had no sample lately: is its target still scraped?"
    else:
        near = get_close_matches(metric, view.known_names, n=3)
        meant = f", did you mean {' or '.join(near)}?" if near else ": is it scraped already?"
        message = f"the server knows no series called {metric!r}{meant}"
    return [Finding("error", path, message)]


def _on_external_labels(
    path: str, watch: WatchConfig, external: Mapping[str, str]
) -> list[Finding]:
    """A remote read compares external labels for equality only; else it answers nothing."""
    found = []
    for matcher in watch.selector.matchers:
        if matcher.name not in external:
            continue
        if matcher.op is not MatchOp.EQUAL:
            message = (
                f"{matcher} is about an external label of the server, where anything but '=' "
                f"matches nothing on remote read: write labels: {{{matcher.name}: "
                f"{external[matcher.name]}}}, or leave it out, all series have it"
            )
            found.append(Finding("error", path, message))
    return found


def _sampling(path: str, watch: WatchConfig, view: WatchView, as_rate: bool) -> list[Finding]:
    """Do granularity and transform suit how the series are sampled?"""
    found = []
    interval, step = view.interval_ms, watch.granularity_ms
    # Scrapes are never exactly on time; a tenth is well beyond what their jitter does to a median.
    if interval is not None and step < 0.9 * interval:
        seconds = -(-interval // 1000) * 1000
        message = (
            f"granularity {watch.granularity} is below the scrape interval of about "
            f"{format_duration(seconds)}, so most instants would have no sample: write "
            f"granularity: {format_duration(seconds)} or more, or scrape more often"
        )
        found.append(Finding("error", path, message))
    if step >= WRAP_FROM_MS:
        range_ = format_duration(2 * step)
        message = (
            f"at a granularity of {watch.granularity} Prometheus' lookback does not bridge two "
            f"samples: wrap every output in last_over_time(...[{range_}]), as the examples do"
        )
        found.append(Finding("note", path, message))
    if watch.transform == "none" and view.counter:
        message = (
            f"{watch.metric!r} looks like a counter, and transform: none forecasts its ever "
            "growing value: take it out for the rate per second"
        )
        found.append(Finding("warning", path, message))
    if watch.transform == "rate" and view.kind == "gauge":
        message = (
            f"{watch.metric!r} is a gauge, and transform: rate takes each fall for a reset: write "
            "transform: none, or delta for its change"
        )
        found.append(Finding("warning", path, message))
    if view.histograms:
        message = (
            f"native histograms are not forecast: {_some(view.histograms)}; record a quantile or "
            "a rate of them with a recording rule, or write one under expr"
        )
        found.append(Finding("warning", path, message))
    if as_rate and watch.metric.endswith("_bucket"):
        message = (
            "each bucket of a histogram is forecast by itself: for latencies record "
            "histogram_quantile(...) with a recording rule and watch that"
        )
        found.append(Finding("note", path, message))
    return found


def _beginning(path: str, watch: WatchConfig, view: WatchView) -> list[Finding]:
    """Is there anything to learn from yet?"""
    if view.young_ms is None:
        return []
    left_ms = FIRST_INSTANTS * watch.granularity_ms - view.young_ms
    if left_ms < 60_000:  # not worth a word
        return []
    minutes = -(-left_ms // 60_000)
    message = (
        f"its oldest sample is {view.young_ms // 1000} s old: something is learned of "
        f"it from some {FIRST_INSTANTS} instants of {watch.granularity} on, in about {minutes} "
        "min; till then `auto` repeats the value before, with a wide band"
    )
    return [Finding("note", path, message)]


def _limits(path: str, watch: WatchConfig, view: WatchView, affordable: int) -> list[Finding]:
    """``affordable``: of how many series ``publish.max_series`` lets the outputs be written."""
    matched, most = len(view.series), min(watch.max_series, affordable)
    if matched <= most:
        return []
    if affordable < watch.max_series:
        setting, remedy = "publish.max_series", "publish fewer steps, narrow the selector"
        allowed = f"{watch.published.max_series:,}, enough for the outputs of {most:,}"
    else:
        setting, remedy, allowed = "max_series", "narrow the selector", f"{most:,}"
    message = (
        f"{matched:,} series match and {setting} is {allowed}: {matched - most:,} of them are "
        f"not forecast; {remedy}, or raise {setting}"
    )
    return [Finding("warning", path, message)]


def _sharing(
    path: str,
    config: SentinelConfig,
    index: int,
    sources: Sequence[LabelSet],
    all_predicted: bool,
    all_owned: bool,
) -> list[Finding]:
    """Does an earlier watch write the same?"""
    if all_owned:
        return []
    watch = config.watches[index]
    earlier = [
        (number, other)
        for number, other in enumerate(config.watches[:index])
        if other.output_metric == watch.output_metric
        and any(other.selector.accepts(source) for source in sources)
    ]
    same = [number for number, other in earlier if other.horizon_ms == watch.horizon_ms]
    if not all_predicted:
        message = (
            f"watches[{same[0]}] forecasts some of the same series over the same horizon of "
            f"{watch.horizon}; for these this watch publishes nothing "
            f"({names.Reason.DUPLICATE_OUTPUT}): take one of the two out, or change its horizon"
        )
        return [Finding("warning", path, message)]
    message = (
        f"watches[{earlier[0][0]}] comes first for some of the same series and publishes their "
        f"{names.EXPECTED}, {names.ACTUAL}, {names.ANOMALY_SCORE} and {names.MODEL_INFO}; this "
        f"watch adds its {names.PREDICTED}"
    )
    return [Finding("note", path, message)]


def _writers(path: str, view: WatchView) -> list[Finding]:
    """Is somebody else writing what this watch would write?"""
    other = view.elsewhere
    if other is None:
        return []
    what = f"{other.series:,} series" if other.series > 1 else "a series"
    message = (
        f"{what} of its output, such as {other.example}, got a sample {other.age_s:.0f} s ago that "
        f"did not come from this artifact_store ({other.store}): another sidecar seems to write "
        "the same, and of two writers the server refuses one. Stop one of the two, or give this "
        "watch another horizon and publish: {expected: false}; all is well if that is this "
        "sidecar itself, running elsewhere or with a store that was lost"
    )
    return [Finding("warning", path, message)]


def _labels(path: str, sources: Sequence[LabelSet]) -> list[Finding]:
    """Source labels that are renamed because we emit labels of these names."""
    clashing = sorted({n for one in sources for n, _ in one.pairs if n in names.EMITTED_LABELS})
    if not clashing:
        return []
    renamed = ", ".join(f"{name} as {names.EXPORTED_PREFIX}{name}" for name in clashing)
    message = f"its series have labels that Sentinel sets itself; outputs carry {renamed}"
    return [Finding("note", path, message)]
