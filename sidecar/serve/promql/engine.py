"""A query from its text to its answer: who is asked for what, and what is computed here.

parse ─ no forecast touched, or not understood ──────────────▶ the upstream answers (PassOn)
  │
  ├─ cannot be evaluated ──▶ steps up to now from the upstream, a warning that names why
  │
  └─ steps before the first that needs a forecast ──▶ the upstream's bytes
     steps from there on ──▶ parts from the upstream, evaluated here in a thread
     both ──▶ one answer
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from sidecar.errors import Unavailable
from sidecar.names import OUTPUT_SUFFIXES, is_own_output
from sidecar.publish.paths import ForecastPaths, PathBlock
from sidecar.serve.promql.answering import Job, Query
from sidecar.serve.promql.cursor import Garbage
from sidecar.serve.promql.fetch import Fetch, GridFetch, RawFetch, fetches
from sidecar.serve.promql.frames import Budget, QueryError
from sidecar.serve.promql.params import FAR_MS
from sidecar.serve.promql.parse import LONG_TEXT, Unparsable, parse, splice_edges
from sidecar.serve.promql.split import FirstServed, Steps, first_own_step, unsupported
from sidecar.serve.promql.syntax import (
    Call,
    Expr,
    Kind,
    RangeSelector,
    VectorSelector,
    kind_of,
    metric_of,
    pinned,
    selectors,
)
from sidecar.serve.promql.writing import Pieces, time_text
from sidecar.serve.upstream import Room, TooLarge, Upstream

_log = logging.getLogger(__name__)

RANGE_PATH: Final = "/api/v1/query_range"
QUERY_PATH: Final = "/api/v1/query"
# Share of a query's time that the upstream may take; the rest is for what we make of it.
_UPSTREAMS_SHARE: Final = 0.8
# From so many forecast series on looking through them is left to a thread.
_MANY_SERIES: Final = 2_000


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """What queries may take.

    Attributes:
        deadline_s: for one query; Grafana gives up after 30 s.
        concurrent: queries that are evaluated here at once; more wait. They share one interpreter:
            with more threads each is slower, and the event loop waits longer for its turn.
        waiting: queries that may wait; more are refused.
        max_cells: of one array of an evaluation: 9 bytes a cell there, 30 in the answer.
        max_reply_bytes: of the upstream's answers to one query's own questions.
        max_fetches: questions to the upstream for one query.
    """

    deadline_s: float = 25.0
    concurrent: int = 2
    waiting: int = 64
    max_cells: int = 2_000_000
    max_reply_bytes: int = 32 * 1024 * 1024
    max_fetches: int = 32


@dataclass(frozen=True, slots=True)
class PassOn:
    """The upstream's own answer is the answer; ``warning`` goes with it, unless empty."""

    warning: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole successful body, as JSON."""

    body: Pieces


Outcome: TypeAlias = PassOn | Answer


def not_read(text: str, why: str) -> PassOn:
    """The upstream's answer; where forecasts seem to be asked for, with a word on their absence."""
    mentioned = any(suffix in text for suffix in OUTPUT_SUFFIXES)
    return PassOn(f"forecasts past now are left out: {why}" if mentioned else "")


@dataclass(frozen=True, slots=True)
class _Plan:
    """A query that needs forecasts.

    Attributes:
        own_step: the first step that is evaluated here; all before are the upstream's.
        problem: why it cannot be evaluated here; then nothing is, and ``own_step`` is now's.
    """

    query: Query
    expr: Expr
    own_step: int
    problem: str
    own: Mapping[VectorSelector, Sequence[PathBlock]]

    def served(self, selector: VectorSelector) -> int | None:
        return 0 if selector in self.own else None


class Engine:
    """Answers queries that touch forecasts.

    Args:
        now_ms: the wall clock; only what cannot be evaluated here is cut at it.
        monotonic: seconds, for deadlines.
    """

    def __init__(
        self,
        upstream: Upstream,
        paths: ForecastPaths,
        *,
        limits: QueryLimits,
        now_ms: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream, self._paths, self._limits = upstream, paths, limits
        self._now_ms, self._monotonic = now_ms, monotonic
        self._threads = ThreadPoolExecutor(limits.concurrent, thread_name_prefix="promql")
        self._gate = asyncio.Semaphore(limits.concurrent)
        self._inside = 0

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def answer(self, query: Query, check_room: Callable[[], None]) -> Outcome:
        """
        Args:
            check_room: raises where there is no room for an answer of ours; not for what is passed
                on.

        Raises:
            QueryError, UpstreamRefused, Unavailable
        """
        try:
            expr = await _parsed(query.text)
        except Unparsable as error:
            _log.debug("not evaluated here: %s", error)
            return not_read(query.text, f"this query could not be read here ({error})")
        if self._takes_a_look(expr):
            plan = await asyncio.to_thread(self._plan, query, expr)
        else:
            plan = self._plan(query, expr)
        if plan is None:
            return PassOn()
        check_room()
        if self._inside >= self._limits.concurrent + self._limits.waiting:
            raise QueryError("unavailable", "too many queries over forecasts at once, try again")
        self._inside += 1
        try:
            allowed_s = min(self._limits.deadline_s, query.timeout_s)
            began = self._monotonic()
            async with asyncio.timeout(allowed_s), self._gate:
                until = began + _UPSTREAMS_SHARE * allowed_s
                return await self._answer(plan, until, began + allowed_s)
        except TimeoutError:
            raise QueryError("timeout", "query timed out in query execution") from None
        except TooLarge as error:
            raise QueryError("execution", str(error)) from None
        finally:
            self._inside -= 1

    def _takes_a_look(self, expr: Expr) -> bool:
        """Whether to find the forecasts that a query touches may take more than a moment."""
        names = [metric_of(one) for one in selectors(expr)]
        touches = any(name is None or is_own_output(name) for name in names)
        return touches and self._paths.stats().series >= _MANY_SERIES

    def _plan(self, query: Query, expr: Expr) -> _Plan | None:
        """None where no step needs a forecast."""
        steps = query.steps
        expr = pinned(expr, steps.start_ms, query.end_ms)
        if not query.instant and kind_of(expr) not in (Kind.SCALAR, Kind.VECTOR):
            return None  # an error, which the upstream words
        first_served = self._first_served(expr)
        own_step = first_own_step(expr, steps, first_served)
        if own_step is None:
            return None
        problem = unsupported(expr, first_served)
        if problem is None and isinstance(expr, RangeSelector) and not query.instant:
            return None
        if problem is not None:
            after_now = self._after_now(first_served)
            own_step = first_own_step(expr, steps, after_now)
            return None if own_step is None else _Plan(query, expr, own_step, problem, {})
        own = {
            selector: self._paths.blocks(selector.matchers, -FAR_MS, FAR_MS)
            for selector in selectors(expr)
            if first_served(selector) is not None
        }
        return _Plan(query, expr, own_step, "", own)

    def _first_served(self, expr: Expr) -> FirstServed:
        known = {s: self._paths.first_served_ms(s.matchers) for s in selectors(expr)}
        return known.__getitem__

    def _after_now(self, first_served: FirstServed) -> FirstServed:
        now_ms = self._now_ms()

        def later(selector: VectorSelector) -> int | None:
            first_ms = first_served(selector)
            return None if first_ms is None else max(first_ms, now_ms + 1)

        return later

    async def _answer(self, plan: _Plan, until: float, deadline: float) -> Answer:
        facts = await self._upstream.facts()
        steps, step = plan.query.steps, plan.own_step
        ahead, text = steps.since(step), plan.query.text
        asks: dict[Expr, Fetch] = {}
        if not plan.problem:
            asks.update(fetches(plan.expr, ahead, plan.served))
        if len(set(asks.values())) > self._limits.max_fetches:
            raise QueryError("execution", "too many parts of this query need the upstream")
        past = GridFetch(splice_edges(text, steps.start_ms, plan.query.end_ms)) if step else None
        warnings: tuple[str, ...] = ()
        if plan.problem:
            warnings = (f"forecasts past now are left out: {plan.problem} is not evaluated here",)
        try:
            wanted = {(ask, ahead) for ask in asks.values()}
            wanted |= {(past, steps.before(step))} if past else set()
            bodies = await self._fetch_all(sorted(wanted, key=str), plan.query, until)
        except Unavailable as error:
            if plan.problem or not all(_is_forecast(node, plan) for node in asks):
                if self._monotonic() >= until:
                    raise TimeoutError from None
                raise
            # All of it is ours: better the forecasts and their tail alone than nothing.
            plan, ahead, past, asks, bodies = self._without_upstream(plan), steps, None, {}, {}
            warnings = (f"only forecasts are shown: {error}",)
        job = Job(
            plan.query,
            None if plan.problem else plan.expr,
            kind_of(plan.expr),
            ahead,
            bodies[past, steps.before(step)] if past else None,
            {node: bodies[ask, ahead] for node, ask in asks.items()},
            plan.own,
            (facts.takes_lookback and plan.query.lookback_ms) or facts.lookback_ms,
            facts.since_3,
            Budget(self._limits.max_cells, lambda: self._monotonic() > deadline),
            warnings,
        )
        try:
            return Answer(await asyncio.get_running_loop().run_in_executor(self._threads, job.run))
        except Garbage as error:
            raise Unavailable(f"{self._upstream.display_url}: {error}") from None

    def _without_upstream(self, plan: _Plan) -> _Plan:
        own = {
            selector: self._paths.blocks(selector.matchers, -FAR_MS, FAR_MS, tail=True)
            for selector in plan.own
        }
        return replace(plan, own=own, own_step=0)

    async def _fetch_all(
        self, wanted: Sequence[tuple[Fetch, Steps]], query: Query, until: float
    ) -> Mapping[tuple[Fetch, Steps], bytes]:
        """
        Raises:
            Unavailable, UpstreamRefused, TooLarge: of the first that failed.
        """
        room = Room(self._limits.max_reply_bytes)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {
                    one: group.create_task(self._fetch(*one, query, until, room)) for one in wanted
                }
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return {one: task.result() for one, task in tasks.items()}

    async def _fetch(
        self, ask: Fetch, steps: Steps, query: Query, until: float, room: Room
    ) -> bytes:
        left_s = max(until - self._monotonic(), 0.001)
        params = {"query": ask.text, "timeout": f"{max(int(left_s * 1000), 1)}ms"}
        if query.lookback_ms is not None:
            params["lookback_delta"] = f"{query.lookback_ms}ms"
        if isinstance(ask, RawFetch):
            params["time"] = time_text(ask.time_ms)
            path = QUERY_PATH
        else:
            params["start"], params["end"] = time_text(steps.start_ms), time_text(steps.end_ms)
            params["step"] = time_text(steps.step_ms)
            path = RANGE_PATH
        return await self._upstream.ask(path, params, timeout_s=left_s, room=room)


async def _parsed(text: str) -> Expr:
    """
    Raises:
        Unparsable, QueryError
    """
    return await asyncio.to_thread(parse, text) if len(text) > LONG_TEXT else parse(text)


def _is_forecast(node: Expr, plan: _Plan) -> bool:
    """Whether what the upstream would say of a node is only the past of a forecast."""
    match node:
        case RangeSelector(selector=selector):
            return selector in plan.own
        case Call(function="timestamp", args=(VectorSelector() as selector,)):
            return selector in plan.own
        case _:
            return node in plan.own
