"""*Forecast*: chosen series, what they were, what they should have been, and what comes."""

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
    band,
    choice,
    dashed,
    datasource,
    plain,
    query_variable,
    stat,
    timeline,
    timeseries,
)

# The chosen instances, and one series in full: its labels as they stand in the braces.
_CHOSEN: Final = '{job=~"$job",instance=~"$instance"}'
_SERIES: Final = "{${series:raw}}"


def _newest(output: str, labels: str = _SERIES) -> str:
    """An output, bridged over one granularity where Prometheus' lookback does not reach."""
    return f"last_over_time(${{metric}}_sentinel_{output}{labels}[$window])"


# What the model saw: of a counter its rate, of anything else the series itself. Where there ever
# was a rate in the time shown, the raw counter must not show beside it.
_ACTUAL: Final = (
    f"({_newest('actual')} or (${{metric}}{_SERIES} unless "
    f"last_over_time(${{metric}}_sentinel_actual{_SERIES}[$__range] @ end())))"
)
_LAST_STEP: Final = '{sentinel_horizon="$horizon",sentinel_step="$step",${series:raw}}'
_PREDICTED: Final = (
    f"last_over_time(${{metric}}_sentinel_predicted{_LAST_STEP}[$window] offset $horizon)"
)


def dashboard() -> Json:
    return assemble(
        "sentinel-forecast",
        "Sentinel / Forecast",
        "What series were, what they should have been, and what comes. Goes on past now with the "
        "data source Sentinel.",
        variables=_variables(),
        rows=(_overview(), _one_series()),
        end="now+1h",
    )


def _variables() -> list[Json]:
    return [
        datasource("Sentinel", "sentinel"),
        query_variable(
            "metric",
            "Metric",
            "A metric that is forecast.",
            "metrics(.+_sentinel_expected)",
            regex="/^(.+)_sentinel_expected$/",
        ),
        query_variable(
            "job",
            "Job",
            "Jobs that have the metric.",
            "label_values(${metric}_sentinel_expected, job)",
            multi=True,
            every=".*",
        ),
        query_variable(
            "instance",
            "Instance",
            "Instances of these jobs.",
            'label_values(${metric}_sentinel_expected{job=~"$job"}, instance)',
            multi=True,
            every=".*",
        ),
        query_variable(
            "series",
            "Series",
            "Each chosen series gets a row of panels.",
            f"${{metric}}_sentinel_expected{_CHOSEN}",
            regex=r"/\{(.*)\}/",
            multi=True,
        ),
        query_variable(
            "horizon",
            "Horizon",
            "How far ahead the watch forecasts; the predictions are drawn so much later.",
            "label_values(${metric}_sentinel_predicted, sentinel_horizon)",
        ),
        query_variable(
            "step",
            "Step",
            "The step that lies one horizon ahead: the largest. Where publish.steps leaves it out, "
            "the predictions are drawn too late.",
            'label_values(${metric}_sentinel_predicted{sentinel_horizon="$horizon"},'
            " sentinel_step)",
            sort=4,
        ),
        choice(
            "window",
            "Window",
            "Twice the granularity of the watch: how long a forecast is drawn on to the next.",
            ("10s", "30s", "1m", "2m", "5m", "10m", "30m", "2h"),
            "2m",
        ),
    ]


def _overview() -> Row:
    score = _newest("anomaly_score", _CHOSEN)
    return Row(
        "$metric",
        (
            stat(
                "Series forecast",
                "How many series of the metric are forecast at present.",
                Query(f"count({_newest('expected', _CHOSEN)})", "series"),
                unit="short",
            ),
            stat(
                "Inside their band",
                "Share of the series that are where they should be; 95 % in the long run.",
                Query(f"avg({score} <= bool 1)", "inside"),
                unit="percentunit",
                steps=((RED, None), (ORANGE, 0.5), (GREEN, 0.8)),
            ),
            stat(
                "Farthest outside",
                "Highest anomaly score: 1 is the edge of the band, 2 is twice as far out.",
                Query(f"max({score})", "score"),
                unit="short",
                steps=((GREEN, None), (ORANGE, 1), (RED, 3)),
            ),
            timeseries(
                "The ten most unusual",
                "Anomaly score of the ten highest; above 1 a series is outside its band.",
                Query(f"topk(10, {score})"),
                unit="short",
                width=12,
                height=7,
                limit=1,
                minimum=0,
            ),
        ),
    )


def _one_series() -> Row:
    return Row(
        "$metric{$series}",
        (
            timeseries(
                "Actual and expected",
                "What the series was and what it should be, as forecast one step before, with its "
                "95 % band. Past now: the newest forecast. Of counters the rate per second.",
                Query(_ACTUAL, "actual"),
                Query(_newest("expected"), "expected"),
                Query(_newest("expected_upper"), "upper"),
                Query(_newest("expected_lower"), "lower"),
                unit="short",
                width=16,
                height=9,
                styles=(*band("lower", "upper"), dashed("expected", ORANGE), plain("actual", BLUE)),
            ),
            timeseries(
                "Anomaly score",
                "0 as expected, 1 at the edge of the band, above 1 outside. A band of 95 % is left "
                "by 5 % of instants by construction.",
                Query(_newest("anomaly_score"), "score"),
                unit="short",
                width=8,
                height=9,
                styles=(plain("score", BLUE),),
                limit=1,
                minimum=0,
            ),
            timeseries(
                "Predicted $horizon ahead",
                "What was predicted one horizon before, drawn where it speaks of: it goes on past "
                "now in any data source.",
                Query(_ACTUAL, "actual"),
                Query(_PREDICTED, "predicted"),
                unit="short",
                width=16,
                styles=(dashed("predicted", ORANGE), plain("actual", BLUE)),
            ),
            timeseries(
                "Residual",
                "Observed less forecast: one step ahead, and one horizon ahead.",
                Query(f"{_ACTUAL} - {_newest('expected')}", "one step"),
                Query(
                    f"{_ACTUAL} - ignoring (sentinel_horizon, sentinel_step) {_PREDICTED}",
                    "one horizon",
                ),
                unit="short",
                width=8,
                styles=(plain("one step", BLUE), plain("one horizon", ORANGE)),
            ),
            timeline(
                "Serving version",
                "Which version of which model made the forecasts; each change was a promotion or a "
                "rollback.",
                Query(
                    f"${{metric}}_sentinel_model_info{_SERIES}",
                    "{{sentinel_version}} {{sentinel_model}}",
                ),
            ),
        ),
        repeat="series",
    )
