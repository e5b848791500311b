"""Compares what a target will be with its output, with what the store offers, and with the last build."""

from __future__ import annotations

from collections.abc import Sequence

from mergebuild.plan import manifest
from mergebuild.plan.description import Description, FileContent
from mergebuild.plan.judgement import Judgement, Standing
from mergebuild.results.build import Verdict
from mergebuild.results.looks import Change
from mergebuild.store import ArtifactRow, Entry, Ledger, Presence, Shelf

__all__ = ["Judge", "whole_artifact"]


class Judge:
    """Judges descriptions against one shelf."""

    def __init__(self, shelf: Shelf, ledger: Ledger) -> None:
        self._shelf = shelf
        self._ledger = ledger

    def judge(self, made: Description) -> Judgement:
        """Return the judgement of a target, without regard to other targets."""
        record = None if made.goal.is_extra else self._ledger.record(made.name)
        built_before = record is not None
        changes: tuple[Change, ...] = ()
        if record and record.manifest and made.is_known:
            changes = tuple(manifest.changes(manifest.decode(record.manifest), made.lines))
        standings = tuple(self._standing(made, file, changes, built_before=built_before) for file in made.files)
        causes = standings[0].causes
        if made.is_folder:
            found = (cause for each in standings if each.verdict is not Verdict.UP_TO_DATE for cause in each.causes)
            causes = tuple(dict.fromkeys(found)) or (() if built_before else ("never built",))
        return Judgement(made, standings, changes, causes)

    def _standing(
        self, made: Description, file: FileContent, changes: tuple[Change, ...], *, built_before: bool
    ) -> Standing:
        """Compare a file as it will be with the one that is there."""
        presence, row = self._there(file)
        causes: tuple[str, ...] = ()
        if presence is Presence.FOREIGN:
            causes = (f"{file.shown} was changed by hand, or is not ours",)
        elif presence is Presence.DAMAGED:
            causes = (f"{file.shown or 'its artifact'} is damaged: nobody changed it, and its bytes are others",)
        if file.digest is None:
            return Standing(presence, row, causes=causes or ("never built", "its sources were never read"))
        if row and row.digest == file.digest and _is_acceptable(made, file, row, self._shelf):
            if row.header == file.header_checksum:
                return Standing(presence, row, Verdict.UP_TO_DATE, row, causes)
            return Standing(presence, row, Verdict.RESTORE, row, ("its metadata changed",))
        whole = whole_artifact(made, file, self._shelf)
        verdict = Verdict.BUILD if whole is None else Verdict.RESTORE
        causes = causes or _causes(file, presence, changes, built_before=built_before)
        return Standing(presence, row, verdict, whole, causes)

    def _there(self, file: FileContent) -> tuple[Presence, ArtifactRow | None]:
        """Return what is at a file's path, and the artifact if it is ours."""
        path = file.path
        if path is None and file.digest is not None:
            path = self._shelf.kept_path(file.digest, file.header_checksum)
        if path is None:
            return Presence.ABSENT, None
        presence, there = self._shelf.at(path)
        if file.path is None and presence is Presence.FOREIGN:
            presence = Presence.ABSENT  # a damaged file in the store is not a user's file
        return presence, there if presence is Presence.OURS else None


def _causes(
    file: FileContent, presence: Presence, changes: tuple[Change, ...], *, built_before: bool
) -> tuple[str, ...]:
    """Return why a file is not up to date although its place is in order."""
    reasons = [change.text for change in changes]
    if not built_before:
        reasons.append("never built")
    elif presence is Presence.ABSENT:
        reasons.append(f"{file.shown or 'its artifact'} is missing")
    return tuple(reasons) or ("what its tensors are made of changed",)


def whole_artifact(made: Description, file: FileContent, shelf: Shelf) -> ArtifactRow | None:
    """Return an artifact that a file can be restored from, preferably one with the same metadata.

    None if there is none.
    """
    assert file.digest is not None
    found = shelf.intact(file.digest, header=file.header_checksum)
    return next((each for each in found if _is_acceptable(made, file, each, shelf)), None)


def _is_acceptable(made: Description, file: FileContent, row: ArtifactRow, shelf: Shelf) -> bool:
    """Whether a file can be restored from an artifact, and any NaN or Inf in that is allowed or copied."""
    if row.header != file.header_checksum and not _is_so_with_its_header(file, shelf.entries(row)):
        return False
    if made.allows_nonfinite or not row.nonfinite:
        return True
    rows = file.tensors.rows if file.tensors else ()
    copies = {digest for each in rows if each.is_copy for digest in each.digests}
    return all(not entry.nonfinite or entry.digest in copies for entry in shelf.entries(row))


def _is_so_with_its_header(file: FileContent, entries: Sequence[Entry]) -> bool:
    """Whether an artifact becomes the file if only its header is replaced."""
    if file.packing.fixed:
        return False
    tensors, digests = file.header.tensors, file.tensors.by_name if file.tensors else {}
    shift = file.header.data_start - min((entry.begin for entry in entries), default=0)
    return len(tensors) == len(entries) and all(
        entry.name in tensors
        and tensors[entry.name].begin == entry.begin + shift
        and digests[entry.name] == entry.digest
        and file.pieces(entry.name) == (entry.scattered.pieces if entry.scattered else ())
        for entry in entries
    )
