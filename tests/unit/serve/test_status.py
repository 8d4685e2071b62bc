"""Facts of series: which keys, which series, in which order, how many."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sidecar.known import Known
from sidecar.names import FAILURES, Reason
from sidecar.serve import status
from sidecar.serve.selecting import selected
from sidecar.serve.status import (
    STATES,
    StatusPage,
    Wanted,
    count_reasons,
    count_states,
    series_facts,
    status_page,
    without,
)
from sidecar.serve.status_api import encoded, wanted_of
from tests.unit.serve.made_watches import changed, known_series, watch_of

KEYS = {
    "labels",
    "watch",
    "ready",
    "state",
    "reason",
    "model",
    "transform",
    "granularity",
    "horizon",
    "active_version",
    "active_version_mae",
    "pinned",
    "drift_mae",
    "mase",
    "coverage",
    "buffer_fill",
    "last_train",
    "explanation",
    "last_error",
}


@pytest.fixture(scope="module")
def known() -> Known:
    return known_series(6)


def names(page: StatusPage) -> list[str]:
    return [one["labels"]["instance"] for one in page.series.values()]


def test_each_series_is_keyed_by_its_notation_and_has_every_fact(known: Known) -> None:
    facts = series_facts([watch_of(known)])
    assert list(facts) == [f'x{{instance="s{i}"}}' for i in range(6)]
    one = facts['x{instance="s3"}']
    assert set(one) == KEYS
    assert one["ready"] is True
    assert one["state"] == "serving"
    assert one["active_version"] == "v1"
    assert one["buffer_fill"] == 1.0
    assert one["last_error"] is None
    assert 0.5 < one["drift_mae"] < 2
    assert 0.5 < one["mase"] < 1
    assert one["coverage"] > 0.8


def test_a_watch_that_has_not_begun_has_no_series_and_no_page_is_too_far(known: Known) -> None:
    assert series_facts([watch_of(None)]) == {}
    page = status_page([watch_of(known)], (), Wanted(offset=100, limit=10))
    assert (page.series, page.total, page.matched) == ({}, 6, 6)


@pytest.mark.parametrize("limit", [1, 2, 4, 6, 50])
def test_pages_put_together_are_the_whole(known: Known, limit: int) -> None:
    watches = [watch_of(known), watch_of(known, horizon="10m")]
    whole = series_facts(watches)
    assert len(whole) == 12
    joined: dict[str, Any] = {}
    for offset in range(0, 12, limit):
        joined |= status_page(watches, (), Wanted(offset=offset, limit=limit)).series
    assert joined == whole
    assert list(joined) == list(whole)


def test_the_same_series_in_several_watches_is_told_apart(known: Known) -> None:
    watches = [watch_of(known), watch_of(known, horizon="10m"), watch_of(known, horizon="10m")]
    keys = [key for key in series_facts(watches) if "s0" in key]
    assert keys == [
        'x{instance="s0"}',
        'x{instance="s0"} [linear, 10m ahead]',
        'x{instance="s0"} [linear, 10m ahead]\'',
    ]
    last = status_page(watches, (), Wanted(offset=12, limit=1))
    assert list(last.series) == keys[2:]


def test_the_first_watch_on_a_series_does_not_lengthen_the_keys_of_later_ones(
    known: Known,
) -> None:
    watches = [watch_of(known, horizon=one) for one in ("10m", "5m", "10m")]
    keys = [key for key in series_facts(watches) if "s0" in key]
    assert keys == [
        'x{instance="s0"}',
        'x{instance="s0"} [linear, 5m ahead]',
        'x{instance="s0"} [linear, 10m ahead]',
    ]


def test_states_are_told_by_what_serves(known: Known) -> None:
    versions = known.versions.copy()
    versions[1] = 0
    mixed = changed(
        known,
        versions=versions,
        ended=np.arange(6) == 2,
        serves_naive=np.isin(np.arange(6), (2, 3)),
    )
    page = status_page([watch_of(mixed)], (), Wanted())
    assert [one["state"] for one in page.series.values()] == [
        "serving",
        "waiting",
        "ended",
        "fallback",
        "serving",
        "serving",
    ]
    assert dict(page.states) == {"serving": 3, "fallback": 1, "waiting": 1, "ended": 1}
    assert count_states([watch_of(mixed), watch_of(None)]) == page.states
    assert list(count_states([])) == list(STATES)
    some = status_page([watch_of(mixed)], (), Wanted(states=frozenset({"waiting", "ended"})))
    assert names(some) == ["s1", "s2"]
    assert (some.matched, some.total) == (2, 6)
    assert some.states == page.states


def test_reasons_are_counted_and_chosen_by(known: Known) -> None:
    watch = watch_of(
        known, reasons=[Reason.GAP], rejected=known.labels[1:3], silent=known.labels[3:4]
    )
    page = status_page([watch], (), Wanted(reasons=frozenset({"write_rejected", "gap"})))
    assert names(page) == ["s0", "s1", "s2"]
    assert dict(page.reasons) == {"gap": 1, "write_rejected": 2, "duplicate_output": 1}
    assert [one["ready"] for one in page.series.values()] == [False] * 3


def test_series_without_a_forecast_are_named_with_their_reason(known: Known) -> None:
    watch = watch_of(known, reasons=[Reason.STALE_INPUT], rejected=known.labels[1:2])
    reasons = [Reason.STALE_INPUT, Reason.WRITE_REJECTED]
    assert without(watch, ()) == dict(zip(known.labels, reasons, strict=False))
    assert [reason in FAILURES for reason in reasons] == [False, True]
    assert without(watch_of(None), ()) == {}


def test_a_source_that_fails_is_the_reason_of_all_that_have_no_other(known: Known) -> None:
    watch = watch_of(known, reasons=[Reason.GAP], trouble="it does not answer")
    facts = list(series_facts([watch]).values())
    assert [one["reason"] for one in facts] == ["gap", *["source_error"] * 5]
    assert {one["last_error"] for one in facts} == {"it does not answer"}


def test_a_watch_that_cannot_begin_is_named_and_counted(known: Known) -> None:
    watches = [watch_of(known), watch_of(None, trouble="bad expression"), watch_of(None)]
    told = {"selector": "x", "metric": "x", "error": "bad expression"}
    assert status_page(watches, (), Wanted()).not_begun == (told,)
    assert count_reasons(watches)["source_error"] == 1
    assert count_reasons(watches[:1])["source_error"] == 0


def test_selectors_choose_and_totals_stay(known: Known) -> None:
    wanted = Wanted(accepts=selected(['{instance=~"s[12]"}', 'x{instance="s5"}']))
    page = status_page([watch_of(known)], (), wanted)
    assert names(page) == ["s1", "s2", "s5"]
    assert (page.matched, page.total, page.states["serving"]) == (3, 6, 3)


@pytest.mark.parametrize("sort", ["mase", "drift"])
def test_the_worst_come_first_and_the_unjudged_last(known: Known, sort: str) -> None:
    tracker = known.tracker
    residuals = {t: np.where(np.arange(6) == 4, np.nan, r) for t, r in tracker.residuals.items()}

    watch = watch_of(changed(known, tracker=replace(tracker, residuals=residuals)))
    page = status_page([watch, watch_of(None)], (), Wanted(sort=sort, limit=4))
    found = [
        one["mase"] if sort == "mase" else one["drift_mae"] / one["active_version_mae"]
        for one in page.series.values()
    ]
    assert found == sorted(found, reverse=True)
    rest = status_page([watch], (), Wanted(sort=sort, offset=4))
    assert names(rest)[-1] == "s4"
    assert set(names(page)) | set(names(rest)) == {f"s{i}" for i in range(6)}


@pytest.mark.parametrize("sort", ["mase", "drift"])
def test_the_order_does_not_depend_on_the_size_of_blocks(
    known: Known, sort: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = names(status_page([watch_of(known)], (), Wanted(sort=sort)))
    monkeypatch.setattr(status, "_BLOCK", 4)
    assert names(status_page([watch_of(known)], (), Wanted(sort=sort))) == whole
    assert whole != [f"s{i}" for i in range(6)]


def test_the_answer_says_where_the_next_page_begins(known: Known) -> None:
    def answer(offset: int, limit: int) -> dict[str, Any]:
        wanted = Wanted(offset=offset, limit=limit)
        found: dict[str, Any] = json.loads(
            encoded(status_page([watch_of(known)], (), wanted), wanted)
        )
        return found

    first, last = answer(0, 4), answer(4, 4)
    assert first["status"] == "success"
    assert list(first["data"]) == [f'x{{instance="s{i}"}}' for i in range(4)]
    assert first["page"]["next_offset"] == 4
    assert last["page"]["next_offset"] is None
    assert answer(0, 6)["page"]["next_offset"] is None
    assert answer(9, 4)["page"] == {
        "total": 6,
        "matched": 6,
        "offset": 9,
        "limit": 4,
        "next_offset": None,
        "states": {"serving": 6, "fallback": 0, "waiting": 0, "ended": 0},
        "reasons": {},
        "not_begun": [],
        "not_delivered": [],
    }


def test_parameters_are_read() -> None:
    wanted = wanted_of(
        {"state": ["serving,ended", "waiting"], "sort": ["drift"], "limit": ["7"], "offset": ["3"]}
    )
    assert wanted.states == {"serving", "ended", "waiting"}
    assert (wanted.sort, wanted.limit, wanted.offset) == ("drift", 7, 3)
    assert wanted_of({}) == Wanted(limit=1_000)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"limit": ["0"]}, "limit is at least 1"),
        ({"limit": ["99999"]}, "limit is 99999, but at most 10000: for more ask page by page"),
        ({"limit": ["-1"]}, "limit is '-1', but must be a whole number"),
        ({"offset": ["1.5"]}, "offset is '1.5'"),
        ({"sort": ["name"]}, "sort is 'name', but must be one of mase, drift"),
        ({"state": ["gone"]}, "state is 'gone', but must be one of serving, fallback"),
        ({"reason": ["bad"]}, "reason is 'bad', but must be one of insufficient_history"),
        ({"match[]": ["rate(x[5m])"]}, "match[]: "),
        ({"match[]": ['{a=~"("}']}, "match[]: "),
        ({"match[]": ["x"] * 65}, "more than 64 selectors"),
        ({"match": ["x"]}, "'match' is not known; there are match[]"),
    ],
)
def test_wrong_parameters_are_named(query: dict[str, list[str]], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("[", r"\[").replace("(", r"\(")):
        wanted_of(query)
