"""Laws of the state: in memory until there is something to write, and the first on disk is everyone's."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from mergebuild.cli.failures import explained
from mergebuild.digest import checksum
from mergebuild.store import ArtifactRow, DatabaseDamagedError, Entry, PackedKeys, Record, SourceRow
from mergebuild.store import state as state_module
from mergebuild.store.contents import pack, unpack
from mergebuild.store.ledger import DiskLedger
from mergebuild.store.state import State
from mergebuild.system import platform
from mergebuild.system.filestate import Identity

ONE, TWO = (SourceRow(Identity(1, inode, 3, 4, 5), b"c" * 16, b"d" * 16, None) for inode in (1, 2))

HEADER = b"h" * 16


@pytest.mark.parametrize("hidden", ["", "1"])
def test_of_two_first_builds_the_quicker_ones_state_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: str
) -> None:
    """Both were in memory; the slower one goes on with what the other wrote, and leaves no file of its own."""
    monkeypatch.setenv("MERGEBUILD_PORTABLE", hidden)
    path = tmp_path / "store/state.sqlite3"
    quick, slow = State(path), State(path)
    ledger_of(quick).remember_source(ONE)
    ledger_of(slow).remember_source(TWO)
    path.parent.mkdir()
    quick.write_to_disk()
    slow.write_to_disk()
    assert slow.is_on_disk
    assert ledger_of(slow).source(ONE.identity, "") == ONE
    assert ledger_of(slow).source(TWO.identity, "") is None
    quick.close()
    slow.close()
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def ledger_of(state: State) -> DiskLedger:
    """Return what a state remembers, as the project of these tests has it."""
    return DiskLedger(state, "project")


def state_of(folder: Path) -> State:
    """Return a state on disk."""
    (folder / "store").mkdir(exist_ok=True)
    state = State(folder / "store/state.sqlite3")
    state.write_to_disk()
    return state


VERSION_4 = """
CREATE TABLE source (
    device INTEGER, inode INTEGER, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER,
    checksums BLOB, content BLOB, sha256 TEXT, used REAL, autov3 TEXT, PRIMARY KEY (device, inode)
) WITHOUT ROWID;
CREATE TABLE artifact (
    id INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB NOT NULL, header BLOB NOT NULL, path TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL, device INTEGER, inode INTEGER, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, boot TEXT,
    nonfinite INTEGER NOT NULL, contents BLOB NOT NULL, made REAL NOT NULL, project TEXT NOT NULL
);
CREATE TABLE tensor (
    digest BLOB, artifact INTEGER REFERENCES artifact (id) ON DELETE CASCADE, ordinal INTEGER,
    PRIMARY KEY (digest, artifact, ordinal)
) WITHOUT ROWID;
CREATE TABLE record (
    project TEXT, target TEXT, artifact BLOB NOT NULL, output TEXT, manifest TEXT NOT NULL, built REAL NOT NULL,
    fingerprint BLOB, header BLOB, tensors INTEGER, PRIMARY KEY (project, target)
) WITHOUT ROWID;
CREATE TABLE finding (key BLOB PRIMARY KEY, text TEXT NOT NULL, found REAL NOT NULL) WITHOUT ROWID;
"""


@pytest.mark.parametrize("version", [2, 3, 4])
def test_a_state_of_an_older_version_keeps_what_it_knew(tmp_path: Path, version: int) -> None:
    """It lacks columns, tables and seals; two processes may find it so at the same time.

    But a source of which nobody knows in which boot it was hashed.
    """
    (tmp_path / "store").mkdir()
    path = tmp_path / "store/state.sqlite3"
    known = [Entry("w", 8, 16, b"d" * 16, b"c" * 16, 0)]
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(VERSION_4)
        db.execute("INSERT INTO source VALUES (1, 1, 3, 4, 5, ?, ?, NULL, 0.0, NULL)", (b"c" * 16, b"d" * 16))
        table = pack(known)[17:]
        db.execute(
            "INSERT INTO artifact VALUES (7, ?, ?, '../t', 'output', 1, 1, 3, 4, 5, 'boot', 0, ?, 1.5, 'project')",
            (b"d" * 16, HEADER, table),
        )
        db.execute("INSERT INTO tensor VALUES (?, 7, 0)", (b"d" * 16,))
        db.execute(
            "INSERT INTO record VALUES ('project', 't', ?, '../t', '{}', 0.0, ?, ?, 3)", (b"d" * 16, b"f" * 16, HEADER)
        )
        db.execute("INSERT INTO finding VALUES (?, '{}', 0.0)", (b"k",))
        if version < 4:
            db.execute("ALTER TABLE source DROP COLUMN autov3")
        if version < 3:
            db.execute("DROP TABLE finding")
        db.execute(f"PRAGMA user_version = {version}")
    first, second = State(path), State(path)
    assert (
        ledger_of(first).source(ONE.identity, "") is ledger_of(second).source(ONE.identity, "boot") is None
    )  # in which boot was it hashed?
    ledger_of(second).remember_source(ONE)
    ledger_of(second).remember_source(ONE._replace(sha256="5" * 64))
    ledger_of(first).remember_source(ONE._replace(autov3="3" * 64))
    assert ledger_of(second).source(ONE.identity, "") == ONE._replace(sha256="5" * 64, autov3="3" * 64)
    ((told, there),) = ledger_of(first).published(["t"])
    assert (told.target, there.path, there.id) == ("t", tmp_path / "t", 7)
    whole = first.artifact(7)
    assert whole is not None
    assert unpack(whole.packed) == known
    assert ledger_of(first).record("t") == record("t", tmp_path / "t", b"d" * 16)
    assert first.holders([b"d" * 16]) == {b"d" * 16: [(7, 0)]}
    assert ledger_of(first).findings() == {}
    first.close()
    second.close()
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_state_without_notices_keeps_what_it_knew(tmp_path: Path) -> None:
    state = state_of(tmp_path)
    told = record("t", tmp_path / "t", b"d" * 16)._replace(notices=("one thing", "another"))
    keys = PackedKeys(b"lines", b"inputs")
    ledger_of(state).put_record(told, keys)
    assert ledger_of(state).record("t") == told
    state.close()
    with contextlib.closing(sqlite3.connect(state.path, isolation_level=None)) as db:
        db.execute("ALTER TABLE record DROP COLUMN notices")
        db.execute("PRAGMA user_version = 6")
    state = State(state.path)
    assert ledger_of(state).record("t") == told._replace(notices=())
    assert ledger_of(state).keys("t") == keys


def test_a_state_without_keys_keeps_what_it_knew(tmp_path: Path) -> None:
    """Of a target that was built before keys were kept none are known, until it is built again."""
    state = state_of(tmp_path)
    known = [Entry("w", 8, 16, b"d" * 16, b"c" * 16, 0)]
    table = pack(known)[17:]
    old = checksum(table) + table
    state.add_artifact(row(tmp_path / "t", b"d" * 16)._replace(packed=old), [b"d" * 16])
    ledger_of(state).put_record(record("t", tmp_path / "t", b"d" * 16))
    ledger_of(state).remember_source(ONE)
    state.close()
    with contextlib.closing(sqlite3.connect(state.path, isolation_level=None)) as db:
        for statement in (
            "DROP INDEX record_inputs",
            "DROP TABLE inputs",
            "ALTER TABLE record DROP COLUMN keys",
            "ALTER TABLE record DROP COLUMN inputs",
            "ALTER TABLE record DROP COLUMN notices",
            "PRAGMA user_version = 5",
        ):
            db.execute(statement)
    state = State(state.path)
    assert ledger_of(state).record("t") == record("t", tmp_path / "t", b"d" * 16)
    assert ledger_of(state).source(ONE.identity, "") == ONE
    (found,) = state.artifacts()
    assert unpack(found.packed) == known
    assert ledger_of(state).keys("t") is None
    ledger_of(state).put_record(record("t", tmp_path / "t", b"d" * 16), PackedKeys(b"lines", b"inputs"))
    assert ledger_of(state).keys("t") == PackedKeys(b"lines", b"inputs")
    state.close()


def test_inputs_that_targets_share_are_kept_once_and_while_one_has_them(tmp_path: Path) -> None:
    state = state_of(tmp_path)

    def put(name: str, lines: bytes, inputs: bytes) -> None:
        ledger_of(state).put_record(record(name, tmp_path / name, b"d" * 16), PackedKeys(lines, inputs))

    def kept() -> set[bytes]:
        return {packed for (packed,) in state.db.rows("SELECT packed FROM inputs")}

    for number in range(3):
        put(f"t{number}", b"lines %d" % number, b"shared")
    put("other", b"lines", b"own")
    assert kept() == {b"shared", b"own"}
    assert [ledger_of(state).keys(f"t{number}") for number in range(3)] == [
        PackedKeys(b"lines %d" % number, b"shared") for number in range(3)
    ]
    put("t0", b"lines", b"own")
    ledger_of(state).forget_record("other")
    assert kept() == {b"shared", b"own"}
    ledger_of(state).forget_record("t1")
    put("t2", b"lines", b"new")
    assert kept() == {b"own", b"new"}
    ledger_of(state).forget_project("project")
    assert kept() == set()
    state.close()


def test_keys_in_which_anything_is_another_are_none(tmp_path: Path) -> None:
    """The record itself is believed all the same."""
    state = state_of(tmp_path)
    put = record("t", tmp_path / "t", b"d" * 16)
    with contextlib.closing(sqlite3.connect(state.path, isolation_level=None)) as db:
        for table, column in (("record", "keys"), ("record", "inputs"), ("inputs", "digest"), ("inputs", "packed")):
            ledger_of(state).put_record(put, PackedKeys(b"lines", b"inputs"))
            assert ledger_of(state).keys("t") == PackedKeys(b"lines", b"inputs")
            db.execute(f"UPDATE {table} SET {column} = CAST({column} || 'x' AS BLOB)")
            assert ledger_of(state).keys("t") is None
            assert ledger_of(state).record("t") == put
            db.execute("DELETE FROM inputs")
            db.execute("DELETE FROM record")
    state.close()


TABLES = ["source", "artifact", "record", "finding"]


@pytest.mark.parametrize("table", TABLES)
def test_a_row_in_which_anything_is_another_is_none(tmp_path: Path, table: str) -> None:
    """But for the order of age, and what a row says of itself alone (its number, when it was used)."""
    state = state_of(tmp_path)
    entries = [Entry("w", 8, 16, b"d" * 16, b"c" * 16, 0)]

    def fill() -> None:
        ledger_of(state).remember_source(ONE._replace(sha256="5" * 64))
        state.add_artifact(row(tmp_path / "t", b"d" * 16)._replace(packed=pack(entries)), [b"d" * 16])
        ledger_of(state).put_record(record("t", tmp_path / "t", b"d" * 16))
        ledger_of(state).keep_findings({b"k": "{}"})

    def known() -> list[bool]:
        return [
            ledger_of(state).source(ONE.identity, "") is not None,
            bool(state.artifacts()),
            bool(ledger_of(state).records()),
            ledger_of(state).findings() == {b"k": "{}"},
        ]

    fill()
    assert all(known())
    with contextlib.closing(sqlite3.connect(state.path, isolation_level=None)) as db:
        columns = [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")]
        for column in columns:
            if column in ("id", "used", "built", "found", "manifest", "notices", "keys", "inputs"):
                continue
            db.execute(f"UPDATE {table} SET {column} = CAST(COALESCE({column}, '') || 'x' AS BLOB)")
            assert not known()[TABLES.index(table)], column
            db.execute(f"DELETE FROM {table}")
            fill()
            assert all(known())
        db.execute("UPDATE record SET manifest = replace(manifest, '{', '[')")
        found = ledger_of(state).record("t")
        assert found is not None
        assert found.manifest == ""
    state.close()


def test_damage_is_no_want_of_space_or_permission(tmp_path: Path) -> None:
    """What the machine is in the way of comes as SQLite says it; what no SQLite wrote is damage."""
    state = state_of(tmp_path)
    with contextlib.closing(sqlite3.connect(state.path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        state.db.rows("PRAGMA busy_timeout = 1")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            ledger_of(state).remember_source(ONE)
        db.execute("ROLLBACK")
        db.execute("DROP TABLE finding")
    with pytest.raises(DatabaseDamagedError, match="no such table"):
        ledger_of(state).findings()
    state.close()


def refused(name: str) -> sqlite3.OperationalError:
    """Return an error as SQLite gives it."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize("name", ["SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE"])
@pytest.mark.parametrize("number", [None, errno.EFBIG, errno.EDQUOT, errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_is_not_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int | None
) -> None:
    """SQLite says the same of both; which it is, a file of our own tells. Either way the file is named."""
    state = state_of(tmp_path)

    def write(_fd: int, _view: bytes, _offset: int) -> None:
        if number is not None:
            raise OSError(number, "no")

    monkeypatch.setattr(platform, "pwrite_all", write)
    with pytest.raises((OSError, sqlite3.OperationalError)) as caught, state.db._told():
        raise refused(name)
    is_space = number not in (None, errno.EIO)
    code, (problem,) = explained(caught.value)
    assert (code, problem.code) == ((7, "no-space") if is_space else (1, "store-unreadable"))
    assert f"`{state.path}`" in problem.message
    state.close()


@pytest.mark.processes
def test_a_limit_on_files_is_want_of_space(tmp_path: Path) -> None:
    """Tried with the limit itself, in a process of its own."""
    program = f"""
import resource, sys
from pathlib import Path
from mergebuild.system import platform, space
path = Path({str(tmp_path)!r}) / "state"
path.write_bytes(bytes(100_000))
before = space.is_kept_from_growing(path)
resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))
print(before, space.is_kept_from_growing(path))
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout == "False True\n"


def test_a_source_is_believed_in_its_boot_only_or_in_any(tmp_path: Path) -> None:
    state = state_of(tmp_path)
    bound = ONE._replace(epoch="first")
    ledger_of(state).remember_source(bound)
    ledger_of(state).remember_source(TWO)
    assert ledger_of(state).source(ONE.identity, "first") == bound
    assert ledger_of(state).source(ONE.identity, "second") is None
    assert ledger_of(state).source(TWO.identity, "second") == TWO
    ledger_of(state).remember_source(ONE._replace(epoch="first", sha256="5" * 64))
    ledger_of(state).remember_source(ONE._replace(epoch="second", autov3="3" * 64))
    assert ledger_of(state).source(ONE.identity, "second") == ONE._replace(epoch="second", autov3="3" * 64)
    state.close()


def row(path: Path, digest: bytes, *, header: bytes = HEADER, kind: str = "output", made: float = 0.0) -> ArtifactRow:
    return ArtifactRow(0, digest, header, path, kind, ONE.identity, "boot", 0, b"", made, "project")


def record(target: str, output: Path, digest: bytes, *, header: bytes = HEADER) -> Record:
    return Record(target, digest, output, "{}", b"f" * 16, header, 3)


def test_a_published_build_is_a_record_and_the_row_of_its_very_output(tmp_path: Path) -> None:
    """Another artifact, header or kind at the path, or no fingerprint: then it is none."""
    state = state_of(tmp_path)
    assert not state.has_artifacts()
    good, bad = b"g" * 16, b"b" * 16
    paths = {name: tmp_path / f"out/{name}" for name in "abcdef"}
    for name, path in paths.items():
        ledger_of(state).put_record(record(name, path, good))
        state.add_artifact(
            row(
                path,
                bad if name == "b" else good,
                header=b"other" if name == "c" else HEADER,
                kind="history" if name == "d" else "output",
            ),
            [],
        )
    ledger_of(state).put_record(record("e", paths["e"], good)._replace(fingerprint=None))
    assert state.has_artifacts()
    found = ledger_of(state).published(["f", "a", "b", "c", "d", "e", "none"])
    assert {(each.target, each.output, at.path, at.packed) for each, at in found} == {
        (name, paths[name], paths[name], b"") for name in "af"
    }
    assert [each.target for each, _ in ledger_of(state).published(["a"])] == ["a"]
    assert {each.target for each, _ in ledger_of(state).published(["a", *map(str, range(2000))])} == {"a"}
    assert DiskLedger(state, "another").published(["a"]) == []
    state.close()


def test_whole_artifacts_with_the_same_header_come_first_then_the_newest(tmp_path: Path) -> None:
    state = state_of(tmp_path)
    rows = [("old", b"1", 1.0), ("same", HEADER, 0.0), ("new", b"2", 2.0)]
    numbers = {
        name: state.add_artifact(row(tmp_path / name, b"d" * 16, header=header, made=made), [])
        for name, header, made in rows
    }
    state.add_artifact(row(tmp_path / "other", b"x" * 16), [])
    assert state.numbers(b"d" * 16, HEADER) == [numbers[name] for name in ("same", "new", "old")]
    state.close()


def test_outputs_are_a_projects_besides_those_that_are_named(tmp_path: Path) -> None:
    state = state_of(tmp_path)
    for name in ("one", "two"):
        state.add_artifact(row(tmp_path / name, b"d" * 16), [])
    state.add_artifact(row(tmp_path / "theirs", b"d" * 16)._replace(project="theirs"), [])
    state.add_artifact(row(tmp_path / "kept", b"d" * 16, kind="kept"), [])
    assert {each.path.name for each in state.outputs("project")} == {"one", "two"}
    assert [each.path.name for each in state.outputs("project", besides={str(tmp_path / "one")})] == ["two"]
    state.close()


@pytest.mark.parametrize("most_kept", [500_000, 1])
def test_who_asks_for_very_many_digests_gets_the_same_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_kept: int
) -> None:
    """What is kept in memory follows what this process and others write."""
    monkeypatch.setattr(state_module, "_MANY", 3)
    monkeypatch.setattr(state_module, "_MOST_KEPT", most_kept)
    state, another = state_of(tmp_path), state_of(tmp_path)
    digests = [bytes([number]) * 16 for number in range(5)]
    one = state.add_artifact(row(tmp_path / "one", b"d" * 16), digests[:2])
    for _ in range(3):
        assert state.holders(digests) == {digests[0]: [(one, 0)], digests[1]: [(one, 1)]}
    two = state.add_artifact(row(tmp_path / "two", b"e" * 16), digests[1:3])
    assert state.holders(digests)[digests[1]] == [(one, 1), (two, 0)]
    three = another.add_artifact(row(tmp_path / "three", b"f" * 16), digests[3:])
    assert state.holders(digests).keys() == set(digests)
    assert state.holders(digests[4:]) == {digests[4]: [(three, 1)]}
    another.forget_artifact(one)
    assert state.holders(digests[:1]) == {}
    assert state.holders([]) == {}
    state.close()
    another.close()


@pytest.mark.parametrize("kind", ["kept", "history", "intended"])
@pytest.mark.parametrize(
    "place",
    ["../letter", "letter", "kept/../../letter", "history/deep/letter", "/letter", "history/letter", "kept/letter"],
)
def test_a_row_of_what_the_store_may_remove_is_believed_only_where_that_lies(
    tmp_path: Path, place: str, kind: str
) -> None:
    """A database that came with a stranger's files may name anybody's file, under a sound seal."""
    state = state_of(tmp_path)
    number = state.add_artifact(row(state.path.parent / place, b"d" * 16, kind=kind), [b"d" * 16])
    assert state.artifact(number) is None
    assert state.artifacts() == []
    name = "d" * 32
    good = {
        "kept": f"kept/{name}-0123abcd",
        "history": f"history/{name}-7",
        "intended": "../out/.t.safetensors.mergebuild-7",
    }[kind]
    state.add_artifact(row(state.path.parent / good, b"d" * 16, kind=kind), [b"d" * 16])
    assert [each.kind for each in state.artifacts()] == [kind]
    state.close()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON record BEGIN DELETE FROM artifact; END",
        "CREATE VIEW v AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x FROM n) SELECT x FROM n",
    ],
)
def test_a_database_with_statements_of_its_own_is_none_of_ours(tmp_path: Path, statement: str) -> None:
    state = state_of(tmp_path)
    state.close()
    with contextlib.closing(sqlite3.connect(state.path, isolation_level=None)) as db:
        db.execute(statement)
    with pytest.raises(DatabaseDamagedError):
        State(state.path)
