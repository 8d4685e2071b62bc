"""What a server is and can do, asked before anything relies on it.

Each fact is asked by itself and may stay unknown (None): managed services answer half of this.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from sidecar.duration import parse_duration_ms
from sidecar.errors import Rejected, RemoteError, Unavailable
from sidecar.names import METRIC_NAME
from sidecar.remote.described import START_RECEIVER, receiver_is_off
from sidecar.remote.http import HttpClient, printable
from sidecar.remote.sliced import without_own_output
from sidecar.series import LabelSet, Matcher, MatchOp, Selector
from sidecar.wire import snappy
from sidecar.wire.requests import ReadQuery, encode_read_request

log = logging.getLogger(__name__)

_MAX_BYTES: Final = 16 * 1024 * 1024
_SERIES_BYTES: Final = 256 * 1024 * 1024
_MAX_SKEW_S: Final = 60.0
_NOTHING: Final = Selector((Matcher(METRIC_NAME, MatchOp.EQUAL, "sentinel_probe_of_nothing"),))


@dataclass(frozen=True)
class ServerFacts:
    """What is known of a server; None where it did not say.

    Attributes:
        product: ``prometheus``, ``victoriametrics``, or empty.
        remote_read: whether ``remote_read`` works; else use ``QueryApiReader``.
        receiver: whether remote write is accepted.
        clock_offset_s: own clock minus the server's, 0.0 where they may agree.
        scrape_interval_ms: the global one; ``scrape_intervals_ms`` holds it by job.
        problems: what will not work, in words for the operator.
    """

    version: str = ""
    product: str = ""
    remote_read: bool | None = None
    receiver: bool | None = None
    external_labels: Mapping[str, str] = field(default_factory=dict)
    clock_offset_s: float | None = None
    lookback_ms: int | None = None
    ooo_window_ms: int | None = None
    scrape_interval_ms: int | None = None
    scrape_intervals_ms: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReceiverFacts:
    """What is known of an endpoint of remote write; None where it did not say.

    Attributes:
        takes: whether remote write is accepted.
        clock_offset_s: own clock minus the receiver's.
        said: why it is not accepted, in words for the operator.
    """

    takes: bool | None = None
    clock_offset_s: float | None = None
    said: str = ""


async def probe_receiver(
    client: HttpClient,
    path: str = "",
    *,
    now_s: Callable[[], float] = time.time,
    timeout_s: float = 10.0,
) -> ReceiverFacts:
    """Ask an endpoint whether it takes remote write, with an empty request."""
    takes, said = await _writes(client, path, timeout_s)
    return ReceiverFacts(takes, client.server_clock.skew_s(now_s()), said)


async def probe(
    client: HttpClient,
    *,
    read_path: str = "/api/v1/read",
    write_path: str = "/api/v1/write",
    read_client: HttpClient | None = None,
    write_client: HttpClient | None = None,
    now_s: Callable[[], float] = time.time,
    timeout_s: float = 10.0,
) -> ServerFacts:
    """Ask a server what it is. Writes nothing: the write request is empty.

    Args:
        client: for the query API.
        read_client, write_client: where remote read and remote write go elsewhere.
        timeout_s: for each question.

    Raises:
        Unavailable: it does not answer at all.
    """
    writer = write_client or client
    build, told, flags, read, write = await asyncio.gather(
        _build(client, timeout_s),
        _config(client, timeout_s),
        _flags(client, timeout_s),
        _reads(read_client or client, read_path, now_s, timeout_s),
        _writes(writer, write_path, timeout_s),
    )
    config = told or _Config()
    offset = writer.server_clock.skew_s(now_s())
    if offset is None:
        offset = client.server_clock.skew_s(now_s())
    problems = [text for _, text in (read, write) if text]
    if offset is not None and abs(offset) > _MAX_SKEW_S:
        ahead = "ahead of" if offset > 0 else "behind"
        problems.append(
            f"our clock is {abs(offset):.0f} s {ahead} the server's: nothing will be written; "
            "set the clocks (NTP)"
        )
    return ServerFacts(
        version=build[0],
        product=build[1],
        remote_read=read[0],
        receiver=write[0],
        external_labels=config.external_labels,
        clock_offset_s=offset,
        lookback_ms=_duration(flags.get("query.lookback-delta")),
        ooo_window_ms=config.ooo_window_ms,
        scrape_interval_ms=config.scrape_interval_ms,
        scrape_intervals_ms=config.scrape_intervals_ms,
        problems=tuple(problems),
    )


async def out_of_order_window_ms(client: HttpClient, *, timeout_s: float = 10.0) -> int | None:
    """How late samples may come, as a Prometheus is configured; 0 where it takes none out of order.

    None where its configuration cannot be read: no Prometheus, no answer, not allowed.
    """
    config = await _config(client, timeout_s)
    return None if config is None else config.ooo_window_ms or 0


async def external_labels(
    client: HttpClient, *, timeout_s: float = 10.0
) -> Mapping[str, str] | None:
    """What a Prometheus adds to its series on remote read; None where that cannot be read."""
    config = await _config(client, timeout_s)
    return None if config is None else config.external_labels


async def list_series(
    client: HttpClient,
    selector: Selector,
    start_ms: int,
    end_ms: int,
    *,
    limit: int | None = None,
    path: str = "/api/v1/series",
) -> list[LabelSet]:
    """The label sets that a selector matches, own output left out, sorted. No samples are read.

    Args:
        limit: the server is asked to stop there (it may not know how to).
    """
    params = {
        "match[]": str(without_own_output(selector)),
        "start": f"{start_ms / 1000:.3f}",
        "end": f"{end_ms / 1000:.3f}",
    }
    if limit is not None:
        params["limit"] = str(limit)
    reply = await client.request("POST", path, params=params, max_bytes=_SERIES_BYTES)
    data = await asyncio.to_thread(_data, reply.body, path)
    if not isinstance(data, list):
        raise Unavailable(f"{client.settings.display_url}{path}: not a list of series")
    return sorted(LabelSet.of({str(k): str(v) for k, v in one.items()}) for one in data)


async def metric_types(
    client: HttpClient, metrics: Sequence[str] | None = None, *, path: str = "/api/v1/metadata"
) -> dict[str, str]:
    """``counter``, ``gauge``, ``histogram`` ... by metric name, as the targets declare it.

    A name of which targets say different things is left out, as one that nobody declares.

    Args:
        metrics: only these; None for all.
    """
    if metrics is not None and len(metrics) <= 5:
        replies = await asyncio.gather(
            *(client.request("GET", path, params={"metric": name}) for name in metrics)
        )
    else:
        replies = [await client.request("GET", path, max_bytes=_SERIES_BYTES)]
    found: dict[str, str] = {}
    for reply in replies:
        data = await asyncio.to_thread(_data, reply.body, path)
        for name, said in data.items() if isinstance(data, dict) else ():
            kinds = {str(one.get("type")) for one in said}
            if len(kinds) == 1 and (metrics is None or name in metrics):
                found[name] = kinds.pop()
    return found


@dataclass(frozen=True)
class _Config:
    external_labels: Mapping[str, str] = field(default_factory=dict)
    scrape_interval_ms: int | None = None
    scrape_intervals_ms: Mapping[str, int] = field(default_factory=dict)
    ooo_window_ms: int | None = None


async def _build(client: HttpClient, timeout_s: float) -> tuple[str, str]:
    try:
        reply = await client.request(
            "GET", "/api/v1/status/buildinfo", max_bytes=_MAX_BYTES, timeout_s=timeout_s
        )
    except Rejected:
        return "", ""
    try:
        data = _mapping(_data(reply.body, "buildinfo"))
    except Unavailable as error:  # a page for humans, as some gateways give for every path
        log.debug("a fact stays unknown: %s", error)
        return "", ""
    # VictoriaMetrics names a Prometheus version here, for Grafana's sake.
    product = "victoriametrics" if "x-server-hostname" in reply.headers else "prometheus"
    return str(data.get("version", "")), product


async def _flags(client: HttpClient, timeout_s: float) -> Mapping[str, Any]:
    return _mapping(await _optional(client, "/api/v1/status/flags", timeout_s))


async def _config(client: HttpClient, timeout_s: float) -> _Config | None:
    text = _mapping(await _optional(client, "/api/v1/status/config", timeout_s)).get("yaml")
    return await asyncio.to_thread(_parse_config, text) if isinstance(text, str) else None


def _parse_config(text: str) -> _Config | None:
    """What matters here of a server's own configuration; whatever is odd in it stays unknown.

    Every scalar stays the text that it is: a label value such as ``2024-13-45`` is no date.
    """
    try:
        whole = _mapping(yaml.load(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader)))  # noqa: S506
    except yaml.YAMLError:
        return None
    settings, storage = _mapping(whole.get("global")), _mapping(whole.get("storage"))
    jobs = whole.get("scrape_configs")
    intervals = {
        str(job.get("job_name")): _duration(job.get("scrape_interval"))
        for job in (jobs if isinstance(jobs, list) else [])
        if isinstance(job, dict)
    }
    return _Config(
        external_labels={
            str(name): str(value)
            for name, value in _mapping(settings.get("external_labels")).items()
        },
        scrape_interval_ms=_duration(settings.get("scrape_interval")),
        scrape_intervals_ms={job: ms for job, ms in intervals.items() if ms is not None},
        ooo_window_ms=_duration(_mapping(storage.get("tsdb")).get("out_of_order_time_window")),
    )


async def _reads(
    client: HttpClient, path: str, now_s: Callable[[], float], timeout_s: float
) -> tuple[bool | None, str]:
    now_ms = int(now_s() * 1000)
    body = snappy.compress(encode_read_request([ReadQuery(_NOTHING, now_ms - 1, now_ms)]))
    try:
        reply = await client.request(
            "POST",
            path,
            body=body,
            headers={
                "Content-Encoding": "snappy",
                "Content-Type": "application/x-protobuf",
                "Accept-Encoding": "snappy",
                "X-Prometheus-Remote-Read-Version": "0.1.0",
            },
            max_bytes=_MAX_BYTES,
            timeout_s=timeout_s,
        )
    except Rejected as error:
        return False, f"remote read does not work, the query API is used instead: {error}"
    except Unavailable as error:
        return None, f"remote read gave no answer: {error}"
    kind = reply.headers.get("content-type", "")
    if "protobuf" not in kind:
        return False, f"{client.settings.display_url}{path} answers {kind!r}, not remote read"
    return True, ""


async def _writes(client: HttpClient, path: str, timeout_s: float) -> tuple[bool | None, str]:
    try:
        await client.request(
            "POST",
            path,
            body=snappy.compress(b""),
            headers={
                "Content-Encoding": "snappy",
                "Content-Type": "application/x-protobuf",
                "X-Prometheus-Remote-Write-Version": "0.1.0",
            },
            timeout_s=timeout_s,
        )
    except Rejected as error:
        if receiver_is_off(error):
            return False, f"remote write is refused: {START_RECEIVER}"
        return False, f"remote write is refused: {error}"
    except Unavailable as error:
        return None, f"remote write gave no answer: {error}"
    return True, ""


async def _optional(client: HttpClient, path: str, timeout_s: float) -> Any:
    try:
        reply = await client.request("GET", path, max_bytes=_MAX_BYTES, timeout_s=timeout_s)
        return await asyncio.to_thread(_data, reply.body, path)
    except RemoteError as error:
        log.debug("a fact stays unknown: %s", error)
        return None


def _data(body: bytes, what: str) -> Any:
    """``data`` of an API answer."""
    try:
        return json.loads(body)["data"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        text = printable(body[:200].decode("utf-8", "replace"))
        raise Unavailable(f"{what}: not an answer of the query API: {text}") from error


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _duration(value: Any) -> int | None:
    if not isinstance(value, str):
        return None
    try:
        return parse_duration_ms(value)
    except ValueError:
        return None
