"""The query API against a real Prometheus that reads the same forecasts by remote read."""

import re
from collections.abc import Mapping
from typing import Any

import pytest

from tests.integration.query_world import (
    NOW_MS,
    World,
    ask,
    difference,
    forecasts_behind,
    world,
)
from tests.prometheus import PrometheusBinary

pytestmark = pytest.mark.integration

E = "demo_load_sentinel_expected"

EXPRESSIONS = (
    # selectors
    E,
    E + '{instance="a"}',
    E + '{instance=~"a|b"}',
    E + '{instance!="a"}',
    E + '{instance!~"a|gone"}',
    E + '{missing=""}',
    E + '{instance="nobody"}',
    '{__name__="demo_load_sentinel_expected",instance="c"}',
    "demo_odd_sentinel_expected",
    # offset and @
    f"{E} offset 10m",
    f"{E} offset -10m",
    f"{E} offset 1h",
    f"{E} offset -59m30s",
    f"{E} offset -61m",
    f"{E} @ {NOW_MS / 1000 + 600:.3f}",
    f"{E} @ {NOW_MS / 1000 - 600:.3f}",
    f"{E} @ end()",
    f"{E} @ start()",
    f"{E} @ end() offset -5m",
    f"{E} @ start() offset 5m",
    f"{E} - {E} @ end()",
    # arithmetic with scalars
    f"{E} + 1",
    f"2 * {E}",
    f"{E} / 0",
    f"-{E}",
    f"{E} % 7",
    f"{E} ^ 2",
    f"1000 - {E} * 3",
    f"{E} atan2 2",
    "demo_odd_sentinel_expected * 0",
    # comparison
    f"{E} > 20",
    f"20 < {E}",
    f"{E} > bool 20",
    f"{E} == {E}",
    f"{E} != bool {E}_upper",
    f"{E} >= on(instance) {E}_lower",
    f"{E} <= 12.5",
    f"demo_load > on(job, instance) {E}_upper",
    # joins with the actual and between forecasts
    f"demo_load - on(job, instance) {E}",
    f"demo_load - ignoring(foo) {E}",
    f"abs(demo_load - {E})",
    f"{E}_upper - {E}_lower",
    f"{E} * on(instance) group_left(version) demo_info",
    f"demo_info * on(instance) group_right(version) {E}",
    f"demo_temperature * on(instance) group_left() {E}",
    f"{E} + on(instance) group_right() demo_temperature",
    f"(demo_load offset 1h) - {E}",
    f"{E} - (demo_load offset 1h)",
    f"{E} - on(instance) (demo_load @ {NOW_MS / 1000 - 60:.0f})",
    f"demo_temperature - on(instance) {E}",
    f"{E} > bool on(job, instance) group_left demo_load",
    # set operators
    f"demo_load or {E}",
    f"{E} or demo_load",
    f"demo_load and on(instance) {E}",
    f"{E} and on(instance) demo_load",
    f"{E} unless on(instance) demo_load",
    f"demo_load unless {E}",
    f"{E} or on() vector(7)",
    f"{E} and {E} > 20",
    f'{E}{{instance="a"}} or {E}{{instance="b"}} unless {E}{{instance="c"}}',
    # aggregations
    f"sum({E})",
    f"sum by (instance) ({E})",
    f"sum without (instance) ({E})",
    f"avg({E})",
    f"min({E})",
    f"max({E})",
    f"count({E})",
    f"group({E})",
    f"stddev({E})",
    f"stdvar by (job) ({E})",
    f"topk(2, {E})",
    f"topk(1, {E}) by (job)",
    f"bottomk(2, {E})",
    f"quantile(0.5, {E})",
    f"quantile(0.95, {E}) by (job)",
    f"quantile(-1, {E})",
    f"quantile(2, {E})",
    f'count_values("value", {E})',
    f'count_values without (instance) ("value", ceil({E}))',
    f"sum(demo_load) - sum({E})",
    f"avg by (job, instance) ({E}) - avg by (job, instance) (demo_load)",
    "sum(demo_odd_sentinel_expected)",
    "min(demo_odd_sentinel_expected)",
    f'sum by (__name__) ({{__name__="{E}"}})',
    # windows
    f"avg_over_time({E}[5m])",
    f"avg_over_time({E}[30m])",
    f"min_over_time({E}[10m])",
    f"max_over_time({E}[1h] offset -1h)",
    f"max_over_time({E}_upper[1h] offset -30m)",
    f"sum_over_time({E}[7m])",
    f"count_over_time({E}[10m])",
    f"count_over_time({E}[1m])",
    f"count_over_time({E}[2m])",
    f"quantile_over_time(0.9, {E}[20m])",
    f"stddev_over_time({E}[15m])",
    f"stdvar_over_time({E}[15m])",
    f"last_over_time({E}[10m])",
    f"present_over_time({E}[3m])",
    f"absent_over_time({E}[3m])",
    f'absent_over_time({E}{{instance="c"}}[3m])',
    f"max_over_time({E}[10m] @ end())",
    f"min_over_time({E}[30m] offset -20m) < 10",
    f"sum(max_over_time({E}[1h] offset -1h))",
    "max_over_time(demo_odd_sentinel_expected[5m])",
    "avg_over_time(demo_odd_sentinel_expected[5m])",
    # functions
    f"abs({E} - 20)",
    f"ceil({E})",
    f"floor({E})",
    f"round({E})",
    f"round({E}, 0.3)",
    f"clamp({E}, 12, 20)",
    f"clamp({E}, 20, 12)",
    f"clamp_min({E}, 12)",
    f"clamp_max({E}, 12)",
    f"sgn({E} - 20)",
    f"sqrt({E})",
    f"exp({E} / 10)",
    f"ln({E})",
    f"log2({E})",
    f"log10({E})",
    f"timestamp({E})",
    f"timestamp({E} + 0)",
    f"timestamp({E} offset -5m)",
    f"scalar({E})",
    f'scalar({E}{{instance="a"}})',
    f'demo_load / scalar({E}{{instance="a"}})',
    f'vector(scalar({E}{{instance="a"}})) + 1',
    f"absent({E})",
    f'absent({E}{{instance="c"}})',
    f'absent({E}{{instance="c",job="api"}}) * 2',
    f"sort({E})",
    f"sort_desc({E})",
    f"hour(timestamp({E}))",
    f"minute(timestamp({E}))",
    f"day_of_week(timestamp({E}))",
    f"time() - timestamp({E})",
    f"{E} * time()",
    f"{E} > scalar(avg({E}))",
    f"sum({E} > bool 15) / count({E})",
    f"({E} - {E} offset 5m) / 300",
    f"avg(demo_load) + rate(demo_load[5m]) * 0 + on() group_left() sum({E})",
    f'label_replace(demo_load, "x", "$1", "instance", "(.*)") + on(instance) group_left {E}',
    f"sum(rate(demo_load[5m])) + sum({E})",
    f"max_over_time(sum(demo_load)[10m:1m]) - sum({E})",
    # errors
    f"{E} + on(job) {E}",
)

# From, to and step in seconds from now: before, across, after; whole and odd grids.
RANGES = (
    (-1800, 1800, 60),
    (-600, 3900, 97.5),
    (300, 3000, 60),
    (-3600, -60, 300),
    (-90, 90, 7),
)
INSTANTS = (0, 30, 60, 599.5, 1800, 3660, 4000)

NOT_EVALUATED = (
    (f"rate({E}[5m])", "rate()"),
    (f"sum(increase({E}[10m]))", "increase()"),
    (f"deriv({E}[10m]) + 1", "deriv()"),
    (f"predict_linear({E}[10m], 60)", "predict_linear()"),
    (f"histogram_quantile(0.9, {E})", "histogram_quantile()"),
    (f'label_replace({E}, "x", "$1", "instance", "(.*)")', "label_replace()"),
    (f'label_join({E}, "x", ",", "instance", "job")', "label_join()"),
    (f"max_over_time({E}[10m:1m])", "a subquery"),
    (f"avg_over_time(sum({E})[10m:])", "a subquery"),
    (f"delta({E}[5m] offset -10m)", "delta()"),
    (f"changes({E}[5m])", "changes()"),
    (f"timestamp({{__name__=~'{E}|nothing'}})", "timestamp()"),
)


def _range(expr: str, ends: tuple[float, float, float]) -> dict[str, str]:
    start, end, step = ends
    now = NOW_MS / 1000
    return {"query": expr, "start": f"{now + start}", "end": f"{now + end}", "step": f"{step}"}


async def test_the_sidecar_answers_as_a_prometheus_that_reads_the_forecasts(
    prometheus_binary: PrometheusBinary,
) -> None:
    asked = [
        (path, params)
        for expr in _known_to(prometheus_binary)
        for path, params in (
            *(("query_range", _range(expr, ends)) for ends in RANGES),
            *(("query", {"query": expr, "time": f"{NOW_MS / 1000 + at}"}) for at in INSTANTS),
        )
    ]
    async with world(prometheus_binary, oracle=True) as running:
        said = [(await _compare(running, *one), one) for one in asked]
    wrong = [f"{params}: {why}" for why, (_, params) in said if why]
    assert len(EXPRESSIONS) >= 80
    assert not wrong, f"{len(wrong)} answers differ:\n" + "\n".join(wrong[:200])


async def test_a_lookback_of_the_client_and_of_the_servers_flags_counts(
    prometheus_binary: PrometheusBinary,
) -> None:
    flags = ["--query.lookback-delta=2m"]
    async with world(prometheus_binary, oracle=True, flags=flags) as running:
        for more in ({}, {"lookback_delta": "30s"}, {"lookback_delta": "10m"}):
            for expr in (E, f"timestamp({E})", f"sum({E}) - sum(demo_load)"):
                params = _range(expr, (-600, 4500, 17)) | more
                assert await _compare(running, "query_range", params) == "", (expr, more)


async def test_pushes_that_are_under_way_leave_no_hole(
    newest_prometheus: PrometheusBinary,
) -> None:
    """The receiver is five minutes behind: what it lacks comes from here, before now too."""
    behind_ms = NOW_MS - 300_000
    paths = forecasts_behind(behind_ms)
    known = _known_to(newest_prometheus)
    expressions = [*known[::4], *(one for one in known if "[" in one)]
    async with world(
        newest_prometheus, oracle=True, pushed_until_ms=behind_ms, paths=paths
    ) as running:
        asked = [("query_range", _range(expr, (-1200, 1200, 45))) for expr in expressions]
        asked += [("query", {"query": one, "time": f"{NOW_MS / 1000 - 60}"}) for one in expressions]
        said = [(await _compare(running, *one), one) for one in asked]
        past = {"query": f"rate({E}[5m])", "time": f"{NOW_MS / 1000}"}
        _, ours = await ask(running.session, running.sidecar_url, "query", past)
        _, theirs = await ask(running.session, running.upstream.url, "query", past)
    wrong = [f"{params}: {why}" for why, (_, params) in said if why]
    assert not wrong, f"{len(wrong)} answers differ:\n" + "\n".join(wrong[:50])
    assert ours == theirs, "up to now, what cannot be evaluated is the upstream's"


async def test_what_cannot_be_evaluated_ends_at_now_and_says_why(
    newest_prometheus: PrometheusBinary,
) -> None:
    async with world(newest_prometheus) as running:
        for expr, named in NOT_EVALUATED:
            params = _range(expr, (-600, 600, 60))
            status, ours = await ask(running.session, running.sidecar_url, "query_range", params)
            last = NOW_MS / 1000 - (600 if "offset -10m" in expr else 0)
            past = params | {"end": str(last)}
            _, theirs = await ask(running.session, running.upstream.url, "query_range", past)
            assert status == 200, ours
            assert ours["data"] == theirs["data"], expr
            assert any(named in one for one in ours["warnings"]), expr
            ahead = {"query": expr, "time": str(NOW_MS / 1000 + 600)}
            status, ours = await ask(running.session, running.sidecar_url, "query", ahead)
            assert (status, ours["data"]["result"]) == (200, []), expr
            assert any(named in one for one in ours["warnings"]), expr


async def test_what_no_vector_may_hold_twice_is_an_error_here_too(
    newest_prometheus: PrometheusBinary,
) -> None:
    twice = f"abs({{__name__=~'{E}|{E}_upper'}})"
    async with world(newest_prometheus) as running:
        for expr in (twice, f"topk(1e300, {E})", f'count_values("1x", {E})'):
            ahead = {"query": expr, "time": str(NOW_MS / 1000 + 600)}
            status, body = await ask(running.session, running.sidecar_url, "query", ahead)
            assert (status, body["errorType"]) == (422, "execution"), expr


def _known_to(binary: PrometheusBinary) -> list[str]:
    """Those before 2.47 forget to drop the name of what atan2 gives; we do not."""
    return [one for one in EXPRESSIONS if "atan2" not in one or binary.version >= (2, 47)]


async def _compare(running: World, path: str, params: dict[str, str]) -> str:
    assert running.oracle is not None
    _, ours = await ask(running.session, running.sidecar_url, path, params)
    _, theirs = await ask(running.session, running.oracle.url, path, params)
    if _notes(ours) != _notes(theirs):
        return f"notes {_notes(ours)} instead of {_notes(theirs)}"
    return difference(ours, theirs)


def _notes(body: Mapping[str, Any]) -> set[str]:
    """Without positions. What Prometheus says of a quantile beyond 1, we do not say."""
    notes = {re.sub(r" \(\d+:\d+\)$", "", one) for one in body.get("warnings") or ()}
    notes |= {re.sub(r" \(\d+:\d+\)$", "", one) for one in body.get("infos") or ()}
    return {one for one in notes if "quantile value should be" not in one}
