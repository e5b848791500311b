"""A state that can't be read: looked at twice, never more lost than is damaged, and a later version's left alone."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from lab import Lab

from mergebuild.errors import CorruptionError, UsageError
from mergebuild.events import Notice
from mergebuild.store.database import Database, DatabaseDamagedError

STATE = ".mergebuild/state.sqlite3"
TARGET = '[targets.{0}]\nmethod = "weighted_sum"\na = "a"\nb = "b"\nalpha = 0.{1}\noutput = "o/{0}.safetensors"\n'


@pytest.fixture
def many(lab: Lab) -> Lab:
    """A project with forty targets, built: its state has some pages."""
    lab.model("a", w=[1.0, 2.0])
    lab.model("b", w=[3.0, 5.0])
    lab.write("".join(TARGET.format(f"t{number}", number + 10) for number in range(40)))
    assert set(lab.verdicts().values()) == {"built"}
    return lab


def said(lab: Lab) -> str:
    return "\n".join(event.text for event in lab.events if isinstance(event, Notice))


def change(lab: Lab) -> None:
    """Change every target, so that what stands there is known as ours by the records alone."""
    lab.write("".join(TARGET.format(f"t{number}", number + 50) for number in range(40)))


def failing_reads(monkeypatch: pytest.MonkeyPatch, times: int) -> list[str]:
    """Have so many statements, of those that follow, fail as SQLite tells a read that fails."""
    asked: list[str] = []
    rows = Database.rows

    def read(db: Database, statement: str, values: tuple[object, ...] = ()) -> object:
        if "FROM artifact" in statement and len(asked) < times:
            asked.append(statement)
            raise DatabaseDamagedError("database disk image is malformed")
        return rows(db, statement, values)

    monkeypatch.setattr(Database, "rows", read)
    return asked


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    "verb", [Lab.build, Lab.states, lambda lab: lab.project.verify(), lambda lab: lab.project.gc()], ids="bsvg"
)
def test_reads_that_fail_lose_nothing(
    many: Lab, verb: Callable[[Lab], object], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(many)
    with monkeypatch.context() as patch:
        asked = failing_reads(patch, times)
        verb(many)
        assert len(asked) == times
    if times == 1:
        assert not list((many / ".mergebuild").glob("*.unreadable*"))
    assert set(many.verdicts().values()) <= {"built", "up-to-date"}
    assert many.project.verify().problems == ()


def test_reads_that_go_on_failing_are_told(many: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_reads(monkeypatch, 1000)
    with pytest.raises(CorruptionError, match="state is damaged"):
        many.states()


def test_an_index_that_is_not_its_table_s_is_damage(many: Lab) -> None:
    """SQLite's quick check does not compare them, and every later verb would fail."""
    path = many / STATE
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_artifact_1'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        content = file.read(size)
        at = content.rindex(b"t17.safetensors")
        file.seek((page - 1) * size + at + 1)
        file.write(b"9")
    many.project.clean(("t17",))
    change(many)
    assert many.build().ok
    assert many.project.verify().problems == ()


def spoil(path: Path, page: int) -> None:
    """Damage one page of a database whose log is written back."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (size,) = db.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek(page * size)
        file.write(b"\xff" * size)


def pages(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        (count,) = db.execute("PRAGMA page_count").fetchone()
    return int(count)


def test_what_can_be_read_of_a_damaged_state_is_kept(many: Lab, tmp_path: Path) -> None:
    """Whichever page is lost: outputs whose rows are there are ours, and a changed recipe replaces them."""
    shutil.copytree(many.root, tmp_path / "sound", symlinks=True)
    kept = []
    for page in range(1, pages(many / STATE), 5):
        shutil.rmtree(many / ".mergebuild")
        shutil.copytree(tmp_path / "sound/.mergebuild", many / ".mergebuild")
        for output in (tmp_path / "sound/o").iterdir():
            shutil.copy2(output, many / "o")
        many.events.clear()
        change(many)
        spoil(many / STATE, page)
        found = many.build(force=True, keep_going=True)
        assert found.exit_code == 0
        assert many.project.verify().problems == ()
        if "begun afresh with" in said(many):
            kept.append(int(said(many).partition("afresh with ")[2].partition(" ")[0]))
            assert (many / f"{STATE}.unreadable").exists()
        for output in (many / "o").glob("*.by-hand-*"):
            output.unlink()
    assert kept  # most pages are of tables that every build reads
    assert max(kept) > 40
    assert sum(count > 0 for count in kept) > len(kept) // 2


def test_each_damaged_state_is_kept(many: Lab) -> None:
    for name in ("state.sqlite3.unreadable", "state.sqlite3.unreadable-2", "state.sqlite3.unreadable-3"):
        (many / STATE).write_bytes(name.encode() * 1000)
        many.build()
        assert (many / ".mergebuild" / name).read_bytes() == name.encode() * 1000
    many.project.gc()
    assert not list((many / ".mergebuild").glob("*.unreadable*"))


def test_a_damaged_state_with_statements_of_its_own_is_not_read(many: Lab) -> None:
    with closing(sqlite3.connect(many / STATE)) as db:
        db.execute("CREATE TRIGGER more AFTER INSERT ON artifact BEGIN DELETE FROM record; END")
        db.commit()
    many.build()
    assert "begun afresh with 0 rows" in said(many)


@pytest.mark.parametrize("journal", ["wal", "delete"])
@pytest.mark.parametrize(
    "verb",
    [
        Lab.build,
        Lab.states,
        lambda lab: lab.project.plan(),
        lambda lab: lab.project.verify(),
        lambda lab: lab.project.gc(),
        lambda lab: lab.project.clean(("t1",)),
    ],
    ids="build status plan verify gc clean".split(),
)
def test_a_state_of_a_later_version_is_left_alone(many: Lab, verb: Callable[[Lab], object], journal: str) -> None:
    """It may hold whatever a later version writes: an error of its own, and not one byte of it changes."""
    with closing(sqlite3.connect(many / STATE)) as db:
        db.execute(f"PRAGMA journal_mode = {journal}")
        db.execute("CREATE VIEW later AS SELECT 1")
        db.execute("PRAGMA user_version = 1000")
        db.commit()
        if journal == "wal":
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    change(many)
    before = (many / STATE).read_bytes()
    outputs = {path.name: path.read_bytes() for path in (many / "o").iterdir()}
    with pytest.raises(UsageError, match="of version 1000, which a later mergebuild writes"):
        verb(many)
    assert (many / STATE).read_bytes() == before
    assert not list((many / ".mergebuild").glob("*.unreadable*"))
    assert {path.name: path.read_bytes() for path in (many / "o").iterdir()} == outputs


def test_gc_forgets_nothing_that_it_could_not_look_at(many: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """One `lstat` that fails says nothing of a file."""
    lstat, failed = os.lstat, []

    def look(path: object, **words: object) -> os.stat_result:
        if str(path).endswith("t3.safetensors"):
            failed.append(path)
            raise OSError(5, "Input/output error", str(path))
        return lstat(path, **words)  # type: ignore[call-overload, no-any-return]

    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", look)
        many.project.gc()
    assert failed
    assert many.states()["t3"] == "up-to-date"
    change(many)
    assert set(many.verdicts().values()) == {"built"}
