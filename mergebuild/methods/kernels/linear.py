"""Linear combinations in float32, every product, difference and sum rounded on its own.

Fused operations (`torch.lerp`, `add` with `alpha`) give other bits where the processor has no fused multiply-add;
separate ones agree everywhere, on CPU and GPU, for any chunk. The coefficients, and which input is the centre, are
those of `methods/shares.py`; `native/linear.inc` is the same without torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["combine"]


def combine(
    centre: Tensor | None, inputs: Sequence[Tensor], coefficients: Sequence[float], out: Tensor, spare: Tensor
) -> Tensor:
    """Write `centre + sum(c_i * (x_i - centre))` (without one, `sum(c_i * x_i)`) into `out`; return what holds it.

    Shapes: all [n]. Dtypes: all float32; `coefficients` are float32 values. `out` and `spare` are buffers that no
    input overlaps, but `out` may be the first input itself, which is then lost. The terms are taken in the order
    given: it is part of the result.
    """
    if not inputs:
        return out.zero_() if centre is None else centre
    total: Tensor | None = None
    for each, coefficient in zip(inputs, coefficients, strict=True):
        part = out if total is None else spare
        if centre is not None:
            torch.sub(each, centre, out=part)
            part.mul_(coefficient)
        elif coefficient != 1:
            torch.mul(each, coefficient, out=part)
        else:  # its product with 1 is itself, and a pass over memory less
            part = each
        total = part if total is None else torch.add(total, part, out=out)
    assert total is not None
    return total if centre is None else total.add_(centre)
