from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import WireError
from sidecar.series import STALE_BITS, RawSeries, Selector
from sidecar.wire import sample_runs, series_messages, types_pb2
from sidecar.wire.remote_pb2 import QueryResult, ReadResponse
from sidecar.wire.requests import ReadQuery
from sidecar.wire.sample_runs import encode_run, parse_long_run, parse_mixed_run
from sidecar.wire.samples import decode_sampled_reply, decode_samples
from sidecar.wire.types_pb2 import Exemplar, Histogram, Label, TimeSeries
from sidecar.wire.varint import encode_uvarint
from tests.unit.wire.oracles import (
    NOW_MS,
    SPECIAL_BITS,
    floats,
    golden,
    pb_decoded,
    pb_reply,
    plain,
    series,
    value_bits,
)

ZERO = 0
ONE = 0x3FF0000000000000
EVER = ReadQuery(Selector(()), -(2**63), 2**63 - 1)


def by_protobuf(body: bytes) -> list[dict[str, list[tuple[int, int]]]]:
    return [pb_decoded(result.timeseries) for result in ReadResponse.FromString(body).results]


def gauge(name: str, bits: list[int], start_ms: int = NOW_MS) -> RawSeries:
    times = [start_ms + 15_000 * place for place in range(len(bits))]
    return series({"__name__": name, "job": "api"}, times, bits)


def run_of(bits: list[int], start_ms: int = NOW_MS) -> bytes:
    """The samples of a series, by the protobuf classes."""
    one = gauge("x", bits, start_ms)
    pairs = zip(one.timestamps_ms.tolist(), one.values.tolist(), strict=True)
    return TimeSeries(
        samples=[types_pb2.Sample(timestamp=time, value=value) for time, value in pairs]
    ).SerializeToString()


def array(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(data, dtype=np.uint8)


def nested(content: bytes) -> bytes:
    return b"\x0a" + encode_uvarint(len(content)) + content


def test_a_reply_is_read_from_these_bytes() -> None:
    found = decode_samples(golden("sampled_reply.hex"), 2)
    assert plain(found[0]) == {"up": [(NOW_MS, 0x3FF8000000000000), (NOW_MS + 15_000, ZERO)]}
    assert found[1] == []


# Long and short samples, in an order that hypothesis chooses: what must be told apart.
value_lists = st.lists(value_bits | st.sampled_from([ZERO, ONE]), max_size=40)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.lists(value_lists, max_size=4), min_size=1, max_size=3))
def test_values_read_bit_by_bit_as_protobuf_reads_them(results: list[list[list[int]]]) -> None:
    body = pb_reply(*[[gauge(f"x{n}", bits) for n, bits in enumerate(one)] for one in results])
    assert [plain(one) for one in decode_samples(body, len(results))] == by_protobuf(body)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(st.integers(-(2**63), 2**63 - 1) | st.integers(2**35 - 2, 2**42 + 2), value_bits),
        max_size=20,
        unique_by=lambda sample: sample[0],
    )
)
def test_timestamps_of_any_length_read_as_protobuf_reads_them(
    samples: list[tuple[int, int]],
) -> None:
    ordered = sorted(samples)
    one = series({"a": "b"}, [time for time, _ in ordered], [bits for _, bits in ordered])
    assert plain(decode_samples(pb_reply([one]))[0]) == by_protobuf(pb_reply([one]))[0]


@pytest.mark.parametrize("bits", SPECIAL_BITS)
def test_each_special_value_reads_bit_by_bit(bits: int) -> None:
    one = gauge("x", [bits] * 10)
    expected = by_protobuf(pb_reply([one]))[0]
    assert plain(decode_samples(pb_reply([one]))[0]) == expected
    assert expected['x{job="api"}'][0][1] == bits


def test_a_stale_marker_is_told_from_other_nans() -> None:
    found = decode_samples(pb_reply([gauge("x", [0x7FF8000000000001, STALE_BITS])]))[0][0]
    assert found.values.view(np.uint64).tolist() == [0x7FF8000000000001, STALE_BITS]


@pytest.mark.parametrize("size", [8191, 8192, 8193, 16_384, 40_000])
@pytest.mark.parametrize("zeros", ["none", "some", "all"])
def test_runs_of_any_length_read_the_same(size: int, zeros: str) -> None:
    rng = np.random.default_rng(size)
    values = rng.normal(size=size)
    if zeros != "none":
        values[rng.random(size) < (0.3 if zeros == "some" else 1)] = 0.0
    one = RawSeries(gauge("x", []).labels, NOW_MS + 15_000 * np.arange(size), values)
    found = decode_samples(pb_reply([one]))[0][0]
    assert np.array_equal(found.timestamps_ms, one.timestamps_ms)
    assert np.array_equal(found.values.view(np.uint64), values.view(np.uint64))


def test_a_long_sample_across_two_pieces_reads_right() -> None:
    """Short samples in front move the bounds of pieces into the middle of a long one."""
    for short in (0, 1, 2, 3):
        bits = [ZERO] * short + [ONE] * 20_000
        assert parse_mixed_run(array(run_of(bits))) is not None
        assert plain(decode_samples(pb_reply([gauge("x", bits)]))[0]) == plain([gauge("x", bits)])


@pytest.mark.parametrize("short", [True, False])
def test_neither_kind_of_run_needs_the_classes(
    short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = pb_reply([gauge("x", [ZERO, ONE] if short else [ONE, ONE])])
    monkeypatch.setattr(series_messages.SeriesMessages, "_add_by_classes", None)
    assert plain(decode_samples(body)[0])


parsers = pytest.mark.parametrize("parse", [parse_long_run, parse_mixed_run])


@parsers
@pytest.mark.parametrize("place", range(18))
def test_a_run_with_one_bit_out_of_place_is_left_to_protobuf(
    parse: Callable[[sample_runs.Bytes], sample_runs.RunSamples | None], place: int
) -> None:
    """Each byte that has to be what it is, is looked at: first, middle and last sample."""
    run = run_of([ONE] * 9)
    assert parse(array(run)) is not None
    if 3 <= place <= 10:
        return  # the value: any bits will do
    for sample in (0, 4, 8):
        changed = bytearray(run)
        changed[18 * sample + place] ^= 0x80
        assert parse(array(bytes(changed))) is None


@pytest.mark.parametrize("place", [0, 1, 2, 3, 8])
def test_a_short_sample_with_one_bit_out_of_place_is_left_to_protobuf(place: int) -> None:
    run = run_of([ONE, ZERO, ONE, ZERO])
    assert parse_mixed_run(array(run)) is not None
    for start in (18, 45):
        changed = bytearray(run)
        changed[start + place] ^= 0x80
        assert parse_mixed_run(array(bytes(changed))) is None


@parsers
def test_a_run_that_is_cut_off_is_left_to_protobuf(
    parse: Callable[[sample_runs.Bytes], sample_runs.RunSamples | None],
) -> None:
    run = run_of([ONE] * 3)
    assert all(parse(array(run[:end])) is None for end in range(1, len(run)) if end % 18)


def test_a_head_without_its_tail_is_left_to_protobuf() -> None:
    head = run_of([ONE])[:9]
    short = run_of([ZERO])
    for run in (head, head + short, short + head, head + head, head + head + short):
        assert parse_mixed_run(array(run)) is None or run == head + short
    # A short sample behind a head makes a tail: protobuf too reads it as one.
    assert parse_mixed_run(array(head + short)) is not None


def test_samples_do_not_reach_from_one_series_into_the_next() -> None:
    """The first ends in a head; what the second begins with could be its tail."""
    broken = b"\x0a\x03\x0a\x01a" + run_of([ZERO] * 20) + run_of([ONE])[:9]
    good = b"\x0a\x03\x0a\x01b" + run_of([ZERO] * 20)
    body = nested(b"".join(nested(one) for one in (broken, good)))
    with pytest.raises(WireError):
        decode_samples(body)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 30])
def test_histograms_and_exemplars_are_skipped_and_counted(size: int) -> None:
    one = gauge("x", [ONE] * size)
    samples = TimeSeries.FromString(run_of([ONE] * size)).samples
    labels = [Label(name="__name__", value="x"), Label(name="job", value="api")]
    message = TimeSeries(
        labels=labels,
        samples=samples,
        exemplars=[Exemplar(value=1, timestamp=NOW_MS)],
        histograms=[Histogram(timestamp=NOW_MS), Histogram(timestamp=NOW_MS + 1)],
    )
    body = ReadResponse(results=[QueryResult(timeseries=[message])]).SerializeToString()
    found = decode_sampled_reply(body, [EVER])
    assert plain(found.series[0]) == plain([one])
    assert (found.histograms, found.histogram_series) == (2, (one.labels,))


def test_a_series_of_histograms_only_is_named_but_not_listed() -> None:
    message = TimeSeries(
        labels=[Label(name="__name__", value="h")], histograms=[Histogram(timestamp=NOW_MS)]
    )
    body = ReadResponse(results=[QueryResult(timeseries=[message])]).SerializeToString()
    found = decode_sampled_reply(body, [EVER])
    assert found.series == [[]]
    assert [str(one) for one in found.histogram_series] == ["h"]


def test_labels_behind_the_samples_are_found_too() -> None:
    label = b"\x0a\x06\x0a\x01a\x12\x01b"
    message = run_of([ONE]) + label
    result = b"\x0a" + bytes([len(message)]) + message
    body = b"\x0a" + bytes([len(result)]) + result
    assert plain(decode_samples(body)[0]) == by_protobuf(body)[0] == {'{a="b"}': [(NOW_MS, ONE)]}


@pytest.mark.parametrize(
    "labels",
    [
        [("b", "2"), ("a", "1")],
        [("a", "1"), ("b", "2"), ("c", "")],
        [("a", "0"), ("a", "1"), ("b", "2")],
    ],
)
def test_labels_come_out_sorted_unique_and_not_empty(labels: list[tuple[str, str]]) -> None:
    message = TimeSeries(
        labels=[Label(name=n, value=v) for n, v in labels], samples=[types_pb2.Sample(timestamp=1)]
    )
    body = ReadResponse(results=[QueryResult(timeseries=[message])]).SerializeToString()
    assert decode_samples(body)[0][0].labels.pairs == (("a", "1"), ("b", "2"))


def test_long_and_unicode_label_values_read_back() -> None:
    one = series({"__name__": "x", "path": "/ä" * 5000, "q": 'a"b\\\n'}, [NOW_MS], [ONE])
    assert decode_samples(pb_reply([one]))[0][0].labels == one.labels


def test_of_two_samples_of_one_instant_the_later_is_kept_in_whatever_way_it_was_read() -> None:
    """A message with an exemplar goes through the protobuf classes, one without does not."""
    exemplar = [Exemplar(timestamp=NOW_MS)]
    for exemplars in ([exemplar, []], [[], exemplar]):
        messages = [
            TimeSeries(
                labels=[Label(name="a", value="b")],
                samples=[types_pb2.Sample(value=number, timestamp=NOW_MS)],
                exemplars=some,
            )
            for number, some in enumerate(exemplars)
        ]
        body = ReadResponse(results=[QueryResult(timeseries=messages)]).SerializeToString()
        assert decode_samples(body)[0][0].values.tolist() == [1.0]


def test_a_reply_is_clipped_sorted_and_without_duplicates() -> None:
    times = [NOW_MS + offset for offset in (3, 1, 2, 2, 9)]
    one = series({"a": "b"}, times, [3, 1, 20, 21, 9])
    query = ReadQuery(Selector(()), NOW_MS + 2, NOW_MS + 3)
    found = decode_sampled_reply(pb_reply([one]), [query])
    assert plain(found.series[0]) == {'{a="b"}': [(NOW_MS + 2, 21), (NOW_MS + 3, 3)]}
    assert (found.samples, found.duplicates, found.clipped) == (2, 1, 2)


@pytest.mark.parametrize(("results", "queries"), [(0, 1), (1, 0), (1, 2), (2, 1)])
def test_a_reply_has_one_result_for_each_query(results: int, queries: int) -> None:
    with pytest.raises(WireError, match=f"{results} results for {queries} queries"):
        decode_samples(b"\x0a\x00" * results, queries)


def test_a_view_is_read_as_bytes_are() -> None:
    body = pb_reply([gauge("x", [ONE, ZERO])])
    assert plain(decode_samples(memoryview(bytearray(body)))[0]) == by_protobuf(body)[0]


def test_no_answer_at_all_to_no_query() -> None:
    assert decode_samples(b"", 0) == []


@pytest.mark.parametrize(
    "body",
    [
        b"\x0a\x05",
        b"\x0a\x02\x0a\x05",
        b"\x0a\x06\x0a\x04\x0a\x09\x0a\x01",  # a label that is longer than its series
        b"\x0a\x09\x0a\x07\x0a\x05\x0a\x03\xff\xfe\xfd",  # a label that is not UTF-8
        b"\x0a\x06\x0a\x04\x12\x09\x09\x00",  # a sample that is longer than its series
        b"\x0b",
        b"\xff" * 12,
    ],
)
def test_a_malformed_reply_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        decode_samples(body)


def test_a_reply_that_is_cut_off_anywhere_is_refused() -> None:
    body = pb_reply([gauge("x", [ONE, ZERO, ONE]), gauge("y", [ONE] * 12)])
    for end in range(1, len(body)):
        with pytest.raises(WireError):
            decode_samples(body[:end])


@settings(deadline=None)
@given(st.lists(value_bits, max_size=20))
def test_a_run_that_we_write_is_one_that_protobuf_reads(bits: list[int]) -> None:
    times = NOW_MS + 15_000 * np.arange(len(bits), dtype=np.int64)
    run = encode_run(times, floats(bits))
    assert run is not None
    assert pb_decoded([TimeSeries.FromString(run)]) == (
        {"{}": list(zip(times.tolist(), bits, strict=True))} if bits else {}
    )


@pytest.mark.parametrize(("time", "fits"), [(2**35 - 1, 0), (2**35, 1), (2**42 - 1, 1), (2**42, 0)])
def test_a_run_is_written_by_us_as_long_as_its_timestamps_have_six_bytes(
    time: int, fits: bool
) -> None:
    run = encode_run(np.array([time], dtype=np.int64), np.array([1.0]))
    assert (run is not None) == fits
    if run is not None:
        assert TimeSeries.FromString(run).samples[0].timestamp == time
