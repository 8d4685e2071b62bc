"""From which step on a query needs forecasts, what cannot be evaluated, who is asked what."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.serve.promql.fetch import Fetch, GridFetch, RawFetch, fetches
from sidecar.serve.promql.parse import parse
from sidecar.serve.promql.split import Steps, first_own_step, unsupported
from sidecar.serve.promql.syntax import VectorSelector, metric_of, pinned

SERVED_FROM = 10_000


def first_served(selector: VectorSelector) -> int | None:
    """``f`` is a forecast that is served from 10 s on, all else is not."""
    return SERVED_FROM if metric_of(selector) == "f" else None


STEPS = Steps(5_000, 1_000, 11)  # 5 s to 15 s


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("x", None),
        ("f", 5),
        ("x + f", 5),
        ("f offset 2s", 7),
        ("f offset -2s", 3),
        ("f offset -6s", 0),
        ("f offset 6s", None),
        ("f + (f offset 2s)", 5),
        ("(f offset 4s) + (f offset 2s)", 7),
        ("max_over_time(f[1h] offset -1s)", 4),
        ("f @ 9", None),
        ("f @ 10", 0),
        ("f @ 9 offset -1s", 0),
        ("f @ 12 offset 3s", None),
        ("f @ end()", 0),
        ("f @ start()", None),
        ("x @ end()", None),
        ("rate(f[1m])", 5),
        ("max_over_time(f[10s:1s])", 5),
        ("max_over_time((f offset 1s)[10s:1s] offset 1s)", 7),
        ("max_over_time(f[10s:1s] @ 12 offset 3s)", None),
        ("max_over_time((f offset -2s)[10s:1s] @ 9)", 0),
        ("max_over_time((f @ 12 offset 2s)[10s:1s] offset 9s)", 0),
        ("max_over_time(max_over_time(f[10s:1s])[10s:1s] offset 3s)", 8),
        ("1 + time()", None),
    ],
)
def test_the_first_step_that_needs_a_forecast(text: str, step: int | None) -> None:
    expr = pinned(parse(text), STEPS.start_ms, STEPS.end_ms)
    assert first_own_step(expr, STEPS, first_served) == step


@settings(deadline=None)
@given(st.integers(0, 30_000), st.integers(1, 5_000), st.integers(1, 40), st.integers(-20, 20))
def test_all_steps_before_the_first_look_only_at_what_is_not_served(
    start: int, step: int, size: int, offset: int
) -> None:
    steps = Steps(start, step, size)
    sign = f" offset {offset}s" if offset else ""
    found = first_own_step(parse(f"f{sign}"), steps, first_served)
    needed = [t - offset * 1000 >= SERVED_FROM for t in steps.instants_ms.tolist()]
    assert (needed.index(True) if any(needed) else None) == found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("f", None),
        ("rate(x[5m]) + f", None),
        ("max_over_time(rate(x[5m])[10m:]) + f", None),
        ("rate(f[5m])", "rate()"),
        ("sum(label_replace(f, 'a', 'b', 'c', 'd'))", "label_replace()"),
        ("histogram_quantile(0.9, x + f)", "histogram_quantile()"),
        ("max_over_time(f[5m:])", "a subquery"),
        ("x + avg_over_time((f + 1)[5m:])", "a subquery"),
        ("limitk(2, f)", "limitk()"),
        ("timestamp(f)", None),
        ("timestamp({__name__=~'.+'})", None),  # touches nothing here
        ("absent_over_time(f[5m])", None),
        ("quantile_over_time(scalar(x), f[5m])", None),
    ],
)
def test_what_cannot_be_evaluated_is_named(text: str, problem: str | None) -> None:
    assert unsupported(parse(text), first_served) == problem


def test_timestamps_of_several_metrics_are_not_told_apart() -> None:
    expr = parse("timestamp({__name__=~'f|g'})")
    assert unsupported(expr, lambda _: SERVED_FROM) == "timestamp() of several metrics"


def texts(text: str) -> set[Fetch]:
    expr = pinned(parse(text), STEPS.start_ms, STEPS.end_ms)
    return set(fetches(expr, STEPS, first_served).values())


def test_the_largest_parts_without_forecasts_are_the_upstreams() -> None:
    assert texts("sum(rate(x[5m])) / 2 + f") == {
        GridFetch('(sum(rate({__name__="x"}[300000ms]))) / (2.0)'),
        GridFetch('{__name__="f"}'),
    }


def test_what_needs_no_data_is_not_asked_for() -> None:
    assert texts("f * (1 + time()) + vector(2)") == {GridFetch('{__name__="f"}')}


def test_a_window_is_asked_for_once_and_raw() -> None:
    raw = RawFetch('{__name__="f"}[40000ms]', 15_000)
    assert texts("max_over_time(f[30s])") == {raw}
    raw = RawFetch('{__name__="f"}[40000ms]', 17_000)
    assert texts("max_over_time(f[30s] offset -2s) - min_over_time(f[30s] offset -2s)") == {raw}
    assert texts("max_over_time(f[30s] @ end())") == {RawFetch('{__name__="f"}[30000ms]', 15_000)}


def test_timestamps_are_asked_for_as_such() -> None:
    assert texts("timestamp(f)") == {GridFetch('timestamp({__name__="f"})')}
    assert texts("timestamp(f + 1)") == {GridFetch('{__name__="f"}')}
