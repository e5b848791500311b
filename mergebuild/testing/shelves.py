"""The laws of a store's shelf: what is at a path, what is offered, what is damaged."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from mergebuild.digest import checksum
from mergebuild.store import Presence, Store
from mergebuild.testing.stored import FOREIGN, NOT_FINITE, ONE, OTHER, StoreTests, digest_in, offered, written

__all__ = ["ShelfTests"]


class ShelfTests(StoreTests):
    """The laws of a `Shelf`; a subclass provides `open_store`."""

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
        """If stat data differ, the bytes decide."""
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
        assert [each.id for each in offered(store, ONE)] == [row.id]
        assert offered(store, OTHER) == []

    def test_an_artifact_that_is_gone_is_notoffered(self, store: Store, path: Path) -> None:
        self.put(store, path)
        path.unlink()
        assert offered(store, ONE) == []
        assert store.shelf.find([digest_in(ONE, "w")]) == {}

    def test_an_artifact_that_was_changed_is_notoffered(self, store: Store, path: Path) -> None:
        self.put(store, path)
        path.write_bytes(FOREIGN)
        assert offered(store, ONE) == []
        assert store.shelf.find([digest_in(ONE, "w")]) == {}

    def test_of_equal_artifacts_one_with_the_same_header_is_first_then_the_newest(
        self, store: Store, path: Path
    ) -> None:
        tensors = {"v": b"1" * 8, "w": b"2" * 16}
        rows = [
            self.put(store, path.with_name(f"{name}.safetensors"), written(tensors, metadata={"said": said}))
            for name, said in (("a", "wanted"), ("b", "another"), ("c", "another"))
        ]
        wanted = written(tensors, metadata={"said": "wanted"})
        assert [row.id for row in offered(store, wanted)] == [rows[0].id, rows[2].id, rows[1].id]

    def test_an_artifact_at_two_places_is_offered_from_the_other_when_one_is_gone(
        self, store: Store, path: Path
    ) -> None:
        row = self.put(store, path)
        self.put(store, path.with_name("second.safetensors"))
        path.with_name("second.safetensors").unlink()
        assert [each.id for each in offered(store, ONE)] == [row.id]
        assert store.shelf.find([digest_in(ONE, "w")])[digest_in(ONE, "w")].path == path

    def test_the_table_of_an_artifact_is_the_one_that_was_written(self, store: Store, path: Path) -> None:
        row = self.put(store, path)
        assert list(store.shelf.entries(row)) == list(ONE.fresh.contents)
        (there,) = store.shelf.outputs(store.publisher.project)
        assert list(store.shelf.entries(there)) == list(ONE.fresh.contents)

    # Tensors

    def test_a_tensor_is_found_where_its_bytes_are(self, store: Store, path: Path) -> None:
        self.put(store, path)
        wanted = digest_in(ONE, "w")
        found = store.shelf.find([wanted, checksum(b"which nobody has")])
        assert list(found) == [wanted]
        assert found[wanted].path == path
        entry = found[wanted].entry
        assert path.read_bytes()[entry.begin : entry.end] == b"2" * 16

    def test_a_tensor_that_is_not_finite_is_found_only_by_who_allows_it(self, store: Store, path: Path) -> None:
        row = self.put(store, path, NOT_FINITE)
        bad, good = digest_in(NOT_FINITE, "bad"), digest_in(NOT_FINITE, "good")
        assert row.nonfinite == 1
        assert store.shelf.find([bad, good]).keys() == {good}
        assert store.shelf.find([bad, good], allow_nonfinite=True).keys() == {bad, good}

    def test_a_tensor_is_not_found_in_what_is_left_out(self, store: Store, path: Path) -> None:
        wanted = digest_in(ONE, "w")
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
        """A user has cut it, perhaps on purpose."""
        self.put(store, path)
        whole = path.with_name("whole")
        whole.write_bytes(ONE.data)
        path.write_bytes(ONE.data[:-3])
        assert not store.shelf.is_unfinished(path, whole)

    def test_at_first_nothing_is_damaged(self, store: Store, path: Path) -> None:
        self.put(store, path)
        assert store.shelf.damaged_inside() == []
