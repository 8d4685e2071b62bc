"""Every request that Grafana's Prometheus datasource makes, and what it insists on."""

import asyncio
import gzip
import json
import shutil
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
import pytest_asyncio

from sidecar.serve.query_api import PASSED_ON
from tests.integration.query_world import LOAD, NOW_MS, World, world
from tests.prometheus import PrometheusBinary

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

NOW = NOW_MS / 1000
EXPECTED = LOAD + "_sentinel_expected"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
SPAN = {"start": f"{NOW - 3600}", "end": f"{NOW + 3600}"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running(prometheus_binary: PrometheusBinary) -> AsyncIterator[World]:
    async with world(prometheus_binary) as it:
        yield it


async def request(
    running: World,
    method: str,
    path: str,
    params: Mapping[str, Any] | list[tuple[str, str]] | None = None,
    *,
    url: str = "",
    headers: Mapping[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """Status, lower-case headers and the body, decompressed where it is gzip."""
    encoded = urlencode(params or {})
    form = FORM if method == "POST" else {}
    sent = {"Accept-Encoding": "identity", **form, **(headers or {})}
    target = (url or running.sidecar_url) + path
    if method == "GET" and encoded:
        target += "?" + encoded
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.request(
            method,
            target,
            data=encoded if method == "POST" else None,
            headers=sent,
        ) as answer,
    ):
        body = await answer.read()
        found = {name.lower(): value for name, value in answer.headers.items()}
        if found.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        return answer.status, found, body


async def data(running: World, method: str, path: str, params: Any = None) -> Any:
    status, headers, body = await request(running, method, path, params)
    assert status == 200, body
    assert headers["content-type"].startswith("application/json")
    answer = json.loads(body)
    assert answer["status"] == "success"
    return answer["data"]


async def test_save_and_test_gets_what_it_looks_for(running: World) -> None:
    status, _, body = await request(running, "POST", "/api/v1/query", {"query": "1+1", "time": "4"})
    assert status == 200
    assert json.loads(body) == {
        "status": "success",
        "data": {"resultType": "scalar", "result": [4, "2"]},
    }
    build = await data(running, "GET", "/api/v1/status/buildinfo")
    assert build["version"].startswith(str(running.upstream.binary))
    assert not build.get("features")


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_range_goes_on_into_the_future(running: World, method: str) -> None:
    params = {**SPAN, "query": EXPECTED, "step": "60"}
    status, _, body = await request(running, method, "/api/v1/query_range", params)
    assert status == 200
    # Parsed from the front: the type must come before what it is the type of.
    assert body.index(b'"resultType"') < body.index(b'"result":')
    found = json.loads(body)["data"]
    assert found["resultType"] == "matrix"
    ends = {one["metric"]["instance"]: one["values"][-1][0] for one in found["result"]}
    assert ends["a"] == NOW + 3600
    for one in found["result"]:
        assert all(isinstance(value, str) for _, value in one["values"])
        times = [t for t, _ in one["values"]]
        assert times == sorted(set(times))


async def test_an_instant_is_asked_at_the_end_of_the_panel(running: World) -> None:
    params = {"query": EXPECTED + '{instance="a"}', "time": f"{NOW + 1800.5}"}
    found = await data(running, "POST", "/api/v1/query", params)
    assert found["resultType"] == "vector"
    assert found["result"][0]["value"][0] == NOW + 1800.5
    params["query"] = EXPECTED + '{instance="nobody"}'
    assert (await data(running, "POST", "/api/v1/query", params))["result"] == []
    params["query"] = EXPECTED + '{instance="a"}[5m]'
    window = await data(running, "POST", "/api/v1/query", params)
    assert window["resultType"] == "matrix"
    assert [t - NOW for t, _ in window["result"][0]["values"]] == [1560, 1620, 1680, 1740, 1800]


async def test_exemplars_may_be_probed_in_milliseconds(running: World) -> None:
    params = {"query": "1+1", "start": f"{NOW_MS - 1}", "end": f"{NOW_MS}"}
    assert await data(running, "GET", "/api/v1/query_exemplars", params) == []
    params["query"] = EXPECTED
    assert await data(running, "POST", "/api/v1/query_exemplars", params) == []


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_names_and_values_have_ours_among_them(running: World, method: str) -> None:
    names = await data(running, method, "/api/v1/labels", SPAN)
    assert names == sorted(names)
    assert {"__name__", "instance", "job", "version"} <= set(names)
    only = [*SPAN.items(), ("match[]", f'{EXPECTED}{{instance="new"}}'), ("match[]", "demo_info")]
    names = await data(running, method, "/api/v1/labels", only)
    assert names == ["__name__", "instance", "job", "version"]


async def test_autocomplete_finds_the_forecasts(running: World) -> None:
    params = {**SPAN, "limit": "40000"}
    found = await data(running, "GET", "/api/v1/label/__name__/values", params)
    assert {EXPECTED, EXPECTED + "_lower", EXPECTED + "_upper", LOAD} <= set(found)
    values = await data(running, "GET", "/api/v1/label/instance/values", [("match[]", EXPECTED)])
    assert {"a", "b", "c", "new"} <= set(values)
    escaped = await data(running, "GET", "/api/v1/label/job/values", SPAN)
    assert escaped == ["api"]
    future = {"start": f"{NOW + 60}", "end": f"{NOW + 120}"}
    assert "new" in await data(running, "GET", "/api/v1/label/instance/values", future)


async def test_utf8_label_names_arrive_escaped(running: World) -> None:
    status, _, body = await request(running, "GET", "/api/v1/label/U__demo_2e_x/values", SPAN)
    theirs = await request(
        running, "GET", "/api/v1/label/U__demo_2e_x/values", SPAN, url=running.upstream.url
    )
    assert (status, body) == (theirs[0], theirs[2])


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_series_of_several_selectors_come_once(running: World, method: str) -> None:
    params = [("match[]", EXPECTED), ("match[]", '{__name__=~"demo_load.*",instance="new"}')]
    found = await data(running, method, "/api/v1/series", [*params, *SPAN.items()])
    keys = [tuple(sorted(one.items())) for one in found]
    assert len(keys) == len(set(keys)) == 7
    limited = await data(running, method, "/api/v1/series", [*params, ("limit", "2")])
    assert len(limited) == 2


async def test_metadata_says_that_forecasts_are_gauges(running: World) -> None:
    found = await data(running, "GET", "/api/v1/metadata", {"limit": "10000"})
    assert found[EXPECTED][0]["type"] == "gauge"
    assert found[EXPECTED][0]["help"]
    assert all(found.values())
    one = await data(running, "GET", "/api/v1/metadata", {"metric": EXPECTED})
    assert list(one) == [EXPECTED]


@pytest.mark.parametrize("path", ["/api/v1/rules", "/api/v1/alerts"])
async def test_rules_and_alerts_have_prometheus_shapes(running: World, path: str) -> None:
    theirs = json.loads((await request(running, "GET", path, url=running.upstream.url))[2])
    assert await data(running, "GET", path) == theirs["data"]


@pytest.mark.parametrize(("path", "post"), PASSED_ON)
async def test_what_only_the_upstream_knows_has_its_shape_or_is_not_found_as_there(
    running: World, path: str, *, post: bool
) -> None:
    asked = {"query": "up + 1", "start": f"{NOW}", "end": f"{NOW}"}
    for method in ["GET", "POST"] if post else ["GET"]:
        ours = await request(running, method, path, asked)
        theirs = await request(running, method, path, asked, url=running.upstream.url)
        assert ours[0] == theirs[0]
        assert ours[1]["content-type"].startswith("application/json")
        if theirs[0] == 404:  # not yet in this version
            assert json.loads(ours[2])["errorType"] == "not_found"
        elif theirs[0] == 204:
            assert ours[2] == b""
        else:
            assert _shape(json.loads(ours[2])) == _shape(json.loads(theirs[2]))


def _shape(value: Any) -> Any:
    """Names and types."""
    if isinstance(value, dict):
        return {key: _shape(one) for key, one in value.items()}
    return [_shape(one) for one in value[:1]] if isinstance(value, list) else type(value)


PASSED = [
    ("POST", "/api/v1/query", {"query": LOAD, "time": f"{NOW}"}),
    ("GET", "/api/v1/query", {"query": f"sum(rate({LOAD}[5m]))", "time": f"{NOW - 1}"}),
    ("POST", "/api/v1/query_range", {**SPAN, "query": LOAD, "step": "15"}),
    ("GET", "/api/v1/query_range", {**SPAN, "query": f"avg({LOAD}) @ end()", "step": "60"}),
    ("GET", "/api/v1/query_range", {**SPAN, "query": EXPECTED, "end": f"{NOW}", "step": "60"}),
    ("GET", "/api/v1/query", {"query": f"{EXPECTED}[10m]", "time": f"{NOW}"}),
    ("GET", "/api/v1/query", {"query": f"{LOAD}[10m", "time": f"{NOW}"}),
    ("GET", "/api/v1/query", {"query": ""}),
    ("POST", "/api/v1/query_range", {**SPAN, "query": f"{LOAD}[5m]", "step": "60"}),
    ("GET", "/api/v1/format_query", {"query": "a  +b"}),
    ("GET", "/api/v1/status/flags", {}),
    ("GET", "/api/v1/series", {"match[]": "demo_info"}),
    ("GET", "/api/v1/series", {"match[]": "demo_info{"}),
    ("GET", "/api/v1/metadata", {"metric": "demo_info"}),
    ("GET", "/api/v1/label/__name__/values", {"match[]": "demo_info"}),
]


@pytest.mark.parametrize(("method", "path", "params"), PASSED)
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_what_needs_no_forecast_is_the_upstreams_answer_byte_for_byte(
    running: World, method: str, path: str, params: dict[str, str], encoding: str
) -> None:
    headers = {"Accept-Encoding": encoding}
    ours = await request(running, method, path, params, headers=headers)
    theirs = await request(running, method, path, params, headers=headers, url=running.upstream.url)
    assert (ours[0], ours[2]) == (theirs[0], theirs[2])
    assert ours[1]["content-type"] == theirs[1]["content-type"]
    assert ours[1].get("content-encoding") == theirs[1].get("content-encoding")


ODD_TIMES = ["NaN", "Inf", "0x1p3", "1_0", "1e300", "-1", "2023-11-14T22:14:00", "9" * 30, " 1"]
ODD_PARAMETERS = [
    *(("query", {"time": time}) for time in ODD_TIMES),
    *(("query", {name: text}) for name in ("lookback_delta", "limit") for text in ODD_TIMES),
    # Of a timeout that has passed already Prometheus says now this and now that.
    *(("query", {"timeout": text}) for text in ("x", "1e300", "1h", "5")),
    ("query", {"limit": "1"}),
    ("query", {"stats": "all"}),
    *(("query_range", {"step": step}) for step in ["0", "-1", "NaN", "1e300", "x", "1h1h", "1.5m"]),
    ("query_range", {"step": "60", "start": "9", "end": "8"}),
    ("query_range", {"step": "1", "start": "0", "end": "11000.9"}),
    ("query_range", {"step": "1", "start": "0", "end": "11001"}),
    ("query_range", {"step": "0.0001", "start": "0", "end": "0.01"}),
    ("query_range", {"step": "60", "start": ""}),
    ("query_range", {}),
    *(("labels", {name: text}) for name in ("start", "end", "limit") for text in ODD_TIMES),
    *(("label/job/values", {"start": text}) for text in ODD_TIMES),
    *(("series", {"match[]": "demo_info", "end": text}) for text in ODD_TIMES),
    ("series", {}),
    ("series", {"match[]": "{}"}),
    *(("metadata", {"limit": text}) for text in ("x", "-1", "1e3", "")),
    *(("metadata", {"limit_per_metric": text, "metric": "demo_info"}) for text in ("x", "0", "1")),
]


@pytest.mark.parametrize(("path", "odd"), ODD_PARAMETERS)
async def test_what_is_wrong_with_a_parameter_the_upstream_says(
    running: World, path: str, odd: dict[str, str]
) -> None:
    asked = {"query": "demo_info", **SPAN, **odd} if "query" in path else odd
    ours = await request(running, "GET", f"/api/v1/{path}", asked)
    theirs = await request(running, "GET", f"/api/v1/{path}", asked, url=running.upstream.url)
    assert ours[0] == theirs[0], ours[2]
    if theirs[0] != 200 or "query" in path:
        assert _timeless(ours[2]) == _timeless(theirs[2])
    if "query" in path and theirs[0] != 200:
        status, _, body = await request(
            running, "GET", f"/api/v1/{path}", asked | {"query": EXPECTED}
        )
        assert (status, _timeless(body)) == (theirs[0], _timeless(theirs[2]))


async def test_a_parameter_that_only_the_upstream_reads_leaves_the_forecasts_out_and_says_so(
    running: World,
) -> None:
    params = {"query": EXPECTED, "time": f"{int(NOW) + 60:#x}p0"}  # Go reads that
    status, _, body = await request(running, "POST", "/api/v1/query", params)
    assert status == 200
    [warning] = json.loads(body)["warnings"]
    assert warning.startswith("forecasts past now are left out: invalid parameter")


async def test_the_client_need_not_wait_longer_than_it_said(running: World) -> None:
    params = {**SPAN, "query": f"{EXPECTED} + demo_load", "step": "60", "timeout": "0.000001"}
    status, _, body = await request(running, "POST", "/api/v1/query_range", params)
    assert (status, json.loads(body)["errorType"]) == (503, "timeout")


def _timeless(body: bytes) -> Any:
    """Without how long it took."""
    answer = json.loads(body)
    if isinstance(answer.get("data"), dict):
        answer["data"].pop("stats", None)
    return answer


async def test_gzip_is_given_to_who_takes_it(running: World) -> None:
    params = {**SPAN, "query": EXPECTED, "step": "60"}
    for asked, given in (
        ("gzip", "gzip"),
        ("br, gzip;q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("br", None),
    ):
        status, headers, body = await request(
            running, "POST", "/api/v1/query_range", params, headers={"Accept-Encoding": asked}
        )
        assert status == 200
        assert headers.get("content-encoding") == given
        assert json.loads(body)["status"] == "success"


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/admin/tsdb/delete_series",
        "/api/v1/admin/tsdb/snapshot",
        "/api/v1/write",
        "/api/v1/status/config",
        "/api/v1/otlp/v1/metrics",
        "/-/reload",
        "/-/quit",
        "/federate",
        "/api/v1/label/..%2f..%2fadmin/values",
        "/api/v1/label/../../../-/quit/values",
    ],
)
async def test_no_way_leads_to_the_upstreams_other_endpoints(running: World, path: str) -> None:
    for method in ("GET", "POST"):
        status, _, _ = await request(running, method, path)
        assert 400 <= status < 500, (method, path)


async def test_promtool_takes_the_sidecar_for_a_prometheus(running: World) -> None:
    assert shutil.which("promtool"), "promtool comes with prometheus"
    future = f"{NOW + 600:.0f}"
    span = [f"--start={NOW:.0f}", f"--end={future}"]
    commands = (
        (["instant", f"--time={future}"], EXPECTED, "instance="),
        (["range", *span, "--step=1m"], EXPECTED, f"@[{future}]"),
        (["series", "--match", EXPECTED, *span], None, 'instance="new"'),
        (["labels", *span], "__name__", EXPECTED),
    )
    for [kind, *options], last, expected in commands:
        process = await asyncio.create_subprocess_exec(
            "promtool",
            "query",
            kind,
            *options,
            running.sidecar_url,
            *([last] if last else []),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err
        assert expected in out.decode(), kind
