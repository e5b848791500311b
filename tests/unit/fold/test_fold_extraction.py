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


def test_a_module_of_which_a_model_has_pieces_of_several_dtypes_is_left_behind(lab: Lab) -> None:
    """Queries, keys and values are one module to the client; none of them is taken for the others."""
    at = "model.layers.0.self_attn."
    rows = {"q": 4, "k": 8, "v": 2}
    noise = {
        name: torch.randn(count, 4, generator=torch.Generator().manual_seed(count)) for name, count in rows.items()
    }
    out, moved = torch.randn(4, 4), torch.randn(4, 4)
    lab.model("a", **{f"{at}qkv_proj.weight": torch.cat(list(noise.values())), f"{at}o_proj.weight": out})
    apart = {f"{at}{name}_proj.weight": each + 1 for name, each in noise.items()}
    apart[f"{at}k_proj.weight"] = apart[f"{at}k_proj.weight"].bfloat16()
    lab.model("b", **apart, **{f"{at}o_proj.weight": out + moved})
    (told,) = notices(lab, "4")
    assert "3 parameters" in told
    found = lab.read("out/m.safetensors")
    module = f"base_model.model.{at}o_proj"
    assert found.keys() == {f"{module}.lora_A.weight", f"{module}.lora_B.weight"}
    assert torch.allclose(found[f"{module}.lora_B.weight"] @ found[f"{module}.lora_A.weight"], moved, atol=1e-5)
