"""Which of several watches on one series publishes what."""

import numpy as np

from sidecar.publish.ownership import Claim, Ownership
from sidecar.series import LabelSet, Matcher, MatchOp, Selector

A = LabelSet.of({"__name__": "x", "job": "a"})
B = LabelSet.of({"__name__": "x", "job": "b"})
ONLY_A = Selector.of("x", Matcher("job", MatchOp.EQUAL, "a"))
ALL = Selector.of("x")
MINUTE = 60_000


def of(ownership: Ownership, watch: int) -> tuple[list[bool], list[bool]]:
    owner, predicts = ownership.of(watch, (A, B))
    return owner.tolist(), predicts.tolist()


def test_the_first_watch_owns_and_a_later_one_predicts_at_another_horizon() -> None:
    ownership = Ownership([Claim(ONLY_A, "x", 5 * MINUTE), Claim(ALL, "x", 10 * MINUTE)])
    assert of(ownership, 0) == ([True, True], [True, True])
    assert of(ownership, 1) == ([False, True], [True, True])


def test_the_same_horizon_is_published_once() -> None:
    ownership = Ownership([Claim(ONLY_A, "x", 5 * MINUTE), Claim(ALL, "x", 5 * MINUTE)])
    assert of(ownership, 1) == ([False, True], [False, True])


def test_another_output_name_is_no_rival() -> None:
    ownership = Ownership([Claim(ALL, "x", MINUTE), Claim(ALL, "y", MINUTE)])
    assert of(ownership, 1) == ([True, True], [True, True])


def test_a_watch_that_selects_by_an_external_label_owns_what_it_reads() -> None:
    here = Selector.of("x", Matcher("cluster", MatchOp.EQUAL, "one"))
    claims = [Claim(here, "x", 5 * MINUTE), Claim(ALL, "x", 5 * MINUTE)]
    assert of(Ownership(claims, lambda: {"cluster": "one"}), 1) == ([False] * 2, [False] * 2)
    assert of(Ownership(claims, lambda: {"cluster": "two"}), 1) == ([True] * 2, [True] * 2)


def test_a_third_watch_yields_to_each_before_it() -> None:
    ownership = Ownership(
        [Claim(ONLY_A, "x", MINUTE), Claim(ALL, "x", 2 * MINUTE), Claim(ALL, "x", 2 * MINUTE)]
    )
    owner, predicts = ownership.of(2, (A, B))
    assert not owner.any()
    assert not predicts.any()
    np.testing.assert_array_equal(ownership.of(2, ())[0], np.zeros(0, dtype=np.bool_))
