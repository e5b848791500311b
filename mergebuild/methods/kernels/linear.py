"""Linear combinations in float32; every product, difference and sum is rounded on its own.

Fused operations (`torch.lerp`, `add` with `alpha`) give other bits on processors without a fused multiply-add. Separate
operations agree on all processors and devices, for any chunk. The coefficients and the choice of the pivot are those of
`methods/shares.py`; `native/linear.inc` does the same without torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["combine"]


def combine(
    centre: Tensor | None, inputs: Sequence[Tensor], coefficients: Sequence[float], out: Tensor, spare: Tensor
) -> Tensor:
    """Write a linear combination into `out`, and return the tensor with the result: `out`, or an input that equals it.

    It is `centre + sum(c_i * (x_i - centre))`, or `sum(c_i * x_i)` if there is no centre. All tensors are float32 [n],
    and `coefficients` are float32 values. `out` and `spare` are buffers that overlap no input, except that `out` may be
    the first input itself, which is then overwritten. The terms are added in the order given, on which the result
    depends.
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
        else:  # no product with 1: it saves a pass over memory
            part = each
        total = part if total is None else torch.add(total, part, out=out)
    assert total is not None
    return total if centre is None else total.add_(centre)
