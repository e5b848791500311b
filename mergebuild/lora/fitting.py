"""Checks whether the factors of a delta fit together, and make the shape that a tensor of the model needs."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import NamedTuple

__all__ = ["FitTarget", "channels_of", "misfit"]

Shapes = Mapping[str, tuple[int, ...]]
Problem = tuple[str, str] | None
"""The role of the factor that does not fit, and the shape it should have; None if all fit."""


class FitTarget(NamedTuple):
    """The shape of the delta: this many rows, each of this shape."""

    rows: int
    row: tuple[int, ...]

    @property
    def columns(self) -> int:
        """The number of elements of a row."""
        return prod(self.row)

    @property
    def channels(self) -> int:
        """The number of inputs of the module."""
        return self.row[0] if self.row else 1

    @property
    def kernel(self) -> tuple[int, ...]:
        """The kernel size of a convolution; empty for a linear map."""
        return self.row[1:]


def misfit(family: str, shapes: Shapes, target: FitTarget) -> Problem:
    """Return the first factor of a family (shapes by role) that does not fit the target; None if all fit."""
    for role in ("alpha", "scale", "on_input"):
        if role in shapes and prod(shapes[role]) != 1:
            return role, "a single number"
    if "dora_scale" in shapes and prod(shapes["dora_scale"]) not in {target.rows, target.channels}:
        return "dora_scale", f"{target.rows} or {target.channels} numbers"
    match family:
        case "lora" | "peft_embedding":
            return _product(shapes, "up", "down", target.rows, target.row)
        case "tucker":
            return _tucker(shapes, "mid", "up", "down", target, is_wide=False)
        case "loha":
            return _loha(shapes, target)
        case "lokr":
            return _lokr(shapes, target)
        case "ia3":
            return _ia3(shapes, target)
    (role,) = shapes
    wanted = (shapes[role][0] if shapes[role] and family == "tokens" else target.rows, *target.row)
    return None if _same(shapes[role], wanted) else (role, str(list(wanted)))


def channels_of(family: str, shapes: Shapes, kernel: int) -> int:
    """Return the input channels of the delta that a family's factors make, for kernels of `kernel` points.

    0: not known.

    Only for families whose delta does not depend on the weight.
    """
    columns = _columns_of(family, shapes, kernel)
    return columns // kernel if kernel and columns % kernel == 0 else 0


def _columns_of(family: str, shapes: Shapes, kernel: int) -> int:
    """Return the elements of a row of the delta that a family's factors make; 0: not known."""
    match family:
        case "lora":
            return prod(shapes["down"][1:])
        case "tucker":
            return shapes["down"][1] * kernel if len(shapes["down"]) > 1 else 0
        case "loha" if "t1" in shapes:
            return shapes["w1_b"][1] * kernel if len(shapes["w1_b"]) > 1 else 0
        case "loha":
            return prod(shapes["w1_b"][1:])
        case "lokr":
            return _columns_of_lokr(shapes)
    (shape,) = shapes.values()
    return prod(shape[1:])


def _columns_of_lokr(shapes: Shapes) -> int:
    first = shapes.get("w1", shapes.get("w1_b", ()))
    _, second = _second(shapes)
    return first[1] * prod(second[1:]) if len(first) > 1 and second else 0


def _product(shapes: Shapes, left: str, right: str, rows: int, row: tuple[int, ...]) -> Problem:
    """Check `left [rows, r] @ right [r, *row]`.

    Either may be flattened, or have additional dimensions of 1 at the end.
    """
    rank = shapes[right][0] if shapes[right] else 0
    if rank < 1 or not (_same(shapes[right], (rank, *row)) or shapes[right] == (rank, prod(row))):
        return right, f"[r, {', '.join(map(str, row)) or 1}]"
    return None if _same(shapes[left], (rows, rank)) else (left, f"[{rows}, {rank}]")


def _tucker(shapes: Shapes, core: str, left: str, right: str, target: FitTarget, *, is_wide: bool) -> Problem:
    """Check a core [r, s, *kernel] between `left` and `right [s, channels]`.

    `is_wide`: left is [r, rows], not [rows, r].
    """
    if len(shapes[core]) < 2 or min(shapes[core][:2]) < 1 or not _same(shapes[core][2:], target.kernel):
        return core, f"[r, s, {', '.join(map(str, target.kernel)) or 1}]"
    outer, inner = shapes[core][:2]
    for role, wanted in (
        (left, (outer, target.rows) if is_wide else (target.rows, outer)),
        (right, (inner, target.channels)),
    ):
        if not _same(shapes[role], wanted):
            return role, str(list(wanted))
    return None


def _loha(shapes: Shapes, target: FitTarget) -> Problem:
    for which in "12":
        if "t1" in shapes:
            found = _tucker(shapes, f"t{which}", f"w{which}_a", f"w{which}_b", target, is_wide=True)
        else:
            found = _product(shapes, f"w{which}_a", f"w{which}_b", target.rows, target.row)
        if found is not None:
            return found
    return None


def _lokr(shapes: Shapes, target: FitTarget) -> Problem:
    """Check `kron(w1 [a, c], w2 [b, d, *kernel])` against a * b rows and c * d channels."""
    if "w1" in shapes:
        if len(shapes["w1"]) != 2:
            return "w1", "two dimensions"
        first = shapes["w1"]
    else:
        if not _is_product(shapes["w1_a"], shapes["w1_b"]):
            return "w1_b", "[r, c] beside `w1_a` [a, r]"
        first = shapes["w1_a"][0], shapes["w1_b"][1]
    role, second = _second(shapes)
    if second is None:
        return role, "a product with its partner"
    wanted = f"a factor of {[target.rows, *target.row]} beside {list(first)}"
    if first[0] * second[0] != target.rows or first[1] * prod(second[1:]) != target.columns:
        return role, wanted
    return None if len(second) == 2 or _same(second[2:], target.kernel) else (role, wanted)


def _second(shapes: Shapes) -> tuple[str, tuple[int, ...] | None]:
    """Return the shape of the second factor of a Kronecker product (None: invalid), after the role that decides it."""
    if "w2" in shapes:
        return "w2", shapes["w2"] if len(shapes["w2"]) >= 2 else None
    left, right = shapes["w2_a"], shapes["w2_b"]
    if "t2" not in shapes:
        return "w2_b", (left[0], right[1]) if _is_product(left, right) else None
    core = shapes["t2"]
    is_whole = len(core) >= 2 and len(left) == len(right) == 2 and (left[0], right[0]) == core[:2] and min(core[:2]) > 0
    return "t2", (left[1], right[1], *core[2:]) if is_whole else None


def _is_product(left: tuple[int, ...], right: tuple[int, ...]) -> bool:
    return len(left) == len(right) == 2 and left[1] == right[0] > 0


def _ia3(shapes: Shapes, target: FitTarget) -> Problem:
    role = "ia3" if "ia3" in shapes else "weight"
    if prod(shapes[role]) in {target.rows, target.channels}:
        return None
    return role, f"{target.rows} or {target.channels} numbers"


def _same(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Return whether two shapes are the same, except for dimensions of size 1 at the end."""
    longest = max(len(shape), len(wanted))
    return shape + (1,) * (longest - len(shape)) == wanted + (1,) * (longest - len(wanted))
