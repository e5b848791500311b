"""Methods whose every value follows from the inputs' values at the same place; see `methods/kernels/elementwise.py`."""

from __future__ import annotations

from collections.abc import Mapping

from mergebuild.methods.call import Call
from mergebuild.methods.compiled.method import Applied, CompiledMethod
from mergebuild.native import Prepared

__all__ = ["COMPILED"]


def _max(_call: Call, _count: int, _state: object) -> Applied:
    return Applied(Prepared("greater"), (0, 1))


COMPILED: Mapping[str, CompiledMethod] = {"max": CompiledMethod(_max)}
