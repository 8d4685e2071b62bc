"""A PromQL expression read as if it were a metric."""

import asyncio
from typing import cast

import numpy as np
import pytest

from sidecar.errors import DataError
from sidecar.names import Reason
from sidecar.remote.expressions import ExpressionReader
from sidecar.remote.query_reader import QueryApiReader
from sidecar.series import LabelSet, RawSeries, Selector


class Result:
    """A query API that gives the same result whatever is asked."""

    def __init__(self, *series: tuple[str, list[int]]) -> None:
        self._series = [
            RawSeries(
                LabelSet.of({"__name__": name, "i": "1"}),
                np.array(times, dtype=np.int64),
                np.array(times, dtype=np.float64),
            )
            for name, times in series
        ]

    async def read_expression(
        self, _expr: str, _start_ms: int, _end_ms: int, _step_ms: int
    ) -> list[RawSeries]:
        return self._series


def read(result: Result) -> list[RawSeries]:
    reader = ExpressionReader(cast(QueryApiReader, result), "old or new", "n", 10)
    return asyncio.run(reader.read(Selector.of("n"), 0, 40))


def test_a_metric_that_was_renamed_goes_on_as_one_series() -> None:
    [one] = read(Result(("new", [30, 40]), ("old", [10, 20])))
    assert one.labels == LabelSet.of({"__name__": "n", "i": "1"})
    assert one.timestamps_ms.tolist() == one.values.tolist() == [10, 20, 30, 40]


def test_series_that_differ_by_their_name_only_are_refused_with_what_to_do() -> None:
    with pytest.raises(DataError, match=r'new\{i="1"\}, old\{i="1"\}.*label_replace') as raised:
        read(Result(("new", [20, 40]), ("old", [10, 20])))
    assert raised.value.reason is Reason.SOURCE_ERROR
