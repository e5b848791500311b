"""Puts a damaged database aside, and makes a new one from the rows of it that can be read.

What is lost costs work, never data: a file without a row is recognized by its bytes, and a target without a record is
planned again.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from mergebuild.store.contents import unpack
from mergebuild.store.database import Database, DatabaseDamagedError, is_sound, put_aside, runs_statements, text_of
from mergebuild.store.ledger import DiskLedger, record_of, source_of
from mergebuild.store.state import ARTIFACT, RECORD, SOURCE, State, opened_state
from mergebuild.system import publishing

__all__ = ["begin_afresh"]


def begin_afresh(path: Path, *, look_again: bool = True) -> tuple[Path, int] | None:
    """Put a damaged database aside, and make a new one from the rows that can be read; None if it is undamaged.

    No other process may be using it. Returns where the old one is now, and how many of its rows were kept.
    `look_again`: check first whether it is undamaged after all.

    Raises:
        sqlite3.Error: the system does not let it be read.
    """
    if look_again and is_sound(lambda: opened_state(path)):
        return None
    with publishing.being_written(path) as temporary, contextlib.closing(State(temporary, is_new=True)) as state:
        kept = _take_over(state, path)
        aside = put_aside(path)
        state.close()
        publishing.put_first(temporary, path)
    return aside, kept


class _Readable(NamedTuple):
    """The readable rows of a damaged database, as they are."""

    artifacts: list[Any]
    records: list[Any]
    sources: list[Any]
    findings: list[Any]


def _take_over(state: State, path: Path) -> int:
    """Copy the rows of a damaged database that can be read and whose seals fit; return how many."""
    found = _readable(path)
    if found is None:
        return 0
    with state.transaction():
        known = {key: text for key, raw in found.findings if (text := text_of(raw, key)) is not None}
        DiskLedger(state, "").keep_findings(known)
        return (
            _take_artifacts(state, found.artifacts)
            + _take_records(state, found.records)
            + _take_sources(state, found.sources)
            + len(known)
        )


def _readable(path: Path) -> _Readable | None:
    """Return the rows of a database that can be read; None if none of it is to be believed."""
    try:
        damaged = Database(path)
    except (DatabaseDamagedError, sqlite3.Error):
        return None
    with contextlib.closing(damaged):
        try:
            if runs_statements(damaged):
                return None
        except (DatabaseDamagedError, sqlite3.Error):
            return None
        return _rows_of(damaged)


def _rows_of(damaged: Database) -> _Readable:
    """Return those rows of a database that can be read."""
    return _Readable(
        _all_of(damaged, f"{ARTIFACT}, seal", "artifact", "id"),
        _all_of(damaged, f"project, {RECORD}, seal", "record", "project, target"),
        _all_of(damaged, SOURCE, "source", "device, inode"),
        _all_of(damaged, "key, text", "finding", "key"),
    )


def _take_artifacts(state: State, rows: Iterable[Any]) -> int:
    found = [row for each in rows if (row := state.artifact_of(each)) is not None]
    for row in found:
        state.add_artifact(row, [entry.digest for entry in unpack(row.packed)])
    return len(found)


def _take_records(state: State, rows: Iterable[Any]) -> int:
    taken = 0
    for project, *rest in rows:
        if (record := record_of(state, rest, project)) is not None:
            DiskLedger(state, project).put_record(record)
            taken += 1
    return taken


def _take_sources(state: State, rows: Iterable[Any]) -> int:
    found = [source for each in rows if (source := source_of(each)) is not None]
    for source in found:
        DiskLedger(state, "").remember_source(source)
    return len(found)


def _all_of(db: Database, columns: str, table: str, order: str) -> list[Any]:
    """Return the rows of a table before the first unreadable one, and those after the last."""
    back = ", ".join(f"{column} DESC" for column in order.split(", "))
    first = db.readable_rows(f"SELECT {columns} FROM {table} ORDER BY {order}")
    last = db.readable_rows(f"SELECT {columns} FROM {table} ORDER BY {back}")
    return list(dict.fromkeys((*first, *reversed(last))))
