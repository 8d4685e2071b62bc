"""Damaged state on disk: never a failed start, never another's or another version's numbers."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from sidecar.errors import StoreError
from sidecar.learning import blobs, database, rows, schema
from sidecar.learning.database import Database
from sidecar.learning.store import VersionStore
from tests.unit.learning.stored import T0, WATCH, batch, labels, opened, served

SERIES = labels(3)
FIRST = {one: (1, 1.0 + k / 1000) for k, one in enumerate(SERIES)}
SECOND = {one: (2, 2.0 + k / 1000) for k, one in enumerate(SERIES)}
EITHER = {one: {FIRST[one], SECOND[one], None} for one in SERIES}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of three series with two versions each, closed."""
    store = opened(tmp_path / "store")
    store.save(batch(SERIES, 1.0))
    store.save(batch(SERIES, 2.0))
    store.close()
    return tmp_path / "store"


def alter(folder: Path, statement: str, *arguments: object) -> None:
    with closing(sqlite3.connect(folder / "versions.db")) as connection, connection:
        connection.execute(statement, arguments)


# Rows and bytes


def test_when_the_bytes_of_a_version_are_damaged_its_predecessor_serves(folder: Path) -> None:
    alter(folder, "UPDATE blobs SET data = zeroblob(length(data)) WHERE id = 2")
    store = opened(folder)
    restored = store.load(WATCH)
    assert served(restored) == FIRST
    assert any("checksum" in note for note in restored.notes)
    assert restored.lost == frozenset()
    assert {r.version: r.status for r in store.versions(WATCH, SERIES[0])} == {
        2: "damaged",
        1: "active",
    }
    (_, newest), *_ = store.audit(WATCH, SERIES[0])
    assert (newest.who, newest.what, newest.to_version) == ("store", "fall_back", 1)
    assert list((folder / "set_aside").iterdir())
    assert store.load(WATCH).notes == ()
    assert store.save(batch(SERIES, 3.0)).tolist() == [3, 3, 3]


def test_when_every_version_is_damaged_the_series_are_named_as_lost(folder: Path) -> None:
    alter(folder, "UPDATE blobs SET data = zeroblob(length(data))")
    restored = opened(folder).load(WATCH)
    assert restored.groups == ()
    assert restored.lost == set(SERIES)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("place", 1),
        ("place", 99),
        ("place", -1),
        ("blob", 1),
        ("blob", 77),
        ("mae", 0.001),
        ("mae", None),
        ("trained_at_ms", 1),
        ("gate", "other"),
        ("seal", 5),
        ("n_samples", 0),
        ("policy", "finetune"),
    ],
)
def test_a_row_that_changed_by_itself_is_not_believed(
    folder: Path, column: str, value: object
) -> None:
    key = SERIES[0].key
    alter(
        folder,
        f"UPDATE versions SET {column} = ? WHERE version = 2 AND series = "
        "(SELECT id FROM series WHERE key = ?)",
        value,
        key,
    )
    assert served(opened(folder).load(WATCH)) == {**SECOND, SERIES[0]: FIRST[SERIES[0]]}


@pytest.mark.parametrize(("place", "version"), [(1, 2), (0, 3)])
def test_a_state_that_says_it_is_anothers_is_not_believed_whatever_its_row_says(
    folder: Path, place: int, version: int
) -> None:
    store = opened(folder)
    with store._database.transaction() as connection:
        newest, *_ = rows.one_series(connection, WATCH, SERIES[0])
        forged = newest._replace(place=place, version=version)
        connection.execute(
            "UPDATE versions SET place = ?, version = ?, seal = ? WHERE series = ? AND version = 2",
            (forged.place, forged.version, forged.seal_with("active"), newest.series),
        )
    assert served(store.load(WATCH)) == {**SECOND, SERIES[0]: FIRST[SERIES[0]]}


@pytest.mark.parametrize("statement", ["DELETE FROM blobs WHERE id = 2", "DELETE FROM blobs"])
def test_bytes_that_are_missing_are_a_damage_like_any_other(folder: Path, statement: str) -> None:
    alter(folder, statement)
    found = served(opened(folder).load(WATCH))
    assert found == (FIRST if "id = 2" in statement else {})


def test_a_series_whose_active_mark_is_gone_gets_its_newest_version_back(folder: Path) -> None:
    alter(folder, "UPDATE versions SET status = 'actixe' WHERE version = 2")
    assert served(opened(folder).load(WATCH)) == FIRST


def test_labels_that_do_not_fit_their_key_are_not_believed(folder: Path) -> None:
    alter(folder, 'UPDATE series SET labels = \'[["__name__","x"]]\' WHERE id = 1')
    alter(folder, "UPDATE series SET labels = 'not json' WHERE id = 2")
    found = served(opened(folder).load(WATCH))
    assert len(found) == 1
    assert all(version == 2 for version, _ in found.values())


def test_a_version_once_found_damaged_is_not_served_on_request_either(folder: Path) -> None:
    alter(folder, "UPDATE versions SET mae = 0.001 WHERE version = 2")
    store = opened(folder)
    assert served(store.load(WATCH)) == FIRST
    with pytest.raises(StoreError, match="v2 does not verify"):
        store.rollback(WATCH, SERIES[0], 2, at_ms=T0)
    assert store.versions(WATCH, SERIES[0])[0].settings == {}


def test_an_entry_of_the_log_that_is_damaged_still_says_when_and_what(folder: Path) -> None:
    insert = "INSERT INTO audit (at_ms, who, what, series, detail) VALUES (1, 'x', 'pin', 1, '{')"
    alter(folder, insert)
    found = opened(folder).audit()
    assert (found[0][1].what, found[0][1].labels) == ("pin", None)


def test_a_damage_that_shows_only_in_use_is_mended_in_use(folder: Path) -> None:
    store = opened(folder)
    assert store.load(WATCH).notes == ()
    path = folder / "versions.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'versions_by_blob'"
        ).fetchone()
    store.close()
    data = bytearray(path.read_bytes())
    data[(page - 1) * 4096 : page * 4096] = b"\xa5" * 4096
    path.write_bytes(data)
    store = opened(folder)
    assert list(store.notes) == []
    assert store.save(batch(SERIES, 3.0)).tolist() == [3, 3, 3]
    assert "was damaged" in store.notes[0]
    assert {version for version, _ in served(store.load(WATCH)).values()} == {3}


# The file


def sample(length: int, count: int) -> list[int]:
    return sorted({*np.linspace(0, length - 1, count, dtype=int).tolist(), 0, length - 1})


def only_what_was_saved(store: VersionStore) -> None:
    """Each series serves one of its versions, or none and is then not served another's."""
    try:
        restored = store.load(WATCH)
    except StoreError:
        return  # named as unreadable
    for one, found in served(restored).items():
        assert found in EITHER[one], f"{one} is served {found}"


def test_a_file_cut_short_anywhere_never_prevents_a_start(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "versions.db").read_bytes()
    for number, length in enumerate(sample(len(whole), 60)):
        broken = tmp_path / f"cut-{number}"
        broken.mkdir()
        (broken / "versions.db").write_bytes(whole[:length])
        store = opened(broken)
        only_what_was_saved(store)
        assert store.degraded == ""
        assert (store.save(batch(SERIES, 9.0)) >= 1).all()
        store.close()


def test_a_byte_flipped_anywhere_never_gives_other_numbers(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "versions.db").read_bytes()
    broken = tmp_path / "flipped"
    broken.mkdir()
    for position in sample(len(whole), 500):
        for leftover in broken.iterdir():
            if leftover.is_file():
                leftover.unlink()
        data = bytearray(whole)
        data[position] ^= 0xFF
        (broken / "versions.db").write_bytes(data)
        store = opened(broken)
        only_what_was_saved(store)
        store.close()


@pytest.mark.parametrize("content", [b"", b"not a database", b"\x00" * 8192, b"{}"])
def test_a_file_that_is_no_database_is_set_aside(folder: Path, content: bytes) -> None:
    (folder / "versions.db").write_bytes(content)
    store = opened(folder)
    assert store.degraded == ""
    assert store.load(WATCH).groups == ()
    if content:
        assert "was damaged" in store.notes[0]
        assert (folder / "set_aside" / "versions.db.1").read_bytes() == content


def test_numbers_are_not_given_again_even_when_the_file_that_counts_them_is_lost(
    folder: Path,
) -> None:
    (folder / "versions.db").write_bytes(b"gone" * 1000)
    assert (opened(folder).save(batch(SERIES, 9.0)) > 2).all()


def test_what_can_be_read_of_a_damaged_file_is_saved(tmp_path: Path) -> None:
    series = labels(400)
    store = opened(tmp_path)
    for k in range(1, 4):
        store.save(batch(series, float(k), width=50))
    store.close()
    path = tmp_path / "versions.db"
    page = a_leaf_of_the_versions(path)
    data = bytearray(path.read_bytes())
    data[(page - 1) * 4096 : page * 4096] = b"\xa5" * 4096
    path.write_bytes(data)
    again = opened(tmp_path)
    assert "was damaged" in again.notes[0]
    found = served(again.load(WATCH))
    assert len(found) > 300
    for k, one in enumerate(series):
        assert found.get(one) in {None, *((v, v + k / 1000) for v in (1, 2, 3))}


def a_leaf_of_the_versions(path: Path) -> int:
    """The number of a page that holds rows of the versions."""
    query = "SELECT max(pageno) FROM dbstat WHERE name = 'versions' AND pagetype = 'leaf'"
    with closing(sqlite3.connect(path)) as connection:
        try:
            return int(connection.execute(query).fetchone()[0])
        except sqlite3.OperationalError:
            pytest.skip("this SQLite was built without dbstat, which says where the rows lie")


def test_damaged_files_do_not_pile_up(tmp_path: Path) -> None:
    for k in range(60):
        (tmp_path / "versions.db").write_bytes(b"rubbish %d" % k * 100)
        opened(tmp_path).close()
    assert len(list((tmp_path / "set_aside").iterdir())) <= 2 * database.KEPT_ASIDE


# Schema


def test_an_older_schema_is_brought_forward(folder: Path) -> None:
    newer = (*schema.STEPS, "ALTER TABLE series ADD COLUMN colour TEXT DEFAULT 'blue'")
    moved = Database.open(folder, newer)
    with moved.reading() as connection:
        assert connection.execute("SELECT DISTINCT colour FROM series").fetchall() == [("blue",)]
        assert connection.execute("PRAGMA user_version").fetchone() == (len(newer),)
    moved.close()


def test_a_step_that_fails_sets_the_old_file_aside_unharmed(folder: Path) -> None:
    impossible = (*schema.STEPS, "CREATE UNIQUE INDEX one ON versions (n_samples)")
    moved = Database.open(folder, impossible)
    assert moved.degraded == ""
    assert "was damaged" in moved.notes[0]
    moved.close()
    for path in list(folder.iterdir()):
        if path.is_file():
            path.unlink()
    (folder / "set_aside" / "versions.db.1").rename(folder / "versions.db")
    store = opened(folder)
    assert served(store.load(WATCH)) == SECOND
    store.close()


def test_a_store_of_a_newer_program_is_left_alone(folder: Path) -> None:
    alter(folder, "PRAGMA user_version = 99")
    before = (folder / "versions.db").read_bytes()
    store = opened(folder)
    assert "its schema is 99" in store.degraded
    assert "memory only" in store.degraded
    assert store.save(batch(SERIES, 9.0)).tolist() == [1, 1, 1]
    store.close()
    assert (folder / "versions.db").read_bytes() == before


# npz


def test_packed_arrays_come_back_and_nothing_else_does() -> None:
    arrays = {"a": np.arange(4.0), "b": np.array([b"x"]), "c": np.array(["y"])}
    data, digest = blobs.pack(arrays)
    for name, array in blobs.unpack(data, digest).items():
        np.testing.assert_array_equal(array, arrays[name])
    with pytest.raises(StoreError, match="checksum"):
        blobs.unpack(data + b"x", digest)
    with pytest.raises(StoreError, match="type object"):
        blobs.pack({"a": np.array([{}])})


def test_objects_are_not_loaded_even_with_the_right_checksum() -> None:
    from hashlib import sha256
    from io import BytesIO

    buffer = BytesIO()
    np.savez(buffer, a=np.array([{"evil": 1}], dtype=object))
    data = buffer.getvalue()
    with pytest.raises(StoreError, match="no archive of arrays"):
        blobs.unpack(data, sha256(data).hexdigest())


def test_an_archive_that_claims_to_be_huge_is_refused_before_it_is_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hashlib import sha256
    from io import BytesIO

    buffer = BytesIO()
    np.savez_compressed(buffer, a=np.zeros(10_000_000))
    data = buffer.getvalue()
    monkeypatch.setattr(blobs, "LARGEST_BLOB", 1_000_000)
    assert len(data) < 1_000_000
    with pytest.raises(StoreError, match="claims to hold 80"):
        blobs.unpack(data, sha256(data).hexdigest())


def test_a_state_too_large_to_load_again_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "LARGEST_BLOB", 3 << 20)
    with pytest.raises(StoreError, match="watch fewer series"):
        blobs.pack({"a": np.zeros(1 << 20)})


# What a watch carries over a restart


def test_what_was_put_under_a_name_is_got_back_after_a_restart(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.put_runtime("watch/../1", {"a": np.arange(3)}, {"slot": "x", "n": 1})
    store.put_runtime("watch/../1", {"a": np.arange(5)}, {"slot": "y", "n": 2})
    store.close()
    got = opened(tmp_path).get_runtime("watch/../1")
    assert got is not None
    arrays, meta = got
    assert arrays["a"].tolist() == [0, 1, 2, 3, 4]
    assert meta == {"slot": "y", "n": 2}


def test_nothing_under_a_name_is_nothing(tmp_path: Path) -> None:
    assert opened(tmp_path).get_runtime("never") is None


@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_carry_over_is_set_aside_wherever_it_is_damaged(
    tmp_path: Path, cut: bool
) -> None:
    store = opened(tmp_path)
    arrays = {"a": np.arange(40.0), "b": np.zeros(3)}
    store.put_runtime("w", arrays, {"slot": "x"})
    (path,) = (tmp_path / "runtime").iterdir()
    whole = path.read_bytes()
    for position in sample(len(whole), 250):
        data = bytearray(whole[:position]) if cut else bytearray(whole)
        if not cut:
            data[position] ^= 0x10
        path.write_bytes(data)
        assert store.get_runtime("w") is None, position
        assert not path.exists()
    assert "starts from its stored versions" in store.notes[0]


def test_a_file_of_another_name_is_not_believed(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.put_runtime("w", {"a": np.zeros(1)}, {})
    (path,) = (tmp_path / "runtime").iterdir()
    store.put_runtime("v", {"a": np.ones(1)}, {})
    other = next(p for p in (tmp_path / "runtime").iterdir() if p != path)
    path.write_bytes(other.read_bytes())
    assert store.get_runtime("w") is None
    assert "belongs to 'v'" in store.notes[0]


def test_names_that_no_watch_has_any_more_are_dropped(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for name in ("a", "b", "c"):
        store.put_runtime(name, {}, {"name": name})
    store.drop_runtime(keep=["b"])
    assert [store.get_runtime(name) is not None for name in ("a", "b", "c")] == [False, True, False]


def test_the_carry_over_of_a_store_in_memory_is_not_written(folder: Path) -> None:
    alter(folder, "PRAGMA user_version = 99")
    store = opened(folder)
    store.put_runtime("w", {"a": np.zeros(1)}, {})
    assert store.get_runtime("w") is None
    assert json.dumps(store.notes)
    assert T0
