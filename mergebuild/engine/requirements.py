"""What a pass needs, asked before it runs: torch, a device, memory for whole tensors, a user's own program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from mergebuild.engine import capable
from mergebuild.engine.torch_import import compute_module
from mergebuild.engine.work import KernelCall, Pass
from mergebuild.methods.method import Method

__all__ = ["PROCESSORS", "check_device", "check_program", "may_need_torch", "needs_memory"]

PROCESSORS = ("auto", "cpu")
"""The choices of a device with which compiled kernels do what they can."""


def may_need_torch(methods: Iterable[Method], device: str) -> bool:
    """Whether torch may have to make tensors of some of these methods."""
    return device not in PROCESSORS or not all(map(capable.can_often, methods))


def needs_memory(work: Pass) -> Iterator[tuple[bytes, int]]:
    """Yield the digests of steps that need a tensor whole, each with the bytes of memory that it needs.

    Raises:
        ProgramError: a user's own program fails to tell.
    """
    memory_for: Callable[[KernelCall], int] | None = None
    for step in work.steps.values():
        if step.operation is None:
            continue
        if capable.can_make(step):
            needed = capable.memory_for(step.operation)
        else:
            memory_for = memory_for or compute_module().memory_for
            needed = memory_for(step.operation)
        if needed:
            yield step.digest, needed


def check_device(name: str) -> None:
    """Check that a device exists: `cuda` or `cuda:N`.

    Raises:
        UsageError: it does not (`no-such-device`).
    """
    compute_module().device_named(name)


def check_program(method: Method) -> None:
    """Load the program of a user's own method.

    Raises:
        ProgramError: it fails, or defines no kernel with that name.
    """
    compute_module().kernel_of(method)
