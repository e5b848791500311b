"""What a source is, by its bytes: found, its header read, its tensors hashed once and remembered.

A file's digests are remembered by device, inode, size, mtime and ctime; a copy or a touched file is read again, and an
edit that puts size and mtime back is seen by its ctime. The files of a folder are remembered as one, by the states of
all of them and of what says which tensors they hold. Beside these stand files that change no tensor, and make another
model of it all the same: configuration, tokenizer, templates. A pin or lock of a folder is of all its files; the small
ones are looked at each time that somebody asks for the folder's hash (`file_hashes.py`).

A file that changed within the clock's grain could change once more without a trace (the "racily clean" problem). So a
source is opened only when it has *settled*: nobody has it open for writing, header and stat data are those of one
content, and every later change shows in the latter. Whatever is read after that, by whom ever, was read of this content
if the stat data are the same in the end: after hashing, and after a pass, every source is looked at again (`changed`).

What was hashed while the disk perhaps did not have it yet is believed in this epoch only: a power cut may leave other
bytes behind the same stat data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mergebuild.errors import Problem, SourceError
from mergebuild.events import Emit, Hashing, silent
from mergebuild.formats import registry
from mergebuild.formats.model import Model
from mergebuild.recipe.model import Source
from mergebuild.sources import hashes
from mergebuild.sources.checksums import checksums_of
from mergebuild.sources.failures import LACKING, changed, mismatch, unreadable
from mergebuild.sources.file_hashes import FileHashes
from mergebuild.sources.locating import folders_of_models, locate, shown_in
from mergebuild.sources.looked_at import LookedAt
from mergebuild.sources.opening import KeepsNames, never, twice_named
from mergebuild.sources.settling import settled
from mergebuild.sources.source_file import SourceFile, as_one, decisive, epoch_of, is_still, source_of_part
from mergebuild.store import SourceMemory, SourceRow
from mergebuild.system import platform
from mergebuild.system.filestate import Identity, Moment, is_rested
from mergebuild.system.missing import brought_back_by
from mergebuild.system.spans import span

__all__ = ["POSITION_IDS", "SMALL", "Sources"]

SMALL = 1 << 28
"""Bytes that are read in a moment, and are in the page cache after that: it pays to know them before planning."""

POSITION_IDS = "@position_ids"
"""A source that no recipe names: 0, 1, ... 76 (int64 [1, 77]), under the name `position_ids`."""


class Sources:
    """The sources of a recipe, opened when they are asked for."""

    def __init__(
        self,
        declared: Mapping[str, Source],
        memory: SourceMemory,
        *,
        folder: Path,
        emit: Emit = silent,
        keeps_names: KeepsNames = never,
    ) -> None:
        self._keeps_names = keeps_names
        self._declared = declared
        self._memory = memory
        self._folder = folder
        self._emit = emit
        self._files: dict[str, SourceFile] = {}
        self._hashes = FileHashes(memory)
        self._settled: dict[Path, Identity] = {}
        """The states of all files opened, as they were found then."""
        self.bytes_read = 0
        """Bytes of sources read for hashing so far."""
        self.at_hand: set[Path] = set()
        """Small files that were just read whole: to read them once more reads no disk."""
        self._seen: dict[str, LookedAt] = {}
        """By source, all that was looked at when it was opened."""

    def begin(self, emit: Emit) -> None:
        """Tell `emit` from now on, and count anew what is read: another verb begins."""
        self._emit = emit
        self.bytes_read = 0
        self.at_hand = set()

    def are_unchanged(self) -> bool:
        """Whether all that was opened is still what it was, and would be found at the same place."""
        try:
            return all(
                seen.holds() and locate(self._declared[name], self._folder) == self._files[name].path
                for name, seen in self._seen.items()
            )
        except SourceError:  # it is gone
            return False

    def __contains__(self, name: str) -> bool:
        return name in self._declared

    def file(self, name: str) -> SourceFile:
        """Return a source, its header read; what is remembered of it is there already.

        Raises:
            SourceError: it is missing or not a file that can be read.
        """
        found = self._files.get(name)
        if found is None:
            with span("open", source=name):
                found = self._files[name] = self._open(self._declared[name])
        return found

    def position_ids(self) -> str:
        """Return the name of the source that holds what the position ids of CLIP's text encoder must be."""
        if POSITION_IDS not in self._files:
            where = next(iter(self._declared.values())).where
            path = Path(__file__).parents[1] / "layouts" / "data" / f"{POSITION_IDS[1:]}.safetensors"
            own = Source(POSITION_IDS, str(path), path.parent, None, None, where)
            self._declared = {**self._declared, POSITION_IDS: own}
            self._files[POSITION_IDS] = self._open(own)
        return POSITION_IDS

    def renamed(self, name: str, part: str, model: Model) -> str:
        """Return the name of a source of which only some tensors are used, under other names or put together anew.

        Args:
            name: the source.
            part: what of it, as one word.
            model: these tensors, of sources opened before.
        """
        known = f"{name}@{part}"
        if known not in self._files:
            source = self.file(name)
            state = as_one(model, [self._settled[path] for path in decisive(model)])  # as it was when it was opened
            self._files[known] = self._remembered(SourceFile(known, source.path, source.shown, model, state, part=part))
            self._declared = {**self._declared, known: self._declared[name]}
        return known

    def look_again(self) -> None:
        """Have the hashes of folders taken anew when they are asked for: no stat data of a source tell of small files.

        What reads these files once more, reads them after this.
        """
        for source in self._files.values():
            if source.model.home is not None:
                source.sha256, source.listing = None, {}

    def hashed(self, name: str, *, with_sha256: bool = False) -> SourceFile:
        """Return a source whose digests (and SHA-256, when asked for or pinned) are known, reading it if need be.

        Raises:
            SourceError: it is missing, cannot be read, changes while it is read, or differs from its pin.
        """
        source = self.file(name)
        pins = self._declared[name].pins
        if source.part and pins:
            self.hashed(source_of_part(name))
            pins = {}
        for pin in pins.keys() - source.has_hashes:
            raise mismatch(self._declared[name], source, hashes.Difference(pin, pins[pin], f"(none: {LACKING[pin]})"))
        wanted = {"sha256" if pin == "autov2" else pin for pin in pins} | ({"sha256"} if with_sha256 else set())
        missing = {each for each in wanted if source.hashes[each] is None}
        if missing or not source.is_hashed:
            with span("hash", source=name, bytes=source.size):
                self._hash(source, missing)
        differs = hashes.differs(pins, source.hashes)
        if differs is not None:
            raise mismatch(self._declared[name], source, differs)
        return source

    def is_pinned(self, name: str) -> bool:
        """Whether the recipe says which bytes a source must have."""
        return bool(self._declared[name].pins)

    def meets_pin(self, name: str) -> bool:
        """Whether a source has no pins, or is known to be what they pin."""
        pins = self._declared[name].pins
        return not pins or hashes.differs(pins, {**self.file(name).hashes, "sha256": self.known_sha256(name)}) is None

    def known_sha256(self, name: str) -> str | None:
        """Return the SHA-256 of a source as far as that is known without reading it.

        Raises:
            SourceError: it is missing or not a file that can be read.
        """
        source = self.file(name)
        folder = source.model.home
        if source.sha256 is None and folder is not None:
            try:
                found = {hashes.path_in(folder, path): self._hashes.known(path) for path in source.model.own_files}
            except OSError as error:
                raise unreadable(self._declared[name], source.shown, error) from error
            listing = {path: digits for path, digits in found.items() if digits}
            if len(listing) == len(found):
                source.listing, source.sha256 = listing, hashes.of_listing(listing)
        return source.sha256

    def learn(self, source: SourceFile) -> None:
        """Remember the checksums of a source; it must still be the file that was opened (`changed`)."""
        checksums = b"".join((source.checksums or {}).values())
        epoch = "" if is_rested(source.identity, Moment.now()) else epoch_of(source)
        sha256 = source.sha256 if source.model.home is None else None  # of a folder, each file's is remembered
        row = SourceRow(source.remembered_by, checksums, source.content, sha256, source.autov3, epoch)
        self._memory.remember_source(row)

    def opened(self) -> list[str]:
        """Return the sources opened so far."""
        return list(self._files)

    def changed(self, names: Sequence[str]) -> list[str]:
        """Return which of these sources, all opened before, are no longer the files that were opened."""
        return [name for name in names if not is_still(self._files[name])]

    def _open(self, source: Source) -> SourceFile:
        since, path = Moment.now(), locate(source, self._folder)
        shown = shown_in(path, self._folder)
        try:
            model, states = settled(source, path, shown, self._within(path), self._keeps_names)
        except OSError as error:
            raise unreadable(source, shown, error, brought_back_by(path)) from error
        except SourceError as error:  # the reader knows the file; the place in the recipe is ours to add
            place = source.where.place()
            raise SourceError(
                Problem(each.code, each.message, each.where or place, each.help, each.rows) for each in error.problems
            ) from error
        for each, found in states.items():  # of two sources that are one file, the first one's word counts
            self._settled.setdefault(each, found)
        known = {each: self._settled[each] for each in decisive(model)}
        self._seen[source.name] = LookedAt.of(path, model, known, since)
        state = as_one(model, list(known.values()))
        return self._remembered(SourceFile(source.name, path, shown, model, state))

    def _within(self, path: Path) -> list[Path]:
        """Return the folders that links of a source's small files may end in: the project's, the user's of models."""
        return [self._folder, *(each for each in folders_of_models() if path.is_relative_to(each))]

    def _remembered(self, found: SourceFile) -> SourceFile:
        """Return a source with what is remembered of it."""
        known = self._memory.source(found.remembered_by, epoch_of(found))
        if known:
            found.autov3 = known.autov3
            found.sha256 = known.sha256 if found.model.home is None else None
            if known.checksums is not None and len(known.checksums) == 16 * len(found.tensors):
                remembered = replace(found, checksums=_by_name(found.model, known.checksums))
                if remembered.content == known.content:  # else another version of us saw other tensors in it
                    return remembered
        return found

    def _hash(self, source: SourceFile, wanted: Collection[str]) -> None:
        """Read a source for what is not known of it, hashes of the whole if wanted, and remember what was found."""
        try:
            is_read = not source.is_hashed or not self._knows_weights(source)
            if is_read:
                self._emit(Hashing(source.shown, source.size))
            checksums = source.checksums or self._checksums(source)
            found = self._hashes_of(source, wanted) if wanted else {}
        except Exception as error:  # a file that is cut short fails in many ways
            if not is_still(source):
                raise changed(self._declared[source.name], source) from error
            if isinstance(error, OSError):
                raise unreadable(self._declared[source.name], source.shown, error) from error
            raise
        if is_read:
            self.bytes_read += source.size
            if source.size <= SMALL:
                self.at_hand.update(source.model.files)
        if not is_still(source):
            raise changed(self._declared[source.name], source)
        source.checksums = checksums
        source.sha256 = found.get("sha256") or source.sha256
        source.autov3 = found.get("autov3") or source.autov3
        self.learn(source)

    def _checksums(self, source: SourceFile) -> Mapping[str, bytes]:
        """Return the checksum of every tensor by name.

        Raises:
            SourceError: two that are one parameter are not the same bytes.
        """
        threads = platform.cpu_count() if source.size > SMALL else 1
        found = checksums_of(source.model, source.tensors.values(), threads)
        by_name = dict(zip(source.tensors, found, strict=True))
        twins = source.model.twins
        for twin, mark in zip(twins, checksums_of(source.model, [twin.info for twin in twins], threads), strict=True):
            if by_name[twin.parameter] != mark:
                raise twice_named(source.shown, source.tensors[twin.parameter].name, twin.info.name)
        return by_name

    def _knows_weights(self, source: SourceFile) -> bool:
        """Whether the hash of a folder follows without reading its weights."""
        return source.model.home is not None and all(map(self._hashes.known, source.model.files))

    def _hashes_of(self, source: SourceFile, wanted: Collection[str]) -> Mapping[str, str | None]:
        """Return hashes of the whole of a source."""
        model = source.model
        if model.home is None:
            return hashes.of_file(model.files[0], has_length=registry.begins_with_length(model), wanted=wanted)
        source.listing = {hashes.path_in(model.home, path): self._hashes.of(path) for path in model.own_files}
        return {"sha256": hashes.of_listing(source.listing)}


def _by_name(model: Model, checksums: bytes) -> dict[str, bytes]:
    return {name: checksums[16 * index : 16 * index + 16] for index, name in enumerate(model.tensors)}
