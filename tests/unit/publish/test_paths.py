"""The forecast store: what is served when, and what is carried from one path to the next."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.names import METRIC_NAME
from sidecar.publish.paths import ForecastPaths, OutputPaths, PathBlock, ragged
from sidecar.series import LabelSet, MatchOp
from sidecar.serve.promql.matchers import LabelMatcher

FAR = 10**15
NAME = LabelMatcher(METRIC_NAME, MatchOp.REGEX, ".+")


def labels(metric: str = "x_sentinel_expected", **rest: str) -> LabelSet:
    return LabelSet.of({METRIC_NAME: metric, **rest})


def path(
    names: Sequence[LabelSet], first: int, values: Sequence[Sequence[float]], step: int = 10
) -> OutputPaths:
    size = len(values[0]) if values else 0
    instants = first + step * np.arange(size, dtype=np.int64)
    return OutputPaths(tuple(names), instants, np.array(values, dtype=np.float64))


def served(paths: ForecastPaths, *tests: LabelMatcher, tail: bool = False) -> dict[str, object]:
    found = paths.select(tests or (NAME,), -FAR, FAR, tail=tail)
    return {
        str(one.labels): dict(zip(one.timestamps_ms.tolist(), one.values.tolist(), strict=True))
        for one in found
    }


def equals(name: str, value: str) -> LabelMatcher:
    return LabelMatcher(name, MatchOp.EQUAL, value)


def test_a_path_is_served_until_it_is_replaced() -> None:
    paths, a = ForecastPaths(), labels(i="a")
    paths.replace("w", [path([a], 100, [[1, 2, 3]])])
    assert served(paths) == {str(a): {100: 1, 110: 2, 120: 3}}
    paths.replace("w", [path([a], 100, [[4, 5, 6]])])
    assert served(paths) == {str(a): {100: 4, 110: 5, 120: 6}}
    paths.remove("w")
    assert served(paths) == {}


def test_what_is_acknowledged_is_not_served_but_stays_as_tail() -> None:
    paths, a = ForecastPaths(), labels(i="a")
    paths.replace("w", [path([a], 100, [[1, 2, 3]])])
    paths.acknowledge("w", 110)
    assert served(paths) == {str(a): {120: 3}}
    assert served(paths, tail=True) == {str(a): {100: 1, 110: 2, 120: 3}}
    paths.acknowledge("w", 100)  # late news
    assert served(paths) == {str(a): {120: 3}}


def test_what_was_pushed_but_not_acknowledged_stays_served_under_a_new_path() -> None:
    paths, a = ForecastPaths(), labels(i="a")
    paths.replace("w", [path([a], 100, [[1, 2, 3]])])
    paths.acknowledge("w", 90)
    paths.replace("w", [path([a], 110, [[20, 30, 40]])])
    assert served(paths) == {str(a): {100: 1, 110: 20, 120: 30, 130: 40}}
    paths.acknowledge("w", 100)
    assert served(paths) == {str(a): {110: 20, 120: 30, 130: 40}}


def test_one_series_may_be_acknowledged_alone() -> None:
    paths, a, b = ForecastPaths(), labels(i="a"), labels(i="b")
    paths.replace("w", [path([a, b], 100, [[1, 2], [3, 4]])])
    paths.acknowledge("w", 100, [a, labels(i="unknown")])
    assert served(paths) == {str(a): {110: 2}, str(b): {100: 3, 110: 4}}
    assert paths.first_served_ms((equals("i", "a"),)) == 110
    assert paths.first_served_ms((NAME,)) == 100


def test_series_keep_their_tail_when_others_come_and_go() -> None:
    paths, a, b, c = ForecastPaths(), labels(i="a"), labels(i="b"), labels(i="c")
    paths.replace("w", [path([a, b], 100, [[1, 2], [3, 4]])])
    paths.acknowledge("w", 90, [b])
    paths.replace("w", [path([c, b], 110, [[5, 6], [7, 8]])])
    assert served(paths) == {str(b): {100: 3, 110: 7, 120: 8}, str(c): {110: 5, 120: 6}}


def test_series_that_move_to_another_group_keep_their_tail_too() -> None:
    paths, a, b = ForecastPaths(), labels(i="a"), labels(i="b")
    paths.replace("w", [path([a], 100, [[1, 2]]), path([b], 100, [[3, 4]])])
    paths.acknowledge("w", 100)
    paths.replace("w", [path([b, a], 110, [[5], [6]])])
    assert served(paths, tail=True) == {str(a): {100: 1, 110: 6}, str(b): {100: 3, 110: 5}}
    assert served(paths) == {str(a): {110: 6}, str(b): {110: 5}}


def test_the_tail_is_bounded() -> None:
    paths, a = ForecastPaths(tail_instants=2), labels(i="a")
    for first in range(100, 200, 10):
        paths.replace("w", [path([a], first, [[first, 0]])])
    assert served(paths) == {str(a): {170: 170, 180: 180, 190: 190, 200: 0}}


def test_above_the_bound_the_tail_goes_first_and_then_the_farthest_steps() -> None:
    paths, a = ForecastPaths(max_samples=4), labels(i="a")
    assert paths.replace("w", [path([a], 100, [[1, 2, 3]])]) == 0
    assert paths.replace("w", [path([a], 120, [[4, 5, 6]])]) == 0
    assert served(paths) == {str(a): {110: 2, 120: 4, 130: 5, 140: 6}}
    assert paths.replace("v", [path([labels(i="b")], 100, [[1, 2]])]) == 2
    assert paths.replace("w", [path([a], 120, [[1, 2, 3, 4, 5, 6]])]) == 2
    assert served(paths) == {str(a): {120: 1, 130: 2, 140: 3, 150: 4}}
    assert paths.stats().samples == 4


def test_nan_is_no_sample() -> None:
    paths, a, b = ForecastPaths(), labels(i="a"), labels(i="b")
    paths.replace("w", [path([a, b], 100, [[np.nan, 2], [np.nan, np.nan]])])
    assert served(paths) == {str(a): {110: 2}}
    assert paths.first_served_ms((NAME,)) == 110
    assert paths.labels((NAME,), -FAR, FAR) == [a]
    assert paths.first_served_ms((equals("i", "b"),)) is None
    assert paths.holds((equals("i", "b"),))


def test_both_ends_of_a_selection_are_inclusive() -> None:
    paths, a = ForecastPaths(), labels(i="a")
    paths.replace("w", [path([a], 100, [[1, 2, 3, 4]])])
    [one] = paths.select((NAME,), 110, 120)
    assert one.timestamps_ms.tolist() == [110, 120]
    assert paths.select((NAME,), 131, 200) == []
    assert paths.select((NAME,), 0, 99) == []


@pytest.mark.parametrize(
    ("matcher", "expected"),
    [
        (equals("i", "a"), ["a"]),
        (LabelMatcher("i", MatchOp.NOT_EQUAL, "a"), ["b", "ab"]),
        (LabelMatcher("i", MatchOp.REGEX, "a"), ["a"]),
        (LabelMatcher("i", MatchOp.REGEX, "a.*"), ["a", "ab"]),
        (LabelMatcher("i", MatchOp.NOT_REGEX, "a|b"), ["ab"]),
        (equals("absent", ""), ["a", "b", "ab"]),
        (LabelMatcher("absent", MatchOp.NOT_EQUAL, ""), []),
        (equals(METRIC_NAME, "x_sentinel_expected"), ["a", "b", "ab"]),
        (LabelMatcher(METRIC_NAME, MatchOp.REGEX, "y.*"), []),
    ],
)
def test_matchers_select(matcher: LabelMatcher, expected: list[str]) -> None:
    paths = ForecastPaths()
    names = [labels(i=i) for i in ("a", "b", "ab")]
    paths.replace("w", [path(names, 100, [[1], [2], [3]])])
    found = {one.labels.get("i") for one in paths.select((matcher,), -FAR, FAR)}
    assert found == set(expected)


def test_a_series_that_two_watches_hold_comes_once_and_from_the_first() -> None:
    paths, a, b = ForecastPaths(), labels(i="a"), labels(i="b")
    paths.replace("first", [path([a], 100, [[1]])])
    paths.replace("second", [path([a, b], 100, [[2], [3]])])
    assert served(paths) == {str(a): {100: 1}, str(b): {100: 3}}


def test_the_first_stays_the_first_when_it_is_replaced() -> None:
    paths, a = ForecastPaths(), labels(i="a")
    paths.replace("first", [path([a], 100, [[1]])])
    paths.replace("second", [path([a], 100, [[2]])])
    paths.replace("first", [path([a], 100, [[3]])])
    assert served(paths) == {str(a): {100: 3}}
    paths.remove("first")
    assert served(paths) == {str(a): {100: 2}}


def test_what_is_staged_shows_when_it_is_committed() -> None:
    paths, a = ForecastPaths(), labels(i="a")
    paths.replace("w", [path([a], 100, [[1, 2]])])
    staged = paths.stage("w", [path([a], 110, [[3, 4]])])
    assert served(paths) == {str(a): {100: 1, 110: 2}}
    paths.acknowledge("w", 100)  # while it was being made
    assert paths.commit(staged) == 0
    assert served(paths) == {str(a): {110: 3, 120: 4}}


def test_what_is_known_of_series_that_are_gone_is_forgotten() -> None:
    paths, a, b = ForecastPaths(), labels(i="a"), labels(i="b")
    paths.replace("w", [path([a, b], 100, [[1, 2], [3, 4]])])
    paths.acknowledge("w", 100, [b])
    paths.replace("w", [path([a], 110, [[5]])])
    paths.replace("w", [path([a, b], 100, [[1, 2], [3, 4]])])
    assert served(paths) == {str(a): {100: 1, 110: 2}, str(b): {100: 3, 110: 4}}
    paths.replace("w", [])
    assert paths.stats().series == 0


def test_names_and_label_values_are_those_of_what_is_served_then() -> None:
    paths = ForecastPaths()
    lower = labels("x_sentinel_expected_lower", i="a", zone="z")
    paths.replace("w", [path([labels(i="a"), labels(i="b")], 100, [[1, 1], [1, 1]])])
    paths.replace("v", [path([lower], 500, [[1, 1]])])
    assert paths.names() == ["x_sentinel_expected", "x_sentinel_expected_lower"]
    assert paths.label_names((), -FAR, FAR) == [METRIC_NAME, "i", "zone"]
    assert paths.label_names((), 0, 200) == [METRIC_NAME, "i"]
    assert paths.label_values("i", (), -FAR, FAR) == ["a", "b"]
    assert paths.label_values("i", (equals("zone", "z"),), -FAR, FAR) == ["a"]
    assert paths.label_values(METRIC_NAME, (), 400, FAR) == ["x_sentinel_expected_lower"]
    assert paths.label_values("zone", (), 0, 200) == []
    paths.acknowledge("v", 510)
    assert paths.label_values("zone", (), -FAR, FAR) == []


def test_what_was_handed_out_does_not_change_afterwards() -> None:
    paths, a = ForecastPaths(), labels(i="a")
    paths.replace("w", [path([a], 100, [[1, 2]])])
    blocks = paths.blocks((NAME,), -FAR, FAR)
    paths.replace("w", [path([a], 100, [[3, 4]])])
    paths.acknowledge("w", 110)
    [one] = ragged(blocks)
    assert one.values.tolist() == [1, 2]


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        OutputPaths((labels(),), np.arange(3, dtype=np.int64), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="increasing"):
        OutputPaths((labels(),), np.array([2, 2], dtype=np.int64), np.zeros((1, 2)))


def test_an_empty_store_has_nothing_to_say() -> None:
    paths = ForecastPaths()
    assert (paths.names(), paths.select((), 0, 1), paths.first_served_ms(())) == ([], [], None)
    paths.acknowledge("nobody", 5)
    paths.remove("nobody")
    assert paths.replace("w", []) == 0
    assert paths.stats().series == 0
    assert ragged([PathBlock((), np.empty(0, dtype=np.int64), np.empty((0, 0)))]) == []


class _Twin:
    """The store as one would explain it: a dict of samples for each series."""

    def __init__(self) -> None:
        self.samples: dict[LabelSet, dict[int, float]] = {}
        self.acked = -FAR

    def replace(self, new: OutputPaths) -> None:
        first = int(new.instants_ms[0])
        for one, row in zip(new.labels, new.values.tolist(), strict=True):
            kept = {t: v for t, v in self.samples.get(one, {}).items() if t < first}
            self.samples[one] = kept | dict(zip(new.instants_ms.tolist(), row, strict=True))
        self.samples = {one: self.samples[one] for one in new.labels}

    def acknowledge(self, ms: int) -> None:
        if self.samples:
            self.acked = max(ms, self.acked)

    def served(self) -> dict[str, dict[int, float]]:
        found = {
            str(one): {t: v for t, v in samples.items() if t > self.acked}
            for one, samples in self.samples.items()
        }
        return {one: samples for one, samples in found.items() if samples}


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("ack"), st.integers(90, 200), st.just(frozenset[str]())),
            st.tuples(
                st.just("replace"),
                st.integers(10, 18).map(lambda n: n * 10),
                st.frozensets(st.sampled_from("abc"), min_size=1),
            ),
        ),
        max_size=12,
    )
)
def test_any_history_of_paths_and_acknowledgements_is_served_as_one_would_expect(
    history: list[tuple[str, int, frozenset[str]]],
) -> None:
    paths, twin = ForecastPaths(tail_instants=1000), _Twin()
    for number, (what, ms, names) in enumerate(history):
        if what == "ack":
            paths.acknowledge("w", ms)
            twin.acknowledge(ms)
        else:
            rows = [[number + i / 10, number + i / 10 + 0.5] for i in range(len(names))]
            new = path([labels(i=i) for i in sorted(names)], ms, rows)
            paths.replace("w", [new])
            twin.replace(new)
        assert served(paths) == twin.served()
