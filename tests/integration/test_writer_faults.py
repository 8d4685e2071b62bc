"""What the writer does about everything a receiver and a network can do to it.

Against the fake Prometheus, which keeps the real one's rules: a sample that would harm it is in
``refusals``. Time runs faster where a back-off or an outage has to pass.
"""

import asyncio
import logging
import math
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from sidecar.names import DropReason, Refusal
from sidecar.remote.http import BasicAuth, HttpClient, HttpSettings, Secret
from sidecar.remote.writer import RemoteWriter, WriteBlock, WriterState
from sidecar.series import LabelSet
from tests.fakes import (
    WRITE,
    Answer,
    Endless,
    FakePrometheus,
    FastTime,
    Hang,
    ResetAfter,
    ResetBefore,
    Slowly,
    Trouble,
    silent_port,
)
from tests.prometheus import free_port
from tests.writing import (
    assert_balanced,
    assert_stored,
    assert_well_behaved,
    block,
    series,
    until,
    until_delivered,
    writing,
)

pytestmark = pytest.mark.integration


TRANSIENT = [
    Answer(500),
    Answer(502),
    Answer(503, b"Service Unavailable"),
    Answer(429, headers={"Retry-After": "1"}),
    Answer(503, headers={"Retry-After": "garbage"}),
    Answer(408),
    ResetBefore(),
    ResetAfter(),
    Hang(),
    Answer(500, b"x" * 1_000_000),
    Answer(503, bytes(range(256))),
]


@pytest.mark.parametrize("trouble", TRANSIENT, ids=lambda t: repr(t)[:40])
async def test_what_may_pass_is_sent_again_with_the_same_bytes(trouble: Any) -> None:
    time, labels = FastTime(100), series(30)
    async with FakePrometheus(now_s=time.true_s) as fake:
        async with writing(fake.url, time, shards=1, timeout_s=0.3) as writer:
            await writer.append([block(labels, at := time.now_ms())])
            await until_delivered(writer)
            later = time.now_ms()
            fake.give(WRITE, *[trouble] * 3)
            await writer.append([block(labels, later)])
            await until_delivered(writer)
        assert_stored(fake, labels, at, later)
        attempts = [one for one in fake.writes() if one.series[0][1] == later]
        assert len(attempts) == 4
        assert len({one.raw for one in attempts}) == 1
        assert fake.refusals == []
        assert_balanced(writer.stats())
        assert writer.stats().retried == 3 * 30


@pytest.mark.parametrize("asked", ["2", "Thu, 01 Jan 1970 00:00:00 GMT", "1e9", "999999999", "x"])
async def test_retry_after_is_honoured_within_reason(asked: str) -> None:
    time, labels = FastTime(200), series(1)
    async with FakePrometheus(now_s=time.true_s) as fake:
        async with writing(fake.url, time, draw=lambda: 0.01) as writer:
            await until(lambda: True)
            fake.give(WRITE, Answer(204), Answer(429, headers={"Retry-After": asked}))
            await writer.append([block(labels, time.now_ms())])
            await until_delivered(writer)
        first, second = [one.at for one in fake.writes()]
    waited = (second - first) * time.factor
    wanted = {"2": 2.0, "999999999": 300.0}.get(asked, 0.0)
    assert wanted <= waited < wanted + 0.5 * time.factor  # half a second of real time to spare


# Bad data


@pytest.mark.parametrize("bad", [0, 1, 999, 1000, 1998, 1999])
@pytest.mark.parametrize("status", [400, 500])
async def test_one_poisoned_series_among_2000_costs_few_requests_and_no_other_series(
    bad: int, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    # Slowly where nothing has to be waited for: its minute in quarantine must not be over too soon.
    time, labels = FastTime(10 if status == 400 else 50), series(2000)
    async with FakePrometheus(now_s=time.true_s) as fake:
        name = "poisoned" if status == 400 else "poisoned_500"
        setattr(fake, name, lambda one: one == labels[bad])
        async with writing(fake.url, time, shards=1) as writer:
            with caplog.at_level(logging.WARNING):
                await writer.append([block(labels, at := time.now_ms())])
                await until_delivered(writer)
            good = [one for one in labels if one != labels[bad]]
            assert_stored(fake, good, at)
            if status == 400:
                assert len(fake.writes()) - 1 <= 2 * math.log2(2000)
            else:  # five attempts before it is suspected, then both halves of each cut
                assert len(fake.writes()) - 5 <= 2 * math.ceil(math.log2(2000))
            stats = writer.stats()
            assert writer.quarantined() == (labels[bad],)
            assert stats.dropped == {DropReason.REJECTED: 1}
            assert_balanced(stats)
            before = len(fake.writes())
            refused = (await writer.append([block(labels, time.now_ms())])).refused
            assert refused == {Refusal.QUARANTINED: 1}
            await until_delivered(writer)
            assert len(fake.writes()) == before + 1
    said = [one.getMessage() for one in caplog.records]
    assert len(said) <= 3
    assert sum("left out for 60 s" in one and str(labels[bad]) in one for one in said) == 1


async def test_a_series_in_quarantine_is_tried_again_and_let_in_when_it_is_mended() -> None:
    time, labels = FastTime(100), series(8)
    async with FakePrometheus(now_s=time.true_s) as fake:
        fake.poisoned = lambda one: one == labels[3]
        async with writing(fake.url, time, shards=1) as writer:
            await writer.append([block(labels, time.now_ms())])
            await until_delivered(writer)
            await time.sleep(61)
            await writer.append([block(labels, time.now_ms())])
            await until_delivered(writer)
            assert writer.quarantined() == (labels[3],)
            await time.sleep(61)
            assert writer.quarantined() == (labels[3],)  # its second pause is longer
            await time.sleep(60)
            fake.poisoned = lambda one: False
            await writer.append([block(labels, at := time.now_ms())])
            await until_delivered(writer)
            assert at in fake.stored[labels[3]]
            assert writer.quarantined() == ()


async def test_a_quarantine_survives_a_restart(tmp_path: Any) -> None:
    labels = series(8)
    async with FakePrometheus() as fake:
        fake.poisoned = lambda one: one == labels[3]
        async with writing(fake.url, spool=tmp_path / "s", shards=1) as writer:
            await writer.append([block(labels, FastTime().now_ms())])
            await until_delivered(writer)
        async with writing(fake.url, spool=tmp_path / "s", shards=1) as writer:
            assert writer.quarantined() == (labels[3],)


async def test_a_refusal_that_was_a_passing_whim_puts_nobody_into_quarantine() -> None:
    time, labels = FastTime(), series(64)
    async with FakePrometheus(now_s=time.true_s) as fake:
        async with writing(fake.url, time, shards=1) as writer:
            fake.give(WRITE, Answer(204), Answer(400, b"a whim"))
            await writer.append([block(labels, at := time.now_ms())])
            await until_delivered(writer)
            assert writer.quarantined() == ()
            assert writer.stats().dropped == {}
        assert_stored(fake, labels, at)


async def test_several_poisoned_series_are_all_found() -> None:
    time, labels = FastTime(), series(2000)
    bad = {labels[i] for i in (3, 4, 700, 701, 1500, 1999)}
    async with FakePrometheus(now_s=time.true_s) as fake:
        fake.poisoned = lambda one: one in bad
        async with writing(fake.url, time, shards=1) as writer:
            await writer.append([block(labels, at := time.now_ms())])
            await until_delivered(writer)
            assert set(writer.quarantined()) == bad
        assert_stored(fake, [one for one in labels if one not in bad], at)
        assert len(fake.writes()) <= 6 * (math.log2(2000) + 3)


async def test_a_receiver_that_refuses_everything_is_not_flooded_with_requests_or_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    time, labels = FastTime(100), series(2000)
    async with FakePrometheus(now_s=time.true_s) as fake:
        fake.poisoned = lambda one: True  # as where a second sidecar was faster
        async with writing(fake.url, time, shards=1) as writer:
            with caplog.at_level(logging.INFO, "sidecar"):
                for _ in range(30):
                    await writer.append([block(labels, time.now_ms())])
                    await until_delivered(writer)
                    await time.sleep(1)
            stats = writer.stats()
        assert fake.count() == 0
        pauses = 2 + int(time.monotonic_s() // 60).bit_length()
        assert len(fake.writes()) < 32 + pauses * 16 + 30
        assert len(caplog.records) < 3 + 4 * pauses
        assert stats.pending == 0
        assert stats.dropped[DropReason.REJECTED] > 50_000
        assert_balanced(stats)


async def test_an_outage_by_500_puts_nobody_into_quarantine() -> None:
    time, labels = FastTime(300), series(100)
    async with FakePrometheus(now_s=time.true_s) as fake:
        fake.poisoned_500 = lambda one: True  # samples fail, empty requests go through
        async with writing(fake.url, time, shards=1) as writer:
            await writer.append([block(labels, at := time.now_ms())])
            await time.sleep(900)
            assert writer.quarantined() == ()
            fake.poisoned_500 = lambda one: False
            await until_delivered(writer)
            assert writer.stats().sent == 100
        assert_stored(fake, labels, at)


# Client errors


@pytest.mark.parametrize("status", [401, 403, 404, 405, 407, 301, 415])
async def test_a_refusal_of_us_holds_everything_until_it_is_mended(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    time, labels = FastTime(100), series(10)
    headers = {"Location": "/elsewhere"} if status == 301 else {}
    async with FakePrometheus(now_s=time.true_s) as fake:
        async with writing(fake.url, time, shards=1) as writer:
            await writer.append([block(labels, first := time.now_ms())])
            await until_delivered(writer)
            fake.give_always(WRITE, Answer(status, b"who are you", headers))
            with caplog.at_level(logging.ERROR):
                await writer.append([block(labels, second := time.now_ms())])
                await until(lambda: writer.state is WriterState.HELD)
                assert "refuses us, predictions wait in the spool" in writer.trouble
                await time.sleep(120)
                await writer.append([block(labels, third := time.now_ms())])
                await time.sleep(60)
            sent = [one for one in fake.writes() if one.series[0][1] >= second]
            assert len(sent) == 1, "a client error is not retried"
            assert 2 <= len(fake.writes(empty=True)) <= 40
            assert writer.stats().pending == 20
            fake.give_always(WRITE, None)
            await until_delivered(writer)
            assert (writer.state, writer.trouble) == (WriterState.OK, "")
        assert_stored(fake, labels, first, second, third)
        assert_well_behaved(fake, shards=1)
    said = [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]
    assert len(said) == 1
    assert "refuses us" in said[0]


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_with_drop_a_request_refused_for_who_we_are_is_counted_and_gone(status: int) -> None:
    time, labels = FastTime(), series(10)
    async with FakePrometheus(now_s=time.true_s) as fake:
        fake.give_always(WRITE, Answer(status))
        async with writing(fake.url, time, shards=1, on_client_error="drop") as writer:
            await writer.append([block(labels, time.now_ms())])
            await until_delivered(writer)
            stats = writer.stats()
        assert len(fake.writes()) == 1
        assert stats.dropped == {DropReason.CLIENT_ERROR: 10}
        assert_balanced(stats)


async def test_a_receiver_that_is_off_is_told_with_the_flag_that_turns_it_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Prometheus' own words name a flag that newer ones refuse."""
    words = b"remote write receiver needs to be enabled with --enable-feature=remote-write-receiver"
    time = FastTime(100)
    async with FakePrometheus(now_s=time.true_s) as fake:
        fake.give_always(WRITE, Answer(404, words))
        with caplog.at_level(logging.ERROR):
            async with writing(fake.url, time, shards=1) as writer:
                await writer.append([block(series(1), time.now_ms())])
                await until(lambda: writer.state is WriterState.HELD)
                await time.sleep(60)
    [said] = [one.message for one in caplog.records if "refuses us" in one.message]
    assert "start Prometheus with --web.enable-remote-write-receiver" in said


async def test_a_client_error_for_one_request_only_does_not_hold_the_others_for_ever() -> None:
    """As from a firewall that does not like a label: empty requests pass, this one never does."""
    time, labels = FastTime(200), series(16)
    async with FakePrometheus(now_s=time.true_s) as fake:
        fake.forbidden = lambda one: one == labels[5]
        async with writing(fake.url, time, shards=1) as writer:
            await writer.append([block(labels, at := time.now_ms())])
            await until_delivered(writer)
            assert writer.quarantined() == (labels[5],)
        assert_stored(fake, [one for one in labels if one != labels[5]], at)


async def test_a_request_too_large_is_halved_and_the_limit_is_remembered() -> None:
    time, labels = FastTime(), series(1000)
    async with FakePrometheus(now_s=time.true_s) as fake:
        fake.max_body = 3000
        async with writing(fake.url, time, shards=1) as writer:
            await writer.append([block(labels, first := time.now_ms())])
            await until_delivered(writer)
            refused = sum(one.status == 413 for one in fake.writes())
            assert refused <= 4
            await asyncio.sleep(0.02)
            await writer.append([block(labels, second := time.now_ms())])
            await until_delivered(writer)
            assert sum(one.status == 413 for one in fake.writes()) == refused
            assert writer.stats().dropped == {}
        assert_stored(fake, labels, first, second)


async def test_a_single_series_too_large_for_the_receiver_is_dropped_and_counted() -> None:
    time = FastTime()
    noise = "".join(map(chr, np.random.default_rng(1).integers(0x4E00, 0x9000, 4000)))
    labels = (LabelSet.of({"__name__": "x", "noise": noise}), *series(3))
    async with FakePrometheus(now_s=time.true_s) as fake:
        fake.max_body = 2000
        async with writing(fake.url, time, shards=1) as writer:
            await writer.append([block(labels, at := time.now_ms())])
            await until_delivered(writer)
            assert writer.stats().dropped == {DropReason.TOO_LARGE: 1}
        assert_stored(fake, labels[1:], at)


# Redirects


async def test_no_other_host_is_told_anything() -> None:
    time, labels = FastTime(100), series(2)
    async with FakePrometheus() as thief, FakePrometheus(now_s=time.true_s) as fake:
        target = f"{thief.url}{WRITE}"
        fake.give_always(WRITE, Answer(307, headers={"Location": target}))
        client = HttpClient(
            HttpSettings(fake.url, basic_auth=BasicAuth("user", Secret("canary"))),
            monotonic=time.monotonic_s,
        )
        writer = RemoteWriter(
            client, None, now_s=time.now_s, monotonic_s=time.monotonic_s, sleep=time.sleep
        )
        await writer.start()
        await writer.append([block(labels, time.now_ms())])
        await until(lambda: writer.state is WriterState.HELD)
        assert "another host" in writer.stats().last_error
        assert "canary" not in writer.stats().last_error
        await writer.stop(0)
        await client.close()
        assert thief.seen == []


async def test_a_redirect_on_the_same_host_that_keeps_the_method_is_followed() -> None:
    time, labels = FastTime(), series(2)
    async with FakePrometheus(now_s=time.true_s) as fake:
        fake.give_always("/old", Answer(308, headers={"Location": WRITE}))
        async with writing(fake.url, time, path="/old") as writer:
            await writer.append([block(labels, at := time.now_ms())])
            await until_delivered(writer)
        assert_stored(fake, labels, at)


# No receiver, and a strange one


async def test_a_receiver_that_is_not_there_yet_gets_everything_when_it_comes() -> None:
    time, labels, port = FastTime(50), series(20), free_port()
    stamps = []
    async with writing(f"http://127.0.0.1:{port}", time) as writer:
        for _ in range(5):
            stamps.append(time.now_ms())
            assert (await writer.append([block(labels, stamps[-1])])).accepted == 20
            await time.sleep(5)
        assert writer.state is WriterState.CONNECTING
        async with FakePrometheus(now_s=time.true_s, port=port) as fake:
            await until_delivered(writer)
            assert_stored(fake, labels, *stamps)
            assert_well_behaved(fake)


async def test_a_name_that_does_not_resolve_and_a_port_that_is_silent_are_waited_for() -> None:
    time, labels = FastTime(20), series(1)
    async with silent_port() as port:
        for url in ("http://no-such-host.invalid:9", f"http://127.0.0.1:{port}"):
            async with writing(url, time, timeout_s=0.2) as writer:
                await writer.append([block(labels, time.now_ms())])
                await asyncio.sleep(0.5)
                stats = writer.stats()
            assert stats.pending == 1
            assert stats.requests.get("none", 0) >= 1


async def test_a_success_is_one_whatever_its_body_is() -> None:
    time, labels = FastTime(), series(2)
    async with FakePrometheus(now_s=time.true_s) as fake:
        async with writing(fake.url, time, shards=1, timeout_s=2.0) as writer:
            await writer.append([block(labels, time.now_ms())])
            await until_delivered(writer)
            fake.give(WRITE, Endless())
            await asyncio.sleep(0.01)
            await writer.append([block(labels, time.now_ms())])
            await until_delivered(writer)
            assert writer.stats().sent == 4
        assert len(fake.writes()) == 2


async def test_garbage_with_a_status_is_judged_by_the_status_and_logged_in_one_clean_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    time, labels = FastTime(), series(1)
    async with FakePrometheus(now_s=time.true_s) as fake:
        fake.give(WRITE, Answer(204), Answer(400, b"\x1b[2Jbad\r\nsample\x00" + b"y" * 10**6))
        with caplog.at_level(logging.WARNING):
            async with writing(fake.url, time) as writer:
                await writer.append([block(labels, time.now_ms())])
                await until_delivered(writer)
    [said] = [one.getMessage() for one in caplog.records if "left out" in one.getMessage()]
    assert said.isprintable()
    assert "\\x1b[2Jbad sample" in said
    assert len(said) < 800


async def test_a_slow_receiver_delays_no_other() -> None:
    time, labels = FastTime(), series(50)
    async with FakePrometheus(now_s=time.true_s) as slow, FakePrometheus(now_s=time.true_s) as fast:
        slow.give_always(WRITE, Hang(60))
        async with writing(slow.url, time) as one, writing(fast.url, time) as other:
            for _ in range(5):
                at = block(labels, time.now_ms())
                async with asyncio.timeout(15):  # the other hangs for 60 s
                    await asyncio.gather(one.append([at]), other.append([at]))
                    await until_delivered(other)
                await asyncio.sleep(0.01)
            assert one.stats().pending == 250
        assert fast.count() == 250


async def test_nothing_but_numbers_newer_than_the_last_ever_leaves() -> None:
    time, labels = FastTime(), series(4)
    async with FakePrometheus(now_s=time.true_s) as fake:
        async with writing(fake.url, time) as writer:
            at = time.now_ms()
            values = np.array([np.nan, np.inf, -np.inf, 1e308])
            found = await writer.append([WriteBlock(labels, at, values)])
            assert (found.accepted, found.refused) == (1, {Refusal.NON_FINITE: 3})
            again = await writer.append([WriteBlock(labels, at, np.zeros(4))])
            assert (again.accepted, again.refused) == (3, {Refusal.NOT_NEWER: 1})
            await until_delivered(writer)
        assert_well_behaved(fake)
        assert fake.stored[labels[3]] == {at: 1e308}


@pytest.mark.parametrize("seed", range(3))
async def test_a_storm_of_troubles_of_every_kind_loses_and_disorders_nothing(
    seed: int, tmp_path: Path
) -> None:
    time, labels, dice = FastTime(200), series(300), Random(seed)
    kinds: list[Trouble] = [
        Answer(503, headers={"Retry-After": "3"}),
        Answer(429, headers={"Retry-After": "soon"}),
        Answer(500),
        Answer(502, b"<html>bad gateway"),
        ResetBefore(),
        ResetAfter(),
        Hang(0.05),
        Slowly(0.02),
        Answer(401),
        Answer(404, b"remote write receiver needs to be enabled"),
    ]
    stamps = []
    async with FakePrometheus(now_s=time.true_s) as fake:
        async with writing(fake.url, time, spool=tmp_path / "s", timeout_s=1.0) as writer:
            for _ in range(40):
                fake.give(WRITE, *dice.choices(kinds, k=dice.randrange(3)))
                stamps.append(time.now_ms())
                parts = [labels[i::3] for i in range(3)]
                await asyncio.gather(*(writer.append([block(p, stamps[-1])]) for p in parts))
                await time.sleep(2)
            await until_delivered(writer, 60)
            assert writer.stats().dropped == {}
        assert_stored(fake, labels, *stamps)
        assert_well_behaved(fake)
