"""The sources of a recipe: finds them, reads their headers, hashes their tensors once and remembers that.

A file's digests are remembered by device, inode, size, mtime and ctime. A copy or a touched file is read again, and an
edit that restores size and mtime shows in the ctime. The files of a folder are remembered as one, by the stat data of
all of them and of the files that say which tensors they hold. A folder also has small files that change no tensor but
make another model of it: configuration, tokenizer, templates. A pin or lock of a folder is of all its files; the small
ones are checked whenever the folder's hash is asked for (`file_hashes.py`).

A file that changed within the resolution of the clock could change once more without a trace (the "racily clean"
problem). So a source is opened only after it has *settled*: no process has it open for writing, header and stat data
belong to one content, and every later change shows in the stat data. If these are the same at the end, everything that
was read meanwhile was read from this content. They are compared after hashing and after a pass (`changed`).

If a file was hashed when its bytes were perhaps not on the disk yet, the digests are believed in this epoch only: after
a power cut, other bytes may have the same stat data.
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
"""Sources of at most so many bytes are read in a moment, and then are in the page cache: they are hashed before
planning."""

POSITION_IDS = "@position_ids"
"""A source that no recipe names: 0, 1, ... 76 (int64 [1, 77]), under the name `position_ids`."""


class Sources:
    """The sources of a recipe, opened when they are first asked for."""

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
        """The stat data of all opened files when they were opened."""
        self.bytes_read = 0
        """Bytes of sources read for hashing so far."""
        self.at_hand: set[Path] = set()
        """Small files that were just read as a whole: reading them again needs no disk."""
        self._seen: dict[str, LookedAt] = {}
        """By source, everything that it was opened from."""

    def begin(self, emit: Emit) -> None:
        """Begin another verb: report to `emit` from now on, and count the bytes read from 0."""
        self._emit = emit
        self.bytes_read = 0
        self.at_hand = set()

    def are_unchanged(self) -> bool:
        """Whether all opened sources are unchanged, and would be found at the same paths."""
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
        """Return a source: its header, and what is remembered of it.

        Raises:
            SourceError: it is missing or not a file that can be read.
        """
        found = self._files.get(name)
        if found is None:
            with span("open", source=name):
                found = self._files[name] = self._open(self._declared[name])
        return found

    def position_ids(self) -> str:
        """Return the name of the source that has the correct position ids of CLIP's text encoder."""
        if POSITION_IDS not in self._files:
            where = next(iter(self._declared.values())).where
            path = Path(__file__).parents[1] / "layouts" / "data" / f"{POSITION_IDS[1:]}.safetensors"
            own = Source(POSITION_IDS, str(path), path.parent, None, None, where)
            self._declared = {**self._declared, POSITION_IDS: own}
            self._files[POSITION_IDS] = self._open(own)
        return POSITION_IDS

    def renamed(self, name: str, part: str, model: Model) -> str:
        """Return the name of a source that has some tensors of another, under other names or put together anew.

        Args:
            name: The source.
            part: A word for these tensors.
            model: These tensors, of sources opened before.
        """
        known = f"{name}@{part}"
        if known not in self._files:
            source = self.file(name)
            state = as_one(model, [self._settled[path] for path in decisive(model)])  # when it was opened
            self._files[known] = self._remembered(SourceFile(known, source.path, source.shown, model, state, part=part))
            self._declared = {**self._declared, known: self._declared[name]}
        return known

    def look_again(self) -> None:
        """Forget the hashes of folders, so that they are computed again: the stat data don't cover small files.

        Small files that are read after this are the ones that the new hashes are of.
        """
        for source in self._files.values():
            if source.model.home is not None:
                source.sha256, source.listing = None, {}

    def hashed(self, name: str, *, with_sha256: bool = False) -> SourceFile:
        """Return a source whose digests (and SHA-256, if asked for or pinned) are known; it is read if necessary.

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
        """Return the SHA-256 of a source if it is known without reading it; else None.

        Raises:
            SourceError: it is missing or not a file that can be read.
        """
        source = self.file(name)
        folder = source.model.home
        if source.sha256 is None and folder is not None:
            found = self._known_of_files(source, folder)
            listing = {path: digits for path, digits in found.items() if digits}
            if len(listing) == len(found):
                source.listing, source.sha256 = listing, hashes.of_listing(listing)
        return source.sha256

    def _known_of_files(self, source: SourceFile, folder: Path) -> dict[str, str | None]:
        """Return the SHA-256 of a folder's files by their paths in it, each if it is known without reading it."""
        try:
            return {hashes.path_in(folder, path): self._hashes.known(path) for path in source.model.own_files}
        except OSError as error:
            raise unreadable(self._declared[source.name], source.shown, error) from error

    def learn(self, source: SourceFile) -> None:
        """Remember the checksums of a source. The caller has checked that its file didn't change (`changed`)."""
        checksums = b"".join((source.checksums or {}).values())
        epoch = "" if is_rested(source.identity, Moment.now()) else epoch_of(source)
        sha256 = source.sha256 if source.model.home is None else None  # for a folder, each file's is remembered
        row = SourceRow(source.remembered_by, checksums, source.content, sha256, source.autov3, epoch)
        self._memory.remember_source(row)

    def opened_from(self, name: str) -> Mapping[Path, Identity | None]:
        """Return the stat data, at its opening, of all paths that decide what a source is; None: nothing was there."""
        return self._seen[name].states

    def opened(self) -> list[str]:
        """Return the names of the sources opened so far."""
        return list(self._files)

    def changed(self, names: Sequence[str]) -> list[str]:
        """Return which of these sources, all opened before, have changed since."""
        return [name for name in names if not is_still(self._files[name])]

    def _open(self, source: Source) -> SourceFile:
        since, path = Moment.now(), locate(source, self._folder)
        shown = shown_in(path, self._folder)
        model, states = self._settled_at(path, source, shown)
        for each, found in states.items():  # if two sources are one file, the first one's stat data count
            self._settled.setdefault(each, found)
        known = {each: self._settled[each] for each in decisive(model)}
        self._seen[source.name] = LookedAt.of(path, model, known, since)
        state = as_one(model, list(known.values()))
        return self._remembered(SourceFile(source.name, path, shown, model, state))

    def _settled_at(self, path: Path, source: Source, shown: str) -> tuple[Model, Mapping[Path, Identity]]:
        """Return the header of a source and the stat data of its files; errors name the place in the recipe."""
        try:
            return settled(source, path, shown, self._within(path), self._keeps_names)
        except OSError as error:
            raise unreadable(source, shown, error, brought_back_by(path)) from error
        except SourceError as error:  # the reader knows the file only; add the place in the recipe
            place = source.where.place()
            raise SourceError(
                Problem(each.code, each.message, each.where or place, each.help, each.rows) for each in error.problems
            ) from error

    def _within(self, path: Path) -> list[Path]:
        """Return the folders that links of a source's small files may lead to: the project's, the user's of models."""
        return [self._folder, *(each for each in folders_of_models() if path.is_relative_to(each))]

    def _remembered(self, found: SourceFile) -> SourceFile:
        """Return a source with what is remembered of it."""
        known = self._memory.source(found.remembered_by, epoch_of(found))
        if known:
            found.autov3 = known.autov3
            found.sha256 = known.sha256 if found.model.home is None else None
            if known.checksums is not None and len(known.checksums) == 16 * len(found.tensors):
                remembered = replace(found, checksums=_by_name(found.model, known.checksums))
                if remembered.content == known.content:  # else another version of the program saw other tensors
                    return remembered
        return found

    def _hash(self, source: SourceFile, wanted: Collection[str]) -> None:
        """Read a source for its checksums and the wanted hashes, as far as these are not known; remember them."""
        declared = self._declared[source.name]
        try:
            is_read = not source.is_hashed or not self._knows_weights(source)
            if is_read:
                self._emit(Hashing(source.shown, source.size))
            checksums = source.checksums or self._checksums(source)
            found = self._hashes_of(source, wanted) if wanted else {}
        except Exception as error:  # reading a truncated file fails in many ways
            if not is_still(source):
                raise changed(declared, source) from error
            if isinstance(error, OSError):
                raise unreadable(declared, source.shown, error) from error
            raise
        if is_read:
            self._count_read(source)
        if not is_still(source):
            raise changed(declared, source)
        source.checksums = checksums
        source.sha256 = found.get("sha256") or source.sha256
        source.autov3 = found.get("autov3") or source.autov3
        self.learn(source)

    def _count_read(self, source: SourceFile) -> None:
        """Count the bytes of a source that was read completely; if it is small, record that it is in the page cache."""
        self.bytes_read += source.size
        if source.size <= SMALL:
            self.at_hand.update(source.model.files)

    def _checksums(self, source: SourceFile) -> Mapping[str, bytes]:
        """Return the checksum of every tensor by name.

        Raises:
            SourceError: a parameter is stored twice, with different bytes.
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
        """Whether the hash of a folder can be computed without reading its weights."""
        return source.model.home is not None and all(map(self._hashes.known, source.model.files))

    def _hashes_of(self, source: SourceFile, wanted: Collection[str]) -> Mapping[str, str | None]:
        """Return hashes of a whole source."""
        model = source.model
        if model.home is None:
            return hashes.of_file(model.files[0], has_length=registry.begins_with_length(model), wanted=wanted)
        source.listing = {hashes.path_in(model.home, path): self._hashes.of(path) for path in model.own_files}
        return {"sha256": hashes.of_listing(source.listing)}


def _by_name(model: Model, checksums: bytes) -> dict[str, bytes]:
    return {name: checksums[16 * index : 16 * index + 16] for index, name in enumerate(model.tensors)}
