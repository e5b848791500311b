"""`balance_attention`: scales the tensors of each attention head without changing what the head computes.

An attention head uses its queries and keys only in `Q^T K`, and its values and output only in `O V`. So for any
symmetric, invertible matrix S, `S Q` and `S^-1 K` do the same as Q and K; likewise for V and O^T. With `P = Q Q^T` and
`R = K K^T`,

    T = P^-1/2 (P^1/2 R P^1/2)^1/2 P^-1/2

is the matrix for which `T P T = R`. `S = T` swaps the two energies P and R, which is what sd-mecha does. `S = T^1/2`
makes them equal. Then models that differ only by such scales become as close to each other as scales can make them, and
balancing again changes nothing.

All in float64, rounded to float32 once. The survey of a layer finds S for each of its heads; then each tensor is made
alone. Cutting a head's rows into smaller groups is also correct but balances less; a group across two heads is wrong.
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
    """The matrices that a layer's tensors are multiplied by, float64 [heads, width, width] each."""

    layer: Attention
    query: Tensor
    """S for queries (S Q) and keys (S^-1 K)."""
    value: Tensor
    """S for values (S V) and output (O S^-1)."""


def scales_of(
    layer: Attention, tensors: Mapping[str, Tensor], epsilon: float = 1e-6, *, halfway: bool = False
) -> Scales:
    """Return the scales that balance a layer.

    Args:
        layer: The layer.
        tensors: By name, all of `layer.tensors`.
        epsilon: Added to the diagonal of the energies, and the least eigenvalue that these count as having.
        halfway: Make both sides' energies equal, instead of swapping them.
    """
    query, key, value = (_heads(layer, tensors, part) for part in range(3))
    output = tensors[layer.output].to(torch.float64).flatten(1).T
    output = output.reshape(-1, layer.width, output.shape[1])
    return Scales(layer, _scale(query, key, epsilon, halfway=halfway), _scale(value, output, epsilon, halfway=halfway))


def balance(scales: Scales, name: str, tensor: Tensor) -> Tensor:
    """Return a tensor of the layer balanced: float32, new, of the same shape.

    `name` says which of the layer's it is.
    """
    layer = scales.layer
    exact = tensor.to(torch.float64)
    if name == layer.output:
        turned = exact.flatten(1).T
        found = _solved(scales.value, turned).T
    else:
        rows = exact.flatten(1) if exact.dim() > 1 else exact[:, None]
        found = _balanced_together(scales, rows) if layer.fused else _balanced_alone(scales, name, rows)
    return found.to(torch.float32).reshape(tensor.shape)


def _balanced_together(scales: Scales, rows: Tensor) -> Tensor:
    """Return the rows of queries, keys and values, which are in one tensor, balanced."""
    query, key, value = rows.chunk(3)
    return torch.cat((_scaled(scales.query, query), _solved(scales.query, key), _scaled(scales.value, value)))


def _balanced_alone(scales: Scales, name: str, rows: Tensor) -> Tensor:
    """Return the rows of the tensor `name` of queries, keys or values balanced."""
    layer = scales.layer
    if name in (layer.key, layer.key_bias):
        return _solved(scales.query, rows)
    return _scaled(scales.query if name in (layer.query, layer.query_bias) else scales.value, rows)


def _scaled(scale: Tensor, rows: Tensor) -> Tensor:
    """Return `S X` of each head, for rows float64 [heads * width, columns]."""
    return (scale @ rows.reshape(*scale.shape[:2], -1)).flatten(0, 1)


def _solved(scale: Tensor, rows: Tensor) -> Tensor:
    """Return `S^-1 X` of each head, for rows float64 [heads * width, columns]."""
    found: Tensor = torch.linalg.solve(scale, rows.reshape(*scale.shape[:2], -1))
    return found.flatten(0, 1)


def _heads(layer: Attention, tensors: Mapping[str, Tensor], part: int) -> Tensor:
    """Return the rows of the queries (`part` 0), keys (1) or values (2), with the bias as one more column.

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
    """Return S for the two sides of each head (float64 [heads, rows, columns of each side])."""
    ridge = epsilon * torch.eye(first.shape[1], dtype=torch.float64, device=first.device)
    root, inverse = _roots(first @ first.mT + ridge, epsilon)
    middle, _ = _roots(root @ (second @ second.mT + ridge) @ root, epsilon)
    scale = inverse @ middle @ inverse
    return _roots(scale, 0.0)[0] if halfway else scale


def _roots(matrices: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Return the square roots of symmetric matrices, and the inverses of these.

    Smaller eigenvalues count as `least`.
    """
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
    """Return the bytes needed: the tensors of a layer, all of about one size, and float64 copies of one or two."""
    return call.count * (4 * 4 + 3 * 8)


KERNELS: Mapping[str, Kernel] = {
    "balance_attention": Kernel(_apply, grain=Grain.TENSOR, working_set=_memory, survey=Survey(_look))
}
