"""How a finished file is published, and what is recorded of its target then.

What is at the output's path is checked right before: while a pass runs, a user may change an output, or put a file
where there was none. A user's file is replaced only by force, and is then kept aside.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

from mergebuild.build.context import BuildContext
from mergebuild.events import Notice
from mergebuild.plan import manifest
from mergebuild.plan.actions import FileAction
from mergebuild.plan.built_keys import packed_keys
from mergebuild.plan.description import Description
from mergebuild.store import ArtifactRow, Fresh, Presence, Record, has_bytes
from mergebuild.system.filestate import is_gone
from mergebuild.system.publishing import fitting
from mergebuild.system.spans import span

__all__ = ["OutputPlaces"]


class OutputPlaces:
    """Publishes the files of one build."""

    def __init__(self, context: BuildContext) -> None:
        self._context = context

    def publish(self, action: FileAction, temporary: Path, fresh: Fresh) -> bool:
        """Publish a file; return False if a file that is not ours is there and may not be replaced."""
        assert not action.is_part  # the files of a folder are published together
        if not self.may_take(action, fresh, temporary):
            return False
        shelf, path = self._context.shelf, self._context.path(action)
        row = shelf.at(path)[1] if action.content.path is None else None
        if row is not None:  # the store has it already: another target of this wave is equal
            temporary.unlink()
        else:
            row = self.put(action, temporary, fresh)
        self.settle(action, row)
        return True

    def put(self, action: FileAction, temporary: Path, fresh: Fresh) -> ArtifactRow:
        """Have the publisher put a file at its place."""
        return self._context.publisher.publish(
            temporary,
            self._context.path(action),
            fresh,
            kind="output" if action.content.path else "kept",
            project=self._context.owner(action),
            keeps_former=not action.description.has_only_its_output,
        )

    def may_take(self, action: FileAction, fresh: Fresh, at: Path) -> bool:
        """Whether a file may take its place: the file there is ours, or equal, or may be put aside by force.

        `at`: where the new file is now.
        """
        if self._presence(action) is not Presence.FOREIGN:
            return True
        if self._context.options.force:
            if not action.is_part:
                self._put_aside(action)
            return True
        return self._is_made_here(action, fresh, at)

    def _presence(self, action: FileAction) -> Presence:
        """Return what is at a file's place now; a damaged file of ours goes into the quarantine."""
        context, path = self._context, self._context.path(action)
        presence = Presence.OURS if action.content.path is None else context.shelf.look_again(path)
        if presence is Presence.DAMAGED:
            for row in context.shelf.rows(path=path):
                self.quarantine(row, action.content.shown or action.name)
        return presence

    def _is_made_here(self, action: FileAction, fresh: Fresh, at: Path) -> bool:
        """Whether a file that is not on record is what the target makes, or an unfinished file of ours; say so."""
        context, path, shown = self._context, self._context.path(action), action.content.shown
        if has_bytes(path, fresh):
            context.emit(Notice(f"{shown} was not in the records, and is what this target makes"))
            return True
        if context.shelf.is_unfinished(path, at):
            context.emit(Notice(f"{shown} did not reach the disk in full, and is made again"))
            return True
        return False

    def quarantine(self, row: ArtifactRow, what: str) -> None:
        """Move a damaged file into the quarantine, and emit that."""
        place = self._context.publisher.quarantine(row)
        self._context.emit(Notice(f"{what} was damaged, and is made again; the damaged file is {place}"))

    def _put_aside(self, action: FileAction) -> None:
        """Rename a file that a user changed by hand, before an output takes its place by force."""
        path = self._context.path(action)
        places = (path.with_name(fitting(path.stem, f".by-hand-{number}{path.suffix}")) for number in count(1))
        aside = next(place for place in places if is_gone(place))
        path.rename(aside)
        self._context.emit(Notice(f"what was at {action.content.shown} is kept as {aside.name}"))

    def settle(self, action: FileAction, row: ArtifactRow | None) -> None:
        """Record what a target was built from, and keep a second name of its output if the project wants one."""
        is_extra = action.goal.is_extra
        is_output = action.content.path is not None and not is_extra
        if row is not None and is_output and not action.description.has_only_its_output:
            self._context.publisher.keep(row, self._context.options.link)
        if not is_extra and not action.is_part:
            self.record(action.judgement.description)

    def record(self, made: Description) -> None:
        """Record what a target was built from."""
        assert made.digest is not None
        assert made.tensors is not None
        with span("record", target=made.name):
            record = Record(
                made.name,
                made.digest,
                made.goal.path,
                manifest.encode(made.lines),
                self._context.fingerprint_of(made.name),
                b"" if made.is_folder else made.files[0].header_checksum,
                len(made.blueprint.specs),
                made.notes,
            )
            self._context.ledger.put_record(record, packed_keys(made.tensors, made.intermediates))
