"""What is pushed is kept as a dictionary would keep it, and not called whole when it is not."""

import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sidecar.ingest.buffer import MAX_AHEAD_MS, PushBuffer, without
from sidecar.names import PushDrop
from sidecar.series import STALE_NAN, LabelSet, Matcher, MatchOp, RawSeries, Selector, is_stale

STEP = 15_000
SPAN = 600_000
NOW = 1_700_000_000_000
UP = Selector.of("up")


def labels(path: str = "a", metric: str = "up", **more: str) -> LabelSet:
    return LabelSet.of({"__name__": metric, "path": path, **more})


def raw(one: LabelSet, times: list[int], values: list[float] | None = None) -> RawSeries:
    numbers = [float(t % 1000) for t in times] if values is None else values
    return RawSeries(one, np.array(times, dtype=np.int64), np.array(numbers, dtype=np.float64))


def steps(first: int, last: int) -> list[int]:
    return [NOW + k * STEP for k in range(first, last + 1)]


def following(*selectors: Selector, span_ms: int = SPAN, max_samples: int = 10_000) -> PushBuffer:
    buffer = PushBuffer(max_samples=max_samples, settle_ms=0)
    buffer.follow(dict.fromkeys(selectors or (UP,), span_ms))
    return buffer


def balanced(buffer: PushBuffer) -> bool:
    stats = buffer.stats()
    return (
        stats.received == stats.kept + sum(stats.dropped.values())
        and stats.kept == stats.buffered + stats.evicted
    )


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.lists(st.integers(-50, 50), min_size=1, max_size=8, unique=True),
            st.floats(-1e9, 1e9),
        ),
        max_size=12,
    )
)
def test_samples_in_any_order_are_kept_as_a_dictionary_keeps_them(
    pushes: list[tuple[str, list[int], float]],
) -> None:
    buffer = following()
    expected: dict[str, dict[int, float]] = {"a": {}, "b": {}}
    for path, offsets, value in pushes:
        times = [NOW + k * STEP for k in sorted(offsets)]
        numbers = [value + k for k in range(len(times))]
        buffer.add([raw(labels(path), times, numbers)], NOW)
        kept = {t: v for t, v in zip(times, numbers, strict=True) if t >= NOW - SPAN}
        expected[path].update({t: v for t, v in kept.items() if t <= NOW + MAX_AHEAD_MS})
    held = {str(one): buffer._held[one] for one in buffer._held}
    for path, samples in expected.items():
        series = held.get(str(labels(path)))
        times = [] if series is None else list(series.times)
        values = [] if series is None else list(series.values)
        assert times == sorted(samples)
        assert values == [samples[t] for t in times]
    assert balanced(buffer)


def test_a_range_that_was_pushed_whole_is_read_sorted_and_clipped_at_both_ends() -> None:
    buffer = following()
    for k in range(20):
        t = NOW + k * STEP
        buffer.add([raw(labels("b"), [t]), raw(labels("a"), [t])], t)
    found = buffer.read(UP, NOW + 3 * STEP, NOW + 7 * STEP)
    assert found is not None
    assert [one.labels for one in found] == [labels("a"), labels("b")]
    assert all(one.timestamps_ms.tolist() == steps(3, 7) for one in found)
    assert found[0].values.tolist() == [float(t % 1000) for t in steps(3, 7)]


def test_nothing_is_called_whole_before_the_first_push() -> None:
    buffer = following()
    assert buffer.covers_since_ms(UP) is None
    assert buffer.read(UP, NOW, NOW + STEP) is None
    buffer.add([raw(labels(), steps(0, 5))], NOW + 5 * STEP)
    assert buffer.covers_since_ms(UP) == NOW + 5 * STEP
    assert buffer.read(UP, NOW, NOW + 5 * STEP) is None


def test_the_shards_of_a_sender_have_time_to_begin() -> None:
    buffer = PushBuffer(settle_ms=1_000)
    buffer.follow({UP: SPAN})
    buffer.add([raw(labels(), [NOW])], NOW)
    assert buffer.covers_since_ms(UP) == NOW + 1_000


def test_a_gap_inside_at_the_edges_or_of_one_series_only_is_not_called_whole() -> None:
    def one_without(missing: set[int]) -> list[RawSeries] | None:
        buffer = following()
        for k in range(20):
            t = NOW + k * STEP
            there = [raw(labels("a"), [t])] + ([raw(labels("b"), [t])] if k not in missing else [])
            buffer.add(there, t)
        return buffer.read(UP, NOW + 5 * STEP, NOW + 15 * STEP)

    assert one_without(set()) is not None
    assert one_without({3}) is not None
    assert one_without({10}) is None
    assert one_without({5}) is None
    assert one_without({14, 15, 16, 17, 18, 19}) is None
    assert one_without(set(range(3, 20))) is None  # silent since before the range


def test_a_stale_marker_explains_a_gap_and_keeps_its_bits() -> None:
    buffer = following()
    for k in range(12):
        t = NOW + k * STEP
        ending = [raw(labels("b"), [t], [STALE_NAN if k == 6 else 1.0])] if k <= 6 else []
        buffer.add([raw(labels("a"), [t]), *ending], t)
    found = buffer.read(UP, NOW + 4 * STEP, NOW + 10 * STEP)
    assert found is not None
    assert is_stale(found[1].values).tolist() == [False, False, True]
    # And merged out of order, too.
    buffer.add([raw(labels("b"), [NOW + 5 * STEP + 1], [2.0])], NOW + 11 * STEP)
    held = buffer._held[labels("b")].values.tobytes()[-8:]
    assert held == struct.pack("<Q", 0x7FF0000000000002)


def test_only_what_a_watch_matches_is_kept_and_each_reason_is_counted() -> None:
    buffer = following(UP.with_matchers(Matcher("path", MatchOp.REGEX, "a|b")))
    buffer.add(
        [
            raw(labels("a"), [NOW]),
            raw(labels("c"), [NOW]),
            raw(labels("a", "up_sentinel_expected"), [NOW]),
            raw(labels("b"), [NOW - SPAN - 1, NOW - SPAN, NOW + MAX_AHEAD_MS, NOW + 700_000]),
        ],
        NOW,
        duplicates=2,
    )
    buffer.add([raw(labels("a"), [NOW])], NOW)
    stats = buffer.stats()
    assert stats.dropped == {
        PushDrop.UNMATCHED: 1,
        PushDrop.OWN_OUTPUT: 1,
        PushDrop.TOO_OLD: 1,
        PushDrop.FUTURE: 1,
        PushDrop.DUPLICATE: 3,
    }
    assert stats.kept == 3
    assert balanced(buffer)


def test_own_output_is_dropped_even_where_a_watch_would_match_it() -> None:
    anything = Selector((Matcher("path", MatchOp.EQUAL, "a"),))
    buffer = following(anything)
    buffer.add([raw(labels("a", "up_sentinel_predicted"), [NOW])], NOW)
    assert buffer.stats().buffered == 0


def test_external_labels_are_taken_off_before_a_selector_looks() -> None:
    buffer = following(UP.with_matchers(Matcher("cluster", MatchOp.EQUAL, "")))
    buffer.strip({"cluster": "one", "replica": ""})
    buffer.add(
        [
            raw(labels("a", cluster="one", replica="r1"), [NOW]),
            raw(labels("b", cluster="other"), [NOW]),
        ],
        NOW,
    )
    assert list(buffer._held) == [labels("a")]
    assert without(labels(cluster="other"), {"cluster": "one"}) == labels(cluster="other")


def test_a_watch_may_select_by_an_external_label_as_it_does_by_remote_read() -> None:
    here, there = (
        UP.with_matchers(Matcher("cluster", MatchOp.EQUAL, name)) for name in ("one", "two")
    )
    buffer = following(here)
    buffer.strip({"cluster": "one"})
    buffer.add([raw(labels("a", cluster="one"), [NOW])], NOW)
    assert list(buffer._held) == [labels("a")]
    buffer.follow({there: 60_000, here: 60_000})
    assert buffer.stats().buffered == 1
    buffer.follow({there: 60_000})
    assert buffer.stats().buffered == 0


def test_at_the_limit_the_oldest_samples_go_and_their_time_is_no_longer_covered() -> None:
    buffer = following(max_samples=40)
    for k in range(21):
        t = NOW + k * STEP
        buffer.add([raw(labels("a"), [t]), raw(labels("b"), [t])], t)
    stats = buffer.stats()
    assert stats.buffered <= 30
    since = buffer.covers_since_ms(UP)
    assert since is not None
    assert since > NOW + 4 * STEP
    assert buffer.read(UP, since - 1, NOW + 20 * STEP) is None
    assert buffer.read(UP, since, NOW + 20 * STEP) is not None
    assert balanced(buffer)


def test_memory_stays_bounded_where_a_single_push_is_beyond_the_limit() -> None:
    buffer = following(max_samples=40)
    buffer.add([raw(labels(str(k)), [NOW]) for k in range(1000)], NOW)
    assert buffer.stats().buffered <= 40
    assert buffer.stats().series <= 40
    assert balanced(buffer)


def test_series_that_no_longer_come_are_forgotten_after_their_span() -> None:
    buffer = following()
    buffer.add([raw(labels("gone"), [NOW])], NOW)
    for k in range(50):
        buffer.add([raw(labels("a"), [NOW + k * STEP])], NOW + k * STEP)
    assert buffer.stats().series == 1
    assert buffer.read(UP, NOW + 30 * STEP, NOW + 49 * STEP) is not None
    assert balanced(buffer)


def test_following_other_selectors_keeps_what_both_want_and_lets_the_rest_go() -> None:
    down = Selector.of("down")
    buffer = following(UP, down)
    for k in range(8):
        t = NOW + k * STEP
        buffer.add([raw(labels("a"), [t]), raw(labels("a", "down"), [t])], t)
    narrow = UP.with_matchers(Matcher("path", MatchOp.EQUAL, "a"))
    buffer.follow({UP: SPAN, narrow: SPAN})
    assert buffer.stats().series == 1
    assert buffer.read(UP, NOW + STEP, NOW + 7 * STEP) is not None
    assert buffer.read(down, NOW + STEP, NOW + 7 * STEP) is None
    assert buffer.read(narrow, NOW + STEP, NOW + 7 * STEP) is None  # nothing came for it yet
    for k in range(8, 12):
        buffer.add([raw(labels("a"), [NOW + k * STEP])], NOW + k * STEP)
    assert buffer.read(narrow, NOW + 8 * STEP, NOW + 11 * STEP) is not None
    assert balanced(buffer)


def test_a_longer_span_does_not_cover_what_a_shorter_one_has_forgotten() -> None:
    buffer = following(span_ms=4 * STEP)
    for k in range(12):
        buffer.add([raw(labels("a"), [NOW + k * STEP])], NOW + k * STEP)
    buffer.follow({UP: SPAN})
    assert buffer.covers_since_ms(UP) == NOW + 7 * STEP


def test_what_was_turned_away_is_judged_anew_when_other_selectors_are_followed() -> None:
    down = Selector.of("down")
    buffer = following(UP)
    both = [raw(labels("a"), [NOW]), raw(labels("a", "down"), [NOW])]
    buffer.add(both, NOW)
    assert list(buffer._held) == [labels("a")]
    buffer.follow({down: SPAN})
    buffer.add(both, NOW)
    assert list(buffer._held) == [labels("a", "down")]
    assert balanced(buffer)


def test_the_counts_can_be_asked_for_while_a_long_read_holds_the_buffer() -> None:
    buffer = following()
    buffer.add([raw(labels(), [NOW])], NOW)
    with buffer._lock:
        assert buffer.stats().kept == 1
