"""Methods that see a tensor as rows; see `methods/kernels/rows.py`."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from mergebuild.methods.bands import band_along, longer_dimension
from mergebuild.methods.call import Call
from mergebuild.methods.compiled.method import Applied, CompiledMethod
from mergebuild.native import Prepared

__all__ = ["COMPILED"]


def _with_band(dimension: Callable[[Call], int]) -> CompiledMethod:
    """Return the form of a method that replaces a band of a, along a dimension, by that of b."""

    def apply(call: Call, _count: int, _state: object) -> Applied:
        band = band_along(call, dimension(call))
        if band.only is not None:
            return Applied.copy_of(band.only)
        bounds = struct.pack("=3q", band.width, band.begin, band.end)
        return Applied(Prepared("band", 0, bounds), (band.outside, band.inside))

    return CompiledMethod(apply)


COMPILED: Mapping[str, CompiledMethod] = {
    "tensor_sum": _with_band(lambda _call: 0),
    "tensor_sum2": _with_band(longer_dimension),
}
