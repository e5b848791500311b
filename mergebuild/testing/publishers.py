"""The laws of a store's publisher: how files and folders get to their paths, and what happens to former ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from mergebuild.store import Presence, Stage, Store
from mergebuild.store.values import ArtifactRow, PublishedFolder
from mergebuild.testing.stored import FOREIGN, NOT_FINITE, ONE, OTHER, StoreTests, Written, offered, written

__all__ = ["PublisherTests"]


class PublisherTests(StoreTests):
    """The laws of a `Publisher`; a subclass provides `open_store`."""

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
        (old,) = offered(store, ONE)
        assert old.kind == "history"
        assert old.path.read_bytes() == ONE.data

    def test_what_is_not_ours_is_no_part_of_the_history(self, store: Store, path: Path) -> None:
        """The builder has checked before it publishes that the file may be replaced."""
        self.put(store, path)
        path.write_bytes(FOREIGN)
        self.put(store, path, OTHER)
        assert path.read_bytes() == OTHER.data
        assert offered(store, ONE) == []
        assert store.shelf.damaged_inside() == []

    def test_an_artifact_of_the_history_comes_back(self, store: Store, path: Path) -> None:
        self.put(store, path)
        self.put(store, path, OTHER)
        (old,) = offered(store, ONE)
        row = store.publisher.move(old, path, project=store.publisher.project)
        assert path.read_bytes() == ONE.data
        assert (row.id, row.path, row.kind) == (old.id, path, "output")
        assert not old.path.exists()
        assert [each.kind for each in offered(store, OTHER)] == ["history"]

    def test_a_former_file_that_is_not_to_be_kept_is_gone(self, store: Store, path: Path) -> None:
        """Files that are in the history already stay there."""
        self.put(store, path)
        self.put(store, path, OTHER)
        self.put(store, path, NOT_FINITE, keeps_former=False)
        assert path.read_bytes() == NOT_FINITE.data
        assert offered(store, OTHER) == []
        (old,) = offered(store, ONE)
        store.publisher.move(old, path, project=store.publisher.project, keeps_former=False)
        assert path.read_bytes() == ONE.data
        assert [each.kind for each in offered(store, ONE)] == ["output"]
        assert offered(store, NOT_FINITE) == []

    def test_an_equal_artifact_elsewhere_outlives_a_former_file(self, store: Store, path: Path) -> None:
        other = self.put(store, path.with_name("second.safetensors"))
        self.put(store, path)
        self.put(store, path, OTHER, keeps_former=False)
        assert [row.id for row in offered(store, ONE)] == [other.id]

    def test_a_history_without_room_keeps_nothing(self, tmp_path: Path, path: Path) -> None:
        store = self.open_store(tmp_path / "store", history_bytes=0)
        self.put(store, path)
        self.put(store, path, OTHER)
        assert offered(store, ONE) == []

    def test_of_the_history_the_newest_stay_that_fit(self, tmp_path: Path, path: Path) -> None:
        files = [written({"w": bytes([number]) * 64}) for number in range(4)]
        store = self.open_store(tmp_path / "store", history_bytes=2 * len(files[0].data))
        for each in files:
            self.put(store, path, each)
        store.publisher.trim_history()
        assert [bool(offered(store, each)) for each in files] == [False, True, True, True]

    def test_a_copy_that_is_kept_outlives_the_output(self, store: Store, path: Path) -> None:
        row = self.put(store, path)
        store.publisher.keep(row, "copy")
        store.publisher.keep(row, "copy")
        path.unlink()
        (kept,) = offered(store, ONE)
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
        """A store that publishes files one by one may leave a superfluous file; the caller removes it then."""
        folder = path.parent
        before = self._publish(store, folder, {"a.safetensors": ONE, "b.safetensors": OTHER})
        (folder / "notes.txt").write_bytes(FOREIGN)
        superfluous = before.rows[folder / "b.safetensors"]
        new = written({"w": b"7" * 8})
        self._publish(store, folder, {"a.safetensors": new}, superfluous=[superfluous])
        assert (folder / "a.safetensors").read_bytes() == new.data
        assert (folder / "notes.txt").read_bytes() == FOREIGN
        assert [row.kind for row in offered(store, ONE)] == ["history"]
        (left,) = offered(store, OTHER)
        assert left.kind == "history" or (left.id, left.path) == (superfluous.id, superfluous.path)
        assert (folder / "b.safetensors").exists() == (left.kind == "output")

    def test_a_former_folder_that_is_not_to_be_kept_is_gone(self, store: Store, path: Path) -> None:
        """Files that are not ours stay; a superfluous file may stay too, until the caller removes it."""
        folder = path.parent
        before = self._publish(store, folder, {"a.safetensors": ONE, "b.safetensors": OTHER})
        (folder / "notes.txt").write_bytes(FOREIGN)
        superfluous = before.rows[folder / "b.safetensors"]
        self._publish(store, folder, {"a.safetensors": NOT_FINITE}, superfluous=[superfluous], keeps_former=False)
        assert (folder / "a.safetensors").read_bytes() == NOT_FINITE.data
        assert (folder / "notes.txt").read_bytes() == FOREIGN
        assert offered(store, ONE) == []
        assert {row.kind for row in offered(store, OTHER)} <= {"output"}

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
        (old,) = offered(store, ONE)
        self._publish(store, path.parent, {path.name: ONE}, reused={path: old})
        assert path.read_bytes() == ONE.data
        assert not old.path.exists()
        assert [row.kind for row in offered(store, ONE)] == ["output"]

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
