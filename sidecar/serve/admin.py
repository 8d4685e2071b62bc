"""Orders over HTTP, ``POST /api/v1/models/{retrain,rollback,promote,pin,unpin}`` and ``/-/reload``,
and what is kept of series: ``GET /api/v1/models/{versions,audit}``.

Orders are off unless ``enable_admin_api``. An order is JSON, ``{"metric": "x", "labels": {...}}``,
and carries the header ``X-Sentinel-Admin``, which no form and no link of another site can set. Who
gave it goes into the audit log.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from aiohttp import web

from sidecar.errors import ConfigError, SidecarError
from sidecar.names import METRIC_NAME
from sidecar.serve.promql.params import Params, first, parse_time_ms
from sidecar.serve.selecting import having, number, parameters, selected
from sidecar.watches.operating import Done, Kept, KeptPage, Operator

HEADER: Final = "X-Sentinel-Admin"
VERBS: Final = ("retrain", "rollback", "promote", "pin", "unpin")
MOST_SERIES: Final = 500
_MAX_BYTES: Final = 64 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Order = Callable[[Mapping[str, Any], str], Awaitable[list[Done]]]


def routes(
    operator: Callable[[], Operator],
    reload: Callable[[], Awaitable[str]],
    *,
    enabled: bool,
) -> list[web.RouteDef]:
    """The routes; where the admin API is off they answer 403 and say how to turn it on.

    Args:
        reload: reads the configuration again and says what changed.
    """
    found = [
        web.post(f"/api/v1/models/{verb}", _guarded(_order(operator, verb), enabled))
        for verb in VERBS
    ]

    async def reloaded(_: web.Request) -> web.StreamResponse:
        try:
            return _answer({"message": await reload()})
        except ConfigError as error:
            problems = [str(problem) for problem in error.problems]
            return _refusal(400, "the configuration is wrong; the old one stays", problems)

    found.append(web.post("/-/reload", _guarded(reloaded, enabled)))

    for name, page in (("versions", _versions), ("audit", _audit)):
        shown = _shown(operator, page)
        found.append(web.get(f"/api/v1/models/{name}", shown, allow_head=False))
    return found


def _shown(
    operator: Callable[[], Operator], page_of: Callable[[Operator, Params], Awaitable[KeptPage]]
) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            page = await page_of(operator(), parameters(request))
        except ValueError as error:
            return _refusal(400, str(error))
        about = {"series": page.matched, "next_offset": page.next_offset}
        return web.Response(
            body=await asyncio.to_thread(_encoded, page.entries, about),
            content_type="application/json",
            charset="utf-8",
        )

    return handler


async def _audit(operator: Operator, query: Params) -> KeptPage:
    """Changes.

    Raises:
        ValueError: which parameter is wrong.
    """
    newest = number(query, "limit", 100, 9_999)
    return await operator.audit(_kept(query, "series_limit", "limit"), newest)


async def _versions(operator: Operator, query: Params) -> KeptPage:
    """Versions, or which of them made the predictions of a time.

    Raises:
        ValueError: which parameter is wrong.
    """
    wanted, at = _kept(query, "limit", "time"), first(query, "time")
    if not at:
        return await operator.versions(wanted)
    try:
        t_ms = parse_time_ms(at)
    except ValueError as error:
        raise ValueError(f"time: {error}") from None
    return await operator.served_by(wanted, t_ms)


def _kept(query: Params, limit: str, more: str) -> Kept:
    """Which series are asked about: ``match[]``, else ``metric`` and labels by their names.

    Args:
        limit: which parameter says how many series.
        more: another that is no label.

    Raises:
        ValueError: which parameter is wrong.
    """
    own = ("match[]", "metric", "offset", limit, more)
    texts = query.get("match[]", ())
    labels = {name: values[0] for name, values in query.items() if name not in own}
    if texts and labels:
        raise ValueError(f"{min(labels)!r} stands beside match[]: say it within that")
    if not texts and not first(query, "metric"):
        raise ValueError("say which series: match[]=SELECTOR, or metric=NAME and labels by name")
    labels[METRIC_NAME] = first(query, "metric")
    return Kept(
        accepts=selected(texts) if texts else having(labels),
        offset=number(query, "offset", 0, 999_999_999),
        limit=max(1, number(query, limit, 100, MOST_SERIES)),
    )


def _encoded(entries: list[dict[str, Any]], about: Mapping[str, Any]) -> bytes:
    """The answer; entry by entry, so that no single call holds the interpreter for long."""
    data = ",".join(json.dumps(entry) for entry in entries)
    return f'{{"status":"success","data":[{data}],"page":{json.dumps(about)}}}'.encode()


def _order(operator: Callable[[], Operator], verb: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        body = await request.content.read(_MAX_BYTES + 1)
        if len(body) > _MAX_BYTES:
            return _refusal(413, f"an order is at most {_MAX_BYTES} bytes")
        try:
            order = _parsed(body, verb)
        except ValueError as error:
            return _refusal(400, str(error))
        who = f"operator {request.remote or 'unknown'}"
        try:
            done = await _carry_out(operator(), verb, order, who)
        except SidecarError as error:
            return _refusal(503, str(error))
        if not done:
            return _refusal(404, f"no watched series of {order['metric']!r} has these labels")
        failed = all(one.error for one in done)
        status = 409 if failed else 200
        return _answer([asdict(one) for one in done], status)

    return handler


def _parsed(body: bytes, verb: str) -> dict[str, Any]:
    """An order with its fields of the right types.

    Raises:
        ValueError: what is wrong with it.
    """
    try:
        order = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError('an order is JSON, such as {"metric": "x", "labels": {}}') from None
    if not isinstance(order, dict) or not isinstance(order.get("metric"), str):
        raise ValueError('an order names its metric: {"metric": "x", "labels": {}}')
    labels = order.setdefault("labels", {})
    if not isinstance(labels, dict) or not all(isinstance(v, str) for v in labels.values()):
        raise ValueError('labels is a mapping of texts: {"job": "api"}')
    allowed = {"metric", "labels", *_OPTIONS.get(verb, {})}
    unknown = sorted(set(order) - allowed)
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not known; {verb} takes {', '.join(sorted(allowed))}")
    for name, kind in _OPTIONS.get(verb, {}).items():
        value = order.get(name)
        if value is not None and (
            not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)
        ):
            raise ValueError(f"{name} is {value!r}, but must be of type {kind.__name__}")
    return order


_OPTIONS: Final[Mapping[str, Mapping[str, type]]] = {
    "rollback": {"to_version": int, "pin": bool},
    "promote": {"version": int},
}


async def _carry_out(
    operator: Operator, verb: str, order: Mapping[str, Any], who: str
) -> list[Done]:
    metric, labels = order["metric"], order["labels"]
    match verb:
        case "retrain":
            return await operator.retrain(metric, labels, who=who)
        case "rollback":
            pin = order.get("pin")
            return await operator.rollback(
                metric,
                labels,
                to_version=order.get("to_version"),
                pin=True if pin is None else pin,
                who=who,
            )
        case "promote":
            return await operator.promote(metric, labels, version=order.get("version"), who=who)
        case _:
            return await operator.pin(metric, labels, pinned=verb == "pin", who=who)


def _guarded(handler: Handler, enabled: bool) -> Handler:
    async def guarded(request: web.Request) -> web.StreamResponse:
        if not enabled:
            return _refusal(403, "the admin API is off: set enable_admin_api: true and restart")
        if HEADER not in request.headers:
            return _refusal(403, f"an order carries the header {HEADER}, with any value")
        return await handler(request)

    return guarded


def _answer(data: Any, status: int = 200) -> web.Response:
    word = "success" if status < 300 else "error"
    return web.json_response({"status": word, "data": data}, status=status)


def _refusal(status: int, message: str, problems: list[str] | None = None) -> web.Response:
    body: dict[str, Any] = {"status": "error", "error": message}
    if problems:
        body["problems"] = problems
    return web.json_response(body, status=status)
