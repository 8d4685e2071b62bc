"""How fast bytes become arrays and arrays bytes, against what one would write first."""

import asyncio
import io
import json
import statistics
import sys
import time
from argparse import Namespace, _ArgumentGroup
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from sidecar.remote.http import HttpClient, HttpSettings
from sidecar.remote.reader import RemoteReader
from sidecar.series import LabelSet, RawSeries, Selector
from sidecar.wire import snappy
from sidecar.wire.crc import crc32c
from sidecar.wire.read_replies import encode_read_response_samples
from sidecar.wire.remote_pb2 import ReadResponse, WriteRequest
from sidecar.wire.requests import ReadQuery
from sidecar.wire.samples import decode_samples
from sidecar.wire.template import WriteTemplate
from sidecar.wire.types_pb2 import Label, Sample, TimeSeries
from sidecar.wire.varint import read_delimited
from sidecar.wire.xor_decoder import XorDecoder
from sidecar.wire.xor_encoder import encode_xor_chunk
from sidecar.wire.xor_scalar import decode_xor_chunk
from tests.bench import Figure, Rounds, Skipped, cpu_rate, figures, row
from tests.bench._read_clients import CLIENTS
from tests.prometheus import RealPrometheus, prometheus_binaries

WRITE_HEADERS: Final = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}
START_MS: Final = 1_700_000_000_000
STEP_MS: Final = 15_000
CHUNK_SAMPLES: Final = 120
MILLION: Final = 1e6


def add_arguments(parser: _ArgumentGroup) -> None:
    parser.add_argument(
        "--series", type=int, default=1000, help="of read_xor_end_to_end (default 1000)"
    )
    parser.add_argument(
        "--samples", type=int, default=5760, help="a series, 15 s apart (default 5760: one day)"
    )


def labels_of(number: int) -> LabelSet:
    return LabelSet.of(
        {
            "__name__": "bench_seconds",
            "env": "production",
            "instance": f"10.0.{number // 250}.{number % 250}:9100",
            "job": "api",
            "kind": str(number % 8),
            "zone": "eu-west-1a",
        }
    )


def make_series(number: int, size: int, start_ms: int = START_MS) -> RawSeries:
    """One of eight kinds that a server usually holds; half of them scraped with jitter."""
    rng = np.random.default_rng(number)
    place = np.arange(size)
    times = start_ms + STEP_MS * place + (rng.integers(-3, 4, size) if number % 2 else 0)
    daily = np.sin(place / 200)
    values = (
        50 + 10 * daily + rng.normal(size=size),
        100 * daily + rng.normal(size=size),
        np.cumsum(rng.integers(0, 50, size)),
        np.cumsum(rng.random(size)),
        np.ones(size),
        rng.integers(0, 100, size) * 2.0**20,
        np.round(rng.normal(size=size), 2),
        np.where(rng.random(size) < 0.9, 0, rng.integers(0, 5, size)),
    )[number % 8]
    return RawSeries(labels_of(number), times.astype(np.int64), np.asarray(values, np.float64))


def make_chunks(count: int) -> list[bytes]:
    made = (make_series(number, CHUNK_SAMPLES) for number in range(count))
    return [encode_xor_chunk(one.timestamps_ms, one.values) for one in made]


@row("decode_xor", unit="M samples/s cpu", reference="pure Python")
def decode_xor(options: Namespace) -> Rounds:
    chunks = make_chunks(4096)
    few = chunks[:256]
    decoder = XorDecoder()
    return Rounds(
        cpu_rate(len(chunks) * CHUNK_SAMPLES / MILLION, lambda: decoder.decode(chunks)),
        cpu_rate(
            len(few) * CHUNK_SAMPLES / MILLION, lambda: [decode_xor_chunk(one) for one in few]
        ),
    )


@row("decode_xor_one_series", unit="M samples/s cpu", reference="pure Python")
def decode_xor_one_series(options: Namespace) -> Rounds:
    chunks = make_chunks(144)
    decoder = XorDecoder()
    amount = len(chunks) * CHUNK_SAMPLES / MILLION
    return Rounds(
        cpu_rate(amount, lambda: decoder.decode(chunks)),
        cpu_rate(amount, lambda: [decode_xor_chunk(one) for one in chunks]),
    )


def sampled_reply(kinds: Callable[[int], bool]) -> tuple[bytes, float]:
    """A ReadResponse as a server writes it (zeros left out), and its millions of samples.

    Series of a day, as in ``read_xor_end_to_end``; each costs some 20 us beside its samples.
    """
    series = [make_series(n, 5760) for n in range(104) if kinds(n % 8)]
    plain = ReadResponse.FromString(encode_read_response_samples([series]))
    return plain.SerializeToString(), sum(len(one.values) for one in series) / MILLION


def by_attributes(body: bytes) -> list[tuple[list[int], list[float]]]:
    """What one would write first: the protobuf classes, sample by sample."""
    return [
        ([one.timestamp for one in series.samples], [one.value for one in series.samples])
        for result in ReadResponse.FromString(body).results
        for series in result.timeseries
    ]


@row("decode_samples", unit="M samples/s cpu", reference="protobuf loop")
def decode_samples_row(options: Namespace) -> Rounds:
    """Series without a value of zero, which the wire leaves out."""
    return _samples_rounds(lambda kind: kind in (0, 1, 3, 4))


@row("decode_samples_mixed", unit="M samples/s cpu", reference="protobuf loop")
def decode_samples_mixed(options: Namespace) -> Rounds:
    """Such series beside others that are zero now and then."""
    return _samples_rounds(lambda kind: kind != 7)


@row("decode_samples_zeros", unit="M samples/s cpu", reference="protobuf loop")
def decode_samples_zeros(options: Namespace) -> Rounds:
    """Series that are zero nine times in ten."""
    return _samples_rounds(lambda kind: kind == 7)


def _samples_rounds(kinds: Callable[[int], bool]) -> Rounds:
    body, amount = sampled_reply(kinds)
    return Rounds(
        cpu_rate(amount, lambda: decode_samples(body)),
        cpu_rate(amount, lambda: by_attributes(body)),
    )


@row("encode_template", unit="M samples/s cpu", reference="protobuf objects")
def encode_template(options: Namespace) -> Rounds:
    labels = [labels_of(number) for number in range(2000)]
    values = np.random.default_rng(0).normal(size=len(labels))
    template = WriteTemplate(labels)
    amount = len(labels) / MILLION

    def by_objects() -> bytes:
        return WriteRequest(
            timeseries=[
                TimeSeries(
                    labels=[Label(name=name, value=text) for name, text in one.pairs],
                    samples=[Sample(value=value, timestamp=START_MS)],
                )
                for one, value in zip(labels, values.tolist(), strict=True)
            ]
        ).SerializeToString()

    def many() -> None:
        for _ in range(50):
            template.encode(START_MS, values)

    return Rounds(cpu_rate(50 * amount, many), cpu_rate(amount, by_objects))


@row("crc32c", unit="GB/s cpu", reference="decode_xor, the same bytes")
def crc32c_row(options: Namespace) -> Rounds:
    chunks = make_chunks(4096)
    frames = [b"".join(chunks[start : start + 48]) for start in range(0, len(chunks), 48)]
    decoder = XorDecoder()
    amount = sum(map(len, chunks)) / 1e9
    return Rounds(
        cpu_rate(amount, lambda: [crc32c(frame) for frame in frames]),
        cpu_rate(amount, lambda: decoder.decode(chunks)),
    )


@figures("read_xor_end_to_end")
def read_xor_end_to_end(options: Namespace) -> Iterator[Figure]:
    """Both clients in turn, against one server that holds ``--series`` x ``--samples``."""
    if not prometheus_binaries():
        raise Skipped("no prometheus on the path")
    amount = options.series * options.samples / MILLION
    rates: dict[str, list[float]] = {kind: [] for kind in CLIENTS}

    async def measure() -> list[Figure]:
        async with RealPrometheus(prometheus_binaries()[0]) as server:
            query = await fill(server, options.series, options.samples)
            for turn in range(1 + options.rounds):
                for kind, client in CLIENTS.items():
                    start = time.perf_counter()
                    found = await client(server.url, query)
                    elapsed = time.perf_counter() - start
                    assert sum(len(one.values) for one in found) == round(amount * MILLION)
                    del found
                    if turn:
                        rates[kind].append(amount / elapsed)
            rows = [_end_to_end(name, rates[kind], rates["protobuf"]) for kind, name in READS]
            return [*rows, *[await peak(server, query, kind) for kind in CLIENTS]]

    yield from asyncio.run(measure())


@figures("read_many_watches")
def read_many_watches(options: Namespace) -> Iterator[Figure]:
    """What the newest samples of many watches cost that are due at once: shared requests or not."""
    if not prometheus_binaries():
        raise Skipped("no prometheus on the path")
    shares = {"shared": 100, "alone": 1}
    seconds: dict[str, list[float]] = {name: [] for name in shares}
    requests: dict[str, int] = {}

    async def measure() -> None:
        async with RealPrometheus(prometheus_binaries()[0]) as server:
            selectors = await fill_watches(server)
            end_ms = int(time.time() * 1000)
            for turn in range(1 + options.rounds):
                for name, share in shares.items():
                    client = HttpClient(HttpSettings(server.url))
                    reader = RemoteReader(client, share=share)
                    start = time.perf_counter()
                    found = await asyncio.gather(
                        *(reader.read(one, end_ms - 120_000, end_ms) for one in selectors)
                    )
                    elapsed = time.perf_counter() - start
                    assert all(len(one) == WATCH_SERIES for one in found)
                    requests[name] = sum(reader.stats().requests.values())
                    await reader.close()
                    await client.close()
                    if turn:
                        seconds[name].append(elapsed)

    asyncio.run(measure())
    shared, alone = seconds["shared"], seconds["alone"]
    yield Figure(
        "read_many_watches",
        statistics.median(shared),
        f"s wall for {WATCHES} watches",
        "each by itself",
        statistics.median(a / b for a, b in zip(shared, alone, strict=True)),
        min(shared),
        max(shared),
    )
    yield Figure(
        "read_many_watches_requests",
        requests["shared"],
        "requests",
        "each by itself",
        requests["shared"] / requests["alone"],
    )


WATCHES: Final = 500
WATCH_SERIES: Final = 4


async def fill_watches(server: RealPrometheus) -> list[Selector]:
    """Two minutes of every watch's series, up to now; what selects each."""
    times = int(time.time()) * 1000 - STEP_MS * np.arange(8, 0, -1, dtype=np.int64)
    names = [f"bench_{watch}" for watch in range(WATCHES)]
    labels = [
        LabelSet.of({"__name__": name, "instance": f"10.0.0.{n}:9100", "job": "api"})
        for name in names
        for n in range(WATCH_SERIES)
    ]
    await push(server, [RawSeries(one, times, times % 1000 / 7) for one in labels])
    return [Selector.of(name) for name in names]


READS: Final = (("chunks", "read_xor_end_to_end"), ("reader", "read_reader_end_to_end"))


def _end_to_end(name: str, ours: Sequence[float], plain: Sequence[float]) -> Figure:
    return Figure(
        name,
        statistics.median(ours),
        "M samples/s wall",
        "SAMPLES, protobuf loop",
        statistics.median(a / b for a, b in zip(ours, plain, strict=True)),
        min(ours),
        max(ours),
    )


async def fill(server: RealPrometheus, series: int, samples: int) -> ReadQuery:
    """Write the history of all series, half an hour at a time, the newest five minutes ago."""
    end_ms = int(time.time()) * 1000 - 300_000
    start_ms = end_ms - samples * STEP_MS
    made = [make_series(number, samples, start_ms) for number in range(series)]
    for at in range(0, samples, CHUNK_SAMPLES):
        part = slice(at, at + CHUNK_SAMPLES)
        some = [RawSeries(one.labels, one.timestamps_ms[part], one.values[part]) for one in made]
        await push(server, some)
    return ReadQuery(Selector.of("bench_seconds"), start_ms - STEP_MS, end_ms + STEP_MS)


async def push(server: RealPrometheus, series: Sequence[RawSeries]) -> None:
    """One request, samples in order."""
    # A QueryResult and a WriteRequest are made alike; the former is what a reply wraps.
    reply = encode_read_response_samples([series])
    start, end = read_delimited(reply, 1, len(reply))
    body = snappy.compress(reply[start:end])
    url = f"{server.url}/api/v1/write"
    async with server.session.post(url, data=io.BytesIO(body), headers=WRITE_HEADERS) as answer:
        assert answer.status == 204, await answer.text()


async def peak(server: RealPrometheus, query: ReadQuery, kind: str) -> Figure:
    """What one read adds to the memory of a fresh process, in bytes for each byte of arrays."""
    name = query.selector.matchers[0].value
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *["-m", "tests.bench._read_clients", kind, server.url, name],
        *[str(query.start_ms), str(query.end_ms)],
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await child.communicate()
    assert child.returncode == 0
    found = json.loads(output)
    ratio = found["peak_bytes"] / found["array_bytes"]
    value = found["peak_bytes"] / MILLION
    return Figure(f"read_peak_memory_{kind}", value, "MB", "the arrays", ratio)
