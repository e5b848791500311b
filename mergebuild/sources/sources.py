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

import errno
import json
import mmap
import os
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import xxhash

from mergebuild.digest import artifact_digest, checksum, file_checksum, scaled_checksum, source_tensor_digest
from mergebuild.errors import Problem, SourceError
from mergebuild.events import Emit, Hashing, silent
from mergebuild.formats import registry
from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.formats.gathering import gather
from mergebuild.formats.header import TensorInfo
from mergebuild.formats.model import ADAPTER_CONFIG, Model
from mergebuild.lora import ADAPTER_METADATA
from mergebuild.recipe.model import Source
from mergebuild.sources import hashes
from mergebuild.sources.file_hashes import FileHashes
from mergebuild.sources.looked_at import LookedAt
from mergebuild.sources.opening import KeepsNames, never, read_model, twice_named
from mergebuild.store import SourceMemory, SourceRow
from mergebuild.system import filestate, platform
from mergebuild.system.filestate import Identity, Moment, grain_of, identity, is_gone, is_racy, is_rested
from mergebuild.system.missing import brought_back_by, near
from mergebuild.system.spans import span

__all__ = ["POSITION_IDS", "SMALL", "SourceFile", "Sources", "locate", "source_of_part"]

SMALL = 1 << 28
"""Bytes that are read in a moment, and are in the page cache after that: it pays to know them before planning."""

POSITION_IDS = "@position_ids"
"""A source that no recipe names: 0, 1, ... 76 (int64 [1, 77]), under the name `position_ids`."""

_GATHERED = 1 << 22
"""Elements put together at a time, to be hashed."""

_PATIENCE = 10.0
"""Seconds that a source may go on changing before it is given up."""

_CHECK = "check that it is there, and its permissions"

_LACKING = {"autov2": "a folder has only `sha256`", "autov3": "only a safetensors file has one"}
"""Why what is pinned may lack such a hash."""


@dataclass
class SourceFile:
    """A source that is there: its path, what it offers, and its state; what was hashed of it lies in `checksums`."""

    name: str
    path: Path
    shown: str
    model: Model
    identity: Identity
    checksums: Mapping[str, bytes] | None = None
    sha256: str | None = None
    autov3: str | None = None
    listing: Mapping[str, str] = field(default_factory=dict)
    """Of several files whose `sha256` is known, the SHA-256 of each by its path in their folder."""
    part: str = ""
    """Which part of the source it is, under other names; empty: all of it."""

    @property
    def remembered_by(self) -> Identity:
        """What it is remembered by: the state of its files, and what of them it is."""
        if not self.part:
            return self.identity
        mark = checksum(f"{self.identity.device} {self.identity.inode} {self.part}".encode())
        return self.identity._replace(device=-1, inode=int.from_bytes(mark[:7], "big"))

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Its tensors by name."""
        return self.model.tensors

    @property
    def size(self) -> int:
        """The size of its files in bytes."""
        return self.model.size

    @cached_property
    def digests(self) -> Mapping[str, bytes]:
        """The digest of each tensor; the source must be hashed."""
        assert self.checksums is not None
        return {
            name: source_tensor_digest(info.stored, info.shape, self.checksums[name])
            for name, info in self.tensors.items()
        }

    @cached_property
    def content(self) -> bytes:
        """The digest of the whole set of tensors, and of what is said of those of an adapter; it must be hashed."""
        found = artifact_digest(
            (name, info.stored, info.shape, self.digests[name]) for name, info in self.tensors.items()
        )
        if self.model.format == "peft":
            said = json.dumps(self.model.facts, sort_keys=True)
        else:
            said = self.model.metadata.get(ADAPTER_METADATA, "")
        return checksum(found + said.encode()) if said else found

    @cached_property
    def said(self) -> bytes:
        """The digest of what its files say beside values: what they call tensors, which are tied, the configuration."""
        model, spelling = self.model, self.model.spelling
        made = {name: (each.shape, each.cuts) for name, each in spelling.made.items()}
        names = made, dict(spelling.shapes), dict(spelling.prefixes), dict(model.tied), model.copies
        return checksum(json.dumps((names, dict(model.facts)), sort_keys=True, default=str).encode())

    @property
    def has_hashes(self) -> Collection[str]:
        """The hashes that it has, of those that can be pinned."""
        if self.model.home is not None:
            return ("sha256",)
        return ("sha256", "autov2", "autov3") if registry.begins_with_length(self.model) else ("sha256", "autov2")

    @property
    def hashes(self) -> Mapping[str, str | None]:
        """These hashes by name, None where one is not known."""
        found = {"sha256": self.sha256, "autov2": self.sha256 and self.sha256[:10], "autov3": self.autov3}
        return {name: found[name] for name in self.has_hashes}

    @property
    def small_files(self) -> Mapping[str, str]:
        """Of a folder whose `sha256` is known, the SHA-256 of each file without tensors by path; else nothing."""
        return {path: self.listing[path] for path in sorted(self.listing.keys() - self.weights)}

    @property
    def sha256_of_weights(self) -> str:
        """Of a folder whose `sha256` is known, what that would be of its weights alone, as it once was; else empty."""
        return hashes.of_listing({path: self.listing[path] for path in self.weights}) if self.listing else ""

    @property
    def weights(self) -> set[str]:
        """Of several files, the paths of those that hold tensors; else nothing."""
        folder = self.model.home
        return {hashes.path_in(folder, path) for path in self.model.files} if folder else set()

    @property
    def is_hashed(self) -> bool:
        """Whether its digests are known."""
        return self.checksums is not None


def source_of_part(name: str) -> str:
    """Return which source of the recipe a name means, that perhaps stands for a part of it; empty: for none."""
    return name.partition("@")[0]


def locate(source: Source, root: Path) -> Path:
    """Return where a source lies: as written, or in the folders of `MERGEBUILD_MODELS`. `root` is for messages.

    Raises:
        SourceError: it is nowhere.
    """
    written = Path(source.path)
    candidates = [source.folder / written]
    if not written.is_absolute():
        candidates += [folder / written for folder in _folders_of_models()]
    for candidate in candidates:
        if not is_gone(candidate):
            return candidate
    mend = f"get it from {source.url}" if source.url else "check the path, or add its folder to MERGEBUILD_MODELS"
    rows = [f"looked for {_shown(candidate, root)}" for candidate in candidates]
    beside = next((found for candidate in candidates if (found := near(candidate))), None)
    command = next((word for candidate in candidates if (word := brought_back_by(candidate))), None)
    if beside is not None:
        rows.append(f"there is   {_shown(beside.path, root)}: {beside.why}")
        mend = beside.help
    elif command is not None:
        mend = f"another program keeps it: {command} brings it back"
    raise SourceError.one(
        "source-missing",
        f"source `{source.name}` is missing: no file `{source.path}`",
        where=source.where.place(),
        rows=rows,
        help=mend,
    )


def _folders_of_models() -> list[Path]:
    folders = os.environ.get("MERGEBUILD_MODELS", "").split(os.pathsep)
    return [Path(folder).expanduser() for folder in folders if folder]


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
            state = _as_one(model, [self._settled[path] for path in _decisive(model)])  # as it was when it was opened
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
            raise self._mismatch(source, hashes.Difference(pin, pins[pin], f"(none: {_LACKING[pin]})"))
        wanted = {"sha256" if pin == "autov2" else pin for pin in pins} | ({"sha256"} if with_sha256 else set())
        missing = {each for each in wanted if source.hashes[each] is None}
        if missing or not source.is_hashed:
            with span("hash", source=name, bytes=source.size):
                self._hash(source, missing)
        differs = hashes.differs(pins, source.hashes)
        if differs is not None:
            raise self._mismatch(source, differs)
        return source

    def _mismatch(self, source: SourceFile, differs: hashes.Difference) -> SourceError:
        rows = [f"pinned  {differs.pinned}", f"found   {differs.found}  {source.shown}"]
        way_out = "get what is pinned, or change the pin (`mergebuild inspect` prints all hashes)"
        weights = [source.listing.get(path, "") for path in source.weights]
        if source.model.folder is None and len(weights) == 1 and weights[0].startswith(differs.pinned):
            rows.append(f"what is pinned is the file alone, without the `{ADAPTER_CONFIG}` that says what it means")
            way_out = "look at that file, and pin what was found"
        elif source.sha256_of_weights == differs.pinned:
            rows.append("what is pinned are the weights alone, as it was before a pin was of all files of a folder")
            way_out = "look at its configuration, tokenizer and templates, and pin what was found"
        return SourceError.one(
            "pin-mismatch",
            f"source `{source.name}` is not what its `{differs.name}` pins",
            where=self._declared[source.name].where.place(differs.name),
            rows=rows,
            help=way_out,
        )

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
                raise self._unreadable(name, source.shown, error) from error
            listing = {path: digits for path, digits in found.items() if digits}
            if len(listing) == len(found):
                source.listing, source.sha256 = listing, hashes.of_listing(listing)
        return source.sha256

    def learn(self, source: SourceFile) -> None:
        """Remember the checksums of a source; it must still be the file that was opened (`changed`)."""
        checksums = b"".join((source.checksums or {}).values())
        epoch = "" if is_rested(source.identity, Moment.now()) else _epoch_of(source)
        sha256 = source.sha256 if source.model.home is None else None  # of a folder, each file's is remembered
        row = SourceRow(source.remembered_by, checksums, source.content, sha256, source.autov3, epoch)
        self._memory.remember_source(row)

    def opened(self) -> list[str]:
        """Return the sources opened so far."""
        return list(self._files)

    def changed(self, names: Sequence[str]) -> list[str]:
        """Return which of these sources, all opened before, are no longer the files that were opened."""
        return [name for name in names if not _still(self._files[name])]

    def _open(self, source: Source) -> SourceFile:
        since, path = Moment.now(), locate(source, self._folder)
        shown = _shown(path, self._folder)
        try:
            model = self._settle(source, path, shown)
        except OSError as error:
            raise self._unreadable(source.name, shown, error, brought_back_by(path)) from error
        except SourceError as error:  # the reader knows the file; the place in the recipe is ours to add
            place = source.where.place()
            raise SourceError(
                Problem(each.code, each.message, each.where or place, each.help, each.rows) for each in error.problems
            ) from error
        settled = {each: self._settled[each] for each in _decisive(model)}
        self._seen[source.name] = LookedAt.of(path, model, settled, since)
        state = _as_one(model, list(settled.values()))
        return self._remembered(SourceFile(source.name, path, shown, model, state))

    def _settle(self, source: Source, path: Path, shown: str) -> Model:
        """Read what a source says of itself, and the states of its files, once these tell every later change.

        Raises:
            SourceError: it goes on changing, or is no model.
            OSError: it can't be read.
        """
        began = time.monotonic()
        while True:
            seen = _look(path, shown, self._within(path), self._keeps_names)
            if not seen.has_writer and not seen.is_racy:
                if isinstance(seen.found, SourceError):
                    raise seen.found
                for each, state in seen.states.items():  # of two sources that are one file, the first one's word counts
                    self._settled.setdefault(each, state)
                return seen.found
            if time.monotonic() - began > _PATIENCE:
                changed = f"it changed for {_PATIENCE:.0f} seconds"
                what = "a process has it open for writing" if seen.has_writer else changed
                raise SourceError.one(
                    "source-changed",
                    f"source `{source.name}` is being written: {what}",
                    where=source.where.place(),
                    rows=(shown,),
                    help="let whatever writes it finish, then build again",
                )
            time.sleep(max(map(grain_of, seen.states.values())) / 1e9)

    def _within(self, path: Path) -> list[Path]:
        """Return the folders that links of a source's small files may end in: the project's, the user's of models."""
        return [self._folder, *(each for each in _folders_of_models() if path.is_relative_to(each))]

    def _remembered(self, found: SourceFile) -> SourceFile:
        """Return a source with what is remembered of it."""
        known = self._memory.source(found.remembered_by, _epoch_of(found))
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
            if not _still(source):
                raise self._changed(source) from error
            if isinstance(error, OSError):
                raise self._unreadable(source.name, source.shown, error) from error
            raise
        if is_read:
            self.bytes_read += source.size
            if source.size <= SMALL:
                self.at_hand.update(source.model.files)
        if not _still(source):
            raise self._changed(source)
        source.checksums = checksums
        source.sha256 = found.get("sha256") or source.sha256
        source.autov3 = found.get("autov3") or source.autov3
        self.learn(source)

    def _checksums(self, source: SourceFile) -> Mapping[str, bytes]:
        """Return the checksum of every tensor by name.

        Raises:
            SourceError: two that are one parameter are not the same bytes.
        """
        found = _checksums(source, source.tensors.values())
        by_name = dict(zip(source.tensors, found, strict=True))
        twins = source.model.twins
        for twin, mark in zip(twins, _checksums(source, [twin.info for twin in twins]), strict=True):
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

    def _changed(self, source: SourceFile) -> SourceError:
        return SourceError.one(
            "source-changed",
            f"source `{source.name}` changed while it was read",
            where=self._declared[source.name].where.place(),
            rows=(source.shown,),
            help="let whatever writes it finish, then build again",
        )

    def _unreadable(self, name: str, shown: str, error: OSError, command: str | None = None) -> SourceError:
        """Return the error of a source that can't be read; `command`: what would bring back what its link leads to."""
        return SourceError.one(
            "source-unreadable",
            f"source `{name}` cannot be read: {(error.strerror or str(error)).lower()}",
            where=self._declared[name].where.place(),
            rows=(shown,),
            help=f"another program keeps it: {command} brings it back" if command else _CHECK,
        )


class _SourceLook(NamedTuple):
    """What a look at a source found, and whether that may be of more than one content."""

    found: Model | SourceError
    """What it says of itself, or what is wrong with it: perhaps only as it is half written."""
    states: Mapping[Path, Identity]
    """Of its files, as far as these are known."""
    has_writer: bool
    is_racy: bool


def _look(path: Path, shown: str, within: Sequence[Path], keeps_names: KeepsNames) -> _SourceLook:
    """Read what a source says of itself, and after that the states of its files.

    Raises:
        OSError: it can't be read.
    """
    since, there = Moment.now(), identity(path)
    has_writer = platform.has_writer(path)
    found: Model | SourceError
    try:
        found = read_model(path, shown=shown, within=within, keeps_names=keeps_names)
    except SourceError as error:
        found, states = error, {path: there}
    else:
        states = {each: identity(each) for each in _decisive(found)}
        has_writer = has_writer or (found.home is not None and any(map(platform.has_writer, states)))
    is_same, until = identity(path) == there, Moment.now()
    racy = not is_same or any(is_racy(each, since, until) for each in states.values())
    return _SourceLook(found, states, has_writer, racy)


def _checksums(source: SourceFile, tensors: Collection[TensorInfo]) -> list[bytes]:
    """Return the checksums of tensors; those of a large source are taken on all processors.

    A folder may have more files than a process may have open: each is open while a tensor of it is read.
    """
    paths = source.model.files

    def checksum_of(info: TensorInfo) -> bytes:
        with span("checksum", tensor=info.name, bytes=info.nbytes):
            own = checksum_of_bytes(info)
            return scaled_checksum(own, checksum_of_bytes(info.scale.info)) if info.scale else own

    def checksum_of_bytes(info: TensorInfo) -> bytes:
        with ExitStack() as files:
            needed = {piece.file for piece in info.pieces} or {info.file}
            fds = {each: files.enter_context(paths[each].open("rb")).fileno() for each in needed}
            return _gathered(info, fds) if info.pieces else file_checksum(fds[info.file], info.begin, info.end)

    if source.size <= SMALL:
        return list(map(checksum_of, tensors))
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(platform.cpu_count()) as pool:
        return list(pool.map(checksum_of, tensors))


def _gathered(info: TensorInfo, fds: Mapping[int, int]) -> bytes:
    """Return the checksum of a tensor that does not lie in one run."""
    running = xxhash.xxh3_128()
    width = DTYPES_BY_WORD[info.dtype].size
    with ExitStack() as mappings:
        maps = {file: mmap.mmap(fd, 0, access=mmap.ACCESS_READ) for file, fd in fds.items()}
        views = {file: mappings.enter_context(memoryview(each)) for file, each in maps.items()}
        held = [fd for fd in fds.values() if platform.hold_still(fd)]  # what is mapped must not be cut short
        try:
            for start in range(0, info.count, _GATHERED):
                if any(map(platform.is_wanted, held)):
                    raise OSError(errno.EBUSY, "another process is writing to it")
                count = min(_GATHERED, info.count - start)
                running.update(gather(info.pieces, views.__getitem__, width, start, count))
        finally:
            for fd in held:
                platform.let_go(fd)
    return running.digest()


def _decisive(model: Model) -> tuple[Path, ...]:
    """Return the files that what a model is follows from."""
    return (*model.files, *model.documents)


def _as_one(model: Model, states: Sequence[Identity]) -> Identity:
    """Return the states of a model's files as one; for those of a folder it differs whenever one of them does.

    Its inode stands for which files they are and its size for the states of all. The times are the newest.
    """
    if len(states) == 1 and model.home is None:
        return states[0]
    return Identity(
        -1,
        _number(repr([(each.device, each.inode) for each in states])),
        _number(repr(states)),
        max(each.mtime_ns for each in states),
        max(each.ctime_ns for each in states),
    )


def _number(text: str) -> int:
    """Return a number for a text, as large as SQLite holds."""
    return int.from_bytes(checksum(text.encode())[:7], "big")


def _by_name(model: Model, checksums: bytes) -> dict[str, bytes]:
    return {name: checksums[16 * index : 16 * index + 16] for index, name in enumerate(model.tensors)}


def _epoch_of(source: SourceFile) -> str:
    return filestate.epoch(source.path.stat().st_dev)


def _still(source: SourceFile) -> bool:
    try:
        model = source.model
        return _as_one(model, [identity(path) for path in _decisive(model)]) == source.identity
    except OSError:
        return False


def _shown(path: Path, folder: Path) -> str:
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        return path.as_posix()
