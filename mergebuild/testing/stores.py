"""The laws of a store's three parts, for any implementation of `store/protocols.py`.

A subclass gives `open_store`. The laws work on real files in a folder of their own: small ones, of a few tensors whose
bytes are given. Each states what planner and builder rely on, and nothing of how it comes about.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from mergebuild.digest import checksum
from mergebuild.formats.layout import encode_header
from mergebuild.store import Entry, Fresh, PackedKeys, Presence, Record, SourceRow, Stage, Store
from mergebuild.store.values import ArtifactRow, PublishedFolder
from mergebuild.system import publishing
from mergebuild.system.filestate import Identity

__all__ = ["LedgerTests", "PublisherTests", "ShelfTests", "Written", "written"]


class Written(NamedTuple):
    """A file as a build would have written it, and what it would say of it."""

    data: bytes
    fresh: Fresh


def written(
    tensors: Mapping[str, bytes], *, metadata: Mapping[str, str] | None = None, nonfinite: Collection[str] = ()
) -> Written:
    """Return a safetensors file of one-byte tensors; a tensor's digest is the checksum of its bytes.

    Args:
        tensors: their bytes by name.
        metadata: of the header; the artifact is the same with any.
        nonfinite: names of those that count as having a NaN or Inf.
    """
    raw, header = encode_header(((name, "uint8", (len(data),)) for name, data in tensors.items()), metadata or {})
    contents = [
        Entry(name, info.begin, info.end, checksum(tensors[name]), checksum(tensors[name]), int(name in nonfinite))
        for name, info in header.tensors.items()
    ]
    data = raw + b"".join(tensors[name] for name in header.tensors)
    digest = checksum(b"".join(name.encode() + tensors[name] for name in sorted(tensors)))
    return Written(data, Fresh(digest, checksum(raw), contents))


ONE = written({"v": b"1" * 8, "w": b"2" * 16})
OTHER = written({"v": b"3" * 8, "w": b"4" * 16})
NOT_FINITE = written({"bad": b"5" * 8, "good": b"6" * 8}, nonfinite=["bad"])
FOREIGN = b"what somebody else wrote"


class _StoreTests:
    """What the three have in common: a store, and a way of putting something into it."""

    def open_store(self, root: Path, *, history_bytes: int | None = None) -> Store:
        """Return an empty store, ready to be built into, that may use the folder `root`.

        `history_bytes`: how much of what was superseded it may keep; None: more than a test makes.
        """
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        """The store that is tested."""
        return self.open_store(tmp_path / "store")

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """Where an output goes."""
        return tmp_path / "out" / "mix.safetensors"

    def put(
        self,
        store: Store,
        path: Path,
        what: Written = ONE,
        *,
        kind: str = "output",
        project: str | None = None,
        keeps_former: bool = True,
    ) -> ArtifactRow:
        """Publish a file; `project`: whose it is, None: the store's own."""
        temporary = publishing.temporary_path(path)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(what.data)
        whose = store.publisher.project if project is None else project
        return store.publisher.publish(temporary, path, what.fresh, kind=kind, project=whose, keeps_former=keeps_former)


def _offered(store: Store, what: Written) -> list[ArtifactRow]:
    return list(store.shelf.intact(what.fresh.digest, header=what.fresh.header))


def _digest(what: Written, name: str) -> bytes:
    return next(entry.digest for entry in what.fresh.contents if entry.name == name)


class ShelfTests(_StoreTests):
    """The laws of a `Shelf`; a subclass gives `open_store`."""

    # What is at a path

    def test_where_nothing_is_nothing_is_found(self, store: Store, path: Path) -> None:
        assert store.shelf.at(path) == (Presence.ABSENT, None)
        assert store.shelf.rows(path=path) == []

    def test_what_was_published_is_ours(self, store: Store, path: Path) -> None:
        row = self.put(store, path)
        presence, there = store.shelf.at(path)
        assert presence is Presence.OURS
        assert there is not None
        assert (there.id, there.digest, there.header) == (row.id, ONE.fresh.digest, ONE.fresh.header)
        assert (there.path, there.kind, there.nonfinite) == (path, "output", 0)
        assert [each.id for each in store.shelf.rows(path=path)] == [row.id]

    def test_what_nobody_published_is_foreign(self, store: Store, path: Path) -> None:
        path.parent.mkdir()
        path.write_bytes(FOREIGN)
        assert store.shelf.at(path) == (Presence.FOREIGN, None)

    def test_a_folder_in_the_way_is_foreign(self, store: Store, path: Path) -> None:
        path.mkdir(parents=True)
        assert store.shelf.at(path) == (Presence.FOREIGN, None)

    def test_what_was_written_to_since_is_foreign(self, store: Store, path: Path) -> None:
        row = self.put(store, path)
        path.write_bytes(FOREIGN)
        assert store.shelf.at(path) == (Presence.FOREIGN, None)
        assert not store.shelf.is_intact(row)

    def test_a_look_again_sees_what_happened_since_the_first(self, store: Store, path: Path) -> None:
        self.put(store, path)
        assert store.shelf.at(path)[0] is Presence.OURS
        path.write_bytes(FOREIGN)
        assert store.shelf.look_again(path) is Presence.FOREIGN
        path.unlink()
        assert store.shelf.look_again(path) is Presence.ABSENT

    def test_what_was_only_touched_is_ours(self, store: Store, path: Path) -> None:
        """Where stat data differ the bytes decide."""
        row = self.put(store, path)
        os.utime(path, ns=(0, 0))
        assert store.shelf.is_intact(row)
        assert store.shelf.at(path)[0] is Presence.OURS

    def test_a_copy_of_an_artifact_is_known_by_its_bytes(self, store: Store, path: Path) -> None:
        self.put(store, path)
        copy = path.with_name("copy.safetensors")
        copy.write_bytes(path.read_bytes())
        presence, row = store.shelf.at(copy)
        assert presence is Presence.OURS
        assert row is not None
        assert (row.digest, row.path) == (ONE.fresh.digest, copy)

    # Whole artifacts

    def test_an_artifact_is_offered_while_it_is_there(self, store: Store, path: Path) -> None:
        row = self.put(store, path)
        assert [each.id for each in _offered(store, ONE)] == [row.id]
        assert _offered(store, OTHER) == []

    def test_an_artifact_that_is_gone_is_not_offered(self, store: Store, path: Path) -> None:
        self.put(store, path)
        path.unlink()
        assert _offered(store, ONE) == []
        assert store.shelf.find([_digest(ONE, "w")]) == {}

    def test_an_artifact_that_was_changed_is_not_offered(self, store: Store, path: Path) -> None:
        self.put(store, path)
        path.write_bytes(FOREIGN)
        assert _offered(store, ONE) == []
        assert store.shelf.find([_digest(ONE, "w")]) == {}

    def test_of_equal_artifacts_one_with_the_same_header_is_first_then_the_newest(
        self, store: Store, path: Path
    ) -> None:
        tensors = {"v": b"1" * 8, "w": b"2" * 16}
        rows = [
            self.put(store, path.with_name(f"{name}.safetensors"), written(tensors, metadata={"said": said}))
            for name, said in (("a", "wanted"), ("b", "another"), ("c", "another"))
        ]
        wanted = written(tensors, metadata={"said": "wanted"})
        assert [row.id for row in _offered(store, wanted)] == [rows[0].id, rows[2].id, rows[1].id]

    def test_an_artifact_at_two_places_is_offered_from_the_other_when_one_is_gone(
        self, store: Store, path: Path
    ) -> None:
        row = self.put(store, path)
        self.put(store, path.with_name("second.safetensors"))
        path.with_name("second.safetensors").unlink()
        assert [each.id for each in _offered(store, ONE)] == [row.id]
        assert store.shelf.find([_digest(ONE, "w")])[_digest(ONE, "w")].path == path

    def test_the_table_of_an_artifact_is_the_one_that_was_written(self, store: Store, path: Path) -> None:
        row = self.put(store, path)
        assert list(store.shelf.entries(row)) == list(ONE.fresh.contents)
        (there,) = store.shelf.outputs(store.publisher.project)
        assert list(store.shelf.entries(there)) == list(ONE.fresh.contents)

    # Tensors

    def test_a_tensor_is_found_where_its_bytes_are(self, store: Store, path: Path) -> None:
        self.put(store, path)
        wanted = _digest(ONE, "w")
        found = store.shelf.find([wanted, checksum(b"which nobody has")])
        assert list(found) == [wanted]
        assert found[wanted].path == path
        entry = found[wanted].entry
        assert path.read_bytes()[entry.begin : entry.end] == b"2" * 16

    def test_a_tensor_that_is_not_finite_is_found_only_by_who_allows_it(self, store: Store, path: Path) -> None:
        row = self.put(store, path, NOT_FINITE)
        bad, good = _digest(NOT_FINITE, "bad"), _digest(NOT_FINITE, "good")
        assert row.nonfinite == 1
        assert store.shelf.find([bad, good]).keys() == {good}
        assert store.shelf.find([bad, good], allow_nonfinite=True).keys() == {bad, good}

    def test_a_tensor_is_not_found_in_what_is_left_out(self, store: Store, path: Path) -> None:
        wanted = _digest(ONE, "w")
        rows = [self.put(store, path.with_name(f"{name}.safetensors")) for name in "ab"]
        for left_out, there in itertools.permutations(rows):
            assert store.shelf.find([wanted], besides=[left_out.id])[wanted].path == there.path
        assert store.shelf.find([wanted], besides=[row.id for row in rows]) == {}

    # What is on record

    def test_a_row_is_what_is_on_record_now(self, store: Store, path: Path) -> None:
        row = self.put(store, path)
        there = store.shelf.row(row.id)
        assert there is not None
        assert (there.path, there.digest) == (path, ONE.fresh.digest)
        store.publisher.remove(row)
        assert store.shelf.row(row.id) is None

    def test_at_a_path_is_one_artifact_the_last(self, store: Store, path: Path) -> None:
        self.put(store, path)
        row = self.put(store, path, OTHER)
        assert [each.id for each in store.shelf.rows(path=path)] == [row.id]

    def test_outputs_are_told_apart_by_their_project(self, store: Store, path: Path) -> None:
        mine = self.put(store, path)
        nobodys = self.put(store, path.with_name("extra.safetensors"), project="")
        self.put(store, store.shelf.kept_path(ONE.fresh.digest, ONE.fresh.header), kind="kept")
        assert {row.id for row in store.shelf.outputs(None)} == {mine.id, nobodys.id}
        assert [row.id for row in store.shelf.outputs(store.publisher.project)] == [mine.id]
        assert store.shelf.outputs(store.publisher.project, besides=[str(path)]) == []

    def test_where_an_artifact_is_kept_follows_from_what_it_is(self, store: Store) -> None:
        places = {store.shelf.kept_path(each.fresh.digest, each.fresh.header) for each in (ONE, OTHER, ONE)}
        places.add(store.shelf.kept_path(ONE.fresh.digest, b"another header"))
        assert len(places) == 3

    # What may be a build's unfinished work

    def test_a_file_that_begins_as_another_may_be_it(self, store: Store, path: Path) -> None:
        path.parent.mkdir()
        path.write_bytes(ONE.data)
        beginning = ONE.data[:32]
        assert store.shelf.may_be(path, beginning, len(ONE.data))
        assert not store.shelf.may_be(path, OTHER.data[:-1] + b"x", len(ONE.data))
        assert not store.shelf.may_be(path.with_name("none"), beginning, len(ONE.data))

    def test_a_file_with_its_end_missing_is_unfinished(self, store: Store, path: Path) -> None:
        path.parent.mkdir()
        whole = path.with_name("whole")
        whole.write_bytes(ONE.data)
        path.write_bytes(ONE.data[:-3])
        assert store.shelf.is_unfinished(path, whole)
        path.write_bytes(FOREIGN)
        assert not store.shelf.is_unfinished(path, whole)

    def test_what_was_seen_whole_and_is_shorter_now_is_no_unfinished_work(self, store: Store, path: Path) -> None:
        """Somebody cut it short, and may want it so."""
        self.put(store, path)
        whole = path.with_name("whole")
        whole.write_bytes(ONE.data)
        path.write_bytes(ONE.data[:-3])
        assert not store.shelf.is_unfinished(path, whole)

    def test_at_first_nothing_is_damaged(self, store: Store, path: Path) -> None:
        self.put(store, path)
        assert store.shelf.damaged_inside() == []


_IDENTITY = Identity(1, 2, 3, 4, 5)
_SOURCE = SourceRow(_IDENTITY, b"c" * 32, b"d" * 16, None)


class LedgerTests(_StoreTests):
    """The laws of a `Ledger`; a subclass gives `open_store`."""

    def test_a_record_is_what_was_put(self, store: Store, path: Path) -> None:
        ledger = store.ledger
        assert ledger.record("mix") is None
        record = Record("mix", b"a" * 16, path, "manifest", b"f" * 16, b"h" * 16, 3, ("one thing", "another"))
        ledger.put_record(record)
        assert ledger.record("mix") == record
        ledger.put_record(record._replace(artifact=b"b" * 16, output=None))
        assert ledger.record("mix") == record._replace(artifact=b"b" * 16, output=None)
        assert ledger.record("another") is None

    def test_keys_come_and_go_with_their_record(self, store: Store) -> None:
        """Inputs may be shared; who forgets one target, or builds it of others, takes none from another."""
        ledger = store.ledger
        shared = [PackedKeys(b"lines of a", b"inputs"), PackedKeys(b"lines of b", b"inputs")]
        for name, keys in zip("ab", shared, strict=True):
            ledger.put_record(Record(name, b"a" * 16, None, ""), keys)
        ledger.put_record(Record("c", b"a" * 16, None, ""))
        assert [ledger.keys(name) for name in "abcd"] == [*shared, None, None]
        ledger.put_record(Record("a", b"a" * 16, None, ""), PackedKeys(b"lines of a", b"other inputs"))
        assert [ledger.keys(name) for name in "ab"] == [PackedKeys(b"lines of a", b"other inputs"), shared[1]]
        ledger.forget_record("b")
        assert ledger.keys("b") is None

    def test_a_record_that_is_forgotten_is_none(self, store: Store) -> None:
        store.ledger.put_record(Record("mix", b"a" * 16, None, ""))
        store.ledger.forget_record("mix")
        store.ledger.forget_record("never built")
        assert store.ledger.record("mix") is None
        assert store.ledger.records() == []

    def test_records_come_by_name_without_manifests(self, store: Store) -> None:
        for name in ("b", "a", "c"):
            store.ledger.put_record(Record(name, name.encode() * 16, None, "a long manifest"))
        assert store.ledger.records() == [Record(name, name.encode() * 16, None, "") for name in "abc"]

    def test_published_are_targets_whose_output_is_on_record_as_they_say(self, store: Store, path: Path) -> None:
        row = self.put(store, path)
        record = Record("mix", ONE.fresh.digest, path, "manifest", b"f" * 16, ONE.fresh.header, 2)
        differ = {
            "other artifact": record._replace(artifact=b"a" * 16),
            "other metadata": record._replace(header=b"h" * 16),
            "other place": record._replace(output=path.with_name("none.safetensors")),
            "no fingerprint": record._replace(fingerprint=None),
            "no output": record._replace(output=None),
        }
        store.ledger.put_record(record)
        for name, each in differ.items():
            store.ledger.put_record(each._replace(target=name))
        ((found, there),) = store.ledger.published(["mix", *differ, "never built"])
        assert found == record._replace(manifest="")
        assert (there.id, there.path) == (row.id, path)
        assert store.ledger.published(["another"]) == []

    def test_a_source_is_remembered_by_its_exact_state(self, store: Store) -> None:
        ledger = store.ledger
        assert ledger.source(_IDENTITY, "now") is None
        ledger.remember_source(_SOURCE)
        assert ledger.source(_IDENTITY, "now") == _SOURCE
        for field in _IDENTITY._fields:
            assert ledger.source(_IDENTITY._replace(**{field: 99}), "now") is None

    def test_what_is_learnt_of_a_source_adds_up(self, store: Store) -> None:
        store.ledger.remember_source(_SOURCE)
        store.ledger.remember_source(SourceRow(_IDENTITY, None, None, "5" * 64))
        assert store.ledger.source(_IDENTITY, "now") == _SOURCE._replace(sha256="5" * 64)

    def test_what_holds_in_one_epoch_is_believed_in_no_other(self, store: Store) -> None:
        bound = _SOURCE._replace(epoch="first")
        store.ledger.remember_source(bound)
        assert store.ledger.source(_IDENTITY, "first") == bound
        assert store.ledger.source(_IDENTITY, "second") is None
        store.ledger.remember_source(SourceRow(_IDENTITY, None, None, "5" * 64, epoch="second"))
        found = store.ledger.source(_IDENTITY, "second")
        assert found is not None
        assert found.checksums is None

    def test_findings_are_kept_by_what_they_follow_from(self, store: Store) -> None:
        assert store.ledger.findings() == {}
        store.ledger.keep_findings({b"one": "1", b"two": "2"})
        store.ledger.keep_findings({b"two": "3"})
        assert store.ledger.findings() == {b"one": "1", b"two": "3"}


class PublisherTests(_StoreTests):
    """The laws of a `Publisher`; a subclass gives `open_store`."""

    def test_a_file_comes_to_its_place(self, store: Store, path: Path) -> None:
        row = self.put(store, path)
        assert path.read_bytes() == ONE.data
        assert list(path.parent.iterdir()) == [path]
        assert (row.path, row.kind, row.project) == (path, "output", store.publisher.project)
        assert store.shelf.is_intact(row)

    def test_what_is_superseded_is_offered_from_the_history(self, store: Store, path: Path) -> None:
        self.put(store, path)
        self.put(store, path, OTHER)
        assert path.read_bytes() == OTHER.data
        (old,) = _offered(store, ONE)
        assert old.kind == "history"
        assert old.path.read_bytes() == ONE.data

    def test_what_is_not_ours_is_no_part_of_the_history(self, store: Store, path: Path) -> None:
        """Whoever publishes has asked before whether it may be replaced."""
        self.put(store, path)
        path.write_bytes(FOREIGN)
        self.put(store, path, OTHER)
        assert path.read_bytes() == OTHER.data
        assert _offered(store, ONE) == []
        assert store.shelf.damaged_inside() == []

    def test_an_artifact_of_the_history_comes_back(self, store: Store, path: Path) -> None:
        self.put(store, path)
        self.put(store, path, OTHER)
        (old,) = _offered(store, ONE)
        row = store.publisher.move(old, path, project=store.publisher.project)
        assert path.read_bytes() == ONE.data
        assert (row.id, row.path, row.kind) == (old.id, path, "output")
        assert not old.path.exists()
        assert [each.kind for each in _offered(store, OTHER)] == ["history"]

    def test_a_former_file_that_is_not_to_be_kept_is_gone(self, store: Store, path: Path) -> None:
        """What is in the history already stays there."""
        self.put(store, path)
        self.put(store, path, OTHER)
        self.put(store, path, NOT_FINITE, keeps_former=False)
        assert path.read_bytes() == NOT_FINITE.data
        assert _offered(store, OTHER) == []
        (old,) = _offered(store, ONE)
        store.publisher.move(old, path, project=store.publisher.project, keeps_former=False)
        assert path.read_bytes() == ONE.data
        assert [each.kind for each in _offered(store, ONE)] == ["output"]
        assert _offered(store, NOT_FINITE) == []

    def test_an_equal_artifact_elsewhere_outlives_a_former_file(self, store: Store, path: Path) -> None:
        other = self.put(store, path.with_name("second.safetensors"))
        self.put(store, path)
        self.put(store, path, OTHER, keeps_former=False)
        assert [row.id for row in _offered(store, ONE)] == [other.id]

    def test_a_history_without_room_keeps_nothing(self, tmp_path: Path, path: Path) -> None:
        store = self.open_store(tmp_path / "store", history_bytes=0)
        self.put(store, path)
        self.put(store, path, OTHER)
        assert _offered(store, ONE) == []

    def test_of_the_history_the_newest_stay_that_fit(self, tmp_path: Path, path: Path) -> None:
        files = [written({"w": bytes([number]) * 64}) for number in range(4)]
        store = self.open_store(tmp_path / "store", history_bytes=2 * len(files[0].data))
        for each in files:
            self.put(store, path, each)
        store.publisher.trim_history()
        assert [bool(_offered(store, each)) for each in files] == [False, True, True, True]

    def test_a_copy_that_is_kept_outlives_the_output(self, store: Store, path: Path) -> None:
        row = self.put(store, path)
        store.publisher.keep(row, "copy")
        store.publisher.keep(row, "copy")
        path.unlink()
        (kept,) = _offered(store, ONE)
        assert kept.kind == "kept"
        assert kept.path == store.shelf.kept_path(ONE.fresh.digest, ONE.fresh.header)
        assert kept.path.read_bytes() == ONE.data

    def test_keeping_changes_no_output(self, store: Store, path: Path) -> None:
        for link in ("auto", "copy", "hard"):
            row = self.put(store, path)
            store.publisher.keep(row, link)
            assert store.shelf.look_again(path) is Presence.OURS
            assert path.read_bytes() == ONE.data

    def test_what_is_removed_is_gone_and_forgotten(self, store: Store, path: Path) -> None:
        row = self.put(store, path)
        assert store.publisher.remove(row) == len(ONE.data)
        assert not path.exists()
        assert store.shelf.rows(path=path) == []
        gone = self.put(store, path)
        path.unlink()
        assert store.publisher.remove(gone) == 0
        assert store.shelf.rows(path=path) == []

    def test_the_quarantine_takes_a_file_out_of_the_way(self, store: Store, path: Path) -> None:
        row = self.put(store, path)
        path.write_bytes(FOREIGN)
        place = store.publisher.quarantine(row)
        assert place.read_bytes() == FOREIGN
        assert not path.exists()
        assert store.shelf.row(row.id) is None

    def test_a_file_for_the_time_of_a_pass_can_be_written(self, store: Store) -> None:
        one, other = store.publisher.scratch_path("1"), store.publisher.scratch_path("2")
        assert one != other
        one.write_bytes(FOREIGN)
        one.unlink()

    # Folders

    def test_the_files_of_a_folder_come_to_their_places(self, store: Store, path: Path) -> None:
        folder = path.parent
        published = self._publish(store, folder, {"a.safetensors": ONE, "in/b.safetensors": OTHER})
        assert (folder / "a.safetensors").read_bytes() == ONE.data
        assert (folder / "in/b.safetensors").read_bytes() == OTHER.data
        assert set(published.rows) == {folder / "a.safetensors", folder / "in/b.safetensors"}
        assert all(map(store.shelf.is_intact, published.rows.values()))
        assert (list(published.aside), published.left) == ([], None)

    def test_a_folder_keeps_what_is_not_ours_and_what_it_loses_is_in_the_history(
        self, store: Store, path: Path
    ) -> None:
        """A superfluous file may stay where files take their places one by one; whoever asked removes it then."""
        folder = path.parent
        before = self._publish(store, folder, {"a.safetensors": ONE, "b.safetensors": OTHER})
        (folder / "notes.txt").write_bytes(FOREIGN)
        superfluous = before.rows[folder / "b.safetensors"]
        new = written({"w": b"7" * 8})
        self._publish(store, folder, {"a.safetensors": new}, superfluous=[superfluous])
        assert (folder / "a.safetensors").read_bytes() == new.data
        assert (folder / "notes.txt").read_bytes() == FOREIGN
        assert [row.kind for row in _offered(store, ONE)] == ["history"]
        (left,) = _offered(store, OTHER)
        assert left.kind == "history" or (left.id, left.path) == (superfluous.id, superfluous.path)
        assert (folder / "b.safetensors").exists() == (left.kind == "output")

    def test_a_former_folder_that_is_not_to_be_kept_is_gone(self, store: Store, path: Path) -> None:
        """What is not ours stays; a superfluous file may, until whoever asked removes it."""
        folder = path.parent
        before = self._publish(store, folder, {"a.safetensors": ONE, "b.safetensors": OTHER})
        (folder / "notes.txt").write_bytes(FOREIGN)
        superfluous = before.rows[folder / "b.safetensors"]
        self._publish(store, folder, {"a.safetensors": NOT_FINITE}, superfluous=[superfluous], keeps_former=False)
        assert (folder / "a.safetensors").read_bytes() == NOT_FINITE.data
        assert (folder / "notes.txt").read_bytes() == FOREIGN
        assert _offered(store, ONE) == []
        assert {row.kind for row in _offered(store, OTHER)} <= {"output"}

    def test_what_is_in_the_way_in_a_folder_is_set_aside(self, store: Store, path: Path) -> None:
        path.parent.mkdir()
        path.write_bytes(FOREIGN)
        published = self._publish(store, path.parent, {path.name: ONE}, foreign=[path])
        assert path.read_bytes() == ONE.data
        (aside,) = published.aside
        assert aside.read_bytes() == FOREIGN

    def test_a_file_of_the_history_is_a_folders_again(self, store: Store, path: Path) -> None:
        self._publish(store, path.parent, {path.name: ONE})
        self._publish(store, path.parent, {path.name: OTHER})
        (old,) = _offered(store, ONE)
        self._publish(store, path.parent, {path.name: ONE}, reused={path: old})
        assert path.read_bytes() == ONE.data
        assert not old.path.exists()
        assert [row.kind for row in _offered(store, ONE)] == ["output"]

    def _publish(
        self,
        store: Store,
        folder: Path,
        files: Mapping[str, Written],
        *,
        reused: Mapping[Path, ArtifactRow] | None = None,
        foreign: Collection[Path] = (),
        superfluous: Collection[ArtifactRow] = (),
        keeps_former: bool = True,
    ) -> PublishedFolder:
        stage = Stage(folder)
        for name, each in files.items():
            place = stage.place(folder / name)
            place.parent.mkdir(parents=True, exist_ok=True)
            if reused and folder / name in reused:
                place.hardlink_to(reused[folder / name].path)
            else:
                place.write_bytes(each.data)
        return store.publisher.publish_folder(
            stage,
            {folder / name: each.fresh for name, each in files.items()},
            reused=reused or {},
            foreign=foreign,
            superfluous=list(superfluous),
            project=store.publisher.project,
            keeps_former=keeps_former,
        )
