import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import WireError
from sidecar.series import LabelSet
from sidecar.wire import write_v2_pb2 as v2
from sidecar.wire.remote_pb2 import WriteRequest
from sidecar.wire.series_messages import SeriesMessages
from sidecar.wire.types_pb2 import Exemplar, Histogram, Label, MetricMetadata, Sample, TimeSeries
from sidecar.wire.write_requests import (
    MetricType,
    decode_push_v1,
    decode_push_v2,
    decode_write_v1,
    decode_write_v2,
)
from tests.unit.wire.oracles import NOW_MS, bits_of, golden, pb_series, plain, series, value_bits

GOLDEN = {
    'up{job="a"}': [(NOW_MS, bits_of([1.0])[0])],
    'up{job="b"}': [(NOW_MS, bits_of([-0.0])[0])],
}


def test_requests_are_read_from_these_bytes() -> None:
    assert plain(decode_write_v1(golden("write_request.hex"))) == GOLDEN
    assert plain(decode_write_v2(golden("write_request_v2.hex"))) == GOLDEN


rows = st.lists(
    st.tuples(st.integers(0, 3), st.integers(NOW_MS, NOW_MS + 5), value_bits), max_size=20
)


def expected_of(made: list[tuple[int, int, int]]) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, dict[int, int]] = {}
    for number, time, bits in made:
        found.setdefault(f'x{{n="{number}"}}', {})[time] = bits
    return {labels: sorted(samples.items()) for labels, samples in found.items()}


@settings(deadline=None)
@given(rows)
def test_samples_sent_one_by_one_are_put_together_by_series(
    made: list[tuple[int, int, int]],
) -> None:
    request = WriteRequest(
        timeseries=[
            pb_series(series({"__name__": "x", "n": str(number)}, [time], [bits]))
            for number, time, bits in made
        ]
    )
    found = decode_push_v1(request.SerializeToString())
    assert plain(found.series) == expected_of(made)
    assert found.samples == len(made)
    assert found.duplicates == len(made) - sum(map(len, expected_of(made).values()))


@settings(deadline=None)
@given(rows, st.booleans(), st.booleans())
def test_the_same_holds_for_2_0_with_whatever_stands_behind_the_samples(
    made: list[tuple[int, int, int]], metadata: bool, start: bool
) -> None:
    symbols = ["", "__name__", "x", "n", "0", "1", "2", "3", "help"]
    request = v2.Request(symbols=symbols)
    for number, time, bits in made:
        value = series({}, [time], [bits]).values[0]
        request.timeseries.add(
            labels_refs=[1, 2, 3, 4 + number],
            samples=[v2.Sample(value=value, timestamp=time, start_timestamp=NOW_MS * start)],
            metadata=v2.Metadata(type="METRIC_TYPE_COUNTER", help_ref=8) if metadata else None,
        )
    found = decode_push_v2(request.SerializeToString())
    assert plain(found.series) == expected_of(made)
    assert found.samples == len(made)
    assert found.types == ({"x": MetricType.COUNTER} if made and metadata else {})


def test_a_push_as_prometheus_makes_it_needs_no_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    request = v2.Request(symbols=["", "__name__", "x", "y", "help"])
    for value, name in ((1.0, 2), (0.0, 3)):
        request.timeseries.add(
            labels_refs=[1, name],
            samples=[v2.Sample(value=value, timestamp=NOW_MS)],
            metadata=v2.Metadata(type="METRIC_TYPE_GAUGE", help_ref=4),
        )
    monkeypatch.setattr(SeriesMessages, "_add_by_classes", None)
    assert len(decode_write_v2(request.SerializeToString())) == 2
    assert len(decode_write_v1(golden("write_request.hex"))) == 2


def test_what_is_skipped_is_counted_and_named() -> None:
    labels = [Label(name="__name__", value="h")]
    request = WriteRequest(
        timeseries=[
            TimeSeries(labels=labels, histograms=[Histogram(timestamp=NOW_MS)] * 2),
            TimeSeries(labels=labels, exemplars=[Exemplar(timestamp=NOW_MS)]),
            TimeSeries(labels=labels, samples=[Sample(value=1, timestamp=NOW_MS)]),
        ]
    )
    found = decode_push_v1(request.SerializeToString())
    assert (found.samples, found.histograms, found.exemplars) == (1, 2, 1)
    assert [str(one) for one in found.histogram_series] == ["h"]
    assert list(plain(found.series)) == ["h"]


def test_what_is_skipped_is_counted_and_named_in_2_0_too() -> None:
    request = v2.Request(symbols=["", "__name__", "h"])
    request.timeseries.add(labels_refs=[1, 2], histograms=[v2.Histogram(timestamp=NOW_MS)])
    request.timeseries.add(labels_refs=[1, 2], exemplars=[v2.Exemplar(timestamp=NOW_MS)])
    found = decode_push_v2(request.SerializeToString())
    assert (found.samples, found.histograms, found.exemplars) == (0, 1, 1)
    assert [str(one) for one in found.histogram_series] == ["h"]


def test_declared_types_are_given_by_name() -> None:
    metadata = [
        MetricMetadata(type=number, metric_family_name=f"m{number}")  # type: ignore[arg-type]
        for number in range(9)
    ]
    found = decode_push_v1(WriteRequest(metadata=metadata).SerializeToString())
    assert found.series == []
    assert found.types == {
        "m1": "counter",
        "m2": "gauge",
        "m3": "histogram",
        "m4": "gaugehistogram",
        "m5": "summary",
        "m6": "info",
        "m7": "stateset",
    }


def test_label_sets_are_read_once_for_all_requests() -> None:
    body = golden("write_request.hex")
    known: dict[bytes, LabelSet] = {}
    first = decode_push_v1(body, known).series
    assert len(known) == 2
    second = decode_push_v1(body, known).series
    assert all(a.labels is b.labels for a, b in zip(first, second, strict=True))


def test_an_empty_request_is_one() -> None:
    assert decode_write_v1(b"") == []
    assert decode_write_v2(b"") == []


def test_more_series_than_allowed_are_refused() -> None:
    one, two = golden("write_request.hex"), golden("write_request_v2.hex")
    assert len(decode_push_v1(one, max_series=2).series) == 2
    assert len(decode_push_v2(two, max_series=2).series) == 2
    with pytest.raises(WireError, match="more than the 1 series"):
        decode_push_v1(one, max_series=1)
    with pytest.raises(WireError, match="more than the 1 series"):
        decode_push_v2(two, max_series=1)


def test_more_symbols_than_allowed_are_refused() -> None:
    with pytest.raises(WireError, match="more than the 400000 symbols"):
        decode_push_v2(b"\x22\x00" * 400_001)


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ([1], "1 label references, an odd number"),
        ([1, 3], "symbol 3 of 3"),
        ([2**32 - 1, 1], "of 3"),
    ],
)
def test_references_that_lead_nowhere_are_refused(references: list[int], message: str) -> None:
    request = v2.Request(symbols=["", "a", "b"])
    request.timeseries.add(labels_refs=references, samples=[v2.Sample(timestamp=NOW_MS)])
    with pytest.raises(WireError, match=message):
        decode_write_v2(request.SerializeToString())


def test_references_that_are_not_packed_are_understood() -> None:
    message = b"\x08\x01\x08\x02" + b"\x12\x07\x10" + bytes.fromhex("80d095ffbc31")
    body = b"\x22\x00\x22\x01a\x22\x01b\x2a" + bytes([len(message)]) + message
    assert plain(decode_write_v2(body)) == {'{a="b"}': [(NOW_MS, 0)]}


@pytest.mark.parametrize("name", ["write_request.hex", "write_request_v2.hex"])
def test_a_request_that_is_cut_off_is_refused_or_holds_only_its_whole_series(name: str) -> None:
    body = golden(name)
    decode = decode_write_v2 if "v2" in name else decode_write_v1
    for end in range(len(body)):
        try:
            found = plain(decode(body[:end]))
        except WireError:
            continue
        assert found.items() <= GOLDEN.items()


@pytest.mark.parametrize(
    "body",
    [
        b"\x0a\x05",
        b"\x1a\x02\x08",
        b"\x1a\x04\x12\x02\xff\xfe",  # metadata that is not UTF-8
        b"\x0a\x07\x0a\x05\x0a\x03\xff\xfe\xfd",
        b"not protobuf at all",
    ],
)
def test_malformed_requests_are_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        decode_write_v1(body)


@pytest.mark.parametrize(
    "body",
    [
        b"\x22\x02\xff\xfe",  # a symbol that is not UTF-8
        b"\x2a\x05\x0a\x09\x01",
        b"\x22\x00\x2a\x06\x0a\x00\x2a\x02\x08\xff",  # metadata that is cut off
    ],
)
def test_malformed_2_0_requests_are_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        decode_write_v2(body)
