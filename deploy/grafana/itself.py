"""*Sentinel itself*: whether the sidecar keeps up, what it costs, and where it is stuck."""

from typing import Final

from deploy.grafana.panels import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    Json,
    Panel,
    Query,
    Row,
    assemble,
    datasource,
    query_variable,
    stat,
    timeseries,
)

_OF: Final = '{job=~"$job",instance=~"$instance"}'
_WRITE: Final = "sentinel_remote_write"


def _rate(metric: str, by: str) -> str:
    return f"sum by (instance, {by}) (rate({metric}{_OF}[$__rate_interval]))"


def _quantile(histogram: str, quantile: float) -> str:
    buckets = f"sum by (le) (rate({histogram}_bucket{_OF}[$__rate_interval]))"
    return f"histogram_quantile({quantile:g}, {buckets})"


def dashboard() -> Json:
    return assemble(
        "sentinel-itself",
        "Sentinel / Sentinel itself",
        "Whether the sidecar reads, forecasts, learns and writes in time, and what it costs.",
        variables=[
            datasource("Prometheus", "sentinel-prometheus"),
            query_variable(
                "job",
                "Job",
                "Scrape jobs of sidecars.",
                "label_values(sentinel_build_info, job)",
                multi=True,
                every="",
            ),
            query_variable(
                "instance",
                "Instance",
                "Sidecars.",
                'label_values(sentinel_build_info{job=~"$job"}, instance)',
                multi=True,
                every="",
            ),
        ],
        rows=(_health(), _cycles(), _reading(), _writing(), _workers(), _process()),
    )


def _health() -> Row:
    return Row(
        "Health",
        (
            stat(
                "Ready",
                "Whether a source has answered and a fresh forecast is served; /-/ready says why "
                "not.",
                Query(f"min(sentinel_ready{_OF})", "ready"),
                unit="none",
                steps=((RED, None), (GREEN, 1)),
                words={"0": "not ready", "1": "ready"},
            ),
            stat(
                "Since the last good cycle",
                "Time since a watch was last brought up to date; about the granularity when all is "
                "well.",
                Query(f"time() - min(sentinel_cycle_last_success_timestamp_seconds{_OF})", "age"),
                unit="s",
            ),
            stat(
                "Writes",
                "Held back: the receiver refuses every write, or the clocks differ.",
                Query(f"max({_WRITE}_held{_OF})", "held"),
                unit="none",
                steps=((GREEN, None), (RED, 1)),
                words={"0": "flowing", "1": "held"},
            ),
            stat(
                "Waiting in the spool",
                "Samples accepted and not yet acknowledged.",
                Query(f"sum({_WRITE}_samples_pending{_OF})", "samples"),
                unit="short",
            ),
            stat(
                "Up for",
                "Since the start of the process that is youngest.",
                Query(f"time() - max(process_start_time_seconds{_OF})", "up"),
                unit="s",
            ),
            stat(
                "Watches",
                "Configured watches.",
                Query(f"sum(sentinel_watches{_OF})", "watches"),
                unit="short",
            ),
        ),
    )


def _cycles() -> Row:
    return Row(
        "Cycles",
        (
            timeseries(
                "Cycles",
                "Cycles a second by result; an error is tried again.",
                Query(_rate("sentinel_cycles_total", "result"), "{{result}} {{instance}}"),
                unit="ops",
                width=8,
                minimum=0,
            ),
            timeseries(
                "Duration of a cycle",
                "Reading, forecasting and handing over to the spool.",
                Query(_quantile("sentinel_cycle_duration_seconds", 0.5), "median"),
                Query(_quantile("sentinel_cycle_duration_seconds", 0.99), "99 %"),
                unit="s",
                width=8,
                minimum=0,
            ),
            timeseries(
                "Forecasts",
                "Forecasts a second, one for each series and instant; and instants caught up with "
                "after a pause.",
                Query(f"sum(rate(sentinel_forecasts_total{_OF}[$__rate_interval]))", "forecasts"),
                Query(
                    f"sum(rate(sentinel_replayed_instants_total{_OF}[$__rate_interval]))",
                    "instants caught up",
                ),
                unit="ops",
                width=8,
                minimum=0,
            ),
        ),
    )


def _reading() -> Row:
    read = "sentinel_remote_read"
    return Row(
        "Reading from Prometheus",
        (
            timeseries(
                "Reads",
                "Requests a second by result. unavailable: no answer or a 5xx; rejected: it "
                "refuses; over_budget: the selector matches too much.",
                Query(_rate(f"{read}_requests_total", "result"), "{{result}} {{instance}}"),
                unit="reqps",
                width=8,
                minimum=0,
            ),
            timeseries(
                "Samples read",
                "Samples a second.",
                Query(_rate(f"{read}_samples_total", "job"), "{{instance}}"),
                unit="ops",
                width=8,
                minimum=0,
            ),
            timeseries(
                "Bytes read",
                "Bytes of replies a second, as they come over the network.",
                Query(_rate(f"{read}_bytes_total", "job"), "{{instance}}"),
                unit="Bps",
                width=8,
                minimum=0,
            ),
        ),
    )


def _writing() -> Row:
    return Row(
        "Writing to Prometheus",
        (
            timeseries(
                "Samples",
                "Accepted and acknowledged samples a second; in the long run they are equal.",
                Query(
                    _rate(f"{_WRITE}_samples_enqueued_total", "endpoint"),
                    "accepted {{endpoint}} {{instance}}",
                ),
                Query(
                    _rate(f"{_WRITE}_samples_sent_total", "endpoint"),
                    "sent {{endpoint}} {{instance}}",
                ),
                unit="ops",
                width=8,
                minimum=0,
            ),
            timeseries(
                "Spool",
                "Samples that wait on disk.",
                Query(f"{_WRITE}_samples_pending{_OF}", "{{endpoint}} {{instance}}"),
                unit="short",
                width=8,
                minimum=0,
            ),
            timeseries(
                "Behind",
                "Age of the newest sample that the receiver has acknowledged. Samples older than "
                "55 minutes are given up.",
                Query(
                    f"time() - ({_WRITE}_highest_sent_timestamp_seconds{_OF} > 0)",
                    "{{endpoint}} {{instance}}",
                ),
                unit="s",
                width=8,
                minimum=0,
                limit=3300,
            ),
            _lost(),
            timeseries(
                "Requests by answer",
                "Remote write requests a second by the class of the answer; none: nobody answered.",
                Query(_rate(f"{_WRITE}_requests_total", "code"), "{{code}} {{instance}}"),
                unit="reqps",
                width=8,
                minimum=0,
            ),
            timeseries(
                "Clock skew",
                "The receiver's clock less our own; above 60 s writes are held.",
                Query(f"{_WRITE}_clock_skew_seconds{_OF}", "{{endpoint}} {{instance}}"),
                unit="s",
                width=8,
            ),
        ),
    )


def _lost() -> Panel:
    return timeseries(
        "Given up or not accepted",
        "Samples a second that will never be in Prometheus, by reason.",
        Query(
            f"{_rate(f'{_WRITE}_samples_dropped_total', 'reason')} > 0",
            "given up: {{reason}}",
        ),
        Query(
            f"{_rate(f'{_WRITE}_samples_refused_total', 'reason')} > 0",
            "not accepted: {{reason}}",
        ),
        unit="ops",
        width=8,
        minimum=0,
    )


def _workers() -> Row:
    return Row(
        "Fitting",
        (
            timeseries(
                "Queue",
                "Series in the queue and batches under way.",
                Query(f"sentinel_training_queue_length{_OF}", "{{instance}}"),
                unit="short",
                width=8,
                minimum=0,
            ),
            timeseries(
                "Duration of a batch",
                "Wall time of a batch of fits in a worker process.",
                Query(_quantile("sentinel_training_duration_seconds", 0.5), "median"),
                Query(_quantile("sentinel_training_duration_seconds", 0.99), "99 %"),
                unit="s",
                width=8,
                minimum=0,
            ),
            timeseries(
                "Workers replaced",
                "Fits that hung, crashed or took too much memory, within an hour.",
                Query(f"increase(sentinel_worker_restarts_total{_OF}[1h])", "{{instance}}"),
                unit="short",
                width=8,
                minimum=0,
            ),
        ),
    )


def _process() -> Row:
    return Row(
        "Process",
        (
            timeseries(
                "Memory",
                "Resident memory of the main process; workers come on top while they fit.",
                Query(f"process_resident_memory_bytes{_OF}", "{{instance}}"),
                unit="bytes",
                width=8,
                minimum=0,
            ),
            timeseries(
                "CPU",
                "Cores in use by the main process.",
                Query(f"rate(process_cpu_seconds_total{_OF}[$__rate_interval])", "{{instance}}"),
                unit="short",
                width=8,
                minimum=0,
            ),
            timeseries(
                "Event loop lag",
                "Worst lateness of a timer within 10 s: how long scrapes may wait.",
                Query(f"sentinel_event_loop_lag_seconds{_OF}", "{{instance}}"),
                unit="s",
                width=8,
                minimum=0,
                limit=0.25,
            ),
            timeseries(
                "File descriptors",
                "Share of the limit that is open.",
                Query(f"process_open_fds{_OF} / process_max_fds{_OF}", "{{instance}}"),
                unit="percentunit",
                width=8,
                minimum=0,
                limit=0.8,
            ),
            timeseries(
                "Prediction gauges",
                "Predictions on /metrics; above publish.exposition_max_series they are left out.",
                Query(f"sentinel_exposition_series{_OF}", "{{instance}}"),
                unit="short",
                width=8,
                minimum=0,
            ),
            stat(
                "Version",
                "Which build runs.",
                Query(f"count by (version) (sentinel_build_info{_OF})", "{{version}}"),
                unit="short",
                width=8,
                steps=((BLUE, None), (ORANGE, 2)),
                text=True,
            ),
        ),
    )
