"""Hostile input on every route of the query API and the remote-read server: 4xx, never 5xx."""

import asyncio
import http.client
import json
from collections.abc import AsyncIterator
from urllib.parse import quote, urlencode

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.serve.query_api import MAX_FORM_BYTES, PASSED_ON
from sidecar.wire import snappy
from tests.integration.query_world import LOAD, NOW_MS, World, world
from tests.prometheus import PrometheusBinary

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

EXPECTED = LOAD + "_sentinel_expected"
NOW = NOW_MS / 1000

PATHS = st.sampled_from(
    [
        "/api/v1/query",
        "/api/v1/query_range",
        "/api/v1/labels",
        "/api/v1/label/job/values",
        "/api/v1/series",
        "/api/v1/metadata",
        *(path for path, _ in PASSED_ON),
    ]
)
WORDS = [
    *(EXPECTED, LOAD, "(", ")", "[5m]", "[1h:1m]", "offset -1h", "@ end()", "+", "-", "/", "and"),
    *("on(job)", "group_left", "sum", "by (x)", "topk(1,", "quantile(0.5,", 'count_values("v",'),
    *("max_over_time(", "1", "NaN", ">", "bool", "unless", "abs("),
]
QUERIES = st.one_of(
    st.text(max_size=60),
    st.text(st.sampled_from("ab{}()[]+-*/@,\"'=~!1e5mh:`"), max_size=40),
    st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join),
)
TIMES = st.one_of(
    st.sampled_from(
        [
            "",
            "0",
            f"{NOW}",
            f"{NOW + 900}",
            "-1",
            "1e300",
            "NaN",
            "Inf",
            "1e15",
            "x",
            "2023-11-14T22:14:00Z",
            "9999999999999999",
            "-9999999999999999",
            "\x00",
        ]
    ),
    st.floats(allow_nan=True).map(str),
    st.text(max_size=8),
)
SELECTORS = st.sampled_from(["{}", EXPECTED, '{__name__=~".+"}', '{a=~"("}'])
KINDS = st.sampled_from(
    [
        "",
        "text/plain",
        "multipart/form-data",
        "application/x-www-form-urlencoded",
        'application/x-www-form-urlencoded; charset="\x01"',
        "é",
    ]
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "query": QUERIES,
        "time": TIMES,
        "start": TIMES,
        "end": TIMES,
        "step": st.sampled_from(["", "0", "-1", "1", "60", "1e300", "NaN", "5m", "x", "1e-9"]),
        "timeout": st.sampled_from(["", "1s", "-1", "x", "1e300"]),
        "limit": st.sampled_from(["", "-1", "0", "1", "x", "9" * 40]),
        "lookback_delta": st.sampled_from(["", "-1", "0", "1m", "x"]),
        "match[]": QUERIES | SELECTORS,
        "metric": st.text(max_size=10),
        "dedup": st.text(max_size=3),
    },
)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running(newest_prometheus: PrometheusBinary) -> AsyncIterator[World]:
    async with world(newest_prometheus) as it:
        yield it


def send(
    url: str, method: str, target: str, body: bytes = b"", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    host = url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=40)
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()}
    finally:
        connection.close()


def check(status: int, body: bytes, headers: dict[str, str], *, in_no_time: bool = False) -> None:
    """``in_no_time``: it was asked for within a time of the attacker's choice, -1 s perhaps, which
    Prometheus answers by a timeout, a 503."""
    if not (in_no_time and status == 503 and json.loads(body)["errorType"] == "timeout"):
        assert status < 500, body
    assert b"Traceback" not in body
    assert "x-injected" not in headers
    if headers.get("content-type", "").startswith("application/json"):
        assert json.loads(body)["status"] == ("success" if status < 300 else "error")


LAX = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


async def test_no_parameters_get_more_than_a_4xx(running: World) -> None:
    @LAX
    @given(PATHS, st.sampled_from(["GET", "POST"]), FIELDS)
    def attack(path: str, method: str, fields: dict[str, str]) -> None:
        encoded = urlencode(fields, errors="surrogatepass")
        form = {"Content_Type": "application/x-www-form-urlencoded"}
        if method == "GET":
            answer = send(running.sidecar_url, "GET", f"{path}?{encoded}")
        else:
            answer = send(running.sidecar_url, "POST", path, encoded.encode(), **form)
        check(*answer, in_no_time="timeout" in fields)

    await asyncio.to_thread(attack)


async def test_no_bytes_as_form_or_url_get_more_than_a_4xx(running: World) -> None:
    raw = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60)

    @LAX
    @given(PATHS, st.binary(max_size=200), raw, KINDS)
    def attack(path: str, body: bytes, query: str, kind: str) -> None:
        headers = {"Content_Type": kind.encode().decode("latin-1")} if kind else {}
        check(*send(running.sidecar_url, "POST", f"{path}?{query}", body, **headers))
        check(*send(running.sidecar_url, "GET", f"{path}?{query}"))

    await asyncio.to_thread(attack)


async def test_no_label_name_gets_more_than_a_4xx(running: World) -> None:
    @LAX
    @given(st.text(min_size=1, max_size=20))
    def attack(name: str) -> None:
        segment = quote(name, safe="", errors="surrogatepass")
        check(*send(running.sidecar_url, "GET", f"/api/v1/label/{segment}/values"))

    await asyncio.to_thread(attack)


@pytest.mark.parametrize("segment", ["%2e%2e", "..", "a%2fb", "%2e", "%5c", "..%2f..%2fadmin"])
async def test_a_label_name_stays_a_label_name(running: World, segment: str) -> None:
    status, body, _ = await asyncio.to_thread(
        send, running.sidecar_url, "GET", f"/api/v1/label/{segment}/values"
    )
    assert status in (400, 404)
    assert b"success" not in body
    if status == 400:
        assert "invalid label name" in json.loads(body)["error"]


async def test_no_bytes_as_a_remote_read_get_more_than_a_4xx(running: World) -> None:
    @LAX
    @given(st.binary(max_size=300), st.booleans())
    def attack(body: bytes, packed: bool) -> None:
        sent = snappy.compress(body) if packed else body
        check(*send(running.sidecar_url, "POST", "/api/v1/read", sent))

    await asyncio.to_thread(attack)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("query", {"query": "(" * 100_000 + "1" + ")" * 100_000}),
        ("query", {"query": "+".join([EXPECTED] * 20_000)}),
        ("query", {"query": "-" * 50_000 + EXPECTED, "time": f"{NOW + 60}"}),
        ("query", {"query": f'{EXPECTED}{{instance=~"{"(a+)+" * 50}b"}}', "time": f"{NOW + 60}"}),
        ("query", {"query": f"{EXPECTED} offset 1e300", "time": f"{NOW + 60}"}),
        ("query_range", {"query": EXPECTED, "start": "0", "end": f"{NOW + 60}", "step": "0.001"}),
        (
            "query_range",
            {
                "query": f"{EXPECTED} @ end()",
                "start": f"{NOW}",
                "end": f"{NOW + 11000}",
                "step": "1",
            },
        ),
        (
            "query_range",
            {
                "query": f"max_over_time({EXPECTED}[1h])",
                "start": f"{NOW - 3000}",
                "end": f"{NOW + 7000}",
                "step": "1",
            },
        ),
        ("query", {"query": " or ".join([EXPECTED] * 90), "time": f"{NOW + 60}"}),
        ("query", {"query": f'count_values("{"x" * 10_000}", {EXPECTED})', "time": f"{NOW + 60}"}),
        ("series", {"match[]": '{__name__=~".+"}'}),
    ],
)
async def test_known_ways_to_hurt_do_not(running: World, path: str, fields: dict[str, str]) -> None:
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    answer = await asyncio.to_thread(
        send, running.sidecar_url, "POST", f"/api/v1/{path}", urlencode(fields).encode(), **form
    )
    check(*answer)


async def test_a_form_beyond_the_bound_is_refused(running: World) -> None:
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    body = b"query=" + b"a" * MAX_FORM_BYTES
    status, answer, _ = await asyncio.to_thread(
        send, running.sidecar_url, "POST", "/api/v1/query", body, **form
    )
    assert (status, json.loads(answer)["errorType"]) == (400, "bad_data")
    many = "&".join(f"a{i}=" for i in range(20_000)).encode()
    status, answer, _ = await asyncio.to_thread(
        send, running.sidecar_url, "POST", "/api/v1/query", many, **form
    )
    assert (status, json.loads(answer)["errorType"]) == (400, "bad_data")
