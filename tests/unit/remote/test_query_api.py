"""Answers of the query API, whole and otherwise."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import WireError
from sidecar.remote.query_api import decode_matrix
from sidecar.series import LabelSet


def answer(result: list[dict[str, Any]], **more: object) -> bytes:
    data = {"resultType": "matrix", "result": result}
    return json.dumps({"status": "success", **more, "data": data}).encode()


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
labels = st.dictionaries(names, names, max_size=5)
samples = st.lists(
    st.tuples(st.integers(0, 2**42), st.floats(width=64)),
    min_size=1,
    max_size=20,
    unique_by=lambda pair: pair[0],
)


def _text(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return repr(value) if math.isfinite(value) else f"{value:+f}".replace("inf", "Inf")


@given(st.lists(st.tuples(labels, samples), max_size=5), st.booleans())
def test_what_a_server_prints_is_read_back(
    series: list[tuple[dict[str, str], list[tuple[int, float]]]], pretty: bool
) -> None:
    result = [
        {"metric": one, "values": [[t / 1000, _text(v)] for t, v in sorted(pairs)]}
        for one, pairs in series
    ]
    body = answer(result)
    if pretty:
        body = json.dumps(json.loads(body), indent=2, ensure_ascii=False).encode()
    found = decode_matrix(body)
    assert [one.labels for one in found] == [LabelSet.of(one) for one, _ in series]
    for one, (_, pairs) in zip(found, series, strict=True):
        assert one.timestamps_ms.tolist() == [t for t, _ in sorted(pairs)]
        np.testing.assert_array_equal(one.values, [v for _, v in sorted(pairs)])


GOOD = answer([{"metric": {"a": 'b{"metric":'}, "values": [[1.5, "2"], [2.5, "NaN"]]}] * 2)


@pytest.mark.parametrize("end", range(len(GOOD)))
def test_an_answer_cut_off_anywhere_is_refused_whole(end: int) -> None:
    with pytest.raises(WireError):
        decode_matrix(GOOD[:end])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>login</html>",
        b'{"status":"error","errorType":"bad_data","error":"x"}',
        answer([], isPartial=True),
        b'{"status":"success","data":{"resultType":"vector","result":[]}}',
        answer([{"values": [[1, "2"]]}]),
        answer([{"metric": {}, "values": [[1]]}]),
        answer([{"metric": {}, "values": [[1, "x"]]}]),
        answer([{"metric": [], "values": []}]),
        answer([{"metric": {}, "values": [[1e300, "1"]]}]),
        GOOD.replace(b"NaN", b"\xff"),
        b'{"status":"success","data":{"resultType":"matrix","result":[' + b'{"a":' * 100_000,
    ],
)
def test_what_is_no_whole_matrix_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        decode_matrix(body)


@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_a_matrix_or_a_wire_error(tail: bytes) -> None:
    head = b'{"status":"success","data":{"resultType":"matrix","result":['
    for body in (tail, head + tail):
        try:
            decode_matrix(body)
        except WireError:
            continue


def test_times_that_stand_still_or_go_back_are_sorted_and_the_last_one_wins() -> None:
    [one] = decode_matrix(
        answer([{"metric": {}, "values": [[2, "1"], [1, "5"], [2, "3"], [3, "4"]]}])
    )
    assert one.timestamps_ms.tolist() == [1000, 2000, 3000]
    assert one.values.tolist() == [5, 3, 4]
