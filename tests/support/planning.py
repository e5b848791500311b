"""Plans recipes over declared sources and a store in memory, in milliseconds: without model files, without torch.

Tests of the planner compare the result of `planned`, plain names and numbers, and don't depend on how a plan is built.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from mergebuild.digest import checksum
from mergebuild.plan import manifest
from mergebuild.plan.actions import FileAction, FolderAction
from mergebuild.plan.plan import Plan
from mergebuild.plan.planner import Planner
from mergebuild.recipe import Recipe, load_recipe
from mergebuild.store import Entry, Fresh, Record
from mergebuild.system.filestate import Identity
from mergebuild.testing.memory import MemoryStore
from mergebuild.testing.sources import Declared, DeclaredSources

__all__ = ["Bench", "Declared", "Planned"]


class Planned(NamedTuple):
    """What a plan says about one file."""

    verdict: str
    reasons: tuple[str, ...]
    digest: bytes | None
    header: bytes
    """The checksum of the bytes that will be before the data."""
    tensors: Mapping[str, bytes]
    """The tensors' digests by name; empty while they are not known."""
    computed: frozenset[str]
    """Names of tensors that this file is the first to compute."""
    held: frozenset[str]
    """Names of tensors that are copied from an artifact."""
    seen: frozenset[str]
    """Names of tensors that an earlier target of the plan computes."""
    bytes_read: int
    bytes_written: int
    notes: tuple[str, ...]


class Bench:
    """A folder with only a mergefile, a store in memory, and a table of files that are pretended to exist."""

    def __init__(self, folder: Path, sources: Mapping[str, Mapping[str, Declared]]) -> None:
        self.root = folder
        self.sources = sources
        self.never_read: tuple[str, ...] = ()
        self.missing: tuple[str, ...] = ()
        """Names of sources that the mergefile declares, but whose files are missing."""
        self.nonfinite: frozenset[str] = frozenset()
        """Names of tensors in which `build` pretends to find a NaN or Inf."""
        self.files: dict[Path, Identity] = {}
        """The pretended files: the state of each, by path."""
        self.store = MemoryStore(folder / "store", look=self.files.get)
        self._edits = 0
        self.order: list[str] = []
        """Names of the last plan's targets, in the order of work."""
        self.plan: Plan | None = None
        """The last plan."""
        self.read: list[str] = []
        """Names of the sources that the last plan read."""

    def planned(self, text: str, *targets: str, hash_all: bool = False) -> dict[str, Planned]:
        """Plan `targets` (none: all of the text), and return what the plan says about each file.

        The keys are names of targets, for a folder's files the target and the path. Targets that are built because
        others need them are there too.
        """
        planner, recipe = self._planner(text)
        self.plan = planner.plan(list(targets or recipe.target_names()), hash_all=hash_all)
        self.order = [each.name for each in self.plan.judged]
        found = {_name(file): _planned(file) for file in self.plan.files}
        folders = [action for action in self.plan.actions if isinstance(action, FolderAction)]
        found |= {folder.judgement.name: _planned_folder(folder) for folder in folders}
        return found | {
            each.target: Planned(str(each.verdict), each.reasons, None, b"", {}, *[frozenset()] * 3, 0, 0, each.notices)
            for each in self.plan.blocked
        }

    def build(self, text: str, *targets: str) -> None:
        """Record in the store what a build of these targets would have recorded."""
        self.planned(text, *targets, hash_all=True)
        assert self.plan is not None
        for action in self.plan.actions:
            self._publish(action)

    def path(self, output: str) -> Path:
        """Return the path of an output."""
        return self.root / output

    def edit(self, output: str) -> None:
        """Change an output's file, as a user might."""
        self.files[self.path(output)] = self._new_state()

    def remove(self, output: str) -> None:
        """Remove an output's file."""
        del self.files[self.path(output)]

    def supersede(self, output: str) -> None:
        """Move an output's file into the history, as when another file replaces it."""
        (row,) = self.store.rows(path=self.path(output))
        place = self.store.kept_path(b"history of " + row.digest)
        self.files[place] = self.files.pop(row.path)
        self.store.offer(place, Fresh(row.digest, row.header, self.store.entries(row)), kind="history")

    def _planner(self, text: str) -> tuple[Planner, Recipe]:
        declared = "".join(f'{name} = "{name}.safetensors"\n' for name in (*self.sources, *self.missing))
        (self.root / "mergefile.toml").write_text(f"{text}\n[sources]\n{declared}")
        recipe = load_recipe(self.root / "mergefile.toml")
        sources = DeclaredSources(
            recipe.sources, self.sources, self.store, folder=self.root, never_read=self.never_read
        )
        self.read = sources.read
        return Planner(recipe, sources, self.store, self.store), recipe

    def _publish(self, action: FileAction | FolderAction) -> None:
        made = action.judgement.description
        assert made.digest is not None
        for file in action.files:
            content = file.content
            assert content.digest is not None
            digests = content.tensors.by_name if content.tensors else {}
            table = [
                Entry(name, info.begin, info.end, digests[name], checksum(digests[name]), int(name in self.nonfinite))
                for name, info in content.header.tensors.items()
            ]
            path = file.place(self.store)
            self.files[path] = self._new_state()
            fresh = Fresh(content.digest, content.header_checksum, table)
            self.store.offer(path, fresh, kind="output" if content.path else "kept")
        header = b"" if made.is_folder else made.files[0].header_checksum
        lines = manifest.encode(made.lines)
        self.store.put_record(Record(made.name, made.digest, made.goal.path, lines, b"", header))

    def _new_state(self) -> Identity:
        self._edits += 1
        return Identity(0, self._edits, self._edits, 0, 0)


def _name(file: FileAction) -> str:
    folder = file.goal.path
    if not file.is_part or file.content.path is None or folder is None:
        return file.name
    return f"{file.name}/{file.content.path.relative_to(folder).as_posix()}"


def _planned(file: FileAction) -> Planned:
    content, work = file.content, file.work
    tensors = dict(content.tensors.by_name) if content.tensors else {}

    def names(digests: Collection[bytes]) -> frozenset[str]:
        return frozenset(name for name, digest in tensors.items() if digest in digests)

    reasons = file.standing.causes if file.is_part else file.reasons
    return Planned(
        str(file.verdict), reasons, content.digest, content.header_checksum, tensors,
        names(work.compute), names(work.held), names(work.seen),
        file.bytes_read, file.writes, file.description.notes,
    )  # fmt: skip


def _planned_folder(folder: FolderAction) -> Planned:
    made = folder.judgement.description
    tensors = dict(made.tensors.by_name) if made.tensors else {}
    none = frozenset[str]()
    return Planned(str(folder.verdict), folder.reasons, made.digest, b"", tensors, none, none, none, 0, 0, made.notes)
