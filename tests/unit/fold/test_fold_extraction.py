"""What an extraction leaves behind of the difference between two models."""

from __future__ import annotations

import torch
from lab import Lab

EMBEDDING = "model.embed_tokens.weight"
MATRIX, NORM = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.input_layernorm.weight"
TEXT = """
[targets.m]
method = "extract_lora"
base = "a"
a = "b"
rank = {rank}
output = "out/m.safetensors"
"""


def models(lab: Lab, *changed: str) -> None:
    """Write two models that differ in some tensors: a matrix of 64 numbers, an embedding of as many, a norm of 8."""
    shapes = {MATRIX: (8, 8), EMBEDDING: (8, 8), NORM: (8,)}
    one = {name: torch.randn(shape, generator=torch.Generator().manual_seed(1)) for name, shape in shapes.items()}
    lab.model("a", **one)
    lab.model("b", **{name: each + (name in changed) for name, each in one.items()})


def notices(lab: Lab, rank: str = "2") -> list[str]:
    """Build, and return what is said."""
    lab.write(TEXT.format(rank=rank))
    (built,) = lab.build("m").targets
    return list(built.notices)


def test_what_is_in_no_module_is_said_with_its_share_of_the_difference(lab: Lab) -> None:
    models(lab, MATRIX, EMBEDDING, NORM)
    (told,) = notices(lab)
    assert told == (
        "53 % of the bytes in which `b` differs from `a` are in no module of the LoRA and are left out: 2 parameters,"
        f" the largest `{EMBEDDING}`, `{NORM}`"
    )


def test_what_does_not_differ_is_not_left_behind(lab: Lab) -> None:
    models(lab, MATRIX)
    assert notices(lab) == []
