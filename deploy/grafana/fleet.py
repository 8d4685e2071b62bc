"""*Fleet*: of all series that are forecast, those that need looking at, and what is learned."""

from typing import Final

from deploy.grafana.panels import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    Json,
    Query,
    Row,
    assemble,
    choice,
    datasource,
    query_variable,
    stat,
    table,
    timeseries,
)


def _named(output: str) -> str:
    """An output of all chosen metrics, told apart by the label ``sentinel_metric``."""
    selector = f'{{__name__=~"${{metric}}_sentinel_{output}",job=~"$job"}}'
    return (
        f'label_replace({selector}, "sentinel_metric", "$1", "__name__", "(.+)_sentinel_{output}")'
    )


_SCORE: Final = _named("anomaly_score")


def dashboard() -> Json:
    return assemble(
        "sentinel-fleet",
        "Sentinel / Fleet",
        "Which of all forecasts are wrong, have drifted, or are missing, and what is learned.",
        variables=[
            datasource("Prometheus", "sentinel-prometheus"),
            query_variable(
                "metric",
                "Metric",
                "Metrics that are forecast.",
                "metrics(.+_sentinel_anomaly_score)",
                regex="/^(.+)_sentinel_anomaly_score$/",
                multi=True,
                every=".+",
            ),
            query_variable(
                "job",
                "Job",
                "Jobs whose series are forecast.",
                'label_values({__name__=~".+_sentinel_anomaly_score"}, job)',
                multi=True,
                every=".*",
            ),
            choice("top", "Top", "How many series the tables show.", ("10", "20", "50"), "20"),
        ],
        rows=(_state(), _worst(), _quality(), _learning()),
        start="now-24h",
    )


def _state() -> Row:
    return Row(
        "Now",
        (
            stat(
                "Series",
                "Watched series of all sidecars that have not ended.",
                Query('sum(sentinel_series{state!="ended"})', "series"),
                unit="short",
            ),
            stat(
                "With a model",
                "Share of them that a fitted model forecasts, rather than the naive fallback.",
                Query(
                    'sum(sentinel_series{state="serving"}) / sum(sentinel_series{state!="ended"})',
                    "serving",
                ),
                unit="percentunit",
                steps=((RED, None), (ORANGE, 0.7), (GREEN, 0.9)),
            ),
            stat(
                "Without prediction",
                "Series that have no fresh prediction; the reasons are below.",
                Query("sum(sentinel_no_prediction)", "series"),
                unit="short",
                steps=((GREEN, None), (ORANGE, 1)),
            ),
            stat(
                "Inside their band",
                "Share of the chosen series that are where they should be; 95 % in the long run.",
                Query(f"avg({_SCORE} <= bool 1)", "inside"),
                unit="percentunit",
                steps=((RED, None), (ORANGE, 0.5), (GREEN, 0.8)),
            ),
            stat(
                "Outside now",
                "How many of the chosen series are outside their band.",
                Query(f"count({_SCORE} > 1) or vector(0)", "series"),
                unit="short",
                steps=((GREEN, None), (ORANGE, 1)),
            ),
            stat(
                "Fits in an hour",
                "Series that were fitted, anew or on from where they were, within the last hour.",
                Query("sum(increase(sentinel_trainings_total[1h]))", "fits"),
                unit="short",
            ),
        ),
    )


def _worst() -> Row:
    return Row(
        "Worst series",
        (
            table(
                "Error",
                "Mean distance from the expected over the last hour, in half widths of the band: "
                "comparable between any two series.",
                Query(f"topk($top, avg_over_time({_SCORE}[1h:1m]))", table=True),
                value="Error",
                unit="short",
                steps=((GREEN, None), (ORANGE, 0.7), (RED, 1)),
            ),
            table(
                "Drift",
                "Error of the last hour as a multiple of the last day's: above 1 a series has "
                "begun to behave differently.",
                Query(
                    f"topk($top, avg_over_time({_SCORE}[1h:1m]) / "
                    f"(avg_over_time({_SCORE}[1d:5m]) > 0))",
                    table=True,
                ),
                value="Drift",
                unit="short",
                steps=((GREEN, None), (ORANGE, 1.5), (RED, 3)),
            ),
            table(
                "Outside the band",
                "Share of the last six hours that a series was outside its band: 5 % are due, more "
                "says that the band is too narrow.",
                Query(f"topk($top, avg_over_time(({_SCORE} > bool 1)[6h:1m]))", table=True),
                value="Outside",
                unit="percentunit",
                steps=((GREEN, None), (ORANGE, 0.1), (RED, 0.2)),
            ),
            table(
                "Serving versions",
                "How many series of a metric each version of each model serves.",
                Query(
                    "count by (sentinel_metric, sentinel_model, sentinel_version, "
                    f"sentinel_transform) ({_named('model_info')})",
                    table=True,
                ),
                value="Series",
                unit="short",
            ),
        ),
    )


def _quality() -> Row:
    return Row(
        "Quality",
        (
            timeseries(
                "Coverage",
                "Share of a metric's series inside their bands, over the last half hour. The bands "
                "promise 95 %.",
                Query(
                    f"avg by (sentinel_metric) (avg_over_time(({_SCORE} <= bool 1)[30m:1m]))",
                    "{{sentinel_metric}}",
                ),
                unit="percentunit",
                minimum=0,
            ),
            timeseries(
                "Mean error",
                "Mean distance from the expected, in half widths of the band, over the last half "
                "hour.",
                Query(
                    f"avg by (sentinel_metric) (avg_over_time({_SCORE}[30m:1m]))",
                    "{{sentinel_metric}}",
                ),
                unit="short",
                minimum=0,
            ),
            timeseries(
                "Series by state",
                "serving: by a fitted model; fallback: naively; waiting: not fitted yet; ended: "
                "the series itself is gone.",
                Query("sum by (state) (sentinel_series)", "{{state}}"),
                unit="short",
                stacked=True,
            ),
            timeseries(
                "No prediction, by reason",
                "Why series have no fresh prediction; `sentinel status` names them.",
                Query("sum by (reason) (sentinel_no_prediction) > 0", "{{reason}}"),
                unit="short",
                stacked=True,
            ),
        ),
    )


def _learning() -> Row:
    return Row(
        "Learning",
        (
            timeseries(
                "Fits, by what asked for them",
                "first: a new series; drift: its errors had moved; cron: the schedule; operator: "
                "somebody; config: another configuration.",
                Query("sum by (trigger) (increase(sentinel_trainings_total[1h]))", "{{trigger}}"),
                unit="short",
                stacked=True,
            ),
            timeseries(
                "Fits, by how they ended",
                "promoted: serves; rejected_worse: what served before is better; others are "
                "failures with their reason.",
                Query("sum by (result) (increase(sentinel_trainings_total[1h]))", "{{result}}"),
                unit="short",
                stacked=True,
            ),
            timeseries(
                "Fits waiting",
                "Series in the queue and batches under way.",
                Query("sum by (instance) (sentinel_training_queue_length)", "{{instance}}"),
                unit="short",
                minimum=0,
            ),
            stat(
                "Versions of Sentinel",
                "Which builds run.",
                Query("count by (version) (sentinel_build_info)", "{{version}}"),
                unit="short",
                width=12,
                steps=((BLUE, None),),
                text=True,
            ),
        ),
    )
