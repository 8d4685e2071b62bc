"""Asking the server: the only part of the check that does I/O."""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sidecar.check.expressions import refused
from sidecar.check.facts import ServerView, WatchView
from sidecar.check.findings import external_labels
from sidecar.check.writers import written_elsewhere
from sidecar.config import SentinelConfig, WatchConfig
from sidecar.cycle import SampleReader
from sidecar.errors import DataError, RemoteError, Unavailable
from sidecar.ingest.checks import scrape_interval_ms
from sidecar.ingest.counters import looks_like_counter
from sidecar.names import METRIC_NAME
from sidecar.remote.expressions import ExpressionReader
from sidecar.remote.http import HttpClient, open_session
from sidecar.remote.probe import (
    ServerFacts,
    metric_types,
    probe,
    probe_receiver,
)
from sidecar.remote.query_reader import QueryApiReader
from sidecar.remote.reader import RemoteReader
from sidecar.series import RawSeries

# Long enough to see a few scrapes of a slow target.
_REACH_MS: Final = 15 * 60_000
# A series that is scraped this seldom may have no sample in so much of the reach.
_SLACK_MS: Final = 5 * 60_000
_NAMES_BYTES: Final = 64 * 1024 * 1024


async def gather(config: SentinelConfig) -> tuple[ServerView, list[WatchView]]:
    """What the server says of itself and has for each watch; nothing is written.

    Returns:
        One view for each watch; none where series cannot be read at all.
    """
    async with open_session() as session:
        api = HttpClient(config.api_http(), session)
        read = HttpClient(config.read_http(), session)
        first, *others = (HttpClient(end.http, session) for end in config.write_ends())
        try:
            facts = await probe(
                api, read_path="", write_path="", read_client=read, write_client=first
            )
        except RemoteError as error:
            return ServerView(None, str(error)), []
        told = await asyncio.gather(*(probe_receiver(one) for one in others))
        views = [await _view(config, watch, facts, api, read) for watch in config.watches]
        return ServerView(facts, others=tuple(told)), views


async def _view(
    config: SentinelConfig,
    watch: WatchConfig,
    facts: ServerFacts,
    api: HttpClient,
    read: HttpClient,
) -> WatchView:
    by_remote = RemoteReader(read, path="", external_labels=external_labels(config, facts))
    by_query = QueryApiReader(api)
    served = facts.remote_read is True  # nobody waits here for it to come back
    plain = by_query if config.remote_read.by_query(served) else by_remote
    reader: SampleReader = plain
    if watch.expr:
        step_ms = watch.granularity_ms
        reader = ExpressionReader(by_query, watch.expr, watch.output_metric, step_ms)
    now_ms = int(time.time() * 1000)
    reach_ms = max(_REACH_MS, 3 * watch.granularity_ms)
    try:
        raw = await reader.read(watch.selector, now_ms - reach_ms, now_ms)
        kind = None if watch.expr else await _kind(api, watch.metric)
        known = frozenset() if raw else await _metric_names(api)
        store = Path(config.artifact_store)
        elsewhere = await written_elsewhere(watch, plain, store) if raw else None
    except RemoteError as error:
        return WatchView(trouble=refused(watch.expr, error) if watch.expr else str(error))
    except DataError as error:
        return WatchView(trouble=str(error))
    finally:
        await by_remote.close()
        await by_query.close()
    return WatchView(
        series=tuple(one.labels for one in raw),
        interval_ms=await asyncio.to_thread(scrape_interval_ms, raw),
        kind=kind,
        counter=not watch.expr
        and await asyncio.to_thread(looks_like_counter, watch.metric, raw, kind),
        known_names=known,
        histograms=by_remote.stats().histogram_series,
        elsewhere=elsewhere,
        young_ms=_young_ms(raw, now_ms, reach_ms),
    )


def _young_ms(raw: Sequence[RawSeries], now_ms: int, reach_ms: int) -> int | None:
    """The age of the oldest sample where it is well within reach; else the history is longer."""
    first_ms = min((int(one.timestamps_ms[0]) for one in raw if one.timestamps_ms.size), default=0)
    age_ms = now_ms - first_ms
    return age_ms if age_ms < reach_ms - _SLACK_MS else None


async def _kind(api: HttpClient, metric: str) -> str | None:
    """The metric's type; for a part of a histogram or summary that of the whole."""
    family = metric
    for part in ("_bucket", "_count", "_sum"):
        family = family.removesuffix(part)
    try:
        types = await metric_types(api, sorted({metric, family}))
    except RemoteError:  # VictoriaMetrics and others have no metadata
        return None
    return types.get(metric) or types.get(family)


async def _metric_names(api: HttpClient) -> frozenset[str]:
    path = f"/api/v1/label/{METRIC_NAME}/values"
    reply = await api.request("GET", path, max_bytes=_NAMES_BYTES)
    try:
        return frozenset(str(name) for name in json.loads(reply.body)["data"])
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable(f"{path}: not an answer of the query API: {error}") from error
