"""Versions: numbering, what serves, rollback, pruning, the log."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from sidecar.errors import StoreError
from sidecar.learning import audit as audit_module
from sidecar.learning.records import ACTIVE, AuditEntry
from sidecar.learning.store import StoreLocked, VersionStore
from sidecar.series import LabelSet
from tests.unit.learning.stored import T0, WATCH, batch, labels, opened, served, value_of

ONE = labels(1)[0]


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    return opened(tmp_path / "store")


def statuses(store: VersionStore, of: LabelSet = ONE, watch: str = WATCH) -> dict[int, str]:
    return {record.version: record.status for record in store.versions(watch, of)}


def test_versions_of_a_series_count_upwards_from_one(store: VersionStore) -> None:
    series = labels(3)
    assert store.save(batch(series, 1.0)).tolist() == [1, 1, 1]
    assert store.save(batch(series[1:], 2.0)).tolist() == [2, 2]
    assert store.save(batch(series, 3.0)).tolist() == [2, 3, 3]


def test_two_watches_on_one_series_number_their_own_versions(store: VersionStore) -> None:
    store.save(batch([ONE], 1.0, watch="a"))
    store.save(batch([ONE], 2.0, watch="a"))
    assert store.save(batch([ONE], 3.0, watch="b")).tolist() == [1]
    assert served(store.load("a")) == {ONE: (2, 2.0)}
    assert served(store.load("b")) == {ONE: (1, 3.0)}


def test_what_was_saved_last_serves_and_comes_back_from_disk(tmp_path: Path) -> None:
    series = labels(20)
    store = opened(tmp_path)
    store.save(batch(series, 1.0))
    store.save(batch(series[5:8], 2.0))
    store.close()
    again = opened(tmp_path)
    expected = {one: (1, 1.0 + k / 1000) for k, one in enumerate(series)}
    expected |= {one: (2, 2.0 + k / 1000) for k, one in enumerate(series[5:8])}
    assert served(again.load(WATCH)) == expected
    assert again.notes == ()


def test_only_some_series_can_be_asked_for(store: VersionStore) -> None:
    series = labels(20)
    store.save(batch(series, 1.0))
    asked = [series[3], series[11], LabelSet.of({"__name__": "other"})]
    assert set(served(store.load(WATCH, asked))) == {series[3], series[11]}


def test_versions_of_different_recipes_come_in_groups_of_their_own(store: VersionStore) -> None:
    series = labels(6)
    store.save(batch(series[:2], 1.0))
    store.save(batch(series[2:4], 2.0, model="naive"))
    store.save(batch(series[4:], 3.0, width=7))
    restored = store.load(WATCH)
    found = sorted((group.model, len(group.labels)) for group in restored.groups)
    assert found == [("holt", 2), ("holt", 2), ("naive", 2)]
    assert all(group.settings == {"damped": True, "season": [1, 2]} for group in restored.groups)


def test_a_record_says_how_it_came_about(store: VersionStore) -> None:
    new = batch([ONE], 1.0, cause="drift", mae=2.5)
    store.save(type(new)(**{**vars(new), "drift": np.array([3.5]), "mape": np.array([0.1])}))
    (record,) = store.versions(WATCH, ONE)
    assert record.labels == ONE
    assert (record.version, record.model, record.policy) == (1, "holt", "full_retrain")
    assert (record.cause, record.gate, record.status) == ("drift", "promoted", ACTIVE)
    assert (record.drift, record.mae, record.mape, record.smape) == (3.5, 2.5, 0.1, None)
    assert (record.mase, record.n_samples, record.trained_at_ms) == (0.5, 288, T0)
    assert len(record.sha256) == 64


def test_old_versions_are_pruned_but_never_what_serves_or_its_predecessor(
    tmp_path: Path,
) -> None:
    store = opened(tmp_path, max_versions=3)
    for k in range(1, 7):
        store.save(batch([ONE], float(k)))
    assert statuses(store) == {6: "active", 5: "retired", 4: "retired"}
    store.rollback(WATCH, ONE, 4, at_ms=T0)
    for k in range(7, 12):
        store.save(batch([ONE], float(k), active=False))
    assert statuses(store) == {
        11: "candidate",
        10: "candidate",
        9: "candidate",
        6: "rolled_back",  # the predecessor of what serves
        4: "active",
    }
    assert served(store.load(WATCH)) == {ONE: (4, 4.0)}


def test_with_one_version_kept_there_still_is_one_to_go_back_to(tmp_path: Path) -> None:
    store = opened(tmp_path, max_versions=1)
    for k in range(1, 5):
        store.save(batch([ONE], float(k)))
    assert statuses(store) == {4: "active", 3: "retired"}
    assert value_of(store.rollback(WATCH, ONE, at_ms=T0)) == 3.0


def test_a_number_is_never_given_again(tmp_path: Path) -> None:
    store = opened(tmp_path, max_versions=1)
    given = [int(store.save(batch([ONE], 1.0))[0]) for _ in range(4)]
    store.rollback(WATCH, ONE, at_ms=T0)
    given.append(int(store.save(batch([ONE], 1.0))[0]))
    store.forget(WATCH, [ONE])
    assert store.versions(WATCH, ONE) == []
    given.append(int(store.save(batch([ONE], 1.0))[0]))
    store.close()
    given.append(int(opened(tmp_path).save(batch([ONE], 1.0))[0]))
    assert given == [1, 2, 3, 4, 5, 6, 7]


def test_bytes_that_no_version_needs_are_dropped(tmp_path: Path) -> None:
    store = opened(tmp_path, max_versions=1)
    series = labels(4)
    for k in range(20):
        store.save(batch(series[: 1 + k % 4], float(k)))
    with store._database.reading() as connection:
        (blobs,) = connection.execute("SELECT count(*) FROM blobs").fetchone()
        (used,) = connection.execute("SELECT count(DISTINCT blob) FROM versions").fetchone()
    assert blobs == used <= 8


# Rollback, promotion, pins


def test_a_rollback_lets_the_predecessor_serve_with_its_old_numbers(store: VersionStore) -> None:
    store.save(batch([ONE], 1.0))
    store.save(batch([ONE], 2.0))
    back = store.rollback(WATCH, ONE, at_ms=T0 + 1)
    assert (back.versions.tolist(), value_of(back), back.labels) == ([1], 1.0, (ONE,))
    assert statuses(store) == {2: "rolled_back", 1: "active"}
    assert served(store.load(WATCH)) == {ONE: (1, 1.0)}
    assert store.save(batch([ONE], 3.0)).tolist() == [3]


def test_a_rollback_of_a_rollback_never_returns_unless_asked_for(store: VersionStore) -> None:
    store.save(batch([ONE], 1.0))
    store.save(batch([ONE], 2.0))
    store.rollback(WATCH, ONE, at_ms=T0)
    with pytest.raises(StoreError, match="no earlier version to go back to: name one with --to"):
        store.rollback(WATCH, ONE, at_ms=T0)
    assert value_of(store.rollback(WATCH, ONE, 2, at_ms=T0)) == 2.0


def test_a_rollback_goes_to_any_version_that_is_kept(store: VersionStore) -> None:
    for k in range(1, 5):
        store.save(batch([ONE], float(k)))
    assert value_of(store.rollback(WATCH, ONE, 2, at_ms=T0)) == 2.0


@pytest.mark.parametrize(
    ("version", "said"),
    [(9, "has no version v9; stored: v2 .active., v1"), (2, "served by v2 already")],
)
def test_a_rollback_that_cannot_be_done_changes_nothing_and_says_what_there_is(
    store: VersionStore, version: int, said: str
) -> None:
    store.save(batch([ONE], 1.0))
    store.save(batch([ONE], 2.0))
    before = statuses(store), len(store.audit())
    with pytest.raises(StoreError, match=said):
        store.rollback(WATCH, ONE, version, at_ms=T0)
    assert (statuses(store), len(store.audit())) == before
    assert store.load(WATCH).pinned == frozenset()


def test_there_is_nothing_to_go_back_to_before_the_second_version(store: VersionStore) -> None:
    with pytest.raises(StoreError, match=r"no earlier version to go back to: .*; stored: none"):
        store.rollback(WATCH, ONE, at_ms=T0)
    store.save(batch([ONE], 1.0))
    with pytest.raises(StoreError, match=r"no earlier version to go back to: .*; stored: v1"):
        store.rollback(WATCH, ONE, at_ms=T0)


def test_a_rollback_to_bytes_that_do_not_verify_changes_nothing(store: VersionStore) -> None:
    store.save(batch([ONE], 1.0))
    store.save(batch([ONE], 2.0))
    damage(store, "UPDATE blobs SET data = zeroblob(length(data)) WHERE id = 1")
    before = statuses(store)
    with pytest.raises(StoreError, match="checksum"):
        store.rollback(WATCH, ONE, at_ms=T0)
    assert statuses(store) == before
    assert served(store.load(WATCH)) == {ONE: (2, 2.0)}


def test_a_rollback_pins_until_the_operator_acts(store: VersionStore) -> None:
    store.save(batch([ONE], 1.0))
    store.save(batch([ONE], 2.0))
    store.rollback(WATCH, ONE, at_ms=T0)
    assert store.load(WATCH).pinned == {ONE}
    store.save(batch([ONE], 3.0, cause="cron", active=False))
    assert store.load(WATCH).pinned == {ONE}
    store.pin(WATCH, ONE, False, at_ms=T0)
    assert store.load(WATCH).pinned == frozenset()
    store.pin(WATCH, ONE, True, at_ms=T0)
    store.save(batch([ONE], 4.0, cause="operator"))
    assert store.load(WATCH).pinned == frozenset()


def test_a_rollback_by_the_gate_need_not_pin(store: VersionStore) -> None:
    store.save(batch([ONE], 1.0))
    store.save(batch([ONE], 2.0))
    store.rollback(WATCH, ONE, at_ms=T0, who="gate", pin=False)
    assert store.load(WATCH).pinned == frozenset()


def test_an_unknown_series_cannot_be_pinned(store: VersionStore) -> None:
    with pytest.raises(StoreError, match="no version of it is stored yet"):
        store.pin(WATCH, ONE, True, at_ms=T0)


def test_a_candidate_waits_until_it_is_promoted(store: VersionStore) -> None:
    store.save(batch([ONE], 1.0))
    store.save(batch([ONE], 2.0, active=False))
    store.save(batch([ONE], 3.0, active=False))
    assert served(store.load(WATCH)) == {ONE: (1, 1.0)}
    assert value_of(store.promote(WATCH, ONE, at_ms=T0)) == 3.0
    assert statuses(store) == {3: "active", 2: "candidate", 1: "retired"}
    assert value_of(store.rollback(WATCH, ONE, at_ms=T0)) == 1.0


def test_there_may_be_no_candidate_to_promote(store: VersionStore) -> None:
    store.save(batch([ONE], 1.0))
    with pytest.raises(StoreError, match="no candidate waiting; stored: v1"):
        store.promote(WATCH, ONE, at_ms=T0)


# The log


def test_every_change_is_in_the_log_with_who_from_and_to(store: VersionStore) -> None:
    store.save(batch([ONE], 1.0, cause="first", at_ms=10))
    store.save(batch([ONE], 2.0, cause="drift", at_ms=20))
    store.rollback(WATCH, ONE, at_ms=30, who="alice")
    store.note([AuditEntry(40, "gate", "rejected_worse", ONE, WATCH, detail={"mae": 2.0})])
    store.note([AuditEntry(50, "operator", "reload")])
    found = [
        (entry.at_ms, entry.who, entry.what, entry.from_version, entry.to_version)
        for _, entry in store.audit()
    ]
    assert found == [
        (50, "operator", "reload", None, None),
        (40, "gate", "rejected_worse", None, None),
        (30, "alice", "rollback", 2, 1),
        (20, "drift", "promote", 1, 2),
        (10, "first", "promote", None, 1),
    ]
    assert store.audit(WATCH, ONE, limit=1)[0][1].detail == {"mae": 2.0}
    assert store.audit(WATCH, ONE)[-1][1].labels == ONE


def test_the_log_is_read_in_pages(store: VersionStore) -> None:
    for k in range(7):
        store.save(batch([ONE], float(k), at_ms=k))
    first = store.audit(WATCH, ONE, limit=3)
    rest = store.audit(WATCH, ONE, limit=10, before_id=first[-1][0])
    assert [entry.at_ms for _, entry in first + rest] == [6, 5, 4, 3, 2, 1, 0]
    assert store.audit("other") == []


def test_the_log_says_which_version_made_a_prediction(store: VersionStore) -> None:
    store.save(batch([ONE], 1.0, at_ms=100))
    store.save(batch([ONE], 2.0, at_ms=200))
    store.save(batch([ONE], 3.0, at_ms=250, active=False))
    store.rollback(WATCH, ONE, at_ms=300)
    asked = {t_ms: store.serving_at(WATCH, ONE, t_ms) for t_ms in (99, 100, 199, 299, 300)}
    assert asked == {99: None, 100: 1, 199: 1, 299: 2, 300: 1}


@pytest.mark.parametrize("statement", ["UPDATE audit SET who = 'x'", "DELETE FROM audit"])
def test_the_log_cannot_be_rewritten(store: VersionStore, statement: str) -> None:
    store.save(batch([ONE], 1.0))
    with (
        pytest.raises(StoreError, match="append-only"),
        store._database.transaction() as connection,
    ):
        connection.execute(statement)


def test_versions_of_series_that_are_gone_for_good_are_dropped(store: VersionStore) -> None:
    series = labels(5)
    store.save(batch(series, 1.0, at_ms=1_000))
    store.save(batch(series, 1.0, watch="other", at_ms=1_000))
    store.save(batch(series[:2], 2.0, at_ms=5_000))
    store.pin(WATCH, series[4], True, at_ms=2_000)
    assert store.forget_gone(WATCH, {series[3].key}, before_ms=5_000) == 1
    assert set(served(store.load(WATCH))) == {*series[:2], *series[3:]}
    assert set(served(store.load("other"))) == set(series)
    assert store.forget_gone(WATCH, set(), before_ms=5_001) == 3
    assert set(served(store.load(WATCH))) == {series[4]}
    assert store.pinned(WATCH) == {series[4]}
    assert store.forget_gone(WATCH, set(), before_ms=5_001) == 0
    assert store.save(batch([series[0]], 3.0)).tolist() == [3]


def test_bytes_that_only_series_that_are_gone_needed_are_freed(store: VersionStore) -> None:
    series = labels(50)
    for k, one in enumerate(series):
        store.save(batch([one], float(k), at_ms=k))
    store.forget_gone(WATCH, {series[7].key}, before_ms=1_000)
    with store._database.reading() as connection:
        [(blobs,)] = connection.execute("SELECT count(*) FROM blobs").fetchall()
    assert blobs == 1


def test_a_series_that_is_gone_leaves_nothing_once_the_log_has_forgotten_it(
    store: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "MOST_ROWS", 10)
    waves = [labels(30)[k : k + 5] for k in range(0, 30, 5)]
    for k, wave in enumerate(waves):
        store.save(batch(wave, 1.0, at_ms=k))
        store.save(batch(wave, 2.0, at_ms=k))
        store.forget_gone(WATCH, {one.key for one in wave}, before_ms=k)
        assert set(served(store.load(WATCH))) == set(wave)
    with store._database.reading() as connection:
        [(rows,)] = connection.execute("SELECT count(*) FROM series").fetchall()
    assert rows == 5  # the log speaks of the newest ten, two of each
    assert store.save(batch([waves[0][0]], 3.0)).tolist()[0] > 2  # never a number twice


def test_a_series_that_may_come_back_stays_though_the_log_has_forgotten_it(
    store: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "MOST_ROWS", 10)
    series = labels(12)
    store.save(batch(series, 1.0, at_ms=5_000))
    assert store.forget_gone(WATCH, {series[11].key}, before_ms=5_000) == 0
    assert set(served(store.load(WATCH))) == set(series)


def test_the_number_of_a_series_that_is_gone_stays_as_long_as_the_log_speaks_of_it(
    store: VersionStore,
) -> None:
    store.save(batch([ONE], 1.0, at_ms=1))
    store.save(batch([ONE], 2.0, at_ms=1))
    store.forget_gone(WATCH, set(), before_ms=2)
    assert {entry.labels for _, entry in store.audit()} == {ONE}
    other = labels(3)[2]
    assert store.save(batch([other], 3.0)).tolist() == [1]
    assert store.save(batch([ONE], 3.0)).tolist() == [3]


def test_the_log_forgets_its_oldest_entries_beyond_a_limit(
    store: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "MOST_ROWS", 10)
    for k in range(25):
        store.save(batch([ONE], float(k), at_ms=k))
    assert [entry.at_ms for _, entry in store.audit(limit=100)] == list(range(24, 14, -1))


# Edges


def test_a_batch_is_stored_as_a_whole_or_not_at_all(store: VersionStore) -> None:
    series = labels(2)
    store.save(batch(series, 1.0))
    with pytest.raises(ValueError, match="names a series twice"):
        store.save(batch([*series, series[0]], 2.0))
    assert store.save(batch(series, 3.0)).tolist() == [2, 2]
    assert len(store.audit()) == 4


def test_an_empty_batch_is_no_version(store: VersionStore) -> None:
    assert store.save(batch([], 1.0)).tolist() == []
    assert store.load(WATCH).groups == ()


def test_arrays_of_another_length_than_the_series_are_refused() -> None:
    new = batch(labels(2), 1.0)
    with pytest.raises(ValueError, match=r"arrays\['sigma'\] has 3 entries for 2 series"):
        type(new)(**{**vars(new), "arrays": {"sigma": np.zeros(3)}})
    with pytest.raises(ValueError, match="mae has 3 entries for 2 series"):
        type(new)(**{**vars(new), "mae": np.zeros(3)})


@pytest.mark.parametrize(
    "value", ['quo"te', "back\\slash", "new\nline", "../../etc/passwd", "ünï", "a" * 5000, "'; --"]
)
def test_any_label_value_is_safe(store: VersionStore, value: str) -> None:
    odd = LabelSet.of({"__name__": "load", "path": value})
    store.save(batch([odd], 1.0))
    assert served(store.load(WATCH)) == {odd: (1, 1.0)}
    assert store.versions(WATCH, odd)[0].labels == odd
    assert store.audit(WATCH, odd)[0][1].labels == odd


def test_settings_that_are_not_plain_json_are_refused(store: VersionStore) -> None:
    new = batch([ONE], 1.0)
    with pytest.raises(StoreError, match="settings of model holt"):
        store.save(type(new)(**{**vars(new), "settings": {"model": object()}}))
    with pytest.raises(StoreError, match="type object"):
        store.save(type(new)(**{**vars(new), "arrays": {"sigma": np.array([None])}}))
    assert store.versions(WATCH, ONE) == []


def test_states_of_text_and_bytes_and_integers_come_back_as_they_were(store: VersionStore) -> None:
    new = batch([ONE], 1.0)
    arrays = {
        "sigma": np.ones(1),
        "lags": np.ones((1, 3)),
        "blob": np.array([b"PK\x00\x01"]),
        "note": np.array(["naïve"]),
        "count": np.array([2**62]),
        "flag": np.array([True]),
    }
    store.save(type(new)(**{**vars(new), "arrays": arrays}))
    (group,) = store.load(WATCH).groups
    for name, array in arrays.items():
        np.testing.assert_array_equal(group.arrays[name], array)
        assert group.arrays[name].dtype == array.dtype


def test_the_store_can_be_used_from_several_threads(store: VersionStore) -> None:
    series = labels(8)
    failed: list[BaseException] = []

    def work(one: LabelSet) -> None:
        try:
            for k in range(10):
                store.save(batch([one], float(k)))
                store.load(WATCH, [one])
        except BaseException as error:  # noqa: BLE001 - reported below
            failed.append(error)

    threads = [threading.Thread(target=work, args=(one,)) for one in series]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert {version for version, _ in served(store.load(WATCH)).values()} == {10}


def test_a_change_of_the_working_directory_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = VersionStore.open("artifacts")
    store.save(batch([ONE], 1.0))
    (tmp_path / "elsewhere").mkdir()
    os.chdir(tmp_path / "elsewhere")
    store.put_runtime("w", {"a": np.ones(1)}, {})
    store.save(batch([ONE], 2.0))
    store.close()
    assert list((tmp_path / "elsewhere").iterdir()) == []
    again = VersionStore.open(tmp_path / "artifacts")
    assert served(again.load(WATCH)) == {ONE: (2, 2.0)}
    assert again.get_runtime("w") is not None


def test_a_folder_that_moves_keeps_its_versions(tmp_path: Path) -> None:
    store = opened(tmp_path / "here")
    store.save(batch([ONE], 1.0))
    store.close()
    (tmp_path / "here").rename(tmp_path / "there")
    assert served(opened(tmp_path / "there").load(WATCH)) == {ONE: (1, 1.0)}


def test_only_one_process_may_use_a_store_and_the_second_is_told_who_does(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(StoreLocked, match=rf"in use by another sentinel \(process {os.getpid()}\)"):
        opened(tmp_path)
    store.close()
    opened(tmp_path).close()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.save(batch([ONE], 1.0))
    with pytest.raises(StoreError, match="closed"):
        store.load(WATCH)


def test_nobody_else_can_read_what_is_stored(tmp_path: Path) -> None:
    store = opened(tmp_path / "new")
    store.save(batch([ONE], 1.0))
    store.put_runtime("w", {}, {})
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
    assert (tmp_path / "new" / "versions.db").stat().st_mode & 0o077 == 0


def damage(store: VersionStore, statement: str) -> None:
    with store._database.transaction() as connection:
        connection.execute(statement)
