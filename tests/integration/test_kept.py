"""Versions and changes over HTTP: which series, page by page; and status on a real socket."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_asyncio
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from sidecar.learning.records import AuditEntry
from sidecar.series import LabelSet
from sidecar.serve import admin, status_api
from sidecar.serve.status import StatusPage, Wanted, status_page
from sidecar.watches.operating import Operator
from tests.unit.learning.stored import WATCH
from tests.unit.serve.made_watches import known_series, watch_of

pytestmark = pytest.mark.integration


class Store:
    """Two changes of each series, and no versions."""

    def versions(self, watch: str, series: LabelSet) -> list[Any]:
        return []

    def audit(self, watch: str, series: LabelSet, *, limit: int) -> list[tuple[int, AuditEntry]]:
        entries = [AuditEntry(at, "cron", "promote", series, WATCH, None, at) for at in (2, 1)]
        return list(enumerate(entries))[:limit]


@pytest_asyncio.fixture
async def url() -> AsyncIterator[str]:
    watches = [watch_of(known_series(7)), watch_of(None)]

    async def in_thread(function: Any, /, *arguments: Any) -> Any:
        return await asyncio.to_thread(function, *arguments)

    operator = Operator(
        lambda: watches,
        cast(Any, Store()),
        cast(Any, SimpleNamespace()),
        in_thread,
        lambda: 0,
    )

    async def reload() -> str:
        return "nothing"

    async def pages(wanted: Wanted) -> StatusPage:
        page: StatusPage = await in_thread(status_page, watches, (), wanted)
        return page

    app = web.Application()
    app.add_routes(admin.routes(lambda: operator, reload, enabled=False))
    app.add_routes([status_api.route(pages, in_thread)])
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


async def get(url: str, path: str, *query: tuple[str, str]) -> tuple[int, dict[str, Any]]:
    async with (
        ClientSession() as session,
        session.get(f"{url}/{path}", params=list(query)) as reply,
    ):
        return reply.status, await reply.json()


async def test_changes_of_series_come_page_by_page(url: str) -> None:
    found: list[str] = []
    offset: int | None = 0
    while offset is not None:
        status, answer = await get(
            url,
            "api/v1/models/audit",
            ("match[]", '{instance=~"s[0-4]"}'),
            ("series_limit", "2"),
            ("limit", "1"),
            ("offset", str(offset)),
        )
        assert status == 200
        assert answer["page"]["series"] == 5
        found += [entry["series"] for entry in answer["data"]]
        offset = answer["page"]["next_offset"]
    assert found == [f'x{{instance="s{i}"}}' for i in range(5)]


async def test_series_are_named_by_metric_and_labels_too(url: str) -> None:
    _, one = await get(url, "api/v1/models/audit", ("metric", "x"), ("instance", "s3"))
    assert [entry["series"] for entry in one["data"]] == ['x{instance="s3"}'] * 2
    for offset, then in (("0", 3), ("3", 6), ("4", None), ("9", None)):
        query = (("metric", "x"), ("series_limit", "3"), ("offset", offset))
        _, answer = await get(url, "api/v1/models/audit", *query)
        assert answer["page"] == {"series": 7, "next_offset": then}
    _, other = await get(url, "api/v1/models/audit", ("metric", "y"))
    assert other["data"] == []
    _, none = await get(url, "api/v1/models/versions", ("metric", "x"))
    assert none == {"status": "success", "data": [], "page": {"series": 7, "next_offset": None}}


@pytest.mark.parametrize(
    ("path", "query", "said"),
    [
        ("versions", [], "say which series"),
        ("versions", [("match[]", "x{")], "match[]: "),
        ("versions", [("match[]", "x"), ("job", "a")], "'job' stands beside match[]"),
        ("versions", [("metric", "x"), ("limit", "501")], "at most 500"),
        ("audit", [("metric", "x"), ("limit", "many")], "limit is 'many'"),
    ],
)
async def test_what_is_wrong_with_a_request_is_said(
    url: str, path: str, query: list[tuple[str, str]], said: str
) -> None:
    status, answer = await get(url, f"api/v1/models/{path}", *query)
    assert status == 400
    assert said in answer["error"]


async def test_status_is_served_and_refuses_what_it_does_not_know(url: str) -> None:
    status, answer = await get(url, "api/v1/status", ("limit", "2"), ("match[]", "x"))
    assert (status, len(answer["data"]), answer["page"]["next_offset"]) == (200, 2, 2)
    status, answer = await get(url, "api/v1/status", ("page", "2"))
    assert status == 400
    assert "'page' is not known" in answer["error"]
