"""Balancing attention: each head's tensors scaled so that what two sides share is spread over both as asked.

An attention head sees its queries and keys only through `Q^T K`, its values and output only through `O V`. So for any
symmetric, invertible S of a head, `S Q` and `S^-1 K` do the same as Q and K; likewise V and O^T. With the energies
`P = Q Q^T` and `R = K K^T`, the matrix

    T = P^-1/2 (P^1/2 R P^1/2)^1/2 P^-1/2

is the one with `T P T = R`. `S = T` gives each side the energy of the other: that is what sd-mecha does. `S = T^1/2`
gives both sides the same energy. Then models that went different ways through this freedom are as close to each other
as scales can bring them, and doing it again changes nothing.
All in float64, rounded to float32 once. The survey of a layer finds S for each of its heads; each tensor is made alone.

Any split of a head's rows into smaller ones is right too, only less is balanced; a split across heads is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from mergebuild.methods.kernels.kernel import Argument, Call, Grain, Kernel, State, Survey
from mergebuild.methods.scopes.attention import Attention, attentions

__all__ = ["KERNELS", "Scales", "balance", "scales_of"]


class Scales(NamedTuple):
    """What the tensors of a layer are multiplied by, float64 [heads, width, width] each."""

    layer: Attention
    query: Tensor
    """S of queries (S Q) and keys (S^-1 K)."""
    value: Tensor
    """S of values (S V) and output (O S^-1)."""


def scales_of(
    layer: Attention, tensors: Mapping[str, Tensor], epsilon: float = 1e-6, *, halfway: bool = False
) -> Scales:
    """Return the scales that balance a layer. `tensors` has all of `layer.tensors`.

    `epsilon` is added to the energies and is the least that they count as. `halfway`: both sides get the same energy,
    instead of each that of the other.
    """
    query, key, value = (_heads(layer, tensors, part) for part in range(3))
    output = tensors[layer.output].to(torch.float64).flatten(1).T
    output = output.reshape(-1, layer.width, output.shape[1])
    return Scales(layer, _scale(query, key, epsilon, halfway=halfway), _scale(value, output, epsilon, halfway=halfway))


def balance(scales: Scales, name: str, tensor: Tensor) -> Tensor:
    """Return the layer's tensor of that name balanced: float32, new, of its shape. The output's bias is not touched."""
    layer = scales.layer
    exact = tensor.to(torch.float64)
    if name == layer.output:
        turned = exact.flatten(1).T
        found = _solved(scales.value, turned).T
    elif layer.fused:
        query, key, value = exact.flatten(1).chunk(3) if exact.dim() > 1 else exact[:, None].chunk(3)
        parts = (_scaled(scales.query, query), _solved(scales.query, key), _scaled(scales.value, value))
        found = torch.cat(parts)
    else:
        rows = exact.flatten(1) if exact.dim() > 1 else exact[:, None]
        if name in (layer.key, layer.key_bias):
            found = _solved(scales.query, rows)
        else:
            found = _scaled(scales.query if name in (layer.query, layer.query_bias) else scales.value, rows)
    return found.to(torch.float32).reshape(tensor.shape)


def _scaled(scale: Tensor, rows: Tensor) -> Tensor:
    """Return `S X` of each head, for rows float64 [heads * width, columns]."""
    return (scale @ rows.reshape(*scale.shape[:2], -1)).flatten(0, 1)


def _solved(scale: Tensor, rows: Tensor) -> Tensor:
    """Return `S^-1 X` of each head, for rows float64 [heads * width, columns]."""
    found: Tensor = torch.linalg.solve(scale, rows.reshape(*scale.shape[:2], -1))
    return found.flatten(0, 1)


def _heads(layer: Attention, tensors: Mapping[str, Tensor], part: int) -> Tensor:
    """Return the rows of the queries (`part` 0), keys (1) or values (2), the bias in one more column.

    float64 [heads, rows of a head, columns + 1]; without a bias that column is 0.
    """
    weight = tensors[(layer.query, layer.key, layer.value)[part]].to(torch.float64).flatten(1)
    name = (layer.query_bias, layer.key_bias, layer.value_bias)[part]
    bias = weight.new_zeros(len(weight)) if name is None else tensors[name].to(torch.float64)
    whole = torch.cat((weight, bias[:, None]), 1)
    if layer.fused:
        whole = whole.chunk(3)[part]
    return whole.reshape(-1, layer.width, whole.shape[1])


def _scale(first: Tensor, second: Tensor, epsilon: float, *, halfway: bool) -> Tensor:
    """Return S for the two sides of each head (float64 [heads, rows, columns of each])."""
    ridge = epsilon * torch.eye(first.shape[1], dtype=torch.float64, device=first.device)
    root, inverse = _roots(first @ first.mT + ridge, epsilon)
    middle, _ = _roots(root @ (second @ second.mT + ridge) @ root, epsilon)
    scale = inverse @ middle @ inverse
    return _roots(scale, 0.0)[0] if halfway else scale


def _roots(matrices: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Return the square roots of symmetric matrices, and their inverses; eigenvalues count as `least` at least."""
    sizes, vectors = torch.linalg.eigh(matrices)
    roots = sizes.clamp_min(least).sqrt()[:, None, :]
    return (vectors * roots) @ vectors.mT, (vectors / roots) @ vectors.mT


def _look(arguments: Mapping[str, Argument], tensors: Mapping[str, Sequence[Tensor]]) -> Scales:
    whole = {name: inputs[0] for name, inputs in tensors.items()}
    (layer,) = attentions({name: tuple(tensor.shape) for name, tensor in whole.items()})
    epsilon = arguments["epsilon"]
    assert isinstance(epsilon, Fraction)
    return scales_of(layer, whole, float(epsilon), halfway=arguments["form"] == "equal")


def _apply(call: Call, chunks: Sequence[Tensor], _start: int, state: State) -> Tensor:
    return balance(state, call.tensor, chunks[0].view(call.shape))


def _memory(call: Call, _inputs: int) -> int:
    """The tensors of a layer are of about one size: all of them, and float64 copies of one or two."""
    return call.count * (4 * 4 + 3 * 8)


KERNELS: Mapping[str, Kernel] = {
    "balance_attention": Kernel(_apply, grain=Grain.TENSOR, working_set=_memory, survey=Survey(_look))
}
