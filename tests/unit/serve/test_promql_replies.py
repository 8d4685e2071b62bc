"""Prometheus' JSON, read row by row and written as Prometheus writes it."""

import gzip
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.series import LabelSet
from sidecar.serve.promql.cursor import Garbage
from sidecar.serve.promql.frames import Frame, QueryError, Scalar
from sidecar.serve.promql.replies import numbers, read_reply, value_of
from sidecar.serve.promql.split import Steps
from sidecar.serve.promql.writing import (
    PIECE_BYTES,
    PointWriter,
    compressed,
    in_pieces,
    instant_data,
    joined_rows,
    matrix_data,
    matrix_rows,
    number_text,
    scalar_row,
    success,
    time_text,
)
from tests.unit.serve.promql_twin import close, same, steps_of

A, B = LabelSet.of({"__name__": "x", "i": 'a"\\\n'}), LabelSet.of({"i": "é"})
STEPS = Steps(1_000, 500, 4)


def frame(values: list[list[float]], present: list[list[bool]]) -> Frame:
    return Frame((A, B), np.array(values), np.array(present))


VALUES = st.lists(
    st.lists(st.floats(), min_size=STEPS.size, max_size=STEPS.size), min_size=2, max_size=2
)
MASKS = st.lists(
    st.lists(st.booleans(), min_size=STEPS.size, max_size=STEPS.size), min_size=2, max_size=2
)


@settings(deadline=None)
@given(VALUES, MASKS)
def test_a_range_that_is_written_reads_back(
    values: list[list[float]], present: list[list[bool]]
) -> None:
    written = frame(values, present)
    body = b"".join(success(matrix_data(matrix_rows(STEPS.instants_ms, written))))
    again = value_of(read_reply(body), STEPS, scalar=False)
    assert isinstance(again, Frame)
    assert same(steps_of(again), steps_of(written))


@settings(deadline=None)
@given(VALUES, MASKS)
def test_an_instant_that_is_written_reads_back(
    values: list[list[float]], present: list[list[bool]]
) -> None:
    written = frame(values, present)
    one = Frame(written.labels, written.values[:, :1], written.present[:, :1])
    body = b"".join(success(instant_data(one, 1_000), ["w"], ["i"]))
    reply = read_reply(body)
    assert (reply.result_type, reply.warnings, reply.infos) == ("vector", ("w",), ("i",))
    again = value_of(reply, Steps(1_000, 1_000, 1), scalar=False)
    assert isinstance(again, Frame)
    assert same(steps_of(again), steps_of(one))


@settings(deadline=None)
@given(st.floats())
def test_a_number_reads_back_and_is_written_as_by_go(value: float) -> None:
    text = number_text(value)
    assert close(float(text), value)
    if math.isfinite(value):
        has_exponent = value != 0 and not 1e-6 <= abs(value) < 1e21
        assert ("e" in text) is has_exponent
        assert not text.endswith(".0")


@settings(deadline=None)
@given(st.lists(st.floats() | st.floats(-1e3, 1e3), min_size=4, max_size=4))
def test_a_whole_row_is_written_as_its_numbers_are(values: list[float]) -> None:
    writer = PointWriter(STEPS.instants_ms)
    expected = ",".join(
        f'[{time_text(ms)},"{number_text(value)}"]'
        for ms, value in zip(STEPS.instants_ms.tolist(), values, strict=True)
    )
    assert writer.text(np.array(values), np.ones(4, dtype=np.bool_)) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.0, "2"),
        (0.1, "0.1"),
        (-1.5, "-1.5"),
        (1e-6, "0.000001"),
        (1e-7, "1e-07"),
        (1.25e-10, "1.25e-10"),
        (123456789012345680.0, "123456789012345680"),
        (1e21, "1e+21"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (math.nan, "NaN"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
    ],
)
def test_numbers_look_as_prometheus_writes_them(value: float, text: str) -> None:
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("ms", "text"), [(0, "0"), (1_500, "1.500"), (1_700_000_000_000, "1700000000"), (7, "0.007")]
)
def test_times_look_as_prometheus_writes_them(ms: int, text: str) -> None:
    assert time_text(ms) == text


def test_the_past_is_passed_on_as_it_was_written() -> None:
    points = '[1,"1.00"],[1.5,"0x1p-2"]'
    body = f"""{{ "status" : "success", "data": {{"resultType":"matrix", "result" : [
        {{"metric": {{"i":"é"}}, "values" : [ {points} ] }} ]}} , "warnings":["w"] }}"""
    reply = read_reply(body.encode())
    one = np.ones((1, 1))
    future = matrix_rows(np.array([2_000], dtype=np.int64), Frame((B,), one, one > 0))
    text = "".join(matrix_data(joined_rows(reply.rows, future)))
    assert text == (
        f'{{"resultType":"matrix","result":[{{"metric":{{"i":"é"}},"values":[{points},[2,"1"]]}}]}}'
    )
    assert reply.warnings == ("w",)


def test_native_histograms_of_the_past_are_kept_and_are_no_numbers() -> None:
    body = (
        b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},'
        b'"histograms":[[1,{"count":"1","sum":"2","buckets":[[0,"1","2","1"]]}]]}]}}'
    )
    reply = read_reply(body)
    assert json.loads("".join(matrix_data(reply.rows))) == json.loads(body)["data"]
    with pytest.raises(QueryError, match="native histograms"):
        value_of(reply, STEPS, scalar=False)


def test_rows_are_read_alike_however_they_are_written() -> None:
    rows: list[dict[str, object]] = [
        {"metric": {"i": '},"values":[', "j": '"]]}'}, "values": [[1, "2"], [1.5, "3"]]},
        {"metric": {"i": "a"}, "values": []},
        {"metric": {"i": "b"}, "value": [1, "5"]},
        {
            "metric": {"i": "c"},
            "histograms": [[1, {"count": "1", "buckets": [[0, "1", "2", "3"]]}]],
        },
        {"metric": {}, "values": [[1, "NaN"]], "histograms": [[1.5, {"count": "1"}]]},
        {"values": [[1, "2"]], "metric": {"i": "d"}},
        {"metric": {"i": "e"}, "values": [[2, "+Inf"]]},
    ]
    answer = {"status": "success", "data": {"resultType": "matrix", "result": rows}}
    compact = json.dumps(answer, separators=(",", ":")).encode()
    for body in (compact, json.dumps(answer, indent=1).encode()):
        reply = read_reply(body)
        assert [dict(row.labels.pairs) for row in reply.rows] == [row["metric"] for row in rows]
        assert [numbers(row.points)[0].tolist() for row in reply.rows] == [
            [1_000, 1_500],
            [],
            [1_000],
            [],
            [1_000],
            [1_000],
            [2_000],
        ]
        assert [bool(row.rest) for row in reply.rows] == [False] * 3 + [True] * 2 + [False] * 2


def test_a_scalar_reads_back() -> None:
    row = scalar_row(STEPS.instants_ms, Scalar(np.array([1.0, math.nan, 3.0, 4.5])))
    again = value_of(read_reply(b"".join(success(matrix_data([row])))), STEPS, scalar=True)
    assert isinstance(again, Scalar)
    np.testing.assert_equal(again.values, [1.0, math.nan, 3.0, 4.5])
    [one] = instant_data(Scalar(np.array([2.0])), 1_500)
    assert one == '{"resultType":"scalar","result":[1.500,"2"]}'
    assert numbers(read_reply(b"".join(success([one]))).rows[0].points)[1].tolist() == [2.0]


@given(st.lists(st.text(max_size=9)), st.integers(0, 400_000))
def test_pieces_are_the_whole_when_joined(texts: list[str], filler: int) -> None:
    texts.append("x" * filler)
    pieces = in_pieces(texts)
    assert b"".join(pieces) == "".join(texts).encode()
    assert all(len(piece) >= PIECE_BYTES for piece in pieces[:-1])
    assert gzip.decompress(b"".join(compressed(pieces))) == b"".join(pieces)


def test_an_empty_answer_is_a_list() -> None:
    body = b"".join(success(matrix_data([])))
    assert json.loads(body)["data"]["result"] == []
    empty = value_of(read_reply(body), STEPS, scalar=False)
    assert isinstance(empty, Frame)
    assert empty.values.shape == (0, STEPS.size)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b'{"status":"success"}',
        b'{"data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,"1"]',
        b'{"data":{"resultType":"matrix","result":[{"metric":[],"values":[]}]}}',
        b'{"data":{"resultType":"matrix","result":[5]}}',
        b'{"data":{"resultType":"scalar","result":[1,"1"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"data":' + b"[" * 100_000,
        b'{"more":' + b"[" * 100_000,
    ],
)
def test_what_is_no_answer_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(Garbage):
        read_reply(body)


@pytest.mark.parametrize("points", ['[7,"1"]', '[1.25,"1"]', '[0.5,"1"]'])
def test_points_that_were_not_asked_for_are_refused(points: str) -> None:
    body = f'{{"data":{{"resultType":"matrix","result":[{{"metric":{{}},"values":[{points}]}}]}}}}'
    with pytest.raises(Garbage):
        value_of(read_reply(body.encode()), STEPS, scalar=False)
