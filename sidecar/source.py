"""The server whose series are watched: how they are read, and what it told about itself.

Its external labels must be known before anything is read, since they are taken off what comes back;
so it is asked what it is until it answers.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from aiohttp import ClientSession

from sidecar.config import SentinelConfig, WatchConfig
from sidecar.errors import RemoteError
from sidecar.ingest.buffer import PushBuffer
from sidecar.ingest.checks import DEFAULT_LOOKBACK_DELTA_MS
from sidecar.pushed import PushReader, PushStats, spans
from sidecar.remote.backoff import BackoffSettings, delay_s
from sidecar.remote.expressions import ExpressionReader
from sidecar.remote.http import HttpClient
from sidecar.remote.probe import ServerFacts, external_labels, metric_types, probe
from sidecar.remote.query_reader import QueryApiReader
from sidecar.remote.reader import ReaderStats, RemoteReader
from sidecar.remote.settings import HttpSettings
from sidecar.remote.turns import ReadTurns
from sidecar.watches.past import SourceReader

log = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 60.0
_ASK_AGAIN: Final = BackoffSettings(base_s=1.0, cap_s=15.0)


class Source:
    """Where the watched series come from; nothing is sent until it is asked to learn or read.

    Attributes:
        settings: for whoever else asks its query API.
        reader: remote read.
        facts: what the server is; None until it has answered.
        trouble: why it has not.
        buffer: what it pushed, where it pushes.
        push_stats: how many reads the buffer could answer.
    """

    def __init__(self, config: SentinelConfig, session: ClientSession) -> None:
        self._config = config
        base = config.prometheus_url.rstrip("/")
        read = config.remote_read.settings(base + "/api/v1/read", config.scrape_timeout_s)
        self.settings: HttpSettings = replace(read, url=base)
        self._api = HttpClient(self.settings, session)
        self._read_client = HttpClient(read, session)
        turns = ReadTurns(config.remote_read.concurrent_limit)  # whichever way they go
        self.reader = RemoteReader(
            self._read_client, path="", verify_crc=config.remote_read.verify_crc, turns=turns
        )
        self._query_reader = QueryApiReader(self._api, turns=turns)
        self.facts: ServerFacts | None = None
        self.trouble = "Prometheus has not answered yet"
        self._kinds: dict[str, str | None] = {}
        self.buffer, self.push_stats = PushBuffer(), PushStats()
        self.follow(config.watches)

    async def learn(self, stopping: asyncio.Event, write_client: HttpClient) -> None:
        """Ask the server what it is until it answers, or until stopped."""
        url, failures = self._config.prometheus_url, 0
        while self.facts is None and not stopping.is_set():
            try:
                await self.ask(write_client)
            except RemoteError as error:
                failures += 1
                self.trouble = f"{url} does not answer: {error}"
                if failures == 1:
                    log.warning("%s; waiting for it", self.trouble)
                await _pause(stopping, delay_s(failures, _ASK_AGAIN))

    async def ask(self, write_client: HttpClient) -> None:
        """Ask the server once what it is.

        Raises:
            RemoteError: it does not answer.
        """
        facts = await probe(
            self._api,
            read_path="",
            write_path="",
            read_client=self._read_client,
            write_client=write_client,
        )
        url, chosen = self._config.prometheus_url, self._config.external_labels
        self._strip(facts.external_labels if chosen is None else chosen)
        self.facts = facts
        log.info(
            "%s is %s %s; external labels %s",
            url,
            facts.product or "a server",
            facts.version or "of unknown version",
            dict(self.reader.external_labels),
        )
        for problem in facts.problems:
            log.warning("%s: %s", url, problem)

    async def run(self) -> None:
        """Follow the server's external labels, for as long as it is awaited."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Learn of other external labels than before: each series would be a new one with them."""
        if self.facts is None or self._config.external_labels is not None:
            return
        labels = await external_labels(self._api)
        if labels is not None and labels != self.reader.external_labels:
            log.warning(
                "%s has other external labels now: %s", self._config.prometheus_url, dict(labels)
            )
            self._strip(labels)

    def _strip(self, labels: Mapping[str, str]) -> None:
        """Take these off whatever comes from the server, whichever way."""
        self.reader.external_labels = dict(labels)
        self.buffer.strip(labels)

    def follow(self, watches: Iterable[WatchConfig]) -> None:
        """Keep of what is pushed the series that these watches select."""
        self.buffer.follow(spans(watches))

    # What the watches ask

    def now_ms(self) -> int:
        """The earlier of our clock and the server's: it has no sample yet of what is still to come.

        Where they may agree (its replies tell whole seconds) ours.
        """
        own_s = time.time()
        for client in (self._read_client, self._api):
            ahead_s = client.server_clock.skew_s(own_s)
            if ahead_s is not None:
                return int((own_s - max(0.0, ahead_s)) * 1000)
        return int(own_s * 1000)

    def reader_for(self, watch: WatchConfig) -> SourceReader:
        """Remote read; the query API for expressions, and for servers without remote read."""
        if watch.expr:
            return ExpressionReader(
                self._query_reader, watch.expr, watch.output_metric, watch.granularity_ms
            )
        served = None if self.facts is None else self.facts.remote_read
        by_query = self._config.remote_read.by_query(served)
        reader = self._query_reader if by_query else self.reader
        if self._config.receive_remote_write:
            return PushReader(self.buffer, reader, self.push_stats)
        return reader

    def lookback_delta_ms(self) -> int:
        known = None if self.facts is None else self.facts.lookback_ms
        return DEFAULT_LOOKBACK_DELTA_MS if known is None else known

    async def kind_of(self, metric: str) -> str | None:
        """The type that the server's metadata gives a metric; None where it has or tells none."""
        if metric not in self._kinds:
            try:
                self._kinds[metric] = (await metric_types(self._api, [metric])).get(metric)
            except RemoteError as error:
                log.info("the type of %s is not known (%s); its values decide", metric, error)
                return None
        return self._kinds[metric]

    # For the rest of the house

    def not_receiving(self) -> str:
        """Why nothing that is pushed can be taken; empty once it can."""
        return "the server's external labels are not known yet" if self.facts is None else ""

    def stats(self) -> Sequence[ReaderStats]:
        return [self.reader.stats(), self._query_reader.stats()]

    async def close(self) -> None:
        await self.reader.close()
        await self._query_reader.close()


async def _pause(stopping: asyncio.Event, seconds: float) -> None:
    """Sleep, but not beyond a request to stop."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)
