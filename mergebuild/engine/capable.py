"""Tells what compiled kernels can do: which clusters, steps and groups of unseen tensors, and in how much memory.

What they can't do, torch does (`worker.py`), with the same bits.
"""

from __future__ import annotations

from mergebuild import native
from mergebuild.engine.schedule import Cluster
from mergebuild.engine.work import Combination, KernelCall, Leaf, Step, UnseenGroup, UnseenTensor
from mergebuild.lora import DeltaSum
from mergebuild.methods.call import Call
from mergebuild.methods.compiled import lora
from mergebuild.methods.compiled.catalog import FAMILIES, compiled_method
from mergebuild.methods.compiled.method import CompiledMethod
from mergebuild.methods.method import Method

__all__ = [
    "WIDEST",
    "adds_loras",
    "call_of",
    "can",
    "can_group",
    "can_make",
    "can_often",
    "form_of",
    "is_lying",
    "memory_for",
]

WIDEST = 8
"""Bytes of an element of the widest dtype, for the size of buffers."""


def can(cluster: Cluster) -> bool:
    """Whether all steps of a cluster can be computed with compiled kernels."""
    return (
        bool(native.variant)
        and not cluster.siblings
        and all(map(_can_read, cluster.leaves))
        and all(map(can_make, cluster.steps))
    )


def can_make(step: Step) -> bool:
    """Whether a step can be made with compiled kernels, provided that its inputs can be read."""
    return (
        bool(native.variant)
        and step.dtype in native.DTYPES
        and len(step.reads) <= native.MOST_INPUTS
        and (step.operation is None or adds_loras(step.operation) or form_of(step.operation) is not None)
    )


def memory_for(operation: KernelCall) -> int:
    """Return how many bytes an operation needs besides chunks: 0 unless its method needs the tensor whole."""
    method, call = form_of(operation), call_of(operation)
    if method is None or method.working_set is None:
        return 0
    return method.working_set(call) + WIDEST * call.count


def can_often(method: Method) -> bool:
    """Whether compiled kernels make most tensors of a method: it makes combinations, or has a compiled form."""
    return bool(native.variant) and (not method.makes.maker or method.name in FAMILIES)


def form_of(operation: KernelCall) -> CompiledMethod | None:
    """Return the compiled form of an operation; None if it has none."""
    found = compiled_method(operation.method.name) if operation.method.makes.program is None else None
    return found if found is not None and found.takes(call_of(operation), len(operation.inputs)) else None


def adds_loras(operation: KernelCall) -> bool:
    """Whether it adds LoRAs to a tensor, with factors that can be read, and a compiled kernel does that."""
    return (
        isinstance(added := operation.arguments.get("deltas"), DeltaSum)
        and all(part and all(_can_read(leaf) for leaf, _ in part) for part in operation.parts)
        and lora.takes(added, operation.shape, list(map(_dtype_of, operation.parts)))
    )


def _dtype_of(part: Combination) -> str:
    """Return the dtype in which a kernel gets an operand that it takes whole: a single tensor keeps its own."""
    return part[0][0].dtype if is_lying(part) else "float32"


def is_lying(part: Combination) -> bool:
    """Whether an operand is a single tensor as it is stored."""
    return len(part) == 1 and part[0][1] == 1 and part[0][0].scale is None


def call_of(operation: KernelCall) -> Call:
    """Return how an operation calls its method."""
    return Call(operation.tensor, operation.shape, operation.arguments)


def can_group(group: UnseenGroup) -> bool:
    """Whether all tensors that an unseen group may have can be computed with compiled kernels, or are copied."""
    stored = [each.leaf.stored for each in group.inputs] + [each.dtype for each in group.tensors]
    made = [each for each in group.tensors if not (_is_lone(each) and stored[each.terms[0][0]] == each.dtype)]
    read = {index for each in made for index, _ in each.terms if index < len(group.inputs)}
    return (
        bool(native.variant)
        and all(_can_read(group.inputs[index].leaf) for index in read)
        and all(each.dtype in native.DTYPES and len(each.terms) <= native.MOST_INPUTS for each in made)
    )


def _is_lone(tensor: UnseenTensor) -> bool:
    return len(tensor.terms) == 1 and tensor.terms[0][1] == 1


def _can_read(leaf: Leaf) -> bool:
    return leaf.dtype in native.DTYPES and (leaf.scale is None or leaf.scale.leaf.dtype in native.DTYPES)
