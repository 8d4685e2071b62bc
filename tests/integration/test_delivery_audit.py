"""Reading back what was acknowledged."""

import logging
import time
from random import Random

import numpy as np
import pytest

from sidecar.errors import Unavailable
from sidecar.remote.audit import Audit, AuditStats
from sidecar.remote.backoff import BackoffSettings
from sidecar.remote.http import HttpClient, HttpSettings
from sidecar.remote.query_reader import QueryApiReader
from sidecar.remote.reader import RemoteReader
from sidecar.remote.writer import RemoteWriter, WriteBlock
from tests.fakes import READ, Answer, FakePrometheus
from tests.prometheus import PrometheusBinary, RealPrometheus
from tests.writing import block, series, until_delivered

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("kind", [RemoteReader, QueryApiReader])
async def test_what_a_real_server_stored_is_verified(
    prometheus_binary: PrometheusBinary, kind: type[RemoteReader] | type[QueryApiReader]
) -> None:
    labels = series(50)
    async with RealPrometheus(prometheus_binary, external_labels={"region": "eu"}) as server:
        client = HttpClient(HttpSettings(server.url))
        writer = RemoteWriter(client, None)
        await writer.start()
        reader = kind(client, external_labels={"region": "eu"})
        at = int(time.time() * 1000)
        audit = Audit(writer, reader, now_ms=lambda: at, settle_ms=0, samples_each=7)
        values = np.random.default_rng(1).normal(size=50)
        await writer.append([WriteBlock(labels, at, values)])
        await until_delivered(writer)
        assert await audit.run() == AuditStats(7, 0, 0, at)
        await reader.close()
        await writer.stop()
        await client.close()


async def test_what_is_missing_or_another_number_is_counted_and_named_a_few_times(
    caplog: pytest.LogCaptureFixture,
) -> None:
    labels = series(20)
    async with FakePrometheus() as fake:
        client = HttpClient(HttpSettings(fake.url))
        writer = RemoteWriter(client, None)
        await writer.start()
        reader = RemoteReader(client, retry=BackoffSettings(base_s=0.01, attempts=2))
        now = at = int(time.time() * 1000)
        audit = Audit(writer, reader, now_ms=lambda: now, samples_each=20, random=Random(1))
        await writer.append([block(labels, at)])
        await until_delivered(writer)
        sent = [one.series[0][0] for one in fake.writes()]
        assert sent
        lost = 0
        for number, one in enumerate(labels):
            if number % 3 == 0:
                fake.stored[one].clear()
                lost += 1
            elif number % 3 == 1:
                fake.stored[one][at] += 1.0
        assert await audit.run() == AuditStats()  # not settled yet
        now += 30_000
        fake.give_always(READ, Answer(503))
        with pytest.raises(Unavailable):
            await audit.run()
        fake.give_always(READ, None)
        with caplog.at_level(logging.WARNING, "sidecar"):
            stats = await audit.run()
        total = stats.verified + stats.missing + stats.different
        assert total >= 8  # one request of each shard is remembered, or one of both
        assert stats.missing > 0
        assert stats.different > 0
        assert stats.newest_verified_ms == at
        assert len(caplog.records) <= 5
        assert (await audit.run()) == stats
        await writer.stop()
        await reader.close()
        await client.close()
