"""Put a database that is damaged aside, and make a new one of what can be read of it.

What is lost costs work, never data: a file whose row is gone is known again by its bytes, and a target without a record
is looked at once more.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

from mergebuild.store.contents import unpack
from mergebuild.store.database import Database, DatabaseDamagedError, is_sound, put_aside, runs_statements, text_of
from mergebuild.store.ledger import DiskLedger, record_of, source_of
from mergebuild.store.state import ARTIFACT, RECORD, SOURCE, State, opened_state
from mergebuild.system import publishing

__all__ = ["begin_afresh"]


def begin_afresh(path: Path, *, look_again: bool = True) -> tuple[Path, int] | None:
    """Put a damaged database aside, and make a new one of what can be read of it; None: it is sound after all.

    Nobody else may be using it. Returns where the old one is now, and how many of its rows were kept. `look_again`:
    whether it may be sound.

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


def _take_over(state: State, path: Path) -> int:
    """Take over the rows of a damaged database that can be read and whose seals hold; return how many."""
    try:
        damaged = Database(path)
    except (DatabaseDamagedError, sqlite3.Error):
        return 0
    with contextlib.closing(damaged):
        try:
            if runs_statements(damaged):
                return 0
        except (DatabaseDamagedError, sqlite3.Error):
            return 0
        artifacts = _all_of(damaged, f"{ARTIFACT}, seal", "artifact", "id")
        records = _all_of(damaged, f"project, {RECORD}, seal", "record", "project, target")
        sources = _all_of(damaged, SOURCE, "source", "device, inode")
        findings = _all_of(damaged, "key, text", "finding", "key")
    taken = 0
    ledger = DiskLedger(state, "")
    with state.transaction():
        for each in artifacts:
            if (row := state.artifact_of(each)) is not None:
                state.add_artifact(row, [entry.digest for entry in unpack(row.packed)])
                taken += 1
        for project, *rest in records:
            if (record := record_of(state, rest, project)) is not None:
                DiskLedger(state, project).put_record(record)
                taken += 1
        for each in sources:
            if (source := source_of(each)) is not None:
                ledger.remember_source(source)
                taken += 1
        known = {key: text for key, found in findings if (text := text_of(found, key)) is not None}
        ledger.keep_findings(known)
    return taken + len(known)


def _all_of(db: Database, columns: str, table: str, order: str) -> list[Any]:
    """Return the rows of a table that can be read before what can't be, and behind it."""
    back = ", ".join(f"{column} DESC" for column in order.split(", "))
    first = db.readable_rows(f"SELECT {columns} FROM {table} ORDER BY {order}")
    last = db.readable_rows(f"SELECT {columns} FROM {table} ORDER BY {back}")
    return list(dict.fromkeys((*first, *reversed(last))))
