"""Run a pass: create the files, share the work among threads, leave nothing behind when it fails.

The stages are threads that hand blocks of memory on: one reads ahead, workers compute in the order of the files, others
write behind them. What a job (`schedule.py`) gives does not depend on who does it or when. Copies of ranges need no
torch; it is imported in the background when there is a step to compute, and until it is there, workers hash what is to
be hashed.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mergebuild import native
from mergebuild.digest import new_checksum, scaled_checksum
from mergebuild.engine import compiled, limits
from mergebuild.engine.bounds import DEVICE_MEMORY, PER_DEVICE
from mergebuild.engine.findings import Findings
from mergebuild.engine.first_sight import guessed, names_of, seen
from mergebuild.engine.mappings import Mappings
from mergebuild.engine.outputs import Outputs
from mergebuild.engine.prefetch import Prefetch
from mergebuild.engine.schedule import Cluster, Job, Look, looks, schedule
from mergebuild.engine.work import (
    Copy,
    Leaf,
    Location,
    OutputRange,
    Pass,
    SeenGroup,
    StepResult,
    UnseenGroup,
)
from mergebuild.errors import TargetError
from mergebuild.events import Emit, Notice, PassBegun, PassEnded, Progress
from mergebuild.methods.method import Method
from mergebuild.system import platform
from mergebuild.system.spans import span

if TYPE_CHECKING:
    from mergebuild.engine.compute import Choice, Hands

__all__ = [
    "DEFAULT_CHUNK",
    "PassResult",
    "check_device",
    "check_program",
    "may_need_torch",
    "needs_memory",
    "run_pass",
    "warm_up",
]

DEFAULT_CHUNK = 1 << 19
"""Elements computed at a time: 2 MiB of float32 an input, which stays in the processor's cache."""

_PIECE = 1 << 26
"""Bytes copied or hashed between two looks at whether to stop."""

_AHEAD_SHARE = 4
"""While torch is not there, tensors are hashed up to one part in so many of the machine's memory: they are read again
to compute with, and should still be in the page cache."""

_LOOK = 0.05
"""Seconds between two looks at whether to stop, of who waits for torch."""

_HEAD = 1 << 12
"""Bytes of tensors that are compared before it is supposed that these are different."""

_PROCESSORS = ("auto", "cpu")
"""Devices to choose with which the compiled kernels do what they can."""

_POLITE = 0.0003
"""Seconds after which the import of torch lets others have the interpreter: planning and hashing need it briefly, and
often, and would wait most of the time."""


@dataclass(frozen=True, slots=True)
class PassResult:
    """What came of a pass."""

    steps: Mapping[bytes, StepResult]
    """By digest, those of unseen groups too."""
    unseen: Sequence[SeenGroup]
    """What came of each unseen group, in their order."""
    waited: float
    """How many seconds it had to wait for torch."""
    learnt: Mapping[bytes, str]
    """What was found out about whole tensors, to be known by a later pass."""


def run_pass(
    work: Pass,
    *,
    threads: int | None,
    emit: Emit,
    targets: tuple[str, ...],
    chunk: int = DEFAULT_CHUNK,
    durable: bool = False,
    device: str = "auto",
) -> PassResult:
    """Write all outputs of a pass. When it raises, the files that it created are gone.

    `durable`: somebody will wait until the disk has them, so that it is to begin early. `device`: `auto`, `cpu`,
    `cuda` or `cuda:N`, one that is there (`check_device`).

    Raises:
        OSError: a file cannot be read or written; `ENOSPC` when the disk is full.
    """
    began = time.perf_counter()
    emit(PassBegun(targets, sum(output.size for output in work.outputs)))
    stop = threading.Event()
    count = threads or platform.cpu_count()
    try:
        with (
            span("pass", targets=targets, outputs=len(work.outputs), steps=len(work.steps)),
            Outputs(work.outputs, emit, stop=stop, threads=count, durable=durable) as outputs,
        ):
            # Pages are shared before space is allocated: what is shared takes none.
            shared = [_shared(job, outputs, emit) if isinstance(job, Copy) else job for job in schedule(work)]
            jobs = [job for job in shared if job is not None]
            outputs.allocate(_bytes_copied(work.copies) - _bytes_copied(jobs))
            outputs.start(8 * chunk)  # room for float64
            crew = _Crew(outputs, emit, chunk, stop, work, threads=count, device=device)
            if crew.needs_torch(jobs):
                warm_up()
            crew.survey()
            crew.run(jobs)
    finally:
        emit(PassEnded())
    groups = [crew.seen[id(group)] for group in work.unseen]
    return PassResult(crew.results, groups, max(0.0, _torch.since - began) if crew.waits else 0.0, crew.learnt)


def _bytes_copied(jobs: Iterable[Job]) -> int:
    return sum(job.location.size for job in jobs if isinstance(job, Copy))


class _Torch:
    """The import of torch, which takes longer than planning does."""

    def __init__(self) -> None:
        self._begun = threading.Lock()
        self.is_there = threading.Event()
        self.since = 0.0
        """When it was there, by `time.perf_counter`."""

    def begin(self) -> None:
        if self._begun.acquire(blocking=False):
            threading.Thread(target=self._fetch, name="mergebuild-import").start()

    def came(self, within: float) -> bool:
        """Wait so many seconds at most; return whether there is nothing to wait for."""
        return not self._begun.locked() or self.is_there.wait(within)

    def _fetch(self) -> None:
        usual = sys.getswitchinterval()
        sys.setswitchinterval(_POLITE)
        try:
            with suppress(Exception), span("import torch"):  # whoever needs it imports it again, and says what is wrong
                if limits.fits():
                    _load_library()
                    import_module("mergebuild.engine.compute")
        finally:
            sys.setswitchinterval(usual)
            self.since = time.perf_counter()
            self.is_there.set()


def _load_library() -> None:
    """Load the largest of torch's libraries, a fifth of the import, while others have the interpreter."""
    found = find_spec("torch")
    for folder in found.submodule_search_locations or () if found else ():
        platform.load_library(Path(folder) / "lib" / "libtorch_cpu.so")


_torch = _Torch()


def _compute() -> ModuleType:
    """Return the module that computes; it imports torch, without its warnings.

    Raises:
        TargetError: torch can't be loaded, or does not fit into the memory that this process may have.
    """
    if not limits.fits():
        raise _no_memory()
    try:
        from mergebuild.engine import compute
    except Exception as error:
        if limits.memory_limit() is not None:  # whatever it says: an import ends in any way for want of memory
            raise _no_memory() from error
        if not isinstance(error, ImportError | OSError | RuntimeError):
            raise
        raise TargetError.one(
            "no-torch",
            f"torch cannot be loaded: {error}",
            help="a library of it is missing or broken: install it again",
        ) from error
    return compute


def _no_memory() -> TargetError:
    return TargetError.one(
        "no-memory",
        f"torch does not fit into the memory that this process may have ({limits.memory_limit():,} bytes)",
        help="`ulimit -v` and `ulimit -d` show the limits; torch alone takes a gigabyte, and more where it knows GPUs",
    )


def needs_memory(work: Pass) -> Iterator[tuple[bytes, int]]:
    """Yield the digests of the steps that need a tensor whole, and how many bytes of memory each needs.

    Raises:
        ProgramError: a user's own program fails to say so.
    """
    operations = [step for step in work.steps.values() if step.operation is not None and not compiled.can_make(step)]
    if operations:
        compute = _compute()
        for step in operations:
            assert step.operation is not None
            if needed := compute.memory_for(step.operation):
                yield step.digest, needed


def check_device(name: str) -> None:
    """Look for a device, `cuda` or `cuda:N`.

    Raises:
        UsageError: it is not there (`no-such-device`).
    """
    _compute().device_named(name)


def check_program(method: Method) -> None:
    """Load the program of a user's own method.

    Raises:
        ProgramError: it fails, or defines no kernel of that name.
    """
    _compute().kernel_of(method)


def may_need_torch(methods: Iterable[Method], device: str) -> bool:
    """Whether tensors of some methods may have to be made by torch."""
    return device not in _PROCESSORS or not all(map(compiled.can_often, methods))


def warm_up() -> None:
    """Begin to import torch beside whatever else is done."""
    _torch.begin()


def _bytes_made(cluster: Cluster) -> int:
    """Return how many bytes a cluster that compiled kernels make has written."""
    return sum(step.count * native.DTYPES[step.dtype][1] * len(step.places) for step in cluster.steps)


def _reads(job: Job) -> Sequence[Leaf]:
    """Return all leaves that a job reads."""
    match job:
        case Copy():
            return ()
        case Cluster():
            return job.reads
        case UnseenGroup():
            return job.unhashed
        case Look():
            return job.part.leaves


def _shared(copy: Copy, outputs: Outputs, emit: Emit) -> Copy | None:
    """Share with an output the whole pages that it takes from another file; return what is left to be copied."""
    lying = copy.location
    pages = 0 if lying.pieces else lying.size // platform.PAGE * platform.PAGE
    with lying.path.open("rb") as file:
        if not pages or not platform.clone_range(
            file.fileno(), lying.offset, outputs.descriptor(copy.place.output), copy.place.offset, pages
        ):
            return copy
    emit(Progress(pages))
    if lying.size == pages:
        return None
    rest = replace(lying, offset=lying.offset + pages, size=lying.size - pages)
    return Copy(rest, copy.place._replace(offset=copy.place.offset + pages))


class _Crew:
    """Threads that share the jobs of a pass, each job done by one of them."""

    def __init__(
        self,
        outputs: Outputs,
        emit: Emit,
        chunk: int,
        stop: threading.Event,
        work: Pass,
        *,
        threads: int,
        device: str,
    ) -> None:
        self._work = work
        self._threads = threads
        self._device = device
        self._findings = Findings(work.known)
        self._choice: Choice | None = None
        self._choosing = threading.Lock()
        self._told: set[str] = set()
        self._outputs = outputs
        self._emit = emit
        self._chunk = chunk
        self._mappings = Mappings()
        self._stop = stop
        self._lock = threading.Lock()
        self._jobs: Iterator[Job] = iter(())
        self._put_off: deque[Cluster] = deque()
        """What was hashed while torch was not there, `_ahead` bytes in all."""
        self._ahead = 0
        self._most_ahead = platform.memory_bytes() // _AHEAD_SHARE
        self.results: dict[bytes, StepResult] = {}
        self.seen: dict[int, SeenGroup] = {}
        """What came of unseen groups, by the identity of each."""
        self._looks: dict[int, Any] = {}
        """What came of looks, by the identity of each."""
        self.waits = False
        """Whether some of the work needs torch."""

    @property
    def learnt(self) -> Mapping[bytes, str]:
        """What was found out about whole tensors."""
        return self._findings.learnt

    def needs_torch(self, jobs: Sequence[Job]) -> bool:
        """Whether there is work that the compiled kernels don't do; remembered as `waits`."""
        self.waits = bool(looks(self._work)) or not all(map(self._is_compiled, jobs))
        return self.waits

    def _is_compiled(self, job: Job) -> bool:
        """Whether a job is done without torch."""
        match job:
            case Copy():
                return True
            case Look():
                return False
            case Cluster():
                return self._device in _PROCESSORS and compiled.can(job)
            case UnseenGroup():
                return self._device in _PROCESSORS and compiled.can_group(job)

    def survey(self) -> None:
        """Find out what steps must know first, all that is not known."""
        every = looks(self._work)
        if not every:
            return
        self.run(every)
        found: dict[bytes, list[Any]] = {}
        for look in () if self._stop.is_set() else every:
            found.setdefault(look.survey, []).append(self._looks[id(look)])
        worker = self._hands(0).here
        for survey in self._work.surveys:
            if survey.key in found:
                worker.settle(survey, found[survey.key])
        self._looks.clear()

    def run(self, jobs: Sequence[Job]) -> None:
        """Do all jobs. The first error of a job, or an interrupt, ends the others."""
        self._jobs = iter(jobs)
        count = max(1, min(self._threads, len(jobs)))
        leaves = (leaf for job in jobs for leaf in _reads(job))
        with (
            self._mappings,
            Prefetch(leaves, self._mappings) as self._prefetch,
            ThreadPoolExecutor(count, thread_name_prefix="mergebuild") as pool,
        ):
            futures: list[Future[None]] = []
            try:
                futures += (pool.submit(self._labour, number, count) for number in range(count))
                with span("wait for workers"):
                    done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
                if waiting or any(future.exception() for future in done):
                    self._stop.set()
            except BaseException:  # an interrupt of the main thread
                self._stop.set()
                raise
        for future in futures:
            future.result()

    def _next(self) -> Job | None:
        with self._lock:
            if self._stop.is_set():
                return None
            if self._put_off and (_torch.is_there.is_set() or self._ahead > self._most_ahead):
                return self._put_off.popleft()
            job = next(self._jobs, None)
            if job is None and self._put_off:
                return self._put_off.popleft()
        if job is not None and not isinstance(job, Copy):
            self._prefetch.began(sum(leaf.size for leaf in _reads(job)))
        return job

    def _labour(self, number: int, count: int) -> None:
        """Do jobs until there are none. torch is imported with the first that needs it.

        The last of several threads leaves its processor to the import of torch while that is under way. Those that a
        device has no use for wait too, and end if there is one.
        """
        hands: Hands | None = None
        worker = compiled.CompiledWorker(self._outputs, self._mappings, self._stop, self._findings, chunk=self._chunk)
        is_last = 0 < number == count - 1
        is_extra = number >= PER_DEVICE and self._device != "cpu" and self.waits
        if is_last or is_extra:
            self._wait_for_torch()
        if is_extra and not self._stop.is_set() and 0 < self._devices() * PER_DEVICE <= number:
            return
        while (job := self._next()) is not None:
            if isinstance(job, Copy):
                self._copy(job)
            elif isinstance(job, UnseenGroup):
                with span("make at first sight", tensors=job.tensors):
                    self._begin(job, worker)
            elif isinstance(job, Cluster) and self._is_compiled(job):
                with span("make", tensors=job.steps, by="compiled"):
                    self.results.update(worker.run(job))
            else:
                if hands is None:
                    with span("wait for torch"):
                        hands = self._hands(number)
                if isinstance(job, Look):
                    with span("look", method=job.part.method.name, tensors=job.part.tensors):
                        self._looks[id(job)] = hands.look(job.part)
                else:
                    with span("make", tensors=job.steps, by="torch"):
                        self.results.update(hands.run(job))

    def _wait_for_torch(self) -> None:
        """Wait while torch is imported, if it is."""
        if not _torch.came(within=0):
            with span("wait for torch"):
                while not self._stop.is_set() and not _torch.came(within=_LOOK):
                    pass

    def _hands(self, number: int) -> Hands:
        """Return what the thread of that number computes with: of several devices one."""
        choice = self._chosen()
        hands: Hands = _compute().Hands(
            self._outputs,
            self._mappings,
            self._stop,
            self._findings,
            chunk=self._chunk,
            choice=choice,
            device=choice.devices[number % len(choice.devices)] if choice.devices else None,
            tell=self._tell,
        )
        return hands

    def _chosen(self) -> Choice:
        """Return what is computed where, as the first that asks finds it out."""
        compute = _compute()
        with self._choosing:
            if self._choice is None:
                rates = compute.rates_in(self._findings)
                steps = list(self._work.steps.values())
                try:
                    self._choice = compute.chosen(self._device, steps, self._threads, rates)
                except RuntimeError as error:  # a driver that torch is too new for, a device that others have all of
                    reason, _, _ = str(error).partition("\n")
                    self._tell(f"the device does not work, the processor computes: {reason}")
                    self._choice = compute.chosen("cpu", steps, self._threads, rates)
                if self._choice.devices:
                    whole = max((needed for _, needed in needs_memory(self._work)), default=0)
                    for device in self._choice.devices:
                        device.limit(DEVICE_MEMORY + whole)
            return self._choice

    def _devices(self) -> int:
        """Return how many devices the pass has."""
        return len(self._chosen().devices)

    def _tell(self, text: str) -> None:
        """Tell people, once a pass."""
        with self._lock:
            is_new = text not in self._told
            self._told.add(text)
        if is_new:
            self._emit(Notice(text, warning=True))

    def _begin(self, group: UnseenGroup, worker: compiled.CompiledWorker) -> None:
        """Hash what is to be known, do what needs no torch, and put the rest off: it is next when torch is there."""
        unhashed = group.unhashed
        guess = guessed(group)
        if guess is not None and (not self._is_compiled(guess) or self._has_twins(unhashed)):
            guess = None
        made, checksums = self._made_as_hashed(group, guess, worker)
        work = seen(group, checksums)
        cluster, copies, self.seen[id(group)] = work
        names = names_of(group, work) if guess is not None else None
        if made and guess is not None and names is None:
            self._outputs.settle()  # what is there was made for nothing: all of it is written anew
            self._emit(Progress(-_bytes_made(guess)))
        for copy in [_shared(each, self._outputs, self._emit) for each in copies]:
            if copy is not None:
                self._copy(copy)
        if names is not None:
            assert cluster is not None  # else nothing would have its bits
            order = {step.digest: compiled.read_by(step, cluster) for step in cluster.steps}
            for stand_in, each in made.items():
                self.results[names[stand_in]] = each.called(names, order[names[stand_in]])
            return
        if cluster is not None and self._is_compiled(cluster):
            self.results.update(worker.run(cluster))
            return
        if cluster is None or not _torch.is_there.is_set():
            for leaf in unhashed:
                self._mappings.release_all(leaf)
        if cluster is not None:
            with self._lock:
                self._put_off.append(cluster)
                self._ahead += sum(leaf.size for leaf in unhashed)

    def _made_as_hashed(
        self, group: UnseenGroup, guess: Cluster | None, worker: compiled.CompiledWorker
    ) -> tuple[Mapping[bytes, StepResult], Sequence[bytes]]:
        """Hash the inputs of a group, and make what is guessed of them on the way, so that they are read once.

        Return what came of the steps, and the checksums.
        """
        unhashed = group.unhashed
        if guess is None:
            return {}, [self._checksum(leaf) for leaf in unhashed]
        stand_ins = [leaf.digest for leaf, each in zip(guess.leaves, group.inputs, strict=True) if not each.checksum]
        hashes = {digest: native.Hash() for digest in stand_ins}
        made = worker.run(guess, hashes)
        return made, [each.digest() for each in hashes.values()]

    def _has_twins(self, leaves: Sequence[Leaf]) -> bool:
        """Whether two leaves begin alike: two models share a tensor more often than its first bytes."""
        heads = [
            bytes(self._mappings.view(leaf.location.path, leaf.location.offset, min(_HEAD, leaf.location.size)))
            for leaf in leaves
            if not leaf.location.pieces
        ]
        return len(set(heads)) < len(heads)

    def _copy(self, copy: Copy) -> None:
        """Copy in the kernel; past the page cache, by way of blocks."""
        with span("copy", file=copy.location.path, offset=copy.location.offset, bytes=copy.location.size):
            self._copy_bytes(copy)

    def _copy_bytes(self, copy: Copy) -> None:
        lying = copy.location
        if lying.pieces:
            self._put_together(lying, copy.place)
            return
        file = self._mappings.opened(lying.path)
        done = 0
        while done < lying.size and not self._stop.is_set():
            place = copy.place._replace(offset=copy.place.offset + done)
            if self._outputs.is_direct:
                done += self._outputs.fill(file.fd, lying.offset + done, lying.size - done, place)
            else:
                size = min(_PIECE, lying.size - done)
                fd = self._outputs.descriptor(place.output)
                platform.copy_range(file.fd, lying.offset + done, fd, place.offset, size)
                self._emit(Progress(size))
                done += size

    def _put_together(self, lying: Location, place: OutputRange) -> None:
        """Copy a tensor that lies in pieces, by way of blocks."""
        width = lying.width
        total = lying.size // width if width else 0
        done = 0
        while done < total and not self._stop.is_set():
            block = self._outputs.block()
            count = min(total - done, len(block.memory) // width)
            block.memory[: count * width] = self._mappings.gathered(lying, done, count)
            self._outputs.put(block, count * width, [place._replace(offset=place.offset + done * width)])
            done += count

    def _checksum(self, leaf: Leaf) -> bytes:
        """Return the checksum of a tensor's bytes; they are in the page cache then for whoever computes with them."""
        running = new_checksum()
        with span("checksum", file=leaf.location.path, offset=leaf.location.offset, bytes=leaf.location.size):
            for piece in self._pieces(leaf):
                if self._stop.is_set():
                    break
                running.update(piece)
        own = running.digest()
        return scaled_checksum(own, self._checksum(leaf.scale.leaf)) if leaf.scale else own

    def _pieces(self, leaf: Leaf) -> Iterator[memoryview | bytearray]:
        """Yield the bytes of a tensor, each piece to be used before the next is asked for.

        Mapped, for whoever computes with them next; read where that must wait for torch: the system call that lets go
        of mapped memory keeps the interpreter, which the import needs, to itself.
        """
        lying = leaf.location
        if lying.pieces:
            for start in range(0, leaf.count, _PIECE // 8):
                yield self._mappings.gathered(lying, start, min(_PIECE // 8, leaf.count - start))
        elif _torch.is_there.is_set() or not self.waits:
            for start in range(0, lying.size, _PIECE):
                yield self._mappings.view(lying.path, lying.offset + start, min(_PIECE, lying.size - start))
        else:
            block = self._outputs.block()
            try:
                for start in range(0, lying.size, len(block.memory)):
                    piece = block.memory[: lying.size - start]
                    self._mappings.read_into(piece, lying.path, lying.offset + start)
                    yield piece
            finally:
                self._outputs.put(block, 0, ())
