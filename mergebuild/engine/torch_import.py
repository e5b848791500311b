"""The import of torch, which takes longer than planning: begun in the background when torch will be needed.

Until it is done, workers hash tensors and do what compiled kernels can do.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from mergebuild.engine import limits
from mergebuild.errors import TargetError
from mergebuild.system import platform
from mergebuild.system.spans import span

__all__ = ["TORCH", "TorchImport", "compute_module", "warm_up"]

_POLITE = 0.0003
"""Seconds after which the import of torch lets other threads have the interpreter: planning and hashing need it briefly
and often, and would wait most of the time otherwise."""


class TorchImport:
    """The import of torch by a thread of its own."""

    def __init__(self) -> None:
        self._begun = threading.Lock()
        self.is_there = threading.Event()
        self.since = 0.0
        """When it was done, by `time.perf_counter`."""

    def begin(self) -> None:
        """Begin, unless it was begun before."""
        if self._begun.acquire(blocking=False):
            threading.Thread(target=self._fetch, name="mergebuild-import").start()

    def came(self, within: float) -> bool:
        """Wait at most so many seconds; return whether there is nothing to wait for."""
        return not self._begun.locked() or self.is_there.wait(within)

    def _fetch(self) -> None:
        usual = sys.getswitchinterval()
        sys.setswitchinterval(_POLITE)
        try:
            with suppress(Exception), span("import torch"):  # the thread that needs it will see the same error
                if limits.fits():
                    _load_library()
                    import_module("mergebuild.engine.compute")
        finally:
            sys.setswitchinterval(usual)
            self.since = time.perf_counter()
            self.is_there.set()


TORCH = TorchImport()
"""The one import of this process."""


def warm_up() -> None:
    """Begin to import torch in the background."""
    TORCH.begin()


def compute_module() -> ModuleType:
    """Return the module that computes; it imports torch, without its warnings.

    Raises:
        TargetError: torch can't be loaded, or does not fit into the memory that this process may have.
    """
    if not limits.fits():
        raise _no_memory()
    try:
        from mergebuild.engine import compute
    except Exception as error:
        if limits.memory_limit() is not None:  # without enough memory, an import may fail with any error
            raise _no_memory() from error
        if not isinstance(error, ImportError | OSError | RuntimeError):
            raise
        raise TargetError.one(
            "no-torch",
            f"torch cannot be loaded: {error}",
            help="a library of it is missing or broken: install it again",
        ) from error
    return compute


def _load_library() -> None:
    """Load the largest of torch's libraries, a fifth of the import, while other threads have the interpreter."""
    found = find_spec("torch")
    for folder in found.submodule_search_locations or () if found else ():
        platform.load_library(Path(folder) / "lib" / "libtorch_cpu.so")


def _no_memory() -> TargetError:
    return TargetError.one(
        "no-memory",
        f"torch does not fit into the memory that this process may have ({limits.memory_limit():,} bytes)",
        help="`ulimit -v` and `ulimit -d` show the limits; torch alone takes a gigabyte, and more where it knows GPUs",
    )
