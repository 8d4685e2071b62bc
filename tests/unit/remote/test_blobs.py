"""Taking stored requests apart and putting them together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import WireError
from sidecar.remote import blobs
from sidecar.remote.sliced import without_own_output
from sidecar.series import STALE_NAN, LabelSet, Matcher, MatchOp, Selector
from sidecar.wire import snappy
from sidecar.wire.template import WriteTemplate

AT = 1_700_000_000_000
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
label_sets = st.lists(
    st.dictionaries(texts, texts, min_size=1, max_size=4).map(LabelSet.of),
    min_size=1,
    max_size=30,
    unique=True,
)


def stored(labels: list[LabelSet]) -> bytes:
    values = np.arange(len(labels), dtype=np.float64)
    return snappy.compress(WriteTemplate(labels).encode(AT, values))


@given(label_sets)
def test_what_is_stored_is_read_back(labels: list[LabelSet]) -> None:
    found, times, values = blobs.contents(stored(labels))
    assert found == labels
    assert set(times.tolist()) == {AT}
    assert values.tolist() == list(range(len(labels)))


@given(label_sets, st.booleans())
def test_halves_hold_everything_once_and_join_again(labels: list[LabelSet], by_bytes: bool) -> None:
    if len(labels) < 2:
        return
    body = stored(labels)
    (left, n), (right, m) = blobs.halves(body, by_bytes=by_bytes)
    assert n > 0
    assert m > 0
    assert blobs.contents(left)[0] == labels[:n]
    assert blobs.contents(right)[0] == labels[n:]
    assert blobs.unpack(blobs.join([left, right])) == blobs.unpack(body)


def test_halves_by_count_and_by_bytes_are_what_they_say() -> None:
    labels = [LabelSet.of({"i": str(i), "pad": "x" * (900 if i < 10 else 1)}) for i in range(100)]
    body = stored(labels)
    assert [count for _, count in blobs.halves(body)] == [50, 50]
    (left, n), (right, _) = blobs.halves(body, by_bytes=True)
    sizes = len(blobs.unpack(left)), len(blobs.unpack(right))
    assert n < 10
    assert max(sizes) < 0.6 * sum(sizes)


@given(label_sets, st.sets(st.integers(0, 29)))
def test_unwanted_series_are_taken_out_and_counted(
    labels: list[LabelSet], unwanted: set[int]
) -> None:
    body = stored(labels)
    gone = {labels[i] for i in unwanted if i < len(labels)}
    shorter, removed = blobs.without(body, gone)
    assert removed == len(gone)
    if removed < len(labels):
        assert blobs.contents(shorter)[0] == [one for one in labels if one not in gone]
    if not removed:
        assert shorter is body


def test_a_stale_marker_keeps_its_bits() -> None:
    labels = [LabelSet.of({"a": "b"})]
    raw = WriteTemplate(labels).encode(AT, np.array([STALE_NAN]))
    _, _, values = blobs.contents(snappy.compress(raw))
    assert values.view(np.uint64).tolist() == [0x7FF0000000000002]


@pytest.mark.parametrize("raw", [b"\x12\x00", b"\x0a\x05abc", b"\x0a", b"\x0a\xff\xff\xff"])
def test_what_is_no_request_of_ours_is_refused(raw: bytes) -> None:
    with pytest.raises(WireError):
        blobs.series_borders(raw)


def test_a_selector_without_a_plain_name_excludes_own_output() -> None:
    plain = Selector.of("x_sentinel_expected")
    assert without_own_output(plain) is plain
    regex = Selector((Matcher("__name__", MatchOp.REGEX, "x.*"),))
    nameless = Selector((Matcher("job", MatchOp.EQUAL, "a"),))
    for selector in (regex, nameless):
        excluding = without_own_output(selector)
        for name, taken in [
            ("x", True),
            ("xx_sentinel_master_status", True),
            ("x_sentinel_expected", False),
            ("x_sentinel_predicted_lower", False),
        ]:
            labels = LabelSet.of({"__name__": name, "job": "a"})
            assert excluding.accepts(labels) is taken
