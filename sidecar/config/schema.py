"""The configuration as Python classes: the same names, order and defaults as the YAML file.

Construction checks everything; what is wrong comes as one ``ConfigError`` with every problem. The
classes are frozen. What they derive (durations in ms, the selector, the steps) are typed
properties, so that nothing below parses text.
"""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, field, fields, replace
from functools import cached_property
from hashlib import blake2b
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from sidecar.config import model_choice, rules, values
from sidecar.config.http import RemoteReadConfig, RemoteWriteConfig, WriteEnd, WriteEnds
from sidecar.config.matchers import parse_matcher, parse_selector
from sidecar.config.messages import Problems, Section, section
from sidecar.duration import parse_duration_ms
from sidecar.errors import ConfigError, Problem
from sidecar.models.anomaly import AnomalyRules
from sidecar.remote.settings import HttpSettings
from sidecar.series import Matcher, MatchOp, Selector

# Above this many steps all of them would be too many series; the first and the last remain.
_ALL_STEPS_UP_TO: Final = 12
_LONGEST_QUERY_OFFSET_MS: Final = 10_000


@section
class WatchPublish(Section):
    """What one watch publishes; whatever is None follows ``SentinelConfig.publish``.

    Attributes:
        steps: the leads k of ``_sentinel_predicted``; ``auto`` is all of them up to 12, else the
            first and the last.
        version_label: ``sentinel_version`` on pushed series too, so that a retrain starts new ones.
        max_series: how many output series the watch may have; series of which the outputs would
            be beyond it are not forecast.
        actual: ``_sentinel_actual``; ``auto`` where the model does not see the series itself.
        expected, anomaly_score, model_info: whether these series are pushed.
    """

    _: KW_ONLY
    steps: values.Steps | None = None
    version_label: bool | None = None
    max_series: Annotated[int, Field(ge=1)] | None = None
    actual: values.AutoOrBool | None = None
    expected: bool | None = None
    anomaly_score: bool | None = None
    model_info: bool | None = None


@section
class PublishConfig(Section):
    """What all watches publish unless they say otherwise; settings as for ``WatchPublish``.

    Attributes:
        exposition_max_series: above this many predictions ``/metrics`` shows self metrics only.
    """

    _: KW_ONLY
    steps: values.Steps = "auto"
    version_label: bool = False
    max_series: Annotated[int, Field(ge=1)] = 250_000
    actual: values.AutoOrBool = "auto"
    expected: bool = True
    anomaly_score: bool = True
    model_info: bool = True
    exposition_max_series: Annotated[int, Field(ge=0)] = 2_000


@section
class AnomalyConfig(Section):
    """What counts as an anomaly of a watch's series; names and meanings are vmanomaly's.

    Attributes:
        detection_direction: ``both``, ``above_expected`` or ``below_expected``.
        min_dev_from_expected: smaller deviations score 0; one number, or two for below and above.
        min_rel_dev_from_expected: the same in percent of the expected value.
        scale: what the band is multiplied by for the score; one number or two.
        data_range: an actual outside is an anomaly whatever was expected; None is open.
        anomaly_policy: what is learned from an anomaly: ``clamp`` it to the band, ``skip`` it, or
            ``learn`` it as it is.
    """

    _: KW_ONLY
    detection_direction: Literal["both", "above_expected", "below_expected"] = "both"
    min_dev_from_expected: values.Sides = 0.0
    min_rel_dev_from_expected: values.Sides = 0.0
    scale: values.Sides = 1.0
    data_range: values.Clip | None = None
    anomaly_policy: Literal["clamp", "skip", "learn"] = "clamp"

    def rules_for(self) -> AnomalyRules:
        """As the score wants them."""
        low, high = self.data_range or (None, None)
        return AnomalyRules(
            detection_direction=self.detection_direction,
            min_dev_from_expected=values.sides(self.min_dev_from_expected),
            min_rel_dev_from_expected=values.sides(self.min_rel_dev_from_expected),
            scale=values.sides(self.scale),
            data_range=(
                float("-inf") if low is None else low,
                float("inf") if high is None else high,
            ),
            anomaly_policy=self.anomaly_policy,
        )


@section
class WatchConfig(Section):
    """One selector with the settings of its models.

    Attributes:
        metric: the name of the source series.
        labels: label values that the series must have.
        model_class: a subclass of ``BaseModel``, or the name of a class.
        cron: when models are fitted anew, whatever the drift.
        granularity: time from one instant to the next.
        horizon: how far ahead forecasts reach, a multiple of ``granularity``.
        lookback: how much history feeds one prediction.
        drift_finetune_threshold, drift_retrain_threshold: rolling errors from which a model is
            updated or fitted anew: ``"1.5x"`` of the validation MAE, ``"10%"`` of the level, or an
            absolute MAE.
        model: a model's name.
        model_params: its settings.
        training_window: how much history feeds one fit.
        query_offset: how long after an instant the cycle runs, so that late scrapes have arrived;
            None is the smaller of 10 s and the granularity.
        transform: ``rate`` or ``delta`` for counters, ``none`` for gauges, ``auto`` finds out.
        matchers: further conditions in PromQL's notation, ``job=~"api.*"``.
        max_series: how many source series the watch may match.
        clip: the range that forecasts are kept in when published, a null end is open; a rate
            never falls below 0 anyway.
        anomaly: what counts as an anomaly, and what is learned from one.
        retrain_cooldown: the least time between two fits that drift asks for.
        promotion_tolerance: by which share a new version may be worse than what serves.
        auto_promote: whether a version that passes the gate serves at once, or waits for
            ``sentinel promote``.
        publish: what the watch publishes where that differs from ``SentinelConfig.publish``.
        expr, name: a PromQL expression and what to call its result, in place of ``metric``.
    """

    metric: values.MetricName = ""
    labels: values.Labels = field(default_factory=dict)
    model_class: values.ModelClass | None = None
    cron: values.Cron = "0 */6 * * *"
    granularity: values.Granularity = "1m"
    horizon: values.Duration = "5m"
    lookback: values.Duration = "30m"
    drift_finetune_threshold: values.Threshold = "1.5x"
    drift_retrain_threshold: values.Threshold = "3x"
    _: KW_ONLY
    model: values.ModelName | None = None
    model_params: values.Params = field(default_factory=dict)
    training_window: values.Duration = "8d"
    query_offset: values.ZeroOrDuration | None = None
    transform: values.Transform = "auto"
    matchers: values.Matchers = ()
    max_series: Annotated[int, Field(ge=1)] = 1_000
    clip: values.Clip | None = None
    anomaly: AnomalyConfig = field(default_factory=AnomalyConfig)
    retrain_cooldown: values.Duration = "1h"
    promotion_tolerance: Annotated[float, Field(ge=0, le=10)] = 0.05
    auto_promote: bool = True
    publish: WatchPublish = field(default_factory=WatchPublish)
    expr: values.Text | None = None
    name: values.OutputName | None = None

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> list[Problem]:
        return rules.of_watch(given)

    @classmethod
    def from_selector(cls, text: str, **settings: Any) -> "WatchConfig":
        """A watch on a selector as it stands in PromQL, with further settings by name.

        >>> watch = WatchConfig.from_selector('up{env!="dev", job="api"}', horizon="10m")
        >>> str(watch.selector), watch.horizon_steps
        ('up{job="api", env!="dev"}', 10)

        Raises:
            ConfigError: not a selector of one metric, or a setting that is wrong.
        """
        try:
            metric, matchers = parse_selector(text)
        except ValueError as error:
            raise ConfigError([Problem("", str(error))]) from None
        equal = [one for one in matchers if one.op is MatchOp.EQUAL]
        labels = {one.name: one.value for one in equal}
        if len(labels) < len(equal):  # one label compared twice: only matchers can say that
            labels = {}
        rest = [str(one) for one in matchers if one.name not in labels or one not in equal]
        return cls(metric, labels, matchers=rest, **settings)

    @classmethod
    def explain(cls, name: str) -> str:
        return "belongs at the top of the file" if name in _names(SentinelConfig) else ""

    @cached_property
    def granularity_ms(self) -> int:
        return parse_duration_ms(self.granularity)

    @cached_property
    def horizon_ms(self) -> int:
        return parse_duration_ms(self.horizon)

    @cached_property
    def lookback_ms(self) -> int:
        return parse_duration_ms(self.lookback)

    @cached_property
    def training_window_ms(self) -> int:
        return parse_duration_ms(self.training_window)

    @cached_property
    def query_offset_ms(self) -> int:
        if self.query_offset is None:
            return min(_LONGEST_QUERY_OFFSET_MS, self.granularity_ms)
        return parse_duration_ms(self.query_offset)

    @cached_property
    def retrain_cooldown_ms(self) -> int:
        return parse_duration_ms(self.retrain_cooldown)

    @property
    def horizon_steps(self) -> int:
        """H: how many instants a forecast speaks of."""
        return self.horizon_ms // self.granularity_ms

    @property
    def n_lags(self) -> int:
        """How many instants the lookback holds."""
        return self.lookback_ms // self.granularity_ms

    @property
    def model_choice(self) -> str | type[Any]:
        """The model to build: a name of the registry, or a user's class."""
        return self.model_class or self.model or model_choice.default_model()

    @property
    def model_name(self) -> str:
        """The model's name, ``package.module:Class`` for a user's own."""
        return model_choice.name_of(self.model_choice)

    @cached_property
    def selector(self) -> Selector:
        """Which series: the name, then ``labels`` by name, then ``matchers`` as written.

        Of an expression, the name that its result is given.
        """
        equal = (Matcher(name, MatchOp.EQUAL, self.labels[name]) for name in sorted(self.labels))
        return Selector.of(self.output_metric, *equal, *map(parse_matcher, self.matchers))

    @property
    def output_metric(self) -> str:
        """What stands before the suffixes of ``names`` in the watch's output."""
        return self.name or self.metric

    @cached_property
    def published(self) -> PublishConfig:
        """What is published: own settings, and for the others those of the ``SentinelConfig``."""
        return replace(PublishConfig(), **_given(self.publish))

    def within(self, common: PublishConfig, seen: Counter[str]) -> "WatchConfig":
        """This watch as one of several: ``common`` stands behind its own ``publish``.

        Args:
            seen: identities of earlier watches, counted; a second one of the same gets ``-2``.
        """
        watch = copy.copy(self)
        for derived in ("steps", "id"):
            watch.__dict__.pop(derived, None)
        watch.__dict__["published"] = replace(common, **_given(self.publish))
        seen[watch.id] += 1
        if seen[watch.id] > 1:
            watch.__dict__["id"] = f"{watch.id}-{seen[watch.id]}"
        return watch

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """The leads that are published, ascending, at least one, none beyond the horizon."""
        last = self.horizon_steps
        if self.published.steps != "auto":
            return tuple(step for step in self.published.steps if step <= last) or (last,)
        return tuple(range(1, last + 1)) if last <= _ALL_STEPS_UP_TO else (1, last)

    @cached_property
    def id(self) -> str:
        """16 hex digits that stay the same while the source, horizon, granularity and model do."""
        matchers = sorted(str(matcher) for matcher in self.selector.matchers)
        parts = [
            *matchers,
            *([self.expr] if self.expr else []),
            str(self.horizon_ms),
            str(self.granularity_ms),
            self.model_name,
        ]
        digest = blake2b(digest_size=8)
        for part in (one.encode("utf-8", "surrogatepass") for one in parts):
            digest.update(len(part).to_bytes(4, "big") + part)
        return digest.hexdigest()


def _given(one: WatchPublish) -> dict[str, Any]:
    """The settings of a section that are not None."""
    named = ((f.name, getattr(one, f.name)) for f in fields(one))
    return {name: value for name, value in named if value is not None}


def _names(cls: type[Any]) -> tuple[str, ...]:
    return tuple(one.name for one in fields(cls))


@section
class SentinelConfig(Section):
    """Everything Sentinel is told.

    Attributes:
        prometheus_url: the server to read from and to write to.
        emitter_port: where ``/metrics`` and the API listen; 0 lets the system choose.
        artifact_store: the folder of learned versions and of the spool.
        max_versions_per_metric: how many versions of one series are kept.
        watches: what to forecast; the first watch on a series owns its ``_sentinel_expected``.
        scrape_timeout: of one request to Prometheus, in seconds or as a duration.
        emit_confidence_bounds: ``_lower`` and ``_upper`` for ``_sentinel_predicted`` too.
        emitter_host: the address to listen on.
        timezone: of ``cron`` and of daily patterns.
        train_timeout: how long one batch of fits may take before its worker is killed.
        enable_admin_api: whether ``/api/v1/models/...`` and ``/-/reload`` take orders.
        log_format: ``text`` or ``json``.
        web_config_file: TLS and passwords for the sidecar's own port, with the keys of Prometheus'
            exporters.
        withdraw_on_shutdown: whether outputs end with stale markers when Sentinel stops.
        external_labels: what the server adds to its series on remote read, taken off again; None
            asks the server.
        remote_read, remote_write: how to reach the two ends where that differs from
            ``prometheus_url``. Several endpoints to write to are a list, each with a ``name``.
        publish: what every watch publishes unless it says otherwise.
        receive_remote_write: whether ``/api/v1/write`` takes what Prometheus' own ``remote_write``
            pushes, so that cycles need not read.
    """

    prometheus_url: values.Url = "http://localhost:9090"
    emitter_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    artifact_store: values.PathText = "./sentinel_artifacts"
    max_versions_per_metric: Annotated[int, Field(ge=1)] = 5
    watches: Annotated[Sequence[WatchConfig], AfterValidator(tuple)] = ()
    scrape_timeout: values.Seconds = 10
    emit_confidence_bounds: bool = False
    _: KW_ONLY
    emitter_host: values.Host = "127.0.0.1"
    timezone: values.TimeZone = "UTC"
    train_timeout: values.Duration = "5m"
    enable_admin_api: bool = False
    log_format: Literal["text", "json"] = "text"
    web_config_file: values.PathText | None = None
    withdraw_on_shutdown: bool = False
    external_labels: values.Labels | None = None
    remote_read: RemoteReadConfig = field(default_factory=RemoteReadConfig)
    remote_write: WriteEnds = field(default_factory=RemoteWriteConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)
    receive_remote_write: bool = False

    @classmethod
    def explain(cls, name: str) -> str:
        return "belongs under an entry of 'watches'" if name in _names(WatchConfig) else ""

    def __post_init__(self) -> None:
        seen: Counter[str] = Counter()
        watches = tuple(watch.within(self.publish, seen) for watch in self.watches)
        object.__setattr__(self, "watches", watches)  # before anybody has seen it
        self._check_receivers()

    def _check_receivers(self) -> None:
        """Two writers of one series at one receiver would refuse each other's samples."""
        ends = self._ends_as_written()
        receivers = [end.receiver for end in ends]
        for number, receiver in enumerate(receivers):
            earlier = receivers.index(receiver)
            if earlier < number:
                message = (
                    f"{ends[number].http.display_url!r} is where remote_write[{earlier}] writes, "
                    "with the same headers: take one of the two out"
                )
                raise Problems([Problem(f"remote_write[{number}].url", message)])

    @property
    def train_timeout_s(self) -> float:
        return parse_duration_ms(self.train_timeout) / 1000

    @property
    def scrape_timeout_s(self) -> float:
        return values.seconds_of(self.scrape_timeout)

    def api_http(self) -> HttpSettings:
        """How to reach the HTTP API under ``prometheus_url``: as ``remote_read`` authenticates."""
        read = replace(self.remote_read, url=None)
        return read.settings(self._base, self.scrape_timeout_s)

    def read_http(self) -> HttpSettings:
        """How to reach the remote read endpoint; the URL is whole."""
        return self.remote_read.settings(self._base + "/api/v1/read", self.scrape_timeout_s)

    def write_ends(self) -> tuple[WriteEnd, ...]:
        """Where predictions are written to, each independent of the others.

        First stands the one whose acknowledgements count: what is beyond them is answered by the
        query API. That is the server that series are read from, or else the first in the file.
        """
        return tuple(sorted(self._ends_as_written(), key=lambda end: not end.is_source))

    def _ends_as_written(self) -> list[WriteEnd]:
        given = self.remote_write
        several = (given,) if isinstance(given, RemoteWriteConfig) else given
        return [one.end(self.prometheus_url, self.scrape_timeout_s) for one in several]

    def write_http(self) -> HttpSettings:
        """How to reach the first remote write endpoint; the URL is whole."""
        return self.write_ends()[0].http

    @property
    def _base(self) -> str:
        return self.prometheus_url.rstrip("/")
