"""`adjust`: scales a UNet's first and last layers, and adds an offset in the latent space (`methods/latents.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mergebuild.methods.kernels.kernel import Call, Kernel, State
from mergebuild.methods.latents import factor_of, offset_of

__all__ = ["KERNELS"]


def _adjust(call: Call, chunks: Sequence[Tensor], start: int, _state: State) -> Tensor:
    offset = offset_of(call)
    if offset is None:
        return chunks[0] * factor_of(call)
    return chunks[0] + torch.tensor(offset[start : start + len(chunks[0])]).to(chunks[0].device)


KERNELS: Mapping[str, Kernel] = {"adjust": Kernel(_adjust)}
