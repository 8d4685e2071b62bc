"""The query API against a real Prometheus that reads the same forecasts by remote read."""

import asyncio
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings

from tests.integration import query_grammar
from tests.integration.query_expressions import (
    EDGES,
    EXPRESSIONS,
    NOT_EVALUATED,
    WITHOUT_A_NAME,
    E,
)
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

# From, to and step in seconds from now: before, across, after; whole and odd grids.
RANGES = (
    (-1800, 1800, 60),
    (-600, 3900, 97.5),
    (300, 3000, 60),
    (-3600, -60, 300),
    (-90, 90, 7),
)
INSTANTS = (0, 30, 60, 599.5, 1800, 3660, 4000)


def _range(expr: str, ends: tuple[float, float, float]) -> dict[str, str]:
    start, end, step = ends
    now = NOW_MS / 1000
    return {"query": expr, "start": f"{now + start}", "end": f"{now + end}", "step": f"{step}"}


def _asked(
    expr: str, ranges: Iterable[tuple[float, float, float]], instants: Iterable[float]
) -> list[tuple[str, dict[str, str]]]:
    return [
        *(("query_range", _range(expr, ends)) for ends in ranges),
        *(("query", {"query": expr, "time": f"{NOW_MS / 1000 + at}"}) for at in instants),
    ]


async def test_the_sidecar_answers_as_a_prometheus_that_reads_the_forecasts(
    prometheus_binary: PrometheusBinary,
) -> None:
    asked = [
        one
        for expr in _known_to(prometheus_binary, EXPRESSIONS)
        for one in _asked(expr, RANGES, INSTANTS)
    ]
    edges = _known_to(prometheus_binary, EDGES)
    asked += [one for expr in edges for one in _asked(expr, RANGES[:2], INSTANTS[3:5])]
    async with world(prometheus_binary, oracle=True) as running:
        said = [(await _compare(running, *one), one) for one in asked]
    wrong = [f"{params}: {why}" for why, (_, params) in said if why]
    assert len(EXPRESSIONS) >= 80
    assert not wrong, f"{len(wrong)} answers differ:\n" + "\n".join(wrong[:200])


async def test_selectors_without_a_name_find_forecasts_and_actuals_alike(
    prometheus_binary: PrometheusBinary,
) -> None:
    asked = [one for expr in WITHOUT_A_NAME for one in _asked(expr, RANGES[:3], INSTANTS[::2])]
    async with world(prometheus_binary, oracle=True, by_name=False) as running:
        said = [(await _compare(running, *one), one) for one in asked]
    wrong = [f"{params}: {why}" for why, (_, params) in said if why]
    assert not wrong, f"{len(wrong)} answers differ:\n" + "\n".join(wrong[:200])


async def test_what_nobody_thought_of_is_answered_alike(
    newest_prometheus: PrometheusBinary,
) -> None:
    async with world(newest_prometheus, oracle=True, by_name=False) as running:
        loop = asyncio.get_running_loop()

        async def compare(expr: str) -> None:
            for one in _asked(expr, RANGES[:1], INSTANTS[4:5]):
                assert await _compare(running, *one) == "", (expr, one)

        # The same ones each time: what fails here must fail again.
        @settings(max_examples=100, deadline=None, derandomize=True)
        @given(query_grammar.EXPRESSIONS)
        def attack(expr: str) -> None:
            asyncio.run_coroutine_threadsafe(compare(expr), loop).result()

        await asyncio.to_thread(attack)


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
    known = _known_to(newest_prometheus, EXPRESSIONS)
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


def _known_to(binary: PrometheusBinary, expressions: Iterable[str]) -> list[str]:
    """Without those that this Prometheus is known to answer wrongly itself.

    Those before 2.47 forget to drop the name of what atan2 gives. Between 2.52 and 3.4 the number
    that topk and quantile take is that of the first step at all steps.
    """
    stuck = (2, 52) <= binary.version < (3, 4)
    return [
        one
        for one in expressions
        if not ("atan2" in one and binary.version < (2, 47))
        and not (stuck and re.match(r"(topk|quantile)\(scalar", one))
    ]


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
