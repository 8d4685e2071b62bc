"""Orders over HTTP: ``POST /api/v1/models/{retrain,rollback,promote,pin,unpin}``, ``/-/reload``.

Off unless ``enable_admin_api``. An order is JSON, ``{"metric": "x", "labels": {...}}``, and carries
the header ``X-Sentinel-Admin``, which no form and no link of another site can set. Who gave it goes
into the audit log.
"""

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from aiohttp import web

from sidecar.errors import ConfigError, SidecarError
from sidecar.operating import Done, Operator
from sidecar.serve.promql.params import parse_time_ms

HEADER: Final = "X-Sentinel-Admin"
VERBS: Final = ("retrain", "rollback", "promote", "pin", "unpin")
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

    async def versions(request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        metric, at = query.pop("metric", ""), query.pop("time", None)
        if at is None:
            return _answer(await operator().versions(metric, query))
        try:
            t_ms = parse_time_ms(at)
        except ValueError as error:
            return _refusal(400, f"time: {error}")
        return _answer(await operator().served_by(metric, query, t_ms))

    async def audit(request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        metric, limit = query.pop("metric", ""), query.pop("limit", "100")
        if not re.fullmatch("[0-9]{1,4}", limit):
            return _refusal(400, "limit is a number up to 9999")
        return _answer(await operator().audit(metric, query, int(limit)))

    found.append(web.get("/api/v1/models/versions", versions, allow_head=False))
    found.append(web.get("/api/v1/models/audit", audit, allow_head=False))
    return found


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
