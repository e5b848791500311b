"""What a source is, by its bytes: found, its header read, its tensors hashed once and remembered.

A file's digests are remembered by device, inode, size, mtime and ctime; a copy or a touched file is read again, and an
edit that puts size and mtime back is seen by its ctime. A file that changed within the clock's grain before it was
hashed could change once more without a trace, so what was learnt of it is used but not remembered (the "racily
clean" problem). After a pass every source is looked at again: `changed` says which are no longer what was read.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import xxhash

from mergebuild import portable
from mergebuild.digest import artifact_digest, checksum, file_checksum, source_tensor_digest
from mergebuild.errors import Problem, SourceError
from mergebuild.events import Emit, Hashing, silent
from mergebuild.formats import DTYPES_BY_WORD, Model, TensorInfo
from mergebuild.formats.gathering import gather
from mergebuild.opening import read_model
from mergebuild.portable import Identity, identity
from mergebuild.recipe.model import Source
from mergebuild.store.state import SourceRow, State

__all__ = ["POSITION_IDS", "SMALL", "SourceFile", "Sources", "locate", "source_of_part"]

SMALL = 1 << 28
"""Bytes that are read in a moment, and are in the page cache after that: it pays to know them before planning."""

POSITION_IDS = "@position_ids"
"""A source that no recipe names: 0, 1, ... 76 (int64 [1, 77]), under the name `position_ids`."""

_GATHERED = 1 << 22
"""Elements put together at a time, to be hashed."""


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
            name: source_tensor_digest(info.dtype, info.shape, self.checksums[name])
            for name, info in self.tensors.items()
        }

    @cached_property
    def content(self) -> bytes:
        """The digest of the whole set of tensors; the source must be hashed."""
        return artifact_digest(
            (name, info.dtype, info.shape, self.digests[name]) for name, info in self.tensors.items()
        )

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
    written = Path(source.path).expanduser()
    candidates = [source.folder / written]
    if not written.is_absolute():
        folders = os.environ.get("MERGEBUILD_MODELS", "").split(os.pathsep)
        candidates += [Path(folder).expanduser() / written for folder in folders if folder]
    for candidate in candidates:
        if os.path.lexists(candidate):
            return candidate
    mend = f"get it from {source.url}" if source.url else "check the path, or add its folder to MERGEBUILD_MODELS"
    raise SourceError.one(
        "source-missing",
        f"source `{source.name}` is missing: no file `{source.path}`",
        where=source.where.place(),
        rows=tuple(f"looked for {_shown(candidate, root)}" for candidate in candidates),
        help=mend,
    )


class Sources:
    """The sources of a recipe, opened when they are asked for."""

    def __init__(self, declared: Mapping[str, Source], state: State, *, folder: Path, emit: Emit = silent) -> None:
        self._declared = declared
        self._state = state
        self._folder = folder
        self._emit = emit
        self._files: dict[str, SourceFile] = {}
        self.bytes_read = 0
        """Bytes of sources read for hashing so far."""
        self.at_hand: set[Path] = set()
        """Small files that were just read whole: to read them once more reads no disk."""

    def __contains__(self, name: str) -> bool:
        return name in self._declared

    def file(self, name: str) -> SourceFile:
        """Return a source, its header read; what is remembered of it is there already.

        Raises:
            SourceError: it is missing or not a file that can be read.
        """
        found = self._files.get(name)
        if found is None:
            found = self._files[name] = self._open(self._declared[name])
        return found

    def position_ids(self) -> str:
        """Return the name of the source that holds what the position ids of CLIP's text encoder must be."""
        if POSITION_IDS not in self._files:
            where = next(iter(self._declared.values())).where
            path = Path(__file__).parent / "layouts" / "data" / f"{POSITION_IDS[1:]}.safetensors"
            own = Source(POSITION_IDS, str(path), path.parent, None, None, where)
            self._declared = {**self._declared, POSITION_IDS: own}
            self._files[POSITION_IDS] = self._open(own)
        return POSITION_IDS

    def renamed(self, name: str, part: str, model: Model) -> str:
        """Return the name of a source of which only some tensors are used, under other names or put together anew.

        Args:
            name: the source.
            part: what of it, as one word.
            model: these tensors.
        """
        known = f"{name}@{part}"
        if known not in self._files:
            source = self.file(name)
            self._files[known] = self._remembered(
                SourceFile(known, source.path, source.shown, model, _identity(model.files), part=part)
            )
            self._declared = {**self._declared, known: self._declared[name]}
        return known

    def hashed(self, name: str, *, with_sha256: bool = False) -> SourceFile:
        """Return a source whose digests (and SHA-256, when asked for or pinned) are known, reading it if need be.

        Raises:
            SourceError: it is missing, cannot be read, changes while it is read, or differs from its pin.
        """
        source = self.file(name)
        pin = self._declared[name].sha256
        want_sha256 = with_sha256 or pin is not None
        if not source.is_hashed or (want_sha256 and source.sha256 is None):
            self._hash(source, want_sha256)
        if pin is not None and source.sha256 != pin:
            raise SourceError.one(
                "pin-mismatch",
                f"source `{name}` is not the file that its `sha256` pins",
                where=self._declared[name].where.place("sha256"),
                rows=(f"pinned  {pin}", f"found   {source.sha256}  {source.shown}"),
                help="get the pinned file, or change the pin",
            )
        return source

    def is_pinned(self, name: str) -> bool:
        """Whether the recipe says which bytes a source must have."""
        return self._declared[name].sha256 is not None

    def meets_pin(self, name: str) -> bool:
        """Whether a source has no pin, or is known to be what it pins."""
        return self._declared[name].sha256 in (None, self.file(name).sha256)

    def learn(self, source: SourceFile, began_ns: int) -> None:
        """Remember the checksums of a source whose reading began then, unless the file is racily clean."""
        if not portable.is_racy(source.identity, began_ns):
            checksums = b"".join((source.checksums or {}).values())
            self._state.remember_source(SourceRow(source.remembered_by, checksums, source.content, source.sha256))

    def opened(self) -> list[str]:
        """Return the sources opened so far."""
        return list(self._files)

    def changed(self, names: Sequence[str]) -> list[str]:
        """Return which of these sources, all opened before, are no longer the files that were opened."""
        return [name for name in names if not _still(self._files[name])]

    def _open(self, source: Source) -> SourceFile:
        path = locate(source, self._folder)
        shown = _shown(path, self._folder)
        try:
            model = read_model(path, shown=shown)
            state = _identity(model.files)
        except OSError as error:
            raise SourceError.one(
                "source-unreadable",
                f"source `{source.name}` cannot be read: {error.strerror}",
                where=source.where.place(),
                rows=(shown,),
            ) from error
        except SourceError as error:  # the reader knows the file; the place in the recipe is ours to add
            place = source.where.place()
            raise SourceError(
                Problem(each.code, each.message, each.where or place, each.help, each.rows) for each in error.problems
            ) from error
        return self._remembered(SourceFile(source.name, path, shown, model, state))

    def _remembered(self, found: SourceFile) -> SourceFile:
        """Return a source with what is remembered of it."""
        known = self._state.source(found.remembered_by)
        if known:
            if known.checksums is not None and len(known.checksums) == 16 * len(found.tensors):
                found.checksums = _by_name(found.model, known.checksums)
            found.sha256 = known.sha256
        return found

    def _hash(self, source: SourceFile, with_sha256: bool) -> None:
        """Hash a source in one reading and remember what was found, unless the file is racily clean."""
        self._emit(Hashing(source.shown, source.size))
        began = time.time_ns()
        sha256 = source.sha256
        checksums = b"".join(_checksums(source))
        if with_sha256:
            sha256 = _sha256(source.model)
        self.bytes_read += source.size
        if source.size <= SMALL:
            self.at_hand.update(source.model.files)
        if not _still(source):
            raise SourceError.one(
                "source-changed", f"source `{source.name}` changed while it was read", rows=(source.shown,),
                help="let whatever writes it finish, then build again",
            )  # fmt: skip
        source.checksums = _by_name(source.model, checksums)
        source.sha256 = sha256
        self.learn(source, began)


def _checksums(source: SourceFile) -> list[bytes]:
    """Return the checksum of every tensor; those of a large source are taken on all processors."""
    tensors = source.tensors.values()
    with ExitStack() as files:
        fds = [files.enter_context(path.open("rb")).fileno() for path in source.model.files]

        def checksum_of(info: TensorInfo) -> bytes:
            return _gathered(info, fds) if info.pieces else file_checksum(fds[info.file], info.begin, info.end)

        if source.size <= SMALL:
            return list(map(checksum_of, tensors))
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(portable.cpu_count()) as pool:
            return list(pool.map(checksum_of, tensors))


def _gathered(info: TensorInfo, fds: Sequence[int]) -> bytes:
    """Return the checksum of a tensor that does not lie in one run."""
    running = xxhash.xxh3_128()
    width = DTYPES_BY_WORD[info.dtype].size
    with ExitStack() as mappings:
        needed = dict.fromkeys(piece.file for piece in info.pieces)
        maps = {file: mmap.mmap(fds[file], 0, access=mmap.ACCESS_READ) for file in needed}
        views = {file: mappings.enter_context(memoryview(each)) for file, each in maps.items()}
        for start in range(0, info.count, _GATHERED):
            count = min(_GATHERED, info.count - start)
            running.update(gather(info.pieces, views.__getitem__, width, start, count))
    return running.digest()


def _sha256(model: Model) -> str:
    """Return the SHA-256 of a file; of several, that of what `sha256sum` would say of them, by name."""
    import hashlib

    found = []
    for path in model.files:
        with path.open("rb") as file:  # anew: where reading by range moves the position, it is anywhere
            found.append(hashlib.file_digest(file, "sha256").hexdigest())
    if model.folder is None and len(found) == 1:
        return found[0]
    folder = model.folder or model.files[0].parent
    names = [path.relative_to(folder).as_posix() for path in model.files]
    lines = sorted(f"{sha256}  {name}\n" for sha256, name in zip(found, names, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _identity(files: Sequence[Path]) -> Identity:
    """Return what `stat` says of the files of a source; several are as one that changes whenever one of them does."""
    states = [identity(path) for path in files]
    if len(states) == 1:
        return states[0]
    inode = int.from_bytes(checksum(repr([(each.device, each.inode) for each in states]).encode())[:7], "big")
    return Identity(
        -1,
        inode,
        sum(each.size for each in states),
        max((each.mtime_ns for each in states), default=0),
        max((each.ctime_ns for each in states), default=0),
    )


def _by_name(model: Model, checksums: bytes) -> dict[str, bytes]:
    return {name: checksums[16 * index : 16 * index + 16] for index, name in enumerate(model.tensors)}


def _still(source: SourceFile) -> bool:
    try:
        return _identity(source.model.files) == source.identity
    except OSError:
        return False


def _shown(path: Path, folder: Path) -> str:
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        return path.as_posix()
