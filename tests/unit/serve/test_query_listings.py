"""Names, series and metadata: the upstream's with ours among them."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from sidecar.names import OUTPUT_SUFFIXES
from sidecar.series import LabelSet
from sidecar.serve.promql.cursor import Garbage
from sidecar.serve.promql.listings import (
    help_text,
    with_metadata,
    with_series,
    with_strings,
    with_warning,
)


def read(pieces: Sequence[bytes]) -> Any:
    return json.loads(b"".join(pieces))


def answer(data: object, **more: object) -> bytes:
    return json.dumps({"status": "success", "data": data, **more}).encode()


def test_strings_are_merged_sorted_and_cut() -> None:
    body = answer(["b", "d"], warnings=["w"])
    merged = read(with_strings(body, ["a", "b", "c"], 0))
    assert merged == {"status": "success", "data": ["a", "b", "c", "d"], "warnings": ["w"]}
    cut = read(with_strings(body, ["a"], 2, "mine"))
    assert cut["data"] == ["a", "b"]
    assert cut["warnings"][:2] == ["w", "mine"]
    assert "truncated" in cut["warnings"][2]


@pytest.mark.parametrize("body", [None, answer(None)])
def test_ours_alone_where_the_upstream_has_nothing(body: bytes | None) -> None:
    assert read(with_strings(body, ["a"], 0))["data"] == ["a"]
    series = [LabelSet.of({"__name__": "x", "i": "a"})]
    assert read(with_series(body, series, 0))["data"] == [{"__name__": "x", "i": "a"}]


def test_a_series_that_both_have_comes_once() -> None:
    one, two = {"__name__": "x", "i": "a"}, {"__name__": "x", "i": "b"}
    assert read(with_series(answer([two, one]), [LabelSet.of(one)], 0))["data"] == [one, two]
    cut = read(with_series(answer([two, one]), [LabelSet.of(one)], 1))
    assert cut["data"] == [one]
    assert "truncated" in cut["warnings"][0]


def test_metadata_of_ours_is_added_only_where_there_is_none() -> None:
    theirs = {"x_sentinel_expected": [{"type": "gauge", "help": "theirs", "unit": ""}], "y": []}
    ours = ["x_sentinel_expected", "x_sentinel_expected_lower", "y"]
    data = read(with_metadata(answer(theirs), ours, None))["data"]
    assert data["x_sentinel_expected"][0]["help"] == "theirs"
    assert data["x_sentinel_expected_lower"][0] == {
        "type": "gauge",
        "help": "Lower bound of what x should be.",
        "unit": "",
    }
    assert all(data.values())
    assert len(read(with_metadata(answer(theirs), ours, 1))["data"]) == 1
    assert read(with_metadata(answer(theirs), ours, 0))["data"] == {}


def test_every_output_has_a_help_of_its_own() -> None:
    helps = {help_text("metric" + suffix) for suffix in OUTPUT_SUFFIXES}
    assert len(helps) == len(OUTPUT_SUFFIXES)
    assert all("metric" in one and "{" not in one for one in helps)


@pytest.mark.parametrize("more", [{}, {"warnings": ["v"], "infos": ["i"]}])
@pytest.mark.parametrize(
    "data",
    [
        {"resultType": "scalar", "result": [4, "2"]},
        {"resultType": "vector", "result": [{"metric": {"a": "é"}, "value": [4, "2"]}]},
        {"resultType": "matrix", "result": []},
        {
            "resultType": "matrix",
            "result": [{"metric": {}, "values": [[n, "1"] for n in (1, 2)]}],
        },
    ],
)
def test_a_warning_joins_those_that_are_there(data: Any, more: dict[str, list[str]]) -> None:
    warnings = [*more.get("warnings", []), "w"]
    expected = {"status": "success", "data": data, **more, "warnings": warnings}
    assert read(with_warning(answer(data, **more), "w")) == expected


def test_a_long_list_comes_in_pieces() -> None:
    names = [f"metric_{number:06}" for number in range(50_000)]
    pieces = with_strings(answer(names[::2]), names[1::2], 0)
    assert read(pieces)["data"] == names
    assert max(map(len, pieces)) < 300_000


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", answer(5), answer({}), b"[" * 99999]
)
def test_what_is_no_list_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(Garbage):
        with_strings(body, ["a"], 0)
    with pytest.raises(Garbage):
        with_series(body, [], 0)


def test_series_that_are_no_objects_are_no_list_of_series() -> None:
    with pytest.raises(Garbage):
        with_series(answer([5]), [], 0)
