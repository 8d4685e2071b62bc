"""Self metrics: the table of ``names.SELF_METRICS``, as prometheus_client objects in one registry.

Nobody counts along the way: the shell hands a cycle's report to ``SelfMetrics`` and the totals of
reader and writer are taken from their own snapshots when the page is scraped.
"""

import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sidecar.names import SELF_METRICS, SelfMetric
from sidecar.version import program_version

_TABLE: Mapping[str, SelfMetric] = {metric.name: metric for metric in SELF_METRICS}


@dataclass(frozen=True, slots=True)
class Reading:
    """Values of one metric taken when the page is scraped: label values -> number."""

    name: str
    values: Mapping[tuple[str, ...], float]


class _Snapshots(Collector):
    """Metrics whose values are kept elsewhere and read at scrape time."""

    def __init__(self, take: Callable[[], Iterable[Reading]]) -> None:
        self._take = take

    def collect(self) -> Iterable[Metric]:
        for reading in self._take():
            about = _TABLE[reading.name]
            kind = CounterMetricFamily if about.kind == "counter" else GaugeMetricFamily
            family = kind(about.name, about.help, labels=about.labels)
            for labels, value in reading.values.items():
                family.add_metric(labels, value)
            yield family


class SelfMetrics:
    """Everything the sidecar says about itself on ``/metrics``.

    Args:
        take: gives the readings that live elsewhere (reader, writer, series states); called in the
            scrape, so it must not block.
    """

    def __init__(self, take: Callable[[], Iterable[Reading]]) -> None:
        # A second series for each counter that nobody asks for.
        cast("Callable[[], None]", disable_created_metrics)()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_Snapshots(take))
        build = self._gauge("sentinel_build_info")
        build.labels(program_version(), platform.python_version()).set(1)
        self.cycles = self._counter("sentinel_cycles_total")
        for result in ("ok", "error"):
            self.cycles.labels(result)
        self.cycle_duration = self._histogram("sentinel_cycle_duration_seconds")
        self.cycle_success = self._gauge("sentinel_cycle_last_success_timestamp_seconds")
        self.replayed = self._counter("sentinel_replayed_instants_total")
        self.forecasts = self._counter("sentinel_forecasts_total")
        self.trainings = self._counter("sentinel_trainings_total")
        self.training_duration = self._histogram("sentinel_training_duration_seconds")

    def _gauge(self, name: str) -> Gauge:
        about = _TABLE[name]
        return Gauge(about.name, about.help, about.labels, registry=self.registry)

    def _counter(self, name: str) -> Counter:
        about = _TABLE[name]
        return Counter(about.name, about.help, about.labels, registry=self.registry)

    def _histogram(self, name: str) -> Histogram:
        about = _TABLE[name]
        buckets = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
        return Histogram(about.name, about.help, registry=self.registry, buckets=buckets)

    def render(self) -> bytes:
        return generate_latest(self.registry)
