from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.series import LabelSet
from sidecar.wire.remote_pb2 import WriteRequest
from sidecar.wire.template import WriteTemplate, WriteTemplateV2
from sidecar.wire.types_pb2 import Sample, TimeSeries
from sidecar.wire.write_requests import decode_write_v1, decode_write_v2
from sidecar.wire.write_v2_pb2 import Request
from tests.unit.wire.oracles import (
    NOW_MS,
    SPECIAL_BITS,
    bits_of,
    floats,
    golden,
    pb_labels,
    value_bits,
)

A, B = LabelSet.of({"__name__": "up", "job": "a"}), LabelSet.of({"__name__": "up", "job": "b"})

names = st.text(min_size=1, max_size=12)
label_sets = st.builds(LabelSet.of, st.dictionaries(names, names, min_size=1, max_size=5))
timestamps = st.integers(2**35, 2**42 - 1)

Written = list[tuple[LabelSet, int, int]]
Reader = Callable[[bytes], Written]


def written_v1(body: bytes) -> Written:
    """(labels, timestamp, value's bits) of each series, as the protobuf classes read it."""
    return [
        (
            LabelSet(tuple((label.name, label.value) for label in one.labels)),
            one.samples[0].timestamp,
            bits_of([one.samples[0].value])[0],
        )
        for one in WriteRequest.FromString(body).timeseries
        if len(one.samples) == 1
    ]


def written_v2(body: bytes) -> Written:
    request = Request.FromString(body)
    assert request.symbols[0] == ""
    assert len(set(request.symbols)) == len(request.symbols)
    found = []
    for one in request.timeseries:
        texts = [request.symbols[reference] for reference in one.labels_refs]
        (sample,) = one.samples
        labels = LabelSet(tuple(zip(texts[::2], texts[1::2], strict=True)))
        found.append((labels, sample.timestamp, bits_of([sample.value])[0]))
    return found


versions = pytest.mark.parametrize(
    ("template", "written"), [(WriteTemplate, written_v1), (WriteTemplateV2, written_v2)]
)


@pytest.mark.parametrize(
    ("template", "name"),
    [(WriteTemplate, "write_request.hex"), (WriteTemplateV2, "write_request_v2.hex")],
)
def test_a_request_is_these_bytes(template: type[WriteTemplate], name: str) -> None:
    body = template([A, B]).encode(NOW_MS, np.array([1.0, -0.0]))
    assert body == golden(name)


@versions
@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(label_sets, timestamps, value_bits, st.booleans()), max_size=8).map(
        lambda rows: list({row[0]: row for row in rows}.values())
    )
)
def test_protobuf_reads_back_what_was_to_be_written(
    template: type[WriteTemplate],
    written: Reader,
    rows: list[tuple[LabelSet, int, int, bool]],
) -> None:
    maker = template([labels for labels, *_ in rows])
    times = np.array([time for _, time, _, _ in rows], dtype=np.int64)
    values = floats([bits for _, _, bits, _ in rows])
    assert written(maker.encode(times, values)) == [row[:3] for row in rows]
    kept = np.array([keep for *_, keep in rows], dtype=np.bool_)
    assert written(maker.encode(times, values, kept)) == [row[:3] for row in rows if row[3]]


@settings(deadline=None)
@given(st.lists(value_bits, min_size=2, max_size=2), timestamps)
def test_without_zeros_it_is_what_protobuf_would_write(bits: list[int], time: int) -> None:
    values = floats([value or 1 for value in bits])
    expected = WriteRequest(
        timeseries=[
            TimeSeries(labels=pb_labels(one), samples=[Sample(value=value, timestamp=time)])
            for one, value in zip((A, B), values.tolist(), strict=True)
        ]
    )
    body = WriteTemplate([A, B]).encode(time, values)
    if np.isnan(values).any():  # protobuf keeps no promise on the bits of a NaN made in Python
        assert len(body) == expected.ByteSize()
    else:
        assert body == expected.SerializeToString(deterministic=True)


@versions
@pytest.mark.parametrize("bits", SPECIAL_BITS)
def test_each_special_value_arrives_bit_by_bit(
    template: type[WriteTemplate], written: Reader, bits: int
) -> None:
    body = template([A]).encode(NOW_MS, floats([bits]))
    assert written(body) == [(A, NOW_MS, bits)]


@versions
@pytest.mark.parametrize("time", [-1, 0, 1, 2**35 - 1, 2**35, 2**42 - 1, 2**42, 2**63 - 1])
def test_timestamps_of_any_year_arrive(
    template: type[WriteTemplate], written: Reader, time: int
) -> None:
    values = np.array([1.0, 2.0])
    body = template([A, B]).encode(time, values)
    assert written(body) == [(A, time, bits_of([1.0])[0]), (B, time, bits_of([2.0])[0])]
    only = template([A, B]).encode(np.array([NOW_MS, time]), values, np.array([False, True]))
    assert written(only) == [(B, time, bits_of([2.0])[0])]


@versions
def test_a_template_can_be_used_again_and_again(
    template: type[WriteTemplate], written: Reader
) -> None:
    maker = template([A, B])
    first = maker.encode(NOW_MS, np.array([1.0, 2.0]))
    second = maker.encode(NOW_MS + 1, np.array([3.0, 4.0]))
    assert first == maker.encode(NOW_MS, np.array([1.0, 2.0]))
    assert [bits for *_, bits in written(second)] == bits_of([3.0, 4.0])
    assert maker.size_bytes == len(first)
    assert len(maker) == 2


@pytest.mark.parametrize("length", [100, 127, 128, 16_384])
def test_label_values_of_any_length_arrive(length: int) -> None:
    labels = [LabelSet.of({"__name__": "x", "path": letter * length}) for letter in "aä"]
    body = WriteTemplate(labels).encode(NOW_MS, np.array([1.0, 2.0]))
    assert [one.labels for one in decode_write_v1(body)] == labels
    body = WriteTemplateV2(labels).encode(NOW_MS, np.array([1.0, 2.0]))
    assert [one.labels for one in decode_write_v2(body)] == labels


def test_many_series_share_their_symbols() -> None:
    labels = [LabelSet.of({"__name__": "x", "n": str(n)}) for n in range(500)]
    body = WriteTemplateV2(labels).encode(NOW_MS, np.arange(500.0))
    assert len(Request.FromString(body).symbols) == len(["", "__name__", "x", "n"]) + 500
    assert [one.labels for one in decode_write_v2(body)] == labels


@versions
def test_a_request_of_no_series_is_empty(template: type[WriteTemplate], written: Reader) -> None:
    assert written(template([]).encode(NOW_MS, np.empty(0))) == []
    assert written(template([A]).encode(NOW_MS, np.ones(1), np.zeros(1, dtype=np.bool_))) == []


@versions
def test_two_series_of_the_same_labels_are_refused(
    template: type[WriteTemplate], written: Reader
) -> None:
    with pytest.raises(ValueError, match="names the same series twice"):
        template([A, B, A])


@versions
@pytest.mark.parametrize("size", [0, 1, 3])
def test_as_many_values_as_series_are_wanted(
    template: type[WriteTemplate], written: Reader, size: int
) -> None:
    with pytest.raises(ValueError, match="for 2 series"):
        template([A, B]).encode(NOW_MS, np.ones(size))
