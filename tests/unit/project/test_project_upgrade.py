"""A store that an earlier version wrote: what is up to date stays so, and nothing is built again."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from lab import Lab

from mergebuild.digest import checksum

TEXT = """
[targets.half]
method = "weighted_sum"
a = "x"
b = "y"
alpha = 0.5
output = "half.safetensors"
[targets.turned]
method = "slerp"
a = "half"
b = "y"
t = 0.25
output = "turned.ckpt"
"""

SEAL, FORMAT = 16, 1


def as_before(state: Path) -> None:
    """Turn a state into one of version 5: tables without a format, no keys, and fingerprints of another version."""
    with contextlib.closing(sqlite3.connect(state, isolation_level=None)) as db:
        for number, packed in db.execute("SELECT id, contents FROM artifact").fetchall():
            table = packed[SEAL + FORMAT :]
            db.execute("UPDATE artifact SET contents = ? WHERE id = ?", (checksum(table) + table, number))
        for statement in (
            "DROP INDEX record_inputs",
            "DROP TABLE inputs",
            "ALTER TABLE record DROP COLUMN keys",
            "ALTER TABLE record DROP COLUMN inputs",
            "ALTER TABLE record DROP COLUMN notices",
            "PRAGMA user_version = 5",
        ):
            db.execute(statement)


def test_nothing_is_built_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.model("x", w=[1.0, 2.0], v=[5.0])
    lab.model("y", w=[3.0, 5.0], v=[6.0])
    lab.write(TEXT)
    with monkeypatch.context() as earlier:
        earlier.setattr("mergebuild.plan.freshness.REVISION", 0)
        earlier.setattr("mergebuild.project.stamp.REVISION", 0)
        lab.build()
    lab.settle()
    outputs = {name: (lab / name).stat() for name in ("half.safetensors", "turned.ckpt")}
    as_before(lab / ".mergebuild/state.sqlite3")
    assert lab.states() == {"half": "up-to-date", "turned": "up-to-date"}
    assert lab.project.why("turned").reasons == ()
    found = lab.build()
    assert {each.target: str(each.verdict) for each in found.targets} == {"half": "up-to-date", "turned": "up-to-date"}
    assert (found.bytes_read, found.bytes_written) == (0, 0)
    assert {name: (lab / name).stat() for name in outputs} == outputs
    assert lab.project.verify().problems == ()
    told = lab.project.why("turned", tensor="w").tensor  # the build has recorded what it looked at closely
    assert told is not None
    assert told.before == told.after
    assert told.note == ""
